"""One turn of `freerun bench produce`, in a process like that of a source: rows to records.

Started by the benchmark with the environment of a source process; prints one line of JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from freerun.app.bench_words import FORMAT, TICKS_PER_S, U64, blocks, steady
from freerun.rows import codec
from freerun.ticks import Clock

L, G = 100_000_000, 5_000  # ns
POOL_WORDS = 16 << 20  # 128 MB: more than any cache holds
BLOCK_WORDS = 1 << 18  # 2 MB, one read of a device
RATE = 25e6  # words/s of the stream's own time: 2.5 M words in a slice
IDLE_S = 0.0005  # when enough is waiting for the broker
START_NS = 1_700_000_000_000_000_000


def parts(words: U64, partitions: int, passes: int) -> Iterator[Any]:
    """What the sequencer makes of the words, `passes` times, each later than the one before."""
    made = importlib.import_module("producers.sequencer").Sequencer
    span_ns = int(len(words) / RATE * 1e9) // L * L + 2 * L
    num, den = FORMAT.tick.numerator, FORMAT.tick.denominator
    for n in range(passes):
        clock = Clock(START_NS + n * span_ns, num, den)
        s = made("bench", n + 1, codec(FORMAT.name), clock, L, partitions, G)
        first = START_NS // L + n * (span_ns // L)
        yield from s.arm(first, None)
        before = 0
        for rows in blocks(words, BLOCK_WORDS):
            before += len(rows)
            yield from s.offer(rows, -TICKS_PER_S, 1000 * TICKS_PER_S, 0)
            yield from s.advance(int(before / RATE * TICKS_PER_S))
        yield from s.advance(clock.tick_at(clock.anchor_ns + span_ns))


def turn(told: dict[str, Any]) -> dict[str, float]:
    """`what`: sequencer (nothing is sent), client (parts made before), or whole."""
    passes = max(1, round(told["bytes"] / 8 / POOL_WORDS))
    words = steady(min(POOL_WORDS, told["bytes"] // 8), RATE)
    partitions = int(told["partitions"])
    for _ in parts(words[:BLOCK_WORDS], partitions, 1):
        pass  # compiled kernels are loaded
    made: Iterable[Any] = parts(words, partitions, passes)
    if told["what"] == "client":
        some = list(parts(words, partitions, 1))
        made = (part for _ in range(passes) for part in some)
    if told["what"] == "sequencer":
        begun, cpu = time.perf_counter(), time.process_time()
        for _ in made:
            pass
    else:
        sender = _sender(told)
        begun, cpu = time.perf_counter(), time.process_time()
        for part in made:
            while sender.busy:
                sender.poll()
                time.sleep(IDLE_S)
            sender.send(part)
        if sender.flush(300) or sender.refused:
            raise SystemExit("not everything was acknowledged")
    seconds, used = time.perf_counter() - begun, time.process_time() - cpu
    return {"bytes": 8 * len(words) * passes, "seconds": seconds, "cpu": used}


def _sender(told: dict[str, Any]) -> Any:
    """Connected before the clock runs, as that of a source is."""
    made = importlib.import_module("producers.sender").PartSender
    sender = made(told["address"], told["topic"], "bench")
    for mark in parts(np.empty(0, np.uint64), int(told["partitions"]), 1):
        sender.send(mark)
    sender.flush(30)
    return sender


if __name__ == "__main__":
    print(json.dumps(turn(json.loads(sys.argv[1]))), flush=True)
    os._exit(0)  # nothing waits any more
