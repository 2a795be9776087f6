"""The ROOT writer, results → durable file, beside plain uproot and a plain copy in the same run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from freerun.app.bench import Measured, Table
from freerun.app.bench_broker import ending
from freerun.app.bench_whole import faster
from freerun.app.locate import bench_file
from freerun.errors import EnvironmentProblem
from freerun.service import MALLOC

RATE = 2.0  # million rows/s: 200 000 rows in a slice of 100 ms


def measure(
    table: Table, bench: Path | None, size: int, repeats: int, endpoint: str | None, bucket: str
) -> None:
    """Fill `table`; `size`: bytes of results in one turn."""
    with ending(), tempfile.TemporaryDirectory(prefix="freerun-bench-") as folder:
        path = Path(folder) / "bench.toml"
        path.write_text(faster(bench_file(bench), RATE))
        told = {"bench": str(path), "bytes": size, "repeats": repeats, "folder": folder,
                "endpoint": endpoint, "bucket": bucket}  # fmt: skip
        argv = [sys.executable, "-m", f"{__package__}.bench_write_work", json.dumps(told)]
        done = subprocess.run(argv, env=os.environ | MALLOC, capture_output=True, text=True,
                              check=False)  # fmt: skip
        if done.returncode != 0:
            raise EnvironmentProblem(f"writing failed: {done.stderr[-400:]}")
    _report(table, json.loads(done.stdout.splitlines()[-1]))


def _report(table: Table, got: dict[str, Any]) -> None:
    payload = got["payload"]

    def rate(way: str, per: str) -> Measured:
        return Measured.of([payload / t[per] / 1e6 for t in got[way]])

    about = f"{payload / 1e6:,.0f} MB of results, {got['slices']} slices"
    table.add("writer, per CPU second", rate("chain", "cpu"), "MB/s", about, goal=100)
    table.add("writer, wall time, durable", rate("chain", "seconds"), "MB/s",
              "with fsync, SHA-256 and sidecar")  # fmt: skip
    table.add("plain uproot, per CPU second", rate("uproot", "cpu"), "MB/s",
              "the same columns and compression, no checks, no sums")  # fmt: skip
    table.add("plain copy, per CPU second", rate("copy", "cpu"), "MB/s", "bodies into a file")
    table.add("plain copy, wall time, durable", rate("copy", "seconds"), "MB/s", "with fsync")
    ratio = [u["cpu"] / c["cpu"] for c, u in zip(got["chain"], got["uproot"], strict=True)]
    table.add("writer / plain uproot", Measured.of(ratio), "×", "CPU, turn by turn")
    sizes = [t["file"] / payload for t in got["chain"]]
    table.add("file / payload", Measured.of(sizes), "×", "ZSTD 1")
    if got["s3"]:
        for per, unit in (("seconds", "wall time"), ("cpu", "per CPU second")):
            some = [t["file"] / t[per] / 1e6 for t in got["s3"]]
            table.add(f"upload to S3, {unit}", Measured.of(some), "MB/s", "of the file")
