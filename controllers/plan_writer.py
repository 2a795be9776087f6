"""The one writer of the plan: fenced, and every command's entry and answer in one transaction."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from freerun.errors import ConfigError
from freerun.kafka import BEGINNING, BrokerTrouble, Outgoing, Position, Reader, Transactional
from freerun.plan import Entry, Install, Plan
from freerun.planlog import PlanLog
from freerun.topics import Topics


class PlanWriter:
    """Owner of `<s>.plan` until somebody else initialises the same id."""

    def __init__(self, address: str, topics: Topics, install: Install, timeout_ms: int = 15_000):
        self._topics = topics
        self._transactions = Transactional(address, topics.plan, timeout_ms)
        self._transactions.init()
        self._log = PlanLog(address, topics, f"{topics.system}.control")
        self._control = (topics.control, 0)
        self._group = f"{topics.system}.control"
        self._reader = Reader(
            address, self._group, group=self._group, queue_mb=8, fetch_wait_ms=500
        )
        self.refresh()
        self._install(install)
        committed = self._reader.committed([self._control])
        start = committed[self._control].offset if committed else BEGINNING
        self._reader.assign({self._control: start})

    @property
    def plan(self) -> Plan:
        return self._log.plan

    def _install(self, wanted: Install) -> None:
        have = self.plan.install
        if have is None:
            self._transactions.commit([Outgoing(self._topics.plan, 0, wanted.to_json())])
            self.refresh()
        elif (have.L, have.P, have.G) != (wanted.L, wanted.P, wanted.G):
            raise ConfigError(
                f"the plan of {self._topics.system} was begun with slice = {have.L} ns, "
                f"partitions = {have.P}, guard = {have.G} ns; the configuration says {wanted.L} "
                f"ns, {wanted.P}, {wanted.G} ns: put the old values back, or give the system "
                "another name"
            )

    def refresh(self) -> None:
        """Read the plan to its end; raises `BrokerTrouble` if that is not to be had."""
        for _ in range(6):
            if self._log.poll(timeout=10.0):
                return
        raise BrokerTrouble(
            "the plan could not be read to its end in a minute: is the broker well?"
        )

    def commands(self, timeout: float) -> list[tuple[dict[str, Any], int]]:
        """New commands, each with the offset behind it; answers and junk are passed over."""
        out = []
        for record in self._reader.poll(50, timeout):
            try:
                data = json.loads(record.value)
            except ValueError:
                continue
            if isinstance(data, dict) and "command" in data:
                out.append((data, record.offset + 1))
        return out

    def issue(
        self,
        entry: Entry | None,
        answer: Mapping[str, Any] | None = None,
        behind: int | None = None,
    ) -> Entry | None:
        """Write an entry (with the next number), the answer to its command, and the position.

        The entry is read back before this returns; one that came too late for its slice is void
        for everybody and is issued again, later.
        """
        while True:
            records = []
            if entry is not None:
                entry = replace(entry, seq=self.plan.next_seq)
                records.append(Outgoing(self._topics.plan, 0, entry.to_json()))
            if answer is not None:
                told = dict(answer) | ({"first": entry.from_slice} if entry else {})
                records.append(Outgoing(self._topics.control, 0, json.dumps(told).encode()))
            positions = [] if behind is None else [Position(*self._control, behind)]
            self._transactions.commit(records, positions, self._reader.group_metadata())
            self.refresh()
            if entry is None or any(e.seq == entry.seq for e in self.plan.entries):
                return entry
            entry = replace(entry, from_slice=self.plan.earliest(time.time_ns()))

    def confirm(self) -> None:
        """Raises `Fenced` if the plan has another owner by now."""
        at = max(0, self._reader.position[self._control])
        self._transactions.commit([], [Position(*self._control, at)], self._reader.group_metadata())

    def close(self) -> None:
        self._log.close()
        self._reader.close()
        self._transactions.close()


def new_install(length: int, partitions: int, guard: int) -> Install:
    return Install(str(uuid.uuid4()), length, partitions, guard)
