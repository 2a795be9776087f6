"""The words of some files, piece by piece, with the times by which they are paced."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from freerun.wordfile import WordFile, kind_of
from freerun.words import HIT, TICKS_PER_ORBIT, TRIGGER, WordFormat, decode
from producers.drivers.steady import typical_tick

U64 = npt.NDArray[np.uint64]
Int64 = npt.NDArray[np.int64]

PIECE_WORDS = 1 << 15
KEEP_WORDS = 1 << 22
"""A recording up to this long is kept in memory for further passes."""

_OUTLIER_TICKS = 4320 * 10**9  # an hour: such a word paces nothing


class Piece:
    """Words of one chunk; what is taken is gone."""

    def __init__(self, words: U64, pace: Int64) -> None:
        self._words, self._pace = words, pace
        self._at = 0

    @property
    def left(self) -> int:
        """Words not taken yet."""
        return len(self._words) - self._at

    @property
    def tick(self) -> int:
        """When the next word is due, as recorded."""
        return int(self._pace[self._at])

    def until(self, tick: int) -> int:
        """How many of the words left are due at `tick`."""
        return int(np.searchsorted(self._pace, tick, side="right")) - self._at

    def take(self, n: int) -> U64:
        """The next `n` words."""
        self._at += n
        return self._words[self._at - n : self._at]


class Recording:
    """Files of one recording in order; one board of them, or all (`fpga` None)."""

    def __init__(
        self, paths: list[Path], fmt: WordFormat, fpga: int | None, piece_words: int = PIECE_WORDS
    ) -> None:
        self._paths, self._format, self._fpga = paths, fmt, fpga
        self._piece_words = piece_words
        self._pieces: Iterator[tuple[U64, Int64]] | None = None
        self._kept: list[tuple[U64, Int64]] | None = []
        self._kept_words = 0
        self._complete = False
        self._before = 0  # malformed, of files and passes already closed
        self._file: WordFile | None = None
        self._last = 0
        self.first: int | None = None
        """Tick of the first timed word (that is no odd one out), to unwrap by."""
        self._low = self._high = 0

    def open(self) -> None:
        """Begin at the beginning. Raises `ConfigError` for a wrong suffix."""
        for path in self._paths:
            kind_of(path)
        self.rewind()

    def rewind(self) -> None:
        """Begin again."""
        if self._kept is not None and self._complete:
            self._pieces = iter(self._kept)
            return
        self._last = self.first or 0
        self._pieces = self._read()

    def close(self) -> None:
        """Close the file that is open."""
        if self._pieces is not None and hasattr(self._pieces, "close"):
            self._pieces.close()
        self._pieces = None

    def next(self) -> Piece | None:
        """The next piece; None at the end. Raises `ConfigError` for a file that is none."""
        found = next(self._pieces, None) if self._pieces is not None else None
        return None if found is None else Piece(*found)

    def nothing(self) -> U64:
        """No words."""
        return np.empty(0, np.uint64)

    @property
    def orbits(self) -> int:
        """Orbits from the first to the last, as far as it has been read."""
        return self._high // TICKS_PER_ORBIT - self._low // TICKS_PER_ORBIT

    @property
    def malformed(self) -> int:
        """Torn words and lines that are no row, over all passes."""
        return self._before + (self._file.malformed if self._file else 0)

    def _read(self) -> Iterator[tuple[U64, Int64]]:
        for path in self._paths:
            self._before, self._file = self.malformed, None
            self._file = WordFile(path, self._format)
            for words in self._file.chunks(self._piece_words):
                found = self._paced(words)
                if len(found[0]):
                    self._keep(found)
                    yield found
        self._complete = True

    def _keep(self, found: tuple[U64, Int64]) -> None:
        if self._kept is None:
            return
        self._kept_words += len(found[0])
        if self._kept_words > KEEP_WORDS:
            self._kept = None
        else:
            self._kept.append(found)

    def _paced(self, words: U64) -> tuple[U64, Int64]:
        """The words of our board, and the non-decreasing ticks by which they are due."""
        if self.first is None:
            self.first = typical_tick(words, self._format)
            self._last = self._low = self._high = self.first or 0
        decoded = decode(words, self._format, self._last)
        ticks = decoded.tick
        if self._fpga is not None:
            ours = (decoded.board == self._fpga) | (decoded.board == 255)
            words, ticks = words[ours], ticks[ours]
            timed = ((decoded.kind == HIT) | (decoded.kind == TRIGGER))[ours]
        else:
            timed = (decoded.kind == HIT) | (decoded.kind == TRIGGER)
        if not timed.any():
            return words, np.full(len(words), self._last)
        some = ticks[timed]
        middle = int(np.partition(some, len(some) // 2)[len(some) // 2])
        sane = timed & (np.abs(ticks - middle) < _OUTLIER_TICKS)
        low, high = int(ticks[sane].min()), int(ticks[sane].max())
        self._low, self._high = min(self._low, low), max(self._high, high)
        pace = np.maximum.accumulate(np.maximum(np.where(sane, ticks, low), self._last))
        self._last = int(pace[-1])
        return words, pace
