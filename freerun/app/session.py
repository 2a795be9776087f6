"""A bench that runs in front of somebody: started, watched, and stopped in order."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from freerun.app.client import Client
from freerun.app.installation import Installation
from freerun.app.locate import Place, place
from freerun.errors import EnvironmentProblem

READY_S = 90.0
CLOSE_S = 60.0
FRESH_NS = 3_000_000_000


class Session:
    """One `up`."""

    def __init__(self, where: Place, installation: Installation) -> None:
        self.place, self.installation = where, installation
        self.client = Client(installation.address, installation.topics)
        self._interrupts = 0
        self.interrupted = threading.Event()

    @staticmethod
    @contextmanager
    def open(
        bench: Path | None, data: Path | None, cluster: Path | None, port: int,
        kind: type[Installation] = Installation,
    ) -> Iterator[Session]:  # fmt: skip
        """Start everything, wait until it is ready, and stop it at the end."""
        where = place(bench, data, cluster)
        installation = kind(where.bench, where.data, where.path, cluster, _say)
        before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            installation.begin(port)
            session = Session(where, installation)
            for number in before:
                signal.signal(number, session._on_signal)
            session._wait_ready()
            yield session
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            if installation.supervisor is not None:
                _say("stopping …")
            installation.end()

    def _on_signal(self, *_: Any) -> None:
        self._interrupts += 1
        self.interrupted.set()
        if self._interrupts > 1:
            raise KeyboardInterrupt

    def _wait_ready(self) -> None:
        begun = time.monotonic()
        missing: list[str] = []

        def ready() -> bool:
            missing[:] = self._not_ready()
            return not missing or self.interrupted.is_set()

        if not self.installation.wait(ready, READY_S):
            raise EnvironmentProblem(
                f"not ready after {READY_S:.0f} s: {', '.join(missing)}; their logs are in "
                f"{self.installation.hidden / 'logs'}"
            )
        self.installation.was_ready = True
        _say(f"ready     after {time.monotonic() - begun:.0f} s")
        _say(f"pages     {self.installation.dashboard_url}")
        _say(f"dask      {self.installation.dask_url}")
        _say(f"data      {self.place.data}")

    def _not_ready(self) -> list[str]:
        bench, now = self.place.bench, time.time_ns()
        fresh = {
            key: state.get("state", "")
            for key, state in self.client.states().items()
            if now - state["time_ns"] < FRESH_NS
        }
        wanted = [f"source/{s.id}" for s in bench.sources]
        wanted += [f"monitor/{p.id}" for p in bench.pipelines] + ["writer/root0", "control/control"]
        out = [name for name in wanted if name not in fresh]
        return out + [
            f"loop/{p.id}" for p in bench.pipelines if fresh.get(f"loop/{p.id}") != "RUNNING"
        ]

    # ------------------------------------------------------------------ runs

    def until_interrupted(self) -> None:
        """Watch over the bench; at Ctrl-C stop what runs."""
        _say("Ctrl-C stops the bench")
        while not self.interrupted.is_set():
            self.installation.look_after()
            self.interrupted.wait(0.3)
        self.finish_run()

    def finish_run(self) -> None:
        """Stop the run that goes on, if there is one, and wait until it is closed."""
        number = self._stop_run()
        if number is None:
            return
        _say("waiting for the run to be closed (Ctrl-C again: do not wait)")
        if not self.installation.wait(lambda: self._is_closed(number), CLOSE_S):
            _say(f"run {number} is not closed yet: the next 'freerun up' goes on with it")

    def _stop_run(self) -> int | None:
        """The run that is to be closed. Run control is asked, not the documents: that of a run
        which has begun a moment ago is not there yet."""
        document = self.last_run()
        open_run = document is not None and document["state"] not in ("closed", "failed")
        try:
            answer = self.client.command("stop_run", why="the bench is stopped")
        except EnvironmentProblem as problem:
            _say(str(problem))
            answer = {"ok": False}
        if answer["ok"]:
            _say(answer["text"])
            return int(answer["run"])
        return int(document["run"]) if document is not None and open_run else None

    def _is_closed(self, number: int) -> bool:
        document = self.client.run(number)
        return document is not None and document["state"] in ("closed", "failed")

    def last_run(self) -> dict[str, Any] | None:
        """The newest run's document."""
        runs = [d for k, d in self.client.documents().items() if k.startswith("run/")]
        return max(runs, key=lambda d: int(d["run"])) if runs else None


def _say(text: str) -> None:
    print(text, flush=True)
