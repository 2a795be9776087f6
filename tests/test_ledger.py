"""The ledger: it closes over any accident that has a name, and over none that has not."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from make_source import (
    FOREVER,
    Life,
    Record,
    World,
    assemble,
    check_crc,
    mark,
    part,
    plan_of,
    random_world,
    start,
    stop,
    whole,
)

from freerun.assembler import Assembler, Bundle, Missing, Resume
from freerun.errors import Quarantined
from freerun.ledger import IN_TOPIC, Account, SourceAccount, line, total
from freerun.plan import Plan, Run
from freerun.slices import first_in
from freerun.wire import MARK, Part

SEEDS = [int(os.environ["FREERUN_SEED"])] if "FREERUN_SEED" in os.environ else range(150)


def info_of(bundle: Bundle) -> dict[str, Any]:
    """What a lane says of a slice: every row a hit, one event of all of them."""
    sources = {}
    for f in bundle.fragments:
        n = f.rows
        sources[f.source] = {"rows": n, "hits": n, "in_events": n, "sum": f.close.get("sum", 0)}
    return {
        "n_events": 1, "complete": bundle.complete, "failed": None, "sources": sources,
        "missing": {s: {"why": m.why, "rows": m.rows} for s, m in bundle.missing.items()},
    }  # fmt: skip


def account_of(world: World, plan: Plan, run: Run, results: dict[int, dict[str, Any]]) -> Account:
    """As run control does it at a run's end, over logs instead of topics."""
    assert run.last is not None
    sources = sorted({s for e in plan.entries if e.run == run.number for s in e.roster})
    account = Account(run.first, run.last, {s: SourceAccount() for s in sources})
    for p in range(world.partitions):
        assembler = Assembler(p, world.partitions, run.first, check_crc)
        for s in sources:
            assembler.add_source(s, Resume(0, {}))
            for offset, (told, body) in enumerate(world.log(s, p)):
                if isinstance(told, Part):
                    account.sources[s].see(told)
                    if not run.first <= told.k <= run.last:
                        if told.late:
                            continue
                        told = replace(told, part=MARK, flags=0, rows=0)
                        body = b""
                assembler.offer(s, offset, told, body, plan)
        while assembler.next <= run.last:
            bundle = assembler.ready(plan, FOREVER, lambda _s, _seq: True)
            if bundle is None:
                break
            account.bundle(bundle)
        account.trailing({s: dict(state.counts) for s, state in assembler.sources.items()})
    for k, info in results.items():
        if run.first <= k <= run.last:
            account.result(k, info, info["n_events"])
    account.stored(account.events["published"])
    return account


def results_of(world: World, plan: Plan, rng: random.Random) -> dict[int, dict[str, Any]]:
    """What lanes publish, with take-overs and in any order of the sources."""
    out: dict[int, dict[str, Any]] = {}
    for p in range(world.partitions):
        pictures, _ = assemble(
            world, plan, p, first_in(p, 0, world.partitions), rng.choice,
            lambda: rng.random() < 0.02, lambda: rng.random() < 0.8,
        )  # fmt: skip
        for k, _seq, fragments, missing in pictures:
            sources = {}
            for s, inc, rows, triples, _bodies in fragments:
                # the close's checksum is on the wire: find it as a lane would
                close = next(
                    r.close for r, _ in world.log(s, p)
                    if isinstance(r, Part) and r.triple == triples[-1]
                )  # fmt: skip
                assert close is not None and inc == triples[-1][0]
                sources[s] = {"rows": rows, "hits": rows, "in_events": rows, "sum": close["sum"]}
            assert k not in out
            out[k] = {
                "n_events": 1, "complete": not missing, "failed": None, "sources": sources,
                "missing": {s: {"why": why, "rows": rows} for s, why, rows in missing},
            }  # fmt: skip
    return out


def known_by_source(world: World, source: str, run: Run) -> int:
    """Rows in the logs that a reader can tell apart from each other, each once."""
    seen = set()
    for (s, _), log in world.logs.items():
        for told, _body in log if s == source else ():
            if isinstance(told, Part) and told.part != MARK:
                assert run.last is not None
                if run.first <= told.k <= run.last:
                    seen.add((told.late, told.triple, told.rows))
    return sum(rows for *_, rows in seen)


def harmless(log: list[Record]) -> bool:
    return not any(isinstance(told, Quarantined) for told, _ in log)


def without_losses(seed: int) -> tuple[World, Plan]:
    """A random world in which no record vanishes unnamed: no lost and no unreadable ones."""
    import make_source

    before = make_source.HARMS
    make_source.HARMS = ("twice", "body", "twice", "body")
    try:
        return random_world(seed)
    finally:
        make_source.HARMS = before


@pytest.mark.parametrize("seed", SEEDS)
def test_the_ledger_closes_over_kills_restarts_zombies_and_copies(seed: int) -> None:
    print(f"replay with FREERUN_SEED={seed}")
    world, plan = without_losses(seed)
    results = results_of(world, plan, random.Random(seed))
    for run in plan.runs():
        verdict = account_of(world, plan, run, results).verdict()
        assert verdict["gaps"] == [] and verdict["ok"]
        assert line(verdict).startswith("LEDGER closed")
        for source, c in verdict["sources"].items():
            assert c["in_kafka"] - c["twice"] == known_by_source(world, source, run)
            assert min(v for v in c.values() if isinstance(v, int)) >= 0


@pytest.mark.parametrize("seed", range(40))
def test_a_record_that_vanished_is_a_gap_and_has_its_size(seed: int) -> None:
    """Sources that live to the end; then one record with rows is taken out of a log."""
    rng = random.Random(seed)
    plan = plan_of(start(3, roster="ab"), stop(12), length=100_000_000)
    world = World(3)
    for source in "ab":
        life = Life(source, 1, plan, 0)
        for k in range(15):
            for out in life.turn(k, rng):
                world.send(out)
        for out in life.s.advance(10**6):
            world.send(out)
    (run,) = plan.runs()
    clean = account_of(world, plan, run, results_of(world, plan, rng)).verdict()
    assert clean["ok"] and clean["losses"] == total(clean, ["late"])
    assert "none lost" in line(clean) or "late" in line(clean)
    with_rows = [
        (log, i) for log in world.logs.values() for i, (told, _) in enumerate(log)
        if isinstance(told, Part) and told.rows
    ]  # fmt: skip
    log, i = rng.choice(with_rows)
    gone, _ = log.pop(i)
    assert isinstance(gone, Part)
    verdict = account_of(world, plan, run, results_of(world, plan, rng)).verdict()
    source = verdict["sources"][gone.source]
    if gone.closes and run.last is not None and gone.k == run.last:
        # the end's mark says the counts of the last close, too
        assert not verdict["ok"]
    assert not verdict["ok"]
    missing = source["read"] - source["in_kafka"] - source["pre_start"] - source["malformed"]
    assert missing - source["quarantined"] - source["dropped"] == gone.rows
    assert "has a gap" in line(verdict) and gone.source in line(verdict)


# ------------------------------------------------------------------ term by term

RUN = Run(1, 0, 9, "host", start(0), None)


def source_account(*parts: Part, first: int = 0, last: int = 9) -> Counter[str]:
    account = SourceAccount(first=first, last=last)
    for p in parts:
        account.see(p)
    account.close()
    account.close()  # adding up twice adds nothing
    return account.counts


def closed(k: int, rows: int, read: int, inc: int = 1, **counts: int) -> Part:
    close = {"parts": 1, "rows": rows, "read": read, **counts}
    return replace(whole(k, rows, inc=inc), close=close)


def at(k: int, inc: int = 1, **counts: int) -> Part:
    return replace(mark(k, inc=inc), close=counts)


def test_read_is_the_growth_since_the_mark() -> None:
    counts = source_account(at(0, read=100, late=3), closed(0, 5, 105, late=3),
                            closed(1, 6, 111, late=3))  # fmt: skip
    assert (counts["read"], counts["in_kafka"], counts["late"]) == (11, 11, 0)


def test_a_run_that_goes_on_from_another_begins_at_its_last_close() -> None:
    parts = (at(-3 + 3, read=0), *(closed(k, 5, 5 * (k + 1)) for k in range(10)))
    first = source_account(*parts, first=0, last=4)
    second = source_account(*parts, first=5, last=9)
    assert (first["read"], first["in_kafka"]) == (25, 25)
    assert (second["read"], second["in_kafka"]) == (25, 25)


def test_a_late_row_of_the_run_before_is_none_of_this_run() -> None:
    parts = [closed(k, 5, 5 * (k + 1) + (k >= 6), late=int(k >= 6)) for k in range(10)]
    parts.insert(6, part(4, 0, rows=1, late=True))
    second = source_account(at(0, read=0), *parts, first=5, last=9)
    assert (second["read"], second["in_kafka"]) == (25, 25)
    first = source_account(at(0, read=0), *parts, first=0, last=4)
    assert (first["read"], first["in_kafka"], first["unclosed"]) == (26, 26, 1)


def test_what_a_killed_source_had_not_closed_is_said() -> None:
    counts = source_account(at(0, read=0), closed(0, 5, 5), part(1, 0, rows=3),
                            part(1, 1, rows=4), part(0, 0, rows=2, late=True))  # fmt: skip
    assert (counts["read"], counts["in_kafka"], counts["unclosed"]) == (14, 14, 9)


def test_copies_are_told_from_the_first() -> None:
    sent = (part(0, 0, rows=2), part(0, 1, rows=1, close=(2, 3), read=3))
    counts = source_account(at(0), *sent, *sent, part(0, 0, late=True), part(0, 0, late=True))
    assert (counts["in_kafka"], counts["twice"], counts["read"]) == (8, 4, 4)


def test_a_lost_close_is_not_hidden_by_the_next_one() -> None:
    counts = source_account(at(0, read=0), part(0, 0, rows=4), closed(1, 5, 12))
    assert (counts["read"], counts["in_kafka"], counts["unclosed"]) == (12, 9, 0)


def test_two_lives_add_up() -> None:
    counts = source_account(
        at(0, read=0), closed(0, 5, 5), at(3, inc=2, read=0), closed(3, 2, 2, inc=2),
        at(10, inc=2, read=2),
    )  # fmt: skip
    assert (counts["read"], counts["in_kafka"]) == (7, 7)


def test_the_last_mark_may_know_more_than_the_last_close() -> None:
    """The broker refused a part after the last close had left: a mark says it."""
    counts = source_account(at(0, read=0, dropped=0), part(9, 0, rows=3),
                            part(9, 2, rows=0, close=(3, 8), read=8, dropped=0),
                            at(10, read=8, dropped=0), at(10, read=8, dropped=5))  # fmt: skip
    assert (counts["read"], counts["in_kafka"], counts["dropped"]) == (8, 3, 5)


# ------------------------------------------------------------------ verdicts


def simple(change: Callable[[dict[str, Any]], None] = lambda _info: None, **stored: int) -> Account:
    """A run of one slice and one source with three rows."""
    plan = plan_of(start(0, roster="a"), stop(1), partitions=1)
    (run,) = plan.runs()
    world = World(1)
    world.logs["a", 0] = [(at(0, read=0), b""),
                          (closed(0, 3, 3, sum=77), b""), (at(1, read=3), b"")]  # fmt: skip
    account = Account(0, 0, {"a": SourceAccount()})
    assembler = Assembler(0, 1, 0)
    assembler.add_source("a", Resume(0, {}))
    for offset, (told, body) in enumerate(world.log("a", 0)):
        assert isinstance(told, Part)
        account.sources["a"].see(told)
        assembler.offer("a", offset, told, body, plan)
    bundle = assembler.ready(plan, FOREVER, lambda _s, _q: True)
    assert bundle is not None and run.last == 0
    account.bundle(bundle)
    info = info_of(bundle)
    change(info)
    account.result(0, info, stored.get("published", 1))
    account.stored(stored.get("stored", 1))
    return account


def test_a_clean_run_has_no_names() -> None:
    verdict = simple().verdict()
    assert verdict["ok"] and verdict["losses"] == 0
    assert line(verdict) == "LEDGER closed: every word read is accounted for, none lost, none twice"
    assert verdict["slices"] == {"expected": 1, "complete": 1, "incomplete": 0, "missing": 0}
    assert total(verdict, ["hits", "read"]) == 6


def test_asking_twice_changes_nothing() -> None:
    account = simple()
    assert account.verdict() == account.verdict()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda i: i["sources"]["a"].update(rows=2), "assembled 3, processed 2"),
        (lambda i: i["sources"]["a"].update(sum=78), "not those the source closed"),
        (lambda i: i["sources"]["a"].update(hits=2), "processed = hits"),
        (lambda i: i["sources"]["a"].update(in_events=4), "rows in events"),
        (lambda i: i["sources"].clear(), "not in its result"),
    ],
)
def test_whatever_does_not_add_up_is_a_gap(
    change: Callable[[dict[str, Any]], None], says: str
) -> None:
    verdict = simple(change).verdict()
    assert not verdict["ok"] and any(says in gap for gap in verdict["gaps"])


def test_events_are_built_published_and_stored() -> None:
    assert not simple(published=2).verdict()["ok"]
    verdict = simple(stored=0).verdict()
    assert verdict["gaps"] == ["events: built 1, published 1, stored 0"]


def test_a_slice_without_a_result_and_one_with_two() -> None:
    account = simple()
    account.result(0, {}, 5)
    assert account.verdict()["gaps"] == ["1 slices were published twice"]
    account = Account(0, 4, {})
    assert account.verdict()["gaps"] == ["5 of 5 slices have no result"]


def test_a_failed_slice_is_a_named_loss() -> None:
    verdict = simple(lambda i: i.update(failed="the kernels failed", n_events=1)).verdict()
    assert verdict["ok"] and verdict["sources"]["a"]["losses"] == {"failed": 3}
    assert line(verdict) == "LEDGER closed; named: 3 failed a"


@pytest.mark.parametrize("why", ["given_up", "broken"])
def test_what_the_lane_went_without_is_named_as_the_lane_said(why: str) -> None:
    """Whole in Kafka now, but the lane gave it up before it came, or could not read it."""

    def without(info: dict[str, Any]) -> None:
        info["sources"].clear()
        info.update(complete=False, missing={"a": {"why": why, "rows": 3}})

    verdict = simple(without).verdict()
    assert verdict["ok"] and verdict["sources"]["a"]["losses"] == {why: 3}


def test_all_names_of_the_assembler_are_in_the_account() -> None:
    account = Account(0, 0, {"a": SourceAccount()})
    names = ("late", "stale", "duplicate", "gap", "broken", "off_roster", "after_give_up")
    account.trailing({"a": dict.fromkeys(names, 1) | {"quarantined": 1, "quarantined_records": 9}})
    assert set(names) <= set(IN_TOPIC)
    assert sum(account.sources["a"].counts[n] for n in IN_TOPIC) == 8
    bundle = Bundle(0, 1, (), {"a": Missing("gap", "", 5)}, {})
    account.bundle(bundle)
    assert account.sources["a"].counts["gap"] == 6
