"""The plan's fold: what is in force, what is decided, who is given up."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from make_source import FOREVER, G, L, add, give_up, plan_of, roster_entry, start, stop

from freerun.plan import DATA, DECIDED_NS, LEAD_NS, VOID_NS, Entry, Install, Plan

SOME = settings(max_examples=200, derandomize=True, deadline=None)
TENTH = 100_000_000  # ns, the slice where seconds matter


def test_install_and_entries_come_back_as_they_were() -> None:
    plan = Plan()
    assert plan.add(Install("u", L, 3, G).to_json(), 0) is None
    assert plan.install == Install("u", L, 3, G)
    entry = Entry(1, 40, "start", 7, "host", {"a": True}, {"common": 5}, {"a": -3}, {"x": [1]},
                  {"a": [1, 2]}, {"b": "LOST"}, "anna", "beam", "c1")  # fmt: skip
    told = plan.add(entry.to_json(), -1000)
    assert told == replace(entry, time_ms=-1000) and plan.entries == [told]


def test_two_runs_and_the_pause_between_them() -> None:
    plan = plan_of(start(19), stop(36), start(40, run=2, roster="a"))
    assert [plan.run_of(k) for k in (0, 18, 19, 35, 36, 39, 40, 99)] == [
        None, None, 1, 1, None, None, 2, 2,
    ]  # fmt: skip
    assert set(plan.roster(19)) == {"a", "b"} and set(plan.roster(40)) == {"a"}
    assert plan.roster(38) == {}
    first, second = plan.runs()
    assert (first.number, first.first, first.last) == (1, 19, 35)
    assert (second.number, second.first, second.last) == (2, 40, None)
    assert first.stop is not None and first.stop.kind == "stop" and second.stop is None
    assert plan.run(2) == second and plan.run(3) is None


def test_a_switch_ends_one_run_and_begins_another() -> None:
    plan = plan_of(start(10), replace(start(20, run=2), kind="switch"), stop(30))
    assert [(r.number, r.first, r.last) for r in plan.runs()] == [(1, 10, 19), (2, 20, 29)]


def test_a_run_may_have_no_slice() -> None:
    plan = plan_of(start(10), stop(10))
    assert [(r.first, r.last) for r in plan.runs()] == [(10, 9)]
    assert plan.run_of(10) is None and plan.roster(10) == {}


def test_a_give_up_covers_the_whole_run_until_a_later_entry_takes_the_source_back() -> None:
    plan = plan_of(start(19))
    gone = add(plan, give_up(19, "a"))
    assert all(plan.given_up(k) == {"a": gone} for k in (19, 48, 1000))
    assert plan.given_up(18) == {}
    add(plan, roster_entry(60))
    assert plan.given_up(59) == {"a": gone} and plan.given_up(60) == {}
    again = add(plan, give_up(19, "a"))
    assert plan.given_up(60) == {"a": again} and plan.given_up(30) == {"a": again}
    add(plan, stop(80))
    assert plan.given_up(79) == {"a": again} and plan.given_up(80) == {}


def test_who_comes_back_does_not_bring_the_others_back() -> None:
    plan = plan_of(start(19), give_up(19, "a"), give_up(19, "b"))
    back = add(plan, roster_entry(60, gone="b"))
    assert plan.given_up(60) == {"b": back}
    assert set(plan.given_up(59)) == {"a", "b"}


def test_a_give_up_of_another_run_is_none_of_this_ones() -> None:
    plan = plan_of(start(19), stop(36), start(40, run=2), give_up(19, "a", run=1))
    assert set(plan.given_up(20)) == {"a"} and plan.given_up(40) == {}


def slow_given_up(plan: Plan, k: int) -> dict[str, Entry]:
    base = plan.base(k)
    if base is None or base.run is None:
        return {}
    out = dict.fromkeys(base.given_up, base)
    for e in plan.entries:
        if e.kind == "give_up" and e.run == base.run and e.seq > base.seq and e.from_slice <= k:
            out.update(dict.fromkeys(e.given_up, e))
    return out


@pytest.mark.parametrize("seed", range(30))
def test_folds_against_a_walk_through_all_entries(seed: int) -> None:
    rng = random.Random(seed)
    plan, at, run, running = plan_of(), 10, 0, False
    for _ in range(12):
        at += rng.randrange(0, 6)
        if not running:
            run, running = run + 1, True
            add(plan, start(at, run=run))
        else:
            what = rng.random()
            first = plan.runs()[-1].first
            if what < 0.4:
                add(plan, give_up(first, rng.choice("ab"), run=run))
            elif what < 0.7:
                add(plan, roster_entry(at, run=run, gone=rng.choice(["", "a", "b"])))
            else:
                add(plan, stop(at))
                running = False
    for k in range(at + 10):
        base = None
        for e in plan.entries:
            if e.kind != "give_up" and e.from_slice <= k:
                base = e
        assert plan.base(k) == base
        assert plan.given_up(k) == slow_given_up(plan, k)
        runs = [r.number for r in plan.runs() if r.first <= k and (r.last is None or k <= r.last)]
        assert runs == ([] if plan.run_of(k) is None else [plan.run_of(k)])


@SOME
@given(st.integers(0, 2 * 10**18), st.sampled_from([1_000_000, TENTH, 999_999_937]))
def test_the_earliest_slice_starts_two_seconds_from_now_or_later(now: int, length: int) -> None:
    k = plan_of(length=length).earliest(now)
    assert k * length >= now + LEAD_NS > (k - 1) * length


def test_entries_never_go_back() -> None:
    plan = plan_of(start(100, run=1), length=TENTH)
    assert plan.earliest(0) == 100
    add(plan, give_up(100, "a"))
    assert plan.earliest(0) == 100
    assert plan.earliest(200 * TENTH) == 220


def test_what_is_decided() -> None:
    plan = plan_of(start(19), length=TENTH, read_at=0)
    assert not plan.decided(0), "never read to its end"
    plan.read_at_ns = 30 * TENTH
    bound = 30 + DECIDED_NS // TENTH
    assert plan.decided(bound - 1) and not plan.decided(bound)
    add(plan, stop(60))
    assert plan.decided(59) and not plan.decided(60)
    add(plan, give_up(19, "a"))
    assert not plan.decided(60)
    assert not Plan().decided(0)


def test_recorded_time_is_compared_with_nobodys_clock() -> None:
    plan = plan_of(start(10**6, clock=DATA), read_at=5)
    assert plan.decided(10**6) and plan.decided(10**9)
    assert not Plan(plan.install, plan.entries).decided(10**6), "never read to its end"
    plan = plan_of(start(10**6), read_at=5)
    assert not plan.decided(10**6)


@pytest.mark.parametrize(("late_ns", "void"), [(0, False), (1_000_000, True)])
def test_an_entry_that_came_too_late_is_void_for_everybody(late_ns: int, void: bool) -> None:
    plan = plan_of(length=TENTH)
    time_ms = (40 * TENTH - VOID_NS + late_ns) // 1_000_000
    add(plan, start(40), time_ms)
    assert bool(plan.void) == void and (plan.run_of(40) is None) == void
    assert plan.next_seq == 2, "the number is gone either way"
    add(plan, give_up(40, "a"), time_ms + 10**6)
    assert len(plan.entries) == (1 if void else 2), "a give-up is never too late"


def test_recorded_runs_are_never_too_late() -> None:
    plan = plan_of(length=TENTH)
    add(plan, start(0, clock=DATA), 10**9)
    assert plan.run_of(0) == 1


def test_where_a_source_takes_part() -> None:
    plan = plan_of(start(19, roster="ab"), roster_entry(25, roster="b"), stop(36),
                   start(40, run=2), replace(start(50, run=3), kind="switch"))  # fmt: skip
    assert plan.next_border(0, "a") == (19, 25)
    assert plan.next_border(22, "a") == (22, 25)
    assert plan.next_border(25, "a") == (40, None), "a run's end is none for a source in both"
    assert plan.next_border(0, "b") == (19, 36)
    assert plan.next_border(55, "b") == (55, None)
    assert plan.next_border(0, "c") is None
    add(plan, stop(60))
    assert plan.next_border(60, "b") is None and plan.next_border(45, "a") == (45, 60)


def test_a_source_given_up_is_still_on_the_roster() -> None:
    """It may come back by itself: what it closes is used."""
    plan = plan_of(start(19), give_up(19, "a"))
    assert plan.next_border(30, "a") == (30, None) and "a" in plan.roster(30)


def test_entries_are_plain_json() -> None:
    data = json.loads(give_up(19, "a").to_json())
    assert data["kind"] == "give_up" and data["given_up"] == {"a": "LOST"}
    assert "time_ms" not in data
    assert FOREVER > 0
