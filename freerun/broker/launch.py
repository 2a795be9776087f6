"""One JVM: its data folder formatted once, started, watched until it serves."""

from __future__ import annotations

import base64
import contextlib
import shutil
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from freerun.broker.place import Notes, Place
from freerun.broker.ports import free_port, is_free
from freerun.broker.probe import brokers_at
from freerun.broker.settings import (
    SecondListener,
    java_arguments,
    log4j_yaml,
    server_properties,
)
from freerun.errors import EnvironmentProblem

START_TIMEOUT = 120.0  # s; after SIGKILL with 20 GB of logs a start took 17 s

# Processes that this one started: kept so that they are reaped, not so that they are known.
_children: dict[int, subprocess.Popen[bytes]] = {}


def launch(
    place: Place, lock: int, java: list[str], settings: Mapping[str, object] | None,
    second: SecondListener | None = None,
) -> Notes:  # fmt: skip
    """Start Kafka in `place` with the command `java` and return when it serves.

    The process inherits `lock`. Raises EnvironmentProblem if it does not come up.
    """
    place.write(place.log4j, log4j_yaml(place.log))
    if not (place.data / "meta.properties").exists():
        _format(place, java, settings)
    notes = place.notes()
    for _ in range(3):
        notes = _with_free_ports(notes)
        if _try(place, lock, java, settings, notes, second):
            return place.notes()
        notes = Notes()  # somebody was quicker: other ports
    raise EnvironmentProblem(f"Kafka found its ports taken three times; see {place.log}")


def java_command(
    java: Path, place: Place, heap_mb: int, jars: list[Path], more: Sequence[str] = ()
) -> list[str]:
    """The JVM and its options; `more` win over ours."""
    return [str(java), *java_arguments(place.folder, place.log4j, heap_mb, jars), *more]


def end(pid: int, timeout: float = 30.0) -> None:
    """End a broker that this process started: SIGTERM, and SIGKILL after `timeout` seconds."""
    child = _children.pop(pid)
    child.terminate()
    try:
        child.wait(timeout)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def reap(pid: int) -> None:
    """Let go of a process of ours that has ended; any other pid is not our business."""
    child = _children.get(pid)
    if child is not None and child.poll() is not None:
        del _children[pid]


def _try(
    place: Place,
    lock: int,
    java: list[str],
    settings: Mapping[str, object] | None,
    notes: Notes,
    second: SecondListener | None,
) -> bool:
    """Whether Kafka came up on these ports; False when they were taken in the meantime."""
    properties = server_properties(place.data, notes.port, notes.controller_port, settings, second)
    place.write(place.properties, properties)
    with place.out.open("wb") as out:
        child = subprocess.Popen(
            [*java, "kafka.Kafka", str(place.properties)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd=place.folder,
            start_new_session=True,  # Ctrl-C in the terminal is for us, not for the broker
            pass_fds=(lock,),
        )
    try:
        place.note(Notes(notes.port, notes.controller_port, child.pid))
        came_up = _wait(child, place, notes.address or "")
    except BaseException:  # also Ctrl-C: no half-started broker stays behind
        child.kill()
        child.wait()
        raise
    if came_up:
        _children[child.pid] = child
    return came_up


def _wait(child: subprocess.Popen[bytes], place: Place, address: str) -> bool:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if child.poll() is not None:
            said = _last_words(place)
            if "already in use" in said or "Failed to bind" in said:
                return False
            raise EnvironmentProblem(
                f"Kafka ended with code {child.returncode} while starting: {said} "
                f"(more in {place.log} and {place.out.name} beside it)"
            )
        if brokers_at(address, timeout=5.0) > 0:
            return True
        time.sleep(0.02)
    raise EnvironmentProblem(
        f"Kafka was not ready at {address} after {START_TIMEOUT:.0f} s: {_last_words(place)} "
        f"(more in {place.log})"
    )


def _with_free_ports(notes: Notes) -> Notes:
    """The ports of last time if both are free, so that addresses in use stay valid."""
    if notes.port and is_free(notes.port) and is_free(notes.controller_port):
        return notes
    port = free_port()
    return Notes(port, free_port(other_than=port))


def _format(place: Place, java: list[str], settings: Mapping[str, object] | None) -> None:
    """Kafka's own storage tool makes the data folder; a rename makes it whole or not there."""
    new, config = place.folder / "kafka.new", place.folder / "kafka-format.properties"
    shutil.rmtree(new, ignore_errors=True)
    place.write(config, server_properties(new, 1, 2, settings))
    cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
    tool = ["kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "--config", str(config)]
    made = subprocess.run(
        [*java, *tool],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=place.folder,
        start_new_session=True,
    )
    if made.returncode != 0:
        said = " ".join((made.stderr or made.stdout).split())[-300:]
        raise EnvironmentProblem(f"Kafka cannot make its data folder {place.data}: {said}")
    try:
        new.rename(place.data)
    except OSError as e:
        raise EnvironmentProblem(
            f"{place.data} holds files but not Kafka's: move it away or choose another folder"
        ) from e
    config.unlink()


def _last_words(place: Place) -> str:
    """The last error that Kafka or its JVM wrote, as one line."""
    for file in (place.log, place.out):
        with contextlib.suppress(OSError):
            lines = [x for x in file.read_text(errors="replace").splitlines()[-400:] if x.strip()]
            bad = [x for x in lines if " ERROR " in x or " FATAL " in x or "Exception" in x]
            if lines:
                return (bad or lines)[-1].strip()[:300]
    return "it wrote nothing"
