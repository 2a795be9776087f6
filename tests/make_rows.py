"""Slices of rows for tests of the builders, made from words or from nothing but numbers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from freerun.builder import SCINT, TUBE, Events, HitRows, MarkRows, PulseRows, SliceRows, no_rows
from freerun.simulation import TelescopeConfig, block_words
from freerun.ticks import Clock
from freerun.words import HIT, TRIGGER, decode

Array = npt.NDArray[Any]

LAYER_OF = np.array([4, 2, 3, 1], np.uint8)
SHIFT = (0.5, 0.0, 0.5, 0.0)
SCINT_DET = 4


@dataclass(frozen=True)
class StandInChamber:
    """The fields of a chamber of `freerun.config.geometry` that a builder reads."""

    id: str
    det_index: int
    z_mm: float
    rotated: bool
    wire_x: Array
    layer_z: Array
    v_mm_per_ns: float = 21 / 390
    t_max_ps: int = 390_000
    trigger_latency_ps: int = 500_000
    t0_correction_ps: int = 0
    calibrated: bool = True


@dataclass(frozen=True)
class StandInCounter:
    det_index: int = SCINT_DET
    delay_ps: int = 95_000


@dataclass(frozen=True)
class StandInGeometry:
    chambers: tuple[StandInChamber, ...]
    scintillators: tuple[StandInCounter, ...] = (StandInCounter(),)


def geometry(latencies: tuple[int, ...] = (498_900, 506_400, 500_500, 497_400)) -> StandInGeometry:
    """Four chambers as in the simulation."""
    cells = np.arange(16)
    wire = np.array([(cells + 0.5 + shift - 8) * 42.0 for shift in (np.nan, *SHIFT)])
    layer_z = np.array([np.nan, *((np.arange(1, 5) - 2.5) * 13.0)])
    return StandInGeometry(tuple(
        StandInChamber(f"ch{i}", i, z, bool(i % 2), wire, layer_z, trigger_latency_ps=latency)
        for i, (z, latency) in enumerate(zip((219.8, 977.3, 1035.6, 1819.8), latencies,
                                             strict=True))
    ))  # fmt: skip


def hit_rows(t: Array, source: Array, channel: Array, ticks: Array) -> HitRows:
    """Rows of the telescope's channels in total order: below 128 tubes, 128 the scintillator."""
    order = np.lexsort((channel, source, t))
    t, source, channel, ticks = (np.asarray(a)[order] for a in (t, source, channel, ticks))
    tube = channel < 128
    return HitRows(
        t=t.astype(np.int64),
        source=source.astype(np.int16),
        channel=channel.astype(np.int16),
        ticks=ticks.astype(np.int64),
        det=np.where(tube, 2 * source + (channel >= 64), SCINT_DET).astype(np.uint8),
        layer=np.where(tube, LAYER_OF[channel % 4], 255).astype(np.uint8),
        cell=np.where(tube, channel % 64 // 4, 255).astype(np.uint8),
        role=np.where(tube, TUBE, SCINT).astype(np.uint8),
    )


def whole(hits: HitRows, triggers: MarkRows | None, length: int) -> SliceRows:
    """Everything as one slice of `length` ps without guards."""
    none = no_rows(MarkRows)
    return SliceRows(0, 0, length, 0, hits, triggers or none, none, no_rows(PulseRows))


def _between(rows: Any, lo: int, hi: int, start: int) -> Any:
    a, b = np.searchsorted(rows.t, (lo, hi))
    cut = {f.name: getattr(rows, f.name)[a:b] for f in fields(rows)}
    return type(rows)(**{**cut, "t": cut["t"] - start})


def slices(s: SliceRows, edges: list[int], guard: int) -> Iterator[SliceRows]:
    """`s` cut at `edges` (ascending, ps), each slice with guards and its own zero of time."""
    for k, (lo, hi) in enumerate(itertools.pairwise(edges)):
        kinds = {
            name: _between(getattr(s, name), lo - guard, hi + guard, lo)
            for name in ("hits", "triggers", "markers", "pulses")
        }
        yield replace(s, k=k, start_ns=0, length=hi - lo, guard=guard, **kinds)


def described(s: SliceRows, events: Events, start: int) -> list[tuple[Any, ...]]:
    """Each owned event as a tuple of its numbers, bit for bit, with times of the whole stream."""
    out = []
    seg = events.seg
    for i, anchor in enumerate(events.anchor.tolist()):
        if not 0 <= anchor < s.length:
            continue
        rows = events.hit_index[events.hit_offsets[i] : events.hit_offsets[i + 1]]
        pulses = events.pulse_index[events.pulse_offsets[i] : events.pulse_offsets[i + 1]]
        g = slice(events.seg_offsets[i], events.seg_offsets[i + 1])
        out.append((
            anchor + start, int(events.t0_kind[i]), events.t0_err[i].tobytes(),
            int(events.quality[i]),
            tuple(zip((s.hits.t[rows] + start).tolist(), s.hits.source[rows].tolist(),
                      s.hits.channel[rows].tolist(), strict=True)),
            tuple((s.pulses.t[pulses] + start).tolist()),
            tuple((name, seg[name][g].tobytes()) for name in sorted(seg)),
        ))  # fmt: skip
    return out


def build_cut(builder: Any, s: SliceRows, edges: list[int], guard: int) -> list[tuple[Any, ...]]:
    """What `builder` makes of `s`, slice by slice."""
    out = []
    for cut, start in zip(slices(s, edges, guard), edges, strict=False):
        out += described(cut, builder.build(cut), start)
    return out


def telescope_rows(cfg: TelescopeConfig, blocks: int) -> tuple[SliceRows, int]:
    """The first `blocks` blocks of a simulated telescope as one slice, and how many words."""
    clock = Clock(0, 25, 30)
    columns: dict[str, list[Array]] = {name: [] for name in ("t", "source", "channel", "ticks")}
    marks: dict[str, list[Array]] = {name: [] for name in ("t", "source", "channel")}
    n = 0
    for board in cfg.boards:
        words = np.concatenate([block_words(cfg, b, board, clock) for b in range(blocks)])
        n += len(words)
        out = decode(words, cfg.word_format)
        t = clock.ps_since(out.tick, 0)
        for kind, into in ((HIT, columns), (TRIGGER, marks)):
            mine = out.kind == kind
            into["t"].append(t[mine])
            into["source"].append(np.full(np.count_nonzero(mine), board))
            into["channel"].append(out.channel[mine].astype(np.int64))
            if kind == HIT:
                into["ticks"].append(out.tick[mine])
    hits = hit_rows(*(np.concatenate(columns[name]) for name in columns))
    t, source, channel = (np.concatenate(marks[name]) for name in marks)
    order = np.lexsort((channel, source, t))
    triggers = MarkRows(
        t=t[order],
        source=source[order].astype(np.int16),
        channel=channel[order].astype(np.int16),
        det=(2 * source + (channel >> 3))[order].astype(np.uint8),
    )
    return whole(hits, triggers, blocks * 10_000_000_000), n
