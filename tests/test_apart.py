"""A call in a process of its own: its answer, its errors, and its end."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from controllers.apart import apart
from freerun.errors import FreerunError, LedgerGap
from freerun.kafka import BrokerTrouble

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module with things to do."""
    (tmp_path / "some_work.py").write_text(
        "import os, time\n"
        "from freerun.errors import LedgerGap\n"
        "from freerun.kafka import BrokerTrouble\n"
        "class Odd(Exception):\n"
        "    def __init__(self, a, b): super().__init__(f'{a} and {b}')\n"
        "def add(a, b): print('not an answer'); return os.getpid(), a + b\n"
        "def gap(): raise LedgerGap('one word')\n"
        "def away(): raise BrokerTrouble('no broker')\n"
        "def odd(): raise Odd(1, 2)\n"
        "def end(): os.kill(os.getpid(), 9)\n"
        "def wait(): time.sleep(600)\n"
        "def open_file(): return open(__file__)\n"
    )
    here = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path), here])))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(ROOT)
    yield importlib.import_module("some_work")
    del sys.modules["some_work"]


def test_it_answers_from_another_process(work: Any, capfd: pytest.CaptureFixture[str]) -> None:
    pid, total = apart(work.add, 2, 3)
    assert total == 5 and pid != os.getpid()
    assert not psutil.pid_exists(pid)
    assert "not an answer" in capfd.readouterr().err  # what it prints is for the log


def test_a_great_answer_and_a_great_question(work: Any) -> None:
    big = b"x" * 5_000_000
    assert apart(work.add, big, big)[1] == big + big


def test_its_errors_are_ours(work: Any) -> None:
    with pytest.raises(LedgerGap, match=r"^one word$"):
        apart(work.gap)
    with pytest.raises(BrokerTrouble, match=r"^no broker$"):
        apart(work.away)
    with pytest.raises(RuntimeError, match=r"^Odd: 1 and 2$"):
        apart(work.odd)
    with pytest.raises(RuntimeError, match="TextIOWrapper"):
        apart(work.open_file)


def test_a_process_that_is_killed_is_an_error(work: Any) -> None:
    with pytest.raises(FreerunError, match="ended before it said anything"):
        apart(work.end)


def test_a_process_that_does_not_answer_is_ended(
    work: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controllers.apart.LIMIT_S", 3.0)
    with pytest.raises(FreerunError, match="more than 3 s"):
        apart(work.wait)


def test_it_ends_with_its_parent(work: Any) -> None:
    code = "import some_work; from controllers.apart import apart; apart(some_work.wait)"
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    try:
        child = _child_of(parent.pid)
    finally:
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
    child.wait(20)


def _child_of(pid: int) -> psutil.Process:
    end = time.monotonic() + 30
    while not (found := psutil.Process(pid).children()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found[0]
