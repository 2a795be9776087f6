"""The promise where a driver has none of its own: newest time per lane minus its reorder window.

A lane is one board and one kind of word. A lane that falls silent is carried along by the others,
`hold` behind them, so that a rare kind of word does not stop the slices.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt


class Promises:
    """Times are native ticks. `windows[kind]` and `hold` are in ticks, too."""

    def __init__(self, windows: Mapping[int, int], default_window: int, hold: int) -> None:
        self._windows = dict(windows)
        self._default = default_window
        self._hold = hold
        self._newest: dict[tuple[int, int], int] = {}

    def see(
        self,
        lanes: npt.NDArray[np.int64],
        ticks: npt.NDArray[np.int64],
    ) -> None:
        """Take in rows: `lanes` is board·256 + kind of each row."""
        for lane in np.unique(lanes):
            newest = int(ticks[lanes == lane].max())
            key = divmod(int(lane), 256)
            self._newest[key] = max(newest, self._newest.get(key, newest))

    def promise(self, now_tick: int | None = None) -> int | None:
        """Nothing earlier than this will follow; None before the first row."""
        if not self._newest:
            return None if now_tick is None else now_tick - self._hold - self._default
        newest = max(self._newest.values())
        if now_tick is not None:
            newest = max(newest, now_tick)
        return min(
            max(lane, newest - self._hold) - self._windows.get(kind, self._default)
            for (_board, kind), lane in self._newest.items()
        )
