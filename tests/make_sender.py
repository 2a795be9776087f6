"""A Kafka without a network for the sender, and what a source sends in four slices."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from make_source import SLICE, array, row, sequencer

from freerun.kafka import Outgoing
from freerun.wire import Part, read_part
from producers.sequencer import Out


class FakeKafka:
    """Stands for `freerun.kafka.Sender`: keeps records until the test acknowledges or refuses."""

    def __init__(self, _address: str, _name: str, done: Callable[[Any, str | None], None]) -> None:
        self.done = done
        self.queue: deque[tuple[Outgoing, Any]] = deque()
        self.log: list[Outgoing] = []

    def send(self, record: Outgoing, token: Any) -> bool:
        self.queue.append((record, token))
        return True

    def poll(self, timeout: float = 0.0) -> None:
        pass

    def flush(self, timeout: float) -> int:
        self.settle()
        return 0

    def settle(self, refuse: Callable[[Outgoing, Part], bool] = lambda _r, _p: False) -> None:
        while self.queue:
            record, token = self.queue.popleft()
            if refuse(record, read_part(record.headers)):
                self.done(token, "MSG_SIZE_TOO_LARGE")
            else:
                self.log.append(record)
                self.done(token, None)


def sent_slices() -> list[Out]:
    """Slices 0…3 of source a with 25 rows each in parts of 10, and their marks."""
    s = sequencer(part_bytes=80)
    outs = s.arm(0, 4)
    for k in range(4):
        outs += s.offer(array(row(k * SLICE + 300 + i, i) for i in range(25)), 0, 10**6, 0)
    return outs + s.advance(10**6)
