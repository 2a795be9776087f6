"""Snapshots into Plotly figures: pure functions, plain dicts, units on every axis.

Colours are Okabe and Ito's (lines) and cividis (maps), which the colour-blind tell apart; lines
also differ in their dashes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from dashboard import style
from dashboard.snapshot import OCCUPANCY, Counts, Snapshot
from dashboard.style import COLOURS, NO_HITS, Figure, empty
from dashboard.words import count, prefix
from freerun.histograms import Hist

ROWS_OF_MAP = 2


def figures(snapshot: Snapshot | None) -> dict[str, Figure]:
    """All figures of the page by the id of their graph."""
    if snapshot is None or not snapshot.hists:
        what = "run" if snapshot is None else "slice"
        return {name: empty(f"waiting for the first {what}") for name in FIGURES}
    return {name: make(snapshot) for name, make in FIGURES.items()}


def occupancy(snapshot: Snapshot) -> Figure:
    """Layer × cell map of each chamber on one colour scale; cells without a hit are grey."""
    maps = {
        det: entry for det, entry in snapshot.ending(OCCUPANCY).items() if entry[1].shape != (1, 1)
        and entry[1].ndim == 2
    }  # fmt: skip
    if not maps:
        return empty("no drift-tube chamber in this run")
    columns = -(-len(maps) // ROWS_OF_MAP)
    rows = min(ROWS_OF_MAP, len(maps))
    top = _cap(np.concatenate([counts.ravel() for _, counts in maps.values()]))
    layout = style.layout(
        margin={"l": 46, "r": 8, "t": 22, "b": 40},
        coloraxis={"colorscale": "Cividis", "cmin": 0, "cmax": top,
                   "colorbar": {"title": {"text": "hits", "side": "right"}, "thickness": 10,
                                "outlinewidth": 0, "tickformat": "~s", "x": 1.01}},
        annotations=[],
    )  # fmt: skip
    data = []
    for i, (det, (hist, counts)) in enumerate(maps.items()):
        column, row = i % columns, i // columns
        n = "" if i == 0 else str(i + 1)
        x, down = style.share(column, columns), style.share(row, rows, 0.2)
        y = (1 - down[1], 1 - down[0])  # rows are counted from above, Plotly's y from below
        layers, cells = hist.axes
        data.append(
            {
                "type": "heatmap", "z": _or_none(counts), "coloraxis": "coloraxis",
                "xaxis": f"x{n}", "yaxis": f"y{n}", "xgap": 1, "ygap": 1, "hoverongaps": True,
                "x": style.centres(cells.lo, cells.hi, cells.bins),
                "y": style.centres(layers.lo, layers.hi, layers.bins),
                "hovertemplate": f"{det} layer %{{y}} cell %{{x}}: %{{z}} hits<extra></extra>",
            }
        )  # fmt: skip
        last = row == rows - 1
        layout[f"xaxis{n}"] = style.axis(
            "cell" if last else "", domain=x, anchor=f"y{n}", showgrid=False, dtick=5
        )
        layout[f"yaxis{n}"] = style.axis(
            "layer" if column == 0 else "", domain=y, anchor=f"x{n}", showgrid=False, dtick=1
        )
        layout["annotations"].append(
            {"text": f"<b>{det}</b> {count(int(counts.sum()))} hits", "showarrow": False,
             "xref": "paper", "yref": "paper", "x": x[0], "y": y[1], "xanchor": "left",
             "yanchor": "bottom", "font": {"size": 12}}
        )  # fmt: skip
    layout["plot_bgcolor"] = NO_HITS
    return {"data": data, "layout": layout}


def rate(snapshot: Snapshot) -> Figure:
    """Rows of each source and events per second, over the run's time (last 10 minutes)."""
    times, rows, events = snapshot.rates()
    if not times:
        return empty("no rate yet")
    factor, name = prefix(max((max(r) for r in rows.values() if r), default=1.0))
    ev_factor, ev_name = prefix(max(events, default=1.0))
    data = [
        style.line(i, source, times, np.array(values) / factor, f"%{{y:.3g}} {name}Hz")
        for i, (source, values) in enumerate(rows.items())
    ]
    line = style.line(6, "events", times, np.array(events) / ev_factor, f"%{{y:.3g}} {ev_name}Hz")
    line |= {"yaxis": "y2", "line": {"color": COLOURS[6], "width": 1.6}}
    data.append(line)
    return {
        "data": data,
        "layout": style.layout(
            xaxis=style.axis("time since start of run [s]", anchor="y2"),
            yaxis=style.axis(f"rows [{name}Hz]", domain=(0.44, 1.0), rangemode="tozero"),
            yaxis2=style.axis(f"events [{ev_name}Hz]", domain=(0.0, 0.36), rangemode="tozero"),
            legend=style.legend(),
            hovermode="x unified",
        ),
    }


def drift_time(snapshot: Snapshot) -> Figure:
    return _overlay(snapshot, "/drift_time", "no drift times yet")


def charge(snapshot: Snapshot) -> Figure:
    return _overlay(snapshot, "/charge", "no PMT in this run", log=True)


def multiplicity(snapshot: Snapshot) -> Figure:
    return _overlay(snapshot, "/multiplicity", "no events yet", bars=True)


def psd(snapshot: Snapshot) -> Figure:
    """Pulse shape: lines if it is one-dimensional, else the map of the sum over the PMTs."""
    found = snapshot.ending("/psd")
    maps = {det: e for det, e in found.items() if e[1].ndim == 2}
    if not maps:
        return _overlay(snapshot, "/psd", "no PMT in this run", log=True)
    hist = next(iter(maps.values()))[0]
    same = {det: c for det, (h, c) in maps.items() if h.axes == hist.axes}
    counts = np.sum(list(same.values()), axis=0)
    if not counts.any():
        return empty("no pulses yet")
    (x, y), (across, along) = hist.axes, (_filled(counts.any(axis=1)), _filled(counts.any(axis=0)))
    part = counts[across, along].T
    z = [[None if v == 0 else round(float(np.log10(v)), 2) for v in row] for row in part]
    ticks = list(range(int(np.log10(counts.max())) + 1))
    bar = {"title": {"text": "pulses", "side": "right"}, "thickness": 10, "outlinewidth": 0,
           "tickvals": ticks, "ticktext": [f"10<sup>{t}</sup>" for t in ticks]}  # fmt: skip
    return {
        "data": [
            {
                "type": "heatmap", "z": z, "zmin": 0, "colorscale": "Cividis", "colorbar": bar,
                "x": style.centres(x.lo, x.hi, x.bins)[across],
                "y": style.centres(y.lo, y.hi, y.bins)[along],
                "hovertemplate": "%{x:.4g}, %{y:.3g}: 10<sup>%{z}</sup><extra></extra>",
            }
        ],
        "layout": style.layout(
            xaxis=style.axis(x.title),
            yaxis=style.axis(y.title),
            annotations=[style.corner(" + ".join(same))],
        ),
    }  # fmt: skip


FIGURES = {
    "occupancy": occupancy,
    "rate": rate,
    "drift-time": drift_time,
    "multiplicity": multiplicity,
    "charge": charge,
    "psd": psd,
}


def _overlay(
    snapshot: Snapshot, ending: str, why_empty: str, *, log: bool = False, bars: bool = False
) -> Figure:
    """The one-dimensional histograms `*<ending>` over each other."""
    found: Mapping[str, tuple[Hist, Counts]] = {
        det: entry for det, entry in snapshot.ending(ending).items() if entry[1].ndim == 1
    }
    found = _alike(found) if found else found
    if not any(counts.any() for _, counts in found.values()):
        return empty(why_empty)
    # what is empty on both sides is left out, and Plotly finds the range: a range of ours that
    # grows with the data would throw the viewer's zoom away
    used = _filled(np.any([c > 0 for _, c in found.values()], axis=0), slack=0.1)
    data = []
    for i, (det, (hist, counts)) in enumerate(found.items()):
        axis, shown = hist.axes[0], counts[used]
        if bars:
            # a bin [n, n + 1) of whole numbers stands at n
            shift = 0.5 if float(axis.lo).is_integer() and axis.hi - axis.lo == axis.bins else 0.0
            centres = style.centres(axis.lo - shift, axis.hi - shift, axis.bins)[used]
            data.append({"type": "bar", "name": det, "x": centres, "y": shown.tolist(),
                         "marker": {"color": COLOURS[i % 7]},
                         "hovertemplate": "%{x}: %{y}<extra></extra>"})  # fmt: skip
        else:
            values = np.append(shown, shown[-1:])
            # no entry has no logarithm: it stands at the floor, below one
            heights = np.maximum(values, 0.5) if log else values
            width = (axis.hi - axis.lo) / axis.bins
            line = style.line(i, det, None, heights, "%{y}")
            line |= {"x0": axis.lo + used.start * width, "dx": width}
            line["line"]["shape"] = "hv"
            if log:
                line |= {"customdata": values.tolist(), "hovertemplate": "%{customdata}"}
            data.append(line)
    axis = next(iter(found.values()))[0].axes[0]
    width = (axis.hi - axis.lo) / axis.bins
    per = "" if bars else f" / {width:,.6g} {axis.unit}".rstrip()
    what = "events" if ending == "/multiplicity" else "pulses" if log else "hits"
    scale = {"type": "log", "dtick": 1} if log else {"rangemode": "tozero"}
    return {
        "data": data,
        "layout": style.layout(
            xaxis=style.axis(axis.title), yaxis=style.axis(f"{what}{per}", **scale),
            legend=style.legend(), showlegend=len(data) > 1, bargap=0.08, hovermode="x unified",
        ),
    }  # fmt: skip


def _alike(found: Mapping[str, tuple[Hist, Counts]]) -> dict[str, tuple[Hist, Counts]]:
    """Those with the axis of the first: one plot has one axis."""
    axes = next(iter(found.values()))[0].axes
    return {det: entry for det, entry in found.items() if entry[0].axes == axes}


def _filled(some: npt.NDArray[np.bool_], slack: float = 0.0) -> slice:
    """From the first to the last that is true, and a share of that more on each side."""
    (where,) = np.nonzero(some)
    first, last = int(where[0]), int(where[-1])
    more = round(slack * (last - first))
    return slice(max(0, first - more), min(len(some), last + 1 + more))


def _cap(values: Counts) -> float:
    """Top of the colour scale: a noisy cell shall not darken all the others."""
    some = values[values > 0]
    if not len(some):
        return 1.0
    return float(max(1, min(some.max(), 2.5 * np.median(some))))


def _or_none(counts: Counts) -> list[list[int | None]]:
    return [[int(v) if v else None for v in line] for line in counts]
