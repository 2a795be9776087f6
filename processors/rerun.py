"""A stored run once more: its raw topics through the assembler, with the decisions made live.

What the plan had given up when a slice left is a race that only the live lane saw; the headers of
its results say how it came out, and that is taken over in both directions.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

from freerun.assembler import GIVEN_UP, Assembler, Bundle, Missing, Resume, read_record
from freerun.errors import FreerunError
from freerun.kafka import BrokerTrouble, Reader, Record, Where
from freerun.plan import Plan, Run
from freerun.readback import STALL_S, Stretch, read, stretch
from freerun.slices import first_in
from freerun.topics import Topics
from freerun.wire import MARK, Part, ResultPart, read_result
from processors.owner import check_body

FOREVER = 1 << 62
QUEUE_MB = 8


@dataclass
class StoredSlice:
    """What was published of one slice: its parts with their bodies, and the header's `info`."""

    k: int
    info: Mapping[str, Any]
    parts: list[tuple[ResultPart, bytes]] = field(default_factory=list)


def stored_slices(
    address: str, topics: Topics, topic: str, run: Run, p: int
) -> Generator[StoredSlice]:
    """The results (or deltas) of the run's slices in one partition, as far as they are kept."""
    assert run.last is not None
    reader = Reader(address, f"{topics.system}.rerun.{p}", queue_mb=QUEUE_MB, fetch_wait_ms=5)
    try:
        current: StoredSlice | None = None
        for record in read(reader, stretch(reader, (topic, p), run.start.time_ms)):
            part = read_result(record.headers)
            if part.k > run.last:
                return
            if part.k < run.first:
                continue
            if part.part == 0:
                current = StoredSlice(part.k, part.info or {})
            if current is None or current.k != part.k:
                continue  # the beginning of this slice was deleted
            current.parts.append((part, record.value))
            if len(current.parts) == part.parts:
                yield current
                current = None
    finally:
        reader.close()


class Rerun:
    """The bundles of one partition of a stored run, in order. Close it when done."""

    def __init__(
        self, address: str, topics: Topics, plan: Plan, run: Run, sources: list[str], p: int
    ) -> None:
        assert plan.install is not None and run.last is not None
        self._plan, self._first, self._last = plan, run.first, run.last
        self._reader = Reader(address, f"{topics.system}.rerun.raw.{p}", queue_mb=QUEUE_MB,
                              fetch_wait_ms=5)  # fmt: skip
        self._sources = {(topics.raw(s), p): s for s in sources}
        found = [stretch(self._reader, where, run.start.time_ms) for where in self._sources]
        self._ends = {what.where: what.end for what in found if what.start < what.end}
        self.first = self._begin(found, first_in(p, run.first, plan.install.P))
        self._assembler = Assembler(p, plan.install.P, self.first, check_body, sources)
        for s in sources:
            self._assembler.add_source(s, Resume(0, {}))
        self._reader.assign({what.where: what.start for what in found if what.where in self._ends})
        self._paused: set[Where] = set()
        self._quiet = 0.0  # seconds of waiting without a record

    def _begin(self, found: list[Stretch], first: int) -> int:
        """The first slice of which every source's raw data are still kept."""
        for what in found:
            if what.may_be_cut:
                source = self._sources[what.where]
                parts = (
                    read_record(source, record.headers, record.time_ms, self._plan)
                    for record in read(self._reader, what)
                )
                k = next((x.k + (x.part > 0) for x in parts if isinstance(x, Part)), None)
                first = max(first, self._last + 1 if k is None else k)
        return min(first, self._last + 1)

    def bundle(self, stored: Mapping[str, Any]) -> Bundle:
        """The next slice; `stored`: the header of its results, for the decisions made live.

        Raises `FreerunError` if the raw topic does not give it.
        """
        absent: Mapping[str, Any] = stored.get("missing", {})
        given_up = {s for s, m in absent.items() if m["why"] == GIVEN_UP}
        while True:
            bundle = self._assembler.ready(self._plan, FOREVER, lambda s, _seq: s in given_up)
            if bundle is not None:
                return _as_decided(bundle, absent)
            if not self._ends:
                awaited = ", ".join(sorted(self._assembler.awaited(self._plan))) or "nobody"
                raise FreerunError(
                    f"slice {self._assembler.next}: the raw topics end while it waits for {awaited}"
                )
            self._more()

    def _more(self) -> None:
        begun = time.monotonic()
        records = self._reader.poll(200, 0.1)
        self._quiet = 0.0 if records else self._quiet + time.monotonic() - begun
        for record in records:
            where = record.topic, record.partition
            if record.offset < self._ends.get(where, 0):
                self._offer(record, self._sources[where])
        for where, end in list(self._ends.items()):
            if where in self._reader.lost:
                raise BrokerTrouble(f"{where[0]}/{where[1]} was cut by retention meanwhile")
            if self._reader.position[where] >= end or self._reader.at_end(where):
                del self._ends[where]
        if self._ends and self._quiet > STALL_S:
            raise BrokerTrouble(f"nothing comes from {sorted(self._ends)} for {STALL_S:.0f} s")
        self._flow()

    def _offer(self, record: Record, source: str) -> None:
        part = read_record(source, record.headers, record.time_ms, self._plan)
        if isinstance(part, Part) and part.part != MARK and not self.first <= part.k <= self._last:
            if part.late:
                return
            part = Part(part.source, part.inc, part.k, MARK)  # only how far the source has come
        self._assembler.offer(source, record.offset, part, record.value, self._plan)

    def _flow(self) -> None:
        """As in a lane: what is too far ahead waits in its topic."""
        far = self._assembler.too_far(self._plan)
        wanted = {where for where, source in self._sources.items() if source in far}
        for places, act in ((wanted - self._paused, self._reader.pause),
                            (self._paused - wanted, self._reader.resume)):  # fmt: skip
            if places:
                act(places)
        self._paused = wanted

    @property
    def next(self) -> int:
        return self._assembler.next

    def close(self) -> None:
        self._reader.close()


def _as_decided(bundle: Bundle, absent: Mapping[str, Any]) -> Bundle:
    """The bundle with those given up that were given up live, whatever came of them later."""
    told = {s: m for s, m in absent.items() if m["why"] == GIVEN_UP}
    if not told:
        return bundle
    fragments = tuple(f for f in bundle.fragments if f.source not in told)
    missing = dict(bundle.missing)
    for s, m in told.items():
        missing[s] = Missing(m["why"], m.get("detail", ""), int(m.get("rows", 0)))
    return Bundle(bundle.k, bundle.seq, fragments, dict(sorted(missing.items())), bundle.counts)
