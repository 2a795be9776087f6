"""A small world for the pure machines: a codec of plain numbers, logs, plans, lanes that die."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from freerun.assembler import Assembler, Bundle, Resume
from freerun.errors import Quarantined
from freerun.plan import Entry, Install, Plan
from freerun.rows import codec
from freerun.slices import partition
from freerun.ticks import Clock
from freerun.wire import CLOSE, LATE, MARK, Part, checksum, part_headers, read_batch, read_part
from freerun.words import BX_PER_ORBIT, TICKS_PER_BX
from producers.sequencer import Out, Sequencer

L, G = 1_000, 100  # ns
CLOCK = Clock(0, 25, 30)  # so a slice has 1200 ticks
CODEC = codec("padova-obdt")
FOREVER = 1 << 60
BAD_ROW = 1 << 62 | 4000 << 5  # a hit in a bunch crossing that does not exist

U64 = npt.NDArray[np.uint64]


def row(tick: int, number: int = 0) -> int:
    """A hit at `tick`; `number` (below 2048) tells rows of one tick apart."""
    bunch, tdc = divmod(tick, TICKS_PER_BX)
    orbit, bx = divmod(bunch, BX_PER_ORBIT)
    board, channel = divmod(number % 2048, 128)
    return 1 << 62 | board << 58 | channel << 49 | (orbit % 2**32) << 17 | bx << 5 | tdc


def array(rows: Iterable[int]) -> U64:
    return np.array(list(rows), np.uint64)


def tick_of(word: int) -> int:
    """The tick of a row, of times near the beginning of the orbits."""
    orbit = (word >> 17 & 0xFFFFFFFF) - (2**32 if word >> 48 & 1 else 0)
    return (orbit * BX_PER_ORBIT + (word >> 5 & 4095)) * TICKS_PER_BX + (word & 31)


def body_rows(body: bytes | pa.Buffer) -> list[int]:
    if not len(memoryview(body)):
        return []
    return [int(x) for x in read_batch(body).column(0).to_numpy()]


def sequencer(
    name: str = "a", inc: int = 1, clock: Clock = CLOCK, *, partitions: int = 3,
    part_bytes: int = 900_000, guard: int = G,
) -> Sequencer:  # fmt: skip
    return Sequencer(name, inc, CODEC, clock, L, partitions, guard, part_bytes)


# ------------------------------------------------------------------ plans


def plan_of(*entries: Entry, partitions: int = 3, read_at: int = FOREVER, length: int = L) -> Plan:
    """A plan that was read to its end at `read_at`; entries get numbers in their order."""
    plan = Plan(Install("u", length, partitions, G))
    for entry in entries:
        add(plan, entry)
    plan.read_at_ns = read_at
    return plan


def add(plan: Plan, entry: Entry, time_ms: int = -1000) -> Entry:
    data = json.loads(entry.to_json()) | {"seq": plan.next_seq}
    told = plan.add(json.dumps(data).encode(), time_ms)
    assert told is not None
    return told


def start(first: int, run: int = 1, roster: str = "ab", clock: str = "host", **more: Any) -> Entry:
    return Entry(0, first, "start", run, clock, dict.fromkeys(roster, True), **more)


def stop(end: int) -> Entry:
    return Entry(0, end, "stop", None)


def give_up(first: int, source: str, run: int = 1, roster: str = "ab") -> Entry:
    return Entry(0, first, "give_up", run, roster=dict.fromkeys(roster, True),
                 given_up={source: "LOST"})  # fmt: skip


def roster_entry(at: int, run: int = 1, roster: str = "ab", gone: str = "") -> Entry:
    return Entry(0, at, "roster", run, roster=dict.fromkeys(roster, True),
                 given_up=dict.fromkeys(gone, "LOST"))  # fmt: skip


# ------------------------------------------------------------------ records by hand


def part(
    k: int, number: int = 0, *, source: str = "a", inc: int = 1, rows: int = 1,
    close: tuple[int, int] | None = None, late: bool = False, **counts: int,
) -> Part:  # fmt: skip
    """A part without a body; `close` is (parts, rows) of the fragment."""
    said = None if close is None else {"parts": close[0], "rows": close[1], **counts}
    flags = (CLOSE if close else 0) | (LATE if late else 0)
    return Part(source, inc, k, number, flags, rows=rows, close=said)


def whole(k: int, rows: int = 1, **more: Any) -> Part:
    """A fragment of one part."""
    return part(k, rows=rows, close=(1, rows), **more)


def mark(k: int, source: str = "a", inc: int = 1) -> Part:
    return Part(source, inc, k, MARK, close={})


class Fed:
    """One partition's assembler with a log behind it: nothing is read that is not in the log."""

    def __init__(
        self, p: int, partitions: int = 3, next_slice: int = 0, sources: str = "ab"
    ) -> None:
        self.assembler = Assembler(p, partitions, next_slice)
        self.logs: dict[str, list[Part | Quarantined]] = {s: [] for s in sources}
        self.read: dict[str, int] = dict.fromkeys(sources, 0)
        for s in sources:
            self.assembler.add_source(s, Resume(0, {}))

    def put(self, *parts: Part) -> Fed:
        for p in parts:
            self.logs[p.source].append(p)
        return self

    def offer_all(self, plan: Plan, sources: str = "") -> Fed:
        for s in sources or self.logs:
            while self.read[s] < len(self.logs[s]):
                at = self.read[s]
                if not self.assembler.offer(s, at, self.logs[s][at], b"", plan):
                    break
                self.read[s] += 1
        return self

    def caught_up(self, source: str, _seq: int) -> bool:
        return self.read[source] == len(self.logs[source])

    def ready(self, plan: Plan, now: int = FOREVER) -> list[Bundle]:
        out = []
        while (bundle := self.assembler.ready(plan, now, self.caught_up)) is not None:
            out.append(bundle)
        return out

    def take_over(self) -> Fed:
        """What an heir has: the committed positions through JSON, and the logs."""
        committed = through_json(self.assembler)
        heir = Fed(self.assembler.p, self.assembler.P, self.assembler.next, "")
        heir.logs = self.logs
        for s, resume in committed.items():
            heir.assembler.add_source(s, resume)
            heir.read[s] = resume.offset
        return heir


def through_json(assembler: Assembler) -> dict[str, Resume]:
    return {
        s: Resume(r.offset, json.loads(json.dumps(r.data)))
        for s, r in assembler.positions().items()
    }


# ------------------------------------------------------------------ a whole world of logs

Record = tuple[Part | Quarantined, bytes]


@dataclass
class World:
    """Raw topics as lists, one per source and partition, of what sequencers sent."""

    partitions: int
    logs: dict[tuple[str, int], list[Record]] = field(default_factory=dict)

    def send(self, out: Out, harm: str = "") -> None:
        """One record, over the wire and back: what a reader sees. `harm` is what befalls it."""
        told: Part | Quarantined = read_part(part_headers(out.part))
        assert out.part.part == MARK or out.partition == partition(out.part.k, self.partitions)
        body = bytes(memoryview(out.body))
        if harm == "lost":
            return
        if harm == "header":
            told = Quarantined("bad_headers")
        elif harm == "body":
            body += b"?"
        log = self.logs.setdefault((out.part.source, out.partition), [])
        log.append((told, body))
        if harm == "twice":
            log.append((told, body))

    def log(self, source: str, p: int) -> list[Record]:
        return self.logs.get((source, p), [])

    def sources(self) -> list[str]:
        return ["a", "b", "c", "z"]  # also one that never said a word

    def rows(self, source: str, p: int) -> int:
        """All rows that readable records of a log speak of."""
        return sum(told.rows for told, _ in self.log(source, p) if isinstance(told, Part))


SLICE = 1200  # ticks of CLOCK in L
HARMS = ("lost", "header", "body", "twice")


def random_plan(rng: random.Random, partitions: int) -> Plan:
    """A run or two, perhaps with sources that join, leave, or are given up. Slices of 0.1 s, so
    that what is decided matters; nobody but the plan's fold looks at their length."""
    plan = plan_of(partitions=partitions, length=100_000_000)
    at = 5 + rng.randrange(3)
    for run in range(1, 1 + rng.choice([1, 1, 2])):
        add(plan, start(at, run, rng.choice(["abc", "abc", "ab", "c"])))
        first = at
        if rng.random() < 0.3:
            at += rng.randrange(1, 8)
            add(plan, roster_entry(at, run, rng.choice(["abc", "bc"]), rng.choice(["", "", "b"])))
        at += rng.randrange(0, 14)
        add(plan, stop(at))
        for source in sorted({s for e in plan.entries if e.run == run for s in e.roster}):
            # only at the end is it known who did not come; here: everybody who is not there
            add(plan, give_up(first, source, run))
        at += rng.choice([0, 1, 5])
    return plan


class Life:
    """One life of a source, followed from the plan as a source process would."""

    def __init__(self, source: str, inc: int, plan: Plan, born: int) -> None:
        assert plan.install is not None
        self.plan, self.born = plan, born
        self.s = sequencer(source, inc, partitions=plan.install.P, part_bytes=40)

    def turn(self, k: int, rng: random.Random) -> list[Out]:
        """What it sends while slice `k` is taken."""
        s = self.s
        out: list[Out] = []
        if s.first is None and (border := self.plan.next_border(max(k, self.born), s.source)):
            first, end = border
            if first <= k + 2:
                out += s.arm(max(first, self.born), end)
        if s.first is not None:
            n = rng.choice([0, 0, 1, 4, 12, 30])
            ticks = [k * SLICE + rng.randrange(SLICE) for _ in range(n)]
            if rng.random() < 0.3:
                ticks += [max(0, t - rng.randrange(1, 4) * SLICE) for t in ticks[:3]]
            rows = [row(t, rng.randrange(2048)) for t in ticks]
            for at in range(0, len(rows), 7):
                out += s.offer(array(rows[at : at + 7]), -SLICE, 10**6, 0)
            out += s.advance(k * SLICE - rng.choice([0, 300, 2 * SLICE]))
        return out


def random_source(world: World, source: str, plan: Plan, rng: random.Random, last: int) -> None:
    """A source with its accidents: killed with a lost tail, restarted at once or later, leftovers
    of a spool sent again, a zombie that lives on, records that are harmed on their way."""
    harm_rate = rng.choice([0, 0, 0.03])
    kill_rate = rng.choice([0, 0, 0.1])
    inc = rng.randrange(1, 5)
    life: Life | None = Life(source, inc, plan, 0)
    zombie: Life | None = None
    history: list[Out] = []
    for k in range(last + 4):
        outs = life.turn(k, rng) if life else []
        if k == last + 3 and life and life.s.first is not None:
            outs += life.s.advance(10**6)
        if zombie is not None and rng.random() < 0.5:
            outs += zombie.turn(k, rng)
        if life and rng.random() < kill_rate:
            zombie, life = (life if rng.random() < 0.3 else None), None
            if zombie is None:  # what it had not sent is lost with it
                outs = outs[: rng.randrange(len(outs) + 1)]
        elif life is None and rng.random() < 0.5:
            inc += rng.randrange(1, 3)
            life = Life(source, inc, plan, k + rng.randrange(0, 3))
            if history and rng.random() < 0.5:
                at = rng.randrange(len(history))
                outs = history[at : at + 5] + outs
        history += outs
        for out in outs:
            world.send(out, rng.choice(HARMS) if rng.random() < harm_rate else "")


def random_world(seed: int) -> tuple[World, Plan]:
    """Logs of four sources (z is on no roster) and their plan; a pure function of the seed."""
    rng = random.Random(seed)
    world = World(rng.randrange(1, 5))
    plan = random_plan(rng, world.partitions)
    last = max(e.from_slice for e in plan.entries)
    for source in "abcz":
        known = plan if source != "z" else plan_of(
            start(4, roster="z"), stop(last), partitions=world.partitions
        )  # fmt: skip
        random_source(world, source, known, rng, last)
    return world, plan


def check_crc(told: Part, body: bytes) -> None:
    if checksum(body) != told.crc:
        raise Quarantined("checksum")


Picture = tuple[Any, ...]


def picture(bundle: Bundle) -> Picture:
    """Everything of a bundle that must not depend on who assembled it, or when."""
    return (
        bundle.k, bundle.seq,
        tuple((f.source, f.inc, f.rows, tuple(p.triple for p in f.parts), tuple(f.bodies))
              for f in bundle.fragments),
        tuple((s, m.why, m.rows) for s, m in sorted(bundle.missing.items())),
    )  # fmt: skip


def assemble(
    world: World, plan: Plan, p: int, first: int,
    choose: Callable[[list[str]], str], take_over: Callable[[], bool] = lambda: False,
    eager: Callable[[], bool] = lambda: True, read_plan: Callable[[], bool | None] = lambda: None,
) -> tuple[list[Picture], dict[str, Counter[str]]]:  # fmt: skip
    """All bundles of a partition, reading its logs in the order that `choose` says.

    `eager()` says whether to ask for a bundle before the next record. `take_over()` is asked after
    each bundle and each record: then the owner dies, and an heir begins from what was committed
    last. `read_plan()` says whether the plan was read again: what was held is offered again then;
    None when all of it is known. A give-up counts only when all logs were read. Returns the
    pictures of the committed bundles and the total counts per source, with those that no bundle
    reported.
    """
    sources = world.sources()
    committed: dict[str, Resume] = {s: Resume(0, {}) for s in sources}
    following = first
    out: list[Picture] = []
    counts: dict[str, Counter[str]] = {s: Counter() for s in sources}

    def heir() -> Assembler:
        new = Assembler(p, world.partitions, following, check_crc)
        for s in sources:
            new.add_source(s, committed[s])
        return new

    def step(owner: Assembler, caught_up: Callable[[str, int], bool]) -> bool:
        nonlocal committed, following
        bundle = owner.ready(plan, FOREVER, caught_up)
        if bundle is None:
            return False
        committed, following = through_json(owner), owner.next
        out.append(picture(bundle))
        for s, mine in bundle.counts.items():
            counts[s].update(mine)
        return True

    def unread(owner: Assembler) -> list[str]:
        return [
            s for s in sources
            if s not in held and owner.sources[s].position < len(world.log(s, p))
        ]  # fmt: skip

    owner, held = heir(), set[str]()
    while True:
        more = read_plan()
        if more:
            held.clear()
        if not (eager() and step(owner, lambda _s, _seq: False)):
            waiting = unread(owner)
            if waiting:
                source = choose(waiting)
                offset = owner.sources[source].position
                told, body = world.log(source, p)[offset]
                if not owner.offer(source, offset, told, body, plan):
                    held.add(source)
            elif not step(owner, lambda _s, _seq: True) and more is None:
                break
        if take_over():
            owner, held = heir(), set()
    for s, state in owner.sources.items():
        counts[s].update(state.counts)
    return out, counts
