"""The published task's second half: keys in time order to events, drift times, rates."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from freerun.builder import PILEUP, TRUNCATED
from freerun.jit import kernel
from processors.published_words import ADDRESS_BITS, ADDRESSES, NEVER

I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]
U32 = npt.NDArray[np.uint32]
U16 = npt.NDArray[np.uint16]
U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]

_U = np.uint64
_ONE = np.uint64(1)


@kernel
def anchors(marks: I64, merge: int, span: int, t0: I64, chambers: U32, quality: U32) -> int:
    """Events of the marks, which are in time order; returns how many.

    A mark begins an event if the one before is more than `merge` ticks earlier; its time is the
    event's t0. `chambers` has a bit for each slot with a mark within `span` of t0; marks further
    on set TRUNCATED in `quality`.
    """
    events = 0
    before, start = NEVER, 0
    for i in range(len(marks)):
        tick = marks[i] >> ADDRESS_BITS
        slot = marks[i] & 31
        if tick - before > merge:
            start = tick
            t0[events] = tick
            chambers[events] = 0
            quality[events] = 0
            events += 1
        if tick - start <= span:
            chambers[events - 1] |= np.uint32(1 << slot)
        else:
            quality[events - 1] |= np.uint32(TRUNCATED)
        before = tick
    return events


@kernel
def pile_up(t0: I64, before: int, after: int, quality: U32) -> None:
    """PILEUP for events with another one's t0 in their window."""
    for e in range(len(t0) - 1):
        apart = t0[e + 1] - t0[e]
        if apart <= after:
            quality[e] |= np.uint32(PILEUP)
        if apart <= before:
            quality[e + 1] |= np.uint32(PILEUP)


@kernel
def row(keys: I64, tick: int) -> int:
    """The first of the keys, which are in time order, at or after `tick`."""
    low, high = 0, len(keys)
    edge = tick << ADDRESS_BITS
    while low < high:
        middle = (low + high) // 2
        if keys[middle] < edge:
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def window_end(t0: I64, e: int, before: int, after: int) -> int:
    """The first tick that is not event e's any more: its window ends, or the next one's begins."""
    end = t0[e] + after + 1
    if e + 1 < len(t0):
        end = min(end, t0[e + 1] - before)
    return int(end)


@kernel
def bounds(keys: I64, t0: I64, length: int, before: int, after: int, out: I64) -> None:
    """What belongs to a slice of `length` ticks: its events, its body rows, and the rows of its
    events or of its body that are in no event. `out` (6) gets begin and end of each."""
    e0, e1 = 0, 0
    for e in range(len(t0)):
        e0 += t0[e] < 0
        e1 += t0[e] < length
    body0, body1 = row(keys, 0), row(keys, length)
    low, high = body0, body1
    if e0 > 0:
        low = max(low, row(keys, window_end(t0, e0 - 1, before, after)))
    if e1 < len(t0):
        high = min(high, row(keys, t0[e1] - before))
    if e0 < e1:
        low = min(low, row(keys, t0[e0] - before))
        high = max(high, row(keys, window_end(t0, e1 - 1, before, after)))
    out[0], out[1], out[2], out[3], out[4], out[5] = e0, e1, body0, body1, low, max(low, high)


@kernel
def windows(
    keys: I64, t0: I64, number: int, before: int, after: int, slot_of: U8, width: int,
    drift_of: F32, drift: F32, box: I64, first: I32, count: I32,
) -> None:  # fmt: skip
    """Drift time of each key: to the last t0 that is not more than `before` after it, if that is
    not more than `after` ago; else NaN. All in ticks; keys and t0 in time order.

    Only the first `number` of `t0` are events here; one more may follow that ends the last of
    them. `drift_of` and `box` have `width` places for each slot, by tick since the window's begin.
    Event e has the keys from `first[e]` on, `count[e]` of them.
    """
    n = _U(len(keys))
    i = _U(0)
    nan = np.float32(np.nan)
    for e in range(number):
        begin = t0[e] - before
        end = window_end(t0, e, before, after)
        edge = begin << ADDRESS_BITS
        while i < n and keys[i] < edge:
            drift[i] = nan
            i += _ONE
        edge = end << ADDRESS_BITS
        start = i
        while i < n and keys[i] < edge:
            key = keys[i]
            slot = int(slot_of[_U(key & (ADDRESSES - 1))])
            place = _U(slot * width + ((key >> ADDRESS_BITS) - begin))
            drift[i] = drift_of[place]
            box[place] += 1
            i += _ONE
        first[e] = int(start)
        count[e] = int(i - start)
    while i < n:
        drift[i] = nan
        i += _ONE


@kernel
def columns(keys: I64, tick: I32, channel: U16) -> None:
    """Keys to the columns of the result."""
    for i in range(len(keys)):
        tick[i] = keys[i] >> ADDRESS_BITS
        channel[i] = keys[i] & (ADDRESSES - 1)


@kernel
def rates(keys: I64, borders: I64, slot_of: U8, out: I64) -> None:
    """Hits per bin of time and slot. `borders` (bins) are the ends of the bins, in ticks."""
    n = _U(len(keys))
    i = _U(0)
    for b in range(len(borders)):
        edge = borders[b] << ADDRESS_BITS
        of_bin = out[b]
        while i < n and keys[i] < edge:
            of_bin[_U(slot_of[_U(keys[i] & (ADDRESSES - 1))])] += 1
            i += _ONE


@kernel
def publish(
    keys: I64, t0: I64, where: I64, before: int, after: int, slot_of: U8, width: int,
    drift_of: F32, borders: I64, tick: I32, channel: U16, drift: F32, box: I64, first: I32,
    count: I32, rate: I64, edges: I64,
) -> None:  # fmt: skip
    """All that is made of keys and events; `where` as from `bounds`. `edges` (slots) counts rows
    of events that are no body rows."""
    e0, e1, body0, body1, low, high = where
    kept = keys[low:high]
    columns(kept, tick, channel)
    windows(
        kept, t0[e0 : e1 + 1], e1 - e0, before, after, slot_of, width, drift_of, drift, box,
        first, count,
    )  # fmt: skip
    rates(keys[body0:body1], borders, slot_of, rate)
    for i in range(low, min(body0, high)):
        edges[slot_of[keys[i] & (ADDRESSES - 1)]] += 1
    for i in range(max(body1, low), high):
        edges[slot_of[keys[i] & (ADDRESSES - 1)]] += 1
