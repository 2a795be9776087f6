"""The regression builder: an event is a run of rows without a longer gap.

At a high rate one global gap chains independent particles together, so this is not how a
telescope finds its events (see `drift_tubes`); it is the check whose right answer everyone knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from freerun.builder import (
    FIRST_HIT,
    SCINT,
    SEGMENT_COLUMNS,
    TRUNCATED,
    TUBE,
    Array,
    Builder,
    Events,
    SliceRows,
)
from freerun.config.units import Ps
from freerun.histograms import Hist
from freerun.words import TICK
from processors.builders.gap_kernels import breaks, chains
from processors.builders.monitors import MULTIPLICITY, fill_counts, multiplicity_hist

LAST_ROLE = {"tubes": TUBE, "hits": SCINT}


class Gaps(Builder):
    """Events are chains of rows in time order whose neighbours are at most `gap` apart.

    A row begins an event if the row before is more than `gap` earlier (strictly; counted in
    ticks of 25/30 ns where both rows are of one such clock, else in ps). Rows later than
    `longest` after the first row of their chain are in no event; the event is then flagged
    TRUNCATED and counted as overflow. The anchor is the time of the first row.
    """

    class Config(Builder.Config):
        """Keys of a `gaps` pipeline."""

        gap: Ps = Field(200_000, gt=0, description="a longer gap ends an event")
        longest: Ps = Field(4_000_000, gt=0, description="no event lasts longer")
        rows: Literal["tubes", "hits"] = Field("tubes", description="tubes only, or all hits")

    def reach(self) -> tuple[int, int]:
        """One gap before the anchor; after it the longest chain and the row that ends it."""
        return self.config.gap + 1_000, self.config.longest + self.config.gap

    def extent(self) -> tuple[int, int]:
        """Nothing before the first row, and the longest chain after it."""
        return 0, self.config.longest

    def build(self, s: SliceRows) -> Events:
        """The chains that begin in `[-longest, length]`."""
        config, hits = self.config, s.hits
        last_role = LAST_ROLE[config.rows]
        tick_ps = TICK * 1000
        begins = breaks(
            hits.t, hits.ticks, hits.role, last_role,
            tick_ps.numerator, tick_ps.denominator, config.gap,
        )  # fmt: skip
        first, index = np.empty(len(hits), np.int64), np.empty(len(hits), np.int64)
        cut = np.empty(len(hits), np.bool_)
        before, after = self.extent()
        n, rows = chains(
            hits.t, hits.role, last_role, begins, config.longest,
            -after, s.length + before, first, index, cut,
        )  # fmt: skip
        index, cut = index[:rows].copy(), cut[:n]
        offsets = np.append(first[:n], rows)
        anchor = hits.t[index[offsets[:-1]]]
        in_body = (anchor >= 0) & (anchor < s.length)
        nothing = np.zeros(n + 1, np.int64)
        return Events(
            anchor=anchor,
            t0_kind=np.full(n, FIRST_HIT, np.uint8),
            t0_err=np.full(n, -1, np.float32),
            quality=np.where(cut, TRUNCATED, 0).astype(np.uint32),
            hit_offsets=offsets,
            hit_index=index,
            pulse_offsets=nothing,
            pulse_index=np.empty(0, np.int64),
            seg_offsets=nothing,
            seg={name: np.empty(0, dtype) for name, dtype in SEGMENT_COLUMNS.items()},
            overflow=int(np.count_nonzero(cut & in_body)),
        )

    def hists(self) -> Sequence[Hist]:
        return (multiplicity_hist(),)

    def fill(self, s: SliceRows, events: Events, owned: Array, into: dict[str, Array]) -> None:
        fill_counts(events.hit_offsets, owned, into[MULTIPLICITY])
