"""Rows of one source into slices, with guards and closes. Pure: rows in, parts out.

The sequencer knows nothing of Kafka or of clocks: its shell tells it the intervals of slices in
which the source takes part, the rows with a promise, and the sanity window of the moment.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from freerun.rows import Codec, Rows
from freerun.slices import partition
from freerun.ticks import Clock
from freerun.wire import BY_TIMEOUT, CLOSE, LATE, MARK, PART_BYTES, Part, checksum, write_batch
from freerun.words import BAD

Int64 = npt.NDArray[np.int64]
KEPT_BACK = ("late", "malformed", "quarantined", "pre_start", "dropped")


class Out(NamedTuple):
    """A part on its way to a partition; `body` is empty for a mark."""

    partition: int
    part: Part
    body: bytes | pa.Buffer


@dataclass(slots=True)
class Chunk:
    """Rows that came together, with their ticks and the range of these."""

    rows: Rows
    ticks: Int64
    low: int
    high: int


@dataclass(slots=True)
class OpenSlice:
    """What has come for one slice; `sent` counts what already left as parts."""

    chunks: list[Chunk] = field(default_factory=list)  # not sent yet
    kept: list[Chunk] = field(default_factory=list)  # sent, but a guard of the next slice
    rows: int = 0
    parts: int = 0
    sum: int = 0
    cut: bool = False  # payload of it was dropped


def first_slice(planned: int, host_ns: int, data_ns: int | None, length: int) -> int:
    """Where a source begins that was not there in time: two slices behind the later of host time
    and the time of its first data, because a host's clock may be behind that of the device."""
    return max(planned, max(host_ns, data_ns or 0) // length + 2)


def first_whole(
    first: int, began_ns: int, host_ns: int, data_ns: int, length: int, guard: int, early: int
) -> int:
    """The first slice that is seen from its start on, guard included, by who has read since host
    time `began_ns` and now, at `host_ns`, has data of `data_ns`: `first`, or a later one.

    Data from the host's future say that its clock is behind: it has then begun so much later. A
    source that is merely quiet has begun in time. `early` is how long before `first` reading was
    to begin; of what a block may be behind, some of it is kept as a margin.
    """
    behind = max(0, data_ns - host_ns)
    if began_ns + behind <= first * length - guard - min(early, length - guard) // 2:
        return first
    return first_slice(first, host_ns, data_ns, length)


class Sequencer:
    """One life (`inc`) of one source."""

    def __init__(
        self, source: str, inc: int, codec: Codec, clock: Clock,
        length: int, partitions: int, guard: int, part_bytes: int = PART_BYTES,
    ) -> None:  # fmt: skip
        self.source, self.inc, self.codec, self.clock = source, inc, codec, clock
        self.L, self.P, self.G, self.part_bytes = length, partitions, guard, part_bytes
        self.first: int | None = None  # first slice of the interval; None: idle
        self.next = 0  # the oldest slice that is not closed
        self.end: int | None = None  # the border at which the interval ends
        self.newest: int | None = None  # reference for unwrapping
        self.totals: Counter[str] = Counter()
        self.quarantined_in_a_row = 0
        self.lost = self.malformed = 0  # as the driver says, since the interval began
        self.dropping = False  # the sender is full: payload is dropped and counted, closes stay
        self._late_number = 0
        self._open: dict[int, OpenSlice] = {}
        self._before: list[Chunk] = []  # rows of the slice before `next`, near its end
        self._cut_before = False  # was payload of that one dropped?

    # -------------------------------------------------------------- intervals

    def arm(self, first: int, end: int | None) -> list[Out]:
        """Take part from slice `first` on; marks tell every partition where it begins."""
        self.totals["malformed"] += self.malformed
        self.totals["lost"] += self.lost
        self.malformed = self.lost = 0  # counts of a life only grow, from interval to interval
        self.first, self.next, self.end = first, first, end
        self._open.clear()
        self._before.clear()
        self._cut_before = False
        return self._marks(first)

    def border(self, end: int | None) -> None:
        """The interval ends before slice `end`."""
        self.end = end

    def _marks(self, k: int) -> list[Out]:
        """Marks also say where the counts stand: closes count on from there."""
        counts = {"read": self.totals["rows"] + sum(self._kept_back().values())}
        close = counts | self._kept_back() | {"lost": self.totals["lost"] + self.lost}
        mark = Part(self.source, self.inc, k, MARK, schema=self.codec.name, close=close)
        return [Out(p, mark, b"") for p in range(self.P)]

    # -------------------------------------------------------------- rows in

    def offer(
        self, rows: Rows, low: int, high: int, reference: int | None = None,
        wider: Mapping[int, int] | None = None,
    ) -> list[Out]:  # fmt: skip
        """Take in rows; ticks outside [low, high] are impossible and quarantined.

        `wider`: kind of row → by how many ticks its times may lie further out on both sides.
        Returns late parts at once, and full body parts of the oldest open slice.
        """
        n = len(rows)
        if n == 0:
            return []
        ref = self.newest if self.newest is not None else reference
        ticks, kind = self.codec.times(rows, ref if ref is not None else (low + high) // 2)
        bad = kind == BAD
        impossible = ~bad & ((ticks < low) | (ticks > high))
        if wider and impossible.any():
            for what, more in wider.items():
                inside = (kind == what) & (ticks >= low - more) & (ticks <= high + more)
                impossible &= ~inside
        armed = self.first is not None
        if bad.any() or impossible.any():
            if armed:
                self.totals["malformed"] += int(bad.sum())
                self.totals["quarantined"] += int(impossible.sum())
            good = ~(bad | impossible)
            self.quarantined_in_a_row = 0 if good.any() else self.quarantined_in_a_row + n
            if not good.any():
                return []
            rows, ticks = self.codec.take(rows, good), ticks[good]
        else:
            self.quarantined_in_a_row = 0
        least, most = int(ticks.min()), int(ticks.max())
        self.newest = most if self.newest is None else max(self.newest, most)
        if self.first is None:
            return []
        k_low, k_high = self._slice(least), self._slice(most)
        if k_low == k_high and k_low >= self.next:
            self._store(k_low, Chunk(rows, ticks, least, most))
            return self._full_parts()
        return self._sort_out(rows, ticks)

    def _sort_out(self, rows: Rows, ticks: Int64) -> list[Out]:
        """The slow path: rows of several slices, or late, or before the first slice."""
        out: list[Out] = []
        start = self.next * self.L
        ks = self.next + self.clock.ps_since(ticks, start) // (self.L * 1000)
        lowest, highest = int(ks.min()), int(ks.max())
        # a block reaches into a slice or two: to look at each is cheaper than to sort the numbers
        few = highest - lowest < 16
        for k in range(lowest, highest + 1) if few else np.unique(ks).tolist():
            which = ks == k
            if not which.any():
                continue
            if self.end is not None and k > self.end:
                continue  # beyond the stop: nobody's; the slice behind it is the last one's guard
            some, at = self.codec.take(rows, which), ticks[which]
            chunk = Chunk(some, at, int(at.min()), int(at.max()))
            if k >= self.next:
                self._store(k, chunk)
            elif self.first is not None and k < self.first:
                self.totals["pre_start"] += len(some)
                if k == self.first - 1 and self.next == self.first:
                    self._keep_end(self._before, chunk, k)
            else:
                out += self._late(k, some)
        return out + self._full_parts()

    def _slice(self, tick: int) -> int:
        return self.clock.ns(tick) // self.L

    def _store(self, k: int, chunk: Chunk) -> None:
        if self.end is not None and k > self.end:
            return
        current = self._open.setdefault(k, OpenSlice())
        if self.dropping and k > self.next and k != self.end:
            # of slices to come, too: a promise may stand still for long
            self.totals["dropped"] += len(chunk.rows)
            current.cut = True
        else:
            current.chunks.append(chunk)

    def _late(self, k: int, rows: Rows) -> list[Out]:
        if self.dropping:
            self.totals["dropped"] += len(rows)
            return []
        self.totals["late"] += len(rows)
        out: list[Out] = []
        per_part = max(1, self.part_bytes // self.codec.bytes_per_row(rows))
        for at in range(0, len(rows), per_part):
            some = rows[at : at + per_part]
            body = write_batch(self.codec.batch(some))
            part = self._part(k, self._late_number, LATE, len(some), body)
            self._late_number += 1
            out.append(Out(partition(k, self.P), part, body))
        return out

    @property
    def open_bytes(self) -> int:
        """Rows of slices that are not closed, in bytes (about)."""
        chunks = (c for s in self._open.values() for c in s.chunks)
        return sum(len(c.rows) * (8 + self.codec.bytes_per_row(c.rows)) for c in chunks)

    # -------------------------------------------------------------- slices out

    def advance(self, promise: int, by_timeout: bool = False) -> list[Out]:
        """Nothing before tick `promise` will follow: close what is whole now.

        At the interval's end the last marks leave, and the sequencer is idle again.
        """
        out: list[Out] = []
        while self.first is not None and (self.end is None or self.next < self.end):
            if promise < self.clock.tick_at((self.next + 1) * self.L + self.G):
                return out
            out += self._close(by_timeout)
        if self.first is not None and self.end is not None and self.next >= self.end:
            out += self._marks(self.end)
            self.first = None
            self._open.clear()
            self._before.clear()
        return out

    def _full_parts(self) -> list[Out]:
        """Body parts of the oldest open slice leave as they fill."""
        current = self._open.get(self.next)
        if current is None or (self.end is not None and self.next >= self.end):
            return []
        out: list[Out] = []
        if self.dropping:
            self._drop(current)
        per_part = self._rows_per_part(current)
        while sum(len(c.rows) for c in current.chunks) >= per_part:
            out.append(self._body_part(current, per_part))
        return out

    def _drop(self, current: OpenSlice) -> None:
        self.totals["dropped"] += sum(len(c.rows) for c in current.chunks)
        current.cut |= bool(current.chunks)
        current.chunks.clear()

    def _rows_per_part(self, current: OpenSlice) -> int:
        if not current.chunks:
            return 1 << 40
        largest = max(self.codec.bytes_per_row(c.rows) for c in current.chunks)
        return max(1, self.part_bytes // largest)

    def _body_part(self, current: OpenSlice, n: int) -> Out:
        taken: list[Chunk] = []
        have = 0
        while have < n:
            chunk = current.chunks.pop(0)
            if have + len(chunk.rows) > n:
                cut = n - have
                rest = Chunk(chunk.rows[cut:], chunk.ticks[cut:], chunk.low, chunk.high)
                current.chunks.insert(0, rest)
                chunk = Chunk(chunk.rows[:cut], chunk.ticks[:cut], chunk.low, chunk.high)
            taken.append(chunk)
            have += len(chunk.rows)
        for chunk in taken:
            self._keep_end(current.kept, chunk, self.next)
        rows = self.codec.concat([c.rows for c in taken])
        current.rows += len(rows)
        current.sum = (current.sum + self.codec.checksum(rows)) & 0xFFFFFFFF
        body = write_batch(self.codec.batch(rows))
        part = self._part(self.next, current.parts, 0, len(rows), body)
        current.parts += 1
        return Out(partition(self.next, self.P), part, body)

    def _close(self, by_timeout: bool) -> list[Out]:
        k = self.next
        out = self._full_parts()
        current = self._open.pop(k, None) or OpenSlice()
        if self.dropping:
            self._drop(current)
        rows = self.codec.concat([c.rows for c in current.chunks])
        before = self._near(self._before, self.clock.tick_at(k * self.L - self.G), None)
        after_from = self._open.get(k + 1) or OpenSlice()
        limit = self.clock.tick_at((k + 1) * self.L + self.G)
        after = self._near(after_from.chunks, None, limit)
        size = sum(len(r) * self.codec.bytes_per_row(r) for r in (rows, before, after) if len(r))
        if len(rows) and size > self.part_bytes:  # the guards leave alone, with the close
            out.append(self._body_part(current, len(rows)))
            rows = self.codec.concat([])
        total = current.rows + len(rows)
        self.totals["rows"] += total
        self.totals["parts"] += current.parts + 1
        counts = self._kept_back()
        close = {
            "parts": current.parts + 1,
            "rows": total,
            "read": self.totals["rows"] + sum(counts.values()),
            **counts,
            "lost": self.totals["lost"] + self.lost,
            "sum": (current.sum + self.codec.checksum(rows)) & 0xFFFFFFFF,
        }
        # rows of the slices beside it are its guards
        if current.cut or self._cut_before or after_from.cut:
            close["cut"] = 1
        self._cut_before = current.cut
        everything = self.codec.concat([r for r in (rows, before, after) if len(r)])
        body = write_batch(self.codec.batch(everything))
        flags = CLOSE | (BY_TIMEOUT if by_timeout else 0)
        part = self._part(
            k, current.parts, flags, len(rows), body,
            gb=len(before), ga=len(after), close=close,
        )  # fmt: skip
        self._before = []
        for chunk in current.chunks + current.kept:
            self._keep_end(self._before, chunk, k)
        self.next = k + 1
        out.append(Out(partition(k, self.P), part, body))
        return out

    def _kept_back(self) -> dict[str, int]:
        """Rows read so far that are in no fragment (late ones leave as late parts)."""
        counts = {name: self.totals[name] for name in KEPT_BACK}
        counts["malformed"] += self.malformed
        return counts

    def _part(
        self, k: int, number: int, flags: int, rows: int, body: pa.Buffer,
        gb: int = 0, ga: int = 0, close: dict[str, int] | None = None,
    ) -> Part:  # fmt: skip
        c = self.clock
        return Part(
            self.source, self.inc, k, number, flags, self.codec.name, c.tick_at(k * self.L),
            c.num, c.den, c.anchor_ns, rows, ga, gb, checksum(body), close,
        )  # fmt: skip

    # -------------------------------------------------------------- guards

    def _keep_end(self, into: list[Chunk], chunk: Chunk, k: int) -> None:
        """Keep what lies within the guard of the end of slice `k`."""
        self._keep(into, chunk, self.clock.tick_at((k + 1) * self.L - self.G), None)

    def _keep(self, into: list[Chunk], chunk: Chunk, low: int | None, high: int | None) -> None:
        rows = self._near([chunk], low, high)
        if len(rows):
            which = self._within(chunk, low, high)
            at = chunk.ticks if which is None else chunk.ticks[which]
            into.append(Chunk(rows, at, int(at.min()), int(at.max())))

    def _near(self, chunks: list[Chunk], low: int | None, high: int | None) -> Rows:
        """The rows of `chunks` with low ≤ tick < high."""
        found = []
        for chunk in chunks:
            if (low is not None and chunk.high < low) or (high is not None and chunk.low >= high):
                continue
            which = self._within(chunk, low, high)
            found.append(chunk.rows if which is None else self.codec.take(chunk.rows, which))
        return self.codec.concat(found)

    def _within(
        self, chunk: Chunk, low: int | None, high: int | None
    ) -> npt.NDArray[np.bool_] | None:
        """Mask of the rows with low ≤ tick < high; None if that is all of them."""
        if (low is None or chunk.low >= low) and (high is None or chunk.high < high):
            return None
        which = np.ones(len(chunk.ticks), np.bool_)
        if low is not None:
            which &= chunk.ticks >= low
        if high is not None:
            which &= chunk.ticks < high
        return which
