"""How plots look: colours, fonts, axes, legends, as Plotly's plain dicts."""

from __future__ import annotations

from typing import Any

import numpy as np

Figure = dict[str, Any]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("solid", "dash", "dot", "dashdot")
INK, GRID, PAPER, NO_HITS = "#33404d", "#e3e8ed", "#ffffff", "#c4ccd4"
FONT = {"family": "'DejaVu Sans', 'Liberation Sans', Arial, sans-serif", "size": 12, "color": INK}


def empty(text: str) -> Figure:
    """A figure that says why it is empty."""
    note = {"text": text, "showarrow": False, "font": {"size": 14, "color": "#7a8794"},
            "xref": "paper", "yref": "paper", "x": 0.5, "y": 0.5}  # fmt: skip
    hidden = {"visible": False}
    return {"data": [], "layout": layout(annotations=[note], xaxis=hidden, yaxis=hidden)}


def share(i: int, n: int, gap: float = 0.06) -> tuple[float, float]:
    """The i-th of n equal parts of [0, 1] with a gap between."""
    size = (1 - gap * (n - 1)) / n
    return i * (size + gap), i * (size + gap) + size


def centres(lo: float, hi: float, bins: int) -> list[float]:
    width = (hi - lo) / bins
    return [round(float(lo + (i + 0.5) * width), 9) for i in range(bins)]


def line(i: int, name: str, x: Any, y: Any, hover: str) -> dict[str, Any]:
    """The i-th line of a plot; without `x` the caller gives `x0` and `dx`."""
    style = {"color": COLOURS[i % 6], "dash": DASHES[i % 4], "width": 1.6}
    where = {} if x is None else {"x": np.round(np.asarray(x, float), 3).tolist()}
    return {
        "type": "scatter", "mode": "lines", "name": name, "line": style, **where,
        "y": np.asarray(y).round(4).tolist(), "hovertemplate": hover,
    }  # fmt: skip


def axis(title: str, **more: Any) -> dict[str, Any]:
    return {
        "title": {"text": title, "standoff": 4}, "gridcolor": GRID, "zeroline": False,
        "ticks": "outside", "ticklen": 3, "tickcolor": GRID, "automargin": False,
        "exponentformat": "SI",
    } | more  # fmt: skip


def legend() -> dict[str, Any]:
    return {"orientation": "h", "x": 1, "xanchor": "right", "y": 1.0, "yanchor": "bottom",
            "font": {"size": 12}}  # fmt: skip


def corner(text: str) -> dict[str, Any]:
    return {"text": text, "showarrow": False, "xref": "paper", "yref": "paper", "x": 1, "y": 1,
            "xanchor": "right", "yanchor": "bottom", "font": {"size": 12}}  # fmt: skip


def layout(**more: Any) -> dict[str, Any]:
    return {
        "font": FONT, "paper_bgcolor": PAPER, "plot_bgcolor": PAPER,
        "margin": {"l": 58, "r": 12, "t": 22, "b": 40},
        # constant: what the viewer zoomed or hid stays when new data come
        "uirevision": "freerun",
    } | more  # fmt: skip
