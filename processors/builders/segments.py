"""Candidates of track segments in one chamber: hits of adjacent cells that fit one t0.

A candidate is made by its earliest hit, the seed, out of the hits up to `span` later. Work per
seed is bounded by looking at the next `LOOK` hits of the chamber only, at the first `NEAR` fitting
ones of each layer, and by taking at most `MOST` candidates. A seed that is in a candidate of four
hits, its own or an earlier one's, makes none of three. So what a seed makes depends on rows up to
`span` before and after it and on nothing else, and a cut elsewhere changes nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from freerun.jit import kernel
from processors.builders.patterns import (
    CHECK_H,
    CHECK_NORM,
    CHECK_T,
    COUNT,
    LATERALITY,
    SLOPE_H,
    SLOPE_T,
    T0_H,
    T0_NORM,
    T0_T,
    TRIPLE_LAYERS,
    TRIPLE_WEIGHT,
)

I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]
I16 = npt.NDArray[np.int16]
U8 = npt.NDArray[np.uint8]
F64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

LOOK, NEAR, MOST = 48, 3, 8
NO_FIT = 1e30


class Candidates(NamedTuple):
    """Candidates of one chamber in the order of their seeds; c rows."""

    t0: I64
    """ps since slice start"""
    chi2: F64
    """of the check of four hits (one degree of freedom); 0 of three hits"""
    hits: I32
    """(c, 4) position of the hit of layer 1…4 in the chamber's hits; −1 none"""
    lat: U8
    """bit i: layer i+1 passed on the upper side"""
    n: U8
    """hits, 3 or 4"""


@kernel
def fit_four(
    t: I64, h: I64, longest: int, tolerance: int, limit: float, sigma: float, steepest: int
) -> tuple[int, float, int]:
    """The best `(t0, chi2, laterality)` of four hits; laterality −1 if there is none.

    `t` and `h` are times in ps and half cells of layers 1…4; both may have any common origin.
    `steepest` limits Σ z·(h·T + s·drift), 20 times the slope per half layer distance.
    """
    p = (h[1] > h[0]) + 2 * (h[2] > h[1]) + 4 * (h[3] > h[2])
    best, best_t0, best_lat = NO_FIT, 0, -1
    for i in range(COUNT[p]):
        check = CHECK_H[p, i] * longest
        for k in range(4):
            check += CHECK_T[p, i, k] * t[k]
        off = np.float64(check) / sigma
        chi2 = off * off / CHECK_NORM[p, i]
        if chi2 > limit or chi2 >= best:
            continue
        top = T0_H[p, i] * longest
        for k in range(4):
            top += T0_T[p, i, k] * t[k]
        t0 = top // T0_NORM[p, i]
        fits, slope = True, SLOPE_H[p, i] * longest
        for k in range(4):
            drift = t[k] - t0
            slope += SLOPE_T[p, i, k] * drift
            fits = fits and -tolerance <= drift <= longest + tolerance
        if fits and abs(slope) <= steepest:
            best, best_t0, best_lat = chi2, t0, LATERALITY[p, i]
    return best_t0, best, best_lat


@kernel
def fit_three(t: I64, h: I64, missing: int, longest: int, tolerance: int) -> tuple[int, int]:
    """The mean-timer's `(t0, laterality)` of three hits; laterality −1 if it does not apply.

    Only the alternating pattern counts: two wires in line, the third beside them, the track
    between. The pair in line is (A, C), (B, D) or, around a missing layer, its two neighbours.
    """
    a, b, c = TRIPLE_LAYERS[missing, 0], TRIPLE_LAYERS[missing, 1], TRIPLE_LAYERS[missing, 2]
    if missing == 1:  # A . C D: A and C in line, D beside
        aligned, u = h[a] == h[b] and abs(h[c] - h[b]) == 1, h[c] - h[b]
        lat = (1 << a | 1 << b) if u > 0 else 1 << c
    elif missing == 2:  # A B . D: B and D in line, A beside
        aligned, u = h[b] == h[c] and abs(h[b] - h[a]) == 1, h[b] - h[a]
        lat = 1 << a if u > 0 else (1 << b | 1 << c)
    else:
        aligned, u = h[a] == h[c] and abs(h[b] - h[a]) == 1, h[b] - h[a]
        lat = (1 << a | 1 << c) if u > 0 else 1 << b
    if not aligned:
        return 0, -1
    top = -2 * longest
    for i in range(3):
        top += TRIPLE_WEIGHT[missing, i] * t[TRIPLE_LAYERS[missing, i]]
    t0 = top // 4
    for i in range(3):
        drift = t[TRIPLE_LAYERS[missing, i]] - t0
        if drift < -tolerance or drift > longest + tolerance:
            return 0, -1
    return t0, lat


@kernel
def _candidates(
    t: I64, layer: U8, h: I16, longest: int, tolerance: int, limit: float, sigma: float,
    steepest: int, out_t0: I64, out_chi2: F64, out_hits: I32, out_lat: U8, out_n: U8,
    busy: Bool,
) -> int:  # fmt: skip
    """Fill the outputs as far as they go, mark seeds at a cap in `busy`, return the full count."""
    n, count, room = len(t), 0, len(out_t0)
    span = longest + 2 * tolerance
    in_four = np.zeros(n, np.bool_)
    near = np.empty((4, NEAR), np.int64)
    found = np.zeros(4, np.int64)
    hit, t4, h4 = np.empty(4, np.int64), np.zeros(4, np.int64), np.zeros(4, np.int64)
    for seed in range(n):
        busy[seed] = False
        own = layer[seed]
        found[:] = 0
        j = seed + 1
        while j < n and t[j] - t[seed] <= span:
            if j - seed > LOOK:
                busy[seed] = True
                break
            k = layer[j]
            if k != own and abs(h[j] - h[seed]) <= abs(np.int64(k) - own):
                if found[k] < NEAR:
                    near[k, found[k]] = j
                    found[k] += 1
                else:
                    busy[seed] = True
            j += 1
        layers = (found[0] > 0) + (found[1] > 0) + (found[2] > 0) + (found[3] > 0)
        if layers < 2:
            continue
        near[own, 0] = seed
        found[own] = 1
        made = 0
        if layers == 3:
            for a in range(found[0]):
                hit[0] = near[0, a]
                for b in range(found[1]):
                    hit[1] = near[1, b]
                    if abs(h[hit[1]] - h[hit[0]]) != 1:
                        continue
                    for c in range(found[2]):
                        hit[2] = near[2, c]
                        if abs(h[hit[2]] - h[hit[1]]) != 1:
                            continue
                        for d in range(found[3]):
                            hit[3] = near[3, d]
                            if abs(h[hit[3]] - h[hit[2]]) != 1:
                                continue
                            for k in range(4):
                                t4[k] = t[hit[k]] - t[seed]
                                h4[k] = h[hit[k]]
                            t0, chi2, lat = fit_four(
                                t4, h4, longest, tolerance, limit, sigma, steepest
                            )
                            if lat < 0:
                                continue
                            if made == MOST:
                                busy[seed] = True
                                continue
                            if count < room:
                                out_t0[count] = t[seed] + t0
                                out_chi2[count] = chi2
                                out_hits[count] = hit
                                out_lat[count] = lat
                                out_n[count] = 4
                            for k in range(4):
                                in_four[hit[k]] = True
                            made += 1
                            count += 1
        if in_four[seed]:
            continue
        for missing in range(4):
            if missing == own:
                continue
            x, y, z = TRIPLE_LAYERS[missing]
            for a in range(found[x]):
                hit[x] = near[x, a]
                for b in range(found[y]):
                    hit[y] = near[y, b]
                    for c in range(found[z]):
                        hit[z] = near[z, c]
                        for k in TRIPLE_LAYERS[missing]:
                            t4[k] = t[hit[k]] - t[seed]
                            h4[k] = h[hit[k]]
                        t0, lat = fit_three(t4, h4, missing, longest, tolerance)
                        if lat < 0:
                            continue
                        if made == MOST:
                            busy[seed] = True
                            continue
                        if count < room:
                            hit[missing] = -1
                            out_t0[count] = t[seed] + t0
                            out_chi2[count] = 0.0
                            out_hits[count] = hit
                            out_lat[count] = lat
                            out_n[count] = 3
                        made += 1
                        count += 1
    return count


def candidates(
    t: I64, layer: U8, h: I16, longest: int, tolerance: int, limit: float, sigma: float,
    steepest: int,
) -> tuple[Candidates, Bool]:  # fmt: skip
    """All candidates of one chamber's hits, and the seeds at which a cap was met.

    `t` int64 ps in time order, `layer` 0…3, `h` half cells; `longest` T, `tolerance`, and `sigma`
    (of one hit) in ps; `limit` the greatest chi2 of four hits, `steepest` see `fit_four`.
    """
    room, busy = len(t) // 2 + 16, np.empty(len(t), np.bool_)
    while True:
        out = Candidates(
            np.empty(room, np.int64), np.empty(room), np.empty((room, 4), np.int32),
            np.empty(room, np.uint8), np.empty(room, np.uint8),
        )  # fmt: skip
        count = _candidates(t, layer, h, longest, tolerance, limit, sigma, steepest, *out, busy)
        if count <= room:
            return Candidates(
                out.t0[:count], out.chi2[:count], out.hits[:count], out.lat[:count], out.n[:count]
            ), busy
        room = count
