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
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import BaseModel, Field, model_validator

from freerun.builder import (
    FALLBACK,
    FPGA,
    MEAN_TIMER,
    SCINT,
    SCINTILLATOR,
    TUBE,
    Array,
    Builder,
    Events,
    SliceRows,
)
from freerun.config.units import Ps
from freerun.histograms import Hist
from processors.builders import monitors
from processors.builders.chambers import (
    HALF_CROSSING,
    ChamberHits,
    Chambers,
    Words,
    from_geometry,
    split,
    split_words,
)
from processors.builders.fits import free_layers
from processors.builders.merge import FOLLOWER, REACH, WORD, leaders
from processors.builders.suppress import LINKS
from processors.builders.t0 import KINDS, combine
from processors.builders.tracks import Segments, in_chamber
from processors.builders.windows import overlaps, ranges, rows_of

if TYPE_CHECKING:
    from freerun.config.geometry import Geometry

KIND_CODES = {"mean_timer": MEAN_TIMER, "fpga": FPGA, "scintillator": SCINTILLATOR}
FPGA_ERROR, SCINT_ERROR = 7.2, 1.0
"""ns: a crossing's rms, common to all chambers; the scintillator's jitter and tick."""

T0Kind = Literal["mean_timer", "fpga", "scintillator"]
Duration = Annotated[Ps, Field(ge=0, le=1_000_000)]


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
        tolerance: Duration = Field(12_000, description="a drift time may leave 0…T by this")
        agree: Duration = Field(
            20_000, gt=0, description="the two mean-timers of four hits differ by less"
        )
        max_slope: float = Field(1.0, gt=0, le=2, description="|dx/dz| of four hits")
        resolution: Duration = Field(4_000, gt=0, description="of one drift time, for chi square")
        scint_delay: Ps | None = Field(
            None, description="scintillators fire at t0 plus this; if left out, each after the "
            "delay of its calibration (95 ns)"
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
        self._fallback = np.zeros(256, np.uint32)
        for chamber in geometry.chambers:
            self._fallback[chamber.det_index] = 0 if chamber.calibrated else FALLBACK
        told = self.config.scint_delay
        self._delay = np.zeros(256, np.int64)
        for counter in geometry.scintillators:
            self._delay[counter.det_index] = counter.delay_ps if told is None else told

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

    def _confirmed(self, words: Words, hits: ChamberHits, used: Array) -> Array:
        """For each trigger word the layers of its chamber with a free hit in the drift window."""
        edge = self.config.tolerance + HALF_CROSSING
        layers = np.zeros(len(words.t0), np.uint8)
        free_layers(hits.first, hits.t, hits.layer, used, words.first, words.t0, -edge,
                    self.chambers.longest + edge, layers)  # fmt: skip
        return layers

    def _scintillators(self, s: SliceRows) -> Array:
        """t0 by each scintillator hit, if that kind is asked for."""
        if SCINTILLATOR not in self._order:
            return np.empty(0, np.int64)
        seen = np.flatnonzero(s.hits.role == SCINT)
        return s.hits.t[seen] - self._delay[s.hits.det[seen]]

    # ------------------------------------------------------------------ events

    def build(self, s: SliceRows) -> Events:
        """All events with their t0 in the slice, or within both extents of it."""
        config = self.config
        hits = split(s.hits, self.chambers)
        used = np.zeros(int(hits.first[-1]), np.bool_)
        found = [
            in_chamber(hits, slot, self.chambers, config, used)
            for slot in range(len(self.chambers.ids))
        ]
        segs = Segments(*map(np.concatenate, zip(*(part for part, _ in found), strict=True)))
        words = split_words(s.triggers, self.chambers)
        layers = self._confirmed(words, hits, used)
        scint = self._scintillators(s)

        # All t0 candidates; equal ones keep this order: chamber by chamber, then in row order.
        n_seg, n_word = len(segs.t0), len(words.t0)
        t0 = np.concatenate((segs.t0, words.t0, scint))
        kind = np.full(len(t0), SCINTILLATOR, np.uint8)
        kind[:n_seg], kind[n_seg : n_seg + n_word] = MEAN_TIMER, FPGA
        rank = np.full(len(t0), FOLLOWER, np.uint8)
        rank[:n_seg] = segs.rank
        rank[n_seg : n_seg + n_word][layers >= config.min_layers] = WORD
        chi2 = np.zeros(len(t0), np.float32)
        chi2[:n_seg] = segs.chi2
        order = np.argsort(t0, kind="stable")
        t0, kind = t0[order], kind[order]
        owner, left = leaders(t0, rank[order], chi2[order], config.merge)
        anchor, t0_kind, error, number = combine(
            t0, kind, owner, self._order, self._error, self._common
        )

        lo, hi = config.window
        begin, end = ranges(s.hits.t, anchor, lo, hi)
        quality = overlaps(anchor, begin, end, lo, hi)
        both = sum(self.extent())  # so far away an event may share rows with one of this slice
        e0 = int(np.searchsorted(anchor, -both))
        e1 = int(np.searchsorted(anchor, s.length + both, side="right"))
        here = slice(e0, e1)
        hit_offsets, hit_index = rows_of(begin[here], end[here])
        pulse_offsets, pulse_index = rows_of(*ranges(s.pulses.t, anchor[here], lo, hi))
        mine = np.flatnonzero((number >= e0) & (number < e1) & (kind != SCINTILLATOR))
        number = number[mine]
        counts = np.bincount(number - e0, minlength=e1 - e0)
        segments = _seg(segs, words, layers, order[mine], t0[mine] - anchor[number])
        if self._fallback.any():
            np.bitwise_or.at(quality, number, self._fallback[segments["det"]])
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
            seg=segments,
            overflow=sum(_in_body(t, s.length) for t in (*(t for _, t in found), t0[left])),
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


def _seg(segs: Segments, words: Words, layers: Array, rows: Array, t0: Array) -> dict[str, Array]:
    """The segments of events, by rows of (segments, words); `t0` (ps) is relative to the event's.

    A word has no track: x and slope are 0 and chi2 is −1; its n counts layers with free hits.
    """
    n = len(words.t0)
    nothing, no_track = np.zeros(n, np.uint8), np.zeros(n, np.float32)

    def both(own: Array, of_words: Array, dtype: type) -> Array:
        return np.concatenate((own.astype(dtype), of_words.astype(dtype)))[rows]

    return {
        "det": both(segs.det, words.det, np.uint8),
        "t0": (t0 / 1000).astype(np.float32),
        "x": both(segs.x, no_track, np.float32),
        "slope": both(segs.slope, no_track, np.float32),
        "chi2": both(segs.chi2, no_track - 1, np.float32),
        "n": both(segs.n, layers, np.uint8),
        "lat": both(segs.lat, nothing, np.uint8),
        "origin": (rows >= len(segs.t0)).astype(np.uint8),
        "quality": both(segs.quality, nothing, np.uint8),
    }


def _in_body(t: Array, length: int) -> int:
    return int(np.count_nonzero((t >= 0) & (t < length)))
