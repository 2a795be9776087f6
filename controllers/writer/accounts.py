"""From the header of a slice's results to its rows in `slices` and `ledger`. Pure.

A close counts since its incarnation began, so a slice's own numbers are differences: to the
close before it of the same incarnation, also across files and runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from controllers.writer.tables import RunFacts

Info = Mapping[str, Any]
Row = dict[str, int]
Closes = dict[str, dict[str, Any]]  # source → {"inc": …, "close": {count: …}}

_FROM_CLOSE = {
    "read": "read",
    "produced": "rows",
    "late": "late",
    "malformed": "malformed",
    "quarantined": "quarantined",
    "pre_start": "pre_start",
    "dropped": "dropped",
    "hw_lost": "lost",
    "spooled": "spooled",
}
_FROM_SOURCE = ("hits", "other", "masked", "unknown", "unassigned", "shared")


def slice_row(k: int, info: Info, run: RunFacts, failed: str | None, n_events: int) -> Row:
    """The row of slice `k` in `slices`."""
    good = bool(info.get("complete")) and not failed
    return {
        "slice": k,
        "t_ns": k * run.slice_ns,
        "dt": run.slice_ns,
        "complete": int(bool(info.get("complete"))),
        "by_timeout": int(bool(info.get("by_timeout"))),
        "missing": run.mask(info.get("missing") or {}),
        "live_ns": run.slice_ns if good else 0,
        "good": int(good),
        "spill": -1,
        "n_rows": sum(int(s.get("rows", 0)) for s in (info.get("sources") or {}).values()),
        "n_events": n_events,
        "config_version": int(info.get("seq") or 0),
    }


@dataclass
class Accounts:
    """Remembers the last close of each source; gives the ledger rows slice after slice."""

    run: RunFacts
    closes: Closes = field(default_factory=dict)

    def rows(self, info: Info, k: int, failed: str | None) -> list[Row]:
        """One row per source of the run, also for one that is absent (zeros)."""
        have: Mapping[str, Any] = info.get("sources") or {}
        counts: Mapping[str, Any] = info.get("counts") or {}
        return [
            self._row(k, i, source, have.get(source) or {}, counts.get(source) or {}, failed)
            for i, source in enumerate(self.run.sources)
        ]

    def _row(
        self, k: int, index: int, name: str, s: Info, seen: Mapping[str, int], failed: str | None
    ) -> Row:
        assembled = int(s.get("rows", 0))
        row = {"slice": k, "source": index, "assembled": assembled}
        row["processed"] = 0 if failed else assembled
        row |= {name: int(s.get(name, 0)) for name in _FROM_SOURCE}
        now: Mapping[str, int] = s.get("close") or {}
        before = self._before(name, s)
        for column, count in _FROM_CLOSE.items():
            row[column] = max(0, int(now.get(count, 0)) - int(before.get(count, 0))) if now else 0
        row["gap"] = max(0, row["produced"] - assembled)
        row["quarantined"] += int(seen.get("quarantined", 0))
        row["stale"] = int(seen.get("stale", 0))
        row["duplicate"] = int(seen.get("duplicate", 0))
        row["checksum"] = int(s.get("sum", 0)) & 0xFFFFFFFF
        if now:
            self.closes[name] = {"inc": s.get("inc"), "close": dict(now)}
        return row

    def _before(self, name: str, s: Info) -> Mapping[str, int]:
        last = self.closes.get(name)
        if last is None or last["inc"] != s.get("inc"):
            return {}
        close: Mapping[str, int] = last["close"]
        return close
