"""Run control of a replay: one run whose first and last slice are known before it begins.

Time is the recording's, so nothing here looks at the host's clock: the whole plan is written at
once, and the run is over when its files are closed and the ledger has spoken.
"""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from typing import Any

from controllers.closing import Closer
from controllers.documents import RunsTopic
from controllers.plan_writer import PlanWriter, new_install
from freerun.kafka import Publisher
from freerun.plan import DATA, Entry
from freerun.service import Service


class ReplayControl:
    """Owner of a replay's plan and of its run's document."""

    def __init__(
        self, service: Service, run: int, first: int, last: int,
        anchors: Mapping[str, int], comment: str = "",
    ) -> None:  # fmt: skip
        """Write the plan (all sources from slice `first` to `last`) and begin the document.

        To be called before any service of the replay starts. `anchors`: clock domain → ns.
        """
        bench, topics, address = service.bench, service.topics, service.address
        name = f"{topics.system}.control"
        install = new_install(bench.time.slice, bench.cluster.partitions, bench.time.guard)
        self._writer = PlanWriter(address, topics, install)
        self._publisher = Publisher(address, name)
        self._runs = RunsTopic(address, topics, name, self._publisher)
        self._runs.read_all()
        self._run = run
        content: dict[str, Any] = {
            "seq": 0, "clock": DATA, "anchors": dict(anchors), "who": getpass.getuser(),
            "roster": {s.id: True for s in bench.sources},
            "offsets": {s.id: s.clock.offset for s in bench.sources}, "why": comment,
        }  # fmt: skip
        start = self._writer.issue(Entry(kind="start", from_slice=first, run=run, **content))
        self._writer.issue(Entry(kind="stop", from_slice=last + 1, run=None, **content))
        assert start is not None
        self._closer = Closer(service, self._runs, self._writer)
        self._closer.changed({"type": "replay", "comment": comment}, start)
        self._publisher.flush()

    def turn(self) -> dict[str, Any]:
        """Look at what the writers say; returns the run's document as it is now."""
        self._runs.poll(0.05)
        self._closer.turn()
        return self._runs.documents.runs[self._run]

    def close(self) -> None:
        self._closer.close()
        self._publisher.flush(5.0)
        self._runs.close()
        self._writer.close()
