"""Parts to Kafka: in order, acknowledged by all, bounded; nothing is given up in silence."""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import Protocol

import pyarrow as pa

from freerun.kafka import Outgoing, Sender
from freerun.wire import Part, part_headers
from producers.sequencer import Out

BOUND_BYTES = 256 << 20


class Spool(Protocol):
    """Where the tail of the queue may go when memory is full (the hook for a spool on disk)."""

    def put(self, out: Out) -> bool: ...
    def take(self) -> Out | None: ...
    def __len__(self) -> int: ...


class PartSender:
    """One queue, in memory up to a bound. `full` asks the sequencer to drop payload and to say
    so in its closes; closes themselves are always taken."""

    def __init__(
        self, address: str, topic: str, name: str,
        bound: int = BOUND_BYTES, spool: Spool | None = None,
    ) -> None:  # fmt: skip
        self._topic, self._bound, self._spool = topic, bound, spool
        self._sender = Sender(address, name, self._done)
        self.waiting_bytes = 0
        self.acked_close = -1  # the last slice whose close is acknowledged
        self.refused = 0

    @property
    def full(self) -> bool:
        return self.waiting_bytes > self._bound and self._spool is None

    def send(self, out: Out) -> None:
        if self._spool is not None and (len(self._spool) or self.waiting_bytes > self._bound):
            self._spool.put(out)
        else:
            self._produce(out)

    def _produce(self, out: Out) -> None:
        n = len(out.body) if isinstance(out.body, bytes) else out.body.size
        record = Outgoing(self._topic, out.partition, out.body, part_headers(out.part))
        self.waiting_bytes += n
        while not self._sender.send(record, (out.partition, out.part, n)):
            self._sender.poll(0.01)

    def poll(self) -> None:
        """Serve acknowledgements; feed from the spool what fits."""
        self._sender.poll(0)
        while self._spool is not None and self.waiting_bytes <= self._bound:
            out = self._spool.take()
            if out is None:
                return
            self._produce(out)

    def _done(self, token: tuple[int, Part, int], error: str | None) -> None:
        p, part, n = token
        self.waiting_bytes -= n
        if error is None:
            if part.closes:
                self.acked_close = max(self.acked_close, part.k)
            return
        self.refused += 1
        if part.closes and n:
            # A record refused for good: its payload is lost and the close says what was meant,
            # so the slice is BROKEN and named, and nothing behind it waits.
            empty = replace(part, rows=0, ga=0, gb=0, crc=zlib.crc32(b""))
            self._produce(Out(p, empty, b""))

    def flush(self, timeout: float) -> int:
        return self._sender.flush(timeout)
