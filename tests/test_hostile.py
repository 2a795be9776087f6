"""Hostile time and bytes at the pure machines: named, counted, and nobody else is harmed."""

from __future__ import annotations

import random
import tomllib
from collections import Counter
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest
from make_hostile import MAKERS, hostile
from make_source import (
    CLOCK,
    CODEC,
    FOREVER,
    SLICE,
    Fed,
    L,
    add,
    array,
    give_up,
    mark,
    part,
    plan_of,
    row,
    sequencer,
    start,
    stop,
    whole,
)

from freerun import config
from freerun.assembler import (
    AHEAD_NS,
    BROKEN,
    CLOSED,
    GAP,
    GIVEN_UP,
    Assembler,
    Fragment,
    Resume,
    read_record,
)
from freerun.errors import Quarantined
from freerun.wire import Headers, Part, part_headers
from processors.owner import check_body
from processors.pipeline import Pipeline
from processors.prepare import _rows
from processors.setup import pipeline_of
from producers.sequencer import Sequencer

CORPUS = 10_013  # records, by seed; about 500 of each kind
ROOT = Path(__file__).resolve().parents[1]


def good_records(source: str, slices: int) -> list[tuple[int, Headers, bytes]]:
    """Slice, headers and body of as many whole slices of one part, three rows each."""
    s = sequencer(source, partitions=1, guard=0)
    outs = s.arm(1, 2) + s.offer(array(row(SLICE + 7 * i, i) for i in range(3)), 0, 10**6, SLICE)
    (out,) = (o for o in outs + s.advance(2 * SLICE) if o.part.closes)
    headers, body = part_headers(out.part), bytes(memoryview(out.body))
    return [
        (k, list((dict(headers) | {"k": b"%d" % k, "tick0": b"%d" % (k * SLICE)}).items()), body)
        for k in range(1, slices + 1)
    ]


def test_ten_thousand_hostile_records_harm_nobody_else() -> None:
    """In each slice one record of a is replaced by a hostile one; b is whole. A good slice of a
    comes between, which must be as good as ever."""
    n = CORPUS
    plan = plan_of(start(1), stop(2 * n + 1), give_up(1, "a"), partitions=1)
    now_ms = 2 * n * L // 10**6
    assembler = Assembler(0, 1, 1, check_body)
    for source in "ab":
        assembler.add_source(source, Resume(0, {}))
    goods = {s: good_records(s, 2 * n) for s in "ab"}
    fates: dict[str, Counter[str]] = {kind: Counter() for kind in MAKERS}
    told = Counter[str]()
    kind = ""
    pairs = zip(goods["a"], goods["b"], strict=True)
    for offset, ((k, headers, body), (_, headers_b, body_b)) in enumerate(pairs):
        sent: Headers | None = headers
        if k % 2:
            kind, sent, body = hostile(k // 2, headers, body)
        record = read_record("a", sent, now_ms, plan)
        assert assembler.offer("a", offset, record, body, plan), kind
        assert assembler.offer("b", offset, read_record("b", headers_b, now_ms, plan), body_b, plan)
        for expected in (k - 1, k) if k % 2 == 0 else ():  # a's good slice says what did not come
            bundle = assembler.ready(plan, FOREVER, lambda _s, _seq: True)
            assert bundle is not None and bundle.k == expected, kind
            assert assembler.next == expected + 1
            by_name = {f.source: f for f in bundle.fragments}
            assert by_name["b"].rows == 3 and by_name["b"].state == CLOSED
            told.update(bundle.counts.get("a", {}))
            fate = fate_of(bundle.missing["a"].why if "a" in bundle.missing else by_name["a"])
            if expected == k:
                assert fate == CLOSED, f"a good slice behind {kind}"
            else:
                fates[kind][fate] += 1
    assert sum(f.total() for f in fates.values()) == n
    # what each kind ends as: nothing but what is whole for all one can know is used
    unread = {GAP}
    for kind in ("no_headers", "noise", "header_missing", "version", "far_future", "past"):
        assert set(fates[kind]) == unread, (kind, fates[kind])
    for kind in ("source", "close"):
        assert set(fates[kind]) == unread
    for kind in ("schema", "cut", "flipped"):
        assert set(fates[kind]) <= {BROKEN, GAP}, (kind, fates[kind])
    for kind in ("noise_agreeing", "other_arrow"):  # one that was cut may lack its end mark only
        assert CLOSED not in fates[kind], (kind, fates[kind])
    assert set(fates["rows"]) <= {BROKEN, CLOSED, "unreadable: rows"}
    assert told["quarantined_records"] == len(assembler.quarantined) > n // 2
    reasons = Counter(why.reason for _, _, why in assembler.quarantined)
    assert set(reasons) == {"no_headers", "bad_headers", "version", "source", "schema",
                            "checksum", "impossible_time", "clock"}  # fmt: skip
    assert {offset for _, offset, _ in assembler.quarantined} <= set(range(0, 2 * n, 2))


def fate_of(what: str | Fragment) -> str:
    """Why a fragment is missing; or whether a kernel could read it."""
    if isinstance(what, str):
        return what
    try:
        rows = sum(len(_rows(p, b)) for p, b in zip(what.parts, what.bodies, strict=True))
    except Quarantined as why:
        return f"unreadable: {why.reason}"
    assert rows == sum(p.rows + p.ga + p.gb for p in what.parts)
    return what.state


def test_the_corpus_is_a_pure_function_of_its_seed() -> None:
    (_, headers, body), *_ = good_records("a", 1)
    assert [hostile(i, headers, body) for i in range(200)] == [
        hostile(i, headers, body) for i in range(200)
    ]


# ------------------------------------------------------------------ through the kernels


@pytest.fixture(scope="module")
def muons() -> Pipeline:
    raw = tomllib.loads((ROOT / "configs" / "bench.toml").read_text())
    raw["system"]["name"] = "x"
    return pipeline_of(config.from_dict(raw), "muons")


def test_no_record_stops_a_kernel(muons: Pipeline) -> None:
    """What can be opened goes through decoding, sorting and building; clocks that cannot be are
    no reason to lose the slice of the others."""
    rng = random.Random(1)
    names = list(muons.setups)[:2]
    k = 10_000_000_000
    length = muons.L
    tick = CLOCK.tick_at(k * length)
    records = {}
    for s in names:
        q = Sequencer(s, 1, CODEC, CLOCK, length, 1, muons.G)
        outs = q.arm(k, k + 1)
        outs += q.offer(array(row(tick + 1000 * i, i) for i in range(50)), 0, 1 << 62, tick)
        outs += q.advance(CLOCK.tick_at((k + 2) * length))
        records[s] = next(o for o in outs if o.part.closes)
    plan = plan_of(start(k, roster=""), partitions=1, length=length)
    base = replace(plan.entries[0], roster=dict.fromkeys(names, True))
    plan.entries[0] = base
    ends: Counter[str] = Counter()
    for i in range(500):
        out = records[names[0]]
        headers, body = part_headers(out.part), bytes(memoryview(out.body))
        if i % 2:
            name = rng.choice(["tick0", "num", "den", "anchor"])
            wild = rng.choice([0, 1, -1, 2**62, -(2**62), 2**63 - 1, rng.getrandbits(40)])
            sent: Headers | None = [(n, b"%d" % wild if n == name else v) for n, v in headers]
        else:
            name, sent, body = hostile(i * 7, headers, body)
        assembler = Assembler(0, 1, k, check_body)
        for s in names:
            assembler.add_source(s, Resume(0, {}))
        now_ms = (k + 1) * length // 10**6
        assembler.offer(names[0], 0, read_record(names[0], sent, now_ms, plan), body, plan)
        assembler.offer(names[0], 1, Part(names[0], 1, k + 1, -1), b"", plan)
        good = records[names[1]]
        assembler.offer(names[1], 0, good.part, bytes(memoryview(good.body)), plan)
        bundle = assembler.ready(plan, FOREVER, lambda _s, _seq: True)
        assert bundle is not None
        info = muons.process(bundle).info
        assert info["failed"] is None and info["sources"][names[1]]["rows"] == 50, name
        ends["used" if names[0] in info["sources"] else info["missing"][names[0]]["why"]] += 1
    assert min(ends[x] for x in ("used", BROKEN, GAP)) > 20


# ------------------------------------------------------------------ hostile time


HOUR = 3600 * 10**9
LONG = 100_000_000  # a slice of 0.1 s


def told(k: int, number: int = 0, inc: int = 1, time_ns: int = 0) -> Part | Quarantined:
    """A record of source a for slices of 0.1 s, as read back at a broker's time."""
    sent = part(k, number, inc=inc, close=None if number < 0 else (1, 1))
    sent = replace(sent, tick0=k * LONG, flags=0 if number < 0 else sent.flags,
                   rows=0 if number < 0 else 1)  # fmt: skip
    plan = plan_of(start(10), partitions=1, length=LONG)
    return read_record("a", part_headers(sent), time_ns // 10**6, plan)


@pytest.mark.parametrize("number", [0, -1])
def test_a_jump_to_the_future_moves_no_watermark(number: int) -> None:
    """A slice or a mark an hour ahead of the broker's time of its record."""
    plan = plan_of(start(10, roster="a"), partitions=1, length=LONG)
    assembler = Assembler(0, 1, 10)
    assembler.add_source("a", Resume(0, {}))
    now = 10 * LONG
    for offset, k in enumerate((10, (HOUR // LONG), 11, 12)):
        record = told(k, number if k > 100 else 0, time_ns=now + offset * LONG)
        assert assembler.offer("a", offset, record, b"", plan)
    seen = [assembler.ready(plan, FOREVER, lambda _s, _seq: True) for _ in range(3)]
    assert [b.k for b in seen if b and b.complete] == [10, 11, 12]
    ((_, offset, why),) = assembler.quarantined
    assert (offset, why.reason) == (1, "impossible_time")
    counts = sum((Counter(b.counts.get("a", {})) for b in seen if b), Counter[str]())
    assert counts["quarantined_records"] == 1


def test_what_may_be_just_ahead_is_no_jump() -> None:
    k = 50 + AHEAD_NS // LONG
    assert isinstance(told(k, time_ns=50 * LONG), Part)
    assert isinstance(told(k + 1, time_ns=50 * LONG), Quarantined)


def test_recorded_time_may_lie_anywhere() -> None:
    plan = plan_of(start(10, clock="data"), partitions=1, length=LONG)
    sent = replace(part(HOUR // LONG, close=(1, 1)), tick0=HOUR)
    assert isinstance(read_record("a", part_headers(sent), 0, plan), Part)


def test_a_jump_to_the_past_is_a_copy_or_stale() -> None:
    plan = plan_of(start(0, roster="a"), partitions=1)
    fed = Fed(0, 1, sources="a").put(*(whole(k) for k in range(5)), whole(1, rows=7),
                                     whole(2, inc=0, rows=3), whole(5))  # fmt: skip
    bundles = fed.offer_all(plan).ready(plan)
    assert [b.k for b in bundles if b.complete] == list(range(6))
    counts = sum((Counter(b.counts.get("a", {})) for b in bundles), Counter[str]())
    assert counts == {"duplicate": 7, "stale": 3}


def test_a_slice_that_is_never_closed_and_one_that_comes_after_its_deadline() -> None:
    """3 is begun and never closed: it waits for a word of its source or of the plan, not for a
    clock; what then comes is named."""
    plan = plan_of(start(0), partitions=1)
    fed = Fed(0, 1).put(*(whole(k) for k in range(3)), part(3, 0, rows=5))
    fed.put(*(whole(k, source="b") for k in range(5))).offer_all(plan)
    assert [b.k for b in fed.ready(plan)] == [0, 1, 2]
    assert fed.ready(plan, FOREVER) == [] and fed.assembler.awaited(plan) == {"a"}
    add(plan, give_up(0, "a"))
    late = fed.ready(plan)
    assert [b.missing["a"].why for b in late] == [GIVEN_UP, GIVEN_UP]
    assert late[0].missing["a"].rows == 5
    fed.put(part(3, 1, rows=4, close=(2, 9)), whole(4, rows=2), whole(5, rows=1)).offer_all(plan)
    assert fed.assembler.sources["a"].counts == {"after_give_up": 6}
    fed.put(whole(5, source="b"))
    (bundle,) = fed.offer_all(plan).ready(plan)
    assert bundle.k == 5 and bundle.complete, "what is in Kafka is used"


def test_reordered_records_are_broken_or_gaps_and_the_rest_is_whole() -> None:
    """Every order of the parts of two slices: what is not in order is not used as if it were."""
    parts = [part(0, 0), part(0, 1, close=(2, 2)), part(1, 0), part(1, 1, close=(2, 2))]
    for order in permutations(range(4)):
        plan = plan_of(start(0, roster="a"), partitions=1)
        fed = Fed(0, 1, sources="a").put(*(parts[i] for i in order), whole(2), mark(3))
        bundles = fed.offer_all(plan).ready(plan)
        assert [b.k for b in bundles] == [0, 1, 2] and bundles[2].complete
        for b in bundles[:2]:
            mine = [i for i in order if parts[i].k == b.k]
            others_between = order.index(mine[1]) - order.index(mine[0]) > 1
            if mine != sorted(mine) or (b.k == 0 and others_between):
                assert not b.complete
        total = sum(f.rows for b in bundles for f in b.fragments)
        total += sum(m.rows for b in bundles for m in b.missing.values())
        for b in bundles:
            total += sum(b.counts.get("a", {}).values())
        assert total + sum(fed.assembler.sources["a"].counts.values()) == 5


def test_a_clock_that_drifts_is_followed_until_it_is_impossible() -> None:
    """100 ppm fast: slices stay whole while its times are possible; then rows are quarantined,
    in a row, and no slice closes early."""
    s = sequencer(partitions=1)
    s.arm(0, None)
    window, drift = 2 * SLICE, 1.05  # in small: as of a clock that was left alone for hours
    closed: list[Part] = []
    for step in range(100):
        now = step * SLICE // 2
        tick = int(now * drift)
        s.offer(array([row(tick, 1)]), now - window, now + window, now)
        closed += [o.part for o in s.advance(min(tick, now)) if o.part.closes]
    assert s.totals["quarantined"] == s.quarantined_in_a_row == 19, "the last fifth"
    assert [p.k for p in closed] == list(range(len(closed)))
    assert s.totals["late"] == 0 and len(closed) == 49


def test_jumps_of_the_device_reach_no_other_slice() -> None:
    """Words from the past and the future among good ones, at the source."""
    rng = random.Random(3)
    s = sequencer(partitions=1)
    s.arm(0, 40)
    good = bad = 0
    out = []
    for k in range(42):
        ticks = [k * SLICE + 30 * i for i in range(40)]
        odd = [rng.choice([1, -1]) * rng.randrange(10**8, 10**9) for _ in range(3)]
        good += len(ticks) * (k < 40)
        bad += len(odd) * (k < 40)
        rows = array(row(t % (1 << 40), i) for i, t in enumerate([*ticks, *odd]))
        now = k * SLICE
        out += s.offer(rows, now - 5 * SLICE, now + 5 * SLICE, now)
        out += s.advance(now - SLICE // 2)
    closes = [o.part.close for o in out if o.part.closes and o.part.close]
    assert len(closes) == 40 and sum(c["rows"] for c in closes) == good
    assert closes[-1]["quarantined"] >= bad and closes[-1]["late"] == 0
