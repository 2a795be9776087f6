"""One pipeline: a bundle in, the slice's records out. The same call live, replayed and offline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from freerun import __version__
from freerun.assembler import BROKEN, CLOSED, Bundle, Fragment, Missing
from freerun.builder import BY_TIMEOUT as BY_TIME
from freerun.builder import Builder, Events, HitRows, MarkRows, PulseRows, SliceRows, no_rows
from freerun.config.geometry import Geometry
from freerun.errors import Quarantined
from freerun.wire import BY_TIMEOUT, ResultPart
from processors.monitors import MonitorTable, common_hists, fill_common
from processors.prepare import Prepared, SourceSetup, channel_table, prepare
from processors.results import Tables

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class SliceResult:
    """Everything that a slice leaves in Kafka."""

    k: int
    events: list[tuple[ResultPart, pa.Buffer]]
    monitor: tuple[ResultPart, pa.Buffer]
    info: dict[str, Any]


class Pipeline:
    """A builder with the geometry and sources it works on."""

    def __init__(
        self, name: str, builder: Builder, geometry: Geometry, setups: dict[str, SourceSetup],
        length_ns: int, guard_ns: int,
    ) -> None:  # fmt: skip
        self.name, self.builder, self.geometry, self.setups = name, builder, geometry, setups
        self.L, self.G = length_ns, guard_ns
        self.table = channel_table(setups, geometry)
        self.hists = [*common_hists(geometry), *builder.hists()]
        self._monitors = MonitorTable(self.hists)

    def process(self, bundle: Bundle) -> SliceResult:
        """Build one slice. A fragment whose content is no good makes its source BROKEN."""
        fragments, missing = list(bundle.fragments), dict(bundle.missing)
        cut = _cut(fragments)
        while True:
            try:
                prepared = prepare(
                    bundle.k * self.L,
                    self.L,
                    self.G,
                    fragments,
                    self.setups,
                    self.geometry,
                    self.table,
                    not missing and not cut,
                )
                break
            except Quarantined as why:
                bad = self._unreadable(bundle.k, fragments)
                fragments.remove(bad)
                missing[bad.source] = Missing(BROKEN, str(why), bad.rows)
        events = self.builder.build(prepared.rows)
        return self._result(bundle, fragments, missing, prepared, events)

    def failed(self, bundle: Bundle, reason: str) -> SliceResult:
        """What a slice leaves whose kernels cannot do it: no rows, and the reason."""
        empty = _empty(bundle.k, self.L, self.G)
        result = self._result(bundle, list(bundle.fragments), dict(bundle.missing), empty,
                              self.builder.build(empty.rows))  # fmt: skip
        result.info["failed"] = reason
        return result

    def _unreadable(self, k: int, fragments: list[Fragment]) -> Fragment:
        for fragment in fragments:
            try:
                prepare(k * self.L, self.L, self.G, [fragment], self.setups, self.geometry,
                        self.table, True)  # fmt: skip
            except Quarantined:
                return fragment
        raise AssertionError("a slice that cannot be prepared has a fragment that cannot")

    def _result(
        self, bundle: Bundle, fragments: list[Fragment], missing: dict[str, Missing],
        prepared: Prepared, events: Events,
    ) -> SliceResult:  # fmt: skip
        if any(f.parts[-1].flags & BY_TIMEOUT for f in fragments):
            events.quality = events.quality | np.uint32(BY_TIME)
        tables = Tables(prepared, events, not missing and not _cut(fragments))
        info = self._info(bundle, fragments, missing, prepared, tables, events.overflow)
        bodies = tables.bodies()
        records = [
            (ResultPart(bundle.k, i, len(bodies), table, rows, info if i == 0 else None), body)
            for i, (table, rows, body) in enumerate(bodies)
        ]
        values = {h.name: h.zeros() for h in self.hists}
        fill_common(
            self.geometry, prepared.occupancy, prepared.rows.pulses, prepared.pulse_body, values
        )
        self.builder.fill(prepared.rows, events, tables.owned, values)
        delta_info = {
            "k": bundle.k,
            "n_events": info["n_events"],
            "complete": info["complete"],
            "rows": {s: c["rows"] for s, c in info["sources"].items()},
            "hits": {s: c["hits"] for s, c in info["sources"].items()},
        }
        body = self._monitors.body(values)
        monitor = ResultPart(bundle.k, 0, 1, "monitor", len(self.hists), delta_info)
        return SliceResult(bundle.k, records, (monitor, body), info)

    def _info(
        self, bundle: Bundle, fragments: list[Fragment], missing: dict[str, Missing],
        prepared: Prepared, tables: Tables, overflow: int,
    ) -> dict[str, Any]:  # fmt: skip
        sources = {}
        by_timeout = False
        for f in fragments:
            counted = prepared.counts.get(f.source, {"rows": f.rows, "hits": 0})
            nothing = {"in_events": 0, "unassigned": 0, "shared": 0}
            use = tables.account.get(self.setups[f.source].index, nothing)
            timed_out = bool(f.parts[-1].flags & BY_TIMEOUT)
            by_timeout |= timed_out
            sources[f.source] = {
                "inc": f.inc, "state": CLOSED, "close": dict(f.close), "by_timeout": timed_out,
                **counted, **use,
            }  # fmt: skip
        return {
            "seq": bundle.seq,
            "code": __version__,
            "failed": None,
            "n_events": tables.events.num_rows,
            "complete": not missing and not _cut(fragments),
            "by_timeout": by_timeout,
            "overflow": overflow,
            "sources": sources,
            "missing": {
                s: {"why": m.why, "detail": m.detail, "rows": m.rows} for s, m in missing.items()
            },
            "counts": {s: dict(c) for s, c in bundle.counts.items()},
        }


def _cut(fragments: list[Fragment]) -> bool:
    """Did a source drop payload of the slice, or of the rows that are its guard?"""
    return any(f.close.get("cut") for f in fragments)


def _empty(k: int, length_ns: int, guard_ns: int) -> Prepared:
    rows = SliceRows(
        k, k * length_ns, length_ns * 1000, guard_ns * 1000,
        no_rows(HitRows), no_rows(MarkRows), no_rows(MarkRows), no_rows(PulseRows), False,
    )  # fmt: skip
    none = np.empty(0, np.bool_)
    return Prepared(rows, none, none, {}, np.zeros((256, 5, 64), np.int64))
