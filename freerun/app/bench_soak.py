"""The whole bench for a long time: run after run at a steady rate, while retention deletes.

One run follows the other, as in a shift, because a run's account is made from what Kafka holds:
retention is as long as a run and a half, so that each account is whole and old data really go.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from freerun import broker, config
from freerun.app.bench import Table
from freerun.app.bench_broker import serving
from freerun.app.bench_samples import Held, Sample, Series, held, judge, size_of
from freerun.app.bench_whole import faster
from freerun.app.follow import Follow
from freerun.app.locate import bench_file
from freerun.app.session import Session
from freerun.config import Bench
from freerun.errors import EnvironmentProblem
from freerun.kafka import Broker, Reader
from freerun.topics import Topic, Topics, ensure

RUN_S = 300.0  # length of one run, at most
KEPT_RUNS = 1.6  # retention, in runs
KAFKA_BYTES = 48.0  # of a row: 8 raw, 32 results, and the digitizer's waveforms
FILE_BYTES = 20.0  # of a row in a ROOT file, at most
SETTLED_S = 10.0  # samples of a run count from here on
LONG_S = 1200.0  # a soak this long is judged; a shorter one only shows its figures
CLOSING_S = 300.0


@dataclass
class Runs:
    """What became of the runs."""

    closed: int = 0
    words: int = 0
    slices: int = 0
    gaps: list[str] = field(default_factory=list)

    def add(self, document: dict[str, Any]) -> None:
        verdict = document["ledger"] or {"ok": False, "line": "failed"}
        self.closed += 1
        if not verdict["ok"]:
            self.gaps.append(f"run {document['run']}: {verdict['line']}")
            return
        self.words += sum(s["in_kafka"] for s in verdict["sources"].values())
        self.slices += verdict["slices"]["expected"]


def measure(
    table: Table, bench: Path | None, rate: float, seconds: float, every: float,
    say: Callable[[str], None] = print, run_s: float = RUN_S,
) -> Series:  # fmt: skip
    """Soak at `rate` million rows/s; fills `table`, and returns what was sampled."""
    told = faster(bench_file(bench), rate)
    length = min(run_s, seconds)
    with tempfile.TemporaryDirectory(prefix="freerun-soak-") as folder, ExitStack() as stack:
        data, path = Path(folder) / "data", Path(folder) / "bench.toml"
        path.write_text(told)
        size = _enough_room(data, rate * 1e6 * length)
        address = stack.enter_context(serving(data / ".freerun", whole_heap=True))[0]
        parsed = config.load(path)
        names = _topics(address, parsed, size)
        session = stack.enter_context(Session.open(path, data, None, 0))
        work = Soak(session, address, say, every)
        stack.callback(work.close)
        work.soak(seconds, length)
        _report(table, work, rate, seconds, _deleted(address, names))
        return work.series


def _enough_room(data: Path, rows: float) -> int:
    """Bytes that Kafka may keep; raises `EnvironmentProblem` if the disk is too small."""
    data.mkdir(parents=True, exist_ok=True)
    kept = int(rows * KEPT_RUNS * KAFKA_BYTES)
    need, free = 1.3 * kept + 2 * rows * FILE_BYTES, shutil.disk_usage(data).free
    if free < need:
        raise EnvironmentProblem(
            f"{data} has {free / 1e9:.0f} GB free, a soak at this rate needs {need / 1e9:.0f}: "
            "make room, name another disk with TMPDIR, or soak at a lower --rate"
        )
    return kept


def _topics(address: str, bench: Bench, size: int) -> list[Topic]:
    """The topics of the bench, made with a retention of `size` bytes in all; those it holds for."""
    topics, parts = Topics(bench.system.name), bench.cluster.partitions
    sources, pipelines = [s.id for s in bench.sources], [p.id for p in bench.pipelines]
    wanted, bounded = [], []
    for topic in topics.all(sources, pipelines, parts, raw_bytes=size):
        share = 0.0
        if topic.name in map(topics.raw, sources):
            share = 0.4 / len(sources)
        elif topic.name in map(topics.events, pipelines):
            share = 0.6 / len(pipelines)
        if share:
            each = int(size * share / parts)
            segment = min(128 << 20, max(1 << 20, each // 8))
            changed = {"retention.bytes": str(each), "segment.bytes": str(segment)}
            topic = replace(topic, config={**topic.config, **changed})
            bounded.append(topic)
        wanted.append(topic)
    ensure(Broker(address), wanted)
    return bounded


def _deleted(address: str, topics: list[Topic]) -> dict[str, int]:
    """How many records retention took away, topic by topic."""
    reader = Reader(address, "soak.ends", queue_mb=4)
    try:
        return {t.name: sum(reader.bounds((t.name, p))[0] for p in range(t.partitions))
                for t in topics}  # fmt: skip
    finally:
        reader.close()


class Soak:
    """Runs one after the other, and a look at everything every few seconds."""

    def __init__(
        self, session: Session, address: str, say: Callable[[str], None], every: float
    ) -> None:
        topics = session.place.topics
        self.session, self.runs, self.series = session, Runs(), Series()
        self._say, self._every = say, every
        self._state = Follow(address, topics.state, "soak.state")
        self._documents = Follow(address, topics.runs, "soak.runs")
        self._slice_s = session.place.bench.time.slice / 1e9
        self._loop = "loop/" + session.place.bench.pipelines[0].id
        self._begun = time.monotonic()
        self._next_sample = self._next_word = 0.0
        self._disk = 0.0

    def close(self) -> None:
        self._state.close()
        self._documents.close()

    @property
    def restarts(self) -> int:
        assert self.session.installation.supervisor is not None
        return sum(s.restarts for s in self.session.installation.supervisor.services.values())

    def soak(self, seconds: float, length: float) -> None:
        """Runs of `length` until `seconds` are over, or somebody interrupts."""
        number = 0
        while (left := seconds - (time.monotonic() - self._begun)) > 0:
            if self.session.interrupted.is_set():
                return
            before, number = number, self._start(max(1.0, min(length, left)))
            self._watch(number, length + CLOSING_S)
            if before:  # what a shifter would have copied away long ago
                shutil.rmtree(self.session.place.data / f"Run{before:06d}", ignore_errors=True)

    def _start(self, seconds: float) -> int:
        answer = self.session.client.command(
            "start_run", comment="soak", stop_after={"time_ns": int(seconds * 1e9)}
        )
        if not answer["ok"]:
            raise EnvironmentProblem(answer["text"])
        return int(answer["run"])

    def _watch(self, number: int, patience: float) -> None:
        end = time.monotonic() + patience
        while True:
            document = self._documents.poll(0.1).get(f"run/{number}", {})
            self._state.poll()
            self.session.installation.look_after()
            now = time.monotonic()
            if document.get("state") in ("closed", "failed"):
                self.runs.add(document)
                return
            if now >= self._next_sample:
                self._next_sample = now + self._every
                self._sample(now - self._begun, document)
            if now >= self._next_word:
                self._next_word = now + 60
                self._tell(number, document)
            if now > end:
                raise EnvironmentProblem(
                    f"run {number} is not closed {CLOSING_S:.0f} s after its end: soak at a lower "
                    f"--rate; the logs are in {self.session.installation.hidden / 'logs'}"
                )
            if self.session.interrupted.is_set() and document.get("last") is None:
                self.session.client.command("stop_run", why="the soak is interrupted")
            time.sleep(0.2)

    def _sample(self, t: float, document: dict[str, Any]) -> None:
        state, installation = self._state.newest, self.session.installation
        assert installation.supervisor is not None
        pids = {n: s.pid for n, s in installation.supervisor.services.items()}
        pids["broker"] = broker.status(installation.hidden).pid
        some = {n: held(p) for n, p in pids.items() if p is not None} | {"bench": held(os.getpid())}
        processes: dict[str, Held] = {n: h for n, h in some.items() if h is not None}
        if len(self.series.samples) % 6 == 0:
            self._disk = size_of(installation.hidden / "kafka") / 1e9
        settled = document.get("t_start_ns", 1 << 62) / 1e9 + SETTLED_S < time.time()
        self.series.samples.append(
            Sample(
                t, settled and document.get("state") == "running",
                sum(float(s.get("read", 0)) for k, s in state.items() if k.startswith("source/")),
                state.get(self._loop, {}).get("lag_slices", 0) * self._slice_s,
                processes, self._disk,
            )
        )  # fmt: skip

    def _tell(self, number: int, document: dict[str, Any]) -> None:
        if not self.series.samples:
            return
        s = self.series.samples[-1]
        whole = list(s.processes.values())
        self._say(
            f"{s.t / 60:5.1f} min  run {number} {document.get('state', '…'):8s} "
            f"{s.words / 1e6:9,.1f} M rows  lag {s.lag:4.1f} s  "
            f"memory {sum(h.uss for h in whole):6,.0f} MB  "
            f"threads {sum(h.threads for h in whole)}  files {sum(h.files for h in whole)}  "
            f"Kafka {s.disk:.1f} GB  restarts {self.restarts}  gaps {len(self.runs.gaps)}"
        )


# ------------------------------------------------------------------ verdict


def _report(table: Table, work: Soak, rate: float, seconds: float, deleted: dict[str, int]) -> None:
    series, runs = work.series, work.runs
    judged = seconds >= LONG_S
    span = runs.slices * work.session.place.bench.time.slice / 1e9
    table.add("runs closed", runs.closed, "", "; ".join(runs.gaps) or "every ledger closed")
    table.add("ledgers with a gap", len(runs.gaps), "", goal=0, at_most=True)
    table.add("rows", runs.words / span / 1e6 if span else 0.0, "M/s", f"asked for {rate:g}",
              goal=0.97 * rate)  # fmt: skip
    table.add("services started again", work.restarts, "", goal=0, at_most=True)
    for name, n in deleted.items():
        table.add(f"records of {name} that retention deleted", n, "", goal=1 if judged else None)
    judge(table, series, judged)
