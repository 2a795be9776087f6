"""Time order of keys that do not come nearly in order: never worse than n·log n."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from freerun.jit import kernel

I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]

SMALL = 32  # keys in a bin that are sorted by insertion
_ONE = np.uint64(1)


@kernel
def merge(left: I64, right: I64, out: I64) -> None:
    """Two sorted arrays to one."""
    n, m = np.uint64(len(left)), np.uint64(len(right))
    i, j, k = np.uint64(0), np.uint64(0), np.uint64(0)
    while i < n and j < m:  # without a branch: which side is next cannot be guessed
        a, b = left[i], right[j]
        use = np.uint64(a <= b)
        out[k] = a if a <= b else b
        i += use
        j += _ONE - use
        k += _ONE
    while i < n:
        out[k] = left[i]
        i += _ONE
        k += _ONE
    while j < m:
        out[k] = right[j]
        j += _ONE
        k += _ONE


@kernel
def merge_sort(keys: I64, spare: I64) -> None:
    """Sort `keys` in place, by merging ever longer runs; `spare` is as long."""
    n = len(keys)
    for begin in range(0, n, SMALL):
        insertion(keys[begin : begin + SMALL])
    width = SMALL
    while width < n:
        for begin in range(0, n, 2 * width):
            middle, end = min(begin + width, n), min(begin + 2 * width, n)
            merge(keys[begin:middle], keys[middle:end], spare[begin:end])
        keys[:] = spare[:n]
        width *= 2


@kernel
def insertion(keys: I64) -> None:
    """Sort in place; for few keys."""
    for i in range(1, len(keys)):
        key = keys[i]
        j = i - 1
        while j >= 0 and keys[j] > key:
            keys[j + 1] = keys[j]
            j -= 1
        keys[j + 1] = key


@kernel
def order(keys: I64, spare: I64, fill: I32) -> None:
    """Sort `keys` in place, whatever their order. `spare` is as long, `fill` longer by 2.

    A counting sort over at most as many bins of time as keys, then each bin by itself: by
    insertion where it is small, by merging where a burst has filled it.
    """
    n = len(keys)
    if n < 2:
        return
    low, high = keys[0], keys[0]
    for i in range(n):
        low, high = min(low, keys[i]), max(high, keys[i])
    shift = 0
    while ((high - low) >> shift) >= n:
        shift += 1
    bins = ((high - low) >> shift) + 1
    fill[: bins + 1] = 0
    for i in range(n):
        fill[((keys[i] - low) >> shift) + 1] += 1
    for b in range(bins):
        fill[b + 1] += fill[b]
    for i in range(n):
        b = (keys[i] - low) >> shift
        spare[fill[b]] = keys[i]
        fill[b] += 1
    keys[:] = spare[:n]
    begin = 0
    for b in range(bins):
        end = fill[b]  # after filling, where the bin ends
        if end - begin > SMALL:
            merge_sort(keys[begin:end], spare[begin:end])
        elif end - begin > 1:
            insertion(keys[begin:end])
        begin = end


@kernel
def settle(keys: I64, limit: int) -> bool:
    """Insertion sort in place that gives up after `limit` moves; says whether it is done."""
    moves = 0
    for i in range(1, len(keys)):
        key = keys[i]
        j = i - 1
        while j >= 0 and keys[j] > key:
            keys[j + 1] = keys[j]
            j -= 1
            moves += 1
            if moves > limit:
                keys[j + 1] = key  # nothing is lost
                return False
        keys[j + 1] = key
    return True
