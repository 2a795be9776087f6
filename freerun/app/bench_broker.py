"""A broker for a benchmark: the one that FREERUN_KAFKA names, or one of its own for the while."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from freerun import broker

# Topics that a benchmark deletes must be gone from the disk before the next turn fills it.
QUICK = {"file.delete.delay.ms": 1000, "log.retention.check.interval.ms": 10_000}


@contextmanager
def serving(
    folder: Path | None = None,
    settings: Mapping[str, object] = QUICK,
    heap_mb: int = 512,
    whole_heap: bool = False,
) -> Iterator[tuple[str, int | None]]:
    """Address and pid (None: not ours) of a broker; its data go to `folder`, or are thrown away.

    `whole_heap`: all of it is taken at once, so that growth beside it can be seen."""
    other = os.environ.get("FREERUN_KAFKA")
    if other:
        yield other, None
        return
    with ending(), tempfile.TemporaryDirectory(prefix="freerun-bench-") as scratch:
        place = folder or Path(scratch)
        started = broker.start(place, heap_mb=heap_mb, settings=settings, whole_heap=whole_heap)
        try:
            yield started.address, started.pid
        finally:
            broker.stop(place)


@contextmanager
def ending() -> Iterator[None]:
    """SIGTERM ends a benchmark as Ctrl-C does: whatever it started is stopped behind it."""
    before = signal.signal(signal.SIGTERM, _interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupted(*_: Any) -> None:
    raise KeyboardInterrupt
