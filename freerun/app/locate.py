"""Which installation a command means: configuration, data folder, broker."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from freerun import config
from freerun.config import Bench
from freerun.errors import ConfigError, EnvironmentProblem
from freerun.topics import Topics

DEFAULT = Path("configs/bench.toml")


def bench_file(told: Path | None) -> Path:
    """The configuration to use: as told, ./bench.toml, ./configs/bench.toml, or the shipped one."""
    if told is not None:
        return told
    shipped = Path(__file__).resolve().parents[2] / DEFAULT
    for path in (Path("bench.toml"), DEFAULT, shipped):
        if path.is_file():
            return path
    raise ConfigError("no configuration is named and there is no bench.toml here: give its path")


@dataclass(frozen=True)
class Place:
    """A bench and where it runs."""

    bench: Bench
    path: Path
    cluster: Path | None
    data: Path
    topics: Topics

    def broker(self) -> str:
        """Address of the broker that runs for it; raises `EnvironmentProblem` if none does."""
        from freerun import broker

        other = os.environ.get("FREERUN_KAFKA") or self.bench.cluster.kafka
        if other:
            return other
        state = broker.status(self.data / ".freerun")
        if state.running and state.address:
            return state.address
        raise EnvironmentProblem(
            f"no broker runs for {self.data}: start the bench with 'freerun up', or set "
            "FREERUN_KAFKA=host:port"
        )


def place(bench: Path | None, data: Path | None, cluster: Path | None = None) -> Place:
    """Read the configuration of an installation, completely checked."""
    path = bench_file(bench)
    told = config.check(path, cluster)
    return Place(
        told, path, cluster, data.absolute() if data else told.data_dir, Topics(told.system.name)
    )
