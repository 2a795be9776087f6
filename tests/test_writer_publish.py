"""Files appear only when whole, each number once; what happens when writers die or disagree."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import make_results as make
import numpy as np
import pytest
import uproot

from controllers.writer import folder as run_folder
from controllers.writer import publish, truth
from controllers.writer.accounts import Accounts
from controllers.writer.chain import Chain
from controllers.writer.job import MONITOR, Output, RunJob, Setup
from controllers.writer.rootfile import RootFile
from controllers.writer.series import BeginAgain, Roll, Series, closes_before
from controllers.writer.tables import RunFacts
from freerun.errors import EnvironmentProblem

FIRST, LAST, P = 1000, 1019, 4
RUN = RunFacts(42, FIRST, make.L, make.SOURCES)


@pytest.fixture(scope="module")
def log() -> make.Log:
    out = make.Log(P)
    for k in range(FIRST, LAST + 1):
        out.append(make.records(k, FIRST, P, n_events=4, n_hits=6, n_pulses=2))
    return out


def series(folder: Path, slices: int = 6, who: str = "", **more: object) -> Series:
    return Series(
        folder, RUN, "muons", "u1", Roll(slices=slices),
        lambda: {"README": "r", "run_document": "{}", "bench_toml": ""}, who=who, **more,
    )  # fmt: skip


def chain_of(s: Series, log: make.Log) -> Chain:
    """A fresh chain behind what is published, fed with everything from there on."""
    offsets = s.resume() or {}
    chain = Chain(s.next, offsets, P)
    log.feed(chain, offsets)
    return chain


def go_on(s: Series, chain: Chain, n: int = 1000) -> None:
    for _ in range(n):
        result = chain.take(LAST)
        if result is None:
            return s.finish()
        s.add(result, chain.offsets)
    return None


def check(folder: Path) -> list[tuple[int, int]]:
    """Every slice in exactly one file, every sidecar tells the truth; returns the cuts."""
    files = sorted(folder.glob("*.root"))
    seen: list[int] = []
    cuts = []
    for path in files:
        sidecar = json.loads(publish.sidecar_path(path).read_text())
        assert sidecar["sha256"] == publish.sha256_of(path)
        assert sidecar["bytes"] == path.stat().st_size and sidecar["name"] == path.name
        with uproot.open(path) as file:
            slices = file["slices"]["slice"].array(library="np").tolist()
            assert {t: file[t].num_entries for t in sidecar["rows"]} == sidecar["rows"]
        assert [slices[0], slices[-1] + 1] == [sidecar["first"], sidecar["next"]]
        seen += slices
        cuts.append((slices[0], slices[-1]))
    assert seen == list(range(FIRST, LAST + 1))
    assert not list(folder.glob(".*"))
    return cuts


def test_files_roll_and_hold_every_slice_once(tmp_path: Path, log: make.Log) -> None:
    s = series(tmp_path)
    go_on(s, chain_of(s, log))
    assert check(tmp_path) == [(1000, 1005), (1006, 1011), (1012, 1017), (1018, 1019)]
    assert s.events == 20 * 4


@pytest.mark.parametrize("n", [0, 1, 5, 6, 7, 13, 20])
def test_the_heir_goes_on_behind_the_last_sidecar(tmp_path: Path, log: make.Log, n: int) -> None:
    dead = series(tmp_path, who="elsewhere-1")
    go_on(dead, chain_of(dead, log), n)  # … and is never heard of again
    heir = series(tmp_path)
    go_on(heir, chain_of(heir, log))
    for rest in tmp_path.glob(".*.part"):  # of the dead one, on another host
        rest.unlink()
    assert check(tmp_path) == [(1000, 1005), (1006, 1011), (1012, 1017), (1018, 1019)]
    ledger = np.concatenate(
        [
            uproot.open(p)["ledger"]["read"].array(library="np")
            for p in sorted(tmp_path.glob("*.root"))
        ]
    )
    assert set(ledger) == {120}  # differences of closes go on over the file's border


def test_foreign_sidecar(tmp_path: Path, log: make.Log) -> None:
    """A writer links its file and dies; the heir's sidecar is of the file that is there."""
    heir = series(tmp_path, who="h-2")
    chain = chain_of(heir, log)
    dead = series(tmp_path, who="h-1")
    go_on(dead, chain_of(dead, log), 6)
    final = dead.path(0)
    publish.sidecar_path(final).unlink()  # it died between link and sidecar
    inode = final.stat().st_ino
    with pytest.raises(BeginAgain):
        go_on(heir, chain)
    assert final.stat().st_ino == inode
    go_on(heir, chain_of(heir, log))
    check(tmp_path)


def test_a_file_without_sidecar_is_taken_at_the_start(tmp_path: Path, log: make.Log) -> None:
    dead = series(tmp_path)
    go_on(dead, chain_of(dead, log), 6)
    before = json.loads(publish.sidecar_path(dead.path(0)).read_text())
    publish.sidecar_path(dead.path(0)).unlink()
    heir = series(tmp_path)
    go_on(heir, chain_of(heir, log))
    assert json.loads(publish.sidecar_path(dead.path(0)).read_text()) == before
    check(tmp_path)


def test_a_sidecar_is_made_from_the_trees_alone(tmp_path: Path, log: make.Log) -> None:
    """A file that does not carry its sidecar within, as if an older version had written it."""
    chain = Chain(FIRST, {}, P)
    log.feed(chain)
    heir = series(tmp_path)
    file = RootFile(heir.path(0), RUN, Accounts(RUN))
    for _ in range(6):
        result = chain.take(LAST)
        assert result is not None
        file.add(result)
    file.close(0, -1, 0, {"README": "old"})
    go_on(heir, chain_of(heir, log))
    made = json.loads(publish.sidecar_path(heir.path(0)).read_text())
    assert made["counts"] == file.totals and made["rows"] == file.rows
    assert made["offsets"] == {} and (made["first"], made["next"]) == (1000, 1006)
    check(tmp_path)


def test_other_cut(tmp_path: Path, log: make.Log) -> None:
    """The heir cuts elsewhere: still no slice in two files, and none in none."""
    old = series(tmp_path, slices=6, who="h-1")
    chain_old = chain_of(old, log)
    new = series(tmp_path, slices=4, who="h-2")
    chain_new = chain_of(new, log)
    go_on(old, chain_old, 6)  # takes number 0 with six slices
    with pytest.raises(BeginAgain):
        go_on(new, chain_new)  # had four for it
    chain_new = chain_of(new, log)
    assert new.next == 1006
    go_on(new, chain_new, 4)  # number 1 is the new one's
    with pytest.raises(BeginAgain):
        go_on(old, chain_old)
    go_on(old, chain_of(old, log))
    assert check(tmp_path)[:3] == [(1000, 1005), (1006, 1009), (1010, 1015)]


def test_shared_temporary(tmp_path: Path, log: make.Log) -> None:
    """A resumed zombie goes on with its own hidden file, never with the heir's."""
    zombie = series(tmp_path, who="h-1")
    chain = chain_of(zombie, log)
    go_on(zombie, chain, 3)
    heir = series(tmp_path, who="h-2")
    chain_heir = chain_of(heir, log)
    go_on(heir, chain_heir, 2)
    assert len(list(tmp_path.glob(".*.part"))) == 2
    writers = [[heir, chain_heir], [zombie, chain]]
    again = 0
    for turn in range(200):  # both go on in turn, each loser begins again
        writer = writers[turn % 2]
        try:
            go_on(writer[0], writer[1], 1)
        except BeginAgain:
            again += 1
            writer[1] = chain_of(writer[0], log)
    assert again
    check(tmp_path)


def test_a_folder_of_another_installation_is_refused(tmp_path: Path, log: make.Log) -> None:
    s = series(tmp_path)
    go_on(s, chain_of(s, log))
    other = series(tmp_path)
    other.installation = "u2"
    with pytest.raises(EnvironmentProblem, match="belongs to installation u1, this is u2: move"):
        other.resume()


def test_a_file_that_is_no_data_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "Run000042_muons_0000.root").write_text("<html>")
    with pytest.raises(EnvironmentProblem, match="cannot be read as a data file"):
        series(tmp_path).resume()


def test_stale_temporaries_of_the_dead_are_removed(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = publish.owner().rsplit("-", 1)[0]
    names = {
        f".a.root.{host}-{dead.pid}.part": False,
        f".a.root.{host}-{os.getpid()}.part": False,
        f".a.root.{host}-{os.getppid()}.part": True,
        f".a.root.otherhost-{dead.pid}.part": True,
        "a.root": True,
    }
    for name in names:
        (tmp_path / name).touch()
    publish.remove_stale(tmp_path)
    assert {name: (tmp_path / name).exists() for name in names} == names


def test_closes_come_from_the_run_before(tmp_path: Path, log: make.Log) -> None:
    s = series(tmp_path / "Run000042")
    go_on(s, chain_of(s, log))
    closes = closes_before(tmp_path, 43, "muons", "u1")
    assert closes["tdc0"]["close"]["read"] == 120 * 20
    assert closes_before(tmp_path, 42, "muons", "u1") == {}
    assert closes_before(tmp_path, 43, "muons", "u2") == {}


# ------------------------------------------------------------------- the disk

FULL = """
import resource, signal, sys
sys.path[:0] = [sys.argv[1], sys.argv[2]]
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
import make_results as make
from pathlib import Path
from controllers.writer.publish import disk_sentence
from controllers.writer.accounts import Accounts
from controllers.writer.chain import Chain
from controllers.writer.rootfile import RootFile
from controllers.writer.series import Roll, Series
from controllers.writer.tables import RunFacts
from freerun.errors import FreerunError
folder = Path(sys.argv[3])
log = make.Log(1)
for k in range(1000, 1010):
    log.append(make.records(k, 1000, 1, n_hits=5000))
s = Series(folder, RunFacts(42, 1000, make.L, make.SOURCES), "muons", "u1", Roll(), dict,
           flush_bytes=100_000)
s.resume()
chain = Chain(s.next, {}, 1)
log.feed(chain)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
try:
    with disk_sentence(folder):
        while (r := chain.take(1009)) is not None:
            s.add(r, chain.offsets)
        s.finish()
except FreerunError as error:
    s.abandon()
    print(error)
    sys.exit(error.exit_code)
"""


def test_a_full_disk_is_a_sentence_and_nothing_is_half_published(
    tmp_path: Path, project: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(project), str(project / "tests"), str(tmp_path)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert f"cannot write the run's files in {tmp_path}: the file is larger" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", ["fsync", "link"])
def test_no_space_at_the_last_step(
    tmp_path: Path, log: make.Log, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    s = series(tmp_path)
    chain = chain_of(s, log)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(EnvironmentProblem, match="no space is left on its disk"), \
            publish.disk_sentence(tmp_path):  # fmt: skip
        go_on(s, chain)
    monkeypatch.undo()
    assert not list(tmp_path.glob("Run*"))
    heir = series(tmp_path)
    publish.remove_stale(tmp_path)
    go_on(heir, chain_of(heir, log))
    check(tmp_path)


KILLED = """
import sys, time
sys.path[:0] = [sys.argv[1], sys.argv[2]]
import make_results as make
from pathlib import Path
from controllers.writer import publish
from controllers.writer.accounts import Accounts
from controllers.writer.chain import Chain
from controllers.writer.rootfile import RootFile
from controllers.writer.series import Roll, Series
from controllers.writer.tables import RunFacts
folder = Path(sys.argv[3])
log = make.Log(4)
for k in range(1000, 1020):
    log.append(make.records(k, 1000, 4, n_events=4, n_hits=6, n_pulses=2))
publish.remove_stale(folder)
s = Series(folder, RunFacts(42, 1000, make.L, make.SOURCES), "muons", "u1", Roll(slices=2), dict)
at = s.resume() or {}
chain = Chain(s.next, at, 4)
log.feed(chain, at)
print("ready", flush=True)
while (r := chain.take(1019)) is not None:
    s.add(r, chain.offsets)
s.finish()
"""


def test_killed_anywhere(tmp_path: Path, project: Path) -> None:
    """kill -9 at many moments; whoever is last finishes, and nothing is lost or double."""
    arguments = [sys.executable, "-c", KILLED, str(project), str(project / "tests"), str(tmp_path)]
    rng = np.random.default_rng(1)
    for _ in range(4):
        child = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0, 0.25))
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL, timeout=60)
    assert len(check(tmp_path)) == 10


# ------------------------------------------------------------------- the folder of a run

DOC = {
    "run": 42, "state": "running", "type": "beam", "comment": "first light", "shifter": "anna",
    "system": "telescope", "slice_ns": make.L, "sources": list(make.SOURCES),
    "detectors": ["ch0", "ch1"], "pipelines": ["muons"], "bench_toml": "schema = 1\n",
}  # fmt: skip


def monitor_records(first: int, last: int) -> list[tuple[int, list[tuple[str, bytes]], bytes]]:
    import test_writer_root as root

    return [(make.partition(k, P), *root.delta(k)[:2]) for k in range(first, last + 1)]


def whole_run(data: Path, log: make.Log, **more: object) -> RunJob:
    texts = {"bench.toml": "schema = 1\n", "bench.resolved.toml": "x"}
    setup = Setup(
        data, "u1", P, (Output("muons", Roll(slices=8)), Output("tof")), texts=texts, **more
    )
    job = RunJob(setup, RUN, lambda: DOC)
    begin = job.begin(lambda kind, pipeline: dict.fromkeys(range(P), 0))
    for place, start in begin.items():
        if place[0] != MONITOR:
            for offset, headers, body in log.rows[place[2]]:
                if offset >= start:
                    job.offer(place, offset, headers, body, None)
    for p, headers, body in monitor_records(FIRST, LAST):
        if (MONITOR, "muons", p) in begin:
            job.offer((MONITOR, "muons", p), 0, headers, body, None)
    while not job.advance(LAST):
        pass
    job.finish(LAST)
    return job


def test_the_whole_folder_of_a_run(tmp_path: Path, log: make.Log) -> None:
    job = whole_run(tmp_path, log)
    names = {p.name for p in (tmp_path / "Run000042").iterdir()}
    data = {f"Run000042_muons_000{i}.root" for i in range(3)} | {"Run000042_monitor.root"}
    assert names == data | {f"{n}.json" for n in data} | {
        "README.txt", "run.json", "manifest.json", "bench.toml", "bench.resolved.toml",
    }  # fmt: skip
    manifest = json.loads((job.folder / "manifest.json").read_text())
    assert {f["name"] for f in manifest["files"]} == data
    for file in manifest["files"]:
        assert file["sha256"] == publish.sha256_of(job.folder / file["name"])
    assert (job.folder / "bench.toml").read_text() == "schema = 1\n"
    readme = (job.folder / "README.txt").read_text()
    for text in ("Run000042", "first light", "live time   2.000 s", "events      80",
                 "freerun.open(42)", "TChain"):  # fmt: skip
        assert text in readme
    # the closed document comes later: run.json is final then
    closed = {**DOC, "state": "closed", "ledger": {"line": "closed, no gap"}}
    run_folder.write_document(job.folder, closed, job.sidecars)
    assert run_folder.written_document(job.folder) == closed
    assert "closed, no gap" in (job.folder / "README.txt").read_text()
    # who comes again finds it done, and changes no file
    before = {p.name: p.stat().st_mtime_ns for p in job.folder.glob("*.root*")}
    again = whole_run(tmp_path, log)
    assert again.events == 80 and len(again.files) == 4
    assert {p.name: p.stat().st_mtime_ns for p in job.folder.glob("*.root*")} == before


def test_a_run_without_a_slice(tmp_path: Path) -> None:
    job = RunJob(Setup(tmp_path, "u1", P, (Output("muons"),)), RUN, lambda: DOC)
    job.begin(lambda kind, pipeline: dict.fromkeys(range(P), 7))
    assert not job.advance(None)
    assert job.advance(FIRST - 1)
    job.finish(FIRST - 1)
    files = json.loads((job.folder / "manifest.json").read_text())["files"]
    assert [f["name"] for f in files] == ["Run000042_monitor.root"]


def test_truth_of_a_simulated_run(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    from freerun.simulation.config import BLOCK_NS, TelescopeConfig
    from freerun.simulation.muons import block_truth

    config = TelescopeConfig(seed=3, muon_rate_hz=20_000)
    facts = {"installation": "u1", "run": 42}
    sidecar = truth.publish(
        tmp_path, 42, facts, lambda b: block_truth(config, b), BLOCK_NS, FIRST, FIRST + 14, make.L
    )
    table = pq.read_table(tmp_path / "Run000042_truth.parquet")
    blocks = range(FIRST * make.L // BLOCK_NS, (FIRST + 15) * make.L // BLOCK_NS)
    wanted = np.concatenate([block_truth(config, b) for b in blocks])
    assert sidecar["rows"] == {"truth": len(wanted)} and sidecar["kind"] == "truth"
    assert np.array_equal(table["muon"].to_numpy(), wanted["muon"])
    assert np.array_equal(table["t0_ns"].to_numpy(), wanted["t0_ns"])
    assert np.array_equal(table["layers_2"].to_numpy(), wanted["layers"][:, 2])
