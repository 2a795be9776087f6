"""The promise where a driver has none of its own: newest time per lane minus its reorder window.

A lane is one board and one kind of word. A lane that falls silent is carried along by the others,
`hold` behind them, so that a rare kind of word does not stop the slices.

The newest time of a lane is the middle one of its last few words: an odd one out, seconds ahead
but not yet impossible, then promises nothing. A lane with fewer than three words may hold the
promise back but does not carry it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt


class Promises:
    """Times are native ticks. `windows[kind]` and `hold` are in ticks, too."""

    def __init__(
        self, windows: Mapping[int, int], default_window: int, hold: int, few: int = 1
    ) -> None:
        """`few`: words of a lane whose middle one counts as its newest."""
        self._windows = dict(windows)
        self._default = default_window
        self._hold = hold
        self._few = few
        self._last: dict[tuple[int, int], npt.NDArray[np.int64]] = {}
        self._newest: dict[tuple[int, int], int] = {}
        self._sure: set[tuple[int, int]] = set()

    def see(
        self,
        lanes: npt.NDArray[np.int64],
        ticks: npt.NDArray[np.int64],
    ) -> None:
        """Take in rows: `lanes` is board·256 + kind of each row."""
        for lane in np.unique(lanes):
            key, mine = divmod(int(lane), 256), ticks[lanes == lane]
            newest = int(mine.max()) if self._few == 1 else self._middle(key, mine)
            if key in self._sure:
                newest = max(newest, self._newest[key])
            elif self._few == 1 or len(self._last[key]) > 2:
                self._sure.add(key)
            self._newest[key] = newest

    def _middle(self, key: tuple[int, int], ticks: npt.NDArray[np.int64]) -> int:
        """The middle time (of two, the earlier) of the lane's last few words."""
        last = np.concatenate([self._last.get(key, ticks[:0]), ticks[-self._few :]])[-self._few :]
        self._last[key] = last
        return int(np.sort(last)[(len(last) - 1) // 2])

    def promise(self, now_tick: int | None = None) -> int | None:
        """Nothing earlier than this will follow; None while nothing is sure."""
        if not self._sure:
            return None if now_tick is None else now_tick - self._hold - self._default
        newest = max(self._newest[lane] for lane in self._sure)
        if now_tick is not None:
            newest = max(newest, now_tick)
        return min(
            max(lane, newest - self._hold) - self._windows.get(kind, self._default)
            for (_board, kind), lane in self._newest.items()
        )
