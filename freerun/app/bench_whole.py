"""The whole bench at a given rate: lag second by second, and the CPU of every process."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from freerun import config
from freerun.app.bench import Table
from freerun.app.bench_cache import fill_page_cache
from freerun.app.locate import bench_file
from freerun.app.session import Session
from freerun.errors import EnvironmentProblem

ROWS_PER_MUON = 20.2  # hits, trigger words, pulses of one muon in the demo's telescope


def measure(
    table: Table, bench: Path | None, rate: float, seconds: float, warm: float = 30.0
) -> None:
    """Run the bench at `rate` million rows/s and measure for `seconds`; fills `table`.

    The `warm` seconds before are not measured: the JVM compiles, the simulation makes its words.
    """
    with tempfile.TemporaryDirectory(prefix="freerun-bench-") as folder:
        path = Path(folder) / "bench.toml"
        path.write_text(faster(bench_file(bench), rate))
        fill_page_cache(Path(folder) / "zeros")
        with Session.open(path, Path(folder) / "data", None, 0) as session:
            _run(table, session, rate, seconds, warm)


def faster(path: Path, rate: float) -> str:
    """The bench with a muon rate that gives about `rate` million rows/s."""
    told = config.load(path)
    if told.simulation is None:
        raise EnvironmentProblem(f"{path} has no [simulation]: nothing sets its rate")
    noise = 256 * told.simulation.noise + sum(n.rate for n in told.simulation.noisy)
    muons = max(100.0, (rate * 1e6 - noise) / ROWS_PER_MUON)
    # the digitizer's share stays that of the demonstration, and what was simulated once comes
    # again: simulating is no DAQ work
    pulses = min(1.0, told.simulation.pmt_acceptance * told.simulation.muon_rate / muons)
    simulation = told.simulation.model_copy(
        update={"muon_rate": muons, "pmt_acceptance": round(pulses, 6), "repeat": True}
    )
    return told.model_copy(update={"simulation": simulation}).resolved_toml()


def _cpu(session: Session) -> dict[str, float]:
    """CPU seconds of every service so far, children included."""
    assert session.installation.supervisor is not None
    pids = {n: s.pid for n, s in session.installation.supervisor.services.items()}
    from freerun import broker

    pids["broker"] = broker.status(session.installation.hidden).pid
    out = {}
    for name, pid in pids.items():
        if pid is not None and psutil.pid_exists(pid):
            t = psutil.Process(pid).cpu_times()
            out[name] = t.user + t.system
    return out


def _run(table: Table, session: Session, rate: float, seconds: float, warm: float) -> None:
    idle = _cpu(session)
    time.sleep(5)
    rest = {n: (t - idle.get(n, 0.0)) / 5 for n, t in _cpu(session).items()}
    length_ns = int((warm + seconds) * 1e9)
    answer = session.client.command("start_run", stop_after={"time_ns": length_ns})
    if not answer["ok"]:
        raise EnvironmentProblem(answer["text"])
    number, name = int(answer["run"]), "loop/" + session.place.bench.pipelines[0].id
    samples: list[tuple[float, float]] = []
    length = session.place.bench.time.slice / 1e9
    before: dict[str, float] = {}
    begun = until = 0.0
    after: dict[str, float] = {}
    ended: float | None = None
    longest = 2 * (warm + seconds) + 300
    patience = time.monotonic() + longest
    while True:
        if time.monotonic() > patience:
            raise EnvironmentProblem(
                f"run {number} is not closed after {longest:.0f} s: measure at a lower "
                f"--rate; the logs are in {session.installation.hidden / 'logs'}"
            )
        time.sleep(1)
        session.installation.look_after()
        document: dict[str, Any] = session.client.run(number) or {}
        now = time.time()
        running = document.get("state") == "running"
        if running and now > document["t_start_ns"] / 1e9 + warm:
            if not before:
                before, begun = _cpu(session), now
            lag = session.client.states()[name]["lag_slices"] * length
            samples.append((now - begun, lag))
            after, until = _cpu(session), now
        if document.get("state") in ("closed", "failed"):
            break
        if document.get("t_stop_ns") and ended is None:
            ended = document["t_stop_ns"] / 1e9
    verdict = document["ledger"]
    rows = sum(s["in_kafka"] for s in verdict["sources"].values())
    span = (document["t_stop_ns"] - document["t_start_ns"]) / 1e9
    t, lag = np.array(samples).T
    slope = float(np.polyfit(t, lag, 1)[0])
    table.add("rows", rows / span / 1e6, "M/s", f"asked for {rate:g}", goal=rate * 0.97)
    table.add("lag of the lanes, median", float(np.median(lag)), "s", f"worst {lag.max():.1f} s")
    table.add("growth of the lag", slope * 60, "s/min", goal=1.0, at_most=True)
    table.add(
        "run closed after its end", time.time() - (ended or time.time()), "s", verdict["line"]
    )
    total = 0.0
    for service in after:
        used = (after[service] - before.get(service, 0.0)) / (until - begun)
        total += used
        table.add(f"CPU of {service}", used * 100, "% of a core",
                  f"idle {rest.get(service, 0.0) * 100:.1f} %")  # fmt: skip
    table.add("CPU in all", total * 100, "% of a core", f"idle {sum(rest.values()) * 100:.0f} %")
