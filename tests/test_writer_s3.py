"""Uploads to S3: once, in order, tried again while the store is away, never over another file."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import make_results as make
import pytest
from moto.server import ThreadedMotoServer

from controllers.writer import publish, s3
from controllers.writer.job import Output, RunJob, Setup
from controllers.writer.tables import RunFacts
from controllers.writer.uploads import Uploader
from freerun.errors import ConfigError, EnvironmentProblem

FIRST, LAST = 1000, 1004
RUN = RunFacts(42, FIRST, make.L, make.SOURCES)
DOC = {"run": 42, "state": "stopping", "system": "telescope", "sources": list(make.SOURCES),
       "slice_ns": make.L}  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def client_of(port: int) -> Any:
    return s3.make_client(f"http://127.0.0.1:{port}", "us-east-1", "key", "secret", timeout=1.0)


@pytest.fixture
def port() -> Iterator[int]:
    number = free_port()
    server = ThreadedMotoServer("127.0.0.1", number, verbose=False)
    server.start()
    client = client_of(number)
    client.create_bucket(Bucket="lab")
    try:
        yield number
    finally:
        for item in client.list_objects_v2(Bucket="lab").get("Contents", []):
            client.delete_object(Bucket="lab", Key=item["Key"])
        client.delete_bucket(Bucket="lab")  # moto keeps its buckets for the next server
        server.stop()


@pytest.fixture
def store(port: int) -> s3.Store:
    return s3.Store(s3.Location("lab", "telescope"), client_of(port))


def keys(port: int) -> set[str]:
    found = client_of(port).list_objects_v2(Bucket="lab").get("Contents", [])
    return {item["Key"] for item in found}


def test_addresses() -> None:
    place = s3.Location.parse("s3://lab/some/where/")
    assert place.key("Run000042", "a.root") == "some/where/Run000042/a.root"
    assert s3.Location.parse("s3://lab").url("x") == "s3://lab/x"
    for bad in ("lab", "http://lab", "s3:///x"):
        with pytest.raises(ConfigError, match="not an S3 address"):
            s3.Location.parse(bad)


def test_a_file_goes_once_and_never_over_another(
    tmp_path: Path, store: s3.Store, port: int
) -> None:
    path = tmp_path / "a.root"
    path.write_bytes(b"mine")
    store.put_new(path, publish.sha256_of(path), "Run000042", "a.root")
    store.put_new(path, publish.sha256_of(path), "Run000042", "a.root")  # again: the same, fine
    path.write_bytes(b"other")
    with pytest.raises(s3.Taken, match=r"s3://lab/telescope/Run000042/a\.root holds another file"):
        store.put_new(path, publish.sha256_of(path), "Run000042", "a.root")
    body = client_of(port).get_object(Bucket="lab", Key="telescope/Run000042/a.root")["Body"]
    assert body.read() == b"mine"


def test_no_bucket_is_a_sentence(tmp_path: Path, port: int) -> None:
    store = s3.Store(s3.Location("nowhere", "t"), client_of(port))
    path = tmp_path / "a"
    path.touch()
    with pytest.raises(s3.Away, match=r"s3://nowhere/t does not take files now .*NoSuchBucket"):
        store.put_new(path, "0", "a")


def write_run(data: Path, uploader: Uploader | None) -> RunJob:
    setup = Setup(data, "u1", 1, (Output("muons"),), texts={"bench.toml": "schema = 1\n"})
    job = RunJob(setup, RUN, lambda: DOC, uploader)
    log = make.Log(1)
    for k in range(FIRST, LAST + 1):
        log.append(make.records(k, FIRST, 1))
    import test_writer_root as root

    for place in job.begin(lambda kind, pipeline: {0: 0}):
        if place[0] == "events":
            for offset, headers, body in log.rows[0]:
                job.offer(place, offset, headers, body, LAST)
        else:
            for k in range(FIRST, LAST + 1):
                job.offer(place, k, *root.delta(k)[:2], LAST)
    assert job.advance(LAST, seconds=30.0)
    job.finish(LAST)
    return job


NAMES = {"Run000042_muons_0000.root", "Run000042_muons_0000.root.json", "Run000042_monitor.root",
         "Run000042_monitor.root.json", "bench.toml", "run.json", "README.txt",
         "manifest.json"}  # fmt: skip


def test_the_whole_run_goes_up_and_comes_back(tmp_path: Path, store: s3.Store, port: int) -> None:
    uploader = Uploader(store, first_wait=0.05)
    try:
        job = write_run(tmp_path, uploader)
        assert uploader.wait(20.0) and uploader.pending() == 0
    finally:
        uploader.close()
    assert keys(port) == {f"telescope/Run000042/{name}" for name in NAMES}
    copy = tmp_path / "copy"
    copy.mkdir()
    got = s3.fetch("s3://lab/telescope/Run000042", copy, client_of(port))
    assert {p.name for p in got} == NAMES
    for path in got:
        assert path.read_bytes() == (job.folder / path.name).read_bytes()
    with pytest.raises(EnvironmentProblem, match="there is nothing in"):
        s3.fetch("s3://lab/telescope/Run000043", copy, client_of(port))


def test_away_then_back(tmp_path: Path) -> None:
    """Nobody listens at first: the files are local, the run is `uploading`; then they go up."""
    port = free_port()
    uploader = Uploader(
        s3.Store(s3.Location("lab", "telescope"), client_of(port)),
        first_wait=0.05,
        longest_wait=0.2,
    )
    try:
        job = write_run(tmp_path, uploader)
        assert not uploader.wait(0.5)
        assert uploader.pending("Run000042") == 6 and uploader.pending("Run000043") == 0
        assert uploader.error and "they stay local, I try on" in uploader.error
        assert (job.folder / "manifest.json").exists()
        server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
        server.start()
        try:
            client_of(port).create_bucket(Bucket="lab")
            assert uploader.wait(20.0), uploader.error
            assert keys(port) == {f"telescope/Run000042/{name}" for name in NAMES}
            assert uploader.error is None
            for key in keys(port):
                client_of(port).delete_object(Bucket="lab", Key=key)
            client_of(port).delete_bucket(Bucket="lab")
        finally:
            server.stop()
    finally:
        uploader.close()


def test_a_restarted_writer_finds_what_is_not_up(
    tmp_path: Path, store: s3.Store, port: int
) -> None:
    write_run(tmp_path, None)  # its uploads died with it
    uploader = Uploader(store, first_wait=0.05)
    try:
        write_run(tmp_path, uploader)
        assert uploader.wait(20.0)
    finally:
        uploader.close()
    assert keys(port) == {f"telescope/Run000042/{name}" for name in NAMES}


def test_a_conflict_is_told_and_blocks_nobody_else(
    tmp_path: Path, store: s3.Store, port: int
) -> None:
    taken = "telescope/Run000042/Run000042_muons_0000.root"
    client_of(port).put_object(Bucket="lab", Key=taken, Body=b"foreign")
    uploader = Uploader(store, first_wait=0.02, longest_wait=0.05)
    try:
        write_run(tmp_path, uploader)
        assert not uploader.wait(1.5)
        assert uploader.pending() == 1 and "holds another file" in str(uploader.error)
        client_of(port).delete_object(Bucket="lab", Key=taken)  # as the sentence says
        assert uploader.wait(20.0)
    finally:
        uploader.close()
    sidecar = client_of(port).get_object(Bucket="lab", Key=taken + ".json")["Body"].read()
    assert json.loads(sidecar)["first"] == FIRST


def test_files_above_5_gb_are_refused(tmp_path: Path, store: s3.Store) -> None:
    path = tmp_path / "big"
    with path.open("wb") as file:
        file.truncate(s3.LIMIT)  # sparse
    with pytest.raises(ConfigError, match="above 5 GB"):
        store.put_new(path, "0", "big")
