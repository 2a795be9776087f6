"""What the local broker is told: its properties, its log, its JVM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

NODE_ID = 1
LARGEST_MESSAGE = 33_554_432  # bytes; clients and topics say the same
_FOR_EVER = 2_147_483_647  # Kafka's largest int


@dataclass(frozen=True)
class SecondListener:
    """A second way in, for clients that reach this broker through something in between.

    Kafka listens on `port` of 127.0.0.1 and tells who comes in there to come to `advertised`.
    """

    port: int
    advertised: int


def server_properties(
    data: Path, port: int, controller_port: int, changes: Mapping[str, object] | None = None,
    second: SecondListener | None = None,
) -> str:  # fmt: skip
    """The text of `server.properties`: one node that is broker and controller.

    `changes` go last and win.
    """
    settings: dict[str, object] = {
        "process.roles": "broker,controller",
        "node.id": NODE_ID,
        "controller.quorum.voters": f"{NODE_ID}@127.0.0.1:{controller_port}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": data,
        # One module of ours makes topics; a typing error must not make another one.
        "auto.create.topics.enable": "false",
        # Experiment time lives in headers; the record's time is the broker's.
        "log.message.timestamp.type": "LogAppendTime",
        "message.max.bytes": LARGEST_MESSAGE,
        "replica.fetch.max.bytes": LARGEST_MESSAGE,
        # Positions of manual assignment would expire 7 days after the last commit.
        "offsets.retention.minutes": _FOR_EVER,
        "offsets.topic.replication.factor": 1,
        "offsets.topic.num.partitions": 16,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "transaction.state.log.num.partitions": 16,
        "transactional.id.expiration.ms": _FOR_EVER,
        "transaction.max.timeout.ms": 900_000,
        # A killed owner's open transaction must not block readers for the default of 10 s.
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": 1000,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        "group.initial.rebalance.delay.ms": 0,
        "broker.session.timeout.ms": 3000,
        "broker.heartbeat.interval.ms": 500,
        # An idle controller writes a record twice a second, for followers that we do not have.
        "metadata.max.idle.interval.ms": 10_000,
        "log.retention.check.interval.ms": 60_000,
        # The cleaner's map is heap from the first second on (default 128 MB): a quarter of ours.
        "log.cleaner.dedupe.buffer.size": 16_777_216,
        "num.recovery.threads.per.data.dir": 4,
    }
    if second is not None:
        settings["listeners"] = f"{settings['listeners']},SECOND://127.0.0.1:{second.port}"
        settings["advertised.listeners"] = (
            f"{settings['advertised.listeners']},SECOND://127.0.0.1:{second.advertised}"
        )
        settings["listener.security.protocol.map"] = (
            f"{settings['listener.security.protocol.map']},SECOND:PLAINTEXT"
        )
    for name, value in (changes or {}).items():
        settings[name] = str(value).lower() if isinstance(value, bool) else value
    return "".join(f"{name}={value}\n" for name, value in settings.items())


def log4j_yaml(log: Path) -> str:
    """Log4j's configuration: warnings and the broker's own milestones, at most 3 × 10 MB."""
    return f"""\
Configuration:
  status: ERROR
  Appenders:
    RollingFile:
      name: file
      fileName: "{log}"
      filePattern: "{log}.%i"
      PatternLayout:
        pattern: "%d{{ISO8601}} %p %m (%c)%n%xThrowable"
      SizeBasedTriggeringPolicy:
        size: "10 MB"
      DefaultRolloverStrategy:
        max: "2"
  Loggers:
    Root:
      level: WARN
      AppenderRef:
        - ref: file
    Logger:
      - name: kafka.server
        level: INFO
      - name: org.apache.kafka.common.utils.AppInfoParser
        level: INFO
"""


def java_arguments(folder: Path, log4j: Path, heap_mb: int, jars: list[Path]) -> list[str]:
    """The JVM's options, up to and without the class to run.

    The quick compiler alone: at 3 M rows/s the broker takes as much of a core as with the other
    one, which takes some 0.4 of a core more in the minute after each start (ADR 0020).
    """
    return [
        "-XX:TieredStopAtLevel=1",
        f"-Xmx{heap_mb}m",
        "-Xms128m",
        "-XX:+UseG1GC",
        "-XX:MaxGCPauseMillis=20",
        "-XX:InitiatingHeapOccupancyPercent=35",
        "-XX:+ExitOnOutOfMemoryError",
        f"-XX:ErrorFile={folder / 'kafka-crash.log'}",
        "-Djava.awt.headless=true",
        f"-Dlog4j2.configurationFile={log4j}",
        "-cp",
        ":".join(str(jar) for jar in jars),
    ]
