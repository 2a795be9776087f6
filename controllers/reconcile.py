"""Who is lost and who stands still, judged from heartbeats alone. Pure.

Run control's own heartbeat travels through the same topic. A source is LOST when three of those
came back since the source's last one: so an outage of the broker makes nobody lost, because then
nothing comes back.
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
    stuck: int = 0  # beats of the source with a slice due, an empty queue and no progress
    lost_since_ns: int | None = None
    stuck_since_ns: int | None = None


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
                if seen.missed >= BEATS and seen.lost_since_ns is None:
                    seen.lost_since_ns = int(value["time_ns"])
            return
        role, _, name = key.partition("/")
        if role != "source":
            return
        seen = self.sources.setdefault(name, Seen())
        before = seen.last
        seen.missed, seen.lost_since_ns = 0, None
        due = value["time_ns"] // self._L - self._patience // self._L
        still = (
            value.get("state") == "RUNNING"
            and before.get("inc") == value.get("inc")
            and before.get("closed") == value.get("closed")
            and value.get("closed", -1) < due
            and int(value.get("first", 0)) < due
            and not value.get("spool")
        )
        seen.stuck = seen.stuck + 1 if still else 0
        if seen.stuck < BEATS:
            seen.stuck_since_ns = None
        elif seen.stuck_since_ns is None:
            seen.stuck_since_ns = int(value["time_ns"])
        seen.last = value

    def fresh(self, name: str) -> Mapping[str, Any] | None:
        """The last heartbeat of a source that is there now and able to take part."""
        seen = self.sources.get(name)
        if seen is None or seen.missed >= BEATS:
            return None
        return seen.last if seen.last.get("state") in ("READY", "RUNNING") else None

    def to_give_up(self, name: str, now_ns: int) -> str | None:
        """Why the plan should go on without this source, or None."""
        seen = self.sources.get(name)
        if seen is None:
            return None
        if seen.lost_since_ns is not None and now_ns - seen.lost_since_ns > self._patience:
            return "LOST: no heartbeat"
        if seen.stuck_since_ns is not None and now_ns - seen.stuck_since_ns > self._patience:
            return "not advancing: a slice is due and nothing comes"
        return None
