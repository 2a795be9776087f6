"""The broker is out of reach for a while: sources go on reading, spool, and catch up."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_outage import Live, live, ticks

import freerun.assembler
import freerun.broker as local_broker
from freerun.app.proxy import Proxy
from freerun.assembler import Assembler
from freerun.kafka import Reader
from freerun.slices import partition, slice_of
from freerun.wire import MARK, Part, read_part
from producers import spool_files


@pytest.fixture(scope="module")
def behind(
    tmp_path_factory: pytest.TempPathFactory, nothing_left: None
) -> Iterator[tuple[str, Proxy]]:
    """A broker with a second way in, through a proxy: its own address, and the proxy."""
    folder = tmp_path_factory.mktemp("broker")
    inner = local_broker.free_port()
    with Proxy(inner) as proxy:
        second = local_broker.SecondListener(inner, proxy.port)
        started = local_broker.start(folder, heap_mb=256, second=second)
        try:
            yield started.address, proxy
        finally:
            local_broker.stop(folder)


def new_parts(run: Live, name: str) -> list[tuple[Part, bytes]]:
    """What a reader takes as new, in the order of the slices."""
    out: list[tuple[Part, bytes]] = []
    highest: dict[int, tuple[int, int, int]] = {}
    for record in run.records(run.topics.raw(name)):
        part = read_part(record.headers)
        if part.part == MARK or part.triple <= highest.get(record.partition, (0, 0, 0)):
            continue
        assert record.partition == partition(part.k, run.P)
        highest[record.partition] = part.triple
        out.append((part, record.value))
    return sorted(out, key=lambda found: found[0].triple)


def test_an_outage_delays_and_loses_nothing(
    behind: tuple[str, Proxy], installation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two sources, one four thousand times as fast: nothing late is called missing, what the
    assembler holds stays bounded, and every row comes out once and in order."""
    direct, proxy = behind
    bound, few = 400_000, 8  # a dozen slices of the fast one; records at once
    monkeypatch.setattr(freerun.assembler, "MAX_BYTES", bound)
    held: list[int] = []
    offer, poll = Assembler.offer, Reader.poll
    monkeypatch.setattr(
        Reader, "poll", lambda self, n=1, timeout=0.05: poll(self, min(n, few), timeout)
    )

    def watched(self: Assembler, *args: Any) -> bool:
        took = offer(self, *args)
        held.append(sum(f.bytes for s in self.sources.values() for f in s.fragments.values()))
        return took

    monkeypatch.setattr(Assembler, "offer", watched)
    periods = {"fast": ticks(25_000), "slow": ticks(100_000_000)}
    with live(direct, proxy, installation, tmp_path, periods) as run:
        for name in periods:
            run.source_in_thread(name)
        run.begin()
        run.work_until("slices before the outage", lambda: run.work(0) >= 5)
        proxy.cut()
        ended = slice_of(time.time_ns(), run.bench.time.slice)
        run.work_until("both spool", lambda: all(run.spool_files(n) for n in periods))
        run.work(3.0)
        assert run.work(0) <= ended - run.first, "nothing comes, and nobody is given up"
        proxy.mend()
        run.work_until("they caught up", lambda: not any(run.spool_files(n) for n in periods))
        run.end()
        wanted = run.last - run.first + 1
        run.work_until("every slice", lambda: run.work(0) >= wanted)
        peak = max(held)

        found = run.results("gaps")
        assert len(found.infos) == wanted and all(i["complete"] for i in found.infos)
        account = run.account()
        assert account["ok"], account["gaps"]
        assert account["slices"]["complete"] == wanted and account["losses"] == 0
        for name in periods:
            parts, rows = run.raw(name)
            assert np.array_equal(rows, run.rows_of(name, run.first, run.last))
            closes = [p for p in parts if p.closes and run.first <= p.k <= run.last]
            assert [p.k for p in sorted(closes, key=lambda p: p.k)] == [
                *range(run.first, run.last + 1)
            ]
            last = max(closes, key=lambda p: p.k).close
            assert last is not None and last["dropped"] == 0
            if name == "fast":
                assert 40_000 < last["spooled"] < last["read"]
        largest = max(len(body) for _, body in new_parts(run, "fast"))
        assert 0 < peak < bound + (few + 1) * largest, "it is paused after a poll"
        told = run.beats("fast")
        assert told[-1]["spool"] == told[-1]["spool_disk"] == 0 and told[-1]["spooled"] > 0


def test_the_heir_of_a_killed_source_delivers_its_spool(
    behind: tuple[str, Proxy], installation: str, tmp_path: Path
) -> None:
    """SIGKILL in the outage. Whatever the spool held comes first, under its old numbers; what it
    had read and not sent is a gap with a name; the heir goes on behind it."""
    direct, proxy = behind
    with live(direct, proxy, installation, tmp_path, {"fast": ticks(50_000)}) as run:
        source = run.source_process("fast")
        run.work_until("it is ready", lambda: bool(run.beats("fast")))
        run.begin()
        run.work_until("slices before the outage", lambda: run.work(0) >= 5)
        proxy.cut()
        run.work_until("it spools", lambda: bool(run.spool_files("fast")))
        run.work(2.0)
        source.send_signal(signal.SIGKILL)
        source.wait()
        topic = run.topics.raw("fast")
        left: list[spool_files.Out] = []
        for file in spool_files.files_of(run.spool_files("fast")[0].parent, topic):
            at = file.begin
            with file.path.open("rb") as opened:
                while (entry := spool_files.decode(opened.fileno(), at, file.size)) is not None:
                    left.append(entry[0])
                    at = entry[1]
        assert len(left) > 15
        old = left[0].part.inc

        run.source_process("fast")  # waits for the broker, and owns the spool
        run.work(1.0)
        proxy.mend()
        run.work_until("the spool is drained", lambda: not run.spool_files("fast"))
        run.work_until(
            "the heir is ready", lambda: any(b["inc"] > old for b in run.beats("fast")[-1:])
        )
        run.work_until(
            "the heir runs",
            lambda: any(
                b["inc"] > old and b["closed"] > b["first"] for b in run.beats("fast")[-1:]
            ),
        )
        run.end()
        wanted = run.last - run.first + 1
        run.work_until("every slice", lambda: run.work(0) >= wanted)

        parts = new_parts(run, "fast")
        mine = {part.triple: (part, body) for part, body in parts}
        for out in left:
            if out.part.part != MARK:
                assert mine[out.part.triple] == (out.part, out.body)
        incs = sorted({part.inc for part, _ in parts})
        assert incs[0] == old and len(incs) == 2
        order = [read_part(r.headers) for r in run.records(topic) if r.partition == 0]
        begin = next(i for i, p in enumerate(order) if p.inc == incs[1])
        assert order[begin].part == MARK, "marks, after the leftovers and before anything else"
        assert all(p.inc == incs[1] for p in order[begin:])

        last_old = max(p.k for p, _ in parts if p.inc == old and p.closes)
        first_new = min(p.k for p, _ in parts if p.inc == incs[1])
        found = run.results("gaps").infos
        infos = dict(zip(range(run.first, run.last + 1), found, strict=True))
        missing = {k for k, i in infos.items() if not i["complete"]}
        assert missing == set(range(last_old + 1, first_new))
        assert all(infos[k]["missing"]["fast"]["why"] == "gap" for k in missing)
        account = run.account()
        assert account["ok"], (account["gaps"], json.dumps(account["sources"]))
        rows = run.raw("fast")[1]
        expected = [run.rows_of("fast", run.first, last_old),
                    run.rows_of("fast", first_new, run.last)]  # fmt: skip
        assert set(rows.tolist()) == set(np.concatenate(expected).tolist())
