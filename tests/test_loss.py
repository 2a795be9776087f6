"""Time until data loss: what the page says of spools that fill and of lanes that fall behind."""

from __future__ import annotations

from typing import Any

import pytest

from dashboard.loss import until_loss
from dashboard.topbar import top_bar
from dashboard.world import BAD, GOOD, WARN, World

NOW = 1_795_000_000_000_000_000


def world(keep_s: float = 86_400, keep_bytes: float = 36e9, **more: dict[str, Any]) -> World:
    beat = {"time_ns": NOW, "state": "RUNNING"}
    states = {
        "source/fast": {**beat, "bytes_per_s": 10e6, "spool_left_s": 200.0},
        "source/slow": {**beat, "bytes_per_s": 1e3, "spool_left_s": 2e6},
        "loop/muons": {**beat, "id": "muons", "lag_slices": 6_000},
    }
    for key, value in more.items():
        states[key.replace("_", "/")] |= value
    return World(NOW, "x", 100_000_000, states=states, disk_free=10**12, keep_s=keep_s,
                 keep_bytes=keep_bytes)  # fmt: skip


def test_a_lane_has_what_retention_keeps_less_its_lag() -> None:
    """36 GB at 10 MB/s are an hour; the lane is ten minutes behind."""
    found = until_loss(world())
    assert found is not None and found[0] == pytest.approx(3600 - 600)
    assert "retention overtakes muons" in found[1]
    disk = top_bar(world()).disk
    assert disk is not None and (disk.level, disk.text) == (WARN, "50 min to loss")
    late = until_loss(world(loop_muons={"lag_slices": 10**6}))
    assert late is not None and late[0] == 0
    by_time = until_loss(world(keep_s=900))
    assert by_time is not None and by_time[0] == pytest.approx(300)
    assert until_loss(world(loop_muons={"time_ns": NOW - 10**11})) is None, "nobody knows"


def test_a_spool_that_fills_comes_first() -> None:
    spooling = world(source_fast={"state": "SPOOLING"})
    found = until_loss(spooling)
    assert found is not None and found[0] == 200 and "spool of fast" in found[1]
    assert top_bar(spooling).loss_s == 200
    dropping = top_bar(world(source_fast={"state": "DROPPING", "spool_left_s": 0.0})).disk
    assert dropping is not None and dropping.level == BAD


def test_what_is_kept_for_ever_is_not_lost() -> None:
    for_ever = world(keep_s=float("inf"), keep_bytes=float("inf"))
    assert until_loss(for_ever) is None and top_bar(for_ever).loss_s is None
    plenty = top_bar(world(keep_bytes=36e12))
    assert plenty.disk is not None and plenty.disk.level == GOOD
