"""One producer, rows in memory → acknowledged, beside Kafka's own perf tool in the same run."""

from __future__ import annotations

import json
import os
import re
import resource
import string
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from freerun.app.bench import Measured, Table, side_by_side
from freerun.app.bench_broker import serving
from freerun.app.bench_cache import fill_page_cache
from freerun.broker.jars import ensure_jars
from freerun.broker.java import find_java
from freerun.errors import EnvironmentProblem
from freerun.kafka import Broker
from freerun.service import MALLOC
from freerun.topics import MESSAGE_BYTES, Topic
from freerun.wire import PART_BYTES

TOOL = "org.apache.kafka.tools.ProducerPerformance"
PARTITIONS = 8
LARGE = 500_000_000  # bytes of a turn that feel whether the kernel's memory was touched before
WARM_RECORDS = 100  # the tool does not count its first records, like our warm-up
RATE = re.compile(r"([\d.]+) records/sec")


class Produce:
    """Turns of ours and of the peer, each on a topic of its own that is deleted behind it."""

    def __init__(self, address: str, size: int, folder: Path) -> None:
        self._address, self._size, self._admin = address, size, Broker(address)
        self._cost: dict[str, list[float]] = {}
        self._payload = folder / "payload.txt"
        letters = np.frombuffer(string.ascii_letters.encode(), np.uint8)
        records = np.random.default_rng(1).choice(letters, (8, PART_BYTES))
        self._payload.write_bytes(b"\n".join(r.tobytes() for r in records))
        # the tool would else make each record anew, letter by letter: that is not what is asked

    def turn(self, what: str) -> float:
        """MB/s of wall time; the CPU in ns/B is kept."""
        topic = Topic(f"bench_{uuid.uuid4().hex[:8]}", PARTITIONS,
                      {"max.message.bytes": str(MESSAGE_BYTES)})  # fmt: skip
        self._admin.create([topic])
        if self._size >= LARGE:
            fill_page_cache(self._payload.with_name("zeros"))
        try:
            rate, cost = self._tool(topic.name) if what == "tool" else self._ours(what, topic.name)
        finally:
            self._admin.delete([topic.name])
        self._cost.setdefault(what, []).append(cost)
        return rate

    def cost(self, what: str, repeats: int) -> Measured:
        """CPU of the process in ns/B, of the last `repeats` turns (the first warmed up)."""
        return Measured.of(self._cost[what][-repeats:])

    def _ours(self, what: str, topic: str) -> tuple[float, float]:
        told = {"what": what, "bytes": self._size, "partitions": PARTITIONS, "topic": topic,
                "address": self._address}  # fmt: skip
        argv = [sys.executable, "-m", f"{__package__}.bench_produce_work", json.dumps(told)]
        got: dict[str, Any] = json.loads(_run(argv, os.environ | MALLOC).splitlines()[-1])
        return got["bytes"] / got["seconds"] / 1e6, got["cpu"] / got["bytes"] * 1e9

    def _tool(self, topic: str) -> tuple[float, float]:
        records = max(20, self._size // PART_BYTES)
        warm = min(WARM_RECORDS, records // 4)
        settings = {
            "bootstrap.servers": self._address, "acks": "all", "enable.idempotence": "true",
            "batch.size": 2 << 20, "linger.ms": 1, "max.request.size": MESSAGE_BYTES,
            "buffer.memory": 256 << 20,
        }  # fmt: skip
        jars = ":".join(map(str, ensure_jars()))
        argv = [str(find_java()), "-Xmx768m", "-cp", jars, TOOL, "--topic", topic, "--num-records",
                str(records + warm), "--warmup-records", str(warm), "--throughput", "-1",
                "--payload-file", str(self._payload), "--command-property"]  # fmt: skip
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        said = _run([*argv, *(f"{k}={v}" for k, v in settings.items())], os.environ)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found = RATE.findall(said)
        if not found:
            raise EnvironmentProblem(f"{TOOL} did not say how fast it was: {said[-300:]}")
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return float(found[-1]) * PART_BYTES / 1e6, used / ((records + warm) * PART_BYTES) * 1e9


def _run(argv: list[str], env: Any) -> str:
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise EnvironmentProblem(f"{argv[-1][:80]} failed: {(done.stderr or done.stdout)[-300:]}")
    return done.stdout


def measure(table: Table, size: int, repeats: int) -> None:
    """Fill `table`; `size`: bytes of one turn."""
    with serving() as (address, _), tempfile.TemporaryDirectory(prefix="freerun-bench-") as folder:
        work = Produce(address, size, Path(folder))
        alone = Measured.of([work.turn("sequencer") for _ in range(repeats + 1)][1:])
        table.add("sequencer alone", alone, "MB/s", "rows → parts, one core", goal=1000)
        ours, tool, ratio = side_by_side(
            lambda: work.turn("whole"), lambda: work.turn("tool"), repeats
        )
        about = f"{size / 1e9:g} GB at once, {PART_BYTES / 1e6:g} MB records, acks=all"
        table.add("rows → acknowledged", ours, "MB/s", about, goal=460)
        table.add("Kafka's perf tool", tool, "MB/s", "the same records, ready made, and settings")
        table.add("ratio to the tool", ratio, "×", "turn by turn, ABBA", goal=1.2)
        work.turn("client")
        sent = Measured.of([work.turn("client") for _ in range(repeats)])
        table.add("ready parts → acknowledged", sent, "MB/s", "sender and client alone")
        cost = work.cost
        table.add("CPU of the client alone", cost("client", repeats), "ns/B", goal=0.6,
                  at_most=True)  # fmt: skip
        table.add("CPU of the whole process", cost("whole", repeats), "ns/B")
        table.add("CPU of the perf tool", cost("tool", repeats), "ns/B", "its JVM's start included")
