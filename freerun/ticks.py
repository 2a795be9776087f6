"""Exact time: native ticks of a device to nanoseconds and picoseconds, in integers only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Clock:
    """How one source's ticks become experiment time (Unix epoch).

    Tick 0 is at `anchor_ns` plus `offset_ps`; a tick lasts `num / den` nanoseconds.
    """

    anchor_ns: int
    num: int
    den: int
    offset_ps: int = 0

    def ps(self, tick: int) -> int:
        """Floor of the experiment time of `tick` in ps, exact."""
        return self.anchor_ns * 1000 + self.offset_ps + tick * self.num * 1000 // self.den

    def ns(self, tick: int) -> int:
        """Floor of the experiment time of `tick` in ns, exact."""
        return self.ps(tick) // 1000

    def tick_at(self, t_ns: int) -> int:
        """The first tick whose floored ns is at or after `t_ns`."""
        ps = t_ns * 1000 - self.anchor_ns * 1000 - self.offset_ps
        return -(-ps * self.den // (self.num * 1000))

    def base_ps(self, base_tick: int, start_ns: int) -> tuple[int, int]:
        """`(constant, remainder)` such that, exactly and without overflow, for every tick near
        `base_tick`: `ps since start_ns = constant + ((tick-base)*num*1000 + remainder) // den`.
        """
        whole, rest = divmod(base_tick * self.num * 1000, self.den)
        return (self.anchor_ns - start_ns) * 1000 + self.offset_ps + whole, rest

    def ps_since(self, ticks: Int64, start_ns: int) -> Int64:
        """Floor of the time of each tick since `start_ns`, in ps (int64, same shape)."""
        if len(ticks) == 0:
            return np.empty(0, np.int64)
        base = self.tick_at(start_ns)
        constant, rest = self.base_ps(base, start_ns)
        return constant + ((ticks - base) * (self.num * 1000) + rest) // self.den
