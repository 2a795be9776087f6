"""Calls that must come back: one that does not, ends the process, which is then started again.

A client library may hang in spite of its own time-outs (librdkafka's `send_offsets_to_transaction`
does after some outages, for good: its issue 5456). Its thread cannot be taken back; but whatever we
are in the middle of, the next process reads again from Kafka.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

EXIT_HUNG = 70
TICK_S = 1.0


@dataclass
class _Call:
    what: str
    limit_s: float
    is_well: Callable[[], bool]
    age_s: float = 0.0  # counted in ticks: a process that was stopped has not waited meanwhile


_calls: dict[int, _Call] = {}
_begin = threading.Lock()
_watching = False


@contextmanager
def must_end(what: str, limit_s: float, is_well: Callable[[], bool]) -> Iterator[None]:
    """End the process if the block takes longer than `limit_s` while the other side `is_well`.

    While it is not, waiting is right, and the time counts anew.
    """
    _watch()
    call = _Call(what, limit_s, is_well)
    _calls[id(call)] = call
    try:
        yield
    finally:
        del _calls[id(call)]


def _watch() -> None:
    global _watching
    with _begin:
        if not _watching:
            _watching = True
            threading.Thread(target=_look, name="watchdog", daemon=True).start()


def _look() -> None:
    while True:
        time.sleep(TICK_S)
        for key, call in list(_calls.items()):
            call.age_s += TICK_S
            if call.age_s < call.limit_s:
                continue
            if not call.is_well():
                call.age_s = 0.0
            elif key in _calls:
                print(
                    f"freerun: {call.what} has not come back for {call.age_s:.0f} s, and Kafka is "
                    "well: this process ends, the next one reads again what was not committed",
                    file=sys.stderr, flush=True,
                )  # fmt: skip
                os._exit(EXIT_HUNG)
