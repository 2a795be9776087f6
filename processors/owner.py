"""One partition of a pipeline in the hands of one lane: take-over, and its transactions."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from freerun.assembler import Assembler, Resume, read_record
from freerun.errors import Quarantined
from freerun.kafka import Outgoing, Position, Reader, Record, Transactional
from freerun.plan import Plan
from freerun.rows import SCHEMAS
from freerun.topics import Topics
from freerun.wire import Part, checksum, result_headers
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
    stands: list[Position] = field(default_factory=list)  # as committed last
    alone: int = 0  # slices that still go one at a time, each announced before it is computed
    tried: tuple[int, int] = (-1, 0)  # the slice announced last, and how often
    waiting: dict[str, deque[Record]] = field(default_factory=dict)  # held, in order
    commit: Future[int] | None = None  # its result: host ns at which the results were visible
    in_commit: list[SliceResult] = field(default_factory=list)
    paused: set[str] = field(default_factory=set)
    highs: dict[tuple[str, int], int] = field(default_factory=dict)
    _next_stands: list[Position] = field(default_factory=list)

    # ---------------------------------------------------------------- records

    def add_source(self, source: str, resume: Resume) -> None:
        """Begin to read a source, where it was left or (without data) where the plan says."""
        self.assembler.add_source(source, resume)
        if not resume.data:
            state = self.assembler.sources[source].to_json(None)
            self.stands.append(self._position(source, resume.offset, self.assembler.next, state))

    def offer(self, record: Record, source: str, plan: Plan) -> None:
        """Give a record to the assembler; what is held waits here, in order."""
        queue = self.waiting.get(source)
        if queue is not None:
            queue.append(record)
        elif not self._offer(record, source, plan):
            self.waiting[source] = deque([record])

    def _offer(self, record: Record, source: str, plan: Plan) -> bool:
        part = read_record(source, record.headers, record.time_ms, plan)
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
            self._position(source, resume.offset, self.assembler.next, resume.data)
            for source, resume in self.assembler.positions().items()
        ]

    def _position(
        self, source: str, offset: int, following: int, data: Mapping[str, Any]
    ) -> Position:
        metadata = {"v": METADATA_VERSION, "g": self.generation, "next": following, **data}
        text = json.dumps(metadata, separators=(",", ":"))
        return Position(self.topics.raw(source), self.p, offset, text)

    def start_commit(
        self, results: Sequence[SliceResult], pool: ThreadPoolExecutor, group: Any
    ) -> None:
        records, positions = self.outgoing(results), self.positions()
        self.in_commit, self._next_stands = list(results), positions

        def work() -> int:
            self.transactions.commit(records, positions, group)
            return time.time_ns()

        self.commit = pool.submit(work)

    def committed_now(self) -> list[SliceResult]:
        """The commit in flight went well; returns what it was of."""
        done, self.in_commit = self.in_commit, []
        self.stands, self.alone = self._next_stands, max(0, self.alone - len(done))
        return done

    def announce(self, k: int, times: int, group: Any) -> None:
        """Write down, before it is computed, that slice `k` is tried: should it end the process,
        the next owner knows. Positions stay where they are."""
        positions = [
            pos._replace(metadata=json.dumps({**json.loads(pos.metadata), "g": self.generation,
                                              "try": [k, times]}, separators=(",", ":")))
            for pos in self.stands
        ]  # fmt: skip
        if positions:
            self.transactions.commit([], positions, group)
            self.tried = k, times

    @property
    def committing(self) -> bool:
        return self.commit is not None and not self.commit.done()


def take_over(
    p: int, generation: int, topics: Topics, pipeline: str, sources: Sequence[str],
    plan: Plan, reader: Reader, transactions: Transactional, partitions: int, alone: int = 0,
) -> Owner:  # fmt: skip
    """Fence the old owner, then read its position. Raises `Outdated` for a later generation.

    The first `alone` slices are to go one at a time: among them is what ended the old owner, if
    it was a slice.
    """
    places = [(topics.raw(s), p) for s in sources]

    stands: list[Position] = []

    def committed() -> dict[str, tuple[int, dict[str, Any]]]:
        found = reader.committed(places)
        stands[:] = found.values()
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
    assembler = Assembler(p, partitions, following, check_body, sources)
    resumes = {
        s: Resume(data[topics.raw(s)][0], data[topics.raw(s)][1])
        for s in sources
        if topics.raw(s) in data
    }
    tried = max((tuple(d["try"]) for _, d in data.values() if "try" in d), default=(-1, 0))
    return Owner(p, generation, topics, pipeline, transactions, assembler, resumes, stands,
                 alone, tried)  # fmt: skip
