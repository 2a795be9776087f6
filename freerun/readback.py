"""Topics read once more, from a broker time to where they ended: what of it is still kept."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass

from freerun.kafka import BrokerTrouble, Reader, Record, Where

STALL_S = 60.0  # without a record, where there must be some


@dataclass(frozen=True)
class Stretch:
    """Offsets `start` to `end` of one partition; the broker keeps what is at `low` and later."""

    where: Where
    start: int
    end: int
    low: int

    @property
    def may_be_cut(self) -> bool:
        """Does it begin where retention ends? Then records before it may be gone."""
        return self.start <= self.low and self.low > 0


def stretch(reader: Reader, where: Where, from_ms: int, to_ms: int | None = None) -> Stretch:
    """What partition `where` holds between two broker times (ms; None: to its end)."""
    low = reader.bounds(where)[0]
    start = max(low, reader.offsets_at([where], from_ms)[where])
    end = reader.high(where)
    if to_ms is not None:
        end = min(end, reader.offsets_at([where], to_ms)[where])
    return Stretch(where, start, end, low)


def read(reader: Reader, what: Stretch) -> Generator[Record]:
    """The records of a stretch. Raises `BrokerTrouble` if they stop coming before its end, or
    if retention deletes them meanwhile (the next look sees where the topic then begins).
    """
    if what.start >= what.end:
        return
    where = what.where
    topic, p = where
    reader.assign({where: what.start})
    quiet = 0.0  # seconds of waiting in vain; what the caller does meanwhile is none
    try:
        while reader.position[where] < what.end and not reader.at_end(where):
            begun = time.monotonic()
            records = reader.poll(500, 0.1)
            quiet = 0.0 if records else quiet + time.monotonic() - begun
            if where in reader.lost:
                raise BrokerTrouble(f"{topic}/{p} was cut by retention while it was read")
            if quiet > STALL_S:
                raise BrokerTrouble(
                    f"{topic}/{p} gives nothing at offset {reader.position[where]} of {what.end}"
                )
            for record in records:
                if record.offset < what.end:
                    yield record
    finally:
        reader.lost.pop(where, None)
        reader.unassign([where])
