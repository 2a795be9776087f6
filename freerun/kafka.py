"""The one module that speaks librdkafka: reader, transactional producer, sender, admin.

The settings here were measured; `docs/performance.md` says with what effect.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from freerun.errors import EnvironmentProblem, FreerunError
from freerun.topics import MESSAGE_BYTES, Topic
from freerun.watchdog import must_end

Where = tuple[str, int]  # topic, partition
BEGINNING = OFFSET_BEGINNING
LEARN_S = 5.0  # how long to ask for a topic's leaders before a reader goes on without


class Fenced(FreerunError):
    """Another owner of the same transactional id has begun: stop, take over again or exit."""


class BrokerTrouble(FreerunError):
    """A call to Kafka failed; the caller may try again."""


class Record(NamedTuple):
    """One record, as it came."""

    topic: str
    partition: int
    offset: int
    time_ms: int
    key: bytes | None
    headers: Any  # list of (name, bytes), or None
    value: bytes


class Outgoing(NamedTuple):
    """One record to be sent."""

    topic: str
    partition: int
    value: Any  # bytes or an Arrow buffer
    headers: Any = None  # list of (name, bytes)
    key: bytes | None = None


class Position(NamedTuple):
    """A committed offset with its metadata text."""

    topic: str
    partition: int
    offset: int
    metadata: str = ""


def _trouble(error: KafkaException, what: str) -> FreerunError:
    inner = error.args[0] if error.args else error
    if isinstance(inner, KafkaError):
        fenced = (KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH)
        if inner.code() in fenced:
            return Fenced(f"{what}: {inner.str()}")
        return BrokerTrouble(f"{what}: {inner.name()}: {inner.str()}")
    return BrokerTrouble(f"{what}: {error}")


def _client(address: str, name: str) -> dict[str, Any]:
    return {
        "bootstrap.servers": address,
        "client.id": name,
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 1000,
        "log_level": 3,
        "logger": _logger(),
    }


def _has_leaders(metadata: Any, topic: str) -> bool:
    found = metadata.topics.get(topic)
    if found is None or found.error is not None or not found.partitions:
        return False
    return all(p.leader >= 0 for p in found.partitions.values())


def _logger() -> Any:
    import logging

    logger = logging.getLogger("freerun.librdkafka")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
        logger.propagate = False
    return logger


class Reader:
    """Reads explicit partitions from explicit offsets; commits nothing by itself.

    Assignment and offsets are always explicit, because take-over is what decides them. New data
    come at once; `fetch_wait_ms` is how long the broker holds an empty answer, and so how late the
    end of a partition is noticed. Short waits of many readers cost the broker its idle core.
    Without `hurry` new data, too, come after that time, all together: for heartbeats and the like.
    """

    def __init__(
        self,
        address: str,
        name: str,
        *,
        committed: bool = True,
        group: str | None = None,
        queue_mb: int = 128,
        fetch_wait_ms: int = 200,
        hurry: bool = True,
    ) -> None:
        settings = _client(address, name) | {
            "group.id": group or f"freerun.{name}",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "enable.partition.eof": True,
            "isolation.level": "read_committed" if committed else "read_uncommitted",
            "fetch.queue.backoff.ms": 5,
            "fetch.wait.max.ms": fetch_wait_ms,
            "fetch.min.bytes": 1 if hurry else 1 << 20,
            "fetch.message.max.bytes": 4 << 20,
            "fetch.max.bytes": MESSAGE_BYTES * 2,
            "receive.message.max.bytes": MESSAGE_BYTES * 2 + 1024,
            "queued.max.messages.kbytes": queue_mb << 10,
            "message.max.bytes": MESSAGE_BYTES,
        }
        self._consumer = Consumer(settings)
        self.ends: dict[Where, int] = {}  # where a partition was last read to its end
        self.position: dict[Where, int] = {}  # next offset to be given out
        self.lost: dict[Where, str] = {}  # an assigned offset that the broker no longer has
        self._learned: set[str] = set()
        self._paused: set[Where] = set()

    def assign(self, positions: Mapping[Where, int]) -> None:
        """Read these partitions too, each from its offset (`BEGINNING` is allowed)."""
        if positions:
            self._learn({topic for topic, _ in positions})
            self._call(
                self._consumer.incremental_assign,
                [TopicPartition(t, p, o) for (t, p), o in positions.items()],
            )
            self.position.update(positions)

    def _learn(self, topics: set[str]) -> None:
        """Ask where the leaders are: else the client finds out by a failed fetch, and waits the
        half second of its back-off (first record after 0.55 s, with this after 0.05 s). A topic
        that was made just now, or a broker that has just begun, may need some questions; a client
        that was told "unknown" once asks again by itself after minutes only."""
        end = time.monotonic() + LEARN_S
        while unknown := topics - self._learned:
            try:  # many at once: each question waits behind a fetch
                one = {"topic": next(iter(unknown))} if len(unknown) == 1 else {}
                found = self._consumer.list_topics(timeout=2.0, **one)
            except KafkaException:
                return  # no broker now: the fetch will find out
            self._learned |= {t for t in unknown if _has_leaders(found, t)}
            if time.monotonic() > end:
                return
            if not topics <= self._learned:
                time.sleep(0.05)

    def unassign(self, places: Iterable[Where]) -> None:
        gone = [w for w in places if w in self.position]
        if gone:
            # librdkafka keeps a pause over the next assignment, whose owner knows nothing of it
            self.resume(self._paused.intersection(gone))
            self._call(self._consumer.incremental_unassign, [TopicPartition(t, p) for t, p in gone])
            for where in gone:
                self.position.pop(where, None)
                self.ends.pop(where, None)
                self.lost.pop(where, None)

    def seek(self, where: Where, offset: int) -> None:
        self._call(self._consumer.seek, TopicPartition(*where, offset))
        self.position[where] = offset
        self.ends.pop(where, None)

    def pause(self, places: Iterable[Where]) -> None:
        now = list(places)
        self._call(self._consumer.pause, [TopicPartition(t, p) for t, p in now])
        self._paused.update(now)

    def resume(self, places: Iterable[Where]) -> None:
        now = list(places)
        if now:
            self._call(self._consumer.resume, [TopicPartition(t, p) for t, p in now])
            self._paused.difference_update(now)

    def poll(self, n: int = 500, timeout: float = 0.05) -> list[Record]:
        """Up to `n` records; waits `timeout` seconds for the first one only."""
        messages = self._call(self._consumer.consume, 1, timeout)
        if messages and n > 1:
            messages += self._call(self._consumer.consume, n - 1, 0)
        return [r for r in map(self._take, messages) if r is not None]

    def _take(self, message: Message) -> Record | None:
        error = message.error()
        where = (message.topic() or "", message.partition() or 0)
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF:
                if where in self.position:
                    self.ends[where] = self.position[where] = message.offset() or 0
                return None
            if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
                self.lost[where] = error.str()
                return None
            if error.retriable() or error.code() in (
                KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._RESOLVE,
            ):  # fmt: skip
                return None
            raise _trouble(KafkaException(error), f"reading {where[0]}/{where[1]}")
        offset = message.offset() or 0
        if where not in self.position:
            return None
        self.position[where] = offset + 1
        return Record(
            where[0], where[1], offset, message.timestamp()[1],
            message.key(), message.headers(), message.value() or b"",
        )  # fmt: skip

    def at_end(self, where: Where) -> bool:
        """Was the partition read to its end, as of the last poll?"""
        return where in self.ends and self.ends[where] == self.position.get(where)

    def high(self, where: Where, timeout: float = 5.0) -> int:
        """The end of a partition, asked from the broker (of what this reader may see). Tries again
        while a new partition has no leader yet; `BrokerTrouble` after `timeout` seconds."""
        return self._offsets_at([where], OFFSET_END, timeout)[where]

    def bounds(self, where: Where, timeout: float = 5.0) -> tuple[int, int]:
        """First offset kept, and the end. Tries again while a new partition has no leader yet."""
        end = time.monotonic() + timeout
        while True:
            try:
                got = self._consumer.get_watermark_offsets(TopicPartition(*where), timeout)
                if got is not None:
                    return int(got[0]), int(got[1])
                trouble: FreerunError = BrokerTrouble(f"no answer about {where[0]}/{where[1]}")
            except KafkaException as error:
                trouble = _trouble(error, f"the end of {where[0]}/{where[1]}")
                # a client that asked a broker that had just begun keeps "unknown partition" for
                # good, unless it asks for the topic itself
                self._learned.discard(where[0])
                self._learn({where[0]})
            if time.monotonic() > end:
                raise trouble
            time.sleep(0.05)

    def offsets_at(
        self, places: Iterable[Where], time_ms: int, timeout: float = 10.0
    ) -> dict[Where, int]:
        """The first offset at or after a broker time, for each place; its end if there is none.

        The ends are asked first: a record that arrives between the two questions is not passed
        over. Two questions for all places: each waits behind a fetch, a question for each of 64
        sources times 8 partitions took minutes. Raises `BrokerTrouble` after `timeout` seconds.
        """
        some = list(places)
        ends = self._offsets_at(some, OFFSET_END, timeout)
        found = self._offsets_at(some, time_ms, timeout)
        return {w: found[w] if found[w] >= 0 else ends[w] for w in some}

    def _offsets_at(self, places: list[Where], time_ms: int, timeout: float) -> dict[Where, int]:
        """What the broker says of all `places`; asks again while it does not know them yet."""
        end = time.monotonic() + timeout
        asked = [TopicPartition(t, p, time_ms) for t, p in places]
        while asked:
            try:
                found = self._call(self._consumer.offsets_for_times, asked, timeout)
                bad = next((f for f in found if f.error is not None), None)
                if bad is None:
                    return {(f.topic, f.partition): f.offset for f in found}
                trouble = BrokerTrouble(f"offsets of {bad.topic}: {bad.error.str()}")
            except BrokerTrouble as error:
                trouble = BrokerTrouble(f"offsets of {places[0][0]}: {error}")
            if time.monotonic() > end:
                raise trouble
            # a client that was told "unknown" keeps that for good, unless it asks for the topic
            topics = {t for t, _ in places}
            self._learned -= topics
            self._learn(topics)
            time.sleep(0.05)
        return {}

    def committed(self, places: Iterable[Where], timeout: float = 10.0) -> dict[Where, Position]:
        """The group's committed offsets with metadata, of the places that have one. Tries again
        while the group has no coordinator yet (a broker that has just begun)."""
        asked = [TopicPartition(t, p) for t, p in places]
        out: dict[Where, Position] = {}
        for found in self._patiently(self._consumer.committed, asked, timeout) if asked else []:
            if found.error is not None:
                raise BrokerTrouble(f"committed offset of {found.topic}: {found.error.str()}")
            if found.offset >= 0:
                metadata = (found.metadata or "").rstrip("\0")
                out[(found.topic, found.partition)] = Position(
                    found.topic, found.partition, found.offset, metadata
                )
        return out

    def group_metadata(self) -> Any:
        return self._consumer.consumer_group_metadata()

    def close(self) -> None:
        self._consumer.close()

    def _patiently(self, function: Callable[..., Any], asked: Any, timeout: float) -> Any:
        end = time.monotonic() + timeout
        while True:
            try:
                return self._call(function, asked, timeout)
            except BrokerTrouble:
                if time.monotonic() > end:
                    raise
            time.sleep(0.05)

    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return function(*args)
        except KafkaException as error:
            raise _trouble(error, getattr(function, "__name__", "reading")) from error


class Transactional:
    """A producer whose id owns something; `begin … commit` is one atomic step."""

    def __init__(self, address: str, tid: str, timeout_ms: int = 15_000) -> None:
        self.tid = tid
        self._address, self._timeout_s = address, timeout_ms / 1000
        self._failed: list[str] = []
        self._producer = Producer(
            _client(address, tid)
            | {
                "transactional.id": tid,
                "transaction.timeout.ms": timeout_ms,
                "retry.backoff.ms": 5,
                "retry.backoff.max.ms": 50,
                "linger.ms": 0,
                "message.max.bytes": MESSAGE_BYTES,
                "queue.buffering.max.kbytes": 1 << 20,
                "queue.buffering.max.messages": 1_000_000,
            }
        )

    def init(self, timeout: float = 30.0) -> None:
        """Fence every earlier owner of this id."""
        try:
            with must_end(f"taking over {self.tid}", 2 * timeout, self._is_well):
                self._producer.init_transactions(timeout)
        except KafkaException as error:
            raise _trouble(error, f"taking over {self.tid}") from error

    def commit(
        self,
        records: Iterable[Outgoing],
        positions: Sequence[Position] = (),
        group: Any = None,
    ) -> list[int]:
        """Send records and positions in one transaction; returns the records' offsets.

        Any failure raises; then nothing of it is visible, and the owner must take over again.
        """
        offsets: list[int] = []
        self._failed.clear()

        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                self._failed.append(error.str())
            else:
                offsets.append(message.offset() or 0)

        try:
            with must_end(f"the transaction of {self.tid}", self._hung_s, self._is_well):
                self._producer.begin_transaction()
                for r in records:
                    self._producer.produce(
                        r.topic, value=r.value, key=r.key, partition=r.partition,
                        headers=r.headers, on_delivery=delivered,
                    )  # fmt: skip
                if positions:
                    told = [TopicPartition(p.topic, p.partition, p.offset, p.metadata)
                            for p in positions]  # fmt: skip
                    limit = 1.5 * self._timeout_s  # it has that time-out, and does not look at it
                    with must_end(f"the positions of {self.tid}", limit, self._is_well):
                        self._producer.send_offsets_to_transaction(told, group, self._timeout_s)
                self._producer.commit_transaction(-1)
        except KafkaException as error:
            raise _trouble(error, f"transaction of {self.tid}") from error
        except BufferError as error:
            raise BrokerTrouble(f"transaction of {self.tid}: {error}") from error
        if self._failed:
            raise BrokerTrouble(f"transaction of {self.tid}: {self._failed[0]}")
        return offsets

    @property
    def _hung_s(self) -> float:
        """Longer than all of it may take: the records, the positions, the end."""
        return 3 * self._timeout_s

    def _is_well(self) -> bool:
        """Does the broker answer somebody else?"""
        try:
            return bool(AdminClient(_client(self._address, "freerun.well")).list_topics(timeout=2))
        except KafkaException:
            return False

    def close(self) -> None:
        """Let go without ending what may be open: the next owner's take-over aborts it."""
        self._producer.purge()
        del self._producer


class Sender:
    """Idempotent producer, acks=all, in order, never giving up by itself.

    `done(token, error)` is called from `poll`, in the thread that polls.
    """

    def __init__(self, address: str, name: str, done: Callable[[Any, str | None], None]) -> None:
        self._done = done
        self._producer = Producer(
            _client(address, name)
            | {
                "enable.idempotence": True,
                "acks": "all",
                "message.timeout.ms": 0,
                "max.in.flight.requests.per.connection": 5,
                "linger.ms": 1,
                "batch.size": 2 << 20,
                "message.max.bytes": MESSAGE_BYTES,
                "queue.buffering.max.kbytes": 1 << 20,
                "queue.buffering.max.messages": 1_000_000,
            }
        )

    def send(self, record: Outgoing, token: Any) -> bool:
        """Queue a record; False if the client's queue is full (poll, then try again)."""

        def delivered(error: KafkaError | None, _message: Message) -> None:
            self._done(token, None if error is None else error.str())

        try:
            self._producer.produce(
                record.topic, value=record.value, key=record.key, partition=record.partition,
                headers=record.headers, on_delivery=delivered,
            )  # fmt: skip
        except BufferError:
            return False
        except KafkaException as error:
            self._done(token, _trouble(error, "sending").args[0])
        return True

    def poll(self, timeout: float = 0.0) -> None:
        self._producer.poll(timeout)

    def flush(self, timeout: float) -> int:
        """Wait for acknowledgements; returns how many are still missing."""
        return int(self._producer.flush(timeout))

    def __len__(self) -> int:
        return len(self._producer)


class Publisher:
    """Small records that are news (heartbeats, documents): plain idempotent producer."""

    def __init__(self, address: str, name: str) -> None:
        self._producer = Producer(
            _client(address, name)
            | {"enable.idempotence": True, "linger.ms": 2, "message.max.bytes": MESSAGE_BYTES,
               "message.timeout.ms": 60_000}
        )  # fmt: skip

    def publish(
        self, topic: str, value: bytes, key: str | None = None,
        headers: Any = None, partition: int = 0,
    ) -> None:  # fmt: skip
        # news that does not fit is superseded by the next one
        with contextlib.suppress(BufferError, KafkaException):
            self._producer.produce(
                topic, value=value, key=key, headers=headers, partition=partition
            )
        self._producer.poll(0)

    def flush(self, timeout: float = 5.0) -> int:
        return int(self._producer.flush(timeout))


class Broker:
    """Administration: readiness, topics, retention."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._admin = AdminClient(_client(address, "freerun.admin"))

    def partitions(self) -> dict[str, int]:
        """Number of partitions of each topic."""
        try:
            topics = self._admin.list_topics(timeout=10).topics
        except KafkaException as error:
            raise EnvironmentProblem(
                f"no Kafka broker answers at {self.address} ({error.args[0].str()}): start one "
                "with 'freerun broker start', or set FREERUN_KAFKA=host:port"
            ) from error
        return {name: len(topic.partitions) for name, topic in topics.items()}

    def create(self, topics: Sequence[Topic], replication: int = -1) -> None:
        asked = [
            NewTopic(t.name, num_partitions=t.partitions, replication_factor=replication,
                     config=dict(t.config))
            for t in topics
        ]  # fmt: skip
        for name, future in self._admin.create_topics(asked, operation_timeout=30).items():
            try:
                future.result(30)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise EnvironmentProblem(
                        f"topic {name} could not be created at {self.address}: "
                        f"{error.args[0].str()}"
                    ) from error
        self._wait_for([t.name for t in topics])

    def _wait_for(self, names: Sequence[str], timeout: float = 30.0) -> None:
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            topics = self._admin.list_topics(timeout=10).topics
            if all(
                n in topics and all(p.leader >= 0 for p in topics[n].partitions.values())
                for n in names
            ):
                return
            time.sleep(0.05)
        raise EnvironmentProblem(f"topics have no leader after {timeout:.0f} s at {self.address}")

    def delete(self, names: Sequence[str]) -> None:
        if names:
            for future in self._admin.delete_topics(list(names), operation_timeout=30).values():
                future.result(30)

    def settings(self) -> dict[str, str]:
        """The settings of one broker, as it says itself."""
        nodes = self._admin.list_topics(timeout=10).brokers
        return self._described(ConfigResource(ResourceType.BROKER, str(next(iter(nodes)))))

    def topic_settings(self, name: str) -> dict[str, str]:
        """The settings of one topic; raises `BrokerTrouble` if they are not to be had."""
        try:
            return self._described(ConfigResource(ResourceType.TOPIC, name))
        except KafkaException as error:
            raise _trouble(error, f"the settings of {name}") from error

    def _described(self, resource: ConfigResource) -> dict[str, str]:
        found = self._admin.describe_configs([resource])[resource].result(10)
        return {name: str(entry.value) for name, entry in found.items()}


def wait_ready(address: str, timeout: float = 30.0) -> None:
    """Return when a broker answers at `address`; raises `EnvironmentProblem` after `timeout` s."""
    end = time.monotonic() + timeout
    admin = AdminClient(_client(address, "freerun.ready") | {"socket.timeout.ms": 2000})
    while True:
        try:
            if admin.list_topics(timeout=1).brokers:
                return
        except KafkaException:
            if time.monotonic() > end:
                raise EnvironmentProblem(
                    f"no Kafka broker answers at {address} after {timeout:.0f} s: start one with "
                    "'freerun broker start', or set FREERUN_KAFKA=host:port"
                ) from None
        time.sleep(0.05)


class Ends:
    """Asks for the true end of partitions, open transactions included (read_uncommitted)."""

    def __init__(self, address: str, name: str) -> None:
        self._reader = Reader(address, name, committed=False)
        self._lock = threading.Lock()

    def high(self, where: Where, timeout: float = 5.0) -> int:
        with self._lock:
            return self._reader.high(where, timeout)

    def close(self) -> None:
        self._reader.close()
