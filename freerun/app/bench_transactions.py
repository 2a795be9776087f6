"""Transactions on the real broker: from begin to visible, at 1, 16 and 64 ids."""

from __future__ import annotations

import os
import tempfile
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from freerun import broker
from freerun.app.bench import Table, spread
from freerun.kafka import Broker, Outgoing, Reader, Transactional
from freerun.topics import Topic

# what the design measured: id count → (one after the other, side by side) transactions/s
DESIGN = {1: ("215/s on one id", ""), 16: ("250/s", "700/s"), 64: ("", "730/s")}


def measure(table: Table, seconds: float, size: int) -> None:
    """Fill `table`; starts a broker of its own unless FREERUN_KAFKA names one."""
    other = os.environ.get("FREERUN_KAFKA")
    if other:
        _on(other, table, seconds, size)
        return
    with tempfile.TemporaryDirectory(prefix="freerun-bench-") as folder:
        address = broker.start(Path(folder)).address
        try:
            _on(address, table, seconds, size)
        finally:
            broker.stop(Path(folder))


def _on(address: str, table: Table, seconds: float, size: int) -> None:
    name = f"bench_{uuid.uuid4().hex[:8]}"
    admin = Broker(address)
    admin.create([Topic(name, 64, {"max.message.bytes": "33554432"})])
    try:
        warm = [Transactional(address, f"{name}.warm.{i}") for i in range(4)]
        for producer in warm:
            producer.init()
        # a young JVM interprets its code: what it does in the first seconds is not its speed
        _one_after_the_other(Table("warm-up"), address, name, warm, seconds, size)
        for producer in warm:
            producer.close()
        for ids in (1, 16, 64):
            producers = [Transactional(address, f"{name}.{ids}.{i}") for i in range(ids)]
            with ThreadPoolExecutor(16) as pool:
                list(pool.map(lambda p: p.init(), producers))
            _one_after_the_other(table, address, name, producers, seconds, size)
            if ids > 1:
                _side_by_side(table, name, producers, seconds)
            for producer in producers:
                producer.close()
    finally:
        admin.delete([name])


def _one_after_the_other(
    table: Table, address: str, topic: str, producers: list[Transactional], seconds: float,
    size: int,
) -> None:  # fmt: skip
    ids, value = len(producers), os.urandom(size)
    reader = Reader(address, f"{topic}.reader", queue_mb=64)
    reader.assign({(topic, p): reader.high((topic, p)) for p in range(ids)})
    begun: dict[bytes, float] = {}
    commits: list[float] = []
    visible: list[float] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            for record in reader.poll(100, 0.01):
                start = begun.get(record.key or b"")
                if start is not None:
                    visible.append((time.perf_counter() - start) * 1000)

    thread = threading.Thread(target=read)
    thread.start()
    end, n = time.perf_counter() + seconds, 0
    try:
        while time.perf_counter() < end:
            key = b"%d" % n
            start = begun[key] = time.perf_counter()
            producers[n % ids].commit([Outgoing(topic, n % ids, value, key=key)])
            commits.append((time.perf_counter() - start) * 1000)
            n += 1
        time.sleep(0.2)
    finally:
        stop.set()
        thread.join()
        reader.close()
    label = f"{ids} id{'s' if ids > 1 else ''}, one after the other"
    commit, seen = spread(commits), spread(visible)
    told = DESIGN.get(ids, ("", ""))[0]
    table.add(label, n / seconds, "transactions/s", told and f"design {told}")
    table.add(
        "  begin → committed, p50", commit[0], "ms", f"p10 {commit[1]:.1f}, p90 {commit[2]:.1f}"
    )
    about = f"p10 {seen[1]:.1f}, p90 {seen[2]:.1f}; {size / 1000:.0f} kB; design 4.5 ms"
    table.add("  begin → visible, p50", seen[0], "ms", about)


def _side_by_side(table: Table, topic: str, producers: list[Transactional], seconds: float) -> None:
    """As the lanes do it: a small pool of threads, one transaction per id at a time."""
    value, end = os.urandom(2_000), time.perf_counter() + seconds

    def work(i: int) -> int:
        n = 0
        while time.perf_counter() < end:
            producers[i].commit([Outgoing(topic, i, value)])
            n += 1
        return n

    with ThreadPoolExecutor(min(16, len(producers))) as pool:
        done = sum(pool.map(work, range(len(producers))))
    ids = len(producers)
    table.add(f"{ids} ids, side by side (2 kB)", done / seconds, "transactions/s",
              f"design {DESIGN[ids][1]}")  # fmt: skip
