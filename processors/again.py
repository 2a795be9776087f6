"""A stored run through the pipeline once more, slice by slice, each compared with what was live."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any

from freerun.config import Bench
from freerun.errors import FreerunError
from freerun.plan import Plan, Run
from freerun.slices import first_in
from freerun.topics import Topics
from processors.compare import Difference, difference
from processors.rerun import Rerun, StoredSlice, stored_slices
from processors.setup import pipeline_of

FEW = 20  # differences that are kept


@dataclass
class Comparison:
    """What a run that was processed again has shown."""

    slices: int = 0  # compared, same or not
    events: int = 0
    different: int = 0
    differences: list[Difference] = field(default_factory=list)  # the first ones
    unknown: list[str] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)


def again(
    address: str, topics: Topics, bench: Bench, plan: Plan, run: Run, pipeline: str,
    progress: Callable[[int], None] = lambda _: None,
) -> Comparison:  # fmt: skip
    """Process a stopped run again inline, with the recorded decisions; nothing is written.

    `progress` is told how many slices were compared. Raises `BrokerTrouble`.
    """
    assert plan.install is not None and run.last is not None
    made = pipeline_of(bench, pipeline)
    roster = {s for e in plan.entries if e.run == run.number for s in e.roster}
    sources = [s for s in bench.sources_of(bench.pipeline(pipeline)) if s in roster]
    out = Comparison()
    for p in range(plan.install.P):
        with ExitStack() as stack:
            rerun = stack.enter_context(closing(Rerun(address, topics, plan, run, sources, p)))
            live = stack.enter_context(
                closing(stored_slices(address, topics, topics.events(pipeline), run, p))
            )
            deltas = stack.enter_context(
                closing(stored_slices(address, topics, topics.monitor(pipeline), run, p))
            )
            _partition(made, rerun, live, deltas, p, plan.install.P, run, out, progress)
    out.differences.sort(key=lambda d: d.k)
    return out


def _partition(
    made: Any, rerun: Rerun, live: Any, deltas: Any, p: int, partitions: int, run: Run,
    out: Comparison, progress: Callable[[int], None],
) -> None:  # fmt: skip
    assert run.last is not None
    delta: StoredSlice | None = next(deltas, None)
    wanted = first_in(p, run.first, partitions)
    for stored in live:
        if stored.k > wanted:
            out.unknown.append(f"partition {p}: results from slice {wanted} to {stored.k} are no "
                               "longer in the topic")  # fmt: skip
        wanted = first_in(p, stored.k + 1, partitions)
        if stored.k < rerun.first:
            if wanted >= rerun.first or wanted > run.last:
                out.unknown.append(f"partition {p}: raw data of slices before {rerun.first} are "
                                   "deleted: these cannot be processed again")  # fmt: skip
            continue
        while delta is not None and delta.k < stored.k:
            delta = next(deltas, None)
        try:
            while rerun.next < stored.k:
                rerun.bundle({})
            bundle = rerun.bundle(stored.info)
        except FreerunError as error:
            out.gaps.append(f"partition {p}: {error}")
            return
        failed = stored.info.get("failed")
        result = made.failed(bundle, failed) if failed else made.process(bundle)
        monitor = delta.parts if delta is not None and delta.k == stored.k else None
        found = difference(result, stored.info, stored.parts, monitor)
        out.slices += 1
        out.events += int(stored.info.get("n_events", 0))
        if found is not None:
            out.different += 1
            if len(out.differences) < FEW:
                out.differences.append(found)
        progress(out.slices)
    if wanted <= run.last:
        out.gaps.append(f"partition {p}: no results from slice {wanted} on")
