"""Actors around the pure machines, in simulated time: sources, run control, lanes, a writer.

Each is the thin shell of a service without its Kafka: it may be killed, stopped and continued at
any turn, has a clock of its own that is wrong by a bit, and knows only what it has read.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from make_source import (
    CLOCK,
    CODEC,
    FOREVER,
    array,
    row,
)

from controllers.reconcile import Reconciler
from freerun.assembler import Resume
from freerun.plan import Entry, Install, Plan, Run
from freerun.slices import slice_of
from freerun.wire import (
    Part,
    part_headers,
    read_part,
    write_batch,
)
from producers.sequencer import Out, Sequencer, first_whole

MS = 1_000_000
SECOND = 1000 * MS
STEP = 100 * MS
EARLY = 300 * MS  # reading begins this long before a source's first slice
NO_EVENTS = write_batch(CODEC.batch(array([]))).to_pybytes()
CHUNK = STEP  # a device gives its rows in pieces of this length


class Wrong(AssertionError):
    """A law of the design is broken."""


def law(holds: object, what: str) -> None:
    if not holds:
        raise Wrong(what)


@dataclass
class Clock:
    """A host's clock: wrong by `skew` ns and drifting by `ppm`."""

    skew: int
    ppm: int = 0

    def now(self, t: int) -> int:
        return t + self.skew + t % (1000 * SECOND) * self.ppm // 1_000_000


class Device:
    """Rows as a pure function of time; a few come late, behind their promise."""

    def __init__(self, seed: str, late_rate: float) -> None:
        self.seed, self.late_rate = seed, late_rate
        self._chunks: dict[int, tuple[list[int], list[int]]] = {}

    def chunk(self, c: int) -> tuple[list[int], list[int]]:
        """Ticks of a piece of time: those in time, and those given four pieces later."""
        if c not in self._chunks:
            rng = random.Random(f"{self.seed}/{c}")
            low, high = CLOCK.tick_at(c * CHUNK), CLOCK.tick_at((c + 1) * CHUNK)
            ticks = [rng.randrange(low, high) for _ in range(rng.choice([0, 0, 1, 2, 5]))]
            late = [t for t in set(ticks) if rng.random() < self.late_rate]
            self._chunks[c] = [t for t in set(ticks) if t not in late], late
        return self._chunks[c]

    def between(self, begin: int, end: int) -> tuple[set[int], set[int]]:
        """`(surely in time, perhaps late)`: ticks of begin ≤ time < end, in ns."""
        low, high = CLOCK.tick_at(begin), CLOCK.tick_at(end)
        sure: set[int] = set()
        late: set[int] = set()
        for c in range(begin // CHUNK - 1, end // CHUNK + 1):
            for into, ticks in zip((sure, late), self.chunk(c), strict=True):
                into.update(t for t in ticks if low <= t < high)
        return sure, late


@dataclass
class Kafka:
    """What is kept when everybody dies: logs with the broker's time, positions, owners."""

    install: Install
    clock: Clock
    names: str
    down_until: int = 0
    raw: dict[tuple[str, int], list[tuple[Part, bytes, int]]] = field(default_factory=dict)
    plan: list[tuple[bytes, int]] = field(default_factory=list)
    state: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    events: dict[int, list[Any]] = field(default_factory=dict)
    committed: dict[int, tuple[int, dict[str, Resume]]] = field(default_factory=dict)
    commands_done: int = 0  # their committed position
    epochs: Counter[str] = field(default_factory=Counter)  # transactional id → its owner
    truth: Plan = field(default_factory=Plan)

    def __post_init__(self) -> None:
        self.truth.install = self.install
        self.raw = {(s, p): [] for s in self.names for p in range(self.install.P)}
        self.events = {p: [] for p in range(self.install.P)}

    def up(self, t: int) -> bool:
        return t >= self.down_until

    def time_ms(self, t: int) -> int:
        return self.clock.now(t) // MS

    def begin(self, tid: str) -> int:
        self.epochs[tid] += 1
        return self.epochs[tid]

    def append_plan(self, entry: Entry, t: int) -> None:
        self.plan.append((entry.to_json(), self.time_ms(t)))
        self.truth.add(*self.plan[-1])
        self.truth.read_at_ns = 1 << 62


class Actor:
    """A process: dead until `back_at`, or stopped until `asleep_until`."""

    def __init__(self, name: str, kafka: Kafka, clock: Clock, rng: random.Random) -> None:
        self.name, self.kafka, self.clock, self.rng = name, kafka, clock, rng
        self.back_at = 0
        self.asleep_until = 0
        self.alive = True
        self.born()

    def born(self) -> None:
        self.plan = Plan(self.kafka.install)
        self._plan_at = 0

    def kill(self, t: int, lasts: int) -> None:
        self.alive, self.back_at = False, t + lasts

    def stop(self, t: int, lasts: int) -> None:
        self.asleep_until = t + lasts

    def turn(self, t: int) -> None:
        if not self.alive and t >= self.back_at:
            self.alive = True
            self.born()
        if self.alive and t >= self.asleep_until:
            self.work(t)

    def work(self, t: int) -> None:
        raise NotImplementedError

    def read_plan(self, t: int) -> bool:
        if not self.kafka.up(t):
            return False
        for value, time_ms in self.kafka.plan[self._plan_at :]:
            self.plan.add(value, time_ms)
        self._plan_at = len(self.kafka.plan)
        self.plan.read_at_ns = self.clock.now(t)
        return True


# ------------------------------------------------------------------ a source


class Source(Actor):
    """Driver → sequencer → one queue. What waits may survive its death, as in a spool on disk."""

    def __init__(self, *args: Any, device: Device, spools: bool) -> None:
        self.inc = 0
        self.queue: deque[Out] = deque()
        self.sent: deque[Out] = deque(maxlen=4)  # perhaps not acknowledged when it dies
        self.device, self.spools = device, spools
        self.read_rows = 0
        super().__init__(*args)

    def born(self) -> None:
        super().born()
        install = self.kafka.install
        self.sequencer: Sequencer | None = None
        self.chunk = -1  # read up to here
        self.began = 0  # host time of the first reading for this interval
        self.closed, self.beat_at = -1, 0
        self.beats: list[dict[str, Any]] = []
        self.make = lambda: Sequencer(
            self.name, self.inc, CODEC, CLOCK, install.L, install.P, install.G, 60
        )

    def kill(self, t: int, lasts: int) -> None:
        super().kill(t, lasts)
        if self.spools:  # what was not acknowledged is there twice
            self.queue.extendleft(reversed(self.sent))
        else:
            self.queue.clear()
        self.sent.clear()

    def work(self, t: int) -> None:
        now, length = self.clock.now(t), self.kafka.install.L
        if self.sequencer is None:
            self.inc = max(now // MS, self.inc + 1)
            self.sequencer = self.make()
            self.chunk = t // CHUNK - 1
        s = self.sequencer
        if self.read_plan(t):
            self._follow_plan(s, slice_of(now, length))
        while (self.chunk + 2) * CHUNK <= t:
            self.chunk += 1
            if s.first is not None and (self.began or now >= s.first * length - EARLY):
                self._take(s, now, self.chunk)
        self._send(t)
        self._beat(t, now)

    def _follow_plan(self, s: Sequencer, now: int) -> None:
        at = now if s.first is None else s.next
        interval = self.plan.next_border(at, self.name)
        if interval is None:
            if s.first is not None:
                s.border(at)
        elif s.first is not None:
            s.border(interval[1])
        else:
            first, end = max(interval[0], now + 2), interval[1]
            if end is None or first < end:
                self.began = 0
                self.queue += s.arm(first, end)

    def _take(self, s: Sequencer, now: int, c: int) -> None:
        self.began = self.began or now
        ticks = self.device.chunk(c)[0] + self.device.chunk(c - 4)[1]
        promise = CLOCK.tick_at((c + 1) * CHUNK)
        if s.first is not None and s.next == s.first:
            data = CLOCK.ns(promise)
            first = first_whole(s.first, self.began, now, data, s.L, s.G, EARLY)
            if first != s.first:
                self.queue += s.arm(first, s.end)
        if ticks:
            rows = array(row(tick, i) for i, tick in enumerate(ticks))
            self.read_rows += len(rows)
            self.queue += s.offer(rows, min(ticks) - 1, max(ticks) + 1, CLOCK.tick_at(c * CHUNK))
        self.queue += s.advance(promise)

    def _send(self, t: int) -> None:
        n = len(self.queue) if self.rng.random() < 0.8 else self.rng.randrange(1 + len(self.queue))
        while n and self.kafka.up(t):
            out = self.queue.popleft()
            part = read_part(part_headers(out.part))
            log = self.kafka.raw[self.name, out.partition]
            log.append((part, bytes(memoryview(out.body)), self.kafka.time_ms(t)))
            self.sent.append(out)
            if part.closes and part.inc == self.inc:
                self.closed = max(self.closed, part.k)
            n -= 1

    def _beat(self, t: int, now: int) -> None:
        s = self.sequencer
        assert s is not None
        if t >= self.beat_at:
            self.beat_at = t + SECOND
            first = s.first if s.first is not None else slice_of(now, s.L) + 2
            state = "RUNNING" if s.first is not None else "READY"
            self.beats.append({"time_ns": now, "state": state, "inc": self.inc, "first": first,
                               "closed": self.closed, "spool": len(self.queue)})  # fmt: skip
        while self.beats and self.kafka.up(t):
            self.kafka.state.append((f"source/{self.name}", self.beats.pop(0)))


# ------------------------------------------------------------------ run control


class Control(Actor):
    """The plan's owner. Between computing an entry and its commit it may be stopped or die."""

    def __init__(self, *args: Any, commands: list[tuple[int, str]], patience: int,
                 out: Callable[[Run], bool]) -> None:  # fmt: skip
        self.commands, self.out = commands, out
        self.left_behind = False  # another one was started in its place
        self.patience = patience
        super().__init__(*args)

    def born(self) -> None:
        super().born()
        self.epoch = 0
        self.entry: Entry | None = None  # on its way
        self.seen, self.beat_at = 0, 0
        self.reconciler = Reconciler("control/control", self.kafka.install.L, self.patience)

    def work(self, t: int) -> None:
        if not self.kafka.up(t):
            return
        if not self.epoch:
            self.epoch = self.kafka.begin("plan")
        if self.entry is not None:
            self._commit(t)
        if not self.alive or not self.read_plan(t):
            return
        for key, value in self.kafka.state[self.seen :]:
            self.reconciler.add(key, value)
        self.seen = len(self.kafka.state)
        if self.entry is None and self.kafka.commands_done < len(self.commands):
            self._command(t)
        for run in self.plan.runs():
            if self.entry is None and not self.out(run):
                self._reconcile(run, t)
        if t >= self.beat_at:
            self.beat_at = t + SECOND
            self.kafka.state.append(("control/control", {"time_ns": self.clock.now(t)}))

    def _commit(self, t: int) -> None:
        if self.kafka.epochs["plan"] != self.epoch:
            # fenced: it exits; the supervisor starts it again, if it has one
            self.kill(t, FOREVER if self.left_behind else 0)
            return
        entry, self.entry = self.entry, None
        assert entry is not None
        self.kafka.append_plan(entry, t)
        self.read_plan(t)
        if any(e.seq == entry.seq for e in self.plan.entries):
            self.kafka.commands_done += entry.kind in ("start", "stop")
            return
        at = self.plan.earliest(self.clock.now(t))
        self.entry = replace(entry, seq=self.plan.next_seq, from_slice=at)

    def _issue(self, entry: Entry) -> None:
        self.entry = replace(entry, seq=self.plan.next_seq, time_ms=0)

    def _command(self, t: int) -> None:
        at, what = self.commands[self.kafka.commands_done]
        runs = self.plan.runs()
        going = bool(runs) and runs[-1].last is None
        if t < at or going == (what == "start"):
            return
        if what == "start":
            fresh = [s for s in self.kafka.names if self.reconciler.fresh(s) is not None]
            if not fresh:
                return
            self._issue(Entry(0, self.plan.earliest(self.clock.now(t)), "start", len(runs) + 1,
                              roster=dict.fromkeys(fresh, False)))  # fmt: skip
        else:
            self._issue(self._like_now("stop", t, run=None, given_up={}))

    def _like_now(self, kind: str, t: int, **changes: Any) -> Entry:
        newest = next(e for e in reversed(self.plan.entries) if e.kind != "give_up")
        at = self.plan.earliest(self.clock.now(t))
        return replace(newest, kind=kind, from_slice=at, **changes)

    def _reconcile(self, run: Run, t: int) -> None:
        plan, now = self.plan, self.clock.now(t)
        k = max(min(slice_of(now, self.kafka.install.L), run.last or 1 << 60), run.first)
        gone, base = plan.given_up(k), plan.base(k)
        assert base is not None
        if base.run != run.number:
            return  # stopped before it began
        for source in plan.roster(k):
            why = self.reconciler.to_give_up(source, now, base.from_slice, run.last)
            if source not in gone and why is not None:
                self._issue(replace(base, kind="give_up", from_slice=run.first,
                                    given_up={source: why}))  # fmt: skip
                return
            if source in gone and run.last is None:
                seen = self.reconciler.fresh(source)
                pending = any(
                    e.kind == "roster" and e.seq > gone[source].seq and source not in e.given_up
                    for e in plan.entries
                )
                told = self.reconciler.sources[source]
                if seen is not None and told.missed == told.stuck == 0 and not pending:
                    left = {s: e.given_up.get(s, "") for s, e in gone.items() if s != source}
                    entry = self._like_now("roster", t, given_up=left)
                    self._issue(
                        replace(entry, from_slice=max(entry.from_slice, int(seen["first"])))
                    )
                    return
