"""The events of a stored run built again from the raw words, uncut: what every cut must agree with.

Stretches of whole slices are joined and built as one; a stretch ends where a slice is incomplete or
failed, and where the guards that a source sent do not hold what came later (a row that was late).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from freerun.assembler import Bundle, Fragment
from freerun.builder import BY_TIMEOUT, FLAG_NEIGHBOUR
from freerun.config import Bench
from freerun.plan import Plan, Run
from freerun.rows import Rows, codec
from freerun.slices import partition
from freerun.ticks import Clock
from freerun.topics import Topics
from freerun.wire import read_batch
from processors.compare import Difference, difference, joined, tables
from processors.offline import uncut
from processors.pipeline import Pipeline
from processors.rerun import Rerun, StoredSlice, stored_slices
from processors.setup import pipeline_of

MOST_ROWS = 2_000_000  # of a stretch, so that memory is bounded
MOST_SLICES = 200


@dataclass(frozen=True)
class Fragments:
    """One source's rows of one slice, decoded into body and guards."""

    schema: str
    clock: Clock
    body: Rows
    before: Rows
    after: Rows

    @classmethod
    def of(cls, fragment: Fragment, offset_ps: int) -> Fragments:
        kind = codec(fragment.parts[-1].schema)
        many = [kind.rows(read_batch(b)) for b in fragment.bodies]
        last, n = fragment.parts[-1], fragment.parts[-1].rows
        bodies = [kind.take(rows, np.arange(p.rows))
                  for p, rows in zip(fragment.parts, many, strict=True)]  # fmt: skip
        return cls(
            last.schema, Clock(last.anchor, last.num, last.den, offset_ps), kind.concat(bodies),
            kind.take(many[-1], np.arange(n, n + last.gb)),
            kind.take(many[-1], np.arange(n + last.gb, n + last.gb + last.ga)),
        )  # fmt: skip


@dataclass
class Stretch:
    """Whole slices next to each other, with what was published of them."""

    slices: list[tuple[StoredSlice, dict[str, Fragments]]] = field(default_factory=list)
    rows: int = 0

    def joins(self, stored: StoredSlice, sources: dict[str, Fragments], border: int,
              guard: int) -> bool:  # fmt: skip
        """May the slice follow? `border`: its start (ns)."""
        if not self.slices:
            return True
        before, known = self.slices[-1]
        if stored.k != before.k + 1 or set(known) != set(sources):
            return False
        if self.rows > MOST_ROWS or len(self.slices) >= MOST_SLICES:
            return False
        return all(_agree(known[s], sources[s], border, guard) for s in sources)

    def add(self, stored: StoredSlice, sources: dict[str, Fragments]) -> None:
        self.slices.append((stored, sources))
        self.rows += sum(len(f.body) for f in sources.values())

    def source_rows(self) -> dict[str, tuple[str, Rows, Clock]]:
        out = {}
        for s, first in self.slices[0][1].items():
            parts = [sources[s] for _, sources in self.slices]
            rows = codec(first.schema).concat(
                [first.before, *(f.body for f in parts), parts[-1].after]
            )
            out[s] = (first.schema, rows, first.clock)
        return out


def _agree(a: Fragments, b: Fragments, border: int, guard: int) -> bool:
    """Are the guards on both sides of a border the neighbours' rows as they were stored?"""
    if (a.schema, a.clock) != (b.schema, b.clock):
        return False
    kind, clock = codec(a.schema), a.clock

    def within(rows: Rows, low: int, high: int) -> Rows:
        ticks, _ = kind.times(rows, clock.tick_at(border))
        return kind.take(rows, (ticks >= clock.tick_at(low)) & (ticks < clock.tick_at(high)))

    head, tail = within(b.body, border, border + guard), within(a.body, border - guard, border)
    return all(len(x) == len(y) and kind.checksum(x) == kind.checksum(y)
               for x, y in ((head, a.after), (tail, b.before)))  # fmt: skip


@dataclass
class Regenerated:
    """What was found, stretch by stretch."""

    first: int
    last: int
    slices: int
    events: int
    stored: pa.Table  # events of the topic, in order
    of_slice: list[tuple[int, int]]  # slice, its events
    found: Difference | None


def regenerate(
    address: str, topics: Topics, bench: Bench, plan: Plan, run: Run, pipeline: str,
    say: Callable[[str], None],
) -> Iterator[Regenerated]:  # fmt: skip
    """Build every kept slice of a stopped run again and compare; yields stretch by stretch.

    `say` is told what cannot be built again. Raises `FreerunError` if raw data or results miss.
    """
    assert plan.install is not None and run.last is not None
    made, P = pipeline_of(bench, pipeline), plan.install.P
    roster = {s for e in plan.entries if e.run == run.number for s in e.roster}
    sources = [s for s in bench.sources_of(bench.pipeline(pipeline)) if s in roster]
    stretch, skipped = Stretch(), 0
    with ExitStack() as stack:
        reruns = [stack.enter_context(closing(Rerun(address, topics, plan, run, sources, p)))
                  for p in range(P)]  # fmt: skip
        lives = [stack.enter_context(closing(stored_slices(address, topics,
                 topics.events(pipeline), run, p))) for p in range(P)]  # fmt: skip
        heads = [next(live, None) for live in lives]
        for k in range(run.first, run.last + 1):
            p = partition(k, P)
            stored = heads[p]
            if stored is None or stored.k > k or k < reruns[p].first:
                if stored is not None and stored.k == k:
                    heads[p] = next(lives[p], None)
                skipped += 1
                if k >= reruns[p].first:
                    reruns[p].bundle({})
                continue
            heads[p] = next(lives[p], None)
            bundle = reruns[p].bundle(stored.info)
            if stored.info.get("failed") or not stored.info["complete"] or bundle.missing:
                yield from _flush(made, bench, stretch)
                stretch = Stretch()
                yield _alone(made, bundle, stored)
                continue
            mine = {f.source: Fragments.of(f, made.setups[f.source].offset_ps)
                    for f in bundle.fragments}  # fmt: skip
            if not stretch.joins(stored, mine, k * made.L, made.G):
                yield from _flush(made, bench, stretch)
                stretch = Stretch()
            stretch.add(stored, mine)
        yield from _flush(made, bench, stretch)
    if skipped:
        say(f"{skipped} slices cannot be built again: retention deleted their raw data or results")


def _flush(made: Pipeline, bench: Bench, stretch: Stretch) -> Iterator[Regenerated]:
    if not stretch.slices:
        return
    stored = [s for s, _ in stretch.slices]
    first, last = stored[0].k, stored[-1].k
    again = uncut(made, bench, first * made.L, (last - first + 1) * made.L, stretch.source_rows())
    live = [joined(s.parts) for s in stored]
    rows = [t["events"].num_rows for t in live]
    whole = {name: pa.concat_tables([t[name] for t in live if name in t]).combine_chunks()
             for name in ("events", "hits", "pulses") if any(name in t for t in live)}  # fmt: skip
    built = {"events": again.events, "hits": again.hits, "pulses": again.pulses}
    found = tables(first, comparable(whole), comparable(
        {name: pa.table(batch) for name, batch in built.items() if batch.num_rows or name in whole}
    ))  # fmt: skip
    if found is not None and found.table == "events" and found.row >= 0:
        k = first + int(np.searchsorted(np.cumsum(rows), found.row, side="right"))
        row = found.row - sum(rows[: k - first])
        found = Difference(k, found.table, found.column, row, found.live, found.again)
    of_slice = [(s.k, n) for s, n in zip(stored, rows, strict=True)]
    yield Regenerated(first, last, len(stored), sum(rows), whole["events"], of_slice, found)


def _alone(made: Pipeline, bundle: Bundle, stored: StoredSlice) -> Regenerated:
    """A slice that is not whole: through the pipeline as it is."""
    failed = stored.info.get("failed")
    result = made.failed(bundle, failed) if failed else made.process(bundle)
    events = joined(stored.parts)["events"]
    found = difference(result, stored.info, stored.parts, None)
    return Regenerated(stored.k, stored.k, 1, events.num_rows, events,
                       [(stored.k, events.num_rows)], found)  # fmt: skip


def comparable(whole: dict[str, pa.Table]) -> dict[str, pa.Table]:
    """Without what depends on where the stream is cut: a neighbour's rows, positions in a slice."""
    out = dict(whole)
    if "hits" in out:
        own = pc.equal(pc.bit_wise_and(out["hits"]["flags"], FLAG_NEIGHBOUR), 0)
        out["hits"] = out["hits"].filter(own).combine_chunks()
    if "events" in out:  # a slice's own mark, which a stretch of them has not
        at = out["events"].schema.get_field_index("quality")
        bits = np.bitwise_and(out["events"]["quality"].to_numpy(), ~np.uint32(BY_TIMEOUT))
        out["events"] = out["events"].set_column(at, out["events"].schema.field(at), pa.array(bits))
    if "pulses" in out:
        out["pulses"] = out["pulses"].drop_columns("index")
    return {name: table for name, table in out.items() if table.num_rows}
