"""The writer as a service: `python -m controllers writer`. Kafka around `RunJob`, nothing else.

One run after the other, each in the order of the plan. Killed at any moment, it goes on behind
the highest contiguous sidecar.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog

from controllers.documents import RunsTopic
from controllers.writer.announce import Announcer
from controllers.writer.job import EVENTS, Place, RunJob, Setup
from controllers.writer.series import BeginAgain
from controllers.writer.setup import outputs, truth_of, uploader_of
from controllers.writer.tables import RunFacts
from freerun.errors import EnvironmentProblem
from freerun.heartbeat import Heart
from freerun.kafka import BrokerTrouble, Publisher, Reader
from freerun.plan import Run
from freerun.planlog import PlanLog
from freerun.service import Service

MARGIN_MS = 5_000  # brokers' clocks may differ by this
log = structlog.get_logger()


class Writer:
    """Turns until it is told to stop. Raises `EnvironmentProblem` if the disk refuses."""

    def __init__(self, serving: Service, name: str) -> None:
        self.serving, self.name = serving, name
        address, topics = serving.address, serving.topics
        client = f"writer.{name}"
        self._plan = PlanLog(address, topics, client)
        publisher = Publisher(address, client)
        self._publisher = publisher
        self._runs = RunsTopic(address, topics, client, publisher)
        self._heart = Heart(
            publisher, topics, "writer", name, serving.bench.timeouts.seconds("heartbeat")
        )
        self._uploader, location = uploader_of(serving.bench)
        self._announcer = Announcer(
            publisher, self._runs, topics.runs, name, serving.data, self._uploader, location
        )
        self._reader = Reader(address, client)
        self._places: dict[tuple[str, int], Place] = {}
        self._paused: set[tuple[str, int]] = set()
        self._job: RunJob | None = None

    def serve(self) -> None:
        try:
            self._runs.read_all()
            while not self.serving.stopping.is_set():
                try:
                    self._turn()
                except BrokerTrouble as trouble:
                    self._heart.beat("WAITING", error=str(trouble))
                    self.serving.stopping.wait(0.5)
        except EnvironmentProblem as problem:
            self._heart.beat("ERROR", error=str(problem))
            raise
        finally:
            if self._job is not None:
                self._job.abandon()
            if self.serving.stopping.is_set():
                self._settle_what_is_known()
                self._heart.beat("STOPPED")
            self._publisher.flush(5.0)
            if self._uploader is not None:
                self._uploader.close()
            for reader in (self._reader, self._plan, self._runs):
                reader.close()

    def _turn(self) -> None:
        self._runs.poll()
        self._settle()
        if self._job is None:
            if self._plan.poll(0.5):
                self._take_next_run()
            if self._job is None:
                self._heart.beat("READY", **self._announcer.counts)
                self.serving.stopping.wait(0.25)
                return
        job = self._job
        self._fetch(job)
        if not self._plan.poll(0.5):  # what was read is only understood with the plan behind it
            return
        run = self._plan.plan.run(job.run.number)
        last = run.last if run is not None else None
        try:
            done = job.advance(last)
        except BeginAgain as foreign:
            log.warning("begin again", run=job.run.number, why=str(foreign))
            self._assign(job)
            return
        self._pause(job)
        self._announcer.open(job)
        if done and last is not None:
            job.finish(last)
            self._announcer.finished(job)
            self._unassign()
            self._job = None
        counts = self._announcer.counts | job.counts
        self._heart.beat("RUNNING", run=job.run.number, next=job.next, **counts)

    def _settle(self) -> None:
        install = self._plan.plan.install
        if install is not None:
            self._announcer.settle(install.uuid)

    def _settle_what_is_known(self) -> None:
        """A run that was closed a moment ago gets its last run.json before this process goes."""
        try:
            self._runs.read_all()
            self._settle()
        except (BrokerTrouble, EnvironmentProblem) as trouble:
            log.warning("documents not final", why=str(trouble), hint="the next start writes them")

    # ---------------------------------------------------------------- which run

    def _take_next_run(self) -> None:
        runs = self._plan.plan.runs()
        for i, run in enumerate(runs):
            if self._announcer.knows(run.number):
                continue
            doc = self._runs.documents.runs.get(run.number)
            if doc is None:
                if i + 1 < len(runs):
                    continue  # it broke before it had a document
                return
            self._begin(run, doc)
            return

    def _begin(self, run: Run, doc: Mapping[str, Any]) -> None:
        install = self._plan.plan.install
        assert install is not None
        bench = self.serving.bench
        kind = bench.run_types.get(str(doc.get("type")))
        only = kind.writers if kind is not None else None
        number = run.number
        setup = Setup(
            data=self.serving.data,
            installation=install.uuid,
            partitions=install.P,
            outputs=tuple(o for o in outputs(bench) if only is None or o.pipeline in only),
            texts={"bench.toml": bench.text, "bench.resolved.toml": bench.resolved_toml()},
            truth=truth_of(bench, install.uuid),
        )
        facts = RunFacts(number, run.first, install.L, tuple(doc.get("sources") or ()))
        job = RunJob(setup, facts, lambda: self._runs.documents.runs[number], self._uploader)
        log.info("run begins", run=number, first=run.first, folder=str(job.folder))
        self._job = job
        self._assign(job)

    # ---------------------------------------------------------------- Kafka

    def _assign(self, job: RunJob) -> None:
        self._unassign()
        topics, plan = self.serving.topics, self._plan.plan
        run = plan.run(job.run.number)
        assert run is not None
        since = max(0, run.start.time_ms - MARGIN_MS)

        def topic(kind: str, pipeline: str) -> str:
            return topics.events(pipeline) if kind == EVENTS else topics.monitor(pipeline)

        def starts(kind: str, pipeline: str) -> dict[int, int]:
            places = [(topic(kind, pipeline), p) for p in range(job.setup.partitions)]
            return {p: o for (_, p), o in self._reader.offsets_at(places, since).items()}

        try:
            begin = job.begin(starts)
        except BrokerTrouble:
            job.abandon()
            self._job = None  # taken again when the broker answers
            raise
        self._places = {(topic(kind, pl), p): (kind, pl, p) for kind, pl, p in begin}
        self._reader.assign({(topic(kind, pl), p): o for (kind, pl, p), o in begin.items()})

    def _unassign(self) -> None:
        self._reader.unassign(list(self._places))
        self._places, self._paused = {}, set()

    def _fetch(self, job: RunJob) -> None:
        run = self._plan.plan.run(job.run.number)
        last = run.last if run is not None else None
        for record in self._reader.poll(200, 0.05):
            place = self._places.get((record.topic, record.partition))
            if place is not None:
                headers = [(str(k), v) for k, v in record.headers or ()]
                job.offer(place, record.offset, headers, record.value, last)
        for where, place in self._places.items():
            if self._reader.at_end(where):
                job.at(place, self._reader.position[where])
        for where, why in list(self._reader.lost.items()):
            first = self._reader.bounds(where)[0]
            log.error("results are no longer in Kafka", topic=where[0], partition=where[1],
                      why=why, first=first)  # fmt: skip
            self._reader.lost.pop(where, None)
            self._reader.seek(where, first)

    def _pause(self, job: RunJob) -> None:
        wanted = {w for w, place in self._places.items() if place in job.paused()}
        if wanted - self._paused:
            self._reader.pause(wanted - self._paused)
        if self._paused - wanted:
            self._reader.resume(self._paused - wanted)
        self._paused = wanted


def main(serving: Service, name: str = "root0") -> None:
    """Serve as writer `name` until told to stop."""
    Writer(serving, name).serve()
