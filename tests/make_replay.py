"""Recorded and generated streams through a real broker, with the services' own classes."""

from __future__ import annotations

import shutil
import threading
import time
import traceback
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from controllers.replay_control import ReplayControl
from freerun import config, kafka, schemas
from freerun.builder import FLAG_NEIGHBOUR
from freerun.config import Bench
from freerun.kafka import BEGINNING
from freerun.rows import codec
from freerun.service import Service
from freerun.slices import partition
from freerun.topics import Topics, ensure
from freerun.wire import MARK, Part, read_batch, read_part, read_result
from processors.setup import lane_of, spec_of
from producers.__main__ import make_driver
from producers.source import SourceProcess

PATIENCE_S = 120.0  # a first run compiles


class Results(NamedTuple):
    """What a pipeline published, in the order of the slices."""

    events: pa.Table
    hits: pa.Table  # in no event of any slice
    pulses: pa.Table
    infos: list[dict[str, Any]]
    doubles: int  # hits that are here and in an event of the neighbouring slice


class Lab:
    """One replay: topics, plan, sources in threads. Nothing of it is left after `close`."""

    def __init__(
        self, address: str, bench: Bench, folder: Path, partitions: int,
        first: int, last: int, anchor: int = 0,
    ) -> None:  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        self.paths = folder / "bench.toml", folder / "cluster.toml"
        self.paths[0].write_text(bench.resolved_toml())
        self.paths[1].write_text(f"[cluster]\npartitions = {partitions}\n")
        self.bench = config.load(*self.paths)
        self.address, self.P = address, partitions
        self.topics = Topics(self.bench.system.name)
        self.first, self.last = first, last
        args = Namespace(bench=self.paths[0], cluster=self.paths[1])
        self.service = Service(self.bench, address, folder / "data", self.topics, args)
        names = self.topics.all(
            [s.id for s in self.bench.sources], [p.id for p in self.bench.pipelines], partitions
        )
        self._broker = kafka.Broker(address)
        ensure(self._broker, names)
        self._names = [t.name for t in names]
        anchors = {s.domain: anchor for s in self.bench.sources}
        self.control = ReplayControl(self.service, 1, first, last, anchors)
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self.failures: list[str] = []

    # ------------------------------------------------------------------ work

    def stopping(self) -> bool:
        return self._stopping.is_set()

    def start_sources(self, *names: str) -> None:
        """Those named; all if none is."""
        for source in (s for s in self.bench.sources if not names or s.id in names):
            driver = make_driver(self.bench, source, "data")
            process = SourceProcess(self.service, source, driver)
            self.in_thread(process.run, self.stopping)

    def in_thread(self, work: Callable[..., Any], *args: Any) -> None:
        def guarded() -> None:
            try:
                work(*args)
            except BaseException:
                self.failures.append(traceback.format_exc())

        self._threads.append(threading.Thread(target=guarded, daemon=True))
        self._threads[-1].start()

    def run_lane(self, pipeline: str, generation: int = 0) -> int:
        """One lane in this process, until every slice is out; returns the takes-over."""
        lane = lane_of(spec_of(*self.paths, self.bench, self.address, pipeline, generation))
        wanted, done, retaken = self.last - self.first + 1, 0, 0
        end = time.monotonic() + PATIENCE_S
        try:
            while done < wanted:
                out = lane.run(range(self.P), 0.1)
                done, retaken = done + out.slices, retaken + out.retaken
                assert not self.failures, self.failures[0]
                assert time.monotonic() < end, f"{done} of {wanted} slices"
        finally:
            lane.close()
        self.wait_for_results(pipeline)  # a commit is visible a moment after it returned
        return retaken

    def wait_for_results(self, pipeline: str) -> None:
        """Until every slice is published, whoever builds them."""
        reader = kafka.Reader(self.address, f"{self.topics.system}.wait")
        places = [(self.topics.events(pipeline), p) for p in range(self.P)]
        reader.assign(dict.fromkeys(places, BEGINNING))
        seen: set[int] = set()
        end = time.monotonic() + PATIENCE_S
        try:
            while len(seen) < self.last - self.first + 1:
                seen |= {read_result(r.headers).k for r in reader.poll(500, 0.1)}
                assert not self.failures, self.failures[0]
                assert time.monotonic() < end, f"{len(seen)} slices"
        finally:
            reader.close()

    # ------------------------------------------------------------------ what Kafka holds

    def records(
        self, topic: str, committed: bool = True, partitions: int | None = None
    ) -> Iterator[kafka.Record]:
        reader = kafka.Reader(self.address, f"{self.topics.system}.look", committed=committed)
        places = [(topic, p) for p in range(partitions or self.P)]
        reader.assign(dict.fromkeys(places, BEGINNING))
        try:
            while not all(reader.at_end(w) for w in places):
                yield from reader.poll(500, 0.05)
        finally:
            reader.close()

    def results(self, pipeline: str) -> Results:
        tables: dict[str, dict[tuple[int, int], pa.RecordBatch]] = defaultdict(dict)
        infos: dict[int, dict[str, Any]] = {}
        for record in self.records(self.topics.events(pipeline)):
            part = read_result(record.headers)
            assert record.partition == partition(part.k, self.P)
            assert (part.k, part.part) not in tables[part.table], "published twice"
            tables[part.table][(part.k, part.part)] = read_batch(record.value)
            if part.info is not None:
                infos[part.k] = dict(part.info)
        assert sorted(infos) == list(range(self.first, self.last + 1))
        hits = _joined(tables["hits"], schemas.HITS)
        mine = pc.equal(pc.bit_wise_and(hits["flags"], FLAG_NEIGHBOUR), 0)
        return Results(
            _joined(tables["events"], schemas.EVENTS), hits.filter(mine),
            _joined(tables["pulses"], schemas.PULSES).drop_columns("index"),
            [infos[k] for k in sorted(infos)], hits.num_rows - int(pc.sum(mine).as_py() or 0),
        )  # fmt: skip

    def raw(self, source: str) -> tuple[list[Part], Any]:
        """The parts of a source in Kafka, and their body rows (late ones are not among them)."""
        parts, rows = [], []
        kind = codec(make_driver(self.bench, self.bench.source(source), "data").schema)
        for record in self.records(self.topics.raw(source)):
            part = read_part(record.headers)
            parts.append(part)
            if part.part != MARK and not part.late:
                every = kind.rows(read_batch(record.value))
                rows.append((part.k, part.part, kind.take(every, np.arange(part.rows))))
        rows.sort(key=lambda r: r[:2])
        return parts, kind.concat([r for _, _, r in rows])

    def monitor(self, pipeline: str) -> Mapping[str, np.ndarray[Any, Any]]:
        """The histograms, summed over all slices."""
        out: dict[str, np.ndarray[Any, Any]] = {}
        for record in self.records(self.topics.monitor(pipeline)):
            batch = read_batch(record.value)
            for name, shape, values in zip(*(c.to_pylist() for c in batch.columns), strict=True):
                out[name] = out.get(name, 0) + np.reshape(values, shape)
        return out

    def account(self) -> dict[str, Any]:
        """The ledger's verdict, from the topics alone (nothing is written to files here)."""
        from controllers.verify import account_of

        plan = self.control._writer.plan
        name = self.bench.pipelines[0].id
        verdict: dict[str, Any] = account_of(
            self.address, self.topics, plan, plan.runs()[0], name, None, deep=True,
            only=self.bench.sources_of(self.bench.pipelines[0]),
        ).verdict()  # fmt: skip
        return verdict

    def close(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(20)
        self.control.close()
        self._broker.delete(self._names)
        shutil.rmtree(self.service.data, ignore_errors=True)


def _joined(batches: dict[tuple[int, int], pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    ordered = [batches[key] for key in sorted(batches)]
    return pa.Table.from_batches([b.cast(schema) for b in ordered], schema).combine_chunks()


@contextmanager
def lab(*args: Any, **more: Any) -> Iterator[Lab]:
    made = Lab(*args, **more)
    try:
        yield made
    finally:
        made.close()
