"""The sender with its spool: order through outages and kills, and the account of a full disk."""

from __future__ import annotations

import errno
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from make_sender import FakeKafka, sent_slices
from make_source import SLICE, array, row, sequencer
from test_spool import TOPIC, die

import producers.sender
from freerun.kafka import Outgoing
from freerun.wire import MARK, Part, read_part
from producers import spool, spool_files
from producers.sender import PartSender
from producers.sequencer import Out, Sequencer
from producers.spool import Spool


class Clock:
    """Stands for `time.monotonic` of the sender."""

    now = 0.0

    @classmethod
    def monotonic(cls) -> float:
        return cls.now


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producers.sender, "Sender", FakeKafka)
    monkeypatch.setattr(producers.sender, "time", Clock)
    monkeypatch.setattr(Clock, "now", 0.0)


def source(folder: Path, bound: int = 64 << 20, **more: Any) -> tuple[PartSender, FakeKafka]:
    sender = PartSender("nowhere", TOPIC, "x", bound, Spool(folder, TOPIC, **more))
    fake = sender._sender
    assert isinstance(fake, FakeKafka)
    return sender, fake


def kill(sender: PartSender) -> None:
    assert sender._spool is not None
    die(sender._spool)


def told(records: Sequence[Outgoing]) -> list[Part]:
    return [read_part(r.headers) for r in records]


def settle_all(sender: PartSender, fake: FakeKafka) -> None:
    """The broker is there until nothing waits."""
    for _ in range(1000):
        fake.settle()
        sender.poll()
        if not sender.backlog_bytes and not fake.queue:
            return
    raise AssertionError("it never drains")


def numbers(parts: Sequence[Part]) -> list[tuple[int, int, int]]:
    return [p.triple for p in parts if p.part != MARK and not p.late]


def test_without_an_outage_nothing_touches_the_disk(tmp_path: Path) -> None:
    sender, fake = source(tmp_path)
    for out in sent_slices():
        sender.send(out)
        sender.poll()
        fake.settle()
    sender.poll()
    assert not sender.spooling and sender.spool_bytes == sender.backlog_bytes == 0
    assert not list(tmp_path.glob("*.spool"))
    assert all("spooled" not in (p.close or {}) for p in told(fake.log))
    sender.close(0)


def test_after_a_while_without_an_answer_all_that_waits_is_on_disk(tmp_path: Path) -> None:
    """So a kill costs what came in a moment, and not what came in an outage."""
    outs = sent_slices()
    sender, fake = source(tmp_path)
    for out in outs[:6]:
        sender.send(out)
    sender.poll()
    assert not sender.spooling and sender.spool_bytes == 0
    Clock.now += producers.sender.SPOOL_AFTER_S + 0.1
    sender.poll()
    assert sender.spooling and sender.spool_bytes > 0
    for out in outs[6:]:
        sender.send(out)
        sender.poll()
    assert len(fake.queue) == len(outs), "the broker may be back at any moment"
    kill(sender)

    heir, after = source(tmp_path)
    mark = outs[0]._replace(part=outs[0].part.__class__("a", 2, 9, MARK, close={}))
    heir.send(mark)
    assert heir.spooling
    settle_all(heir, after)
    assert not heir.spooling
    found = told(after.log)
    # the first ones as they were; those that waited behind them know that they did
    assert [p.triple for p in found] == [o.part.triple for o in outs] + [(2, 9, MARK)]
    assert [bytes(memoryview(r.value)) for r in after.log[:-1]] == [
        bytes(memoryview(o.body)) for o in outs
    ]
    assert found[:6] == [o.part for o in outs[:6]]
    spooled = [p.close["spooled"] for p in found[6:-1] if p.close and p.part != MARK]
    waited = 0
    expected = []
    for o in outs[6:]:
        waited += o.part.rows
        if o.part.closes:
            expected.append(waited)
    assert spooled == expected
    heir.close(0)
    assert not list(tmp_path.glob("*.spool"))


def test_what_is_on_its_way_at_a_stop_waits_for_the_next_start(tmp_path: Path) -> None:
    outs = sent_slices()
    sender, fake = source(tmp_path)
    for out in outs:
        sender.send(out)
    fake.settle(lambda _r, _p: False)
    fake.log.clear()
    for out in outs:
        sender.send(out)
    fake.flush = lambda _timeout: 1  # type: ignore[method-assign]
    sender.close(-1)
    heir, after = source(tmp_path)
    settle_all(heir, after)
    assert told(after.log) == [o.part for o in outs]
    heir.close(0)


def test_what_comes_back_from_the_spool_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A spool of any size is fed to the client in small bites."""
    monkeypatch.setattr(producers.sender, "FEED_BYTES", 5_000)
    sender, fake = source(tmp_path, bound=0)
    outs = [o for n in range(10) for o in sent_slices()]
    for out in outs:
        sender.send(out)
    assert len(fake.queue) == 1, "the bound is reached: everything else waits on disk"
    largest = 2_000
    bites = 0
    monkeypatch.setattr(sender, "_bound", 64 << 20)
    while sender.backlog_bytes:
        sender.poll()
        assert sender.waiting_bytes <= 5_000 + largest
        fake.settle()
        bites += 1
    assert len(fake.log) == len(outs) and bites > 5
    sender.close(0)


def test_a_refused_record_leaves_the_spool_too(tmp_path: Path) -> None:
    """Leftovers that the broker refuses for good are counted, and nothing waits behind them."""
    sender, _ = source(tmp_path)
    Clock.now = 0.0
    outs = sent_slices()
    sender.send(outs[0])
    Clock.now += 10
    sender.poll()
    for out in outs[1:]:
        sender.send(out)
    kill(sender)
    heir, fake = source(tmp_path)
    heir.poll()
    fake.settle(lambda _r, p: p.k == 1 and p.part == 0)
    settle_all(heir, fake)
    assert heir.refused == 1 and heir.refused_rows == 10
    found = told(fake.log)
    assert found[-1].close is not None and found[-1].close["dropped"] == 10
    heir.close(0)
    assert not list(tmp_path.glob("*.spool"))


# ------------------------------------------------------------------ any history


@dataclass
class World:
    """Lives of one source, one after the other, on one folder."""

    folder: Path
    rng: random.Random
    log: list[Outgoing] = field(default_factory=list)  # what Kafka has
    sent: dict[tuple[int, int, int], Out] = field(default_factory=dict)
    inc: int = 0
    k: int = 0
    lost: set[tuple[int, int, int]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self.inc += 1
        self.k += 2
        self.sender, self.fake = source(self.folder, bound=self.rng.choice([2_000, 100_000]))
        self.fake.log = self.log
        self.s: Sequencer = sequencer(inc=self.inc, part_bytes=200)
        for out in self.s.arm(self.k, None):
            self.sender.send(out)

    def work(self) -> None:
        self.k += 1
        n = self.rng.choice([0, 3, 30, 120])
        rows = array(row(self.k * SLICE + i * 9, i) for i in range(n))
        outs = self.s.offer(rows, 0, 10**9, 0) + self.s.advance(self.k * SLICE)
        for out in outs:
            self.sent[out.part.triple] = out
            self.sender.send(out)

    def time(self) -> None:
        Clock.now += self.rng.choice([0.1, 1.0, 3.0])
        self.sender.poll()

    def broker(self) -> None:
        """It takes some of what is on its way."""
        for _ in range(self.rng.randrange(1, 40)):
            if self.fake.queue:
                record, token = self.fake.queue.popleft()
                self.log.append(record)
                self.fake.done(token, None)
        self.sender.poll()

    def heir(self) -> None:
        """The process is killed; what only its memory had is lost, in Kafka or not."""
        on_disk = {kept.out.part.triple for kept in self.sender._spool._taken}  # type: ignore[union-attr]
        missed = set[int]()  # an idempotent producer leaves no hole in a partition
        for record, token in self.fake.queue:
            if record.partition not in missed and self.rng.random() < 0.7:
                self.log.append(record)  # the broker got it, the process did not hear of it
                continue
            missed.add(record.partition)
            if token.out.part.triple not in on_disk:
                self.lost.add(token.out.part.triple)
        kill(self.sender)
        self.begin()


@settings(max_examples=60)
@given(st.integers(0, 1 << 32), st.lists(st.sampled_from("wwwttbbh"), max_size=60))
def test_any_history(seed: int, steps: list[str]) -> None:
    """Outages, slow brokers and kills: every part that was on disk or acknowledged is in Kafka,
    for the first time in order, each life after the one before; twice only around a kill."""
    with tempfile.TemporaryDirectory() as folder:
        Clock.now = 0.0
        world = World(Path(folder), random.Random(seed))
        kills = 0
        for step in steps:
            {"w": world.work, "t": world.time, "b": world.broker, "h": world.heir}[step]()
            kills += step == "h"
        settle_all(world.sender, world.fake)
        world.sender.close(0)
        assert not list(Path(folder).glob("*.spool"))
        found = numbers(told(world.log))
        first_time = list(dict.fromkeys(found))
        if kills == 0:
            assert found == list(world.sent)
        assert set(world.sent) - set(first_time) <= world.lost
        highest: dict[int, tuple[int, int, int]] = {}
        for record in world.log:  # what an assembler of that partition would see as new
            part = read_part(record.headers)
            if part.part == MARK or part.triple <= highest.get(record.partition, (0, 0, 0)):
                continue
            highest[record.partition] = part.triple
            out = world.sent[part.triple]
            assert bytes(memoryview(record.value)) == bytes(memoryview(out.body))
            first_time.remove(part.triple)
        assert not first_time, "each part is new once: nothing was overtaken in its partition"


# ------------------------------------------------------------------ a full disk


def test_a_full_disk_drops_payload_counts_it_and_closes_every_slice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker is away and the disk takes nothing for a while: payload of these slices is
    dropped by the sequencer, every close flows, and all else arrives."""
    monkeypatch.setattr(spool, "time", Clock)
    right = spool_files.write

    def no_space(descriptor: int, pieces: Sequence[bytes | memoryview]) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    sender, fake = source(tmp_path, bound=3_000)
    s = sequencer(part_bytes=80)
    for out in s.arm(0, None):
        sender.send(out)
    dropping = set()
    for k in range(200):
        Clock.now += 0.1
        if k == 60:
            monkeypatch.setattr(spool_files, "write", no_space)
        if k == 120:
            monkeypatch.setattr(spool_files, "write", right)
        s.dropping = sender.full
        if s.dropping:  # of slices to come, too
            dropping.update(range(s.next, k + 1))
        outs = s.offer(array(row(k * SLICE + i * 9, i) for i in range(25)), 0, 10**6, 0)
        for out in outs + s.advance(k * SLICE):
            sender.send(out)
        sender.poll()
    assert sender.spooling and sender.refused == sender.refused_rows == 0
    settle_all(sender, fake)
    found = told(fake.log)
    closes = [p for p in found if p.closes]
    assert [p.k for p in closes] == list(range(198))
    last = closes[-1].close
    assert last is not None
    assert last["dropped"] == s.totals["dropped"] >= 50 * 25
    assert last["read"] == sum(p.rows for p in found) + last["dropped"]
    triples = numbers(found)
    assert triples == sorted(triples) and len(set(triples)) == len(triples)
    hurt = {p.k for p in closes if p.close and p.close["rows"] < 25}
    assert hurt <= dropping and min(hurt) >= 58 and max(hurt) <= 132
    sender.close(0)


def test_a_full_spool_counts_what_it_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that come although the sender is full: their slices are closed without them, and later
    closes count them."""
    monkeypatch.setattr(spool, "TAIL_BYTES", 2_000)
    monkeypatch.setattr(spool, "SEGMENT_BYTES", 1_000)
    sender, fake = source(tmp_path, bound=500, limit=4_000)
    for out in sent_slices():
        sender.send(out)
    assert sender.full
    settle_all(sender, fake)
    assert not sender.full
    found = told(fake.log)
    assert [t.k for t in found if t.closes] == [0, 1, 2, 3], "every close, in order"
    triples = numbers(found)
    assert triples == sorted(triples)
    end = found[-1].close
    assert end is not None and end["dropped"] == sender.refused_rows > 0
    assert end["read"] == sum(t.rows for t in found) + end["dropped"]
    sender.close(0)
