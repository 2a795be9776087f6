"""The track segments of one chamber: candidates, the best of those that share hits, their lines."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from freerun.builder import Array
from processors.builders.chambers import ChamberHits, Chambers
from processors.builders.fits import lines
from processors.builders.merge import FOUR_HITS, THREE_HITS
from processors.builders.segments import candidates
from processors.builders.suppress import AMBIGUOUS, keep

THREE_ONLY, SECOND_NEAR = 1, 2
"""Bits of a segment's quality."""


class Segments(NamedTuple):
    """Kept segments of one chamber, or of all; one row each."""

    t0: Array
    rank: Array
    chi2: Array
    det: Array
    n: Array
    lat: Array
    x: Array
    slope: Array
    quality: Array


def in_chamber(
    hits: ChamberHits, slot: int, c: Chambers, config: Any, used: Array
) -> tuple[Segments, Array]:
    """The segments of chamber `slot`, and the times (ps) of seeds that met a cap.

    `config` is a `DriftTubes.Config`. Sets `used` (one bool per row of `hits`) where a segment
    uses the hit.
    """
    rows = slice(hits.first[slot], hits.first[slot + 1])
    t, layer = hits.t[rows], hits.layer[rows]
    longest, sigma = int(c.longest[slot]), float(config.resolution)
    half_layer = abs(c.z[slot, 1] - c.z[slot, 0]) / 2
    found, busy = candidates(
        t, layer, hits.column[rows], longest, config.tolerance,
        (2.0 * config.agree / sigma) ** 2, sigma,
        int(20 * config.max_slope * half_layer / c.speed[slot]),
    )  # fmt: skip
    state = keep(found.t0, found.chi2, found.hits, found.n, len(t))
    kept = np.flatnonzero((state > 0) & (found.n >= config.min_layers))
    x, slope = np.empty(len(kept), np.float32), np.empty(len(kept), np.float32)
    lines(t, layer, hits.cell[rows], kept, found.t0, found.hits, found.lat, c.wire[slot],
          c.z[slot], float(c.speed[slot]), x, slope, used[rows])  # fmt: skip
    n = found.n[kept]
    three, ambiguous = n == 3, state[kept] & AMBIGUOUS > 0
    segments = Segments(
        t0=found.t0[kept],
        rank=np.where(three, THREE_HITS, FOUR_HITS).astype(np.uint8),
        chi2=found.chi2[kept],
        det=np.full(len(kept), c.det[slot], np.uint8),
        n=n,
        lat=found.lat[kept],
        x=x,
        slope=slope,
        quality=(three * THREE_ONLY + ambiguous * SECOND_NEAR).astype(np.uint8),
    )
    return segments, t[busy]
