"""The bench in front of a shifter: pages, Start, plots that grow, Stop, files; and refusals."""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import uproot
from browse import (
    occupancy_total,
    open_page,
    press_start,
    press_stop,
    run_files,
    sees_growth,
    wait_until,
)
from run_freerun import Up, bench_named, freerun, up

STEPS = """
[run_type.steps]
stop_after = { time = "1500 ms" }
repeat = true
"""


@pytest.fixture(scope="module")
def bench(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Up, Path, Path]]:
    """A running bench on the session's broker: the process, its configuration, its data."""
    folder = tmp_path_factory.mktemp("up")
    path = bench_named(f"up_{os.getpid()}", folder, muon_rate='"20 kHz"')
    path.write_text(path.read_text() + STEPS)
    with up(path, folder / "data", folder / "log", {"FREERUN_KAFKA": broker}) as running:
        running.wait_for(r"(pages) +http")
        running.wait_for(r"data +(\S+)")
        yield running, path, folder / "data"


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


def test_a_run_from_the_browser(
    bench: tuple[Up, Path, Path], chromium: str, tmp_path: Path
) -> None:
    """Start, growth, Stop, the run in the list with its file; the integral is the ledger's."""
    running, _, data = bench
    url = running.wait_for(r"pages +(http\S+)")
    with open_page(url, tmp_path / "profile") as page:
        number = press_start(page, comment="from the browser", shifter="anna")
        grown = sees_growth(page)
        assert grown > 0
        press_stop(page, number)
        path = data / f"Run{number:06d}" / "run.json"
        wait_until(lambda: json.loads(path.read_text())["state"] == "closed",
                   "run.json is final, too", 60)  # fmt: skip
        document = json.loads(path.read_text())
        ledger = document["ledger"]
        assert ledger["ok"], ledger["gaps"]
        hits = sum(s["hits"] for s in ledger["sources"].values())
        wait_until(lambda: occupancy_total(page) == hits,
                   f"{occupancy_total(page)} on the page, {hits} in the ledger", 60)  # fmt: skip
        files = run_files(page, number)
        name = f"Run{number:06d}_muons_0000.root"
        assert name in files
        assert not page.complaints  # type: ignore[attr-defined]
        kept = os.environ.get("FREERUN_SCREENSHOTS")
        if kept:
            page.screenshot(path=f"{kept}/after_stop.png")
    with urllib.request.urlopen(url.rstrip("/") + files[name], timeout=30) as answer:
        (tmp_path / name).write_bytes(answer.read())
    with uproot.open(tmp_path / name) as f:
        assert f["events"].num_entries == document["n_events"]
    assert document["comment"] == "from the browser" and document["shifter"] == "anna"


def test_the_same_commands_on_the_terminal(bench: tuple[Up, Path, Path], broker: str) -> None:
    _, path, data = bench
    where = ["--bench", str(path), "--data", str(data)]
    env = {"FREERUN_KAFKA": broker}
    code, printed = freerun("run", "start", "--for", "2 s", "--comment", "by hand", "--wait",
                            *where, env=env)  # fmt: skip
    assert code == 0, printed
    assert "LEDGER closed" in printed
    number = int(printed.split()[1])
    code, printed = freerun("run", "list", *where, env=env)
    assert code == 0 and "by hand" in printed and "ledger ok" in printed
    code, printed = freerun("run", "show", str(number), *where, env=env)
    assert code == 0 and "built =" in printed and "_muons_0000.root" in printed
    code, printed = freerun("run", "stop", *where, env=env)
    assert code == 2 and "no run is going on" in printed
    code, printed = freerun("run", "show", "999", *where, env=env)
    assert code == 2 and "no run 999" in printed


def test_runs_that_repeat_leave_no_slice_between_them(
    bench: tuple[Up, Path, Path], broker: str
) -> None:
    """Each begins where the last one ended, and none of its slices lacks a source."""
    _, path, data = bench
    where = ["--bench", str(path), "--data", str(data)]
    env = {"FREERUN_KAFKA": broker}
    code, printed = freerun("run", "start", "--type", "steps", *where, env=env)
    assert code == 0, printed
    first = int(printed.split()[1])
    third = data / f"Run{first + 2:06d}" / "run.json"
    wait_until(third.exists, "a third run has begun", 60)
    code, printed = freerun("run", "stop", *where, env=env)
    assert code == 0, printed
    runs = [data / f"Run{first + i:06d}" / "run.json" for i in range(3)]
    for run in runs:
        wait_until(lambda run=run: json.loads(run.read_text())["state"] == "closed",
                   f"{run} is final", 60)  # fmt: skip
    one, two, _ = documents = [json.loads(run.read_text()) for run in runs]
    assert two["first"] == one["last"] + 1
    for document in documents:
        ledger = document["ledger"]
        assert ledger["ok"], ledger["gaps"]
    assert two["ledger"]["slices"]["complete"] == two["ledger"]["slices"]["expected"]


def test_the_dask_dashboard_shows_live_tasks(bench: tuple[Up, Path, Path]) -> None:
    """Not an empty page: its task stream has had tasks of ours."""
    url = bench[0].wait_for(r"dask +(http\S+)")
    base = url.rsplit("/", 1)[0]
    assert "bokeh" in get(url).lower()
    counts = f"{base}/json/counts.json"
    wait_until(lambda: json.loads(get(counts))["processing"] >= 1, "a task is processed", 60)
    assert json.loads(get(counts))["workers"] == 1
    assert "worker0" in get(f"{base}/info/main/workers.html")


def test_a_second_up_on_the_same_folder_is_refused(
    bench: tuple[Up, Path, Path], broker: str
) -> None:
    running, path, data = bench
    code, printed = freerun("up", str(path), "--data", str(data), "--port", "0",
                            env={"FREERUN_KAFKA": broker})  # fmt: skip
    assert code == 3
    assert f"in use by another freerun (pid {running.process.pid})" in printed
    assert running.process.poll() is None


def test_ctrl_c_stops_the_run_and_then_the_bench(bench: tuple[Up, Path, Path], broker: str) -> None:
    """The last test of this bench."""
    running, path, data = bench
    where = ["--bench", str(path), "--data", str(data)]
    code, printed = freerun("run", "start", *where, env={"FREERUN_KAFKA": broker})
    assert code == 0, printed
    number = int(printed.split()[1])
    assert running.interrupt() == 0, running.printed()
    document = json.loads((data / f"Run{number:06d}" / "run.json").read_text())
    assert document["state"] == "closed" and document["ledger"]["ok"]


def test_a_broker_that_does_not_answer(tmp_path: Path) -> None:
    code, printed = freerun("up", "--data", str(tmp_path / "data"), "--port", "0",
                            env={"FREERUN_KAFKA": "127.0.0.1:1"})  # fmt: skip
    assert code == 3
    assert "no Kafka broker answers at 127.0.0.1:1" in printed


def test_a_wrong_configuration(tmp_path: Path) -> None:
    path = bench_named("wrong", tmp_path, slice='"100 parsecs"', builder='"drift_tube"')
    code, printed = freerun("up", str(path), "--data", str(tmp_path / "data"))
    assert code == 2
    assert "time.slice" in printed and "drift_tubes" in printed
