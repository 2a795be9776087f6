"""The lane of `freerun bench growth`, in a process like that of a Dask worker.

Started by the benchmark; prints `ready`, then one line of JSON when all slices are out.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from typing import Any

from freerun import config
from freerun.topics import Topics

PIECE_S = 0.5


def work(told: dict[str, Any]) -> dict[str, Any]:
    """Own the partitions until `slices` are out, or `seconds` are over."""
    spec = told["spec"]
    bench = config.load(spec["bench"], spec["cluster"])
    warm, setup = importlib.import_module("processors.warm"), importlib.import_module(
        "processors.setup"
    )  # fmt: skip
    warm.warm_up(bench, setup.pipeline_of(bench, spec["pipeline"]))
    lane = published(spec, bench) if told["published"] else setup.lane_of(spec)
    out = lane.run(told["partitions"], 1.0)  # takes over, and may work on what is there already
    done, words = out.slices, out.words
    print("ready", flush=True)
    end = time.monotonic() + told["seconds"]
    looks = []  # host time, words so far, CPU so far
    while done < told["slices"] and time.monotonic() < end:
        out = lane.run(told["partitions"], PIECE_S)
        done, words = done + out.slices, words + out.words
        looks.append((time.monotonic(), words, time.process_time()))
    lane.close()
    return {"slices": done, "looks": looks}


def published(spec: dict[str, Any], bench: config.Bench) -> Any:
    """A lane of the published task."""
    pipeline = importlib.import_module("processors.published_lane").PublishedPipeline
    return importlib.import_module("processors.lane").Lane(
        spec["address"], Topics(spec["system"]), pipeline(spec["pipeline"], bench),
        [s.id for s in bench.sources], bench.cluster.partitions, 0,
    )  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(work(json.loads(sys.argv[1]))), flush=True)
    os._exit(0)
