"""The monitors of a run: deltas folded to whole histograms, and their ROOT file.

Counts are integers and sums do not depend on the order; each slice is counted once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import uproot
from uproot.writing.identify import to_TAxis, to_TH1x, to_TH2x

from freerun import wire
from freerun.errors import Quarantined
from freerun.histograms import Hist
from freerun.slices import partition

Counts = npt.NDArray[np.int64]
Folded = dict[str, tuple[Hist, Counts]]


class Fold:
    """Sums the deltas of slices `first…last` of one pipeline."""

    def __init__(self, first: int, partitions: int) -> None:
        self.hists: Folded = {}
        self.duplicates = 0
        self.bad = 0
        self._first = first
        self._seen = dict.fromkeys(range(partitions), first - 1)

    def offer(
        self,
        p: int,
        headers: Iterable[tuple[str, bytes | None]] | None,
        body: bytes,
        last: int | None,
    ) -> None:
        """Add one record of partition `p`; slices outside the run are not counted."""
        try:
            part = wire.read_result(headers)
        except Quarantined:
            self.bad += 1
            return
        if part.k < self._first or (last is not None and part.k > last):
            return
        if part.k <= self._seen[p]:
            self.duplicates += 1
            return
        self._seen[p] = part.k
        try:
            self._add(body)
        except (Quarantined, ValueError, KeyError, TypeError):
            self.bad += 1

    def _add(self, body: bytes) -> None:
        batch = wire.read_batch(body)
        told = json.loads((batch.schema.metadata or {}).get(b"hists", b"[]"))
        hists = {h.name: h for h in map(Hist.from_json, told)}
        values = batch.column("values")
        flat = values.values.to_numpy()
        offsets = values.offsets.to_numpy()
        for i, name in enumerate(batch.column("name").to_pylist()):
            hist = hists[name]
            counts = flat[offsets[i] : offsets[i + 1]].reshape(hist.shape)
            if name not in self.hists or self.hists[name][0].shape != hist.shape:
                self.hists[name] = (hist, hist.zeros())
            self.hists[name][1][...] += counts

    def complete(self, last: int) -> bool:
        """Has every slice up to `last` been seen?"""
        wanted: dict[int, int] = {}
        n = len(self._seen)
        for k in range(max(self._first, last - 2 * n + 1), last + 1):
            wanted[partition(k, n)] = k
        return all(self._seen[p] >= k for p, k in wanted.items())


def write_file(path: Path, pipelines: Mapping[str, Folded], texts: Mapping[str, str]) -> None:
    """A ROOT file with `<pipeline>/<detector>/<name>` as TH1D or TH2D, and texts at the top.

    Doubles are exact to 2^53, which is 3.8 years at 75 MHz; 64-bit integers ROOT does not have.
    """
    with uproot.create(path, compression=uproot.ZSTD(1)) as file:
        for pipeline, folded in pipelines.items():
            for name, (hist, counts) in sorted(folded.items()):
                file[f"{pipeline}/{name}"] = to_root(hist, counts)
        for name, text in texts.items():
            file[name] = text


def to_root(hist: Hist, counts: Counts) -> Any:
    """TH1D or TH2D with axis titles; statistics as if each count were a bin centre."""
    data = np.zeros([n + 2 for n in hist.shape], np.float64)
    data[tuple(slice(1, -1) for _ in hist.shape)] = counts
    entries = float(counts.sum())
    axes = [
        to_TAxis(name, axis.title, axis.bins, axis.lo, axis.hi)
        for name, axis in zip(("xaxis", "yaxis"), hist.axes, strict=False)
    ]
    centres = [
        axis.lo + (np.arange(axis.bins) + 0.5) * (axis.hi - axis.lo) / axis.bins
        for axis in hist.axes
    ]
    moments = [entries, entries]
    if len(axes) == 1:
        moments += [float((counts * centres[0] ** n).sum()) for n in (1, 2)]
        return to_TH1x(hist.name, hist.title, data, entries, *moments, data[:0], axes[0])
    x, y = np.meshgrid(*centres, indexing="ij")
    moments += [float((counts * m).sum()) for m in (x, x**2, y, y**2, x * y)]
    # ROOT counts bins with x running fastest
    return to_TH2x(
        hist.name, hist.title, data.T.ravel(), entries, *moments, data.ravel()[:0], *axes
    )
