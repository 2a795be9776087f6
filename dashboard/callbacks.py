"""What the two buttons do: send commands. The rest of the page is set by assets/live.js."""

from __future__ import annotations

import asyncio
from typing import Any

from dash import Dash, Input, Output, State, ctx, html, no_update

from dashboard.feed import Feed


def connect(app: Dash, feed: Feed) -> None:
    """Give the buttons of `app` their work."""

    @app.callback(
        Output("command-answer", "children"),
        Input("start-run", "n_clicks"),
        Input("stop-run", "n_clicks"),
        State("run-type", "value"),
        State("comment", "value"),
        State("shifter", "value"),
        running=[
            (Output("start-run", "loading"), True, False),
            (Output("stop-run", "loading"), True, False),
        ],
        prevent_initial_call=True,
    )
    async def press(
        _start: int, _stop: int, run_type: str | None, comment: str | None, shifter: str | None
    ) -> Any:
        shifter, comment = (shifter or "").strip()[:60], (comment or "").strip()[:500]
        who = shifter or "dashboard"
        if ctx.triggered_id not in ("start-run", "stop-run"):
            return no_update
        # in a thread of its own: an answer may take seconds, and others look meanwhile
        if ctx.triggered_id == "start-run":
            answer = await asyncio.to_thread(
                feed.command, "start_run", who, type=run_type or "", comment=comment,
                shifter=shifter,
            )  # fmt: skip
        else:
            answer = await asyncio.to_thread(feed.command, "stop_run", who)
        kind = "good" if answer.ok else "bad"
        return html.Span(answer.text, className=f"answer {kind}")
