"""Which t0 candidates of all chambers are one particle.

A candidate leads an event if none within `merge` of it, on either side, is better; it takes all
those in with it. That is done for all candidates at once, and again (`ROUNDS` times) among those
that are left, so leaders are more than `merge` apart and everything within `merge` of one belongs
to the nearest (of two as near, the earlier). Chains do not grow: what decides is never more than
`REACH` times `merge` away. Whoever is left after the last round (a long unbroken row of
candidates, each better than the one before) makes no event and is counted.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from freerun.jit import kernel

I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]

ROUNDS = 4
REACH = 2 * ROUNDS + 1
"""Rounds look at leaders of leaders, 2 per round; the nearest leader is one `merge` more."""

FOUR_HITS, THREE_HITS, WORD, FOLLOWER = range(4)
"""Ranks: segments of four and three hits, a confirmed FPGA word; a follower never leads."""


@kernel
def best_near(t0: I64, rank: U8, chi2: F32, alive: Bool, merge: int) -> I64:
    """For each candidate the best living one within `merge` (itself included); −1 if none.

    Better is: lower rank, smaller chi2, earlier in the list. `t0` ascends. One pass with a queue
    of those that may still become the best, so a burst costs no more per row than silence.
    """
    n = len(t0)
    out = np.empty(n, np.int64)
    queue = np.empty(n, np.int64)
    first, last, new = 0, 0, 0
    for i in range(n):
        while new < n and t0[new] - t0[i] <= merge:
            if alive[new]:
                while last > first:
                    q = queue[last - 1]
                    worse = rank[q] > rank[new] or (rank[q] == rank[new] and chi2[q] > chi2[new])
                    if not worse:
                        break
                    last -= 1
                queue[last] = new
                last += 1
            new += 1
        while first < last and t0[i] - t0[queue[first]] > merge:
            first += 1
        out[i] = queue[first] if first < last else -1
    return out


@kernel
def nearest(t0: I64, leads: Bool, merge: int) -> I64:
    """For each candidate the nearest leader within `merge`, the earlier of two as near; or −1."""
    n = len(t0)
    out = np.full(n, -1, np.int64)
    last = -1
    for i in range(n):
        if leads[i]:
            last = i
        if last >= 0 and t0[i] - t0[last] <= merge:
            out[i] = last
    following = -1
    for i in range(n - 1, -1, -1):
        if leads[i]:
            following = i
        if following < 0 or t0[following] - t0[i] > merge:
            continue
        if out[i] < 0 or t0[following] - t0[i] < t0[i] - t0[out[i]]:
            out[i] = following
    return out


@kernel
def _group(t0: I64, rank: U8, chi2: F32, merge: int) -> tuple[I64, Bool]:
    """`leaders` of one group."""
    n = len(t0)
    leads = np.zeros(n, np.bool_)
    alive = rank < FOLLOWER
    for _ in range(ROUNDS):
        best = best_near(t0, rank, chi2, alive, merge)
        for i in range(n):
            if alive[i] and best[i] == i:
                leads[i] = True
        owner = nearest(t0, leads, merge)
        for i in range(n):
            if owner[i] >= 0:
                alive[i] = False
    return nearest(t0, leads, merge), alive


@kernel
def leaders(t0: I64, rank: U8, chi2: F32, merge: int) -> tuple[I64, Bool]:
    """`(owner, left)`: each candidate's leader or −1, and who was left after the last round.

    `t0` int64 ps ascending; rank FOLLOWER never leads and is never left. Candidates more than
    `merge` apart have nothing to do with each other, so groups between such gaps are taken one
    by one; most need no rounds.
    """
    n = len(t0)
    owner = np.full(n, -1, np.int64)
    left = np.zeros(n, np.bool_)
    begin = 0
    while begin < n:
        end, best = begin, -1
        first, last = -1, -1
        while end < n and (end == begin or t0[end] - t0[end - 1] <= merge):
            if rank[end] < FOLLOWER:
                if best < 0 or (
                    rank[end] <= rank[best] and (rank[end] < rank[best] or chi2[end] < chi2[best])
                ):
                    best = end
                first = end if first < 0 else first
                last = end
            end += 1
        if best >= 0:
            if t0[best] - t0[first] <= merge and t0[last] - t0[best] <= merge:
                for i in range(begin, end):
                    if abs(t0[i] - t0[best]) <= merge:
                        owner[i] = best
            else:
                own, rest = _group(t0[begin:end], rank[begin:end], chi2[begin:end], merge)
                for i in range(end - begin):
                    owner[begin + i] = own[i] + begin if own[i] >= 0 else -1
                    left[begin + i] = rest[i]
        begin = end
    return owner, left
