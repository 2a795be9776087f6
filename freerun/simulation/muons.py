"""Muons of a block: when they come, where they go, which tubes they fire. Truth is made here.

A muon's time is the same in all chambers: flight time and signal propagation are left out (they
are what per-chamber calibration constants are for).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from freerun.jit import kernel
from freerun.simulation import draws
from freerun.simulation.config import BLOCK_NS, TelescopeConfig
from freerun.simulation.draws import draw, exponential, gauss, stream_key, uniform

BLOCK_PS = BLOCK_NS * 1000

# Places in Tables.numbers.
SPOT, SLOPE, WIDTH, HEIGHT, PS_PER_MM, RESOLUTION, INEFFICIENCY = range(7)
SCINT_DELAY, SCINT_JITTER, SCINT_EFFICIENCY, TRIGGER_EFFICIENCY, PMT = range(7, 12)
DISORDER, LATE_FRACTION, LATE_MAX = range(12, 15)

# A muon has 16 draws for itself and 16 for each chamber (two per layer, then the trigger's).
X0, Y0, SLOPE_X, SLOPE_Y, SCINT, SCINT_TIME, PMT_LIGHT, SCINT_ARRIVAL = range(8)
TRIGGER_DRAW = 8

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]

TRUTH = np.dtype(
    [
        ("muon", "i8"), ("t0_ps_in_block", "i8"), ("t0_ns", "i8"), ("t0_ps", "u2"),
        ("x0", "f8"), ("y0", "f8"), ("slope_x", "f8"), ("slope_y", "f8"),
        ("layers", "u1", (4,)), ("scint", "?"), ("pmt", "?"),
    ]
)  # fmt: skip


@kernel
def poisson_times(seed: int, stream: int, block: int, rate_hz: float, out: I64) -> int:
    """Times in ps of a Poisson process within the block, ascending; returns how many."""
    if rate_hz <= 0.0:
        return 0
    key = stream_key(seed, stream, block)
    mean = 1e12 / rate_hz
    t = 0
    for i in range(len(out)):
        t += int(mean * exponential(draw(key, i)))
        if t >= BLOCK_PS:
            return i
        out[i] = t
    return len(out)


def times(seed: int, stream: int, block: int, rate_hz: float) -> I64:
    """`poisson_times` in an array of its own. More than 12 σ above the mean are never made."""
    mean = rate_hz * BLOCK_NS * 1e-9
    out = np.empty(int(mean + 12 * math.sqrt(mean)) + 64, np.int64)
    return out[: poisson_times(seed, stream, block, rate_hz, out)]


@kernel
def track(key: np.uint64, first: int, numbers: F64) -> tuple[float, float, float, float]:
    """(x0, y0, slope_x, slope_y) of the muon whose draws begin at `first`; mm at z = 0."""
    spot = numbers[SPOT]
    x = spot * (2.0 * uniform(draw(key, first + X0)) - 1.0)
    y = spot * (2.0 * uniform(draw(key, first + Y0)) - 1.0)
    slope_x = numbers[SLOPE] * gauss(draw(key, first + SLOPE_X))
    slope_y = numbers[SLOPE] * gauss(draw(key, first + SLOPE_Y))
    return x, y, slope_x, slope_y


@kernel
def tube(
    key: np.uint64, first: int, layer: int, at: float, slope: float, shift: F64, cells: int,
    numbers: F64,
) -> tuple[int, int, np.uint64]:  # fmt: skip
    """(cell, drift time in ps, bits left for lateness) in layer 0…3; cell −1 = no hit.

    `at` is the track's coordinate at the middle of the chamber; `first` the chamber's first draw.
    """
    bits = draw(key, first + 2 * layer + 1)
    if np.float64(bits >> np.uint64(32)) * 2.0**-32 < numbers[INEFFICIENCY]:
        return -1, 0, bits
    width = numbers[WIDTH]
    u = (at + slope * (layer - 1.5) * numbers[HEIGHT]) / width + 0.5 * cells - shift[layer]
    cell = math.floor(u)
    if cell < 0 or cell >= cells:
        return -1, 0, bits
    distance = abs(u - cell - 0.5) * width
    drift = distance * numbers[PS_PER_MM]
    drift += numbers[RESOLUTION] * gauss(draw(key, first + 2 * layer))
    return cell, int(abs(drift)), bits


@kernel
def truth_kernel(
    seed: int, block: int, board: I64, first_channel: I64, z: F64, rotated: U8, channel: I64,
    shift: F64, alive: U8, scint: I64, numbers: F64, tracks: F64, layers: U8, seen: U8,
) -> None:  # fmt: skip
    """Fill tracks [n, 4], layers [n, chambers] and seen [n, 2] (scintillator, PMT)."""
    key = stream_key(seed, draws.MUON, block)
    chambers = len(board)
    cells = channel.shape[1]
    for i in range(len(tracks)):
        base = i * 16 * (chambers + 1)
        x, y, slope_x, slope_y = track(key, base, numbers)
        tracks[i, 0], tracks[i, 1], tracks[i, 2], tracks[i, 3] = x, y, slope_x, slope_y
        for c in range(chambers):
            slope = slope_y if rotated[c] else slope_x
            at = (y if rotated[c] else x) + slope * z[c]
            hit = 0
            for layer in range(4):
                cell, _, _ = tube(key, base + 16 * (c + 1), layer, at, slope, shift, cells, numbers)
                if cell >= 0 and alive[board[c], first_channel[c] + channel[layer, cell]]:
                    hit |= 1 << layer
            layers[i, c] = hit
        light = uniform(draw(key, base + SCINT)) < numbers[SCINT_EFFICIENCY]
        seen[i, 0] = light and alive[scint[0], scint[1]] != 0
        seen[i, 1] = uniform(draw(key, base + PMT_LIGHT)) < numbers[PMT]


def block_truth(cfg: TelescopeConfig, block: int) -> npt.NDArray[np.void]:
    """The muons of block `block`, in order of t0: a structured array of dtype `TRUTH`.

    muon = block << 20 | index; t0_ns, t0_ps since the Unix epoch (ps 0…999); x0, y0 in mm at
    z = 0; layers[chamber] has bit (layer − 1) for each layer with a hit that was really produced;
    scint and pmt say whether the scintillator's word and the two PMT pulses exist.
    """
    drawn = cfg.drawn(block)
    t0 = times(cfg.seed, draws.MUON_TIME, drawn, cfg.muon_rate_hz)
    n = len(t0)
    t = cfg.tables
    tracks = np.empty((n, 4))
    layers = np.zeros((n, len(t.board)), np.uint8)
    seen = np.empty((n, 2), np.uint8)
    truth_kernel(
        cfg.seed, drawn, t.board, t.first_channel, t.z, t.rotated, t.channel, t.shift, t.alive,
        np.array(cfg.geometry.scintillator), t.numbers, tracks, layers, seen,
    )  # fmt: skip
    out = np.zeros(n, TRUTH)
    out["muon"] = (block << 20) + np.arange(n)
    out["t0_ps_in_block"] = t0
    out["t0_ns"] = block * BLOCK_NS + t0 // 1000
    out["t0_ps"] = t0 % 1000
    for i, name in enumerate(("x0", "y0", "slope_x", "slope_y")):
        out[name] = tracks[:, i]
    out["layers"][:, : layers.shape[1]] = layers[:, :4]
    out["scint"] = seen[:, 0]
    out["pmt"] = seen[:, 1]
    return out
