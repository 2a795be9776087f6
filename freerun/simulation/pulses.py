"""The waveforms of two PMTs on a digitizer: muons of the telescope, and n/γ background.

Every pulse has a record of its own; a second pulse within a record is not added to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from freerun.errors import ConfigError
from freerun.jit import kernel
from freerun.simulation import draws
from freerun.simulation.config import BLOCK_NS, OVERLAP_NS, TelescopeConfig
from freerun.simulation.draws import draw, exponential, gauss, stream_key, uniform
from freerun.simulation.muons import F64, I64, PMT, PMT_LIGHT, U8, times
from freerun.ticks import Clock

U16 = npt.NDArray[np.uint16]

MUON, GAMMA, NEUTRON = 0, 1, 2
"""Kinds of pulses; a muon's light is a γ's (electron-like)."""

TRUTH = np.dtype(
    [
        ("channel", "u2"), ("t_ps", "i8"), ("charge", "f4"), ("kind", "u1"), ("muon", "i8"),
        ("tick", "i8"),
    ]
)  # fmt: skip

_PITCH_PS = 62.5  # of the tables of pulse shapes


@dataclass(frozen=True)
class DigitizerConfig:
    """Two channels (0 up, 1 down) at 250 MS/s, 14 bits, negative pulses."""

    sample_ps: int = 4_000
    samples: int = 100
    pretrigger: int = 20
    """Samples before the one that holds the pulse's start."""
    baseline: float = 15_000.0
    noise: float = 3.0
    """σ of a sample, ADC units."""
    background_hz: float = 1_000.0
    """n and γ without a muon, per channel."""
    neutron_fraction: float = 0.4
    """Of the background."""
    delay_ns: tuple[float, float] = (30.0, 38.0)
    """Muon t0 to the start of the pulse, up and down."""
    jitter_ps: float = 200.0
    rise_ns: float = 3.0
    fast_ns: float = 12.0
    slow_ns: float = 120.0
    slow_gamma: float = 0.15
    """Fraction of the charge in the slow component."""
    slow_neutron: float = 0.40
    charge: tuple[float, float] = (2.0, 1.2)
    """Mean of a muon's charge, and of the background's above its threshold of 0.4, in units of
    60 000 ADC·ns."""

    def __post_init__(self) -> None:
        """Refuse what does not fit a record or the block overlap."""
        if not (0 < self.pretrigger < self.samples <= 4096 and self.sample_ps > 0):
            raise ConfigError("simulation: a record holds 1…4096 samples, some before the pulse")
        if max(self.delay_ns) + 5 * self.jitter_ps / 1000 > OVERLAP_NS or min(self.delay_ns) < 0:
            raise ConfigError(f"simulation: PMT delays must lie within 0…{OVERLAP_NS} ns")

    @cached_property
    def shapes(self) -> F64:
        """Fast and slow component [2, points], ADC units per ADC·ns of charge, 62.5 ps apart.

        Rounded to 2⁻³⁰, so that the last bit of some machine's exp does not matter.
        """
        points = self.samples * self.sample_ps // int(_PITCH_PS * 2) * 2 + 2
        t = np.arange(points) * _PITCH_PS / 1000
        out = np.empty((2, points))
        for i, fall in enumerate((self.fast_ns, self.slow_ns)):
            out[i] = (np.exp(-t / fall) - np.exp(-t / self.rise_ns)) / (fall - self.rise_ns)
        return np.round(out * 2**30) / 2**30

    @cached_property
    def numbers(self) -> F64:
        """What the kernel needs, in its order."""
        return np.array(
            [self.baseline, self.noise, self.slow_gamma, self.slow_neutron, self.jitter_ps,
             *self.charge, self.neutron_fraction]
        )  # fmt: skip


DEFAULT = DigitizerConfig()


class Pulses(NamedTuple):
    """Records of one block, ordered by (tick, channel)."""

    ticks: npt.NDArray[np.int64]
    """Native tick (a sample) that holds the start of the pulse; never before the block."""
    channel: npt.NDArray[np.uint16]
    flags: npt.NDArray[np.uint32]
    """1: the waveform reached the end of the ADC's range."""
    samples: U16
    """[n, samples]; sample j was taken at tick − pretrigger + j."""
    truth: npt.NDArray[np.void]
    """dtype `TRUTH`: t_ps since the block's start, charge in ADC·ns, kind, muon (−1: none)."""


@kernel
def _muon_pulses(
    t0: I64, seed: int, block: int, chambers: int, telescope: F64, delay_ps: I64, jitter: float,
    at: I64, which: I64,
) -> int:  # fmt: skip
    """Start times and muon indices of both channels' pulses, alternating; returns how many."""
    key = stream_key(seed, draws.MUON, block)
    light = stream_key(seed, draws.WAVEFORM, block)
    n = 0
    for i in range(len(t0)):
        if uniform(draw(key, i * 16 * (chambers + 1) + PMT_LIGHT)) >= telescope[PMT]:
            continue
        for channel in range(2):
            shake = jitter * gauss(draw(light, 2 * i + channel))
            at[n] = t0[i] + max(0, int(delay_ps[channel] + shake))
            which[n] = i
            n += 1
    return n


@kernel
def _shapes(
    t: I64, start: I64, key: np.uint64, muon: bool, shapes: F64, numbers: F64, pretrigger: int,
    sample_ps: int, charge: F64, kind: U8, flags: npt.NDArray[np.uint32], samples: U16,
) -> None:  # fmt: skip
    """Fill charge, kind, flags and samples of pulses that begin `start` ps after their tick."""
    length = samples.shape[1]
    for i in range(len(t)):
        # A pulse's draws hang on its own time, so that they do not depend on its neighbours.
        own = draws.scramble(key + np.uint64(t[i]))
        bits = draw(own, 0)
        if muon:
            q = numbers[5] * (0.8 + 0.12 * gauss(bits) + 0.2 * exponential(draw(own, 1)))
            kind[i] = MUON
        else:
            q = 0.4 + (numbers[6] - 0.4) * exponential(bits)
            kind[i] = NEUTRON if uniform(draw(own, 1)) < numbers[7] else GAMMA
        q = max(q, 0.05)
        slow = numbers[3] if kind[i] == NEUTRON else numbers[2]
        slow += 0.012 * gauss(draw(own, 2)) / np.sqrt(q)
        q *= 60_000.0
        charge[i] = q
        flags[i] = 0
        for j in range(length):
            value = numbers[0] + numbers[1] * gauss(draw(own, 3 + j))
            after = (j - pretrigger) * sample_ps - start[i]
            if after > 0:
                place = after / _PITCH_PS
                k = min(int(place), shapes.shape[1] - 2)
                part = place - k
                fast = shapes[0, k] + part * (shapes[0, k + 1] - shapes[0, k])
                late = shapes[1, k] + part * (shapes[1, k + 1] - shapes[1, k])
                value -= q * (fast + slow * (late - fast))
            if value < 0.0:
                value = 0.0
                flags[i] = 1
            samples[i, j] = int(min(value + 0.5, 16383.0))


def block_pulses(
    cfg: TelescopeConfig, block: int, clock: Clock, digitizer: DigitizerConfig = DEFAULT
) -> Pulses:
    """Pulses of the muons and the background of one block: a pure function of its arguments.

    `clock` must tick once a sample; else `ValueError`.
    """
    if clock.num * 1000 != clock.den * digitizer.sample_ps:
        raise ValueError(f"a tick must be a sample, {digitizer.sample_ps} ps")
    drawn = cfg.drawn(block)
    t0 = times(cfg.seed, draws.MUON_TIME, drawn, cfg.muon_rate_hz)
    at, which = np.empty(2 * len(t0), np.int64), np.empty(2 * len(t0), np.int64)
    delay = np.array([round(d * 1000) for d in digitizer.delay_ns])
    n = _muon_pulses(
        t0, cfg.seed, drawn, len(cfg.geometry.chambers), cfg.tables.numbers, delay,
        digitizer.jitter_ps, at, which,
    )  # fmt: skip
    up, down = (
        times(cfg.seed, draws.BACKGROUND_TIME + 16 * channel, drawn, digitizer.background_hz)
        for channel in (1, 2)
    )
    t = np.concatenate([at[:n:2], at[1:n:2], up, down])
    sizes = (n // 2, n // 2, len(up), len(down))
    channel = np.repeat(np.array([0, 1, 0, 1], np.uint16), sizes)

    start_ps = (block * BLOCK_NS - clock.anchor_ns) * 1000 - clock.offset_ps
    base, rest = divmod(start_ps, digitizer.sample_ps)
    ticks = np.maximum(base + (rest + t) // digitizer.sample_ps, base + (rest > 0))
    begins = t + rest - (ticks - base) * digitizer.sample_ps

    charge, kind = np.empty(len(t)), np.empty(len(t), np.uint8)
    flags = np.empty(len(t), np.uint32)
    samples = np.empty((len(t), digitizer.samples), np.uint16)
    first = 0
    for i, size in enumerate(sizes):
        some = slice(first, first + size)
        first += size
        key = stream_key(cfg.seed, draws.WAVEFORM + 16 * (i + 1), drawn)
        _shapes(
            t[some], begins[some], np.uint64(key), i < 2, digitizer.shapes, digitizer.numbers,
            digitizer.pretrigger, digitizer.sample_ps, charge[some], kind[some], flags[some],
            samples[some],
        )  # fmt: skip
    order = np.lexsort((channel, ticks))
    truth = np.zeros(len(t), TRUTH)
    truth["channel"], truth["t_ps"], truth["charge"], truth["kind"] = channel, t, charge, kind
    truth["tick"] = ticks
    truth["muon"] = -1
    truth["muon"][:n] = (block << 20) + np.concatenate([which[:n:2], which[1:n:2]])
    return Pulses(ticks[order], channel[order], flags[order], samples[order], truth[order])
