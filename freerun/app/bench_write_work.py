"""The turns of `freerun bench write`, in a process like that of the writer.

Started by the benchmark with the writer's environment; prints one line of JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import uproot

from freerun import config
from freerun.assembler import Bundle
from freerun.config import Bench
from freerun.simulation import BLOCK_NS
from freerun.slices import partition
from freerun.ticks import Clock
from freerun.wire import ResultPart, read_batch, result_headers

FIRST = 17_000_000_000  # any slice of 100 ms
POOL = 6  # slices that are built; then the same ones come again with later numbers
PARTITIONS = 8
FLUSH_BYTES = 30_000_000

Record = tuple[ResultPart, Any]


@dataclass
class Pool:
    """Results of some slices, as lanes publish them."""

    bench: Bench
    events: list[list[Record]]
    monitor: list[Record]

    @property
    def nbytes(self) -> int:
        """Payload: bodies of the results (monitor deltas are not counted)."""
        return sum(len(memoryview(body)) for slices in self.events for _, body in slices)


def pool_of(bench: Bench) -> Pool:
    """Simulate and build `POOL` slices."""
    setup, offline = importlib.import_module("processors.setup"), importlib.import_module(
        "processors.offline"
    )  # fmt: skip
    drivers = importlib.import_module("producers.__main__")
    pipeline = setup.pipeline_of(bench, bench.pipelines[0].id)
    length, guard = bench.time.slice, bench.time.guard
    events, monitor = [], []
    for k in range(FIRST, FIRST + POOL):
        fragments = []
        for source in sorted(bench.sources, key=lambda s: s.id):
            driver = drivers.make_driver(bench, source)
            clock = Clock(driver.estimate_anchor() or 0, driver.tick.numerator,
                          driver.tick.denominator)  # fmt: skip
            blocks = range(
                (k * length - guard) // BLOCK_NS, ((k + 1) * length + guard) // BLOCK_NS + 1
            )
            rows = driver.join([driver.make(b, clock) for b in blocks])
            fragments.append(
                offline.fragment_of(
                    source.id, driver.schema, rows, clock, k * length, length, guard
                )
            )
        result = pipeline.process(Bundle(k, 0, tuple(fragments), {}, {}))
        events.append([(p, body.to_pybytes()) for p, body in result.events])
        monitor.append((result.monitor[0], result.monitor[1].to_pybytes()))
    return Pool(bench, events, monitor)


def through_the_chain(pool: Pool, slices: int, folder: Path) -> Path:
    """Records in, a published file out: what the writer does, without Kafka."""
    job_of = importlib.import_module("controllers.writer.job")
    facts = importlib.import_module("controllers.writer.tables").RunFacts
    bench, name = pool.bench, pool.bench.pipelines[0].id
    sources = tuple(s.id for s in bench.sources)
    document = {"run": 1, "sources": list(sources), "exit": 0, "slice_ns": bench.time.slice}
    output = job_of.Output(name, importlib.import_module("controllers.writer.series").Roll(1 << 40))
    setup = job_of.Setup(folder, "bench", PARTITIONS, (output,))
    job = job_of.RunJob(setup, facts(1, FIRST, bench.time.slice, sources), lambda: document)
    job.begin(lambda _kind, _pipeline: dict.fromkeys(range(PARTITIONS), 0))
    last = FIRST + slices - 1
    offsets = dict.fromkeys(range(PARTITIONS), 0)
    for n in range(slices):
        k = FIRST + n
        p = partition(k, PARTITIONS)
        for part, body in pool.events[n % POOL]:
            headers = result_headers(replace(part, k=k), body)
            job.offer((job_of.EVENTS, name, p), offsets[p], headers, body, last)
            offsets[p] += 1
        part, body = pool.monitor[n % POOL]
        headers = result_headers(replace(part, k=k, info={**(part.info or {}), "k": k}), body)
        job.offer((job_of.MONITOR, name, p), n, headers, body, last)
        job.advance(last, 60.0)
    while not job.advance(last, 60.0):
        raise SystemExit("the writer did not finish")
    job.finish(last)
    return next(folder.glob("Run*/*_0000.root"))


def plain_uproot(pool: Pool, slices: int, folder: Path) -> Path:
    """The same columns with the same compression straight into uproot: no checks, no sums."""
    tables = importlib.import_module("controllers.writer.tables")
    branches = importlib.import_module("controllers.writer.branches")
    schemas = importlib.import_module("freerun.schemas")
    facts = tables.RunFacts(1, FIRST, pool.bench.time.slice,
                            tuple(s.id for s in pool.bench.sources))  # fmt: skip
    path = folder / "plain.root"
    types = {"events": tables.branch_types(schemas.EVENTS)} | {
        n: {b.name: b.type for b in branches.FLAT[n]} for n in ("hits", "pulses")
    }
    with uproot.create(path, compression=uproot.ZSTD(1)) as file:
        trees = {
            n: file.mktree(n, t, counter_name=lambda g: f"n_{g}", initial_basket_capacity=64)
            for n, t in types.items()
        }
        waiting: dict[str, list[Any]] = {n: [] for n in trees}
        size = dict.fromkeys(trees, 0)

        def flush(name: str) -> None:
            if waiting[name]:
                pieces = waiting[name]
                trees[name].extend(
                    tables.events(pieces, facts) if name == "events"
                    else tables.flat(pieces, facts, branches.FLAT[name])
                )  # fmt: skip
            waiting[name], size[name] = [], 0

        for n in range(slices):
            for part, body in pool.events[n % POOL]:
                batch = read_batch(body)
                if batch.num_rows:
                    waiting[part.table].append(tables.Piece(FIRST + n, 0, 0, batch))
                    size[part.table] += batch.nbytes
                if size[part.table] >= FLUSH_BYTES:
                    flush(part.table)
        for name in trees:
            flush(name)
    return path


def copied(pool: Pool, slices: int, folder: Path) -> Path:
    """The bodies one behind the other into a file, synced: what no format could beat."""
    path = folder / "copy.bin"
    with path.open("wb") as file:
        for n in range(slices):
            for _, body in pool.events[n % POOL]:
                file.write(body)
        file.flush()
        os.fsync(file.fileno())
    return path


def uploaded(told: dict[str, Any], path: Path, number: int) -> None:
    """A file to S3 as the writer does it."""
    s3 = importlib.import_module("controllers.writer.s3")
    publish = importlib.import_module("controllers.writer.publish")
    client = s3.make_client(told["endpoint"])
    store = s3.Store(s3.Location(told["bucket"], f"freerun-bench-{os.getpid()}"), client)
    name = f"{number}.root"
    store.put_new(path, publish.sha256_of(path), name)
    client.delete_object(Bucket=told["bucket"], Key=store.location.key(name))


WAYS: dict[str, Callable[[Pool, int, Path], Path]] = {
    "chain": through_the_chain, "uproot": plain_uproot, "copy": copied,
}  # fmt: skip


def turns(told: dict[str, Any]) -> dict[str, Any]:
    """Each way `repeats` times and once to warm up, in turns: there and back again."""
    pool = pool_of(config.load(told["bench"]))
    per_slice = pool.nbytes / POOL
    slices = max(2 * POOL, round(told["bytes"] / per_slice))
    out: dict[str, Any] = {"payload": per_slice * slices, "slices": slices}
    out |= {way: [] for way in (*WAYS, "s3")}
    for n in range(told["repeats"] + 1):
        order = list(WAYS) if n % 2 else list(WAYS)[::-1]
        for way in order:
            folder = Path(told["folder"]) / f"{way}{n}"
            folder.mkdir()
            path, turn = _timed(partial(WAYS[way], pool, slices, folder))
            turn |= {"file": path.stat().st_size}
            if n:
                out[way].append(turn)
            if way == "chain" and told["endpoint"]:
                _, upload = _timed(partial(uploaded, told, path, n))
                if n:
                    out["s3"].append(upload | {"file": path.stat().st_size})
            for made in sorted(folder.rglob("*"), reverse=True):
                made.rmdir() if made.is_dir() else made.unlink()
    return out


def _timed(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    begun, cpu = time.perf_counter(), time.process_time()
    got = work()
    return got, {"seconds": time.perf_counter() - begun, "cpu": time.process_time() - cpu}


if __name__ == "__main__":
    print(json.dumps(turns(json.loads(sys.argv[1]))), flush=True)
