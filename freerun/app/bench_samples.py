"""What processes hold and use, sampled; and whether a series of samples is flat. Pure but psutil.

Flat means: the robust slope (Theil–Sen, the median of the slopes of all pairs) of the samples,
times the time they span, is within a band. Samples of the first fifth are left out: caches fill.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil

from freerun.app.bench import Table

Array = npt.NDArray[np.float64]
WARM_UP = 0.2  # of all samples
PAIRS = 400  # samples that the slope is made of, at most: pairs grow as the square


@dataclass(frozen=True)
class Held:
    """What one process has at one moment."""

    uss: float  # MB that only it has
    rss: float  # MB
    threads: int
    files: int  # descriptors
    cpu: float  # s, since it began


def held(pid: int) -> Held | None:
    """None if the process is gone."""
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            memory, cpu = process.memory_full_info(), process.cpu_times()
            return Held(memory.uss / 1e6, memory.rss / 1e6, process.num_threads(),
                        process.num_fds(), cpu.user + cpu.system)  # fmt: skip
    except psutil.Error:
        return None


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder; files may come and go meanwhile."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except OSError:
            continue
    return total


@dataclass
class Sample:
    """One look at everything."""

    t: float  # s since the begin
    running: bool  # a run goes on, for some seconds already
    words: float  # that the sources have read in all
    lag: float  # s, of the lanes
    processes: Mapping[str, Held]
    disk: float = 0.0  # GB in the broker's folder


@dataclass
class Series:
    """All samples of a soak."""

    samples: list[Sample] = field(default_factory=list)

    def of(self, name: str, what: str) -> tuple[Array, Array]:
        """Time and one figure of one process, while runs go on."""
        some = [(s.t, getattr(s.processes[name], what)) for s in self.samples
                if s.running and name in s.processes]  # fmt: skip
        return _columns(some)

    def figure(self, what: str) -> tuple[Array, Array]:
        """Time and one figure of the whole, while runs go on."""
        return _columns([(s.t, getattr(s, what)) for s in self.samples if s.running])

    def names(self) -> list[str]:
        """Every process that was seen, in the order of their start."""
        return list(dict.fromkeys(n for s in self.samples for n in s.processes))

    def cpu_per_word(self, names: Sequence[str], begin: float, end: float) -> float:
        """CPU in ns per word between two times, of intervals in which a run went on.

        Times are parts (0 … 1) of the samples of running time; 0 if nothing was read.
        """
        pairs = [(a, b) for a, b in zip(self.samples, self.samples[1:], strict=False)
                 if a.running and b.running]  # fmt: skip
        some = pairs[int(begin * len(pairs)) : max(int(begin * len(pairs)) + 1,
                                                   int(end * len(pairs)))]  # fmt: skip
        used = sum(
            max(0.0, b.processes[n].cpu - a.processes[n].cpu)
            for a, b in some for n in names if n in a.processes and n in b.processes
        )  # fmt: skip
        words = sum(max(0.0, b.words - a.words) for a, b in some)
        return float(used / words * 1e9) if words else 0.0


def _columns(pairs: Sequence[tuple[float, float]]) -> tuple[Array, Array]:
    t, y = np.array(pairs, float).reshape(-1, 2).T
    return t, y


def slope(t: Array, y: Array) -> float:
    """The Theil–Sen slope of y over t; 0 with fewer than two times."""
    step = max(1, len(t) // PAIRS)
    t, y = t[::step], y[::step]
    i, j = np.triu_indices(len(t), 1)
    apart = t[j] - t[i]
    some = apart > 0
    return float(np.median((y[j] - y[i])[some] / apart[some])) if some.any() else 0.0


def growth(t: Array, y: Array) -> tuple[float, float]:
    """By how much y grew over its time (robust), and its median; the warm-up is left out."""
    keep = slice(int(WARM_UP * len(t)), None)
    t, y = t[keep], y[keep]
    if len(t) < 2:
        return 0.0, float(y[-1]) if len(y) else 0.0
    return slope(t, y) * float(t[-1] - t[0]), float(np.median(y))


def judge(table: Table, series: Series, judged: bool = True) -> None:
    """Rows of what must be flat, with goals if `judged`."""

    def flat(what: str, t: Array, y: Array, unit: str, least: float, part: float) -> None:
        grown, middle = growth(t, y)
        band = max(least, part * abs(middle))
        table.add(f"{what}: growth", grown, unit, f"median {middle:.4g}",
                  goal=band if judged else None, at_most=True)  # fmt: skip

    for name in series.names():
        flat(f"memory of {name} (USS)", *series.of(name, "uss"), "MB", 20.0, 0.1)
        flat(f"threads of {name}", *series.of(name, "threads"), "", 2.0, 0.1)
        flat(f"file descriptors of {name}", *series.of(name, "files"), "", 4.0, 0.1)
    t, lag = series.figure("lag")
    flat("lag of the lanes", t, lag, "s", 0.5, 0.0)
    if len(lag):
        table.add("lag of the lanes, 99 of 100", float(np.percentile(lag, 99)), "s")
    flat("Kafka's data on disk", *series.figure("disk"), "GB", 0.2, 0.15)
    names = [n for n in series.names() if n != "bench"]
    for name in (*names, "everything"):
        some = names if name == "everything" else [name]
        first = series.cpu_per_word(some, 0.0, 0.1)
        last = series.cpu_per_word(some, 0.9, 1.0)
        table.add(f"CPU of {name}, last tenth", last, "ns/row", f"first tenth {first:.3g}",
                  goal=first * 1.1 + 5 if judged else None, at_most=True)  # fmt: skip
