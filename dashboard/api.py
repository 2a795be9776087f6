"""REST for machines, the files of the runs, and the bytes that feed the page."""

from __future__ import annotations

import mimetypes
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import FileResponse, JSONResponse, Response
from pydantic import BaseModel, Field

from dashboard.board import Board
from dashboard.feed import Answer, Feed
from dashboard.files import Shelf

LONG = ("plan", "bench_toml")  # parts of a run document that a list leaves out
TEXT = {".txt", ".json", ".csv", ".toml"}


class StartRun(BaseModel):
    """Body of `POST /api/run/start`; `stop_after` is {"time_ns": n} or {"events": n}."""

    type: str = ""
    comment: str = ""
    shifter: str = ""
    stop_after: dict[str, int] | None = None


class StopRun(BaseModel):
    """Body of `POST /api/run/stop`; may be `{}`."""

    shifter: str = Field(default="")


def make_api(feed: Feed, board: Board, shelf: Shelf) -> FastAPI:
    """The server with its REST; nothing in it needs anything from outside this machine."""
    api = FastAPI(title="freerun", docs_url=None, redoc_url=None)

    @api.get("/api/view", include_in_schema=False)
    def view(seen: str = "") -> Response:
        return Response(
            board.update(seen[:40]), media_type="application/json",
            headers={"Cache-Control": "no-store"},
        )  # fmt: skip

    @api.get("/api/status")
    def status() -> dict[str, Any]:
        now = board.view()
        said = asdict(now)
        del said["runs"], said["top"]
        return asdict(now.top) | said

    @api.get("/api/runs")
    def runs() -> list[dict[str, Any]]:
        return [_short(feed.runs[n]) for n in sorted(feed.runs, reverse=True)]

    @api.get("/api/runs/{number}")
    def run(number: int) -> Response:
        document = feed.runs.get(number)
        if document is None:
            return _problem(404, f"there is no run {number}")
        writers = [d for (n, _), d in sorted(feed.writers.items()) if n == number]
        files = [asdict(f) | {"path": f"/files/{number}/{f.name}"} for f in shelf.list(document)]
        return JSONResponse({**document, "writers": writers, "stored": files})

    @api.get("/api/hists")
    def hists(name: str = "") -> Response:
        """All histograms of the run (or the one called `name`) with their axes and values."""
        snapshot = feed.snapshot
        if snapshot is None:
            return _problem(404, "there is no histogram yet: no run has been seen")
        chosen = {n: h for n, h in snapshot.hists.items() if name in ("", n)}
        if not chosen:
            return _problem(404, f"there is no histogram {name[:100]!r}")
        listed = [{**hist.to_json(), "values": v.tolist()} for hist, v in chosen.values()]
        return JSONResponse({"info": dict(snapshot.info), "hists": listed})

    @api.post("/api/run/start")
    def start(body: StartRun) -> Response:
        args: dict[str, Any] = {"type": body.type, "comment": body.comment, "shifter": body.shifter}
        if body.stop_after:
            args["stop_after"] = body.stop_after
        return _said(feed.command("start_run", body.shifter or "rest", **args))

    @api.post("/api/run/stop")
    def stop(body: StopRun) -> Response:
        return _said(feed.command("stop_run", body.shifter or "rest"))

    @api.get("/api/{rest:path}", include_in_schema=False)
    def unknown(rest: str) -> Response:
        return _problem(404, f"there is no /api/{rest[:100]}")

    @api.get("/files/{number}/{name:path}", include_in_schema=False)
    def file(number: int, name: str) -> Response:
        path = shelf.find(feed.runs.get(number, {}), name)
        if path is None:
            return _problem(404, f"run {number} has no file {name[:100]!r}")
        return _sent(path)

    return api


def _short(document: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key not in LONG}


def _problem(status: int, text: str) -> JSONResponse:
    return JSONResponse({"ok": False, "text": text}, status_code=status)


def _said(answer: Answer) -> JSONResponse:
    status = {True: 200, False: 409, None: 504}[answer.ok]
    return JSONResponse(asdict(answer), status_code=status)


def _sent(path: Path) -> FileResponse:
    """Papers are shown, data are downloaded; nothing is ever taken for a page or a script."""
    if path.suffix in TEXT:
        return FileResponse(path, media_type="text/plain; charset=utf-8")
    kind = mimetypes.guess_type(path.name)[0]
    safe = kind if kind in ("image/png", "application/x-hdf5") else "application/octet-stream"
    return FileResponse(path, media_type=safe, filename=path.name)
