"""Heartbeats: the state of every service, once a second, on a compacted topic."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from typing import Any

from freerun.kafka import Publisher
from freerun.topics import Topics

PERIOD_S = 1.0


class Heart:
    """Beats for one service; `beat` is cheap and may be called as often as one likes."""

    def __init__(
        self, publisher: Publisher, topics: Topics, role: str, name: str,
        period_s: float = PERIOD_S,
    ) -> None:  # fmt: skip
        self._publisher, self._topic = publisher, topics.state
        self._period = period_s
        self.key = f"{role}/{name}"
        self._fixed = {"role": role, "id": name, "pid": os.getpid(), "host": socket.gethostname()}
        self._next = 0.0
        self._state = ""

    def due(self, state: str) -> bool:
        """Is a beat due: a period is over, or the state has changed?"""
        return time.monotonic() >= self._next or state != self._state

    def beat(self, state: str, **counters: Any) -> None:
        if not self.due(state):
            return
        self._next, self._state = time.monotonic() + self._period, state
        value = self._fixed | {"state": state, "time_ns": time.time_ns()} | counters
        self._publisher.publish(self._topic, json.dumps(value).encode(), self.key)

    def is_mine(self, value: Mapping[str, Any]) -> bool:
        """Was this heartbeat sent by this process?"""
        return all(value.get(x) == self._fixed[x] for x in ("pid", "host"))
