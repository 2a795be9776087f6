"""The merge of partitions in slice order, its offsets, bounds and counts."""

from __future__ import annotations

import make_results as make
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controllers.writer.accounts import Accounts
from controllers.writer.chain import Chain
from controllers.writer.series import Roll
from controllers.writer.tables import RunFacts

FIRST = 1000


def small(k: int, partitions: int, **more: object) -> list[make.Record]:
    return make.records(k, FIRST, partitions, n_events=2, n_hits=1, n_pulses=0, **more)


def taken(chain: Chain, last: int | None) -> list[int]:
    out = []
    while (result := chain.take(last)) is not None:
        out.append(result.k)
    return out


@pytest.mark.parametrize("partitions", [1, 4, 16])
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_any_arrival_gives_slices_in_order_and_offsets_to_go_on(
    data: st.DataObject, partitions: int
) -> None:
    last = FIRST + 20
    log = make.Log(partitions)
    for k in range(FIRST, last + 1):
        log.append(small(k, partitions))
    chain = Chain(FIRST, {}, partitions)
    at = [0] * partitions
    got: list[int] = []
    places: dict[int, dict[int, int]] = {}
    while len(got) < last + 1 - FIRST:
        open_ = [p for p in range(partitions) if at[p] < len(log.rows[p])]
        if open_:
            p = data.draw(st.sampled_from(open_))
            chain.offer(p, *log.rows[p][at[p]])
            at[p] += 1
        for k in taken(chain, last):
            got.append(k)
        places[chain.next] = chain.offsets()
    assert got == list(range(FIRST, last + 1))
    assert chain.take(last) is None and chain.finished(last)
    # from any of those offsets another chain sees exactly the rest
    next_ = data.draw(st.sampled_from(sorted(places)))
    again = Chain(next_, places[next_], partitions)
    log.feed(again, places[next_])
    assert taken(again, last) == list(range(next_, last + 1))
    assert again.duplicates == again.torn == 0


def test_a_slice_that_comes_twice_is_dropped_and_counted() -> None:
    log = make.Log(1)
    for k in (FIRST, FIRST, FIRST + 1):
        log.append(small(k, 1))
    chain = Chain(FIRST, {}, 1)
    log.feed(chain)
    assert taken(chain, None) == [FIRST, FIRST + 1]
    assert chain.duplicates == 1


def test_slices_before_next_are_passed_over_and_not_duplicates() -> None:
    log = make.Log(4)
    for k in range(FIRST, FIRST + 12):
        log.append(small(k, 4))
    chain = Chain(FIRST + 5, {}, 4)
    log.feed(chain)
    assert taken(chain, None) == list(range(FIRST + 5, FIRST + 12))
    assert chain.duplicates == 0


def test_two_runs_with_a_pause() -> None:
    """Run 1 is slices 19-35, run 2 starts at 40: nobody waits for 36."""
    log = make.Log(4)
    for k in [*range(19, 36), *range(40, 45)]:
        log.append(small(k, 4))
    one = Chain(19, {}, 4)
    log.feed(one)
    assert taken(one, 35) == list(range(19, 36)) and one.finished(35)
    two = Chain(40, one.offsets(), 4)
    log.feed(two, one.offsets())
    assert taken(two, None) == list(range(40, 45))


def test_a_run_without_a_slice_is_finished_at_once() -> None:
    assert Chain(FIRST, {}, 4).finished(FIRST - 1)


def test_a_slice_that_is_not_in_the_topic_is_given_as_failed() -> None:
    log = make.Log(1)
    for k in (FIRST, FIRST + 2):
        log.append(small(k, 1))
    chain = Chain(FIRST, {}, 1)
    log.feed(chain)
    results = [chain.take(None) for _ in range(3)]
    assert [r.k for r in results if r] == [FIRST, FIRST + 1, FIRST + 2]
    assert [r.failed for r in results if r] == [None, "its results are not in the topic", None]


def test_a_damaged_body_fails_its_slice_only() -> None:
    chain = Chain(FIRST, {}, 1)
    offset = 0
    for k in (FIRST, FIRST + 1):
        for p, headers, body in small(k, 1):
            bad = bytes(reversed(body)) if k == FIRST and offset == 0 else body
            chain.offer(p, offset, headers, bad)
            offset += 1
    first, second = chain.take(None), chain.take(None)
    assert first and first.failed and "checksum" in first.failed and not first.tables
    assert second and second.failed is None


def test_junk_is_counted() -> None:
    chain = Chain(FIRST, {}, 1)
    chain.offer(0, 0, None, b"hello")
    chain.offer(0, 1, [("v", b"1"), ("k", b"x")], b"")
    assert chain.torn == 2 and chain.offsets() == {0: 2}


def test_far_partitions_are_paused_and_the_awaited_one_never() -> None:
    partitions = 4
    log = make.Log(partitions)
    for k in range(FIRST, FIRST + 40):
        log.append(small(k, partitions))
    chain = Chain(FIRST, {}, partitions, max_bytes=20_000)
    awaited = make.partition(FIRST, partitions)
    for p in range(partitions):
        if p != awaited:
            for record in log.rows[p]:
                if p in chain.too_far():
                    break
                chain.offer(p, *record)
    assert chain.too_far() and awaited not in chain.too_far()
    assert chain.nbytes < 60_000
    for record in log.rows[awaited]:
        chain.offer(awaited, *record)
    taken(chain, None)
    assert make.partition(chain.next, partitions) not in chain.too_far()
    # whoever is awaited delivers, so all come to their end, and the bound held meanwhile
    at = [0] * partitions
    chain = Chain(FIRST, {}, partitions, max_bytes=20_000)
    got: list[int] = []
    while len(got) < 40:
        for p in set(range(partitions)) - chain.too_far():
            if at[p] < len(log.rows[p]):
                chain.offer(p, *log.rows[p][at[p]])
                at[p] += 1
        got += taken(chain, None)
        assert chain.nbytes < 60_000
    assert got == list(range(FIRST, FIRST + 40))


def test_when_to_roll() -> None:
    assert Roll(size=100).due(100, 0, 0) and not Roll(size=100).due(99, 9, 9)
    assert Roll(events=5).due(0, 5, 0) and not Roll(events=5).due(0, 4, 9)
    assert Roll(slices=3).due(0, 0, 3) and not Roll(slices=3).due(0, 9, 2)


# ------------------------------------------------------------------- the ledger's rows

RUN = RunFacts(7, FIRST, make.L, make.SOURCES)


def test_ledger_rows_are_differences_of_closes() -> None:
    accounts = Accounts(RUN)
    first = accounts.rows(make.info(FIRST, FIRST, 3), FIRST, None)
    second = accounts.rows(make.info(FIRST + 1, FIRST, 3), FIRST + 1, None)
    assert [row["source"] for row in first] == [0, 1, 2]
    assert first[0]["read"] == second[0]["read"] == 120
    assert first[0]["pre_start"] == 7 and second[0]["pre_start"] == 0
    assert second[0]["produced"] == second[0]["assembled"] == 100 and second[0]["gap"] == 0
    assert second[0]["quarantined"] == 2 and second[0]["late"] == 1


def test_a_missing_slice_shows_as_gap_at_the_next_close() -> None:
    accounts = Accounts(RUN)
    accounts.rows(make.info(FIRST, FIRST, 3), FIRST, None)
    gone = make.info(FIRST + 1, FIRST, 3, sources={}, complete=False,
                     missing={"tdc0": {"why": "gap"}})  # fmt: skip
    assert all(r["read"] == 0 for r in accounts.rows(gone, FIRST + 1, None))
    after = accounts.rows(make.info(FIRST + 2, FIRST, 3), FIRST + 2, None)
    assert after[0]["produced"] == 200 and after[0]["assembled"] == 100 and after[0]["gap"] == 100


def test_a_new_incarnation_counts_from_zero() -> None:
    accounts = Accounts(RUN)
    accounts.rows(make.info(FIRST + 5, FIRST, 3), FIRST + 5, None)
    info = make.info(FIRST + 6, FIRST + 6, 3)
    for source in info["sources"].values():
        source["inc"] = 2
    assert accounts.rows(info, FIRST + 6, None)[0]["read"] == 120
    assert accounts.closes["tdc0"]["inc"] == 2


def test_counts_of_the_assembler_and_a_failed_slice() -> None:
    info = make.info(
        FIRST, FIRST, 0, counts={"tdc1": {"stale": 3, "duplicate": 2, "quarantined": 1}}
    )
    row = Accounts(RUN).rows(info, FIRST, "the kernel failed")[1]
    assert (row["stale"], row["duplicate"], row["quarantined"]) == (3, 2, 3)
    assert row["assembled"] == 100 and row["processed"] == 0
