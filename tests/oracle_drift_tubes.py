"""What the `drift_tubes` builder means, in plain Python: every hit against every other.

It solves each fit by its normal equations in exact fractions, judges all candidates pairwise, and
knows no caps (`overflow` of the builder must be 0 where the two are compared).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

T = 390_000
# Sides that a line with |dx/dz| <= 1 can take, by the steps (up = 1) from layer to layer.
SIDES = {
    (0, 0, 0): ("0011", "0111", "0001"), (1, 0, 0): ("1001", "1011", "1000"),
    (0, 1, 0): ("0101", "1100", "0100", "1101"), (1, 1, 0): ("1001", "1101", "0001"),
    (0, 0, 1): ("0110", "0010", "1110"), (1, 0, 1): ("1010", "0011", "0010", "1011"),
    (0, 1, 1): ("0110", "0100", "0111"), (1, 1, 1): ("1100", "1000", "1110"),
}  # fmt: skip
"""Layer 1 first; 1 = upper side. In the order in which equals are tried."""


@dataclass(frozen=True)
class Settings:
    merge: int = 25_000
    lo: int = -50_000
    hi: int = 500_000
    min_layers: int = 3
    tolerance: int = 12_000
    agree: int = 20_000
    resolution: int = 4_000
    max_slope: Fraction = Fraction(1)
    scint_delay: int = 95_000
    order: tuple[int, ...] = (1, 0, 2)  # mean-timer, FPGA, scintillator
    latency: tuple[int, ...] = (498_900, 506_400, 500_500, 497_400)


@dataclass
class Segment:
    t0: int
    hits: tuple[int, ...]  # row numbers
    n: int
    chi2: Fraction
    lat: int
    ambiguous: bool = False


@dataclass
class Event:
    anchor: int
    kind: int
    rows: list[int]
    segments: list[tuple[int, int, int, int, int, int]] = field(default_factory=list)
    quality: int = 0


def solve(matrix: list[list[Fraction]], right: list[Fraction]) -> list[Fraction] | None:
    """Gauss in fractions."""
    n = len(right)
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for i in range(n):
        pivot = next((r for r in range(i, n) if rows[r][i] != 0), None)
        if pivot is None:
            return None
        rows[i], rows[pivot] = rows[pivot], rows[i]
        for r in range(n):
            if r != i:
                factor = rows[r][i] / rows[i][i]
                rows[r] = [a - factor * b for a, b in zip(rows[r], rows[i], strict=True)]
    return [rows[i][n] / rows[i][i] for i in range(n)]


def fit(
    points: list[tuple[int, int, int, int]], zero: int
) -> tuple[int, Fraction, Fraction] | None:
    """`(t0, sum of squares, slope)` of hits `(z, h, side, t)`: h·T + side·(t − t0) = X + K·z."""
    design = [[Fraction(1), Fraction(z), Fraction(side)] for z, _, side, _ in points]
    value = [Fraction(h * T + side * (t - zero)) for _, h, side, t in points]
    normal = [[sum(row[i] * row[j] for row in design) for j in range(3)] for i in range(3)]
    answer = solve(normal, [sum(row[i] * v for row, v in zip(design, value, strict=True))
                            for i in range(3)])  # fmt: skip
    if answer is None:
        return None
    rest = [v - sum(a * b for a, b in zip(row, answer, strict=True))
            for row, v in zip(design, value, strict=True)]  # fmt: skip
    t0 = answer[2].numerator // answer[2].denominator
    whole = [h * T + side * (t - zero - t0) for _, h, side, t in points]
    slope = Fraction(sum(p[0] * w for p, w in zip(points, whole, strict=True)), 20)
    return t0 + zero, sum((r * r for r in rest), Fraction(0)), slope


def four(hits: list[tuple[int, int, int]], s: Settings) -> tuple[int, Fraction, int] | None:
    """The best `(t0, chi2, lat)` of hits `(t, layer 0…3, h)`, one per layer."""
    h = [hit[2] for hit in hits]
    if any(abs(b - a) != 1 for a, b in itertools.pairwise(h)):
        return None
    zero = min(hit[0] for hit in hits)
    best = None
    for text in SIDES[tuple(int(b > a) for a, b in itertools.pairwise(h))]:
        side = [1 if c == "1" else -1 for c in text]
        result = fit([(2 * k - 3, h[k] - h[0], side[k], hits[k][0]) for k in range(4)], zero)
        assert result is not None
        t0, squares, slope = result
        chi2 = squares / s.resolution**2
        half_layer_in_time = Fraction(13, 2) / (Fraction(21, T))
        if (
            chi2 <= Fraction(2 * s.agree, s.resolution) ** 2
            and abs(slope) <= s.max_slope * half_layer_in_time
            and all(-s.tolerance <= hit[0] - t0 <= T + s.tolerance for hit in hits)
            and (best is None or chi2 < best[1])
        ):
            best = (t0, chi2, sum(1 << k for k in range(4) if side[k] > 0))
    return best


def three(hits: list[tuple[int, int, int]], s: Settings) -> tuple[int, int] | None:
    """`(t0, lat)` by the mean-timer equations of the four ways to have three layers."""
    layers = tuple(hit[1] for hit in hits)
    t1, t2, t3 = (hit[0] for hit in hits)
    h1, h2, h3 = (hit[2] for hit in hits)
    if layers in ((0, 1, 2), (1, 2, 3)):
        top, in_line, u, side = t1 + 2 * t2 + t3, (h1, h3), h2 - h1, (1, -1, 1)
    elif layers == (0, 1, 3):
        top, in_line, u, side = 3 * t2 + 2 * t1 - t3, (h2, h3), h2 - h1, (1, -1, -1)
    else:
        top, in_line, u, side = 3 * t2 + 2 * t3 - t1, (h1, h2), h3 - h2, (1, 1, -1)
    if in_line[0] != in_line[1] or abs(u) != 1:
        return None
    t0 = (top - 2 * T) // 4
    if not all(-s.tolerance <= t - t0 <= T + s.tolerance for t in (t1, t2, t3)):
        return None
    return t0, sum(1 << layer for layer, x in zip(layers, side, strict=True) if x * u > 0)


def segments(rows: list[tuple[int, int, int, int]], s: Settings) -> list[Segment]:
    """Kept segments of one chamber; rows `(row number, t, layer 0…3, h)` in order."""
    span = T + 2 * s.tolerance
    by_layer = [[r for r in rows if r[2] == layer] for layer in range(4)]
    found: list[Segment] = []

    def near(combination: tuple[Any, ...]) -> bool:
        times = [r[1] for r in combination]
        seed = min(combination)
        return max(times) - min(times) <= span and all(
            abs(r[3] - seed[3]) <= abs(r[2] - seed[2]) for r in combination
        )

    for combination in itertools.product(*by_layer):
        if near(combination):
            best = four([r[1:] for r in combination], s)
            if best is not None:
                found.append(Segment(best[0], tuple(r[0] for r in combination), 4, best[1],
                                     best[2]))  # fmt: skip
    in_four = {row for seg in found for row in seg.hits}
    for missing in range(4):
        layers = [layer for layer in range(4) if layer != missing]
        for combination in itertools.product(*(by_layer[layer] for layer in layers)):
            if near(combination) and min(combination)[0] not in in_four:
                result = three([r[1:] for r in combination], s)
                if result is not None:
                    hits = tuple(r[0] for r in combination)
                    found.append(Segment(result[0], hits, 3, Fraction(0), result[1]))
    found.sort(key=lambda c: min(c.hits))  # the order of seeds; ties stay as enumerated

    def better(a: int, b: int) -> bool:
        x, y = found[a], found[b]
        return (-x.n, x.chi2, x.t0, a) < (-y.n, y.chi2, y.t0, b)

    shares = [
        [j for j in range(len(found)) if j != i and set(found[i].hits) & set(found[j].hits)]
        for i in range(len(found))
    ]
    kept: set[int] = set()
    alive = set(range(len(found)))
    for _ in range(2):
        winners = {i for i in alive if not any(j in alive and better(j, i) for j in shares[i])}
        kept |= winners
        alive -= winners
        alive -= {i for i in alive if kept & set(shares[i])}
    for i in kept:
        found[i].ambiguous = any(found[j].n == found[i].n for j in shares[i])
    return [found[i] for i in sorted(kept) if found[i].n >= s.min_layers]


def merge(candidates: list[tuple[int, int, Fraction]], distance: int, rounds: int) -> list[int]:
    """Leader of each candidate `(t0, rank, chi2)` (ascending in t0), or −1. Rank 3 follows."""
    n = range(len(candidates))

    def close(i: int, j: int) -> bool:
        return abs(candidates[i][0] - candidates[j][0]) <= distance

    def badness(i: int) -> tuple[int, Fraction, int]:
        return candidates[i][1], candidates[i][2], i

    leads: set[int] = set()
    alive = {i for i in n if candidates[i][1] < 3}
    for _ in range(rounds):
        leads |= {i for i in alive if all(badness(i) <= badness(j) for j in alive if close(i, j))}
        alive = {i for i in alive if not any(close(i, j) for j in leads)}
    out = []
    for i in n:
        near = sorted((abs(candidates[j][0] - candidates[i][0]), j) for j in leads if close(i, j))
        out.append(near[0][1] if near else -1)
    return out


def events(
    hits: list[tuple[int, int, int, int]], words: list[tuple[int, int]], s: Settings
) -> list[Event]:
    """All events of hits `(t, det, layer 1…4, cell)` (det 4: scintillator) and words `(t, det)`."""
    column = {layer: (1 if layer in (1, 3) else 0) for layer in (1, 2, 3, 4)}
    chamber_rows = [
        [(i, t, layer - 1, 2 * cell + column[layer])
         for i, (t, det, layer, cell) in enumerate(hits) if det == d]
        for d in range(4)
    ]  # fmt: skip
    # t0, rank, chi2, kind, (det, n, lat, origin, quality, order)
    table: list[tuple[int, int, Fraction, int, tuple[int, ...]]] = []
    used: set[int] = set()
    for d in range(4):
        for g in segments(chamber_rows[d], s):
            used |= set(g.hits)
            quality = (1 if g.n == 3 else 0) + (2 if g.ambiguous else 0)
            table.append((g.t0, 0 if g.n == 4 else 1, g.chi2, 1, (d, g.n, g.lat, 0, quality)))
    for d in range(4):
        for t, det in words:
            if det != d:
                continue
            t0 = t + 12_500 - s.latency[d]
            edge = s.tolerance + 12_500
            free = {r[2] for r in chamber_rows[d]
                    if -edge <= r[1] - t0 <= T + edge and r[0] not in used}  # fmt: skip
            rank = 2 if len(free) >= s.min_layers else 3
            table.append((t0, rank, Fraction(0), 0, (d, len(free), 0, 1, 0)))
    for t, det, _, _ in hits:
        if det == 4:
            table.append((t - s.scint_delay, 3, Fraction(0), 2, ()))
    table.sort(key=lambda c: c[0])
    owner = merge([c[:3] for c in table], s.merge, rounds=4)
    out = []
    for leader in sorted(set(owner) - {-1}):
        mine = [table[i] for i in range(len(table)) if owner[i] == leader]
        kind = next(k for k in s.order if any(c[3] == k for c in mine))
        t0s = [c[0] for c in mine if c[3] == kind]
        anchor = sum(t0s) // len(t0s)
        rows = [i for i, hit in enumerate(hits) if s.lo <= hit[0] - anchor <= s.hi]
        event = Event(anchor, kind, rows)
        event.segments = [(c[0] - anchor, *c[4]) for c in mine if c[3] != 2]  # type: ignore[misc]
        out.append(event)
    for a, b in itertools.permutations(out, 2):
        if set(a.rows) & set(b.rows):
            a.quality |= 4
        if s.lo <= b.anchor - a.anchor <= s.hi:
            a.quality |= 8
    return out
