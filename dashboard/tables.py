"""Lists of the page: sources, services, runs with their files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dash import html

from dashboard import words
from dashboard.world import Lamp, RunLine, ServiceLine, SourceLine

SHAPES = {"good": "●", "busy": "◐", "warn": "▲", "bad": "✖", "off": "○"}  # not by colour alone


def lamp(value: Lamp) -> html.Span:
    mark = html.I(SHAPES[value.level], className=f"lamp {value.level}")
    return html.Span([mark, value.text], title=value.detail or value.text, className="lamped")


def sources(lines: Sequence[SourceLine]) -> Any:
    if not lines:
        return html.P("No source has been heard of.", className="nothing")
    rows = [
        [line.id, lamp(line.lamp), words.si(line.rate, "Hz"), words.age(line.data_age_s),
         words.age(line.promise_age_s), words.si(line.spool, "B")]
        for line in lines
    ]  # fmt: skip
    return _table(["source", "state", "rows", "data age", "promise", "spool"], rows, numbers=2)


def services(lines: Sequence[ServiceLine]) -> Any:
    if not lines:
        return html.P("No service has been heard of.", className="nothing")
    rows = [
        [_service_name(line), lamp(line.lamp), words.age(line.age_s), str(line.pid or "–")]
        for line in lines
    ]
    return _table(["service", "state", "heard", "pid"], rows, numbers=2)


def _service_name(line: ServiceLine) -> str:
    return line.role if line.id in (line.role, "") else f"{line.role}/{line.id}"


def dask_link(url: str) -> Any:
    if not url:
        return None
    return html.A("Dask dashboard ↗", href=url, target="_blank", rel="noopener noreferrer")


def runs(lines: Sequence[RunLine], files: dict[int, list[tuple[str, int]]]) -> Any:
    if not lines:
        return html.P("No run yet.", className="nothing")
    head = ["run", "state", "type", "comment", "shifter", "start", "duration", "events",
            "ledger", "files"]  # fmt: skip
    body = [
        html.Tr(
            [
                html.Td(html.A(str(line.number), href=f"/api/runs/{line.number}")),
                html.Td(lamp(line.state)),
                html.Td(line.type),
                html.Td(line.comment, className="comment", title=line.comment),
                html.Td(line.shifter),
                html.Td(words.moment(line.start_ns)),
                html.Td(words.clock(line.duration_s), className="number"),
                html.Td(words.count(line.events), className="number"),
                html.Td(lamp(line.ledger)),
                html.Td(_links(line.number, files.get(line.number, [])), className="files"),
            ],
            key=str(line.number),
            id=f"run-{line.number}",
        )
        for line in lines
    ]
    return html.Table(
        [
            html.Thead(html.Tr([html.Th(h, className=_align(h)) for h in head])),
            html.Tbody(body),
        ]
    )


def _align(head: str) -> str:
    return "number" if head in ("duration", "events") else ""


def _links(run: int, files: Sequence[tuple[str, int]], shown: int = 3) -> Any:
    links = [
        html.A(
            [_short(run, name), html.Small(f" {words.si(size, 'B')}")],
            href=f"/files/{run}/{name}",
            title=name,
            className="file",
        )
        for name, size in files
    ]
    if len(links) <= shown + 1:
        return links
    more = html.Details([html.Summary(f"{len(links) - shown} more"), *links[shown:]])
    return [*links[:shown], more]


def _short(run: int, name: str) -> str:
    """The number of the run stands in the first column already."""
    return name.removeprefix(f"Run{run:06d}_")


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]], numbers: int) -> html.Table:
    """A table whose columns from `numbers` on are aligned right."""

    def kind(i: int) -> str:
        return "number" if i >= numbers else ""

    return html.Table(
        [
            html.Thead(html.Tr([html.Th(h, className=kind(i)) for i, h in enumerate(head)])),
            html.Tbody(
                [html.Tr([html.Td(c, className=kind(i)) for i, c in enumerate(r)]) for r in rows]
            ),
        ]
    )
