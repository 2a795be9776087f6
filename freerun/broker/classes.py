"""Kafka's classes as an archive that the JVM maps: a start then costs half the CPU time.

The JVM's own class data sharing. It checks the archive against itself and the jars, and goes on
without one that does not fit.
"""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

from freerun.broker.jars import scratch
from freerun.broker.launch import end, java_command, launch
from freerun.broker.place import Place
from freerun.errors import EnvironmentProblem

HEAP_MB = 512
MAKE_S = 300.0


def archive_for(java: Path, jars: list[Path]) -> Path:
    """Where the archive of this Java and these jars lies, if it was made."""
    home = java.resolve().parent.parent
    try:
        told = (home / "release").read_bytes()
    except OSError:
        told = str(home).encode()
    key = hashlib.sha256(told)
    for jar in jars:
        key.update(f"\n{jar} {jar.stat().st_mtime_ns}".encode())
    return jars[0].parent / f"classes-{key.hexdigest()[:12]}.jsa"


def ensure_archive(java: Path, jars: list[Path]) -> Path:
    """Make the archive unless it is there: a broker in a scratch folder says which classes it
    loads. Takes 10 s. Raises EnvironmentProblem."""
    where = archive_for(java, jars)
    if where.exists():
        return where
    with scratch(where.parent) as folder:
        listed, made = folder / "classes.txt", folder / where.name
        _list(java, jars, Place(folder / "broker"), listed)
        _dump([java, "-Xshare:dump", f"-Xmx{HEAP_MB}m", "-XX:+UseG1GC",
               f"-XX:SharedClassListFile={listed}", f"-XX:SharedArchiveFile={made}",
               "-cp", ":".join(map(str, jars))])  # fmt: skip
        made.replace(where)
    return where


def _list(java: Path, jars: list[Path], place: Place, listed: Path) -> None:
    command = java_command(java, place, HEAP_MB, jars, [f"-XX:DumpLoadedClassList={listed}"])
    with place.locked() as lock:
        assert lock is not None  # nobody else knows this folder
        notes = launch(place, lock, command, None)
    end(notes.pid)


def _dump(command: list[str | Path]) -> None:
    try:
        said = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            start_new_session=True, timeout=MAKE_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired as e:
        raise EnvironmentProblem(
            f"Java has made no archive of Kafka's classes in {MAKE_S:.0f} s"
        ) from e
    if said.returncode != 0:
        last = " ".join((said.stderr or said.stdout).split())[-200:]
        raise EnvironmentProblem(f"Java makes no archive of Kafka's classes: {last}")
