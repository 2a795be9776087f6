"""Monitors: mergeable histograms of integers, their axes and their names."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Axis:
    """A regular axis: `bins` bins from `lo` to `hi`, with its label and unit."""

    label: str
    bins: int
    lo: float
    hi: float
    unit: str = ""

    @property
    def title(self) -> str:
        return f"{self.label} [{self.unit}]" if self.unit else self.label


@dataclass(frozen=True)
class Hist:
    """A histogram's name (`<detector>/<name>`), title and one or two axes.

    Values are int64 of shape `tuple(axis.bins)`; what falls outside is counted nowhere, so a
    histogram meant to be complete has axes that cover everything.
    """

    name: str
    title: str
    axes: tuple[Axis, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(axis.bins for axis in self.axes)

    def zeros(self) -> npt.NDArray[np.int64]:
        return np.zeros(self.shape, np.int64)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Hist:
        axes = tuple(Axis(**axis) for axis in data["axes"])
        return cls(name=data["name"], title=data["title"], axes=axes)
