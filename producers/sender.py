"""Parts to Kafka: in order, acknowledged by all, bounded; nothing is given up in silence."""

from __future__ import annotations

import zlib
from collections import Counter
from dataclasses import replace
from typing import Protocol

from freerun.kafka import Outgoing, Sender
from freerun.wire import MARK, Part, part_headers
from producers.sequencer import Out

BOUND_BYTES = 256 << 20


class Spool(Protocol):
    """Where the tail of the queue may go when memory is full (the hook for a spool on disk).

    `put` says False when there is no room for the rows; a part without a body is always taken.
    """

    def put(self, out: Out) -> bool: ...
    def take(self) -> Out | None: ...
    def __len__(self) -> int: ...


class PartSender:
    """One queue, in memory up to a bound. `full` asks the sequencer to drop payload and to say
    so in its closes; closes themselves are always taken.

    What the broker refuses for good, or the spool has no room for, is payload dropped too: all
    closes and marks that leave from then on count it.
    """

    def __init__(
        self, address: str, topic: str, name: str,
        bound: int = BOUND_BYTES, spool: Spool | None = None,
    ) -> None:  # fmt: skip
        self._topic, self._bound, self._spool = topic, bound, spool
        self._sender = Sender(address, name, self._done)
        self._spool_full = False
        self._newest: Part | None = None  # the last close or mark on its way
        self.waiting_bytes = 0
        self.acked_close = -1  # the last slice whose close is acknowledged
        self.refused = 0  # records
        self._refused_rows: Counter[int] = Counter()  # incarnation → rows

    @property
    def full(self) -> bool:
        return self.waiting_bytes > self._bound and (self._spool is None or self._spool_full)

    @property
    def refused_rows(self) -> int:
        return self._refused_rows.total()

    @property
    def busy(self) -> bool:
        """Is so much waiting that a reader who can wait should?"""
        return self.waiting_bytes > self._bound // 4

    def send(self, out: Out) -> None:
        if self._spool is None or not (len(self._spool) or self.waiting_bytes > self._bound):
            self._produce(out)
        elif not self._spool.put(out):
            self._spool_full = True
            self._count_refused(out.part)
            if out.part.closes:
                self._spool.put(_without_rows(out))

    def _produce(self, out: Out) -> None:
        n = len(out.body) if isinstance(out.body, bytes) else out.body.size
        part = self._told(out.part)
        if part.close is not None and _stands(part) >= _stands(self._newest):
            self._newest = out.part
        record = Outgoing(self._topic, out.partition, out.body, part_headers(part))
        self.waiting_bytes += n
        while not self._sender.send(record, (out, n)):
            self._sender.poll(0.01)

    def _told(self, part: Part) -> Part:
        """The part with what was refused among the rows that its close says were dropped."""
        refused = self._refused_rows[part.inc]
        if part.close is None or not refused:
            return part
        dropped = part.close.get("dropped", 0) + refused
        return replace(part, close={**part.close, "dropped": dropped})

    def poll(self) -> None:
        """Serve acknowledgements; feed from the spool what fits."""
        self._sender.poll(0)
        while self._spool is not None and self.waiting_bytes <= self._bound:
            out = self._spool.take()
            if out is None:
                return
            self._spool_full = False
            self._produce(out)

    def _done(self, token: tuple[Out, int], error: str | None) -> None:
        (out, n), part = token, token[0].part
        self.waiting_bytes -= n
        if error is None:
            if part.closes:
                self.acked_close = max(self.acked_close, part.k)
            return
        self.refused += 1
        if n == 0:
            return
        # A record refused for good: nothing behind it waits. Its slice is BROKEN and named.
        self._count_refused(part)
        if part.closes:
            self._produce(_without_rows(out))
        newest = self._newest
        if newest is not None and part.rows and _stands(newest) > (part.inc, part.k + part.closes):
            # closes on their way do not count it: a mark behind them says it
            mark = replace(part, inc=newest.inc, k=_stands(newest)[1], part=MARK, flags=0, rows=0,
                           ga=0, gb=0, crc=0, close=newest.close)  # fmt: skip
            self._produce(Out(out.partition, mark, b""))

    def _count_refused(self, part: Part) -> None:
        self._refused_rows[part.inc] += part.rows

    def flush(self, timeout: float) -> int:
        return self._sender.flush(timeout)


def _stands(part: Part | None) -> tuple[int, int]:
    """The incarnation and the slice before which the counts of a close or mark stand."""
    return (part.inc, part.k + (part.part != MARK)) if part is not None else (-1, -1)


def _without_rows(out: Out) -> Out:
    """The close of a part whose payload is lost: it still says what was meant to come."""
    close = {**(out.part.close or {}), "refused": 1}
    empty = replace(out.part, rows=0, ga=0, gb=0, crc=zlib.crc32(b""), close=close)
    return Out(out.partition, empty, b"")
