"""The `drift_tubes` builder: tables, a slow oracle, independence of cuts, and physics."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import oracle_drift_tubes as oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from make_rows import (
    LAYER_OF,
    build_cut,
    described,
    geometry,
    hit_rows,
    slices,
    telescope_rows,
    whole,
)

from freerun import config
from freerun.builder import FALLBACK, FPGA, MEAN_TIMER, SCINTILLATOR, MarkRows, SliceRows
from freerun.errors import ConfigError
from freerun.simulation import TelescopeConfig, block_truth
from processors.builders import merge, patterns, segments, suppress
from processors.builders.drift_tubes import DriftTubes

GUARD = 5_000_000
US = 1_000_000
LATENCY = (498_900, 506_400, 500_500, 497_400)


def builder(**keys: Any) -> DriftTubes:
    return DriftTubes(DriftTubes.Config(**keys), geometry(LATENCY))


# ---------------------------------------------------------------------- tables


def test_sides_are_those_of_straight_lines() -> None:
    random = np.random.default_rng(1)
    n = 200_000
    x0, slope = random.uniform(-1, 1, n), random.uniform(-1, 1, n) * 13 / 21
    x = x0[:, None] + slope[:, None] * np.arange(4)
    odd = np.arange(4) % 2
    wire = 2 * np.round((x - odd) / 2) + odd
    steps = np.diff(wire, axis=1)
    pattern = (steps > 0) @ [1, 2, 4]
    lat = (x > wire) @ [1, 2, 4, 8]
    assert (np.abs(steps) == 1).all()
    for p in range(8):
        known = patterns.LATERALITY[p, : patterns.COUNT[p]]
        assert set(np.unique(lat[pattern == p])) == set(known)


def test_alternating_sides_are_the_mean_timer() -> None:
    for lat, u in ((0b0101, 1), (0b1010, -1)):
        weights, norm = patterns.t0_weights(lat)
        side = patterns.sides(lat)
        of_t = [8 * w * s // norm for w, s in zip(weights, side, strict=True)]
        of_h = 8 * sum(w * h for w, h in zip(weights, (0, u, 0, u), strict=True)) // norm
        assert of_t == [1, 3, 3, 1] and of_h == -4  # ⅛(tA + 3tB + 3tC + tD − 4T)


def perfect(x0: float, slope: float, lost: int | None) -> tuple[list[int], list[int], int]:
    """Drift times (ps) and half cells of a line through four layers, and its sides."""
    t, h, lat = [], [], 0
    for k in range(4):
        x = x0 + slope * k * 13 / 21
        column = int(2 * np.round((x - k % 2) / 2) + k % 2)
        t.append(round(abs(x - column) * 390_000))
        h.append(column)
        lat |= (x > column) << k
    return t, h, lat & ~(1 << lost if lost is not None else 0)


@settings(max_examples=200, deadline=None)
@given(st.floats(-1, 1), st.floats(-0.9, 0.9), st.integers(-(10**12), 10**12))
def test_four_hits_of_a_line(x0: float, slope: float, start: int) -> None:
    drift, h, lat = perfect(x0, slope, None)
    t = np.array(drift) + start
    t0, chi2, found = segments.fit_four(t, np.array(h), 390_000, 1_000, 100.0, 4_000.0, 10**9)
    assert chi2 < 1e-6
    if abs(t0 - start) > 10:  # another line through the same circles: also exact
        assert found != lat
    same = segments.fit_four(t - start, np.array(h), 390_000, 1_000, 100.0, 4_000.0, 10**9)
    assert same == (t0 - start, chi2, found)


@settings(max_examples=200, deadline=None)
@given(st.floats(-1, 1), st.floats(-0.5, 0.5), st.integers(0, 3))
def test_three_hits_of_a_line(x0: float, slope: float, lost: int) -> None:
    drift, h, lat = perfect(x0, slope, lost)
    sides = [lat >> k & 1 for k in range(4) if k != lost]
    layers = [k for k in range(4) if k != lost]
    columns = [h[k] for k in layers]
    t0, found = segments.fit_three(np.array(drift), np.array(h), lost, 390_000, 1_000)
    alternating = {
        0: (sides[0], 1 - sides[0], sides[0]), 3: (sides[0], 1 - sides[0], sides[0]),
        1: (sides[0], sides[0], 1 - sides[0]), 2: (sides[0], 1 - sides[0], 1 - sides[0]),
    }[lost]  # fmt: skip
    pair = {0: (0, 2), 3: (0, 2), 1: (0, 1), 2: (1, 2)}[lost]
    if columns[pair[0]] == columns[pair[1]] and tuple(sides) == alternating:
        assert abs(t0) <= 3 and found == lat
    elif columns[pair[0]] != columns[pair[1]]:
        assert found == -1


# ---------------------------------------------------------------------- streams


def channel_of(layer: npt.NDArray[Any], cell: npt.NDArray[Any]) -> npt.NDArray[Any]:
    rest = np.argsort(LAYER_OF)  # layer − 1 → channel % 4
    return 4 * cell + rest[layer]


def stream(seed: int, muons: int, noise: int, span: int, wide: bool = True) -> SliceRows:
    """`muons` random tracks in chambers and `noise` random hits within `span` ps from 10 us on."""
    random = np.random.default_rng(seed)
    t, det, channel, words = [], [], [], []
    for _ in range(muons):
        t0 = int(random.integers(0, span))
        for d in range(4):
            if random.random() < 0.3:
                continue
            x0, slope = random.uniform(3, 12 if wide else 5), random.normal(0, 0.3)
            drift, h, _ = perfect(x0, slope, None)
            for k in range(4):
                if random.random() < 0.1:
                    continue
                t.append(t0 + drift[k] + int(random.normal(0, 3_000)))
                det.append(d)
                # layers 1 and 3 sit half a cell up: their columns are odd
                cell = (h[k] + 1) // 2 if k % 2 == 0 else h[k] // 2
                channel.append(channel_of(np.array(k), np.array(min(max(cell, 0), 15))))
            if random.random() < 0.7:
                words.append((t0 + LATENCY[d] - int(random.integers(0, 25_000)), d))
        if random.random() < 0.7:
            t.append(t0 + 95_000)
            det.append(2)
            channel.append(128)
    for _ in range(noise):
        t.append(int(random.integers(0, span)))
        det.append(int(random.integers(0, 4)))
        channel.append(int(random.integers(0, 64 if wide else 24)))
    start = 10 * US
    when = np.array(t, np.int64) // 2500 * 2500 + start
    chamber, number = np.array(det, np.int64), np.array(channel, np.int64)
    raw = np.where(number < 128, number + 64 * (chamber % 2), number)
    hits = hit_rows(when, np.where(number < 128, chamber // 2, 1), raw, when // 2500)
    words.sort()
    marks = MarkRows(
        t=np.array([w[0] for w in words], np.int64) + start,
        source=np.array([w[1] // 2 for w in words], np.int16),
        channel=np.array([8 * (w[1] % 2) for w in words], np.int16),
        det=np.array([w[1] for w in words], np.uint8),
    )
    return whole(hits, marks, span + 20 * US)


busy = st.tuples(
    st.integers(0, 2**32), st.integers(0, 12), st.integers(0, 25),
    st.sampled_from([600_000, 2 * US, 6 * US]),
)  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(busy, st.sampled_from([(1, 0, 2), (0, 1, 2), (2, 1, 0)]), st.sampled_from([3, 4]))
def test_equals_oracle(what: tuple[int, int, int, int], order: tuple[int, ...], least: int) -> None:
    s = stream(*what)
    names = {FPGA: "fpga", MEAN_TIMER: "mean_timer", SCINTILLATOR: "scintillator"}
    b = builder(t0=[names[k] for k in order], min_layers=least)
    events = b.build(s)
    if events.overflow:
        return  # caps are no part of the oracle
    rows = s.hits
    expected = oracle.events(
        list(zip(rows.t.tolist(), rows.det.tolist(), rows.layer.tolist(), rows.cell.tolist(),
                 strict=True)),
        list(zip(s.triggers.t.tolist(), s.triggers.det.tolist(), strict=True)),
        oracle.Settings(order=order, min_layers=least),
    )  # fmt: skip
    assert events.anchor.tolist() == [e.anchor for e in expected]
    assert events.t0_kind.tolist() == [e.kind for e in expected]
    assert events.quality.tolist() == [e.quality for e in expected]
    for i, e in enumerate(expected):
        a, z = events.hit_offsets[i : i + 2]
        assert events.hit_index[a:z].tolist() == e.rows
        g = slice(*events.seg_offsets[i : i + 2])
        found = list(zip(
            np.rint(events.seg["t0"][g].astype(float) * 1000).astype(int).tolist(),
            *(events.seg[name][g].tolist() for name in ("det", "n", "lat", "origin", "quality")),
            strict=True,
        ))  # fmt: skip
        assert found == e.segments


@settings(max_examples=60, deadline=None)
@given(busy, st.booleans(), st.lists(st.integers(1, 16 * US), max_size=4, unique=True))
def test_cuts_change_nothing(what: tuple[int, int, int, int], wide: bool, inner: list[int]) -> None:
    s = stream(*what, wide=wide)
    edges = [0, *sorted(e for e in inner if e < s.length), s.length]
    b = builder()
    assert build_cut(b, s, edges, GUARD) == described(s, b.build(s), 0)
    overflow = sum(b.build(cut).overflow for cut in slices(s, edges, GUARD))
    assert overflow == b.build(s).overflow


@settings(max_examples=40, deadline=None)
@given(busy, st.booleans(), st.integers(0, 2**32))
def test_far_rows_change_nothing(what: tuple[int, int, int, int], wide: bool, seed: int) -> None:
    """Whatever happens beyond reach of an anchor, the event stays as it is, bit for bit."""
    s = stream(*what, wide=wide)
    b = builder()
    before, after = b.reach()
    base = described(s, b.build(s), 0)
    other = stream(seed, 10, 20, 8 * US, wide=wide)
    for event in base[:4]:
        lo, hi = event[0] - before, event[0] + after
        mixed = _outside_replaced(s, other, lo, hi)
        assert event in described(mixed, b.build(mixed), 0)


def _outside_replaced(s: SliceRows, other: SliceRows, lo: int, hi: int) -> SliceRows:
    """Rows of `s` in `[lo, hi]`, rows of `other` elsewhere."""

    def mix(a: Any, b: Any) -> Any:
        inside, outside = (a.t >= lo) & (a.t <= hi), (b.t < lo) | (b.t > hi)
        names = a.__dataclass_fields__
        joined = {n: np.concatenate((getattr(a, n)[inside], getattr(b, n)[outside])) for n in names}
        order = np.lexsort((joined["channel"], joined["source"], joined["t"]))
        return type(a)(**{n: v[order] for n, v in joined.items()})

    return replace(s, hits=mix(s.hits, other.hits), triggers=mix(s.triggers, other.triggers))


def test_kernels_mean_their_python() -> None:
    s = stream(3, 10, 20, 2 * US)
    rows = s.hits.det == 0
    t, layer = s.hits.t[rows], s.hits.layer[rows] - 1
    h = (2 * s.hits.cell[rows].astype(np.int16) + (layer % 2 == 0)).astype(np.int16)
    arguments = (t, layer, h, 390_000, 12_000, 100.0, 4_000.0, 10**9)
    found, _ = segments.candidates(*arguments)
    assert len(found.t0) > 0
    keep: Callable[..., Any] = suppress.keep.py_func
    asked = (found.t0, found.chi2, found.hits, found.n, len(t))
    assert (suppress.keep(*asked) == keep(*asked)).all()
    t0 = np.sort(found.t0)
    rank, chi2 = np.zeros(len(t0), np.uint8), found.chi2.astype(np.float32)
    alive = np.ones(len(t0), np.bool_)
    near = merge.best_near(t0, rank, chi2, alive, 25_000)
    assert (near == merge.best_near.py_func(t0, rank, chi2, alive, 25_000)).all()


# ---------------------------------------------------------------------- events in detail


def one_muon(**keys: Any) -> tuple[SliceRows, Any]:
    """A vertical track 5 mm right of the wires of layers 1 and 3, in all chambers, at 10 us."""
    drift = round(5 / 21 * 390_000), round(16 / 21 * 390_000)
    layer = np.tile(np.arange(4), 4)
    chamber = np.repeat(np.arange(4), 4)
    t = 10 * US + np.array(drift)[layer % 2]
    cell = np.where(layer % 2 == 0, 7, 8)  # wires at −0.5+0.5 cells = 0 mm, and at 21 mm
    channel = channel_of(layer, cell) + 64 * (chamber % 2)
    hits = hit_rows(t, chamber // 2, channel, t * 3 // 2500)
    s = whole(hits, None, 30 * US)
    return s, builder(**keys).build(s)


def test_one_muon() -> None:
    _, events = one_muon()
    assert len(events) == 1
    assert abs(events.anchor[0] - 10 * US) <= 2
    assert events.t0_kind[0] == MEAN_TIMER and events.quality[0] == 0
    assert events.hit_index.tolist() == list(range(16))
    assert events.seg["x"] == pytest.approx(5.0, abs=0.01)
    assert events.seg["slope"] == pytest.approx(0.0, abs=0.001)
    assert events.seg["n"].tolist() == [4] * 4 and events.seg["det"].tolist() == [0, 1, 2, 3]
    assert events.seg["lat"].tolist() == [0b0101] * 4
    assert events.t0_err[0] == pytest.approx(0.6 * 4 / 2)


def test_word_alone_needs_hits() -> None:
    s, _ = one_muon()
    t = np.array([10 * US + LATENCY[1] - 12_500, 20 * US])
    marks = MarkRows(t, np.zeros(2, np.int16), np.full(2, 8, np.int16), np.ones(2, np.uint8))
    bent = replace(s.hits, t=s.hits.t + 15_000 * (s.hits.layer == 2))  # no line fits
    b = builder(min_layers=4, agree="1 ns")
    assert len(b.build(replace(s, hits=bent))) == 0
    events = b.build(replace(s, hits=bent, triggers=marks))
    assert events.t0_kind.tolist() == [FPGA] and events.anchor.tolist() == [10 * US]
    assert events.seg["origin"].tolist() == [1] and events.seg["n"].tolist() == [4]
    assert events.seg["chi2"].tolist() == [-1.0]
    silent = replace(bent, layer=np.where(bent.layer == 1, 2, bent.layer))
    assert len(b.build(replace(s, hits=silent, triggers=marks))) == 0
    # with a segment nearby it is a follower
    events = builder().build(replace(s, triggers=marks))
    assert len(events) == 1 and events.seg["origin"].tolist().count(1) == 1


def test_monitors() -> None:
    s, events = one_muon()
    b = builder()
    into = {h.name: h.zeros() for h in b.hists()}
    b.fill(s, events, np.ones(1, np.bool_), into)
    assert into["event/multiplicity"][16] == 1 and into["event/multiplicity"].sum() == 1
    assert into["event/segments"][4] == 1
    assert into["event/t0_kind"].tolist() == [0, 1, 0, 0, 0, 0]
    assert into["event/chi2"].sum() == 4
    assert all(into[f"ch{i}/drift_time"].sum() == 4 for i in range(4))
    box = into["ch0/drift_time"]
    assert set(np.flatnonzero(box)) <= {192, 193, 396, 397, 398}
    b.fill(s, events, np.zeros(1, np.bool_), into)
    assert into["event/multiplicity"].sum() == 1


def test_chamber_correction_moves_its_hits() -> None:
    moved = geometry(LATENCY)
    chambers = (replace(moved.chambers[0], t0_correction_ps=40_000), *moved.chambers[1:])
    b = DriftTubes(DriftTubes.Config(), replace(moved, chambers=chambers))
    s, _ = one_muon()
    t = s.hits.t - 40_000 * (s.hits.det == 0)
    order = np.argsort(t, kind="stable")
    hits = replace(s.hits, **{n: (t if n == "t" else getattr(s.hits, n))[order]
                              for n in s.hits.__dataclass_fields__})  # fmt: skip
    events = b.build(replace(s, hits=hits))
    assert len(events) == 1 and len(events.seg["t0"]) == 4
    assert np.abs(events.seg["t0"]).max() < 0.01


def test_config() -> None:
    b = builder()
    (before, after), (x_before, x_after) = b.reach(), b.extent()
    assert (x_before, x_after) == (50_000, 500_000)
    assert x_after + before < GUARD and x_before + after < GUARD
    for keys in ({"merge": 25}, {"merge": "0 ns"}, {"t0": []}, {"t0": ["fpga", "fpga"]},
                 {"window": ["10 ns", "500 ns"]}, {"windows": ["-50 ns", "500 ns"]},
                 {"min_layers": 2}, {"t0": ["clock"]}):  # fmt: skip
        with pytest.raises(ValueError):
            builder(**keys)
    assert builder(window=["-20 ns", "450 ns"]).extent() == (20_000, 450_000)


def test_the_bench_that_comes_with_freerun(project: Path) -> None:
    bench = config.load(project / "configs" / "bench.toml")
    found, keys = config.builder_of(bench, "muons")
    assert found is DriftTubes and keys == DriftTubes.Config()
    real = DriftTubes(keys, config.Geometry.of(bench, bench.pipeline("muons")))
    mine = builder()
    for name in ("slot", "det", "longest", "latency", "correction", "column", "wire", "z"):
        assert (getattr(real.chambers, name) == getattr(mine.chambers, name)).all(), name
    assert real.chambers.speed == pytest.approx(21 / 390e3)
    assert real.reach() == mine.reach()
    assert [h.name for h in real.hists()][:2] == ["ch0/drift_time", "ch1/drift_time"]


def test_needs_a_chamber() -> None:
    with pytest.raises(ConfigError, match="drift_chamber"):
        DriftTubes(DriftTubes.Config(), replace(geometry(), chambers=()))


def test_scintillator_gives_t0() -> None:
    s, events = one_muon()
    t = np.append(s.hits.t, 10 * US + 98_000)
    hits = hit_rows(t, np.append(s.hits.source, 1), np.append(s.hits.channel, 128), t * 3 // 2500)
    for delay, anchor in ((None, 10 * US + 3_000), ("98 ns", 10 * US)):
        b = builder(t0=["scintillator"], scint_delay=delay)
        events = b.build(replace(s, hits=hits))
        assert events.t0_kind.tolist() == [SCINTILLATOR] and events.anchor.tolist() == [anchor]
        assert len(events.hit_index) == 17
    alone = replace(s, hits=hit_rows(t[-1:], np.ones(1, int), np.array([128]), t[-1:]))
    assert len(builder(t0=["scintillator"]).build(alone)) == 0


def test_wires_without_stagger_are_refused() -> None:
    straight = geometry()
    wire = np.array(straight.chambers[0].wire_x)
    wire[1] = wire[2]
    chambers = (replace(straight.chambers[0], wire_x=wire), *straight.chambers[1:])
    with pytest.raises(ConfigError, match=r"ch0.*half a cell"):
        DriftTubes(DriftTubes.Config(), replace(straight, chambers=chambers))


def test_nothing_in_nothing_out() -> None:
    nothing = np.empty(0, np.int64)
    events = builder().build(whole(hit_rows(nothing, nothing, nothing, nothing), None, US))
    assert len(events) == 0 and events.hit_offsets.tolist() == [0]
    assert events.seg_offsets.tolist() == [0]


# ---------------------------------------------------------------------- physics and speed


@pytest.fixture(scope="module")
def beam() -> tuple[SliceRows, npt.NDArray[np.int64]]:
    """100 ms of the simulated telescope at 50 kHz, and t0 of its muons with three layers."""
    cfg, blocks = TelescopeConfig(seed=7), 10
    s, _ = telescope_rows(cfg, blocks)
    t0 = []
    for block in range(blocks):
        truth = block_truth(cfg, block)
        layers = np.bitwise_count(truth["layers"])
        good = (layers >= 3).any(axis=1)
        t0.append(truth["t0_ps_in_block"][good] + block * 10_000_000_000)
    return s, np.concatenate(t0)


def matched(truth: npt.NDArray[Any], found: npt.NDArray[Any]) -> list[tuple[int, int]]:
    """Pairs one to one, nearest first, less than 25 ns apart."""
    pairs = []
    for i, t in enumerate(truth):
        a, z = np.searchsorted(found, (t - 24_999, t + 25_000))
        pairs += [(abs(int(found[j]) - int(t)), i, j) for j in range(a, z)]
    seen: tuple[set[int], set[int]] = (set(), set())
    out = []
    for _, i, j in sorted(pairs):
        if i not in seen[0] and j not in seen[1]:
            seen[0].add(i)
            seen[1].add(j)
            out.append((i, j))
    return out


@pytest.mark.parametrize("first", ["mean_timer", "fpga", "scintillator"])
def test_finds_the_muons(beam: tuple[SliceRows, npt.NDArray[np.int64]], first: str) -> None:
    s, truth = beam
    order = [first, *(k for k in ("mean_timer", "fpga", "scintillator") if k != first)]
    events = builder(t0=order).build(s)
    pairs = np.array(matched(truth, events.anchor))
    off = (events.anchor[pairs[:, 1]] - truth[pairs[:, 0]]) / 1000
    assert len(pairs) / len(truth) >= 0.995
    assert 1 - len(pairs) / len(events) <= 0.01
    assert np.std(off) <= (5.0 if first == "fpga" else 2.0)
    assert events.overflow <= 10
    assert (np.diff(events.anchor) > 0).all()


def test_beam_in_slices(beam: tuple[SliceRows, npt.NDArray[np.int64]]) -> None:
    s, _ = beam
    b = builder()
    uncut = described(s, b.build(s), 0)
    for length in (1_000_000_000, 10_000_000_000):
        assert build_cut(b, s, list(range(0, s.length + 1, length)), GUARD) == uncut


def test_a_burst_is_not_quadratic() -> None:
    """All tubes firing at once: the work per hit stays bounded."""
    seconds = []
    for n in (20_000, 80_000):
        random = np.random.default_rng(n)
        t = 10 * US + np.sort(random.integers(0, 300_000, n))
        channel, source = random.integers(0, 128, n), random.integers(0, 2, n)
        s = whole(hit_rows(t, source, channel, t), None, 20 * US)
        b = builder()
        b.build(s)
        begin = time.process_time()
        events = b.build(s)
        seconds.append(time.process_time() - begin)
        assert events.overflow > 0
    assert seconds[1] < 12 * seconds[0]


def test_events_of_a_chamber_without_its_own_constants_say_so() -> None:
    s, _ = one_muon()
    for known in (True, False):
        chambers = tuple(replace(c, calibrated=known or c.det_index != 2)
                         for c in geometry().chambers)  # fmt: skip
        events = DriftTubes(DriftTubes.Config(), replace(geometry(), chambers=chambers)).build(s)
        assert 2 in events.seg["det"]
        assert (events.quality & FALLBACK).tolist() == [0 if known else FALLBACK]
