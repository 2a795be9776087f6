"""The whole system as pure machines in simulated time, under random accidents.

`python tests/make_world.py [--seeds FIRST:END] [--shrink]` runs schedules; a schedule is a pure
function of its seed. After each step the laws of the data are checked; at the end all accidents
stop, and everything must come to its end: every slice out, every file there, every ledger closed.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import traceback
from dataclasses import dataclass, field, replace

from make_actors import (
    MS,
    SECOND,
    STEP,
    Clock,
    Control,
    Device,
    Kafka,
    Source,
    Wrong,
    law,
)
from make_lanes import Files, Lane, Writer, info_of, ticks_of
from make_source import check_crc

from freerun.assembler import CLOSED, GIVEN_UP, Assembler, Bundle, Fragment, Resume
from freerun.ledger import Account, SourceAccount
from freerun.plan import Install, Run
from freerun.slices import partition
from freerun.wire import MARK

BEGIN = 1000 * SECOND
PATIENCE = 3 * SECOND
SETTLE = 60 * SECOND  # after the last accident everything is out by then
KINDS = ("kill", "stop", "outage", "remap", "zombie")


@dataclass(frozen=True)
class Accident:
    at: int
    what: str
    who: str
    lasts: int


@dataclass(frozen=True)
class Schedule:
    """Everything that is decided before the first step."""

    seed: int
    partitions: int
    length: int  # ns
    sources: str
    late_rate: float
    skewed: bool
    commands: tuple[tuple[int, str], ...]
    accidents: tuple[Accident, ...] = field(default=())

    @property
    def end(self) -> int:
        return max([t for t, _ in self.commands] + [a.at + a.lasts for a in self.accidents])


def schedule(seed: int) -> Schedule:
    rng = random.Random(seed)
    sources = rng.choice(["a", "ab", "ab", "abc"])
    commands, t = [], BEGIN + 2 * SECOND
    for _ in range(rng.choice([1, 1, 2])):
        commands.append((t, "start"))
        t += rng.randrange(1, 90) * STEP
        commands.append((t, "stop"))
        t += rng.choice([0, 5, 30]) * STEP
    calm = rng.random() < 0.1
    accidents = []
    for _ in range(0 if calm else rng.randrange(1, 9)):
        what = rng.choice(KINDS)
        who = rng.choice([*sources, *sources, "control", "control", "lane0", "lane1", "writer"])
        at = BEGIN + rng.randrange(0, t + 3 * SECOND - BEGIN, STEP)
        if who == "control" and rng.random() < 0.7:  # while an entry is on its way
            at = rng.choice(commands)[0] + rng.choice([0, 1, 2]) * STEP
        lasts = rng.choice([1, 5, rng.randrange(10, 20), rng.randrange(20, 80)]) * STEP
        accidents.append(Accident(at, what, who, lasts))
    return Schedule(
        seed, rng.choice([1, 2, 3, 4]), rng.choice([200, 500]) * MS, sources,
        rng.choice([0, 0, 0.05]), rng.random() < 0.5, tuple(commands), tuple(accidents),
    )  # fmt: skip


class World:
    """One schedule, step by step."""

    def __init__(self, s: Schedule) -> None:
        self.s = s
        install = Install("u", s.length, s.partitions, 20 * MS)

        def clock(name: str, most: int = 200) -> Clock:
            rng = random.Random(f"{s.seed}/clock/{name}")
            if not s.skewed:
                return Clock(0)
            return Clock(rng.randrange(-most, most + 1) * MS, rng.randrange(-100, 101))

        def rng(name: str) -> random.Random:
            return random.Random(f"{s.seed}/{name}")

        self.kafka = k = Kafka(install, clock("kafka"), s.sources)
        self.sources = {
            n: Source(n, k, clock(n, 500), rng(n), device=Device(f"{s.seed}/{n}", s.late_rate),
                      spools=rng(n).random() < 0.5)
            for n in s.sources
        }  # fmt: skip
        self.control = Control("control", k, clock("control"), rng("control"),
                               commands=list(s.commands), patience=PATIENCE,
                               out=lambda run: self.writer.finished(run))  # fmt: skip
        everything = set(range(s.partitions))
        half = {p for p in everything if p % 2}
        self.lanes = [
            Lane(f"lane{i}", k, clock(f"lane{i}"), rng(f"lane{i}"), wanted=w, emitted=self.emitted)
            for i, w in enumerate((everything - half, half))
        ]
        self.files: Files = {}
        self.writer = Writer("writer", k, Clock(0), rng("writer"), files=self.files,
                             cut=rng("cut").choice([3, 7]))  # fmt: skip
        everybody = (*self.sources.values(), self.control, *self.lanes, self.writer)
        self.actors = {a.name: a for a in everybody}
        self.zombies: list[Writer | Control] = []
        self.out: dict[int, Bundle] = {}
        self.healthy = not s.accidents and not s.skewed and not s.late_rate
        self.t = BEGIN
        self.rng = rng("order")

    # ------------------------------------------------------------------ steps

    def step(self) -> None:
        for a in self.s.accidents:
            if self.t <= a.at < self.t + STEP:
                self._befall(a)
        order = [*self.actors.values(), *self.zombies]
        self.rng.shuffle(order)
        for actor in order:
            actor.turn(self.t)
        self.t += STEP

    def _befall(self, a: Accident) -> None:
        actor = self.actors[a.who]
        if a.what == "outage":
            self.kafka.down_until = max(self.kafka.down_until, self.t + a.lasts)
        elif a.what == "kill":
            actor.kill(self.t, a.lasts)
        elif a.what == "remap":  # the loop gives partitions to the other lane; both think they own
            here, there = self.lanes if self.rng.random() < 0.5 else self.lanes[::-1]
            there.wanted = there.wanted | here.wanted
            here.stop(self.t, a.lasts)
            self._later(self.t + a.lasts + 2 * STEP, here)
        elif a.what == "zombie" and a.who in ("writer", "control"):
            actor.stop(self.t, a.lasts)  # a second one begins; the first wakes up behind it
            old = self.actors[a.who]
            assert isinstance(old, (Writer, Control))
            self.zombies.append(old)
            heir = self._again(old)
            self.actors[a.who] = heir
            if isinstance(heir, Writer):
                self.writer = heir
            else:
                self.control = heir
        else:
            actor.stop(self.t, a.lasts)

    def _again(self, old: Writer | Control) -> Writer | Control:
        rng = random.Random(f"{self.s.seed}/{old.name}/{self.t}")
        if isinstance(old, Writer):
            return Writer(old.name, self.kafka, old.clock, rng, files=self.files, cut=old.cut + 2)
        heir = Control(old.name, self.kafka, old.clock, rng, commands=old.commands,
                       patience=PATIENCE, out=old.out)  # fmt: skip
        old.left_behind = True
        return heir

    def _later(self, t: int, lane: Lane) -> None:
        """A lane that lost its partitions to the other one learns of it at `t`."""
        other = next(x for x in self.lanes if x is not lane)

        class Notice(Writer):
            def __init__(self) -> None:
                pass

            def turn(self, now: int) -> None:
                if now >= t and lane.wanted & other.wanted:
                    lane.wanted = lane.wanted - other.wanted

        self.zombies.append(Notice())

    def run(self) -> None:
        """All steps; raises `Wrong` with the time and what is broken."""
        while self.t < self.s.end:
            self.step()
        limit = self.t + SETTLE
        while not self._done():
            self.step()
            if self.t > limit:
                raise Wrong(f"stuck: {self._stuck()}")
        for run in self.kafka.truth.runs():
            self._close(run)

    def _done(self) -> bool:
        runs = self.kafka.truth.runs()
        return self.kafka.commands_done == len(self.s.commands) and all(
            self.writer.finished(r) for r in runs
        )

    def _stuck(self) -> str:
        owners = {p: o for lane in self.lanes for p, o in lane.owners.items()}
        return f"commands {self.kafka.commands_done} of {len(self.s.commands)}; " + "; ".join(
            f"partition {p} at {o.assembler.next} awaits "
            f"{sorted(o.assembler.awaited(self.kafka.truth))}" for p, o in sorted(owners.items())
        )  # fmt: skip

    # ------------------------------------------------------------------ laws

    def emitted(self, p: int, bundle: Bundle, t: int) -> None:
        """A slice was committed: once, in order, in a run, by the plan in force, and whole."""
        k, truth = bundle.k, self.kafka.truth
        law(partition(k, self.s.partitions) == p, f"slice {k} in partition {p}")
        law(k not in self.out, f"slice {k} twice")
        law(all(j < k for j in self.out if partition(j, self.s.partitions) == p), f"{k} too late")
        self.out[k] = bundle
        base = truth.base(k)
        law(base is not None and base.run is not None, f"slice {k} is in no run")
        assert base is not None
        law(bundle.seq == base.seq, f"slice {k} under entry {bundle.seq}, not {base.seq}")
        told = {f.source for f in bundle.fragments} | set(bundle.missing)
        law(told == set(base.roster), f"slice {k}: {told} of {set(base.roster)}")
        for source, missing in bundle.missing.items():
            law(
                not self.healthy or self._hurried(base.run),
                f"slice {k}: {source} {missing.why} ({missing.detail})",
            )
            if missing.why == GIVEN_UP:
                self._not_there_in_time(p, k, source)
        for fragment in bundle.fragments:
            law(fragment.state == CLOSED, f"slice {k}: {fragment.source} {fragment.state}")
            self._is_whole(k, fragment)

    def _hurried(self, run: int | None) -> bool:
        """Does a run follow so soon after another that sources are not ready for it in time?"""
        runs = self.kafka.truth.runs()
        i = next(i for i, r in enumerate(runs) if r.number == run)
        last = runs[i - 1].last if i else None
        return last is not None and 1 < runs[i].first - last < 6

    def _not_there_in_time(self, p: int, k: int, source: str) -> None:
        """Who is given up was not whole in Kafka when the entry was."""
        entry = self.kafka.truth.given_up(k)[source]
        log = [part for part, _, ms in self.kafka.raw[source, p] if ms < entry.time_ms]
        whole = any(part.k == k and part.closes for part in log)
        behind = next((i for i, part in enumerate(log) if part.k > k), len(log))
        at = next((i for i, part in enumerate(log) if part.k == k and part.closes), len(log))
        law(not whole or at > behind, f"slice {k}: {source} given up though whole in Kafka")

    def _is_whole(self, k: int, fragment: Fragment) -> None:
        """Rows and guards are those of the device, but for those that it gave too late."""
        s, guard = self.s, self.kafka.install.G
        device = self.sources[fragment.source].device
        body: list[int] = []
        before: list[int] = []
        after: list[int] = []
        for part, raw in zip(fragment.parts, fragment.bodies, strict=True):
            for into, ticks in zip((body, before, after), ticks_of(part, raw), strict=True):
                into += ticks
        begin, end = k * s.length, (k + 1) * s.length
        for name, got, lo, hi in (
            ("body", body, begin, end),
            ("before", before, begin - guard, begin),
            ("after", after, end, end + guard),
        ):
            sure, late = device.between(lo, hi)
            law(len(got) == len(set(got)), f"slice {k} {fragment.source}: a row twice ({name})")
            law(sure <= set(got), f"slice {k} {fragment.source}: {name} lacks {sure - set(got)}")
            law(set(got) <= sure | late, f"slice {k} {fragment.source}: {name} has too much")

    def _close(self, run: Run) -> None:
        """The ledger of a run, by the assembler run again over the logs."""
        assert run.last is not None
        k, truth = self.kafka, self.kafka.truth
        for i in range(run.first, run.last + 1):
            law(i in self.out, f"slice {i} never came out")
        names = sorted({s for e in truth.entries if e.run == run.number for s in e.roster})
        account = Account(run.first, run.last, {s: SourceAccount() for s in names})
        for p in range(self.s.partitions):
            assembler = Assembler(p, self.s.partitions, run.first, check_crc)
            for s in names:
                assembler.add_source(s, Resume(0, {}))
                for offset, (part, body, ms) in enumerate(k.raw[s, p]):
                    if ms < truth.told_ms(run):
                        continue
                    account.sources[s].see(part)
                    if part.part != MARK and not run.first <= part.k <= run.last:
                        if part.late:
                            continue
                        part, body = replace(part, part=MARK, flags=0, rows=0), b""
                    assembler.offer(s, offset, part, body, truth)
            while assembler.next <= run.last:
                bundle = assembler.ready(truth, 1 << 62, lambda _s, _seq: True)
                law(bundle is not None, f"ledger: {assembler.next} is awaited")
                assert bundle is not None
                account.bundle(bundle)
            account.trailing({s: dict(x.counts) for s, x in assembler.sources.items()})
        for i in range(run.first, run.last + 1):
            account.result(i, info_of(self.out[i]), 1)
        account.stored(sum(len(x[0]) for key, x in self.files.items() if key[0] == run.number))
        verdict = account.verdict()
        law(verdict["ok"], f"run {run.number}: {verdict['gaps']}")


def failure(s: Schedule) -> str:
    """What goes wrong in a schedule, or ""."""
    world = World(s)
    try:
        world.run()
    except Exception as error:
        at = (world.t - BEGIN) / SECOND
        where = "" if isinstance(error, Wrong) else "\n" + traceback.format_exc()
        return f"seed {s.seed}, {at:.1f} s after the beginning: {error}{where}"
    return ""


def shrunk(s: Schedule) -> Schedule:
    """The same failure with as few accidents as leaving out one after the other gives."""
    while True:
        for i in range(len(s.accidents)):
            fewer = replace(s, accidents=s.accidents[:i] + s.accidents[i + 1 :])
            if failure(fewer):
                s = fewer
                break
        else:
            return s


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="0:1000", help="FIRST:END, or one seed")
    parser.add_argument("--shrink", action="store_true", help="look for fewer accidents")
    asked = parser.parse_args()
    first, _, end = asked.seeds.partition(":")
    begun, bad, n = time.monotonic(), 0, 0
    for seed in range(int(first), int(end or int(first) + 1)):
        n += 1
        if what := failure(s := schedule(seed)):
            bad += 1
            print(what, flush=True)
            if asked.shrink:
                s = shrunk(s)
                print(f"  still with {s.accidents}: {failure(s)}", flush=True)
    print(f"{n} schedules, {bad} wrong, {time.monotonic() - begun:.1f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
