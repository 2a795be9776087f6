"""A bundle's fragments to one slice's rows: decoded, mapped to detectors, in time order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from freerun import words
from freerun.assembler import Fragment
from freerun.builder import HitRows, MarkRows, PulseRows, SliceRows, no_rows
from freerun.config.geometry import NATIVE, Geometry
from freerun.errors import Quarantined
from freerun.rows import PulseCodec, Rows, WordCodec, codec
from freerun.ticks import Clock
from freerun.wire import Part, read_batch
from processors import kernels
from processors.pulses import PulseSettings, pulse_rows

Array = npt.NDArray[Any]
COUNTS = ("hits", "other", "masked", "unknown")


@dataclass(frozen=True)
class SourceSetup:
    """What the pipeline must know of a source to read its rows."""

    index: int  # in the installation's list of sources
    fpga: int  # board whose words count; -1 any; below that: board is part of the channel
    offset_ps: int
    pulses: PulseSettings


@dataclass
class Prepared:
    """Rows for the builder, which of them are body, and the counts of the account."""

    rows: SliceRows
    hit_body: Array  # bool, same length as rows.hits
    pulse_body: Array  # bool, same length as rows.pulses
    counts: dict[str, dict[str, int]]  # source → hits, other, masked, unknown, processed, sum
    occupancy: Array  # int64 (256, 5, 64): detector, layer (0 = none), cell
    waveforms: list[pa.RecordBatch] = field(default_factory=list)


class _Room:
    """Arrays for the rows of all word sources of one slice, filled by the kernel."""

    def __init__(self, n: int) -> None:
        self.at = np.zeros(2, np.int64)
        self.t, self.tick, self.tie = (np.empty(n, np.int64) for _ in range(3))
        self.channel, self.source = np.empty(n, np.int16), np.empty(n, np.int16)
        self.body = np.empty(n, np.bool_)
        self.m_t, self.m_source = np.empty(n, np.int64), np.empty(n, np.int16)
        self.m_channel = np.empty(n, np.int16)
        self.m_kind, self.m_board = np.empty(n, np.uint8), np.empty(n, np.uint8)


def _take_words(
    fragment: Fragment, part: Part, rows: Array, k_start: int, setup: SourceSetup,
    geometry: Geometry, room: _Room, occupancy: Array, tally: Array,
) -> int:  # fmt: skip
    """One part of a word source into the room; returns its body's checksum."""
    fmt = codec(part.schema)
    assert isinstance(fmt, WordCodec)
    decoded = words.decode(rows, fmt.format, part.tick0)
    clock = Clock(part.anchor, part.num, part.den, setup.offset_ps)
    constant, rest = clock.base_ps(part.tick0, k_start)
    channels = geometry.maps[fragment.source]
    hits, marks = room.at
    kernels.sort_rows(
        len(rows), part.rows, decoded.kind, decoded.tick, decoded.board, decoded.channel,
        setup.fpga, part.tick0, constant, rest, part.num * 1000, part.den,
        channels.det, channels.layer, channels.cell, channels.role, channels.masked,
        channels.offset_ps, tally, occupancy, room.at,
        room.t, room.tick, room.channel, room.tie, room.body,
        room.m_t, room.m_channel, room.m_kind, room.m_board,
    )  # fmt: skip
    room.source[hits : room.at[0]] = setup.index
    room.m_source[marks : room.at[1]] = setup.index
    return words.checksum(rows[: part.rows])


def prepare(
    start: int, length_ns: int, guard_ns: int, fragments: Sequence[Fragment],
    setups: Mapping[str, SourceSetup], geometry: Geometry, table: Array, complete: bool,
) -> Prepared:  # fmt: skip
    """All rows of the slice from `start` (ns) on, in total order (time, source, word).

    Raises `Quarantined` if a body cannot be read.
    """
    parts = [(f, p, _rows(p, b)) for f in fragments
             for p, b in zip(f.parts, f.bodies, strict=True)]  # fmt: skip
    is_word = [isinstance(codec(p.schema), WordCodec) for _, p, _ in parts]
    room = _Room(sum(len(r) for (_, _, r), w in zip(parts, is_word, strict=True) if w))
    occupancy = np.zeros((256, 5, 64), np.int64)
    counts: dict[str, dict[str, int]] = {}
    pulse_tables: list[tuple[PulseRows, Array]] = []
    for (fragment, part, rows), word in zip(parts, is_word, strict=True):
        setup = setups[fragment.source]
        tally = np.zeros(4, np.int64)
        if word:
            total = _take_words(
                fragment, part, rows, start, setup, geometry, room, occupancy, tally
            )
        else:
            clock = Clock(part.anchor, part.num, part.den, setup.offset_ps)
            pulses_of, body = pulse_rows(
                rows, part.rows, clock, start, setup.index,
                geometry.maps[fragment.source], setup.pulses, occupancy, tally,
            )  # fmt: skip
            pulse_tables.append((pulses_of, body))
            total = PulseCodec().checksum(rows.slice(0, part.rows))
        mine = counts.setdefault(fragment.source, dict.fromkeys((*COUNTS, "rows", "sum"), 0))
        for name, number in zip(COUNTS, tally.tolist(), strict=True):
            mine[name] += number
        mine["rows"] += part.rows
        mine["sum"] = (mine["sum"] + total) & 0xFFFFFFFF
    hits, hit_body = _hits(room, table)
    triggers, markers = _marks(room, geometry, setups)
    pulses, pulse_body = _pulses(pulse_tables)
    rows_of_slice = SliceRows(
        start // length_ns,
        start,
        length_ns * 1000,
        guard_ns * 1000,
        hits,
        triggers,
        markers,
        pulses,
        complete,
    )
    return Prepared(rows_of_slice, hit_body, pulse_body, counts, occupancy)


def channel_table(setups: Mapping[str, SourceSetup], geometry: Geometry) -> Array:
    """Detector, layer, cell and role of every channel: uint8 (sources, channels, 4)."""
    size = max(s.index for s in setups.values()) + 1
    out = np.full((size, NATIVE, 4), 255, np.uint8)
    for name, setup in setups.items():
        m = geometry.maps[name]
        out[setup.index] = np.stack((m.det, m.layer, m.cell, m.role), axis=1)
    return out


def _rows(part: Part, body: bytes) -> Rows:
    rows = codec(part.schema).rows(read_batch(body))
    if len(rows) != part.rows + part.ga + part.gb:
        raise Quarantined(
            "rows", f"{len(rows)} rows, the header says {part.rows} + {part.gb} + {part.ga}"
        )
    return rows


def _hits(room: _Room, table: Array) -> tuple[HitRows, Array]:
    n = int(room.at[0])
    tie = room.tie[:n] | (room.source[:n].astype(np.int64) << 16)
    order = kernels.time_order(room.t[:n], tie)
    t, ticks = np.empty(n, np.int64), np.empty(n, np.int64)
    channel, source = np.empty(n, np.int16), np.empty(n, np.int16)
    body = np.empty(n, np.bool_)
    det, layer, cell, role = (np.empty(n, np.uint8) for _ in range(4))
    kernels.gather(
        order, room.t, room.tick, room.channel, room.source, room.body, table,
        t, ticks, channel, source, body, det, layer, cell, role,
    )  # fmt: skip
    return HitRows(t, source, channel, ticks, det, layer, cell, role), body


def _marks(
    room: _Room, geometry: Geometry, setups: Mapping[str, SourceSetup]
) -> tuple[MarkRows, MarkRows]:
    m = int(room.at[1])
    source, number = room.m_source[:m], room.m_channel[:m].astype(np.int64)
    board = room.m_board[:m].astype(np.int64)
    order = kernels.time_order(
        room.m_t[:m], number | (board << 16) | (source.astype(np.int64) << 32)
    )
    det = np.full(m, 255, np.uint8)
    for name, setup in setups.items():
        which = (source == setup.index) & (room.m_kind[:m] == words.TRIGGER)
        chamber = np.minimum(2 * board[which] + (number[which] >> 3), 31)
        det[which] = geometry.maps[name].trigger_det[chamber]
    both = []
    for what in (words.TRIGGER, words.HIT):
        which = order[room.m_kind[:m][order] == what]
        both.append(
            MarkRows(t=room.m_t[which], source=source[which], channel=room.m_channel[which],
                     det=det[which])
        )  # fmt: skip
    return both[0], both[1]


def _pulses(tables: Sequence[tuple[PulseRows, Array]]) -> tuple[PulseRows, Array]:
    if not tables:
        return no_rows(PulseRows), np.empty(0, np.bool_)
    names = PulseRows.__dataclass_fields__
    joined = {n: np.concatenate([getattr(table, n) for table, _ in tables]) for n in names}
    tie = joined["channel"].astype(np.int64) | (joined["source"].astype(np.int64) << 16)
    order = kernels.time_order(joined["t"], tie)
    body = np.concatenate([b for _, b in tables])[order]
    return PulseRows(**{n: column[order] for n, column in joined.items()}), body
