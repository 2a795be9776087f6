"""`run verify --deep`: every event built again, against the results and against the files."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import uproot

from freerun.app.truth import EXACT, equal
from freerun.config import Bench
from freerun.errors import FreerunError
from freerun.kafka import BrokerTrouble
from freerun.plan import Plan, Run
from freerun.topics import Topics

Say = Callable[[str], None]
STORED = EXACT | {
    "quality": "quality", "seg_quality": "seg.quality", "pulse_source": "pulse.source",
    "pulse_det": "pulse.det", "pulse_psd": "pulse.psd", "pulse_amp": "pulse.amp",
    "pulse_base": "pulse.base", "pulse_flags": "pulse.flags",
}  # fmt: skip
EVERY_S = 5.0


def regenerate(
    address: str, topics: Topics, bench: Bench, plan: Plan, run: Run,
    document: Mapping[str, Any], pipeline: str, folder: Path, say: Say,
) -> dict[str, Any]:  # fmt: skip
    """Compare the events built again with those of the topic, and these with those of the files.

    Returns `slices` and `events` compared, `gaps` (each names slice, column and row), `unknown`.
    """
    out: dict[str, Any] = {"slices": 0, "events": 0, "gaps": [], "unknown": []}
    files = Files(folder, pipeline)
    total = document["last"] - document["first"] + 1
    said = time.monotonic()
    stretches = import_module("processors.regenerate").regenerate(
        address, topics, bench, plan, run, pipeline, out["unknown"].append
    )
    try:
        for part in stretches:
            out["slices"] += part.slices
            out["events"] += part.events
            if part.found is not None:
                out["gaps"].append(f"not what the builder makes of the raw words: {part.found}")
            out["gaps"] += files.compare(part)
            if time.monotonic() > said + EVERY_S:
                said = time.monotonic()
                say(f"          {out['slices']:,d} of {total:,d} slices built again")
    except BrokerTrouble:
        raise
    except FreerunError as error:
        out["gaps"].append(f"cannot be built again: {error}")
    return out


class Files:
    """The trees `events` of a pipeline, read stretch by stretch."""

    def __init__(self, folder: Path, pipeline: str) -> None:
        self._files = []
        for path in sorted(folder.glob(f"Run*_{pipeline}_[0-9][0-9][0-9][0-9].root")):
            with uproot.open(path) as file:
                self._files.append((path, file["events"]["slice"].array(library="np")))

    def compare(self, part: Any) -> list[str]:
        """What the files of these slices have that the results have not, or the other way."""
        if not self._files:
            return []
        pieces = []
        for path, at in self._files:
            low, high = np.searchsorted(at, [part.first, part.last + 1])
            if low < high:
                with uproot.open(path) as file:
                    pieces.append(file["events"].arrays(
                        [*STORED, "slice"], entry_start=int(low), entry_stop=int(high)
                    ))  # fmt: skip
        stored: Any = ak.concatenate(pieces) if pieces else []
        where = f"files, slices {part.first} to {part.last}"
        if len(stored) != part.events:
            return [f"{where}: {len(stored)} events, {part.events} in the topic"]
        if not part.events:
            return []
        of_slice = np.repeat([k for k, _ in part.of_slice], [n for _, n in part.of_slice])
        wrong = [] if np.array_equal(stored["slice"].to_numpy(), of_slice) else ["slice"]
        table = ak.from_arrow(part.stored)
        for branch, column in STORED.items():
            group, _, name = column.partition(".")
            expected = table[group][name] if name else table[group]
            if branch.startswith("n_"):
                expected = ak.num(expected, axis=1)
            if not equal(stored[branch], expected):
                wrong.append(branch)
        return [f"{where}: {name} is not that of the topic" for name in wrong]
