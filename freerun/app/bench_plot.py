"""The plot of a benchmark: its curves if it has some, else a bar for each row, one panel a unit."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freerun.errors import ConfigError

if TYPE_CHECKING:
    from freerun.app.bench import Table


def check(file: Path) -> None:
    """`ConfigError` unless `file` ends in .html, or in .png with kaleido installed."""
    if file.suffix not in (".html", ".png"):
        raise ConfigError(f"--plot: {file} ends neither in .html nor in .png")
    if file.suffix == ".png" and find_spec("kaleido") is None:
        raise ConfigError(
            f"--plot: {file} needs the package kaleido, which draws plotly's figures as PNG: "
            "pip install kaleido, or ask for a .html"
        )
    if not file.absolute().parent.is_dir():
        raise ConfigError(f"--plot: there is no folder {file.absolute().parent}")


def write(table: Table, machine: dict[str, Any], file: Path) -> None:
    """Draw `table` and write it; a .html is one file that needs nothing else."""
    check(file)
    figure = _lines(table) if table.curves else _bars(table)
    about = f"{machine['cpu']}, {machine['cores']} cores, memcpy {machine['memcpy_GB_s']} GB/s"
    figure.update_layout(title=f"freerun bench {table.bench} · {about}", template="plotly_white")
    if file.suffix == ".png":
        figure.write_image(str(file))
    else:
        figure.write_html(str(file), include_plotlyjs=True)


def _lines(table: Table) -> Any:
    import plotly.graph_objects as go

    figure = go.Figure()
    for c in table.curves:
        line = {"dash": "dash"} if c.dashed else {}
        figure.add_scatter(x=list(c.x), y=list(c.y), name=c.name, mode="lines+markers", line=line)
    figure.update_xaxes(title=table.axes[0], rangemode="tozero")
    figure.update_yaxes(title=table.axes[1], rangemode="tozero")
    return figure


def _bars(table: Table) -> Any:
    from plotly.subplots import make_subplots

    units = list(dict.fromkeys(r["unit"] for r in table.rows))
    figure = make_subplots(rows=len(units) or 1, cols=1, subplot_titles=units)
    for panel, unit in enumerate(units, 1):
        rows = [r for r in table.rows if r["unit"] == unit]
        low = [0 if r["low"] is None else r["value"] - r["low"] for r in rows]
        high = [0 if r["high"] is None else r["high"] - r["value"] for r in rows]
        figure.add_bar(
            y=[r["what"] for r in rows], x=[r["value"] for r in rows], orientation="h",
            error_x={"type": "data", "array": high, "arrayminus": low}, name=unit,
            showlegend=False, row=panel, col=1,
        )  # fmt: skip
        goals = [r for r in rows if r["goal"] is not None]
        figure.add_scatter(
            y=[r["what"] for r in goals], x=[r["goal"] for r in goals], mode="markers",
            marker={"symbol": "line-ns-open", "size": 18, "color": "black"}, name="goal",
            showlegend=False, row=panel, col=1,
        )  # fmt: skip
        figure.update_yaxes(autorange="reversed", row=panel, col=1)
    figure.update_layout(height=140 + 120 * len(units) + 22 * len(table.rows))
    return figure
