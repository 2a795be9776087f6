"""What a Dask worker runs: a second of a lane. The lane itself stays in the worker's memory."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

from processors.lane import Backlog, Lane
from processors.setup import lane_of

_lanes: dict[str, tuple[int, Lane]] = {}  # pipeline → generation and its lane


def lane_task(spec: dict[str, Any], partitions: list[int], seconds: float) -> dict[str, Any]:
    """Work on `partitions` for some seconds; returns the lane's summary.

    `spec`: `address`, `bench` (resolved, JSON), `pipeline`, `generation`. A lane of an earlier
    generation is closed: it never shares anything with the next one. What an earlier one still
    asks for is `lost`: a loop that was thought dead disturbs nobody.
    """
    key = f"{spec['system']}/{spec['pipeline']}"
    generation, lane = _lanes.get(key, (-1, None))
    if generation > spec["generation"]:
        out = asdict(Backlog(lost=list(partitions)))
        return out | {"pid": os.getpid(), "generation": spec["generation"]}
    if lane is None or generation != spec["generation"]:
        if lane is not None:
            del _lanes[key]
            lane.close()
        lane = lane_of(spec)
        _lanes[key] = (spec["generation"], lane)
    try:
        done = lane.run(partitions, seconds)
    except BaseException:
        _lanes.pop(key, None)
        lane.close()
        raise
    return asdict(done) | {"pid": os.getpid(), "generation": spec["generation"]}
