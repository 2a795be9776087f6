"""Who is lost and who stands still, judged from heartbeats alone. Pure.

Run control's own heartbeat travels through the same topic. A source is LOST when three of those
came back since the source's last one: so an outage of the broker makes nobody lost, because then
nothing comes back. After an outage the beats that waited come back all at once, and so do old ones
when run control starts: patience therefore begins when the verdict is first asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

BEATS = 3


@dataclass
class Seen:
    """What the heartbeats of one source say."""

    last: Mapping[str, Any] = field(default_factory=dict)
    missed: int = 0  # control's beats since the source's last
    stuck: int = 0  # the source's beats in a row without progress and with an empty queue
    lost_since_ns: int | None = None  # host time of the first question that found it lost
    stuck_since_ns: dict[int | None, int] = field(default_factory=dict)  # run's first → the same


class Reconciler:
    """Fed with the state topic in order; asked for verdicts."""

    def __init__(self, control_key: str, slice_ns: int, patience_ns: int) -> None:
        self._control, self._L, self._patience = control_key, slice_ns, patience_ns
        self.sources: dict[str, Seen] = {}

    def add(self, key: str, value: Mapping[str, Any]) -> None:
        """One heartbeat, in the order of the topic."""
        if key == self._control:
            for seen in self.sources.values():
                seen.missed += 1
            return
        role, _, name = key.partition("/")
        if role != "source":
            return
        seen = self.sources.setdefault(name, Seen())
        before, seen.last = seen.last, value
        seen.missed, seen.lost_since_ns = 0, None
        same = all(before.get(x) == value.get(x) for x in ("inc", "closed"))
        seen.stuck = seen.stuck + 1 if before and same and not value.get("spool") else 0

    def fresh(self, name: str) -> Mapping[str, Any] | None:
        """The last heartbeat of a source that is there now and able to take part."""
        seen = self.sources.get(name)
        if seen is None or seen.missed >= BEATS:
            return None
        return seen.last if seen.last.get("state") in ("READY", "RUNNING") else None

    def to_give_up(
        self, name: str, now_ns: int, first: int | None = None, last: int | None = None
    ) -> str | None:
        """Why the plan should go on without this source, or None.

        `first` and `last` are slices of the run that waits for it (`last` once it is stopped).
        Without them only the slice is due that the source itself says it is at.
        """
        seen = self.sources.setdefault(name, Seen())  # silent from now on, if never heard of
        if seen.missed < BEATS:
            seen.lost_since_ns = None
        elif seen.lost_since_ns is None:
            seen.lost_since_ns = now_ns
        if not self._stands_still(seen, first, last):
            seen.stuck_since_ns.pop(first, None)
            stuck_since = now_ns
        else:
            stuck_since = seen.stuck_since_ns.setdefault(first, now_ns)
        if seen.lost_since_ns is not None and now_ns - seen.lost_since_ns > self._patience:
            return "LOST: no heartbeat"
        if now_ns - stuck_since > self._patience:
            return "not advancing: a slice is due and nothing comes"
        return None

    def _stands_still(self, seen: Seen, first: int | None, last: int | None) -> bool:
        """Is a slice due, by the source's own clock, that it does not close?"""
        if seen.stuck < BEATS:
            return False
        due = (_number(seen.last, "time_ns") - self._patience) // self._L
        begun = _number(seen.last, "first") if first is None else first
        if last is not None:
            due = min(due, last)
        return begun <= due and _number(seen.last, "closed", -1) < due


def _number(value: Mapping[str, Any], name: str, default: int = 0) -> int:
    number = value.get(name, default)
    return number if isinstance(number, int) else default
