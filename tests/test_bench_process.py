"""`freerun bench process`: the published task in a lane, without and with a real broker."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from freerun import config
from freerun.app.bench import Table
from freerun.app.bench_kernel import LENGTH, LENGTH_NS, Machine, Slice, simulated
from freerun.app.bench_process import FIRST, WHAT, bench_of, measure, parts_of
from freerun.app.bench_process_work import STAGES
from freerun.assembler import CLOSED, Bundle, Fragment
from freerun.errors import ConfigError
from freerun.wire import checksum, read_batch, write_batch
from processors.pipeline import SliceResult
from processors.published_lane import PublishedPipeline, body_of

K = FIRST + 7


def bundle_of(s: Slice) -> Bundle:
    """One slice of the benchmark's source, in parts, as the assembler gives it."""
    parts, bodies = zip(*parts_of(s), strict=True)
    told = [replace(p, k=K, anchor=K * LENGTH_NS - s.tick0 // LENGTH * LENGTH_NS) for p in parts]
    fragment = Fragment("tdc", 1, 0, (-1, -1, -1), (-1, -1), told, [b.to_pybytes() for b in bodies],
                        sum(p.rows for p in parts), state=CLOSED)  # fmt: skip
    return Bundle(K, 3, (fragment,), {}, {"tdc": {}})


def tables(result: SliceResult) -> dict[str, Any]:
    """Columns of each table, its parts joined."""
    out: dict[str, dict[str, list[Any]]] = {}
    assert [p.part for p, _ in result.events] == list(range(len(result.events)))
    assert {p.parts for p, _ in result.events} == {len(result.events)}
    for part, body in result.events:
        batch = read_batch(body)
        assert batch.num_rows == part.rows
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            out.setdefault(part.table, {}).setdefault(name, []).extend(column.to_pylist())
    return out


@pytest.fixture(scope="module")
def pipeline() -> PublishedPipeline:
    return PublishedPipeline("p", config.from_dict(bench_of("x", ["p"])))


def test_a_slice_becomes_tables_and_an_account(pipeline: PublishedPipeline) -> None:
    s = simulated(2, 300_000)
    result = pipeline.process(bundle_of(s))
    assert result.info["failed"] is None
    got = tables(result)
    assert len(result.events) > 3, "no table was cut into parts"
    out = Machine(1)(s)  # the same channels and latencies, other names
    np.testing.assert_array_equal(got["hits"]["tick"], out.tick)
    np.testing.assert_array_equal(got["hits"]["channel"], out.channel)
    np.testing.assert_allclose(got["hits"]["drift"], out.drift)
    np.testing.assert_array_equal(got["events"]["first"], out.first)
    np.testing.assert_array_equal(got["events"]["count"], out.count)
    assert result.info["n_events"] == len(out.t0)
    exact = [divmod(K * LENGTH_NS * 1000 + int(t) * 2500 // 3, 1000) for t in out.t0]
    assert got["events"]["t0_ns"] == [ns for ns, _ in exact]
    assert got["events"]["t0_ps"] == [ps for _, ps in exact]
    account = result.info["sources"]["tdc"]
    body = sum(p.rows for p, _ in parts_of(s))
    assert account["rows"] == body
    assert account["sum"] == account["close"]["sum"]
    assert account["hits"] + account["other"] + account["masked"] + account["unknown"] == body
    assert account["in_events"] - account["shared"] + account["unassigned"] == account["hits"]
    part, monitor = result.monitor
    names, shapes, values = (c.to_pylist() for c in read_batch(monitor).columns)
    histograms = dict(zip(names, values, strict=True))
    assert part.rows == len(names) == len(pipeline.hists)
    assert [tuple(shape) for shape in shapes] == [h.shape for h in pipeline.hists]
    assert sum(histograms["tdc/occupancy"]) == account["hits"]
    assert (
        sum(sum(histograms[f"{d}/drift_time"]) for d in pipeline.detectors) == account["in_events"]
    )


def test_an_empty_slice_and_a_failed_one(pipeline: PublishedPipeline) -> None:
    empty = pipeline.process(Bundle(K, 3, (), {}, {}))
    assert [p.table for p, _ in empty.events] == ["events"]
    assert empty.info["n_events"] == 0
    whole = bundle_of(simulated(1, 2_000))
    told = whole.fragments[0].parts[0]
    whole.fragments[0].parts[0] = replace(told, tick0=told.tick0 + 2 * LENGTH)
    failed = pipeline.process(whole)
    assert "outside" in failed.info["failed"]
    assert failed.info["sources"]["tdc"]["in_events"] == 0


def test_bodies_are_written_as_everywhere(pipeline: PublishedPipeline) -> None:
    for _, body in pipeline.process(bundle_of(simulated(1, 2_000))).events:
        batch = read_batch(body)
        assert body_of(batch).equals(write_batch(batch))
        assert checksum(body_of(batch)) == checksum(write_batch(batch))


def test_words_of_another_layout_are_refused() -> None:
    raw = bench_of("x", ["p"])
    raw["source"][0]["format"] = "padova-v2"
    with pytest.raises(ConfigError, match="padova-v2"):
        PublishedPipeline("p", config.from_dict(raw))


def test_the_whole_on_a_real_broker(broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREERUN_KAFKA", broker)
    table = Table("process")
    measure(table, 0.06, 5_000, 1)
    rows = {r["what"]: r for r in table.rows}
    assert [*rows][:5] == [WHAT[s] for s in STAGES]
    assert all(r["value"] > 0 for r in table.rows)
    said = rows["one worker, per CPU second"]["peer"]
    assert float(said.split("results ")[1].split()[0]) > 8, f"results smaller than words: {said}"
    json.dumps(table.rows)
