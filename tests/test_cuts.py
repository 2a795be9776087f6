"""However a stream is cut into slices and partitions, inline or on Dask: the same events.

All of it through a real broker, with the services' own classes, at the pace of the machine.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from make_replay import Lab, Results, lab

from freerun import config, words
from freerun.app.installation import Installation
from freerun.app.replay import look
from freerun.app.replay_bench import Wishes, bench_of
from freerun.app.supervisor import Supervisor
from freerun.builder import FLAG_NEIGHBOUR
from freerun.config import Bench
from freerun.simulation import BLOCK_NS
from freerun.ticks import Clock
from processors import offline
from processors.loop import Loop
from processors.setup import pipeline_of
from producers.__main__ import make_driver

ROOT = Path(__file__).resolve().parents[1]
MS = 1_000_000
V1 = words.get_format("padova-v1")
ANCHOR = 40 * MS  # the 53 ms of the recording then lie across a border of 100 ms


# ------------------------------------------------------------------ the recorded run


@pytest.fixture(scope="module")
def recording(shared_data: Path) -> Path:
    return shared_data / "minidt" / "run637_first60000.dat"


@pytest.fixture(scope="module")
def answers(shared_data: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (shared_data / "minidt" / "run637_first60000.ref.json").read_text()
    )
    return found


@lru_cache
def uncut_recording(path: Path, builder: str) -> tuple[pa.Table, pa.Table]:
    """Events and hits in none of the whole stream, built at once, without Kafka."""
    bench = bench_of(Wishes(path, "padova-v1", builder=builder), None, "uncut", Path("."))
    rows = {"tdc": (V1.name, np.fromfile(path, "<u8"), Clock(ANCHOR, 25, 30))}
    start = 344_745_000 * MS
    name = bench.pipelines[0].id
    tables = offline.uncut(pipeline_of(bench, name), bench, start, 1_000 * MS, rows)
    assert not (tables.hits["flags"].to_numpy() & FLAG_NEIGHBOUR).any()
    return pa.table(tables.events), pa.table(tables.hits)


def recorded_lab(
    broker: str, name: str, folder: Path, path: Path, length: int, partitions: int,
    builder: str = "gaps",
) -> Any:  # fmt: skip
    bench = bench_of(Wishes(path, "padova-v1", slice=f"{length} ms", builder=builder), None,
                     name, folder)  # fmt: skip
    slice_ns, plan = length * MS, look(bench, path)
    assert (plan.anchor, plan.first) == (0, 344_745_734_939_071 // slice_ns)
    assert plan.last == 344_745_788_042_973 // slice_ns
    low, high = 344_745_734_939_071 + ANCHOR, 344_745_788_042_973 + ANCHOR
    return lab(broker, bench, folder, partitions, low // slice_ns, high // slice_ns, ANCHOR)


def same_as_uncut(found: Results, path: Path, builder: str = "gaps") -> None:
    events, hits = uncut_recording(path, builder)
    assert found.events.equals(events)
    assert found.hits.equals(hits)


@pytest.mark.parametrize("length", [1, 10, 100])
@pytest.mark.parametrize("partitions", [1, 4, 16])
def test_recorded_inline(
    broker: str, installation: str, tmp_path: Path, recording: Path, answers: dict[str, Any],
    length: int, partitions: int,
) -> None:  # fmt: skip
    with recorded_lab(broker, installation, tmp_path, recording, length, partitions) as run:
        run.start_sources()
        assert run.run_lane("gaps") == 0
        found = run.results("gaps")
        same_as_uncut(found, recording)
        clusters(found, answers)
        per_channel(run, found, answers)
        counts_and_orbits_of_raw(run, answers)
        account = run.account()
        assert account["ok"], account["gaps"]
        assert account["losses"] == 0
        tdc = account["sources"]["tdc"]
        assert (tdc["read"], tdc["hits"], tdc["other"]) == (60_000, 55_005, 4_995)


def clusters(found: Results, answers: dict[str, Any]) -> None:
    sizes = np.diff(found.events["hit"].combine_chunks().offsets.to_numpy())
    answer = answers["gap_clusters_200ns"]
    assert len(sizes) == answer["clusters"] and sizes.max() == answer["max"]
    assert {str(n): c for n, c in enumerate(np.bincount(sizes).tolist()) if c} == answer["hist"]


def per_channel(run: Lab, found: Results, answers: dict[str, Any]) -> None:
    """Tubes: from the hits of the published events; and from the histograms, per chamber."""
    hits = found.events["hit"].combine_chunks().flatten()
    channel, ticks = hits.field("channel").to_numpy(), hits.field("ticks").to_numpy()
    told = {f: {int(c): n for c, n in counts.items() if int(c) < 128}
            for f, counts in answers["counts_raw_channel"].items()}  # fmt: skip
    assert counts_of(channel >> 9, channel & 511) == told
    chambers = np.bincount(2 * (channel >> 9) + ((channel & 511) >= 64), minlength=4)
    expected = list(answers["hits_per_chamber"].values())
    assert chambers.tolist() == expected and len(ticks) == answers["physical_hits"]
    monitor = run.monitor("gaps")
    assert [int(monitor[f"ch{i}/occupancy"].sum()) for i in range(4)] == expected
    for i in range(4):
        # layer of raw channel % 4, cell: as the reference's channel counts fill them
        table = np.zeros((4, 16), np.int64)
        for c, n in told[str(i // 2)].items():
            if (c >= 64) == (i % 2 == 1):
                table[[4, 2, 3, 1][c % 4] - 1, c % 64 // 4] = n
        assert (monitor[f"ch{i}/occupancy"] == table).all()


def counts_and_orbits_of_raw(run: Lab, answers: dict[str, Any]) -> None:
    """All words, special ones too: decoded from what the raw topic holds."""
    parts, rows = run.raw("tdc")
    assert not any(p.late for p in parts)
    fields = rows.astype(np.int64)
    assert len(rows) == answers["words"]
    told = {f: {int(c): n for c, n in counts.items()}
            for f, counts in answers["counts_raw_channel"].items()}  # fmt: skip
    assert counts_of(fields >> 58 & 15, fields >> 49 & 511) == told
    orbit = fields >> 17 & 0xFFFFFFFF
    assert (orbit.min(), orbit.max()) == (answers["orbit_min"], answers["orbit_max"])
    assert len(np.unique(orbit)) == answers["unique_orbits"]
    assert int(orbit.sum()) == answers["sum_orbit"]
    assert int((fields >> 5 & 4095).sum()) == answers["sum_bx"]
    assert int((fields & 31).sum()) == answers["sum_tdc_raw"]


def counts_of(board: Any, channel: Any) -> dict[str, dict[int, int]]:
    out: dict[str, dict[int, int]] = {}
    for f in np.unique(board).tolist():
        counts = np.bincount(channel[board == f])
        out[str(f)] = {int(c): int(counts[c]) for c in np.flatnonzero(counts)}
    return out


def test_recorded_tracks_in_slices_of_a_millisecond(
    broker: str, installation: str, tmp_path: Path, recording: Path
) -> None:
    """The builder that people use, in data so dense that every cut goes through events."""
    with recorded_lab(
        broker, installation, tmp_path, recording, 1, 4, builder="drift_tubes"
    ) as run:
        run.start_sources()
        run.run_lane("muons")
        same_as_uncut(run.results("muons"), recording, "drift_tubes")


# ------------------------------------------------------------------ on Dask


@pytest.fixture(scope="module")
def dask(tmp_path_factory: pytest.TempPathFactory, recording: Path) -> Iterator[Path]:
    """A scheduler and a worker, as `freerun up` starts them; the scheduler's file."""
    folder = tmp_path_factory.mktemp("dask")
    bench = bench_of(Wishes(recording, "padova-v1", builder="gaps"), None, "warm", folder)
    path = folder / "bench.toml"
    path.write_text(bench.resolved_toml())
    cluster = Installation(config.load(path), folder, path, say=lambda _: None)
    cluster.supervisor = Supervisor(folder / "logs")
    cluster.hidden.mkdir(exist_ok=True)
    try:
        cluster._dask({})
        yield cluster.scheduler_file
    finally:
        for service in cluster.supervisor.services.values():
            if service.process is not None:  # their lanes' topics are gone: nothing to end well
                service.process.kill()
        cluster.supervisor.stop()


@pytest.mark.parametrize(("length", "partitions"), [(1, 4), (10, 16), (100, 1)])
def test_recorded_on_dask(
    broker: str, installation: str, tmp_path: Path, recording: Path, answers: dict[str, Any],
    dask: Path, length: int, partitions: int,
) -> None:  # fmt: skip
    with recorded_lab(broker, installation, tmp_path, recording, length, partitions) as run:
        run.start_sources()
        run.in_thread(lambda: Loop(run.service, "gaps").run_dask(dask, run.stopping))
        run.wait_for_results("gaps")
        found = run.results("gaps")
        same_as_uncut(found, recording)
        clusters(found, answers)
        assert run.account()["ok"]


# ------------------------------------------------------------------ a minute of a telescope

FIRST_BLOCK, BLOCKS = 170_000_000_003, 6_000  # 60 s that begin and end within a slice
EPOCH = 1_700_000_000_000_000_000


def telescope_bench(name: str, slice_: str) -> Bench:
    """The demonstration's bench in a thin beam: 2 kHz of muons, three sources."""
    raw = tomllib.loads((ROOT / "configs" / "bench.toml").read_text())
    raw["system"]["name"] = name
    raw["time"]["slice"] = slice_
    raw["simulation"] |= {"seed": 7, "muon_rate": "2 kHz", "noise": "20 Hz", "noisy": []}
    for source in raw["source"]:
        source |= {"first_block": FIRST_BLOCK, "blocks": BLOCKS}
    return config.from_dict(raw)


@lru_cache
def uncut_telescope() -> tuple[pa.Table, pa.Table, pa.Table, int]:
    """The minute at once, without Kafka; and how many words it has."""
    bench = telescope_bench("uncut", "100 ms")
    rows, n = {}, 0
    for source in bench.sources:
        driver: Any = make_driver(bench, source, "data")
        clock = Clock(EPOCH, driver.tick.numerator, driver.tick.denominator)
        blocks = range(FIRST_BLOCK, FIRST_BLOCK + BLOCKS)
        all_rows = driver.join([driver.make(b, clock) for b in blocks])
        rows[source.id] = (driver.schema, all_rows, clock)
        n += len(all_rows)
    start = FIRST_BLOCK * BLOCK_NS - 30 * MS
    tables = offline.uncut(
        pipeline_of(bench, "muons"), bench, start, BLOCKS * BLOCK_NS + 100 * MS, rows
    )
    return pa.table(tables.events), pa.table(tables.hits), pa.table(tables.pulses), n


@pytest.mark.parametrize(("slice_", "partitions"), [("100 ms", 4), ("330 ms", 3)])
def test_a_minute_of_three_sources(
    broker: str, installation: str, tmp_path: Path, slice_: str, partitions: int
) -> None:
    bench = telescope_bench(installation, slice_)
    length, begin = bench.time.slice, FIRST_BLOCK * BLOCK_NS
    first, last = begin // length, (begin + BLOCKS * BLOCK_NS - 1) // length
    with lab(broker, bench, tmp_path, partitions, first, last, EPOCH) as run:
        run.start_sources()
        assert run.run_lane("muons") == 0
        found = run.results("muons")
        events, hits, pulses, n = uncut_telescope()
        assert len(found.infos) == last - first + 1 >= 181
        assert found.events.equals(events)
        assert found.hits.equals(hits)
        assert found.pulses.equals(pulses.drop_columns("index"))
        account = run.account()
        assert account["ok"], account["gaps"]
        assert account["losses"] == 0 and n > 2_000_000
        assert sum(s["read"] for s in account["sources"].values()) == n
        assert events.num_rows > 100_000
