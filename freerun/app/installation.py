"""One bench as running processes: broker, topics, and every service of the configuration."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING

import psutil

from freerun.app.supervisor import HASTY_STOP_S, Service, Supervisor
from freerun.config import Bench
from freerun.errors import EnvironmentProblem
from freerun.service import MALLOC
from freerun.topics import Topics, ensure

if TYPE_CHECKING:
    from freerun.broker import Broker as LocalBroker

Say = Callable[[str], None]

# Stealing, spilling, profiling and pausing would get in the way of lanes that own partitions.
YIELDING = 5  # niceness: a third of the processor that the others get, when there is none free
DASK = {
    "DASK_DISTRIBUTED__SCHEDULER__WORK_STEALING": "False",
    "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0",
    "DASK_DISTRIBUTED__SCHEDULER__ACTIVE_MEMORY_MANAGER__START": "False",
    "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
    # Dask looks at itself 50 times a second, and at the disk, to draw it; nobody needs it so often
    "DASK_DISTRIBUTED__ADMIN__TICK__INTERVAL": "500ms",
    "DASK_DISTRIBUTED__ADMIN__SYSTEM_MONITOR__INTERVAL": "2s",
    "DASK_DISTRIBUTED__ADMIN__SYSTEM_MONITOR__DISK": "False",
    "DASK_DISTRIBUTED__WORKER__MEMORY__TARGET": "False",
    "DASK_DISTRIBUTED__WORKER__MEMORY__SPILL": "False",
    "DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE": "False",
    "DASK_DISTRIBUTED__WORKER__MEMORY__TERMINATE": "False",
}


def free_port(wanted: int = 0) -> int:
    """A free TCP port on 127.0.0.1: `wanted` if it is free, any other if not."""
    for port in (wanted, 0):
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(s.getsockname()[1])
    raise EnvironmentProblem("there is no free TCP port on 127.0.0.1")


class Installation:
    """Everything `up` runs. `begin` starts it; `end` stops what was started here, and only that."""

    def __init__(
        self, bench: Bench, data: Path, bench_path: Path, cluster_path: Path | None = None,
        say: Say = print,
    ) -> None:  # fmt: skip
        self.bench, self.data, self.say = bench, data, say
        self.hidden = data / ".freerun"
        self.topics = Topics(bench.system.name)
        self.address = ""
        self.dashboard_url = ""
        self.dask_url = ""
        self._bench_path, self._cluster_path = bench_path.absolute(), cluster_path
        self._broker: LocalBroker | None = None  # started here
        self.was_ready = False  # from then on no service's death ends the bench
        self._lock: IO[str] | None = None
        self.supervisor: Supervisor | None = None

    # ------------------------------------------------------------------ begin

    def lock(self) -> None:
        """Refuse a second `up` on the same folder."""
        self.hidden.mkdir(parents=True, exist_ok=True)
        handle = (self.hidden / "up.lock").open("a+")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            handle.seek(0)
            pid = handle.read().strip() or "unknown"
            handle.close()
            raise EnvironmentProblem(
                f"{self.data} is in use by another freerun (pid {pid}): stop it first, or use "
                "--data with another folder"
            ) from None
        handle.truncate(0)
        handle.write(f"{os.getpid()}\n")
        handle.flush()
        self._lock = handle

    def begin(self, dashboard_port: int = 8050, with_dashboard: bool = True) -> None:
        """Broker, topics, services; returns when all processes are started."""
        self.lock()
        self.find_broker()
        self.make_topics()
        self.supervisor = Supervisor(self.hidden / "logs")
        for name in self.supervisor.end_leftovers():
            self.say(f"{name} was left behind by an earlier 'up' that was killed: ended")
        self._services(dashboard_port, with_dashboard)

    def find_broker(self) -> None:
        """FREERUN_KAFKA, or the configured one, or the folder's own (started if need be)."""
        from freerun import broker
        from freerun.app.foreign import differences
        from freerun.kafka import Broker, wait_ready

        other = os.environ.get("FREERUN_KAFKA") or self.bench.cluster.kafka
        if other:
            self.say(f"broker    {other} (not ours)")
            wait_ready(other)
            self.address = other
            for sentence in differences(Broker(other).settings()):
                self.say(f"note      {sentence}")
            return
        state = broker.status(self.hidden)
        if state.running and state.address:
            self.address = state.address
            self.say(f"broker    {self.address} (was running)")
        else:
            self.say("broker    starting Kafka …")
            self._broker = self.start_broker()
            self.address = self._broker.address
            self.say(f"broker    {self.address}")

    def start_broker(self) -> LocalBroker:
        """The broker of the folder, with its ports of last time."""
        from freerun import broker

        return broker.start(self.hidden, heap_mb=self.bench.cluster.heap // 1_000_000)

    @property
    def service_address(self) -> str:
        """The broker's address that services are told."""
        return self.address

    def make_topics(self) -> None:
        from freerun.kafka import Broker

        bench = self.bench
        wanted = self.topics.all(
            [s.id for s in bench.sources], [p.id for p in bench.pipelines],
            bench.cluster.partitions, raw_bytes=shutil.disk_usage(self.data).free // 5,
        )  # fmt: skip
        made = ensure(Broker(self.address), wanted)
        self.say(f"topics    {len(wanted)} ({len(made)} new)")
        free = shutil.disk_usage(self.data).free
        self.say(
            f"disk      {free / 1e9:.0f} GB free; data stay in Kafka for 24 h or "
            f"{free / 5e9:.0f} GB"
        )

    def _python(self, *args: str) -> list[str]:
        return [sys.executable, "-m", *args]

    def _yielding(self, *args: str) -> list[str]:
        """Of a service that stores or shows: it can wait, who reads out and builds cannot."""
        return ["nice", "-n", str(YIELDING), *self._python(*args)]

    def _common(self) -> list[str]:
        out = ["--bench", str(self._bench_path), "--kafka", self.service_address,
               "--data", str(self.data)]  # fmt: skip
        if self._cluster_path is not None:
            out += ["--cluster", str(self._cluster_path)]
        return out

    def _services(self, dashboard_port: int, with_dashboard: bool) -> None:
        assert self.supervisor is not None
        add, common = self.supervisor.add, self._common()
        quiet = {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        heavy = quiet | MALLOC
        bench = self.bench
        add(Service("run-control", self._python("controllers", "run-control", *common), quiet))
        self._dask(heavy)
        for source in bench.sources:
            argv = self._python("producers", *common, "--source", source.id)
            add(Service(f"source-{source.id}", argv, heavy))
        for pipeline in bench.pipelines:
            argv = self._python("processors", *common, "--pipeline", pipeline.id,
                                "--scheduler-file", str(self.scheduler_file))  # fmt: skip
            add(Service(f"loop-{pipeline.id}", argv, quiet))
            argv = self._yielding("controllers", "monitor", *common, "--pipeline", pipeline.id)
            add(Service(f"monitor-{pipeline.id}", argv, quiet))
        add(Service("writer", self._yielding("controllers", "writer", *common), heavy))
        if with_dashboard:
            port = free_port(dashboard_port)
            self.dashboard_url = f"http://127.0.0.1:{port}/"
            argv = self._yielding("dashboard", *common, "--port", str(port))
            add(Service("dashboard", argv, quiet))

    @property
    def scheduler_file(self) -> Path:
        return self.hidden / "scheduler.json"

    def _dask(self, env: dict[str, str]) -> None:
        assert self.supervisor is not None
        self.scheduler_file.unlink(missing_ok=True)
        port, web = free_port(), free_port(8787)
        self.dask_url = f"http://127.0.0.1:{web}/status"
        file = str(self.scheduler_file)
        argv = self._python(
            "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port),
            "--dashboard-address", f"127.0.0.1:{web}", "--scheduler-file", file,
        )  # fmt: skip
        dask = DASK | {
            "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": f"{self.bench.timeouts.seconds('worker')} s"
        }
        self.supervisor.add(Service("dask-scheduler", argv, env | dask))
        cluster = str(self._cluster_path) if self._cluster_path else ""
        told = {"FREERUN_BENCH": str(self._bench_path), "FREERUN_CLUSTER": cluster}
        for n in range(self.bench.cluster.workers):
            argv = self._python(
                "distributed.cli.dask_worker", f"tcp://127.0.0.1:{port}", "--no-nanny",
                "--nthreads", "1", "--host", "127.0.0.1", "--name", f"worker{n}",
                "--memory-limit", "4GB", "--no-dashboard", "--death-timeout", "300",
                "--preload", "processors.warm",
                "--local-directory", str(self.hidden / "dask"),
            )  # fmt: skip
            name = f"dask-worker{n}"
            self.supervisor.add(Service(
                name, argv, env | DASK | told, needs="dask-scheduler", stop_s=HASTY_STOP_S
            ))  # fmt: skip

    # ------------------------------------------------------------------ end

    def end(self) -> None:
        """Stop the services, then the broker if it was started here."""
        from freerun import broker

        if self.supervisor is not None:
            self.supervisor.stop()
        if self._broker is not None:
            broker.stop(self.hidden)
        if self._lock is not None:
            self._lock.close()

    def wait(self, done: Callable[[], bool], timeout_s: float) -> bool:
        """Watch over the services until `done` or the time is over."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if done():
                return True
            self.look_after()
            time.sleep(0.2)
        return False

    def look_after(self) -> None:
        """Restart what died, and say so. While the bench is not ready yet, a service that dies
        again and again is an `EnvironmentProblem`; later it does not stop the others."""
        assert self.supervisor is not None
        if self._broker is not None and not _alive(self._broker.pid):
            self.say(f"the broker has ended; starting it again (log: {self.hidden / 'kafka.log'})")
            self._broker = self.start_broker()
        for name, code in self.supervisor.watch():
            how = f"killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            self.say(f"{name} {how}; starting it again (log: {self.supervisor.log_of(name)})")
        for name in [] if self.was_ready else self.supervisor.hopeless():
            raise EnvironmentProblem(
                f"{name} dies again and again; the end of {self.supervisor.log_of(name)} says: "
                f"{self.supervisor.last_words(name)}"
            )


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
