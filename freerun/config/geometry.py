"""Which detector, layer and cell a channel is, and where its wire hangs. Arrays for kernels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from freerun.builder import MARKER, PMT, SCINT, TUBE, UNKNOWN
from freerun.config.detectors import (
    CELLS,
    LAYERS,
    Detector,
    DetectorCalibration,
    DriftChamber,
    Scintillator,
)

if TYPE_CHECKING:
    from freerun.config.models import Bench
    from freerun.config.pipelines import Pipeline
    from freerun.config.sources import Source

NATIVE = 8192
"""Native channels of a source: raw, or (fpga << 9) | raw where it reads all boards."""
NOBODY = 255
TRIGGER_CHAMBERS = 32
DRIFT_TIME_PS = 390_000
TRIGGER_LATENCY_PS = 500_000
SCINT_DELAY_PS = 95_000
ROLES = {"drift_chamber": TUBE, "scintillator": SCINT, "pmt": PMT}

F8 = npt.NDArray[np.float64]
U8 = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ChannelMap:
    """One source's channels; every array is indexed by native channel, length `NATIVE`."""

    source: str
    det: U8
    """Index in the configuration's list of detectors; 255 none."""
    layer: U8
    """1…4; 255 none."""
    cell: U8
    """Wire, 0…15; 255 none."""
    role: U8
    """UNKNOWN, TUBE, SCINT, MARKER or PMT (freerun.builder)."""
    masked: U8
    """1: read and counted, but in no event."""
    offset_ps: npt.NDArray[np.int32]
    """Added to the times of this channel."""
    trigger_det: U8
    """Trigger word → detector, by chamber = 2·board + (channel >> 3), length 32; 255 none."""


@dataclass(frozen=True)
class Chamber:
    """One drift chamber. Arrays are indexed by layer 1…4; place 0 is NaN."""

    det_index: int
    id: str
    z_mm: float
    """Of its middle."""
    rotated: bool
    """Measures y instead of x."""
    wire_x: F8
    """[layer, cell] → mm across the wires, from the beam axis; float64[5, 16]."""
    layer_z: F8
    """[layer] → mm from the chamber's middle; float64[5]."""
    cell_mm: tuple[float, float]
    """Width and height of a cell."""
    v_mm_per_ns: float
    t_max_ps: int
    """Longest drift, over half a cell."""
    trigger_latency_ps: int
    """A trigger word names the bunch crossing that holds t0 plus this."""
    t0_correction_ps: int
    """Added to every drift time: drift = t_hit − t0 + this."""
    calibrated: bool
    """False: none of these constants is the chamber's own."""


@dataclass(frozen=True)
class Counter:
    """One scintillator."""

    det_index: int
    id: str
    delay_ps: int
    """It fires at t0 plus this."""


@dataclass(frozen=True)
class Place:
    """One detector: its id, its kind (drift_chamber, scintillator, pmt) and its source."""

    id: str
    kind: str
    source: str


@dataclass(frozen=True)
class Geometry:
    """All detectors, in the order of the configuration; chambers and scintillators only those
    that take part."""

    detectors: tuple[Place, ...]
    maps: dict[str, ChannelMap]
    """Source → its channels."""
    chambers: tuple[Chamber, ...]
    scintillators: tuple[Counter, ...]

    @classmethod
    def of(cls, bench: Bench, pipeline: Pipeline | None = None) -> Geometry:
        """The geometry of a bench; channels that `pipeline` does not use are masked."""
        constants = bench.calibration.detector
        used = {d.id for d in bench.detectors} if pipeline is None else set(bench.used(pipeline))
        return cls(
            detectors=tuple(Place(d.id, d.kind, d.source) for d in bench.detectors),
            maps={source.id: _map(bench, source, used) for source in bench.sources},
            chambers=tuple(
                _chamber(i, d, constants.get(d.id))
                for i, d in enumerate(bench.detectors)
                if isinstance(d, DriftChamber) and d.id in used
            ),
            scintillators=tuple(
                _counter(i, d.id, constants.get(d.id))
                for i, d in enumerate(bench.detectors)
                if isinstance(d, Scintillator) and d.id in used
            ),
        )

    @cached_property
    def index(self) -> dict[str, int]:
        """Id of a detector → its index."""
        return {place.id: i for i, place in enumerate(self.detectors)}

    @cached_property
    def chamber_of_trigger(self) -> U8:
        """`trigger_det` of all sources together, for set-ups whose boards have unique numbers."""
        out = np.full(TRIGGER_CHAMBERS, NOBODY, np.uint8)
        for channels in self.maps.values():
            known = channels.trigger_det != NOBODY
            out[known] = channels.trigger_det[known]
        return out


def layer_and_cell(d: DriftChamber, raw: npt.ArrayLike) -> tuple[U8, U8]:
    """Layers (1…4) and cells (0…15) of raw channels of this chamber."""
    channels = np.asarray(raw, np.int64)
    layers = np.array(d.layer_of, np.uint8)[channels % LAYERS]
    return layers, ((channels - d.channels[0]) // LAYERS).astype(np.uint8)


def _chamber(i: int, d: DriftChamber, own: DetectorCalibration | None) -> Chamber:
    width, height = d.cell
    shift = np.array([np.nan, *d.shift], np.float64)
    cells = np.arange(CELLS, dtype=np.float64) + 0.5 - CELLS / 2
    wire_x: F8 = d.position.x + (cells + shift[:, None]) * width
    layers = np.array([np.nan, *range(1, LAYERS + 1)], np.float64)
    layer_z: F8 = (layers - (LAYERS + 1) / 2) * height
    t_max = (own.drift_time if own else None) or DRIFT_TIME_PS
    latency = own.trigger_latency if own else None
    return Chamber(
        det_index=i,
        id=d.id,
        z_mm=d.position.z,
        rotated=d.position.rotate == 90,
        wire_x=wire_x,
        layer_z=layer_z,
        cell_mm=(width, height),
        v_mm_per_ns=width / 2 / (t_max / 1000),
        t_max_ps=t_max,
        trigger_latency_ps=TRIGGER_LATENCY_PS if latency is None else latency,
        t0_correction_ps=(own.t0_correction if own else None) or 0,
        calibrated=own is not None,
    )


def _counter(i: int, name: str, own: DetectorCalibration | None) -> Counter:
    delay = own.delay if own else None
    return Counter(i, name, SCINT_DELAY_PS if delay is None else delay)


def _native(source: Source, d: Detector, raw: list[int]) -> npt.NDArray[np.int64]:
    base = (d.fpga or 0) << 9 if source.all_boards else 0
    return base + np.array(raw, np.int64)


def _map(bench: Bench, source: Source, used: set[str]) -> ChannelMap:
    out = ChannelMap(
        source=source.id,
        det=np.full(NATIVE, NOBODY, np.uint8),
        layer=np.full(NATIVE, NOBODY, np.uint8),
        cell=np.full(NATIVE, NOBODY, np.uint8),
        role=np.full(NATIVE, UNKNOWN, np.uint8),
        masked=np.zeros(NATIVE, np.uint8),
        offset_ps=np.zeros(NATIVE, np.int32),
        trigger_det=np.full(TRIGGER_CHAMBERS, NOBODY, np.uint8),
    )
    boards = range(NATIVE >> 9) if source.all_boards else range(1)
    for board in boards:
        out.role[(board << 9) + np.array(source.markers, np.int64)] = MARKER
    for i, d in enumerate(bench.detectors):
        if d.source != source.id:
            continue
        at = _native(source, d, d.channels)
        out.det[at] = i
        out.role[at] = ROLES[d.kind]
        out.masked[at] = d.id not in used
        if isinstance(d, DriftChamber):
            out.layer[at], out.cell[at] = layer_and_cell(d, d.channels)
            fpga = d.fpga if d.fpga is not None else source.fpga
            if isinstance(fpga, int) and d.id in used:
                out.trigger_det[2 * fpga + (d.channels[0] >= LAYERS * CELLS)] = i
        own = bench.calibration.detector.get(d.id)
        if own is not None:
            for channel, offset in own.offsets.items():
                out.offset_ps[_native(source, d, [channel])] = offset
    for mask in bench.masks.get(source.id, ()):
        base = (mask.fpga or 0) << 9 if source.all_boards else 0
        out.masked[base + np.array(mask.channels, np.int64)] = 1
    return out
