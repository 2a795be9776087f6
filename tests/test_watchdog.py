"""A call that never comes back ends its process; any other is left alone."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from freerun.kafka import Broker, Outgoing, Position, Reader, Transactional
from freerun.topics import Topic
from freerun.watchdog import EXIT_HUNG

ROOT = Path(__file__).resolve().parents[1]
CODE = """
import sys, time
from freerun import watchdog
watchdog.TICK_S = 0.05
asked = []
def is_well():
    asked.append(1)
    return {well}
with watchdog.must_end('a call', 0.2, is_well):
    time.sleep({seconds})
time.sleep(0.5)
print('came back', len(asked))
"""


@pytest.mark.parametrize(
    ("well", "seconds", "code"),
    [("True", 60, EXIT_HUNG), ("len(asked) > 2", 60, EXIT_HUNG), ("False", 1.5, 0),
     ("True", 0.05, 0)],
)  # fmt: skip
def test_a_call_that_hangs(well: str, seconds: float, code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(well=well, seconds=seconds)], cwd=ROOT,
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    if code:
        assert "a call has not come back for 0 s, and Kafka is well" in done.stderr
        assert not done.stdout
    else:
        asked = int(done.stdout.split()[-1])
        assert asked == 0 if well == "True" else asked > 2  # not well: asked again and again


def watched(seen: list[Any]) -> Any:
    """A watchdog that only notes what it is told."""

    def must_end(*told: Any) -> Any:
        seen.append(told)
        return nullcontext()

    return must_end


def test_transactions_are_watched(
    broker: str, installation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the broker's answer, and no longer than all of it may take."""
    seen: list[Any] = []
    admin, topic = Broker(broker), f"{installation}.watched"
    admin.create([Topic(topic, 1, {})])
    owner = Transactional(broker, f"{installation}.watched", timeout_ms=3000)
    reader = Reader(broker, f"{installation}.group")
    try:
        monkeypatch.setattr("freerun.kafka.must_end", watched(seen))
        owner.init()
        owner.commit([Outgoing(topic, 0, b"x")], [Position(topic, 0, 1)], reader.group_metadata())
        assert [what for what, _, _ in seen] == [
            f"taking over {owner.tid}", f"the transaction of {owner.tid}",
            f"the positions of {owner.tid}",
        ]  # fmt: skip
        assert [limit for _, limit, _ in seen[1:]] == [9.0, 4.5] and seen[1][2]()
    finally:
        owner.close()
        reader.close()
        admin.delete([topic])
