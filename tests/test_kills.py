"""Processes killed under load, whole: one bench, one run, one fault after the other.

Which fault is tested where stands in docs/faults.md; this module holds that table to its word.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from run_freerun import freerun

from freerun.app.selftest_faults import FAULTS
from freerun.kafka import BEGINNING, Broker, Outgoing, Reader, Transactional
from freerun.topics import Topic

ROOT = Path(__file__).resolve().parents[1]
WHOLE = ("kill-source", "kill-worker", "kill-loop", "kill-writer", "kill-control",
         "kill-dashboard", "s3-down")  # fmt: skip
END = "the whole run"


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """`freerun selftest` with the faults that are made here: fault → its row, and the output."""
    file = tmp_path_factory.mktemp("kills") / "rows.json"
    only = [word for name in WHOLE for word in ("--only", name)]
    code, printed = freerun("selftest", *only, "--json", str(file), seconds=900)
    assert file.exists(), printed
    told = json.loads(file.read_text())
    assert told["machine"]["cores"] == os.cpu_count()
    found = {row["fault"]: row for row in told["rows"]}
    assert (code == 0) == all(row["verdict"] == "good" for row in found.values()), printed
    return found


@pytest.mark.timeout(900)
@pytest.mark.parametrize("fault", WHOLE)
def test_whole(rows: dict[str, dict[str, Any]], fault: str) -> None:
    row = rows[fault]
    assert row["verdict"] == "good", row
    assert row["recovery_s"] > 0 and row["without"], row


def test_at_the_end_all_events_are_there_once(rows: dict[str, dict[str, Any]]) -> None:
    row = rows[END]
    assert row["verdict"] == "good", row
    assert "exactly those of the uncut stream" in row["happened"]
    assert row["ledger"].startswith("LEDGER closed")


# ---------------------------------------------------------------- zombies

ZOMBIE = """
import sys
from freerun.kafka import Fenced, Outgoing, Transactional
address, topic = sys.argv[1:]
mine = Transactional(address, topic)
mine.init()
print("ready", flush=True)
n = 0
try:
    while True:
        mine.commit([Outgoing(topic, 0, b"old %d" % (n + i)) for i in range(5)])
        n += 5
except Fenced:
    sys.exit(7)
"""


def test_a_zombie_worker_that_comes_back_cannot_add_a_record(
    broker: str, installation: str, tmp_path: Path
) -> None:
    """Stopped anywhere in its transactions, thought dead, taken over from; then it comes back."""
    topic = f"{installation}.zombie"
    Broker(broker).create([Topic(topic, 1, {})])
    try:
        for life in range(3):
            with (tmp_path / "out").open("w+") as out:
                old = subprocess.Popen([sys.executable, "-c", ZOMBIE, broker, topic], stdout=out)
                try:
                    _wait_for(lambda: "ready" in (tmp_path / "out").read_text())
                    _wait_for(lambda: any(v.startswith(b"old") for v in _values(broker, topic)))
                    time.sleep(0.01 * life)  # not for the result: to stop it elsewhere each time
                    os.kill(old.pid, signal.SIGSTOP)
                    heir = Transactional(broker, topic)
                    heir.init()
                    heir.commit([Outgoing(topic, 0, b"heir")])
                    heir.close()
                    before = _values(broker, topic)
                    os.kill(old.pid, signal.SIGCONT)
                    assert old.wait(60) == 7, "it was not told that it is fenced"
                finally:
                    old.kill()
                    old.wait()
            after = _values(broker, topic)
            assert after == before and after[-1] == b"heir"
            assert sum(v.startswith(b"old") for v in after) % 5 == 0, "half of a transaction"
    finally:
        Broker(broker).delete([topic])


def _values(broker: str, topic: str) -> list[bytes]:
    """What a reader sees, who takes committed records only."""
    reader = Reader(broker, "look", fetch_wait_ms=5)
    try:
        reader.assign({(topic, 0): BEGINNING})
        out: list[bytes] = []
        while not reader.at_end((topic, 0)):
            out += [r.value for r in reader.poll(500, 0.1)]
        return out
    finally:
        reader.close()


def _wait_for(done: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.02)


# ---------------------------------------------------------------- the table


def test_the_table_of_faults_is_whole_and_names_tests_that_exist() -> None:
    text, measured = (ROOT / "docs" / "faults.md").read_text().split("## Measured")
    row = re.compile(r"^\| `([a-z0-9-]+)` \|(.*)\|$", flags=re.M)
    told = dict(row.findall(text))
    assert set(told) == {f.name for f in FAULTS}
    assert {fault for fault, _ in row.findall(measured)} <= set(told)
    for fault, line in told.items():
        assert (fault in WHOLE) == ("`make test`, whole" in line), fault
        named = re.findall(r"`(test_\w+)::(test_\w+)`", line)
        assert named or fault in WHOLE, f"{fault} is tested nowhere"
        for module, test in named:
            source = (ROOT / "tests" / f"{module}.py").read_text()
            assert f"def {test}(" in source, f"{module}::{test}"
