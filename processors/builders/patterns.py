"""What a straight track can do in four half-staggered layers, as small tables for the kernels.

Layers 1…4 are A…D. Cells are counted in half cells `h` along the layer; neighbouring layers differ
by one (`u` = ±1). A pattern is three bits, bit i set if the step from layer i to i+1 goes up; a
laterality is four bits, bit i set if the track passes layer i on the upper side of its wire
(`s` = +1, else −1). In time units (T = longest drift, the time across half a cell) a track obeys

    h·T + s·(t − t0) = X + K·z       for its layers z = −3, −1, 1, 3

With X, K and t0 free, four hits leave one check and three leave none. Least squares gives t0 as
a ratio of integer sums over the hits, and the check is one integer sum. For alternating sides t0
is the mean of the two mean-timers, ¼(tA+2tB+tC−2T) and ¼(tB+2tC+tD−2T), and the check is a
multiple of their difference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Z = (-3, -1, 1, 3)
"""Layers A…D in half layer distances from the middle of the chamber."""

# For each pattern the sides that a line with |dx/dz| <= 1 can take, the most common one first.
_SIDES = (
    (0b1100, 0b1110, 0b1000),
    (0b1001, 0b1101, 0b0001),
    (0b1010, 0b0011, 0b0010, 0b1011),
    (0b1001, 0b1011, 0b1000),
    (0b0110, 0b0100, 0b0111),
    (0b0101, 0b1100, 0b0100, 0b1101),
    (0b0110, 0b0010, 0b1110),
    (0b0011, 0b0001, 0b0111),
)


def sides(laterality: int) -> tuple[int, int, int, int]:
    """The signs of the four layers."""
    a, b, c, d = (1 if laterality >> i & 1 else -1 for i in range(4))
    return a, b, c, d


def t0_weights(laterality: int) -> tuple[list[int], int]:
    """Integers `(c, n)` with t0 = Σ c·(h·T + s·t) / n; n is 0 where t0 cannot be known.

    They are the part of `s` across the vectors 1 and z, times 20: Σ 1 = 4 and Σ z² = 20.
    """
    s = sides(laterality)
    total, slope = sum(s), sum(si * zi for si, zi in zip(s, Z, strict=True))
    c = [20 * si - 5 * total - zi * slope for si, zi in zip(s, Z, strict=True)]
    return c, sum(ci * si for ci, si in zip(c, s, strict=True))


def check_weights(laterality: int) -> list[int]:
    """The one integer vector (up to a factor) across 1, z and `s`: what a track must make zero."""
    rows = [(1, 1, 1, 1), Z, sides(laterality)]
    out = []
    for i in range(4):
        a, b, c = ([row[j] for j in range(4) if j != i] for row in rows)
        minor = (
            a[0] * (b[1] * c[2] - b[2] * c[1])
            - a[1] * (b[0] * c[2] - b[2] * c[0])
            + a[2] * (b[0] * c[1] - b[1] * c[0])
        )
        out.append(-minor if i % 2 else minor)
    return out


def columns(pattern: int) -> list[int]:
    """Half cells of layers A…D of a pattern, A at 0."""
    h = [0]
    for i in range(3):
        h.append(h[-1] + (1 if pattern >> i & 1 else -1))
    return h


def _dot(a: Sequence[int], b: Sequence[int]) -> int:
    return sum(x * y for x, y in zip(a, b, strict=True))


def _table(row: Callable[[int, int], Sequence[int] | int]) -> npt.NDArray[np.int64]:
    """`row(pattern, laterality)` for (8 patterns, 4 places); places without one are 0."""
    some = np.asarray(row(0, _SIDES[0][0]))
    out = np.zeros((8, 4, *some.shape), np.int64)
    for pattern, lats in enumerate(_SIDES):
        for place, lat in enumerate(lats):
            out[pattern, place] = row(pattern, lat)
    return out


# Everything that `fit_four` needs, by pattern and place in `_SIDES`. With times t of the hits:
# check = CHECK_H·T + Σ CHECK_T·t,  t0 = (T0_H·T + Σ T0_T·t) / T0_NORM,
# slope = SLOPE_H·T + Σ SLOPE_T·(t − t0), which is Σ z·(h·T + s·drift).
COUNT = np.array([len(lats) for lats in _SIDES], np.int64)
LATERALITY = _table(lambda p, lat: lat)
CHECK_H = _table(lambda p, lat: _dot(check_weights(lat), columns(p)))
CHECK_T = _table(lambda p, lat: np.multiply(check_weights(lat), sides(lat)).tolist())
CHECK_NORM = _table(lambda p, lat: _dot(check_weights(lat), check_weights(lat))).astype(float)
T0_H = _table(lambda p, lat: _dot(t0_weights(lat)[0], columns(p)))
T0_T = _table(lambda p, lat: np.multiply(t0_weights(lat)[0], sides(lat)).tolist())
T0_NORM = _table(lambda p, lat: t0_weights(lat)[1])
SLOPE_H = _table(lambda p, lat: _dot(Z, columns(p)))
SLOPE_T = _table(lambda p, lat: np.multiply(Z, sides(lat)).tolist())

# Three hits have no check, so only alternating sides are believed. Per missing layer: the layers
# in order and their weights in t0 = ¼(Σ weight·t − 2T).
TRIPLE_LAYERS = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])
TRIPLE_WEIGHT = np.array([[1, 2, 1], [-1, 3, 2], [2, 3, -1], [1, 2, 1]])
