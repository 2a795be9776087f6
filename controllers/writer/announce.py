"""What a writer says on `<s>.runs`: which files there are, and when a run is closed for it.

An announcement is repeated until it is read back: the topic is the truth, not our memory.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from controllers.documents import RunsTopic
from controllers.writer.folder import run_name, written_document
from controllers.writer.job import RunJob, publish_documents
from controllers.writer.publish import disk_sentence
from controllers.writer.s3 import Location
from controllers.writer.uploads import Uploader
from freerun.kafka import Publisher

OPEN, UPLOADING, CLOSED = "open", "uploading", "closed"
REPEAT_S = 2.0
_KEYS = ("name", "kind", "bytes", "rows", "first", "last", "sha256")


class Announcer:
    """Remembers the runs that are written but not over: uploads, the final document."""

    def __init__(
        self, publisher: Publisher, runs: RunsTopic, topic: str, name: str,
        data: Path, uploader: Uploader | None = None, location: Location | None = None,
    ) -> None:  # fmt: skip
        self._data, self._location = data, location
        self._publisher, self._runs, self._topic, self._name = publisher, runs, topic, name
        self._uploader = uploader
        self._said: dict[int, tuple[dict[str, Any], float]] = {}  # record, when it was sent
        self._finished: dict[int, RunJob] = {}  # all in files; until the document is final
        self._final: set[int] = set()  # runs whose run.json is final

    def knows(self, run: int) -> bool:
        """Is nothing left to be written of this run?"""
        told = self._runs.documents.writers.get((run, self._name)) or {}
        return run in self._finished or run in self._final or told.get("state") == CLOSED

    @property
    def counts(self) -> dict[str, Any]:
        """For the heartbeat."""
        if self._uploader is None:
            return {}
        return {"uploads": self._uploader.pending(), "upload_error": self._uploader.error}

    def open(self, job: RunJob) -> None:
        """Say which files there are; cheap if nothing is new."""
        self._say(job, OPEN)

    def finished(self, job: RunJob) -> None:
        """All results of the run are in files."""
        self._finished[job.run.number] = job
        self._say(job, self._state(job))

    def settle(self, installation: str) -> None:
        """To be called in every turn: uploads that are through, documents that are final.

        Also for runs that an earlier life of this writer wrote.
        """
        for job in self._finished.values():
            self._say(job, self._state(job))
        for number, doc in self._runs.documents.runs.items():
            told = self._runs.documents.writers.get((number, self._name)) or {}
            if (
                number in self._final
                or told.get("state") != CLOSED
                or doc.get("state") not in ("closed", "failed")
            ):
                continue
            folder = self._data / run_name(number)
            if folder.is_dir() and written_document(folder) != doc:
                with disk_sentence(folder):
                    publish_documents(folder, doc, installation, self._uploader)
            self._final.add(number)
            self._finished.pop(number, None)
            self._said.pop(number, None)

    def _state(self, job: RunJob) -> str:
        waiting = self._uploader is not None and self._uploader.pending(job.name)
        return UPLOADING if waiting else CLOSED

    def _say(self, job: RunJob, state: str) -> None:
        number = job.run.number
        record = {
            "run": number,
            "writer": self._name,
            "state": state,
            "files": [
                {key: s.get(key) for key in _KEYS} | {"url": self._url(job, s["name"])}
                for s in job.files
            ],
            "n_events": job.events,
            "folder": str(job.folder),
        }
        said, when = self._said.get(number, ({}, 0.0))
        heard = self._runs.documents.writers.get((number, self._name))
        wait = REPEAT_S if record == said else 1.0 if said.get("state") == state else 0.0
        if record == heard or time.monotonic() < when + wait:
            return
        key = f"writer/{number}/{self._name}"
        self._publisher.publish(self._topic, json.dumps(record).encode(), key)
        self._said[number] = (record, time.monotonic())

    def _url(self, job: RunJob, name: str) -> str | None:
        return self._location.url(job.name, name) if self._location else None
