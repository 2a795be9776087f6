"""The self-test: one bench, one run, all faults one after the other, and what came of it."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from freerun.app import bench as benchmark
from freerun.app.selftest_bench import FULL, KEYS, LOST, SHORT, Behind, Patience, write_bench
from freerun.app.selftest_faults import FAULTS, Fault
from freerun.app.selftest_s3 import Store
from freerun.app.selftest_stage import FLOW_S, NotMended, Stage
from freerun.app.selftest_watch import Watch
from freerun.app.session import Session
from freerun.app.truth import Findings, check
from freerun.app.verify import verify
from freerun.errors import ConfigError, EnvironmentProblem, LedgerGap

MUONS_HZ = 2_500.0
CLOSE_S = 180.0
GOOD = "good"
WHOLE = "the whole run"


@dataclass(frozen=True)
class Row:
    """One line of the result."""

    fault: str
    happened: str
    recovery_s: float | None
    ledger: str
    verdict: str
    without: str = ""


def chosen(only: Sequence[str]) -> list[Fault]:
    """The faults called `only`, in their own order; all of them if none is named."""
    known = [f.name for f in FAULTS]
    if unknown := [name for name in only if name not in known]:
        raise ConfigError(f"there is no fault {unknown[0]!r}: known are {', '.join(known)}")
    return [f for f in FAULTS if not only or f.name in only]


def selftest(full: bool, only: Sequence[str], json_file: Path | None, keep: Path | None) -> None:
    """Run it; raises `LedgerGap` unless every verdict is good."""
    patience, faults = FULL if full else SHORT, chosen(only)
    benchmark.check_files(json_file, None)  # not after minutes
    begun = time.monotonic()
    os.environ.pop("FREERUN_KAFKA", None)  # the broker of this test is killed: it is our own
    os.environ[KEYS] = "selftest"
    with tempfile.TemporaryDirectory(prefix="freerun-selftest-") as folder:
        rows = _bench(keep or Path(folder), patience, faults)
    _print(rows, time.monotonic() - begun)
    if json_file is not None:
        result = {"machine": benchmark.machine(), "rows": [asdict(row) for row in rows]}
        json_file.write_text(json.dumps(result, indent=1) + "\n")
    if bad := [row for row in rows if row.verdict != GOOD]:
        raise LedgerGap(f"{len(bad)} of {len(rows)} not good: {bad[0].fault}: {bad[0].verdict}")


def _bench(folder: Path, patience: Patience, faults: Sequence[Fault]) -> list[Row]:
    """All faults on a bench of its own, and the run's end when the bench is gone again."""
    folder.mkdir(parents=True, exist_ok=True)
    store = Store()
    store.up()
    pool, compared = ThreadPoolExecutor(2), None
    try:
        paths = write_bench(folder, patience, MUONS_HZ, store.port)
        with Session.open(paths[0], folder / "data", paths[1], 0, Behind) as session:
            told = session.place.bench
            watch = Watch(
                session.installation.address, session.place.topics, told.pipelines[0].id,
                told.cluster.partitions, told.time.slice,
            )  # fmt: skip
            try:
                stage = Stage(session, watch, patience, store)
                rows = _run(stage, faults)
                document = _close(stage)
                if document.get("state") == "closed":  # Kafka and the files stay while all ends
                    apart = import_module("controllers.apart").apart
                    compared = pool.submit(apart, check, Path(document["folder"]), told,
                                           dict(document), told.pipelines[0].id)  # fmt: skip
                    # the ledger once more, by nobody who was killed
                    again = pool.submit(apart, verify, stage.bench.address, told, stage.run)
                    print("stopping …", flush=True)
                    stage.supervisor.stop()
                    document |= {"ledger": dict(again.result().verdict)}
            finally:
                watch.close()
        return [*rows, _whole(document, store, compared)]
    finally:
        pool.shutdown()
        store.down()


def _run(stage: Stage, faults: Sequence[Fault]) -> list[Row]:
    answer = stage.session.client.command("start_run", comment="self-test")
    if not answer["ok"]:
        raise EnvironmentProblem(answer["text"])
    stage.run = int(answer["run"])
    stage.watch.begin(int(answer["first"]))
    stage.until(lambda: stage.watch.flows(5.0), "results of the run come out")
    stage.sleep(1.0)
    stage.flow_s = max(FLOW_S, 3 * stage.watch.lag_s())
    rows = []
    for i, fault in enumerate(faults, 1):
        print(f"{i:2d}/{len(faults)}     {fault.name} …", flush=True)
        rows.append(_fault(stage, fault))
        row = rows[-1]
        took = "" if row.recovery_s is None else f"; mended after {row.recovery_s:.1f} s"
        print(f"          {row.happened}{took}; {row.ledger}: {row.verdict}", flush=True)
    return rows


def _fault(stage: Stage, fault: Fault) -> Row:
    length = stage.session.place.bench.time.slice
    first = time.time_ns() // length - 1
    try:
        outcome = fault.make(stage)
        if stage.document().get("state") == "running":
            stage.until_flows()
    except NotMended as what:
        return Row(fault.name, str(what), None, "unknown", f"BAD: {what}", fault.without)
    recovery = time.monotonic() - outcome.since
    end = stage.watch.next
    missing = stage.watch.without(first, end)
    ledger = f"{end - first} slices, all complete"
    if missing:
        named = ", ".join(f"{n} without {source}" for source, n in missing.items())
        ledger = f"{end - first} slices, {named}"
    bad = set(missing) - ({LOST} if fault.misses else set())
    verdict = GOOD if not bad else f"BAD: slices without {', '.join(sorted(bad))}"
    if stage.watch.duplicates:
        verdict = f"BAD: {stage.watch.duplicates} slices came twice"
    return Row(fault.name, outcome.text, round(recovery, 2), ledger, verdict, fault.without)


def _close(stage: Stage) -> dict[str, Any]:
    """Stop the run and wait until it is closed; its document as it is then."""
    with contextlib.suppress(NotMended):
        if stage.document().get("last") is None:
            stage.stop_run()
        stage.until(
            lambda: stage.document().get("state") in ("closed", "failed"), "the run is closed",
            CLOSE_S,
        )  # fmt: skip
    return stage.document()


def _whole(document: dict[str, Any], store: Store, compared: Future[Findings] | None) -> Row:
    """The run's ledger, and its files against the truth."""
    if compared is None:
        state = document.get("state", "without a document")
        return Row(WHOLE, f"the run is {state}", None, "unknown", "BAD: the run is not closed")
    found = compared.result()
    ledger = document["ledger"]
    bad = list(ledger["gaps"][:3])
    if not found.exact:
        bad.append(f"{found.wrong} differences from the uncut stream: {found.differences[:2]}")
    if absent := _not_in_s3(document, store):
        bad.append(f"not in S3: {', '.join(absent)}")
    n = ledger["slices"]
    happened = (
        f"{found.events:,d} events in {n['complete']} complete slices of {n['expected']}, "
        f"{'exactly' if found.exact else 'NOT'} those of the uncut stream"
    )
    verdict = GOOD if not bad else f"BAD: {'; '.join(bad)}"
    return Row(WHOLE, happened, None, ledger["line"], verdict)


def _not_in_s3(document: dict[str, Any], store: Store) -> list[str]:
    """Files of the run that the store has not, or with another content."""
    files = [f for written in document["outputs"].values() for f in written]
    name = Path(document["folder"]).name
    return [
        f["name"]
        for f in files
        if not any(
            key.endswith(f"{name}/{f['name']}") and digest == f["sha256"]
            for key, digest in store.keys.items()
        )
    ]


def _print(rows: Sequence[Row], seconds: float) -> None:
    print("", flush=True)
    for row in rows:
        took = f"{row.recovery_s:6.1f} s" if row.recovery_s is not None else " " * 8
        print(f"{row.fault:15s} {took}  {row.verdict:5s} {row.happened}")
        print(f"{'':25s} ledger: {row.ledger}")
        if row.without:
            print(f"{'':25s} without this: {row.without}")
    print(f"\n{len(rows)} verdicts after {seconds:.0f} s", flush=True)
