"""From the configuration to what a writer needs: outputs, S3, the simulation's truth."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from controllers.writer import truth
from controllers.writer.job import Output
from controllers.writer.publish import Sidecar
from controllers.writer.s3 import Location, Store, make_client
from controllers.writer.series import Roll
from controllers.writer.tables import RunFacts
from controllers.writer.uploads import Uploader
from freerun.config import Bench

Truth = Callable[[Path, RunFacts, int], Sidecar]


def outputs(bench: Bench) -> tuple[Output, ...]:
    """What is written, from [[write]]; every pipeline with defaults if there is none."""
    if not bench.writes:
        return tuple(Output(p.id) for p in bench.pipelines)
    known = {p.id for p in bench.pipelines}
    out = []
    for write in bench.writes:
        told, default = write.roll, Roll()
        slices = max(1, told.every // bench.time.slice) if told.every else None
        roll = Roll(told.size or default.size, told.events, slices)
        out += [Output(name, roll, write.hits) for name in write.what if name in known]
    return tuple(out)


def uploader_of(bench: Bench) -> tuple[Uploader | None, Location | None]:
    """What brings files to S3, and where; None, None if there is no [s3]."""
    if bench.s3 is None:
        return None, None
    told = bench.s3
    client = make_client(
        told.endpoint, told.region,
        os.environ.get(told.access_key_env), os.environ.get(told.secret_key_env),
    )  # fmt: skip
    location = Location(told.bucket, bench.system.name)
    return Uploader(Store(location, client)), location


def truth_of(bench: Bench, installation: str) -> Truth | None:
    """What writes the truth of a run, None if nothing is simulated."""
    if bench.simulation is None or not any(s.driver == "simulate" for s in bench.sources):
        return None
    from freerun.config.simulation import telescope
    from freerun.simulation.config import BLOCK_NS
    from freerun.simulation.muons import block_truth

    config = telescope(bench)

    def write(folder: Path, run: RunFacts, last: int) -> Sidecar:
        facts = {"installation": installation, "run": run.number, "writer": "truth"}
        return truth.publish(
            folder, run.number, facts, lambda block: block_truth(config, block), BLOCK_NS,
            run.first, last, run.slice_ns,
        )  # fmt: skip

    return write
