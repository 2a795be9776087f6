"""What the one module that speaks librdkafka promises beyond librdkafka."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest
from confluent_kafka import OFFSET_END, TopicPartition

from freerun.compacted import newest
from freerun.kafka import (
    BEGINNING,
    Broker,
    BrokerTrouble,
    Outgoing,
    Publisher,
    Reader,
    Record,
    Sender,
)
from freerun.topics import Topic


def test_a_record_that_arrives_between_the_questions_is_not_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The place has no record yet when its offset at a time is asked, and one right after."""
    where, records = ("t", 0), 0

    class Consumer:
        def offsets_for_times(self, asked: list[Any], _: float) -> list[Any]:
            nonlocal records
            here = records
            records += 2
            return [TopicPartition(a.topic, a.partition, here if a.offset == OFFSET_END else -1)
                    for a in asked]  # fmt: skip

    reader = Reader.__new__(Reader)
    monkeypatch.setattr(reader, "_consumer", Consumer(), raising=False)
    assert reader.offsets_at([where], 0) == {where: 0}


def test_offsets_at_a_time(broker: str, installation: str) -> None:
    """Before all records, and behind them."""
    topic = f"{installation}.times"
    admin = Broker(broker)
    admin.create([Topic(topic, 2, {"message.timestamp.type": "LogAppendTime"})])
    try:
        sender = Sender(broker, "times", lambda token, error: None)
        for _ in range(3):
            assert sender.send(Outgoing(topic, 0, b"x"), None)
        assert sender.flush(10) == 0
        reader = Reader(broker, "times")
        try:
            places = [(topic, 0), (topic, 1)]
            assert reader.offsets_at(places, 0) == {(topic, 0): 0, (topic, 1): 0}
            assert reader.offsets_at(places, 1 << 45) == {(topic, 0): 3, (topic, 1): 0}
        finally:
            reader.close()
    finally:
        admin.delete([topic])


def test_many_places_are_few_questions(
    broker: str, installation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One for each place would wait for a fetch each time."""
    names = [f"{installation}.many{i}" for i in range(8)]
    admin = Broker(broker)
    admin.create([Topic(name, 8, {}) for name in names])
    reader = Reader(broker, "many")
    asked, call = [], reader._call

    def counted(function: Any, *args: Any) -> Any:
        asked.append(function.__name__)
        return call(function, *args)

    monkeypatch.setattr(reader, "_call", counted)
    try:
        places = [(name, p) for name in names for p in range(8)]
        reader.assign(dict.fromkeys(places, 0))  # learns them
        assert reader.offsets_at(places, 0) == dict.fromkeys(places, 0)
        assert len(asked) < 32, asked  # new topics may be asked for again and again
    finally:
        reader.close()
        admin.delete(names)


def test_a_place_that_is_not_there_is_trouble(broker: str, installation: str) -> None:
    reader = Reader(broker, "nowhere")
    try:
        with pytest.raises(BrokerTrouble, match=f"{installation}.none"):
            reader.offsets_at([(f"{installation}.none", 0)], 0, timeout=0.2)
    finally:
        reader.close()


def test_a_partition_that_was_paused_and_let_go_is_read_when_it_is_taken_again(
    broker: str, installation: str
) -> None:
    """librdkafka keeps the pause over an assignment; a new owner knows nothing of it."""
    topic = Topic(f"{installation}.paused", 1, {})
    Broker(broker).create([topic])
    where = (topic.name, 0)
    publisher = Publisher(broker, "test")
    publisher.publish(topic.name, b"here")
    assert publisher.flush() == 0
    reader = Reader(broker, "test")
    try:
        reader.assign({where: BEGINNING})
        reader.pause([where])
        reader.unassign([where])
        reader.assign({where: BEGINNING})
        end = time.monotonic() + 30
        got: list[Record] = []
        while not got and time.monotonic() < end:
            got = reader.poll(10, 0.1)
        assert [r.value for r in got] == [b"here"]
    finally:
        reader.close()
        Broker(broker).delete([topic.name])


def test_a_topic_that_never_rests_is_read_to_where_it_ended(broker: str, installation: str) -> None:
    """Heartbeats of many services: there is no moment without a new one."""
    name = f"{installation}.state"
    Broker(broker).create([Topic(name, 1, {"cleanup.policy": "compact"})])
    publisher, stop = Publisher(broker, "test"), threading.Event()
    publisher.publish(name, json.dumps({"n": -1}).encode(), "first")
    assert publisher.flush(10) == 0

    def beat() -> None:
        n = 0
        while not stop.is_set():
            publisher.publish(name, json.dumps({"n": n}).encode(), "beat")
            n += 1
            time.sleep(0.0005)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        for _ in range(3):
            found = newest(broker, name)
            assert found["first"] == {"n": -1}
        assert found["beat"]["n"] > 0
    finally:
        stop.set()
        thread.join()
        publisher.flush(10)
        Broker(broker).delete([name])
