"""The simulated telescope: pure, with rates and truth that agree with its words."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import subprocess
import sys
import zlib
from typing import Any

import numpy as np
import pytest

from freerun import words as w
from freerun.errors import ConfigError
from freerun.simulation import (
    BLOCK_NS,
    OVERLAP_NS,
    Chamber,
    Geometry,
    TelescopeConfig,
    block_truth,
    block_words,
    draws,
)
from freerun.ticks import Clock

ANCHOR = 1_700_000_000_000_000_000
FIRST = 178_000_000_123
CLOCK = Clock(ANCHOR, 25, 30, 12_345)
QUIET = TelescopeConfig(seed=7, noise_hz_per_tube=0.0, resolution_ps=0.0)
MASK = 2**64 - 1


def decoded(
    cfg: TelescopeConfig, block: int, board: int, clock: Clock = CLOCK
) -> tuple[w.Decoded, Any]:
    words = block_words(cfg, block, board, clock)
    d = w.decode(words, cfg.word_format, clock.tick_at(block * BLOCK_NS))
    return d, clock.ps_since(d.tick, block * BLOCK_NS)


# ------------------------------------------------------------------ draws


def scramble(z: int) -> int:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)


def key_of(seed: int, stream: int, block: int) -> int:
    golden = 0x9E3779B97F4A7C15
    key = scramble(seed + golden & MASK)
    key = scramble(key + stream * golden & MASK)
    return scramble(key + block * golden & MASK)


def test_draws_are_hashes() -> None:
    rng = random.Random(3)
    for _ in range(50):
        seed, stream, block, index = (rng.randrange(2**40) for _ in range(4))
        key = key_of(seed, stream, block)
        assert int(draws.stream_key(seed, stream, block)) == key
        expected = scramble(key + (index + 1) * 0x9E3779B97F4A7C15 & MASK)
        assert int(draws.draw(np.uint64(key), index)) == expected


def test_distributions() -> None:
    key = np.uint64(key_of(1, 2, 3))
    bits = [np.uint64(draws.draw(key, i)) for i in range(20_000)]
    u = np.array([draws.uniform(b) for b in bits])
    g = np.array([draws.gauss(b) for b in bits])
    e = np.array([draws.exponential(b) for b in bits])
    expected = [-math.log(((int(b) >> 11) + 1) * 2.0**-53) for b in bits]
    assert np.allclose(e, expected, rtol=1e-12, atol=1e-14)
    assert abs(u.mean() - 0.5) < 0.01 and u.min() >= 0 and u.max() < 1
    assert abs(g.mean()) < 0.03 and abs(g.std() - 1) < 0.03 and abs(g).max() < 4.95
    assert abs(e.mean() - 1) < 0.03
    assert draws.exponential(np.uint64(MASK)) == 0.0
    assert math.isclose(draws.exponential(np.uint64(0)), 53 * math.log(2))


# ------------------------------------------------------------------ purity


def digest(cfg: TelescopeConfig, block: int) -> list[int]:
    out = []
    for board in cfg.boards:
        words = block_words(cfg, block, board, CLOCK)
        # the order matters: mix each word with its place
        out.append(w.checksum(words ^ w.mix(np.arange(len(words), dtype=np.uint64))))
    truth = block_truth(cfg, block)
    return [*out, zlib.crc32(truth.tobytes())]


def test_any_order_and_any_process() -> None:
    cfg = TelescopeConfig(seed=5)
    blocks = list(range(FIRST, FIRST + 6))
    here = {block: digest(cfg, block) for block in blocks}
    for block in random.Random(1).sample(blocks, 6):
        assert digest(cfg, block) == here[block]
    assert len({tuple(d) for d in here.values()}) == len(blocks)
    code = (
        "import json, numpy as np\n"
        "from freerun import words as w\n"
        "from freerun.simulation import *\n"
        "from freerun.ticks import Clock\n"
        f"cfg, clock = TelescopeConfig(seed=5), Clock({ANCHOR}, 25, 30, 12345)\n"
        "out = {}\n"
        f"for block in {blocks[::-2]}:\n"
        "    out[block] = [w.checksum(x ^ w.mix(np.arange(len(x), dtype=np.uint64)))\n"
        "                  for x in (block_words(cfg, block, b, clock) for b in (0, 1))]\n"
        "print(json.dumps(out))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100
    )
    for block, sums in json.loads(done.stdout).items():
        assert sums == here[int(block)][:2]


def test_seeds_and_blocks_differ_but_clock_and_format_do_not_matter_to_truth() -> None:
    cfg = TelescopeConfig(seed=5)
    other = dataclasses.replace(cfg, seed=6)
    assert not np.array_equal(block_truth(cfg, FIRST)["x0"], block_truth(other, FIRST)["x0"])
    v2 = dataclasses.replace(cfg, format="padova-v2")
    assert np.array_equal(block_truth(cfg, FIRST), block_truth(v2, FIRST))


# ------------------------------------------------------------------ time


@pytest.mark.parametrize("offset_ps", [0, 1, 417, -999_999, 12_345])
@pytest.mark.parametrize("anchor", [ANCHOR, ANCHOR + 333_333_333, 0])
def test_words_lie_in_their_block_and_overlap(offset_ps: int, anchor: int) -> None:
    clock = Clock(anchor, 25, 30, offset_ps)
    cfg = TelescopeConfig(muon_rate_hz=400_000, noise_hz_per_tube=2_000.0)
    for board in (0, 1):
        for block in (FIRST, FIRST + 1):
            d, _ = decoded(cfg, block, board, clock)
            ns = np.array([clock.ns(int(t)) for t in d.tick])
            assert ns.min() >= block * BLOCK_NS
            assert ns.max() < (block + 1) * BLOCK_NS + OVERLAP_NS


def test_arrival_is_late_but_not_too_late() -> None:
    cfg = TelescopeConfig(late_fraction=0.02)
    d, _ = decoded(cfg, FIRST, 1)
    lateness = np.maximum.accumulate(d.tick) - d.tick
    assert 0.05 < (np.diff(d.tick) < 0).mean() < 0.6
    worst = lateness.max() * 25 / 30
    assert 2_000 < worst <= cfg.late_max_ns + 1
    assert 0.002 < (lateness * 25 / 30 > cfg.disorder_ns + 1).mean() < 0.03


def test_rates() -> None:
    cfg = TelescopeConfig(seed=3, noisy={(0, 17): 20_000.0}, dead=((1, 5),))
    blocks = 50
    truth = np.concatenate([block_truth(cfg, FIRST + i) for i in range(blocks)])
    seconds = blocks * BLOCK_NS * 1e-9
    muons = cfg.muon_rate_hz * seconds
    assert abs(len(truth) - muons) < 5 * math.sqrt(muons)
    gaps = np.diff(truth["t0_ns"]) * 1e-9 * cfg.muon_rate_hz
    assert abs(gaps.mean() - 1) < 0.05 and abs(gaps.std() - 1) < 0.05
    layers = np.unpackbits(truth["layers"].reshape(-1, 1), axis=1).sum()
    assert abs(layers / len(truth) / 16 - 0.97) < 0.01
    assert abs(truth["scint"].mean() - 0.98) < 0.01 and abs(truth["pmt"].mean() - 0.1) < 0.01
    assert abs(truth["slope_x"].std() - 0.015) < 0.0005 and abs(truth["x0"]).max() <= 250

    counts, total = np.zeros((2, 512), int), 0
    for board in (0, 1):
        for i in range(blocks):
            d, _ = decoded(cfg, FIRST + i, board)
            counts[board] += np.bincount(d.channel[d.kind == w.HIT], minlength=512)
            total += len(d.tick)
    assert 0.9e6 < total / seconds < 1.2e6
    assert counts[1, 5] == 0 and counts[1, 128] == truth["scint"].sum()
    assert abs(counts[0, 17] - counts[0, 21] - 20_000 * seconds) < 1_500
    # cells beyond the beam see noise only: 100 Hz each
    edge = counts[0, [0, 1, 2, 3, 60, 61, 62, 63]].mean() / seconds
    assert 50 < edge < 160


# ------------------------------------------------------------------ truth and words


def expected_hits(
    cfg: TelescopeConfig, muon: np.void, chamber: int
) -> dict[int, tuple[int, float]]:
    """layer → (raw channel, drift in ns) from the track alone, in plain Python."""
    g = cfg.geometry
    c = g.chambers[chamber]
    out = {}
    for layer in range(1, 5):
        z = c.z + (layer - 2.5) * g.cell_mm[1]
        at = muon["y0"] + muon["slope_y"] * z if c.rotated else muon["x0"] + muon["slope_x"] * z
        u = at / g.cell_mm[0] + g.cells / 2 - g.shift[layer - 1]
        cell = math.floor(u)
        if 0 <= cell < g.cells:
            channel = c.first_channel + 4 * cell + g.layer_of.index(layer)
            out[layer] = (channel, abs(u - cell - 0.5) * 2 * g.drift_max_ns)
    return out


def test_every_layer_bit_has_its_word_and_every_word_its_muon() -> None:
    cfg = dataclasses.replace(QUIET, dead=((0, 30), (1, 77)), muon_rate_hz=20_000)
    truth = block_truth(cfg, FIRST)
    for board in cfg.boards:
        d, ps = decoded(cfg, FIRST, board)
        hit = d.kind == w.HIT
        unused = sorted(zip(d.channel[hit].tolist(), ps[hit].tolist(), strict=True))
        for muon in truth:
            for index, chamber in enumerate(cfg.geometry.chambers):
                if chamber.board != board:
                    continue
                expected = expected_hits(cfg, muon, index)
                for layer in range(1, 5):
                    if not muon["layers"][index] >> (layer - 1) & 1:
                        continue
                    channel, drift = expected[layer]
                    t = int(muon["t0_ps_in_block"]) + drift * 1000
                    match = [x for x in unused if x[0] == channel and -840 < x[1] - t <= 840]
                    assert match, (muon, layer)
                    unused.remove(match[0])
            if board == 1 and muon["scint"]:
                near = [x for x in unused if x[0] == 128
                        and abs(x[1] - int(muon["t0_ps_in_block"]) - 95_000) < 6_000]  # fmt: skip
                assert near
                unused.remove(near[0])
        assert not unused


def test_trigger_words_follow_their_chamber() -> None:
    cfg = dataclasses.replace(QUIET, trigger_efficiency=1.0, muon_rate_hz=10_000)
    truth = block_truth(cfg, FIRST)
    for board in cfg.boards:
        d, ps = decoded(cfg, FIRST, board)
        trigger = d.kind == w.TRIGGER
        chamber = 2 * d.board[trigger].astype(int) + (d.channel[trigger] >> 3)
        found = sorted(zip(chamber.tolist(), ps[trigger].tolist(), strict=True))
        expected = []
        for index, c in enumerate(cfg.geometry.chambers):
            if c.board == board:
                several = np.array([int(x).bit_count() >= 3 for x in truth["layers"][:, index]])
                t0 = truth["t0_ps_in_block"][several]
                expected += [(index, int(t)) for t in t0 + round(c.latency_ns * 1000)]
        expected.sort()
        assert [x[0] for x in found] == [x[0] for x in expected]
        error = np.array([e[1] - f[1] for e, f in zip(expected, found, strict=True)])
        assert error.min() > -840 and error.max() <= 25_840  # the crossing holds t0 + latency
        assert abs(error.mean() - 12_500) < 1_500


def test_trigger_efficiency() -> None:
    cfg = dataclasses.replace(QUIET, muon_rate_hz=200_000)
    truth = block_truth(cfg, FIRST)
    could = sum(int(x).bit_count() >= 3 for x in truth["layers"][:, :2].ravel())
    d, _ = decoded(cfg, FIRST, 0)
    assert abs((d.kind == w.TRIGGER).sum() / could - 0.9) < 0.03


@pytest.mark.parametrize("name", ["padova-v2", "padova-obdt"])
def test_other_formats_say_the_same(name: str) -> None:
    cfg = TelescopeConfig(seed=9)
    other = dataclasses.replace(cfg, format=name)
    for board in (0, 1):
        a, _ = decoded(cfg, FIRST, board)
        b, _ = decoded(other, FIRST, board)
        for one, two in zip(a, b, strict=True):
            if name == "padova-obdt":
                assert (one == two).all()
            else:  # ties in arrival are ordered by the word, whose bits differ
                assert (np.sort(one) == np.sort(two)).all()


def test_geometry_is_configuration() -> None:
    geometry = Geometry(
        chambers=(Chamber(2, 64, 100.0, False, 40.0),), layer_of=(1, 2, 3, 4),
        shift=(0.0, 0.5, 0.0, 0.5), scintillator=(3, 7),
    )  # fmt: skip
    cfg = dataclasses.replace(QUIET, geometry=geometry, format="padova-v2", muon_rate_hz=10_000)
    assert cfg.boards == (2, 3)
    truth = block_truth(cfg, FIRST)
    d, _ = decoded(cfg, FIRST, 2)
    hits = d.kind == w.HIT
    assert d.channel[hits].min() >= 64 and (d.board[hits] == 2).all()
    assert hits.sum() == sum(int(x).bit_count() for x in truth["layers"][:, 0])
    assert (truth["layers"][:, 1:] == 0).all()
    d, _ = decoded(cfg, FIRST, 3)
    assert (d.channel == 7).all() and len(d.kind) == truth["scint"].sum()


def test_nothing_at_all() -> None:
    cfg = TelescopeConfig(muon_rate_hz=0.0, noise_hz_per_tube=0.0)
    assert len(block_truth(cfg, FIRST)) == 0
    assert len(block_words(cfg, FIRST, 0, CLOCK)) == 0
    assert len(block_words(TelescopeConfig(), FIRST, 5, CLOCK)) == 0  # a board without chambers


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"inefficiency": 1.5}, "inefficiency is a fraction"),
        ({"muon_rate_hz": -1.0}, "muon_rate_hz"),
        ({"scintillator_delay_ns": 5000.0}, "at most 2000 ns"),
        ({"disorder_ns": 5000.0}, "disorder_ns"),
        ({"format": "padova-v4"}, "unknown word format"),
        ({"dead": ((0, 600),)}, "no board 0 channel 600"),
        ({"geometry": Geometry(chambers=(Chamber(4, 0, 0.0, False, 100.0),))}, "boards 0 and 1"),
        ({"geometry": Geometry(chambers=(Chamber(0, 0, 0.0, False, 1.0),))}, "latency"),
        ({"geometry": Geometry(layer_of=(1, 1, 2, 3))}, "layer_of"),
    ],
)
def test_impossible_telescopes_are_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        block_words(TelescopeConfig(**change), FIRST, 0, CLOCK)


def test_wrong_tick_is_refused() -> None:
    with pytest.raises(ValueError, match="25/30"):
        block_words(TelescopeConfig(), FIRST, 0, Clock(ANCHOR, 4, 1))
