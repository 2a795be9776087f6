"""Who owns a slice: one partition each, every round meets all, nothing repeats for ever."""

from __future__ import annotations

from itertools import islice

from hypothesis import given, settings
from hypothesis import strategies as st

from freerun.slices import first_in, next_in, partition, slice_of

SOME = settings(max_examples=300, derandomize=True, deadline=None)
many = st.integers(1, 70)
slices = st.integers(0, 10**11)


@SOME
@given(slices, many)
def test_partition_is_the_formula_of_the_protocol(k: int, partitions: int) -> None:
    assert partition(k, partitions) == (k + k // partitions) % partitions


@SOME
@given(slices, many)
def test_each_round_meets_every_partition_once(turn: int, partitions: int) -> None:
    of_round = range(turn * partitions, (turn + 1) * partitions)
    assert sorted(partition(k, partitions) for k in of_round) == list(range(partitions))


@SOME
@given(slices, many, st.data())
def test_first_and_next_against_a_search(k: int, partitions: int, data: st.DataObject) -> None:
    p = data.draw(st.integers(0, partitions - 1))
    mine = (j for j in range(k, k + 3 * partitions) if partition(j, partitions) == p)
    first, second = islice(mine, 2)
    assert first_in(p, k, partitions) == first
    assert next_in(p, first, partitions) == second
    assert next_in(p, k, partitions) == (second if first == k else first)


@SOME
@given(many, slices)
def test_walking_all_partitions_meets_every_slice_once(partitions: int, k: int) -> None:
    end = k + 3 * partitions
    walked = []
    for p in range(partitions):
        at = first_in(p, k, partitions)
        while at < end:
            walked.append(at)
            at = next_in(p, at, partitions)
    assert sorted(walked) == list(range(k, end))


def test_a_cycle_that_divides_the_partitions_loads_all_of_them() -> None:
    loaded = {partition(k, 8) for k in range(0, 64 * 8, 8)}
    assert loaded == set(range(8))


@SOME
@given(st.integers(-(10**18), 10**18), st.integers(1, 10**10))
def test_slices_are_half_open(t: int, length: int) -> None:
    k = slice_of(t, length)
    assert k * length <= t < (k + 1) * length
