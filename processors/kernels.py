"""The compiled loops of a slice: rows to the detector's terms, time order, and who used what."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from freerun.builder import MARKER, UNKNOWN
from freerun.jit import kernel
from freerun.words import HIT, TRIGGER

I64 = npt.NDArray[np.int64]
I16 = npt.NDArray[np.int16]
I32 = npt.NDArray[np.int32]
U8 = npt.NDArray[np.uint8]
U32 = npt.NDArray[np.uint32]
F32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]

HITS, OTHER, MASKED, UNKNOWN_ROWS = range(4)
NO_BOARD = -1  # a source of one board only: its channels are numbered without the board


@kernel
def sort_rows(
    n: int, body_rows: int, kind: U8, tick: I64, board: U8, channel: I16,
    fpga: int, base_tick: int, constant: int, rest: int, num1000: int, den: int,
    det: U8, layer: U8, cell: U8, role: U8, masked: U8, offset_ps: I32,
    counts: I64, occupancy: I64, at: I64,
    h_t: I64, h_tick: I64, h_channel: I16, h_tie: I64, h_body: Bool,
    m_t: I64, m_channel: I16, m_kind: U8, m_board: U8,
) -> None:  # fmt: skip
    """Decoded words to hits and marks, appended from `at[0]` and `at[1]` on.

    `counts` (4) and `occupancy` (256, 5, 64: detector, layer, cell) take body rows only, the
    first `body_rows` ones. Time is floor((tick-base)·num·1000+rest, den) + constant, in ps.
    """
    hits, marks = at[0], at[1]
    for i in range(n):
        body = i < body_rows
        number = np.int64(channel[i])
        if kind[i] == HIT:
            if fpga < NO_BOARD:  # all boards: the board is part of the channel's number
                number = (np.int64(board[i]) << 9) | number
            elif fpga >= 0 and board[i] != fpga:
                if body:
                    counts[UNKNOWN_ROWS] += 1
                continue
            what = role[number]
            if masked[number]:
                if body:
                    counts[MASKED] += 1
                continue
            if what == UNKNOWN:
                if body:
                    counts[UNKNOWN_ROWS] += 1
                continue
            t = constant + ((tick[i] - base_tick) * num1000 + rest) // den
            if what == MARKER:
                m_t[marks] = t
                m_channel[marks] = number
                m_kind[marks] = HIT
                m_board[marks] = board[i]
                marks += 1
                if body:
                    counts[OTHER] += 1
                continue
            h_t[hits] = t + offset_ps[number]
            h_tick[hits] = tick[i]
            h_channel[hits] = number
            h_tie[hits] = (np.int64(board[i]) << 9) | np.int64(channel[i])
            h_body[hits] = body
            hits += 1
            if body:
                counts[HITS] += 1
                row = layer[number] if layer[number] < 5 else 0
                column = cell[number] if cell[number] < 64 else 0
                occupancy[det[number], row, column] += 1
        else:
            if body:
                counts[OTHER] += 1
            if kind[i] == TRIGGER:
                m_t[marks] = constant + ((tick[i] - base_tick) * num1000 + rest) // den
                m_channel[marks] = number
                m_kind[marks] = TRIGGER
                m_board[marks] = board[i]
                marks += 1
    at[0], at[1] = hits, marks


@kernel
def time_order(t: I64, tie: I64) -> I32:
    """The permutation that sorts by (t, tie); n rows, less than 2**31.

    Rows are nearly in order and spread over the slice: a counting sort over as many bins of time
    as rows, then each bin by insertion. The keys move along, so that comparisons stay in the
    cache. A burst that fills one bin is sorted by merging runs: n·log n and not n².
    """
    n = len(t)
    order = np.empty(n, np.int32)
    if n == 0:
        return order
    low = t.min()
    span = t.max() - low + 1
    shift = 0
    while (span >> shift) > n:
        shift += 1
    bins = np.int64(span >> shift) + 1
    fill = np.zeros(bins + 1, np.int32)
    for i in range(n):
        fill[((t[i] - low) >> shift) + 1] += 1
    for b in range(bins):
        fill[b + 1] += fill[b]
    st, stie = np.empty(n, np.int64), np.empty(n, np.int64)
    for i in range(n):
        b = (t[i] - low) >> shift
        at = fill[b]
        fill[b] = at + 1
        order[at], st[at], stie[at] = i, t[i], tie[i]
    first = 0
    for b in range(bins):
        last = fill[b]  # after filling, where the bin ends
        if last - first > 32:
            _merge_sort(order, first, last, t, tie)
        else:
            for i in range(first + 1, last):
                when, what, row = st[i], stie[i], order[i]
                j = i - 1
                while j >= first and (st[j] > when or (st[j] == when and stie[j] > what)):
                    st[j + 1], stie[j + 1], order[j + 1] = st[j], stie[j], order[j]
                    j -= 1
                st[j + 1], stie[j + 1], order[j + 1] = when, what, row
        first = last
    return order


@kernel
def _merge_sort(order: I32, first: int, last: int, t: I64, tie: I64) -> None:
    """Bottom-up merge sort of `order[first:last]` by (t, tie)."""
    n = last - first
    source = order[first:last].copy()
    target = np.empty(n, np.int32)
    width = 1
    while width < n:
        for left in range(0, n, 2 * width):
            middle = min(left + width, n)
            right = min(left + 2 * width, n)
            i, j = left, middle
            for k in range(left, right):
                use_left = i < middle
                if use_left and j < right:
                    a, b = source[i], source[j]
                    use_left = t[a] < t[b] or (t[a] == t[b] and tie[a] <= tie[b])
                if use_left:
                    target[k] = source[i]
                    i += 1
                else:
                    target[k] = source[j]
                    j += 1
        source, target = target, source
        width *= 2
    order[first:last] = source


@kernel
def gather(
    order: I32, t: I64, tick: I64, channel: I16, source: I16, body: Bool, table: U8,
    o_t: I64, o_tick: I64, o_channel: I16, o_source: I16, o_body: Bool,
    det: U8, layer: U8, cell: U8, role: U8,
) -> None:  # fmt: skip
    """All columns of the hits in the given order. `table` is uint8 (sources, channels, 4)."""
    for i in range(len(order)):
        row = order[i]
        s, c = source[row], channel[row]
        o_t[i], o_tick[i] = t[row], tick[row]
        o_channel[i], o_source[i], o_body[i] = c, s, body[row]
        det[i], layer[i] = table[s, c, 0], table[s, c, 1]
        cell[i], role[i] = table[s, c, 2], table[s, c, 3]


@kernel
def account(source: I16, body: Bool, used: npt.NDArray[np.uint16], out: I64) -> None:
    """Per source: uses in events, body rows unused, body rows used. `out` is int64 (sources, 3)."""
    for i in range(len(source)):
        mine = source[i]
        out[mine, 0] += used[i]
        if body[i]:
            out[mine, 1 if used[i] == 0 else 2] += 1


@kernel
def uses(owned: Bool, offsets: I64, index: I64, n: int) -> tuple[npt.NDArray[np.uint16], Bool]:
    """How many owned events use each of `n` rows, and whether a foreign one does."""
    count = np.zeros(n, np.uint16)
    foreign = np.zeros(n, np.bool_)
    for e in range(len(owned)):
        for j in range(offsets[e], offsets[e + 1]):
            if not owned[e]:
                foreign[index[j]] = True
            elif count[index[j]] < 65535:
                count[index[j]] += 1
    return count, foreign


@kernel
def select(owned: Bool, offsets: I64, index: I64) -> tuple[I64, I64]:
    """The CSR lists of the owned events only."""
    out_offsets = np.zeros(owned.sum() + 1, np.int64)
    total = 0
    for e in range(len(owned)):
        if owned[e]:
            total += offsets[e + 1] - offsets[e]
    out = np.empty(total, np.int64)
    at, k = 0, 0
    for e in range(len(owned)):
        if owned[e]:
            for j in range(offsets[e], offsets[e + 1]):
                out[at] = index[j]
                at += 1
            k += 1
            out_offsets[k] = at
    return out_offsets, out


@kernel
def relative_ns(t: I64, offsets: I64, index: I64, anchor: I64) -> F32:
    """Time of each listed row minus its event's t0, in ns."""
    out = np.empty(len(index), np.float32)
    for e in range(len(anchor)):
        for j in range(offsets[e], offsets[e + 1]):
            out[j] = (t[index[j]] - anchor[e]) / 1000.0
    return out
