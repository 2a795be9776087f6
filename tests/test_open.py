"""`freerun.open`: what the writers left, read back as arrays."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import awkward as ak
import make_results as make
import numpy as np
import pytest
import test_writer_root as root
import uproot

from controllers.writer.job import Output, RunJob, Setup
from controllers.writer.series import Roll
from controllers.writer.tables import RunFacts
from freerun.app import open as opening
from freerun.errors import ConfigError, EnvironmentProblem

FIRST, LAST, P = 1000, 1009, 4
DOC = {"run": 42, "state": "closed", "system": "telescope", "sources": list(make.SOURCES),
       "slice_ns": make.L, "comment": "first light"}  # fmt: skip


def write_run(
    data: Path, number: int = 42, last: int = LAST, pipelines: tuple[str, ...] = ("muons",)
) -> Path:
    outputs = tuple(Output(p, Roll(slices=4)) for p in pipelines)
    facts = RunFacts(number, FIRST, make.L, make.SOURCES)
    job = RunJob(Setup(data, "u1", P, outputs), facts, lambda: {**DOC, "run": number})
    log = make.Log(P)
    for k in range(FIRST, last + 1):
        log.append(make.records(k, FIRST, P))
    for place in job.begin(lambda kind, pipeline: dict.fromkeys(range(P), 0)):
        if place[0] == "events":
            for offset, headers, body in log.rows[place[2]]:
                job.offer(place, offset, headers, body, last)
        else:
            for k in range(FIRST, last + 1):
                if make.partition(k, P) == place[2]:
                    job.offer(place, 0, *root.delta(k)[:2], last)
    assert job.advance(last, seconds=30.0)
    job.finish(last)
    return job.folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "telescope"
    write_run(folder)
    return folder


def test_by_number_by_folder_and_by_file(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = opening.open(42, data).events()
    assert len(events) == 200 and events.event[0] == 0
    assert len(opening.open(data / "Run000042").events()) == 200
    assert len(opening.open(str(data / "Run000042" / "Run000042_muons_0001.root")).events()) == 80
    monkeypatch.setenv("FREERUN_DATA", str(data))
    assert len(opening.open(42).events()) == 200
    monkeypatch.delenv("FREERUN_DATA")
    monkeypatch.chdir(data.parent)
    with pytest.raises(EnvironmentProblem, match="there is no run 42 in data"):
        opening.open(42)
    (data.parent / "data").symlink_to(data.parent, target_is_directory=True)
    assert len(opening.open(42).events()) == 200


def test_events_are_those_of_the_files_in_order(data: Path) -> None:
    run = opening.open(42, data)
    events = run.events()
    assert np.all(np.diff(np.asarray(events.event)) > 0)
    assert ak.sum(events.n_hit) == len(ak.flatten(events.hit_t))
    assert run.events(columns=["t0_ns"]).fields == ["t0_ns"]
    assert events.hit_t[events.hit_det == 0].ndim == 2


def test_flat_trees_as_numpy_and_as_pandas(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = opening.open(42, data)
    monkeypatch.setattr(opening, "find_spec", lambda name: None)
    hits = run.hits()
    assert isinstance(hits, np.ndarray) and len(hits) == 500
    assert hits["ticks"].dtype == np.int64 and set(hits["event"]) == {-1}
    assert len(run.pulses()) == 50 and run.slices()["slice"].tolist() == list(range(1000, 1010))
    monkeypatch.undo()
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = run.hits()
    assert isinstance(frame, pandas.DataFrame)
    assert np.array_equal(frame["ticks"].to_numpy(), hits["ticks"])


def test_document_ledger_and_histograms(data: Path) -> None:
    run = opening.open(42, data)
    assert run.doc["comment"] == "first light"
    ledger = run.ledger()
    assert list(ledger) == list(make.SOURCES)
    assert ledger["tdc1"]["read"] == 1200 and ledger["tdc1"]["pre_start"] == 7
    assert run.hists() == ["muons/ch0/drift_time", "muons/ch0/occupancy"]
    hist = run.hist("ch0/occupancy")
    wanted = sum(root.delta(k)[2]["ch0/occupancy"] for k in range(FIRST, LAST + 1))
    assert np.array_equal(hist.values(), wanted)
    assert np.array_equal(run.hist("muons/ch0/occupancy").values(), wanted)
    with pytest.raises(ConfigError, match="which histogram is 'nothing'"):
        run.hist("nothing")


def test_a_run_in_progress_has_its_document_inside(data: Path, tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    for name in ("run.json", "Run000042_monitor.root"):
        (folder / name).unlink()
    run = opening.open(folder)
    assert run.doc["comment"] == "first light"
    with pytest.raises(EnvironmentProblem, match="no histograms yet"):
        run.hists()


def test_a_run_without_a_slice(tmp_path: Path) -> None:
    run = opening.open(write_run(tmp_path, last=FIRST - 1))
    assert len(run.events()) == 0 and len(run.hits()) == 0
    assert run.ledger() == {"tdc0": {}, "tdc1": {}, "digi0": {}} and run.hists() == []


def test_two_pipelines_want_a_name(tmp_path: Path) -> None:
    run = opening.open(write_run(tmp_path, pipelines=("muons", "tof_2")))
    with pytest.raises(ConfigError, match="has pipelines muons, tof_2: name one"):
        run.events()
    assert len(run.events("tof_2")) == 200
    with pytest.raises(ConfigError, match="which histogram"):
        run.hist("ch0/occupancy")


def test_what_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="there is no run 7 in"):
        opening.open(7, tmp_path)
    with pytest.raises(EnvironmentProblem, match=r"there is no .*nothing: give"):
        opening.open(tmp_path / "nothing")
    (tmp_path / "Run000001").mkdir()
    with pytest.raises(EnvironmentProblem, match=r"neither run\.json nor a data file"):
        _ = opening.open(1, tmp_path).doc


def test_a_number_in_two_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / "data" / name / "Run000042").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"run 42 is in data/a/Run000042 and in data/b"):
        opening.open(42)


def test_from_s3(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s3_tests = pytest.importorskip("test_writer_s3")
    port = s3_tests.free_port()
    server = s3_tests.ThreadedMotoServer("127.0.0.1", port, verbose=False)
    server.start()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    try:
        client = s3_tests.client_of(port)
        client.create_bucket(Bucket="open")
        for path in (data / "Run000042").iterdir():
            client.upload_file(str(path), "open", f"telescope/Run000042/{path.name}")
        with opening.open("s3://open/telescope/Run000042") as run:
            assert len(run.events()) == 200 and run.doc == json.loads(
                (data / "Run000042" / "run.json").read_text()
            )
            copy = run.folder
        assert not copy.exists()
        with pytest.raises(EnvironmentProblem, match="there is nothing in s3://open/nowhere"):
            opening.open("s3://open/nowhere")
    finally:
        server.stop()


def test_the_one_liners_of_the_readme(data: Path) -> None:
    folder = data / "Run000042"
    ev = uproot.concatenate(f"{folder}/*_muons_*.root:events")
    assert len(ev.hit_t[ev.hit_det == 0]) == 200
    if "pandas" in sys.modules:
        frame = uproot.open(folder / "Run000042_muons_0000.root")["hits"].arrays(library="pd")
        assert len(frame) == 200
