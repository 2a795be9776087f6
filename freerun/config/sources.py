"""[[source]]: who sends data, on which clock, and how far out of order."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, WithJsonSchema

from freerun.config.base import BOARDS, Channels, Id, Section, problem
from freerun.config.pulsers import Pulser
from freerun.config.units import NANOSECONDS, Ns, Ps

WORD_DRIVERS = ("simulate", "replay")
"""Drivers of ours that give Padova words: their format and boards are told, never guessed."""

PositiveNs = Annotated[Ns, Field(gt=0)]
AnyNs = Annotated[Ns, Field(ge=0)]


class ClockSection(Section):
    """Which clock a source's ticks count, and where its zero lies in it."""

    kind: Literal["common", "pps", "ptp", "free"] = "common"
    offset: Ps = Field(default=0, description="added to every time of this source")


class Late(Section):
    """How far rows of one kind may come after later ones of the same kind and board."""

    hit: AnyNs = 3_000
    trigger: AnyNs = 20_000
    marker: AnyNs = 20_000


class Sanity(Section):
    """How far from now a time may be; beyond it is impossible and goes into quarantine."""

    hit: PositiveNs = 10_000_000_000
    trigger: PositiveNs = 10_000_000_000


def _one_for_all(value: object) -> object:
    """`sanity = "10 s"` means that for every kind of row."""
    if isinstance(value, str):
        try:
            NANOSECONDS.whole(value)
        except ValueError as error:
            raise problem(str(error)) from None
        return dict.fromkeys(Sanity.model_fields, value)
    return value


def _format(name: str) -> str:
    from freerun.errors import ConfigError
    from freerun.words import get_format

    try:
        return get_format(name).name
    except ConfigError as error:
        raise problem(str(error)) from None


def _fpga(value: object) -> object:
    if value == "all" or (type(value) is int and 0 <= value < BOARDS):
        return value
    raise problem(f'{value!r} is no board: a number 0-15, or "all" for several in one stream')


class Source(Section):
    """One readout unit. Keys that are not listed here belong to its driver (see `options`)."""

    model_config = ConfigDict(extra="allow")

    id: Id
    driver: str = Field(min_length=1, description="a driver's name, or module:Class")
    format: Annotated[str, AfterValidator(_format)] | None = None
    fpga: Annotated[
        int | str,
        BeforeValidator(_fpga),
        WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0, "maximum": 15},
                                  {"const": "all"}]}),
    ] | None = None  # fmt: skip
    clock: ClockSection = Field(default=ClockSection(), description="what its ticks count")
    late: Late = Late()
    sanity: Annotated[Sanity, BeforeValidator(_one_for_all)] = Sanity()
    flush: PositiveNs = Field(
        default=100_000_000, description="the device gives what it has at least this often"
    )
    critical: bool = Field(default=True, description="without it the run is stopped")
    markers: Channels = Field(default=[], description="raw channels that are no detectors")
    pulser: Pulser | None = Field(
        default=None, description="a channel of known rate: counted again in the files"
    )

    @property
    def options(self) -> dict[str, Any]:
        """The driver's own keys, as written; its `Config` checks them (freerun.plugins)."""
        return dict(self.model_extra or {})

    @property
    def domain(self) -> str:
        """Name of the clock domain, which shares one anchor: a free clock is its own."""
        return self.id if self.clock.kind == "free" else self.clock.kind

    @property
    def all_boards(self) -> bool:
        """Native channels of this source are (fpga << 9) | raw, not just raw."""
        return self.fpga == "all"

    @property
    def pulser_channel(self) -> int | None:
        """Native channel of its pulser; None if it has none."""
        if self.pulser is None:
            return None
        return ((self.pulser.fpga or 0) << 9 if self.all_boards else 0) | self.pulser.channel
