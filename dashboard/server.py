"""Everything put together: the feed, the board, REST and the pages on one port."""

from __future__ import annotations

import math
import shutil
import socket
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import uvicorn
from dash import Dash

from dashboard import callbacks, page
from dashboard.api import make_api
from dashboard.board import Board
from dashboard.feed import Feed
from dashboard.files import Shelf
from dashboard.guard import LOCAL, Guard
from dashboard.world import World
from freerun.errors import EnvironmentProblem

ASSETS = Path(__file__).parent / "assets"


@dataclass(frozen=True)
class Setting:
    """What the dashboard needs to know of a bench."""

    system: str
    slice_ns: int
    sources: tuple[str, ...] = ()
    run_types: tuple[str, ...] = ("beam", "cosmics", "test")
    keep: tuple[float, float] = (math.inf, math.inf)  # a raw topic: seconds, bytes

    def with_types(self, run_types: Iterable[str]) -> Setting:
        return replace(self, run_types=tuple(run_types))


def make_app(bench: Setting, feed: Feed, data: Path) -> Dash:
    """The web application; `data` is the folder that holds the folders of the runs."""
    shelf = Shelf(data)

    def world() -> World:
        return World(
            now_ns=time.time_ns(),
            system=bench.system,
            slice_ns=bench.slice_ns,
            sources=bench.sources,
            snapshot=feed.snapshot,
            states=feed.states,
            runs=feed.runs,
            writers=feed.writers,
            trouble=feed.trouble,
            disk_free=_free(data),
            keep_s=bench.keep[0],
            keep_bytes=bench.keep[1],
        )

    board = Board(world, shelf)
    app = Dash(
        "dashboard",
        server=make_api(feed, board, shelf),  # type: ignore[arg-type]
        backend="fastapi",
        assets_folder=str(ASSETS),
        serve_locally=True,
        title="freerun",
        update_title="",
    )
    app.layout = page.layout(bench.system, bench.run_types)
    callbacks.connect(app, feed)
    return app


def _free(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes any free one. Raises `EnvironmentProblem`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(128)  # who has the URL may come at once, and waits until we serve
    except OSError as error:
        sock.close()
        raise EnvironmentProblem(
            f"the dashboard cannot use {host}:{port} ({error.strerror}): give it another --port, "
            "or 0 for any free one"
        ) from error
    return sock


def make_server(app: Dash, hosts: Sequence[str] = ()) -> uvicorn.Server:
    """The web server; `hosts` are names it may be called by besides those of this machine."""
    guarded = Guard(app.server, LOCAL | frozenset(hosts))
    config = uvicorn.Config(
        guarded, log_level="warning", access_log=False, lifespan="on", timeout_graceful_shutdown=3
    )
    return uvicorn.Server(config)
