"""The `freerun` command: help, errors as one line, exit codes, the broker's sub-commands."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import freerun.broker as local_broker

RUN = "from freerun.app.cli import main; main()"


def freerun(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if k != "FREERUN_KAFKA"}
    return subprocess.run(
        [sys.executable, "-c", RUN, *arguments],
        cwd=Path(__file__).resolve().parents[1],
        env={**kept, "NO_COLOR": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    local_broker.stop(tmp_path / ".freerun")


def test_help_and_version() -> None:
    said = freerun("--help")
    assert said.returncode == 0
    assert "broker" in said.stdout
    assert "Example" in freerun("broker", "start", "--help").stdout
    assert freerun("--version").stdout.startswith("freerun ")


def test_usage_errors_have_exit_code_2() -> None:
    said = freerun("brokr", "start")
    assert said.returncode == 2
    assert "broker" in said.stderr  # did you mean
    said = freerun("broker", "start", "--heap", "9999")
    assert said.returncode == 2
    assert said.stderr.count("\n") == 1
    assert said.stderr.startswith("freerun: the local broker's heap is 9999 MB")


def test_a_brokers_day(data: Path) -> None:
    where = ["--data", str(data)]
    assert freerun("broker", "status", *where).returncode == 3

    started = freerun("broker", "start", "--heap", "256", *where)
    assert started.returncode == 0, started.stderr
    address = started.stdout.split()[2]

    again = freerun("broker", "start", *where)
    assert again.returncode == 3
    assert again.stderr.count("\n") == 1
    assert address in again.stderr
    assert "Traceback" not in again.stderr

    status = freerun("broker", "status", *where)
    assert (status.returncode, status.stdout.split()[:2]) == (0, ["ready:", address])
    elsewhere = freerun("broker", "status", FREERUN_KAFKA=address)
    assert elsewhere.returncode == 0
    assert f"FREERUN_KAFKA={address}: answers" in elsewhere.stdout

    assert freerun("broker", "stop", *where).stdout.startswith("stopped")
    assert freerun("broker", "stop", *where).returncode == 0
    gone = freerun("broker", "status", FREERUN_KAFKA=address)
    assert gone.returncode == 3
    assert "no answer" in gone.stdout
