"""The bench of the self-test: the demonstration's, with short time-outs, behind a proxy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from freerun import config
from freerun.app.installation import Installation
from freerun.app.locate import bench_file
from freerun.app.proxy import Proxy
from freerun.broker import Broker, SecondListener, free_port
from freerun.broker import start as start_broker
from freerun.config.models import S3, Timeouts
from freerun.config.pipelines import Roll

S = 1_000_000_000
BUCKET = "selftest"
KEYS = "FREERUN_SELFTEST_KEY"
LOST = "tdc1"  # the source that faults are made with: the run goes on without it
WORKERS = 2


@dataclass(frozen=True)
class Patience:
    """The time-outs of a self-test, and how long its faults last; all in s."""

    transaction: float
    heartbeat: float
    worker: float
    lane: float
    give_up: float
    stop: float  # of a process that is stopped: longer than all of the above
    outage: float

    @property
    def timeouts(self) -> Timeouts:
        names = ("transaction", "heartbeat", "worker", "lane")
        return Timeouts.model_validate({name: f"{getattr(self, name)} s" for name in names})


SHORT = Patience(3, 0.3, 4, 2, 2, 4.5, 10)
FULL = Patience(15, 1, 30, 5, 5, 35, 60)


def write_bench(folder: Path, patience: Patience, muons: float, s3_port: int) -> tuple[Path, Path]:
    """bench.toml and cluster.toml of the self-test in `folder`."""
    told = config.load(bench_file(None))
    assert told.simulation is not None
    simulation = told.simulation.model_copy(
        update={"muon_rate": muons, "pmt_acceptance": 0.05, "noise": 20.0}
    )
    sources = [s.model_copy(update={"critical": s.id != LOST and s.critical}) for s in told.sources]
    roll = Roll.model_validate({"every": "5 s"})
    writes = [w.model_copy(update={"roll": roll}) for w in told.writes]
    bench = told.model_copy(update={
        "simulation": simulation, "sources": sources, "writes": writes,
        "system": told.system.model_copy(update={"name": "selftest"}),
        "time": told.time.model_copy(update={"give_up_after": int(patience.give_up * S)}),
        "timeouts": patience.timeouts,
        "s3": S3(endpoint=f"http://127.0.0.1:{s3_port}", bucket=BUCKET, region="us-east-1",
                 access_key_env=KEYS, secret_key_env=KEYS),
    })  # fmt: skip
    paths = folder / "bench.toml", folder / "cluster.toml"
    paths[0].write_text(bench.resolved_toml())
    paths[1].write_text(f"[cluster]\nworkers = {WORKERS}\n")
    return paths


class Behind(Installation):
    """A bench whose services reach the broker through a proxy; we ourselves reach it directly."""

    proxy: Proxy | None = None

    def start_broker(self) -> Broker:
        if self.proxy is None:
            self.proxy = Proxy(free_port())
        way = SecondListener(self.proxy.target, self.proxy.port)
        heap = self.bench.cluster.heap // 1_000_000
        return start_broker(self.hidden, heap_mb=heap, second=way)

    @property
    def service_address(self) -> str:
        return self.proxy.address if self.proxy is not None else self.address

    @property
    def broker_pid(self) -> int:
        assert self._broker is not None
        return self._broker.pid

    def end(self) -> None:
        super().end()
        if self.proxy is not None:
            self.proxy.close()
