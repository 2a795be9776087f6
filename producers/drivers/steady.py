"""Which words of a stream have a time that can be right: their neighbours tell."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from freerun.jit import kernel
from freerun.words import HIT, TRIGGER, WRAP, WordFormat, decode

I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]

NEIGHBOURS = 8  # words before and behind that say whether a word's time can be right
LONELY = 100  # at the edge of a file, a word this many times farther off than its neighbours
_TYPICAL = 64  # words looked at for a time to unwrap by
_HOUR = 3600 * 10**9 * 30 // 25  # ticks


@kernel
def steady(ticks: I64, window: int, far: int) -> npt.NDArray[np.bool_]:
    """Which of these words (one board, one kind, as they came) have a time that can be right.

    Not those that most of their next neighbours are more than `window` ticks earlier than, or
    most of the ones before them later. At the ends, where there are not enough neighbours to
    tell, not those that are `far` away and alone.
    """
    n = len(ticks)
    out = np.ones(n, np.bool_)
    for i in range(n):
        t = ticks[i]
        after, before = min(NEIGHBOURS, n - 1 - i), min(NEIGHBOURS, i)
        earlier = later = 0
        for j in range(i + 1, i + 1 + after):
            earlier += ticks[j] < t - window
        for j in range(i - before, i):
            later += ticks[j] > t + window
        if (after >= 3 and 2 * earlier > after) or (before >= 3 and 2 * later > before):
            out[i] = False
        elif after < 3 and before >= 3:
            some = ticks[i - before : i]
            out[i] = t - some.max() <= max(far, LONELY * (some.max() - some.min()))
        elif before < 3 and after >= 3:
            some = ticks[i + 1 : i + 1 + after]
            out[i] = some.min() - t <= max(far, LONELY * (some.max() - some.min()))
    return out


def typical_tick(words: U64, fmt: WordFormat) -> int | None:
    """Tick (orbits 0 … 2**32 − 1) of the first word whose time most of its neighbours agree with
    to an hour; None if no word has a time. What the first words are unwrapped by."""
    decoded = decode(words, fmt, WRAP // 2)
    timed = (decoded.kind == HIT) | (decoded.kind == TRIGGER)
    some = decoded.tick[timed][:_TYPICAL]
    if not len(some):
        return None
    apart = np.abs(some[:, None] - some)
    near = np.minimum(apart, WRAP - apart) < _HOUR
    return int(some[np.argmax(2 * near.sum(axis=1) >= len(some))])


@dataclass
class Lane:
    """The newest words of one board and kind: judged ones, and behind them some to be judged."""

    ticks: I64
    judged: int = 0

    def take(self, ticks: I64, window: int, far: int, last: bool = False) -> I64:
        """More words; returns the steady ones of those that have enough neighbours now."""
        everything = np.concatenate([self.ticks, ticks])
        end = len(everything) - (0 if last else NEIGHBOURS)
        if end <= self.judged:
            self.ticks = everything
            return everything[:0]
        which = steady(everything, window, far)[self.judged : end]
        out = everything[self.judged : end][which]
        keep = max(0, end - NEIGHBOURS)
        self.ticks, self.judged = everything[keep:], end - keep
        return out
