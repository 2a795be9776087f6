"""The whole bench: what `load` returns and every service works from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BeforeValidator, Field, PrivateAttr, model_validator

from freerun.config.base import Id, Section, problem, without_none
from freerun.config.detectors import Calibration, Detector, Mask
from freerun.config.pipelines import Pipeline, RunType, Write
from freerun.config.simulation import Simulation
from freerun.config.sources import AnyNs, PositiveNs, Source
from freerun.config.units import NANOSECONDS, Bytes
from freerun.errors import ConfigError


class System(Section):
    """[system]: the name of the installation and where its data go."""

    name: Id
    description: str = ""
    contact: str = ""
    data: str | None = Field(
        default=None, description="folder for the runs; ./data/<name> if left out"
    )


class Time(Section):
    """[time]: the experiment's clock and how its time is cut."""

    reference: str = Field(description="source whose clock is the experiment's")
    slice: PositiveNs = 100_000_000
    guard: AnyNs = Field(default=5_000, description="neighbourhood given to event builders")
    give_up_after: PositiveNs = Field(
        default=5_000_000_000, description="then go on without a silent source, and say so"
    )

    @model_validator(mode="after")
    def _guard_below_slice(self) -> Time:
        if self.guard >= self.slice:
            raise problem(
                f"guard ({NANOSECONDS.text(self.guard)}) must be shorter than slice "
                f"({NANOSECONDS.text(self.slice)})"
            )
        return self


class Timeouts(Section):
    """[timeouts]: after how long something counts as gone. The defaults are for production;
    shorter ones are for trying out what happens then (`freerun selftest`)."""

    transaction: PositiveNs = Field(
        default=15_000_000_000, description="an open transaction is aborted by the broker"
    )
    heartbeat: PositiveNs = Field(
        default=1_000_000_000, description="between two; a source is LOST after three of control's"
    )
    worker: PositiveNs = Field(
        default=30_000_000_000, description="a silent Dask worker is removed by the scheduler"
    )
    lane: PositiveNs = Field(
        default=5_000_000_000, description="beyond its second, until a lane's task is mapped away"
    )

    def seconds(self, name: str) -> float:
        """One of them in s."""
        return float(getattr(self, name)) / 1e9


class S3(Section):
    """[s3]: a second place for finished files. The keys themselves stand in the environment."""

    endpoint: str | None = Field(default=None, description="URL; Amazon's own if left out")
    bucket: str = Field(min_length=1)
    region: str | None = None
    access_key_env: str = Field(default="AWS_ACCESS_KEY_ID", min_length=1)
    secret_key_env: str = Field(default="AWS_SECRET_ACCESS_KEY", min_length=1)


class Cluster(Section):
    """[cluster], in a file of its own: how much runs where. The bench works without."""

    partitions: Annotated[int, Field(ge=1, le=1024)] = 8
    workers: Annotated[int, Field(ge=1, le=1024)] = 1
    kafka: Annotated[str, Field(pattern=r"^[^\s,]+:\d+(,[^\s,]+:\d+)*$")] | None = Field(
        default=None,
        description="host:port of a broker that is there; our own local one if left out",
    )
    heap: Annotated[Bytes, Field(ge=128_000_000)] = Field(
        default=512_000_000, description="heap of the local broker"
    )


def _as_list(value: object) -> object:
    """One mask of a source may stand without the brackets of a list."""
    return [value] if isinstance(value, dict) else value


class Bench(Section):
    """A checked configuration. Times are integers: ns, or ps where a field says so."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    system: System
    time: Time
    sources: Annotated[list[Source], Field(alias="source", min_length=1)]
    detectors: list[Detector] = Field(default=[], alias="detector")
    calibration: Calibration = Calibration()
    masks: dict[str, Annotated[list[Mask], BeforeValidator(_as_list)]] = Field(
        default={}, alias="mask"
    )
    pipelines: list[Pipeline] = Field(default=[], alias="pipeline")
    writes: list[Write] = Field(default=[], alias="write")
    run_types: dict[Id, RunType] = Field(default={}, alias="run_type")
    s3: S3 | None = None
    timeouts: Timeouts = Timeouts()
    simulation: Simulation | None = None

    _cluster: Cluster = PrivateAttr(default=Cluster())
    _path: Path | None = PrivateAttr(default=None)
    _text: str = PrivateAttr(default="")

    @property
    def cluster(self) -> Cluster:
        """Scale: from the cluster file, or its defaults."""
        return self._cluster

    @property
    def path(self) -> Path | None:
        """The file this came from."""
        return self._path

    @property
    def folder(self) -> Path:
        """Where a plug-in beside the configuration is looked for."""
        return self._path.parent if self._path else Path.cwd()

    @property
    def text(self) -> str:
        """What the user wrote (bench.toml of a run's folder)."""
        return self._text

    @property
    def data_dir(self) -> Path:
        """Folder of the runs, absolute; a relative one is below the current folder."""
        told = self.system.data or f"data/{self.system.name}"
        return Path(told).expanduser().absolute()

    def source(self, name: str) -> Source:
        """The source called `name`; `ConfigError` if there is none."""
        found: Source = _named("source", self.sources, name)
        return found

    def detector(self, name: str) -> Detector:
        """The detector called `name`; `ConfigError` if there is none."""
        found: Detector = _named("detector", self.detectors, name)
        return found

    def pipeline(self, name: str) -> Pipeline:
        """The pipeline called `name`; `ConfigError` if there is none."""
        found: Pipeline = _named("pipeline", self.pipelines, name)
        return found

    def used(self, pipeline: Pipeline) -> list[str]:
        """Ids of the detectors that take part in `pipeline`, as ordered there."""
        return [d.id for d in self.detectors] if pipeline.use is None else list(pipeline.use)

    def sources_of(self, pipeline: Pipeline) -> list[str]:
        """Ids of the sources that `pipeline` reads, in the order of the file."""
        used = set(self.used(pipeline))
        read = {d.source for d in self.detectors if d.id in used}
        return [s.id for s in self.sources if s.id in read]

    def resolved(self) -> dict[str, Any]:
        """Everything with its defaults, as JSON types in the shape of the file."""
        table: dict[str, Any] = without_none(self.model_dump(mode="json", by_alias=True))
        return table

    def resolved_toml(self) -> str:
        """The same as TOML (bench.resolved.toml); it reads back with the same meaning."""
        return tomli_w.dumps(self.resolved())

    def digest(self) -> str:
        """SHA-256 (hex) of the resolved configuration: equal for equal meaning."""
        return hashlib.sha256(self.resolved_toml().encode()).hexdigest()


def _named(kind: str, things: Sequence[Any], name: str) -> Any:
    for thing in things:
        if thing.id == name:
            return thing
    known = ", ".join(t.id for t in things) or "none"
    raise ConfigError(f"there is no {kind} {name!r} in the configuration: known are {known}")
