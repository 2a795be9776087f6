"""Does a builder make the same of a stream wherever it is cut? Cuts at random, and the smallest
part of the stream that shows a difference.

Pieces have the guards that a source would send with them. What must agree: the events, the rows in
none, the pulses, and the sums of all histograms.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from freerun.config import Bench
from freerun.rows import Rows, codec
from freerun.ticks import Clock
from freerun.words import BAD
from processors.compare import Difference, tables
from processors.monitors import fill_common
from processors.offline import prepared_of
from processors.pipeline import Pipeline
from processors.regenerate import comparable
from processors.results import Tables

Array = npt.NDArray[Any]
Built = tuple[dict[str, pa.Table], dict[str, Array]]  # tables, histograms
MOST_TRIES = 300  # of the search for a smaller example


@dataclass
class Stream:
    """Rows of some sources with their times, so that a part of them is found at once."""

    rows: Mapping[str, tuple[str, Rows, Clock]]  # source → schema, rows, clock
    start: int  # ns
    end: int
    _ns: dict[str, Array] = field(default_factory=dict)
    _order: dict[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, (schema, rows, clock) in self.rows.items():
            ticks, kind = codec(schema).times(rows, clock.tick_at(self.start))
            ns = self.start + clock.ps_since(ticks, self.start) // 1000
            ns[kind == BAD] = self.start - (1 << 40)  # nowhere
            self._order[name] = np.argsort(ns, kind="stable")
            self._ns[name] = ns[self._order[name]]

    def __len__(self) -> int:
        return sum(len(rows) for _, rows, _ in self.rows.values())

    def within(self, low: int, high: int) -> dict[str, tuple[str, Rows, Clock]]:
        """The rows with low ≤ t < high (ns), in the order they came."""
        out = {}
        for name, (schema, rows, clock) in self.rows.items():
            a, b = np.searchsorted(self._ns[name], [low, high])
            which = np.sort(self._order[name][a:b])
            out[name] = (schema, codec(schema).take(rows, which), clock)
        return out

    def times(self) -> Array:
        """The times (ns) of all rows in the stream, in order."""
        inside = [ns[(ns >= self.start) & (ns < self.end)] for ns in self._ns.values()]
        times: Array = np.sort(np.concatenate(inside))
        return times

    def only(self, keep: Mapping[str, Array]) -> Stream:
        """The stream with just these rows (source → indices)."""
        rows = {name: (schema, codec(schema).take(some, keep[name]), clock)
                for name, (schema, some, clock) in self.rows.items()}  # fmt: skip
        return Stream(rows, self.start, self.end)


@dataclass(frozen=True)
class Found:
    """A difference, and the smallest stream and single cut that shows one."""

    difference: Difference
    cut_ns: int  # of the example
    stream: Stream
    cuts: tuple[int, ...]  # what was tried at first


class Checker:
    """One pipeline over streams, cut and not."""

    def __init__(self, pipeline: Pipeline, bench: Bench) -> None:
        self._made, self._bench, self._guard = pipeline, bench, bench.time.guard

    def check(self, stream: Stream, seed: int, cuts: int) -> tuple[tuple[int, ...], Found | None]:
        """Cut `stream` at random places. Returns the cuts and what was found."""
        where = random_cuts(stream, self._guard, seed, cuts)
        found = self.compare(stream, where)
        return where, None if found is None else self.shrink(stream, where, found)

    def repeatable(self, stream: Stream) -> Difference | None:
        """Are the events the same when the same rows come twice?"""
        one, two = (self._build(stream, stream.start, stream.end) for _ in range(2))
        return _between(one, two, ("once", "twice"))

    def compare(self, stream: Stream, cuts: Sequence[int]) -> Difference | None:
        """The first difference between the stream cut there and the uncut one."""
        whole, sums = self._build(stream, stream.start, stream.end)
        borders = [stream.start, *cuts, stream.end]
        pieces = [self._build(stream, a, b) for a, b in itertools.pairwise(borders)]
        joined: dict[str, pa.Table] = {}
        for name in ("events", "hits", "pulses"):
            some = [t[name] for t, _ in pieces if name in t]
            if some:
                joined[name] = pa.concat_tables(some).combine_chunks()
        added = {n: sum((s[n] for _, s in pieces[1:]), pieces[0][1][n].copy()) for n in sums}
        return _between((whole, sums), (joined, added), ("uncut", "cut"))

    def _build(self, stream: Stream, start: int, end: int) -> Built:
        rows = stream.within(start - self._guard, end + self._guard)
        prepared = prepared_of(self._made, self._bench, start, end - start, rows)
        events = self._made.builder.build(prepared.rows)
        built = Tables(prepared, events, True)
        values = {h.name: h.zeros() for h in self._made.hists}
        fill_common(self._made.geometry, prepared.occupancy, prepared.rows.pulses,
                    prepared.pulse_body, values)  # fmt: skip
        self._made.builder.fill(prepared.rows, events, built.owned, values)
        made = {"events": built.events, "hits": built.hits, "pulses": built.pulses}
        return comparable({n: pa.table(b) for n, b in made.items()}), values

    # ---------------------------------------------------------------- the smallest example

    def shrink(self, stream: Stream, cuts: Sequence[int], found: Difference) -> Found:
        """One cut that shows a difference by itself, and as few rows as do."""

        def fails(some: Stream, cut: int) -> bool:
            return self.compare(some, [cut]) is not None

        alone = next((c for c in cuts if fails(self._around(stream, c), c)), None)
        if alone is None:  # it takes several cuts at once
            return Found(found, cuts[0] if cuts else stream.start, stream, tuple(cuts))
        small = self._around(stream, alone)
        small = _fewer(small, lambda some: fails(some, alone))
        return Found(self.compare(small, [alone]) or found, alone, small, tuple(cuts))

    def _around(self, stream: Stream, cut: int) -> Stream:
        """The neighbourhood of a cut, wide enough for whatever the builder may look at."""
        reach = 4 * self._guard
        low, high = max(stream.start, cut - reach), min(stream.end, cut + reach)
        return Stream(stream.within(low - self._guard, high + self._guard), low, high)


def _fewer(stream: Stream, fails: Callable[[Stream], bool]) -> Stream:
    """Take rows away, in halves, quarters … and at last one by one, while it still fails."""
    every = [(name, i) for name, (_, rows, _) in stream.rows.items() for i in range(_len(rows))]
    step, tries = max(1, len(every) // 2), 0
    while tries < MOST_TRIES:
        for at in range(0, len(every), step):
            rest = every[:at] + every[at + step :]
            tries += 1
            if rest and fails(_of(stream, rest)):
                every = rest
                break
            if tries >= MOST_TRIES:
                break
        else:
            if step == 1:
                break
            step = max(1, step // 2)
    return _of(stream, every)


def _len(rows: Rows) -> int:
    return int(rows.num_rows) if isinstance(rows, pa.RecordBatch) else len(rows)


def _of(stream: Stream, rows: Sequence[tuple[str, int]]) -> Stream:
    keep = {name: np.array([i for n, i in rows if n == name], np.int64) for name in stream.rows}
    return stream.only(keep)


def random_cuts(stream: Stream, guard: int, seed: int, n: int) -> tuple[int, ...]:
    """At most `n` cuts (ns), further apart than a guard: half of them beside rows."""
    rng = np.random.default_rng(seed)
    anywhere = rng.integers(stream.start + 1, stream.end, n // 2 + 1)
    times = stream.times()
    near: Array = np.empty(0, np.int64)
    if len(times):
        near = times[rng.integers(0, len(times), n - n // 2)] + rng.integers(-20, 21, n - n // 2)
    out: list[int] = []
    last = stream.start
    for cut in np.sort(np.concatenate([anywhere, near])).tolist():
        if cut - last > guard and stream.end - cut > guard:
            out.append(cut)
            last = cut
    return tuple(out[:n])


def _between(one: Built, other: Built, names: tuple[str, str]) -> Difference | None:
    """The first difference of tables, then of histograms."""
    found = tables(-1, one[0], other[0])
    for name, values in one[1].items():
        wrong = np.flatnonzero(values.ravel() != other[1][name].ravel())
        if found is None and len(wrong):
            at = int(wrong[0])
            a, b = str(values.ravel()[at]), str(other[1][name].ravel()[at])
            found = Difference(-1, "histogram", name, at, a, b)
    return None if found is None else replace(found, names=names)
