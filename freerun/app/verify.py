"""A closed run looked at again: its ledger from the topics and the files that are there now."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from freerun.compacted import newest
from freerun.config import Bench
from freerun.errors import ConfigError, EnvironmentProblem
from freerun.ledger import line
from freerun.plan import Plan
from freerun.planlog import PlanLog
from freerun.topics import Topics

Say = Callable[[str], None]


@dataclass(frozen=True)
class Verified:
    """The verdict on a run. `line` is the LEDGER line, `gaps` is empty if `ok`."""

    run: int
    ok: bool
    line: str
    gaps: tuple[str, ...]
    unknown: tuple[str, ...]
    """What cannot be known any more."""
    verdict: Mapping[str, Any]
    """As in the run document under `ledger`."""
    deep: Mapping[str, Any] = field(default_factory=dict)
    """Of `deep`: slices and events compared with those built again, and what was different."""

    def to_json(self) -> dict[str, Any]:
        return {"run": self.run, "ok": self.ok, "line": self.line, "gaps": list(self.gaps),
                "unknown": list(self.unknown), "ledger": dict(self.verdict),
                "deep": dict(self.deep)}  # fmt: skip


def verify(
    address: str, bench: Bench, number: int, *, data: Path | None = None, deep: bool = False,
    say: Say = lambda _: None,
) -> Verified:  # fmt: skip
    """Recompute the ledger of run `number` of the installation `bench.system.name`.

    `data`: folder of the runs, if not the one that the run document names. `deep`: the bodies are
    checked, too, and every event is built again. Raises `ConfigError` if there is no such run or
    it goes on, `EnvironmentProblem` or `BrokerTrouble` if Kafka does not answer.
    """
    topics = Topics(bench.system.name)
    document, outputs = documents(address, topics, number)
    plan = plan_of(address, topics)
    run = plan.run(number)
    if run is None or run.last is None or document.get("last") is None:
        raise ConfigError(f"run {number} is going on: stop it first, then verify it")
    folder = (data / Path(document["folder"]).name) if data else Path(document["folder"])
    checking = import_module("controllers.checking")
    verdict: dict[str, Any] = checking.verdict_of(
        address, topics, plan, run, document, outputs, bench, payload=deep, folder=folder
    )
    gaps, unknown = list(verdict["gaps"]), list(verdict["unknown"])
    found: dict[str, Any] = {}
    if deep:
        from freerun.app.deep import regenerate

        then = checking.bench_then(document, bench)
        for pipeline in document["pipelines"]:
            one = regenerate(address, topics, then, plan, run, document, pipeline, folder, say)
            gaps += one["gaps"]
            unknown += one["unknown"]
            found[pipeline] = one
    verdict |= {"ok": not gaps, "gaps": gaps[:50], "unknown": unknown}
    verdict["line"] = line(verdict)
    return Verified(number, not gaps, verdict["line"], tuple(gaps), tuple(unknown), verdict, found)


def documents(
    address: str, topics: Topics, number: int
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The document of a run, and what its writers said: name → record."""
    every = newest(address, topics.runs)
    document = every.get(f"run/{number}")
    if document is None:
        known = sorted(int(k[4:]) for k in every if k.startswith("run/"))
        last = f"the newest is {known[-1]}" if known else "there is none yet"
        raise ConfigError(f"there is no run {number} of {topics.system}: {last}")
    said = f"writer/{number}/"
    return document, {k.removeprefix(said): d for k, d in every.items() if k.startswith(said)}


def plan_of(address: str, topics: Topics) -> Plan:
    """The plan of an installation as it is now; `BrokerTrouble` if it is not to be had."""
    log = PlanLog(address, topics, f"{topics.system}.look")
    try:
        if not log.poll(timeout=30.0):
            raise EnvironmentProblem(
                f"the plan of {topics.system} could not be read to its end at {address}"
            )
        return log.plan
    finally:
        log.close()
