"""A compacted topic read once, to its end: key → newest record."""

from __future__ import annotations

import json
import time
from typing import Any

from freerun.errors import EnvironmentProblem
from freerun.kafka import BEGINNING, BrokerTrouble, Reader

PATIENCE_S = 10.0


def newest(address: str, topic: str) -> dict[str, dict[str, Any]]:
    """The newest JSON record of every key. Raises `EnvironmentProblem` rather than give a part:
    who takes its own number from here must not miss the last one.
    """
    reader = Reader(address, "read.once", committed=False, queue_mb=8, fetch_wait_ms=10)
    out: dict[str, dict[str, Any]] = {}
    where = (topic, 0)
    try:
        # To where it ended just now: in a topic that everybody writes to, and on a busy machine,
        # there may be no moment at which nothing more is to be read.
        known = reader.high(where, PATIENCE_S)
        reader.assign({where: BEGINNING})
        end = time.monotonic() + PATIENCE_S
        while reader.position[where] < known and not reader.at_end(where):
            if time.monotonic() > end:
                raise BrokerTrouble("no answer in time")
            for record in reader.poll(1000, 0.05):
                if record.key and record.value:
                    out[record.key.decode()] = json.loads(record.value)
    except BrokerTrouble as trouble:
        raise EnvironmentProblem(
            f"{topic} could not be read to its end at {address} in {PATIENCE_S:.0f} s ({trouble}): "
            "is the broker there? 'freerun broker status' says"
        ) from trouble
    finally:
        reader.close()
    return out
