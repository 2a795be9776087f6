"""What the benchmarks make of their measurements: slopes, fits, quantiles, verdicts. No broker."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freerun.app import bench_growth_work
from freerun.app.bench import Table
from freerun.app.bench_growth import COMMON, SCALES, fit, grid
from freerun.app.bench_growth_point import Cost, Point, bench_of
from freerun.app.bench_latency import of_hits, quantiles
from freerun.app.bench_paper import PARTITIONS, _of
from freerun.app.bench_produce_work import L, parts
from freerun.app.bench_samples import Held, Sample, Series, growth, judge, slope
from freerun.app.bench_words import FORMAT, TICKS_PER_S, steady
from freerun.config import from_dict
from freerun.slices import partition
from freerun.words import HIT, decode

# ------------------------------------------------------------------ soak


@settings(max_examples=30)
@given(st.floats(-5, 5), st.floats(-100, 100), st.integers(8, 300), st.integers(0, 1 << 30))
def test_a_slope_is_found_among_outliers(rise: float, start: float, n: int, seed: int) -> None:
    t = np.arange(n, dtype=float)
    y = start + rise * t
    some = np.random.default_rng(seed).permutation(n)[: n // 8]
    y[some] += 1e6  # an eighth of the samples is nonsense
    assert slope(t, y) == pytest.approx(rise, abs=1e-6)


def test_slope_of_nothing() -> None:
    assert slope(np.array([]), np.array([])) == 0.0
    assert growth(np.array([1.0]), np.array([7.0])) == (0.0, 7.0)


def _held(t: float, leak: float) -> Held:
    """Memory fills a cache in the first tenth, then leaks; CPU grows by 0.2 s a second."""
    return Held(100 + min(t, 360.0) + leak * t, 200.0, 9, 40, 0.2 * t)


def _hour(leak: float = 0.0, tired: float = 1.0) -> Series:
    """An hour of samples; `tired`: how much more CPU a row takes at the end."""
    out = Series()
    for t in np.arange(0, 3600, 5.0):
        held = _held(t, leak)
        cpu = held.cpu * (1 + (tired - 1) * t / 3600)
        processes = {"worker": replace(held, cpu=cpu), "writer": _held(t, 0.0)}
        out.samples.append(Sample(t, t > 10, 750_000 * t, 0.3, processes, 5.0))
    return out


def _judged(series: Series, judged: bool = True) -> dict[str, bool | None]:
    table = Table("soak")
    judge(table, series, judged)
    return {row["what"]: row["ok"] for row in table.rows}


def test_a_quiet_hour_is_flat() -> None:
    ok = _judged(_hour())
    assert False not in ok.values()
    assert ok["memory of worker (USS): growth"] and ok["threads of worker: growth"]


def test_a_leak_is_seen_and_named() -> None:
    ok = _judged(_hour(leak=0.05))
    assert [what for what, good in ok.items() if good is False] == [
        "memory of worker (USS): growth"
    ]


def test_rows_that_cost_more_in_the_end_are_seen() -> None:
    ok = _judged(_hour(tired=1.5))
    assert ok["CPU of worker, last tenth"] is False and ok["CPU of writer, last tenth"]


def test_a_short_soak_only_shows() -> None:
    assert set(_judged(_hour(leak=1.0), judged=False).values()) == {None}


def test_cost_of_a_row_leaves_out_what_lies_between_runs() -> None:
    series = _hour()
    assert series.cpu_per_word(["writer"], 0.0, 1.0) == pytest.approx(0.2 / 750_000 * 1e9)
    pause = [replace(s, running=s.running and not 1000 < s.t < 2000) for s in series.samples]
    assert Series(pause).cpu_per_word(["writer"], 0, 1) == pytest.approx(0.2 / 750_000 * 1e9)
    assert Series().cpu_per_word(["writer"], 0, 1) == 0.0


# ------------------------------------------------------------------ growth


def _cost(point: Point, constants: tuple[float, ...]) -> Cost:
    slices = round(10e9 / point.slice_ns)
    words, fragments = slices * point.words * point.sources, slices * point.parts * point.sources
    spent = float(np.dot([words, fragments, slices, 10.0], constants))
    return Cost(point, words, fragments, slices, 10.0, spent, 0.0, 0.1)


@pytest.mark.parametrize("full", [False, True])
def test_the_fit_finds_the_constants(full: bool) -> None:
    told = (25e-9, 100e-6, 4e-3, 30e-3)
    costs = [_cost(p, told) for p in grid(full)]
    found, residuals = fit(costs, [c.lane for c in costs])
    assert found == pytest.approx(told, rel=1e-6)
    assert np.abs(residuals).max() < 1e-9


def test_a_cost_outside_the_formula_stays_in_the_residuals() -> None:
    told = (25e-9, 100e-6, 4e-3, 30e-3)
    costs = [_cost(p, told) for p in grid(True)]
    spent = [c.lane + 0.3 * (c.point.partitions == 64) for c in costs]
    found, residuals = fit(costs, spent)
    worst = costs[int(np.argmax(np.abs(residuals)))]
    assert worst.point.partitions == 64
    assert (found * SCALES >= 0).all()


def test_no_constant_is_negative() -> None:
    costs = [_cost(p, (25e-9, 0.0, 4e-3, 0.0)) for p in grid()]
    rng = np.random.default_rng(3)
    found, _ = fit(costs, [c.lane * rng.uniform(0.97, 1.03) for c in costs])
    assert (found >= 0).all() and found[0] == pytest.approx(25e-9, rel=0.2)


def test_the_grid_lies_on_the_axes() -> None:
    for full in (False, True):
        points = grid(full)
        assert points[0] == COMMON and len(set(points)) == len(points)
        for point in points[1:]:
            same = [getattr(point, f) == getattr(COMMON, f) for f in vars(COMMON)]
            assert same.count(False) == 1
        assert {p.partitions for p in points} >= {1, 64} and {p.sources for p in points} >= {1, 64}
        assert {p.slice_ns for p in points} >= {10_000_000, 1_000_000_000}


def test_a_point_is_a_bench() -> None:
    point = replace(COMMON, sources=64, slice_ns=10_000_000)
    bench = from_dict(bench_of(point, "bench", "gaps"))
    assert len(bench.sources) == 64 and bench.time.slice == 10_000_000
    assert point.words == 156 and point.parts == 1
    assert replace(COMMON, sources=1, slice_ns=10**9).parts == 9


# ------------------------------------------------------------------ latency, paper


def test_quantiles_count_what_never_came() -> None:
    some = np.array([0.01] * 98 + [math.inf] * 2)
    assert quantiles(some).tolist() == [10.0, 10.0, math.inf]


def test_a_hit_waits_for_the_end_of_its_slice() -> None:
    p50, p90, p99 = of_hits(np.full(50, 0.05), 0.1)
    assert (p50, p90, p99) == pytest.approx((100, 140, 149), abs=1)


def test_lanes_share_the_slices() -> None:
    shares = [range(PARTITIONS)[i::3] for i in range(3)]
    assert sum(_of(1000, share) for share in shares) == 1000
    mine = [k for k in range(1000) if partition(COMMON.first + k, PARTITIONS) in shares[1]]
    assert _of(1000, shares[1]) == len(mine)


def test_what_a_lane_does_while_it_takes_over_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was waited for until the lane's time was over."""
    done = iter([5, 0, 7])  # slices of each turn; there is no fourth

    class Lane:
        def run(self, _partitions: Any, _seconds: float) -> SimpleNamespace:
            slices = next(done)
            return SimpleNamespace(slices=slices, words=10 * slices)

        def close(self) -> None: ...

    monkeypatch.setattr(bench_growth_work.config, "load", lambda *_: None)
    monkeypatch.setattr(bench_growth_work.importlib, "import_module", lambda _name: SimpleNamespace(
        warm_up=lambda *_: None, pipeline_of=lambda *_: None, lane_of=lambda _spec: Lane()
    ))  # fmt: skip
    told = {"spec": {"bench": "", "cluster": "", "pipeline": ""}, "published": False,
            "partitions": [0], "slices": 12, "seconds": 60.0}  # fmt: skip
    said = bench_growth_work.work(told)
    assert said["slices"] == 12
    assert [words for _, words, _ in said["looks"]] == [50, 120]


# ------------------------------------------------------------------ words and parts


@settings(max_examples=20)
@given(st.integers(1, 3000), st.floats(1e4, 1e8))
def test_steady_words_are_hits_in_the_order_of_time(n: int, per_s: float) -> None:
    words = steady(n, per_s)
    got = decode(words, FORMAT)
    assert len(words) == n and (got.kind == HIT).all() and (np.diff(got.tick) >= 0).all()
    assert got.tick[-1] <= n / per_s * TICKS_PER_S + 1


def test_every_word_is_in_one_part() -> None:
    words = steady(2_600_000, 25e6)
    made = list(parts(words, 8, 2))
    rows = sum(out.part.rows for out in made)
    assert rows == 2 * len(words)
    closed = [out.part.k for out in made if out.part.closes]
    assert closed == sorted(set(closed)) and len({out.part.inc for out in made}) == 2
    assert all(out.part.rows == 0 or out.partition == partition(out.part.k, 8) for out in made)
    assert L == 100_000_000
