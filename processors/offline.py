"""The builder over a whole stream at once: no Kafka, no slices. What every cut must agree with."""

from __future__ import annotations

from collections.abc import Mapping

from freerun.assembler import Fragment
from freerun.config import Bench
from freerun.rows import Rows, codec
from freerun.ticks import Clock
from freerun.wire import CLOSE, Part, write_batch
from freerun.words import BAD
from processors.pipeline import Pipeline
from processors.prepare import Prepared, prepare
from processors.results import Tables


def fragment_of(
    source: str, schema: str, rows: Rows, clock: Clock, start_ns: int, length_ns: int,
    guard_ns: int,
) -> Fragment:  # fmt: skip
    """All rows of a source within [start - guard, start + length + guard) as one fragment."""
    kind = codec(schema)
    tick0 = clock.tick_at(start_ns)
    ticks, what = kind.times(rows, tick0)
    good = what != BAD
    end = clock.tick_at(start_ns + length_ns)
    body = good & (ticks >= tick0) & (ticks < end)
    low, high = clock.tick_at(start_ns - guard_ns), clock.tick_at(start_ns + length_ns + guard_ns)
    before = good & (ticks >= low) & (ticks < tick0)
    after = good & (ticks >= end) & (ticks < high)
    everything = kind.concat([kind.take(rows, which) for which in (body, before, after)])
    data = write_batch(kind.batch(everything))
    part = Part(
        source, 0, 0, 0, CLOSE, schema, tick0, clock.num, clock.den, clock.anchor_ns,
        int(body.sum()), int(after.sum()), int(before.sum()), 0, {"parts": 1},
    )  # fmt: skip
    return Fragment(source, 0, 0, (-1, -1, -1), (-1, -1), [part], [data], int(body.sum()))


def prepared_of(
    pipeline: Pipeline, bench: Bench, start_ns: int, length_ns: int,
    rows: Mapping[str, tuple[str, Rows, Clock]],
) -> Prepared:  # fmt: skip
    """What a builder gets of one interval, its guards included. `rows`: source → schema, rows,
    clock."""
    fragments = [
        fragment_of(name, schema, some, clock, start_ns, length_ns, bench.time.guard)
        for name, (schema, some, clock) in sorted(rows.items())
    ]
    return prepare(
        start_ns, length_ns, bench.time.guard, fragments, pipeline.setups, pipeline.geometry,
        pipeline.table, True,
    )  # fmt: skip


def uncut(
    pipeline: Pipeline, bench: Bench, start_ns: int, length_ns: int,
    rows: Mapping[str, tuple[str, Rows, Clock]],
) -> Tables:  # fmt: skip
    """The tables of one interval built as a single slice. `rows`: source → schema, rows, clock."""
    prepared = prepared_of(pipeline, bench, start_ns, length_ns, rows)
    return Tables(prepared, pipeline.builder.build(prepared.rows), True)
