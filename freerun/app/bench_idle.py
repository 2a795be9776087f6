"""`freerun up` itself: how soon it shows a first plot, and what it costs while nothing runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import psutil

from freerun import broker
from freerun.app.bench import Measured, Table
from freerun.app.bench_broker import ending
from freerun.app.installation import free_port
from freerun.app.locate import bench_file
from freerun.errors import EnvironmentProblem

COMMAND = [sys.executable, "-c", "from freerun.app.cli import main; main()"]
PATIENCE_S = 240.0
SETTLE_S = 20.0  # after a run, before anything counts as idle
PIECE_S = 5.0  # the idle time is looked at in pieces, for a spread


class Up:
    """A `freerun up` of its own, asked through its REST like anybody's."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, data: Path, log: Path) -> None:
        self._process, self._url = process, f"http://127.0.0.1:{port}"
        self._hidden, self._log = data / ".freerun", log
        self.begun = time.monotonic()

    def ask(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The answer of `/api/<path>`; empty if there is none yet."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self._url}/api/{path}", data,
                                         {"Content-Type": "application/json"})  # fmt: skip
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return cast("dict[str, Any]", json.loads(answer.read()))
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            return {}

    def wait(self, what: str, done: Callable[[], bool]) -> float:
        """Seconds since the start of `up` when it is `done`."""
        while not done():
            if self._process.poll() is not None or self.age > PATIENCE_S:
                raise EnvironmentProblem(
                    f"no {what} after {self.age:.0f} s; the end of what 'freerun up' printed: "
                    f"{' '.join(self._log.read_text().split())[-400:]}"
                )
            time.sleep(0.05)
        return self.age

    @property
    def age(self) -> float:
        return time.monotonic() - self.begun

    def cpu(self) -> dict[str, float]:
        """CPU seconds so far of `up`, its services, and its broker."""
        services = json.loads((self._hidden / "services.json").read_text())
        pids: dict[str, int | None] = {name: pid for name, (pid, _) in services.items()}
        pids |= {"up": self._process.pid, "broker": broker.status(self._hidden).pid}
        out = {}
        for name, pid in pids.items():
            if pid is not None and psutil.pid_exists(pid):
                used = psutil.Process(pid).cpu_times()
                out[name] = used.user + used.system
        return out


@contextmanager
def running(bench: Path | None, folder: Path, env: Mapping[str, str]) -> Iterator[Up]:
    """`freerun up` with its data in `folder`; interrupted at the end, killed if that takes long."""
    port, data, log = free_port(), folder / "data", folder / "up.log"
    argv = [*COMMAND, "up", str(bench_file(bench).absolute()), "--data", str(data), "--port",
            str(port)]  # fmt: skip
    with log.open("wb") as out:
        process = subprocess.Popen(argv, stdout=out, stderr=out, stdin=subprocess.DEVNULL,
                                   env=os.environ | dict(env), start_new_session=True)  # fmt: skip
    try:
        yield Up(process, port, data, log)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(120)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def measure(table: Table, bench: Path | None, quiet_s: float, cold: bool) -> None:
    """Fill `table`; `cold`: begin with an `up` that finds no compiled kernels."""
    with ending(), tempfile.TemporaryDirectory(prefix="freerun-bench-") as scratch:
        folder = Path(scratch)
        if cold:
            (folder / "cold").mkdir()
            cache = {"NUMBA_CACHE_DIR": str(folder / "kernels")}
            with running(bench, folder / "cold", cache) as up:
                _first_plot(table, up, ", kernels not compiled yet")
        (folder / "warm").mkdir()
        with running(bench, folder / "warm", {}) as up:
            number = _first_plot(table, up, "")
            up.ask("run/stop", {})
            up.wait("end of the run", lambda: _closed(up, number))
            time.sleep(SETTLE_S)
            _idle(table, up, quiet_s)


def _closed(up: Up, number: int) -> bool:
    return up.ask(f"runs/{number}").get("state") in ("closed", "failed")


def _first_plot(table: Table, up: Up, about: str) -> int:
    table.add(f"up → pages{about}", up.wait("page", lambda: bool(up.ask("status"))), "s")
    started: dict[str, Any] = {}

    def start() -> bool:
        started.update(up.ask("run/start", {"comment": "first plot"}))
        return bool(started.get("ok"))

    table.add(f"up → a run can start{about}", up.wait("run", start), "s")

    def plotted() -> bool:
        hists = up.ask("hists").get("hists", [])
        return any(_total(h["values"]) > 0 for h in hists)

    shown = up.wait("plot", plotted)
    table.add(f"up → first plot{about}", shown, "s", goal=20, at_most=True)
    return int(started["run"])


def _total(values: Any) -> float:
    return sum(map(_total, values)) if isinstance(values, list) else float(values)


def _idle(table: Table, up: Up, quiet_s: float) -> None:
    pieces: list[dict[str, float]] = []
    for _ in range(max(1, round(quiet_s / PIECE_S))):
        before, begun = up.cpu(), time.monotonic()
        time.sleep(PIECE_S)
        after, span = up.cpu(), time.monotonic() - begun
        pieces.append({n: (after[n] - before.get(n, after[n])) / span * 100 for n in after})
    for name in pieces[-1]:
        table.add(f"idle: {name}", Measured.of([p.get(name, 0.0) for p in pieces]), "% of a core")
    # the mean of it all: a process that wakes every ten seconds counts, too
    whole = sum(sum(p.values()) for p in pieces) / len(pieces)
    table.add("idle: everything", whole, "% of a core", f"mean of {len(pieces) * PIECE_S:.0f} s",
              goal=15, at_most=True)  # fmt: skip
