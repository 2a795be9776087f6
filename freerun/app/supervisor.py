"""Processes kept alive: each with its log, restarted with back-off, stopped by their own id."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

BACK_OFF_S = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
STEADY_S = 20.0  # a process that lived this long is forgiven its earlier deaths
LOG_BYTES = 20 << 20
STOP_S = 20.0
HASTY_STOP_S = 5.0  # of one that leaves nothing half-done, however it ends


@dataclass
class Service:
    """One process to keep alive. Those with a `needs` are restarted when it is."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    needs: str = ""
    stop_s: float = STOP_S
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    deaths: int = 0
    restarts: int = 0
    not_before: float = 0.0
    last_exit: int | None = None

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process is not None else None

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None


class Supervisor:
    """Starts services in order, watches them, stops them in reverse order."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._logs.mkdir(parents=True, exist_ok=True)
        self._pids = logs.parent / "services.json"
        self.services: dict[str, Service] = {}

    def end_leftovers(self) -> list[str]:
        """Kill what a supervisor that was killed itself left behind; returns the names.

        A process counts as the same one only if its time of start is the same, too.
        """
        try:
            left = json.loads(self._pids.read_text())
        except (OSError, ValueError):
            return []
        ended = []
        for name, (pid, started) in left.items():
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                if abs(process.create_time() - started) < 0.01:
                    process.kill()
                    process.wait(10)
                    ended.append(name)
        self._pids.unlink(missing_ok=True)
        return ended

    def _note(self) -> None:
        """Write down which processes are ours, for the next supervisor."""
        alive = {}
        for name, service in self.services.items():
            if service.pid is not None:
                with contextlib.suppress(psutil.NoSuchProcess):
                    alive[name] = [service.pid, psutil.Process(service.pid).create_time()]
        self._pids.write_text(json.dumps(alive))

    def add(self, service: Service) -> None:
        self.services[service.name] = service
        self._start(service)

    def log_of(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def _start(self, service: Service) -> None:
        path = self.log_of(service.name)
        if path.exists() and path.stat().st_size > LOG_BYTES:
            path.replace(path.with_suffix(".log.1"))
        with path.open("ab") as out:
            # A session of its own: Ctrl-C in the terminal reaches the supervisor only, which
            # then stops the others in order.
            service.process = subprocess.Popen(
                list(service.argv), stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                env=os.environ | dict(service.env), start_new_session=True,
            )  # fmt: skip
        service.started = time.monotonic()
        self._note()

    def beside(self, name: str) -> subprocess.Popen[bytes]:
        """Start a service once more beside the process that it has, which is given back: whoever
        asks for it takes care of that one. What happens when a silent one is thought dead."""
        service = self.services[name]
        before = service.process
        assert before is not None
        self._start(service)
        return before

    def watch(self) -> list[tuple[str, int]]:
        """Start again what died; returns who died, and how (exit code, negative: signal)."""
        died: list[tuple[str, int]] = []
        now = time.monotonic()
        for service in self.services.values():
            if service.process is not None and not service.alive:
                code = service.process.returncode
                service.process, service.last_exit = None, code
                if now - service.started > STEADY_S:
                    service.deaths = 0
                wait = BACK_OFF_S[min(service.deaths, len(BACK_OFF_S) - 1)]
                service.deaths += 1
                service.not_before = now + wait
                died.append((service.name, code))
        gone = {name for name, _ in died}
        orphans = [s for s in self.services.values() if s.needs in gone and s.alive]
        for service in orphans:
            _terminate(service)
        for service in orphans:
            _wait(service, now + 3.0)
        for service in self.services.values():
            needed = self.services.get(service.needs)
            ready = needed is None or needed.alive
            if service.process is None and now >= service.not_before and ready:
                service.restarts += 1
                self._start(service)
        return died

    def hopeless(self, deaths: int = 5) -> list[str]:
        """Services that are dead and die again and again, soon after each start."""
        return [s.name for s in self.services.values() if s.deaths >= deaths and not s.alive]

    def last_words(self, name: str, lines: int = 3) -> str:
        """The end of a service's log."""
        try:
            text = self.log_of(name).read_text(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.strip().splitlines()[-lines:])

    def stop(self) -> None:
        """All of them, last started first; what does not end in time is killed."""
        order = list(self.services.values())[::-1]
        for service in order:
            _terminate(service)
        now = time.monotonic()
        for service in order:
            _wait(service, now + service.stop_s)
        self._pids.unlink(missing_ok=True)


def _terminate(service: Service) -> None:
    if service.alive and service.process is not None:
        service.process.send_signal(signal.SIGTERM)


def _wait(service: Service, until: float) -> None:
    """Until it has ended, at most `until` (monotonic s); then it is killed."""
    if service.process is None:
        return
    try:
        service.process.wait(max(0.1, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        service.process.kill()
        service.process.wait()
