"""The assembler: every slice once and in order, the same whoever assembles it, and when.

The random worlds are a pure function of their seed: FREERUN_SEED=<n> replays one of them.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from dataclasses import replace

import pytest
from make_source import (
    Fed,
    Picture,
    World,
    add,
    assemble,
    give_up,
    mark,
    part,
    plan_of,
    random_world,
    roster_entry,
    start,
    stop,
    through_json,
    whole,
)

from freerun.assembler import (
    BROKEN,
    CLOSED,
    GAP,
    GIVEN_UP,
    MAX_AHEAD,
    MAX_BYTES,
    Assembler,
    Resume,
)
from freerun.errors import Quarantined
from freerun.plan import DATA, LEAD_NS, Plan
from freerun.slices import first_in
from freerun.wire import MARK, Part, checksum

SEEDS = [int(os.environ["FREERUN_SEED"])] if "FREERUN_SEED" in os.environ else range(120)


# ------------------------------------------------------------------ the oracle


def fate(world: World, source: str, p: int, k: int) -> tuple[str, int, tuple[int, ...]]:
    """What became of slice `k` of a source, from its log: state, rows, (inc, parts…).

    Of the records that came before any of a later slice, the first fragment that is whole or
    broken counts; rows are those of the last fragment that was looked at.
    """
    last = (-1, -1, -1)
    inc, rows, bad, numbers = -1, 0, False, list[int]()
    for told, body in world.log(source, p):
        if isinstance(told, Quarantined) or told.late or told.triple <= last:
            continue
        last = told.triple
        if told.k > k:
            return (BROKEN if bad else GAP), rows, ()
        if told.k < k or told.part == MARK:
            continue
        if told.inc != inc and not bad:
            inc, rows, numbers = told.inc, 0, []
        if told.inc != inc:
            continue
        if checksum(body) != told.crc:
            bad = True
            continue
        rows += told.rows
        numbers.append(told.part)
        bad = bad or numbers != list(range(len(numbers)))
        if told.closes and not bad:
            assert told.close is not None
            if (told.close["parts"], told.close["rows"]) == (len(numbers), rows):
                return CLOSED, rows, (inc, *numbers)
            bad = True
    return (BROKEN if bad else GIVEN_UP), rows, ()


def slices_of(plan: Plan, p: int, partitions: int) -> list[int]:
    last = max(e.from_slice for e in plan.entries)
    k, out = first_in(p, 0, partitions), []
    while k < last:
        if plan.run_of(k) is not None:
            out.append(k)
        k = first_in(p, k + 1, partitions)
    return out


def shape(pictures: list[Picture]) -> list[tuple[object, ...]]:
    """Pictures with the rows of broken fragments left out: their rest may come after them."""
    return [
        (k, seq, fragments, tuple((s, why) for s, why, _ in missing))
        for k, seq, fragments, missing in pictures
    ]


def check(
    world: World, plan: Plan, p: int, pictures: list[Picture], counts: dict[str, Counter[str]]
) -> None:
    """Against the oracle: slices, fates, and that every row has exactly one of them."""
    assert [b[0] for b in pictures] == slices_of(plan, p, world.partitions)
    for k, seq, fragments, missing in pictures:
        base = plan.base(k)
        assert base is not None and seq == base.seq
        got = {f[0]: (CLOSED, f[2], (f[1], *(t[2] for t in f[3]))) for f in fragments}
        assert [f[0] for f in fragments] == sorted(f[0] for f in fragments)
        for source, why, rows in missing:
            got[source] = (why, rows, ())
        expected = {source: fate(world, source, p, k) for source in base.roster}
        assert {s: (g[0], g[2]) for s, g in got.items()} == {
            s: (e[0], e[2]) for s, e in expected.items()
        }, f"slice {k}"
        for s, (state, rows, _) in expected.items():
            assert rows == got[s][1] or state == BROKEN
    for source in world.sources():
        used = sum(f[2] for b in pictures for f in b[2] if f[0] == source)
        unused = sum(m[2] for b in pictures for m in b[3] if m[0] == source)
        named = sum(n for name, n in counts[source].items() if name != "quarantined_records")
        assert used + unused + named == world.rows(source, p), source


@pytest.mark.parametrize("seed", SEEDS)
def test_any_interleaving_and_any_take_over_give_the_same_slices(seed: int) -> None:
    world, plan = random_world(seed)
    print(f"replay with FREERUN_SEED={seed}")
    for p in range(world.partitions):
        first = first_in(p, 0, world.partitions)
        pictures, counts = assemble(world, plan, p, first, lambda open_: open_[0])
        check(world, plan, p, pictures, counts)
        for other in range(4):
            rng = random.Random(f"{seed}/{p}/{other}")
            chance = 0.0 if other == 0 else 0.03
            again, counts_again = assemble(
                world, plan, p, first, rng.choice, lambda c=chance, r=rng: r.random() < c,
                lambda r=rng: r.random() < 0.7,
            )  # fmt: skip
            assert shape(again) == shape(pictures), f"partition {p}, order {other}"
            check(world, plan, p, again, counts_again)
            for source in counts:
                assert settled(counts_again[source]) == settled(counts[source])


def settled(counts: Counter[str]) -> dict[str, int]:
    """Counts that cannot depend on when a slice left. The rest of a broken fragment can: it is
    in the bundle, or comes behind it; of a source given up, it then counts as after that."""
    return {n: c for n, c in counts.items() if c and n not in ("broken", "after_give_up")}


class PlanReader:
    """A plan that becomes known bit by bit, as one who reads it to its end sees it: what binds
    within its lead is there."""

    def __init__(self, plan: Plan, rng: random.Random) -> None:
        assert plan.install is not None
        self._length, self._rng = plan.install.L, rng
        self._waiting = list(plan.entries)
        self.known = Plan(plan.install, [], [], 1)
        self._read()

    def _read(self) -> None:
        border = (self.known.read_at_ns + LEAD_NS) // self._length
        while self._waiting and (
            self._rng.random() < 0.3 or any(e.from_slice <= border for e in self._waiting)
        ):
            self.known.entries.append(self._waiting.pop(0))

    def turn(self) -> bool | None:
        if self.known.read_at_ns > 1 << 60:
            return None
        if self._rng.random() > 0.1:
            return False
        late = self.known.read_at_ns > 60 * self._length
        self.known.read_at_ns += 1 << 61 if late else self._rng.randrange(5) * self._length
        self._read()
        return True


@pytest.mark.parametrize("seed", SEEDS[:40] if len(SEEDS) > 1 else SEEDS)
def test_slices_that_are_not_decided_yet_are_held_and_never_lost(seed: int) -> None:
    """The plan becomes known entry by entry, the host's time runs; takeovers as they like."""
    world, plan = random_world(seed)
    print(f"replay with FREERUN_SEED={seed}")
    for p in range(world.partitions):
        first = first_in(p, 0, world.partitions)
        expected, counts = assemble(world, plan, p, first, lambda open_: open_[0])
        rng = random.Random(f"{seed}/{p}")
        reader = PlanReader(plan, rng)
        got, counts_again = assemble(
            world, reader.known, p, first, rng.choice, lambda r=rng: r.random() < 0.02,
            lambda: True, reader.turn,
        )  # fmt: skip
        assert shape(got) == shape(expected)
        for source in counts:
            assert settled(counts_again[source]) == settled(counts[source])


# ------------------------------------------------------------------ rule by rule

PLAN = plan_of(start(0), partitions=1)


def one(*parts: Part) -> Fed:
    """A single partition with these records of source a, and b whole everywhere."""
    return Fed(0, 1).put(*parts, *(whole(k, source="b") for k in range(12))).offer_all(PLAN)


def missing(fed: Fed, k: int) -> tuple[str, int] | None:
    bundles = {b.k: b for b in fed.ready(PLAN)}
    why = bundles[k].missing.get("a")
    return (why.why, why.rows) if why else None


def counted(fed: Fed) -> dict[str, int]:
    """Counts of source a, those of bundles included."""
    total: Counter[str] = Counter()
    for bundle in fed.ready(PLAN):
        total.update(bundle.counts.get("a", {}))
    total.update(fed.assembler.sources["a"].counts)
    return {name: n for name, n in total.items() if n}


def test_a_whole_slice_has_its_fragments_in_the_order_of_the_sources() -> None:
    fed = Fed(0, 1).put(whole(0, source="b", rows=2), whole(0, rows=3)).offer_all(PLAN)
    (bundle,) = fed.ready(PLAN)
    assert [(f.source, f.rows) for f in bundle.fragments] == [("a", 3), ("b", 2)]
    assert bundle.complete and bundle.k == 0 and bundle.seq == 1


def test_parts_are_joined_at_the_close() -> None:
    fed = one(part(0, 0, rows=2), part(0, 1, rows=3))
    assert fed.ready(PLAN) == []
    fed.put(part(0, 2, rows=1, close=(3, 6))).offer_all(PLAN)
    (bundle,) = fed.ready(PLAN)
    assert [f.rows for f in bundle.fragments] == [6, 1]


@pytest.mark.parametrize(
    ("parts", "rows"),
    [
        ((part(0, 1, rows=2, close=(2, 5)),), 2),
        ((part(0, 0, rows=2), part(0, 2, rows=1, close=(3, 6))), 3),
        ((part(0, 0, rows=2), part(0, 1, rows=1, close=(2, 4))), 3),
        ((part(0, 0, rows=2), part(0, 1, rows=1, close=(3, 3))), 3),
        ((part(0, 0, rows=0, close=(1, 0), refused=1),), 0),
    ],
)
def test_what_does_not_agree_with_its_close_is_broken(parts: tuple[Part, ...], rows: int) -> None:
    assert missing(one(*parts), 0) == (BROKEN, rows)


def test_a_broken_fragment_does_not_wait_and_its_rest_is_counted_as_broken() -> None:
    fed = one(part(0, 1, rows=2))
    assert missing(fed, 0) == (BROKEN, 2)
    fed.put(part(0, 2, rows=5), part(0, 3, rows=1, close=(4, 9))).offer_all(PLAN)
    assert counted(fed) == {"broken": 6}
    heir = one(part(0, 1, rows=2))
    heir.ready(PLAN)
    heir = heir.take_over()
    heir.put(part(0, 2, rows=5)).offer_all(PLAN)
    assert counted(heir) == {"broken": 5}


def test_a_bad_checksum_breaks_the_slice_and_is_quarantined() -> None:
    def check(_part: Part, _body: bytes) -> None:
        raise Quarantined("checksum")

    fed = Fed(0, 1).put(whole(0, rows=3), whole(0, source="b"))
    fed.assembler = Assembler(0, 1, 0, check)
    for s in "ab":
        fed.assembler.add_source(s, Resume(0, {}))
    fed.offer_all(PLAN)
    (bundle,) = fed.ready(PLAN)
    assert bundle.missing["a"].why == BROKEN and bundle.missing["a"].detail == "checksum"
    assert bundle.counts["a"] == {"quarantined": 3, "quarantined_records": 1}
    assert [(s, o, q.reason) for s, o, q in fed.assembler.quarantined] == [
        ("a", 0, "checksum"), ("b", 0, "checksum"),
    ]  # fmt: skip


def test_an_unreadable_record_stops_nobody() -> None:
    fed = Fed(0, 1).put(whole(0, source="b"))
    fed.logs["a"] = [Quarantined("bad_headers"), whole(0)]
    fed.offer_all(PLAN)
    (bundle,) = fed.ready(PLAN)
    assert bundle.complete and bundle.counts["a"] == {"quarantined": 0, "quarantined_records": 1}


@pytest.mark.parametrize("later", [whole(1), mark(1), mark(2, inc=2), part(3, inc=2)])
def test_a_later_record_says_what_will_not_come(later: Part) -> None:
    assert missing(one(later), 0) == (GAP, 0)
    assert missing(one(part(0, 0, rows=4), later), 0) == (GAP, 4)
    assert missing(one(part(0, 0, rows=4), part(0, 1, rows=1, close=(2, 5)), later), 0) is None


def test_a_mark_of_the_same_slice_says_nothing_about_it() -> None:
    fed = one(mark(0))
    assert fed.ready(PLAN) == []
    assert missing(fed.put(whole(0)).offer_all(PLAN), 0) is None


def test_gap_is_for_good() -> None:
    fed = one(mark(1), whole(0, inc=2, rows=7))
    assert missing(fed, 0) == (GAP, 0)
    assert counted(one(mark(1), whole(0, inc=2, rows=7))) == {"gap": 7}
    fed = one(part(0, rows=2), mark(1), whole(0, inc=2, rows=7))
    assert missing(fed, 0) == (GAP, 2)


def test_a_newer_life_replaces_what_an_older_one_left_open() -> None:
    fed = one(part(0, rows=2), mark(0, inc=2), part(0, inc=2, rows=3),
              part(0, 1, inc=2, rows=1, close=(2, 4)))  # fmt: skip
    (bundle,) = fed.ready(PLAN)
    assert bundle.fragments[0].inc == 2 and bundle.fragments[0].rows == 4
    assert bundle.counts["a"] == {"gap": 2}


@pytest.mark.parametrize("state", [CLOSED, BROKEN])
def test_closed_and_broken_are_final_whether_the_slice_has_left_or_not(state: str) -> None:
    first = whole(0, rows=2) if state == CLOSED else part(0, 1, rows=2)
    newer = whole(0, inc=2, rows=9)
    before, after = one(first, newer), one(first)
    after.ready(PLAN)
    after.put(newer).offer_all(PLAN)
    assert counted(before) == counted(after) == {"duplicate": 9}


def test_a_part_behind_the_close_changes_nothing() -> None:
    before, after = one(whole(0, rows=2), part(0, 1, rows=5)), one(whole(0, rows=2))
    (bundle,) = before.ready(PLAN)
    assert bundle.fragments[0].rows == 2 and bundle.counts["a"] == {"broken": 5}
    after.ready(PLAN)
    after.put(part(0, 1, rows=5)).offer_all(PLAN)
    assert counted(after) == {"broken": 5}


def test_sent_twice_is_counted_once() -> None:
    sent = (part(0, rows=2), part(0, 1, rows=1, close=(2, 3)))
    assert counted(one(*sent, *sent)) == {"duplicate": 3}
    assert counted(one(sent[0], sent[0], sent[1])) == {"duplicate": 2}


def test_an_older_life_is_stale() -> None:
    assert counted(one(whole(0, inc=2), whole(1, inc=1, rows=4), whole(1, inc=2))) == {"stale": 4}


def test_late_parts_have_numbers_of_their_own() -> None:
    late = [part(0, n, rows=1 + n, late=True) for n in range(3)]
    assert counted(one(whole(0), whole(1), late[0], whole(2), late[1], late[1], late[0])) == {
        "late": 3, "duplicate": 3,
    }  # fmt: skip
    assert counted(one(whole(0, inc=2), late[0])) == {"stale": 1}
    fed = one(replace(late[0], k=0))
    assert fed.ready(PLAN) == [], "a late part closes nothing and passes nothing"


def test_off_the_roster_is_counted() -> None:
    plan = plan_of(start(2), stop(4), partitions=1)
    fed = Fed(0, 1).put(
        *(whole(k, rows=k + 1) for k in range(6)), part(5, 0, rows=9, late=True),
        *(whole(k, source="b") for k in range(2, 4)),
    ).offer_all(plan)  # fmt: skip
    bundles = fed.ready(plan)
    assert [b.k for b in bundles] == [2, 3]
    assert bundles[0].counts["a"] == {"off_roster": 1 + 2 + 5 + 6 + 9}


def test_given_up_counts_only_when_the_log_was_read_to_its_end() -> None:
    plan = plan_of(start(0), give_up(0, "a"), partitions=1)
    fed = Fed(0, 1).put(whole(0), whole(0, source="b"), whole(1, source="b"))
    fed.offer_all(plan, "b")
    assert fed.ready(plan) == [], "there is something of a to be read"
    fed.offer_all(plan)
    first, second = fed.ready(plan)
    assert first.complete
    assert second.missing["a"].why == GIVEN_UP
    assert second.missing["a"].detail == "LOST (plan entry 2)"


@pytest.mark.parametrize("heir", [False, True])
def test_what_comes_after_a_give_up_is_named(heir: bool) -> None:
    plan = plan_of(start(0), give_up(0, "a"), partitions=1)
    fed = Fed(0, 1).put(part(0, rows=2), whole(0, source="b")).offer_all(plan)
    (bundle,) = fed.ready(plan)
    assert (bundle.missing["a"].why, bundle.missing["a"].rows) == (GIVEN_UP, 2)
    if heir:
        fed = fed.take_over()
    fed.put(part(0, 1, rows=4, close=(2, 6))).offer_all(plan)
    assert dict(fed.assembler.sources["a"].counts) == {"after_give_up": 4}


def test_a_slice_leaves_only_when_it_has_ended_and_the_plan_was_read_after_it_began() -> None:
    plan = plan_of(start(0), partitions=1, length=100, read_at=0)
    fed = Fed(0, 1).put(whole(5), whole(5, source="b"))
    fed.assembler.next = 5
    plan.read_at_ns = 499
    fed.offer_all(plan)
    assert fed.ready(plan, 10_000) == []
    plan.read_at_ns = 500
    assert fed.ready(plan, 599) == []
    assert [b.k for b in fed.ready(plan, 600)] == [5]


def test_recorded_slices_end_when_their_roster_has_closed_them() -> None:
    plan = plan_of(start(0, clock=DATA), partitions=1, read_at=1, length=10**9)
    fed = Fed(0, 1).put(whole(0), whole(0, source="b")).offer_all(plan)
    assert [b.k for b in fed.ready(plan, 0)] == [0]


def test_nothing_is_skipped_before_the_first_entry_is_known() -> None:
    plan = plan_of(partitions=1)
    fed = Fed(0, 1).put(whole(7), whole(7, source="b"))
    assert fed.ready(plan) == [] and fed.assembler.next == 0
    add(plan, start(7, clock=DATA))
    fed.offer_all(plan)
    assert [b.k for b in fed.ready(plan)] == [7]


def test_who_joins_later_is_waited_for_from_there() -> None:
    plan = plan_of(start(0, roster="a"), roster_entry(2), partitions=1)
    fed = Fed(0, 1).put(*(whole(k) for k in range(4))).offer_all(plan)
    assert [b.k for b in fed.ready(plan)] == [0, 1]
    fed.put(mark(2, source="b"), whole(2, source="b")).offer_all(plan)
    assert [b.k for b in fed.ready(plan)] == [2]


def test_a_source_that_is_not_read_yet_is_waited_for() -> None:
    fed = Fed(0, 1, sources="a").put(whole(0)).offer_all(PLAN)
    assert fed.ready(PLAN) == []
    assert fed.assembler.awaited(PLAN) == {"b"}


# ------------------------------------------------------------------ flow


def test_who_is_far_ahead_is_paused_and_who_is_awaited_never() -> None:
    fed = Fed(0, 1)
    for k in range(MAX_AHEAD):
        assert fed.assembler.too_far(PLAN) == set()
        fed.put(whole(k)).offer_all(PLAN)
    assert fed.assembler.too_far(PLAN) == {"a"}
    assert fed.assembler.awaited(PLAN) == {"b"}
    fed.put(whole(0, source="b")).offer_all(PLAN).ready(PLAN)
    assert fed.assembler.too_far(PLAN) == set()


def test_a_pipeline_waits_for_its_own_sources_only() -> None:
    plan = plan_of(start(0, roster=("a", "b")), partitions=1)
    alone = Assembler(0, 1, 0, only=["a"])
    both = Assembler(0, 1, 0)
    for assembler in (alone, both):
        assembler.add_source("a", Resume(0, {}))
        assembler.offer("a", 0, whole(0), b"", plan)
    assert both.awaited(plan) == {"b"} and both.ready(plan, 1 << 62, lambda *_: True) is None
    assert alone.awaited(plan) == set()
    bundle = alone.ready(plan, 1 << 62, lambda *_: True)
    assert bundle is not None and [f.source for f in bundle.fragments] == ["a"]
    assert bundle.missing == {}


def test_bytes_count_too() -> None:
    a = Assembler(0, 1, 0)
    for s in "ab":
        a.add_source(s, Resume(0, {}))
    body = b"x" * (MAX_BYTES // 4)
    for k in range(5):
        assert a.too_far(PLAN) == set()
        a.offer("a", k, whole(k), body, PLAN)
    assert a.too_far(PLAN) == {"a"}


def test_a_held_source_is_paused_and_offered_again() -> None:
    plan = plan_of(start(0), partitions=1, length=10**9, read_at=1)
    fed = Fed(0, 1).put(whole(1), whole(2)).offer_all(plan)
    assert fed.read["a"] == 0 and fed.assembler.too_far(plan) == {"a"}
    assert through_json(fed.assembler)["a"].offset == 0
    plan.read_at_ns = 10**10
    fed.offer_all(plan)
    assert fed.read["a"] == 2 and fed.assembler.too_far(plan) == set()


def test_positions_are_those_of_the_first_record_that_is_kept() -> None:
    fed = Fed(0, 1).put(whole(0), whole(1), whole(2), whole(0, source="b")).offer_all(PLAN)
    fed.ready(PLAN)
    committed = fed.assembler.positions()
    assert committed["a"].offset == 1 and committed["b"].offset == 1
    assert committed["a"].data == {"l": [1, 0, 0], "t": [-1, -1], "x": 0, "s": 3}
    heir = fed.take_over()
    heir.put(whole(1, source="b"), whole(2, source="b")).offer_all(PLAN)
    assert [b.complete for b in heir.ready(PLAN)] == [True, True]


def test_metadata_of_a_position_fits() -> None:
    """Kafka takes 4095 bytes of text with an offset."""
    big = 2**62
    fed = Fed(0, 1, big).put(whole(big, inc=big), whole(big + 1, inc=big)).offer_all(PLAN)
    (data,) = {str(r.data) for s, r in fed.assembler.positions().items() if s == "a"}
    assert len(data) < 300
