"""The kernels every slice goes through, against their plain meaning."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors import kernels

times = st.lists(
    st.tuples(st.integers(-5_000_000, 100_000_000_000), st.integers(0, 1 << 40)), max_size=200
)


def ordered(rows: list[tuple[int, int]]) -> list[int]:
    return sorted(range(len(rows)), key=lambda i: rows[i])


def check(rows: list[tuple[int, int]]) -> None:
    t = np.array([r[0] for r in rows], np.int64)
    tie = np.array([r[1] for r in rows], np.int64)
    got = kernels.time_order(t, tie)
    want = ordered(rows)
    assert np.array_equal(t[got], t[want]) and np.array_equal(tie[got], tie[want])
    assert sorted(got.tolist()) == list(range(len(rows)))


@given(times)
def test_time_order_is_a_sort(rows: list[tuple[int, int]]) -> None:
    check(rows)


@given(st.integers(0, 1000), st.integers(1, 3), st.integers(0, 2**32))
def test_time_order_of_bursts(n: int, values: int, seed: int) -> None:
    """Many rows at the same few times, and one far away that stretches the bins."""
    rng = np.random.default_rng(seed)
    rows = [(int(x), int(y)) for x, y in zip(rng.integers(0, values, n), rng.integers(0, 5, n),
                                             strict=True)]  # fmt: skip
    check([*rows, (100_000_000_000, 0)])


def test_a_burst_does_not_cost_the_square() -> None:
    """Comparisons are bounded by n·log n: the plain kernel counts them for us."""

    class Counted(np.ndarray):  # type: ignore[type-arg]
        reads = 0

        def __getitem__(self, key):  # type: ignore[no-untyped-def]
            type(self).reads += 1
            return super().__getitem__(key)

    n = 512
    t = np.zeros(n + 1, np.int64)
    t[-1] = 1 << 40
    tie = np.arange(n + 1)[::-1].astype(np.int64).view(Counted)
    order = np.arange(n + 1, dtype=np.int32)
    kernels._merge_sort.py_func(order, 0, n, t, tie)
    assert (np.diff(np.asarray(tie)[order[:n]]) >= 0).all()
    assert Counted.reads < 4 * n * np.log2(n)


@given(st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 19), max_size=6)), max_size=8))
def test_uses_and_select(events: list[tuple[bool, list[int]]]) -> None:
    owned = np.array([o for o, _ in events], np.bool_)
    index = np.array([i for _, rows in events for i in rows], np.int64)
    offsets = np.cumsum([0, *(len(rows) for _, rows in events)]).astype(np.int64)
    count, foreign = kernels.uses(owned, offsets, index, 20)
    for row in range(20):
        assert count[row] == sum(rows.count(row) for o, rows in events if o)
        assert foreign[row] == any(row in rows for o, rows in events if not o)
    mine, which = kernels.select(owned, offsets, index)
    got = [which[a:b].tolist() for a, b in pairwise(mine)]
    assert got == [rows for o, rows in events if o]


@pytest.mark.parametrize("n", [0, 1, 50])
def test_account(n: int) -> None:
    rng = np.random.default_rng(n)
    source = rng.integers(0, 3, n).astype(np.int16)
    body = rng.random(n) < 0.8
    used = rng.integers(0, 3, n).astype(np.uint16)
    out = np.zeros((3, 3), np.int64)
    kernels.account(source, body, used, out)
    for s in range(3):
        mine = source == s
        assert out[s, 0] == used[mine].sum()
        assert out[s, 1] == (mine & body & (used == 0)).sum()
        assert out[s, 2] == (mine & body & (used > 0)).sum()
