"""The sequencer against a plain list of rows: each lands in exactly one place."""

from __future__ import annotations

from collections import Counter, defaultdict
from fractions import Fraction
from math import floor
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from make_source import (
    BAD_ROW,
    CLOCK,
    CODEC,
    G,
    L,
    array,
    body_rows,
    row,
    sequencer,
    tick_of,
)

from freerun.rows import PULSE_SCHEMA, codec
from freerun.slices import partition
from freerun.ticks import Clock
from freerun.wire import BY_TIMEOUT, CLOSE, MARK, checksum, part_headers, read_batch, read_part
from freerun.words import FORMATS, HIT, TRIGGER, encode_trigger
from producers.sequencer import Out, Sequencer, first_slice

MANY = settings(max_examples=200, derandomize=True, deadline=None)
SLICE = 1200  # ticks
GUARD = 120
LOW, HIGH = -10 * SLICE, 40 * SLICE  # the sanity window
Op = tuple[str, Any]


def ns(clock: Clock, tick: int) -> Fraction:
    return clock.anchor_ns + Fraction(clock.offset_ps, 1000) + Fraction(tick * clock.num, clock.den)


class Model:
    """What must become of rows, one at a time, in fractions and lists."""

    def __init__(self, clock: Clock, first: int, end: int | None) -> None:
        self.clock, self.first, self.next, self.end = clock, first, first, end
        self.idle = False
        self.body: dict[int, list[int]] = defaultdict(list)
        self.guards: dict[int, tuple[list[int], list[int]]] = {}
        self.late: dict[int, list[int]] = defaultdict(list)
        self.before: list[int] = []  # of the slice before the first
        self.counts: Counter[str] = Counter()
        self.closed: dict[int, dict[str, int]] = {}

    def time(self, tick: int) -> int:
        return floor(ns(self.clock, tick))

    def offer(self, words: list[int]) -> None:
        if self.idle:
            return
        for word in words:
            if word == BAD_ROW:
                self.counts["malformed"] += 1
                continue
            tick = tick_of(word)
            k = self.time(tick) // L
            if not LOW <= tick <= HIGH:
                self.counts["quarantined"] += 1
            elif k < self.first:
                self.counts["pre_start"] += 1
                if k == self.first - 1:
                    self.before.append(word)
            elif k < self.next and (self.end is None or k < self.end):
                self.counts["late"] += 1
                self.late[k].append(word)
            else:
                self.body[k].append(word)  # or nobody's, from the end on

    def advance(self, promise: int) -> None:
        while not self.idle and (self.end is None or self.next < self.end):
            k = self.next
            if self.time(promise) < (k + 1) * L + G:
                return
            before = self.body[k - 1] if k > self.first else self.before
            self.guards[k] = (
                [w for w in before if self.time(tick_of(w)) >= k * L - G],
                [w for w in self.body[k + 1] if self.time(tick_of(w)) < (k + 1) * L + G],
            )
            self.counts["rows"] += len(self.body[k])
            self.closed[k] = dict(self.counts)
            self.next += 1
        self.idle = True


def run(s: Sequencer, model: Model, ops: list[Op]) -> list[Out]:
    out = s.arm(model.first, model.end)
    for what, value in ops:
        if what == "rows":
            out += s.offer(array(value), LOW, HIGH, 0)
            model.offer(value)
        elif what == "promise":
            out += s.advance(value)
            model.advance(value)
        elif what == "border" and not model.idle and value >= model.next:
            s.border(value)
            model.end = value
    return out


def check(s: Sequencer, outs: list[Out], model: Model, part_bytes: int) -> None:
    """All that left the sequencer is what the model says, in an order that is allowed."""
    parts_of: dict[int, list[tuple[Any, list[int]]]] = defaultdict(list)
    late: dict[int, list[int]] = defaultdict(list)
    marks: list[tuple[int, int]] = []
    open_slice = model.first
    for out in outs:
        part = read_part(part_headers(out.part))
        assert part == out.part and part.crc == checksum(out.body)
        rows = body_rows(out.body)
        if part.part == MARK:
            marks.append((part.k, out.partition))
            continue
        assert out.partition == partition(part.k, s.P)
        assert part.tick0 == s.clock.tick_at(part.k * L)
        assert (part.num, part.den, part.anchor) == (s.clock.num, s.clock.den, s.clock.anchor_ns)
        if part.late:
            assert len(rows) == part.rows
            assert part.rows * 8 <= part_bytes or part.rows == 1
            late[part.k] += rows
            continue
        assert part.k == open_slice, "nothing of a slice before the one before is closed"
        assert part.part == len(parts_of[part.k])
        assert len(rows) == part.rows + part.gb + part.ga
        guards_alone = part.rows == 0 and part.closes
        assert len(rows) * 8 <= part_bytes or guards_alone or part.rows == 1
        parts_of[part.k].append((part, rows))
        open_slice += part.closes
    # late rows, each once, and numbered without a hole
    assert {k: sorted(v) for k, v in late.items()} == {k: sorted(v) for k, v in model.late.items()}
    numbers = [o.part.part for o in outs if o.part.late]
    assert numbers == list(range(len(numbers)))
    # closed slices
    for k, counts in model.closed.items():
        parts = parts_of.pop(k)
        last, last_rows = parts[-1]
        assert last.closes and not any(p.closes for p, _ in parts[:-1])
        body = [w for p, rows in parts for w in rows[: p.rows]]
        assert sorted(body) == sorted(model.body[k])
        before = last_rows[last.rows : last.rows + last.gb]
        after = last_rows[last.rows + last.gb :]
        assert sorted(before) == sorted(model.guards[k][0])
        assert sorted(after) == sorted(model.guards[k][1])
        assert all(p.ga == p.gb == 0 for p, _ in parts[:-1])
        close = last.close
        assert close is not None
        assert close["parts"] == len(parts) and close["rows"] == len(body)
        assert close["sum"] == CODEC.checksum(array(body))
        for name in ("late", "malformed", "quarantined", "pre_start"):
            assert close[name] == counts.get(name, 0), name
        assert close["read"] == sum(counts.values()) + close["dropped"]
    # the next one may have begun
    begun = parts_of.pop(model.next, [])
    sent = [w for p, rows in begun for w in rows]
    assert not any(p.closes for p, _ in begun)
    assert not Counter(sent) - Counter(model.body[model.next])
    assert not parts_of
    # marks: to every partition at the beginning, and at the end if it came
    borders = [model.first] + ([model.end] if model.idle else [])
    assert marks == [(k, p) for k in borders for p in range(s.P)]


ticks = st.integers(-2 * SLICE, 9 * SLICE) | st.builds(
    lambda k, d: k * SLICE + d, st.integers(-1, 9), st.integers(-GUARD - 1, GUARD + 1)
)
words = st.builds(row, ticks, st.integers(0, 2047))
strange = st.just(BAD_ROW) | st.builds(row, st.sampled_from([LOW - 1, HIGH + 1]), st.just(1))
blocks = st.lists(words | words | words | strange, max_size=40)
ops = st.lists(
    st.tuples(st.just("rows"), blocks)
    | st.tuples(st.just("promise"), ticks)
    | st.tuples(st.just("border"), st.integers(2, 8)),
    max_size=25,
)


@MANY
@given(ops, st.integers(1, 4), st.sampled_from([8, 64, 200, 900_000]), st.none() | st.just(6))
@example([("rows", [row(5 * SLICE)]), ("border", 2), ("promise", 9 * SLICE)], 3, 64, None)
def test_every_row_lands_in_exactly_one_place(
    todo: list[Op], partitions: int, part_bytes: int, end: int | None
) -> None:
    s = sequencer(partitions=partitions, part_bytes=part_bytes)
    model = Model(CLOCK, 2, end)
    check(s, run(s, model, todo), model, part_bytes)


@MANY
@given(
    st.lists(
        st.tuples(st.just("rows"), blocks) | st.tuples(st.just("promise"), ticks), max_size=20
    ),
    st.integers(-3, 3),
    st.integers(-2_000_000, 2_000_000),
)
def test_the_same_with_a_clock_that_does_not_divide_the_slice(
    todo: list[Op], anchor: int, offset: int
) -> None:
    clock = Clock(anchor, 25, 30, offset + 333)
    s = sequencer(clock=clock, part_bytes=80)
    model = Model(clock, 2, None)
    check(s, run(s, model, todo), model, 80)


def in_order(n: int, disorder: int, seed: int) -> list[int]:
    """Rows of eight slices, out of order by no more than `disorder` ticks."""
    rng = np.random.default_rng(seed)
    true = np.sort(rng.integers(0, 8 * SLICE, n))
    arrival = np.argsort(true + rng.integers(0, disorder + 1, n), kind="stable")
    return [row(int(true[i]), int(i)) for i in arrival]


@settings(MANY, max_examples=60)
@given(st.integers(0, 400), st.integers(0, 800), st.integers(0, 10**6), st.integers(1, 50))
def test_with_true_promises_nothing_is_late_and_guards_are_the_neighbours(
    n: int, disorder: int, seed: int, size: int
) -> None:
    rows = in_order(n, disorder, seed)
    s = sequencer(part_bytes=160)
    outs = s.arm(0, 8)
    newest = 0
    for at in range(0, n, size):
        block = rows[at : at + size]
        outs += s.offer(array(block), LOW, HIGH, 0)
        newest = max(newest, *map(tick_of, block))
        outs += s.advance(newest - disorder)
    outs += s.advance(20 * SLICE)
    assert s.first is None
    closes = {o.part.k: o for o in outs if o.part.closes}
    assert sorted(closes) == list(range(8))
    assert not any(o.part.late for o in outs)
    for k, out in closes.items():
        part, last = out.part, body_rows(out.body)
        near = [w for w in rows if abs(tick_of(w) - (k + 0.5) * SLICE) < SLICE / 2 + GUARD]
        body = [w for o in outs if o.part.k == k and o.part.part != MARK
                for w in body_rows(o.body)[: o.part.rows]]  # fmt: skip
        assert sorted(body) == sorted(w for w in rows if tick_of(w) // SLICE == k)
        before = [w for w in rows if k * SLICE - GUARD <= tick_of(w) < k * SLICE]
        after = [w for w in rows if 0 <= tick_of(w) - (k + 1) * SLICE < GUARD]
        assert sorted(last[part.rows : part.rows + part.gb]) == sorted(before)
        assert sorted(last[part.rows + part.gb :]) == sorted(after)
        assert sorted(body + before + after) == sorted(set(near) | set(before))


# ------------------------------------------------------------------ dropping


@MANY
@given(
    st.lists(
        st.tuples(st.just("rows"), st.lists(words, max_size=30))
        | st.tuples(st.just("promise"), ticks)
        | st.tuples(st.just("drop"), st.booleans()),
        max_size=30,
    )
)
def test_while_dropping_each_row_is_counted_or_sent_and_closes_stay(todo: list[Op]) -> None:
    s = sequencer(part_bytes=80)
    outs = s.arm(2, 9)
    offered: list[int] = []
    for what, value in [*todo, ("promise", 30 * SLICE)]:
        if what == "drop":
            s.dropping = value
        elif what == "promise":
            outs += s.advance(value)
        elif s.first is not None:
            outs += s.offer(array(value), LOW, HIGH, 0)
            offered += [w for w in value if tick_of(w) < 9 * SLICE]  # from there on nobody's
    closes = [o.part for o in outs if o.part.closes]
    assert [c.k for c in closes] == list(range(2, 9))
    sent = Counter(w for o in outs for w in body_rows(o.body)[: o.part.rows])
    assert not sent - Counter(offered)
    totals = s.totals
    assert len(offered) == sent.total() + totals["dropped"] + totals["pre_start"]
    for close in closes:
        assert close.close is not None
        parts = [o.part for o in outs if o.part.k == close.k and not o.part.late]
        mine = [p for p in parts if p.part != MARK]
        assert [p.part for p in mine] == list(range(close.close["parts"]))
        assert sum(p.rows for p in mine) == close.close["rows"]


# ------------------------------------------------------------------ single cases


def test_no_rows_make_one_empty_part_with_the_close() -> None:
    s = sequencer()
    s.arm(0, None)
    (out,) = s.advance(SLICE + GUARD)
    assert out.part.flags == CLOSE and out.part.part == 0 and out.part.rows == 0
    assert body_rows(out.body) == []
    assert out.part.close == {
        "parts": 1, "rows": 0, "read": 0, "late": 0, "malformed": 0, "quarantined": 0,
        "pre_start": 0, "dropped": 0, "lost": 0, "sum": 0,
    }  # fmt: skip


def test_a_slice_closes_at_its_end_plus_guard_and_not_a_tick_before() -> None:
    s = sequencer()
    s.arm(0, None)
    assert s.advance(SLICE + GUARD - 1) == []
    assert len(s.advance(SLICE + GUARD)) == 1


def test_by_timeout_is_said() -> None:
    s = sequencer()
    s.arm(0, None)
    (out,) = s.advance(SLICE + GUARD, by_timeout=True)
    assert out.part.flags == CLOSE | BY_TIMEOUT


def test_idle_sends_and_counts_nothing() -> None:
    s = sequencer()
    assert s.offer(array([row(5), BAD_ROW, row(HIGH + 1)]), LOW, HIGH, 0) == []
    assert s.advance(10**9) == [] and not s.totals


def test_after_the_end_rows_are_nobodys_and_the_next_interval_begins_anew() -> None:
    s = sequencer()
    s.arm(0, 2)
    s.offer(array([row(10), row(2 * SLICE + 5)]), LOW, HIGH, 0)
    outs = s.advance(9 * SLICE)
    last = [o for o in outs if o.part.closes][-1]
    assert last.part.ga == 1, "rows behind the border still guard the last slice"
    assert [o.part.k for o in outs if o.part.part == MARK] == [2, 2, 2]
    assert s.offer(array([row(3 * SLICE)]), LOW, HIGH, 0) == []
    again = s.arm(6, None)
    assert {o.part.k for o in again} == {6} and len(again) == 3
    close = again[0].part.close
    assert close is not None and close["read"] == 1
    s.offer(array([row(6 * SLICE + 1)]), LOW, HIGH, 0)
    (out,) = s.advance(7 * SLICE + GUARD)
    assert out.part.close is not None and out.part.close["read"] == 2


def test_counts_of_the_driver_only_grow_from_interval_to_interval() -> None:
    s = sequencer()
    s.arm(0, 1)
    s.malformed, s.lost = 5, 7
    first = s.advance(3 * SLICE)
    end = first[-1].part.close
    assert end is not None and (end["malformed"], end["lost"], end["read"]) == (5, 7, 5)
    begin = s.arm(4, None)[0].part.close
    assert begin == end
    s.malformed, s.lost = 1, 2  # since the second interval began
    (out,) = s.advance(5 * SLICE + GUARD)
    close = out.part.close
    assert close is not None and (close["malformed"], close["lost"], close["read"]) == (6, 9, 6)


def test_rows_before_the_first_slice_still_guard_it() -> None:
    s = sequencer()
    s.arm(3, None)
    s.offer(array([row(3 * SLICE - 5, 1), row(3 * SLICE - GUARD - 5, 2)]), LOW, HIGH, 0)
    (out,) = s.advance(4 * SLICE + GUARD)
    assert out.part.gb == 1 and body_rows(out.body) == [row(3 * SLICE - 5, 1)]
    assert out.part.close is not None and out.part.close["pre_start"] == 2


def test_impossible_times_in_a_row_are_counted_until_a_good_one_comes() -> None:
    s = sequencer()
    s.arm(0, None)
    s.offer(array([row(HIGH + 1)] * 3), LOW, HIGH, 0)
    s.offer(array([BAD_ROW] * 2), LOW, HIGH, 0)
    assert s.quarantined_in_a_row == 5
    s.offer(array([row(HIGH + 1), row(4)]), LOW, HIGH, 0)
    assert s.quarantined_in_a_row == 0


def test_an_impossible_time_moves_nothing() -> None:
    s = sequencer()
    s.arm(0, None)
    s.offer(array([row(HIGH + 1)]), LOW, HIGH, 0)
    s.offer(array([row(7)]), LOW, HIGH, 0)
    (out,) = s.advance(SLICE + GUARD)
    assert body_rows(out.body) == [row(7)]


def test_body_parts_leave_as_they_fill() -> None:
    s = sequencer(part_bytes=80)
    s.arm(0, None)
    outs = s.offer(array(row(i) for i in range(25)), LOW, HIGH, 0)
    assert [o.part.rows for o in outs] == [10, 10]
    (out,) = s.advance(SLICE + GUARD)
    assert (out.part.rows, out.part.part) == (5, 2)


def test_guards_that_do_not_fit_leave_alone_with_the_close() -> None:
    s = sequencer(part_bytes=80)
    s.arm(0, None)
    s.offer(array([*(row(i) for i in range(8)), *(row(SLICE + i) for i in range(9))]), LOW, HIGH, 0)
    body, close = s.advance(SLICE + GUARD)
    assert (body.part.rows, body.part.flags) == (8, 0)
    assert (close.part.rows, close.part.ga, close.part.part) == (0, 9, 1)
    assert close.part.close is not None and close.part.close["rows"] == 8


@pytest.mark.parametrize("blocks_of", [1, 7, 40])
def test_pulses_are_cut_into_parts_too(blocks_of: int) -> None:
    """Rows of different lengths; parts stay within their bound."""
    pulses = codec("pulses-1")
    rng = np.random.default_rng(1)
    rows = [
        {"ticks": int(t), "channel": 1, "flags": 0, "samples": list(range(int(n)))}
        for t, n in zip(np.sort(rng.integers(0, 2 * L, 150)), rng.integers(1, 60, 150), strict=True)
    ]
    s = Sequencer("p", 1, pulses, Clock(0, 1, 1), L, 2, 50, part_bytes=1000)
    outs = s.arm(0, 2)
    for at in range(0, 150, blocks_of):
        batch = pa.RecordBatch.from_pylist(rows[at : at + blocks_of], schema=PULSE_SCHEMA)
        outs += s.offer(batch, -L, 9 * L, 0)
    outs += s.advance(9 * L)
    for k in (0, 1):
        mine = [o for o in outs if o.part.k == k and o.part.part != MARK]
        assert len(mine) > 2
        got = [r for o in mine for r in read_batch(o.body).to_pylist()[: o.part.rows]]
        expected = [r for r in rows if r["ticks"] // L == k]
        assert got == expected
        close = mine[-1].part.close
        assert close is not None
        batch = pa.RecordBatch.from_pylist(expected, schema=PULSE_SCHEMA)
        assert close["sum"] == pulses.checksum(batch)


def test_the_first_slice_of_a_late_comer() -> None:
    assert first_slice(10, 3 * L, None, L) == 10  # in time: as planned
    assert first_slice(10, 20 * L, None, L) == 22
    assert first_slice(10, 20 * L, 25 * L + 1, L) == 27  # the host's clock is behind
    assert first_slice(10, 20 * L, 18 * L, L) == 22


def test_the_window_of_sanity_is_one_of_the_kind_of_row() -> None:
    """Trigger words may legally lie further ahead than hits."""
    ahead = HIGH + 60  # ticks; whole bunch crossings
    trigger = encode_trigger(0, 1, 0, [ahead // 30], fmt=FORMATS["padova-obdt"]).tolist()[0]
    for wider, kept in ((None, 0), ({TRIGGER: 100}, 1), ({TRIGGER: 59}, 0), ({HIT: 100}, 0)):
        s = sequencer()
        s.arm(0, None)
        s.offer(array([row(5), trigger]), LOW, HIGH, 0, wider)
        assert s.totals["quarantined"] == 1 - kept
        outs = s.advance(HIGH + 9 * SLICE)
        assert sum(o.part.rows for o in outs if o.part.closes) == 1 + kept


def test_open_bytes_are_those_of_what_is_not_sent() -> None:
    s = sequencer(part_bytes=80)
    s.arm(0, None)
    assert s.open_bytes == 0
    s.offer(array(row(i) for i in range(25)), LOW, HIGH, 0)
    assert s.open_bytes == 5 * 16
    s.offer(array(row(3 * SLICE + i) for i in range(7)), LOW, HIGH, 0)
    assert s.open_bytes == 12 * 16
    s.advance(5 * SLICE)
    assert s.open_bytes == 0
