"""[[detector]], [calibration] and [mask]: what the channels of the sources are."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from freerun.config.base import BOARDS, RAW_CHANNELS, Channels, Id, Section, problem
from freerun.config.units import Mm, Ps

LAYERS, CELLS = 4, 16

Fpga = Annotated[int, Field(ge=0, lt=BOARDS)]


class Position(Section):
    """Where a chamber stands: `x` (across its wires) and `z` of its middle, and its turn."""

    x: Mm = 0.0
    z: Mm = 0.0
    rotate: Literal[0, 90] = Field(default=0, description="degrees about the beam; 90: measures y")


def _some(channels: list[int]) -> list[int]:
    if not channels:
        raise problem("there must be at least one channel")
    return channels


SomeChannels = Annotated[Channels, AfterValidator(_some)]


def _chamber(channels: list[int]) -> list[int]:
    first = channels[0]
    if first % LAYERS or channels[-1] >= first + LAYERS * CELLS:
        raise problem(
            f"a drift chamber has at most {LAYERS * CELLS} channels in one block that begins "
            f"at a multiple of {LAYERS}, got {first}-{channels[-1]}"
        )
    return channels


def _permutation(layers: list[int]) -> list[int]:
    if sorted(layers) != [1, 2, 3, 4]:
        raise problem(f"{layers}: must name each of the layers 1, 2, 3, 4 once, in the order of "
                      f"raw channel % 4")  # fmt: skip
    return layers


class DriftChamber(Section):
    """Four layers of 16 cells; wire = (raw channel − first channel) // 4."""

    id: Id
    kind: Literal["drift_chamber"]
    source: str
    fpga: Fpga | None = None
    channels: Annotated[SomeChannels, AfterValidator(_chamber)]
    layer_of: Annotated[list[int], AfterValidator(_permutation)] = Field(
        default=[4, 2, 3, 1], description="of raw channel % 4"
    )
    shift: list[float] = Field(
        default=[0.5, 0.0, 0.5, 0.0], min_length=4, max_length=4, description="of layers 1-4, cells"
    )
    cell: list[Annotated[Mm, Field(gt=0)]] = Field(
        default=[42.0, 13.0], min_length=2, max_length=2, description="width and height"
    )
    position: Position = Field(default=Position(), description="of the chamber's middle")


class Scintillator(Section):
    """Plastic counters read out by a TDC."""

    id: Id
    kind: Literal["scintillator"]
    source: str
    fpga: Fpga | None = None
    channels: SomeChannels


class Pmt(Section):
    """Photomultipliers on a digitizer."""

    id: Id
    kind: Literal["pmt"]
    source: str
    channels: SomeChannels

    @property
    def fpga(self) -> None:
        """Digitizers have one board per source."""
        return None


Detector = Annotated[DriftChamber | Scintillator | Pmt, Field(discriminator="kind")]


def _offsets(value: object) -> Any:
    """TOML keys are text; here they are raw channels."""
    if not isinstance(value, dict):
        return value
    out = {}
    for key, offset in value.items():
        if not (isinstance(key, int) or (key.isascii() and key.isdigit())):
            raise problem(f"{key!r} is no channel number")
        if not 0 <= int(key) < RAW_CHANNELS:
            raise problem(f"channel {key}: a board has channels 0-511")
        out[int(key)] = offset
    return out


class DetectorCalibration(Section):
    """Constants of one detector; what does not apply to its kind is refused."""

    drift_time: Annotated[Ps, Field(gt=0, le=10_000_000)] | None = Field(
        default=None, description="longest drift, over half a cell (drift chambers; 390 ns)"
    )
    trigger_latency: Annotated[Ps, Field(ge=0)] | None = Field(
        default=None, description="trigger words name t0 plus this (drift chambers)"
    )
    t0_correction: Annotated[Ps, Field(gt=-(2**30), lt=2**30)] | None = Field(
        default=None, description="added to every drift time (drift chambers)"
    )
    delay: Annotated[Ps, Field(ge=0, le=10_000_000)] | None = Field(
        default=None, description="it fires at t0 plus this (scintillators; 95 ns)"
    )
    offsets: Annotated[
        dict[int, Annotated[Ps, Field(gt=-(2**30), lt=2**30)]], BeforeValidator(_offsets)
    ] = Field(default={}, description="raw channel → time added to its hits")


class Calibration(Section):
    """[calibration.detector.<id>]: constants, written into the file itself."""

    detector: dict[str, DetectorCalibration] = Field(default={})


class Mask(Section):
    """Channels of one source that are read and counted, but take no part in events."""

    channels: Channels
    fpga: Fpga | None = Field(default=None, description='board, where the source has fpga = "all"')
    reason: str = ""
    by: str = ""
