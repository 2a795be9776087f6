"""Each benchmark once, as small as it goes, on the real broker: do its figures say what was done?

How fast this machine is matters to none of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from run_freerun import bench_named, freerun

from freerun import config
from freerun.app import bench_latency, bench_soak, bench_write
from freerun.app.bench import Table
from freerun.app.bench_growth_point import Point, measure_point
from freerun.app.bench_produce import PARTITIONS, Produce
from freerun.app.session import Session
from freerun.kafka import Broker
from freerun.wire import PART_BYTES


@pytest.fixture
def nothing_in_kafka(broker: str) -> Iterator[None]:
    """No topic of a benchmark is left behind."""
    before = set(Broker(broker).partitions())
    yield
    assert {n for n in Broker(broker).partitions() if n.startswith("bench_")} <= before


def rows_of(table: Table, tmp_path: Path) -> dict[str, float]:
    """The table through its JSON."""
    table.finish(tmp_path / "out.json")
    return {r["what"]: r["value"] for r in json.loads((tmp_path / "out.json").read_text())["rows"]}


def test_produce(broker: str, tmp_path: Path, nothing_in_kafka: None) -> None:
    work = Produce(broker, 40 * PART_BYTES, tmp_path)
    for what in ("sequencer", "whole", "client", "tool"):
        assert work.turn(what) > 0
        assert 0 < work.cost(what, 1).value < math.inf
    assert PARTITIONS == 8


@pytest.mark.parametrize("builder", ["gaps", "published"])
def test_growth(broker: str, tmp_path: Path, nothing_in_kafka: None, builder: str) -> None:
    point = Point(partitions=2, sources=3, slice_ns=100_000_000, words_per_s=0.3e6)
    cost = measure_point(broker, None, tmp_path, point, 0.5, builder)
    assert (cost.words, cost.parts, cost.slices) == (5 * 30_000, 5 * 3, 5)
    assert cost.lane > 0 and cost.broker == 0
    assert math.isfinite(cost.behind), "not every slice came out"


def test_write(tmp_path: Path) -> None:
    table = Table("write")
    bench_write.measure(table, None, 1, 1, None, "")  # no less than twice the pool
    rows = rows_of(table, tmp_path)
    assert 0.1 < rows["file / payload"] < 1
    assert rows["plain copy, per CPU second"] > rows["writer, per CPU second"] > 0


def test_latency_and_soak(
    broker: str, installation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both in one bench, which takes its time to start."""
    monkeypatch.setenv("FREERUN_KAFKA", broker)
    path = bench_named(installation, tmp_path, muon_rate='"2 kHz"', noise='"20 Hz"')
    kept = bench_soak._topics(broker, config.load(path), 1 << 30)
    assert all("retention.bytes" in topic.config for topic in kept)
    with Session.open(path, tmp_path / "data", None, 0) as session:
        table = Table("latency")
        bench_latency.measure_in(table, session, 0.01, 2.0, warm_s=1.0)
        rows = rows_of(table, tmp_path)
        # a busy run control stops a slice or more later than asked
        assert rows["slices measured"] >= 20 and rows["slices that never came"] == 0
        assert rows["hit → visible result, p99"] >= rows["hit → visible result, p50"] > 0
        assert rows["end of slice → visible result, p50"] < rows["hit → visible result, p50"]

        said: list[str] = []
        with closing(bench_soak.Soak(session, broker, said.append, every=0.2)) as soak:
            soak.soak(seconds=3.0, length=3.0)
        assert soak.runs.closed >= 1 and not soak.runs.gaps and soak.runs.slices >= 10
        assert said and "run " in said[0]
        names = soak.series.names()
        assert {"run-control", "dask-worker0", "source-tdc0", "writer", "bench"} <= set(names)
        assert all(s.processes["writer"].uss > 10 for s in soak.series.samples)
        table = Table("soak")
        bench_soak._report(table, soak, 0.01, 3.0, bench_soak._deleted(broker, kept))
        rows = rows_of(table, tmp_path)
        assert rows["ledgers with a gap"] == 0 and rows["services started again"] == 0
        # the bench is still there: nothing of the above has ended it
        session.installation.look_after()


@pytest.mark.parametrize(
    "wrong",
    [("soak", "--for", "soon"), ("paper", "--figure", "both", "--plot", "x.html"),
     ("paper", "--figure", "cores"), ("growth", "--json", "no/such/folder/x.json")],
)  # fmt: skip
def test_a_wrong_option_is_one_sentence(wrong: tuple[str, ...]) -> None:
    code, printed = freerun("bench", *wrong)
    assert code == 2 and "Traceback" not in printed and printed.strip()
