"""The two figures of the published prototype, measured again: throughput against producers, and
against workers. What it reports stands beside ours; its machines were others, and more.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path

from freerun.app.bench import Curve, Measured, Table
from freerun.app.bench_broker import serving
from freerun.app.bench_growth_point import Feeder, Point, end_of, stage, wait_ready
from freerun.errors import EnvironmentProblem
from freerun.kafka import Broker
from freerun.service import MALLOC
from freerun.slices import partition
from freerun.topics import MESSAGE_BYTES, Topic

PRODUCER_MB_S = 230.0  # of one producer, as published
WORKER_M_S = 7.5  # million hits/s of one worker; 75 of ten
PARTITIONS = 16
LANE = Point(partitions=PARTITIONS, sources=2, slice_ns=100_000_000, words_per_s=5e6)
PATIENCE_S = 600.0


def producers(table: Table, counts: Sequence[int], size: int, repeats: int) -> None:
    """Throughput of `counts` producers at once, each with `size` bytes."""
    table.axes = ("producers", "MB/s")
    found = []
    with serving() as (address, _):
        for n in counts:
            each = [_produced(address, n, size) for _ in range(repeats + 1)][1:]
            rate = Measured.of([_sum(turn, "bytes") / _longest(turn) / 1e6 for turn in each])
            cost = [_sum(turn, "cpu") / _sum(turn, "bytes") * 1e9 for turn in each]
            found.append(rate.value)
            table.add(f"{n} producer{'s' * (n > 1)}", rate, "MB/s",
                      f"published: {PRODUCER_MB_S * n:,.0f}, one machine each; here they and the "
                      "broker share one")  # fmt: skip
            table.add(f"{n} producer{'s' * (n > 1)}, CPU of each", Measured.of(cost), "ns/B")
    table.curves.append(Curve("freerun", list(counts), found))
    published = [PRODUCER_MB_S * n for n in counts]
    table.curves.append(Curve("published, per producer", list(counts), published, dashed=True))


def _sum(turn: list[dict[str, float]], what: str) -> float:
    return sum(g[what] for g in turn)


def _longest(turn: list[dict[str, float]]) -> float:
    return max(g["seconds"] for g in turn)


def _produced(address: str, n: int, size: int) -> list[dict[str, float]]:
    """`n` processes at once, each on a topic of its own, as sources are."""
    admin = Broker(address)
    names = [f"bench_{uuid.uuid4().hex[:8]}" for _ in range(n)]
    limits = {"max.message.bytes": str(MESSAGE_BYTES)}
    admin.create([Topic(name, PARTITIONS, limits) for name in names])
    work = []
    try:
        for name in names:
            told = {"what": "whole", "bytes": size, "partitions": PARTITIONS, "topic": name,
                    "address": address}  # fmt: skip
            argv = [sys.executable, "-m", f"{__package__}.bench_produce_work", json.dumps(told)]
            process = subprocess.Popen(
                argv, env=os.environ | MALLOC, text=True, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )  # fmt: skip
            work.append(process)
        out = []
        for process in work:
            said, errors = process.communicate(timeout=PATIENCE_S)
            if process.returncode != 0:
                raise EnvironmentProblem(f"a producer failed: {errors[-400:]}")
            out.append(json.loads(said.splitlines()[-1]))
        return out
    finally:
        for process in work:
            if process.poll() is None:
                process.kill()
                process.wait()
        admin.delete(names)


def workers(table: Table, counts: Sequence[int], seconds: float, builder: str) -> None:
    """Throughput of `counts` lanes that work off the same backlog, of about `seconds` for one."""
    table.axes = ("workers", "M words/s")
    walls, ideal = [], []
    with serving() as (address, _), tempfile.TemporaryDirectory(prefix="freerun-bench-") as folder:
        _worked(address, Path(folder), 1, 20, builder)  # kernels compiled, a JVM that has run
        for n in counts:
            slices = max(4 * PARTITIONS, round(seconds * n * LANE.words_per_s / _per_slice()))
            wall, per_cpu = _worked(address, Path(folder), n, slices, builder)
            walls.append(wall)
            ideal.append(per_cpu * n)
            table.add(f"{n} worker{'s' * (n > 1)}", wall, "M words/s",
                      f"published: {WORKER_M_S * n:g}; here {os.cpu_count()} cores for workers and "
                      "broker", goal=WORKER_M_S * n if n == 1 else None)  # fmt: skip
            table.add(f"{n} worker{'s' * (n > 1)}, of each per CPU second", per_cpu, "M words/s",
                      f"published: {WORKER_M_S:g}")  # fmt: skip
    table.curves.append(Curve("freerun, wall time", list(counts), walls))
    table.curves.append(Curve("freerun, CPU × workers", list(counts), ideal))
    published = [WORKER_M_S * n for n in counts]
    table.curves.append(Curve("published", list(counts), published, dashed=True))


def _per_slice() -> int:
    return LANE.words * LANE.sources


def _worked(address: str, folder: Path, n: int, slices: int, builder: str) -> tuple[float, float]:
    """Million words/s while all `n` lanes work, by the wall and by the CPU of a lane."""
    with stage(address, folder, LANE, slices, builder) as here:
        feeder = Feeder(address, here.topics, LANE, slices, pace=0.0)
        feeder.start()
        feeder.join(PATIENCE_S)
        shares = [range(PARTITIONS)[i::n] for i in range(n)]
        lanes = [here.lane(_of(slices, share), PATIENCE_S, share) for share in shares]
        try:
            for lane in lanes:
                wait_ready(lane)
            looks = [end_of(lane, PATIENCE_S)["looks"] for lane in lanes]
        finally:
            for lane in lanes:
                if lane.poll() is None:
                    lane.kill()
                    lane.wait()
    begin = max(some[0][0] for some in looks)
    end = min(some[-1][0] for some in looks)
    words = used = 0.0
    for some in looks:
        inside = [look for look in some if begin <= look[0] <= end]
        if len(inside) < 2:
            raise EnvironmentProblem("the backlog was worked off too soon: ask for more --seconds")
        words += inside[-1][1] - inside[0][1]
        used += inside[-1][2] - inside[0][2]
    return words / (end - begin) / 1e6, words / used / 1e6


def _of(slices: int, share: Sequence[int]) -> int:
    """How many of the slices lie in these partitions."""
    return sum(partition(LANE.first + k, PARTITIONS) in share for k in range(slices))
