"""[[pipeline]], [[write]] and [run_type.*]: what to build, what to keep, which kinds of run."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from freerun.config.base import Id, Section
from freerun.config.sources import PositiveNs
from freerun.config.units import Bytes


class Pipeline(Section):
    """One event builder. Keys that are not listed here belong to the builder (see `options`)."""

    model_config = ConfigDict(extra="allow")

    id: Id
    builder: str = Field(min_length=1, description="a builder's name, or module:Class")
    use: Annotated[list[str], Field(min_length=1)] | None = Field(
        default=None, description="detectors that take part; all if left out"
    )

    @property
    def options(self) -> dict[str, Any]:
        """The builder's own keys, as written; its `Config` checks them (freerun.plugins)."""
        return dict(self.model_extra or {})


class Roll(Section):
    """When a new file begins: after the whole slice in which one of these is reached."""

    size: Annotated[Bytes, Field(ge=1_000_000)] | None = None
    events: Annotated[int, Field(gt=0)] | None = None
    every: PositiveNs | None = Field(default=None, description="experiment time")


class Write(Section):
    """Files of some pipelines' events."""

    what: Annotated[list[str], Field(min_length=1)]
    format: Literal["root"] = "root"
    hits: Literal["unassigned", "all", "none"] = Field(
        default="unassigned", description="together with the events, `unassigned` is everything"
    )
    roll: Roll = Field(default_factory=lambda: Roll.model_validate({"size": "1.5 GB"}))


class StopAfter(Section):
    """What ends a run by itself."""

    time: PositiveNs | None = None
    events: Annotated[int, Field(gt=0)] | None = None


class RunType(Section):
    """One kind of run, chosen at its start."""

    ask: dict[Id, Literal["text", "int", "float", "bool"]] = Field(
        default={}, description="what the shifter is asked at the start"
    )
    stop_after: StopAfter = StopAfter()
    repeat: bool = Field(default=False, description="the next run of this type starts at once")
    writers: list[str] | None = Field(
        default=None, description="pipelines to write; all if left out"
    )
