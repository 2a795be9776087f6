"""What a builder gets and gives: one slice's rows in time order, and the events it makes of them.

Times are int64 picoseconds since the start of the slice, floored from the exact rational, so a
difference of two of them does not depend on where the stream was cut. Guard rows have times
below 0 or at and above `length`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from freerun.histograms import Hist

if TYPE_CHECKING:
    from freerun.config.geometry import Geometry

Array = npt.NDArray[Any]

# t0_kind of an event, as stored in the files
FPGA, MEAN_TIMER, SCINTILLATOR, COINCIDENCE, FIRST_HIT, MAJORITY = range(6)

# roles of a channel
UNKNOWN, TUBE, SCINT, MARKER, PMT = range(5)

# quality bits of an event
INCOMPLETE, TRUNCATED, SHARED, PILEUP, NEAR_MASKED, UNLOCKED, BY_TIMEOUT, FALLBACK = (
    1 << bit for bit in range(8)
)

# our bits in the flags of a hit (the vendor's are the lower 16)
FLAG_SHARED = 1 << 16  # in more than one event
FLAG_NEIGHBOUR = 1 << 17  # unassigned here, but in an event that the neighbouring slice owns


@dataclass(frozen=True)
class HitRows:
    """Detector hits (tubes, scintillators) in total order (time, source, word); n rows."""

    t: Array  # int64 ps since slice start
    source: Array  # int16 index in the pipeline's list of sources
    channel: Array  # int16 native channel
    ticks: Array  # int64 native, unwrapped
    det: Array  # uint8 index of the detector
    layer: Array  # uint8 1..4; 255 none
    cell: Array  # uint8 0-based; 255 none
    role: Array  # uint8 TUBE or SCINT

    def __len__(self) -> int:
        return len(self.t)


@dataclass(frozen=True)
class MarkRows:
    """Trigger words and markers (never stored as hits), in time order; m rows."""

    t: Array  # int64 ps: start of the tagged crossing, or the marker's time
    source: Array  # int16
    channel: Array  # int16: native channel of a marker; chamber field of a trigger word
    det: Array  # uint8: detector the word speaks of; 255 none

    def __len__(self) -> int:
        return len(self.t)


@dataclass(frozen=True)
class PulseRows:
    """Digitizer pulses with their features, in total order (time, source, channel); q rows."""

    t: Array  # int64 ps since slice start, of the CFD crossing
    source: Array  # int16
    channel: Array  # int16
    ticks: Array  # int64 native trigger tick
    det: Array  # uint8
    q: Array  # float32 long charge
    qs: Array  # float32 short charge
    psd: Array  # float32
    amp: Array  # float32
    base: Array  # float32
    base_rms: Array  # float32
    cfd: Array  # float32 ns after the trigger tick
    rise: Array  # float32 ns
    flags: Array  # uint32

    def __len__(self) -> int:
        return len(self.t)


@dataclass(frozen=True)
class SliceRows:
    """One slice with its guards, calibrated and in time order; what a builder works on."""

    k: int
    start_ns: int
    length: int  # ps
    guard: int  # ps
    hits: HitRows
    triggers: MarkRows
    markers: MarkRows
    pulses: PulseRows
    complete: bool = True


@dataclass
class Events:
    """Events of one slice, ordered by anchor; e events.

    `hits` and `pulses` are index lists in CSR form: rows of event i are
    `index[offsets[i]:offsets[i+1]]`, indices into `SliceRows.hits` / `.pulses`. Segments belong
    to events by `seg_offsets` (e+1). Also events whose anchor lies outside [0, length) are given
    as long as they hold body rows: the framework keeps the owned ones and flags the rest's rows.
    """

    anchor: Array  # int64 ps since slice start: the event's t0
    t0_kind: Array  # uint8
    t0_err: Array  # float32 ns
    quality: Array  # uint32
    hit_offsets: Array  # int64 (e+1)
    hit_index: Array  # int64
    pulse_offsets: Array  # int64 (e+1)
    pulse_index: Array  # int64
    seg_offsets: Array  # int64 (e+1)
    seg: dict[str, Array]  # det u1, t0 f4 ns rel., x f4 mm, slope f4, chi2 f4, n u1, lat u1, …
    columns: dict[str, tuple[Array, str]] = field(default_factory=dict)  # extra: values, unit
    overflow: int = 0  # chains cut at their cap, in body

    def __len__(self) -> int:
        return len(self.anchor)


SEGMENT_COLUMNS: dict[str, str] = {
    "det": "u1",
    "t0": "f4",
    "x": "f4",
    "slope": "f4",
    "chi2": "f4",
    "n": "u1",
    "lat": "u1",
    "origin": "u1",
    "quality": "u1",
}


class Builder:
    """Makes events of one slice. Subclasses are pure: same rows, same events."""

    class Config(BaseModel):
        """Keys of this builder in its [[pipeline]] section; values are checked before a run."""

        model_config = ConfigDict(extra="forbid")

    def __init__(self, config: BaseModel, geometry: Geometry) -> None:
        self.config: Any = config
        self.geometry = geometry

    def reach(self) -> tuple[int, int]:
        """`(before, after)` in ps: rows this far from an anchor decide about the event."""
        raise NotImplementedError

    def extent(self) -> tuple[int, int]:
        """`(before, after)` in ps: rows this far from an anchor may belong to the event."""
        raise NotImplementedError

    def build(self, s: SliceRows) -> Events:
        """All events whose anchor lies in [-extent after, length + extent before]; where events
        may share rows, up to the sum of both extents to either side: then the framework sees that
        a row of an owned event is in a neighbour's, too.
        """
        raise NotImplementedError

    def hists(self) -> Sequence[Hist]:
        """The histograms that `fill` fills."""
        return ()

    def fill(self, s: SliceRows, events: Events, owned: Array, into: dict[str, Array]) -> None:
        """Add the owned events (boolean mask over `events`) to the int64 arrays of `hists`."""


def no_rows(kind: type[Any]) -> Any:
    """An empty table of `kind` (HitRows, MarkRows, PulseRows) with the right dtypes."""
    dtypes = {
        "t": np.int64, "ticks": np.int64, "source": np.int16, "channel": np.int16,
        "det": np.uint8, "layer": np.uint8, "cell": np.uint8, "role": np.uint8,
        "flags": np.uint32,
    }  # fmt: skip
    return kind(
        **{name: np.empty(0, dtypes.get(name, np.float32)) for name in kind.__dataclass_fields__}
    )
