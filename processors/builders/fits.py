"""Segments that were kept: straight-line fits, and trigger words that free hits confirm."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from freerun.jit import kernel

I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]
U8 = npt.NDArray[np.uint8]
F64 = npt.NDArray[np.float64]
F32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]

LOOK = 48
"""Hits looked at, at most, to confirm one trigger word."""


@kernel
def lines(
    t: I64, layer: U8, cell: U8, kept: I64, t0: I64, hits: I32, lat: U8, wire: F64, z: F64,
    speed: float, x: F32, slope: F32, used: Bool,
) -> None:  # fmt: skip
    """Least squares of wire ± speed·drift over z, for the candidates `kept` of one chamber.

    `wire` (4, cells) and `z` (4) in mm, `speed` in mm/ps; writes the position at z = 0 in mm and
    dx/dz, and marks the hits that are used. Only differences of times become floats, so the
    numbers do not depend on the slice.
    """
    for i in range(len(kept)):
        c = kept[i]
        n, sz, sx, szz, szx = 0, 0.0, 0.0, 0.0, 0.0
        for k in range(4):
            j = hits[c, k]
            if j < 0:
                continue
            used[j] = True
            side = 1.0 if lat[c] >> k & 1 else -1.0
            at = wire[layer[j], cell[j]] + side * speed * np.float64(t[j] - t0[c])
            n += 1
            sz += z[k]
            sx += at
            szz += z[k] * z[k]
            szx += z[k] * at
        rise = (n * szx - sz * sx) / (n * szz - sz * sz)
        slope[i] = rise
        x[i] = (sx - rise * sz) / n


@kernel
def free_layers(
    hit_first: I64, t: I64, layer: U8, used: Bool, word_first: I64, t0: I64, lo: int, hi: I64,
    out: U8,
) -> None:  # fmt: skip
    """For each trigger word the layers with a hit that no segment uses in `[t0+lo, t0+hi]`.

    Hits and words are grouped by chamber, ascending in time within each; `hi` is per chamber.
    """
    for s in range(len(hi)):
        begin, stop = hit_first[s], hit_first[s + 1]
        for i in range(word_first[s], word_first[s + 1]):
            while begin < stop and t[begin] - t0[i] < lo:
                begin += 1
            j, end, seen = begin, min(stop, begin + LOOK), 0
            while j < end and t[j] - t0[i] <= hi[s]:
                if not used[j]:
                    seen |= 1 << layer[j]
                j += 1
            out[i] = (seen & 1) + (seen >> 1 & 1) + (seen >> 2 & 1) + (seen >> 3 & 1)
