"""Fragments of all sources to whole slices, for one partition of one pipeline. Pure.

No Kafka, no clock but `now`, no randomness: the same logs and the same plan give the same
bundles. The shell reads records, offers them in order, and asks for what is ready.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from freerun.errors import Quarantined
from freerun.plan import DATA, DECIDED_NS, Plan
from freerun.slices import first_in, slice_of
from freerun.ticks import Clock
from freerun.wire import MARK, Part, read_part

CLOSED, BROKEN, GAP, GIVEN_UP = "closed", "broken", "gap", "given_up"
MAX_AHEAD = 16  # slices of one source that wait in a partition before the source is paused
MAX_BYTES = 256 << 20  # the same in bytes, all sources of the partition together
FRAGMENT_BYTES = 256 << 20  # of one fragment; a greater one is BROKEN, its rows only counted
CLOCK_NS = 1_000_000_000  # the tick of a slice's start may be this far from it (by its offset)
AHEAD_NS = 60_000_000_000  # a slice that begins this long after its record was written cannot be

NONE = (-1, -1, -1)
Triple = tuple[int, int, int]


@dataclass(slots=True)
class Fragment:
    """What one source sent of one slice, as far as it came."""

    source: str
    inc: int
    offset: int  # of its first record
    last_before: Triple  # the source's last triple before that record
    late_before: tuple[int, int]
    parts: list[Part] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    rows: int = 0
    bytes: int = 0
    state: str = ""  # "" while open, CLOSED or BROKEN; these two are final
    detail: str = ""
    passed_before: int = 0  # the source's `passed` before the first record

    def let_go(self) -> None:
        """Of a broken fragment nothing but the number of its rows is needed."""
        self.parts.clear()
        self.bodies.clear()
        self.bytes = 0

    @property
    def close(self) -> Mapping[str, int]:
        return (self.parts[-1].close if self.parts else None) or {}


@dataclass(frozen=True, slots=True)
class Missing:
    """Why a source of the roster is not in a bundle."""

    why: str  # broken | gap | given_up
    detail: str = ""
    rows: int = 0  # body rows that are in Kafka and not used


@dataclass(frozen=True, slots=True)
class Bundle:
    """One slice, ready for the kernels."""

    k: int
    seq: int  # the plan's entry in force
    fragments: tuple[Fragment, ...]  # of the closed sources, in order of their names
    missing: Mapping[str, Missing]
    counts: Mapping[str, Mapping[str, int]]  # source → name → rows, since the previous bundle

    @property
    def complete(self) -> bool:
        return not self.missing


def read_record(
    source: str, headers: Iterable[tuple[str, bytes | None]] | None, time_ms: int, plan: Plan
) -> Part | Quarantined:
    """The part behind a record of the raw topic of `source`, or why it is none.

    `time_ms` is the broker's time of the record: nobody closes what lies far ahead of it, and
    such a record would be waited for, and its source passed over until then. A clock by which
    the slice does not begin at its first tick would lead kernels anywhere.
    """
    try:
        part = read_part(headers)
    except Quarantined as why:
        return why
    if part.source != source:
        return Quarantined("source", f"expected {source}, the header says {part.source}")
    if plan.install is None:
        return part
    length = plan.install.L
    if time_ms > 0 and not any(e.clock == DATA for e in plan.entries):
        ahead = part.k * length - time_ms * 1_000_000
        if ahead > AHEAD_NS:
            return Quarantined(
                "impossible_time", f"slice {part.k} begins {ahead / 1e9:.0f} s after its record"
            )
    if part.part != MARK:
        begins = Clock(part.anchor, part.num, part.den).ns(part.tick0)
        if abs(begins - part.k * length) > CLOCK_NS or max(part.num, part.den) >= 2**32:
            return Quarantined("clock", f"slice {part.k} does not begin at tick {part.tick0}")
    return part


@dataclass(slots=True)
class SourceState:
    """What is known of one source in this partition."""

    position: int = 0
    last: Triple = NONE
    last_late: tuple[int, int] = (-1, -1)
    passed: int = 0  # every slice before this that is not closed will never come
    seen: int = 0  # counts of records before this offset were reported already
    held: bool = False
    fragments: dict[int, Fragment] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def again(self) -> bool:
        """Is a predecessor's log still read again? What it kept of a slice may not be whole yet,
        and the rest would count as reported."""
        return self.position < self.seen

    def to_json(self, first: Fragment | None) -> dict[str, Any]:
        last = first.last_before if first else self.last
        late = first.late_before if first else self.last_late
        passed = first.passed_before if first else self.passed
        return {"l": list(last), "t": list(late), "x": passed, "s": self.seen}


@dataclass(frozen=True, slots=True)
class Resume:
    """Where a source's log is taken up again, as committed."""

    offset: int
    data: Mapping[str, Any]


class Assembler:
    """One partition. `check(part, body)` raises `Quarantined` for a body that is no good."""

    def __init__(
        self,
        p: int,
        partitions: int,
        next_slice: int,
        check: Callable[[Part, bytes], None] | None = None,
        only: Collection[str] | None = None,
    ) -> None:
        self._only = only  # the sources that matter here; None: all of the roster
        self.p, self.P = p, partitions
        self.next = first_in(p, next_slice, partitions)
        self.sources: dict[str, SourceState] = {}
        self._check = check
        self.quarantined: list[tuple[str, int, Quarantined]] = []  # source, offset, why

    def add_source(self, source: str, resume: Resume) -> None:
        state = SourceState(position=resume.offset)
        if resume.data:
            state.last = tuple(resume.data["l"])
            state.last_late = tuple(resume.data["t"])
            state.passed, state.seen = resume.data["x"], resume.data["s"]
        self.sources[source] = state

    # ------------------------------------------------------------------ records in

    def offer(
        self, source: str, offset: int, part: Part | Quarantined, body: bytes, plan: Plan
    ) -> bool:
        """Take in one record. False: held, to be offered again when the plan knows more."""
        state = self.sources[source]
        if isinstance(part, Quarantined):
            self._quarantine(state, source, offset, part, 0)
            return self._done(state, offset)
        if part.late:
            return self._offer_late(state, source, offset, part, plan)
        if part.triple <= state.last:
            older = part.inc < state.last[0]
            self._count(state, offset, "stale" if older else "duplicate", part.rows)
            return self._done(state, offset)
        before = state.last, state.last_late, state.passed
        state.passed = max(state.passed, part.k)
        if part.part != MARK:
            if not plan.decided(part.k):
                state.held = True
                return False
            self._place(state, source, offset, part, body, plan, before)
        state.last = part.triple
        return self._done(state, offset)

    def _offer_late(
        self, state: SourceState, source: str, offset: int, part: Part, plan: Plan
    ) -> bool:
        number = (part.inc, part.part)
        if number <= state.last_late or part.inc < state.last[0]:
            older = part.inc < max(state.last[0], state.last_late[0])
            self._count(state, offset, "stale" if older else "duplicate", part.rows)
        elif not plan.decided(part.k):
            state.held = True
            return False
        else:
            state.last_late = number
            name = "late" if source in plan.roster(part.k) else "off_roster"
            self._count(state, offset, name, part.rows)
        return self._done(state, offset)

    def _place(
        self, state: SourceState, source: str, offset: int, part: Part, body: bytes, plan: Plan,
        before: tuple[Triple, tuple[int, int], int],
    ) -> None:  # fmt: skip
        last, late, passed = before
        if source not in plan.roster(part.k):
            return self._count(state, offset, "off_roster", part.rows)
        fragment = state.fragments.get(part.k)
        mine = fragment if fragment is not None and fragment.inc == part.inc else None
        final = part.k < self.next or (fragment is not None and fragment.state != "")
        if final and (mine is None or mine.state == CLOSED):
            if part.k < self.next and source in plan.given_up(part.k):
                name = "after_give_up"
            elif (part.inc, part.k) == last[:2]:
                name = "broken"  # the rest of a fragment whose fate is known
            else:
                name = "gap" if part.k < passed else "duplicate"
            return self._count(state, offset, name, part.rows)
        if part.k < passed and mine is None:
            return self._count(state, offset, "gap", part.rows)
        if fragment is None:
            fragment = Fragment(source, part.inc, offset, last, late, passed_before=passed)
            state.fragments[part.k] = fragment
        elif mine is None:
            # what a dead process left open: the new one began again in the same slice
            self._count(state, offset, "gap", fragment.rows)
            fragment = Fragment(
                source,
                part.inc,
                fragment.offset,
                fragment.last_before,
                fragment.late_before,
                passed_before=fragment.passed_before,
            )
            state.fragments[part.k] = fragment
        if self._check is not None and fragment.state != BROKEN:  # the first fault is enough
            try:
                self._check(part, body)
            except Quarantined as why:
                fragment.state, fragment.detail = BROKEN, why.reason
                fragment.let_go()
                self._quarantine(state, source, offset, why, part.rows)
                return None
        fragment.rows += part.rows
        if fragment.state == BROKEN:
            return None
        fragment.parts.append(part)
        fragment.bodies.append(body)
        fragment.bytes += len(body)
        if fragment.bytes > FRAGMENT_BYTES:
            fragment.state, fragment.detail = BROKEN, f"more than {FRAGMENT_BYTES} bytes"
        if part.part != len(fragment.parts) - 1 and not fragment.state:
            fragment.state = BROKEN
            fragment.detail = f"part {len(fragment.parts) - 1} expected, got {part.part}"
        if part.closes and not fragment.state:
            said = fragment.close
            if said.get("refused"):
                fragment.state, fragment.detail = BROKEN, "the broker refused a part"
            elif said.get("parts") == len(fragment.parts) and said.get("rows") == fragment.rows:
                fragment.state = CLOSED
            else:
                fragment.state = BROKEN
                fragment.detail = (
                    f"the close says {said.get('parts')} parts, {said.get('rows')} rows; "
                    f"got {len(fragment.parts)} parts, {fragment.rows} rows"
                )
        if fragment.state == BROKEN:
            fragment.let_go()
        return None

    def _done(self, state: SourceState, offset: int) -> bool:
        state.position = offset + 1
        state.held = False
        return True

    def _count(self, state: SourceState, offset: int, name: str, rows: int) -> None:
        if offset >= state.seen and rows:
            state.counts[name] += rows

    def _quarantine(
        self, state: SourceState, source: str, offset: int, why: Quarantined, rows: int
    ) -> None:
        if offset >= state.seen:
            state.counts["quarantined"] += rows
            state.counts["quarantined_records"] += 1
            self.quarantined.append((source, offset, why))

    # ------------------------------------------------------------------ slices out

    def ready(
        self, plan: Plan, now_ns: int, caught_up: Callable[[str, int], bool]
    ) -> Bundle | None:
        """The next slice, if nothing is awaited any more; it is then gone from here.

        `caught_up(source, seq)`: was this partition's log of the source read to its end (or to a
        held record) after the plan's entry `seq` was read?
        """
        self._skip(plan)
        k = self.next
        base = plan.base(k)
        if base is None or base.run is None or not plan.decided(k) or plan.install is None:
            return None
        if base.clock != DATA and (
            now_ns < (k + 1) * plan.install.L or plan.read_at_ns < k * plan.install.L
        ):
            return None
        given_up = plan.given_up(k)
        fragments: list[Fragment] = []
        missing: dict[str, Missing] = {}
        for source in sorted(self._of(base.roster)):
            state = self.sources.get(source)
            if state is None or state.again:
                return None
            fragment = state.fragments.get(k)
            rows = fragment.rows if fragment else 0
            if fragment is not None and fragment.state == CLOSED:
                fragments.append(fragment)
            elif fragment is not None and fragment.state == BROKEN:
                missing[source] = Missing(BROKEN, fragment.detail, rows)
            elif state.passed > k:
                missing[source] = Missing(GAP, f"the source went on to slice {state.passed}", rows)
            elif source in given_up and (state.held or caught_up(source, given_up[source].seq)):
                entry = given_up[source]
                why = entry.given_up.get(source, "")
                missing[source] = Missing(GIVEN_UP, f"{why} (plan entry {entry.seq})", rows)
            else:
                return None
        counts = {}
        for source, state in self.sources.items():
            state.fragments.pop(k, None)
            if state.counts:
                counts[source] = dict(state.counts)
                state.counts.clear()
            state.seen = max(state.seen, state.position)
        self.next = first_in(self.p, k + 1, self.P)
        return Bundle(k, base.seq, tuple(fragments), missing, counts)

    def _of(self, roster: Collection[str]) -> list[str]:
        return [s for s in roster if self._only is None or s in self._only]

    def _skip(self, plan: Plan) -> None:
        """Move on over slices that are decided to be in no run.

        Nothing is skipped before the first entry is known: recorded time may lie anywhere.
        """
        if plan.install is None or not plan.entries:
            return
        while plan.decided(self.next) and plan.run_of(self.next) is None:
            ahead = [
                e.from_slice
                for e in plan.entries
                if e.kind != "give_up" and e.from_slice > self.next
            ]
            horizon = slice_of(plan.read_at_ns + DECIDED_NS, plan.install.L)
            to = min(ahead) if ahead else horizon
            self.next = first_in(self.p, max(self.next + 1, to), self.P)

    def positions(self) -> dict[str, Resume]:
        """Where each source's log must be taken up again, and with what knowledge.

        To be asked right after `ready` gave a bundle, when all counts were just reported: what is
        counted later, before these positions, would be reported by nobody.
        """
        out = {}
        for source, state in self.sources.items():
            first = min(state.fragments.values(), key=lambda f: f.offset, default=None)
            offset = first.offset if first else state.position
            out[source] = Resume(offset, state.to_json(first))
        return out

    def awaited(self, plan: Plan) -> set[str]:
        """Sources that the next slice still waits for."""
        return {
            s
            for s in self._of(plan.roster(self.next))
            if (state := self.sources.get(s)) is None
            or not (
                state.passed > self.next
                or ((f := state.fragments.get(self.next)) is not None and f.state)
            )
        }

    def too_far(self, plan: Plan) -> set[str]:
        """Sources that are to be paused now; never one that the next slice waits for."""
        total = sum(f.bytes for s in self.sources.values() for f in s.fragments.values())
        far = {
            source
            for source, state in self.sources.items()
            if state.held
            or len(state.fragments) >= MAX_AHEAD
            or (total > MAX_BYTES and len(state.fragments) > 1)
        }
        wanted = self.awaited(plan) | {s for s, state in self.sources.items() if state.again}
        return {s for s in far if self.sources[s].held or s not in wanted}
