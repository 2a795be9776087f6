"""Kafka in memory, as much of it as a lane uses: logs, group offsets, transactions with fencing.

A commit can be told to die: before anything is visible, or after everything is, or (without
transactions) anywhere in between.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from freerun.kafka import Fenced, Outgoing, Position, Record, Where
from freerun.plan import Plan


class Dead(BaseException):
    """The process is killed here: nothing may catch it."""


@dataclass
class Memory:
    """One broker. `transactions = False`: what is sent is there at once, and nobody is fenced."""

    plan: Plan
    transactions: bool = True
    batch: int = 500  # records of one poll, at most
    logs: dict[Where, list[Record]] = field(default_factory=lambda: defaultdict(list))
    offsets: dict[str, dict[Where, Position]] = field(default_factory=lambda: defaultdict(dict))
    epochs: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    steps_to_live: int = 1 << 60  # of commits, over all lanes

    def append(self, topic: str, p: int, value: Any, headers: Any) -> None:
        log = self.logs[topic, p]
        log.append(Record(topic, p, len(log), 0, None, headers, bytes(memoryview(value))))

    def step(self) -> None:
        """A place where a process may be killed."""
        self.steps_to_live -= 1
        if self.steps_to_live == 0:
            raise Dead

    # ------------------------------------------------------------------ stand-ins

    def reader(self, _address: str, _name: str, group: str = "", **_: Any) -> MemoryReader:
        return MemoryReader(self, group)

    def transactional(self, _address: str, tid: str, *_: Any, **__: Any) -> MemoryTransactional:
        return MemoryTransactional(self, tid)

    def planlog(self, *_: Any, **__: Any) -> MemoryPlanLog:
        return MemoryPlanLog(self.plan)


class MemoryPlanLog:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def poll(self, timeout: float = 0.0) -> bool:
        return True

    def close(self) -> None: ...


class MemoryReader:
    def __init__(self, broker: Memory, group: str) -> None:
        self._broker, self._group = broker, group
        self.position: dict[Where, int] = {}
        self.lost: dict[Where, str] = {}
        self._paused: set[Where] = set()

    def assign(self, positions: Mapping[Where, int]) -> None:
        self.position.update(positions)

    def unassign(self, places: Iterable[Where]) -> None:
        for where in list(places):
            self.position.pop(where, None)
            self._paused.discard(where)

    def pause(self, places: Iterable[Where]) -> None:
        self._paused |= set(places)

    def resume(self, places: Iterable[Where]) -> None:
        self._paused -= set(places)

    def poll(self, n: int = 500, timeout: float = 0.0) -> list[Record]:
        out: list[Record] = []
        for where in [w for w in self.position if w not in self._paused]:
            at, most = self.position[where], min(n, self._broker.batch) - len(out)
            some = self._broker.logs[where][at : at + most]
            self.position[where] += len(some)
            out += some
        return out

    def high(self, where: Where, timeout: float = 0.0) -> int:
        return len(self._broker.logs[where])

    def offsets_at(self, places: Iterable[Where], time_ms: int) -> dict[Where, int]:
        return dict.fromkeys(places, 0)

    def committed(self, places: Iterable[Where]) -> dict[Where, Position]:
        mine = self._broker.offsets[self._group]
        return {where: mine[where] for where in places if where in mine}

    def group_metadata(self) -> str:
        return self._group

    def close(self) -> None: ...


class MemoryTransactional:
    def __init__(self, broker: Memory, tid: str) -> None:
        self._broker, self.tid, self._epoch = broker, tid, 0

    def init(self, timeout: float = 0.0) -> None:
        self._broker.epochs[self.tid] += 1
        self._epoch = self._broker.epochs[self.tid]

    def commit(
        self, records: Iterable[Outgoing], positions: Sequence[Position] = (), group: Any = None
    ) -> list[int]:
        broker = self._broker
        if broker.transactions and self._epoch != broker.epochs[self.tid]:
            raise Fenced(self.tid)
        broker.step()
        for r in records:
            broker.append(r.topic, r.partition, r.value, r.headers)
            if not broker.transactions:
                broker.step()
        for position in positions:
            broker.offsets[group][position.topic, position.partition] = position
        broker.step()
        return []

    def close(self) -> None: ...
