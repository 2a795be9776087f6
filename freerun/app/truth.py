"""A simulated run against its truth: the files' events, and the physics in them.

Exactly: the set of events in the complete slices is what the builder makes of the regenerated
word stream, uncut and offline, in pieces of ten seconds with guards. Physically: which muons were
found, which events are nobody's, how good t0 is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import numpy.typing as npt
import uproot

from freerun.config import Bench
from freerun.config.simulation import telescope
from freerun.simulation import BLOCK_NS, block_truth
from freerun.ticks import Clock

Array = npt.NDArray[Any]
PIECE_NS = 10_000_000_000
MATCH_PS = 25_000
MIN_LAYERS = 3

# branch of the file ← column of the builder's table (the record of a list: "hit.t")
EXACT = {
    "t0_ns": "t0_ns", "t0_ps": "t0_ps", "t0_kind": "t0_kind", "t0_err": "t0_err",
    "n_hit": "hit", "hit_source": "hit.source", "hit_channel": "hit.channel",
    "hit_det": "hit.det", "hit_layer": "hit.layer", "hit_cell": "hit.cell",
    "hit_t": "hit.t", "hit_ticks": "hit.ticks", "hit_flags": "hit.flags",
    "n_seg": "seg", "seg_det": "seg.det", "seg_t0": "seg.t0", "seg_x": "seg.x",
    "seg_slope": "seg.slope", "seg_chi2": "seg.chi2", "seg_n": "seg.n", "seg_lat": "seg.lat",
    "seg_origin": "seg.origin",
    "n_pulse": "pulse", "pulse_channel": "pulse.channel", "pulse_t": "pulse.t",
    "pulse_q": "pulse.q", "pulse_qs": "pulse.qs",
}  # fmt: skip


@dataclass
class Findings:
    """What the comparison found; events and muons in complete slices only."""

    events: int = 0
    wrong: int = 0
    differences: list[str] = field(default_factory=list)
    muons: int = 0
    found: int = 0
    fakes: int = 0
    residuals: list[Array] = field(default_factory=list)

    @property
    def exact(self) -> bool:
        return self.wrong == 0 and not self.differences

    @property
    def efficiency(self) -> float:
        return self.found / self.muons if self.muons else 1.0

    @property
    def fake_fraction(self) -> float:
        return self.fakes / self.events if self.events else 0.0

    @property
    def sigma_ns(self) -> float:
        """Half the width that holds 68.3 % of the residuals."""
        if not self.residuals:
            return 0.0
        low, high = np.percentile(np.concatenate(self.residuals), [15.85, 84.15])
        return float(high - low) / 2000

    @property
    def bias_ns(self) -> float:
        return float(np.median(np.concatenate(self.residuals))) / 1000 if self.residuals else 0.0


def check(
    folder: Path, bench: Bench, document: dict[str, Any], pipeline: str,
    progress: Callable[[float], None] = lambda _: None,
) -> Findings:  # fmt: skip
    """Compare the files of a run with its regenerated stream. `folder` is the run's."""
    setup = import_module("processors.setup")
    lane = setup.pipeline_of(bench, pipeline)
    length, first, last = document["slice_ns"], document["first"], document["last"]
    files = sorted(folder.glob(f"*_{pipeline}_[0-9]*.root"))
    told = [_slices(f) for f in files]
    slices = np.concatenate(told) if told else np.empty((0, 2), np.int64)
    complete = np.zeros(last - first + 1, np.bool_)
    complete[slices[slices[:, 1] == 1, 0] - first] = True
    out = Findings()
    per_piece = max(1, PIECE_NS // length)
    for k in range(first, last + 1, per_piece):
        end = min(k + per_piece, last + 1)
        mine = complete[k - first : end - first]
        of_piece = [f for f, of in zip(files, told, strict=True)
                    if np.any((of[:, 0] >= k) & (of[:, 0] < end))]  # fmt: skip
        stored = _stored(of_piece, k, end)
        built = _built(bench, lane, document, k * length, (end - k) * length)
        _compare(out, stored, built, k, length, mine)
        _physics(out, bench, stored, k, end, length, mine)
        progress((end - first) / (last + 1 - first))
    return out


def _slices(path: Path) -> Array:
    with uproot.open(path) as f:
        table = f["slices"].arrays(["slice", "complete"], library="np")
    return np.stack([table["slice"], table["complete"].astype(np.int64)], axis=1)


def _stored(files: list[Path], k: int, end: int) -> Any:
    """Events of the slices k…end-1 in the files, as an awkward array of `EXACT`'s branches."""
    pieces = []
    for path in files:
        with uproot.open(path) as f:
            tree = f["events"]
            at = tree["slice"].array(library="np")
            low, high = np.searchsorted(at, [k, end])
            if low < high:
                pieces.append(
                    tree.arrays([*EXACT, "slice"], entry_start=int(low), entry_stop=int(high))
                )
    return ak.concatenate(pieces) if pieces else ak.Array([])


def _built(bench: Bench, lane: Any, document: dict[str, Any], start: int, length: int) -> Any:
    """What the builder makes of [start, start + length), all sources of the run's roster."""
    producers, offline = import_module("producers.__main__"), import_module("processors.offline")
    rows = {}
    reach = bench.time.guard + BLOCK_NS
    for name in document["roster"]:
        source = bench.source(name)
        driver = producers.make_driver(bench, source)
        clock = Clock(
            document["plan"]["anchors"][source.domain], driver.tick.numerator,
            driver.tick.denominator, document["plan"]["offsets"].get(name, 0),
        )  # fmt: skip
        blocks = range((start - reach) // BLOCK_NS, (start + length + reach) // BLOCK_NS + 1)
        all_rows = driver.join([driver.make(b, clock) for b in blocks])
        rows[name] = (driver.schema, all_rows, clock)
    return ak.from_arrow(offline.uncut(lane, bench, start, length, rows).events)


def _compare(out: Findings, stored: Any, built: Any, k: int, length: int, complete: Array) -> None:
    """Event by event, column by column, to the last bit."""
    in_slice = built["t0_ns"].to_numpy() // length - k
    built = built[complete[in_slice]]
    n_built = len(built)
    if len(stored) == 0:
        out.wrong += n_built
        if n_built:
            out.differences.append(f"slices from {k}: no event stored, {n_built} expected")
        return
    stored = stored[complete[stored["slice"].to_numpy() - k]]
    out.events += len(stored)
    if len(stored) != n_built:
        out.wrong += abs(len(stored) - n_built)
        out.differences.append(f"slices from {k}: {len(stored)} events stored, {n_built} expected")
        return
    for branch, column in EXACT.items():
        group, _, name = column.partition(".")
        expected = built[group][name] if name else built[group]
        if branch.startswith("n_"):
            expected = ak.num(expected, axis=1)
        same = equal(stored[branch], expected)
        if not same:
            out.differences.append(f"slices from {k}: {branch} differs")
            out.wrong += 1


def equal(a: Any, b: Any) -> bool:
    """Bitwise, also the lengths of lists."""
    if a.ndim > 1:
        lengths = [ak.to_numpy(ak.num(x, axis=1)) for x in (a, b)]
        if not np.array_equal(*lengths):
            return False
    flat = [ak.to_numpy(ak.flatten(x, axis=None)) for x in (a, b)]
    return bool(np.array_equal(flat[0], flat[1].astype(flat[0].dtype), equal_nan=False))


def _physics(
    out: Findings, bench: Bench, stored: Any, k: int, end: int, length: int, complete: Array
) -> None:
    config = telescope(bench)
    blocks = range(k * length // BLOCK_NS - 1, end * length // BLOCK_NS + 2)
    truth = np.concatenate([block_truth(config, b) for b in blocks])
    t0 = (truth["t0_ns"] - k * length) * 1000 + truth["t0_ps"]
    where = (truth["t0_ns"] - k * length) // length
    inside = (where >= 0) & (where < end - k)
    inside[inside] = complete[where[inside]]
    layers = np.unpackbits(truth["layers"].astype(np.uint8)[..., None], axis=-1).sum(axis=-1)
    wanted = inside & (layers.max(axis=1) >= MIN_LAYERS)
    if len(stored) == 0:
        out.muons += int(wanted.sum())
        return
    events = stored[complete[stored["slice"].to_numpy() - k]]
    anchor = (events["t0_ns"].to_numpy() - k * length) * 1000 + events["t0_ps"].to_numpy()
    muon_of, event_of = match(t0, anchor.astype(np.int64))
    taken = np.zeros(len(t0), np.bool_)
    taken[muon_of] = True
    out.muons += int(wanted.sum())
    out.found += int((wanted & taken).sum())
    out.fakes += len(anchor) - len(event_of)
    out.residuals.append(anchor[event_of] - t0[muon_of])


def match(truth: Array, found: Array, within: int = MATCH_PS) -> tuple[Array, Array]:
    """One-to-one: pairs closer than `within`, nearest first. Both sorted by time (ps).

    Returns indices into `truth` and `found`.
    """
    low = np.searchsorted(truth, found - within, side="left")
    high = np.searchsorted(truth, found + within, side="right")
    n = high - low
    event = np.repeat(np.arange(len(found)), n)
    muon = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n) + np.repeat(low, n)
    order = np.argsort(np.abs(truth[muon] - found[event]), kind="stable")
    event, muon = event[order], muon[order]
    free_muon, free_event = np.ones(len(truth), np.bool_), np.ones(len(found), np.bool_)
    # most pairs are each other's only ones; the few others are gone through nearest first
    alone = (np.bincount(event, minlength=len(found))[event] == 1) & (
        np.bincount(muon, minlength=len(truth))[muon] == 1
    )
    keep = alone.copy()
    for i in np.flatnonzero(~alone):
        if free_muon[muon[i]] and free_event[event[i]]:
            free_muon[muon[i]] = free_event[event[i]] = False
            keep[i] = True
    return muon[keep], event[keep]
