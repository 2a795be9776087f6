"""The demonstration: a simulated bench, one run, and what came of it against the truth."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from freerun.app import account
from freerun.app.session import Session
from freerun.app.truth import Findings, check
from freerun.errors import EnvironmentProblem, LedgerGap

EFFICIENCY, FAKES, SIGMA_NS = 0.95, 0.02, 5.0
KILLS = ("dask-worker0", "writer")
CLOSE_S = 180.0


def demo(
    bench: Path | None, data: Path | None, cluster: Path | None, port: int, seconds: float,
    kill: bool,
) -> None:  # fmt: skip
    """Run it; raises `LedgerGap` unless the ledger closes and the truth is met."""
    with Session.open(bench, data, cluster, port) as session:
        if session.place.bench.simulation is None:
            raise EnvironmentProblem(
                f"{session.place.path} has no [simulation]: the demonstration compares a "
                "simulated run with its truth; take data with 'freerun up' and 'freerun run start'"
            )
        document = take_run(session, seconds, kill)
        if document is None:
            return
        findings = compare(session, document)
        latency = session.client.states().get("loop/" + session.place.bench.pipelines[0].id, {})
        for line in report(session, document, findings, latency):
            print(line, flush=True)
        if document["exit"] != 0:
            raise LedgerGap(document["ledger"]["line"])
        missed = verdict(findings)
        if missed:
            raise LedgerGap(f"the truth is not met: {missed}")


def take_run(session: Session, seconds: float, kill: bool) -> dict[str, Any] | None:
    """Start a run, watch it to its end; None if it was interrupted."""
    answer = session.client.command(
        "start_run", comment="demonstration" + (" with kills" if kill else ""),
        stop_after={"time_ns": int(seconds * 1e9)},
    )  # fmt: skip
    if not answer["ok"]:
        raise EnvironmentProblem(answer["text"])
    print(f"run       {answer['run']} of {seconds:.0f} s: look at it in a browser", flush=True)
    number, begun = int(answer["run"]), time.monotonic()
    doomed = [(begun + 2 + seconds * x, name) for x, name in zip((0.35, 0.6), KILLS, strict=True)]
    while time.monotonic() < begun + seconds + CLOSE_S:
        session.installation.look_after()
        if session.interrupted.is_set():
            session.finish_run()
            return None
        if kill and doomed and time.monotonic() > doomed[0][0]:
            _kill(session, doomed.pop(0)[1])
        document = session.client.run(number)
        if document is not None and document["state"] in ("closed", "failed"):
            _progress("")
            return document
        _progress(_status(session, document))
        time.sleep(0.5)
    raise LedgerGap(
        f"run {number} was not closed {CLOSE_S:.0f} s after its end: "
        f"see 'freerun run show {number}' and the logs in {session.installation.hidden / 'logs'}"
    )


def _kill(session: Session, name: str) -> None:
    assert session.installation.supervisor is not None
    pid = session.installation.supervisor.services[name].pid
    if pid is not None:
        _progress("")
        print(f"kill      SIGKILL to {name} (pid {pid})", flush=True)
        os.kill(pid, signal.SIGKILL)


def _status(session: Session, document: dict[str, Any] | None) -> str:
    states = session.client.states()
    loop = states.get("loop/" + session.place.bench.pipelines[0].id, {})
    read = sum(int(s.get("read", 0)) for k, s in states.items() if k.startswith("source/"))
    state = document["state"] if document else "…"
    return (
        f"          {state:9s} {read / 1e6:7.1f} M rows read   "
        f"{loop.get('words', 0) / 1e6:7.1f} M processed   {loop.get('events', 0):>10,d} events"
    )


def _progress(text: str) -> None:
    if sys.stdout.isatty():
        print(f"\r\x1b[K{text}", end="", flush=True)
    elif text and int(time.monotonic() * 2) % 10 == 0:
        print(text, flush=True)


def compare(session: Session, document: dict[str, Any]) -> Findings:
    """The files against the regenerated stream."""
    begun = time.monotonic()

    def progress(part: float) -> None:
        _progress(f"          comparing with the truth: {part:.0%}")

    bench = session.place.bench
    found = check(Path(document["folder"]), bench, document, bench.pipelines[0].id, progress)
    _progress("")
    print(f"compared  with the truth in {time.monotonic() - begun:.0f} s", flush=True)
    return found


def verdict(f: Findings) -> str:
    """What is not as it should be; empty if all is well."""
    out = []
    if not f.exact:
        out.append(f"{f.wrong} differences from the uncut stream ({'; '.join(f.differences[:3])})")
    if f.efficiency < EFFICIENCY:
        out.append(f"{f.efficiency:.2%} of the muons found, at least {EFFICIENCY:.0%} expected")
    if f.fake_fraction > FAKES:
        out.append(f"{f.fake_fraction:.2%} of the events are fakes, at most {FAKES:.0%} expected")
    if f.sigma_ns > SIGMA_NS:
        out.append(f"t0 good to {f.sigma_ns:.1f} ns, {SIGMA_NS:.0f} ns expected")
    return "; ".join(out)


def report(session: Session, d: dict[str, Any], f: Findings, loop: dict[str, Any]) -> list[str]:
    """The dozen lines at the end."""
    v, folder = d["ledger"], Path(d["folder"])
    seconds = v["slices"]["expected"] * d["slice_ns"] / 1e9
    words = sum(s["in_kafka"] for s in v["sources"].values())
    size = sum(x["bytes"] for files in d["outputs"].values() for x in files)
    exact = "exactly those of" if f.exact else "NOT those of"
    data = next((folder / x["name"] for files in d["outputs"].values() for x in files
                 if x["kind"] == "events"), folder)  # fmt: skip
    delay = loop.get("latency_s")
    python = f"{sys.executable} -c"
    out = [
        "",
        *account.words(v),
        f"truth     {f.events:,d} events, {exact} the uncut stream; {f.found:,d} of {f.muons:,d} "
        f"muons found ({f.efficiency:.2%}), {f.fakes:,d} fakes ({f.fake_fraction:.2%}), "
        f"t0 σ {f.sigma_ns:.2f} ns",
        account.live(d),
        *account.pulsers(v),
        f"rates     {words / seconds / 1e6:.2f} M rows/s, {v['events']['built'] / seconds:,.0f} "
        f"events/s, {size / seconds / 1e6:.1f} MB/s on disk"
        + (
            f"; end of slice to result {delay['p50']:.2f} s (p50), {delay['p99']:.2f} s (p99)"
            if delay
            else ""
        ),
        *account.why(v),
        v["line"],
        f"folder    {folder}",
        f'ROOT      root -l {data} -e \'events->Draw("hit_t", "hit_det==0")\'',
        f'uproot    {python} \'import uproot; f = uproot.open("{data}"); '
        'print(f["events"].arrays(["t_run", "n_hit"]))\'',
        f'pandas    {python} \'import uproot; f = uproot.open("{data}"); '
        'print(f["hits"].arrays(library="pd"))\'',
        f"pages     {session.installation.dashboard_url} (while the bench runs: freerun up)",
    ]
    return out
