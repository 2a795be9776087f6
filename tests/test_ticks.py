"""Exact time: `Clock` against fractions, where slices begin and elsewhere."""

from __future__ import annotations

from fractions import Fraction
from math import floor

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from freerun.ticks import Clock

SOME = settings(max_examples=300, derandomize=True, deadline=None)

clocks = st.builds(
    Clock,
    anchor_ns=st.integers(-(10**18), 2 * 10**18),
    num=st.sampled_from([1, 2, 5, 8, 25, 125, 1000, 3]),
    den=st.sampled_from([1, 3, 6, 7, 30, 64, 1001]),
    offset_ps=st.integers(-(10**9), 10**9),
)
lengths = st.sampled_from([1_000, 1_000_000, 10_000_000, 100_000_000, 99_999_999])


def exact_ps(clock: Clock, tick: int) -> Fraction:
    """Time of a tick in ps, as the law says it."""
    return (
        Fraction(clock.anchor_ns) * 1000
        + clock.offset_ps
        + Fraction(tick) * clock.num * 1000 / clock.den
    )


@SOME
@given(clocks, st.integers(-(2**62), 2**62))
def test_times_are_the_floor_of_the_exact_time(clock: Clock, tick: int) -> None:
    exact = exact_ps(clock, tick)
    assert clock.ps(tick) == floor(exact)
    assert clock.ns(tick) == floor(exact / 1000)


@SOME
@given(clocks, st.integers(0, 2 * 10**18))
def test_tick_at_is_the_first_tick_at_or_after(clock: Clock, t_ns: int) -> None:
    tick = clock.tick_at(t_ns)
    assert clock.ns(tick) >= t_ns > clock.ns(tick - 1)


@SOME
@given(clocks, lengths, st.integers(0, 2 * 10**10), st.integers(-3, 3))
def test_every_tick_lies_in_one_slice_also_at_borders(
    clock: Clock, length: int, k: int, beside: int
) -> None:
    border = clock.tick_at(k * length)
    tick = border + beside
    expected = floor(exact_ps(clock, tick) / 1000 / length)
    assert clock.ns(tick) // length == expected
    assert (expected >= k) == (tick >= border)


@SOME
@given(clocks, lengths, st.integers(0, 2 * 10**10), st.lists(st.integers(-(10**9), 10**9)))
def test_arrays_of_ticks_agree_with_fractions(
    clock: Clock, length: int, k: int, near: list[int]
) -> None:
    start = k * length
    base = clock.tick_at(start)
    assume(abs(base) < 2**62)  # ticks of 1/1001 ns do not fit 64 bits for ever
    ticks = [base + d for d in [*near, -1, 0, 1]]
    expected = [floor(exact_ps(clock, t) - start * 1000) for t in ticks]
    got = clock.ps_since(np.array(ticks, np.int64), start)
    assert got.dtype == np.int64
    assert got.tolist() == expected


@SOME
@given(clocks, st.integers(0, 2 * 10**18), st.integers(-(10**9), 10**9), st.integers(-9, 9))
def test_base_is_exact_wherever_it_is_put(clock: Clock, start: int, moved: int, more: int) -> None:
    base = clock.tick_at(start) + moved
    constant, rest = clock.base_ps(base, start)
    assert 0 <= rest < clock.den
    tick = base + more
    said = constant + ((tick - base) * clock.num * 1000 + rest) // clock.den
    assert said == floor(exact_ps(clock, tick) - start * 1000)


def test_no_ticks() -> None:
    assert Clock(0, 25, 30).ps_since(np.empty(0, np.int64), 5).tolist() == []


def test_years_of_ticks_lose_nothing() -> None:
    clock = Clock(0, 25, 30)
    five_years = 5 * 365 * 86_400 * 1_200_000_000
    assert clock.ns(five_years) == 5 * 365 * 86_400 * 10**9
    assert clock.ps(five_years + 1) - clock.ps(five_years) == 833
