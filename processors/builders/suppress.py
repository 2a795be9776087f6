"""Which candidates become segments: those that are the best for every one of their hits.

Not a greedy pass, whose outcome may hang on a hit far away, but two rounds in which all
candidates are judged at once: first the best for all their hits are kept; then, among those that
share no hit with a kept one, the same again. So whether one is kept depends on candidates at most
three shared hits away: `1 + 3` spans of a candidate to either side.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from freerun.jit import kernel

I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]
U8 = npt.NDArray[np.uint8]
F64 = npt.NDArray[np.float64]

ROUNDS = 2
LINKS = 2 * ROUNDS - 1
"""How many shared hits away another candidate may matter."""

DROPPED, KEPT, AMBIGUOUS = 0, 1, 2


@kernel
def _better(n: int, chi2: float, t0: int, than_n: int, than_chi2: float, than_t0: int) -> bool:
    if n != than_n:
        return n > than_n
    if chi2 != than_chi2:
        return chi2 < than_chi2
    return t0 < than_t0


@kernel
def keep(t0: I64, chi2: F64, hits: I32, n: U8, n_hits: int) -> U8:
    """DROPPED, KEPT or KEPT + AMBIGUOUS (as many hits as another that shares one) for each.

    Better is: more hits, then smaller chi2, then earlier t0, then earlier in the list (which is
    the order of the seeds).
    """
    count = len(t0)
    state = np.zeros(count, np.uint8)
    taken = np.zeros(n_hits, np.bool_)
    four, three = np.zeros(n_hits, np.uint8), np.zeros(n_hits, np.uint8)
    best = np.full(n_hits, -1, np.int64)
    for c in range(count):
        uses = four if n[c] == 4 else three
        for k in range(4):
            hit = hits[c, k]
            if hit >= 0 and uses[hit] < 2:
                uses[hit] += 1
    alive, left = np.arange(count), count
    for _ in range(ROUNDS):
        for a in range(left):
            for k in range(4):
                hit = hits[alive[a], k]
                if hit >= 0:
                    best[hit] = -1
        for a in range(left):
            c = alive[a]
            for k in range(4):
                hit = hits[c, k]
                if hit < 0:
                    continue
                b = best[hit]
                if b < 0 or _better(n[c], chi2[c], t0[c], n[b], chi2[b], t0[b]):
                    best[hit] = c
        for a in range(left):
            c = alive[a]
            uses = four if n[c] == 4 else three
            wins, shared = True, False
            for k in range(4):
                hit = hits[c, k]
                if hit >= 0:
                    wins = wins and best[hit] == c
                    shared = shared or uses[hit] > 1
            if wins:
                state[c] = KEPT + (AMBIGUOUS if shared else 0)
                for k in range(4):
                    if hits[c, k] >= 0:
                        taken[hits[c, k]] = True
        still = 0
        for a in range(left):
            free = True
            for k in range(4):
                hit = hits[alive[a], k]
                if hit >= 0 and taken[hit]:
                    free = False
            if free:
                alive[still] = alive[a]
                still += 1
        left = still
    return state
