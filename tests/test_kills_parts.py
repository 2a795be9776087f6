"""What a killed or stopped process leaves to the others, part by part."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from distributed import LocalCluster
from make_replay import Lab, lab
from make_source import array, row, sequencer
from test_lane import BLOCKS, EPOCH, FIRST_BLOCK, P, bench_of

from controllers.plan_writer import PlanWriter, new_install
from freerun import kafka
from freerun.app.supervisor import STOP_S, Service, Supervisor
from freerun.assembler import Fragment
from freerun.simulation import BLOCK_NS
from freerun.topics import Topics, ensure
from processors import task
from processors.cluster import Cluster, Running
from processors.lane import TRIES
from processors.pipeline import _cut

SLICE = 1200  # ticks of a slice of make_source
SLEEPS = [sys.executable, "-c", "import time; time.sleep(600)"]


def wait_for(done: Callable[[], Any], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.02)


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    made = Supervisor(tmp_path / "logs")
    try:
        yield made
    finally:
        made.stop()


def test_what_needs_a_dead_service_is_started_again_with_it(supervisor: Supervisor) -> None:
    """As Dask's workers need their scheduler."""
    supervisor.add(Service("scheduler", SLEEPS))
    supervisor.add(Service("worker", SLEEPS, needs="scheduler"))
    supervisor.add(Service("other", SLEEPS))
    before = {name: s.pid for name, s in supervisor.services.items()}
    os.kill(before["scheduler"] or 0, signal.SIGKILL)
    died: list[str] = []

    def both_again() -> bool:
        died.extend(name for name, _ in supervisor.watch())
        return all(s.alive for s in supervisor.services.values()) and len(died) >= 2

    wait_for(both_again)
    after = {name: s.pid for name, s in supervisor.services.items()}
    assert died == ["scheduler", "worker"]
    assert after["other"] == before["other"]
    assert after["scheduler"] != before["scheduler"] and after["worker"] != before["worker"]


def test_one_that_does_not_end_is_killed_after_its_own_time(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    deaf = f"import signal, time; signal.signal(15, lambda *_: None); open({str(told)!r}, 'w')\n"
    supervisor.add(Service("deaf", [sys.executable, "-c", deaf + "time.sleep(60)"], stop_s=0.3))
    supervisor.add(Service("other", SLEEPS))
    wait_for(told.exists)
    begun, deaf_one = time.monotonic(), supervisor.services["deaf"].process
    supervisor.stop()
    assert deaf_one is not None and deaf_one.returncode == -signal.SIGKILL
    assert supervisor.services["other"].process.returncode == -signal.SIGTERM
    assert time.monotonic() - begun < STOP_S


def test_one_that_is_thought_dead_gets_another_beside_it(supervisor: Supervisor) -> None:
    supervisor.add(Service("loop", SLEEPS))
    before = supervisor.beside("loop")
    try:
        assert before.poll() is None and supervisor.services["loop"].alive
        assert supervisor.services["loop"].pid != before.pid
        before.kill()
        before.wait()
        assert supervisor.watch() == [], "it is nobody's any more"
    finally:
        before.kill()
        before.wait()


def test_hopeless_is_who_is_dead_and_dies_again_and_again(supervisor: Supervisor) -> None:
    supervisor.add(Service("broken", [sys.executable, "-c", "raise SystemExit(3)"]))
    supervisor.services["broken"].deaths = 3
    wait_for(supervisor.watch)
    assert supervisor.hopeless() == [] and supervisor.hopeless(deaths=4) == ["broken"]
    supervisor.services["broken"].argv = SLEEPS
    supervisor.services["broken"].not_before = 0.0
    supervisor.watch()
    assert supervisor.hopeless(deaths=4) == []


# ---------------------------------------------------------------- fencing


def test_what_an_old_loop_still_asks_for_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the lane of the later one goes on undisturbed."""
    later = SimpleNamespace(closed=False)
    monkeypatch.setitem(task._lanes, "s/muons", (7, later))
    spec = {"system": "s", "pipeline": "muons", "generation": 5}
    told = task.lane_task(spec, [0, 3], 1.0)
    assert told["lost"] == [0, 3] and told["slices"] == 0 and told["generation"] == 5
    assert task._lanes["s/muons"] == (7, later)


def test_a_run_control_that_was_replaced_finds_out(broker: str, installation: str) -> None:
    topics = Topics(installation)
    wanted = topics.all([], [], 2)
    ensure(kafka.Broker(broker), wanted)
    install = new_install(100_000_000, 2, 5_000)
    old = PlanWriter(broker, topics, install)
    try:
        old.confirm()
        new = PlanWriter(broker, topics, install)
        try:
            with pytest.raises(kafka.Fenced):
                old.confirm()
            new.confirm()
        finally:
            new.close()
    finally:
        old.close()
        kafka.Broker(broker).delete([t.name for t in wanted])


def test_a_worker_that_was_only_slow_gets_more_time_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two slow workers must not take each other's partitions for ever."""
    client = SimpleNamespace(scheduler_info=lambda n_workers: {"workers": {"w": {}}})
    monkeypatch.setattr("processors.cluster.Client", lambda **_: client)
    cluster = Cluster(Path("nowhere"))
    late = SimpleNamespace(done=lambda: True, cancel=lambda force: None)
    now = time.monotonic()
    for times in range(4):
        grace = 2.0 * 2**times
        cluster._queues["w"] = [Running(late, "w", 1.0, now - 1.0 - grace + 0.5)]
        assert cluster.overdue(2.0) == []
        cluster._queues["w"] = [Running(late, "w", 1.0, now - 1.0 - grace - 0.5)]
        assert cluster.overdue(2.0) == ["w"]
        cluster._stuck["w"] = [late]  # dropped, and then done after all
        assert cluster.workers() == ["w"]


def test_a_worker_that_goes_with_the_summary_it_owes_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its task is done, its result is not fetched yet, and it says no more: the loop goes on."""
    monkeypatch.setattr("processors.cluster.RESULT_S", 0.5)
    dask = LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0")  # type: ignore[no-untyped-call]
    try:
        (pid,) = (nanny.pid for nanny in dask.workers.values())
        file = tmp_path / "scheduler.json"
        file.write_text(json.dumps({"address": dask.scheduler_address, "type": "Scheduler"}))
        cluster = Cluster(file)
        (worker,) = cluster.workers()
        done = cluster._client.submit(
            os.getpid, workers=[worker], allow_other_workers=False, pure=False
        )
        wait_for(lambda: done.status == "finished")
        cluster._queues[worker] = [Running(done, worker, 1.0, time.monotonic())]
        os.kill(pid, signal.SIGSTOP)
        try:
            ((name, what),) = cluster.done()
        finally:
            os.kill(pid, signal.SIGCONT)
        assert name == worker and isinstance(what, TimeoutError)
        cluster.close()
    finally:
        dask.close()


# ---------------------------------------------------------------- what a source dropped


def test_a_slice_with_dropped_rows_is_not_complete() -> None:
    """Nor is the next one, whose guard they were; of the others all are there."""
    s = sequencer()
    outs = s.arm(0, None)
    for k in range(6):
        s.dropping = k == 3
        outs += s.offer(array(row(k * SLICE + i, i) for i in range(0, SLICE, 100)), 0, 10**6, 0)
        outs += s.advance((k + 1) * SLICE)  # closes the slice before
    parts = [o.part for o in outs if o.part.closes]
    fragments = [
        Fragment("a", 1, 0, (-1, -1, -1), (-1, -1), [part], [b""], part.rows) for part in parts
    ]
    hurt = [f.parts[0].k for f in fragments if _cut([f])]
    dropped = [p.k for p in parts if p.close and p.close["rows"] < SLICE // 100]
    assert dropped and hurt == sorted({*dropped, *(k + 1 for k in dropped)})
    assert s.totals["dropped"] > 0


# ---------------------------------------------------------------- kernels that end their process

LOOP = """
import os, signal, sys
from freerun import service
from processors.loop import Loop
from processors.pipeline import Pipeline
right, poison = Pipeline.process, int(os.environ["POISON"])
def process(self, bundle):
    if bundle.k == poison:
        os.kill(os.getpid(), signal.SIGSEGV)
    return right(self, bundle)
Pipeline.process = process
arguments = service.parser("loop", "")
me = service.start(arguments)
Loop(me, "muons").run_inline(me.stopping.is_set)
"""


@pytest.fixture
def run(broker: str, installation: str, tmp_path: Path) -> Iterator[Lab]:
    bench = bench_of(installation)
    length, begin = bench.time.slice, FIRST_BLOCK * BLOCK_NS
    first, last = begin // length, (begin + BLOCKS * BLOCK_NS - 1) // length
    with lab(broker, bench, tmp_path, P, first, last, EPOCH) as made:
        yield made


def test_a_kernel_that_ends_its_process_three_times_leaves_its_slice_as_failed(
    run: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real signal in a real process, started again each time; its neighbours are unharmed."""
    monkeypatch.setattr("make_replay.PATIENCE_S", 280.0)  # four starts of a process
    poison = run.first + 6
    run.start_sources()
    argv = [sys.executable, "-c", LOOP, "--bench", str(run.paths[0]), "--cluster",
            str(run.paths[1]), "--kafka", run.address, "--data", str(run.service.data)]  # fmt: skip
    run.in_thread(run.wait_for_results, "muons")
    waiting = run._threads[-1]
    deaths = 0
    while waiting.is_alive():
        loop = subprocess.Popen(argv, env=os.environ | {"POISON": str(poison)})
        try:
            end = time.monotonic() + 120
            while loop.poll() is None and waiting.is_alive():
                assert time.monotonic() < end, "not in time"
                time.sleep(0.05)
            if loop.poll() is not None:
                assert loop.returncode == -signal.SIGSEGV
                deaths += 1
                assert deaths <= 3 * TRIES, "for ever"
        finally:
            if loop.poll() is None:
                loop.terminate()
                loop.wait(30)
    assert not run.failures, run.failures[0]
    assert deaths >= TRIES
    found = run.results("muons").infos
    infos = dict(zip(range(run.first, run.last + 1), found, strict=True))
    assert "ended the process" in infos[poison]["failed"]
    assert all(i["failed"] is None for k, i in infos.items() if k != poison)
    account = run.account()
    assert account["ok"], account["gaps"]
