"""What the published task means, word by word in plain Python."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from itertools import pairwise
from typing import Any, NamedTuple

ORBIT = 3564 * 30
HIT, TRIGGER, OTHER = "hit", "trigger", "other"


class Told(NamedTuple):
    """A board's channels: address → slot, or "other" or "masked"; chamber → (slot, latency)."""

    slots: dict[int, int | str]
    chambers: dict[int, tuple[int, int]]
    tdc_first: int = 1


def read(word: int, tdc_first: int, near_tick: int) -> tuple[str, int, int]:
    """`(kind, tick, address or chamber)` of a word; its orbit is the one nearest to `near_tick`."""
    head = word >> 62

    def tick(orbit: int, crossing: int, tdc: int) -> int:
        near = near_tick // ORBIT
        orbit = near - 2**31 + (orbit - near + 2**31) % 2**32
        return (orbit * 3564 + crossing) * 30 + tdc

    if head in (1, 2):
        address = (word >> 49) & 0x1FFF
        crossing, tdc = (word >> 5) & 0xFFF, (word & 31) - tdc_first
        if address & 511 in (136, 137):
            tdc = 0
        if crossing < 3564 and 0 <= tdc < 30:
            return HIT, tick((word >> 17) & 0xFFFFFFFF, crossing, tdc), address
    if head == 3 and (word >> 13) & 0xFFF < 3564:
        where = tick((word >> 25) & 0xFFFFFFFF, (word >> 13) & 0xFFF, 0)
        return TRIGGER, where, (word >> 60) & 3
    return OTHER, 0, 0


def published(
    runs: list[tuple[Told, list[int], list[int]]], tick0: int, length: int, correction: list[float],
    merge: int, span: int, before: int, after: int,
) -> dict[str, Any]:  # fmt: skip
    """`runs`: (board, body words, guard words) of each source."""
    hits, marks = [], []
    counts: list[Counter[str]] = []
    rates: Counter[tuple[int, int]] = Counter()
    for told, body, guard in runs:
        seen: Counter[str] = Counter()
        for word, mine in [(w, True) for w in body] + [(w, False) for w in guard]:
            kind, tick, what = read(word, told.tdc_first, tick0)
            tick -= tick0
            slot: int | str = OTHER
            if kind == HIT:
                slot = told.slots.get(what, "unknown")
                if not isinstance(slot, str):
                    hits.append((tick, what, slot, mine))
            elif kind == TRIGGER and what in told.chambers:
                chamber, latency = told.chambers[what]
                marks.append((tick + 15 - latency, chamber))
            if mine:
                seen["hits" if not isinstance(slot, str) else slot] += 1
                if not isinstance(slot, str) and 0 <= tick < length:
                    # ends of bins are floored, so the bin is found by asking them
                    b = next(b for b in range(100) if tick < (b + 1) * length // 100)
                    rates[b, slot] += 1
        counts.append(seen)
    hits.sort()
    events: list[dict[str, Any]] = []
    last = None
    for tick, chamber in sorted(marks):
        if last is None or tick - last > merge:
            events.append({"t0": tick, "chambers": set(), "hits": [], "quality": 0})
        if tick - events[-1]["t0"] <= span:
            events[-1]["chambers"].add(chamber)
        else:
            events[-1]["quality"] |= 2
        last = tick
    for a, b in pairwise(events):
        a["quality"] |= 8 * (b["t0"] - a["t0"] <= after)
        b["quality"] |= 8 * (b["t0"] - a["t0"] <= before)
    box: Counter[tuple[int, int]] = Counter()
    rows = []
    begins = [e["t0"] - before for e in events]
    for tick, address, slot, _ in hits:
        which = bisect_right(begins, tick)
        event = events[which - 1] if which and tick <= events[which - 1]["t0"] + after else None
        if event is None:
            if 0 <= tick < length:
                rows.append((tick, address, math.nan))
        elif 0 <= event["t0"] < length:
            since = tick - event["t0"]
            event["hits"].append(len(rows))
            rows.append((tick, address, since * 25 / 30 + correction[slot]))
            box[slot, since + before] += 1
    owned = [e for e in events if 0 <= e["t0"] < length]
    return {"rows": rows, "events": owned, "box": box, "rates": rates, "counts": counts}
