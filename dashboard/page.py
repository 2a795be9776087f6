"""The page NOW: its skeleton, and the pieces that change each second as components."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dash_mantine_components as dmc
from dash import dcc, html

from dashboard import words
from dashboard.figures import FIGURES
from dashboard.tables import lamp
from dashboard.world import TopBar

TILES = {
    "occupancy": "Occupancy",
    "rate": "Rates",
    "drift-time": "Drift time",
    "multiplicity": "Multiplicity",
    "charge": "PMT charge",
    "psd": "PMT pulse shape",
}


def layout(system: str, run_types: Sequence[str]) -> Any:
    """The page before anything is known."""
    return dmc.MantineProvider(
        html.Div(
            [
                html.Header(
                    [
                        html.Div([html.B("freerun"), html.Span(system)], className="brand"),
                        html.Div(id="topbar", className="topbar"),
                    ]
                ),
                html.Div(
                    "The dashboard's server does not answer: what you see is old.",
                    id="lost",
                    className="banner",
                    role="alert",
                ),
                html.Div(id="banner", role="alert"),
                _controls(run_types),
                html.Main(
                    [
                        html.Aside(
                            [
                                _panel("Sources", html.Div(id="sources", className="scroll")),
                                _panel(
                                    "Services",
                                    html.Div(id="services", className="scroll"),
                                    html.Span(id="dask-link"),
                                ),
                            ]
                        ),
                        html.Section([_tile(name) for name in FIGURES], className="tiles"),
                        _panel("Runs", html.Div(id="runs", className="scroll"), name="runs-panel"),
                    ]
                ),
            ],
            id="page",
        ),
        forceColorScheme="light",
    )


def _controls(run_types: Sequence[str]) -> html.Div:
    return html.Div(
        [
            dmc.Button("Start Run", id="start-run", color="teal.8", size="sm", n_clicks=0),
            dmc.Button("Stop Run", id="stop-run", color="orange.9", size="sm", n_clicks=0),
            dmc.Select(
                id="run-type", data=list(run_types), value=run_types[0], w=130, size="sm",
                allowDeselect=False, **_name("type of the run"),
            ),
            dmc.TextInput(
                id="comment", placeholder="comment: what is special about this run?", size="sm",
                className="wide", **_name("comment"),
            ),
            dmc.TextInput(
                id="shifter", placeholder="shifter", size="sm", w=130,
                persistence=True, **_name("shifter"),
            ),
            html.Div(id="command-answer", role="status"),
            html.Div(id="plots-of"),
        ],
        className="controls",
    )  # fmt: skip


def _name(label: str) -> dict[str, Any]:
    """What a screen reader calls an input that has no visible label."""
    return {"aria-label": label}


def _panel(title: str, body: Any, extra: Any = None, name: str = "") -> html.Div:
    return html.Div([html.H2([title, extra]), body], className=f"panel {name}".rstrip())


def _tile(name: str) -> html.Div:
    graph = dcc.Graph(
        id=name,
        figure={},
        responsive=True,
        className="graph",
        config={"displaylogo": False, "modeBarButtonsToRemove": ["select2d", "lasso2d"]},
    )
    extra, below = None, None
    if name == "occupancy":
        extra = html.Span(["total ", html.B(id="occupancy-total"), " hits"])
        below = html.Div(id="occupancy-counts")
    return html.Div([html.H2([TILES[name], extra]), graph, below], className=f"panel tile {name}")


def topbar(top: TopBar) -> list[Any]:
    run = "–" if top.run is None else str(top.run)
    return [
        _stat("state", lamp(top.state), "state"),
        _stat("run", run, "run-number"),
        _stat("elapsed", words.clock(top.elapsed_s), "elapsed"),
        _stat("rate", words.si(top.words_per_s, "Hz"), "words-rate", "rows of all sources"),
        _stat("data", words.si(top.bytes_per_s, "B/s"), "data-rate"),
        _stat("events", words.si(top.events_per_s, "Hz"), "event-rate"),
        _stat("live", words.percent(top.live), "live", "slices that are complete"),
        _stat("lag", words.age(top.lag_s), "lag", "from the detector to these plots"),
        _stat("files", _per_hour(top.files_gb_h), "disk-files", "mean of the run"),
        _stat("raw topics", _per_hour(top.raw_gb_h), "disk-raw", "until their retention"),
        _stat("disk", lamp(top.disk) if top.disk else "–", "disk-left"),
        _stat("LEDGER", lamp(top.ledger), "ledger"),
    ]  # fmt: skip


def _per_hour(gigabytes: float | None) -> str:
    return words.si(None if gigabytes is None else gigabytes * 1e9, "B/h")


def _stat(label: str, value: Any, ident: str, hint: str = "") -> html.Div:
    return html.Div([html.Small(label), html.Span(value, id=ident)], className="stat", title=hint)


def banner(trouble: str) -> Any:
    return html.Div([html.B("NO NEW DATA. "), trouble], className="banner on") if trouble else None
