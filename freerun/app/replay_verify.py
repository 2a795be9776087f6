"""`freerun replay RUN --verify`: a stored run through the same code again, compared bit by bit."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from freerun.app.locate import Place
from freerun.app.verify import documents, plan_of
from freerun.errors import ConfigError, EnvironmentProblem

Say = Callable[[str], None]
RUN = re.compile(r"(?:Run)?0*(\d+)/?$")
EVERY_S = 5.0


def run_number(text: str) -> int:
    """`42`, `Run000042` or the folder of a run; `ConfigError` if it is none of these."""
    found = RUN.match(Path(text).name)
    if found is None:
        raise ConfigError(f"--verify is for a stored run: give its number or its folder, like 42; "
                          f"{text} is neither")  # fmt: skip
    return int(found[1])


def verify(where: Place, number: int, say: Say) -> dict[str, Any]:
    """Process run `number` of an installation again, with the decisions its results recorded.

    Nothing is written. Returns `run`, `ok`, and for each pipeline `slices`, `events`, `different`,
    `first` (the first difference, None), `gaps`, `unknown`. Raises `ConfigError` for a run that is
    not there or goes on, `EnvironmentProblem` if its raw data or results are all gone.
    """
    address, topics = where.broker(), where.topics
    document, _ = documents(address, topics, number)
    plan = plan_of(address, topics)
    run = plan.run(number)
    if run is None or run.last is None or plan.install is None:
        raise ConfigError(f"run {number} is going on: stop it first")
    bench = import_module("controllers.checking").bench_then(document, where.bench)
    total = run.last - run.first + 1
    out: dict[str, Any] = {"run": number, "ok": True, "pipelines": {}}
    for pipeline in document["pipelines"]:
        progress = Progress(total, pipeline, say)
        found = import_module("processors.again").again(
            address, topics, bench, plan, run, pipeline, progress
        )
        progress.end()
        if found.slices == 0 and total:
            raise EnvironmentProblem(
                f"nothing of run {number} can be processed again: "
                + "; ".join(found.gaps or found.unknown or ["its topics are empty"])
            )
        first = str(found.differences[0]) if found.differences else None
        out["pipelines"][pipeline] = {
            "slices": found.slices, "events": found.events, "different": found.different,
            "first": first, "gaps": found.gaps, "unknown": found.unknown,
        }  # fmt: skip
        out["ok"] &= not found.different and not found.gaps
    return out


def report(found: dict[str, Any]) -> list[str]:
    """What is printed of `verify`."""
    out = []
    for pipeline, d in found["pipelines"].items():
        out.append(
            f"replayed  {d['slices']:,d} slices of {pipeline}, {d['events']:,d} events: "
            + (f"{d['different']} slices differ" if d["different"] else "bit by bit the same")
        )
        out += [f"first     {d['first']}"] if d["first"] else []
        out += [f"gap       {gap}" for gap in d["gaps"]]
        out += [f"unknown   {what}" for what in d["unknown"]]
    return out


class Progress:
    """Told of each slice; prints one line that is written over, or a new one now and then."""

    def __init__(self, total: int, pipeline: str, say: Say) -> None:
        self._total, self._pipeline, self._say = total, pipeline, say
        self._live = sys.stdout.isatty()
        self._at = time.monotonic() + (0.0 if self._live else EVERY_S)

    def __call__(self, slices: int) -> None:
        now = time.monotonic()
        if now < self._at:
            return
        text = f"          {slices:,d} of {self._total:,d} slices of {self._pipeline} replayed"
        if self._live:
            print(f"\r\x1b[K{text}", end="", flush=True)
        else:
            self._say(text)
        self._at = now + (0.2 if self._live else EVERY_S)

    def end(self) -> None:
        if self._live:
            print("\r\x1b[K", end="", flush=True)
