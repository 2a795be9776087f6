"""Lanes on the real broker: who owns a partition, poison slices, garbage in the raw topic."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from make_replay import Lab, lab

from freerun import config
from freerun.assembler import Bundle
from freerun.config import Bench
from freerun.kafka import Outgoing, Sender
from freerun.simulation import BLOCK_NS
from processors.lane import TRIES, Lane
from processors.pipeline import Pipeline, SliceResult
from processors.setup import lane_of, spec_of

ROOT = Path(__file__).resolve().parents[1]
FIRST_BLOCK, BLOCKS = 170_000_000_000, 200
EPOCH = 1_700_000_000_000_000_000
P = 4


def bench_of(name: str) -> Bench:
    """Two seconds of the demonstration's telescope in a thin beam, three sources."""
    raw = tomllib.loads((ROOT / "configs" / "bench.toml").read_text())
    raw["system"]["name"] = name
    raw["simulation"] |= {"seed": 11, "muon_rate": "2 kHz", "noise": "20 Hz", "noisy": []}
    for source in raw["source"]:
        source |= {"first_block": FIRST_BLOCK, "blocks": BLOCKS}
    return config.from_dict(raw)


@pytest.fixture
def run(broker: str, installation: str, tmp_path: Path) -> Iterator[Lab]:
    bench = bench_of(installation)
    length, begin = bench.time.slice, FIRST_BLOCK * BLOCK_NS
    first, last = begin // length, (begin + BLOCKS * BLOCK_NS - 1) // length
    with lab(broker, bench, tmp_path, P, first, last, EPOCH) as made:
        yield made


def lane(run: Lab, generation: int) -> Lane:
    return lane_of(spec_of(*run.paths, run.bench, run.address, "muons", generation))


def until(work: Any, done: Any, turns: int = 400) -> None:
    for _ in range(turns):
        work()
        if done():
            return
    raise AssertionError("not done in time")


def test_a_lane_that_was_thought_dead_adds_nothing(run: Lab) -> None:
    """The old one has slices computed and not committed; the new one takes over; the old one
    then finds that it is fenced, and gives its partitions up."""
    run.start_sources()
    old, new = lane(run, 1), lane(run, 2)
    wanted = run.last - run.first + 1
    try:
        before: list[int] = []
        until(lambda: before.append(old.run(range(P), 0.05).slices), lambda: sum(before) >= 3)
        after: list[int] = []
        until(lambda: after.append(new.run(range(P), 0.1).slices),
              lambda: sum(before) + sum(after) >= wanted)  # fmt: skip
        late = old.run(range(P), 0.5)  # one with nothing to commit has nothing to find out by
        assert late.slices == 0 and set(late.lost) <= set(range(P))
        run.wait_for_results("muons")
    finally:
        old.close()
        new.close()
    found = run.results("muons")  # asserts that no part is there twice
    assert len(found.infos) == wanted
    account = run.account()
    assert account["ok"], account["gaps"]
    assert account["slices"] == {"expected": wanted, "complete": wanted, "incomplete": 0,
                                 "missing": 0}  # fmt: skip


def test_an_old_generation_cannot_come_back(run: Lab) -> None:
    """A lane of an earlier generation that begins after a later one has committed."""
    run.start_sources()
    new, old = lane(run, 5), lane(run, 4)
    try:
        done: list[int] = []
        wanted = run.last - run.first + 1
        until(lambda: done.append(new.run(range(P), 0.1).slices), lambda: sum(done) >= wanted)
        late = old.run(range(P), 0.5)
        assert late.slices == 0
        assert sorted(late.lost) == list(range(P))
    finally:
        old.close()
        new.close()


def test_a_poison_slice_leaves_as_failed(run: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three tries, then it is named; its neighbours are as ever, and the ledger knows."""
    poison = run.first + 7
    tries: list[int] = []
    right = Pipeline.process

    def process(self: Pipeline, bundle: Bundle) -> SliceResult:
        if bundle.k == poison:
            tries.append(bundle.k)
            raise RuntimeError("this kernel cannot do it")
        return right(self, bundle)

    monkeypatch.setattr(Pipeline, "process", process)
    run.start_sources()
    run.run_lane("muons")
    assert len(tries) == TRIES
    found = run.results("muons").infos
    infos = dict(zip(range(run.first, run.last + 1), found, strict=True))
    assert "failed 3 times" in infos[poison]["failed"] and infos[poison]["n_events"] == 0
    assert all(i["failed"] is None for k, i in infos.items() if k != poison)
    account = run.account()
    assert account["ok"], account["gaps"]
    assert account["slices"]["incomplete"] == 1
    assert sum(s["failed"] for s in account["sources"].values()) > 0


def test_garbage_in_the_raw_topic_is_quarantined(run: Lab) -> None:
    """Records that are none of ours, before and among the source's: counted, named, harmless."""
    topic = run.topics.raw("tdc0")
    sender = Sender(run.address, "vandal", lambda token, error: None)
    good = [("v", b"1"), ("src", b"tdc1")]
    for p in range(P):
        for headers, value in ((None, b"hello"), (good, b""), ([("v", b"9")], b"\0" * 100)):
            assert sender.send(Outgoing(topic, p, value, headers), None)
    assert sender.flush(10) == 0
    run.start_sources()
    run.run_lane("muons")
    found = run.results("muons")
    assert all(i["complete"] and not i["failed"] for i in found.infos)
    account = run.account()
    assert account["ok"], account["gaps"]
    seen = sum(i["counts"].get("tdc0", {}).get("quarantined_records", 0) for i in found.infos)
    notes = [r.value for r in run.records(run.topics.quarantine, partitions=1)]
    assert len(notes) == seen == 3 * P
    assert b"no_headers" in notes[0] and b'"offset"' in notes[0]


def test_a_pipeline_of_some_detectors_waits_for_no_other_source(
    broker: str, installation: str, tmp_path: Path
) -> None:
    """The run has three sources; a pipeline that uses one chamber builds without the other two."""
    bench = bench_of(installation)
    pipeline = bench.pipelines[0].model_copy(update={"use": ["ch0"]})
    bench = config.from_dict(bench.model_copy(update={"pipelines": [pipeline]}).resolved())
    assert bench.sources_of(bench.pipelines[0]) == ["tdc0"]
    length, begin = bench.time.slice, FIRST_BLOCK * BLOCK_NS
    first, last = begin // length, begin // length + 5
    with lab(broker, bench, tmp_path, P, first, last, EPOCH) as made:
        made.start_sources()
        mine = lane(made, 1)
        try:
            done: list[int] = []
            until(lambda: done.append(mine.run(range(P), 0.1).slices),
                  lambda: sum(done) >= last - first + 1)  # fmt: skip
        finally:
            mine.close()
        account = made.account()
        assert account["ok"], account["gaps"]
        assert set(account["sources"]) == {"tdc0"} and account["sources"]["tdc0"]["hits"] > 0
