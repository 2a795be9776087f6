"""Counters of two heartbeats into rates. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# counter in a heartbeat → rate that is added to it, per second
COUNTERS = {"read": "rate", "read_bytes": "bytes_per_s"}


def with_rates(
    before: Mapping[str, Any] | None, now: dict[str, Any] | None
) -> dict[str, Any] | None:
    """`now` with the rates that follow from the heartbeat before it.

    A rate the service says itself stays. Of another incarnation, or of a counter that went
    back, no rate is known.
    """
    if now is None or before is None or before.get("inc") != now.get("inc"):
        return now
    seconds = (int(now.get("time_ns") or 0) - int(before.get("time_ns") or 0)) / 1e9
    if seconds <= 0:
        return now
    found = {}
    for counter, rate in COUNTERS.items():
        if isinstance(now.get(counter), int) and isinstance(before.get(counter), int):
            grown = now[counter] - before[counter]
            if grown >= 0:
                found[rate] = grown / seconds
    return found | now
