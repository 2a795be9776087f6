"""How the cost of a lane grows: CPU = a·words + b·parts + c·slices + d·seconds, by least squares.

`d` is what a lane costs while it only waits. Points lie on the axes of a grid through one common
point, so that a cost that is not in the formula (partitions, say) shows in the residuals.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from freerun.app.bench import Table
from freerun.app.bench_broker import serving
from freerun.app.bench_growth_point import Cost, Point, measure_point
from freerun.errors import EnvironmentProblem

F64 = npt.NDArray[np.float64]
COMMON = Point(partitions=8, sources=8, slice_ns=100_000_000, words_per_s=1e6)
QUICK: dict[str, tuple[float, ...]] = {
    "partitions": (1, 64), "sources": (1, 64), "slice_ns": (10e6, 1e9),
    "words_per_s": (0.1e6, 2e6),
}  # fmt: skip
FULL: dict[str, tuple[float, ...]] = {
    "partitions": (1, 2, 4, 16, 32, 64), "sources": (1, 2, 4, 16, 32, 64),
    "slice_ns": (10e6, 20e6, 50e6, 200e6, 500e6, 1e9), "words_per_s": (0.1e6, 0.5e6, 2e6, 3e6),
}  # fmt: skip
BEHIND_S = 3.0  # a lane that is later than this did not keep up: its point tells nothing
GOALS = (25.0, 100.0, 4.0, None)
UNITS = ("ns/word", "µs/part", "ms/slice", "ms/s")
SCALES = np.array([1e9, 1e6, 1e3, 1e3])
NAMES = ("a: words", "b: parts", "c: slices", "d: time, waiting")


def grid(full: bool = False, common: Point = COMMON) -> list[Point]:
    """The common point, and points along each axis through it."""
    out = [common]
    for name, values in (FULL if full else QUICK).items():
        kind = type(getattr(common, name))
        out += [replace(common, **{name: kind(v)}) for v in values]
    return list(dict.fromkeys(out))


def fit(costs: Sequence[Cost], spent: Sequence[float]) -> tuple[F64, F64]:
    """The constants (s per word, part, slice, second) and each point's residual as a part of it.

    Relative errors are made least, so that a small point weighs as much as a large one; a
    constant that would come out negative is 0.
    """
    x = np.array([[c.words, c.parts, c.slices, c.seconds] for c in costs], float)
    y = np.array(spent, float)
    weighted, one = x / y[:, None], np.ones(len(y))
    use = list(range(4))
    while True:
        found, *_ = np.linalg.lstsq(weighted[:, use], one, rcond=None)
        if (found >= 0).all():
            break
        del use[int(np.argmin(found * SCALES[use]))]
    constants = np.zeros(4)
    constants[use] = found
    return constants, x @ constants / y - 1


def measure(
    table: Table, points: Sequence[Point], seconds: float, builder: str,
    say: Callable[[str], None] = print,
) -> None:  # fmt: skip
    """Fill `table` from the points of a grid, each measured for `seconds`."""
    costs: list[Cost] = []
    with serving() as (address, pid), tempfile.TemporaryDirectory(prefix="freerun-bench-") as name:
        # a young JVM, and kernels that are not compiled yet, would cost the first point
        measure_point(address, pid, Path(name), points[0], min(seconds, 3.0), builder)
        for n, point in enumerate(points):
            cost = measure_point(address, pid, Path(name), point, seconds, builder)
            say(
                f"{n + 1:3d}/{len(points)}  {_about(point)}: lane {_percent(cost.lane, cost)}, "
                f"broker {_percent(cost.broker, cost)}, last slice after {cost.behind:.2f} s"
            )
            costs.append(cost)
    kept = [c for c in costs if c.behind < BEHIND_S]
    if len(kept) < 4:
        raise EnvironmentProblem(
            f"only {len(kept)} of {len(costs)} points were kept up with, too few for a fit: "
            "measure on a machine that has less to do"
        )
    _report(table, costs, kept, [c.lane for c in kept], "lane", goals=True)
    if pid is not None:
        _report(table, costs, kept, [c.broker for c in kept], "broker", goals=False)


def _report(
    table: Table, costs: Sequence[Cost], kept: Sequence[Cost], spent: Sequence[float], who: str,
    goals: bool,
) -> None:  # fmt: skip
    constants, residuals = fit(kept, spent)
    for name, value, unit, goal in zip(NAMES, constants * SCALES, UNITS, GOALS, strict=True):
        table.add(f"{who}, {name}", float(value), unit, goal=goal if goals else None,
                  at_most=True)  # fmt: skip
    worst = int(np.argmax(np.abs(residuals)))
    table.add(f"{who}, residual, root mean square", float(np.sqrt(np.mean(residuals**2))) * 100,
              "%", f"worst {residuals[worst]:+.0%} at {_about(kept[worst].point)}")  # fmt: skip
    at = {id(c): r for c, r in zip(kept, residuals, strict=True)}
    for cost, used in zip(
        costs, [c.lane if who == "lane" else c.broker for c in costs], strict=True
    ):
        told = f"formula {at[id(cost)]:+.0%}" if id(cost) in at else "did not keep up: left out"
        table.add(f"{who} at {_about(cost.point)}", used / cost.seconds * 100, "% of a core", told)


def _about(point: Point) -> str:
    return (f"P {point.partitions}, {point.sources} sources, {point.slice_ns / 1e6:g} ms, "
            f"{point.words_per_s / 1e6:g} M words/s")  # fmt: skip


def _percent(used: float, cost: Cost) -> str:
    return f"{used / cost.seconds:.1%}"
