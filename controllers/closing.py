"""A run's document from its start to its closing: files finished, ledger spoken."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

import structlog

from controllers.apart import apart
from controllers.documents import RunsTopic
from controllers.plan_writer import PlanWriter
from freerun import __version__
from freerun.kafka import BrokerTrouble
from freerun.ledger import line, not_computed
from freerun.plan import Entry, Run
from freerun.service import Service

log = structlog.get_logger()
WRITER = "root0"  # the one writer process of a bench
TRIES = 3  # of the ledger, before the run is closed with that as its gap
TROUBLE_S = 900.0  # … and how long Kafka may give no answer to it, while run control itself lives
CLOCKS_MS = 5_000  # the broker's clock may be ahead of ours by this


def ledger(*account: Any) -> dict[str, Any]:
    """`verdict_of`, not thorough, and what it imports: for a process of its own."""
    from controllers.checking import verdict_of

    return verdict_of(*account, thorough=False)


class Closer:
    """Keeps the documents of runs that are not closed, and closes them."""

    def __init__(self, service: Service, runs: RunsTopic, writer: PlanWriter) -> None:
        self._service, self._runs, self._writer = service, runs, writer
        self._checking: threading.Thread | None = None
        self._verdicts: dict[int, dict[str, Any]] = {}
        self._failures: Counter[int] = Counter()  # run → tries of its ledger that failed
        self._troubled: dict[int, float] = {}  # run → since when Kafka is in the way

    def changed(self, command: dict[str, Any], entry: Entry) -> None:
        """An entry was written: begin a document, or note the end in one."""
        if entry.kind == "start" and entry.run is not None:
            self._runs.put_run(self._begin(command, entry))

    def _begin(self, command: dict[str, Any], entry: Entry) -> dict[str, Any]:
        bench, plan = self._service.bench, self._writer.plan
        assert plan.install is not None
        kind = command.get("type") or next(iter(bench.run_types), "run")
        run_type = bench.run_types.get(kind)
        stop: dict[str, Any] = {}
        if run_type is not None:
            stop = {"time_ns": run_type.stop_after.time, "events": run_type.stop_after.events}
        stop |= command.get("stop_after") or {}
        return {
            "run": entry.run, "state": "starting", "type": kind,
            "comment": command.get("comment", ""), "shifter": command.get("shifter", ""),
            "answers": command.get("answers") or {},
            "system": bench.system.name, "uuid": plan.install.uuid,
            "first": entry.from_slice, "last": None, "slice_ns": plan.install.L,
            "guard_ns": plan.install.G, "partitions": plan.install.P,
            "t_start_ns": entry.from_slice * plan.install.L, "t_stop_ns": None, "exit": -1,
            "sources": [s.id for s in bench.sources], "roster": dict(entry.roster),
            "detectors": [d.id for d in bench.detectors],
            "folder": str(self._service.data / f"Run{entry.run:06d}"),
            "s3": f"s3://{bench.s3.bucket}/{bench.system.name}/Run{entry.run:06d}"
            if bench.s3 else None,
            "pipelines": [p.id for p in bench.pipelines],
            "stop_after": {k: v for k, v in stop.items() if v},
            "plan": {"seq": entry.seq, "anchors": dict(entry.anchors),
                     "offsets": dict(entry.offsets), "clock": entry.clock},
            "ledger": None, "n_events": 0, "live_ns": 0, "outputs": {}, "code": __version__,
            "bench_toml": bench.text,
        }  # fmt: skip

    def should_stop(self, run: Run) -> bool:
        """Has the run reached what it was to stop after? Time means experiment time."""
        document = self._runs.documents.runs.get(run.number)
        if document is None or document["last"] is not None:
            return False
        stop = document["stop_after"]
        plan = self._writer.plan
        if "time_ns" in stop:
            wanted = run.first + -(-stop["time_ns"] // document["slice_ns"])
            if plan.earliest(time.time_ns()) >= wanted:
                return True
        if "events" in stop:
            written = sum(
                d.get("n_events", 0) for d in self._runs.documents.of_run(run.number).values()
            )
            return bool(written >= stop["events"])
        return False

    def is_out(self, run: Run) -> bool:
        """Has every slice of the run left the lanes (or its document been closed)?"""
        document = self._runs.documents.runs.get(run.number)
        return document is not None and document["state"] in ("closed", "failed")

    def turn(self) -> None:
        """Bring every open document up to date; called again and again."""
        now = time.time_ns()
        for run in self._writer.plan.runs():
            document = self._runs.documents.runs.get(run.number)
            if document is None:
                # the start entry was committed, the document was not yet: begin it now
                self.changed({}, run.start)
                continue
            if document["state"] in ("closed", "failed"):
                continue
            changes = self._changes(run, document, now)
            if any(document.get(k) != v for k, v in changes.items()):
                self._runs.put_run(document | changes)

    def _changes(self, run: Run, document: dict[str, Any], now: int) -> dict[str, Any]:
        length = document["slice_ns"]
        if run.last is None:
            return {"state": "running" if now >= run.first * length else "starting"}
        out = {"last": run.last, "t_stop_ns": (run.last + 1) * length}
        if now < out["t_stop_ns"] and run.clock != "data":
            return out | {"state": "stopping"}
        outputs = self._runs.documents.of_run(run.number)
        expected = {WRITER} if self._service.bench.writes else set()
        done = {n for n, d in outputs.items() if d.get("state") == "closed"}
        if expected - done:
            return out | {"state": "closing"}
        verdict = self._verdict(run, outputs)
        if verdict is None:
            return out | {"state": "closing"}
        ok = bool(verdict["ok"])
        log.info("run_closed", run=run.number, ledger=verdict["line"])
        complete = verdict["slices"]["complete"]
        return out | {
            "state": "closed", "exit": 0 if ok else 1, "ledger": verdict,
            "n_events": verdict["events"]["stored"], "live_ns": complete * length,
            "outputs": {n: d.get("files", []) for n, d in outputs.items()},
            "t_closed_ms": now // 1_000_000 + CLOCKS_MS,
        }  # fmt: skip

    def _verdict(self, run: Run, outputs: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
        """The ledger's verdict; computed in another process, so commands are still heard."""
        if run.number in self._verdicts:
            return self._verdicts[run.number]
        if self._checking is None:
            self._checking = threading.Thread(target=self._check, args=(run, outputs), daemon=True)
            self._checking.start()
        elif not self._checking.is_alive():
            self._checking = None
        return None

    def _check(self, run: Run, outputs: dict[str, dict[str, Any]]) -> None:
        service, plan = self._service, self._writer.plan
        document = self._runs.documents.runs[run.number] | {"last": run.last}
        try:
            verdict = apart(ledger, service.address, service.topics, plan, run, document, outputs,
                            service.bench)  # fmt: skip
        except Exception as error:  # whatever it is: the run must be closed, and say so
            self._failures[run.number] += 1
            log.exception("ledger_failed", run=run.number, tries=self._failures[run.number])
            if self._again(run.number, error):
                time.sleep(1)
                return
            assert run.last is not None
            verdict = not_computed(
                run.first, run.last, f"{type(error).__name__}: {error}", self._failures[run.number]
            )
            self._verdicts[run.number] = verdict | {"line": line(verdict)}
        else:
            self._verdicts[run.number] = verdict

    def _again(self, run: int, error: Exception) -> bool:
        """Is the ledger to be tried again after this?"""
        if isinstance(error, BrokerTrouble):
            now = time.monotonic()
            return now < self._troubled.setdefault(run, now) + TROUBLE_S
        return self._failures[run] < TRIES

    def close(self) -> None:
        if self._checking is not None:
            self._checking.join(10)
