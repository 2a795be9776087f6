"""Run documents and writers' outputs: the records of `<s>.runs`, folded."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from freerun.kafka import BEGINNING, Publisher, Reader
from freerun.topics import Topics


@dataclass
class Documents:
    """What `<s>.runs` says now."""

    runs: dict[int, dict[str, Any]] = field(default_factory=dict)
    writers: dict[tuple[int, str], dict[str, Any]] = field(default_factory=dict)

    def add(self, key: bytes | None, value: bytes) -> None:
        kind, _, rest = (key or b"").decode().partition("/")
        data = json.loads(value) if value else None
        if kind == "run" and rest.isdigit() and data is not None:
            self.runs[int(rest)] = data
        elif kind == "writer" and data is not None:
            run, _, name = rest.partition("/")
            self.writers[(int(run), name)] = data

    def of_run(self, run: int) -> dict[str, dict[str, Any]]:
        return {name: doc for (number, name), doc in self.writers.items() if number == run}


class RunsTopic:
    """Follows `<s>.runs` and writes to it."""

    def __init__(self, address: str, topics: Topics, name: str, publisher: Publisher) -> None:
        self.documents = Documents()
        self._topic, self._publisher = topics.runs, publisher
        self._where = (topics.runs, 0)
        self._reader = Reader(
            address, f"{name}.runs", committed=False, queue_mb=8, fetch_wait_ms=500
        )
        self._reader.assign({self._where: BEGINNING})

    def poll(self, timeout: float = 0.0) -> bool:
        """Take in what is new; True if the end was reached."""
        for record in self._reader.poll(500, timeout):
            self.documents.add(record.key, record.value)
        return self._reader.at_end(self._where)

    def read_all(self) -> None:
        known = self._reader.high(self._where)
        while max(0, self._reader.position[self._where]) < known and not self.poll(0.05):
            pass

    def put_run(self, document: dict[str, Any]) -> None:
        key = f"run/{document['run']}"
        self._publisher.publish(self._topic, json.dumps(document).encode(), key)
        self.documents.runs[document["run"]] = document

    def close(self) -> None:
        self._reader.close()
