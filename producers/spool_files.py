"""The files of a spool: who owns their folder, what an entry looks like, and how it is written.

An entry is a frame (lengths, checksum of these and of the headers), the Kafka headers of a part,
its body. What the body is worth, the checksum among the headers says to whoever reads it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import struct
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from freerun.errors import EnvironmentProblem, Quarantined
from freerun.topics import MESSAGE_BYTES
from freerun.wire import part_headers, read_part
from producers.sequencer import Out

LOCK_S = 10.0  # a predecessor that is being killed needs a moment

Place = tuple[int, int]  # number of a file, offset in it

_FRAME = struct.Struct("<4sIII")  # magic, bytes of the headers, of the body, checksum
_MAGIC = b"part"
_HEAD_BYTES = 1 << 20


@dataclass(slots=True)
class File:
    """A file of entries."""

    number: int
    path: Path
    size: int  # up to here there are entries (or a predecessor's torn tail)
    begin: int  # of the first entry


def title(topic: str) -> bytes:
    """The first line of every file."""
    return f"freerun spool 1 {topic}\n".encode()


def lock(folder: Path, patience: float = LOCK_S) -> int:
    """Own `folder` (made if need be) as long as the returned descriptor is open and no longer
    than this process lives. Raises `EnvironmentProblem` if another process has it after
    `patience` s, or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        mine = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise EnvironmentProblem(f"the spool {folder} cannot be made: {error.strerror}") from error
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > end:
                pid = os.pread(mine, 20, 0).decode(errors="replace").strip() or "unknown"
                os.close(mine)
                raise EnvironmentProblem(
                    f"the spool {folder} belongs to a process that lives (pid {pid}): end it "
                    "first, two would send everything twice"
                ) from None
        time.sleep(0.05)
    with contextlib.suppress(OSError):  # a full disk: the pid is only for the eye
        os.ftruncate(mine, 0)
        os.pwrite(mine, b"%d\n" % os.getpid(), 0)
    return mine


def files_of(folder: Path, topic: str) -> list[File]:
    """What a predecessor left, in order. Raises `EnvironmentProblem` if it is another topic's."""
    files = []
    for path in sorted(folder.glob("*.spool")):
        with path.open("rb") as file:
            first = file.readline(1000)
        if first.endswith(b"\n") and first != title(topic):
            raise EnvironmentProblem(
                f"{path} holds data of {first.decode(errors='replace').split()[-1]}, expected "
                f"{topic}: move it away, or use another data folder"
            )
        files.append(File(int(path.stem), path, path.stat().st_size, len(first)))
    return files


def encode(out: Out) -> tuple[bytes, bytes, memoryview]:
    """Frame, headers and body of an entry."""
    headers = [(name, value.decode()) for name, value in part_headers(out.part)]
    head = json.dumps([out.partition, headers], separators=(",", ":")).encode()
    body = memoryview(out.body)
    lengths = struct.pack("<II", len(head), len(body))
    return _FRAME.pack(_MAGIC, len(head), len(body), _crc(lengths, head)), head, body


def decode(descriptor: int, at: int, size: int) -> tuple[Out, int] | None:
    """The entry at offset `at` of a file that is good up to `size`, and where it ends; None if
    what is there is not a whole entry."""
    frame = os.pread(descriptor, _FRAME.size, at)
    if len(frame) < _FRAME.size:
        return None
    magic, head_n, body_n, crc = _FRAME.unpack(frame)
    end = at + _FRAME.size + head_n + body_n
    if magic != _MAGIC or head_n > _HEAD_BYTES or body_n > MESSAGE_BYTES or end > size:
        return None
    rest = os.pread(descriptor, head_n + body_n, at + _FRAME.size)
    head, body = rest[:head_n], rest[head_n:]
    if len(rest) < head_n + body_n or _crc(frame[4:12], head) != crc:
        return None
    try:
        partition, headers = json.loads(head)
        part = read_part([(name, value.encode()) for name, value in headers])
    except (ValueError, TypeError, Quarantined):
        return None
    return Out(partition, part, body), end


def _crc(lengths: bytes, head: bytes) -> int:
    return zlib.crc32(head, zlib.crc32(lengths))


def write(descriptor: int, pieces: Sequence[bytes | memoryview]) -> None:
    """The one place that writes data of a spool. Raises OSError: the disk is full, or worse."""
    waiting = [memoryview(piece) for piece in pieces if len(piece)]
    while waiting:
        n = os.writev(descriptor, waiting)
        while waiting and n >= len(waiting[0]):
            n -= len(waiting.pop(0))
        if n:
            waiting[0] = waiting[0][n:]


def write_note(descriptor: int, place: Place) -> None:
    """Remember a place. A note that cannot be written is an old one: nothing is lost by it."""
    text = b"%016d %016d" % place
    with contextlib.suppress(OSError):
        os.pwrite(descriptor, text + b" %08x\n" % zlib.crc32(text), 0)


def read_note(descriptor: int) -> Place:
    """The place noted last, (0, 0) if there is none that can be trusted."""
    words = os.pread(descriptor, 100, 0).split()
    if len(words) != 3 or words[2] != b"%08x" % zlib.crc32(b" ".join(words[:2])):
        return 0, 0
    return int(words[0]), int(words[1])
