"""From a hit to its visible result, hop by hop, in a bench at a steady rate.

No coordinated omission: what is measured is the time from the end of each slice of the run, in
experiment time, whoever was late; every slice counts, one that never came as never. A hit lies
anywhere in its slice, so that the time of hits is that of slices plus an even spread over L.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from freerun import config
from freerun.app.bench import Table
from freerun.app.bench_cache import fill_page_cache
from freerun.app.bench_whole import faster
from freerun.app.locate import bench_file
from freerun.app.session import Session
from freerun.errors import EnvironmentProblem
from freerun.kafka import Reader
from freerun.readback import read, stretch
from freerun.wire import read_part, read_result

F64 = npt.NDArray[np.float64]
WARM_S = 30.0  # of the run: the JVM compiles, lanes take over
CLOSING_S = 180.0
QUANTILES = (0.5, 0.9, 0.99)


@dataclass
class Seen:
    """When the results of each slice could be seen by a reader of its own (host ns)."""

    address: str
    topic: str
    partitions: int
    visible: dict[int, int] = field(default_factory=dict)
    written: dict[int, int] = field(default_factory=dict)  # broker's time of the last part, ns

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._reader = Reader(self.address, "bench.latency", queue_mb=64)
        places = [(self.topic, p) for p in range(self.partitions)]
        self._reader.assign({w: self._reader.high(w) for w in places})
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while not self._stop.is_set():
            records = self._reader.poll(200, 0.05)
            now = time.time_ns()
            for record in records:
                part = read_result(record.headers)
                if part.part == part.parts - 1 and part.k not in self.visible:
                    self.visible[part.k] = now
                    self.written[part.k] = record.time_ms * 1_000_000

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._reader.close()


def closes(session: Session, first: int, last: int, since_ms: int) -> dict[int, int]:
    """Broker's time (ns) of the last close among the sources, for each slice of a run."""
    topics, bench = session.place.topics, session.place.bench
    reader = Reader(session.installation.address, "bench.closes", committed=False, queue_mb=64)
    out: dict[int, int] = {}
    try:
        for source in bench.sources:
            for p in range(bench.cluster.partitions):
                for record in read(reader, stretch(reader, (topics.raw(source.id), p), since_ms)):
                    part = read_part(record.headers)
                    if part.closes and first <= part.k <= last:
                        out[part.k] = max(out.get(part.k, 0), record.time_ms * 1_000_000)
    finally:
        reader.close()
    return out


def of_hits(slices: F64, length_s: float) -> F64:
    """Quantiles of the time since a hit, if that since the end of its slice is `slices` (s)."""
    within = (np.arange(100) + 0.5) / 100 * length_s
    return quantiles((slices[:, None] + within).ravel())


def quantiles(seconds: F64) -> F64:
    """Quantiles in ms; a slice that never came is infinitely late."""
    some = np.sort(seconds)
    at = np.minimum(len(some) - 1, np.ceil(np.array(QUANTILES) * len(some)).astype(int) - 1)
    out: F64 = some[at] * 1000
    return out


def measure(
    table: Table, bench: Path | None, rate: float, seconds: float, slice_ns: int, partitions: int
) -> None:
    """Fill `table` from a run of `seconds` at `rate` million rows/s."""
    with tempfile.TemporaryDirectory(prefix="freerun-bench-") as scratch:
        folder = Path(scratch)
        fill_page_cache(folder / "zeros")
        told = config.load(_written(folder / "rate.toml", faster(bench_file(bench), rate)))
        told = told.model_copy(update={"time": told.time.model_copy(update={"slice": slice_ns})})
        path = _written(folder / "bench.toml", told.resolved_toml())
        cluster = _written(folder / "cluster.toml", f"[cluster]\npartitions = {partitions}\n")
        with Session.open(path, folder / "data", cluster, 0) as session:
            measure_in(table, session, rate, seconds)


def measure_in(
    table: Table, session: Session, rate: float, seconds: float, warm_s: float = WARM_S
) -> None:
    """Take one run in a bench that is ready, and fill `table`."""
    name, partitions = session.place.bench.pipelines[0].id, session.place.bench.cluster.partitions
    topic = session.place.topics.events(name)
    seen = Seen(session.installation.address, topic, partitions)
    try:
        document = _run(session, seconds + warm_s)
    finally:
        seen.close()
    since = document["t_start_ns"] // 1_000_000 - 10_000
    ready = closes(session, document["first"], document["last"], since)
    _report(table, document, seen, ready, rate, warm_s)


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def _run(session: Session, seconds: float) -> dict[str, Any]:
    answer = session.client.command(
        "start_run", comment="latency", stop_after={"time_ns": int(seconds * 1e9)}
    )
    if not answer["ok"]:
        raise EnvironmentProblem(answer["text"])
    found: dict[str, Any] = {}

    def closed() -> bool:
        time.sleep(0.5)
        found.update(session.client.run(int(answer["run"])) or {})
        return found.get("state") in ("closed", "failed")

    if not session.installation.wait(closed, seconds + CLOSING_S):
        raise EnvironmentProblem(
            f"run {answer['run']} is not closed {CLOSING_S:.0f} s after its end: measure at a "
            f"lower --rate; the logs are in {session.installation.hidden / 'logs'}"
        )
    return found


def _report(
    table: Table, document: dict[str, Any], seen: Seen, ready: dict[int, int], rate: float,
    warm_s: float,
) -> None:  # fmt: skip
    length = document["slice_ns"]
    ks = np.arange(document["first"] + int(warm_s * 1e9) // length, document["last"] + 1)
    end = (ks + 1) * length

    def since_end(when: dict[int, int]) -> F64:
        at = np.array([when.get(int(k), -1) for k in ks], np.int64)
        return np.where(at < 0, np.inf, (at - end) / 1e9)

    visible, written, closed = since_end(seen.visible), since_end(seen.written), since_end(ready)
    rows = sum(s["in_kafka"] for s in document["ledger"]["sources"].values())
    span = (document["t_stop_ns"] - document["t_start_ns"]) / 1e9
    table.add("rows", rows / span / 1e6, "M/s", f"asked for {rate:g}", goal=0.97 * rate)
    table.add("slices measured", len(ks), "", f"every one after the first {warm_s:.0f} s of the "
              f"run, L = {length / 1e6:g} ms, P = {seen.partitions}")  # fmt: skip
    table.add("slices that never came", float(np.isinf(visible).sum()), "", goal=0, at_most=True)
    hits = of_hits(visible, length / 1e9)
    _lines(table, "hit → visible result", hits, (200, None, 400))
    _lines(table, "end of slice → visible result", quantiles(visible))
    about = "of it: " if os.environ.get("FREERUN_KAFKA") is None else "of it (broker's clock): "
    _lines(table, about + "end of slice → last close in Kafka", quantiles(closed))
    with np.errstate(invalid="ignore"):
        _lines(table, about + "→ results in Kafka", quantiles(written - closed))
        _lines(table, about + "→ visible", quantiles(visible - written))


def _lines(
    table: Table, what: str, values: F64, goals: tuple[float | None, ...] = (None, None, None)
) -> None:
    for q, value, goal in zip(QUANTILES, values, goals, strict=True):
        table.add(f"{what}, p{q * 100:.0f}", float(value), "ms", goal=goal, at_most=True)
