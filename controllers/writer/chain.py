"""The results of a run in slice order, from P partitions. Pure: records in, whole slices out.

A slice's records lie together in one partition (one transaction wrote them), partitions are in
slice order, and slice k is in partition(k): so merging is waiting for the right queue.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from freerun import wire
from freerun.errors import Quarantined
from freerun.slices import partition


@dataclass(frozen=True)
class SliceResult:
    """All results of one slice. `failed`: why there are none, although it was processed."""

    k: int
    info: Mapping[str, Any]
    tables: Mapping[str, tuple[pa.RecordBatch, ...]]
    nbytes: int = 0  # of the records' bodies
    failed: str | None = None


@dataclass
class _Whole:
    k: int
    offset: int  # of its first record
    parts: list[tuple[wire.ResultPart, bytes, int]] = field(default_factory=list)  # …, body, crc

    @property
    def nbytes(self) -> int:
        return sum(len(body) for _part, body, _crc in self.parts)


@dataclass
class _Lane:
    position: int
    seen: int
    queue: deque[_Whole] = field(default_factory=deque)
    open: _Whole | None = None
    nbytes: int = 0


class Chain:
    """Merges partitions in slice order from `first` on; `starts` = where each is read from."""

    def __init__(
        self, first: int, starts: Mapping[int, int], partitions: int, max_bytes: int = 256 << 20
    ) -> None:
        self.first = self.next = first
        self.partitions = partitions
        self.max_bytes = max_bytes
        self.duplicates = 0  # slices that came again: must be 0
        self.torn = 0  # records out of place: must be 0
        self._lanes = {p: _Lane(starts.get(p, 0), first - 1) for p in range(partitions)}

    def offer(
        self, p: int, offset: int, headers: Iterable[tuple[str, bytes | None]] | None, body: bytes
    ) -> None:
        """Take in one record of partition `p`."""
        lane = self._lanes[p]
        lane.position = offset + 1
        headers = list(headers or ())
        try:
            part = wire.read_result(headers)
            crc = int(dict(headers).get("crc") or b"0")
        except (Quarantined, ValueError):
            self.torn += 1
            return
        if part.k < self.first:
            return  # stored already, or of an earlier run
        if part.k <= lane.seen:
            self.duplicates += part.part == 0
            return
        if part.part == 0:
            self.torn += lane.open is not None
            lane.open = _Whole(part.k, offset)
        whole = lane.open
        if whole is None or whole.k != part.k or part.part != len(whole.parts):
            self.torn += 1
            return
        whole.parts.append((part, body, crc))
        if len(whole.parts) == part.parts:
            lane.queue.append(whole)
            lane.nbytes += whole.nbytes
            lane.seen, lane.open = part.k, None

    def at_end(self, p: int, position: int) -> None:
        """The reader's position in `p` went on without a record (markers, the end)."""
        lane = self._lanes[p]
        lane.position = max(lane.position, position)

    def take(self, last: int | None) -> SliceResult | None:
        """The next slice if it is here. `last`: of the run, None while no end is known.

        The plan must have been read to its end after the records were: then a later slice in
        the queue of `next` says that `next` itself is not in the topic, and it is given as failed.
        """
        if last is not None and self.next > last:
            return None
        lane = self._lanes[partition(self.next, self.partitions)]
        if not lane.queue:
            return None
        k, self.next = self.next, self.next + 1
        if lane.queue[0].k > k:
            return SliceResult(k, {}, {}, failed="its results are not in the topic")
        whole = lane.queue.popleft()
        lane.nbytes -= whole.nbytes
        return _read(whole)

    def finished(self, last: int | None) -> bool:
        return last is not None and self.next > last

    def offsets(self) -> dict[int, int]:
        """Where to read each partition again to go on at `next`."""
        out = {}
        for p, lane in self._lanes.items():
            held = lane.queue[0] if lane.queue else lane.open
            out[p] = held.offset if held else lane.position
        return out

    @property
    def nbytes(self) -> int:
        return sum(lane.nbytes for lane in self._lanes.values())

    def too_far(self) -> set[int]:
        """Partitions to pause: whole slices wait there and the bound is reached.

        Never the one awaited at `next`: its queue is empty whenever nothing can be taken.
        """
        if self.nbytes <= self.max_bytes:
            share = self.max_bytes // self.partitions
            return {p for p, lane in self._lanes.items() if lane.nbytes > 2 * share and lane.queue}
        return {p for p, lane in self._lanes.items() if lane.queue}


def _read(whole: _Whole) -> SliceResult:
    info = whole.parts[0][0].info or {}
    tables: dict[str, list[pa.RecordBatch]] = {}
    failed = info.get("failed")
    for part, body, crc in whole.parts:
        try:
            if wire.checksum(body) != crc:
                raise Quarantined("checksum", f"part {part.part} does not have its crc")
            batch = wire.read_batch(body)
        except Quarantined as problem:
            return SliceResult(whole.k, info, {}, whole.nbytes, f"bad result: {problem}")
        tables.setdefault(part.table, []).append(batch)
    done = {name: tuple(batches) for name, batches in tables.items()}
    return SliceResult(whole.k, info, done, whole.nbytes, failed)
