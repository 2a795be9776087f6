"""Pulsers: channels that fire exactly at n / rate since the epoch of experiment time."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt

from freerun.simulation.config import BLOCK_NS

I64 = npt.NDArray[np.int64]
BLOCK_PS = BLOCK_NS * 1000


def pulses_in(block: int, rate_hz: float) -> I64:
    """The pulses of a block: int64[n], whole ps after its start, ascending. No chance in it.

    Pulse n comes at the floor of n / rate in ps: in one block, whichever is made first.
    """
    period = 10**12 / Fraction(repr(rate_hz))
    start, end = block * BLOCK_PS, (block + 1) * BLOCK_PS
    first, behind = (-(-t // period) for t in (start, end))
    return np.array([n * period // 1 - start for n in range(first, behind)], np.int64)
