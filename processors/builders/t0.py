"""From leaders and their followers to events: one t0 each, by the first kind that exists."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from freerun.jit import kernel

I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

KINDS = 6
"""Codes of t0 kinds (see freerun.builder)."""


@kernel
def combine(
    t0: I64, kind: U8, owner: I64, order: I64, error: F64, shared_error: F64
) -> tuple[I64, U8, F32, I64]:  # fmt: skip
    """`(anchor, kind, error, number)`: the events, and for each candidate its event or −1.

    An event's t0 is the floored mean of its candidates of the first kind in `order` that it has.
    Its error (ns) is that of one, `error[kind]`, of which all but `shared_error[kind]` shrinks
    with their number. Candidates ascend in t0, so those of an event follow each other but for
    ones that belong to none; events come out in order of their anchors.
    """
    n = len(t0)
    number = np.full(n, -1, np.int64)
    anchor, which = np.empty(n, np.int64), np.empty(n, np.uint8)
    sigma = np.empty(n, np.float32)
    total, count = np.zeros(KINDS, np.int64), np.zeros(KINDS, np.int64)
    events, i = 0, 0
    while i < n:
        lead = owner[i]
        if lead < 0:
            i += 1
            continue
        total[:] = 0
        count[:] = 0
        while i < n and (owner[i] == lead or owner[i] < 0):
            if owner[i] == lead:
                total[kind[i]] += t0[i] - t0[lead]
                count[kind[i]] += 1
                number[i] = events
            i += 1
        for k in order:
            if count[k] > 0:
                anchor[events] = t0[lead] + total[k] // count[k]
                which[events] = k
                alone, common = error[k], shared_error[k]
                sigma[events] = np.sqrt((alone**2 - common**2) / count[k] + common**2)
                break
        events += 1
    return anchor[:events].copy(), which[:events].copy(), sigma[:events].copy(), number
