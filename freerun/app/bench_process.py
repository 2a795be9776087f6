"""`freerun bench process`: one worker, raw records in Kafka → committed results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import uuid
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from freerun import config
from freerun.app.bench import Measured, Table
from freerun.app.bench_broker import serving
from freerun.app.bench_kernel import FORMAT, LENGTH, LENGTH_NS, Slice, simulated
from freerun.app.bench_process_work import STAGES
from freerun.errors import EnvironmentProblem
from freerun.kafka import Broker, Outgoing, Reader, Sender
from freerun.readback import read, stretch
from freerun.rows import codec
from freerun.service import MALLOC, Service
from freerun.slices import partition
from freerun.topics import Topics, ensure
from freerun.wire import CLOSE, PART_BYTES, Part, checksum, part_headers, write_batch
from freerun.words import checksum as sum_of
from freerun.words import decode

FIRST = 17_000_000_000  # any slice
PARTITIONS = 4
DIFFERENT = 6  # slices that are simulated; they come again and again
GOAL = 40.0
SOURCE = "tdc"
WHAT = {
    "fetch": "fetch alone",
    "assemble": "+ headers, checksums, assembler",
    "kernel": "+ word sums, kernels",
    "arrow": "+ Arrow",
    "commit": "raw records → committed results",
}


def bench_of(name: str, pipelines: Sequence[str]) -> dict[str, Any]:
    """The recorded set-up: four chambers and a scintillator, two boards in one stream."""
    chambers = [
        {"id": f"ch{i}", "kind": "drift_chamber", "source": SOURCE, "fpga": i // 2,
         "channels": "64-127" if i % 2 else "0-63", "layer_of": [4, 2, 3, 1],
         "shift": [0.5, 0, 0.5, 0], "cell": [42.0, 13.0], "position": {"z": 100.0 * i}}
        for i in range(4)
    ]  # fmt: skip
    return {
        "schema": 1,
        "system": {"name": name},
        "time": {"reference": SOURCE, "slice": f"{LENGTH_NS / 1e6:g} ms", "guard": "5 us"},
        "source": [{"id": SOURCE, "driver": "replay", "file": "none.dat", "format": FORMAT.name,
                    "fpga": "all", "markers": [136, 137, 138]}],
        "detector": [*chambers, {"id": "scint", "kind": "scintillator", "source": SOURCE,
                                 "fpga": 1, "channels": "128"}],
        "pipeline": [{"id": p, "builder": "gaps"} for p in pipelines],
    }  # fmt: skip


def parts_of(s: Slice) -> list[tuple[Part, Any]]:
    """A slice's words as a source sends them; the few after its end are its guard."""
    every = s.words[0].view(np.uint64)
    after = decode(every, FORMAT, s.tick0).tick >= s.tick0 + LENGTH
    body, guard = every[~after], every[after]
    per = PART_BYTES // 8
    cuts = list(range(0, max(1, len(body)), per))
    out = []
    for number, at in enumerate(cuts):
        rows, last = body[at : at + per], number == len(cuts) - 1
        raw = write_batch(codec(FORMAT.name).batch(np.concatenate((rows, guard)) if last else rows))
        close = {"parts": len(cuts), "rows": len(body), "read": 0, "sum": sum_of(body)}
        out.append((
            Part(SOURCE, 1, 0, number, CLOSE if last else 0, FORMAT.name, s.tick0,
                 FORMAT.tick.numerator, FORMAT.tick.denominator, 0, len(rows),
                 ga=len(guard) if last else 0, crc=checksum(raw), close=close if last else None),
            raw,
        ))  # fmt: skip
    return out


def _fill(address: str, topics: Topics, slices: Sequence[Slice], number: int) -> int:
    """`number` slices into Kafka; returns their body words."""
    refused: list[str] = []

    def done(_token: object, error: str | None) -> None:
        if error is not None:
            refused.append(error)

    sender, words, read = Sender(address, "bench.fill", done), 0, 0
    ready = [(s, parts_of(s)) for s in slices]
    for n in range(number):
        k = FIRST + n
        s, parts = ready[n % len(ready)]
        # the same ticks at another time: the anchor says where tick 0 is
        anchor = k * LENGTH_NS - s.tick0 // LENGTH * LENGTH_NS
        read += sum(p.rows for p, _ in parts)
        for part, raw in parts:
            close = None if part.close is None else dict(part.close) | {"read": read}
            told = replace(part, k=k, anchor=anchor, close=close)
            where = partition(k, PARTITIONS)
            record = Outgoing(topics.raw(SOURCE), where, raw, part_headers(told))
            while not sender.send(record, None):
                sender.poll(0.01)
            words += told.rows
        sender.poll(0)
    if sender.flush(120) or refused:
        raise EnvironmentProblem(f"the broker did not take the raw words: {refused[:1]}")
    return words


class _Worker:
    """The process that is measured."""

    def __init__(self, told: dict[str, Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.bench_process_work", json.dumps(told)],
            env=os.environ | MALLOC, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._line()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise EnvironmentProblem("the worker ended before its time: see its error above")
        return line

    def __call__(self, pipeline: str, stage: str) -> dict[str, float]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"pipeline": pipeline, "stage": stage}) + "\n")
        self._process.stdin.flush()
        said: dict[str, float] = json.loads(self._line())
        return said

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def measure(table: Table, million: float, per_slice: int, repeats: int) -> None:
    """Fill `table`: CPU per word as far as each stage, and words per CPU second in all."""
    slices = [simulated(k, per_slice) for k in range(DIFFERENT)]
    number = max(DIFFERENT, round(million * 1e6 * DIFFERENT / sum(s.n for s in slices)))
    name = f"bench_{uuid.uuid4().hex[:8]}"
    topics, pipelines = Topics(name), [f"p{i}" for i in range(repeats + 1)]
    with (
        serving() as (address, _),
        tempfile.TemporaryDirectory(prefix="freerun-bench-") as folder,
        _installation(address, name, pipelines, Path(folder), number) as told,
    ):
        words = _fill(address, topics, slices, number)
        worker = _Worker(told)
        try:
            took = _stages(worker, pipelines, number)
        finally:
            worker.end()
        stored = _bytes(address, topics.events(pipelines[0]))
    _report(table, took, words, number, stored)


def _stages(
    worker: _Worker, pipelines: Sequence[str], number: int
) -> dict[str, list[dict[str, float]]]:
    """Each stage once for every pipeline, in turns; the first turn warms up and is left out."""
    took: dict[str, list[dict[str, float]]] = {stage: [] for stage in STAGES}
    for turn, pipeline in enumerate(pipelines):
        for stage in STAGES:
            said = worker(pipeline, stage)
            if said["done"] < number or not said["slices"]:
                raise EnvironmentProblem(f"{stage}: {said['done']:g} of {number} slices came out")
            if turn:
                took[stage].append(said)
    return took


def _report(
    table: Table, took: dict[str, list[dict[str, float]]], words: int, slices: int, stored: int
) -> None:
    mean = words / slices
    for stage in STAGES:
        cost = Measured.of([t["cpu"] / t["slices"] / mean * 1e9 for t in took[stage]])
        table.add(WHAT[stage], cost, "ns/word")
    per_s = Measured.of([mean * t["slices"] / t["cpu"] / 1e6 for t in took["commit"]])
    about = f"{words / 1e6:.0f} M words, results {stored / words:.1f} bytes a word"
    table.add("one worker, per CPU second", per_s, "M words/s", about, goal=GOAL)
    wall = Measured.of([mean * t["slices"] / t["wall"] / 1e6 for t in took["commit"]])
    table.add("the same, per second of time", wall, "M words/s", "broker on the same machine")


def _bytes(address: str, topic: str) -> int:
    """What of a topic is committed: bytes of its bodies."""
    reader = Reader(address, "bench.look")
    try:
        whole = [stretch(reader, (topic, p), 0) for p in range(PARTITIONS)]
        return sum(len(record.value) for what in whole for record in read(reader, what))
    finally:
        reader.close()


@contextmanager
def _installation(
    address: str, name: str, pipelines: Sequence[str], folder: Path, number: int
) -> Iterator[dict[str, Any]]:
    """Topics and a plan over all slices; what the worker must know."""
    paths = folder / "bench.toml", folder / "cluster.toml"
    paths[0].write_text(config.from_dict(bench_of(name, pipelines)).resolved_toml())
    paths[1].write_text(f"[cluster]\npartitions = {PARTITIONS}\n")
    bench, topics, admin = config.load(*paths), Topics(name), Broker(address)
    wanted = topics.all([SOURCE], pipelines, PARTITIONS)
    ensure(admin, wanted)
    service = Service(bench, address, folder, topics, Namespace(bench=paths[0], cluster=paths[1]))
    make = import_module("controllers.replay_control").ReplayControl
    control = make(service, 1, FIRST, FIRST + number - 1, {"common": 0})
    try:
        yield {
            "system": name, "address": address, "sources": [SOURCE], "partitions": PARTITIONS,
            "slices": number, "bench": [str(p) for p in paths],
        }  # fmt: skip
    finally:
        control.close()
        admin.delete([t.name for t in wanted])
