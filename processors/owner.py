"""One partition of a pipeline in the hands of one lane: take-over, and its transactions."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from freerun.assembler import Assembler, Resume
from freerun.errors import Quarantined
from freerun.kafka import Outgoing, Position, Reader, Record, Transactional
from freerun.plan import Plan
from freerun.rows import SCHEMAS
from freerun.topics import Topics
from freerun.wire import Part, checksum, read_part, result_headers
from processors.pipeline import SliceResult

METADATA_VERSION = 1


class Outdated(Exception):
    """A later generation owns this partition."""


def check_body(part: Part, body: bytes) -> None:
    """Is the body the one that the header speaks of? Raises `Quarantined`."""
    if checksum(body) != part.crc:
        raise Quarantined("checksum", f"crc {checksum(body)}, the header says {part.crc}")
    if part.schema not in SCHEMAS:
        raise Quarantined("schema", f"known are {', '.join(SCHEMAS)}, got {part.schema!r}")


@dataclass
class Owner:
    """Everything a lane holds of one partition; thrown away whole on any error."""

    p: int
    generation: int
    topics: Topics
    pipeline: str
    transactions: Transactional
    assembler: Assembler
    committed: dict[str, Resume]  # sources with a committed position that are not read yet
    waiting: dict[str, deque[Record]] = field(default_factory=dict)  # held, in order
    commit: Future[int] | None = None  # its result: host ns at which the results were visible
    in_commit: list[SliceResult] = field(default_factory=list)
    paused: set[str] = field(default_factory=set)
    highs: dict[tuple[str, int], int] = field(default_factory=dict)

    # ---------------------------------------------------------------- records

    def offer(self, record: Record, source: str, plan: Plan) -> None:
        """Give a record to the assembler; what is held waits here, in order."""
        queue = self.waiting.get(source)
        if queue is not None:
            queue.append(record)
        elif not self._offer(record, source, plan):
            self.waiting[source] = deque([record])

    def _offer(self, record: Record, source: str, plan: Plan) -> bool:
        part: Part | Quarantined
        try:
            part = read_part(record.headers)
            if part.source != source:
                part = Quarantined("source", f"expected {source}, the header says {part.source}")
        except Quarantined as why:
            part = why
        return self.assembler.offer(source, record.offset, part, record.value, plan)

    def offer_again(self, plan: Plan) -> None:
        """Offer what was held, as far as the plan now knows."""
        for source in list(self.waiting):
            queue = self.waiting[source]
            while queue and self._offer(queue[0], source, plan):
                queue.popleft()
            if not queue:
                del self.waiting[source]

    # ---------------------------------------------------------------- results

    def outgoing(self, results: Sequence[SliceResult]) -> list[Outgoing]:
        out = []
        for r in results:
            for part, body in r.events:
                headers = result_headers(part, body)
                out.append(Outgoing(self.topics.events(self.pipeline), self.p, body, headers))
            part, body = r.monitor
            headers = result_headers(part, body)
            out.append(Outgoing(self.topics.monitor(self.pipeline), self.p, body, headers))
        for source, offset, why in self.assembler.quarantined:
            note = {
                "topic": self.topics.raw(source), "partition": self.p, "offset": offset,
                "reason": why.reason, "detail": str(why), "pipeline": self.pipeline,
            }  # fmt: skip
            out.append(Outgoing(self.topics.quarantine, 0, json.dumps(note).encode()))
        self.assembler.quarantined.clear()
        return out

    def positions(self) -> list[Position]:
        """What is committed with the results: offsets, and in their metadata what to know."""
        return [
            Position(
                self.topics.raw(source), self.p, resume.offset,
                json.dumps({"v": METADATA_VERSION, "g": self.generation,
                            "next": self.assembler.next, **resume.data}, separators=(",", ":")),
            )
            for source, resume in self.assembler.positions().items()
        ]  # fmt: skip

    def start_commit(
        self, results: Sequence[SliceResult], pool: ThreadPoolExecutor, group: Any
    ) -> None:
        records, positions = self.outgoing(results), self.positions()
        self.in_commit = list(results)

        def work() -> int:
            self.transactions.commit(records, positions, group)
            return time.time_ns()

        self.commit = pool.submit(work)

    @property
    def committing(self) -> bool:
        return self.commit is not None and not self.commit.done()


def take_over(
    p: int, generation: int, topics: Topics, pipeline: str, sources: Sequence[str],
    plan: Plan, reader: Reader, transactions: Transactional, partitions: int,
) -> Owner:  # fmt: skip
    """Fence the old owner, then read its position. Raises `Outdated` for a later generation."""
    places = [(topics.raw(s), p) for s in sources]

    def committed() -> dict[str, tuple[int, dict[str, Any]]]:
        found = reader.committed(places)
        data = {t: (pos.offset, json.loads(pos.metadata)) for (t, _), pos in found.items()}
        newest = max((d["g"] for _, d in data.values()), default=-1)
        if newest > generation:
            raise Outdated(f"partition {p} belongs to generation {newest}")
        return data

    committed()
    transactions.init()
    data = committed()
    if data:
        following = max(d["next"] for _, d in data.values())
    else:
        runs = plan.runs()
        following = runs[0].first if runs else 0
    assembler = Assembler(p, partitions, following, check_body)
    resumes = {
        s: Resume(data[topics.raw(s)][0], data[topics.raw(s)][1])
        for s in sources
        if topics.raw(s) in data
    }
    return Owner(p, generation, topics, pipeline, transactions, assembler, resumes)
