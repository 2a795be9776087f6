"""Hostile records on the real broker: a lane among them, and a record that is too large."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from make_hostile import hostile
from make_replay import lab
from make_source import SLICE, Fed, array, plan_of, row, sequencer, start, stop
from test_lane import BLOCKS, EPOCH, FIRST_BLOCK, bench_of

from freerun import kafka
from freerun.assembler import BROKEN, read_record
from freerun.errors import Quarantined
from freerun.kafka import BEGINNING, Outgoing, Reader, Sender
from freerun.ledger import Account, SourceAccount
from freerun.simulation import BLOCK_NS
from freerun.topics import Topic
from freerun.wire import CLOSE, Headers, Part, part_headers
from producers.sender import PartSender
from producers.sequencer import Out

P = 4
N = 600
LARGE = 20_000_000  # bytes


def test_a_lane_among_hostile_records(broker: str, installation: str, tmp_path: Path) -> None:
    """Before, among and behind the records of a source: each that is none is named with its
    place, every slice is whole, and the account closes."""
    bench = bench_of(installation)
    length, begin = bench.time.slice, FIRST_BLOCK * BLOCK_NS
    first, last = begin // length, (begin + BLOCKS * BLOCK_NS - 1) // length
    with lab(broker, bench, tmp_path, P, first, last, EPOCH) as run:
        plan = run.control._writer.plan
        topic = run.topics.raw("tdc0")
        sender = Sender(broker, "vandal", lambda _token, error: failed.append(error or ""))
        failed: list[str] = []
        good = Part("tdc0", 1, first - 50, 0, CLOSE, "padova-obdt", close={"parts": 1, "rows": 0},
                    num=25, den=30, tick0=(first - 50) * length * 30 // 25)  # fmt: skip
        made: list[tuple[Headers | None, bytes]] = []
        for seed in range(N):
            made.append(hostile(seed, part_headers(good), bytes(range(256)))[1:])
        made.insert(N // 3, (None, bytes(LARGE)))
        made.insert(N // 3, (part_headers(good), bytes(LARGE)))
        bad = [isinstance(read_record("tdc0", h, 1 << 50, plan), Quarantined) for h, _ in made]

        def send(records: list[tuple[Headers | None, bytes]]) -> None:
            for i, (headers, body) in enumerate(records):
                assert sender.send(Outgoing(topic, i % P, body, headers), None)
                sender.poll()
            assert sender.flush(60) == 0

        send(made[: N // 2])
        run.start_sources()
        send(made[N // 2 :])
        run.run_lane("muons")
        found = run.results("muons")
        assert all(i["complete"] and not i["failed"] for i in found.infos)
        account = run.account()
        assert account["ok"], account["gaps"]
        notes = [json.loads(r.value) for r in run.records(run.topics.quarantine, partitions=1)]
        seen = sum(i["counts"].get("tdc0", {}).get("quarantined_records", 0) for i in found.infos)
        # what lies behind a partition's last slice is in no header
        assert sum(bad[: N // 2]) <= len(notes) == seen <= sum(bad)
        assert sum(bad) > 300 and not any(failed)
        assert {n["topic"] for n in notes} == {topic}
        places = Counter((n["partition"], n["offset"]) for n in notes)
        assert len(places) == len(notes), "each once"
        assert {"no_headers", "bad_headers", "version", "source", "clock"} <= {
            n["reason"] for n in notes
        }


def test_refused_record_of_twenty_megabytes(broker: str, installation: str) -> None:
    """The broker refuses it for good: what comes behind it is not held up, its slice is BROKEN,
    and the account closes."""
    topic = f"{installation}.raw.a"
    admin = kafka.Broker(broker)
    admin.create([Topic(topic, 1, {"max.message.bytes": "1000000"})])
    try:
        s = sequencer(partitions=1, guard=0)
        outs = s.arm(0, 3)
        for k in range(3):
            rows = array(row(k * SLICE + 30 * i, i) for i in range(20))
            outs += s.offer(rows, 0, 10**6, k * SLICE)
            outs += s.advance((k + 1) * SLICE)
        sender = PartSender(broker, topic, "x")
        for out in outs:
            big = out.part.closes and out.part.k == 1
            sender.send(Out(out.partition, out.part, bytes(LARGE)) if big else out)
            assert sender.flush(60) == 0
        sender.poll()
        sender.flush(60)
        assert (sender.refused, sender.refused_rows, sender.acked_close) == (1, 20, 2)
        plan = plan_of(start(0, roster="a"), stop(3), partitions=1)
        fed, account = Fed(0, 1, sources="a"), Account(0, 2, {"a": SourceAccount()})
        reader = Reader(broker, "look")
        reader.assign({(topic, 0): BEGINNING})
        while not reader.at_end((topic, 0)):
            for record in reader.poll(100, 0.2):
                part = read_record("a", record.headers, record.time_ms, plan)
                assert isinstance(part, Part)
                account.sources["a"].see(part)
                fed.put(part)
        reader.close()
        bundles = fed.offer_all(plan).ready(plan)
        assert [(b.k, [m.why for m in b.missing.values()]) for b in bundles] == [
            (0, []), (1, [BROKEN]), (2, []),
        ]  # fmt: skip
        account.sources["a"].close()
        counts = account.sources["a"].counts
        assert (counts["read"], counts["in_kafka"], counts["dropped"]) == (60, 40, 20)
    finally:
        admin.delete([topic])
