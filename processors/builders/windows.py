"""Which rows belong to an event: those in a window around its t0."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from freerun.builder import PILEUP, SHARED
from freerun.jit import kernel

I64 = npt.NDArray[np.int64]
U32 = npt.NDArray[np.uint32]


@kernel
def ranges(t: I64, anchor: I64, lo: int, hi: int) -> tuple[I64, I64]:
    """First row and row after the last with `anchor + lo <= t <= anchor + hi`; both ascend."""
    begin = np.empty(len(anchor), np.int64)
    end = np.empty(len(anchor), np.int64)
    a, b = 0, 0
    for i in range(len(anchor)):
        while a < len(t) and t[a] - anchor[i] < lo:
            a += 1
        b = max(a, b)
        while b < len(t) and t[b] - anchor[i] <= hi:
            b += 1
        begin[i], end[i] = a, b
    return begin, end


@kernel
def rows_of(begin: I64, end: I64) -> tuple[I64, I64]:
    """The ranges as `(offsets, index)` in CSR form."""
    offsets = np.zeros(len(begin) + 1, np.int64)
    for i in range(len(begin)):
        offsets[i + 1] = offsets[i] + end[i] - begin[i]
    index = np.empty(offsets[-1], np.int64)
    for i in range(len(begin)):
        for j in range(end[i] - begin[i]):
            index[offsets[i] + j] = begin[i] + j
    return offsets, index


@kernel
def overlaps(anchor: I64, begin: I64, end: I64, lo: int, hi: int) -> U32:
    """SHARED and PILEUP bits. All windows are of one length, so only neighbours need a look."""
    n = len(anchor)
    out = np.zeros(n, np.uint32)
    for i in range(n - 1):
        if begin[i + 1] < end[i]:
            out[i] |= np.uint32(SHARED)
            out[i + 1] |= np.uint32(SHARED)
        apart = anchor[i + 1] - anchor[i]
        if apart <= hi:
            out[i] |= np.uint32(PILEUP)
        if -apart >= lo:
            out[i + 1] |= np.uint32(PILEUP)
    return out
