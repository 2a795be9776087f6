"""The `gaps` builder: recorded answers, a slow oracle, and independence of the cuts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from make_rows import build_cut, described, geometry, hit_rows, slices, whole
from oracle_gaps import events as oracle

from freerun.builder import TRUNCATED, SliceRows
from freerun.ticks import Clock
from freerun.words import HIT, decode, get_format
from processors.builders import gap_kernels
from processors.builders.gaps import Gaps

GUARD = 5_000_000
MS = 1_000_000_000


def builder(**keys: object) -> Gaps:
    return Gaps(Gaps.Config(**keys), geometry())


@pytest.fixture(scope="module")
def recorded(shared_data: Path) -> tuple[SliceRows, dict[str, object]]:
    """Run 637 as one slice that begins 1 ms before its first hit, and the reference."""
    words = np.fromfile(shared_data / "minidt" / "run637_first60000.dat", "<u8")
    out = decode(words, get_format("padova-v1"))
    clock = Clock(0, 25, 30)
    start = clock.ns(int(out.tick.min())) - 1_000_000
    mine = (out.kind == HIT) & (out.channel < 129)
    hits = hit_rows(clock.ps_since(out.tick[mine], start), out.board[mine].astype(int),
                    out.channel[mine].astype(int), out.tick[mine])  # fmt: skip
    answers = json.loads((shared_data / "minidt" / "run637_first60000.ref.json").read_text())
    return whole(hits, None, 100 * MS), answers


@pytest.mark.parametrize("gap", [100, 200, 400])
def test_recorded_clusters(recorded: tuple[SliceRows, dict[str, dict[str, int]]], gap: int) -> None:
    s, answers = recorded
    events = builder(gap=f"{gap} ns").build(s)
    answer = answers[f"gap_clusters_{gap}ns"]
    sizes = np.diff(events.hit_offsets)
    counts = np.bincount(sizes)
    assert len(events) == answer["clusters"]
    assert {str(n): int(c) for n, c in enumerate(counts) if c} == answer["hist"]
    assert sizes.max() == answer["max"]
    assert events.overflow == 0


@pytest.mark.parametrize("length", [MS, 10 * MS, 100 * MS])
def test_recorded_in_slices(recorded: tuple[SliceRows, object], length: int) -> None:
    s, _ = recorded
    b = builder()
    uncut = described(s, b.build(s), 0)
    assert build_cut(b, s, list(range(0, 100 * MS + 1, length)), GUARD) == uncut
    assert len(uncut) == 10557


@pytest.mark.parametrize("seed", range(5))
def test_recorded_at_random_cuts(recorded: tuple[SliceRows, object], seed: int) -> None:
    s, _ = recorded
    random = np.random.default_rng(seed)
    inner = np.sort(random.choice(s.hits.t, 40) + random.integers(-3, 4, 40))
    edges = [0, *inner[np.diff(inner, prepend=0) > 0].tolist(), 100 * MS]
    b = builder()
    assert build_cut(b, s, edges, GUARD) == described(s, b.build(s), 0)


# Steps in ticks around the gap of 240, and bursts longer than the longest chain.
steps = st.lists(
    st.tuples(st.sampled_from([0, 1, 100, 239, 240, 241, 242, 5000]), st.sampled_from([0, 1])),
    min_size=1, max_size=60,
)  # fmt: skip


def stream(pairs: list[tuple[int, int]], offset: int) -> SliceRows:
    """Rows of two sources; the second is `offset` ps late."""
    tick = 300_000_000 + np.cumsum([step for step, _ in pairs])
    source = np.array([which for _, which in pairs])
    t = tick * 2500 // 3 + np.where(source == 1, offset, 0) - 250 * MS
    return whole(hit_rows(t, source, np.zeros(len(t), int), tick), None, MS)


@settings(max_examples=60, deadline=None)
@given(steps, st.sampled_from([0, 1, 7_300]), st.sampled_from([200_000, 200_001, 200_833]))
def test_equals_oracle(pairs: list[tuple[int, int]], offset: int, gap: int) -> None:
    s = stream(pairs, offset)
    hits = s.hits
    clock = hits.source * (offset != 0)
    rows = list(zip(hits.t.tolist(), clock.tolist(), hits.ticks.tolist(), strict=True))
    expected, cut = oracle(rows, gap, 1_000_000)
    events = builder(gap=f"{gap} ps", longest="1 us").build(s)
    found = [
        (int(a), hits_of.tolist())
        for a, hits_of in zip(
            events.anchor, np.split(events.hit_index, events.hit_offsets[1:-1]), strict=True
        )
    ]
    assert found == expected
    assert events.overflow == cut == np.count_nonzero(events.quality & TRUNCATED)


@settings(max_examples=60, deadline=None)
@given(steps, st.lists(st.integers(0, 30 * MS // 1000), max_size=5, unique=True))
def test_cuts_change_nothing(pairs: list[tuple[int, int]], inner: list[int]) -> None:
    s = stream(pairs, 7_300)
    edges = [0, *sorted(inner), MS]
    edges = [e for i, e in enumerate(edges) if i == 0 or e > edges[i - 1]]
    b = builder(longest="1 us")
    assert build_cut(b, s, edges, GUARD) == described(s, b.build(s), 0)
    overflow = sum(b.build(cut).overflow for cut in slices(s, edges, GUARD))
    assert overflow == b.build(s).overflow


def test_the_kernel_means_its_python() -> None:
    s = stream([(step, i % 2) for i, step in enumerate([0, 240, 241, 5, 0, 300, 1])], 7_300)
    arguments = (s.hits.t, s.hits.ticks, s.hits.role, 1, 2500, 3, 200_000)
    assert (gap_kernels.breaks(*arguments) == gap_kernels.breaks.py_func(*arguments)).all()


def test_nothing_in_nothing_out() -> None:
    nothing = np.empty(0, np.int64)
    s = whole(hit_rows(nothing, nothing, nothing, nothing), None, MS)
    events = builder().build(s)
    assert len(events) == 0 and events.hit_offsets.tolist() == [0]


def test_scintillator_rows_only_on_request() -> None:
    t = np.array([0, 100_000, 250_000]) + 1_000
    s = whole(hit_rows(t, np.ones(3, int), np.array([3, 128, 5]), t * 3 // 2500), None, MS)
    assert len(builder().build(s)) == 2
    assert len(builder(rows="hits").build(s)) == 1


def test_monitor_counts_owned_events() -> None:
    s = stream([(5000, 0), (1, 0), (5000, 0)], 0)
    b = builder()
    events = b.build(s)
    into = {h.name: h.zeros() for h in b.hists()}
    b.fill(s, events, np.array([True, False]), into)
    assert into["event/multiplicity"][:4].tolist() == [0, 0, 1, 0]


def test_config_needs_units() -> None:
    with pytest.raises(ValueError, match="unit"):
        builder(gap=200)
    with pytest.raises(ValueError, match="extra"):
        builder(gapp="200 ns")
    b = builder(gap="400 ns")
    before, after = b.reach()
    assert b.extent()[1] + before < GUARD and after < GUARD
