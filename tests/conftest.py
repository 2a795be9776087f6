"""What tests share: one real broker, the recorded data, and a look at what they leave behind."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Protocol

import psutil
import pytest
from hypothesis import settings

import freerun.broker as local_broker

MARK = "FREERUN_TEST_SESSION"
"""In the environment of this process, and so of all that it starts."""

_brokers: set[int] = set()  # the session's own, allowed to run until its end

ROOT = Path(__file__).resolve().parents[1]


# The first example of a law may compile a kernel: no deadline per example.
settings.register_profile("freerun", deadline=None, print_blob=True)
settings.load_profile("freerun")


def pytest_configure(config: pytest.Config) -> None:
    os.environ[MARK] = uuid.uuid4().hex


@pytest.fixture(scope="session")
def project() -> Path:
    """The folder that holds pyproject.toml."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The recorded files of instruments that tests compare with."""
    named = os.environ.get("FREERUN_SHARED")
    data = (Path(named) if named else ROOT.parent / "shared") / "data"
    if not data.is_dir():
        pytest.skip(f"no recorded data in {data}; FREERUN_SHARED=<folder> names another place")
    return data


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory, nothing_left: None) -> Iterator[str]:
    """The address of a real broker, one for the session: `$FREERUN_KAFKA`, or one of our own.

    Topics are the test's affair; the fixture `installation` gives a name that no other has.
    """
    named = os.environ.get("FREERUN_KAFKA")
    if named:
        yield named
        return
    folder = tmp_path_factory.mktemp("broker")
    started = local_broker.start(folder, heap_mb=512)
    _brokers.add(started.pid)
    try:
        yield started.address
    finally:
        local_broker.stop(folder)
        _brokers.discard(started.pid)


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of the browser for browser tests; `make browser` finds or installs it."""
    names = "chromium", "chromium-browser", "google-chrome-stable", "google-chrome"
    named = os.environ.get("FREERUN_BROWSER")
    for name in (named,) if named else names:
        if path := shutil.which(name):
            return path
    if os.environ.get("CI") == "true":
        pytest.fail("no Chromium was found, and CI=true: run `make browser`")
    pytest.skip("no Chromium was found: run `make browser`")


@pytest.fixture
def installation() -> str:
    """A name for an installation that no other test has."""
    return f"t{uuid.uuid4().hex[:10]}"


class LookAround(Protocol):
    def __call__(self, allowed: Set[str] = ..., patience: float = ...) -> set[str]: ...


@pytest.fixture(scope="session")
def look_around() -> LookAround:
    """`look_around(allowed, patience)`: what runs or listens beyond `allowed` and the broker of
    the session, once what is ending has had `patience` seconds (5) to end.
    """

    def look(allowed: Set[str] = frozenset(), patience: float = 5.0) -> set[str]:
        deadline = time.monotonic() + patience
        while (left := _leftovers() - allowed) and time.monotonic() < deadline:
            time.sleep(0.1)
        return left

    return look


@pytest.fixture(scope="session", autouse=True)
def nothing_left(look_around: LookAround) -> Iterator[None]:
    """At the end of the session no process and no listening port of ours may be left."""
    before = look_around(patience=0)
    yield
    after = look_around(before)
    assert not after, "tests left behind: " + "; ".join(sorted(after))


def _leftovers() -> set[str]:
    """Processes that carry our mark or are children of ours, and ports that we or they hold."""
    me = psutil.Process()
    family = {p.pid: p for p in me.children(recursive=True)}
    family.update({p.pid: p for p in psutil.process_iter() if p.pid != me.pid and _is_ours(p)})
    found = set()
    for process in [me, *family.values()]:
        try:
            command = " ".join(process.cmdline())
            if (
                process.pid in _brokers
                or process.status() == psutil.STATUS_ZOMBIE  # ended, exit code not yet read
                or "multiprocessing.resource_tracker" in command  # Python's own; ends with us
            ):
                continue
            if process.pid != me.pid:
                found.add(f"process {process.pid} {command[:120]}")
            for link in process.net_connections("inet"):
                if link.status == psutil.CONN_LISTEN:
                    found.add(f"port {link.laddr.port} of process {process.pid}")
        except psutil.Error:
            continue
    return found


def _is_ours(process: psutil.Process) -> bool:
    try:
        return process.environ().get(MARK) == os.environ[MARK]
    except (psutil.Error, OSError):
        return False
