"""The top bar: the run of now, its rates, the disk, the ledger. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from dashboard.loss import until_loss
from dashboard.snapshot import Snapshot
from dashboard.words import age
from dashboard.world import BAD, BUSY, GOOD, OFF, SILENT_S, WARN, Document, Lamp, TopBar, World

WORD_BYTES = 8  # of sources that do not say how many bytes they send
RUNNING = frozenset({"running", "starting"})
ENDING = frozenset({"stopping", "closing"})


def _current(world: World) -> tuple[str, int | None]:
    """State and number of the run of now (or the last one), by run control if it speaks."""
    control = next((s for key, s in world.states.items() if key.startswith("control/")), None)
    if control is not None and world.heard_s(control) <= SILENT_S:
        run = control.get("run")
        state = str(control.get("run_state") or "").lower()
        if run is not None or not world.runs:
            return state, run
        return state, max(world.runs)
    if not world.runs:
        return "", None
    last = max(world.runs)
    return str(world.runs[last].get("state") or ""), last


def top_bar(world: World) -> TopBar:
    state, run = _current(world)
    document = world.runs.get(run, {}) if run is not None else {}
    if document.get("state") in ("closed", "failed"):
        state = ""
    running = state in RUNNING
    snap = world.snapshot if world.snapshot and world.snapshot.run == run else None
    fresh = snap is not None and world.age_s(float(snap.info.get("made_ns") or 0)) <= SILENT_S
    rows, events = _last_rates(snap) if snap and running and fresh else ({}, None)
    slices = int(snap.info.get("n_slices") or 0) if snap else 0
    files, raw, hours = _disk(world, run, document, rows if running else None)
    loss = until_loss(world)
    return TopBar(
        state=_state_lamp(world, state),
        run=run,
        elapsed_s=world.elapsed_s(document),
        words_per_s=sum(rows.values()) if rows else None,
        bytes_per_s=_bytes_per_s(world, rows) if rows else None,
        events_per_s=events,
        live=int(snap.info.get("n_complete") or 0) / slices if snap and slices else None,
        lag_s=world.age_s(float(snap.info["t_ns"]))
        if snap and running and snap.info.get("t_ns")
        else None,
        files_gb_h=files,
        raw_gb_h=raw,
        hours_left=hours,
        loss_s=loss[0] if loss else None,
        disk=_disk_lamp(hours, loss),
        ledger=ledger_lamp(document, snap),
        running=running,
    )


def _state_lamp(world: World, state: str) -> Lamp:
    control = [s for key, s in world.states.items() if key.startswith("control/")]
    if world.trouble:
        return Lamp(BAD, "NO DATA", world.trouble)
    if not control:
        return Lamp(OFF, "NO CONTROL", "run control has not been heard of")
    silent = min(world.heard_s(s) for s in control)
    if silent > SILENT_S:
        return Lamp(BAD, "NO CONTROL", f"run control is silent for {silent:.0f} s")
    if state == "running":
        return Lamp(GOOD, "RUNNING")
    if state in RUNNING | ENDING:
        return Lamp(BUSY, state.upper())
    if state in ("error", "failed"):
        return Lamp(BAD, state.upper())
    return Lamp(OFF, "READY", "no run")


def _last_rates(snap: Snapshot) -> tuple[dict[str, float], float | None]:
    points = snap.info.get("rates") or []
    if not points:
        return {}, None
    _, rows, events = points[-1]
    return {s: float(r) for s, r in rows.items()}, float(events)


def _bytes_per_s(world: World, rows: Mapping[str, float]) -> float:
    """What the sources send; those that say nothing of bytes send words of 8 bytes."""
    total = 0.0
    for source, rate in rows.items():
        said = world.states.get(f"source/{source}", {}).get("bytes_per_s")
        total += float(said) if said is not None else rate * WORD_BYTES
    return total


def _disk(
    world: World, run: int | None, document: Document, rows: Mapping[str, float] | None
) -> tuple[float | None, float | None, float | None]:
    """GB per hour into files and into the raw topics, and hours until the disk is full.

    The files' rate is the mean of the run so far (or of the last run, when none runs).
    """
    elapsed, written = world.elapsed_s(document), _written(world, run)
    files = written / elapsed * 3600 / 1e9 if elapsed and written else None
    raw = _bytes_per_s(world, rows) * 3600 / 1e9 if rows else None
    rate = (files or 0.0) + (raw or 0.0)
    hours = world.disk_free / 1e9 / rate if rate and world.disk_free is not None else None
    return files, raw, hours


def _written(world: World, run: int | None) -> int:
    """Bytes of the run in files: as the writers' hearts say, or their documents afterwards."""
    beating = [int(s.get("bytes") or 0) for s in world.role("writer") if s.get("run") == run]
    listed = [
        int(file.get("bytes") or 0)
        for (number, _), document in world.writers.items()
        if number == run
        for file in document.get("files") or []
    ]
    return max(sum(beating), sum(listed)) if run is not None else 0


def _disk_lamp(hours: float | None, loss: tuple[float, str] | None) -> Lamp | None:
    """What comes first: the disk is full, or data are lost elsewhere."""
    if loss is not None and (hours is None or loss[0] < hours * 3600):
        level = BAD if loss[0] < 60 else WARN if loss[0] < 3600 else GOOD
        return Lamp(level, f"{age(loss[0])} to loss", loss[1])
    if hours is None:
        return None
    level = BAD if hours < 1 else WARN if hours < 6 else GOOD
    return Lamp(level, f"{age(hours * 3600)} left", "at the rates of files and raw topics together")


def ledger_lamp(document: Document, snap: Snapshot | None) -> Lamp:
    """The ledger's lamp: a verdict only when it has spoken, before that what is known."""
    ledger = document.get("ledger")
    if ledger:
        gaps = [str(gap) for gap in ledger.get("gaps") or []]
        if gaps or not ledger.get("ok"):
            return Lamp(BAD, "GAP", "; ".join(gaps[:5]) or "the ledger does not say why")
        return Lamp(GOOD, "CLOSES", str(ledger.get("line") or ""))
    state = document.get("state")
    if not document:
        return Lamp(OFF, "NO RUN")
    if state == "failed":
        return Lamp(BAD, "FAILED", "the run failed before its ledger")
    if state == "closed":
        return Lamp(WARN, "NONE", "the run is closed without a ledger")
    missing = 0
    if snap is not None:
        missing = int(snap.info.get("n_slices") or 0) - int(snap.info.get("n_complete") or 0)
    if missing > 0:
        return Lamp(WARN, f"OPEN, {missing} INCOMPLETE", f"{missing} slices lack a source so far")
    return Lamp(BUSY, "OPEN", "no difference so far; the verdict comes at the end of the run")
