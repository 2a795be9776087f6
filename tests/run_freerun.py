"""The `freerun` command as a user runs it: a process of its own, stopped by its id."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMMAND = [sys.executable, "-c", "from freerun.app.cli import main; main()"]


def freerun(
    *args: str, env: Mapping[str, str] | None = None, seconds: float = 240
) -> tuple[int, str]:
    """Run a command to its end; returns its exit code and all that it printed."""
    done = subprocess.run(
        [*COMMAND, *args], cwd=ROOT, env=os.environ | dict(env or {}), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=seconds, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout


def bench_named(name: str, folder: Path, **replace: str) -> Path:
    """The demo's configuration for an installation called `name`, with lines replaced."""
    text = (ROOT / "configs" / "bench.toml").read_text()
    text = re.sub(r'^name        = "bench"', f'name = "{name}"', text, flags=re.M)
    for old, new in replace.items():
        pattern = rf"^{old}\s*=.*$"
        assert re.search(pattern, text, flags=re.M), f"no line {old} in bench.toml"
        text = re.sub(pattern, f"{old} = {new}", text, count=1, flags=re.M)
    path = folder / "bench.toml"
    path.write_text(text)
    return path


class Up:
    """A bench that runs: what it printed so far, and where its pages are."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process, self.log = process, log

    def printed(self) -> str:
        return self.log.read_text()

    def wait_for(self, pattern: str, seconds: float = 90) -> str:
        """The first group of `pattern` in the output, once it is there."""
        end = time.monotonic() + seconds
        while (found := re.search(pattern, self.printed())) is None:
            assert self.process.poll() is None, f"freerun ended:\n{self.printed()}"
            assert time.monotonic() < end, (
                f"not printed in {seconds} s: {pattern}\n{self.printed()}"
            )
            time.sleep(0.1)
        return found[1]

    def interrupt(self, seconds: float = 90) -> int:
        """Ctrl-C; returns the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(seconds)


@contextmanager
def up(bench: Path, data: Path, log: Path, env: Mapping[str, str] | None = None) -> Iterator[Up]:
    """`freerun up` on free ports; stopped at the end, killed only if that takes too long."""
    with log.open("w") as out:
        process = subprocess.Popen(
            [*COMMAND, "up", str(bench), "--data", str(data), "--port", "0"], cwd=ROOT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"} | dict(env or {}), stdout=out, stderr=out,
            text=True,
        )  # fmt: skip
        bench_up = Up(process, log)
        try:
            yield bench_up
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(90)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
