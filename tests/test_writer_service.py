"""The writer as a process, on a real broker: a run from Kafka to its folder, killed in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import make_results as make
import pyarrow.parquet as pq
import pytest
import test_writer_root as root
import tomli_w
import uproot

from controllers.documents import RunsTopic
from freerun import kafka
from freerun.app import open as opening
from freerun.compacted import newest
from freerun.plan import DATA, Entry, Install
from freerun.topics import Topics, ensure

P, FIRST = 4, 1000

ROOT = Path(__file__).resolve().parents[1]


def bench_of(name: str, data: Path) -> str:
    """The demonstration's bench under another name, with small files."""
    bench = tomllib.loads((ROOT / "configs" / "bench.toml").read_text())
    bench["system"] |= {"name": name, "data": str(data)}
    bench["write"] = [{"what": ["muons"], "format": "root", "roll": {"events": 100}}]
    return tomli_w.dumps(bench)


class Lab:
    """An installation with a plan, results and documents, and nobody but us behind them."""

    def __init__(self, address: str, name: str, folder: Path) -> None:
        self.address, self.topics, self.data = address, Topics(name), folder / "data"
        self.bench = folder / "bench.toml"
        self.bench.write_text(bench_of(name, self.data))
        ensure(kafka.Broker(address), self.topics.all(["tdc0"], ["muons"], P))
        self.transactions = kafka.Transactional(address, f"{name}.test")
        self.transactions.init()
        self.publisher = kafka.Publisher(address, f"{name}.test")
        self.runs = RunsTopic(address, self.topics, f"{name}.test", self.publisher)
        self.seq = 0
        self.plan(Install("u1", make.L, P, 5000).to_json())

    def plan(self, value: bytes) -> None:
        self.transactions.commit([kafka.Outgoing(self.topics.plan, 0, value)])

    def entry(self, kind: str, from_slice: int, run: int | None) -> None:
        self.seq += 1
        self.plan(Entry(self.seq, from_slice, kind, run, DATA, {"tdc0": True}).to_json())

    def document(self, run: int, **changes: Any) -> None:
        self.runs.put_run({
            "run": run, "state": "running", "type": "beam", "system": self.topics.system,
            "slice_ns": make.L, "sources": list(make.SOURCES), "pipelines": ["muons"],
            "first": FIRST, "last": None, "bench_toml": "",
        } | changes)  # fmt: skip
        assert self.publisher.flush() == 0

    def results(self, first: int, last: int, since: int) -> None:
        for k in range(first, last + 1):
            out = [
                kafka.Outgoing(self.topics.events("muons"), p, body, headers)
                for p, headers, body in make.records(k, since, P)
            ]
            headers, body, _ = root.delta(k)
            p = make.partition(k, P)
            out.append(kafka.Outgoing(self.topics.monitor("muons"), p, body, headers))
            self.transactions.commit(out)

    def writer(self) -> subprocess.Popen[bytes]:
        log = (self.bench.parent / "writer.log").open("ab")
        with log:
            return subprocess.Popen(
                [sys.executable, "-m", "controllers", "writer", "--bench", str(self.bench),
                 "--kafka", self.address],
                stderr=log, env=os.environ | {"PYTHONPATH": str(ROOT)},
            )  # fmt: skip

    def told(self, run: int) -> dict[str, Any]:
        self.runs.poll(0.05)
        return self.runs.documents.of_run(run).get("root0") or {}

    def close(self) -> None:
        self.runs.close()
        self.transactions.close()


@pytest.fixture
def lab(broker: str, installation: str, tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(broker, installation, tmp_path)
    try:
        yield lab
    finally:
        lab.close()
        names = [n for n in kafka.Broker(broker).partitions() if n.startswith(f"{installation}.")]
        kafka.Broker(broker).delete(names)


def until(what: Callable[[], bool], lab: Lab, seconds: float = 40.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, (lab.bench.parent / "writer.log").read_text()
        time.sleep(0.05)


def test_two_runs_with_a_kill_in_the_middle(lab: Lab) -> None:
    lab.entry("start", FIRST, 41)
    lab.document(41)
    lab.results(FIRST, FIRST + 12, FIRST)
    writer = lab.writer()
    try:
        folder = lab.data / "Run000041"
        until(lambda: len(lab.told(41).get("files", [])) == 2, lab)  # 2 × 5 slices of 20 events
        assert lab.told(41)["state"] == "open"
        until(lambda: lab.told(41)["n_events"] == 260, lab)  # the open file counts too
        state = newest(lab.address, lab.topics.state)["writer/root0"]
        assert (state["state"], state["run"], state["next"]) == ("RUNNING", 41, FIRST + 13)
        assert state["files"] == 2 and state["events"] == 260 and state["duplicates"] == 0
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        assert len(list(folder.glob(".*.part"))) == 1
        lab.results(FIRST + 13, FIRST + 16, FIRST)
        lab.entry("stop", FIRST + 17, None)
        # the next run begins before the last one is written
        lab.entry("start", FIRST + 20, 42)
        lab.results(FIRST + 20, FIRST + 22, FIRST)
        lab.document(42, first=FIRST + 20)
        writer = lab.writer()
        until(lambda: lab.told(41).get("state") == "closed", lab)
        assert not list(folder.glob(".*"))
        until(lambda: lab.told(42).get("n_events") == 60, lab)
        lab.entry("stop", FIRST + 23, None)
        until(lambda: lab.told(42).get("state") == "closed", lab)
        # a document that becomes final just before the writer is told to stop
        writer.send_signal(signal.SIGSTOP)
        lab.document(41, state="closed", last=FIRST + 16)
        writer.send_signal(signal.SIGTERM)
        writer.send_signal(signal.SIGCONT)
        assert writer.wait(20) == 0
        assert json.loads((folder / "run.json").read_text())["state"] == "closed"
        # a document that becomes final while nobody writes
        lab.document(42, state="failed", last=FIRST + 22)
        writer = lab.writer()
        other = lab.data / "Run000042" / "run.json"
        until(lambda: json.loads(other.read_text())["state"] == "failed", lab)
    finally:
        writer.send_signal(signal.SIGTERM)
        assert writer.wait(20) == 0
    check_files(lab)


def check_files(lab: Lab) -> None:
    run = opening.open(41, lab.data)
    slices = run.events().slice
    assert sorted(set(slices.to_list())) == list(range(FIRST, FIRST + 17)) and len(slices) == 340
    data = [f for f in lab.told(41)["files"] if f["kind"] == "events"]
    assert [f["rows"]["slices"] for f in data] == [5, 5, 5, 2]
    assert run.ledger()["tdc0"]["read"] == 120 * 17
    wanted = sum(root.delta(k)[2]["ch0/occupancy"] for k in range(FIRST, FIRST + 17))
    assert (run.hist("ch0/occupancy").values() == wanted).all()
    # the second run's counts go on where the first one's ended: 3 slices and the pause
    second = opening.open(42, lab.data)
    assert second.ledger()["tdc0"]["read"] == 120 * 6
    assert (lab.data / "Run000042" / "bench.resolved.toml").exists()
    truth = pq.read_table(lab.data / "Run000041" / "Run000041_truth.parquet", columns=["t0_ns"])
    t0 = truth["t0_ns"].to_numpy()
    assert t0[0] >= FIRST * make.L and t0[-1] < (FIRST + 17) * make.L and len(t0) > 50_000
    with uproot.open(run.files()[0]) as file:
        assert json.loads(str(file["run_document"]))["state"] == "running"


def test_a_full_disk_ends_the_writer_with_code_3(lab: Lab) -> None:
    lab.data.parent.joinpath("data").write_text("no folder")  # as good as a disk that refuses
    lab.entry("start", FIRST, 41)
    lab.document(41)
    writer = lab.writer()
    try:
        assert writer.wait(30) == 3
    finally:
        writer.kill()
        writer.wait()
    log = (lab.bench.parent / "writer.log").read_text()
    assert f"cannot write the run's files in {lab.data}/Run000041" in log
    assert newest(lab.address, lab.topics.state)["writer/root0"]["state"] == "ERROR"
