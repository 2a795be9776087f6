"""Nothing lost, nothing twice: the pure machines together under random accidents.

A schedule is a pure function of its seed: FREERUN_SEED=<n> replays one, and
`python tests/make_world.py --seeds <n> --shrink` looks for the few accidents that matter.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

import make_world
import pytest
from make_actors import MS, SECOND, STEP, Sequencer, first_whole
from make_world import BEGIN, Accident, Schedule, World, failure, schedule, shrunk

from freerun import plan as plans
from freerun.assembler import Assembler

SEEDS = [int(os.environ["FREERUN_SEED"])] if "FREERUN_SEED" in os.environ else range(150)
GROUPS = [SEEDS[i : i + 10] for i in range(0, len(SEEDS), 10)]


@pytest.mark.parametrize("seeds", GROUPS, ids=lambda g: f"{g[0]}-{g[-1]}")
def test_the_laws_hold_whatever_happens(seeds: list[int]) -> None:
    for seed in seeds:
        what = failure(schedule(seed))
        assert not what, f"{what}\nreplay with FREERUN_SEED={seed}"


def test_a_schedule_is_a_pure_function_of_its_seed() -> None:
    assert schedule(7) == schedule(7)
    first, second = World(schedule(7)), World(schedule(7))
    first.run()
    second.run()
    assert first.out.keys() == second.out.keys() and first.t == second.t
    assert [e.time_ms for e in first.kafka.truth.entries] == [
        e.time_ms for e in second.kafka.truth.entries
    ]


# ------------------------------------------------------------------ what it has found, by name


def two_runs(pause: int, *accidents: Accident, sources: str = "a", **more: object) -> Schedule:
    """A run of a second, and another one after `pause`."""
    t = BEGIN + 2 * SECOND
    commands = ((t, "start"), (t + SECOND, "stop"), (t + SECOND + pause, "start"),
                (t + 3 * SECOND + pause, "stop"))  # fmt: skip
    made = Schedule(5, 2, 200 * MS, sources, 0, False, commands, accidents)
    return replace(made, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("stalled", [12, 14])
def test_what_is_decided_cannot_change(stalled: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run control stops between computing an entry and its commit, for less than makes it void;
    lanes have passed over its slices already, if decided slices reach further than void does."""
    stop = Accident(BEGIN + 9 * SECOND + STEP, "stop", "control", stalled * STEP)
    assert not failure(two_runs(6 * SECOND, stop))
    monkeypatch.setattr(plans, "VOID_NS", 500 * MS)
    monkeypatch.setattr(plans, "DECIDED_NS", SECOND)
    monkeypatch.setattr("freerun.assembler.DECIDED_NS", SECOND)
    assert "slice" in failure(two_runs(6 * SECOND, stop)), "the test can see it"


def test_a_stopped_run_is_not_forgotten_when_the_next_one_goes_on() -> None:
    """A source dies before it has closed its last slices; the next run begins at once."""
    kill = Accident(BEGIN + 5 * SECOND - STEP, "kill", "b", 9 * SECOND)
    assert not failure(two_runs(STEP, kill, sources="ab"))


def test_a_run_that_was_stopped_before_it_began() -> None:
    """Its sources have sent their marks; the next run of the same slices counts on from them."""
    t = BEGIN + 2 * SECOND
    commands = ((t, "start"), (t + STEP, "stop"), (t + 2 * STEP, "start"), (t + SECOND, "stop"))
    for length in (200 * MS, 500 * MS):
        made = Schedule(5, 3, length, "ab", 0, False, commands)
        assert not failure(made)


@pytest.mark.parametrize("behind", [0, 100, 200, 320, 450, 900])
def test_slow_clock_restart_with_quiet_and_busy_sources(behind: int) -> None:
    """A host's clock that is behind makes a source begin later, never with half a slice."""
    made = two_runs(3 * SECOND, sources="ab")
    world = World(made)
    world.healthy = behind == 0
    for source in world.sources.values():
        source.clock.skew = -behind * MS
    world.run()


def test_who_is_merely_quiet_begins_in_time() -> None:
    length, guard, early = 100 * MS, 10 * MS, 300 * MS
    began = 50 * length - early
    told = {  # how far the newest data are from the host's time, and where it begins then
        -2 * SECOND: 50, -1: 50, 0: 50, 100 * MS: 50, 240 * MS: 50,
        250 * MS: 54, 800 * MS: 60,
    }  # fmt: skip
    host = 50 * length + 40 * MS
    for ahead, first in told.items():
        assert first_whole(50, began, host, host + ahead, length, guard, early) == first
    # one that could only begin two slices ahead has seen the first one whole, too
    host = 48 * length + length - 1
    assert first_whole(50, host, host, host, length, guard, early) == 50


# ------------------------------------------------------------------ it can fail


def broken(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    if what == "positions":  # commits beyond what is kept

        def positions(self: Assembler) -> dict[str, make_world.Resume]:
            return {s: make_world.Resume(x.position, x.to_json(None))
                    for s, x in self.sources.items()}  # fmt: skip

        monkeypatch.setattr(Assembler, "positions", positions)
    elif what == "guards":
        monkeypatch.setattr(Sequencer, "_keep_end", lambda *_: None)
    elif what == "epoch":  # nobody is fenced
        monkeypatch.setattr(make_world.Kafka, "begin", lambda self, tid: 0)
    elif what == "given_up":  # without waiting for the log
        monkeypatch.setattr(make_world.Lane, "_caught_up", lambda *_: True)
    elif what == "marks":
        monkeypatch.setattr(Sequencer, "_marks", lambda *_: [])


def suspects(what: str) -> Iterator[Schedule]:
    """Schedules among which one breaks, if the rule is not kept."""
    for seed in range(30):
        if what == "given_up":  # lanes lag, a source dies, and they know of that first
            asleep = [Accident(BEGIN + 5 * SECOND, "stop", f"lane{i}", 9 * SECOND) for i in (0, 1)]
            kill = Accident(BEGIN + 8 * SECOND, "kill", "b", 20 * SECOND)
            made = two_runs(20 * SECOND, *asleep, kill, sources="ab")
            t = made.commands[0][0]
            yield replace(made, seed=seed, commands=((t, "start"), (t + 9 * SECOND, "stop")))
        elif what == "positions":
            yield schedule(126 + seed)
        else:
            yield schedule(seed)


@pytest.mark.parametrize("what", ["positions", "guards", "epoch", "given_up", "marks"])
def test_a_broken_rule_is_found(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not failure(next(suspects(what)))
    broken(monkeypatch, what)
    assert any(map(failure, suspects(what)))


def test_shrinking_leaves_what_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    t = BEGIN + 3 * SECOND
    idle = [Accident(t + i * SECOND, "stop", "writer", STEP) for i in range(3)]
    remap = Accident(BEGIN + 5 * SECOND, "remap", "lane0", SECOND)
    bad = two_runs(3 * SECOND, *idle, remap, sources="ab")
    assert not failure(bad)
    monkeypatch.setattr(make_world.Kafka, "begin", lambda self, tid: 0)
    assert failure(bad)
    assert shrunk(bad).accidents == (remap,)
