"""The plan as it stands in its topic: read to its end again and again."""

from __future__ import annotations

import time

from freerun.kafka import BEGINNING, Ends, Reader
from freerun.plan import Plan
from freerun.topics import Topics


class PlanLog:
    """Follows the plan. `plan.read_at_ns` is the host time at which its end was last asked for
    and then reached.

    `wait_ms`: how long the broker holds an empty answer, and so how long a new entry may stop the
    one who polls.
    """

    def __init__(self, address: str, topics: Topics, name: str, wait_ms: int = 250) -> None:
        self.plan = Plan()
        self._where = (topics.plan, 0)
        self._reader = Reader(address, f"{name}.plan", queue_mb=4, fetch_wait_ms=wait_ms)
        self._reader.assign({self._where: BEGINNING})
        self._ends = Ends(address, f"{name}.plan.end")
        self._position = 0

    def poll(self, timeout: float = 0.0) -> bool:
        """Take in what is new; True if the plan was read to its end as of this call.

        The end is asked of a read_uncommitted handle, so an open transaction is not the end.
        """
        asked = time.time_ns()
        high = self._ends.high(self._where)
        deadline = time.monotonic() + timeout
        while self._position < high:
            for record in self._reader.poll(100, 0.02):
                self.plan.add(record.value, record.time_ms)
            self._position = max(self._reader.position[self._where], 0)
            if self._position < high and time.monotonic() >= deadline:
                return False
        self.plan.read_at_ns = asked
        return True

    def close(self) -> None:
        self._reader.close()
        self._ends.close()
