"""Uploads to S3 beside the writing: tried again until the store is back, nothing is forgotten."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from controllers.writer.publish import sha256_of, sidecar_path
from freerun.errors import FreerunError


class Puts(Protocol):
    """What the uploader needs of a store."""

    def put_new(self, path: Path, sha256: str, *names: str) -> None: ...
    def put(self, data: bytes, *names: str) -> None: ...


@dataclass(frozen=True)
class _Job:
    run: str  # folder of the run
    path: Path
    sha256: str | None  # of a data file; its sidecar follows it. None: a file that is replaced


class Uploader:
    """Uploads in a thread of its own; only names wait in it, the files lie on disk.

    A failure is tried again after `first_wait`, then twice that … up to `longest_wait` seconds.
    """

    def __init__(self, store: Puts, first_wait: float = 1.0, longest_wait: float = 60.0) -> None:
        self.error: str | None = None  # of the last try, None if it went well
        self._store, self._first, self._longest = store, first_wait, longest_wait
        self._jobs: deque[_Job] = deque()
        self._change = threading.Condition()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="s3-uploader", daemon=True)
        self._thread.start()

    def new(self, run: str, path: Path, sha256: str) -> None:
        """Upload a file that is never replaced, then its sidecar."""
        self._put(_Job(run, path, sha256))

    def over(self, run: str, path: Path) -> None:
        """Upload a small file as it is then, replacing what is there."""
        self._put(_Job(run, path, None))

    def _put(self, job: _Job) -> None:
        with self._change:
            if job not in self._jobs:
                self._jobs.append(job)
            self._change.notify_all()

    def pending(self, run: str | None = None) -> int:
        """Files (of one run) that are not there yet."""
        with self._change:
            return sum(1 for job in self._jobs if run in (None, job.run))

    def wait(self, timeout: float) -> bool:
        """Until nothing is pending; False if it still is after `timeout` seconds."""
        with self._change:
            return self._change.wait_for(lambda: not self._jobs, timeout)

    def close(self) -> None:
        """Stop after the try that is under way; the next start finds what is pending."""
        self._stop.set()
        with self._change:
            self._change.notify_all()
        self._thread.join(70.0)

    def _do(self, job: _Job) -> None:
        if job.sha256 is None:
            self._store.put(job.path.read_bytes(), job.run, job.path.name)
            return
        self._store.put_new(job.path, job.sha256, job.run, job.path.name)
        sidecar = sidecar_path(job.path)
        self._store.put_new(sidecar, sha256_of(sidecar), job.run, sidecar.name)

    def _work(self) -> None:
        wait = self._first
        while not self._stop.is_set():
            with self._change:
                if not self._jobs:
                    self._change.wait(1.0)
                    continue
                job = self._jobs[0]
            try:
                self._do(job)
            except (FreerunError, OSError) as error:
                self.error = str(error)
                self._stop.wait(wait)
                wait = min(2 * wait, self._longest)
                with self._change:  # others may go well meanwhile
                    self._jobs.rotate(-1)
                continue
            self.error, wait = None, self._first
            with self._change:
                self._jobs.remove(job)
                self._change.notify_all()
