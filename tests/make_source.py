"""A small world for the pure machines: a codec of plain numbers, logs, plans, lanes that die."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from freerun.assembler import Assembler, Bundle, Resume
from freerun.errors import Quarantined
from freerun.plan import DATA, Entry, Install, Plan
from freerun.rows import WORD_SCHEMA
from freerun.slices import partition
from freerun.ticks import Clock
from freerun.wire import CLOSE, LATE, MARK, Part, checksum, part_headers, read_batch, read_part
from freerun.words import BAD, checksum as word_sum
from producers.sequencer import Out, Sequencer

L, G = 1_000, 100  # ns
FOREVER = 1 << 60
BAD_BIT = 1 << 63
TICK_BITS = 40

U64 = npt.NDArray[np.uint64]


class PlainCodec:
    """A row is a uint64: its tick in the low 40 bits, a number of its own above, BAD on top."""

    name = "padova-v1"  # a name that readers know; only the body's schema matters to them

    def times(self, rows: U64, ref_tick: int) -> tuple[Any, Any]:
        ticks = (rows & np.uint64((1 << TICK_BITS) - 1)).astype(np.int64)
        kind = np.where(rows & np.uint64(BAD_BIT), BAD, 0).astype(np.uint8)
        return np.where(kind == BAD, ref_tick, ticks), kind

    def take(self, rows: U64, which: npt.NDArray[Any]) -> U64:
        return rows[which]

    def concat(self, many: Sequence[U64]) -> U64:
        return np.concatenate(many) if many else np.empty(0, np.uint64)

    def bytes_per_row(self, rows: U64) -> int:
        return 8

    def batch(self, rows: U64) -> pa.RecordBatch:
        return pa.RecordBatch.from_arrays([pa.array(rows)], schema=WORD_SCHEMA)

    def rows(self, batch: pa.RecordBatch) -> U64:
        return batch.column(0).to_numpy()

    def checksum(self, rows: U64) -> int:
        return word_sum(rows)


def row(tick: int, number: int = 0) -> int:
    return tick | number << TICK_BITS


def array(rows: Iterable[int]) -> U64:
    return np.array(list(rows), np.uint64)


def tick_of(word: int) -> int:
    return word & ((1 << TICK_BITS) - 1)


def body_rows(body: bytes | pa.Buffer) -> list[int]:
    if not len(memoryview(body)):
        return []
    return [int(x) for x in read_batch(body).column(0).to_numpy()]


def sequencer(name: str = "a", inc: int = 1, clock: Clock | None = None, **changes: Any) -> Sequencer:
    settings = {"length": L, "partitions": 3, "guard": G} | changes
    return Sequencer(name, inc, PlainCodec(), clock or Clock(0, 1, 1), **settings)


# ------------------------------------------------------------------ plans


def plan_of(
    *entries: Entry, partitions: int = 3, read_at: int = FOREVER, length: int = L
) -> Plan:
    """A plan that was read to its end at `read_at`; entries get numbers in their order."""
    plan = Plan(Install("u", length, partitions, G))
    for entry in entries:
        add(plan, entry)
    plan.read_at_ns = read_at
    return plan


def add(plan: Plan, entry: Entry, time_ms: int = 0) -> Entry:
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

    def __init__(self, p: int, partitions: int = 3, next_slice: int = 0, sources: str = "ab") -> None:
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


@dataclass
class World:
    """Raw topics as lists, one per source and partition, of what sequencers sent."""

    partitions: int
    logs: dict[tuple[str, int], list[tuple[Part, bytes]]] = field(default_factory=dict)

    def send(self, outs: Iterable[Out]) -> None:
        for out in outs:
            # over the wire and back: what a reader sees
            told = read_part(part_headers(out.part))
            assert told.part == MARK or out.partition == partition(told.k, self.partitions)
            body = bytes(memoryview(out.body))
            self.logs.setdefault((told.source, out.partition), []).append((told, body))

    def log(self, source: str, p: int) -> list[tuple[Part, bytes]]:
        return self.logs.get((source, p), [])

    def sources(self) -> list[str]:
        return sorted({s for s, _ in self.logs})


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
    read_ahead: Callable[[], bool] = lambda: True,
) -> tuple[list[Picture], dict[str, Counter[str]]]:  # fmt: skip
    """All bundles of a partition, reading its logs in the order that `choose` says.

    `take_over()` is asked after each commit (a bundle), and after each record: then the owner
    dies, and an heir begins from what was committed last. Returns the pictures of the committed
    bundles and the total counts per source, with those that no bundle reported.
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

    owner = heir()
    held: set[str] = set()
    while True:
        bundle = None
        if read_ahead():
            bundle = owner.ready(
                plan, FOREVER,
                lambda s, _seq: owner.sources[s].position == len(world.log(s, p)),
            )  # fmt: skip
        if bundle is not None:
            committed, following = through_json(owner), owner.next
            out.append(picture(bundle))
            for s, mine in bundle.counts.items():
                counts[s].update(mine)
        else:
            open_logs = [
                s for s in sources
                if s not in held and owner.sources[s].position < len(world.log(s, p))
            ]
            if not open_logs:
                bundle = owner.ready(plan, FOREVER, lambda _s, _seq: True)
                if bundle is None:
                    break
                committed, following = through_json(owner), owner.next
                out.append(picture(bundle))
                for s, mine in bundle.counts.items():
                    counts[s].update(mine)
                continue
            source = choose(open_logs)
            offset = owner.sources[source].position
            told, body = world.log(source, p)[offset]
            if not owner.offer(source, offset, told, body, plan):
                held.add(source)
        if take_over():
            owner, held = heir(), set()
    for s, state in owner.sources.items():
        counts[s].update(state.counts)
    return out, counts


__all__ = ["DATA", "Counter"]
