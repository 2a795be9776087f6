"""What a run's results look like from outside, while faults are made: slices, heartbeats."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from typing import Any

from freerun.errors import FreerunError, Quarantined
from freerun.kafka import Reader
from freerun.topics import Topics
from freerun.wire import read_result

STEADY = 10  # complete slices in a row: results flow


class Watch:
    """Follows the results of a pipeline (read_committed) and the heartbeats, in a thread."""

    def __init__(
        self, address: str, topics: Topics, pipeline: str, partitions: int, length_ns: int
    ) -> None:
        self._L = length_ns
        self._events, self._state = topics.events(pipeline), topics.state
        self._reader = Reader(address, "selftest.watch", fetch_wait_ms=50)
        places = [(self._events, p) for p in range(partitions)] + [(self._state, 0)]
        self._reader.assign({where: self._reader.high(where) for where in places})
        self.states: dict[str, dict[str, Any]] = {}
        self.duplicates = 0
        self._missing: dict[int, tuple[str, ...]] = {}  # slice → sources that it is without
        self._next: int | None = None  # the first slice of the run that is not out
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name="selftest watch", daemon=True)
        self._thread.start()

    def begin(self, first: int) -> None:
        """The run's first slice: from there on slices are followed."""
        self._next = first

    def close(self) -> None:
        self._ending.set()
        self._thread.join(10)
        self._reader.close()

    # ------------------------------------------------------------------ questions

    @property
    def next(self) -> int:
        """The first slice of the run that is not out."""
        return self._next or 0

    @property
    def out_to_s(self) -> float:
        """Experiment time (s) up to which all slices are out."""
        return self.next * self._L / 1e9

    def lag_s(self) -> float:
        """How long ago the first slice ended that is not out."""
        return time.time() - self.out_to_s - self._L / 1e9

    def flows(self, within_s: float, complete: bool = True) -> bool:
        """Are all slices out but the last `within_s`, the newest of them complete?"""
        n = self._next
        if n is None or self.lag_s() > within_s:
            return False
        newest = [self._missing.get(k, ("",)) for k in range(n - STEADY, n)]
        return not (complete and any(newest))

    def without(self, first: int, end: int) -> dict[str, int]:
        """Sources that slices `first` … `end`-1 are without, or without a part of their rows, and
        in how many."""
        out: dict[str, int] = {}
        for k in range(first, end):
            for source in self._missing.get(k, ()):
                out[source] = out.get(source, 0) + 1
        return out

    # ------------------------------------------------------------------ work

    def _work(self) -> None:
        while not self._ending.is_set():
            try:
                records = self._reader.poll(500, 0.1)
            except FreerunError:
                self._ending.wait(0.2)
                continue
            for record in records:
                if record.topic == self._state:
                    self._beat(record.key, record.value)
                else:
                    self._result(record.headers)
            while self._next is not None and self._next in self._missing:
                self._next += 1

    def _beat(self, key: bytes | None, value: bytes) -> None:
        told = json.loads(value)
        if isinstance(told, dict):
            self.states[(key or b"").decode()] = told

    def _result(self, headers: Any) -> None:
        try:
            part = read_result(headers)
        except Quarantined:
            return
        if part.part != 0:
            return
        info: Mapping[str, Any] = part.info or {}
        self.duplicates += part.k in self._missing
        sources = info.get("sources", {})
        cut = [s for s, told in sources.items() if told["close"].get("cut")]
        failed = ["its kernels"] if info.get("failed") else []
        self._missing[part.k] = (*info.get("missing", {}), *cut, *failed)
