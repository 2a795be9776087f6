"""The local Kafka broker: one node in KRaft mode, from pinned jars, in a folder of its own.

`start(folder)` returns when Kafka serves at `.address`; `stop(folder)` ends it; data and address
stay for the next start.
"""

from __future__ import annotations

from freerun.broker.classes import archive_for, ensure_archive
from freerun.broker.jars import KAFKA_VERSION, default_cache, ensure_jars
from freerun.broker.java import find_java
from freerun.broker.life import AlreadyRunning, Broker, Status, start, status, stop
from freerun.broker.ports import free_port
from freerun.broker.probe import brokers_at
from freerun.broker.settings import SecondListener

__all__ = [
    "KAFKA_VERSION",
    "AlreadyRunning",
    "Broker",
    "SecondListener",
    "Status",
    "archive_for",
    "brokers_at",
    "default_cache",
    "ensure_archive",
    "ensure_jars",
    "find_java",
    "free_port",
    "start",
    "status",
    "stop",
]
