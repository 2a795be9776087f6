"""Run control: commands to plan entries, sources watched, runs brought to their end."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import structlog

from controllers.closing import Closer
from controllers.documents import RunsTopic
from controllers.plan_writer import PlanWriter, new_install
from controllers.reconcile import Reconciler
from freerun.config.pipelines import RunType
from freerun.heartbeat import Heart
from freerun.kafka import BEGINNING, Fenced, Publisher, Reader
from freerun.plan import Entry, Run
from freerun.service import Service
from freerun.slices import slice_of

log = structlog.get_logger()
CLOCK_OFF_NS = 1_000_000_000
PLAN_EVERY_S = 0.25  # nobody else writes it; what we write is read back at once
FOLDER = re.compile(r"Run(\d{6})$")


class Refused(Exception):
    """A command that cannot be carried out now; the text is the answer."""


class RunControl:
    """The plan's owner. A thin shell around the plan's fold and the heartbeats' verdicts."""

    def __init__(self, service: Service) -> None:
        self._service, self._bench = service, service.bench
        topics, bench, address = service.topics, service.bench, service.address
        install = new_install(bench.time.slice, bench.cluster.partitions, bench.time.guard)
        timeouts = bench.timeouts
        self._writer = PlanWriter(address, topics, install, timeouts.transaction // 1_000_000)
        self._publisher = Publisher(address, f"{topics.system}.control.news")
        self._heart = Heart(
            self._publisher, topics, "control", "control", timeouts.seconds("heartbeat")
        )
        self._runs = RunsTopic(address, topics, f"{topics.system}.control", self._publisher)
        self._runs.read_all()
        self._state_at = (topics.state, 0)
        beat_ms = int(timeouts.seconds("heartbeat") * 1000)
        self._state = Reader(address, f"{topics.system}.control.state", committed=False, queue_mb=8,
                             fetch_wait_ms=min(500, beat_ms // 2), hurry=False)  # fmt: skip
        self._state.assign({self._state_at: BEGINNING})
        self._reconciler = Reconciler("control/control", bench.time.slice, bench.time.give_up_after)
        self._closer = Closer(service, self._runs, self._writer)
        known = self._state.high(self._state_at)  # what was said before we came
        self._another = False  # was a heartbeat seen of another run control?
        while max(0, self._state.position[self._state_at]) < known:
            self._see_states()
        self._another = False

    # ------------------------------------------------------------------ main loop

    def run(self, stopping: Callable[[], bool]) -> None:
        refresh_at = 0.0
        try:
            while not stopping():
                for command, behind in self._writer.commands(0.1):
                    self._carry_out(command, behind)
                self._see_states()
                if self._another:  # one of us was thought dead: the broker knows who
                    self._writer.confirm()
                    self._another = False
                self._runs.poll()
                if time.monotonic() >= refresh_at:
                    refresh_at = time.monotonic() + PLAN_EVERY_S
                    self._writer.refresh()
                self._reconcile()
                self._closer.turn()
                self._stop_by_itself()
                self._beat()
        except Fenced as error:
            log.error("fenced", error=str(error), hint="another run control has taken over")
            raise
        finally:
            self._closer.close()
            self._heart.beat("STOPPED")
            self._publisher.flush(2)

    def _see_states(self) -> None:
        for record in self._state.poll(500, 0.01):
            try:
                value = json.loads(record.value)
            except ValueError:
                continue
            if isinstance(value, dict) and "time_ns" in value:
                key = (record.key or b"").decode()
                self._reconciler.add(key, value)
                self._another |= key == self._heart.key and not self._heart.is_mine(value)

    def _beat(self) -> None:
        if self._heart.due("RUNNING"):
            run = self._current()
            document = self._runs.documents.runs.get(run.number, {}) if run else {}
            self._heart.beat(
                "RUNNING", run=run.number if run else None,
                run_state=document.get("state", "idle"),
            )  # fmt: skip

    def _current(self) -> Run | None:
        """The last run, if its document is not closed yet."""
        runs = self._writer.plan.runs()
        return runs[-1] if runs else None

    # ------------------------------------------------------------------ commands

    def _carry_out(self, command: dict[str, Any], behind: int) -> None:
        answer: dict[str, Any] = {"answer": command.get("id", ""), "ok": True}
        entry: Entry | None = None
        try:
            self._refuse_again(command)
            entry, text = self._entry_of(command)
            answer |= {"run": entry.run, "text": text}
            if command["command"] == "stop_run":
                answer["run"] = self._writer.plan.runs()[-1].number
        except Refused as why:
            answer |= {"ok": False, "text": str(why)}
        written = self._writer.issue(entry, answer, behind)
        if written is not None:
            log.info("entry", seq=written.seq, kind=written.kind, from_slice=written.from_slice)
            self._closer.changed(command, written)

    def _refuse_again(self, command: dict[str, Any]) -> None:
        """A command that was carried out already is not carried out twice."""
        told = str(command.get("id", ""))
        for entry in self._writer.plan.entries:
            if told and entry.command_id == told:
                raise Refused(
                    f"this command was carried out already: {entry.kind} from slice "
                    f"{entry.from_slice} (plan entry {entry.seq})"
                )

    def _entry_of(self, command: dict[str, Any]) -> tuple[Entry, str]:
        name = command.get("command")
        if name == "start_run":
            return self._start(command)
        if name == "stop_run":
            return self._stop(command)
        raise Refused(f"unknown command {name!r}: known are start_run, stop_run")

    def _start(self, command: dict[str, Any]) -> tuple[Entry, str]:
        plan = self._writer.plan
        runs = plan.runs()
        if runs and runs[-1].last is None:
            raise Refused(f"run {runs[-1].number} is going on: stop it first")
        kind = command.get("type") or next(iter(self._bench.run_types), "run")
        if self._bench.run_types and kind not in self._bench.run_types:
            known = ", ".join(self._bench.run_types)
            raise Refused(f"unknown run type {kind!r}: known are {known}")
        if kind in self._bench.run_types:
            command["answers"] = answers(self._bench.run_types[kind], command.get("answers") or {})
        roster: dict[str, bool] = {}
        absent = []
        for source in self._bench.sources:
            if self._reconciler.fresh(source.id) is not None:
                roster[source.id] = source.critical
            elif source.critical:
                seen = self._reconciler.sources.get(source.id)
                state = seen.last.get("state", "silent") if seen else "never heard of"
                raise Refused(
                    f"source {source.id} is not ready ({state}): start it, or set critical = "
                    "false to run without it"
                )
            else:
                absent.append(source.id)
        if not roster:
            raise Refused("no source is ready: start at least one")
        anchors = self._anchors(roster)
        self._check_clocks(roster, anchors)
        folders = [int(m[1]) for f in self._service.data.glob("Run*")
                   if (m := FOLDER.match(f.name))]  # fmt: skip
        number = max([0, *(r.number for r in runs), *folders]) + 1
        entry = Entry(
            seq=0, from_slice=plan.earliest(time.time_ns()), kind="start", run=number,
            roster=roster, anchors=anchors,
            offsets={s.id: s.clock.offset for s in self._bench.sources},
            who=str(command.get("who", "")), why=str(command.get("comment", "")),
            command_id=str(command.get("id", "")),
        )  # fmt: skip
        without = f", without {', '.join(absent)}" if absent else ""
        return entry, f"run {number} begins{without}"

    def _anchors(self, roster: dict[str, bool]) -> dict[str, int]:
        """Anchors of all clock domains: what the plan has stays; new ones from heartbeats."""
        plan = self._writer.plan
        starts = [e for e in plan.entries if e.kind == "start"]
        anchors = dict(starts[-1].anchors) if starts else {}
        reference = self._bench.time.reference
        order = sorted(roster, key=lambda s: s != reference)  # the reference speaks first
        for name in order:
            domain = self._bench.source(name).domain
            seen = self._reconciler.fresh(name)
            if domain not in anchors and seen is not None and seen.get("anchor") is not None:
                anchors[domain] = int(seen["anchor"])
        return anchors

    def _check_clocks(self, roster: dict[str, bool], anchors: dict[str, int]) -> None:
        """A source whose own idea of its clock's zero is a second off would be wrong all along."""
        for name in roster:
            seen, anchor = (
                self._reconciler.fresh(name),
                anchors.get(self._bench.source(name).domain),
            )
            told = seen.get("anchor") if seen is not None else None
            if anchor is not None and told is not None and abs(int(told) - anchor) > CLOCK_OFF_NS:
                raise Refused(
                    f"the clock of {name} is {(int(told) - anchor) / 1e9:+.1f} s off the one the "
                    "plan knows: it was reset; give the system another name to begin anew"
                )

    def _stop(self, command: dict[str, Any]) -> tuple[Entry, str]:
        plan = self._writer.plan
        runs = plan.runs()
        if not runs or runs[-1].last is not None:
            raise Refused("no run is going on: there is nothing to stop")
        entry = self._like_now(
            "stop", run=None, who=str(command.get("who", "")), why=str(command.get("why", "")),
            command_id=str(command.get("id", "")),
        )  # fmt: skip
        return entry, f"run {runs[-1].number} ends"

    def _like_now(self, kind: str, **changes: Any) -> Entry:
        """A new entry with the content in force and some changes."""
        plan = self._writer.plan
        newest = next(e for e in reversed(plan.entries) if e.kind != "give_up")
        at = plan.earliest(time.time_ns())
        return replace(newest, seq=0, kind=kind, from_slice=at, time_ms=0, **changes)

    # ------------------------------------------------------------------ watching

    def _stop_by_itself(self) -> None:
        run = self._current()
        if run is not None and run.last is None and self._closer.should_stop(run):
            entry = self._like_now("stop", run=None, who="run control", command_id="",
                                   why="stop_after reached")  # fmt: skip
            stop = self._writer.issue(entry) or entry
            self._closer.changed({}, stop)
            self._repeat(run, stop.from_slice)

    def _repeat(self, run: Run, at: int) -> None:
        """The next run of the same type, if its type says so: from slice `at` on, where the last
        one ends, because a source that pauses for a slice would miss some more."""
        last = self._runs.documents.runs.get(run.number, {})
        run_type = self._bench.run_types.get(str(last.get("type")))
        if run_type is None or not run_type.repeat:
            return
        same = {name: last.get(name) for name in ("type", "comment", "shifter", "answers")}
        command = {"command": "start_run", "who": "run control", **same}
        try:
            entry, text = self._start(command)
            entry = replace(entry, from_slice=at)
        except Refused as why:
            log.warning("not_repeated", run=run.number, why=str(why))
            return
        self._closer.changed(command, self._writer.issue(entry) or entry)
        log.info("repeated", text=text)

    def _reconcile(self) -> None:
        """Give up who is lost, take back who is there again; also until a stopped run is out,
        whether or not the next one is going on already."""
        for run in self._writer.plan.runs():
            if not self._closer.is_out(run):
                self._reconcile_run(run)

    def _reconcile_run(self, run: Run) -> None:
        plan, now = self._writer.plan, time.time_ns()
        k = min(slice_of(now, self._bench.time.slice), run.last or 1 << 60)
        k = max(k, run.first)
        gone = plan.given_up(k)
        base = plan.base(k)
        assert base is not None
        if base.run != run.number:
            return  # stopped before it began
        for source in plan.roster(k):
            why = self._reconciler.to_give_up(source, now, base.from_slice, run.last)
            if source not in gone and why is not None:
                entry = replace(base, seq=0, kind="give_up", from_slice=run.first, time_ms=0,
                                given_up={source: why}, who="run control", why=why,
                                command_id="")  # fmt: skip
                self._writer.issue(entry)
                log.warning("given_up", source=source, why=why)
                if base.roster[source] and run.last is None:
                    stop = self._like_now("stop", run=None, who="run control", command_id="",
                                          why=f"{source} is critical and {why}")  # fmt: skip
                    self._writer.issue(stop)
                    return
            elif source in gone and run.last is None:
                seen = self._reconciler.fresh(source)
                if seen is not None and self._back_since(source, gone[source]):
                    left = {s: e.given_up.get(s, "") for s, e in gone.items() if s != source}
                    at = max(plan.earliest(now), int(seen.get("first", 0)))
                    entry = replace(self._like_now("roster"), from_slice=at, given_up=left,
                                    who="run control", why=f"{source} is back")  # fmt: skip
                    self._writer.issue(entry)
                    log.info("taken_back", source=source, from_slice=at)

    def _back_since(self, source: str, entry: Entry) -> bool:
        seen = self._reconciler.sources[source]
        pending = any(
            e.kind == "roster" and e.seq > entry.seq and source not in e.given_up
            for e in self._writer.plan.entries
        )
        return seen.missed == 0 and seen.stuck == 0 and not pending


def answers(run_type: RunType, given: Mapping[str, Any]) -> dict[str, Any]:
    """What the shifter was asked, with the types that the configuration names."""
    out: dict[str, Any] = {}
    for name, kind in run_type.ask.items():
        if name not in given:
            raise Refused(f"this type of run asks for {name} ({kind}): add --set {name}=…")
        try:
            out[name] = _TYPES[kind](given[name])
        except (TypeError, ValueError):
            raise Refused(f"{name} = {given[name]!r} is no {kind}") from None
    if unknown := sorted(set(given) - set(run_type.ask)):
        known = ", ".join(run_type.ask) or "nothing"
        raise Refused(f"this type of run does not ask for {unknown[0]}; it asks for {known}")
    return out


def _truth(value: Any) -> bool:
    text = str(value).lower()
    if text not in ("yes", "true", "no", "false"):
        raise ValueError(text)
    return text in ("yes", "true")


_TYPES: dict[str, Callable[[Any], Any]] = {"text": str, "int": int, "float": float, "bool": _truth}
