"""The files of a run read back: are they whole, and do they hold what the ledger says?"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import uproot

from controllers.writer import publish
from freerun.errors import FreerunError
from freerun.ledger import Account

Array = npt.NDArray[Any]
EVENT_BITS = 24  # event number = (slice - first) << EVENT_BITS | index
STEP = "50 MB"  # of columns in memory
OF_SOURCE = ("processed", "hits", "other", "masked", "unknown", "unassigned", "shared")
UNASSIGNED = "hits in no event"  # title of the tree `hits` that holds just these


@dataclass
class Stored:
    """What the files of one pipeline hold; `gaps` is what is wrong with them."""

    sources: Sequence[str]  # of the run document
    first: int  # slice of the run
    events: int = 0
    gaps: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    in_events: Counter[str] = field(default_factory=Counter)  # rows in events
    in_none: Counter[str] = field(default_factory=Counter)
    sums: dict[str, Counter[str]] = field(default_factory=dict)  # of the tree `ledger`
    files: int = 0
    whole: bool = True  # every file was here to be read
    counted: bool = True  # … row by row
    keeps_unassigned: bool = True
    slices: list[dict[str, Array]] = field(default_factory=list)  # one table a file
    ledger: list[dict[str, Array]] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)  # of the files read

    def info(self, k: int) -> dict[str, Any] | None:
        """What the header of slice `k` said, as far as the files keep it; None: not in a file."""
        for slices, ledger in zip(self.slices, self.ledger, strict=True):
            at = int(np.searchsorted(slices["slice"], k))
            if at == len(slices["slice"]) or slices["slice"][at] != k:
                continue
            complete, good = bool(slices["complete"][at]), bool(slices["good"][at])
            absent = [s for i, s in enumerate(self.sources) if int(slices["missing"][at]) >> i & 1]
            present: dict[str, dict[str, int]] = {}
            for row in np.flatnonzero(ledger["slice"] == k).tolist():
                source = self.sources[int(ledger["source"][row])]
                if source in absent:
                    continue
                mine = {name: int(ledger[name][row]) for name in OF_SOURCE}
                mine["rows"] = int(ledger["assembled"][row])
                mine["sum"] = int(ledger["checksum"][row])
                mine["in_events"] = mine["hits"] - mine["unassigned"] + mine["shared"]
                present[source] = mine
            return {
                "n_events": int(slices["n_events"][at]), "complete": complete,
                "failed": "see the file" if complete and not good else None,
                "sources": present, "counts": {},
                "missing": {s: {"why": "missing", "rows": 0} for s in absent},
            }  # fmt: skip
        return None

    def compare(self, account: Account) -> None:
        """Add a gap for each sum over the files that is not the account's."""
        if not self.whole:
            return
        for source, mine in account.sources.items():
            c, sums = mine.counts, self.sums.get(source, Counter())
            told = [(f"{name} in the tree ledger", sums[name], c[name]) for name in OF_SOURCE]
            if self.counted:
                told.append(("rows in stored events", self.in_events[source], c["in_events"]))
            if self.counted and self.keeps_unassigned:
                told.append(("stored rows in no event", self.in_none[source], c["unassigned"]))
            self.gaps += [f"{source}: {what}: {is_} stored, {should:d} published"
                          for what, is_, should in told if is_ != should]  # fmt: skip


def read_back(
    folder: Path, document: Mapping[str, Any], files: Iterable[Mapping[str, Any]], pipeline: str,
    thorough: bool,
) -> Stored:  # fmt: skip
    """Read what `files` (the writers' records) says there is of a pipeline, and of no pipeline.

    `thorough`: also the checksum of every file and every row's source; else sizes and counts.
    """
    out = Stored(tuple(document.get("sources") or ()), document["first"])
    mine = re.compile(rf"Run\d+_{re.escape(pipeline)}_\d+\.root$")
    manifest = _manifest(folder, out)
    following, known = document["first"], set()
    for said in files:
        known.add(said["name"])
        events = said.get("kind") == "events"
        if events and not mine.match(said["name"]):
            continue
        path = folder / said["name"]
        if _is_whole(path, said, manifest, thorough, out) and events:
            following = _events_file(path, said, following, thorough, out)
        elif events:
            out.whole = False
            out.events += int(said["rows"]["events"])
            following = int(said["last"]) + 1
    if document.get("last") is not None and following != document["last"] + 1:
        out.gaps.append(f"the files of {pipeline} end before slice {following}, the run with slice "
                        f"{document['last']}")  # fmt: skip
    for path in sorted(folder.glob("Run*.root")):
        if mine.match(path.name) and path.name not in known:
            out.gaps.append(f"{path.name} is in the folder, but no writer speaks of it")
    return out


def _manifest(folder: Path, out: Stored) -> dict[str, Any] | None:
    path = folder / "manifest.json"
    if not folder.is_dir():
        return None
    try:
        return {f["name"]: f for f in json.loads(path.read_text())["files"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        out.gaps.append(f"{path} cannot be read ({error})")
        return None


def _is_whole(
    path: Path, said: Mapping[str, Any], manifest: Mapping[str, Any] | None, thorough: bool,
    out: Stored,
) -> bool:  # fmt: skip
    """Is the file here, and the one that everybody speaks of?"""
    name = path.name
    if not path.exists():
        if said.get("url"):
            out.unknown.append(f"{name}: it is not here but in S3 only ({said['url']})")
        else:
            out.gaps.append(f"{name} is not in {path.parent}")
        return False
    try:
        sidecar: Mapping[str, Any] = publish.read_sidecar(path)
    except (OSError, FreerunError) as error:
        out.gaps.append(f"{name}: its sidecar cannot be read ({error})")
        sidecar = {}
    for who, other in (("sidecar", sidecar), ("manifest.json", (manifest or {}).get(name, {}))):
        if other and other.get("sha256") != said["sha256"]:
            out.gaps.append(f"{name}: its sha256 in {who} is not the one that the writer said")
        elif not other and (who == "sidecar" or manifest is not None):
            out.gaps.append(f"{name} is not in {who}")
    size = path.stat().st_size
    if size != said["bytes"]:
        out.gaps.append(f"{name}: {size} bytes, the writer said {said['bytes']}")
        return False
    if thorough and publish.sha256_of(path) != said["sha256"]:
        out.gaps.append(f"{name}: its content has changed: not the sha256 that the writer said")
        return False
    return True


def _events_file(
    path: Path, said: Mapping[str, Any], following: int, thorough: bool, out: Stored
) -> int:
    """Take in one data file; returns the slice that must follow."""
    try:
        with uproot.open(path) as file:
            slices = file["slices"].arrays(library="np")
            ledger = file["ledger"].arrays(library="np")
            for tree, rows in said["rows"].items():
                found = int(file[tree].num_entries)
                if found != rows:
                    out.gaps.append(f"{path.name}: {found} rows in {tree}, the writer said {rows}")
            out.events += int(file["events"].num_entries)
            per_slice = _rows_of(file, out) if thorough else None
    except Exception as error:  # uproot raises many kinds at a broken file
        out.gaps.append(f"{path.name} cannot be read as a data file: {error}")
        out.whole = False
        return int(said["last"]) + 1
    out.files += 1
    out.paths.append(path)
    out.slices.append(slices)
    out.ledger.append(ledger)
    k = slices["slice"]
    if not np.array_equal(k, np.arange(following, following + len(k))):
        got = f"{k[0]} to {k[-1]}" if len(k) else "none"
        out.gaps.append(f"{path.name}: expected the slices from {following} on, each once; {got}")
    if per_slice is None:
        out.counted = False
    else:
        have = np.array([per_slice[int(x)] for x in k], np.int64)
        wrong = np.flatnonzero(have != slices["n_events"])
        if len(wrong):
            at = int(wrong[0])
            out.gaps.append(f"{path.name}: slice {k[at]} has {have[at]} events, the tree slices "
                            f"says {slices['n_events'][at]}")  # fmt: skip
    for i, source in enumerate(out.sources):
        sums = out.sums.setdefault(source, Counter())
        for name in OF_SOURCE:
            sums[name] += int(ledger[name][ledger["source"] == i].sum())
    return int(k[-1]) + 1 if len(k) else following


def _rows_of(file: Any, out: Stored) -> Counter[int]:
    """Count rows of each source in events and in none; returns the events of each slice."""
    per_slice: Counter[int] = Counter()
    columns = ["event", "hit_source", "pulse_source"]
    newest = -1
    for piece in file["events"].iterate(columns, step_size=STEP, library="np"):
        event = piece["event"]
        if len(event) and not (event[0] > newest and (np.diff(event) > 0).all()):
            out.gaps.append(f"events after number {newest} are not in their order")
        newest = int(event[-1]) if len(event) else newest
        numbers, counts = np.unique((event >> EVENT_BITS) + out.first, return_counts=True)
        per_slice.update(dict(zip(numbers.tolist(), counts.tolist(), strict=True)))
        for name in columns[1:]:
            lists = piece[name]
            _count(np.concatenate(lists) if len(lists) else np.empty(0, int), out, out.in_events)
    out.keeps_unassigned &= file["hits"].title == UNASSIGNED
    for tree in ("hits", "pulses"):
        for piece in file[tree].iterate(["event", "source"], step_size=STEP, library="np"):
            _count(piece["source"][piece["event"] < 0], out, out.in_none)
    return per_slice


def _count(index: Array, out: Stored, into: Counter[str]) -> None:
    for i, n in enumerate(np.bincount(index.astype(np.int64)).tolist()):
        if n:
            into[out.sources[i] if i < len(out.sources) else f"source {i}"] += n
