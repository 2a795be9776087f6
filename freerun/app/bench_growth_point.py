"""One point of the grid of `freerun bench growth`: a live lane, fed at a steady pace."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from freerun import config
from freerun.app.bench_words import CHANNELS, FORMAT, steady
from freerun.errors import EnvironmentProblem
from freerun.kafka import Broker, Outgoing, Sender
from freerun.rows import codec
from freerun.service import MALLOC, Service
from freerun.slices import partition
from freerun.topics import Topics, ensure
from freerun.wire import CLOSE, PART_BYTES, Part, checksum, part_headers, write_batch

WARM_S = 2.0
ROUNDS = 2  # each partition opens its transactions in its first slice: not what is measured
PATIENCE_S = 120.0
MANY = 200  # records on their way: enough to keep the broker busy
START_NS = 1_700_000_000 * 10**9  # any time
PUBLISHED = "published"  # the task of `bench kernel`, which is no builder
PER_BOARD = 4  # sources; the words have four bits for the board


@dataclass(frozen=True)
class Point:
    """A place in the grid."""

    partitions: int
    sources: int
    slice_ns: int
    words_per_s: float  # of all sources together

    @property
    def first(self) -> int:
        """The first slice."""
        return START_NS // self.slice_ns

    @property
    def words(self) -> int:
        """Of one source in one slice."""
        return max(1, round(self.words_per_s * self.slice_ns / 1e9 / self.sources))

    @property
    def parts(self) -> int:
        """Of one source in one slice."""
        return -(-8 * self.words // PART_BYTES)


@dataclass(frozen=True)
class Cost:
    """What was done in the time measured, and the CPU that it took (s)."""

    point: Point
    words: int
    parts: int
    slices: int
    seconds: float
    lane: float
    broker: float
    behind: float  # s until the last slice was out, after it had been sent


def bench_of(point: Point, name: str, builder: str) -> dict[str, Any]:
    """A configuration: sources of 128 channels each, no two alike; one pipeline."""
    ids = [f"s{i}" for i in range(point.sources)]
    channels = [f"{c}-{c + CHANNELS - 1}" for _, c in map(_where, range(point.sources))]
    length = point.slice_ns / 1e6
    return {
        "schema": 1,
        "system": {"name": name},
        "time": {"reference": ids[0], "slice": f"{length:g} ms", "guard": "5 us"},
        "source": [{"id": i, "driver": "replay", "file": "none.dat", "format": FORMAT.name,
                    "fpga": _where(n)[0]} for n, i in enumerate(ids)],
        "detector": [{"id": f"d_{i}", "kind": "scintillator", "source": i, "channels": c}
                     for i, c in zip(ids, channels, strict=True)],
        "pipeline": [{"id": "bench", "builder": "gaps" if builder == PUBLISHED else builder}],
    }  # fmt: skip


def _where(source: int) -> tuple[int, int]:
    """Board and first channel of a source."""
    return source // PER_BOARD, source % PER_BOARD * CHANNELS


class Feeder(threading.Thread):
    """Sends slice after slice of all sources at the pace of time.

    Each slice holds the same words (hits, no trigger words): its anchor says where tick 0 is.
    """

    def __init__(
        self, address: str, topics: Topics, point: Point, slices: int,
        at: Callable[[int], None] = lambda _n: None, pace: float = 1.0,
    ) -> None:  # fmt: skip
        """`at` is called before each slice; `pace` times real time (0: as fast as it goes)."""
        super().__init__(daemon=True)
        self._topics, self._point, self._slices, self._at = topics, point, slices, at
        self._pace = pace
        self.refused: list[str] = []
        self._sender = Sender(address, "bench.feeder", self._done)
        per_s = point.words_per_s / point.sources
        self._bodies = []  # by source, by part
        for i in range(point.sources):
            board, channel = _where(i)
            words = steady(point.words, per_s, board=board, channel0=channel)
            size = -(-len(words) // point.parts)
            pieces = [words[n * size : (n + 1) * size] for n in range(point.parts)]
            bodies = [write_batch(codec(FORMAT.name).batch(piece)) for piece in pieces]
            self._bodies.append(
                [(len(p), b, checksum(b)) for p, b in zip(pieces, bodies, strict=True)]
            )

    def _done(self, _token: object, error: str | None) -> None:
        if error is not None:
            self.refused.append(error)

    def run(self) -> None:
        begun = time.monotonic()
        for n in range(self._slices):
            due = begun + (n + 1) * self._point.slice_ns / 1e9 * self._pace
            while (left := due - time.monotonic()) > 0 or len(self._sender) > MANY:
                self._sender.poll(min(max(left, 0.001), 0.05))
            self._at(n)
            self._send(n)
        self._sender.flush(30)
        self.sent = time.monotonic()

    def _send(self, n: int) -> None:
        point, k = self._point, self._point.first + n
        where = partition(k, point.partitions)
        close = {"parts": point.parts, "rows": point.words, "read": point.words * (n + 1), "sum": 0}
        for i in range(point.sources):
            for number, (rows, body, crc) in enumerate(self._bodies[i]):
                last = number == point.parts - 1
                part = Part(
                    f"s{i}", 1, k, number, CLOSE if last else 0, FORMAT.name, 0,
                    FORMAT.tick.numerator, FORMAT.tick.denominator, k * point.slice_ns, rows,
                    crc=crc, close=close if last else None,
                )  # fmt: skip
                topic = self._topics.raw(f"s{i}")
                record = Outgoing(topic, where, body, part_headers(part))
                while not self._sender.send(record, None):
                    self._sender.poll(0.01)
        self._sender.poll(0)


def cpu(pid: int | None) -> float:
    """CPU seconds of a process so far; 0 without one."""
    if pid is None or not psutil.pid_exists(pid):
        return 0.0
    used = psutil.Process(pid).cpu_times()
    return used.user + used.system


@dataclass
class Stage:
    """Topics, plan and configuration of one point; a lane is a process of its own."""

    topics: Topics
    spec: dict[str, Any]
    published: bool

    def lane(self, slices: int, seconds: float, partitions: Sequence[int]) -> subprocess.Popen[str]:
        """Start a lane that owns `partitions` and ends after so many slices."""
        told = {"spec": self.spec, "slices": slices, "seconds": seconds,
                "partitions": list(partitions), "published": self.published}  # fmt: skip
        return subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.bench_growth_work", json.dumps(told)],
            env=os.environ | MALLOC, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip


@contextmanager
def stage(address: str, folder: Path, point: Point, slices: int, builder: str) -> Iterator[Stage]:
    """A run of `slices` on the clock of the data; its topics are deleted at the end."""
    name = f"bench_{uuid.uuid4().hex[:8]}"
    paths = folder / f"{name}.toml", folder / f"{name}.cluster.toml"
    raw = bench_of(point, name, builder)
    paths[0].write_text(config.from_dict(raw).resolved_toml())
    paths[1].write_text(f"[cluster]\npartitions = {point.partitions}\n")
    bench = config.load(*paths)
    topics = Topics(name)
    wanted = topics.all([s.id for s in bench.sources], ["bench"], point.partitions)
    admin = Broker(address)
    try:
        ensure(admin, wanted)
        args = Namespace(bench=paths[0], cluster=paths[1])
        service = Service(bench, address, folder, topics, args)
        made = importlib.import_module("controllers.replay_control").ReplayControl
        control = made(service, 1, point.first, point.first + slices - 1, {"common": 0})
        try:
            spec = importlib.import_module("processors.setup").spec_of(
                *paths, bench, address, "bench", generation=0
            )
            yield Stage(topics, spec, builder == PUBLISHED)
        finally:
            control.close()
    finally:
        admin.delete([n for n in admin.partitions() if n.startswith(f"{name}.")])


def end_of(lane: subprocess.Popen[str], patience: float) -> dict[str, Any]:
    """What a lane says at its end."""
    out, errors = lane.communicate(timeout=patience)
    if lane.returncode != 0:
        raise EnvironmentProblem(f"a lane failed: {errors[-400:]}")
    told: dict[str, Any] = json.loads(out.splitlines()[-1])
    return told


def wait_ready(lane: subprocess.Popen[str]) -> None:
    """Until its kernels are there and it has taken over."""
    assert lane.stdout is not None and lane.stderr is not None
    if lane.stdout.readline().strip() != "ready":
        raise EnvironmentProblem(f"a lane did not start: {lane.stderr.read()[-400:]}")


def measure_point(
    address: str, broker_pid: int | None, folder: Path, point: Point, seconds: float, builder: str
) -> Cost:
    """Run one lane over `seconds` of live data."""
    length = point.slice_ns / 1e9
    rounds = ROUNDS * point.partitions
    warm, some = max(rounds, round(WARM_S / length)), max(rounds, round(seconds / length))
    total = warm + some + 1
    looks: dict[int, tuple[float, float, float]] = {}
    with stage(address, folder, point, total, builder) as here:
        lane = here.lane(total, total * length + 20, range(point.partitions))

        def look(n: int) -> None:
            if n in (warm, warm + some):
                looks[n] = time.monotonic(), cpu(lane.pid), cpu(broker_pid)

        try:
            wait_ready(lane)
            feeder = Feeder(address, here.topics, point, total, look)
            feeder.start()
            done = end_of(lane, total * length + PATIENCE_S)["slices"]
            finished = time.monotonic()
            feeder.join(PATIENCE_S)
        finally:
            if lane.poll() is None:
                lane.kill()
                lane.wait()
    if feeder.refused:
        raise EnvironmentProblem(f"the broker refused words: {feeder.refused[0]}")
    (t0, lane0, broker0), (t1, lane1, broker1) = looks[warm], looks[warm + some]
    behind = finished - feeder.sent if done >= total else float("inf")
    per_slice = point.sources * point.parts
    return Cost(point, some * point.words * point.sources, some * per_slice, some, t1 - t0,
                lane1 - lane0, broker1 - broker0, behind)  # fmt: skip
