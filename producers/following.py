"""The plan, followed in a thread: an absent broker must not stop a source from reading."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import replace

from freerun.errors import FreerunError
from freerun.plan import Plan
from freerun.planlog import PlanLog
from freerun.topics import Topics

CLOSE_S = 6.0  # a question to an absent broker takes 5 s


class PlanFollower:
    """`plan` is the newest one that was read to its end; it is replaced, never changed."""

    def __init__(self, address: str, topics: Topics, name: str, every_s: float) -> None:
        self.plan = Plan()
        self._log = PlanLog(address, topics, name)
        self._every = every_s
        self._news = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="plan", daemon=True)
        self._thread.start()

    def news(self) -> bool:
        """Was the plan read to its end since the last question?"""
        had = self._news.is_set()
        self._news.clear()
        return had

    def _follow(self) -> None:
        while not self._stop.wait(self._every):
            with contextlib.suppress(FreerunError):  # the broker is away: asked again
                if self._log.poll(timeout=0.5):
                    plan = self._log.plan
                    self.plan = replace(plan, entries=[*plan.entries], void=[*plan.void])
                    self._news.set()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(CLOSE_S)
        if not self._thread.is_alive():
            self._log.close()
