"""What the `gaps` builder means, in plain Python with exact rational times."""

from __future__ import annotations

from fractions import Fraction

TICK_PS = Fraction(2500, 3)


def events(
    rows: list[tuple[int, int, int]], gap: int, longest: int
) -> tuple[list[tuple[int, list[int]]], int]:
    """`(anchor, row numbers)` of each event, and how many were cut.

    `rows` are `(t in ps, clock, ticks)` of tubes in order; rows of one clock have t = offset +
    floor(ticks · 2500/3 ps) with one offset per clock and compare exactly.
    """
    out: list[tuple[int, list[int]]] = []
    cut = set()
    for i, (t, clock, ticks) in enumerate(rows):
        if i == 0:
            new = True
        else:
            t_before, clock_before, ticks_before = rows[i - 1]
            exact = (ticks - ticks_before) * TICK_PS if clock == clock_before else t - t_before
            new = exact > gap
        if new:
            out.append((t, []))
        if t - out[-1][0] <= longest:
            out[-1][1].append(i)
        else:
            cut.add(len(out) - 1)
    return out, len(cut)
