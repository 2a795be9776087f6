"""The published task's first half: words to keys in time order (see `processors.published`).

A hit becomes one integer, its *key*: `tick << 13 | address`, with the tick since the start of
the slice and the address `board << 9 | channel`. Keys sort by time and then by address, and are
all that is moved. Loops are kept short and without branches that depend on the data, because a
branch guessed wrong costs more than everything else that is done with a word; and each of them
passes over a block that is still in the cache. Indices are unsigned, since numba looks at each
signed one for "from the end".
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from freerun.jit import kernel

I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]

ADDRESS_BITS = 13
ADDRESSES = 1 << ADDRESS_BITS
OTHER = ADDRESSES  # place of the words that are no good hit in the occupancy
MARKER, MASKED, UNKNOWN = 250, 251, 252  # slots of addresses that make no hits; all above, too
NONE = 255
BLOCK = 1024  # words that are taken apart at a time
QUEUE = 6  # keys that wait for an earlier one to come
NEVER = -(1 << 62)  # earlier than all keys

_U = np.uint64
_ONE = np.uint64(1)
_BX = 3564
_LOW32 = 0xFFFFFFFF
_NEAR = 256  # an insertion further back than this, and the keys are sorted otherwise


@kernel
def split(words: I64, begin: int, end: int, hits: I64, marks: I64) -> tuple[int, int]:
    """Hit words (HEAD 1, 2) and trigger words (HEAD 3) of a block, each as they are."""
    n, m = _U(0), _U(0)
    for i in range(begin, end):
        word = words[_U(i)]
        head = (word >> 62) & 3
        hits[n] = word
        marks[m] = word
        n += _U((head == 1) | (head == 2))
        m += _U(head == 3)
    return int(n), int(m)


@kernel
def malformed(hits: I64, n: int, tdc_first: int) -> int:
    """How many of `n` hit words have a crossing or a TDC that is none."""
    bad = 0
    for i in range(n):
        word = hits[i]
        tdc = (word & 31) - tdc_first
        bad += (((word >> 5) & 4095) >= _BX) | (tdc < 0) | (tdc >= 30)
    return bad


@kernel
def sift(hits: I64, n: int, tdc_first: int) -> int:
    """Leave only good hit words; event numbers (136, 137), whose TDC is no time, get TDC 0."""
    kept = 0
    for i in range(n):
        word = hits[i]
        number = (word >> 49) & 511
        if ((word >> 5) & 4095) >= _BX:
            continue
        tdc = (word & 31) - tdc_first
        if number == 136 or number == 137:
            word = (word & ~31) | tdc_first
        elif tdc < 0 or tdc >= 30:
            continue
        hits[kept] = word
        kept += 1
    return kept


@kernel
def to_keys(hits: I64, n: int, near: int, shift: int) -> None:
    """Hit words to keys, in place. `near` is the orbit 2**31 before one that is close to all
    words; `shift` is what to add to `(orbit − near, crossing, TDC)` in ticks."""
    for i in range(n):
        word = hits[i]
        orbit = ((word >> 17) - near) & _LOW32
        tick = (orbit * _BX + ((word >> 5) & 4095)) * 30 + (word & 31) + shift
        hits[i] = (tick << ADDRESS_BITS) | ((word >> 49) & (ADDRESSES - 1))


@kernel
def occupy(hits: I64, n: int, slot_of: U8, occupancy: I64) -> int:
    """Count each address and leave only the keys of addresses that make hits."""
    kept = _U(0)
    for i in range(n):
        key = hits[_U(i)]
        address = _U(key & (ADDRESSES - 1))
        occupancy[address] += 1
        hits[kept] = key
        kept += _U(slot_of[address] < MARKER)
    return int(kept)


@kernel
def enqueue(new: I64, count: int, queue: I64, keys: I64, at: I64, limit: int) -> None:
    """Append `new[:count]` to `keys` in time order, `at[0]` keys being there. What a new queue
    holds (NEVER) comes out first: the keys of a source begin at `keys[QUEUE]`.

    Each key passes through a short sorted queue, largest first, and pushes the smallest out: that
    puts the small disorder of a stream right without a branch. What is still late is inserted.
    `at[2]` is set, and keys are only appended from then on, when one is late by more than _NEAR
    places, or when insertions took more than `limit` moves in all (`at[3]`).
    """
    q0, q1, q2, q3, q4, q5 = queue[0], queue[1], queue[2], queue[3], queue[4], queue[5]
    n = _U(at[0])
    far, moves = at[2], at[3]
    last = keys[n - _ONE] if at[0] > 0 else NEVER
    for i in range(count):
        key = new[_U(i)]
        small = q0 if q0 < key else key
        q0 = key if q0 < key else q0
        key = q1 if q1 < small else small
        q1 = small if q1 < small else q1
        small = q2 if q2 < key else key
        q2 = key if q2 < key else q2
        key = q3 if q3 < small else small
        q3 = small if q3 < small else q3
        small = q4 if q4 < key else key
        q4 = key if q4 < key else q4
        key = q5 if q5 < small else small
        q5 = small if q5 < small else q5
        if key >= last:
            keys[n] = key
            last = key
        elif far != 0 or moves > limit or (n >= _U(_NEAR) and keys[n - _U(_NEAR)] > key):
            far = 1
            keys[n] = key
        else:
            j = n
            while keys[j - _ONE] > key:  # ends at the latest at a NEVER
                keys[j] = keys[j - _ONE]
                j -= _ONE
            keys[j] = key
            moves += int(n - j)
        n += _ONE
    queue[0], queue[1], queue[2], queue[3], queue[4], queue[5] = q0, q1, q2, q3, q4, q5
    at[0], at[2], at[3] = int(n), far, moves


@kernel
def unpack(
    words: I64, tdc_first: int, near: int, shift: int, slot_of: U8, mark_slot: U8,
    mark_shift: I64, occupancy: I64, hits: I64, some: I64, queue: I64, keys: I64, marks: I64,
    at: I64, limit: int,
) -> None:  # fmt: skip
    """Words of one source, taken apart and appended to `keys` and `marks` (see `enqueue`).

    `mark_slot` and `mark_shift` (4): slot of a chamber, NONE if its words do not count, and what
    makes a t0 of its tagged crossing, in ticks. `at[1]` marks are there. `hits`, `some`: room for
    a block. `occupancy[OTHER]` counts trigger words, run words and malformed hits.
    """
    total = len(words)
    m = at[1]
    for begin in range(0, total, BLOCK):
        end = min(begin + BLOCK, total)
        n, found = split(words, begin, end, hits, some)
        occupancy[OTHER] += end - begin - n
        if malformed(hits, n, tdc_first) > 0:
            kept = sift(hits, n, tdc_first)
            occupancy[OTHER] += n - kept
            n = kept
        to_keys(hits, n, near, shift - tdc_first)
        n = occupy(hits, n, slot_of, occupancy)
        enqueue(hits, n, queue, keys, at, limit)
        for i in range(found):
            word = some[i]
            chamber = (word >> 60) & 3
            crossing = (word >> 13) & 4095
            if crossing < _BX and mark_slot[chamber] != NONE:
                orbit = ((word >> 25) - near) & _LOW32
                tick = (orbit * _BX + crossing) * 30 + shift + mark_shift[chamber]
                marks[m] = (tick << ADDRESS_BITS) | mark_slot[chamber]
                m += 1
    at[1] = m


@kernel
def flush(queue: I64, keys: I64, at: I64, limit: int) -> None:
    """Push out what waits in the queue; it is then as new."""
    later = np.full(QUEUE, -NEVER, np.int64)
    enqueue(later, QUEUE, queue, keys, at, limit)
    queue[:] = NEVER
