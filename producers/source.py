"""One source process: driver, sequencer, sender, and what it says of itself once a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import structlog

from freerun import words
from freerun.compacted import newest
from freerun.config.sources import Source
from freerun.driver import Block, Driver
from freerun.errors import EnvironmentProblem
from freerun.heartbeat import Heart
from freerun.kafka import Publisher
from freerun.plan import DATA
from freerun.rows import WordCodec, codec
from freerun.service import Service
from freerun.slices import slice_of
from freerun.ticks import Clock
from producers.following import PlanFollower
from producers.promise import Promises
from producers.sender import PartSender
from producers.sequencer import Sequencer, first_whole
from producers.spool import Spool

log = structlog.get_logger()

PLAN_EVERY_S = 0.2
EARLY_NS = 300_000_000  # reading for a run begins this long before its first slice
FEW_WORDS = 9  # words whose middle time is the lane's: odd ones move nothing
OPEN_BYTES = 512 << 20  # rows of open slices in memory; beyond it payload is dropped and counted
MARKER = 254  # a lane of its own in the promise: hits of channels that are no detectors
ERROR_AFTER = 10_000  # impossible times in a row before the source says ERROR
WAITING = {"SPOOLING", "DROPPING"}  # states in which the broker does not take its data
FLUSH_S = 10.0  # for what is on its way when the source is stopped


@dataclass
class Windows:
    """Reorder windows and sanity of a source, in its ticks."""

    late: dict[int, int]
    hold: int
    sanity: int  # of the strictest kind
    wider: dict[int, int]  # kind → how much further its times may be

    @classmethod
    def of(cls, source: Source, clock: Clock) -> Windows:
        def ticks(ns: int) -> int:
            return -(-ns * clock.den // clock.num)

        late = {words.HIT: ticks(source.late.hit), words.TRIGGER: ticks(source.late.trigger),
                MARKER: ticks(source.late.marker)}  # fmt: skip
        sane = {words.HIT: ticks(source.sanity.hit), words.TRIGGER: ticks(source.sanity.trigger)}
        least = min(sane.values())
        wider = {kind: window - least for kind, window in sane.items() if window > least}
        return cls(late, ticks(max(source.flush, 1)), least, wider)


class SourceProcess:
    """Runs a driver until it is told to stop."""

    def __init__(self, service: Service, source: Source, driver: Driver) -> None:
        self._service, self._source, self._driver = service, source, driver
        bench, topics, name = service.bench, service.topics, source.id
        self._L, self._P, self._G = bench.time.slice, bench.cluster.partitions, bench.time.guard
        spool = Spool(service.data / ".freerun" / "spool" / name, topics.raw(name))
        self.inc = max(time.time_ns() // 1_000_000, _last_life(service, name) + 1)
        self._publisher = Publisher(service.address, f"{topics.system}.source.{name}")
        self._heart = Heart(
            self._publisher, topics, "source", name, bench.timeouts.seconds("heartbeat")
        )
        self._log = PlanFollower(
            service.address, topics, f"{topics.system}.source.{name}", PLAN_EVERY_S
        )
        self._sender = PartSender(
            service.address, topics.raw(name), f"{topics.system}.raw.{name}", spool=spool
        )
        self._sent = 0, time.monotonic()  # bytes, at the last heartbeat
        self._said = ""  # its state
        self._sequencer: Sequencer | None = None
        self._clock: Clock | None = None
        self._promise: int | None = None
        self._read = 0
        self._bytes = 0
        self._malformed = self._lost = 0  # as the driver said last
        self._malformed_before = self._lost_before = 0
        self._began_ns = 0  # host time of the first reading for this interval
        self._ended = False
        self._data_clock = False

    # ------------------------------------------------------------------ main loop

    def run(self, stopping: Callable[[], bool]) -> None:
        self._driver.open()
        try:
            while not stopping():
                if self._log.news():
                    self._follow_plan()
                self._turn()
                self._sender.poll()
                self._beat()
        finally:
            self._driver.close()
            self._sender.close(FLUSH_S)
            self._log.close()
            self._heart.beat("STOPPED", **self._counters())
            self._publisher.flush(2)

    def _turn(self) -> None:
        if self._ended or (self._data_clock and (not self._armed or self._sender.busy)):
            time.sleep(0.02)  # recorded data can wait for the broker: nothing is dropped
        elif not self._armed or self._is_early():
            self._driver.skip()  # a live device is emptied, so that nothing old waits in it
            time.sleep(0.05)
        else:
            block = self._driver.read()
            if block is not None:
                self._take(block)

    @property
    def _armed(self) -> bool:
        return self._sequencer is not None and self._sequencer.first is not None

    def _is_early(self) -> bool:
        """Is the first slice still so far away that nothing read now can matter to it?"""
        s = self._sequencer
        assert s is not None and s.first is not None
        early = s.first * self._L - EARLY_NS
        return not (self._data_clock or self._began_ns) and time.time_ns() < early

    def _take(self, block: Block) -> None:
        s, clock = self._sequencer, self._clock
        if s is None or clock is None:
            return
        self._malformed, self._lost = block.malformed, block.lost
        if not self._data_clock and s.first is not None and s.next == s.first:
            self._begin_later_if_late(block, s, clock)
        s.dropping = self._sender.full or s.open_bytes > OPEN_BYTES
        s.malformed = block.malformed - self._malformed_before
        s.lost = block.lost - self._lost_before
        reference = self._reference(s, clock)
        low, high = self._possible(s, clock, reference)
        n = len(block.rows)
        if n and s.first is not None:
            self._read += n
            self._bytes += n * s.codec.bytes_per_row(block.rows)
            wider = None if self._data_clock else self._windows.wider
            for out in s.offer(block.rows, low, high, reference, wider):
                self._sender.send(out)
            if block.promise is None and isinstance(s.codec, WordCodec):
                decoded = words.decode(block.rows, s.codec.format, reference)
                good = (decoded.kind == words.HIT) | (decoded.kind == words.TRIGGER)
                good &= (decoded.tick >= low) & (decoded.tick <= high)
                kind = decoded.kind.astype(np.int64)
                if self._source.markers:
                    kind[(kind == words.HIT) & np.isin(decoded.channel, self._source.markers)] = (
                        MARKER
                    )
                lanes = decoded.board.astype(np.int64) * 256 + kind
                self._promises.see(lanes[good], decoded.tick[good])
        promise, by_timeout = block.promise, False
        if promise is None:
            promise = sure = self._promises.promise(None)
            if not self._data_clock:
                promise = self._promises.promise(clock.tick_at(time.time_ns()))
                by_timeout = promise != sure  # the flush time stood in for a sign of the device
        if block.end:
            self._ended = True
            if self._data_clock and s.end is not None:
                promise = clock.tick_at(s.end * self._L + 2 * self._G) + 1
        if promise is not None:
            self._promise = promise
            for out in s.advance(promise, by_timeout):
                self._sender.send(out)

    def _begin_later_if_late(self, block: Block, s: Sequencer, clock: Clock) -> None:
        """The first slice must be seen from its start on. A host whose clock is behind that of
        the device comes too late for it: then the source begins two slices behind its data.
        """
        assert s.first is not None
        host = time.time_ns()
        self._began_ns = self._began_ns or host
        ticks, kind = s.codec.times(block.rows, self._reference(s, clock))
        ticks = np.sort(ticks[kind != words.BAD])
        middle = int(ticks[len(ticks) // 2]) if len(ticks) > 2 else None  # an odd one says nothing
        known = (middle, block.promise, self._promises.promise(None))
        data = clock.ns(max((t for t in known if t is not None), default=clock.tick_at(host)))
        first = first_whole(s.first, self._began_ns, host, data, self._L, self._G, EARLY_NS)
        if first == s.first:
            return
        log.warning(
            "begins_later", source=self._source.id, planned=s.first, first=first,
            hint="its first data are later than its first slice: look at the clocks",
        )  # fmt: skip
        for out in s.arm(first, s.end):
            self._sender.send(out)

    def _reference(self, s: Sequencer, clock: Clock) -> int:
        """A tick near what is being read: now, or in recorded data the newest seen."""
        if not self._data_clock:
            return clock.tick_at(time.time_ns())
        if s.newest is not None:
            return s.newest
        first = self._driver.first_tick()
        return first if first is not None else clock.tick_at((s.first or 0) * self._L)

    def _possible(self, s: Sequencer, clock: Clock, reference: int) -> tuple[int, int]:
        """Ticks that can be right: near now, or in recorded data those of the run."""
        if self._data_clock and s.first is not None and s.end is not None:
            begin, end = s.first * self._L - self._G, s.end * self._L + self._G
            return clock.tick_at(begin), clock.tick_at(end)
        # a slow host reads old rows: what the device may still give is not impossible
        oldest = reference if self._promise is None else min(reference, self._promise)
        if s.first is not None and s.next == s.first:
            oldest = min(oldest, clock.tick_at(s.first * self._L - EARLY_NS))
        return oldest - self._windows.sanity, reference + self._windows.sanity

    # ------------------------------------------------------------------ plan

    def _follow_plan(self) -> None:
        plan, name = self._log.plan, self._source.id
        now = slice_of(time.time_ns(), self._L)
        s = self._sequencer
        at = now if s is None or s.first is None else s.next
        interval = plan.next_border(0 if self._runs_on_data() else at, name)
        if interval is None:
            if s is not None and s.first is not None:
                s.border(at)
            return
        first, end = interval
        if s is not None and s.first is not None:
            s.border(end)
            return
        if self._ended:
            return
        entry = plan.base(first)
        assert entry is not None
        self._data_clock = entry.clock == DATA
        if not self._data_clock:
            first = max(first, now + 2)
            if end is not None and first >= end:
                return
        elif s is not None:
            return  # a recording is read once
        self._arm(first, end, entry.anchors, entry.offsets)

    def _runs_on_data(self) -> bool:
        entries = self._log.plan.entries
        return bool(entries) and entries[-1].clock == DATA

    def _arm(self, first: int, end: int | None, anchors: Any, offsets: Any) -> None:
        source, driver = self._source, self._driver
        anchor = anchors.get(source.domain, driver.estimate_anchor() or 0)
        driver.set_anchor(anchor)
        tick = driver.tick
        clock = Clock(anchor, tick.numerator, tick.denominator, offsets.get(source.id, 0))
        self._clock = clock
        self._windows = Windows.of(source, clock)
        late = self._windows.late
        self._promises = Promises(late, max(late.values()), self._windows.hold, FEW_WORDS)
        self._malformed_before, self._lost_before = self._malformed, self._lost
        self._began_ns = 0
        if self._sequencer is None:
            self._sequencer = Sequencer(
                source.id, self.inc, codec(driver.schema), clock, self._L, self._P, self._G
            )
        self._sequencer.clock = clock
        log.info("armed", source=source.id, first=first, end=end, anchor=anchor)
        for out in self._sequencer.arm(first, end):
            self._sender.send(out)

    # ------------------------------------------------------------------ heartbeat

    def _beat(self) -> None:
        state = self._state()
        if not self._heart.due(state):
            return
        counters = self._counters()
        if state != self._said and WAITING & {state, self._said}:
            log.warning(
                state.lower() if state in WAITING else "caught_up", source=self._source.id,
                bytes=counters["spool"], left_s=counters["spool_left_s"],
                dropped=counters["dropped"],
            )  # fmt: skip
        self._said = state
        self._heart.beat(state, **counters)

    def _state(self) -> str:
        s = self._sequencer
        if s is not None and s.quarantined_in_a_row > ERROR_AFTER:
            return "ERROR"
        if self._sender.full:
            return "DROPPING"
        if self._sender.spooling:
            return "SPOOLING"
        if s is not None and s.first is not None:
            return "RUNNING"
        return "ENDED" if self._ended else "READY"

    def _counters(self) -> dict[str, Any]:
        s, clock = self._sequencer, self._clock
        now = time.time_ns()
        age = None
        armed = s is not None and s.first is not None and not self._data_clock
        if armed and clock and self._promise is not None:
            age = (now - clock.ns(self._promise)) / 1e9
        return {
            "inc": self.inc,
            "first": s.first
            if s is not None and s.first is not None
            else slice_of(now, self._L) + 2,
            "closed": self._sender.acked_close,
            "read": self._read,
            "read_bytes": self._bytes,
            "spool": self._sender.backlog_bytes,
            "spool_disk": self._sender.spool_bytes,
            "spool_left_s": self._seconds_left(),
            "spooled": self._sender.spooled_rows,
            "promise_age_s": age,
            "anchor": self._driver.estimate_anchor(),
            "domain": self._source.domain,
            "late": s.totals["late"] if s else 0,
            "quarantined": s.totals["quarantined"] if s else 0,
            "malformed": s.totals["malformed"] + s.malformed if s else 0,
            "dropped": (s.totals["dropped"] if s else 0) + self._sender.refused_rows,
            "ended": self._ended,
            "error": "",
        }

    def _seconds_left(self) -> float | None:
        """Until payload is dropped, if the broker took nothing from now on, at the rate of now."""
        (before, since), now = self._sent, time.monotonic()
        self._sent = self._sender.sent_bytes, now
        rate = (self._sender.sent_bytes - before) / max(now - since, 1e-3)
        return self._sender.room() / rate if rate > 0 else None


def _last_life(service: Service, name: str) -> int:
    """The last known incarnation of a source. Without a broker there is nothing a source can do:
    it waits for one."""
    while True:
        try:
            known = newest(service.address, service.topics.state).get(f"source/{name}", {})
            return int(known.get("inc", 0))
        except EnvironmentProblem as problem:
            if service.stopping.is_set():
                raise
            log.warning("no_broker", source=name, error=str(problem), hint="waiting for it")
