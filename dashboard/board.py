"""What all viewers get: one look a second, made once, only while somebody is looking.

Each piece of the page carries the version in which it last changed, so a viewer gets only what
it has not seen; figures are made anew only when a new snapshot has come.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from dashboard import page, tables
from dashboard.figures import figures
from dashboard.files import Shelf
from dashboard.snapshot import Snapshot
from dashboard.view import look
from dashboard.world import View, World

FRESH_S = 0.9  # a look is this long the same for everybody


class Board:
    """Safe for any number of threads; `world` says what is known now."""

    def __init__(self, world: Callable[[], World], shelf: Shelf) -> None:
        self._world, self._shelf = world, shelf
        self._boot = str(time.time_ns())  # another server has other versions
        self._lock = threading.Lock()
        self._made = -1e9
        self._version = 0
        self._pieces: dict[str, tuple[int, str]] = {}  # "id.property" → version, JSON
        self._answers: dict[str, bytes] = {}
        self._drawn: Snapshot | None = None
        self._view: View | None = None
        self.drawings = 0  # how often figures were made

    def view(self) -> View:
        with self._lock:
            self._refresh()
            assert self._view is not None
            return self._view

    def update(self, seen: str) -> bytes:
        """JSON `{seen, title, set: {"id.property": value}}` of all that changed after `seen`."""
        with self._lock:
            self._refresh()
            assert self._view is not None
            if seen not in self._answers:
                self._answers[seen] = self._answer(self._view, seen)
            return self._answers[seen]

    def _answer(self, view: View, seen: str) -> bytes:
        boot, _, number = seen.partition("-")
        known = int(number) if boot == self._boot and number.isdecimal() else -1
        news = ",".join(f'"{k}":{text}' for k, (v, text) in self._pieces.items() if v > known)
        head = json.dumps({"seen": f"{self._boot}-{self._version}", "title": _title(view)})
        return f'{head[:-1]},"set":{{{news}}}}}'.encode()

    def _refresh(self) -> None:
        if time.monotonic() - self._made < FRESH_S:
            return
        self._made = time.monotonic()
        world, view = self._look()
        self._view = view
        self._version += 1
        self._answers.clear()
        for piece, value in self._small(world, view).items():
            self._put(piece, value)
        if self._drawn is not world.snapshot or not self._pieces.get("occupancy.figure"):
            self._drawn = world.snapshot
            self.drawings += 1
            for name, figure in figures(world.snapshot).items():
                self._put(f"{name}.figure", figure)
            self._put("occupancy-counts.children", _single_counts(world.snapshot))

    def _look(self) -> tuple[World, View]:
        """What is known and what of it is shown; a record of nonsense does not blind the page."""
        world = self._world()
        try:
            return world, look(world)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            what = f"a heartbeat or a document in Kafka is not as agreed ({error!r})"
            world = replace(world, states={}, runs={}, writers={}, snapshot=None, trouble=what)
            return world, look(world)

    def _small(self, world: World, view: View) -> dict[str, Any]:
        files = {
            line.number: [(f.name, f.bytes) for f in self._shelf.list(world.runs[line.number])]
            for line in view.runs
        }
        return {
            "topbar.children": page.topbar(view.top),
            "banner.children": page.banner(view.trouble),
            "sources.children": tables.sources(view.sources),
            "services.children": tables.services(view.services),
            "runs.children": tables.runs(view.runs, files),
            "plots-of.children": view.plots,
            "occupancy-total.children": "0" if view.hits is None else f"{view.hits:,}",
            "dask-link.children": tables.dask_link(view.dask),
            "start-run.disabled": view.top.running,
            "stop-run.disabled": not view.top.running,
        }

    def _put(self, piece: str, value: Any) -> None:
        text = json.dumps(value, separators=(",", ":"), default=_component)
        old = self._pieces.get(piece)
        if old is None or old[1] != text:
            self._pieces[piece] = (self._version, text)


def _component(value: Any) -> Any:
    return value.to_plotly_json()


def _title(view: View) -> str:
    run = "" if view.top.run is None else f" run {view.top.run}"
    return f"{tables.SHAPES[view.top.state.level]} {view.top.state.text}{run} · freerun"


def _single_counts(snapshot: Snapshot | None) -> str:
    """Detectors of one channel: "scint 1,234 · pmt_up 567 hits"."""
    if snapshot is None:
        return ""
    single = {d: c for d, (_, c) in snapshot.ending("/occupancy").items() if c.size == 1}
    text = " · ".join(f"{det} {int(counts.sum()):,}" for det, counts in single.items())
    return f"{text} hits" if text else ""
