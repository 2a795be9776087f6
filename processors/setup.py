"""From a configuration to a pipeline and a lane."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from freerun import config
from freerun.config import Bench
from freerun.config.geometry import Geometry
from freerun.errors import ConfigError
from freerun.topics import Topics
from processors.lane import Lane
from processors.pipeline import Pipeline
from processors.prepare import SourceSetup
from processors.pulses import PulseSettings


def setups(bench: Bench) -> dict[str, SourceSetup]:
    """What must be known of each source; the index is its place in the configuration."""
    out = {}
    for index, source in enumerate(bench.sources):
        fpga = -2 if source.all_boards else source.fpga if isinstance(source.fpga, int) else -1
        out[source.id] = SourceSetup(index, fpga, source.clock.offset, PulseSettings())
    return out


def pipeline_of(bench: Bench, name: str) -> Pipeline:
    """The pipeline called `name`: its builder loaded and its keys checked."""
    kind, told = config.builder_of(bench, name)
    geometry = Geometry.of(bench, bench.pipeline(name))
    builder = kind(told, geometry)
    return Pipeline(name, builder, geometry, setups(bench), bench.time.slice, bench.time.guard)


def spec_of(
    bench_path: Path, cluster_path: Path | None, bench: Bench, address: str, pipeline: str,
    generation: int,
) -> dict[str, Any]:  # fmt: skip
    """What a worker needs to make the same lane."""
    return {
        "bench": str(bench_path.absolute()),
        "cluster": str(cluster_path.absolute()) if cluster_path else None,
        "digest": bench.digest(),
        "system": bench.system.name,
        "address": address,
        "pipeline": pipeline,
        "generation": generation,
    }


def lane_of(spec: dict[str, Any]) -> Lane:
    """The lane that `spec` describes; `ConfigError` if the file is not the same any more."""
    bench = config.load(spec["bench"], spec["cluster"])
    if bench.digest() != spec["digest"]:
        raise ConfigError(f"{spec['bench']} was changed since processing began: start it again")
    pipeline = pipeline_of(bench, spec["pipeline"])
    sources = bench.sources_of(bench.pipeline(spec["pipeline"]))
    return Lane(
        spec["address"], Topics(spec["system"]), pipeline, sources,
        bench.cluster.partitions, spec["generation"], bench.timeouts.transaction // 1_000_000,
    )  # fmt: skip
