"""A lane: one worker with the partitions it owns now. Fetch, assemble, compute, commit.

The same object runs inside a Dask task and inline; a worker's only state is what it can read
again, so the answer to any error is to forget a partition and take it over once more.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import structlog

from freerun.assembler import Bundle, Resume
from freerun.kafka import BrokerTrouble, Fenced, Reader, Transactional, Where
from freerun.plan import Plan
from freerun.planlog import PlanLog
from freerun.topics import Topics
from processors.owner import Outdated, Owner, take_over
from processors.pipeline import Pipeline, SliceResult

log = structlog.get_logger()

PLAN_EVERY_S = 0.05
PLAN_IDLE_S = 0.25  # when no record came for QUIET_S
IDLE_S = 0.1  # … and how long one is waited for then
QUIET_S = 10.0
THREADS = 4  # for commits and take-overs
BATCH = 8  # slices of one partition in one transaction, under backlog
TRIES = 3  # failures of a kernel before its slice leaves as failed
BACK_OFF_S = (0.1, 0.3, 1.0, 3.0)


@dataclass
class Backlog:
    """What a lane tells of one call of `run`; only what was committed counts."""

    slices: int = 0
    words: int = 0
    events: int = 0
    failed: int = 0
    retaken: int = 0
    busy_s: float = 0.0
    next: dict[int, int] = field(default_factory=dict)
    lost: list[int] = field(default_factory=list)  # partitions that a later generation owns
    delays_ms: list[int] = field(default_factory=list)  # end of a slice → its results visible


class Lane:
    """Owns partitions of `pipeline` for one generation of the loop."""

    def __init__(
        self, address: str, topics: Topics, pipeline: Pipeline, sources: list[str],
        partitions: int, generation: int, timeout_ms: int = 15_000,
    ) -> None:  # fmt: skip
        self._address, self._topics, self._pipeline = address, topics, pipeline
        self._sources, self._P, self._generation = sources, partitions, generation
        self._timeout_ms = timeout_ms
        name = f"{topics.group(pipeline.name)}.lane.{os.getpid()}"
        self._reader = Reader(address, name, group=topics.group(pipeline.name))
        self._log = PlanLog(address, topics, name, wait_ms=100)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="commit")
        self._owners: dict[int, Owner] = {}
        self._source_of = {topics.raw(s): s for s in sources}
        self._again: dict[int, tuple[float, int]] = {}  # partition → not before, tries
        self._kernel_failures: Counter[tuple[int, int]] = Counter()
        self._lived: dict[int, int] = {}  # partition → slice whose kernels we have survived
        self._plan_at = 0.0
        self._heard = time.monotonic()  # when a record came last
        self._wanted: set[int] = set()

    # ------------------------------------------------------------------ life

    def run(
        self, wanted: Iterable[int], duration_s: float, until: Callable[[], bool] | None = None
    ) -> Backlog:
        """Work on the partitions `wanted` for a while; returns what was done."""
        out = Backlog()
        self._wanted = set(wanted)
        for p in set(self._owners) - self._wanted:
            self._forget(p)
        end = time.monotonic() + duration_s
        begun = time.process_time()
        while time.monotonic() < end and not (until is not None and until()):
            self.step(out, end)
        self._settle(out)
        out.busy_s = time.process_time() - begun
        out.next = {p: o.assembler.next for p, o in self._owners.items()}
        return out

    def close(self) -> None:
        self._settle(Backlog())
        for p in list(self._owners):
            self._forget(p)
        self._pool.shutdown()
        self._log.close()
        self._reader.close()

    @property
    def plan(self) -> Plan:
        return self._log.plan

    @property
    def _idle(self) -> bool:
        return time.monotonic() > self._heard + QUIET_S

    def step(self, out: Backlog, end: float) -> None:
        """One turn: plan, records, ready slices, commits. No slice is begun after `end`
        (monotonic s), so that a backlog does not make a task of one second a long one."""
        if time.monotonic() >= self._plan_at:
            if self._log.poll(timeout=1.0):
                for owner in list(self._owners.values()):
                    self._guarded(owner.p, partial(owner.offer_again, self.plan), out)
            self._plan_at = time.monotonic() + (PLAN_IDLE_S if self._idle else PLAN_EVERY_S)
            self._take_over_missing(out, end)
            self._assign()
        busy = any(o.committing for o in self._owners.values())
        records = self._reader.poll(500, 0.005 if busy else IDLE_S if self._idle else 0.03)
        if records:
            self._heard = time.monotonic()
        for record in records:
            mine = self._owners.get(record.partition)
            if mine is not None:
                mine.offer(record, self._source_of[record.topic], self.plan)
        for owner in sorted(self._owners.values(), key=lambda o: o.assembler.next):
            self._guarded(owner.p, partial(self._work, owner, out, end), out)
        self._flow()
        self._deleted()

    def _deleted(self) -> None:
        """Go on where the log now begins, if retention took what was to be read next."""
        for where, why in list(self._reader.lost.items()):
            first = self._reader.bounds(where)[0]
            log.error(
                "raw_data_gone", topic=where[0], partition=where[1], why=why, goes_on_at=first,
                hint="retention deleted it before it was processed",
            )  # fmt: skip
            self._reader.lost.pop(where, None)
            self._reader.seek(where, first)
            owner = self._owners.get(where[1])
            if owner is not None:
                state = owner.assembler.sources[self._source_of[where[0]]]
                state.position = max(state.position, first)

    def _guarded(self, p: int, work: Callable[[], None], out: Backlog) -> None:
        """Any exception for a partition: forget everything of it, take over again later."""
        try:
            work()
        except Outdated:
            out.lost.append(p)
            self._wanted.discard(p)
            self._forget(p)
        except Exception as error:  # the one place where a lane's errors end
            tries = self._again.get(p, (0.0, 0))[1]
            wait = BACK_OFF_S[min(tries, len(BACK_OFF_S) - 1)]
            log.warning("partition_retaken", partition=p, error=str(error),
                        kind=type(error).__name__, wait_s=wait)  # fmt: skip
            self._again[p] = (time.monotonic() + wait, tries + 1)
            out.retaken += 1
            self._forget(p)

    def _forget(self, p: int) -> None:
        owner = self._owners.pop(p, None)
        if owner is not None:
            self._reader.unassign((self._topics.raw(s), p) for s in self._sources)
            if owner.commit is not None:
                owner.commit.exception()  # wait: a commit in flight still uses the producer
            owner.transactions.close()

    # ------------------------------------------------------------------ take-over

    def _take_over_missing(self, out: Backlog, end: float) -> None:
        """None is begun after `end`: many partitions and a busy machine are no reason to be
        thought dead. What is left is for the next task."""
        now = time.monotonic()
        due = [p for p in sorted(self._wanted - set(self._owners))
               if now >= self._again.get(p, (0.0, 0))[0]]  # fmt: skip
        while due and time.monotonic() < end:
            some, due = due[:THREADS], due[THREADS:]  # most of it is waiting for the broker
            begun = {p: self._pool.submit(self._take_over, p) for p in some}
            for p, done in begun.items():
                self._guarded(p, partial(self._owned, p, done), out)

    def _owned(self, p: int, done: Future[Owner]) -> None:
        self._owners[p] = done.result()

    def _take_over(self, p: int) -> Owner:
        tid = self._topics.lane_id(self._pipeline.name, p)
        transactions = Transactional(self._address, tid, self._timeout_ms)
        try:
            return take_over(
                p, self._generation, self._topics, self._pipeline.name, self._sources,
                self.plan, self._reader, transactions, self._P, alone=BATCH,
            )  # fmt: skip
        except BaseException:
            transactions.close()
            raise

    def _assign(self) -> None:
        """Begin to read sources that the plan names and that are not read yet."""
        missing = {o.p: [s for s in self._sources if s not in o.assembler.sources]
                   for o in self._owners.values()}  # fmt: skip
        if not any(missing.values()):
            return
        first_named: dict[str, int] = {}
        for entry in self.plan.entries:
            if entry.kind != "give_up" and entry.run is not None:
                for source in entry.roster:
                    first_named.setdefault(source, entry.time_ms)
        known: dict[Where, Resume] = {}
        new: dict[int, list[Where]] = {}  # broker time → what begins with it
        for p, sources in missing.items():
            for source in sources:
                where = (self._topics.raw(source), p)
                if (resume := self._owners[p].committed.get(source)) is not None:
                    known[where] = resume
                elif source in first_named:
                    new.setdefault(first_named[source], []).append(where)
        try:
            for time_ms, places in new.items():
                found = self._reader.offsets_at(places, time_ms)
                known |= {where: Resume(offset, {}) for where, offset in found.items()}
            self._reader.assign({where: resume.offset for where, resume in known.items()})
        except BrokerTrouble as error:  # nothing is read yet: it is tried again
            log.warning("sources_not_assigned", error=str(error), hint="tried again")
            return
        for (topic, p), resume in known.items():
            self._owners[p].add_source(self._source_of[topic], resume)

    # ------------------------------------------------------------------ work

    def _work(self, owner: Owner, out: Backlog, end: float) -> None:
        if owner.commit is not None:
            if not owner.commit.done():
                return
            self._reap(owner, out)
        results: list[SliceResult] = []
        while len(results) < BATCH and time.monotonic() < end:
            bundle = owner.assembler.ready(
                self.plan, time.time_ns(), lambda s, seq: self._caught_up(owner, s, seq)
            )
            if bundle is None:
                break
            results.append(self._compute(owner, bundle))
            if owner.alone or (owner.p, bundle.k) in self._kernel_failures:
                break  # after a failure one slice at a time
        if results:
            owner.start_commit(results, self._pool, self._reader.group_metadata())

    def _compute(self, owner: Owner, bundle: Bundle) -> SliceResult:
        key = (owner.p, bundle.k)
        lived = self._lived.get(owner.p) == bundle.k
        ended = owner.tried[1] if owner.tried[0] == bundle.k and not lived else 0
        if self._kernel_failures[key] >= TRIES:
            result = self._pipeline.failed(bundle, f"the kernels failed {TRIES} times")
        elif ended >= TRIES:
            log.error("slice_given_up", partition=owner.p, slice=bundle.k, tries=ended)
            why = f"the kernels ended the process, or did not end, {ended} times"
            result = self._pipeline.failed(bundle, why)
        else:
            if owner.alone:
                owner.announce(bundle.k, ended + 1, self._reader.group_metadata())
            try:
                result = self._pipeline.process(bundle)
            except Exception:
                self._kernel_failures[key] += 1
                raise
            finally:
                self._lived[owner.p] = bundle.k  # what fails from here on is not the kernels' doing
        if self._kernel_failures[key] == 0:
            del self._kernel_failures[key]
        return result

    def _reap(self, owner: Owner, out: Backlog) -> None:
        assert owner.commit is not None
        done, owner.commit = owner.commit, None
        error = done.exception()
        if isinstance(error, Fenced) and self._newer_generation(owner.p):
            raise Outdated(str(error))
        if error is not None:
            raise error
        self._again.pop(owner.p, None)
        visible, length = done.result(), self._pipeline.L
        for result in owner.committed_now():
            self._kernel_failures.pop((owner.p, result.k), None)
            out.slices += 1
            out.words += sum(s["rows"] for s in result.info["sources"].values())
            out.events += int(result.info["n_events"])
            out.failed += result.info["failed"] is not None
            out.delays_ms.append((visible - (result.k + 1) * length) // 1_000_000)

    def _newer_generation(self, p: int) -> bool:
        """A fenced producer can also mean a time-out: the committed generation tells."""
        found = self._reader.committed([(self._topics.raw(s), p) for s in self._sources])
        return any(json.loads(f.metadata)["g"] > self._generation for f in found.values())

    def _caught_up(self, owner: Owner, source: str, seq: int) -> bool:
        """Was this partition of the source read to where it ended after entry `seq` was known?"""
        where = (self._topics.raw(source), owner.p)
        if (source, seq) not in owner.highs:
            owner.highs[(source, seq)] = self._reader.high(where)
        return owner.assembler.sources[source].position >= owner.highs[(source, seq)]

    def _settle(self, out: Backlog) -> None:
        """Wait for the commits in flight, so that a task leaves nothing open behind it."""
        for p in list(self._owners):
            owner = self._owners[p]
            if owner.commit is not None:
                owner.commit.exception()
                self._guarded(p, partial(self._reap, owner, out), out)

    def _flow(self) -> None:
        """Pause sources that are too far ahead, resume the others."""
        for p, owner in self._owners.items():
            far = owner.assembler.too_far(self.plan)
            for names, act in ((far - owner.paused, self._reader.pause),
                               (owner.paused - far, self._reader.resume)):  # fmt: skip
                if names:
                    act([(self._topics.raw(s), p) for s in names])
            owner.paused = far
