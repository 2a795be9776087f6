"""Synthetic results of slices, as a lane would write them: for the tests of the writers."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pyarrow as pa

from freerun import schemas, wire
from freerun.slices import partition

SOURCES = ("tdc0", "tdc1", "digi0")
L = 100_000_000  # ns
Record = tuple[int, list[tuple[str, bytes]], bytes]  # partition, headers, body


def _values(rng: np.random.Generator, type_: pa.DataType, name: str, n: int) -> pa.Array:
    if pa.types.is_floating(type_):
        return pa.array(rng.normal(50, 20, n).astype(type_.to_pandas_dtype()), type_)
    high = {"source": 3, "channel": 128, "det": 5, "layer": 5, "cell": 16, "t_ps": 1000,
            "t0_ps": 1000, "t0_kind": 2}.get(name, 100)  # fmt: skip
    return pa.array(rng.integers(0, high, n).astype(type_.to_pandas_dtype()), type_)


def _lists(rng: np.random.Generator, field: pa.Field, n: int, mean: int) -> pa.Array:
    lengths = rng.poisson(mean, n)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    inner, total = field.type.value_type, int(lengths.sum())
    if not pa.types.is_struct(inner):
        return pa.ListArray.from_arrays(offsets, _values(rng, inner, field.name, total))
    fields = list(inner)
    values = []
    for f in fields:
        column = _values(rng, f.type, f.name, total)
        if f.name == "ticks":
            column = pa.array(np.sort(rng.integers(10**15, 10**15 + 10**8, total)), f.type)
        values.append(column)
    return pa.ListArray.from_arrays(
        offsets, pa.StructArray.from_arrays(values, fields=fields), type=field.type
    )


def table(
    schema: pa.Schema, k: int, n: int, seed: int = 0, mean: int = 6, n_events: int = 0
) -> pa.RecordBatch:
    """`n` rows of a result table, a pure function of (slice, seed)."""
    rng = np.random.default_rng([seed, k, len(schema)])
    columns = []
    for field in schema:
        if pa.types.is_list(field.type):
            columns.append(_lists(rng, field, n, mean if field.name == "hit" else 1))
        elif field.name in ("t_ns", "t0_ns"):
            columns.append(pa.array(np.sort(rng.integers(k * L, (k + 1) * L, n)), field.type))
        elif field.name == "ticks":
            columns.append(pa.array(k * 10**8 + np.sort(rng.integers(0, 10**8, n)), field.type))
        elif field.name == "index":
            columns.append(pa.array(rng.integers(-1, max(n_events, 1), n), field.type))
        else:
            columns.append(_values(rng, field.type, field.name, n))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def info(k: int, first: int, n_events: int, rows: int = 100, **changes: Any) -> dict[str, Any]:
    """The header of a slice whose sources live since `first`, cumulative closes included."""
    done = k - first + 1
    close = {"read": 120 * done, "rows": rows * done, "late": done, "malformed": 0,
             "quarantined": 2 * done, "pre_start": 7, "dropped": 0, "lost": 0, "parts": done,
             "sum": 1}  # fmt: skip
    source = {"inc": 1, "state": "closed", "rows": rows, "close": close, "hits": rows - 10,
              "other": 6, "masked": 3, "unknown": 1, "unassigned": 40, "shared": 2,
              "sum": (k * 2654435761) % 2**32}  # fmt: skip
    return {
        "seq": 3, "code": "0.1.0", "failed": None, "n_events": n_events, "complete": True,
        "by_timeout": False, "sources": dict.fromkeys(SOURCES, source), "missing": {},
        "counts": {},
    } | changes  # fmt: skip


def records(
    k: int,
    first: int,
    partitions: int,
    *,
    n_events: int = 20,
    n_hits: int = 50,
    n_pulses: int = 5,
    events_parts: int = 1,
    schema: pa.Schema = schemas.EVENTS,
    **changes: Any,
) -> list[Record]:
    """The Kafka records of slice `k`; events are cut by rows over `events_parts` records."""
    events = table(schema, k, n_events, n_events=n_events)
    cuts = np.linspace(0, n_events, events_parts + 1).astype(int)
    tables = [("events", events.slice(a, b - a)) for a, b in itertools.pairwise(cuts)]
    if n_hits:
        tables.append(("hits", table(schemas.HITS, k, n_hits)))
    if n_pulses:
        tables.append(("pulses", table(schemas.PULSES, k, n_pulses, n_events=n_events)))
    out = []
    for i, (name, batch) in enumerate(tables):
        body = wire.write_batch(batch).to_pybytes()
        header = info(k, first, n_events, **changes) if i == 0 else None
        part = wire.ResultPart(k, i, len(tables), name, batch.num_rows, header)
        out.append((partition(k, partitions), wire.result_headers(part, body), body))
    return out


class Log:
    """P partitions in memory: what the events topic would hold, with offsets (markers too)."""

    def __init__(self, partitions: int) -> None:
        self.partitions = partitions
        self.rows: list[list[tuple[int, list[tuple[str, bytes]], bytes]]] = [
            [] for _ in range(partitions)
        ]
        self.end = [0] * partitions

    def append(self, records_: list[Record]) -> None:
        for p, headers, body in records_:
            self.rows[p].append((self.end[p], headers, body))
            self.end[p] += 1
        for p in {r[0] for r in records_}:
            self.end[p] += 1  # the commit marker takes an offset

    def feed(self, chain: Any, starts: dict[int, int] | None = None) -> None:
        """Offer everything from `starts` on (default: all), partition by partition."""
        for p in range(self.partitions):
            for offset, headers, body in self.rows[p]:
                if offset >= (starts or {}).get(p, 0):
                    chain.offer(p, offset, headers, body)
            chain.at_end(p, self.end[p])
