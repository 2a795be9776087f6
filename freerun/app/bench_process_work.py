"""The worker of `freerun bench process`: one lane in a process of its own, like a Dask worker's.

Started by the benchmark with what to do as JSON; prints `ready` and then, for each line that it
reads (`{"pipeline": …, "stage": …}`), one line of JSON: CPU seconds, seconds, and the slices that
they were for. A lane's first slices are left out: it takes over, and its memory is new.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from freerun import config
from freerun.errors import EnvironmentProblem
from freerun.kafka import BEGINNING, Reader
from freerun.topics import Topics

STAGES = ("fetch", "assemble", "kernel", "arrow", "commit")
PATIENCE_S = 600.0
WARM = 6  # this part of the slices comes before the measurement


class Watch:
    """CPU (all threads) and time since a number of slices was done."""

    def __init__(self, after: int) -> None:
        self.after, self.from_ = after, 0
        self._cpu, self._wall = time.process_time(), time.monotonic()

    def at(self, done: int) -> None:
        if not self.from_ and done >= self.after > 0:
            self.from_, self._cpu, self._wall = done, time.process_time(), time.monotonic()

    def told(self, done: int) -> dict[str, float]:
        return {"cpu": time.process_time() - self._cpu, "wall": time.monotonic() - self._wall,
                "slices": done - self.from_, "done": done}  # fmt: skip


def fetch(told: dict[str, Any]) -> int:
    """Records out of Kafka and no more; returns the bytes of their bodies."""
    topics = Topics(told["system"])
    reader = Reader(told["address"], "bench.fetch")
    places = [(topics.raw(s), p) for s in told["sources"] for p in range(told["partitions"])]
    reader.assign(dict.fromkeys(places, BEGINNING))
    read, end = 0, time.monotonic() + PATIENCE_S
    try:
        while not all(reader.at_end(w) for w in places):
            if time.monotonic() > end:
                raise EnvironmentProblem(
                    f"the raw records could not be read in {PATIENCE_S:.0f} s: is the broker well?"
                )
            read += sum(len(r.value) for r in reader.poll(500, 0.05))
    finally:
        reader.close()
    return read


def lane(told: dict[str, Any], pipeline: Any, stage: str, watch: Watch) -> int:
    """A lane over all slices, as far as `stage`; returns the slices done."""
    whole: Any = importlib.import_module("processors.lane").Lane
    look: dict[str, Callable[[Any], Any]] = {
        "assemble": lambda bundle: None, "kernel": pipeline.output, "arrow": pipeline.process,
    }  # fmt: skip

    class Dry(whole):  # type: ignore[misc]
        """Computes and throws away."""

        def _work(self, owner: Any, out: Any, end: float) -> None:
            bundle = owner.assembler.ready(self.plan, time.time_ns(), lambda s, seq: True)
            if bundle is not None:
                look[stage](bundle)
                out.slices += 1
                self.some = True

        some = False

    kind = whole if stage == "commit" else Dry
    mine = kind(told["address"], Topics(told["system"]), pipeline, told["sources"],
                told["partitions"], 0)  # fmt: skip
    done, end = 0, time.monotonic() + PATIENCE_S
    try:
        while done < told["slices"] and time.monotonic() < end:
            # without commits all slices may be ready at once: the watch must begin before that
            out = mine.run(range(told["partitions"]), 0.1, lambda: getattr(mine, "some", False))
            mine.some = False
            if out.retaken or out.failed:
                raise RuntimeError(f"{out.retaken} takes-over, {out.failed} failed slices")
            done += out.slices
            watch.at(done)
    finally:
        mine.close()
    return done


def main() -> None:
    told = json.loads(sys.argv[1])
    bench = config.load(*told["bench"])
    make = importlib.import_module("processors.published_lane").PublishedPipeline
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        pipeline = make(asked["pipeline"], bench)
        if asked["stage"] == "fetch":
            watch = Watch(0)
            done = told["slices"] if fetch(told) > 0 else 0
        else:
            watch = Watch(told["slices"] // WARM)
            done = lane(told, pipeline, asked["stage"], watch)
        said = watch.told(done)
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
    os._exit(0)
