"""Talking to run control from any Kafka client: commands out, answers and documents in."""

from __future__ import annotations

import getpass
import json
import time
import uuid
from typing import Any

from freerun.compacted import newest
from freerun.errors import EnvironmentProblem
from freerun.kafka import Publisher, Reader
from freerun.topics import Topics

ANSWER_S = 10.0


class Client:
    """One connection to an installation."""

    def __init__(self, address: str, topics: Topics) -> None:
        self._address, self._topics = address, topics

    def command(self, name: str, **what: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; raises `EnvironmentProblem` if none comes."""
        where = (self._topics.control, 0)
        reader = Reader(self._address, f"cli.{uuid.uuid4().hex[:8]}", queue_mb=4, fetch_wait_ms=10)
        publisher = Publisher(self._address, "cli")
        try:
            reader.assign({where: reader.high(where)})
            told = {"command": name, "id": str(uuid.uuid4()), "who": getpass.getuser(), **what}
            publisher.publish(self._topics.control, json.dumps(told).encode())
            if publisher.flush(5.0):
                raise EnvironmentProblem(
                    f"the broker at {self._address} took no command: is it running?"
                )
            end = time.monotonic() + ANSWER_S
            while time.monotonic() < end:
                for record in reader.poll(50, 0.1):
                    answer = json.loads(record.value)
                    if isinstance(answer, dict) and answer.get("answer") == told["id"]:
                        return answer
        finally:
            reader.close()
        raise EnvironmentProblem(
            f"run control does not answer ({ANSWER_S:.0f} s): is 'freerun up' running? Its log is "
            ".freerun/logs/run-control.log below the data folder"
        )

    def documents(self) -> dict[str, dict[str, Any]]:
        """Everything on the runs topic now: key → newest record."""
        return newest(self._address, self._topics.runs)

    def states(self) -> dict[str, dict[str, Any]]:
        """The newest heartbeat of each service: `role/id` → record."""
        return newest(self._address, self._topics.state)

    def run(self, number: int) -> dict[str, Any] | None:
        return self.documents().get(f"run/{number}")
