"""Every topic: its name, partitions and retention; the one place that creates or checks them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from freerun.errors import ConfigError

MESSAGE_BYTES = 33_554_432
HOUR_MS = 3_600_000
FOREVER = {"retention.ms": "-1", "retention.bytes": "-1"}
COMPACTED = {"cleanup.policy": "compact", "segment.ms": str(HOUR_MS)}


@dataclass(frozen=True)
class Topic:
    """What a topic must be."""

    name: str
    partitions: int
    config: Mapping[str, str]


@dataclass(frozen=True)
class Topics:
    """The names of one installation's topics."""

    system: str

    def raw(self, source: str) -> str:
        return f"{self.system}.raw.{source}"

    def events(self, pipeline: str) -> str:
        return f"{self.system}.events.{pipeline}"

    def monitor(self, pipeline: str) -> str:
        return f"{self.system}.monitor.{pipeline}"

    def snapshot(self, pipeline: str) -> str:
        return f"{self.system}.monitor.{pipeline}.snapshot"

    @property
    def control(self) -> str:
        return f"{self.system}.control"

    @property
    def plan(self) -> str:
        return f"{self.system}.plan"

    @property
    def runs(self) -> str:
        return f"{self.system}.runs"

    @property
    def state(self) -> str:
        return f"{self.system}.state"

    @property
    def quarantine(self) -> str:
        return f"{self.system}.quarantine"

    def group(self, pipeline: str) -> str:
        """Consumer group of a pipeline's lanes."""
        return f"{self.system}.{pipeline}"

    def lane_id(self, pipeline: str, partition: int) -> str:
        """Transactional id that owns a partition of a pipeline."""
        return f"{self.system}.{pipeline}.{partition}"

    def all(
        self,
        sources: Sequence[str],
        pipelines: Sequence[str],
        partitions: int,
        raw_bytes: int = -1,
        raw_ms: int = 24 * HOUR_MS,
    ) -> list[Topic]:
        """All topics of an installation. `raw_bytes` bounds raw data and results together, in
        bytes: a third of it for what sources send, two thirds for results, which are larger.
        """
        each = {"max.message.bytes": str(MESSAGE_BYTES), "message.timestamp.type": "LogAppendTime"}

        def bounded(total: int, topics: int) -> dict[str, str]:
            per = max(64 << 20, total // max(1, topics * partitions)) if raw_bytes > 0 else -1
            return each | {"retention.ms": str(raw_ms), "retention.bytes": str(per),
                           "segment.bytes": str(128 << 20)}  # fmt: skip

        raw = bounded(raw_bytes // 3, len(sources))
        results = bounded(raw_bytes * 6 // 10, len(pipelines))
        deltas = bounded(raw_bytes // 15, len(pipelines))
        out = [Topic(self.raw(s), partitions, raw) for s in sources]
        for p in pipelines:
            out.append(Topic(self.events(p), partitions, results))
            out.append(Topic(self.monitor(p), partitions, deltas))
            short = {"retention.ms": str(7 * 24 * HOUR_MS), "retention.bytes": str(256 << 20),
                     "segment.bytes": str(32 << 20)}  # fmt: skip
            out.append(Topic(self.snapshot(p), 1, each | short))
        out.append(Topic(self.control, 1, each | FOREVER))
        out.append(Topic(self.plan, 1, each | FOREVER))
        out.append(Topic(self.runs, 1, each | COMPACTED))
        out.append(Topic(self.state, 1, each | COMPACTED | {"segment.ms": "600000"}))
        out.append(Topic(self.quarantine, 1, each | {"retention.ms": str(7 * 24 * HOUR_MS),
                         "retention.bytes": str(1 << 30)}))  # fmt: skip
        return out


class Admin(Protocol):
    """What `ensure` needs of a broker."""

    def partitions(self) -> dict[str, int]: ...
    def create(self, topics: Sequence[Topic]) -> None: ...


def ensure(admin: Admin, wanted: Sequence[Topic]) -> list[str]:
    """Create the topics that are missing, check the others; returns the created names."""
    have = admin.partitions()
    for topic in wanted:
        n = have.get(topic.name)
        if n is not None and n != topic.partitions:
            raise ConfigError(
                f"topic {topic.name} has {n} partitions, the configuration says "
                f"{topic.partitions}: set partitions = {n}, or give the system another name"
            )
    missing = [topic for topic in wanted if topic.name not in have]
    if missing:
        admin.create(missing)
    return [topic.name for topic in missing]
