"""The one ear and mouth to Kafka: follows snapshot, state and runs, sends commands.

One background thread for all viewers. Nothing here knows of pages.
"""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from dashboard.rates import with_rates
from dashboard.snapshot import Snapshot, decode
from freerun.errors import FreerunError, Quarantined
from freerun.heartbeat import Heart
from freerun.kafka import BEGINNING, Publisher, Reader, Record
from freerun.topics import Topics

SILENCE_S = 5.0  # our own heartbeat comes back through the broker once a second
ANSWER_S = 5.0  # run control answers within this, or the viewer is told so
LOOK_BACK = 16  # records before the end of the snapshots; markers take offsets too
RETRY_S = 1.0  # between two tries to connect
NAME = "dashboard"  # our id among the services
ANEW_S = 30.0  # after this long a silence the clients are made anew

Key = TypeVar("Key")


@dataclass(frozen=True)
class Answer:
    """What run control said to a command; `ok` is None if it said nothing in time."""

    ok: bool | None
    text: str
    run: int | None = None


class Feed:
    """What Kafka says now. `start()` begins to listen, `stop()` ends it.

    Reading is safe from any thread: the dictionaries are replaced, never changed in place.
    """

    def __init__(
        self,
        topics: Topics,
        pipeline: str,
        open_reader: Callable[[], Reader],
        open_publisher: Callable[[], Publisher],
        url: str = "",
    ) -> None:
        self.snapshot: Snapshot | None = None
        self.states: Mapping[str, dict[str, Any]] = {}
        self.runs: Mapping[int, dict[str, Any]] = {}
        self.writers: Mapping[tuple[int, str], dict[str, Any]] = {}
        self.rejected = 0  # records that were not what their topic promises
        self._topics = topics
        self._snapshots = topics.snapshot(pipeline)
        self._open_reader, self._open_publisher = open_reader, open_publisher
        self._url = url
        self._trouble = "connecting to Kafka"
        self._echo = 0.0  # when our own heartbeat last came back (monotonic)
        self._mouth: Publisher | None = None
        self._waiting: dict[str, tuple[threading.Event, list[dict[str, Any]]]] = {}
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ending.set()
        self._thread.join(timeout=10)

    @property
    def trouble(self) -> str:
        """One sentence if what is known may be old, else nothing."""
        if self._trouble:
            return self._trouble
        silent = time.monotonic() - self._echo
        if silent > SILENCE_S:
            return f"Kafka has not answered for {silent:.0f} s: everything below is of then"
        return ""

    def command(self, command: str, who: str, timeout: float = ANSWER_S, **args: Any) -> Answer:
        """Send a command to run control and wait for its answer, at most `timeout` seconds."""
        if self.trouble or self._mouth is None:
            return Answer(None, f"Not sent: {self.trouble or 'not connected to Kafka'}.")
        ident = str(uuid.uuid4())
        heard, box = threading.Event(), list[dict[str, Any]]()
        self._waiting[ident] = (heard, box)
        record = {"v": 1, "command": command, "id": ident, "who": who, **args}
        try:
            self._mouth.publish(self._topics.control, json.dumps(record).encode(), ident)
            if not heard.wait(timeout):
                return Answer(
                    None,
                    f"Run control did not answer within {timeout:.0f} s: look whether its line "
                    "under Services is alive. The command is in its queue and may still happen.",
                )
        finally:
            self._waiting.pop(ident, None)
        answer = box[0]
        run = answer.get("run")
        return Answer(
            bool(answer.get("ok")),
            str(answer.get("text") or "Run control gave no reason."),
            None if run is None else int(run),
        )

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                self._listen()
            except FreerunError as error:
                self._trouble = str(error)
            except Exception as error:  # whatever it is, the page lives on and says it
                self._trouble = f"{type(error).__name__}: {error}"
            self._ending.wait(RETRY_S)

    def _listen(self) -> None:
        topics = self._topics
        reader = self._open_reader()
        try:
            first, end = reader.bounds((self._snapshots, 0))
            reader.assign(
                {
                    (topics.state, 0): BEGINNING,
                    (topics.runs, 0): BEGINNING,
                    (self._snapshots, 0): max(first, end - LOOK_BACK),
                    (topics.control, 0): reader.bounds((topics.control, 0))[1],
                }
            )
            mouth = self._mouth = self._open_publisher()
            heart = Heart(mouth, topics, "dashboard", NAME)
            self._echo = time.monotonic()
            self._trouble = ""
            while not self._ending.is_set():
                heart.beat("RUNNING", url=self._url)
                for record in reader.poll(500, 0.2):
                    self._take(record)
                if reader.lost:
                    raise FreerunError(f"reading again from the start: {reader.lost}")
                if time.monotonic() - self._echo > ANEW_S:
                    raise FreerunError(f"{self.trouble} (connecting anew)")
            heart.beat("STOPPED", url=self._url)
        finally:
            if self._mouth is not None:
                self._mouth.flush(2.0)
                self._mouth = None
            reader.close()

    def _take(self, record: Record) -> None:
        try:
            if record.topic == self._snapshots:
                self.snapshot = decode(record.headers, record.value)
                return
            key = (record.key or b"").decode()
            value = json.loads(record.value) if record.value else None
            if value is not None and not isinstance(value, dict):
                raise ValueError("not a JSON object")
        except (Quarantined, ValueError):
            self.rejected += 1
            return
        if record.topic == self._topics.state:
            self.states = _changed(self.states, key, with_rates(self.states.get(key), value))
            if key == f"dashboard/{NAME}" and value and value.get("pid") == os.getpid():
                self._echo = time.monotonic()
        elif record.topic == self._topics.runs:
            self._take_document(key, value)
        elif value is not None and "answer" in value:
            waiting = self._waiting.get(str(value["answer"]))
            if waiting is not None:
                waiting[1].append(value)
                waiting[0].set()

    def _take_document(self, key: str, value: dict[str, Any] | None) -> None:
        kind, _, rest = key.partition("/")
        number, _, ident = rest.partition("/")
        with suppress(ValueError):
            if kind == "run":
                self.runs = _changed(self.runs, int(number), value)
            elif kind == "writer":
                self.writers = _changed(self.writers, (int(number), ident), value)


def _changed(
    old: Mapping[Key, dict[str, Any]], key: Key, value: dict[str, Any] | None
) -> dict[Key, dict[str, Any]]:
    """A copy of `old` with one entry set, or taken out."""
    new = dict(old)
    if value is None:
        new.pop(key, None)
    else:
        new[key] = value
    return new
