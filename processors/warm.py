"""Loaded by a Dask worker at its start (`--preload processors.warm`): kernels before tasks."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pyarrow as pa

from freerun import config, words
from freerun.assembler import Bundle, Fragment
from freerun.config import Bench
from freerun.config.sources import Source
from freerun.rows import PULSE_SCHEMA, Rows, codec
from freerun.wire import CLOSE, Part, write_batch
from processors.pipeline import Pipeline
from processors.setup import pipeline_of


def _rows(source: Source) -> tuple[str, Rows, tuple[int, int]]:
    """Schema, a few rows early in slice 0, and the tick as a fraction of ns."""
    if source.format is None:
        wave = np.full(100, 15_000, np.uint16)
        wave[25:40] -= 2000
        rows = pa.RecordBatch.from_pydict(
            {"ticks": [10], "channel": [0], "flags": [0], "samples": [wave]}, schema=PULSE_SCHEMA
        )
        return "pulses-1", rows, (4, 1)
    fmt = words.get_format(source.format)
    board = source.fpga if isinstance(source.fpga, int) else 0
    channels = np.arange(128)
    hits = words.encode_hit(board, channels, 0, 40 + channels // 8, 5, fmt=fmt)
    trigger = words.encode_trigger(board & 1, 0, 0, 45, fmt=fmt)
    return fmt.name, np.concatenate((hits, np.atleast_1d(trigger))), (5, 6)


def warm_up(bench: Bench, pipeline: Pipeline) -> None:
    """Run every kernel once (compiling it, or loading it from the cache)."""
    fragments = []
    for name in sorted(bench.sources_of(bench.pipeline(pipeline.name))):
        schema, rows, (num, den) = _rows(bench.source(name))
        body = write_batch(codec(schema).batch(rows)).to_pybytes()
        close = {"parts": 1, "rows": len(rows), "sum": 0}
        part = Part(name, 0, 0, 0, CLOSE, schema, 0, num, den, 0, len(rows), close=close)
        fragments.append(Fragment(name, 0, 0, (-1, -1, -1), (-1, -1), [part], [body], len(rows)))
    pipeline.process(Bundle(0, 0, tuple(fragments), {}, {}))


def dask_setup(worker: Any) -> None:
    """Called by `dask worker`; the bench is named in FREERUN_BENCH (and FREERUN_CLUSTER)."""
    path = os.environ.get("FREERUN_BENCH")
    if path:
        bench = config.load(path, os.environ.get("FREERUN_CLUSTER") or None)
        for told in bench.pipelines:
            warm_up(bench, pipeline_of(bench, told.id))
