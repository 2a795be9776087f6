"""Words of a steady stream in memory, for benchmarks that do not simulate a detector."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from freerun.words import BX_PER_ORBIT, FORMATS, TICKS_PER_BX

U64 = npt.NDArray[np.uint64]
FORMAT = FORMATS["padova-obdt"]  # the raw TDC is the time: nothing to be shifted
CHANNELS = 128  # of a source
TICKS_PER_S = round(1e9 / FORMAT.tick)


def steady(
    n: int, per_s: float, first_tick: int = 0, board: int = 0, seed: int = 1, channel0: int = 0
) -> U64:
    """`n` hits of one board in the order of time, `per_s` of them a second, on 128 channels from
    `channel0` on, at random."""
    tick = first_tick + np.sort(
        np.random.default_rng(seed).integers(0, max(1, round(n / per_s * TICKS_PER_S)), n)
    )
    channel = channel0 + np.random.default_rng(seed + 1).integers(0, CHANNELS, n)
    bunch, tdc = np.divmod(tick, TICKS_PER_BX)
    orbit, bx = np.divmod(bunch, BX_PER_ORBIT)
    word = 1 << 62 | board << 58 | channel << 49 | (orbit & 0xFFFFFFFF) << 17 | bx << 5 | tdc
    return word.astype(np.uint64)


def blocks(words: U64, size: int) -> Iterator[U64]:
    """Pieces of `size` words, as a device's memory gives them; views, not copies."""
    for at in range(0, len(words), size):
        yield words[at : at + size]
