"""The processes of a replay: started around its plan, watched to its end, and taken away."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import shutil
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from freerun import broker
from freerun.app.client import Client
from freerun.app.installation import Installation
from freerun.app.locate import place
from freerun.app.supervisor import Service as Process
from freerun.app.supervisor import Supervisor
from freerun.config import Bench
from freerun.errors import ConfigError, EnvironmentProblem, LedgerGap
from freerun.service import MALLOC, Service

RUN_FOLDER = re.compile(r"Run(\d{6})$")
STALL_S = 60.0
"""Nothing moves for so long after the source's end: something is wrong."""
ANSWER_S = 4.0
FINAL_S = 20.0
QUIET = {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class Replaying(Installation):
    """One replay into the folder `out`; `beside`: folder of the bench, where plug-ins may lie."""

    def __init__(
        self, bench: Bench, out: Path, paths: tuple[Path, Path], keep: bool, beside: Path | None,
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        super().__init__(bench, out, *paths, say)
        self._keep = keep
        self._folder = paths[0].parent
        self._control: Any = None
        self._bench_data: Path | None = None
        self._env = dict(QUIET)
        if beside is not None:
            path = [str(beside), os.environ.get("PYTHONPATH", "")]
            self._env["PYTHONPATH"] = os.pathsep.join(filter(None, path))

    # ------------------------------------------------------------------ begin

    def begin_replay(
        self, first: int, last: int, anchor: int, comment: str, inline: bool,
        bench_data: Path | None = None,
    ) -> None:  # fmt: skip
        """Broker, topics, the plan of slices `first` to `last`, and the processes that follow it.

        `bench_data`: folder of a bench whose broker is used if it runs.
        """
        self._bench_data = bench_data
        self.lock()
        self.find_broker()
        self._remove_older()
        self.make_topics()
        service = Service(self.bench, self.address, self.data, self.topics, Namespace())
        control = importlib.import_module("controllers.replay_control").ReplayControl
        anchors = {source.domain: anchor for source in self.bench.sources}
        with self._logged():
            self._control = control(service, self._next_run(), first, last, anchors, comment)
        self.supervisor = Supervisor(self._folder / "logs")
        heavy = self._env | MALLOC
        add, common = self.supervisor.add, self._common()
        for source in self.bench.sources:
            argv = self._python("producers", *common, "--source", source.id, "--clock", "data")
            add(Process(f"source-{source.id}", argv, heavy))
        if not inline:
            self._dask(heavy)
        how = ["--inline"] if inline else ["--scheduler-file", str(self.scheduler_file)]
        for pipeline in self.bench.pipelines:
            argv = self._python("processors", *common, "--pipeline", pipeline.id, *how)
            add(Process(f"loop-{pipeline.id}", argv, heavy))
        add(Process("writer", self._python("controllers", "writer", *common), heavy))

    def find_broker(self) -> None:
        """FREERUN_KAFKA, or a running one of a bench's folder, or one of our own for the while."""
        from freerun.kafka import wait_ready

        other = os.environ.get("FREERUN_KAFKA")
        if other:
            wait_ready(other, ANSWER_S)
            self.address = other
            self.say(f"broker    {other}")
            return
        folder = self._bench_data
        if folder is None:
            with contextlib.suppress(ConfigError):  # no bench here: then no broker of one
                folder = place(None, None).data
        if folder is not None:
            state = broker.status(folder / ".freerun")
            if state.ready and state.address:
                self.address = state.address
                self.say(f"broker    {self.address} (that of {folder})")
                return
        super().find_broker()

    def _remove_older(self) -> None:
        """What replays into this folder left that were killed: processes, topics."""
        for old in self.hidden.glob("replay_*"):
            if old != self._folder and (old / "services.json").exists():
                for name in Supervisor(old / "logs").end_leftovers():
                    self.say(f"{name} was left behind by an earlier replay that was killed: ended")
                self._remove_topics(old.name)

    def _next_run(self) -> int:
        found = [int(m[1]) for f in self.data.glob("Run*") if (m := RUN_FOLDER.match(f.name))]
        return max([0, *found]) + 1

    # ------------------------------------------------------------------ watch

    def watch(self, words: int, slices: int) -> dict[str, Any]:
        """Until the run is closed and its folder says so, with progress; the run's document."""
        assert self.supervisor is not None
        client, progress = Client(self.address, self.topics), Progress(words, slices)
        moved, before, at = time.monotonic(), "", 0.0
        with self._logged(), progress:
            while True:
                document: dict[str, Any] = self._control.turn()
                if document["state"] in ("closed", "failed"):
                    return self._final(document)
                self._check_sources()
                self.look_after()
                if time.monotonic() > at:
                    at = time.monotonic() + 0.5
                    states = client.states()
                    text = progress.show(states)
                    reading = any(
                        s.get("state") == "RUNNING"
                        for key, s in states.items()
                        if key.startswith("source/")
                    )
                    if reading or text != before:
                        moved, before = time.monotonic(), text
                if time.monotonic() - moved > STALL_S:
                    raise LedgerGap(
                        f"nothing moves for {STALL_S:.0f} s and the run is still "
                        f"{document['state']} ({before}): the logs are in {self._folder}"
                    )

    def _check_sources(self) -> None:
        """A source that died would begin with the file again: then the replay has failed."""
        assert self.supervisor is not None
        for name, service in self.supervisor.services.items():
            if name.startswith("source-") and (service.restarts or not service.alive):
                words = self.supervisor.last_words(name, 1) or f"its log is in {self._folder}"
                raise EnvironmentProblem(f"{name} died: {words}")

    def _final(self, document: dict[str, Any]) -> dict[str, Any]:
        """The run's folder holds its final document (the writer's last act)."""
        path = Path(document["folder"]) / "run.json"
        end = time.monotonic() + FINAL_S
        while time.monotonic() < end:
            with contextlib.suppress(OSError, ValueError):
                if json.loads(path.read_text())["state"] == document["state"]:
                    return document
            self.look_after()
            time.sleep(0.05)
        raise LedgerGap(f"{path} was not finished by the writer: its log is in {self._folder}")

    # ------------------------------------------------------------------ end

    def finish(self, good: bool) -> None:
        """Stop everything; remove the topics and our own traces unless they are to be kept."""
        if self._control is not None:
            self._control.close()
        begun, ours = self.supervisor is not None, self._lock is not None
        if self.supervisor is not None:
            self.supervisor.stop()
        if self.address and not self._keep:
            self._remove_topics(self.topics.system)
        own = self._broker is not None
        self.end()
        if self._keep and begun:
            where = f"in the broker of {self.data}" if own else f"at {self.address}"
            self.say(f"kept      topics {self.topics.system}.* {where}")
            return
        if own:
            shutil.rmtree(self.hidden / "kafka", ignore_errors=True)
        if good or not begun:
            shutil.rmtree(self._folder, ignore_errors=True)
            if ours:
                self._tidy(own)

    def _tidy(self, own_broker: bool) -> None:
        for used in ("dask", "spool"):  # the run is closed: nothing waits in a spool
            shutil.rmtree(self.hidden / used, ignore_errors=True)
        leftovers = [self.hidden / "up.lock", self.scheduler_file]
        if own_broker:
            leftovers += list(self.hidden.glob("kafka*"))
        for path in leftovers:
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # somebody else's things are in it
            self.hidden.rmdir()
            self.data.rmdir()

    def _remove_topics(self, system: str) -> None:
        from freerun.kafka import Broker

        try:
            kafka = Broker(self.address)
            kafka.delete([n for n in kafka.partitions() if n.startswith(f"{system}.")])
        except Exception as error:  # the broker may be gone: the run does not depend on it
            self.say(f"topics    {system}.* could not be removed: {error}")

    @contextlib.contextmanager
    def _logged(self) -> Iterator[None]:
        """Log lines of what runs in this process go to a file, as those of the others do."""
        import structlog

        with (self._folder / "control.log").open("a") as out:
            before = structlog.get_config()
            structlog.configure(
                logger_factory=structlog.PrintLoggerFactory(out), cache_logger_on_first_use=False
            )
            try:
                yield
            finally:
                structlog.configure(**before)


class Progress:
    """One line that is written over where that is possible, else a new one now and then."""

    def __init__(self, words: int, slices: int) -> None:
        self._words, self._slices = words, slices
        self._next = time.monotonic() + 5.0

    def show(self, states: dict[str, Any]) -> str:
        """Say how far the services are, by their heartbeats; returns the line."""
        read = sum(int(s.get("read", 0)) for k, s in states.items() if k.startswith("source/"))
        loops = [s for k, s in states.items() if k.startswith("loop/")]
        done = min((int(s.get("slices", 0)) for s in loops), default=0)
        events = sum(int(s.get("events", 0)) for s in loops)
        text = (
            f"{read / 1e6:.2f} of {self._words / 1e6:.2f} M words read, {done:,d} of "
            f"{self._slices:,d} slices built, {events:,d} events"
        )
        if sys.stdout.isatty():
            print(f"\r\x1b[K          {text}", end="", flush=True)
        elif time.monotonic() > self._next:
            print(f"          {text}", flush=True)
            self._next = time.monotonic() + 5.0
        return text

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if sys.stdout.isatty():
            print("\r\x1b[K", end="", flush=True)
