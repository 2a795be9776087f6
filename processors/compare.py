"""A slice built again against what was published of it live: to the last bit, or where not."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from freerun.wire import ResultPart, read_batch
from processors.pipeline import SliceResult

Array = npt.NDArray[Any]
Parts = Sequence[tuple[ResultPart, Any]]  # with their bodies

# what of a header follows from the slice alone; `counts` (and a gap's detail) say how far the
# lane had read when the slice left, `code` who built it
OF_HEADER = ("seq", "failed", "n_events", "complete", "by_timeout", "overflow", "sources")


@dataclass(frozen=True)
class Difference:
    """Where two slices part: the first row of the first column that is not the same."""

    k: int  # -1: there is no slice to name
    table: str  # or "header"
    column: str
    row: int  # of the table; -1: the whole column
    live: str
    again: str
    names: tuple[str, str] = ("live", "again")  # of the two

    def __str__(self) -> str:
        where = f"slice {self.k}, " if self.k >= 0 else ""
        where += f"{self.table}.{self.column}" + (f", row {self.row}" if self.row >= 0 else "")
        return f"{where}: {self.names[0]} {self.live}, {self.names[1]} {self.again}"


def difference(
    again: SliceResult, info: Mapping[str, Any], live: Parts, monitor: Parts | None
) -> Difference | None:
    """The first difference between a slice built again and its stored parts; None: not one bit.

    `info`: the live header. `monitor`: the live delta, None if it is not kept any more.
    """
    found = _header(again.k, info, json.loads(json.dumps(again.info)))
    if found is not None:
        return found
    pairs = [(live, again.events)] + ([(monitor, [again.monitor])] if monitor is not None else [])
    for stored, made in pairs:
        if [bytes(b) for _, b in stored] != [bytes(b) for _, b in made]:
            found = tables(again.k, joined(stored), joined(made))
            if found is not None:
                return found
    return None


def _header(k: int, live: Mapping[str, Any], again: Mapping[str, Any]) -> Difference | None:
    for name in OF_HEADER:
        if live.get(name) != again.get(name):
            return Difference(k, "header", name, -1, str(live.get(name)), str(again.get(name)))
    a, b = ({s: (m["why"], m["rows"]) for s, m in x.get("missing", {}).items()}
            for x in (live, again))  # fmt: skip
    if a != b:
        return Difference(k, "header", "missing", -1, str(a), str(b))
    return None


def joined(parts: Parts) -> dict[str, pa.Table]:
    """The tables of a slice's parts."""
    batches: dict[str, list[pa.RecordBatch]] = {}
    for part, body in parts:
        batches.setdefault(part.table, []).append(read_batch(body))
    return {name: pa.Table.from_batches(many).combine_chunks() for name, many in batches.items()}


def tables(
    k: int, live: Mapping[str, pa.Table], again: Mapping[str, pa.Table]
) -> Difference | None:
    """The first column, in order, in which two sets of tables differ."""
    for name in dict.fromkeys([*live, *again]):
        a, b = live.get(name), again.get(name)
        rows = [0 if t is None else t.num_rows for t in (a, b)]
        if rows[0] != rows[1]:
            return Difference(k, name, "rows", -1, str(rows[0]), str(rows[1]))
        if a is None or b is None:
            continue
        if a.schema != b.schema:
            return Difference(k, name, "columns", -1, str(a.schema), str(b.schema))
        for column in a.column_names:
            row = first_row(a.column(column), b.column(column))
            if row is not None:
                one, other = (_short(t.column(column)[row].as_py()) for t in (a, b))
                return Difference(k, name, column, row, one, other)
    return None


def first_row(a: pa.ChunkedArray, b: pa.ChunkedArray) -> int | None:
    """The first row in which two columns of one type and length differ in a bit; None: none."""
    if len(a) == 0:
        return None
    rows = [_first(x, y) for x, y in zip(_leaves(_one(a)), _leaves(_one(b)), strict=True)]
    different = [row for row in rows if row is not None]
    return min(different, default=None)


def _one(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    return whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole


def _leaves(values: pa.Array, row_of: Array | None = None) -> Iterator[tuple[Array, Array]]:
    """The plain arrays behind a column, each with the row that each of its values belongs to."""
    rows = np.arange(len(values)) if row_of is None else row_of
    kind = values.type
    if pa.types.is_list(kind):
        offsets = values.offsets.to_numpy()
        lengths = np.diff(offsets)
        yield lengths, rows
        yield from _leaves(values.flatten(), np.repeat(rows, lengths))
    elif pa.types.is_struct(kind):
        for i in range(kind.num_fields):
            yield from _leaves(values.field(i), rows)
    elif pa.types.is_string(kind):
        yield np.array(values.to_pylist(), dtype=object), rows
    else:
        yield values.to_numpy(zero_copy_only=False), rows


def _first(a: tuple[Array, Array], b: tuple[Array, Array]) -> int | None:
    (x, rows), (y, others) = a, b
    n = min(len(x), len(y))
    if x.dtype.kind == "f":  # bits, so that NaN is NaN and −0 is not 0
        x, y = x.view(f"u{x.itemsize}"), y.view(f"u{y.itemsize}")
    wrong = np.flatnonzero(x[:n] != y[:n])
    if len(wrong):
        return int(rows[wrong[0]])
    if len(x) != len(y):
        longer = rows if len(x) > len(y) else others
        return int(longer[n])
    return None


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]}…"
