"""The broker's folder: its files, its lock, and what was written down of the last start.

The JVM inherits an exclusive lock on `kafka.lock` and so holds it exactly as long as it lives,
whoever started it and however it ends: nobody has to trust a pid that may be another's by now.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from freerun.errors import ConfigError, EnvironmentProblem


@dataclass(frozen=True)
class Notes:
    """What the last start wrote down; kept after a stop, so that the ports stay the same."""

    port: int = 0
    controller_port: int = 0
    pid: int = 0

    @property
    def address(self) -> str | None:
        return f"127.0.0.1:{self.port}" if self.port else None


class Place:
    """The files of one local broker; nothing is made or touched before it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.expanduser().resolve()
        if any(c in str(self.folder) for c in ',:\n\\"'):
            raise ConfigError(
                f"the local broker cannot work in {str(self.folder)!r}: Kafka allows no comma, "
                "colon, quote, backslash or line break in its path; choose another data folder"
            )
        self.data = self.folder / "kafka"
        self.log = self.folder / "kafka.log"
        self.out = self.folder / "kafka.out"
        self.properties = self.folder / "kafka.properties"
        self.log4j = self.folder / "kafka-log4j2.yaml"
        self._notes = self.folder / "kafka.json"
        self._lock = self.folder / "kafka.lock"

    def notes(self) -> Notes:
        try:
            return Notes(**json.loads(self._notes.read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return Notes()

    def note(self, notes: Notes) -> None:
        self.write(self._notes, json.dumps(asdict(notes)) + "\n")

    def write(self, path: Path, text: str) -> None:
        """The whole new file or the old one, also for a reader in this moment."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            fresh = path.with_name(f".{path.name}.{os.getpid()}")
            fresh.write_text(text, "utf-8")
            fresh.replace(path)
        except OSError as e:
            raise EnvironmentProblem(f"cannot write {path}: {e.strerror}") from e

    @contextlib.contextmanager
    def locked(self) -> Iterator[int | None]:
        """The lock's file descriptor, or None while a broker or another start has it.

        It is released here; a child that inherited the descriptor goes on holding it.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as e:
            raise EnvironmentProblem(
                f"cannot keep the broker's data in {self.folder}: {e.strerror}"
            ) from e
        try:
            # Somebody's look at the state takes the lock for an instant: hence three tries.
            yield lock if any(_take(lock, fcntl.LOCK_EX, wait) for wait in (0, 0.05, 0.2)) else None
        finally:
            os.close(lock)

    def is_locked(self) -> bool:
        try:
            lock = os.open(self._lock, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except OSError as e:
            raise EnvironmentProblem(f"cannot look at {self._lock}: {e.strerror}") from e
        try:
            return not _take(lock, fcntl.LOCK_SH)
        finally:
            os.close(lock)


def _take(lock: int, how: int, wait: float = 0) -> bool:
    time.sleep(wait)
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
