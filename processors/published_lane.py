"""The published task as a lane runs it: a bundle in, records out. What `bench process` measures.

Two tables a slice, of about ten bytes a hit. `hits`: every hit of the slice's events and every
hit in none, in time order, by native ticks since the slice's start. `events`: the rows of `hits`
that belong to each. The monitor holds occupancy, rates and time boxes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from freerun import __version__, words
from freerun.assembler import BROKEN, CLOSED, Bundle, Fragment
from freerun.builder import MARKER as MARKER_ROLE
from freerun.builder import SCINT, TUBE
from freerun.config import Bench
from freerun.config.geometry import NATIVE, Geometry
from freerun.errors import ConfigError, Quarantined
from freerun.histograms import Axis, Hist
from freerun.rows import WordCodec, codec
from freerun.ticks import Clock
from freerun.wire import BY_TIMEOUT, PART_BYTES, Part, ResultPart, read_batch
from processors.monitors import MonitorTable
from processors.pipeline import SliceResult
from processors.prepare import SourceSetup
from processors.published import RATE_BINS, Board, Output, Published, Run, Settings
from processors.published_words import MARKER, MASKED, UNKNOWN
from processors.setup import setups

Array = npt.NDArray[Any]
PS_PER_TICK = words.TICK * 1000
DEFAULT = Settings()
HITS = pa.schema(
    [
        pa.field("tick", pa.int32(), nullable=False),
        pa.field("channel", pa.uint16(), nullable=False),
        pa.field("drift", pa.float32(), nullable=False),
    ]
)
EVENTS = pa.schema(
    [
        pa.field("t0_ns", pa.int64(), nullable=False),
        pa.field("t0_ps", pa.uint16(), nullable=False),
        pa.field("first", pa.int32(), nullable=False),
        pa.field("count", pa.int32(), nullable=False),
        pa.field("chambers", pa.uint32(), nullable=False),
        pa.field("quality", pa.uint32(), nullable=False),
    ]
)


def _ticks(ps: int) -> int:
    """The nearest whole tick."""
    return round(ps / PS_PER_TICK)


def _board(setup: SourceSetup, geometry: Geometry, source: str, fmt: words.WordFormat) -> Board:
    """The tables of a source; `ConfigError` for words of another layout than v1."""
    if fmt.layout != 1:
        raise ConfigError(f"published: source {source} has {fmt.name} words, only v1 is read")
    m = geometry.maps[source]
    slot_of = m.det.copy()
    slot_of[(m.role != TUBE) & (m.role != SCINT)] = UNKNOWN
    slot_of[m.role == MARKER_ROLE] = MARKER
    slot_of[m.masked != 0] = MASKED
    if setup.fpga >= -1:  # numbered without the board
        channels = slot_of[:512]
        slot_of = np.full(NATIVE, UNKNOWN, np.uint8)
        for board in range(NATIVE >> 9) if setup.fpga < 0 else (setup.fpga,):
            slot_of[board << 9 : (board + 1) << 9] = channels
    latency = {c.det_index: _ticks(c.trigger_latency_ps) for c in geometry.chambers}
    mark_slot = m.trigger_det[:4].copy()
    return Board(
        slot_of, mark_slot, np.array([latency.get(int(s), 0) for s in mark_slot], np.int64),
        fmt.tdc_first,
    )  # fmt: skip


class PublishedPipeline:
    """What a lane asks of a pipeline: `name`, `L`, `process` and `failed`."""

    def __init__(self, name: str, bench: Bench, settings: Settings = DEFAULT) -> None:
        """For the sources of `bench`, all of words of one clock."""
        geometry = Geometry.of(bench)
        self.name, self.L, self.G = name, bench.time.slice, bench.time.guard
        self.setups = setups(bench)
        self.detectors = [d.id for d in geometry.detectors]
        correction = np.zeros(len(self.detectors))
        for c in geometry.chambers:
            correction[c.det_index] = c.t0_correction_ps / 1000
        self._number = {source.id: i for i, source in enumerate(bench.sources)}
        boards = [
            _board(self.setups[s.id], geometry, s.id, words.get_format(str(s.format)))
            for s in bench.sources
        ]
        self._channels = [np.flatnonzero(b.slot_of < MARKER) for b in boards]
        known = np.concatenate(self._channels)
        if len(np.unique(known)) < len(known):
            raise ConfigError("published: two sources have the same board and channel")
        self.task = Published(boards, correction.tolist(), settings)
        self.hists = self._hists(settings)
        self._monitors = MonitorTable(self.hists)

    def _hists(self, s: Settings) -> list[Hist]:
        lo, hi = -s.before * 25 / 30, (s.after + 1) * 25 / 30
        per_slice = Axis("time in the slice", RATE_BINS, 0, self.L / 1e6, "ms")
        drift = Axis("drift time", self.task.width, lo, hi, "ns")
        out = []
        for source, channels in zip(self._number, self._channels, strict=True):
            axis = Axis("known channel", len(channels), 0, len(channels))
            out.append(Hist(f"{source}/occupancy", f"hits per channel of {source}", (axis,)))
        for d in self.detectors:
            out.append(Hist(f"{d}/rate", f"hits of {d} in the slice", (per_slice,)))
            out.append(Hist(f"{d}/drift_time", f"time box of {d}", (drift,)))
        return out

    # ------------------------------------------------------------------ a slice

    def output(self, bundle: Bundle) -> tuple[Output, dict[str, int]]:
        """The task's arrays, and the checksum of each source. Raises `Quarantined`."""
        runs, sums, first = [], {}, _first(bundle)
        for fragment in bundle.fragments:
            run, sums[fragment.source] = self._run(fragment)
            runs.append(run)
        if first is None:
            return self.task.run([], 0, self._length(0), 0), sums
        clocks = {(p.anchor, p.tick0) for f in bundle.fragments for p in f.parts}
        if len(clocks) > 1:
            raise Quarantined("clock", f"the sources of slice {bundle.k} have different clocks")
        guard = -(-self.G * 1000 // int(PS_PER_TICK)) + 1
        return self.task.run(runs, first.tick0, self._length(first.tick0, first), guard), sums

    def _length(self, tick0: int, part: Part | None = None) -> int:
        """Ticks of the slice that begins at `tick0`: floors make them differ by one."""
        if part is None:
            return int(self.L * 1000 // PS_PER_TICK)
        return Clock(part.anchor, part.num, part.den).tick_at((part.k + 1) * self.L) - tick0

    def _run(self, fragment: Fragment) -> tuple[Run, int]:
        body, total, before, after = [], 0, None, None
        for part, raw in zip(fragment.parts, fragment.bodies, strict=True):
            fmt = codec(part.schema)
            if not isinstance(fmt, WordCodec):
                raise Quarantined("schema", f"{part.schema} holds no words")
            rows = fmt.rows(read_batch(raw))
            if len(rows) != part.rows + part.ga + part.gb:
                raise Quarantined("rows", f"{len(rows)} rows, the header says otherwise")
            total += words.checksum(rows[: part.rows])
            as_int = rows.view(np.int64)
            body.append(as_int[: part.rows])
            if part.gb:
                before = as_int[part.rows : part.rows + part.gb]
            if part.ga:
                after = as_int[part.rows + part.gb :]
        return Run(self._number[fragment.source], body, before, after), total & 0xFFFFFFFF

    def process(self, bundle: Bundle) -> SliceResult:
        """One slice; words that cannot be read make it fail, not only their source."""
        try:
            out, sums = self.output(bundle)
        except Quarantined as why:
            return self.failed(bundle, str(why))
        return self._result(bundle, out, sums, None)

    def failed(self, bundle: Bundle, reason: str) -> SliceResult:
        """What a slice leaves that cannot be worked on."""
        return self._result(bundle, self.task.run([], 0, self._length(0), 0), {}, reason)

    def _result(
        self, bundle: Bundle, out: Output, sums: Mapping[str, int], failed: str | None
    ) -> SliceResult:
        info = self._info(bundle, out, sums, failed)
        first = _first(bundle)
        events = self._events(out, first)
        hits = pa.RecordBatch.from_arrays(
            [pa.array(out.tick), pa.array(out.channel), pa.array(out.drift)], schema=HITS
        )
        bodies = [("events", b.num_rows, body_of(b)) for b in _pieces(events)]
        if len(out.tick):
            bodies += [("hits", b.num_rows, body_of(b)) for b in _pieces(hits)]
        records = [
            (ResultPart(bundle.k, i, len(bodies), table, rows, info if i == 0 else None), body)
            for i, (table, rows, body) in enumerate(bodies)
        ]
        values = {}
        for i, (source, channels) in enumerate(zip(self._number, self._channels, strict=True)):
            values[f"{source}/occupancy"] = out.occupancy[i][channels]
        for slot, d in enumerate(self.detectors):
            values[f"{d}/rate"] = out.rates[:, slot]
            values[f"{d}/drift_time"] = out.box[slot]
        delta = {"k": bundle.k, "n_events": info["n_events"], "complete": info["complete"]}
        monitor = ResultPart(bundle.k, 0, 1, "monitor", len(self.hists), delta)
        return SliceResult(bundle.k, records, (monitor, self._monitors.body(values)), info)

    def _events(self, out: Output, part: Part | None) -> pa.RecordBatch:
        ns, ps = np.empty(0, np.int64), np.empty(0, np.uint16)
        if part is not None:
            constant, rest = Clock(part.anchor, part.num, part.den).base_ps(part.tick0, 0)
            since = (out.t0 * (part.num * 1000) + rest) // part.den
            ns = constant // 1000 + (since + constant % 1000) // 1000
            ps = ((since + constant % 1000) % 1000).astype(np.uint16)
        return pa.RecordBatch.from_arrays(
            [pa.array(c) for c in (ns, ps, out.first, out.count, out.chambers, out.quality)],
            schema=EVENTS,
        )

    def _info(
        self, bundle: Bundle, out: Output, sums: Mapping[str, int], failed: str | None
    ) -> dict[str, Any]:
        sources = {}
        for f in bundle.fragments:
            counted = self.task.counts(out, self._number[f.source])
            sources[f.source] = {
                "inc": f.inc, "state": BROKEN if failed else CLOSED, "close": dict(f.close),
                "by_timeout": bool(f.parts[-1].flags & BY_TIMEOUT), "rows": f.rows,
                "sum": sums.get(f.source, 0), **counted,
            }  # fmt: skip
        return {
            "seq": bundle.seq, "code": __version__, "failed": failed, "n_events": len(out.t0),
            "complete": not bundle.missing,
            "by_timeout": any(s["by_timeout"] for s in sources.values()),
            "overflow": 0, "sources": sources,
            "missing": {s: {"why": m.why, "detail": m.detail, "rows": m.rows}
                        for s, m in bundle.missing.items()},
            "counts": {s: dict(c) for s, c in bundle.counts.items()},
        }  # fmt: skip


def _first(bundle: Bundle) -> Part | None:
    return next((p for f in bundle.fragments for p in f.parts), None)


def _pieces(batch: pa.RecordBatch) -> list[pa.RecordBatch]:
    """By rows, each of at most about a record's size; at least one."""
    row = sum(f.type.bit_width // 8 for f in batch.schema)
    step = PART_BYTES // row
    return [batch.slice(at, step) for at in range(0, max(1, batch.num_rows), step)]


def body_of(batch: pa.RecordBatch) -> pa.Buffer:
    """One batch as an Arrow IPC stream, written once: the room for it is made beforehand."""
    room = pa.allocate_buffer(
        pa.ipc.get_record_batch_size(batch) + batch.schema.serialize().size + 64
    )
    sink = pa.FixedSizeBufferWriter(room)
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return cast("pa.Buffer", room.slice(0, sink.tell()))
