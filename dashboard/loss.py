"""How long until data are lost if nothing changes: spools fill, retention overtakes lanes.

Pure: said by the heartbeats of sources and loops, and by how long raw topics are kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from dashboard.world import SILENT_S, World

WAITING = ("SPOOLING", "DROPPING")  # the broker does not take the source's data


def until_loss(world: World) -> tuple[float, str] | None:
    """Seconds until the first data are lost and what happens then; None if nothing threatens."""
    return min((*_spools(world), *_lanes(world)), default=None)


def _spools(world: World) -> Iterator[tuple[float, str]]:
    for key, state in world.states.items():
        left = state.get("spool_left_s")
        if state.get("state") in WAITING and left is not None:
            source = key.partition("/")[2]
            yield float(left), f"then the spool of {source} is full at its rate of now"


def _lanes(world: World) -> Iterator[tuple[float, str]]:
    """A lane loses what retention deletes before it came there. The fastest source is first."""
    rate = max((float(s.get("bytes_per_s") or 0) for s in world.role("source")), default=0.0)
    kept = min(world.keep_s, world.keep_bytes / rate if rate else math.inf)
    if math.isinf(kept):
        return
    for state in world.role("loop"):
        if world.heard_s(state) <= SILENT_S and state.get("lag_slices") is not None:
            lag = int(state["lag_slices"]) * world.slice_ns / 1e9
            yield (
                max(0.0, kept - lag),
                f"then retention overtakes {state.get('id', 'a lane')} if it stands still",
            )
