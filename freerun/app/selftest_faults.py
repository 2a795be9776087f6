"""The faults, one after the other as they are made. Each waits until it is mended."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from freerun.app import selftest_stage as on
from freerun.app.selftest_bench import LOST, WORKERS
from freerun.app.selftest_stage import NotMended, Stage

FILE_BYTES = 256 << 10  # a disk that is full: no file of the writer grows beyond this
SPOOL_BYTES = 1 << 20  # … no file of a source


@dataclass(frozen=True)
class Outcome:
    """What happened; recovery counts from `since` (monotonic s)."""

    text: str
    since: float


@dataclass(frozen=True)
class Fault:
    """One fault: how it is made, and what a system without freerun's rules would have lost.

    `misses`: may slices rightly be without the source that the faults are made with?
    """

    name: str
    make: Callable[[Stage], Outcome]
    without: str
    misses: bool = False


def kill(name: str, stage: Stage) -> Outcome:
    begun = time.monotonic()
    stage.kill(name)
    return Outcome("SIGKILL; another process does its work", begun)


def stop_source(stage: Stage) -> Outcome:
    begun = time.monotonic()
    with stage.stopped(stage.process(on.SOURCE).pid):
        gone = stage.until(
            lambda: (
                not stage.watch.flows(stage.flow_s)
                and stage.watch.flows(stage.flow_s, complete=False)
            ),
            "the run goes on without the source",
        )
        stage.sleep(begun + stage.patience.stop - time.monotonic())
        resumed = time.monotonic()
    stage.until_back(on.SOURCE)
    return Outcome(
        f"stopped for {resumed - begun:.0f} s; the run went on without it after {gone:.1f} s, "
        "and took it back",
        resumed,
    )


def stop_worker(stage: Stage) -> Outcome:
    begun = time.monotonic()
    with stage.stopped(stage.process(on.WORKER).pid):
        stage.until(lambda: len(stage.workers()) < WORKERS, "the loop thinks it gone")
        stage.until_flows()
        taken = time.monotonic() - begun
        # the scheduler looks only so often whether it still hears of its workers
        stage.sleep(begun + stage.patience.stop + stage.patience.worker - time.monotonic())
        stopped = time.monotonic() - begun
    stage.until_back(on.WORKER)
    return Outcome(
        f"stopped for {stopped:.0f} s; the other worker had its partitions after {taken:.1f} s; "
        "resumed, it could add nothing",
        time.monotonic() - taken,
    )


def replaced(name: str, stage: Stage) -> Outcome:
    """Stopped, thought dead, replaced; then it comes back and finds that it is fenced."""
    begun = time.monotonic()
    before = stage.process(name)
    try:
        with stage.stopped(before.pid):
            stage.sleep(stage.patience.stop)
            since = time.monotonic()
            stage.supervisor.beside(name)
            stage.until_back(name)
            stage.until_flows()
            taken = time.monotonic() - since
            stopped = time.monotonic() - begun
        said = _ends_by_itself(name, before, stage)
    finally:
        _end(before)
    return Outcome(
        f"stopped for {stopped:.0f} s and replaced, which took {taken:.1f} s; resumed, {said}",
        time.monotonic() - taken,
    )


def _ends_by_itself(name: str, before: subprocess.Popen[bytes], stage: Stage) -> str:
    if name == on.WRITER:
        # two of them are allowed: each number is taken once. Let both want some.
        stage.sleep(stage.patience.stop)
        return "both wrote, each file came once"
    if name == on.CONTROL:
        answer = stage.session.client.command("start_run", comment="while one goes on")
        if answer["ok"]:
            raise NotMended("a second run was begun beside the first")
    took = stage.until(lambda: before.poll() is not None, f"the old {name} ends by itself", 30.0)
    return f"the old one was fenced and ended after {took:.1f} s"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process that the supervisor does not know any more."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def kill_broker(stage: Stage) -> Outcome:
    begun, before = time.monotonic(), stage.bench.broker_pid
    os.kill(before, signal.SIGKILL)
    stage.until(lambda: stage.bench.broker_pid != before, "the broker runs again")
    return Outcome(f"SIGKILL; served again after {time.monotonic() - begun:.1f} s", begun)


def stop_broker(stage: Stage) -> Outcome:
    with stage.stopped(stage.bench.broker_pid):
        stage.sleep(stage.patience.stop)
    return Outcome(f"stopped for {stage.patience.stop:.0f} s", time.monotonic())


def cut_broker(stage: Stage) -> Outcome:
    assert stage.bench.proxy is not None
    stage.bench.proxy.cut()
    try:
        stage.sleep(stage.patience.outage)
    finally:
        stage.bench.proxy.mend()
    return Outcome(f"no connection for {stage.patience.outage:.0f} s", time.monotonic())


def full_spool(stage: Stage) -> Outcome:
    """The broker is away, and the disk refuses what the source would keep for it."""
    assert stage.bench.proxy is not None
    pid, seconds = stage.process(on.SOURCE).pid, stage.patience.outage / 3
    _file_limit(pid, SPOOL_BYTES)
    stage.bench.proxy.cut()
    try:
        stage.sleep(seconds)
    finally:
        _file_limit(pid, resource.RLIM_INFINITY)
        stage.bench.proxy.mend()
    since = time.monotonic()
    stage.until_flows()
    dropped = int(stage.watch.states[f"source/{LOST}"].get("dropped", 0))
    return Outcome(
        f"no connection for {seconds:.0f} s and no disk to wait on: "
        f"{dropped:,d} rows dropped, each counted",
        since,
    )


def full_writer(stage: Stage) -> Outcome:
    """The disk refuses whatever the writer wants to write, for a while."""
    begun = time.monotonic()
    until = begun + stage.patience.outage / 3
    tries: set[int] = set()
    first = stage.process(on.WRITER).pid
    while time.monotonic() < until + 30.0:
        pid = stage.supervisor.services[on.WRITER].pid
        if pid is not None:
            tries.add(pid)
            _file_limit(pid, FILE_BYTES)
        if first != pid and time.monotonic() > until:
            break
        stage.sleep(0.1)
    else:
        raise NotMended("the writer did not notice that its disk is full")
    since = time.monotonic()
    pid = stage.supervisor.services[on.WRITER].pid
    if pid is not None:
        _file_limit(pid, resource.RLIM_INFINITY)
    stage.until_back(on.WRITER)
    return Outcome(
        f"no file could grow for {since - begun:.0f} s; {len(tries)} writers gave up with a "
        "sentence",
        since,
    )


def _file_limit(pid: int, limit: int) -> None:
    try:
        hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, hard))
    except ProcessLookupError:
        pass


def s3_down(stage: Stage) -> Outcome:
    stage.store.down()
    stage.stop_run()
    stage.until(
        lambda: (
            bool(stage.watch.states["writer/root0"].get("upload_error"))
            and stage.document().get("state") == "closing"
        ),
        "the run waits for S3",
    )
    stage.sleep(2.0)
    waiting = stage.watch.states["writer/root0"].get("uploads")
    since = time.monotonic()
    stage.store.up()
    stage.until(lambda: stage.document().get("state") in ("closed", "failed"), "the run is closed")
    return Outcome(f"{waiting} files stayed local, the run stayed closing until S3 was back", since)


KILLS = {
    "kill-source": (on.SOURCE, "a source that begins anew without saying so: a hole that looks "
                    "like beam off"),
    "kill-worker": (on.WORKER, "the slices it had read and not stored, or those twice"),
    "kill-scheduler": (on.SCHEDULER, "every slice on its way: a task pinned to a worker that is "
                       "gone waits for ever"),
    "kill-loop": (on.LOOP, "what was asked for and not fetched; or all of it a second time"),
    "kill-writer": (on.WRITER, "the open file, or a file cut off that reads as whole"),
    "kill-control": (on.CONTROL, "the run: nobody knows when it began and with whom"),
    "kill-dashboard": (on.DASHBOARD, "the run, where it lives in the program with the buttons"),
}  # fmt: skip

FAULTS: tuple[Fault, ...] = (
    *(Fault(name, partial(kill, role), without, misses=name == "kill-source")
      for name, (role, without) in KILLS.items()),
    Fault("stop-source", stop_source,
          f"every slice after the first: they wait for {LOST} until somebody notices", True),
    Fault("stop-worker", stop_worker, "the slices that it held, and then those twice"),
    Fault("stop-loop", partial(replaced, on.LOOP), "each slice that both loops ask for, twice"),
    Fault("stop-control", partial(replaced, on.CONTROL),
          "one run under two plans: whoever writes last is right"),
    Fault("stop-writer", partial(replaced, on.WRITER), "a file that two processes have written"),
    Fault("kill-broker", kill_broker, "what was sent and not yet acknowledged"),
    Fault("stop-broker", stop_broker, "sources called dead that are well"),
    Fault("cut-broker", cut_broker, "all rows of the outage"),
    Fault("full-spool", full_spool, "rows, and nobody would know how many", True),
    Fault("full-writer", full_writer, "events of a file that was never finished"),
    Fault("s3-down", s3_down, "files that somebody must remember to copy"),
)  # fmt: skip
