"""Nothing of ours stays behind. (Named to run last; conftest looks once more when all is over.)"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

Look = Callable[..., set[str]]

LISTEN = """
import socket, time
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
time.sleep(60)
"""


def test_the_look_around_sees_a_process_and_its_port(look_around: Look) -> None:
    before = look_around()
    with subprocess.Popen([sys.executable, "-c", LISTEN], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        port = int(child.stdout.readline())
        seen = look_around(before, patience=0)
        child.kill()
    assert any(line.startswith(f"process {child.pid} ") for line in seen)
    assert f"port {port} of process {child.pid}" in seen
    assert not look_around(before)


def test_an_orphan_in_a_session_of_its_own_is_seen_too(look_around: Look) -> None:
    before = look_around()
    parent = f"import subprocess; subprocess.Popen([{sys.executable!r}, '-c', {LISTEN!r}], "
    parent += "start_new_session=True, stdout=subprocess.DEVNULL)"
    subprocess.run([sys.executable, "-c", parent], check=True)
    seen = look_around(before, patience=0)
    orphans = [int(line.split()[1]) for line in seen if line.startswith("process")]
    for pid in orphans:
        os.kill(pid, 9)
    assert len(orphans) == 1
    assert not look_around(before)


def test_no_other_test_left_anything(look_around: Look) -> None:
    assert not look_around()
