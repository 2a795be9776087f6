"""What makes a fault and sees it mended: signals, waiting, who is back."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from freerun.app.selftest_bench import LOST, WORKERS, Behind, Patience
from freerun.app.selftest_s3 import Store
from freerun.app.selftest_watch import Watch
from freerun.app.session import Session
from freerun.app.supervisor import Supervisor
from freerun.errors import EnvironmentProblem, FreerunError

FLOW_S = 2.0  # results flow if they are not later than this, or three times the usual
MEND_S = 120.0  # a fault that is not mended after this is a failure

SOURCE, WORKER, SCHEDULER = f"source-{LOST}", "dask-worker0", "dask-scheduler"
LOOP, WRITER, CONTROL, DASHBOARD = "loop-muons", "writer", "run-control", "dashboard"
_KEYS = {SOURCE: f"source/{LOST}", LOOP: "loop/muons", WRITER: "writer/root0",
         CONTROL: "control/control"}  # fmt: skip


class NotMended(FreerunError):
    """A fault that was not mended in time; the text says what is missing."""


class Stage:
    """A bench in front of its run's results."""

    def __init__(self, session: Session, watch: Watch, patience: Patience, store: Store) -> None:
        self.session, self.watch, self.patience, self.store = session, watch, patience, store
        self.run = 0
        self.flow_s = FLOW_S

    @property
    def bench(self) -> Behind:
        assert isinstance(self.session.installation, Behind)
        return self.session.installation

    @property
    def supervisor(self) -> Supervisor:
        assert self.bench.supervisor is not None
        return self.bench.supervisor

    # ------------------------------------------------------------------ waiting

    def sleep(self, seconds: float) -> None:
        """Let time pass under the eyes of the supervisor. Ctrl-C ends it."""
        end = time.monotonic() + seconds
        while True:
            if self.session.interrupted.is_set():
                raise KeyboardInterrupt
            self.bench.look_after()
            left = end - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(0.1, left))

    def until(self, done: Callable[[], bool], what: str, seconds: float = MEND_S) -> float:
        """Wait for something; how long it took. Raises `NotMended`."""
        begun = time.monotonic()
        while not done():
            if time.monotonic() > begun + seconds:
                raise NotMended(f"after {seconds:.0f} s still not: {what}")
            self.sleep(0.1)
        return time.monotonic() - begun

    def until_flows(self) -> float:
        """Until complete slices come out again as they did before, some of them begun later."""
        begun = time.time()
        return self.until(
            lambda: self.watch.flows(self.flow_s) and self.watch.out_to_s > begun,
            "complete slices come out in time",
        )

    # ------------------------------------------------------------------ processes

    def process(self, name: str) -> subprocess.Popen[bytes]:
        process = self.supervisor.services[name].process
        if process is None:
            raise NotMended(f"{name} does not run")
        return process

    def kill(self, name: str) -> None:
        """SIGKILL, and wait until another process does its work."""
        before, workers = self.process(name), self.workers()
        before.kill()
        self.until(lambda: before.poll() is not None, f"{name} is dead")
        if name in (WORKER, SCHEDULER):
            self.until(lambda: self.workers() != workers, "the loop notices")
        self.until_back(name)

    @contextmanager
    def stopped(self, pid: int) -> Iterator[None]:
        """SIGSTOP, and SIGCONT at the end, whatever happens."""
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def until_back(self, name: str) -> None:
        """Until the service is seen to work."""
        since = time.time_ns()
        self.until(lambda: self._works(name, since), f"{name} works again")

    def _works(self, name: str, since_ns: int) -> bool:
        service = self.supervisor.services[name]
        if not service.alive:
            return False
        if name == DASHBOARD:
            return _answers(self.bench.dashboard_url)
        if name in (WORKER, SCHEDULER):
            loop = self.watch.states.get(_KEYS[LOOP], {})
            return int(loop.get("time_ns", 0)) > since_ns and len(self.workers()) == WORKERS
        told = self.watch.states.get(_KEYS[name], {})
        works = told.get("state") == "RUNNING" and told.get("pid") == service.pid
        return works and int(told.get("time_ns", 0)) > since_ns

    def workers(self) -> list[str]:
        """The Dask workers that the loop knows."""
        return list(self.watch.states.get(_KEYS[LOOP], {}).get("workers", ()))

    def stop_run(self) -> None:
        """Stop the run; asked again if run control is slow to answer. Raises `NotMended`."""
        for _ in range(4):
            with contextlib.suppress(EnvironmentProblem):
                self.session.client.command("stop_run", why="the self-test is through")
            if self.document().get("last") is not None:
                return
            self.sleep(1.0)
        raise NotMended("run control does not stop the run")

    def document(self) -> dict[str, Any]:
        """The run's document as it stands now."""
        return self.session.client.run(self.run) or {}


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return int(answer.status) == 200
    except OSError:
        return False
