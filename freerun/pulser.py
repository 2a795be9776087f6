"""A channel of known rate as a loss check: which of its pulses are not there, or there twice. Pure.

A stretch is whole slices next to each other. In it each pulse follows the last by one period: an
interval of n periods lacks n - 1 pulses, one of none has a pulse too many. So every single one is
seen, however far the real rate is from the one that was told; that difference is judged apart: a
stretch of length T must hold rate x T pulses, give or take one and the tolerance.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]
JITTER = 0.1
"""Of a period: by so much a pulse may be off and none is missed beyond the edge of a stretch."""


def stretches(slices: Iterable[int]) -> list[tuple[int, int]]:
    """Numbers of slices, ascending, as (first, behind the last) of those next to each other."""
    out: list[tuple[int, int]] = []
    for k in slices:
        if out and out[-1][1] == k:
            out[-1] = (out[-1][0], k + 1)
        else:
            out.append((k, k + 1))
    return out


@dataclass
class Found:
    """What the stretches of a run hold; times in ps, of the same zero as the pulses'."""

    found: int = 0
    live_ps: int = 0
    missing: int = 0
    doubled: int = 0
    where: list[int] = field(default_factory=list)
    """About when each pulse was missing or double; the first few."""
    off: float = 0.0
    """The largest excess over rate x T ± (1 + tolerance) of a stretch, in pulses."""

    @property
    def expected(self) -> int:
        """How many there should be, by the pulses themselves."""
        return self.found + self.missing - self.doubled


def judge(times: I64, borders: Iterable[tuple[int, int]], rate_hz: float, ppm: float) -> Found:
    """Look for the pulses `times` (int64, ascending) in the stretches [begin, end).

    Pulses outside of the stretches are left alone.
    """
    out = Found()
    period, part = 1e12 / rate_hz, ppm * 1e-6
    for begin, end in borders:
        mine = times[np.searchsorted(times, begin) : np.searchsorted(times, end)]
        edges = np.concatenate([[begin], mine, [end]])
        steps = np.rint(np.diff(edges) / period).astype(np.int64)
        lack = steps - 1
        # beyond the first and the last pulse only what must have been there is missing
        sure = np.diff(edges)[[0, -1]] / period * (1 - part) - JITTER
        lack[[0, -1]] = np.maximum(0, np.floor(sure)).astype(np.int64)
        expected = len(mine) + int(lack.sum())
        wanted = (end - begin) / period
        out.found += len(mine)
        out.live_ps += end - begin
        out.missing += int(lack[lack > 0].sum())
        out.doubled -= int(lack[lack < 0].sum())
        out.off = max(out.off, abs(expected - wanted) - 1 - part * wanted - 1e-6)
        out.where += edges[:-1][lack != 0][: max(0, 5 - len(out.where))].tolist()
    return out


def line(row: dict[str, Any]) -> str:
    """What a person reads of a row of the verdict."""
    name = f"{row['source']}/{row['channel']} at {row['rate']}"
    if row["found"] is None:
        return f"pulser    {name}: {row['why']}"
    share = f", {row['named']} perhaps among the rows named as lost" if row["named"] else ""
    return (
        f"pulser    {name}: {row['found']:,d} of {row['expected']:,d} found again in the files"
        f"{share} ({row['live_ns'] / 1e9:.1f} s in complete slices)"
    )
