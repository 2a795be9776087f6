"""Parts on disk while the broker does not take them: a FIFO that outlives its process.

A folder with numbered files, written at the end of the last, read from the start of the first,
each deleted when all of it is acknowledged. A process that died while it wrote left a torn tail,
which is passed over: its heir writes into files of its own. Behind what is on disk, and only while
the disk takes nothing, a short tail waits in memory.

Nothing is synced: the spool outlives its process, not a power cut.
"""

from __future__ import annotations

import os
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import structlog

from producers import spool_files
from producers.sequencer import Out
from producers.spool_files import LOCK_S, File, Place

log = structlog.get_logger()

SPOOL_BYTES = 2 << 30  # of one source on disk
SEGMENT_BYTES = 16 << 20  # of a file; what is acknowledged leaves the disk in such steps
KEEP_FREE_BYTES = 1 << 30  # of the disk, for others; of a small one a twentieth
HEADROOM_BYTES = 32 << 20  # with less room than this the spool is full: what is made still fits
TAIL_BYTES = 64 << 20  # in memory, while the disk takes nothing
TAIL_PARTS = 100_000
TRY_AGAIN_S = 1.0  # after a write that failed


@dataclass(slots=True)
class Kept:
    """An entry that was taken; it leaves the disk when it is `done`, in order."""

    out: Out
    end: Place | None  # behind it; None: it was in memory only
    done: bool = False


class Spool:
    """The spool of one source. Not for several threads."""

    def __init__(
        self, folder: Path, topic: str, limit: int = SPOOL_BYTES, lock_s: float = LOCK_S
    ) -> None:
        """Take over `folder` and what a predecessor left there for `topic`; at most about `limit`
        bytes on disk. Raises `EnvironmentProblem` if another process has it, if it belongs to
        another topic, or if it cannot be made.
        """
        self._folder, self._limit, self._title = folder, limit, spool_files.title(topic)
        self._lock = spool_files.lock(folder, lock_s)
        try:
            self._files = spool_files.files_of(folder, topic)
        except BaseException:
            os.close(self._lock)
            raise
        disk = os.statvfs(folder)
        total = disk.f_blocks * disk.f_frsize
        self._keep_free = min(KEEP_FREE_BYTES, total // 20)
        self._headroom = min(HEADROOM_BYTES, limit // 8, total // 8)
        self._note = os.open(folder / "acked", os.O_RDWR | os.O_CREAT, 0o644)
        self._out = -1  # descriptor of the last file, if it is ours
        self._in: Place = (-1, -1)  # number and descriptor of the file that is read
        self._taken: deque[Kept] = deque()
        self._tail: deque[Out] = deque()
        self._tail_bytes = 0
        self._failed_at = float("-inf")
        self.failures = 0  # writes that failed
        self.torn_bytes = 0  # of predecessors that died while they wrote
        first = [(f.number, f.begin) for f in self._files[:1]]
        # the note may be older than the truth: then some leave a second time, which readers see
        self._acked = max([spool_files.read_note(self._note), *first])
        self._position = self._acked
        self._number = max([self._acked[0], *(f.number for f in self._files)])
        self._delete_acked()
        if self._files:
            log.info("spool_leftovers", folder=str(folder), bytes=self.bytes)

    # ------------------------------------------------------------------ what is there

    @property
    def unread(self) -> bool:
        """Is there an entry that was not taken?"""
        last = self._files[-1] if self._files else None
        on_disk = last is not None and (last.number, last.size) > self._position
        return on_disk or bool(self._tail)

    @property
    def bytes(self) -> int:
        """On disk or waiting for it, and not acknowledged."""
        gone = self._acked[1] if self._files and self._files[0].number == self._acked[0] else 0
        return max(0, self._on_disk() - gone) + self._tail_bytes

    def _on_disk(self) -> int:
        return sum(f.size for f in self._files)

    def room(self) -> int:
        """Bytes that still fit: within the spool's bound, and on the disk."""
        disk = os.statvfs(self._folder)
        free = disk.f_bavail * disk.f_frsize - self._keep_free
        return max(0, min(self._limit - self._on_disk(), free))

    @property
    def full(self) -> bool:
        """Should no more payload be made? What was made already still fits."""
        return self._failing or bool(self._tail) or self.room() < self._headroom

    @property
    def _failing(self) -> bool:
        return time.monotonic() < self._failed_at + TRY_AGAIN_S

    # ------------------------------------------------------------------ in

    def put(self, out: Out) -> bool:
        """Append a part; False if there is no room for it. Closes and marks fit far longer."""
        self._write_tail()
        if not self._tail and self._append(out) is not None:
            return True
        n = _size(out)
        if len(self._tail) >= TAIL_PARTS or (out.part.rows and self._tail_bytes + n > TAIL_BYTES):
            return False
        self._tail.append(out)
        self._tail_bytes += n
        return True

    def keep(self, out: Out) -> Kept | None:
        """Append a part that is on its way already, so that it outlives this process.

        Only while nothing is unread. None: there is no room, it is in memory only.
        """
        assert not self.unread, "what is on its way goes before what waits"
        end = self._append(out)
        if end is None:
            return None
        self._position = end
        self._taken.append(Kept(out, end))
        return self._taken[-1]

    def _write_tail(self) -> None:
        while self._tail and self._append(self._tail[0]) is not None:
            self._tail_bytes -= _size(self._tail.popleft())

    def _append(self, out: Out) -> Place | None:
        """Write an entry; returns where it ends, or None if the disk does not take it."""
        pieces = spool_files.encode(out)
        n = sum(map(len, pieces))
        if self._failing or (out.part.rows and self.room() < n):
            return None
        try:
            file = self._file_to_write()
            spool_files.write(self._out, pieces)
        except OSError as error:
            self._failed_at = time.monotonic()
            self.failures += 1
            log.error("spool_write_failed", folder=str(self._folder), error=error.strerror)
            self._cut_back()
            return None
        file.size += n
        return file.number, file.size

    def _file_to_write(self) -> File:
        if self._out >= 0 and self._files[-1].size < SEGMENT_BYTES:
            return self._files[-1]
        self._close_out()
        self._number += 1
        path = self._folder / f"{self._number:012d}.spool"
        self._out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        self._files.append(File(self._number, path, 0, len(self._title)))
        spool_files.write(self._out, (self._title,))
        self._files[-1].size = len(self._title)
        return self._files[-1]

    def _cut_back(self) -> None:
        """Take a half-written entry off again; if that fails, too, the file is at its end."""
        if self._out >= 0:
            file = self._files[-1]
            try:
                os.ftruncate(self._out, file.size)
            except OSError:
                self._close_out()
            if file.size < file.begin:  # not even its title
                self._close_out()
                self._files.pop().path.unlink(missing_ok=True)

    def _close_out(self) -> None:
        if self._out >= 0:
            os.close(self._out)
        self._out = -1

    # ------------------------------------------------------------------ out

    def take(self) -> Kept | None:
        """The next entry. What was on disk stays there until it is done."""
        while (file := self._file_to_read()) is not None:
            found = spool_files.decode(self._in[1], self._position[1], file.size)
            if found is not None:
                self._position = file.number, found[1]
                self._taken.append(Kept(found[0], self._position))
                return self._taken[-1]
            torn = file.size - self._position[1]
            self.torn_bytes += torn
            log.warning("spool_torn", file=str(file.path), bytes=torn)
            self._position = file.number, file.size
        if self._tail:
            out = self._tail.popleft()
            self._tail_bytes -= _size(out)
            return Kept(out, None)
        self._clear_if_drained()
        return None

    def _file_to_read(self) -> File | None:
        """The file at the position, opened; the position moves on over the ends of files."""
        for file in self._files:
            if file.number > self._position[0]:
                self._position = file.number, file.begin
            if file.number == self._position[0] and file.size > self._position[1]:
                if self._in[0] != file.number:
                    self._close_in()
                    self._in = file.number, os.open(file.path, os.O_RDONLY)
                return file
        return None

    def _close_in(self) -> None:
        if self._in[1] >= 0:
            os.close(self._in[1])
        self._in = (-1, -1)

    def done(self, kept: Kept) -> None:
        """The broker has it, or refuses it for good: it may leave the disk."""
        kept.done = True
        before = self._acked
        while self._taken and self._taken[0].done:
            self._acked = self._taken.popleft().end or self._acked
        if self._acked != before:
            spool_files.write_note(self._note, self._acked)
            self._delete_acked()
        self._clear_if_drained()

    def _delete_acked(self) -> None:
        while self._files and self._files[0].number < self._acked[0]:
            self._files.pop(0).path.unlink(missing_ok=True)

    def _clear_if_drained(self) -> None:
        if self._files and not self._taken and not self.unread:
            self._close_in()
            self._close_out()
            self._number += 1  # no file will ever have this one
            self._acked = self._position = (self._number, 0)
            spool_files.write_note(self._note, self._acked)
            self._delete_acked()

    def close(self) -> None:
        """Give the folder back; what is on disk waits for the next owner."""
        self._write_tail()
        self._close_in()
        self._close_out()
        os.close(self._note)
        os.close(self._lock)


def _size(out: Out) -> int:
    return len(memoryview(out.body)) + 512  # about what its headers take
