"""A run looked at again: its ledger from topics and files, its events from the raw words."""

from __future__ import annotations

import csv
import json
import re
import shutil
import threading
import time
import tomllib
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import confluent_kafka
import pytest
from confluent_kafka.admin import AdminClient
from make_replay import PATIENCE_S, Lab, lab
from test_lane import lane
from typer.testing import CliRunner

from controllers import closing
from controllers import verify as windows
from controllers.writer.service import Writer
from freerun import config
from freerun.app.cli import app
from freerun.app.replay_verify import run_number
from freerun.app.verify import Verified, documents, plan_of, verify
from freerun.config import Bench
from freerun.errors import ConfigError, LedgerGap
from freerun.kafka import BrokerTrouble, Outgoing, Sender
from freerun.plan import DATA, Entry
from freerun.service import Service
from freerun.simulation import BLOCK_NS
from freerun.slices import partition
from processors.again import Comparison, again

ROOT = Path(__file__).resolve().parents[1]
FIRST_BLOCK, BLOCKS = 170_000_000_000, 120
EPOCH = 1_700_000_000_000_000_000
P = 3


def bench_of(name: str) -> Bench:
    """A second of the demonstration's telescope in a thin beam, in files of a few slices."""
    raw = tomllib.loads((ROOT / "configs" / "bench.toml").read_text())
    raw["system"]["name"] = name
    raw["simulation"] |= {"seed": 3, "muon_rate": "2 kHz", "noise": "20 Hz", "noisy": []}
    raw["write"] = [{"what": ["muons"], "format": "root", "roll": {"every": "500 ms"}}]
    raw.pop("run_type")
    for source in raw["source"]:
        source |= {"first_block": FIRST_BLOCK, "blocks": BLOCKS}
    return config.from_dict(raw)


def new_lab(broker: str, name: str, folder: Path) -> Any:
    bench = bench_of(name)
    length, begin = bench.time.slice, FIRST_BLOCK * BLOCK_NS
    first, last = begin // length, (begin + BLOCKS * BLOCK_NS - 1) // length
    return lab(broker, bench, folder, P, first, last, EPOCH)


def close_run(run: Lab) -> dict[str, Any]:
    """A writer, until the run's document is closed and in its folder."""
    serving = Service(run.bench, run.address, run.service.data, run.topics, Namespace())
    writer = threading.Thread(target=Writer(serving, "root0").serve, daemon=True)
    writer.start()
    end = time.monotonic() + PATIENCE_S
    path = run.service.data / "Run000001" / "run.json"
    try:
        while True:
            document = run.control.turn()
            written = json.loads(path.read_text()) if path.exists() else {}
            if document["state"] == written.get("state") == "closed":
                return document
            assert time.monotonic() < end, document
            assert writer.is_alive() and not run.failures
    finally:
        serving.stopping.set()
        writer.join(30)


@pytest.fixture(scope="module")
def run(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A run from its sources to its files."""
    folder = tmp_path_factory.mktemp("verify")
    with new_lab(broker, f"tv{time.time_ns():x}", folder) as made:
        made.start_sources()
        made.run_lane("muons")
        document = close_run(made)
        assert document["exit"] == 0, document["ledger"]["gaps"]
        yield made


def look(run: Lab, **more: Any) -> Verified:
    return verify(run.address, run.bench, 1, **more)


def compared(run: Lab, bench: Bench | None = None) -> Comparison:
    plan = plan_of(run.address, run.topics)
    first = plan.runs()[0]
    return again(run.address, run.topics, bench or run.bench, plan, first, "muons")


# ------------------------------------------------------------------ a good run


def test_the_ledger_is_the_same_when_it_is_computed_again(run: Lab) -> None:
    document, outputs = documents(run.address, run.topics, 1)
    found = look(run, deep=True)
    assert found.ok and not found.gaps and not found.unknown, found.gaps
    assert found.line == document["ledger"]["line"]
    for name in ("events", "slices", "sources"):
        assert found.verdict[name] == document["ledger"][name]
    deep = found.deep["muons"]
    assert deep["slices"] == run.last - run.first + 1
    assert deep["events"] == document["n_events"] > 1000
    assert len([f for f in outputs["root0"]["files"] if f["kind"] == "events"]) == 3
    live = found.verdict["sources"]["tdc0"]["live_ns"]
    assert live == (run.last - run.first + 1) * run.bench.time.slice


def test_the_ledger_is_the_same_a_few_slices_at_a_time(
    run: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = look(run)
    monkeypatch.setattr(windows, "WINDOW", 4)
    parts = look(run)
    assert parts.ok and parts.to_json() == whole.to_json()


def test_the_tables_beside_the_files(run: Lab) -> None:
    document, _ = documents(run.address, run.topics, 1)
    folder = Path(document["folder"])
    totals = list(csv.DictReader((folder / "Run000001_ledger.csv").open()))
    assert [t["source"] for t in totals] == sorted(document["ledger"]["sources"])
    for t in totals:
        told = document["ledger"]["sources"][t["source"]]
        assert {n: float(t[n]) for n in t if n != "source"} == {n: told[n] for n in t
                                                               if n != "source"}  # fmt: skip
    rates = list(csv.DictReader((folder / "Run000001_rates.csv").open()))
    seconds = (run.last - run.first + 1) * run.bench.time.slice / 1e9  # less than one interval
    assert [r["source"] for r in rates] == [s.id for s in run.bench.sources]
    for r in rates:
        assert (r["t_run_s"], r["pipeline"], float(r["live_fraction"])) == ("0", "muons", 1.0)
        rows = document["ledger"]["sources"][r["source"]]["processed"]
        assert float(r["rows_per_s"]) == pytest.approx(rows / seconds, abs=0.1)
        assert float(r["events_per_s"]) == pytest.approx(document["n_events"] / seconds, abs=0.1)


def test_processed_again_not_a_bit_differs(run: Lab) -> None:
    found = compared(run)
    assert (found.different, found.gaps, found.unknown) == (0, [], [])
    assert found.slices == run.last - run.first + 1


def test_another_builder_is_seen_in_the_first_column(run: Lab) -> None:
    raw = run.bench.resolved()
    raw["pipeline"][0]["window"] = ["-50 ns", "400 ns"]
    found = compared(run, config.from_dict(raw))
    assert found.different > 0
    first = found.differences[0]
    assert first.k in range(run.first, run.last + 1) and first.table in ("header", "events")
    assert f"slice {first.k}" in str(first) and "live" in str(first)


def test_the_commands_say_it_and_exit_by_it(
    run: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FREERUN_KAFKA", run.address)
    bench, told = ("--bench", str(run.paths[0])), tmp_path / "verified.json"
    good = CliRunner().invoke(app, ["run", "verify", "1", "--json", str(told), *bench])
    assert good.exit_code == 0 and "LEDGER closed" in good.stdout.splitlines()[-1]
    assert json.loads(told.read_text())["ok"] is True
    same = CliRunner().invoke(app, ["replay", "Run000001", "--verify", *bench])
    assert same.exit_code == 0 and "bit by bit the same" in same.stdout
    copy = tmp_path / "data"
    shutil.copytree(run.service.data, copy)
    (copy / "Run000001" / "Run000001_muons_0001.root").unlink()
    bad = CliRunner().invoke(app, ["run", "verify", "1", *bench, "--data", str(copy)])
    assert "gap       Run000001_muons_0001.root is not in" in bad.stdout
    assert isinstance(bad.exception, LedgerGap) and bad.exception.exit_code == 1
    assert str(bad.exception).startswith("LEDGER has a gap: ")


def test_runs_that_are_not_there(run: Lab) -> None:
    with pytest.raises(ConfigError, match=r"there is no run 7 of .*: the newest is 1"):
        verify(run.address, run.bench, 7)
    assert [run_number(t) for t in ("42", "Run000042", "data/b/Run000042/")] == [42] * 3
    with pytest.raises(ConfigError, match="neither"):
        run_number("words.dat")


# ------------------------------------------------------------------ files that were changed


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def other_sidecar(path: Path) -> None:
    sidecar = path.with_name(f"{path.name}.json")
    told = json.loads(sidecar.read_text()) | {"sha256": "0" * 64}
    sidecar.write_text(json.dumps(told))


def without_manifest(path: Path) -> None:
    (path.parent / "manifest.json").unlink()


def foreign(path: Path) -> None:
    shutil.copy(path, path.with_name("Run000001_muons_0009.root"))


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (flip, "Run000001_muons_0001.root: its content has changed"),
        (shorten, "Run000001_muons_0001.root: .* bytes, the writer said"),
        (other_sidecar, "Run000001_muons_0001.root: its sha256 in sidecar is not"),
        (without_manifest, "manifest.json cannot be read"),
        (Path.unlink, "Run000001_muons_0001.root is not in"),
        (foreign, "Run000001_muons_0009.root is in the folder, but no writer"),
    ],
)
def test_a_changed_file_is_a_gap_with_its_name(
    run: Lab, tmp_path: Path, harm: Callable[[Path], None], says: str
) -> None:
    shutil.copytree(run.service.data, tmp_path / "data")
    harm(tmp_path / "data" / "Run000001" / "Run000001_muons_0001.root")
    found = look(run, data=tmp_path / "data")
    assert not found.ok
    assert any(re.search(says, gap) for gap in found.gaps), found.gaps
    assert found.line.startswith("LEDGER has a gap: ")


# ------------------------------------------------------------------ what retention took


def cut_topic(run: Lab, topic: str, slices: int) -> None:
    """Retention takes the first records of each partition, as many slices of it."""
    admin = AdminClient({"bootstrap.servers": run.address})
    before: dict[int, int] = {}
    for record in run.records(topic):
        k = next(int(v) for n, v in record.headers if n == "k")
        if k < run.first + slices:
            before[record.partition] = record.offset + 1
    gone = [confluent_kafka.TopicPartition(topic, p, o) for p, o in before.items()]
    for future in admin.delete_records(gone).values():
        future.result(20)


def test_what_retention_took_is_said_and_not_guessed(broker: str, tmp_path: Path) -> None:
    with new_lab(broker, f"tr{time.time_ns():x}", tmp_path) as run:
        run.start_sources()
        run.run_lane("muons")
        document = close_run(run)
        cut_topic(run, run.topics.raw("tdc1"), 4)
        found = look(run, deep=True)
        assert found.ok, found.gaps
        assert any("what tdc1 sent before slice" in u for u in found.unknown)
        assert any("cannot be built again" in u for u in found.unknown)
        assert 0 < found.deep["muons"]["slices"] < run.last - run.first + 1
        assert found.line.startswith("LEDGER closed as far as can be known")
        assert found.verdict["events"] == document["ledger"]["events"]
        part = compared(run)
        assert part.different == 0 and part.unknown and 0 < part.slices < 12

        cut_topic(run, run.topics.events("muons"), 6)
        found = look(run)
        assert found.ok, found.gaps
        assert any("the files stand in for them" in u for u in found.unknown)
        assert found.verdict["events"] == document["ledger"]["events"]
        for name in ("processed", "hits", "in_events", "unassigned"):
            assert (
                found.verdict["sources"]["tdc0"][name]
                == document["ledger"]["sources"]["tdc0"][name]
            )

        # a part of a result that was published already
        (record, *_) = list(run.records(run.topics.events("muons")))
        sender = Sender(run.address, "copier", lambda token, error: None)
        assert sender.send(Outgoing(record.topic, record.partition, record.value, record.headers),
                           None)  # fmt: skip
        assert sender.flush(10) == 0
        again_ = look(run)
        assert not again_.ok and any("not whole" in gap for gap in again_.gaps), again_.gaps


# ------------------------------------------------------------------ decisions of the moment


def test_who_was_given_up_live_is_given_up_again(
    broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """digi0 is given up before it sends: one partition goes without it, and then it does send.
    The plan says the same of all slices, only the results know."""
    with new_lab(broker, f"tg{time.time_ns():x}", tmp_path) as run:
        run.start_sources("tdc0", "tdc1")
        writer = run.control._writer
        start = writer.plan.entries[0]
        writer.issue(Entry(0, run.first, "give_up", 1, DATA, dict(start.roster), start.anchors,
                           start.offsets, given_up={"digi0": "LOST"}))  # fmt: skip
        one = lane(run, 0)
        try:
            mine = [k for k in range(run.first, run.last + 1) if partition(k, P) == 0]
            done, end = 0, time.monotonic() + PATIENCE_S
            while done < len(mine):
                done += one.run([0], 0.1).slices
                assert time.monotonic() < end and not run.failures
        finally:
            one.close()
        run.start_sources("digi0")
        wait_for_marks(run, "digi0")
        two = lane(run, 1)
        try:
            while done < run.last - run.first + 1:
                done += two.run(range(P), 0.1).slices
                assert time.monotonic() < end and not run.failures
        finally:
            two.close()
        run.wait_for_results("muons")
        infos = dict(zip(range(run.first, run.last + 1), run.results("muons").infos, strict=True))
        for k, info in infos.items():
            assert ("digi0" in info["missing"]) == (partition(k, P) == 0)
        document = close_run(run)
        assert document["exit"] == 0, document["ledger"]["gaps"]
        assert document["ledger"]["sources"]["digi0"]["losses"].keys() == {"given_up"}
        found = compared(run)
        assert (found.different, found.gaps, found.unknown) == (0, [], []), found.differences
        deep = look(run, deep=True)
        assert deep.ok, deep.gaps
        assert deep.deep["muons"]["slices"] == len(infos)
        whole = look(run)
        monkeypatch.setattr(windows, "WINDOW", 2)
        assert look(run).to_json() == whole.to_json()


def wait_for_marks(run: Lab, source: str) -> None:
    """Until a source has sent its last marks to every partition."""
    end = time.monotonic() + PATIENCE_S
    while True:
        parts, _ = run.raw(source)
        if len([p for p in parts if p.part == -1 and p.k == run.last + 1]) == P:
            return
        assert time.monotonic() < end and not run.failures
        time.sleep(0.1)


# ------------------------------------------------------------------ closing


@pytest.mark.parametrize(
    "why", [ZeroDivisionError("a mistake in freerun"), BrokerTrouble("a topic is gone")], ids=repr
)
def test_a_ledger_that_cannot_be_computed_ends_as_a_gap(
    broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: Exception
) -> None:
    """Whatever goes wrong in it: a few tries, then the run is closed and says so. Kafka that gives
    no answer is asked for longer."""
    tries: list[int] = []

    def broken(*_: Any, **__: Any) -> Any:
        tries.append(1)
        raise why

    monkeypatch.setattr(closing, "TROUBLE_S", 2.5)
    monkeypatch.setattr(closing, "apart", broken)
    with new_lab(broker, f"tc{time.time_ns():x}", tmp_path) as run:
        run.start_sources()
        run.run_lane("muons")
        document = close_run(run)
    if isinstance(why, BrokerTrouble):
        assert len(tries) >= 2  # how many it is in that time, depends on the machine
    else:
        assert len(tries) == closing.TRIES
    assert (document["state"], document["exit"]) == ("closed", 1)
    assert document["ledger"]["gaps"] == [
        f"the ledger could not be computed ({len(tries)} tries): {type(why).__name__}: {why}"
    ]
    assert "could not be computed" in document["ledger"]["line"]
