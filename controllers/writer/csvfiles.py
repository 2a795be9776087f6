"""`Run…_ledger.csv` and `Run…_rates.csv`: a closed run's account and rates, for a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import uproot

Doc = Mapping[str, Any]
Array = npt.NDArray[Any]
BIN_NS = 10_000_000_000

# what a ledger's verdict says of a source, in the order of the chain
LEDGER = (
    "read", "in_kafka", "unclosed", "twice", "malformed", "quarantined", "pre_start", "dropped",
    "assembled", "gap", "broken", "given_up", "after_give_up", "off_roster", "quarantined_topic",
    "late", "stale", "duplicate", "processed", "failed", "hits", "other", "masked", "unknown",
    "in_events", "shared", "unassigned", "lost", "live_ns", "live_fraction",
)  # fmt: skip
RATES = ("t_run_s", "pipeline", "source", "rows_per_s", "events_per_s", "live_fraction")


def _text(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return out.getvalue()


def ledger_csv(doc: Doc) -> str:
    """One row per source: the totals of the run's ledger, in rows (`live_ns` in ns)."""
    sources: Mapping[str, Doc] = (doc.get("ledger") or {}).get("sources") or {}
    return _text(("source", *LEDGER), ([name, *(s.get(c, 0) for c in LEDGER)]
                                       for name, s in sources.items()))  # fmt: skip


def rates_csv(folder: Path, doc: Doc, files: Iterable[Doc]) -> str:
    """One row per 10 s of experiment time, pipeline and source, from the data files.

    `t_run_s` is where the 10 s begin; the last ones may be shorter, the rates are right for it.
    """
    of_pipeline: dict[str, list[tuple[Mapping[str, Array], Mapping[str, Array]]]] = {}
    for said in files:
        path = folder / str(said["name"])
        if said.get("kind") == "events" and path.exists():
            trees = _trees(path)
            if trees is not None:
                of_pipeline.setdefault(str(said["writer"]), []).append(trees)
    rows: list[Sequence[Any]] = []
    for pipeline, parts in of_pipeline.items():
        rows += _rows(pipeline, parts, doc)
    return _text(RATES, rows)


def _trees(path: Path) -> tuple[Mapping[str, Array], Mapping[str, Array]] | None:
    """Trees `slices` and `ledger`; None for a file that is damaged (`run verify` says so)."""
    try:
        with uproot.open(path) as file:
            return (
                file["slices"].arrays(
                    ["slice", "dt", "missing", "complete", "good", "n_events"], library="np"
                ),
                file["ledger"].arrays(["slice", "source", "assembled"], library="np"),
            )
    except Exception:  # uproot raises many kinds; a table must not stop a writer
        return None


def _rows(
    pipeline: str, parts: Sequence[tuple[Mapping[str, Array], Mapping[str, Array]]], doc: Doc
) -> list[Sequence[Any]]:
    slices = {n: np.concatenate([s[n] for s, _ in parts]) for n in parts[0][0]}
    ledger = {n: np.concatenate([x[n] for _, x in parts]) for n in parts[0][1]}

    if not len(slices["slice"]):
        return []
    length, first = int(slices["dt"][0]), int(doc.get("first") or slices["slice"][0])

    def bins(k: Array) -> Array:
        where: Array = (k - first) * length // BIN_NS
        return where

    at, of_row = bins(slices["slice"]), bins(ledger["slice"])
    n = int(at.max()) + 1
    seconds = np.bincount(at, minlength=n) * length / 1e9
    events = np.bincount(at, slices["n_events"], n)
    failed = (slices["complete"] == 1) & (slices["good"] == 0)
    out: list[Sequence[Any]] = []
    for i, source in enumerate(doc.get("sources") or ()):
        mine = ledger["source"] == i
        words = np.bincount(of_row[mine], ledger["assembled"][mine], n)
        missing = (slices["missing"] >> np.uint64(min(i, 63)) & np.uint64(1)) == 1
        live = np.bincount(at, ~(missing | failed), n) * length / 1e9
        for b in np.flatnonzero(seconds).tolist():
            s = seconds[b]
            out.append((f"{b * BIN_NS / 1e9:.0f}", pipeline, source, f"{words[b] / s:.1f}",
                        f"{events[b] / s:.1f}", f"{live[b] / s:.6f}"))  # fmt: skip
    return sorted(out, key=lambda row: int(row[0]))
