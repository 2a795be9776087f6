"""A recorded file as one whole run: an installation of its own, beside whatever else runs.

Time is the recording's: nothing waits for the host's clock, and the results do not depend on how
fast the file is replayed, on the number of partitions, or on where the slices are cut.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import shutil
import sys
import time
import uuid
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freerun import config
from freerun.app import account
from freerun.app.client import Client
from freerun.app.installation import Installation
from freerun.app.replay_bench import Wishes, bench_of
from freerun.app.supervisor import Service as Process
from freerun.config import Bench
from freerun.errors import ConfigError, EnvironmentProblem, LedgerGap
from freerun.service import MALLOC, Service
from freerun.words import HIT, TRIGGER, WRAP, get_format

RUN_FOLDER = re.compile(r"Run(\d{6})$")
STALL_S = 60.0
"""Nothing moves for so long after the source's end: something is wrong."""
ANSWER_S = 4.0
FINAL_S = 20.0
Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What `freerun replay` was told."""

    wishes: Wishes
    bench: Path | None = None
    out: Path | None = None
    inline: bool = False
    keep: bool = False
    partitions: int = 8
    data: Path | None = None
    """Folder of a bench whose broker may be used."""


@dataclass(frozen=True)
class Plan:
    """What will be replayed: slices, and where tick 0 lies."""

    first: int
    last: int
    anchor: int
    words: int
    seconds: float


def replay(options: Options, say: Say = print) -> dict[str, Any]:
    """Replay a file; returns the run's document once its files are closed.

    Raises `ConfigError` for a file that cannot be replayed, `EnvironmentProblem` if broker or
    disk refuse, `LedgerGap` if it does not come to its end. The document's `exit` is the account's.
    """
    file = options.wishes.file
    out = (options.out or Path("replay") / file.stem).absolute()
    name = f"replay_{uuid.uuid4().hex[:8]}"
    bench = bench_of(options.wishes, options.bench, name, out)
    plan = look(bench, file)
    _writable(out)
    paths = _configuration(bench, options.partitions, out / ".freerun" / name)
    installation = Replaying(config.load(*paths), out, paths, options, say)
    say(f"file      {file}: {plan.words:,d} words of {bench.sources[0].format}, {plan.seconds:.6g} s,"
        f" {plan.last - plan.first + 1:,d} slices of {bench.time.slice / 1e6:g} ms")  # fmt: skip
    good = False
    try:
        installation.begin_replay(plan)
        document = installation.watch(plan)
        good = document["state"] == "closed"
        return document
    finally:
        installation.finish(good)


def look(bench: Bench, file: Path) -> Plan:
    """First and last slice of the file; raises `ConfigError` if it cannot be replayed."""
    if not file.is_file():
        raise ConfigError(f"{file}: there is no such file")
    source = bench.sources[0]
    fmt = get_format(source.format or "")
    span = importlib.import_module("producers.drivers.span").scan(
        [file], fmt, bench.time.slice, source.fpga if isinstance(source.fpga, int) else None,
        {HIT: source.late.hit, TRIGGER: source.late.trigger}, source.sanity.hit,
    )  # fmt: skip
    from freerun.ticks import Clock

    # a recording that begins just before its counter wraps: recorded time must not be negative
    anchor = 0 if span.low >= 0 else WRAP * fmt.tick.numerator // fmt.tick.denominator
    clock = Clock(anchor, fmt.tick.numerator, fmt.tick.denominator, source.clock.offset)
    low, high = clock.ns(span.low), clock.ns(span.high)
    return Plan(low // bench.time.slice, high // bench.time.slice, anchor, span.words,
                (high - low) / 1e9)  # fmt: skip


def _writable(out: Path) -> None:
    try:
        (out / ".freerun").mkdir(parents=True, exist_ok=True)
        probe = out / ".freerun" / "probe"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise EnvironmentProblem(
            f"{out} cannot be written to ({error.strerror}): name another folder with --out"
        ) from error


def _configuration(bench: Bench, partitions: int, folder: Path) -> tuple[Path, Path]:
    """The replay's own bench and cluster files, for its processes."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "bench.toml", folder / "cluster.toml"
    paths[0].write_text(bench.resolved_toml())
    paths[1].write_text(f"[cluster]\npartitions = {partitions}\nworkers = 1\n")
    return paths


class Replaying(Installation):
    """The processes of one replay."""

    def __init__(
        self, bench: Bench, out: Path, paths: tuple[Path, Path], options: Options, say: Say
    ) -> None:
        super().__init__(bench, out, *paths, say)
        self._options = options
        self._folder = paths[0].parent
        self._control: Any = None
        self._env = {
            "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
        }  # fmt: skip
        if options.bench is not None:  # plug-ins lie beside it
            paths_ = [str(options.bench.absolute().parent), os.environ.get("PYTHONPATH", "")]
            self._env["PYTHONPATH"] = os.pathsep.join(filter(None, paths_))

    @property
    def source(self) -> str:
        return self.bench.sources[0].id

    # ------------------------------------------------------------------ begin

    def begin_replay(self, plan: Plan) -> None:
        """Broker, topics, plan, and then the processes that follow it."""
        from freerun.app.supervisor import Supervisor

        self.lock()
        self.find_broker()
        self.make_topics()
        service = Service(self.bench, self.address, self.data, self.topics, Namespace())
        control = importlib.import_module("controllers.replay_control").ReplayControl
        domain = self.bench.sources[0].domain
        with _logged_to(self._folder / "control.log"):
            self._control = control(
                service, self._next_run(), plan.first, plan.last, {domain: plan.anchor},
                f"replay of {self._options.wishes.file}",
            )  # fmt: skip
        self.supervisor = Supervisor(self._folder / "logs")
        heavy = self._env | MALLOC
        add, common = self.supervisor.add, self._common()
        argv = self._python("producers", *common, "--source", self.source, "--clock", "data")
        add(Process(f"source-{self.source}", argv, heavy))
        if not self._options.inline:
            self._dask(heavy)
        how = (
            ["--inline"] if self._options.inline else ["--scheduler-file", str(self.scheduler_file)]
        )
        for pipeline in self.bench.pipelines:
            argv = self._python("processors", *common, "--pipeline", pipeline.id, *how)
            add(Process(f"loop-{pipeline.id}", argv, heavy))
        add(Process("writer", self._python("controllers", "writer", *common), heavy))

    def find_broker(self) -> None:
        """FREERUN_KAFKA, or a running one of a bench's folder, or one of our own for the while."""
        from freerun import broker
        from freerun.app.locate import place
        from freerun.kafka import wait_ready

        other = os.environ.get("FREERUN_KAFKA")
        if other:
            wait_ready(other, ANSWER_S)
            self.address = other
            self.say(f"broker    {other}")
            return
        folder = self._options.data
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

    def _next_run(self) -> int:
        found = [int(m[1]) for f in self.data.glob("Run*") if (m := RUN_FOLDER.match(f.name))]
        return max([0, *found]) + 1

    # ------------------------------------------------------------------ watch

    def watch(self, plan: Plan) -> dict[str, Any]:
        """Until the run is closed and its folder says so, with progress."""
        assert self.supervisor is not None
        client = Client(self.address, self.topics)
        progress = Progress(plan)
        source = self.supervisor.services[f"source-{self.source}"]
        moved, before, at = time.monotonic(), "", 0.0
        with _logged_to(self._folder / "control.log"):
            while True:
                document: dict[str, Any] = self._control.turn()
                if document["state"] in ("closed", "failed"):
                    progress.end()
                    return self._final(document)
                if source.process is not None and source.process.poll() is not None:
                    progress.end()
                    raise EnvironmentProblem(
                        f"the source ended: {self.supervisor.last_words(source.name, 1)}"
                    )
                self.look_after()
                if time.monotonic() > at:
                    at = time.monotonic() + 0.5
                    states = client.states()
                    text = progress.show(states, self.source, [p.id for p in self.bench.pipelines])
                    if (
                        text != before
                        or states.get(f"source/{self.source}", {}).get("state") == "RUNNING"
                    ):
                        moved, before = time.monotonic(), text
                if time.monotonic() - moved > STALL_S:
                    progress.end()
                    raise LedgerGap(
                        f"nothing moves for {STALL_S:.0f} s and the run is still "
                        f"{document['state']} ({before.strip()}): the logs are in {self._folder}"
                    )

    def _final(self, document: dict[str, Any]) -> dict[str, Any]:
        """The run's folder holds its final document (the writer's last act)."""
        import json

        path = Path(document["folder"]) / "run.json"
        end = time.monotonic() + FINAL_S
        while time.monotonic() < end:
            try:
                if json.loads(path.read_text())["state"] == document["state"]:
                    return document
            except (OSError, ValueError):
                pass
            self.look_after()
            time.sleep(0.05)
        raise LedgerGap(f"{path} was not finished by the writer: its log is in {self._folder}")

    # ------------------------------------------------------------------ end

    def finish(self, good: bool) -> None:
        """Stop everything, remove the topics and our own traces unless they are to be kept."""
        from freerun.errors import FreerunError
        from freerun.kafka import Broker

        if self._control is not None:
            self._control.close()
        if self.supervisor is not None:
            self.supervisor.stop()
        keep = self._options.keep
        if self.address and not keep:
            with contextlib.suppress(FreerunError):
                broker = Broker(self.address)
                mine = [n for n in broker.partitions() if n.startswith(f"{self.topics.system}.")]
                broker.delete(mine)
        own = self._own_broker
        self.end()
        if keep:
            self.say(f"kept      topics {self.topics.system}.* "
                     + (f"in the broker of {self.data}" if own else f"at {self.address}"))  # fmt: skip
            return
        if own:
            shutil.rmtree(self.hidden / "kafka", ignore_errors=True)
        if good:
            shutil.rmtree(self._folder, ignore_errors=True)
            if own:
                shutil.rmtree(self.hidden, ignore_errors=True)
            for leftover in (self.hidden / "up.lock", self.hidden / "scheduler.json"):
                leftover.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.hidden.rmdir()


class Progress:
    """One line that is written over where that is possible, else a new one now and then."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._shown = ""
        self._next = time.monotonic() + 5.0

    def show(self, states: dict[str, Any], source: str, pipelines: list[str]) -> str:
        """Returns the line."""
        told = states.get(f"source/{source}", {})
        loops = [states.get(f"loop/{p}", {}) for p in pipelines]
        read, n = int(told.get("read", 0)), self._plan.words
        done = min((int(x.get("slices", 0)) for x in loops), default=0)
        events = sum(int(x.get("events", 0)) for x in loops)
        text = (f"          {read / 1e6:.2f} of {n / 1e6:.2f} M words read, {done:,d} of "
                f"{self._plan.last - self._plan.first + 1:,d} slices built, {events:,d} events")  # fmt: skip
        if sys.stdout.isatty():
            print(f"\r\x1b[K{text}", end="", flush=True)
        elif time.monotonic() > self._next:
            print(text, flush=True)
            self._next = time.monotonic() + 5.0
        return text

    def end(self) -> None:
        if sys.stdout.isatty():
            print("\r\x1b[K", end="", flush=True)


@contextlib.contextmanager
def _logged_to(path: Path) -> Iterator[None]:
    """Log lines of what runs in this process go to a file, as those of the others do."""
    import structlog

    with path.open("a") as out:
        before = structlog.get_config()
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(out),
                            cache_logger_on_first_use=False)  # fmt: skip
        try:
            yield
        finally:
            structlog.configure(**before)


def report(document: dict[str, Any], seconds: float) -> list[str]:
    """What is printed at the end."""
    return [
        *account.lines(document),
        f"folder    {document['folder']}",
        f"took      {seconds:.1f} s",
    ]
