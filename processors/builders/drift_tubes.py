"""The telescope's builder: track segments per chamber, one event per particle.

1. Segments (`segments`, `suppress`, `fits`): hits of adjacent half-staggered cells in three or
   four layers of a chamber that fit one t0; of those that share hits the best.
2. Further t0 candidates: the chambers' trigger words (crossing + 12.5 ns − latency) and the
   scintillator (hit − delay).
3. Merge (`merge`): candidates within `merge` of a leader are one particle. Segments lead, and
   trigger words whose chamber has free hits in at least `min_layers` layers within the drift
   time; other words and scintillator hits only follow.
4. The event's t0 is the floored mean of its candidates of the first kind in `t0` that it has;
   its rows are all hits and pulses in `window` around it. A row may be in several events.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, Field, model_validator

from freerun.builder import (
    FPGA, MEAN_TIMER, SCINT, SCINTILLATOR, TUBE, Array, Builder, Events, SliceRows,
)  # fmt: skip
from freerun.config.units import Ps
from freerun.histograms import Hist
from processors.builders import monitors
from processors.builders.chambers import (
    HALF_CROSSING, ChamberHits, Chambers, from_geometry, split, split_words,
)  # fmt: skip
from processors.builders.fits import free_layers, lines, mark_used
from processors.builders.merge import FOLLOWER, FOUR_HITS, REACH, THREE_HITS, WORD, leaders
from processors.builders.segments import candidates
from processors.builders.suppress import AMBIGUOUS, LINKS, keep
from processors.builders.t0 import KINDS, combine
from processors.builders.windows import overlaps, ranges, rows_of

if TYPE_CHECKING:
    from freerun.config.geometry import Geometry

KIND_CODES = {"mean_timer": MEAN_TIMER, "fpga": FPGA, "scintillator": SCINTILLATOR}
THREE_ONLY, SECOND_NEAR = 1, 2
SOFTWARE, HARDWARE = 0, 1
FPGA_ERROR, SCINT_ERROR = 7.2, 1.0
"""ns: a crossing's rms, common to all chambers; the scintillator's jitter and tick."""
SCINT_DELAY = 95_000

T0Kind = Literal["mean_timer", "fpga", "scintillator"]
Duration = Annotated[Ps, Field(ge=0, le=1_000_000)]


class _Part(NamedTuple):
    """Segments, words or scintillator hits; one row each, those of an event in `seg`'s columns."""

    t0: Array
    kind: Array
    rank: Array
    chi2: Array
    det: Array
    n: Array
    lat: Array
    x: Array
    slope: Array
    quality: Array


def _part(t0: Array, kind: int, **values: Array | int | float) -> _Part:
    """A part with `values` as arrays of the right types; what is not given is 0."""
    dtypes = {"kind": np.uint8, "rank": np.uint8, "chi2": np.float32, "det": np.uint8,
              "n": np.uint8, "lat": np.uint8, "x": np.float32, "slope": np.float32,
              "quality": np.uint8}  # fmt: skip
    values = {"kind": kind, "chi2": -1.0, **values}
    columns = {
        name: np.broadcast_to(np.asarray(values.get(name, 0), dtype), t0.shape)
        for name, dtype in dtypes.items()
    }
    return _Part(t0, **columns)


class DriftTubes(Builder):
    """Events of drift chambers; see the module for how, `Config` for what can be chosen."""

    class Config(Builder.Config):
        """Keys of a `drift_tubes` pipeline."""

        t0: Annotated[list[T0Kind], Field(min_length=1)] = Field(
            ["mean_timer", "fpga", "scintillator"],
            description="the first kind that exists is the event's t0",
        )
        merge: Duration = Field(25_000, gt=0, description="t0 of different chambers agree")
        window: tuple[Ps, Ps] = Field(
            (-50_000, 500_000), description="rows of an event, relative to its t0"
        )
        min_layers: Literal[3, 4] = Field(3, description="layers of a segment")
        tolerance: Duration = Field(
            12_000, description="a drift time may leave 0…T by this"
        )
        agree: Duration = Field(
            20_000, gt=0, description="the two mean-timers of four hits differ by less"
        )
        max_slope: float = Field(1.0, gt=0, le=2, description="|dx/dz| of four hits")
        resolution: Duration = Field(4_000, gt=0, description="of one drift time, for chi square")
        scint_delay: Ps | None = Field(
            None, description="scintillators fire at t0 plus this; if left out, each at its "
            "calibrated delay, or 95 ns if it has none"
        )  # fmt: skip

        @model_validator(mode="after")
        def _sense(self) -> DriftTubes.Config:
            lo, hi = self.window
            if not -2_000_000 <= lo < hi <= 2_000_000:
                raise ValueError("window: give begin and end, within -2 us and 2 us")
            if not lo <= 0 <= hi:
                raise ValueError("window: the event's t0 itself must lie inside")
            if len(set(self.t0)) < len(self.t0):
                raise ValueError("t0: each kind once")
            return self

    def __init__(self, config: BaseModel, geometry: Geometry) -> None:
        super().__init__(config, geometry)
        self.chambers: Chambers = from_geometry(geometry)
        order = [KIND_CODES[kind] for kind in self.config.t0]
        self._order = np.array(
            order + [kind for kind in (MEAN_TIMER, FPGA) if kind not in order], np.int64
        )
        error, common = np.zeros(KINDS), np.zeros(KINDS)
        error[MEAN_TIMER] = 0.6 * self.config.resolution / 1000
        error[FPGA] = common[FPGA] = FPGA_ERROR
        error[SCINTILLATOR] = common[SCINTILLATOR] = SCINT_ERROR
        self._error, self._common = error, common
        self._delay = np.full(256, self.config.scint_delay or SCINT_DELAY, np.int64)
        if self.config.scint_delay is None:
            for counter in geometry.scintillators:
                self._delay[counter.det_index] = counter.delay_ps or SCINT_DELAY

    def extent(self) -> tuple[int, int]:
        """The window."""
        lo, hi = self.config.window
        return max(0, -lo), max(0, hi)

    def reach(self) -> tuple[int, int]:
        """How far rows matter: the event next door (for the SHARED and PILEUP bits), leaders of
        leaders, words that need hits no segment uses, and segments that compete for hits."""
        config, c = self.config, self.chambers
        lo, hi = config.window
        longest = int(c.longest.max(initial=0))
        span = longest + 2 * config.tolerance
        edge = config.tolerance + HALF_CROSSING
        far = max(hi - lo, hi, -lo) + (REACH + 2) * config.merge + (LINKS + 1) * span + edge
        far += int(np.abs(c.correction).max(initial=0))
        late = max(longest, int(c.latency.max(initial=0)), int(self._delay.max()))
        return far + max(0, -int(self._delay.min())), far + late

    # ------------------------------------------------------------------ t0 candidates

    def _segments(self, hits: ChamberHits, slot: int, used: Array) -> tuple[_Part, Array]:
        """The kept segments of one chamber, and the times of seeds at a cap; marks hits used."""
        c, config = self.chambers, self.config
        rows = slice(hits.first[slot], hits.first[slot + 1])
        t, layer = hits.t[rows], hits.layer[rows]
        longest, sigma = int(c.longest[slot]), float(config.resolution)
        half_layer = abs(c.z[slot, 1] - c.z[slot, 0]) / 2
        steepest = int(20 * config.max_slope * half_layer / c.speed[slot])
        found, busy = candidates(
            t, layer, hits.column[rows], longest, config.tolerance,
            (2.0 * config.agree / sigma) ** 2, sigma, steepest,
        )  # fmt: skip
        state = keep(found.t0, found.chi2, found.hits, found.n, len(t))
        best = np.flatnonzero((state > 0) & (found.n >= config.min_layers))
        t0, chi2, hit, lat, n = (array.take(best, axis=0) for array in found)
        mark_used(hit, used[rows])
        x, slope = np.empty(len(t0), np.float32), np.empty(len(t0), np.float32)
        lines(t, layer, hits.cell[rows], t0, hit, lat, c.wire[slot], c.z[slot],
              float(c.speed[slot]), x, slope)  # fmt: skip
        four = n == 4
        quality = np.where(four, 0, THREE_ONLY) | np.where(state[best] & AMBIGUOUS, SECOND_NEAR, 0)
        rank = np.where(four, FOUR_HITS, THREE_HITS)
        part = _part(t0, MEAN_TIMER, rank=rank, chi2=chi2, det=int(c.det[slot]), n=n, lat=lat,
                     x=x, slope=slope, quality=quality)  # fmt: skip
        return part, t[busy]

    def _words(self, s: SliceRows, hits: ChamberHits, used: Array) -> list[_Part]:
        """Trigger words of the chambers; those with enough free hits may lead."""
        c, config, parts = self.chambers, self.config, []
        words = split_words(s.triggers, c)
        edge = config.tolerance + HALF_CROSSING
        for slot in range(len(c.ids)):
            rows = slice(hits.first[slot], hits.first[slot + 1])
            t0 = words.t0[words.first[slot] : words.first[slot + 1]]
            layers = np.zeros(len(t0), np.uint8)
            free_layers(hits.t[rows], hits.layer[rows], used[rows], t0,
                        -edge, int(c.longest[slot]) + edge, layers)  # fmt: skip
            rank = np.where(layers >= config.min_layers, WORD, FOLLOWER)
            parts.append(_part(t0, FPGA, rank=rank, det=int(c.det[slot]), n=layers))
        return parts

    def _scintillators(self, s: SliceRows) -> _Part:
        if "scintillator" not in self.config.t0:
            return _part(np.empty(0, np.int64), SCINTILLATOR)
        seen = np.flatnonzero(s.hits.role == SCINT)
        det = s.hits.det[seen]
        return _part(s.hits.t[seen] - self._delay[det], SCINTILLATOR, rank=FOLLOWER, det=det)

    # ------------------------------------------------------------------ events

    def build(self, s: SliceRows) -> Events:
        """All events with their t0 in `[-extent after, length + extent before]`."""
        config = self.config
        hits = split(s.hits, self.chambers)
        used = np.zeros(int(hits.first[-1]), np.bool_)
        parts, busy = [], []
        for slot in range(len(self.chambers.ids)):
            part, at_cap = self._segments(hits, slot, used)
            parts.append(part)
            busy.append(at_cap)
        parts += [*self._words(s, hits, used), self._scintillators(s)]
        table = _Part(*(np.concatenate(column) for column in zip(*parts, strict=True)))
        order = np.argsort(table.t0, kind="stable")  # ties: by chamber, then in row order
        t0, kind = table.t0[order], table.kind[order]

        owner, left = leaders(t0, table.rank[order], table.chi2[order], config.merge)
        anchor, t0_kind, error, number = combine(
            t0, kind, owner, self._order, self._error, self._common
        )
        lo, hi = config.window
        begin, end = ranges(s.hits.t, anchor, lo, hi)
        quality = overlaps(anchor, begin, end, lo, hi)
        before, after = self.extent()
        e0 = int(np.searchsorted(anchor, -after))
        e1 = int(np.searchsorted(anchor, s.length + before, side="right"))
        here = slice(e0, e1)
        hit_offsets, hit_index = rows_of(begin[here], end[here])
        pulse_offsets, pulse_index = rows_of(*ranges(s.pulses.t, anchor[here], lo, hi))
        mine = np.flatnonzero((number >= e0) & (number < e1) & (kind != SCINTILLATOR))
        number = number[mine]
        counts = np.bincount(number - e0, minlength=e1 - e0)
        return Events(
            anchor=anchor[here],
            t0_kind=t0_kind[here],
            t0_err=error[here],
            quality=quality[here],
            hit_offsets=hit_offsets,
            hit_index=hit_index,
            pulse_offsets=pulse_offsets,
            pulse_index=pulse_index,
            seg_offsets=np.append(0, np.cumsum(counts)),
            seg=_seg(table, order[mine], t0[mine] - anchor[number]),
            overflow=sum(_in_body(t, s.length) for t in (*busy, t0[left])),
        )

    # ------------------------------------------------------------------ monitors

    def hists(self) -> Sequence[Hist]:
        return (
            *(monitors.drift_hist(name) for name in self.chambers.ids),
            monitors.multiplicity_hist(),
            monitors.t0_kind_hist(),
            monitors.segments_hist(),
            monitors.chi2_hist(),
        )

    def fill(self, s: SliceRows, events: Events, owned: Array, into: dict[str, Array]) -> None:
        monitors.fill_counts(events.hit_offsets, owned, into[monitors.MULTIPLICITY])
        monitors.fill_counts(events.seg_offsets, owned, into[monitors.SEGMENTS])
        monitors.fill_values(events.t0_kind, owned, into[monitors.T0_KIND])
        monitors.fill_chi2(
            events.seg_offsets, events.seg["chi2"], events.seg["n"], owned, into[monitors.CHI2]
        )
        c, hits = self.chambers, s.hits
        box = np.zeros((len(c.ids), monitors.DRIFT_BINS), np.int64)
        monitors.fill_drift(
            hits.t, hits.det, hits.role, TUBE, events.anchor, events.hit_offsets,
            events.hit_index, owned, c.slot, c.correction, box,
        )  # fmt: skip
        for name, counts in zip(c.ids, box, strict=True):
            into[f"{name}/drift_time"] += counts


def _seg(table: _Part, rows: Array, t0: Array) -> dict[str, Array]:
    """`rows` of the table as segments of events, whose t0 (ps) is relative to their event's."""
    return {
        "det": table.det[rows],
        "t0": (t0 / 1000).astype(np.float32),
        "x": table.x[rows],
        "slope": table.slope[rows],
        "chi2": table.chi2[rows],
        "n": table.n[rows],
        "lat": table.lat[rows],
        "origin": np.where(table.kind[rows] == FPGA, HARDWARE, SOFTWARE).astype(np.uint8),
        "quality": table.quality[rows],
    }


def _in_body(t: Array, length: int) -> int:
    return int(np.count_nonzero((t >= 0) & (t < length)))
