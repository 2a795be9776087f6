"""The plan: what should be true from which slice on. Pure: entries in, answers out.

An entry carries the full content in force. A `give_up` is an overlay: it takes sources out of
what is waited for, from the first slice of its run on, until a later entry names them again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from freerun.slices import slice_of

LEAD_NS = 2_000_000_000  # an entry holds from the first slice that starts this much later
VOID_NS = 1_000_000_000  # an entry in the log later than this before its slice is void
# A plan read to its end decides slices up to this much ahead. What is decided cannot change: an
# entry that is not void comes to the log earlier, and the clocks of broker and reader may differ
# by the rest.
DECIDED_NS = 500_000_000
HOST, DATA = "host", "data"  # what a run's clock is


@dataclass(frozen=True)
class Install:
    """First record of the plan: the constants of the installation."""

    uuid: str
    L: int  # slice, ns
    P: int  # partitions
    G: int  # guard, ns

    def to_json(self) -> bytes:
        return json.dumps({"kind": "install", **asdict(self)}).encode()


@dataclass(frozen=True)
class Entry:
    """One decision. `given_up` maps a source to the reason."""

    seq: int
    from_slice: int
    kind: str  # start | stop | switch | abort | roster | set | give_up
    run: int | None = None
    clock: str = HOST
    roster: Mapping[str, bool] = field(default_factory=dict)  # source → critical
    anchors: Mapping[str, int] = field(default_factory=dict)  # domain → ns
    offsets: Mapping[str, int] = field(default_factory=dict)  # source → ps
    params: Mapping[str, Any] = field(default_factory=dict)
    masks: Mapping[str, list[int]] = field(default_factory=dict)
    given_up: Mapping[str, str] = field(default_factory=dict)
    who: str = ""
    why: str = ""
    command_id: str = ""
    time_ms: int = 0  # the broker's time of the record; not in the record itself

    def to_json(self) -> bytes:
        data = asdict(self)
        del data["time_ms"]
        return json.dumps(data, separators=(",", ":")).encode()


@dataclass(frozen=True)
class Run:
    """A run as the plan knows it: slices first…last (None while it goes on)."""

    number: int
    first: int
    last: int | None
    clock: str
    start: Entry
    stop: Entry | None


@dataclass
class Plan:
    """The fold of all entries read so far, and when it was last read to its end (host ns)."""

    install: Install | None = None
    entries: list[Entry] = field(default_factory=list)
    void: list[Entry] = field(default_factory=list)
    read_at_ns: int = 0

    def add(self, value: bytes, time_ms: int) -> Entry | None:
        """Take in one record of the plan's topic, in order."""
        data = json.loads(value)
        if data.get("kind") == "install":
            del data["kind"]
            self.install = Install(**data)
            return None
        entry = Entry(**data, time_ms=time_ms)
        if self.is_void(entry):
            self.void.append(entry)
        else:
            self.entries.append(entry)
        return entry

    def is_void(self, entry: Entry) -> bool:
        """Did the entry reach the log too late to bind anybody?"""
        if entry.kind == "give_up" or entry.clock == DATA or self.install is None:
            return False
        return entry.time_ms * 1_000_000 > entry.from_slice * self.install.L - VOID_NS

    def earliest(self, now_ns: int) -> int:
        """The first slice that a new entry may hold from."""
        assert self.install is not None
        lead = -(-(now_ns + LEAD_NS) // self.install.L)
        return max([lead, *(e.from_slice for e in self.entries if e.kind != "give_up")])

    @property
    def next_seq(self) -> int:
        return 1 + max((e.seq for e in (*self.entries, *self.void)), default=0)

    def base(self, k: int) -> Entry | None:
        """The entry whose content is in force at slice `k`, overlays apart."""
        for entry in reversed(self.entries):
            if entry.kind != "give_up" and entry.from_slice <= k:
                return entry
        return None

    def run_of(self, k: int) -> int | None:
        """The run that slice `k` belongs to."""
        base = self.base(k)
        return base.run if base else None

    def roster(self, k: int) -> Mapping[str, bool]:
        """The sources waited for in slice `k`, given up or not."""
        base = self.base(k)
        return base.roster if base is not None and base.run is not None else {}

    def given_up(self, k: int) -> dict[str, Entry]:
        """Sources given up at slice `k`, each with the entry that says so."""
        base = self.base(k)
        if base is None or base.run is None:
            return {}
        out = dict.fromkeys(base.given_up, base)
        overlays: dict[str, Entry] = {}
        for entry in reversed(self.entries):
            if entry.seq <= base.seq:
                break
            if entry.kind == "give_up" and entry.run == base.run and entry.from_slice <= k:
                overlays = dict.fromkeys(entry.given_up, entry) | overlays
        return out | overlays

    def decided(self, k: int) -> bool:
        """Can no later entry but a give-up change what holds at slice `k`?"""
        if self.install is None or self.read_at_ns <= 0:
            return False
        if k < slice_of(self.read_at_ns + DECIDED_NS, self.install.L):
            return True
        if any(e.kind != "give_up" and e.from_slice > k for e in self.entries):
            return True
        base = self.base(k)  # recorded time may lie in the host's future
        return base is not None and base.run is not None and base.clock == DATA

    def runs(self) -> list[Run]:
        """All runs, in order."""
        out: list[Run] = []
        for entry in self.entries:
            if entry.kind == "give_up":
                continue
            open_run = out[-1] if out and out[-1].last is None else None
            if open_run is not None and entry.run != open_run.number:
                out[-1] = Run(
                    open_run.number, open_run.first, entry.from_slice - 1,
                    open_run.clock, open_run.start, entry,
                )  # fmt: skip
                open_run = None
            if entry.run is not None and open_run is None:
                out.append(Run(entry.run, entry.from_slice, None, entry.clock, entry, None))
        return out

    def run(self, number: int) -> Run | None:
        return next((r for r in self.runs() if r.number == number), None)

    def told_ms(self, run: Run) -> int:
        """The broker's time from which on records may be of this run. An entry before its start
        may have named its first slice: of a run that was stopped before it began."""
        return min(
            (e.time_ms for e in self.entries if e.kind != "give_up" and e.from_slice >= run.first),
            default=run.start.time_ms,
        )

    def next_border(self, k: int, source: str) -> tuple[int, int | None] | None:
        """The first interval `[first, end)` at or after slice `k` in which `source` is on the
        roster of a run; `end` is None while none is known. None if there is no such interval.
        """
        starts = sorted({e.from_slice for e in self.entries if e.kind != "give_up"} | {k})
        first: int | None = None
        for at in starts:
            if at < k:
                continue
            wanted = source in self.roster(at)
            if wanted and first is None:
                first = at
            elif not wanted and first is not None:
                return first, at
        return None if first is None else (first, None)
