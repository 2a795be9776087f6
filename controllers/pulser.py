"""The pulsers of a run, counted again in its files: a loss check that asks nobody's counts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import numpy.typing as npt
import uproot

from controllers.stored import STEP, Stored
from freerun.builder import FLAG_NEIGHBOUR, FLAG_SHARED
from freerun.config import Bench
from freerun.config.geometry import Geometry
from freerun.config.units import HERTZ
from freerun.pulser import Found, judge, stretches

Array = npt.NDArray[Any]
AT_CLOSE_BYTES = 2_000_000_000
"""Files of more than this are counted by `run verify` only, not when their run closes."""
UNSEEN = ("late", "malformed", "quarantined")
"""Named losses that leave their slice complete: a pulse may be among them."""
OTHERS = ("slice", "t0_ns", "t0_ps", "hit_t", "hit_flags")


def check(
    bench: Bench, document: Mapping[str, Any], pipeline: str, stored: Stored | None,
    hits: Collection[str], verdict: Mapping[str, Any], thorough: bool,
) -> dict[str, Any]:  # fmt: skip
    """`{pulser: [...], gaps: [...], unknown: [...]}` of the pulsers that `pipeline` reads.

    `hits`: what its writers keep of them. Times are relative to the start of the run.
    """
    out: dict[str, Any] = {"pulser": [], "gaps": [], "unknown": []}
    for source in bench.sources:
        told, channel = source.pulser, source.pulser_channel
        if told is None or channel is None:
            continue
        readers = [p.id for p in bench.pipelines if _read(bench, p.id, source.id, channel)]
        if readers and pipeline not in readers:
            continue
        row: dict[str, Any] = {
            "source": source.id, "channel": channel, "rate": HERTZ.text(told.rate), "found": None,
            "expected": None, "missing": 0, "doubled": 0, "named": 0, "live_ns": 0, "ok": None,
            "why": "",
        }  # fmt: skip
        out["pulser"].append(row)
        unknown = _not_stored(pipeline, readers, stored, hits)
        if unknown or stored is None:
            row["why"] = f"cannot be counted again: {unknown}"
            out["unknown"].append(f"pulser {source.id}/{channel} {row['why']}")
        elif source.id not in document["sources"]:
            row["why"] = "was not in the run"
        elif not stored.whole:
            row["why"] = "not counted: not all files are here"
        elif not thorough and sum(p.stat().st_size for p in stored.paths) > AT_CLOSE_BYTES:
            row["why"] = f"counted by 'freerun run verify {document['run']}': the files are large"
        else:
            offset = int(Geometry.of(bench).maps[source.id].offset_ps[channel])
            try:
                found = _count(stored, document, source.id, channel, offset, told)
            except Exception as error:  # uproot raises many kinds at a broken file
                row["why"] = f"cannot be counted again: {error}"
                out["gaps"].append(f"pulser {source.id}/{channel} {row['why']}")
                continue
            _fill(row, found, verdict["sources"].get(source.id, {}).get("losses", {}))
            gaps = _gaps(row, found, document, told.tolerance_ppm)
            row["ok"] = not gaps
            out["gaps"] += gaps
    return out


def _read(bench: Bench, pipeline: str, source: str, channel: int) -> bool:
    """Does the pipeline store the hits of this channel?"""
    used = Geometry.of(bench, bench.pipeline(pipeline)).maps[source]
    return not used.masked[channel] and used.det[channel] != 255


def _not_stored(
    pipeline: str, readers: list[str], stored: Stored | None, hits: Collection[str]
) -> str:
    """Why its hits are in no file; empty if they are in one."""
    if not readers:
        return "no pipeline uses its detector"
    if stored is None:
        return f"no file is written of {pipeline}"
    return 'hits = "none"' if "none" in hits else ""


def _count(
    stored: Stored, document: Mapping[str, Any], source: str, channel: int, offset: int, told: Any
) -> Found:
    index, length = document["sources"].index(source), document["slice_ns"] * 1000
    every = source in document["roster"]
    good: list[int] = []
    for slices, ledger in zip(stored.slices, stored.ledger, strict=True):
        mine = ledger["slice"][(ledger["source"] == index) & (every | (ledger["assembled"] > 0))]
        complete = slices["slice"][slices["good"] != 0]
        good += np.intersect1d(complete, mine).tolist()
    once, again = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for path in stored.paths:
        for times, into in zip(
            _times(path, document, index, channel, offset), (once, again), strict=True
        ):
            into.append(times)
    single = np.concatenate(once)
    every_time = np.sort(np.concatenate([single, np.setdiff1d(np.concatenate(again), single)]))
    first = document["first"]
    borders = [((a - first) * length, (b - first) * length) for a, b in stretches(sorted(good))]
    return judge(every_time, borders, told.rate, told.tolerance_ppm)


def _times(
    path: Path, document: Mapping[str, Any], source: int, channel: int, offset: int
) -> tuple[Array, Array]:
    """Times (ps since the run's start, without the channel's offset) of the rows in one file:
    those that are there once, and those that another place may have, too.

    A row that is in an event of its own slice and in no other, or in none, is there once. One
    that events share, or that a slice and the event of its neighbour have, is the same at the
    same time: `hit_t` is whole ps, exact as float32 below 8 us.
    """
    start, length = document["t_start_ns"], document["slice_ns"] * 1000
    once, again = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    with uproot.open(path) as file:
        tree = file["events"]
        for piece, at in tree.iterate(
            ["hit_source", "hit_channel"], step_size=STEP, library="ak", report=True
        ):
            wanted = (piece["hit_channel"] == channel) & (piece["hit_source"] == source)
            if not ak.any(wanted):
                continue
            more = tree.arrays(OTHERS, library="ak", entry_start=at.tree_entry_start,
                               entry_stop=at.tree_entry_stop)  # fmt: skip
            rows = ak.to_numpy(ak.num(more["hit_t"][wanted], axis=1))
            t0, ps, k = (np.repeat(ak.to_numpy(more[n]), rows) for n in ("t0_ns", "t0_ps", "slice"))
            drift, flags = (
                ak.to_numpy(ak.flatten(more[n][wanted])) for n in ("hit_t", "hit_flags")
            )
            t = (t0 - start) * 1000 + ps.astype(np.int64) - offset
            t += np.rint(drift * 1e3).astype(np.int64)
            shared = (flags & FLAG_SHARED != 0) | (t // length + document["first"] != k)
            once.append(t[~shared])
            again.append(t[shared])
        names = ["event", "source", "channel", "t_ns", "t_ps", "flags"]
        for piece in file["hits"].iterate(names, step_size=STEP, library="np"):
            mine = (piece["channel"] == channel) & (piece["source"] == source)
            mine &= piece["event"] < 0
            t = (piece["t_ns"][mine] - start) * 1000 + piece["t_ps"][mine].astype(np.int64) - offset
            shared = piece["flags"][mine] & FLAG_NEIGHBOUR != 0
            once.append(t[~shared])
            again.append(t[shared])
    return np.concatenate(once), np.concatenate(again)


def _fill(row: dict[str, Any], found: Found, losses: Mapping[str, int]) -> None:
    row |= {"found": found.found, "expected": found.expected, "missing": found.missing,
            "doubled": found.doubled, "live_ns": found.live_ps // 1000}  # fmt: skip
    row["named"] = min(found.missing, sum(losses.get(name, 0) for name in UNSEEN))


def _gaps(
    row: Mapping[str, Any], found: Found, document: Mapping[str, Any], ppm: float
) -> list[str]:
    name = f"pulser {row['source']}/{row['channel']} at {row['rate']}"
    places = ", ".join(
        f"{t / 1e12:.6f} s (slice {document['first'] + t // (document['slice_ns'] * 1000)})"
        for t in found.where
    )
    out = []
    if found.missing > row["named"]:
        out.append(f"{name}: {found.missing} of {found.expected} pulses are not in the files, "
                   f"after t_run = {places}")  # fmt: skip
    if found.doubled:
        out.append(f"{name}: {found.doubled} pulses too many in the files, at t_run = {places}")
    if found.off > 0 and not out:
        out.append(f"{name}: {found.expected} pulses in {found.live_ps / 1e12:.1f} s are not that "
                   f"rate ± {ppm:g} ppm: mend the rate, or set tolerance_ppm")  # fmt: skip
    return out
