"""What is shown, made of what is known. Pure: no Kafka, no Dash, no clock but `World.now_ns`."""

from __future__ import annotations

from collections.abc import Iterable

from dashboard.topbar import ledger_lamp, top_bar
from dashboard.words import age, count, percent
from dashboard.world import (
    BAD,
    BUSY,
    FORGET_S,
    GOOD,
    OFF,
    SILENT_S,
    WARN,
    Document,
    Lamp,
    RunLine,
    ServiceLine,
    SourceLine,
    View,
    World,
)

LATE_S = 3.0  # a promise older than this is worth a colour
SPOOL_BYTES = 64_000_000  # what waits for the broker in passing is less


def look(world: World, most_runs: int = 50) -> View:
    """Everything the page and `/api/status` say about `world`."""
    return View(
        top=top_bar(world),
        sources=[_source(world, s) for s in _source_ids(world)],
        services=_services(world),
        runs=[_run_line(world, n) for n in sorted(world.runs, reverse=True)[:most_runs]],
        plots=_plots(world),
        hits=world.snapshot.hits if world.snapshot else None,
        dask=_dask(world),
        trouble=world.trouble,
    )


def _source_ids(world: World) -> list[str]:
    heard = [
        key.removeprefix("source/")
        for key, state in world.states.items()
        if key.startswith("source/") and world.heard_s(state) < FORGET_S
    ]
    return list(dict.fromkeys([*world.sources, *sorted(heard)]))


def _source(world: World, source: str) -> SourceLine:
    state = world.states.get(f"source/{source}")
    if state is None:
        return SourceLine(source, Lamp(OFF, "NEVER HEARD"), None, None, None, None)
    closed, promise = state.get("closed"), state.get("promise_age_s")
    name = str(state.get("state") or "?").upper()
    running = name == "RUNNING"
    known = closed is not None and int(closed) >= 0 and running
    return SourceLine(
        id=source,
        lamp=_service_lamp(world, state),
        rate=None if world.heard_s(state) > SILENT_S else _number(state.get("rate")),
        # the last closed slice ended at (closed + 1) · L
        data_age_s=world.age_s((int(closed) + 1) * world.slice_ns)
        if closed is not None and known
        else None,
        promise_age_s=_number(promise) if running else None,
        spool=None if state.get("spool") is None else int(state["spool"]),
    )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _service_lamp(world: World, state: Document) -> Lamp:
    heard, name = world.heard_s(state), str(state.get("state") or "?").upper()
    error = str(state.get("error") or "")
    if name in ("STOPPED", "ENDED"):
        return Lamp(OFF, name, error)
    if heard > SILENT_S:
        return Lamp(BAD, "SILENT", f"no heartbeat for {heard:.0f} s; it last said {name}")
    if name == "ERROR":
        return Lamp(BAD, name, error)
    if name == "DROPPING":
        return Lamp(BAD, name, error or "its queue is full: data are dropped and counted")
    if name == "SPOOLING" or int(state.get("spool") or 0) > SPOOL_BYTES:
        return Lamp(
            WARN, "SPOOLING", error or "the broker does not take its data; they wait on its disk"
        )
    if (_number(state.get("promise_age_s")) or 0) > LATE_S and name == "RUNNING":
        return Lamp(WARN, "LATE", "its promise is old: the device or its driver holds data back")
    return Lamp(GOOD if name in ("RUNNING", "READY") else BUSY, name, error)


def _services(world: World) -> list[ServiceLine]:
    order = {"control": 0, "loop": 1, "worker": 2, "writer": 3, "monitor": 4}
    lines = [
        ServiceLine(
            role=key.partition("/")[0],
            id=key.partition("/")[2],
            lamp=_service_lamp(world, state),
            age_s=world.heard_s(state),
            pid=state.get("pid"),
        )
        for key, state in world.states.items()
        if not key.startswith("source/") and world.heard_s(state) < FORGET_S
    ]
    return sorted(lines, key=lambda line: (order.get(line.role, 9), line.role, line.id))


def _run_line(world: World, number: int) -> RunLine:
    document = world.runs[number]
    state = str(document.get("state") or "?")
    snap = world.snapshot if world.snapshot and world.snapshot.run == number else None
    level = {"closed": OFF, "running": GOOD, "failed": BAD}.get(state, BUSY)
    events = document.get("n_events")
    if snap is not None and not document.get("ledger"):
        events = max(int(events or 0), int(snap.info.get("n_events") or 0))
    return RunLine(
        number=number,
        state=Lamp(level, state),
        type=str(document.get("type") or ""),
        comment=str(document.get("comment") or ""),
        shifter=str(document.get("shifter") or ""),
        start_ns=document.get("t_start_ns"),
        duration_s=world.elapsed_s(document),
        events=None if events is None else int(events),
        ledger=ledger_lamp(document, snap),
    )


def _plots(world: World) -> str:
    snap = world.snapshot
    if snap is None or snap.run is None:
        return "no data yet: press Start Run"
    info = snap.info
    slices, complete = int(info.get("n_slices") or 0), int(info.get("n_complete") or 0)
    made = age(world.age_s(float(info.get("made_ns") or 0)))
    what = [f"run {snap.run}", "since start"]
    what.append(f"final, {made} old" if snap.final else f"{made} old")
    if slices:
        what.append(f"{percent(complete / slices)} of {count(slices)} slices complete")
    what.append(f"{count(int(info.get('n_events') or 0))} events")
    return " · ".join(what)


def _dask(world: World) -> str:
    urls: Iterable[str] = (
        str(state.get("dask") or "")
        for key, state in world.states.items()
        if key.startswith("loop/") and world.heard_s(state) < FORGET_S
    )
    # it comes over the network and becomes a link: nothing but a web address will do
    return next((u for u in urls if u.startswith(("http://", "https://"))), "")
