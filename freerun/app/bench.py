"""The frame of a benchmark: the machine, rows of figures, a table, JSON."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


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
    source = np.zeros(64 << 20, np.uint8)
    target = np.empty_like(source)
    best = 0.0
    for _ in range(5):
        begun = time.perf_counter()
        np.copyto(target, source)
        best = max(best, source.nbytes / (time.perf_counter() - begun) / 1e9)
    return {
        "cpu": name, "cores": os.cpu_count(), "memcpy_GB_s": round(best, 1),
        "python": platform.python_version(), "system": platform.system(),
        "load": round(os.getloadavg()[0], 1),
    }  # fmt: skip


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, 10th and 90th percentile."""
    low, middle, high = np.percentile(np.asarray(values), [10, 50, 90])
    return float(middle), float(low), float(high)


@dataclass
class Table:
    """Rows `what, value, unit, peer, goal, ok`."""

    bench: str
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(
        self, what: str, value: float, unit: str, peer: str = "", goal: float | None = None,
        at_most: bool = False,
    ) -> None:  # fmt: skip
        ok = None if goal is None else (value <= goal if at_most else value >= goal)
        self.rows.append(
            {"what": what, "value": value, "unit": unit, "peer": peer, "goal": goal, "ok": ok}
        )

    def finish(self, file: Path | None) -> None:
        """Print the table with the machine; write it as JSON if asked."""
        here = machine()
        print(", ".join(f"{k} {v}" for k, v in here.items()))
        width = max(len(r["what"]) for r in self.rows)
        for r in self.rows:
            goal = (
                "" if r["goal"] is None else f"  goal {r['goal']:g} {'ok' if r['ok'] else 'MISSED'}"
            )
            peer = f"  ({r['peer']})" if r["peer"] else ""
            print(f"{r['what']:{width}s}  {r['value']:>12,.2f} {r['unit']}{goal}{peer}")
        if file is not None:
            told = {"bench": self.bench, "machine": here, "rows": self.rows}
            file.write_text(json.dumps(told, indent=1))
