"""Start, look at, stop the local broker of a folder."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from freerun.broker.classes import archive_for
from freerun.broker.jars import Progress, ensure_jars
from freerun.broker.java import find_java
from freerun.broker.launch import java_command, launch, reap
from freerun.broker.place import Place
from freerun.broker.probe import brokers_at
from freerun.broker.settings import SecondListener
from freerun.errors import ConfigError, EnvironmentProblem

STOP_TIMEOUT = 30.0  # s between SIGTERM and SIGKILL
HEAP_MB = 128, 768  # smallest and largest heap


@dataclass(frozen=True)
class Broker:
    """A running local broker; `address` is host:port for Kafka clients."""

    address: str
    pid: int
    folder: Path


@dataclass(frozen=True)
class Status:
    """What the broker of a folder does now; `address` is also that of one that was stopped."""

    folder: Path
    log: Path
    running: bool
    ready: bool
    pid: int | None
    address: str | None


class AlreadyRunning(EnvironmentProblem):
    """The folder's broker runs, or is being started; `status` says where."""

    def __init__(self, status: Status) -> None:
        self.status = status
        super().__init__(
            f"the broker of {status.folder} is running already, "
            f"pid {status.pid} at {status.address}: use it, or stop it first"
            if status.pid
            else f"the broker of {status.folder} is being started by another process: use that one"
        )


def start(
    folder: Path,
    *,
    heap_mb: int = 512,
    settings: Mapping[str, object] | None = None,
    progress: Progress | None = None,
    second: SecondListener | None = None,
    whole_heap: bool = False,
) -> Broker:
    """Start the broker of `folder` and return when it serves.

    Its data are in `folder/kafka`, its log in `folder/kafka.log`. It takes the ports of last
    time if they are free, so that addresses in use stay valid. `settings` are Kafka's own and
    win over ours; `second` is a second way in; `whole_heap` is taken at once, so that growth
    beside it can be seen. The process outlives this one, and Ctrl-C in this terminal, until `stop`.
    Raises AlreadyRunning, ConfigError (heap, path), EnvironmentProblem (Java, jars, disk, Kafka).
    """
    smallest, largest = HEAP_MB
    if not smallest <= heap_mb <= largest:
        raise ConfigError(
            f"the local broker's heap is {heap_mb} MB: give it {smallest} to {largest} MB"
        )
    place = Place(folder)
    with place.locked() as lock:
        if lock is None:
            raise AlreadyRunning(status(folder))
        place.note(replace(place.notes(), pid=0))  # from here on, the old pid may be anybody's
        jars = ensure_jars(progress=progress)
        java = find_java()
        archive = archive_for(java, jars)
        more = [f"-XX:SharedArchiveFile={archive}"] if archive.exists() else []
        if whole_heap:
            more += [f"-Xms{heap_mb}m", "-XX:+AlwaysPreTouch"]
        command = java_command(java, place, heap_mb, jars, more)
        notes = launch(place, lock, command, settings, second)
    return Broker(notes.address or "", notes.pid, place.folder)


def status(folder: Path) -> Status:
    """What the broker of `folder` does now; a folder that is not there is a stopped broker."""
    place = Place(folder)
    running = place.is_locked()
    notes = place.notes()
    if not running and notes.pid:
        reap(notes.pid)
    return Status(
        folder=place.folder,
        log=place.log,
        running=running,
        ready=running and notes.address is not None and brokers_at(notes.address) > 0,
        pid=notes.pid if running and notes.pid else None,
        address=notes.address,
    )


def stop(folder: Path, timeout: float = STOP_TIMEOUT) -> bool:
    """Stop the broker of `folder`: SIGTERM, and SIGKILL after `timeout` seconds.

    True if it ran, False if there was nothing to stop. Its data and its ports are kept.
    """
    place = Place(folder)
    if not place.is_locked():
        return False
    pid = place.notes().pid
    if not pid:
        raise EnvironmentProblem(
            f"the broker of {place.folder} is being started by another process: try again"
        )
    if place.is_locked() and not _is_kafka(pid, place):
        raise EnvironmentProblem(
            f"pid {pid}, noted for the broker of {place.folder}, is not ours: end by hand "
            f"what holds {place.folder / 'kafka.lock'}"
        )
    for sign, patience in ((signal.SIGTERM, timeout), (signal.SIGKILL, 10.0)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sign)
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            reap(pid)
            if not place.is_locked():
                reap(pid)
                return True
            time.sleep(0.02)
    raise EnvironmentProblem(f"the broker of {place.folder}, pid {pid}, does not end")


def _is_kafka(pid: int, place: Place) -> bool:
    """Whether this process was started with our properties, or has just ended."""
    import psutil

    try:
        return str(place.properties) in psutil.Process(pid).cmdline()
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False
