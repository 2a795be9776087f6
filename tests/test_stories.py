"""Stories that broke earlier drafts of the protocol, each on the pure machines, by its name."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from make_sender import FakeKafka, sent_slices
from make_source import (
    FOREVER,
    SLICE,
    Fed,
    L,
    World,
    add,
    array,
    assemble,
    body_rows,
    give_up,
    mark,
    part,
    plan_of,
    roster_entry,
    row,
    sequencer,
    start,
    stop,
    whole,
)

import producers.sender
from controllers.reconcile import Reconciler
from freerun.assembler import BROKEN, GAP, GIVEN_UP, Bundle
from freerun.kafka import BrokerTrouble, Outgoing
from freerun.ledger import Account, SourceAccount, line
from freerun.plan import VOID_NS, Plan
from freerun.slices import first_in, partition
from freerun.topics import Topics
from freerun.wire import MARK, Part, read_part
from processors.lane import TRIES, Backlog, Lane
from producers.sender import PartSender
from producers.sequencer import first_slice

SECOND = 1_000_000_000
TENTH = 100_000_000


def fates(bundles: list[Bundle], source: str = "a") -> dict[int, str]:
    return {b.k: b.missing[source].why if source in b.missing else "closed" for b in bundles}


def in_partition(p: int, partitions: int, first: int, end: int) -> list[int]:
    return [k for k in range(first, end) if partition(k, partitions) == p]


# ------------------------------------------------------------------ the plan


@pytest.mark.parametrize("partitions", [1, 3, 8])
def test_two_runs_with_a_pause(partitions: int) -> None:
    """Run 1 is slices 19-35, run 2 starts at 40; 36 is in no run."""
    plan = plan_of(start(19), stop(36), start(40, run=2), partitions=partitions)
    seen: list[int] = []
    for p in range(partitions):
        fed = Fed(p, partitions, 19)
        for source in "ab":
            for k in (*range(19, 36), *range(40, 50)):
                if partition(k, partitions) == p:
                    fed.put(whole(k, source=source))
        fed.offer_all(plan)
        seen += [b.k for b in fed.ready(plan)]
        fed = fed.take_over()
        assert fed.assembler.next >= 50
    assert sorted(seen) == [*range(19, 36), *range(40, 50)]


def test_two_runs_with_a_pause_also_for_an_heir_in_between() -> None:
    plan = plan_of(start(19), stop(36), partitions=1, length=TENTH, read_at=50 * TENTH)
    fed = Fed(0, 1, 35).put(whole(35), whole(35, source="b")).offer_all(plan)
    assert [b.k for b in fed.ready(plan)] == [35]
    heir = fed.take_over()
    assert heir.ready(plan) == []
    add(plan, start(80, run=2))
    heir.put(whole(80), whole(80, source="b"))
    plan.read_at_ns = FOREVER
    assert [b.k for b in heir.offer_all(plan).ready(plan)] == [80]


def test_stalled_controller() -> None:
    """from_slice = 40 was computed, then the controller stopped for 3 s before its commit; lanes
    have read the plan to its end and emitted 40."""
    plan = plan_of(start(19), partitions=1, length=TENTH, read_at=40 * TENTH)
    fed = Fed(0, 1, 40).put(whole(40), whole(40, source="b")).offer_all(plan)
    assert [b.k for b in fed.ready(plan, 41 * TENTH)] == [40]
    add(plan, stop(40), time_ms=41 * TENTH // 10**6)
    assert [e.kind for e in plan.void] == ["stop"] and plan.run_of(40) == 1
    # the controller reads it back, sees that it is void, and issues it again
    assert plan.next_seq == 3
    again = plan.earliest(41 * TENTH)
    assert again == 61
    add(plan, stop(again), time_ms=41 * TENTH // 10**6)
    assert plan.runs()[0].last == 60


def test_stalled_controller_just_in_time_binds_everybody() -> None:
    """The last moment at which an entry is not void lies before any slice is emitted that it
    could change: emitting needs a plan that was read after the slice began."""
    plan = plan_of(start(19), partitions=1, length=TENTH, read_at=0)
    plan.read_at_ns = 40 * TENTH - 1
    fed = Fed(0, 1, 40).put(whole(40), whole(40, source="b")).offer_all(plan)
    assert fed.ready(plan, 41 * TENTH) == []
    add(plan, stop(40), time_ms=(40 * TENTH - VOID_NS) // 10**6)
    assert not plan.void
    plan.read_at_ns = 40 * TENTH
    assert fed.ready(plan, 41 * TENTH) == []


# ------------------------------------------------------------------ sources that die


def lives(
    plan: Plan, partitions: int, *records: Part, sources: str = "ab"
) -> dict[int, dict[int, str]]:
    """Source a's records in their partitions (marks in all), b whole: p → slice → fate of a."""
    run = plan.runs()[0]
    assert run.last is not None
    out = {}
    for p in range(partitions):
        fed = Fed(p, partitions, run.first, sources)
        for r in records:
            if r.part == MARK or partition(r.k, partitions) == p:
                fed.put(r)
        for k in in_partition(p, partitions, run.first, run.last + 1):
            fed.put(whole(k, source="b"))
        fed.offer_all(plan)
        out[p] = fates(fed.ready(plan))
    return out


def test_restart_at_the_tail() -> None:
    """P = 3; a closes 51, dies, is back before it is LOST, beyond the stop border 54: the other
    partitions never see a later record of it."""
    plan = plan_of(start(40), stop(54))
    records = [mark(40), *(whole(k) for k in range(40, 52))]
    waiting = lives(plan, 3, *records)
    assert sum(len(w) for w in waiting.values()) < 14, "52 and 53 are waited for"
    # heartbeats say it: READY, of a new life, beyond the run that still waits for it
    r = Reconciler("control/run", TENTH, 5 * SECOND)
    verdicts = []
    for t in range(30):
        now = 4 * SECOND + t * SECOND
        r.add("control/run", {"time_ns": now})
        r.add("source/a", {"time_ns": now, "state": "READY", "inc": 2, "closed": -1,
                           "first": now // TENTH + 2, "spool": 0})  # fmt: skip
        verdicts.append(r.to_give_up("a", now, first=40, last=53))
    assert verdicts[0] is None and verdicts[-1] is not None
    add(plan, give_up(40, "a"))
    got = {k: why for fate in lives(plan, 3, *records).values() for k, why in fate.items()}
    assert got == dict.fromkeys(range(40, 52), "closed") | dict.fromkeys((52, 53), GIVEN_UP)


@pytest.mark.parametrize("marks_arrive", [True, False])
def test_skipped_where_nobody_looks(marks_arrive: bool) -> None:
    """P = 4; a closes 47, restarts at 50, closes 51, dies. 48 lies in a partition that it never
    reached again; a give-up "from 52" would not cover it."""
    plan = plan_of(start(40), stop(56), partitions=4)
    records = [mark(40), *(whole(k) for k in range(40, 48))]
    if marks_arrive:
        records.append(mark(50, inc=2))
    records += [whole(50, inc=2), whole(51, inc=2)]
    add(plan, give_up(52, "a"))
    stuck = lives(plan, 4, *records)
    if not marks_arrive:
        assert 48 not in stuck[partition(48, 4)], "not covered: it waits for ever"
    plan.entries.pop()
    add(plan, give_up(40, "a"))
    got = {k: why for fate in lives(plan, 4, *records).values() for k, why in fate.items()}
    assert sorted(got) == list(range(40, 56))
    assert all(got[k] == "closed" for k in (*range(40, 48), 50, 51))
    assert got[48] == (GAP if marks_arrive else GIVEN_UP)
    assert all(got[k] == GIVEN_UP for k in range(52, 56))


def test_give_up_before_reading() -> None:
    """Lanes lag; a closed 31 long ago and then died; the lane knows of the give-up first."""
    plan = plan_of(start(30), give_up(30, "a"), partitions=1)
    fed = Fed(0, 1, 30).put(whole(30), whole(31))
    fed.put(*(whole(k, source="b") for k in range(30, 34))).offer_all(plan, "b")
    assert fed.ready(plan) == [], "what is in Kafka is used"
    fed.offer_all(plan)
    assert fates(fed.ready(plan)) == {30: "closed", 31: "closed", 32: GIVEN_UP, 33: GIVEN_UP}


def test_give_up_before_reading_does_not_wait_behind_a_held_record() -> None:
    """The log of a given-up source goes on with records of slices that are not decided."""
    plan = plan_of(
        start(30), give_up(30, "a"), partitions=1, length=SECOND, read_at=31 * SECOND + SECOND // 2
    )
    fed = Fed(0, 1, 30).put(part(30, 0), whole(40, inc=2))
    fed.put(*(whole(k, source="b") for k in (30, 31))).offer_all(plan)
    assert fed.read["a"] == 1, "40 is not decided"
    assert fates(fed.ready(plan)) == {30: GAP, 31: GAP}


def test_who_was_given_up_is_taken_back_from_its_first_slice_on() -> None:
    plan = plan_of(start(30), give_up(30, "a"), roster_entry(34), partitions=1)
    fed = Fed(0, 1, 30).put(whole(30), mark(34, inc=2), whole(34, inc=2), whole(35, inc=2))
    fed.put(*(whole(k, source="b") for k in range(30, 36))).offer_all(plan)
    assert fates(fed.ready(plan)) == {
        30: "closed", 31: GAP, 32: GAP, 33: GAP, 34: "closed", 35: "closed",
    }  # fmt: skip


def test_outage_makes_everybody_lost() -> None:
    """The broker is away 15 s; then what waited comes all at once, control's first."""
    r = Reconciler("control/run", TENTH, 5 * SECOND)
    sources = ("a", "b", "c")

    def beats(t: int, *names: str, **value: Any) -> None:
        for name in names:
            told = {"time_ns": t * SECOND, "state": "RUNNING", "inc": 1, "first": 0,
                    "closed": 10 * t - 3, "spool": 0, **value}  # fmt: skip
            r.add(f"source/{name}", told)

    def verdicts(t: int) -> set[str | None]:
        return {r.to_give_up(s, t * SECOND) for s in sources}

    for t in range(10):
        r.add("control/run", {"time_ns": t * SECOND})
        beats(t, *sources)
        assert verdicts(t) == {None}
    for t in range(10, 25):
        assert verdicts(t) == {None}, "nothing comes back, so nobody is lost"
    for t in range(10, 25):
        r.add("control/run", {"time_ns": t * SECOND})
        assert verdicts(25) == {None}, "old heartbeats come back before the sources do"
    r.add("control/run", {"time_ns": 25 * SECOND})
    assert verdicts(26) == {None}
    for t in range(10, 26):  # the sources' own, as they were made, with what waited
        beats(t, *sources, closed=90, spool=10**6)
        assert verdicts(26) == {None}
    for t in range(26, 40):
        r.add("control/run", {"time_ns": t * SECOND})
        beats(t, "a", "b")
        assert {r.to_give_up(s, t * SECOND) for s in "ab"} == {None}
        gone = r.to_give_up("c", t * SECOND)
    assert gone == "LOST: no heartbeat", "who is really gone is lost"


def test_slow_clock_restart() -> None:
    """The host's clock is 0.5 s behind; slice(now) + 2 is a slice of which half has gone by."""
    length = TENTH
    data, host = 100 * length + length // 2, 100 * length - 5 * length + length // 2
    assert first_slice(0, host, None, length) == 97, "what the host alone would say"
    first = first_slice(0, host, data, length)
    assert first == 102 and first * length > data
    # in small: rows from the middle of slice 5 on, the host still in slice 3
    wrong, right = sequencer(), sequencer(inc=2)
    middle = [row(5 * SLICE + SLICE // 2 + i, i) for i in range(10)]
    for s, at in ((wrong, 3 + 2), (right, first_slice(0, 3 * L, 5 * L + L // 2, L))):
        outs = s.arm(at, None)
        outs += s.offer(array(middle), 0, 10**6, 0)
        outs += s.advance(9 * SLICE)
        closed = [o.part for o in outs if o.part.closes]
        if s is wrong:
            assert closed[0].k == 5 and closed[0].rows == 10, "half a slice, closed as whole"
        else:
            assert closed[0].k == 7
            assert closed[0].close is not None and closed[0].close["pre_start"] == 10


# ------------------------------------------------------------------ take-overs


def test_forgotten_incarnation() -> None:
    """A zombie still sends; after a take-over the lane must still know that it is one."""
    plan = plan_of(start(0), stop(8), partitions=1)
    fed = Fed(0, 1).put(*(whole(k, source="b") for k in range(8)))
    fed.put(whole(0), whole(1), mark(2, inc=2), whole(2, inc=2)).offer_all(plan)
    assert fates(fed.ready(plan)) == {0: "closed", 1: "closed", 2: "closed"}
    zombie = (whole(3, inc=1, rows=5), whole(3, inc=2, rows=7), whole(4, inc=1, rows=5))
    heir = fed.take_over()
    fed.put(*zombie)
    live, replayed = fed.offer_all(plan).ready(plan), heir.offer_all(plan).ready(plan)
    assert fates(live) == fates(replayed) == {3: "closed"}
    assert live[0].fragments[0].inc == replayed[0].fragments[0].inc == 2
    assert live[0].counts["a"] == replayed[0].counts["a"] == {"stale": 10}


def test_held_then_committed() -> None:
    """The record of 22 is held; another slice commits positions; take-over."""
    plan = plan_of(start(20), partitions=1, length=SECOND, read_at=21 * SECOND + SECOND // 2)
    fed = Fed(0, 1, 20).put(whole(20), whole(22), whole(23))
    fed.put(*(whole(k, source="b") for k in range(20, 24))).offer_all(plan)
    assert fed.assembler.sources["a"].held
    assert fates(fed.ready(plan)) == {20: "closed", 21: GAP}
    heir = fed.take_over()
    assert heir.read["a"] == 1, "its position was left where it was"
    plan.read_at_ns = FOREVER
    assert fates(heir.offer_all(plan).ready(plan)) == {22: "closed", 23: "closed"}


def test_what_waits_when_another_slice_is_committed_is_whole_for_the_heir() -> None:
    """a is three slices ahead of b; the heir reads a's again, and they are no gap."""
    plan = plan_of(start(0), partitions=1)
    fed = Fed(0, 1).put(*(whole(k) for k in range(4)), whole(0, source="b")).offer_all(plan)
    assert fates(fed.ready(plan)) == {0: "closed"}
    heir = fed.take_over()
    heir.put(*(whole(k, source="b") for k in (1, 2, 3))).offer_all(plan)
    assert fates(heir.ready(plan)) == {1: "closed", 2: "closed", 3: "closed"}


def test_counted_again() -> None:
    """A late part behind the committed offset was reported before the take-over."""
    plan = plan_of(start(0), partitions=1)
    fed = Fed(0, 1).put(whole(0), whole(1), part(0, 0, rows=5, late=True), part(9, 0, inc=0))
    fed.put(whole(0, source="b")).offer_all(plan)
    (bundle,) = fed.ready(plan)
    assert bundle.counts["a"] == {"late": 5, "stale": 1}
    heir = fed.take_over()
    assert heir.read["a"] == 1, "1 is read again, and what comes behind it"
    heir.put(part(0, 1, rows=2, late=True), whole(1, source="b")).offer_all(plan)
    (bundle,) = heir.ready(plan)
    assert bundle.counts["a"] == {"late": 2}


def test_a_broken_slice_does_not_leave_before_it_was_read_as_far_as_before() -> None:
    """The heir meets the first broken part again; the rest was counted in nobody's name yet."""
    plan = plan_of(start(0), partitions=1)
    fed = Fed(0, 1).put(whole(0), part(1, 1, rows=5), part(1, 2, rows=6), whole(0, source="b"))
    assert fates(fed.offer_all(plan).ready(plan)) == {0: "closed"}
    heir = fed.take_over()
    heir.put(whole(1, source="b")).offer_all(plan, "b")
    heir.assembler.offer("a", 1, part(1, 1, rows=5), b"", plan)
    heir.read["a"] = 2
    assert heir.ready(plan) == []
    (bundle,) = heir.offer_all(plan).ready(plan)
    assert (bundle.missing["a"].why, bundle.missing["a"].rows) == (BROKEN, 11)


# ------------------------------------------------------------------ losses and their names


def test_unnamed_loss() -> None:
    """Fragments broken, given up, after a give-up, off the roster: each row under one name."""
    plan = plan_of(start(2), stop(8), give_up(2, "a"), partitions=1)
    fed = Fed(0, 1, 2)
    fed.put(
        whole(1, rows=1),  # before the run
        part(2, 0, rows=2), part(2, 2, rows=3, close=(3, 9)),  # a part is missing
        part(3, 0, rows=4), whole(4, rows=5),  # 3 was never closed
        part(3, 1, inc=0, rows=6), part(4, 0, inc=1, rows=5),  # a zombie; sent twice
        part(2, 0, rows=7, late=True), part(5, 0, rows=8),  # late; then it died
    )  # fmt: skip
    fed.put(*(whole(k, source="b") for k in range(2, 8))).offer_all(plan)
    bundles = fed.ready(plan)
    assert fates(bundles) == {2: BROKEN, 3: GAP, 4: "closed", 5: GIVEN_UP, 6: GIVEN_UP, 7: GIVEN_UP}
    fed.put(part(5, 1, rows=9, close=(2, 17)), whole(9, rows=10)).offer_all(plan)
    missing = {(b.k, b.missing["a"].rows) for b in bundles if "a" in b.missing}
    assert missing == {(2, 5), (3, 4), (5, 8), (6, 0), (7, 0)}
    counts: Counter[str] = Counter()
    for b in bundles:
        counts.update(b.counts.get("a", {}))
    counts.update(fed.assembler.sources["a"].counts)
    assert counts == {"off_roster": 11, "stale": 6, "duplicate": 5, "late": 7, "after_give_up": 9}
    everything = sum(r.rows for r in fed.logs["a"] if isinstance(r, Part))
    assert counts.total() + sum(rows for _, rows in missing) + 5 == everything


def test_trailing_records() -> None:
    """Late and stale records after a partition's last slice are in no header; the account of the
    run, taken from the topic itself, has them."""
    plan = plan_of(start(0, roster="a"), stop(2), partitions=1)
    fed = Fed(0, 1, sources="a").put(mark(0), whole(0, rows=3), whole(1, rows=2, read=5))
    bundles = fed.offer_all(plan).ready(plan)
    assert [b.k for b in bundles] == [0, 1]
    fed.put(part(1, 0, rows=7, late=True), part(1, 0, inc=0, rows=4)).offer_all(plan)
    assert fed.ready(plan) == []
    account = Account(0, 1, {"a": SourceAccount()})
    for record in fed.logs["a"]:
        assert isinstance(record, Part)
        account.sources["a"].see(record)
    for bundle in bundles:
        account.bundle(bundle)
        n = sum(f.rows for f in bundle.fragments)
        account.result(bundle.k, {"n_events": 0, "complete": True, "failed": None, "sources": {
            "a": {"rows": n, "hits": n, "unassigned": n, "sum": 0}}}, 0)  # fmt: skip
    account.trailing({"a": dict(fed.assembler.sources["a"].counts)})
    verdict = account.verdict()
    assert verdict["ok"], verdict["gaps"]
    assert verdict["sources"]["a"]["losses"] == {"late": 7, "superseded": 4}
    assert line(verdict) == "LEDGER closed; named: 7 late a, 4 superseded a"


def test_shared_spool() -> None:
    """Two processes drain one spool: what comes twice is seen as such, and nothing is a gap as
    long as the first sending was whole. (That only one drains it is the lock's affair.)"""
    plan = plan_of(start(0), stop(6), partitions=1)
    leftovers = [mark(0), whole(0), part(1, 0), part(1, 1, close=(2, 2)), whole(2)]
    fed = Fed(0, 1).put(*leftovers[:3], *leftovers[:4], *leftovers)
    fed.put(mark(4, inc=2), whole(4, inc=2), *leftovers, whole(5, inc=2))
    fed.put(*(whole(k, source="b") for k in range(6))).offer_all(plan)
    bundles = fed.ready(plan)
    assert fates(bundles) == {0: "closed", 1: "closed", 2: "closed", 3: GAP, 4: "closed",
                              5: "closed"}  # fmt: skip
    counts = sum((Counter(b.counts.get("a", {})) for b in bundles), Counter[str]())
    assert counts == {"duplicate": 5, "stale": 4}


# ------------------------------------------------------------------ the sender


@pytest.fixture
def kafka(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[PartSender, FakeKafka]]:
    monkeypatch.setattr(producers.sender, "Sender", FakeKafka)

    def make(**settings: Any) -> tuple[PartSender, FakeKafka]:
        sender = PartSender("nowhere", "x.raw.a", "x", **settings)
        fake = sender._sender
        assert isinstance(fake, FakeKafka)
        return sender, fake

    return make


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(
    ("what", "rows"),
    [((1, 0), 10), ((1, 1), 10), ((1, 2), 5), ((3, 0), 10), ((3, 1), 10), ((3, 2), 5)],
)
def test_refused_record(
    kafka: Callable[..., tuple[PartSender, FakeKafka]], what: tuple[int, int], rows: int,
    at_once: bool,
) -> None:  # fmt: skip
    """The broker refuses one part for good (too large): nothing waits behind it, its slice is
    broken and named, and the account closes."""
    sender, fake = kafka()

    def refuse(record: Outgoing, told: Part) -> bool:
        return (told.k, told.part) == what and len(memoryview(record.value)) > 0

    for out in sent_slices():
        sender.send(out)
        if not at_once:
            fake.settle(refuse)
    fake.settle(refuse)
    assert (sender.refused, sender.refused_rows, sender.waiting_bytes) == (1, rows, 0)
    assert sender.acked_close == 3
    # what a lane and the ledger make of it
    world = World(3)
    for record in fake.log:
        told = read_part(record.headers)
        log = world.logs.setdefault(("a", record.partition), [])
        log.append((told, bytes(memoryview(record.value))))
    plan = plan_of(start(0, roster="a"), stop(4))
    account = Account(0, 3, {"a": SourceAccount()})
    found: dict[int, str] = {}
    for p in range(3):
        for told, _ in world.log("a", p):
            assert isinstance(told, Part)
            account.sources["a"].see(told)
        pictures, _ = assemble(world, plan, p, first_in(p, 0, 3), lambda s: s[0])
        for k, _seq, _fragments, missing in pictures:
            found[k] = missing[0][1] if missing else "closed"
    broken = {k: BROKEN if k == what[0] else "closed" for k in range(4)}
    if at_once and what[1] == 2:
        # its close was sent again behind all that was on its way; in its partition that is
        # the next slice or the mark of the end, so it counts as skipped
        broken[what[0]] = GAP
    assert found == broken
    account.sources["a"].close()
    counts = account.sources["a"].counts
    assert (counts["read"], counts["in_kafka"], counts["dropped"]) == (100, 100 - rows, rows)


def test_refused_record_with_nothing_but_guards_is_no_whole_slice(
    kafka: Callable[..., tuple[PartSender, FakeKafka]],
) -> None:
    """All body rows are in Kafka and agree with the close, but the guards are lost."""
    s = sequencer(part_bytes=80, partitions=1)
    outs = s.arm(0, 1)
    outs += s.offer(array([*(row(i, i) for i in range(10)), row(SLICE + 1, 1)]), 0, 10**6, 0)
    outs += s.advance(10**6)
    last = next(o for o in outs if o.part.closes)
    assert last.part.rows == 0 and len(body_rows(last.body)) == 1
    sender, fake = kafka()
    for out in outs:
        sender.send(out)
        fake.settle(lambda record, told: told.closes and len(memoryview(record.value)) > 0)
    plan = plan_of(start(0, roster="a"), stop(1), partitions=1)
    fed = Fed(0, 1, sources="a").put(*(read_part(r.headers) for r in fake.log)).offer_all(plan)
    assert fates(fed.ready(plan)) == {0: BROKEN}


def test_refused_record_that_is_refused_again_leaves_too(
    kafka: Callable[..., tuple[PartSender, FakeKafka]],
) -> None:
    sender, fake = kafka()
    for out in sent_slices():
        sender.send(out)
        fake.settle(lambda _record, told: told.closes and told.k == 1)
    assert sender.refused == 2 and sender.waiting_bytes == 0 and not fake.queue
    assert 1 not in {read_part(r.headers).k for r in fake.log if read_part(r.headers).closes}


def test_a_full_queue_asks_for_dropping_and_takes_every_close(
    kafka: Callable[..., tuple[PartSender, FakeKafka]],
) -> None:
    """The broker is away: payload is dropped and counted, each slice is still closed."""
    sender, fake = kafka(bound=2_000)
    s = sequencer(part_bytes=80)
    for out in s.arm(0, None):
        sender.send(out)
    for k in range(60):
        s.dropping = sender.full
        outs = s.offer(array(row(k * SLICE + i * 9, i) for i in range(25)), 0, 10**6, 0)
        for out in outs + s.advance(k * SLICE):
            sender.send(out)
    assert sender.full and s.totals["dropped"] > 500
    fake.settle()
    assert not sender.full and sender.waiting_bytes == 0
    told = [read_part(r.headers) for r in fake.log]
    closes = [t for t in told if t.closes]
    assert [t.k for t in closes] == list(range(58)) and sender.acked_close == 57
    last = closes[-1].close
    assert last is not None
    rows = sum(t.rows for t in told)
    assert last["read"] == rows + last["dropped"]


# ------------------------------------------------------------------ lanes


class NoBroker:
    """Stands for a lane's reader and its producers while the broker is away, or for ever."""

    def __init__(self, *_: Any, **_more: Any) -> None:
        self.lost: dict[Any, str] = {}

    def init(self) -> None:
        raise BrokerTrouble("the broker is away")

    def committed(self, _places: Any) -> dict[Any, Any]:
        raise BrokerTrouble("the broker is away")

    def group_metadata(self) -> None:
        return None

    def unassign(self, _places: Any) -> None:
        pass

    def close(self) -> None:
        pass


class Kernel:
    """A pipeline that cannot do slice `poison`."""

    name, L = "muons", L

    def __init__(self, poison: int) -> None:
        self.poison, self.tries = poison, Counter[int]()

    def process(self, bundle: Bundle) -> Any:
        self.tries[bundle.k] += 1
        if bundle.k == self.poison:
            raise RuntimeError("this kernel cannot do it")
        return SimpleNamespace(k=bundle.k, failed=None)

    def failed(self, bundle: Bundle, why: str) -> Any:
        return SimpleNamespace(k=bundle.k, failed=why)


@pytest.fixture
def lane(monkeypatch: pytest.MonkeyPatch) -> Lane:
    for name in ("Reader", "PlanLog", "Transactional"):
        monkeypatch.setattr(f"processors.lane.{name}", NoBroker)
    pipeline: Any = Kernel(poison=4)
    made = Lane("nowhere", Topics("x"), pipeline, ["a", "b"], 1, generation=1)
    monkeypatch.setattr(Lane, "plan", plan_of(start(0), stop(8), partitions=1))
    return made


class Held(SimpleNamespace):
    """An owner whose commits end in a list."""

    def announce(self, k: int, times: int, _group: Any) -> None:
        self.said.append((k, times))

    def start_commit(self, results: Any, _pool: Any, _group: Any) -> None:
        self.out += [(r.k, r.failed) for r in results]


def owned(out: list[Any]) -> Any:
    fed = Fed(0, 1)
    for source in "ab":
        fed.put(*(whole(k, source=source) for k in range(8)))
    fed.offer_all(plan_of(start(0), stop(8), partitions=1))
    return Held(p=0, assembler=fed.assembler, commit=None, out=out, in_commit=[], alone=0,
                tried=(-1, 0), said=[], transactions=NoBroker())  # fmt: skip


def test_blamed_for_the_outage(lane: Lane) -> None:
    """Failed take-overs and fetches at the same `next` are nobody's fault; of a batch of eight
    slices whose fifth cannot be built, the fifth alone leaves as failed."""
    done, end = Backlog(), time.monotonic() + 60
    lane._wanted = {0}
    for _ in range(2 * TRIES):
        lane._again.clear()  # as if the back-off had gone by
        lane._take_over_missing(done, end)
    assert done.retaken == 2 * TRIES and not lane._owners
    assert not lane._kernel_failures, "an outage counts against no slice"
    out: list[Any] = []
    for turn in range(TRIES + 2):
        if 0 not in lane._owners:
            lane._owners[0] = owned(out)  # nothing was committed: an heir begins at 0 again
        lane._guarded(0, partial(lane._work, lane._owners[0], done, end), done)
        assert bool(out) == (turn >= TRIES)
    assert out == [(k, "the kernels failed 3 times" if k == 4 else None) for k in range(8)]
    tries = lane._pipeline.tries  # type: ignore[attr-defined]
    assert tries[4] == TRIES and done.retaken == 3 * TRIES
    lane._pool.shutdown()
    # the stop of a batch in the middle is not counted against those before it, nor behind it
    assert set(lane._kernel_failures) <= {(0, 4)}


@pytest.mark.parametrize(("times", "why"), [(TRIES - 1, None), (TRIES, "ended the process")])
def test_blamed_for_a_process_that_ended_is_the_announced_slice_alone(
    lane: Lane, times: int, why: str | None
) -> None:
    """After a death slices go one at a time, each announced before it is computed."""
    out: list[Any] = []
    owner = owned(out)
    owner.alone, owner.tried = 8, (2, times)
    for _ in range(4):
        lane._work(owner, Backlog(), time.monotonic() + 60)
    assert [k for k, _ in out] == [0, 1, 2, 3]
    assert [k for k, failed in out if failed] == ([2] if why else [])
    assert why is None or why in out[2][1]
    announced = [(0, 1), (1, 1), (2, times + 1), (3, 1)]
    assert owner.said == [a for a in announced if a[1] <= TRIES]
    lane._pool.shutdown()


# ------------------------------------------------------------------ the list


def test_every_story_is_a_test_by_its_name() -> None:
    """docs/protocol.md names the stories; each is a function `test_<name>` somewhere here."""
    here = Path(__file__).parent
    text = (here.parent / "docs" / "protocol.md").read_text("utf-8")
    _, _, section = text.partition("\n## Stories\n")
    names = re.findall(r"^\| `(\w+)` \|", section.partition("\n## ")[0], re.MULTILINE)
    assert len(names) == 18
    tests = {
        name
        for path in here.glob("test_*.py")
        for name in re.findall(r"^def test_(\w+)\(", path.read_text("utf-8"), re.MULTILINE)
    }
    assert not set(names) - tests
