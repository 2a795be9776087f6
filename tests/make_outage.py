"""A live run whose sources reach the broker through a proxy: rows that anybody can count again."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from make_replay import PATIENCE_S, Lab
from pydantic import PositiveInt

from controllers.plan_writer import PlanWriter, new_install
from freerun import config, kafka
from freerun.app.proxy import Proxy
from freerun.driver import Block, Driver, DriverConfig, DriverContext
from freerun.plan import HOST, Entry
from freerun.service import Service
from freerun.ticks import Clock
from freerun.topics import Topics, ensure
from freerun.words import BX_PER_ORBIT, TICK, TICKS_PER_BX, WRAP, encode_hit
from processors.setup import lane_of, spec_of
from producers import __main__ as producers
from producers.source import SourceProcess

ROOT = Path(__file__).resolve().parents[1]
MOST = 50_000  # rows a read


class TickerConfig(DriverConfig):
    """Keys of the ticker."""

    period: PositiveInt
    """Ticks between two rows."""


class Ticker(Driver):
    """A device that gives row n at tick n·period, for ever; which row it is stands in no list."""

    name = "ticker"
    Config = TickerConfig
    schema = "padova-v1"
    tick = TICK

    def __init__(self, config: TickerConfig, context: DriverContext) -> None:
        super().__init__(config, context)
        self._period, self._next = config.period, 0

    def open(self) -> None:
        """There is no device."""

    def _now(self) -> int:
        """The number of the row that comes next."""
        if self.context.anchor_ns is None:
            return self._next
        ns = self.context.now() - self.context.anchor_ns
        return int(ns / TICK / self._period)

    def skip(self) -> None:
        self._next = self._now()

    def read(self) -> Block | None:
        end = min(self._now(), self._next + MOST)
        if end <= self._next:
            time.sleep(0.005)
        rows = words(np.arange(self._next, max(end, self._next)), self._period)
        self._next = max(end, self._next)
        return Block(rows, self._next * self._period)


def words(n: npt.NDArray[np.int64], period: int) -> npt.NDArray[np.uint64]:
    """The rows of these numbers."""
    bunch, tdc = np.divmod(n * period % WRAP, TICKS_PER_BX)
    orbit, bx = np.divmod(bunch, BX_PER_ORBIT)
    return encode_hit(0, n % 64, orbit, bx, tdc + 1)


class Live(Lab):
    """Topics and a plan on host time; sources at one address, lanes and plan at another."""

    def __init__(
        self, direct: str, proxy: Proxy, system: str, folder: Path, periods: dict[str, int],
        partitions: int = 2,
    ) -> None:  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        self.paths = folder / "bench.toml", folder / "cluster.toml"
        self.paths[0].write_text(_bench(system, periods))
        self.paths[1].write_text(f"[cluster]\npartitions = {partitions}\n")
        (folder / "make_outage.py").symlink_to(Path(__file__))  # where drivers are looked for
        self.bench = config.load(*self.paths)
        self.address, self.P, self.proxy, self.periods = direct, partitions, proxy, periods
        self.topics = Topics(system)
        args = Namespace(bench=self.paths[0], cluster=self.paths[1])
        self.service = Service(self.bench, proxy.address, folder / "data", self.topics, args)
        names = self.topics.all(list(periods), ["gaps"], partitions)
        self._broker = kafka.Broker(direct)
        ensure(self._broker, names)
        self._names = [t.name for t in names]
        time_ = self.bench.time
        install = new_install(time_.slice, partitions, time_.guard)
        self._writer = PlanWriter(direct, self.topics, install)
        self.control = Namespace(_writer=self._writer, close=self._writer.close)  # type: ignore[assignment]
        self.anchor = time.time_ns() // 10**9 * 10**9 - 10**10
        self._stopping = threading.Event()
        self._threads = []
        self.failures = []
        self.processes: list[subprocess.Popen[bytes]] = []
        self.first, self.last = 0, 1 << 60
        self._done = 0
        self._lane = lane_of(spec_of(*self.paths, self.bench, direct, "gaps", 1))

    # ------------------------------------------------------------------ the run

    def begin(self) -> None:
        self.first = self._issue("start", 1)

    def end(self) -> None:
        self.last = self._issue("stop", None) - 1

    def _issue(self, kind: str, run: int | None) -> int:
        entry = self._writer.issue(
            Entry(
                0, self._writer.plan.earliest(time.time_ns()), kind, run, HOST,
                dict.fromkeys(self.periods, True), {"common": self.anchor},
            )
        )  # fmt: skip
        assert entry is not None
        return entry.from_slice

    def account(self) -> dict[str, Any]:
        self._writer.refresh()  # on host time a slice is decided by a plan read after it began
        return super().account()

    # ------------------------------------------------------------------ sources

    def source_in_thread(self, name: str) -> None:
        source = self.bench.source(name)
        process = SourceProcess(self.service, source, producers.make_driver(self.bench, source))
        self.in_thread(process.run, self.stopping)

    def source_process(self, name: str) -> subprocess.Popen[bytes]:
        argv = [
            sys.executable, "-m", "producers", "--bench", str(self.paths[0]),
            "--cluster", str(self.paths[1]), "--kafka", self.proxy.address,
            "--data", str(self.service.data), "--source", name,
        ]  # fmt: skip
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        log = (self.service.data.parent / f"{name}.log").open("ab")
        with log:
            process = subprocess.Popen(
                argv, env=os.environ | {"PYTHONPATH": path}, stdout=log, stderr=log
            )
        self.processes.append(process)
        return process

    def spool_files(self, name: str) -> list[Path]:
        return sorted((self.service.data / ".freerun" / "spool" / name).glob("*.spool"))

    def beats(self, name: str) -> list[dict[str, Any]]:
        """All heartbeats of a source that the compacted topic still has, in order."""
        records = self.records(self.topics.state, partitions=1)
        return [json.loads(r.value) for r in records if r.key == f"source/{name}".encode()]

    # ------------------------------------------------------------------ the lane

    def work(self, seconds: float) -> int:
        """The lane for a while; slices that are out so far."""
        try:
            out = self._lane.run(range(self.P), seconds)
        except kafka.BrokerTrouble:  # a loaded machine answered too late: the next task goes on
            return self._done
        self._done += out.slices
        assert not self.failures, self.failures[0]
        return self._done

    def work_until(self, what: str, done: Any) -> None:
        end = time.monotonic() + PATIENCE_S
        while not done():
            self.work(0.1)
            assert time.monotonic() < end, f"{what}: {self._done} slices out"

    def rows_of(self, name: str, first: int, last: int) -> npt.NDArray[np.uint64]:
        """The rows of the slices first … last."""
        clock, length = Clock(self.anchor, TICK.numerator, TICK.denominator), self.bench.time.slice
        period = self.periods[name]
        low, high = (-(-clock.tick_at(k * length) // period) for k in (first, last + 1))
        return words(np.arange(low, high), period)

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        for process in self.processes:
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._lane.close()
        super().close()


@contextlib.contextmanager
def live(*args: Any, **more: Any) -> Iterator[Live]:
    made = Live(*args, **more)
    try:
        yield made
    finally:
        made.proxy.mend()
        made.close()


def ticks(period_ns: float) -> int:
    return int(Fraction(period_ns) / TICK)


def _bench(system: str, periods: dict[str, int]) -> str:
    sources = "".join(
        f"""
[[source]]
id = "{name}"
driver = "make_outage:Ticker"
period = {period}
format = "padova-v1"
fpga = 0
clock = {{ kind = "common", offset = "0 ns" }}
flush = "100 ms"

[[detector]]
id = "d{name}"
kind = "scintillator"
source = "{name}"
channels = "0-63"
"""
        for name, period in periods.items()
    )
    return f"""schema = 1
[system]
name = "{system}"
[time]
reference = "{next(iter(periods))}"
slice = "100 ms"
guard = "10 us"
{sources}
[[pipeline]]
id = "gaps"
builder = "gaps"
use = [{", ".join(f'"d{name}"' for name in periods)}]
rows = "hits"
"""
