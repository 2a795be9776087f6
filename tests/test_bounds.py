"""Every bound of docs/bounds.md is filled by a test; here those that have no better place."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from make_source import SLICE, Fed, array, part, plan_of, row, sequencer, start, whole
from test_stories import lane as lane  # a fixture

from controllers.writer import truth
from dashboard.view import look
from dashboard.world import World
from freerun import jit, kafka
from freerun.app import supervisor
from freerun.assembler import BROKEN
from freerun.ledger import Account
from freerun.simulation.config import BLOCK_NS, TelescopeConfig
from freerun.simulation.muons import block_truth
from freerun.topics import MESSAGE_BYTES
from processors import cluster, loop
from processors import lane as lanes

ROOT = Path(__file__).resolve().parents[1]
KEPT = {"memory of a Dask worker", "heap of the local broker", "Kafka's log", "raw topics together"}
NOT_HERE = dict.fromkeys(KEPT, "kept by another program") | {"events in a slice": "by arithmetic"}


def rows_of(section: str) -> list[list[str]]:
    """The cells of a table of docs/bounds.md."""
    text = (ROOT / "docs" / "bounds.md").read_text("utf-8").partition(f"\n## {section}\n")[2]
    lines = [x for x in text.partition("\n## ")[0].splitlines() if x.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_bound_names_the_test_that_fills_it() -> None:
    here = "\n".join(p.read_text("utf-8") for p in Path(__file__).parent.glob("test_*.py"))
    tests = set(re.findall(r"^def (test_\w+)\(", here, re.MULTILINE))
    wrong = []
    for what, _bound, _policy, _where, named in rows_of("Queues and buffers"):
        names = re.findall(r"`(test_\w+)`", named)
        if NOT_HERE.get(what) != named and not (names and set(names) <= tests):
            wrong.append(f"{what}: {named}")
    assert not wrong


def test_rows_of_open_slices_are_bounded() -> None:
    """A promise that stands still while the device goes on: what is beyond the bound is dropped
    and counted, whatever slice it is of; each slice is still closed."""
    bound = 4_000
    s = sequencer(partitions=1)
    s.arm(0, None)
    out = []
    for i in range(3_000):
        s.dropping = s.open_bytes > bound
        out += s.offer(array([row(i * 24, i)]), 0, 10**6, i * 24)
        assert s.open_bytes <= bound + 16
    s.dropping = False
    out += s.advance(61 * SLICE)
    closes = [o.part for o in out if o.part.closes]
    assert [p.k for p in closes] == list(range(60))
    end = closes[-1].close
    assert end is not None and end["dropped"] > 2_000
    assert sum(p.rows for p in closes) + end["dropped"] == end["read"] == 3_000


def test_a_fragment_that_never_ends_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The slice that is awaited is never paused; its fragment must not grow for ever either."""
    monkeypatch.setattr("freerun.assembler.FRAGMENT_BYTES", 1_000)
    plan = plan_of(start(0), partitions=1)
    fed = Fed(0, 1).put(whole(0, source="b"))
    for n in range(50):
        fed.assembler.offer("a", n, part(0, n, rows=2), bytes(100), plan)
        fragment = fed.assembler.sources["a"].fragments[0]
        assert fragment.bytes <= 1_000 and len(fragment.bodies) <= 10
    (bundle,) = fed.offer_all(plan, "b").ready(plan)
    assert (bundle.missing["a"].why, bundle.missing["a"].rows) == (BROKEN, 100)


def test_a_transaction_takes_so_many_slices(
    lane: lanes.Lane,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batches: list[int] = []
    numbers = itertools.count(100)  # none of them is the one that cannot be built
    owner: Any = SimpleNamespace(
        p=0, commit=None, alone=0, tried=(-1, 0),
        assembler=SimpleNamespace(ready=lambda *_: SimpleNamespace(k=next(numbers))),
        start_commit=lambda results, *_: batches.append(len(results)),
    )  # fmt: skip
    lane._work(owner, lanes.Backlog(), float("inf"))
    assert batches == [lanes.BATCH]
    lane._pool.shutdown()


def test_two_tasks_wait_on_a_worker() -> None:
    sent: list[Any] = []
    made = object.__new__(cluster.Cluster)
    made._client = SimpleNamespace(submit=lambda *a, **_: sent.append(a))
    made._numbers, made._queues, made._stuck = itertools.count(), {}, {}
    for _ in range(5):
        made.keep_busy("w", {"pipeline": "x", "generation": 1}, [0], 1.0)
    assert len(sent) == 2


class Nothing:
    """Takes the place of clients that need a broker."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.settings = _[0] if _ else None

    def init(self) -> None:
        pass


def test_delays_of_so_many_slices_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("Transactional", "Publisher", "Heart"):
        monkeypatch.setattr(loop, name, Nothing)
    timeouts = SimpleNamespace(transaction=10**9, seconds=lambda _: 1.0)
    bench = SimpleNamespace(cluster=SimpleNamespace(partitions=2), timeouts=timeouts)
    topics = SimpleNamespace(group=lambda p: p)
    service: Any = SimpleNamespace(topics=topics, address="nowhere", bench=bench)
    made = loop.Loop(service, "muons")
    done = dict.fromkeys(("slices", "words", "events", "failed", "retaken"), 1)
    for _ in range(7):
        made._account({**done, "next": {}, "busy_s": 0.0, "delays_ms": [5] * 1000, "lost": []})
    assert len(made._delays) == 3000


@pytest.mark.parametrize("queue_mb", [4, 8, 16, 32, 128])
def test_a_reader_fetches_no_more_ahead_than_told(
    queue_mb: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka, "Consumer", Nothing)
    reader: Any = kafka.Reader("nowhere", "x", queue_mb=queue_mb)
    settings = reader._consumer.settings
    assert settings["queued.max.messages.kbytes"] == queue_mb << 10
    assert settings["message.max.bytes"] == MESSAGE_BYTES


def test_a_ledger_lists_so_many_gaps() -> None:
    account = Account(0, 0, {})
    account.gaps += [f"gap {i}" for i in range(500)]
    assert len(account.verdict()["gaps"]) == 50


def test_a_long_log_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "LOG_BYTES", 100)
    monkeypatch.setattr(supervisor.subprocess, "Popen", lambda *_a, **_k: SimpleNamespace(pid=1))
    made = object.__new__(supervisor.Supervisor)
    log = tmp_path / "x.log"
    log.write_bytes(bytes(101))
    monkeypatch.setattr(supervisor.Supervisor, "log_of", lambda *_: log)
    service: Any = SimpleNamespace(name="x", argv=("x",), process=None, started=0.0)
    with contextlib.suppress(AttributeError):  # what follows the start is of no interest here
        made._start(service)
    assert log.with_suffix(".log.1").stat().st_size == 101 and log.stat().st_size == 0


def test_what_failed_is_forgotten_when_it_is_out(lane: lanes.Lane) -> None:
    """A pipeline that cannot build any slice must not fill the memory with their numbers."""
    for k in range(100):
        lane._kernel_failures[0, k] = lanes.TRIES
        done: Any = SimpleNamespace(exception=lambda: None, result=lambda: 0)
        result = SimpleNamespace(k=k, info={"sources": {}, "n_events": 0, "failed": "why"})
        owner: Any = SimpleNamespace(
            p=0, commit=done, in_commit=[result], committed_now=lambda r=result: [r]
        )
        lane._reap(owner, lanes.Backlog())
    assert not lane._kernel_failures
    lane._pool.shutdown()


def test_commits_side_by_side_are_bounded(lane: lanes.Lane) -> None:
    gate = threading.Event()
    running: list[int] = []

    def commit() -> None:
        running.append(1)
        gate.wait(60)

    work = [lane._pool.submit(commit) for _ in range(20)]
    while len(running) < 4:
        time.sleep(0.001)
    assert sum(w.running() for w in work) == 4
    gate.set()
    for w in work:
        w.result(60)
    lane._pool.shutdown()


def test_the_page_shows_so_many_runs() -> None:
    runs = {n: {"run": n, "state": "closed"} for n in range(1, 71)}
    world = World(now_ns=10**18, system="x", slice_ns=10**8, runs=runs)
    assert [r.number for r in look(world).runs] == list(range(70, 20, -1))


def test_so_many_caches_of_kernels_are_kept(tmp_path: Path) -> None:
    for n in range(12):
        folder = tmp_path / f"{n}"
        folder.mkdir()
        os.utime(folder, (n, n))
    jit._forget_old(tmp_path / "new")
    assert sorted(int(f.name) for f in tmp_path.iterdir()) == list(range(12 - jit.KEEP, 12))


def test_the_truth_of_a_long_run_is_that_of_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TelescopeConfig(seed=3, muon_rate_hz=20_000)
    monkeypatch.setattr(truth, "LONGEST_NS", 5 * BLOCK_NS)
    asked: list[int] = []

    def block(b: int) -> Any:
        asked.append(b)
        return block_truth(config, b)

    first = 170_000_000_000
    sidecar = truth.publish(
        tmp_path, 1, {"installation": "u"}, block, BLOCK_NS, first, first + 10**6, BLOCK_NS
    )
    assert sidecar["last"] == first + 4 and asked == list(range(first, first + 5))
