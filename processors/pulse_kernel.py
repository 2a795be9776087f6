"""Features of digitised pulses: baseline, amplitude, charges, pulse shape, time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from freerun.jit import kernel

U16 = npt.NDArray[np.uint16]
U32 = npt.NDArray[np.uint32]
I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]
F32 = npt.NDArray[np.float32]

SATURATED, NO_PULSE, GATE_CUT = 1, 2, 4
"""Flags: the waveform touched the end of the ADC's range; nothing above 5 σ of the baseline, or
no constant-fraction crossing (the time is then the trigger's); a gate reached out of the record."""


class PulseParams(NamedTuple):
    """Times in ps or ns as named. Gates begin `gate_before_ns` before the pulse's time."""

    sample_ps: int = 4_000
    pretrigger: int = 20
    """Samples before the one of the trigger tick."""
    baseline_samples: int = 16
    polarity: int = -1
    full_scale: int = 16_383
    gate_before_ns: float = 20.0
    gate_short_ns: float = 60.0
    gate_long_ns: float = 300.0
    cfd_delay_ns: float = 6.0
    cfd_fraction: float = 0.5


class Features(NamedTuple):
    """One value a pulse."""

    base: F32
    """ADC units, mean of the first samples."""
    base_rms: F32
    amp: F32
    """ADC units above the baseline, in the direction of the pulse."""
    q: F32
    """ADC·ns in the long gate."""
    qs: F32
    """ADC·ns in the short gate."""
    psd: F32
    """(q − qs) / q; 0 if q is not above 0."""
    cfd: I32
    """ps after the trigger tick."""
    rise: F32
    """ns from 10 % to 90 % of the amplitude; 0 if there is no pulse."""
    flags: U32


@kernel
def _height(samples: U16, j: int, base: float, polarity: int) -> float:
    return (np.float64(samples[j]) - base) * polarity


@kernel
def _delayed(
    samples: U16, first: int, j: int, delay: int, part: float, base: float, polarity: int
) -> float:
    """The pulse `delay + part` samples earlier; 0 before the record."""
    a = _height(samples, j - delay, base, polarity) if j - delay >= first else 0.0
    b = _height(samples, j - delay - 1, base, polarity) if j - delay - 1 >= first else 0.0
    return a + part * (b - a)


@kernel
def _crossing(
    samples: U16, first: int, peak: int, end: int, fraction: float, delay: int, part: float,
    base: float, polarity: int,
) -> float:  # fmt: skip
    """Where fraction·y(t) − y(t − delay) falls through zero, in samples; −1 if it does not."""
    arm, best = -1, 0.0
    for j in range(max(first, peak - 2 * (delay + 4)), peak + 1):
        value = fraction * _height(samples, j, base, polarity)
        value -= _delayed(samples, first, j, delay, part, base, polarity)
        if value > best:
            arm, best = j, value
    if arm < 0:
        return -1.0
    before = best
    for j in range(arm + 1, end):
        value = fraction * _height(samples, j, base, polarity)
        value -= _delayed(samples, first, j, delay, part, base, polarity)
        if value <= 0.0:
            return j - 1 + before / (before - value)
        before = value
    return -1.0


@kernel
def _level(samples: U16, first: int, peak: int, level: float, base: float, polarity: int) -> float:
    """Where the leading edge passes `level`, going back from the peak, in samples."""
    after = _height(samples, peak, base, polarity)
    for j in range(peak - 1, first - 1, -1):
        value = _height(samples, j, base, polarity)
        if value < level:
            return j + (level - value) / (after - value)
        after = value
    return float(first)


@kernel
def _integral(
    samples: U16, first: int, end: int, low: float, high: float, base: float, polarity: int
) -> float:
    """Sum of the pulse from `low` to `high` (in samples, with fractions), within the record."""
    low, high = max(low, float(first)), min(high, float(end))
    if high <= low:
        return 0.0
    a, b = int(low), int(high)
    total = 0.0
    for j in range(a, b):
        total += _height(samples, j, base, polarity)
    total -= (low - a) * _height(samples, a, base, polarity)
    if b < end:
        total += (high - b) * _height(samples, b, base, polarity)
    return total


@kernel
def features_kernel(
    samples: U16, offsets: I64, sample_ps: int, pretrigger: int, baseline_samples: int,
    polarity: int, full_scale: int, gate_before: float, gate_short: float, gate_long: float,
    cfd_delay: float, fraction: float, base: F32, base_rms: F32, amp: F32, q: F32, qs: F32,
    psd: F32, cfd: I32, rise: F32, flags: U32,
) -> None:  # fmt: skip
    """See `features`; gates and delay in samples here."""
    delay = int(cfd_delay)
    part = cfd_delay - delay
    ns = sample_ps / 1000.0
    for i in range(len(offsets) - 1):
        # positions count within the pulse: a place in a long array would be rounded differently
        wave = samples[offsets[i] : offsets[i + 1]]
        first, end = 0, len(wave)
        base[i] = base_rms[i] = amp[i] = q[i] = qs[i] = psd[i] = rise[i] = 0.0
        cfd[i] = 0
        flags[i] = NO_PULSE
        if end <= first:
            continue
        n = min(baseline_samples, end - first)
        total, squares = 0, 0
        for j in range(n):
            value = int(np.int64(wave[j]))
            total += value
            squares += value * value
        level = total / n
        rms = np.sqrt(max(0.0, np.float64(squares * n - total * total))) / n
        peak, top = first, 0.0
        saturated = False
        for j in range(first, end):
            if wave[j] == 0 or wave[j] >= full_scale:
                saturated = True
            height = _height(wave, j, level, polarity)
            if height > top:
                peak, top = j, height
        at = -1.0
        if top > 5.0 * rms:
            at = _crossing(wave, first, peak, end, fraction, delay, part, level, polarity)
        found = at >= 0.0
        if found:
            cfd[i] = int(np.floor((at - first - pretrigger) * sample_ps + 0.5))
            rise[i] = ns * (
                _level(wave, first, peak, 0.9 * top, level, polarity)
                - _level(wave, first, peak, 0.1 * top, level, polarity)
            )
        else:
            at = float(first + pretrigger)
        low = at - gate_before
        long = _integral(wave, first, end, low, low + gate_long, level, polarity)
        short = _integral(wave, first, end, low, low + gate_short, level, polarity)
        base[i], base_rms[i], amp[i] = level, rms, top
        q[i], qs[i] = long * ns, short * ns
        if long > 0.0:
            psd[i] = (long - short) / long
        cut = low < first or low + gate_long > end
        flags[i] = (
            (SATURATED if saturated else 0) | (0 if found else NO_PULSE) | (GATE_CUT if cut else 0)
        )


def features(samples: U16, offsets: I64, params: PulseParams | None = None) -> Features:
    """Features of n waveforms: pulse i is `samples[offsets[i]:offsets[i + 1]]`.

    `samples` uint16[total], `offsets` int64[n + 1]. A waveform of no samples gives zeros with
    NO_PULSE. Every pulse's values depend on its own samples only.
    """
    p = PulseParams() if params is None else params
    n = len(offsets) - 1
    f = [np.empty(n, np.float32) for _ in range(7)]
    cfd, flags = np.empty(n, np.int32), np.empty(n, np.uint32)
    out = Features(f[0], f[1], f[2], f[3], f[4], f[5], cfd, f[6], flags)
    per_ns = 1000.0 / p.sample_ps
    features_kernel(
        samples, offsets, p.sample_ps, p.pretrigger, p.baseline_samples, p.polarity, p.full_scale,
        p.gate_before_ns * per_ns, p.gate_short_ns * per_ns, p.gate_long_ns * per_ns,
        p.cfd_delay_ns * per_ns, p.cfd_fraction, *out,
    )  # fmt: skip
    return out
