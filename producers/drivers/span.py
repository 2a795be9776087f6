"""From when to when a recording goes, and whether it is one: a look at all of it before a replay.

A replay needs its first and last slice before it begins. Words with a wrong time must not decide
them: a word counts only if its neighbours of the same board and kind agree with it, and of the
times that are left the largest group without a long pause is the recording.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from freerun.errors import ConfigError
from freerun.wordfile import WordFile
from freerun.words import BAD, FORMATS, HIT, PARAM, RUN, TRIGGER, WordFormat, decode
from producers.drivers.steady import Lane, typical_tick

I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]

MAX_EMPTY = 36_000  # slices without a word in a row (an hour of 100 ms); more are no pause
CHUNK_WORDS = 1 << 17


@dataclass
class Span:
    """What a recording holds; ticks as `typical_tick` unwraps them."""

    words: int = 0
    malformed: int = 0
    bad: int = 0
    """Words that are none of this format."""
    kinds: dict[int, int] = field(default_factory=dict)
    first: int | None = None
    """What to unwrap by."""
    low: int = 0
    high: int = 0
    """The recording's first and last tick."""
    inside: int = 0
    """Words with a time in between, give or take those that no neighbour agrees with."""
    others: list[tuple[int, int, int]] = field(default_factory=list)
    """Groups of words far from these: how many, first and last tick."""

    @property
    def outside(self) -> int:
        """Words with a time that is far from the recording."""
        return sum(n for n, _, _ in self.others)


class _Scan:
    def __init__(
        self, fmt: WordFormat, fpga: int | None, pause: int, window: Mapping[int, int], far: int
    ) -> None:
        self._format, self._fpga, self._pause = fmt, fpga, pause
        self._windows, self._far = window, far
        self._lanes: dict[tuple[int, int], Lane] = {}
        self._bins: dict[int, list[int]] = {}  # time // pause → words, first, last
        self._parameters: Counter[int] = Counter()  # the same of words that only tag a time
        self._reference: int | None = None
        self._sample: U64 = np.empty(0, np.uint64)
        self._run_numbers: set[int] = set()
        self.span = Span()

    def take(self, words: U64) -> None:
        span = self.span
        span.words += len(words)
        if self._reference is None:
            self._reference = span.first = typical_tick(words, self._format)
            self._sample = words
        decoded = decode(words, self._format, self._reference or 0)
        for kind, n in enumerate(np.bincount(decoded.kind, minlength=256).tolist()):
            if n:
                span.kinds[kind] = span.kinds.get(kind, 0) + n
        runs = words[decoded.kind == RUN]
        if len(self._run_numbers) < 1000 and len(runs):
            self._run_numbers.update(np.unique(runs & np.uint64(0xFFFFFFFF)).tolist())
        ours = np.ones(len(words), np.bool_)
        if self._fpga is not None:
            ours = (decoded.board == self._fpga) | (decoded.board == 255)
        for kind in (HIT, TRIGGER):
            mine = ours & (decoded.kind == kind)
            for board in np.flatnonzero(np.bincount(decoded.board[mine], minlength=1)).tolist():
                self._see(board, kind, decoded.tick[mine & (decoded.board == board)])
        parameters = decoded.tick[ours & (decoded.kind == PARAM)] // self._pause
        self._parameters.update(dict(zip(*(x.tolist() for x in np.unique(
            parameters, return_counts=True)), strict=True)))  # fmt: skip

    def _see(self, board: int, kind: int, ticks: I64, last: bool = False) -> None:
        lane = self._lanes.setdefault((board, kind), Lane(ticks[:0]))
        good = lane.take(ticks, self._windows.get(kind, 0), self._far, last)
        if len(good):
            self._reference = int(good[len(good) // 2])
            self._count(good)

    def _count(self, ticks: I64) -> None:
        bins = ticks // self._pause
        for b in [int(bins[0])] if bins.min() == bins.max() else np.unique(bins).tolist():
            mine = ticks[bins == b]
            low, high = int(mine.min()), int(mine.max())
            n, before, after = self._bins.get(b, (0, low, high))
            self._bins[b] = [n + len(mine), min(before, low), max(after, high)]

    def finish(self) -> Span:
        nothing = np.empty(0, np.int64)
        for board, kind in list(self._lanes):
            self._see(board, kind, nothing, last=True)
        groups: list[list[int]] = []
        for b in sorted(self._bins):
            n, low, high = self._bins[b]
            if groups and low - groups[-1][2] <= self._pause:
                groups[-1] = [groups[-1][0] + n, groups[-1][1], high]
            else:
                groups.append([n, low, high])
        span = self.span
        if groups:
            best = max(groups)
            groups.remove(best)
            span.inside, span.low, span.high = best
            span.others = [(n, low, high) for n, low, high in groups]
            near = range(span.low // self._pause - 1, span.high // self._pause + 2)
            for b, n in self._parameters.items():
                if b not in near:
                    span.others.append((n, b * self._pause, (b + 1) * self._pause))
        span.bad = span.kinds.get(BAD, 0)
        return span

    def hint(self) -> str:
        """Formats in which the first words make sense."""
        fitting = []
        for name, fmt in FORMATS.items():
            kinds = decode(self._sample, fmt, self._reference or 0).kind
            if name != self._format.name and np.count_nonzero(kinds == BAD) < len(kinds) / 1000:
                fitting.append(name)
        told = f"they would make sense as {' or '.join(fitting)}: " if fitting else ""
        return f"{told}give the right --format (known are {', '.join(FORMATS)})"

    @property
    def many_runs(self) -> bool:
        """Do the run words name another run again and again? Then they are none."""
        n = self.span.kinds.get(RUN, 0)
        return n >= 8 and 4 * len(self._run_numbers) > min(n, 1000)


def scan(
    paths: Iterable[Path], fmt: WordFormat, slice_ns: int, fpga: int | None = None,
    late_ns: Mapping[int, int] | None = None, far_ns: int = 10_000_000_000,
) -> Span:  # fmt: skip
    """Look through the files. `late_ns`: how far out of order words of a kind may be.

    Raises `ConfigError` for a file that is none, holds no word with a time, holds words of
    another format, or has a pause of more than `MAX_EMPTY` slices.
    """
    num, den = fmt.tick.numerator, fmt.tick.denominator

    def ticks(ns: int) -> int:
        return -(-ns * den // num)

    windows = {kind: ticks(ns) for kind, ns in (late_ns or {}).items()}
    default = {HIT: ticks(3_000), TRIGGER: ticks(20_000)}
    work = _Scan(fmt, fpga, ticks(MAX_EMPTY * slice_ns), default | windows, ticks(far_ns))
    name = ""
    for path in paths:
        name = name or str(path)
        file = WordFile(path, fmt)
        for words in file.chunks(CHUNK_WORDS):
            work.take(words)
        work.span.malformed += file.malformed
    span = work.finish()
    trouble = _trouble(span, work, fmt, slice_ns, fpga)
    if trouble:
        raise ConfigError(f"{name}: {trouble}")
    return span


def _trouble(
    span: Span, work: _Scan, fmt: WordFormat, slice_ns: int, fpga: int | None
) -> str | None:
    """Why these words cannot be replayed as they are."""
    if span.words == 0:
        lines = f" ({span.malformed:,d} lines are no rows)" if span.malformed > 1 else ""
        return f"the file holds no word{lines}: there is nothing to replay"
    if span.malformed > max(10, span.words // 4):
        return (f"{span.malformed:,d} lines are no rows of {fmt.name}, only {span.words:,d} are; "
                f"{work.hint()}")  # fmt: skip
    if span.bad > max(10, span.words // 200):
        return (f"{span.bad:,d} of {span.words:,d} words are no words of {fmt.name}; "
                f"{work.hint()}")  # fmt: skip
    if work.many_runs:
        return (f"{span.kinds[RUN]:,d} of {span.words:,d} words would be run words of {fmt.name}, "
                f"but they name ever other runs: these are words of another format; "
                f"{work.hint()}")  # fmt: skip
    if span.inside == 0:
        board = "" if fpga is None else f" of board {fpga}"
        return f"none of {span.words:,d} words has a time{board}: there is nothing to replay"
    if span.outside > max(10, span.words // 100):
        n, low, high = max(span.others)
        seconds = float(fmt.tick) * (low - span.high if low > span.low else span.low - high) / 1e9
        return (
            f"{n:,d} of {span.words:,d} words lie {seconds:,.0f} s away from the others, more than "
            f"{MAX_EMPTY:,d} slices of {slice_ns / 1e6:g} ms: if that is a pause, give longer "
            f"slices (--slice) or cut the file in two; if not, the format {fmt.name} is wrong"
        )
    return None
