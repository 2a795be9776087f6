"""The promise of lanes, against the rule of the protocol spelt out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producers.promise import Promises

SOME = settings(max_examples=300, derandomize=True, deadline=None)
WINDOWS, DEFAULT, HOLD = {0: 10, 1: 300}, 50, 100
lanes = st.tuples(st.integers(0, 3), st.integers(0, 2))  # board, kind
rows = st.lists(st.tuples(lanes, st.integers(-1000, 100_000)), max_size=30)


def see(promises: Promises, seen: list[tuple[tuple[int, int], int]]) -> None:
    lane = np.array([board * 256 + kind for (board, kind), _ in seen], np.int64)
    promises.see(lane, np.array([tick for _, tick in seen], np.int64))


def rule(seen: list[tuple[tuple[int, int], int]], now: int | None) -> int | None:
    newest: dict[tuple[int, int], int] = {}
    for lane, tick in seen:
        newest[lane] = max(tick, newest.get(lane, tick))
    if not newest:
        return None if now is None else now - HOLD - DEFAULT
    front = max([*newest.values(), *([] if now is None else [now])])
    return min(
        max(tick, front - HOLD) - WINDOWS.get(kind, DEFAULT) for (_, kind), tick in newest.items()
    )


@SOME
@given(st.lists(rows, max_size=5), st.none() | st.integers(0, 100_000))
def test_the_promise_is_the_worst_lane(blocks: list[list], now: int | None) -> None:
    promises = Promises(WINDOWS, DEFAULT, HOLD)
    for block in blocks:
        see(promises, block)
    assert promises.promise(now) == rule([r for b in blocks for r in b], now)


@SOME
@given(st.lists(rows, max_size=6))
def test_one_lane_never_goes_back(blocks: list[list]) -> None:
    """Of lanes that are known, the promise only grows; a new lane may hold it back once."""
    promises = Promises(WINDOWS, DEFAULT, HOLD)
    see(promises, [((board, kind), -1000) for board in range(4) for kind in range(3)])
    last = promises.promise()
    assert last is not None
    for block in blocks:
        see(promises, block)
        told = promises.promise()
        assert told is not None and told >= last
        last = told


def test_rows_within_their_window_are_never_behind_the_promise() -> None:
    rng = np.random.default_rng(3)
    promises = Promises(WINDOWS, DEFAULT, HOLD)
    now = 0
    for _ in range(2_000):
        now += int(rng.integers(0, 20))
        kind = int(rng.integers(0, 2))
        tick = now - int(rng.integers(0, WINDOWS[kind] + 1))
        told = promises.promise()
        if (kind == 0 or now > 400) and told is not None:
            assert tick >= told
        see(promises, [((0, kind), tick)])
        see(promises, [((0, 1 - kind), tick - HOLD)])


def test_a_silent_lane_is_carried_along() -> None:
    promises = Promises(WINDOWS, DEFAULT, HOLD)
    see(promises, [((0, 0), 1000), ((0, 1), 0)])
    assert promises.promise() == 1000 - HOLD - WINDOWS[1]
    assert promises.promise(5000) == 5000 - HOLD - WINDOWS[1]


def test_without_a_row_only_host_time_promises() -> None:
    promises = Promises(WINDOWS, DEFAULT, HOLD)
    assert promises.promise() is None
    assert promises.promise(0) == -HOLD - DEFAULT
    assert promises.promise(1000) == 1000 - HOLD - DEFAULT


@pytest.mark.parametrize("odd", [10**9, -(10**9)])
def test_of_few_words_the_middle_counts_so_odd_ones_move_nothing(odd: int) -> None:
    promises = Promises(WINDOWS, DEFAULT, HOLD, few=9)
    for at in range(0, 1000, 10):
        see(promises, [((0, 0), at)])
    before = promises.promise()
    assert before is not None and 1000 - 60 - 10 <= before <= 1000
    see(promises, [((0, 0), odd), ((0, 0), 1000), ((1, 0), odd)])
    after = promises.promise()
    assert after is not None and abs(after - before) <= 20 + HOLD


@pytest.mark.parametrize("at", range(12))
@pytest.mark.parametrize("blocks", [1, 4])
def test_one_word_in_the_future_pushes_nobody_ahead(at: int, blocks: int) -> None:
    """Wherever it comes, also as the first word of all, and in a lane of its own: whoever sends
    in time is never behind the promise."""
    for lane in ((0, 0), (1, 1)):
        promises = Promises(WINDOWS, DEFAULT, HOLD, few=9)
        words = [((0, 0), 10 * i) for i in range(12)]
        words.insert(at, (lane, 10**9))
        for i in range(0, len(words), blocks):
            see(promises, words[i : i + blocks])
            told, now = promises.promise(10 * i), promises.promise()
            assert told is not None and told <= 10 * (i + blocks)
            assert now is None or now <= 10 * (i + blocks)
    told = promises.promise(10_000)
    assert told == 10_000 - HOLD - WINDOWS[0], "and it goes on"


@SOME
@given(
    st.lists(st.lists(st.integers(-1000, 100_000), min_size=1, max_size=30), min_size=1),
    st.booleans(),
)
def test_the_middle_of_the_last_few_words_is_never_ahead_of_the_newest(
    blocks: list[list[int]], live: bool
) -> None:
    plain, careful = Promises(WINDOWS, DEFAULT, HOLD), Promises(WINDOWS, DEFAULT, HOLD, few=9)
    last: int | None = None
    seen = 0
    for now, block in enumerate(blocks):
        for promises in (plain, careful):
            see(promises, [((0, 0), t) for t in block])
        seen += len(block)
        clock = 100 * now if live else None
        told, most = careful.promise(clock), plain.promise(clock)
        assert (told is None) == (seen < 3 and not live)
        if told is not None:
            assert most is not None
            assert told <= max(most, 100 * now - HOLD - DEFAULT if live else most)
            assert last is None or told >= last
            last = told
