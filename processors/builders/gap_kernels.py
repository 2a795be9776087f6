"""The compiled loops of the `gaps` builder."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from freerun.jit import kernel

I64 = npt.NDArray[np.int64]
I16 = npt.NDArray[np.int16]
U8 = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]


@kernel
def breaks(t: I64, ticks: I64, role: U8, last_role: int, num: int, den: int, gap: int) -> Bool:
    """Where an event begins: rows of role 1…`last_role` more than `gap` ps after the one before.

    Two rows of one clock compare by ticks of `num / den` ps, exactly. They are of one clock if
    both times are the same whole number of ps plus the floor of their ticks, which is what
    `odd == 0` says (rows of an unrelated clock miss it); other pairs compare by their ps. Looking
    at pairs only keeps the answer independent of what else is in the slice.
    """
    out = np.zeros(len(t), np.bool_)
    before = -1
    for i in range(len(t)):
        if role[i] == 0 or role[i] > last_role:
            continue
        if before < 0:
            out[i] = True
        else:
            dt = t[i] - t[before]
            dn = ticks[i] - ticks[before]
            odd = dt * den - dn * num + (ticks[i] % den * num) % den
            odd -= (ticks[before] % den * num) % den
            out[i] = dn * num > gap * den if odd == 0 else dt > gap
        before = i
    return out


@kernel
def chains(
    t: I64, role: U8, last_role: int, begins: Bool, longest: int, lo: int, hi: int,
    first: I64, index: I64, was_cut: Bool,
) -> tuple[int, int]:  # fmt: skip
    """Collect the chains whose first row lies in `[lo, hi]`; returns `(events, rows)`.

    Row `j` of the result is row `index[j]` of the slice; event `e` begins at row `first[e]` of
    the result and holds all up to the next one's first. Rows more than `longest` after the first
    of their chain are in no event, which `was_cut[e]` tells. The outputs are as long as `t`.
    """
    n_events, n_rows, anchor, inside = 0, 0, 0, False
    for i in range(len(t)):
        if role[i] == 0 or role[i] > last_role:
            continue
        if begins[i]:
            anchor = t[i]
            inside = lo <= anchor <= hi
            if inside:
                first[n_events] = n_rows
                was_cut[n_events] = False
                n_events += 1
        if not inside:
            continue
        if t[i] - anchor <= longest:
            index[n_rows] = i
            n_rows += 1
        else:
            was_cut[n_events - 1] = True
    return n_events, n_rows
