"""However a stream is cut, distributed, batched and interrupted: the same events, and once.

The services' own lane, sequencer, assembler and chain; Kafka in memory, so that hundreds of
histories with kills are lived through in seconds.
"""

from __future__ import annotations

import json
import random
import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from make_memory import Dead, Memory
from make_source import plan_of

from controllers.writer.chain import Chain
from controllers.writer.monitorfile import Fold
from freerun import config, schemas
from freerun.assembler import Bundle, Fragment
from freerun.builder import BY_TIMEOUT
from freerun.config import Bench
from freerun.plan import DATA, Entry, Install
from freerun.rows import codec
from freerun.simulation import BLOCK_NS
from freerun.slices import first_in
from freerun.ticks import Clock
from freerun.topics import Topics
from freerun.wire import part_headers, read_batch
from processors import lane as lanes
from processors import offline
from processors.lane import Backlog, Lane
from processors.pipeline import Pipeline
from processors.regenerate import comparable
from processors.setup import pipeline_of
from producers.__main__ import make_driver
from producers.sequencer import Sequencer

ROOT = Path(__file__).resolve().parents[1]
US = 1_000
FIRST_BLOCK, BLOCKS = 170_000_000_003, 2
BEGIN = FIRST_BLOCK * BLOCK_NS
EPOCH = 1_700_000_000_000_000_000
TOPICS = Topics("same")
TURNS = 5_000


@lru_cache
def bench_of(length: int) -> Bench:
    """The demonstration's telescope in a thin beam, in slices of `length` ns."""
    raw = tomllib.loads((ROOT / "configs" / "bench.toml").read_text())
    raw["time"]["slice"] = f"{length} ns"
    raw["simulation"] |= {"seed": 5, "muon_rate": "5 kHz", "noise": "50 Hz", "noisy": []}
    for source in raw["source"]:
        source |= {"first_block": FIRST_BLOCK, "blocks": BLOCKS}
    return config.from_dict(raw)


@lru_cache
def pipeline(length: int) -> Pipeline:
    return pipeline_of(bench_of(length), "muons")


@lru_cache
def stream() -> dict[str, tuple[str, list[Any], Clock]]:
    """Source → schema, its rows block by block, clock."""
    out = {}
    bench = bench_of(1_000 * US)
    for source in bench.sources:
        driver: Any = make_driver(bench, source, "data")
        clock = Clock(EPOCH, driver.tick.numerator, driver.tick.denominator)
        blocks = [driver.make(b, clock) for b in range(FIRST_BLOCK, FIRST_BLOCK + BLOCKS)]
        out[source.id] = (driver.schema, blocks, clock)
    return out


@lru_cache
def uncut() -> dict[str, pa.Table]:
    rows = {s: (schema, codec(schema).concat(blocks), clock)
            for s, (schema, blocks, clock) in stream().items()}  # fmt: skip
    length = 1_000 * US
    made = offline.uncut(
        pipeline(length), bench_of(length), BEGIN - length, BLOCKS * BLOCK_NS + 2 * length, rows
    )
    assert made.events.num_rows > 50
    return as_compared(made)


def as_compared(made: Any) -> dict[str, pa.Table]:
    tables = {"events": made.events, "hits": made.hits, "pulses": made.pulses}
    return comparable({name: pa.table(batch) for name, batch in tables.items()})


def broker_with(length: int, partitions: int, rng: random.Random, **more: Any) -> Memory:
    """The raw topics of all sources, as their sequencers fill them."""
    first, last = span(length)
    roster = dict.fromkeys(stream(), True)
    plan = plan_of(partitions=partitions, length=length)
    plan.install = Install("u", length, partitions, 5_000)
    for entry in (Entry(1, first, "start", 1, DATA, roster), Entry(2, last + 1, "stop", None)):
        plan.add(entry.to_json(), 0)
    out = Memory(plan, **more)
    for source, (schema, blocks, clock) in stream().items():
        part_bytes = rng.choice([2_000, 20_000, 900_000])
        s = Sequencer(source, 1, codec(schema), clock, length, partitions, 5_000, part_bytes)
        sent = s.arm(first, last + 1)
        for i, rows in enumerate(blocks):
            n, step = len(rows), rng.choice([100, 1000, 1 << 30])
            for at in range(0, n, step):
                some = rows[at : at + step]
                sent += s.offer(some, *(clock.tick_at(BEGIN + x) for x in (-(10**9), 10**9)))
            sent += s.advance(clock.tick_at(BEGIN + (i + 1) * BLOCK_NS))
        sent += s.advance(clock.tick_at(BEGIN + 10**9))
        assert s.totals["late"] == s.totals["quarantined"] == 0
        for o in sent:
            out.append(TOPICS.raw(source), o.partition, o.body, part_headers(o.part))
    return out


def span(length: int) -> tuple[int, int]:
    return BEGIN // length, (BEGIN + BLOCKS * BLOCK_NS + 5_000) // length


def live_through(
    broker: Memory, length: int, partitions: int, workers: int, ends: list[tuple[int, bool]],
    rng: random.Random,
) -> None:  # fmt: skip
    """Generations of lanes, one after the other. Each but the last ends after some steps: killed
    (steps of its commits), or thought dead (turns), and then it goes on beside its successors."""
    first, last = span(length)
    busy = [p for p in range(partitions) if first_in(p, first, partitions) <= last]
    zombies: list[tuple[Lane, list[int]]] = []
    for generation, (steps, killed) in enumerate([*ends, (TURNS, False)]):
        broker.steps_to_live = steps if killed else 1 << 60
        mine: dict[int, list[int]] = {w: [] for w in range(workers)}
        for p in range(partitions):
            mine[rng.randrange(workers)].append(p)
        now = [(Lane("", TOPICS, pipeline(length), list(stream()), partitions, generation), wanted)
               for wanted in mine.values() if wanted]  # fmt: skip
        outs: dict[int, Backlog] = {}
        try:
            for _ in range(TURNS if killed else steps):
                for lane, wanted in now + (zombies if rng.random() < 0.3 else []):
                    turn(lane, wanted, outs.setdefault(id(lane), Backlog()))
                if all(next_of(broker, p) > last for p in busy):
                    return
            zombies += now
        except Dead:
            continue
    raise AssertionError("not done in time")


def turn(lane: Lane, wanted: list[int], out: Backlog) -> None:
    """One step of a lane, and its commits to their end."""
    lane._plan_at = 0.0
    lane._wanted = set(wanted) - set(out.lost)
    lane.step(out, 1e18)
    for owner in lane._owners.values():
        if owner.commit is not None:
            error = owner.commit.exception()  # waits
            if isinstance(error, Dead):
                raise error


def next_of(broker: Memory, p: int) -> int:
    group = broker.offsets[TOPICS.group("muons")]
    return max((json.loads(pos.metadata)["next"] for (_, q), pos in group.items() if q == p),
               default=-1)  # fmt: skip


class Answer:
    """What the readers make of the result topics: the writer's chain and the monitors' fold."""

    def __init__(self, broker: Memory, length: int, partitions: int) -> None:
        first, last = span(length)
        chain, fold = Chain(first, {}, partitions), Fold(first, partitions)
        tables: dict[str, list[pa.RecordBatch]] = {n: [] for n in ("events", "hits", "pulses")}
        for p in range(partitions):
            for r in broker.logs[TOPICS.events("muons"), p]:
                chain.offer(p, r.offset, r.headers, r.value)
            for r in broker.logs[TOPICS.monitor("muons"), p]:
                fold.offer(p, r.headers, r.value, last)
        while (result := chain.take(last)) is not None:
            assert result.failed is None and result.info["complete"]
            for name, batches in result.tables.items():
                tables[name] += batches
        assert chain.finished(last)
        empty = {"events": schemas.EVENTS, "hits": schemas.HITS, "pulses": schemas.PULSES}
        whole = {n: pa.Table.from_batches(b, b[0].schema if b else empty[n]).combine_chunks()
                 for n, b in tables.items()}  # fmt: skip
        self.tables = comparable(whole)
        self.duplicates, self.torn = chain.duplicates, chain.torn
        self.hists = {name: counts for name, (_, counts) in fold.hists.items()}


class World:
    """Holds the broker of the moment."""

    broker: Memory


@pytest.fixture
def in_memory(monkeypatch: pytest.MonkeyPatch) -> World:
    """Lanes speak to the broker that is put here."""
    world = World()
    monkeypatch.setattr(lanes, "Reader", lambda *a, **k: world.broker.reader(*a, **k))
    monkeypatch.setattr(lanes, "Transactional", lambda *a, **k: world.broker.transactional(*a, **k))
    monkeypatch.setattr(lanes, "PlanLog", lambda *a, **k: world.broker.planlog(*a, **k))
    monkeypatch.setattr(lanes, "BATCH", lanes.BATCH)  # put back at the end
    monkeypatch.setattr(lanes, "BACK_OFF_S", (0.0,))
    monkeypatch.setattr(lanes, "TRIES", 1000)  # these deaths are no kernel's doing
    return world


def same_as_uncut(answer: Answer) -> None:
    for name, table in uncut().items():
        assert answer.tables[name].equals(table), name


histories = st.fixed_dictionaries({
    "length": st.sampled_from([300 * US, 1_000 * US, 2_700 * US, 20_000 * US]),
    "partitions": st.sampled_from([1, 2, 3, 8]),
    "workers": st.integers(1, 3),
    "batch": st.sampled_from([3, 40, 500]),
    "slices": st.sampled_from([1, 3, 8]),
    "ends": st.lists(st.tuples(st.integers(1, 25), st.booleans()), max_size=4),
    "seed": st.integers(0, 2**16),
})  # fmt: skip


def live(world: World, history: dict[str, Any], transactions: bool = True) -> Answer:
    rng = random.Random(history["seed"])
    length, partitions = history["length"], history["partitions"]
    lanes.BATCH = history["slices"]
    world.broker = broker_with(length, partitions, rng, batch=history["batch"],
                               transactions=transactions)  # fmt: skip
    # nobody fences a zombie without transactions: there all are killed
    ends = [(steps, killed or not transactions) for steps, killed in history["ends"]]
    live_through(world.broker, length, partitions, history["workers"], ends, rng)
    return Answer(world.broker, length, partitions)


LAW = settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])


@LAW
@given(histories)
def test_the_set_of_events_is_the_same_in_every_history(
    in_memory: World, history: dict[str, Any]
) -> None:
    """Whatever the partitions, slices, batches, workers and parts; killed and fenced anywhere."""
    answer = live(in_memory, history)
    assert (answer.duplicates, answer.torn) == (0, 0)
    same_as_uncut(answer)


@LAW
@given(histories)
def test_without_transactions_there_are_copies_and_the_readers_answer_is_the_same(
    in_memory: World, history: dict[str, Any]
) -> None:
    """A committer that sends results, then positions, and dies in between."""
    same_as_uncut(live(in_memory, history, transactions=False))


def test_a_kill_between_results_and_positions_does_leave_copies(in_memory: World) -> None:
    """The double is one that duplicates: else the law above would say nothing."""
    history = {"length": 1_000 * US, "partitions": 2, "workers": 1, "batch": 500, "slices": 8,
               "ends": [(9, True)] * 3, "seed": 1}  # fmt: skip
    without, with_ = (live(in_memory, history, transactions=t) for t in (False, True))
    assert without.duplicates + without.torn > 0
    assert with_.duplicates + with_.torn == 0
    for name, counts in with_.hists.items():
        assert (without.hists[name] == counts).all()


def test_a_slice_closed_by_its_flush_time_marks_its_events() -> None:
    length = 1_000 * US
    first, last = span(length)
    for by_timeout in (False, True):
        fragments = []
        for source, (schema, blocks, clock) in stream().items():
            s = Sequencer(source, 1, codec(schema), clock, length, 1, 5_000)
            s.arm(first, last + 1)
            s.offer(blocks[0], *(clock.tick_at(BEGIN + x) for x in (-(10**9), 10**9)))
            sent = s.advance(clock.tick_at(BEGIN + 2 * length), by_timeout and source == "tdc0")
            parts = [o for o in sent if o.part.k == first and o.part.part >= 0]
            fragments.append(Fragment(
                source, 1, 0, (-1, -1, -1), (-1, -1), [o.part for o in parts],
                [bytes(memoryview(o.body)) for o in parts], sum(o.part.rows for o in parts),
            ))  # fmt: skip
        made = pipeline(length).process(Bundle(first, 1, tuple(fragments), {}, {}))
        assert made.info["by_timeout"] is by_timeout
        quality = read_batch(made.events[0][1])["quality"].to_numpy()
        marked = int((quality & BY_TIMEOUT > 0).sum())
        assert len(quality) > 0 and marked == (len(quality) if by_timeout else 0)
