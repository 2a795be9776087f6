"""One snapshot of the monitor service: all aggregates of a run so far. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from freerun.errors import Quarantined
from freerun.histograms import Hist
from freerun.wire import read_batch

Counts = npt.NDArray[np.int64]
OCCUPANCY = "/occupancy"


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What the monitor service said last; compared by identity, so a cache can key on it.

    `info` is the header of the record (run, k_next, t_ns, made_ns, rates, …), `hists` the
    histograms by name with their int64 counts.
    """

    info: Mapping[str, Any]
    hists: Mapping[str, tuple[Hist, Counts]]

    @property
    def run(self) -> int | None:
        run = self.info.get("run")
        return None if run is None else int(run)

    @property
    def final(self) -> bool:
        return bool(self.info.get("final"))

    @property
    def hits(self) -> int:
        """Integral over all occupancies: the ledger's count of hits."""
        return sum(int(counts.sum()) for _, counts in self.ending(OCCUPANCY).values())

    def ending(self, ending: str) -> dict[str, tuple[Hist, Counts]]:
        """The histograms `<detector><ending>` by detector, in the order of their names."""
        return {
            name.removesuffix(ending): self.hists[name]
            for name in sorted(self.hists)
            if name.endswith(ending)
        }

    def rates(self) -> tuple[list[float], dict[str, list[float]], list[float]]:
        """Run time [s], rows/s of each source, events/s: one point a second, at most 600."""
        points = self.info.get("rates") or []
        sources = sorted({source for _, rows, _ in points for source in rows})
        return (
            [float(t) for t, _, _ in points],
            {s: [float(rows.get(s, 0.0)) for _, rows, _ in points] for s in sources},
            [float(events) for _, _, events in points],
        )


def decode(headers: Iterable[tuple[str, bytes | None]] | None, body: bytes) -> Snapshot:
    """The snapshot in a Kafka record; raises `Quarantined` if it is not one."""
    raw = dict(headers or ()).get("info")
    if raw is None:
        raise Quarantined("bad_headers", "expected a snapshot with header info, got none")
    batch = read_batch(body)
    try:
        info = json.loads(raw)
        listed = json.loads((batch.schema.metadata or {})[b"hists"])
        specs = {hist.name: hist for hist in map(Hist.from_json, listed)}
        rows = zip(
            batch.column("name").to_pylist(), batch.column("shape").to_pylist(),
            batch.column("values"), strict=True,
        )  # fmt: skip
        hists = {
            name: (specs[name], np.asarray(values.values, dtype=np.int64).reshape(shape))
            for name, shape, values in rows
        }
    except (KeyError, ValueError, TypeError) as error:
        raise Quarantined("bad_body", f"snapshot: {type(error).__name__} {error}") from error
    return Snapshot(info, hists)
