"""The published task in DataFrame operations: pandas under Dask, as the publication did it.

Written as one who knows pandas would: whole columns at a time, small integers, no Python per row,
no index that is not needed; bits are taken apart in the columns' arrays (a Series cannot shift),
rows sorted by one integer key, which becomes time and channel again (NumPy's sort; `sort_values`
of a frame takes three times as long), the events of hits
found by `merge_asof`, histograms by counting small integers. What it gives is what
`processors.published` gives, and a test compares the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from freerun.builder import PILEUP, TRUNCATED
from freerun.errors import EnvironmentProblem
from freerun.words import BX_PER_ORBIT, TICKS_PER_ORBIT

Array = npt.NDArray[Any]
RATE_BINS = 100
HALF_CROSSING = 15
NO_SLOT = 250  # from this slot on an address makes no hits


class Frames(NamedTuple):
    """What comes out; see `processors.published.Output` for the meanings."""

    hits: Any  # tick, channel, drift (NaN: in no event), in time order
    events: Any  # t0, chambers, quality, first, count
    occupancy: Any  # address → words
    box: Any  # slot · window + tick since its begin → hits
    rates: Any  # bin · NO_SLOT + slot → hits
    other: int  # words that are no good hit


class Task:
    """The task for words of one source in one slice without guards (ticks from 0 to `length`)."""

    def __init__(
        self, slot_of: Array, mark_slot: Array, latency: Array, correction: Sequence[float],
        merge: int, span: int, before: int, after: int,
    ) -> None:  # fmt: skip
        try:
            self._pd = import_module("pandas")  # optional: only this benchmark needs it
        except ImportError:
            raise EnvironmentProblem(
                "the DataFrame way needs pandas: pip install pandas, or leave it out with --no-peer"
            ) from None
        self.slot_of, self.mark_slot, self.latency = slot_of, mark_slot, latency
        self.correction = np.asarray(correction)
        self.merge, self.span, self.before, self.after = merge, span, before, after

    def __call__(self, words: Array, tick0: int, length: int) -> Frames:
        """`words` is int64[n]; `tick0` the unwrapped tick at the slice's begin."""
        pd = self._pd
        head = (words >> 62) & 3
        key, occupancy = self._hits(words[(head == 1) | (head == 2)], tick0)
        channel = key & 8191
        hits = pd.DataFrame(
            {"tick": key >> 13, "channel": channel.astype(np.uint16)}, copy=False
        )  # fmt: skip
        slot = self.slot_of[channel]
        events = self._events(self._marks(words[head == 3], tick0))
        near = pd.merge_asof(
            hits[["tick"]], events[["begin", "event"]], left_on="tick", right_on="begin"
        )
        since = near["tick"] - near["begin"]
        in_event = since <= self.before + self.after
        drift = (since - self.before) * (25 / 30) + self.correction[slot]
        hits["drift"] = drift.where(in_event).astype("float32")
        body = (hits["tick"] >= 0) & (hits["tick"] < length)
        rate_bin = ((hits["tick"] + 1) * RATE_BINS - 1) // length
        rates = (rate_bin * NO_SLOT + slot)[body].value_counts(sort=False)
        owned = events[(events["t0"] >= 0) & (events["t0"] < length)]
        mine = in_event & near["event"].between(owned["event"].min(), owned["event"].max())
        width = self.before + self.after + 1
        box = (slot * np.int64(width) + since)[mine].astype("int64").value_counts(sort=False)
        count = near["event"][mine].value_counts(sort=False)
        count = count.reindex(owned["event"], fill_value=0)
        hits = hits[mine | (body & ~in_event)]
        first = np.searchsorted(hits["tick"].to_numpy(), owned["begin"].to_numpy())
        owned = owned.assign(count=count.to_numpy(), first=first)
        other = int(len(words) - occupancy.sum())
        return Frames(hits, owned, occupancy, box, rates, other)

    def _hits(self, word: Array, tick0: int) -> tuple[Array, Any]:
        """Sorted keys (tick << 13 | channel) of the hits, and how often each channel came."""
        crossing, tdc = (word >> 5) & 4095, (word & 31) - 1
        number = (word >> 49) & 511
        tdc[(number == 136) | (number == 137)] = 0
        good = (crossing < BX_PER_ORBIT) & (tdc >= 0) & (tdc < 30)
        if not good.all():
            word, crossing, tdc = word[good], crossing[good], tdc[good]
        tick = self._tick((word >> 17) & 0xFFFFFFFF, crossing, tick0) + tdc
        channel = (word >> 49) & 8191
        occupancy = self._pd.Series(channel.astype(np.uint16)).value_counts(sort=False)
        key = ((tick << 13) | channel)[self.slot_of[channel] < NO_SLOT]
        return np.sort(key), occupancy

    def _marks(self, word: Array, tick0: int) -> Any:
        crossing, chamber = (word >> 13) & 4095, (word >> 60) & 3
        tick = self._tick((word >> 25) & 0xFFFFFFFF, crossing, tick0) + HALF_CROSSING
        marks = self._pd.DataFrame(
            {"t0": tick - self.latency[chamber], "slot": self.mark_slot[chamber]}, copy=False
        )
        marks = marks[(crossing < BX_PER_ORBIT) & (marks["slot"] != 255)]
        return marks.sort_values("t0", ignore_index=True)

    @staticmethod
    def _tick(orbit: Array, crossing: Array, tick0: int) -> Array:
        near = tick0 // TICKS_PER_ORBIT - 2**31
        orbit = near + ((orbit - near) & 0xFFFFFFFF)
        out: Array = (orbit * BX_PER_ORBIT + crossing) * 30 - tick0
        return out

    def _events(self, marks: Any) -> Any:
        """One row for each event: t0, begin of its window, chambers, quality."""
        number = (~(marks["t0"].diff() <= self.merge)).cumsum() - 1
        grouped = marks["t0"].groupby(number, sort=False)
        t0 = grouped.first()
        late = marks["t0"] - t0.reindex(number).to_numpy() > self.span
        bit = self._pd.Series(1 << marks["slot"].to_numpy("int64")).mask(late, 0)
        # distinct powers of two: their sum is their union
        chambers = bit.groupby([number, marks["slot"]], sort=False).max()
        quality = late.groupby(number, sort=False).any() * TRUNCATED
        apart = t0.diff()
        quality |= ((apart <= self.before) | (apart.shift(-1) <= self.after)) * PILEUP
        return self._pd.DataFrame(
            {"event": t0.index, "t0": t0, "begin": t0 - self.before,
             "chambers": chambers.groupby(level=0, sort=False).sum(), "quality": quality}
        )  # fmt: skip


def under_dask(task: Task, slices: Sequence[tuple[Array, int]], length: int) -> list[Frames]:
    """The slices as tasks of Dask, one after the other in this thread: what one core does."""
    dask = import_module("dask")
    with dask.config.set(scheduler="synchronous"):
        jobs = [dask.delayed(task, pure=False)(dask.delayed(w), t, length) for w, t in slices]
        out: list[Frames] = list(dask.compute(*jobs))
    return out
