"""The monitor service: deltas of all partitions folded into one snapshot a second."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from freerun import schemas
from freerun.errors import Quarantined
from freerun.heartbeat import Heart
from freerun.kafka import Publisher, Reader
from freerun.plan import Run
from freerun.planlog import PlanLog
from freerun.service import Service
from freerun.wire import ResultPart, read_batch, read_result, result_headers, write_batch

PERIOD_S = 1.0
HISTORY_S = 600


class Fold:
    """Aggregates of one run: sums do not care in which order the slices come. Pure."""

    def __init__(self, run: int, first: int, length_ns: int, partitions: int) -> None:
        self.run, self.first, self.L = run, first, length_ns
        self.hists: list[dict[str, Any]] = []
        self.values: dict[str, npt.NDArray[np.int64]] = {}
        self.shapes: dict[str, list[int]] = {}
        self.rows: Counter[str] = Counter()
        self.hits: Counter[str] = Counter()
        self.totals: Counter[str] = Counter()
        self.seconds: defaultdict[int, Counter[str]] = defaultdict(Counter)
        self.offsets: dict[int, int] = {}
        self.newest = first - 1
        self.next = first
        self._ahead: set[int] = set()
        self._last: dict[int, int] = {}

    def add(self, p: int, offset: int, part: ResultPart, body: bytes) -> None:
        """One delta of partition `p`; a slice at or before the last one seen is dropped.

        A delta that cannot be read is counted as `bad`: its slice is done, its numbers are lost.
        """
        self.offsets[p] = offset + 1
        if part.k <= self._last.get(p, -1):
            self.totals["duplicates"] += 1
            return
        self._last[p] = part.k
        try:
            self._sum(read_batch(body))
            self._count(part.k, part.info or {})
        except (Quarantined, KeyError, TypeError, ValueError):
            self.totals["bad"] += 1
        self.newest = max(self.newest, part.k)
        self._ahead.add(part.k)
        while self.next in self._ahead:
            self._ahead.remove(self.next)
            self.next += 1

    def _sum(self, batch: pa.RecordBatch) -> None:
        names = batch.column("name").to_pylist()
        shapes = batch.column("shape").to_pylist()
        values = batch.column("values")
        flat, cuts = values.flatten().to_numpy(), values.offsets.to_numpy()
        mine = {name: flat[a:b] for name, a, b in zip(names, cuts[:-1], cuts[1:], strict=True)}
        for name, some in mine.items():  # all or nothing: no histogram may be half of a slice
            if name in self.values and len(self.values[name]) != len(some):
                raise ValueError(f"{name} has {len(some)} bins, before {len(self.values[name])}")
        if not self.hists:
            self.hists = json.loads((batch.schema.metadata or {}).get(b"hists", b"[]"))
        for name, shape in zip(names, shapes, strict=True):
            if name in self.values:
                self.values[name] += mine[name]
            else:
                self.values[name], self.shapes[name] = mine[name].copy(), shape

    def _count(self, k: int, info: Mapping[str, Any]) -> None:
        self.rows.update(info.get("rows", {}))
        self.hits.update(info.get("hits", {}))
        self.totals["events"] += info.get("n_events", 0)
        self.totals["slices"] += 1
        self.totals["complete"] += bool(info.get("complete"))
        t = (k - self.first) * self.L // 1_000_000_000
        second = self.seconds[t]
        second.update(info.get("rows", {}))
        second["/events"] += info.get("n_events", 0)
        second["/slices"] += 1
        while len(self.seconds) > 2 * HISTORY_S:
            del self.seconds[min(self.seconds)]

    def rates(self) -> list[list[Any]]:
        """`[run time s, {source: rows/s}, events/s]` of the last minutes; whole seconds only."""
        per_second = max(1, 1_000_000_000 // self.L)
        newest = max(self.seconds, default=0)
        out = []
        for t in sorted(self.seconds)[-HISTORY_S:]:
            c = self.seconds[t]
            if c["/slices"] < per_second and t == newest:
                continue
            scale = 1e9 / (c["/slices"] * self.L)
            rows = {s: n * scale for s, n in c.items() if not s.startswith("/")}
            out.append([t, rows, c["/events"] * scale])
        return out

    def record(self, final: bool) -> tuple[ResultPart, bytes]:
        names = list(self.values)
        batch = pa.RecordBatch.from_arrays(
            [
                pa.array(names, type=pa.string()),
                pa.array([self.shapes[n] for n in names], type=pa.list_(pa.int32())),
                pa.array([self.values[n] for n in names], type=pa.list_(pa.int64())),
            ],
            schema=schemas.MONITOR,
        ).replace_schema_metadata({b"hists": json.dumps(self.hists).encode()})
        info = {
            "run": self.run, "k_first": self.first, "k_next": self.next,
            "t_ns": (self.newest + 1) * self.L, "made_ns": time.time_ns(),
            "offsets": self.offsets, "n_slices": self.totals["slices"],
            "n_complete": self.totals["complete"], "n_events": self.totals["events"],
            "rows": dict(self.rows), "hits": dict(self.hits), "rates": self.rates(),
            "final": final,
        }  # fmt: skip
        part = ResultPart(self.newest, 0, 1, "monitor", len(names), info)
        return part, write_batch(batch).to_pybytes()


class MonitorService:
    """Follows the deltas of one pipeline, run after run."""

    def __init__(self, service: Service, pipeline: str) -> None:
        self._service, self._pipeline = service, pipeline
        topics, name = service.topics, f"{service.topics.system}.monitor.{pipeline}"
        self._places = [
            (topics.monitor(pipeline), p) for p in range(service.bench.cluster.partitions)
        ]
        self._log = PlanLog(service.address, topics, name)
        self._reader = Reader(service.address, name, queue_mb=32)
        self._publisher = Publisher(service.address, name)
        self._heart = Heart(
            self._publisher, topics, "monitor", pipeline,
            service.bench.timeouts.seconds("heartbeat"),
        )  # fmt: skip
        self._fold: Fold | None = None
        self._final = False
        self._published = -1

    def run(self, stopping: Callable[[], bool]) -> None:
        at = 0.0
        while not stopping():
            self._follow_plan()
            if self._fold is None or self._final:
                time.sleep(0.25)
            else:
                for record in self._reader.poll(200, 0.1):
                    part = read_result(record.headers)
                    if part.k >= self._fold.first and not self._beyond(part.k):
                        self._fold.add(record.partition, record.offset, part, record.value)
            if time.monotonic() >= at:
                at = time.monotonic() + PERIOD_S
                self._publish()
                self._heart.beat("RUNNING", run=self._fold.run if self._fold else None)
        self._heart.beat("STOPPED")
        self._publisher.flush(2)

    def _current(self) -> Run | None:
        runs = self._log.plan.runs()
        return runs[-1] if runs else None

    def _beyond(self, k: int) -> bool:
        run = self._current()
        return run is not None and run.last is not None and k > run.last

    def _follow_plan(self) -> None:
        self._log.poll(timeout=0.5)
        run, install = self._current(), self._log.plan.install
        if run is None or install is None or (self._fold and self._fold.run == run.number):
            return
        starts = self._reader.offsets_at(self._places, run.start.time_ms)
        self._reader.unassign(self._places)
        self._fold = Fold(run.number, run.first, install.L, install.P)
        self._final, self._published = False, -1
        self._reader.assign(starts)

    def _publish(self) -> None:
        fold, run = self._fold, self._current()
        if fold is None or run is None or self._final:
            return
        self._final = run.last is not None and fold.next > run.last
        if fold.totals["slices"] == self._published and not self._final:
            return
        self._published = fold.totals["slices"]
        part, body = fold.record(self._final)
        topic = self._service.topics.snapshot(self._pipeline)
        self._publisher.publish(topic, body, headers=result_headers(part, body))
