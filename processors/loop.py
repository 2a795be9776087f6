"""The loop of a pipeline: partitions to live workers, a second of work at a time.

A loop has a generation, the offset of its record on the control topic; mapping the partitions
anew begins the next one, so a worker that was thought dead can never come back to the same.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from freerun.heartbeat import Heart
from freerun.kafka import BrokerTrouble, Fenced, Outgoing, Publisher, Transactional
from freerun.service import Service
from freerun.slices import slice_of
from processors.cluster import Cluster
from processors.setup import lane_of, spec_of

log = structlog.get_logger()
TASK_S = 1.0
LOOK_S = 0.1  # two tasks wait at each worker: none is idle meanwhile


class Loop:
    """Drives one pipeline, inline or on Dask."""

    def __init__(self, service: Service, pipeline: str) -> None:
        self._service, self._pipeline = service, pipeline
        topics, address = service.topics, service.address
        timeouts = service.bench.timeouts
        self._fence = self._own()
        self._publisher = Publisher(address, f"{topics.group(pipeline)}.loop.news")
        self._heart = Heart(
            self._publisher, topics, "loop", pipeline, timeouts.seconds("heartbeat")
        )
        self._partitions = list(range(service.bench.cluster.partitions))
        self._next: dict[int, int] = {}
        self._totals: Counter[str] = Counter()
        self._busy_s = 0.0
        self._delays: deque[int] = deque(maxlen=3000)
        self._errors = 0
        self._last_error = ""

    def _own(self) -> Transactional:
        """Fence every earlier loop of this pipeline. Raises `BrokerTrouble` after 30 s."""
        name = f"{self._service.topics.group(self._pipeline)}.loop"
        timeout_ms = self._service.bench.timeouts.transaction // 1_000_000
        out = Transactional(self._service.address, name, timeout_ms)
        out.init()
        return out

    def _begin(self) -> dict[str, Any]:
        """A new generation, and what its workers must know."""
        record = {"started": "loop", "pipeline": self._pipeline, "pid": os.getpid(),
                  "time_ns": time.time_ns()}  # fmt: skip
        control = self._service.topics.control
        while True:
            try:
                told = [Outgoing(control, 0, json.dumps(record).encode())]
                generation = self._fence.commit(told)[0]
                break
            except BrokerTrouble as trouble:
                log.warning("no_generation", error=str(trouble), hint="the broker is away?")
                self._fence.close()
                self._fence = self._own()
        args = self._service.args
        log.info("generation", pipeline=self._pipeline, generation=generation)
        return spec_of(args.bench, args.cluster, self._service.bench, self._service.address,
                       self._pipeline, generation)  # fmt: skip

    # ------------------------------------------------------------------ inline

    def run_inline(self, stopping: Callable[[], bool]) -> None:
        """Kafka without Dask: the lane in this process."""
        spec = self._begin()
        lane = lane_of(spec)
        try:
            while not stopping():
                self._account(vars(lane.run(self._partitions, TASK_S, stopping)))
                self._beat(spec, ["inline"], "")
        finally:
            lane.close()
            self._heart.beat("STOPPED")
            self._publisher.flush(2)

    # ------------------------------------------------------------------ Dask

    def run_dask(self, scheduler_file: Path, stopping: Callable[[], bool]) -> None:
        """Two tasks queued on every worker, until told to stop."""
        while not stopping():
            try:
                cluster = Cluster(scheduler_file)
            except (OSError, TimeoutError) as error:
                log.warning("no_scheduler", error=str(error), hint="waiting for it to come back")
                self._beat({"generation": -1}, [], "", "WAITING")
                time.sleep(0.5)
                continue
            try:
                self._drive(cluster, stopping)
            except (OSError, TimeoutError, RuntimeError) as error:
                log.warning("cluster_lost", error=str(error), kind=type(error).__name__)
            finally:
                cluster.close()
        self._heart.beat("STOPPED")
        self._publisher.flush(2)

    def _drive(self, cluster: Cluster, stopping: Callable[[], bool]) -> None:
        mapped: dict[str, list[int]] = {}
        spec: dict[str, Any] = {"generation": -1}
        while not stopping() and cluster.alive:
            for worker in cluster.overdue(self._service.bench.timeouts.seconds("lane")):
                log.warning("worker_overdue", worker=worker)
                cluster.drop(worker)
            live = cluster.workers()
            if sorted(mapped) != live and live:
                for worker in mapped:
                    cluster.cancel_waiting(worker)
                spec = self._begin()
                mapped = {w: self._partitions[i :: len(live)] for i, w in enumerate(live)}
            for worker, partitions in mapped.items():
                if worker in live:
                    cluster.keep_busy(worker, spec, partitions, TASK_S)
            for worker, result in cluster.done():
                if isinstance(result, BaseException):
                    self._errors += 1
                    self._last_error = f"{type(result).__name__}: {result}"
                    log.error("task_failed", worker=worker, error=self._last_error)
                    time.sleep(0.2)
                else:
                    self._account(result)
                    if result["lost"] and result["generation"] == spec["generation"]:
                        raise Fenced(f"a later loop of {self._pipeline} has begun: this one ends")
            self._beat(spec, live, cluster.dashboard, "RUNNING" if live else "WAITING")
            time.sleep(LOOK_S)

    # ------------------------------------------------------------------ news

    def _account(self, done: dict[str, Any]) -> None:
        self._next.update({int(p): k for p, k in done["next"].items()})
        for name in ("slices", "words", "events", "failed", "retaken"):
            self._totals[name] += done[name]
        self._busy_s += done["busy_s"]
        self._delays.extend(done["delays_ms"])
        for p in done["lost"]:
            log.warning("partition_lost", partition=p, hint="a later loop owns it")

    def _beat(
        self, spec: dict[str, Any], workers: list[str], dashboard: str, state: str = "RUNNING"
    ) -> None:
        if self._heart.due(state):
            now = slice_of(time.time_ns(), self._service.bench.time.slice)
            behind = max((now - k for k in self._next.values()), default=0)
            self._heart.beat(
                state, generation=spec["generation"], workers=workers, dask=dashboard,
                lag_slices=behind, next=self._next, busy_s=self._busy_s, errors=self._errors,
                error=self._last_error, latency_s=self._latency(), **self._totals,
            )  # fmt: skip

    def _latency(self) -> dict[str, float] | None:
        """End of a slice to its visible result, in s: the middle, and 99 of 100."""
        if not self._delays:
            return None
        delays = sorted(self._delays)
        return {
            "p50": delays[len(delays) // 2] / 1000,
            "p99": delays[len(delays) * 99 // 100] / 1000,
        }
