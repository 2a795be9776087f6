"""A run's whole account: topics, then files, pipeline by pipeline. One verdict for the document."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from controllers import pulser
from controllers.stored import read_back
from controllers.verify import account_of
from controllers.writer.setup import outputs as written
from freerun import config
from freerun.config import Bench
from freerun.errors import FreerunError
from freerun.ledger import line
from freerun.plan import Plan, Run
from freerun.topics import Topics

Outputs = Mapping[str, Mapping[str, Any]]  # writer → its record on `<s>.runs`


def verdict_of(
    address: str, topics: Topics, plan: Plan, run: Run, document: Mapping[str, Any],
    outputs: Outputs, bench: Bench, *, thorough: bool = True, payload: bool = False,
    folder: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The ledger's verdict on a stopped run, with its line; the first pipeline with a gap speaks.

    `thorough` reads the files whole (checksums, every row's source), else their sizes and counts;
    `payload` checks the raw bodies, too. What it says is in `docs/protocol.md`, The ledger.
    """
    folder = folder or Path(document["folder"])
    bench = bench_then(document, bench)
    kept = to_be_written(document, bench)
    files = [f for d in outputs.values() for f in d.get("files", [])]
    verdicts = {}
    for pipeline in document.get("pipelines") or [p.id for p in bench.pipelines]:
        stored = None
        if pipeline in kept:
            stored = read_back(folder, document, files, pipeline, thorough)
        account = account_of(
            address, topics, plan, run, pipeline, stored.events if stored else None, payload,
            files=stored, to_ms=document.get("t_closed_ms"),
            only=bench.sources_of(bench.pipeline(pipeline)),
        )  # fmt: skip
        if stored is not None:
            if "none" in kept[pipeline] or "all" in kept[pipeline]:
                stored.keeps_unassigned = False
            stored.compare(account)
            account.gaps += stored.gaps
            account.unknown += stored.unknown
        made = account.verdict() | {"pipeline": pipeline}
        more = pulser.check(
            bench, document, pipeline, stored, kept.get(pipeline, ()), made, thorough
        )
        gaps = [*made["gaps"], *more["gaps"]]
        verdicts[pipeline] = made | {
            "ok": not gaps, "gaps": gaps[:50], "unknown": [*made["unknown"], *more["unknown"]],
            "pulser": more["pulser"],
        }  # fmt: skip
    verdict = next((v for v in verdicts.values() if not v["ok"]), next(iter(verdicts.values())))
    length = document["slice_ns"]
    for source in verdict["sources"].values():
        source["live_ns"] = source["live_slices"] * length
    return verdict | {"line": line(verdict)}


def bench_then(document: Mapping[str, Any], now: Bench) -> Bench:
    """The bench as it was when the run began, if its document can still be read as one."""
    try:
        text = str(document.get("bench_toml") or "")
        return config.from_dict(tomllib.loads(text), path=now.path) if text else now
    except (FreerunError, tomllib.TOMLDecodeError):
        return now


def to_be_written(document: Mapping[str, Any], bench: Bench) -> dict[str, set[str]]:
    """The pipelines of which there must be files, with what is kept of their hits."""
    kind = bench.run_types.get(str(document.get("type")))
    only = kind.writers if kind is not None else None
    out: dict[str, set[str]] = {}
    for o in written(bench) if bench.writes else ():
        if only is None or o.pipeline in only:
            out.setdefault(o.pipeline, set()).add(o.hits)
    return out
