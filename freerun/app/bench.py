"""The frame of every benchmark: the machine, repeats, rows of figures, a table, JSON, a plot."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from freerun.errors import ConfigError


def _memcpy() -> float:
    """How fast one core copies memory that it has touched before, GB/s; the best of nine."""
    source = np.zeros(64 << 20, np.uint8)
    target = np.ones_like(source)
    best = 0.0
    for _ in range(9):
        begun = time.perf_counter()
        np.copyto(target, source)
        best = max(best, source.nbytes / (time.perf_counter() - begun) / 1e9)
    return round(best, 1)


@cache
def machine() -> dict[str, Any]:
    """Name, cores and a reference of the machine: how fast it copies memory (GB/s)."""
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return {
        "cpu": name, "cores": os.cpu_count(), "memcpy_GB_s": _memcpy(),
        "python": platform.python_version(), "system": platform.system(),
        "load": round(os.getloadavg()[0], 1),
    }  # fmt: skip


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, 10th and 90th percentile."""
    low, middle, high = np.percentile(np.asarray(values), [10, 50, 90])
    return float(middle), float(low), float(high)


@dataclass(frozen=True)
class Measured:
    """A figure measured several times: median, 10th and 90th percentile, how often."""

    value: float
    low: float
    high: float
    repeats: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Measured:
        return cls(*spread(values), len(values))


def repeat(once: Callable[[], float], repeats: int, warmup: int = 1) -> Measured:
    """`once()` returns one figure; the first `warmup` calls are thrown away."""
    for _ in range(warmup):
        once()
    return Measured.of([once() for _ in range(repeats)])


def side_by_side(
    ours: Callable[[], float], peer: Callable[[], float], repeats: int, warmup: int = 1
) -> tuple[Measured, Measured, Measured]:
    """Two figures and their ratio (ours / peer), measured in turns: ours, peer, peer, ours (ABBA).

    A machine that grows slower or busier meanwhile does so for both.
    """
    for _ in range(warmup):
        ours(), peer()
    a: list[float] = []
    b: list[float] = []
    for i in range(repeats):
        for turn in (0, 1) if i % 2 == 0 else (1, 0):
            (b if turn else a).append((peer if turn else ours)())
    ratio = [x / y for x, y in zip(a, b, strict=True)]
    return Measured.of(a), Measured.of(b), Measured.of(ratio)


@dataclass(frozen=True)
class Curve:
    """A line of a plot; `dashed` for figures that others published."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    dashed: bool = False


@dataclass
class Table:
    """Rows `what, value, unit, peer, goal, ok`, with spread; the machine's memcpy in each."""

    bench: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    axes: tuple[str, str] = ("", "")  # names of the curves' axes, with units

    def add(
        self, what: str, value: float | Measured, unit: str, peer: str = "",
        goal: float | None = None, at_most: bool = False,
    ) -> None:  # fmt: skip
        """A row; `goal` is the least that is good, or the most with `at_most`."""
        spread: dict[str, float | None] = {"low": None, "high": None, "repeats": 1}
        if isinstance(value, Measured):
            spread = {"low": value.low, "high": value.high, "repeats": value.repeats}
            value = value.value
        ok = None if goal is None else (value <= goal if at_most else value >= goal)
        self.rows.append(
            {"what": what, "value": value, "unit": unit, "peer": peer, "goal": goal, "ok": ok}
            | spread
        )

    def finish(self, file: Path | None, plot: Path | None = None) -> None:
        """Print the table with the machine; write it as JSON and as a plot if asked."""
        here = machine()
        for r in self.rows:
            r["memcpy_GB_s"] = here["memcpy_GB_s"]
        for line in self.lines(here):
            print(line)
        if file is not None:
            told = {"bench": self.bench, "machine": here, "rows": self.rows}
            try:
                file.write_text(json.dumps(told, indent=1) + "\n")
            except OSError as error:
                raise ConfigError(f"--json: cannot write {file}: {error.strerror}") from None
        if plot is not None:
            from freerun.app.bench_plot import write

            write(self, here, plot)

    def lines(self, here: dict[str, Any]) -> list[str]:
        """The table as text: the machine, then a line a row."""
        out = [", ".join(f"{k} {v}" for k, v in here.items())]
        columns = [("what", "value", "p10–p90", "goal", "machine", "peer")]
        for r in self.rows:
            spread = "" if r["low"] is None else f"{_short(r['low'])}–{_short(r['high'])}"
            spread += f" ({r['repeats']}×)" if r["repeats"] > 1 else ""
            goal = "" if r["goal"] is None else f"{r['goal']:g} {'ok' if r['ok'] else 'MISSED'}"
            columns.append((r["what"], f"{_short(r['value'])} {r['unit']}", spread, goal,
                            f"memcpy {here['memcpy_GB_s']} GB/s", r["peer"]))  # fmt: skip
        width = [max(len(row[i]) for row in columns) for i in range(6)]
        for row in columns:
            cells = (t.ljust(w) for t, w in zip(row, width, strict=True) if w)
            out.append("  ".join(cells).rstrip())
        return out


def check_files(file: Path | None, plot: Path | None) -> None:
    """`ConfigError` before anything is measured if `--json` or `--plot` could not be written."""
    if file is not None and not file.absolute().parent.is_dir():
        raise ConfigError(f"--json: there is no folder {file.absolute().parent}")
    if plot is not None:
        from freerun.app.bench_plot import check

        check(plot)


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
