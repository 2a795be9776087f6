"""The one module that speaks Dask: a lane's work as tasks that follow each other on a worker."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distributed import Client

from processors.task import lane_task

RESULT_S = 2.0  # for the summary of a task that is done
ASK_S = 0.5  # between two questions to the scheduler who lives: each costs it a millisecond


@dataclass
class Running:
    """One task on its way."""

    future: Any  # distributed.Future
    worker: str
    asked_s: float
    begun: float  # when it became the first in its worker's queue


class Cluster:
    """A client of the scheduler named in a file that the scheduler itself writes."""

    def __init__(self, scheduler_file: Path, timeout_s: float = 30.0) -> None:
        self._client: Any = Client(  # type: ignore[no-untyped-call]
            scheduler_file=str(scheduler_file), timeout=f"{timeout_s}s",
            heartbeat_interval="1s", set_as_default=False,
        )  # fmt: skip
        self._numbers = itertools.count()
        self._queues: dict[str, list[Running]] = {}
        self._stuck: dict[str, list[Any]] = {}
        self._known: list[str] = []  # as the scheduler said last
        self._ask_at = 0.0
        self._slow: dict[str, int] = {}  # worker → how often it was thought gone and was not

    @property
    def dashboard(self) -> str:
        return str(self._client.dashboard_link)

    @property
    def alive(self) -> bool:
        return bool(self._client.status == "running")

    def workers(self) -> list[str]:
        """Addresses of the workers that can take work now, sorted.

        One that is stuck in a task of ours can not; when that ends at last, it is back.
        """
        for worker, futures in list(self._stuck.items()):
            if all(f.done() for f in futures):
                del self._stuck[worker]
                self._slow[worker] = self._slow.get(worker, 0) + 1
        now = time.monotonic()
        if now >= self._ask_at:
            self._known = list(self._client.scheduler_info(n_workers=-1)["workers"])
            self._ask_at = now + ASK_S
        return sorted(w for w in self._known if w not in self._stuck)

    def keep_busy(
        self, worker: str, spec: dict[str, Any], partitions: list[int], seconds: float
    ) -> None:
        """Let two tasks be queued on the worker, so that it never waits for the scheduler."""
        queue = self._queues.setdefault(worker, [])
        while len(queue) < 2:
            future = self._client.submit(
                lane_task, spec, partitions, seconds,
                key=f"lane-{spec['pipeline']}-{spec['generation']}-{next(self._numbers)}",
                workers=[worker], allow_other_workers=False, pure=False, retries=0,
            )  # fmt: skip
            queue.append(Running(future, worker, seconds, time.monotonic()))

    def done(self) -> list[tuple[str, dict[str, Any] | BaseException]]:
        """Results of the finished tasks, worker by worker."""
        out: list[tuple[str, dict[str, Any] | BaseException]] = []
        for worker, queue in self._queues.items():
            while queue and queue[0].future.done():
                future = queue.pop(0).future
                if queue:
                    queue[0].begun = time.monotonic()
                out.append((worker, _result(future)))
        return out

    def overdue(self, grace_s: float) -> list[str]:
        """Workers whose first task takes longer than asked by `grace_s`, whatever the scheduler
        thinks of them. One that came back each time gets twice the grace each time: on a busy
        machine two workers would else take each other's partitions for ever."""
        now = time.monotonic()
        return [
            worker
            for worker, queue in self._queues.items()
            if queue
            and now - queue[0].begun
            > queue[0].asked_s + grace_s * 2 ** min(5, self._slow.get(worker, 0))
        ]

    def cancel_waiting(self, worker: str) -> None:
        """Take back the tasks that wait behind the worker's first one."""
        for running in self._queues.get(worker, [])[1:]:
            running.future.cancel(force=True)
        self._queues[worker] = self._queues.get(worker, [])[:1]

    def drop(self, worker: str) -> None:
        """Forget a worker's tasks; what its first one may still do is fenced."""
        self.cancel_waiting(worker)
        for running in self._queues.pop(worker):
            if not running.future.done():
                self._stuck.setdefault(worker, []).append(running.future)

    def close(self) -> None:
        for queue in self._queues.values():
            for running in queue:
                running.future.cancel(force=True)
        self._client.close(timeout=2)


def _result(future: Any) -> dict[str, Any] | BaseException:
    """What a task that is done returned. Its worker, which has it, may have died just now: then
    the scheduler would wait for a worker of that name, and we with it, for ever."""
    if future.status != "finished":
        return _error(future)
    try:
        done: dict[str, Any] = future.result(timeout=RESULT_S)
        return done
    except Exception as error:
        return error


def _error(future: Any) -> BaseException:
    if future.status == "error":
        error = future.exception()
        return error if isinstance(error, BaseException) else RuntimeError(str(error))
    return RuntimeError(f"the task was {future.status}")
