"""The published task equals its meaning, compiled and plain, whatever the order of its words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_published import OTHER, Told, published, read

from freerun.errors import Quarantined
from freerun.words import encode_hit, encode_trigger
from processors import published as task
from processors import published_events, published_order, published_words
from processors.published import Board, Output, Published, Run, Settings
from processors.published_words import MARKER, MASKED, UNKNOWN

Array = npt.NDArray[Any]
ORBIT = 3564 * 30
SETTINGS = Settings(merge=30, span=60, before=60, after=600)
CORRECTION = [-1.1, 6.4, 0.5, -2.6, 0.0]
LENGTH = 3000
GUARD = 2000
CODES = {MARKER: "other", MASKED: "masked"}

# both boards of the recorded run: four chambers, a scintillator, a marker and a masked channel
SLOTS: dict[int, int | str] = {
    b << 9 | c: 2 * b + (c >= 64) for b in (0, 1) for c in range(128)
} | {1 << 9 | 128: 4, 1 << 9 | 138: "other", 137: "other", 7: "masked"}  # fmt: skip
CHAMBERS = {0: (0, 600), 1: (1, 597), 3: (3, 31)}


def board(only: int | None = None, tdc_first: int = 1) -> tuple[Board, Told]:
    """A source with both boards or with one."""
    told = {a: s for a, s in SLOTS.items() if only is None or a >> 9 == only}
    slot_of = np.full(8192, UNKNOWN, np.uint8)
    codes = {name: code for code, name in CODES.items()}
    for address, slot in told.items():
        slot_of[address] = codes[slot] if isinstance(slot, str) else slot
    mark_slot, latency = np.full(4, 255, np.uint8), np.zeros(4, np.int64)
    for chamber, (slot, ticks) in CHAMBERS.items():
        mark_slot[chamber], latency[chamber] = slot, ticks
    return Board(slot_of, mark_slot, latency, tdc_first), Told(told, CHAMBERS, tdc_first)


@contextmanager
def plain_python() -> Iterator[None]:
    """All kernels of the task as the Python they are written in."""
    with ExitStack() as all_of_them:
        for module in (task, published_words, published_events, published_order):
            kernels = {n: f.py_func for n, f in vars(module).items() if hasattr(f, "py_func")}
            all_of_them.enter_context(mock.patch.multiple(module, **kernels))
        yield


# ------------------------------------------------------------------ words around a slice


@st.composite
def words_around(draw: st.DrawFn, tick0: int) -> list[int]:
    """Words of any kind near the slice; clustered, so that times are equal and windows overlap."""
    out = []
    for _ in range(draw(st.integers(0, 30))):
        place = draw(st.sampled_from((-400, -20, 0, 1, 700, 1500, 2950, LENGTH, LENGTH + 500)))
        tick = tick0 + place + draw(st.integers(-40, 400))
        orbit, rest = divmod(tick, ORBIT)
        what = draw(st.integers(0, 11))
        if what == 0:
            out.append(draw(st.integers(0, 2**64 - 1)) & ~(3 << 62))  # a run word
        elif what == 1:  # malformed
            out.append(int(encode_hit(0, 5, orbit % 2**32, 3564 + draw(st.integers(0, 9)), 5)))
        elif what == 2:
            out.append(
                int(encode_hit(0, 5, orbit % 2**32, rest // 30, draw(st.sampled_from((0, 31)))))
            )
        elif what < 6:
            crossing = min(rest // 30 + 20, 3563)
            out.append(int(encode_trigger(draw(st.integers(0, 1)), draw(st.sampled_from((0, 9))),
                                          orbit % 2**32, crossing)))  # fmt: skip
        else:
            channel = draw(
                st.one_of(st.sampled_from((7, 128, 136, 137, 138, 300)), st.integers(0, 127))
            )
            out.append(int(encode_hit(draw(st.integers(0, 2)), channel, orbit % 2**32, rest // 30,
                                      rest % 30 + 1, draw(st.sampled_from((1, 2))))))  # fmt: skip
    return out


@st.composite
def slices(draw: st.DrawFn) -> tuple[int, list[tuple[int | None, list[int]]]]:
    """Where a slice begins (also where the orbit wraps), and the words of one to three sources."""
    tick0 = draw(st.sampled_from((0, 5 * ORBIT - 700, 2**32 * ORBIT - 1000, 2**31 * ORBIT + 3)))
    boards: list[int | None] = draw(st.sampled_from(([None], [0, 1], [1, 0, 2])))
    return tick0, [(b, draw(words_around(tick0))) for b in boards]


def body_and_guards(words: list[int], tick0: int) -> tuple[list[int], list[int], list[int]]:
    """As a source sends them: what has its time in the slice, and what is before and after."""
    body, before, after = [], [], []
    for word in words:
        kind, tick, _ = read(word, 1, tick0)
        where = 0 if kind == OTHER else tick - tick0
        (before if where < 0 else after if where >= LENGTH else body).append(word)
    return body, before, after


def run_both(
    tick0: int, sources: list[tuple[int | None, list[int]]]
) -> tuple[Output, Any, Published]:
    """The task and its oracle on the same words."""
    boards = [board(only) for only, _ in sources]
    machine = Published([b for b, _ in boards], CORRECTION, SETTINGS)
    runs, told = [], []
    for i, (_, words) in enumerate(sources):
        body, before, after = body_and_guards(words, tick0)
        half = len(body) // 2
        as_array = [
            np.array(w, np.uint64).view(np.int64) for w in (body[:half], body[half:], before, after)
        ]
        runs.append(Run(i, as_array[:2], as_array[2], as_array[3]))
        told.append((boards[i][1], body, before + after))
    expected = published(told, tick0, LENGTH, CORRECTION, SETTINGS.merge, SETTINGS.span,
                         SETTINGS.before, SETTINGS.after)  # fmt: skip
    return machine.run(runs, tick0, LENGTH, GUARD + 10**9), expected, machine


def compare(out: Output, expected: Any, machine: Published) -> None:
    rows = expected["rows"]
    assert out.tick.tolist() == [t for t, _, _ in rows]
    assert out.channel.tolist() == [a for _, a, _ in rows]
    np.testing.assert_allclose(out.drift, [d for _, _, d in rows], rtol=1e-6, atol=1e-4)
    events = expected["events"]
    assert out.t0.tolist() == [e["t0"] for e in events]
    assert out.count.tolist() == [len(e["hits"]) for e in events]
    for e, first in zip(events, out.first.tolist(), strict=True):
        assert not e["hits"] or e["hits"][0] == first
    assert out.chambers.tolist() == [sum(1 << c for c in e["chambers"]) for e in events]
    assert out.quality.tolist() == [e["quality"] for e in events]
    assert {tuple(i): int(out.box[tuple(i)]) for i in np.argwhere(out.box).tolist()} == expected[
        "box"
    ]
    found = {tuple(i): int(out.rates[tuple(i)]) for i in np.argwhere(out.rates).tolist()}
    assert found == expected["rates"]
    unassigned = sum(bool(np.isnan(d)) for _, _, d in rows)
    total = 0
    for i, seen in enumerate(expected["counts"]):
        counts = machine.counts(out, i)
        assert {n: counts[n] for n in ("hits", "other", "masked", "unknown")} == {
            n: seen[n] for n in ("hits", "other", "masked", "unknown")
        }
        assert counts["in_events"] - counts["shared"] + counts["unassigned"] == counts["hits"]
        total += counts["in_events"]
    assert total == len(rows) - unassigned


@pytest.mark.parametrize("many", [1, task.MANY], ids=["sorted anew", "merged"])
@given(slices())
@settings(max_examples=120)
def test_the_task_is_what_the_oracle_says(many: int, given_slice: Any) -> None:
    with mock.patch.object(task, "MANY", many):
        compare(*run_both(*given_slice))


@given(slices())
@settings(max_examples=30)
def test_and_so_is_its_plain_python(given_slice: Any) -> None:
    with plain_python():
        compare(*run_both(*given_slice))


# ------------------------------------------------------------------ whatever the order


def hits_at(ticks: Array, address: Array) -> Array:
    """Hit words as int64, of both boards."""
    orbit, rest = np.divmod(ticks, ORBIT)
    words = encode_hit(address >> 9, address & 511, orbit, rest // 30, rest % 30 + 1)
    return words.view(np.int64)


def in_order(machine: Published, words: Array, length: int) -> Array:
    """The keys that the task makes of hit words of a slice from tick 0 on, as it orders them."""
    out = machine.run([Run(0, [words])], 0, length, 0)
    return out.tick.astype(np.int64) << 13 | out.channel


ORDERS = {
    "as they are": lambda t: np.arange(len(t)),
    "reversed": lambda t: np.arange(len(t))[::-1],
    "shuffled": lambda t: np.random.default_rng(1).permutation(len(t)),
    "two sources one after the other": lambda t: np.r_[0 : len(t) : 2, 1 : len(t) : 2],
    "one far late": lambda t: np.r_[1 : len(t), 0],
}
TIMES = {
    "even": lambda n: np.arange(n) * 40,
    "all the same": lambda n: np.full(n, 77),
    "two bursts": lambda n: np.sort(np.r_[np.arange(n // 2) % 50, np.arange(n // 2) % 9 + 10**6]),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("times", TIMES)
def test_bursts_equal_times_and_disorder_cost_no_more_than_sorting(order: str, times: str) -> None:
    """Reads and writes are counted, not seconds: never more than a small multiple of n·log n."""
    n = 2000
    ticks = TIMES[times](n)
    address = np.random.default_rng(2).permutation(n) % 128
    words = hits_at(ticks, address)[ORDERS[order](ticks)]
    machine = Published([board()[0]], CORRECTION, SETTINGS)
    sorted_keys = np.sort((ticks << 13 | address)[address != 7])
    assert in_order(machine, words, 10**7).tolist() == sorted_keys.tolist()

    counted = Counting()
    with plain_python(), mock.patch.object(task, "_Room", counted.room):
        machine = Published([board()[0]], CORRECTION, SETTINGS)
        assert in_order(machine, words, 10**7).tolist() == sorted_keys.tolist()
    assert counted.touched < 12 * n * np.log2(n)


class Counting:
    """Counts what is read and written, one by one, in the arrays that are sorted."""

    def __init__(self) -> None:
        self.touched = 0
        me = self

        class Watched(np.ndarray):  # type: ignore[type-arg]
            def __getitem__(self, key: Any) -> Any:
                me.touched += not isinstance(key, slice)
                return super().__getitem__(key)

            def __setitem__(self, key: Any, value: Any) -> None:
                me.touched += not isinstance(key, slice)
                super().__setitem__(key, value)

        self._kind, self._made = Watched, task._Room

    def room(self, n: int) -> Any:
        made = self._made(n)
        made.keys, made.spare = made.keys.view(self._kind), made.spare.view(self._kind)
        return made


def test_settling_gives_up_and_loses_nothing() -> None:
    keys = np.arange(1000)[::-1].copy()
    assert not published_order.settle(keys, 500)
    assert sorted(keys.tolist()) == list(range(1000))
    assert published_order.settle(keys, 10**6)
    assert keys.tolist() == list(range(1000))


def test_the_recorded_run_with_a_third_of_its_rows_out_of_order(shared_data: Path) -> None:
    """60 000 real words of two boards, without trigger words: some are made of their majority."""
    words = np.fromfile(shared_data / "minidt" / "run637_first60000.dat", "<u8")
    raw = words.tolist()
    first = min(read(w, 1, read(raw[0], 1, 0)[1])[1] for w in raw[:100])
    kinds = [read(w, 1, first) for w in raw]
    ticks = np.array([tick for _, tick, _ in kinds])
    assert 0.25 < np.mean(np.diff(ticks) < 0) < 0.45
    orbit, rest = np.divmod(ticks[[a == 1 << 9 | 138 or a == 128 for _, _, a in kinds]], ORBIT)
    made = encode_trigger(1, 9, orbit % 2**32, np.minimum(rest // 30 + 25, 3563))
    tick0, length = first - first % ORBIT, int(ticks.max()) - first + 2 * ORBIT
    both = np.insert(words, np.linspace(0, len(words), len(made)).astype(int), made)
    bench, told = board()
    expected = published([(told, both.tolist(), [])], tick0, length, CORRECTION, 30, 60, 60, 600)
    assert len(expected["events"]) > 500
    assert len(expected["box"]) > 500
    shuffled = np.random.default_rng(3).permutation(both)
    for some in (both, shuffled):
        machine = Published([bench], CORRECTION, SETTINGS)
        compare(machine.run([Run(0, [some.view(np.int64)])], tick0, length, 0), expected, machine)


def test_a_hit_far_outside_its_slice_is_refused() -> None:
    machine = Published([board()[0]], CORRECTION, SETTINGS)
    words = hits_at(np.array([5, 10**6]), np.array([1, 2]))
    with pytest.raises(Quarantined, match="outside its slice"):
        machine.run([Run(0, [words])], 0, 1000, 500)
