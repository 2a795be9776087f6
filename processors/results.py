"""What a slice's events become: Arrow tables, cut into records, with the account of the slice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from freerun import schemas
from freerun.builder import (
    FLAG_NEIGHBOUR,
    FLAG_SHARED,
    INCOMPLETE,
    SEGMENT_COLUMNS,
    Events,
    SliceRows,
)
from freerun.wire import PART_BYTES, write_batch
from processors import kernels
from processors.prepare import Prepared

Array = npt.NDArray[Any]


def _list(offsets: Array, type_: pa.DataType, columns: dict[str, Array]) -> pa.ListArray:
    struct = pa.StructArray.from_arrays(
        [
            pa.array(np.ascontiguousarray(columns[f.name]), type=f.type)
            for f in (type_.field(i) for i in range(type_.num_fields))
        ],
        fields=[type_.field(i) for i in range(type_.num_fields)],
    )
    wanted = pa.list_(pa.field("item", type_, nullable=False))
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), struct, type=wanted)


def _split(t_ps: Array, start_ns: int) -> tuple[Array, Array]:
    ns = t_ps // 1000
    return start_ns + ns, (t_ps - ns * 1000).astype(np.uint16)


def _segments(owned: Array, events: Events) -> tuple[Array, dict[str, Array]]:
    everything = np.arange(events.seg_offsets[-1] if len(events.seg_offsets) else 0)
    offsets, index = kernels.select(owned, events.seg_offsets, everything)
    columns = {
        name: events.seg[name][index] if name in events.seg else np.zeros(len(index), dtype)
        for name, dtype in SEGMENT_COLUMNS.items()
    }
    return offsets, columns


class Tables:
    """The tables of one slice, and the use of its rows."""

    def __init__(self, prepared: Prepared, events: Events, complete: bool) -> None:
        s = prepared.rows
        self.owned = (events.anchor >= 0) & (events.anchor < s.length)
        count, foreign = kernels.uses(self.owned, events.hit_offsets, events.hit_index, len(s.hits))
        p_count, p_foreign = kernels.uses(
            self.owned, events.pulse_offsets, events.pulse_index, len(s.pulses)
        )
        shared = (count > 1) | foreign  # a foreign event beside the owned one that has it
        p_shared = (p_count > 1) | p_foreign
        self.events = self._events(s, events, shared, p_shared, complete)
        self.hits = self._hits(s, prepared.hit_body & (count == 0), foreign)
        self.pulses = self._pulses(s, prepared.pulse_body, events)
        self.account = self._account(prepared, count, p_count)

    def _account(
        self, prepared: Prepared, count: Array, p_count: Array
    ) -> dict[int, dict[str, int]]:
        """Source index → its rows' use: in_events - shared + unassigned = hits."""
        s, out = prepared.rows, {}
        for rows, body, used in (
            (s.hits, prepared.hit_body, count),
            (s.pulses, prepared.pulse_body, p_count),
        ):
            if not len(rows):
                continue
            sums = np.zeros((int(rows.source.max()) + 1, 3), np.int64)
            kernels.account(rows.source, body, used, sums)
            for index in np.flatnonzero(sums.any(axis=1)).tolist():
                in_events, unassigned, once = sums[index].tolist()
                out[index] = {
                    "in_events": in_events, "unassigned": unassigned, "shared": in_events - once,
                }  # fmt: skip
        return out

    def _events(
        self, s: SliceRows, events: Events, shared: Array, p_shared: Array, complete: bool
    ) -> pa.RecordBatch:
        owned = self.owned
        anchor = events.anchor[owned]
        t0_ns, t0_ps = _split(anchor, s.start_ns)
        h_offsets, h = kernels.select(owned, events.hit_offsets, events.hit_index)
        p_offsets, p = kernels.select(owned, events.pulse_offsets, events.pulse_index)
        seg_offsets, seg = _segments(owned, events)
        flags = np.where(shared[h], np.uint32(FLAG_SHARED), np.uint32(0))
        hit = {
            "source": s.hits.source[h], "channel": s.hits.channel[h], "det": s.hits.det[h],
            "layer": s.hits.layer[h], "cell": s.hits.cell[h].astype(np.int16),
            "t": kernels.relative_ns(s.hits.t, h_offsets, h, anchor),
            "ticks": s.hits.ticks[h], "flags": flags,
        }  # fmt: skip
        q = s.pulses
        pulse = {
            "source": q.source[p], "channel": q.channel[p], "det": q.det[p],
            "t": kernels.relative_ns(q.t, p_offsets, p, anchor),
            "q": q.q[p], "qs": q.qs[p], "psd": q.psd[p], "amp": q.amp[p], "base": q.base[p],
            "flags": q.flags[p] | np.where(p_shared[p], np.uint32(FLAG_SHARED), np.uint32(0)),
        }  # fmt: skip
        quality = events.quality[owned]
        if not complete:
            quality = quality | np.uint32(INCOMPLETE)
        columns = [
            pa.array(t0_ns), pa.array(t0_ps), pa.array(events.t0_kind[owned]),
            pa.array(events.t0_err[owned]), pa.array(quality),
            _list(h_offsets, schemas.HIT_TYPE, hit),
            _list(seg_offsets, schemas.SEG_TYPE, seg),
            _list(p_offsets, schemas.PULSE_TYPE, pulse),
        ]  # fmt: skip
        schema = schemas.EVENTS
        for name, (values, unit) in events.columns.items():
            columns.append(pa.array(values[owned]))
            meta = {"unit": unit, "meaning": ""}
            schema = schema.append(pa.field(name, columns[-1].type, metadata=meta))
        return pa.RecordBatch.from_arrays(columns, schema=schema)

    def _hits(self, s: SliceRows, which: Array, foreign: Array) -> pa.RecordBatch:
        index = np.flatnonzero(which)
        t_ns, t_ps = _split(s.hits.t[index], s.start_ns)
        flags = np.where(foreign[index], np.uint32(FLAG_NEIGHBOUR), np.uint32(0))
        return pa.RecordBatch.from_arrays(
            [pa.array(t_ns), pa.array(t_ps), pa.array(s.hits.source[index]),
             pa.array(s.hits.channel[index]), pa.array(s.hits.ticks[index]), pa.array(flags)],
            schema=schemas.HITS,
        )  # fmt: skip

    def _pulses(self, s: SliceRows, body: Array, events: Events) -> pa.RecordBatch:
        q, index = s.pulses, np.flatnonzero(body)
        t_ns, t_ps = _split(q.t[index], s.start_ns)
        event = np.full(len(q), -1, np.int32)
        offsets, rows = kernels.select(self.owned, events.pulse_offsets, events.pulse_index)
        # the first event that has it: written last
        numbers = np.repeat(np.arange(len(offsets) - 1, dtype=np.int32), np.diff(offsets))
        event[rows[::-1]] = numbers[::-1]
        none = np.full(len(index), -1, np.int16)
        return pa.RecordBatch.from_arrays(
            [pa.array(event[index]), pa.array(t_ns), pa.array(t_ps),
             *(pa.array(getattr(q, name)[index]) for name in (
                 "source", "channel", "q", "qs", "psd", "amp", "base", "base_rms", "cfd", "rise")),
             pa.array(none), pa.array(none), pa.array(q.flags[index])],
            schema=schemas.PULSES,
        )  # fmt: skip

    def bodies(self) -> list[tuple[str, int, pa.Buffer]]:
        """`(table, rows, body)` of each record; there is always one of `events`."""
        out = [("events", b.num_rows, write_batch(b)) for b in pieces(self.events)]
        for name, table in (("hits", self.hits), ("pulses", self.pulses)):
            if table.num_rows:
                out += [(name, b.num_rows, write_batch(b)) for b in pieces(table)]
        return out


def pieces(batch: pa.RecordBatch, limit: int = PART_BYTES) -> Iterator[pa.RecordBatch]:
    """Cut a table by rows so that no piece is (much) above `limit` bytes."""
    n = max(1, -(-batch.nbytes // limit))
    step = max(1, -(-batch.num_rows // n))
    if batch.num_rows <= step:
        yield batch
        return
    for at in range(0, batch.num_rows, step):
        yield batch.slice(at, step)
