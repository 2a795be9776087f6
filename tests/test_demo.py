"""The demonstration, whole: kills in mid-run, and its ROOT file in independent readers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import uproot
from run_freerun import freerun

SECONDS = 8


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, str, Path]:
    """`freerun demo --kill` with a broker of its own: exit code, output, the run's folder."""
    data = tmp_path_factory.mktemp("demo")
    code, printed = freerun(
        "demo", "--data", str(data), "--for", f"{SECONDS} s", "--kill", "--port", "0"
    )
    return code, printed, data / "Run000001"


def test_exit_code_and_report(demo: tuple[int, str, Path]) -> None:
    code, printed, folder = demo
    assert code == 0, printed
    assert "LEDGER closed: every word read is accounted for, none lost, none twice" in printed
    assert "exactly those of the uncut stream" in printed
    assert "kill      SIGKILL to dask-worker0" in printed
    assert "kill      SIGKILL to writer" in printed
    for word in ("rows ", "hits ", "events ", "truth ", "live ", "rates ", "ROOT ", "uproot ",
                 "pandas ", "pages "):  # fmt: skip
        assert f"\n{word}" in printed, printed
    assert str(folder) in printed


def test_events_are_those_of_the_truth(demo: tuple[int, str, Path]) -> None:
    """Without freerun's own reader: the file's t0 against the muons of the truth file."""
    code, printed, folder = demo
    assert code == 0, printed
    document = json.loads((folder / "run.json").read_text())
    events = uproot.concatenate(f"{folder}/*_muons_*.root:events", ["t0_ns", "t0_ps", "slice"],
                                library="np")  # fmt: skip
    table = pq.read_table(folder / "Run000001_truth.parquet")
    truth = {name: table[name].to_numpy() for name in table.column_names}
    start = document["t_start_ns"]
    t = np.sort((events["t0_ns"] - start) + events["t0_ps"] / 1000)
    layers = np.max([np.bitwise_count(truth[f"layers_{c}"]) for c in range(4)], axis=0)
    muons = np.sort(truth["t0_ns"] - start + truth["t0_ps"] / 1000)
    good = np.sort((truth["t0_ns"] - start + truth["t0_ps"] / 1000)[layers >= 3])
    near = np.abs(t[np.clip(np.searchsorted(t, good)[:, None] + [-1, 0], 0, len(t) - 1)]
                  - good[:, None]).min(axis=1)  # fmt: skip
    assert (near < 25).mean() > 0.95
    away = np.abs(muons[np.clip(np.searchsorted(muons, t)[:, None] + [-1, 0], 0, len(muons) - 1)]
                  - t[:, None]).min(axis=1)  # fmt: skip
    assert (away > 25).mean() < 0.02
    expected = len(good)
    assert abs(len(t) - expected) < 0.02 * expected
    assert (np.diff(events["slice"]) >= 0).all()
    assert len(np.unique(events["slice"])) == document["last"] - document["first"] + 1


def test_hits_add_up_to_the_ledger(demo: tuple[int, str, Path]) -> None:
    code, printed, folder = demo
    assert code == 0, printed
    document = json.loads((folder / "run.json").read_text())
    files = sorted(folder.glob("*_muons_*.root"))
    in_events = unassigned = 0
    for path in files:
        with uproot.open(path) as f:
            in_events += int(f["events"]["n_hit"].array(library="np").sum())
            in_events += int(f["events"]["n_pulse"].array(library="np").sum())
            unassigned += f["hits"].num_entries
            unassigned += int((f["pulses"]["event"].array(library="np") == -1).sum())
    sources = document["ledger"]["sources"].values()
    assert in_events == sum(s["in_events"] for s in sources)
    assert unassigned == sum(s["unassigned"] for s in sources)
    assert in_events - sum(s["shared"] for s in sources) + unassigned == sum(
        s["hits"] for s in sources
    )


def test_an_independent_reader_reads_the_same(demo: tuple[int, str, Path]) -> None:
    """CERN's own ROOT: number of events, sums of two branches."""
    ROOT = pytest.importorskip("ROOT", reason="the ROOT wheel is not installed: make test does it")
    code, printed, folder = demo
    assert code == 0, printed
    chain = ROOT.TChain("events")
    for path in sorted(folder.glob("*_muons_*.root")):
        chain.Add(str(path))
    frame = ROOT.RDataFrame(chain)
    count, hits, ps = frame.Count(), frame.Sum("n_hit"), frame.Sum("t0_ps")
    mine = uproot.concatenate(f"{folder}/*_muons_*.root:events", ["n_hit", "t0_ps"], library="np")
    assert count.GetValue() == len(mine["n_hit"])
    assert int(hits.GetValue()) == int(mine["n_hit"].sum())
    assert int(ps.GetValue()) == int(mine["t0_ps"].astype(np.int64).sum())
