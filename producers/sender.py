"""Parts to Kafka: in order, acknowledged by all, bounded; nothing is given up in silence."""

from __future__ import annotations

import time
import zlib
from collections import Counter, deque
from dataclasses import dataclass, replace

from freerun.kafka import Outgoing, Sender
from freerun.wire import MARK, Part, part_headers
from producers.sequencer import Out
from producers.spool import Kept, Spool

BOUND_BYTES = 64 << 20  # in memory, on its way to the broker; beyond it parts go to the spool
FEED_BYTES = 32 << 20  # … of what comes back from there
SPOOL_AFTER_S = 2.0  # without an acknowledgement, what waits goes to the spool, too


@dataclass(slots=True)
class Flight:
    """A part that the client has, and the broker has not acknowledged."""

    out: Out
    size: int
    since: float
    kept: Kept | None  # its place in the spool
    done: bool = False


class PartSender:
    """One queue: in memory up to a bound, then on disk, if there is a `spool`. `full` asks the
    sequencer to drop payload and to say so in its closes; closes themselves are always taken.

    What the broker refuses for good, or nothing has room for, is payload dropped too: all closes
    and marks that leave from then on count it.
    """

    def __init__(
        self, address: str, topic: str, name: str,
        bound: int = BOUND_BYTES, spool: Spool | None = None,
    ) -> None:  # fmt: skip
        self._topic, self._bound, self._spool = topic, bound, spool
        self._sender = Sender(address, name, self._done)
        self._flights: deque[Flight] = deque()
        self._unkept = False  # are there flights that were never offered to the spool?
        self._away = False  # the broker acknowledges nothing
        self._newest: Part | None = None  # the last close or mark on its way
        self.waiting_bytes = 0
        self.sent_bytes = 0  # taken in, in all
        self.acked_close = -1  # the last slice whose close is acknowledged
        self.refused = 0  # records
        self.spooled_rows = 0  # that waited on disk before the client had them
        self._refused_rows: Counter[int] = Counter()  # incarnation → rows

    # ------------------------------------------------------------------ how it stands

    @property
    def full(self) -> bool:
        crowded = self.waiting_bytes > self._bound
        if self._spool is None:
            return crowded
        return (crowded or self.spooling) and self._spool.full

    @property
    def spooling(self) -> bool:
        """Do parts wait on disk, or must they go there now?"""
        return self._spool is not None and (self._away or self._spool.unread)

    @property
    def refused_rows(self) -> int:
        return self._refused_rows.total()

    @property
    def busy(self) -> bool:
        """Is so much waiting that a reader who can wait should?"""
        return self.spooling or self.waiting_bytes > self._bound // 2

    @property
    def spool_bytes(self) -> int:
        """On disk, not acknowledged."""
        return self._spool.bytes if self._spool is not None else 0

    @property
    def backlog_bytes(self) -> int:
        """All that is not acknowledged (what is on its way may be on disk as well)."""
        return max(self.waiting_bytes, self.spool_bytes)

    def room(self) -> int:
        """Bytes that can still wait before payload is dropped."""
        if self._spool is None:
            return max(0, self._bound - self.waiting_bytes)
        return self._spool.room()

    # ------------------------------------------------------------------ in

    def send(self, out: Out) -> None:
        self.sent_bytes += _size(out)
        if self._spool is None or not (self.spooling or self.waiting_bytes > self._bound):
            self._produce(self._with_spooled(out, 0))
            return
        self._keep_flights(self._spool)
        if self._spool.put(self._with_spooled(out, out.part.rows)):
            self.spooled_rows += out.part.rows
            return
        self._count_refused(out.part)
        if out.part.closes:
            self._spool.put(_without_rows(out))

    def _with_spooled(self, out: Out, more: int) -> Out:
        rows = self.spooled_rows + more
        if out.part.close is None or not rows:
            return out
        return out._replace(part=replace(out.part, close={**out.part.close, "spooled": rows}))

    def _keep_flights(self, spool: Spool) -> None:
        """What is on its way goes to the spool before what waits behind it: this process may be
        killed before the broker is back."""
        if not self._unkept or spool.unread:
            return
        self._unkept = False
        for flight in self._flights:
            if flight.kept is None and not flight.done:
                flight.kept = spool.keep(flight.out._replace(part=self._told(flight.out.part)))

    # ------------------------------------------------------------------ out

    def _produce(self, out: Out, kept: Kept | None = None) -> None:
        part = self._told(out.part)
        if part.close is not None and _stands(part) >= _stands(self._newest):
            self._newest = out.part
        record = Outgoing(self._topic, out.partition, out.body, part_headers(part))
        flight = Flight(out, _size(out), time.monotonic(), kept)
        self._flights.append(flight)
        self._unkept |= kept is None
        self.waiting_bytes += flight.size
        while not self._sender.send(record, flight):
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
        while self._flights and self._flights[0].done:
            self._flights.popleft()
        spool = self._spool
        if spool is None:
            return
        oldest = self._flights[0].since if self._flights else None
        self._away = oldest is not None and time.monotonic() - oldest > SPOOL_AFTER_S
        if self._away:
            self._keep_flights(spool)
        while self.waiting_bytes <= min(self._bound, FEED_BYTES):
            kept = spool.take()
            if kept is None:
                return
            self._produce(kept.out, kept)

    def _done(self, flight: Flight, error: str | None) -> None:
        out, part = flight.out, flight.out.part
        self.waiting_bytes -= flight.size
        flight.done = True
        if flight.kept is not None and self._spool is not None:
            self._spool.done(flight.kept)
        if error is None:
            if part.closes:
                self.acked_close = max(self.acked_close, part.k)
            return
        self.refused += 1
        if not len(memoryview(out.body)):
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

    # ------------------------------------------------------------------ end

    def flush(self, timeout: float) -> int:
        """Wait until all is acknowledged; returns how many parts are still on their way, and one
        more if others wait behind them."""
        end = time.monotonic() + timeout
        while True:
            self.poll()
            waiting = len(self._flights) + self.spooling
            if not waiting or time.monotonic() > end:
                return waiting
            self._sender.flush(0.05)

    def close(self, timeout: float) -> None:
        """Send what can be sent in `timeout` s; the rest waits on disk for the next process."""
        self.flush(timeout)
        if self._spool is not None:
            self._keep_flights(self._spool)
            self._spool.close()


def _size(out: Out) -> int:
    return len(memoryview(out.body)) + 512  # about what its headers take


def _stands(part: Part | None) -> tuple[int, int]:
    """The incarnation and the slice before which the counts of a close or mark stand."""
    return (part.inc, part.k + (part.part != MARK)) if part is not None else (-1, -1)


def _without_rows(out: Out) -> Out:
    """The close of a part whose payload is lost: it still says what was meant to come."""
    close = {**(out.part.close or {}), "refused": 1}
    empty = replace(out.part, rows=0, ga=0, gb=0, crc=zlib.crc32(b""), close=close)
    return Out(out.partition, empty, b"")
