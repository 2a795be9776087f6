"""The digitizer's simulation, and the features found in its waveforms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from freerun.errors import ConfigError
from freerun.simulation import (
    BLOCK_NS,
    OVERLAP_NS,
    DigitizerConfig,
    TelescopeConfig,
    block_pulses,
    block_truth,
)
from freerun.simulation.pulses import GAMMA, MUON, NEUTRON
from freerun.ticks import Clock
from processors.pulse_kernel import GATE_CUT, NO_PULSE, SATURATED, PulseParams, features

CLOCK = Clock(1_700_000_000_000_000_000, 4, 1, 1_234)
FIRST = 178_000_000_123
CFG = TelescopeConfig(seed=4)


def many(digitizer: DigitizerConfig, blocks: int):  # type: ignore[no-untyped-def]
    """Features, truth, and the true start of each pulse in ps after its tick."""
    found = [block_pulses(CFG, FIRST + i, CLOCK, digitizer) for i in range(blocks)]
    samples = np.concatenate([p.samples.ravel() for p in found])
    truth = np.concatenate([p.truth for p in found])
    offsets = np.arange(len(truth) + 1) * digitizer.samples
    starts = [
        p.truth["t_ps"] - CLOCK.ps_since(p.ticks, (FIRST + i) * BLOCK_NS)
        for i, p in enumerate(found)
    ]
    return features(samples, offsets), truth, np.concatenate(starts)


# ------------------------------------------------------------------ simulation


def test_pulses_are_pure_and_in_order() -> None:
    a, b = block_pulses(CFG, FIRST, CLOCK), block_pulses(CFG, FIRST + 1, CLOCK)
    again = block_pulses(CFG, FIRST, CLOCK)
    for one, two in zip(a, again, strict=True):
        assert np.array_equal(one, two)
    assert not np.array_equal(a.samples[:5], b.samples[:5])
    assert (np.diff(a.ticks) >= 0).all()
    assert a.samples.dtype == np.uint16 and a.samples.shape == (len(a.ticks), 100)
    assert a.samples.max() < 2**14


@pytest.mark.parametrize("offset_ps", [0, 1_234, -3_999])
def test_pulses_lie_in_their_block_and_overlap(offset_ps: int) -> None:
    clock = Clock(CLOCK.anchor_ns, 4, 1, offset_ps)
    for block in range(FIRST, FIRST + 3):
        p = block_pulses(CFG, block, clock, DigitizerConfig(background_hz=50_000))
        ns = np.array([clock.ns(int(t)) for t in p.ticks])
        assert ns.min() >= block * BLOCK_NS and ns.max() < (block + 1) * BLOCK_NS + OVERLAP_NS
        # the tick holds the pulse's start
        late = p.truth["t_ps"] - clock.ps_since(p.ticks, block * BLOCK_NS)
        assert late.max() < 4_000 and np.sort(late)[1] >= 0


def test_muons_of_the_telescope_give_two_pulses() -> None:
    truth = np.concatenate([block_truth(CFG, FIRST + i) for i in range(20)])
    pulses = np.concatenate([block_pulses(CFG, FIRST + i, CLOCK).truth for i in range(20)])
    lit = truth[truth["pmt"]]
    t0 = dict(zip(truth["muon"].tolist(), truth["t0_ps_in_block"].tolist(), strict=True))
    for channel, delay in ((0, 30_000), (1, 38_000)):
        mine = pulses[(pulses["channel"] == channel) & (pulses["muon"] >= 0)]
        assert sorted(mine["muon"].tolist()) == sorted(lit["muon"].tolist())
        shake = [t - t0[m] - delay for m, t in zip(mine["muon"].tolist(), mine["t_ps"].tolist(),
                                                   strict=True)]  # fmt: skip
        assert abs(np.mean(shake)) < 30 and 150 < np.std(shake) < 250
    assert (pulses["kind"][pulses["muon"] >= 0] == MUON).all()
    background = pulses[pulses["muon"] < 0]
    assert abs(len(background) - 400) < 5 * 20  # 2 × 1 kHz in 0.2 s
    assert set(background["kind"].tolist()) == {GAMMA, NEUTRON}


def test_impossible_digitizers_are_refused() -> None:
    with pytest.raises(ConfigError, match="samples"):
        DigitizerConfig(pretrigger=100)
    with pytest.raises(ConfigError, match="delays"):
        DigitizerConfig(delay_ns=(5_000.0, 0.0))
    with pytest.raises(ValueError, match="a tick must be a sample"):
        block_pulses(CFG, FIRST, Clock(0, 25, 30))


# ------------------------------------------------------------------ features against truth


def test_features_against_truth() -> None:
    """σ(CFD) 0.3 ns (4 ns samples, 3 ns rise) and n/γ figure of merit above 2."""
    f, truth, start = many(DigitizerConfig(background_hz=10_000), 40)
    good = f.flags == 0
    assert good.mean() > 0.99
    error = (f.cfd - start)[good]
    assert error.std() < 400 and abs(error - np.median(error)).max() < 1_500
    assert abs(np.median(f.q[good] / truth["charge"][good]) - 1) < 0.05
    assert abs(f.base[good].mean() - 15_000) < 1 and 2 < f.base_rms[good].mean() < 4
    gamma, neutron = (f.psd[good & (truth["kind"] == k)] for k in (GAMMA, NEUTRON))
    merit = (neutron.mean() - gamma.mean()) / (2.355 * (neutron.std() + gamma.std()))
    assert merit > 2
    muon = f.psd[good & (truth["kind"] == MUON)]
    assert abs(muon.mean() - gamma.mean()) < 0.01
    assert 3 < np.median(f.rise[good]) < 8


# ------------------------------------------------------------------ features against an oracle


def oracle(samples: list[int], p: PulseParams) -> tuple[float, ...]:
    """One waveform in plain Python, as the documentation of `Features` says."""
    ns = p.sample_ps / 1000
    head = samples[: p.baseline_samples]
    base = sum(head) / len(head)
    rms = math.sqrt(max(0.0, sum(s * s for s in head) / len(head) - base * base))
    y = [(s - base) * p.polarity for s in samples]
    amp = max(0.0, *y)
    peak = y.index(amp) if amp > 0 else 0

    def at(x: float) -> float:
        """Linear interpolation; 0 before the record."""
        k = math.floor(x)
        left = y[k] if k >= 0 else 0.0
        right = y[k + 1] if 0 <= k + 1 < len(y) else 0.0
        return left + (x - k) * (right - left)

    delay = p.cfd_delay_ns / ns
    c = [p.cfd_fraction * y[j] - at(j - delay) for j in range(len(y))]
    time = None
    if amp > 5 * rms:
        window = range(max(0, peak - 2 * (int(delay) + 4)), peak + 1)
        arm = max(window, key=lambda j: (c[j], -j))
        if c[arm] > 0:
            for j in range(arm + 1, len(y)):
                if c[j] <= 0:
                    time = j - 1 + c[j - 1] / (c[j - 1] - c[j])
                    break

    def edge(level: float) -> float:
        for j in range(peak - 1, -1, -1):
            if y[j] < level:
                return j + (level - y[j]) / (y[j + 1] - y[j])
        return 0.0

    def integral(low: float, high: float) -> float:
        return sum(y[j] * max(0.0, min(high, j + 1) - max(low, j)) for j in range(len(y)))

    begin = (p.pretrigger if time is None else time) - p.gate_before_ns / ns
    q = integral(begin, begin + p.gate_long_ns / ns) * ns
    qs = integral(begin, begin + p.gate_short_ns / ns) * ns
    flags = 0
    if any(s == 0 or s >= p.full_scale for s in samples):
        flags |= SATURATED
    if time is None:
        flags |= NO_PULSE
    if begin < 0 or begin + p.gate_long_ns / ns > len(samples):
        flags |= GATE_CUT
    cfd = 0.0 if time is None else (time - p.pretrigger) * p.sample_ps
    rise = 0.0 if time is None else (edge(0.9 * amp) - edge(0.1 * amp)) * ns
    return base, rms, amp, q, qs, (q - qs) / q if q > 0 else 0.0, cfd, rise, flags


def compare(waveforms: list[list[int]], params: PulseParams) -> None:
    offsets = np.cumsum([0, *map(len, waveforms)])
    found = features(np.concatenate(waveforms).astype(np.uint16), offsets, params)
    for i, waveform in enumerate(waveforms):
        expected = oracle(waveform, params)
        ours = [float(column[i]) for column in found]
        assert ours[-1] == expected[-1]
        assert abs(ours[6] - expected[6]) <= 1
        rest = [0, 1, 2, 3, 4, 5, 7]
        for k in rest:
            assert math.isclose(ours[k], expected[k], rel_tol=2e-5, abs_tol=2e-2), (k, waveform)


def test_kernel_equals_oracle() -> None:
    pulses = block_pulses(CFG, FIRST, CLOCK, DigitizerConfig(background_hz=5_000))
    waveforms = pulses.samples.tolist()
    compare(waveforms, PulseParams())
    compare(waveforms[:30], PulseParams(cfd_delay_ns=9.0, cfd_fraction=0.3, gate_short_ns=37.0))
    inverted = (16_383 - pulses.samples[:30]).tolist()
    compare(inverted, PulseParams(polarity=1))


def test_kernel_on_odd_waveforms() -> None:
    rng = np.random.default_rng(1)
    compare(
        [
            [15_000] * 100,  # nothing
            [15_000] * 20 + [0] * 80,  # a step down to the end of the range
            [0] * 100,
            [15_000] * 5 + [14_000, 13_000, 14_500, 15_000],  # shorter than the gates
            [15_000],
            *rng.integers(0, 16_384, (20, 100)).tolist(),
        ],
        PulseParams(),
    )  # fmt: skip


def test_empty_waveforms_and_none_at_all() -> None:
    found = features(np.empty(0, np.uint16), np.zeros(3, np.int64))
    assert found.flags.tolist() == [NO_PULSE, NO_PULSE] and (found.q == 0).all()
    assert len(features(np.empty(0, np.uint16), np.zeros(1, np.int64)).q) == 0


def test_a_pulse_does_not_depend_on_its_neighbours() -> None:
    pulses = block_pulses(CFG, FIRST, CLOCK)
    flat = pulses.samples.ravel()
    n = len(pulses.ticks)
    together = features(flat, np.arange(n + 1) * 100)
    backwards = features(pulses.samples[::-1].ravel(), np.arange(n + 1) * 100)
    for one, two in zip(together, backwards, strict=True):
        assert np.array_equal(one, two[::-1])
