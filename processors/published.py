"""The published task: words of a slice to events by t0, drift times, occupancy and rates.

1. Words are taken apart as their HEAD says: hits, and trigger words, whose time is in other bits.
2. Masked, unknown and marker channels are counted and make no hits.
3. Hits are put in time order; those of one time in order of board and channel.
4. Trigger words give a t0 each: tagged crossing + 12.5 ns − latency of the chamber, to the tick.
   A t0 begins an event if the one before is more than `merge` earlier.
5. A hit belongs to the last event whose t0 is not more than `before` after it, if that is not more
   than `after` ago. Its drift time is t − t0 + correction of the detector.
6. Occupancy of channels and detectors, rates of detectors in time, time boxes of detectors.

The same task is written in DataFrame operations in `freerun.app.peers.dataframes`, and word by
word in the tests. One clock for all sources; results are arrays that Arrow takes as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from freerun.errors import Quarantined
from freerun.words import TICKS_PER_ORBIT
from processors import published_events as events
from processors import published_words as unpacking
from processors.published_order import merge, order, settle
from processors.published_words import ADDRESS_BITS, ADDRESSES, MASKED, OTHER, QUEUE, UNKNOWN

Array = npt.NDArray[Any]
RATE_BINS = 100
HALF_CROSSING = 15  # ticks
MANY = 4  # sources: sorting all their hits then costs less than merging
_NS_PER_TICK = 25 / 30


@dataclass(frozen=True)
class Board:
    """What is known of one source's channels."""

    slot_of: Array
    """uint8[8192] by address (board << 9 | raw channel): slot of the detector, or MARKER, MASKED,
    UNKNOWN of `published_words`."""
    mark_slot: Array
    """uint8[4] by chamber field of a trigger word: slot of the chamber, 255 for none."""
    latency: Array
    """int64[4] by the same: ticks from t0 to the middle of the tagged crossing."""
    tdc_first: int = 1
    """The raw TDC that means the beginning of a crossing."""


@dataclass(frozen=True)
class Settings:
    """Times in ticks of 25/30 ns."""

    merge: int = 30
    span: int = 120
    """From an event's t0; trigger words after that are cut."""
    before: int = 60
    after: int = 600


@dataclass(frozen=True)
class Run:
    """Words of one source in a slice, int64[n] views; all but `body` are guards."""

    board: int
    body: Sequence[Array]
    before: Array | None = None
    after: Array | None = None


@dataclass
class Output:
    """Results of one slice. Arrays are views that hold until the next slice is worked on.

    Rows are hits in time order: those of this slice's events, and those of its body that are in
    no event at all. Event e has the rows `first[e] … first[e] + count[e] − 1`.
    """

    tick: Array  # int32 (rows) since the slice's start
    channel: Array  # uint16 (rows) board << 9 | raw channel
    drift: Array  # float32 (rows) ns; NaN in no event
    t0: Array  # int64 (events) ticks since the slice's start
    first: Array  # int32 (events)
    count: Array  # int32 (events)
    chambers: Array  # uint32 (events) bit = slot of a chamber that gave a t0
    quality: Array  # uint32 (events) bits of freerun.builder
    occupancy: Array  # int64 (sources, addresses + 1) body words; the last: no good hits
    box: Array  # int64 (slots, window) hits by tick since the window's begin
    rates: Array  # int64 (RATE_BINS, slots) body hits by time in the slice
    edges: Array = field(repr=False)  # int64 (slots) rows of events that are guards


class _Room:
    """Arrays that are used again for each slice, because new memory costs more than the work."""

    def __init__(self, n: int) -> None:
        self.size = n
        self.keys, self.spare = np.empty(n, np.int64), np.empty(n, np.int64)
        self.marks, self.spare_marks = np.empty(n, np.int64), np.empty(n, np.int64)
        self.fill = np.empty(n + 2, np.int32)
        self.tick, self.channel = np.empty(n, np.int32), np.empty(n, np.uint16)
        self.drift = np.empty(n, np.float32)
        self.t0, self.chambers = np.empty(n, np.int64), np.empty(n, np.uint32)
        self.quality = np.empty(n, np.uint32)
        self.first, self.count = np.empty(n, np.int32), np.empty(n, np.int32)


@dataclass(frozen=True)
class _Kinds:
    """A board's addresses by what their words are, and the slots that its hits are in."""

    hit: Array
    marker: Array
    masked: Array
    unknown: Array
    slots: Array

    @classmethod
    def of(cls, slot_of: Array) -> _Kinds:
        hit = np.flatnonzero(slot_of < unpacking.MARKER)
        marker, masked, unknown = (
            np.flatnonzero(slot_of == kind) for kind in (unpacking.MARKER, MASKED, UNKNOWN)
        )
        return cls(hit, marker, masked, unknown, np.unique(slot_of[hit]))


class Published:
    """The task with its tables. `correction` (slots) is added to drift times, in ns."""

    def __init__(
        self, boards: Sequence[Board], correction: Sequence[float], settings: Settings
    ) -> None:
        self.boards, self.settings, self.slots = tuple(boards), settings, len(correction)
        self.width = settings.before + settings.after + 1
        since = (np.arange(self.width) - settings.before) * _NS_PER_TICK
        self._drift_of = (np.asarray(correction)[:, None] + since).astype(np.float32).ravel()
        # one table for all: an address belongs to one source
        self._slot_of = np.full(ADDRESSES, UNKNOWN, np.uint8)
        for board in boards:
            self._slot_of = np.minimum(self._slot_of, board.slot_of)
        self._shift = [HALF_CROSSING - board.latency for board in boards]
        self._kinds = [_Kinds.of(board.slot_of) for board in boards]
        self._block = np.empty(unpacking.BLOCK, np.int64), np.empty(unpacking.BLOCK, np.int64)
        self._queue = np.full(QUEUE, unpacking.NEVER, np.int64)
        self._at, self._where = np.zeros(4, np.int64), np.zeros(6, np.int64)
        self._nowhere = np.zeros(ADDRESSES + 1, np.int64)  # guards count where they are body
        self._parts = np.arange(1, RATE_BINS + 1)
        self._room = _Room(0)

    def run(self, runs: Sequence[Run], tick0: int, length: int, guard: int) -> Output:
        """One slice of `length` ticks that begins at tick `tick0`.

        Raises `Quarantined` for a hit that is further outside than `guard` ticks.
        """
        total = sum(sum(map(len, self._pieces(r))) for r in runs)
        if self._room.size < total + QUEUE * (len(runs) + 1):
            self._room = _Room(total + total // 4 + QUEUE * (len(runs) + 1))
        occupancy = np.zeros((len(self.boards), ADDRESSES + 1), np.int64)
        keys, marks = self._unpack(runs, tick0, occupancy)
        if len(keys) and not (
            keys[0] >= -guard << ADDRESS_BITS and keys[-1] < (length + guard) << ADDRESS_BITS
        ):
            raise Quarantined("time", f"a hit is more than {guard} ticks outside its slice")
        return self._events(keys, marks, length, occupancy)

    @staticmethod
    def _pieces(run: Run) -> list[Array]:
        return [w for w in (run.before, *run.body, run.after) if w is not None]

    # ------------------------------------------------------------------ words to keys

    def _unpack(self, runs: Sequence[Run], tick0: int, occupancy: Array) -> tuple[Array, Array]:
        """Keys and marks of all sources, each in time order."""
        room, at = self._room, self._at
        near = tick0 // TICKS_PER_ORBIT - 2**31
        shift = near * TICKS_PER_ORBIT - tick0
        all_keys: list[Array] = []
        all_marks: list[Array] = []
        begin = begin_marks = 0
        for run in runs:
            board = self.boards[run.board]
            keys, marks = room.keys[begin:], room.marks[begin_marks:]
            at[:] = 0
            pieces = [(run.before, False), *((b, True) for b in run.body), (run.after, False)]
            limit = 4 * sum(map(len, self._pieces(run)))
            for words, body in pieces:
                if words is not None and len(words):
                    unpacking.unpack(
                        words, board.tdc_first, near, shift, board.slot_of, board.mark_slot,
                        self._shift[run.board], occupancy[run.board] if body else self._nowhere,
                        *self._block, self._queue, keys, marks, at, limit,
                    )  # fmt: skip
            unpacking.flush(self._queue, keys, at, limit)
            n, m, far = int(at[0]), int(at[1]), at[2]
            all_keys.append(keys[QUEUE:n])
            all_marks.append(marks[:m])
            if far:
                order(keys[QUEUE:n], room.spare, room.fill)
            if not settle(marks[:m], 4 * m):
                order(marks[:m], room.spare_marks, room.fill)
            begin, begin_marks = begin + n, begin_marks + m
        return (
            _merged(all_keys, room.keys, room.spare, room.fill),
            _merged(all_marks, room.marks, room.spare_marks, room.fill),
        )

    # ------------------------------------------------------------------ keys to events

    def _events(self, keys: Array, marks: Array, length: int, occupancy: Array) -> Output:
        room, s, where = self._room, self.settings, self._where
        found = events.anchors(marks, s.merge, s.span, room.t0, room.chambers, room.quality)
        t0 = room.t0[:found]
        events.pile_up(t0, s.before, s.after, room.quality)
        events.bounds(keys, t0, length, s.before, s.after, where)
        e0, e1, _, _, low, high = where.tolist()
        rows, n = high - low, e1 - e0
        out = Output(
            tick=room.tick[:rows], channel=room.channel[:rows], drift=room.drift[:rows],
            t0=t0[e0:e1], first=room.first[:n], count=room.count[:n],
            chambers=room.chambers[e0:e1], quality=room.quality[e0:e1], occupancy=occupancy,
            box=np.zeros((self.slots, self.width), np.int64),
            rates=np.zeros((RATE_BINS, self.slots), np.int64),
            edges=np.zeros(self.slots, np.int64),
        )  # fmt: skip
        events.publish(
            keys, t0, where, s.before, s.after, self._slot_of, self.width, self._drift_of,
            self._parts * length // RATE_BINS, out.tick, out.channel, out.drift,
            out.box.reshape(-1), out.first, out.count, out.rates, out.edges,
        )  # fmt: skip
        return out

    # ------------------------------------------------------------------ sums

    def counts(self, out: Output, board: int) -> dict[str, int]:
        """The account of one source's body words: hits, other, masked, unknown; and what became
        of the hits: in events (guards too), unassigned, in another slice's event (`shared` < 0)."""
        seen, kinds = out.occupancy[board], self._kinds[board]
        hits = int(seen[kinds.hit].sum())
        in_events = int(out.box[kinds.slots].sum())
        used = in_events - int(out.edges[kinds.slots].sum())
        return {
            "hits": hits, "other": int(seen[kinds.marker].sum()) + int(seen[OTHER]),
            "masked": int(seen[kinds.masked].sum()), "unknown": int(seen[kinds.unknown].sum()),
            "in_events": in_events, "unassigned": hits - used, "shared": in_events - used,
        }  # fmt: skip


def _merged(runs: list[Array], source: Array, target: Array, fill: Array) -> Array:
    """Sorted arrays, which lie in `source`, to one, two at a time; it ends in one of the two. Many
    are sorted anew, which costs the same however many they are."""
    if len(runs) > MANY:
        n = sum(map(len, runs))
        out = np.concatenate(runs, out=target[:n])
        order(out, source, fill)
        return out
    while len(runs) > 1:
        begin, merged = 0, []
        for i in range(0, len(runs), 2):
            pair = runs[i : i + 2]
            out = target[begin : begin + sum(map(len, pair))]
            if len(pair) == 2:
                merge(pair[0], pair[1], out)
            else:
                out[:] = pair[0]
            merged.append(out)
            begin += len(out)
        runs, source, target = merged, target, source
    return runs[0] if runs else source[:0]
