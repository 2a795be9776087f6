"""What is known at one moment, and the pieces of what is shown of it. Types, no rules."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dashboard.snapshot import Snapshot

Document = Mapping[str, Any]

GOOD, BUSY, WARN, BAD, OFF = "good", "busy", "warn", "bad", "off"  # levels of a lamp
SILENT_S = 5.0  # heartbeats come once a second
FORGET_S = 600.0  # a service that is silent for longer is no longer listed


@dataclass(frozen=True)
class World:
    """All that is known at one moment, as it came out of Kafka."""

    now_ns: int
    system: str
    slice_ns: int
    sources: tuple[str, ...] = ()  # of the bench: shown even if they never spoke
    snapshot: Snapshot | None = None
    states: Mapping[str, Document] = field(default_factory=dict)  # "<role>/<id>" → heartbeat
    runs: Mapping[int, Document] = field(default_factory=dict)
    writers: Mapping[tuple[int, str], Document] = field(default_factory=dict)
    trouble: str = ""  # why nothing new arrives, as a sentence
    disk_free: int | None = None  # bytes, where the data go
    keep_s: float = math.inf  # how long a raw topic is kept …
    keep_bytes: float = math.inf  # … and up to how many bytes

    def age_s(self, t_ns: float) -> float:
        """Seconds since `t_ns`, never negative."""
        return max(0.0, (self.now_ns - t_ns) / 1e9)

    def heard_s(self, state: Document) -> float:
        """Seconds since a heartbeat."""
        return self.age_s(float(state.get("time_ns") or 0))

    def role(self, role: str) -> list[Document]:
        """The heartbeats of a role."""
        return [state for key, state in self.states.items() if key.startswith(f"{role}/")]

    def elapsed_s(self, document: Document) -> float | None:
        """How long a run lasts so far, or lasted."""
        start, stop = document.get("t_start_ns"), document.get("t_stop_ns")
        if start is None:
            return None
        end = self.now_ns if stop is None else int(stop)
        return max(0.0, (end - int(start)) / 1e9)


@dataclass(frozen=True)
class Lamp:
    level: str
    text: str
    detail: str = ""


@dataclass(frozen=True)
class TopBar:
    state: Lamp
    run: int | None
    elapsed_s: float | None
    words_per_s: float | None
    bytes_per_s: float | None
    events_per_s: float | None
    live: float | None  # complete slices / slices
    lag_s: float | None
    files_gb_h: float | None
    raw_gb_h: float | None
    hours_left: float | None
    loss_s: float | None  # until data are lost if the broker or the lanes stay as they are
    disk: Lamp | None
    ledger: Lamp
    running: bool


@dataclass(frozen=True)
class SourceLine:
    id: str
    lamp: Lamp
    rate: float | None  # rows/s
    data_age_s: float | None
    promise_age_s: float | None
    spool: int | None  # bytes


@dataclass(frozen=True)
class ServiceLine:
    role: str
    id: str
    lamp: Lamp
    age_s: float
    pid: int | None


@dataclass(frozen=True)
class RunLine:
    number: int
    state: Lamp
    type: str
    comment: str
    shifter: str
    start_ns: int | None
    duration_s: float | None
    events: int | None
    ledger: Lamp


@dataclass(frozen=True)
class View:
    top: TopBar
    sources: list[SourceLine]
    services: list[ServiceLine]
    runs: list[RunLine]
    plots: str  # whose plots these are, how old, how complete
    hits: int | None  # integral of all occupancies
    dask: str  # URL or ""
    trouble: str
