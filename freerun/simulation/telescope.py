"""The words of one board in one block: hits, scintillator, triggers, noise, in arrival order."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from freerun.jit import kernel
from freerun.simulation import draws
from freerun.simulation.config import BLOCK_NS, TelescopeConfig
from freerun.simulation.draws import draw, gauss, stream_key, uniform
from freerun.simulation.muons import (
    DISORDER,
    F64,
    I64,
    LATE_FRACTION,
    LATE_MAX,
    SCINT,
    SCINT_ARRIVAL,
    SCINT_DELAY,
    SCINT_EFFICIENCY,
    SCINT_JITTER,
    SCINT_TIME,
    TRIGGER_DRAW,
    TRIGGER_EFFICIENCY,
    U8,
    times,
    track,
    tube,
)  # fmt: skip
from freerun.simulation.periodic import pulses_in
from freerun.ticks import Clock
from freerun.words import TICK, TICKS_PER_ORBIT, encode_hit

U64 = npt.NDArray[np.uint64]

_BX = 3564
_ORBIT = TICKS_PER_ORBIT


@kernel
def _delay(bits: np.uint64, numbers: F64) -> int:
    """How long after its time a word arrives, in ps, from the lower 32 of its random bits."""
    where = np.float64((bits >> np.uint64(16)) & np.uint64(0xFFFF)) * 2.0**-16
    if np.float64(bits & np.uint64(0xFFFF)) * 2.0**-16 < numbers[LATE_FRACTION]:
        return int(numbers[DISORDER] + where * (numbers[LATE_MAX] - numbers[DISORDER]))
    return int(where * numbers[DISORDER])


@kernel
def _tick(t_ps: int, base: int, rest: int, first: int) -> int:
    """The tick that holds `t_ps` after the block's start, but none before the block."""
    return max(first, base + (rest + 3 * t_ps) // 2500)


@kernel
def _hit(board: int, channel: int, tick: int, tdc_first: int) -> np.uint64:
    """A hit word; v1 with HEAD 1 and v2 with HEAD 2 are the same bits (boards below 8)."""
    orbit = tick // _ORBIT
    inside = tick - orbit * _ORBIT
    bx = inside // 30
    return np.uint64(
        (1 << 62) | (board << 58) | (channel << 49) | ((orbit & 0xFFFFFFFF) << 17) | (bx << 5)
        | (inside - bx * 30 + tdc_first)
    )  # fmt: skip


@kernel
def _trigger(board: int, channel: int, tick: int, layout: int, all_four: int) -> np.uint64:
    """A trigger word as `freerun.words.encode_trigger` makes it."""
    orbit = tick // _ORBIT
    bx = (tick - orbit * _ORBIT) // 30
    orbit &= 0xFFFFFFFF
    if layout == 1:
        sl = (board << 1) | (channel >> 3)
        low = (sl << 60) | ((channel & 7) << 57) | (orbit << 25) | (bx << 13) | (4095 << 1)
        return np.uint64(low | all_four) | (np.uint64(3) << np.uint64(62))
    return np.uint64((board << 58) | (channel << 54) | (orbit << 22) | (bx << 10) | all_four)


@kernel
def _muon_words(
    t0: I64, seed: int, block: int, me: int, board: I64, first_channel: I64, z: F64, rotated: U8,
    latency: I64, channel: I64, shift: F64, alive: U8, scint: I64, numbers: F64, layout: int,
    tdc_first: int, base: int, rest: int, first_tick: int, arrival: I64, words: U64,
) -> int:  # fmt: skip
    """All words of board `me` that the block's muons cause; returns how many."""
    key = stream_key(seed, draws.MUON, block)
    chambers = len(board)
    cells = channel.shape[1]
    lit = scint[0] == me and alive[me, scint[1]] != 0
    n = 0
    for i in range(len(t0)):
        base_draw = i * 16 * (chambers + 1)
        x, y, slope_x, slope_y = track(key, base_draw, numbers)
        for c in range(chambers):
            if board[c] != me:
                continue
            slope = slope_y if rotated[c] else slope_x
            at = (y if rotated[c] else x) + slope * z[c]
            draw_at = base_draw + 16 * (c + 1)
            hits = 0
            where = 0
            for layer in range(4):
                cell, drift, bits = tube(key, draw_at, layer, at, slope, shift, cells, numbers)
                if cell < 0:
                    continue
                number = first_channel[c] + channel[layer, cell]
                if alive[me, number] == 0:
                    continue
                t = t0[i] + drift
                words[n] = _hit(me, number, _tick(t, base, rest, first_tick), tdc_first)
                arrival[n] = t + _delay(bits, numbers)
                n += 1
                hits += 1
                where = cell
            if hits >= 3:
                bits = draw(key, draw_at + TRIGGER_DRAW)
                if np.float64(bits >> np.uint64(32)) * 2.0**-32 < numbers[TRIGGER_EFFICIENCY]:
                    t = t0[i] + latency[c]
                    number = (where >> 1) | (8 if first_channel[c] >= 64 else 0)
                    tick = _tick(t, base, rest, first_tick)
                    words[n] = _trigger(me, number, tick, layout, 1 if hits == 4 else 0)
                    arrival[n] = t + _delay(bits, numbers)
                    n += 1
        if not lit or uniform(draw(key, base_draw + SCINT)) >= numbers[SCINT_EFFICIENCY]:
            continue
        jitter = numbers[SCINT_JITTER] * gauss(draw(key, base_draw + SCINT_TIME))
        t = t0[i] + max(0, int(numbers[SCINT_DELAY] + jitter))
        words[n] = _hit(me, scint[1], _tick(t, base, rest, first_tick), tdc_first)
        arrival[n] = t + _delay(draw(key, base_draw + SCINT_ARRIVAL), numbers)
        n += 1
    return n


@kernel
def _noise_words(
    t: I64, seed: int, stream: int, block: int, me: int, only: int, tubes: I64, alive: U8,
    numbers: F64, tdc_first: int, base: int, rest: int, first_tick: int, arrival: I64, words: U64,
    n: int,
) -> int:  # fmt: skip
    """Append noise at the times `t`, on channel `only` or (−1) anywhere on the board's tubes."""
    key = stream_key(seed, stream, block)
    for i in range(len(t)):
        number = only
        if only < 0:
            pick = draw(key, 2 * i) >> np.uint64(32)
            number = tubes[(pick * np.uint64(len(tubes))) >> np.uint64(32)]
        if alive[me, number] == 0:
            continue
        words[n] = _hit(me, number, _tick(t[i], base, rest, first_tick), tdc_first)
        arrival[n] = t[i] + _delay(draw(key, 2 * i + 1), numbers)
        n += 1
    return n


@kernel
def _in_arrival_order(arrival: I64, words: U64, starts: I64, keys: I64, out: U64) -> None:
    """Sort by (arrival, word): a counting sort over bins of time, then insertion."""
    n = len(out)
    top = 1
    for i in range(n):
        top = max(top, arrival[i] + 1)
    bins = len(starts) - 1
    width = top // bins + 1
    for i in range(n):
        starts[arrival[i] // width + 1] += 1
    for b in range(bins):
        starts[b + 1] += starts[b]
    for i in range(n):
        b = arrival[i] // width
        keys[starts[b]] = arrival[i]
        out[starts[b]] = words[i]
        starts[b] += 1
    for i in range(1, n):
        when, word = keys[i], out[i]
        j = i - 1
        while j >= 0 and (keys[j] > when or (keys[j] == when and out[j] > word)):
            keys[j + 1], out[j + 1] = keys[j], out[j]
            j -= 1
        keys[j + 1], out[j + 1] = when, word


def _pulser_words(
    board: int, channel: int, at: I64, cfg: TelescopeConfig, grid: tuple[int, int, int]
) -> U64:
    """Hit words at the times `at`, with the rounding of all others."""
    base, rest, first = grid
    tick = np.maximum(first, base + (rest + 3 * at) // 2500)
    orbit, inside = np.divmod(tick, _ORBIT)
    fmt = cfg.word_format
    return encode_hit(
        board, channel, orbit & 0xFFFFFFFF, inside // 30, inside % 30 + fmt.tdc_first, fmt=fmt
    )


def block_words(cfg: TelescopeConfig, block: int, board: int, clock: Clock) -> U64:
    """Words (u64[n]) of `board` whose muon, noise hit or pulse lies in `block`, as they arrive.

    A pure function of its arguments. A time becomes the tick that holds it (floor); the one tick
    that began before the block and reaches into it is written as the block's first, so no word is
    earlier than the block's start, and none later than its end + `OVERLAP_NS`. `clock` must have
    ticks of 25/30 ns; else `ValueError`.
    """
    if clock.num * TICK.denominator != clock.den * TICK.numerator:
        raise ValueError(f"TDC words tick in 25/30 ns, not {clock.num}/{clock.den}")
    t = cfg.tables
    fmt = cfg.word_format
    start_ps = (block * BLOCK_NS - clock.anchor_ns) * 1000 - clock.offset_ps
    base, rest = divmod(start_ps * 3, 2500)
    grid = (base, rest, base + (rest > 0))

    drawn = cfg.drawn(block)
    t0 = times(cfg.seed, draws.MUON_TIME, drawn, cfg.muon_rate_hz)
    mine = [c for c in cfg.geometry.chambers if c.board == board]
    tubes = np.sort(np.concatenate(
        [np.empty(0, np.int64), *(t.channel.ravel() + c.first_channel for c in mine)]
    ))  # fmt: skip
    noise = [(-1, cfg.noise_hz_per_tube * len(tubes))]
    noise += sorted((ch, hz) for (fpga, ch), hz in cfg.noisy.items() if fpga == board)
    own = 64 * (512 * board + 1)
    noise_t = [
        times(cfg.seed, draws.NOISE_TIME + own * (only + 2), drawn, hz) for only, hz in noise
    ]
    pulsers = [
        (channel, pulses_in(block, hz))
        for (fpga, channel), hz in sorted(cfg.pulsers.items()) if fpga == board
    ]  # fmt: skip
    room = len(t0) * (5 * len(mine) + 1) + sum(map(len, noise_t))
    room += sum(len(at) for _, at in pulsers)
    arrival = np.empty(room, np.int64)
    words = np.empty(room, np.uint64)
    n = _muon_words(
        t0, cfg.seed, drawn, board, t.board, t.first_channel, t.z, t.rotated, t.latency_ps,
        t.channel, t.shift, t.alive, np.array(cfg.geometry.scintillator), t.numbers, fmt.layout,
        fmt.tdc_first, *grid, arrival, words,
    )  # fmt: skip
    for (only, _), when in zip(noise, noise_t, strict=True):
        n = _noise_words(
            when, cfg.seed, draws.NOISE + own * (only + 2), drawn, board, only, tubes, t.alive,
            t.numbers, fmt.tdc_first, *grid, arrival, words, n,
        )  # fmt: skip
    for channel, at in pulsers:  # never dead, and never out of order
        words[n : n + len(at)] = _pulser_words(board, channel, at, cfg, grid)
        arrival[n : n + len(at)] = at
        n += len(at)
    out = np.empty(n, np.uint64)
    bins = 1 << max(4, math.ceil(math.log2(n + 1)))
    starts, keys = np.zeros(bins + 1, np.int64), np.empty(n, np.int64)
    _in_arrival_order(arrival[:n], words[:n], starts, keys, out)
    return out
