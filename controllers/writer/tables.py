"""Arrow result tables of many slices → the columns of a ROOT tree. Whole arrays, never rows.

An Arrow list of structs is already what a ROOT file wants, offsets and flat columns: it is handed
over without a copy. What Kafka does not have (run, event number, t_run …) is filled in here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import awkward as ak
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from controllers.writer.branches import GROUPS, Branch
from freerun.builder import FLAG_NEIGHBOUR
from freerun.schemas import EVENTS as KAFKA_EVENTS
from freerun.schemas import HITS as KAFKA_HITS

Array = npt.NDArray[Any]
Columns = dict[str, Any]  # branch or group → numpy array, or awkward array of lists
EVENT_BITS = 24  # event number = (slice - first) << EVENT_BITS | index
_ALL_HITS = KAFKA_HITS.append(pa.field("index", pa.int32(), nullable=False))


@dataclass(frozen=True)
class RunFacts:
    """What the writer must know of a run to fill its branches.

    `sources` is run_document.sources: the index in every `source` branch and `missing` mask.
    """

    number: int
    first: int
    slice_ns: int
    sources: tuple[str, ...]

    @property
    def t_start_ns(self) -> int:
        return self.first * self.slice_ns

    def mask(self, names: Sequence[str] | Mapping[str, Any]) -> int:
        """Bit i is set for source i; a name that the run does not know has no bit."""
        return sum(1 << i for i, s in enumerate(self.sources) if s in names and i < 64)


@dataclass(frozen=True)
class Piece:
    """Rows of one slice: a batch, and where the slice's own row count stands before it."""

    k: int
    missing: int
    base: int  # rows of this table and slice in earlier parts
    batch: pa.RecordBatch


def _combined(pieces: Sequence[Piece]) -> dict[str, pa.Array]:
    table = pa.Table.from_batches([p.batch for p in pieces]).combine_chunks()
    out = {}
    for name in table.column_names:
        chunks = table.column(name).chunks
        out[name] = chunks[0] if chunks else pa.array([], table.column(name).type)
    return out


def _numpy(values: pa.Array, code: str | None = None) -> Array:
    """The values without a copy; a signed integer is seen as unsigned where the branch is."""
    out: Array = values.to_numpy(zero_copy_only=not pa.types.is_boolean(values.type))
    if code is None:
        return out.view(np.uint8) if out.dtype == bool else out
    wanted = np.dtype(code)
    same_bits = out.dtype.kind in "iu" and wanted.kind in "iu" and out.itemsize == wanted.itemsize
    return out.view(wanted) if same_bits else out.astype(wanted, copy=False)


def _lists(column: pa.Array, branches: Sequence[Branch] = ()) -> ak.Array:
    """A list column as awkward array; of structs: with the branches' fields first, then others."""
    offsets = ak.index.Index32(_numpy(column.offsets).astype(np.int32, copy=False))
    values = column.values
    if not pa.types.is_struct(values.type):
        return ak.Array(
            ak.contents.ListOffsetArray(offsets, ak.contents.NumpyArray(_numpy(values)))
        )
    have = {f.name: values.field(i) for i, f in enumerate(values.type)}
    columns: dict[str, Array] = {}
    for b in branches:
        if b.name in have:
            columns[b.name] = _numpy(have.pop(b.name), b.type)
        else:  # what no source measures yet: only `width`
            columns[b.name] = np.full(len(values), -1, b.type)
    columns |= {name: _numpy(rest) for name, rest in have.items()}
    record = ak.contents.RecordArray(
        [ak.contents.NumpyArray(a) for a in columns.values()], list(columns), length=len(values)
    )
    return ak.Array(ak.contents.ListOffsetArray(offsets, record))


def _head(pieces: Sequence[Piece], run: RunFacts, t_ns: Array, t_ps: Array) -> Columns:
    rows = [p.batch.num_rows for p in pieces]
    return {
        "slice": np.repeat(np.array([p.k for p in pieces], np.int64), rows),
        "t_run": (t_ns - run.t_start_ns) + t_ps * 1e-3,
    }


def _number(pieces: Sequence[Piece], run: RunFacts) -> Array:
    """What stands above the index in an event's number, per row."""
    rows = [p.batch.num_rows for p in pieces]
    return np.repeat(np.array([(p.k - run.first) << EVENT_BITS for p in pieces], np.int64), rows)


def events(pieces: Sequence[Piece], run: RunFacts) -> Columns:
    """Columns of the tree `events`; columns of the builder's own pass through."""
    have = _combined(pieces)
    rows = [p.batch.num_rows for p in pieces]
    n = sum(rows)
    t_ns, t_ps = _numpy(have["t0_ns"]), _numpy(have["t0_ps"], "u2")
    starts = np.repeat(np.cumsum([0, *rows[:-1]]) - np.array([p.base for p in pieces]), rows)
    head = _head(pieces, run, t_ns, t_ps)
    out: Columns = {
        "event": _number(pieces, run) | (np.arange(n) - starts),
        "run": np.full(n, run.number, np.uint32),
        "spill": np.full(n, -1, np.int32),
        "slice": head["slice"],
        "t0_ns": t_ns,
        "t0_ps": t_ps,
        "t_run": head["t_run"],
        "t0_kind": _numpy(have["t0_kind"], "u1"),
        "t0_err": _numpy(have["t0_err"], "f4"),
        "quality": _numpy(have["quality"], "u4"),
        "missing": np.repeat(np.array([p.missing for p in pieces], np.uint64), rows),
        "weight": np.ones(n, np.float32),
    }
    for name, column in have.items():
        if pa.types.is_list(column.type):
            out[name] = _lists(column, GROUPS.get(name, ()))
        elif name not in out:
            out[name] = _numpy(column)
    return out


def _flat(
    pieces: Sequence[Piece], run: RunFacts, branches: Sequence[Branch], event: Array | None
) -> Columns:
    have = _combined(pieces)
    t_ns, t_ps = _numpy(have["t_ns"]), _numpy(have["t_ps"], "u2")
    n = len(t_ns)
    made = _head(pieces, run, t_ns, t_ps)
    made["event"] = np.full(n, -1, np.int64) if event is None else event
    out: Columns = {}
    for b in branches:
        if b.name in made:
            out[b.name] = made[b.name]
        elif b.name in have:
            out[b.name] = _numpy(have[b.name], b.type)
        else:
            out[b.name] = np.full(n, -1, b.type)
    return out


def flat(pieces: Sequence[Piece], run: RunFacts, branches: Sequence[Branch]) -> Columns:
    """Columns of `hits` or `pulses`; a column `index` in its slice becomes the event's number,
    without one the rows are in no event.
    """
    if "index" not in pieces[0].batch.schema.names:
        return _flat(pieces, run, branches, None)
    index = np.concatenate([_numpy(p.batch.column("index")) for p in pieces]).astype(np.int64)
    event = np.where(index < 0, np.int64(-1), _number(pieces, run) | index)
    return _flat(pieces, run, branches, event)


def all_hits(
    events: Sequence[pa.RecordBatch], unassigned: Sequence[pa.RecordBatch]
) -> list[pa.RecordBatch]:
    """One slice's hits as flat rows with `index`: those of its events, then those in none.

    A hit's time is exact: `t` is its distance from t0 in whole ps as float32, good below 8 us.
    A row that the neighbouring slice has in an event is left to that slice.
    """
    out, base = [], 0
    for batch in events:
        column = batch.column("hit")
        offsets = _numpy(column.offsets)
        values = column.values.slice(offsets[0], offsets[-1] - offsets[0])
        of = np.repeat(np.arange(batch.num_rows), np.diff(offsets))
        hit = {f.name: values.field(i) for i, f in enumerate(values.type)}
        t_ps = _numpy(batch.column("t0_ps"))[of] + np.rint(_numpy(hit["t"]) * 1e3).astype(np.int64)
        made = {
            "t_ns": _numpy(batch.column("t0_ns"))[of] + t_ps // 1000,
            "t_ps": (t_ps % 1000).astype(np.uint16),
            **{name: hit[name] for name in ("source", "channel", "ticks", "flags")},
            "index": (base + of).astype(np.int32),
        }
        out.append(pa.RecordBatch.from_arrays([pa.array(made[f.name]) for f in _ALL_HITS],
                                              schema=_ALL_HITS))  # fmt: skip
        base += batch.num_rows
    for batch in unassigned:
        kept = batch.filter(pa.array(_numpy(batch.column("flags")) & FLAG_NEIGHBOUR == 0))
        index = pa.array(np.full(kept.num_rows, -1, np.int32))
        columns = [kept.column(f.name) for f in KAFKA_HITS]
        out.append(pa.RecordBatch.from_arrays([*columns, index], schema=_ALL_HITS))
    return out


def branch_types(schema: pa.Schema) -> Columns:
    """What `mktree` must be told for `events` of this schema: name → numpy type, or list type."""
    empty = pa.RecordBatch.from_arrays([pa.array([], f.type) for f in schema], schema=schema)
    columns = events([Piece(0, 0, 0, empty)], RunFacts(0, 0, 1, ()))
    return {
        name: ak.type(values).content if isinstance(values, ak.Array) else values.dtype
        for name, values in columns.items()
    }


def extras(schema: pa.Schema) -> dict[str, dict[str, str]]:
    """Unit, meaning and origin of the columns that a builder added to `events`."""
    out: dict[str, dict[str, str]] = {}
    for field in schema:
        if field.name in KAFKA_EVENTS.names:
            continue
        meta = {k.decode(): v.decode() for k, v in (field.metadata or {}).items()}
        about = {"unit": meta.get("unit", ""), "meaning": meta.get("meaning", ""),
                 "from": "builder"}  # fmt: skip
        is_group = pa.types.is_list(field.type) and pa.types.is_struct(field.type.value_type)
        names = [f"{field.name}_{f.name}" for f in field.type.value_type] if is_group else [
            field.name
        ]  # fmt: skip
        if pa.types.is_list(field.type):
            length = {"unit": "", "meaning": f"length of {field.name}", "from": "builder"}
            out[f"n_{field.name}"] = length
        out |= dict.fromkeys(names, about)
    return out
