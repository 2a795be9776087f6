"""A compacted topic followed as it grows: key → newest record."""

from __future__ import annotations

import json
from typing import Any

from freerun.kafka import BEGINNING, Reader


class Follow:
    """For who looks again and again: reading everything anew each time would cost ever more."""

    def __init__(self, address: str, topic: str, name: str) -> None:
        self._reader = Reader(address, name, committed=False, queue_mb=8, fetch_wait_ms=500,
                              hurry=False)  # fmt: skip
        self._reader.assign({(topic, 0): BEGINNING})
        self.newest: dict[str, dict[str, Any]] = {}

    def poll(self, timeout: float = 0.0) -> dict[str, dict[str, Any]]:
        """Take in what is new; returns all that is known."""
        wait = timeout
        while records := self._reader.poll(500, wait):
            wait = 0.0
            for record in records:
                if record.key and record.value:
                    self.newest[record.key.decode()] = json.loads(record.value)
        return self.newest

    def close(self) -> None:
        self._reader.close()
