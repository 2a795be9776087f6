"""Who is lost and who stands still, from heartbeats alone."""

from __future__ import annotations

import random
from typing import Any

import pytest

from controllers.reconcile import BEATS, Reconciler

SECOND = 1_000_000_000
L = 100_000_000
PATIENCE = 5 * SECOND
ME = "control/run"


class Bench:
    """Host time in seconds, beats once a second, and a verdict after each."""

    def __init__(self) -> None:
        self.r = Reconciler(ME, L, PATIENCE)
        self.now = 100
        self.queued: list[tuple[str, dict[str, Any]]] = []

    def beat(self, name: str, **value: Any) -> None:
        told = {"time_ns": self.now * SECOND, "state": "RUNNING", "inc": 1, "first": 0,
                "closed": self.now * 10 - 3, "spool": 0, **value}  # fmt: skip
        self.r.add(f"source/{name}", told)

    def second(self, *names: str, **value: Any) -> None:
        self.now += 1
        self.r.add(ME, {"time_ns": self.now * SECOND})
        for name in names:
            self.beat(name, **value)

    def verdict(self, name: str = "a", **run: int) -> str | None:
        return self.r.to_give_up(name, self.now * SECOND, **run)


def test_a_source_that_beats_and_closes_is_well() -> None:
    b = Bench()
    for _ in range(30):
        b.second("a")
        assert b.verdict() is None and b.r.fresh("a") is not None


def test_silence_is_lost_after_three_beats_of_control_and_patience() -> None:
    b = Bench()
    b.second("a")
    verdicts = []
    for _ in range(12):
        b.second()
        verdicts.append(b.verdict())
    lost_at = next(i for i, v in enumerate(verdicts) if v)
    assert verdicts[lost_at] == "LOST: no heartbeat"
    assert lost_at == (BEATS - 1) + PATIENCE // SECOND + 1
    assert b.r.fresh("a") is None
    b.second("a")
    assert b.verdict() is None and b.r.fresh("a") is not None


def test_outage_and_burst_make_nobody_lost() -> None:
    """Nothing comes back for 15 s; then control's beats all at once, the sources' a bit later."""
    b = Bench()
    b.second("a")
    for _ in range(15):
        b.now += 1
        assert b.verdict() is None
    for t in range(b.now - 14, b.now + 1):
        b.r.add(ME, {"time_ns": t * SECOND})
        assert b.verdict() is None
    b.second()
    assert b.verdict() is None
    b.second("a", closed=950, spool=10**6)  # still sending what waited
    assert b.verdict() is None
    b.second("a")
    assert b.verdict() is None


def test_old_beats_read_at_the_start_make_nobody_lost() -> None:
    b = Bench()
    for _ in range(50):  # of an earlier life of run control
        b.second()
    b.beat("a", time_ns=60 * SECOND)
    for _ in range(50):
        b.second()
    b.now += 100
    assert b.verdict() is None, "patience begins now"
    b.second("a")
    assert b.verdict() is None


def test_never_heard_of_is_lost_in_time() -> None:
    b = Bench()
    verdicts = []
    for _ in range(15):
        b.second()
        verdicts.append(b.verdict("x"))
    assert verdicts[5] is None and verdicts[-1] == "LOST: no heartbeat"
    assert b.r.fresh("x") is None


def stuck(**value: Any) -> list[str | None]:
    b = Bench()
    b.second("a")
    closed = b.now * 10 - 3
    out = []
    for _ in range(20):
        b.second("a", **{"closed": closed} | value)
        out.append(b.verdict())
    return out


def test_no_progress_with_an_empty_queue_is_given_up_in_time() -> None:
    verdicts = stuck()
    first = next(i for i, v in enumerate(verdicts) if v)
    assert verdicts[first] == "not advancing: a slice is due and nothing comes"
    assert 2 + 5 <= first <= 3 + 2 * 5 + 1


@pytest.mark.parametrize(
    "value",
    [
        {"spool": 10}, {"state": "READY", "first": 10**6}, {"first": 10**6},
        {"closed": 10**9},
    ],
)  # fmt: skip
def test_who_has_a_reason_is_not_given_up(value: dict[str, Any]) -> None:
    assert not any(stuck(**value))


def test_an_error_that_stands_still_is_given_up() -> None:
    assert any(stuck(state="ERROR"))


def test_progress_resets_patience() -> None:
    b = Bench()
    for i in range(60):
        b.second("a", closed=900 + i // 6)  # slow, but going
        assert b.verdict() is None


def test_restarted_beyond_the_stop_border_stands_still_for_a_stopped_run() -> None:
    """Back before it was LOST, READY, but the run's last slices are nobody's any more."""
    by_itself, for_the_run = [], []
    for out, run in ((by_itself, {}), (for_the_run, {"first": 900, "last": 1010})):
        b = Bench()
        b.second("a")
        for _ in range(20):
            b.second("a", state="READY", inc=2, closed=-1, first=b.now * 10 + 12)
            out.append(b.verdict(**run))
    assert not any(by_itself), "a READY source is always about to begin"
    assert for_the_run[3] is None and for_the_run[-1] is not None


def test_an_idle_source_does_not_become_stuck_when_a_run_begins() -> None:
    b = Bench()
    for _ in range(30):
        b.second("a", state="READY", closed=5, first=b.now * 10 + 12)
    first = b.now * 10 + 20
    for _ in range(3):
        b.second("a", closed=5, first=first)
        assert b.verdict(first=first) is None
    for _ in range(20):
        b.second("a", first=first)
        assert b.verdict(first=first) is None


def test_a_stopped_run_waits_for_nothing_beyond_its_end() -> None:
    b = Bench()
    for _ in range(30):
        b.second("a", state="READY", closed=999, first=10**6)
        assert b.verdict(first=900, last=999) is None


def test_junk_on_the_topic_is_survived() -> None:
    rng = random.Random(1)
    r = Reconciler(ME, L, PATIENCE)
    values = [None, "x", 1, -1.5, float("nan"), [], {}, True, 10**30]
    for i in range(3_000):
        value = {name: rng.choice(values) for name in ("inc", "closed", "first", "spool", "state")
                 if rng.random() < 0.7}  # fmt: skip
        if rng.random() < 0.8:
            value["time_ns"] = rng.choice(values)
        r.add(rng.choice([ME, "source/a", "source/", "source", "", "worker/1", "/"]), value)
        r.to_give_up("a", i * SECOND, 0, 100)
        r.fresh("a")
