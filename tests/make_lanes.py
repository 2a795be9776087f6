"""Lanes and writers in simulated time, around the assembler and the writer's chain."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from make_actors import NO_EVENTS, Actor, law
from make_source import body_rows, check_crc, through_json, tick_of

from controllers.writer.chain import Chain
from freerun.assembler import Assembler, Bundle, Resume
from freerun.plan import Run
from freerun.wire import Part, ResultPart, result_headers

# ------------------------------------------------------------------ a lane


@dataclass
class Owner:
    """What a lane holds of a partition."""

    assembler: Assembler
    epoch: int
    committed: dict[str, Resume]
    watermark: int = -1
    bundles: list[Bundle] = field(default_factory=list)  # in a transaction on its way
    positions: dict[str, Resume] = field(default_factory=dict)
    next: int = 0
    highs: dict[tuple[str, int], int] = field(default_factory=dict)


class Lane(Actor):
    """Owns the partitions that the loop gave it, until it is fenced."""

    def __init__(self, *args: Any, wanted: set[int], emitted: Callable[..., None]) -> None:
        self.wanted, self.emitted = wanted, emitted
        super().__init__(*args)

    def born(self) -> None:
        super().born()
        self.owners: dict[int, Owner] = {}

    def kill(self, t: int, lasts: int) -> None:
        for p, owner in self.owners.items():  # a commit in flight may still arrive
            if owner.bundles and self.rng.random() < 0.5:
                self._commit(p, owner, t)
        super().kill(t, lasts)

    def work(self, t: int) -> None:
        for p in set(self.owners) - self.wanted:
            if not self.owners[p].bundles:
                del self.owners[p]
        self.read_plan(t)
        if not self.kafka.up(t):
            return
        for p in sorted(self.wanted - set(self.owners)):
            self._take_over(p)
        for p, owner in list(self.owners.items()):
            if owner.bundles and not self._commit(p, owner, t):
                del self.owners[p]
                continue
            self._add_sources(p, owner)
            self._read(p, owner)
            self._bundles(p, owner, t)
            if self.rng.random() < 0.5 and owner.bundles and not self._commit(p, owner, t):
                del self.owners[p]

    def _take_over(self, p: int) -> None:
        epoch = self.kafka.begin(f"lane/{p}")
        runs = self.plan.runs()
        following, committed = self.kafka.committed.get(
            p, (runs[0].first if runs else 0, dict[str, Resume]())
        )
        assembler = Assembler(p, self.kafka.install.P, following, check_crc)
        self.owners[p] = Owner(assembler, epoch, committed, assembler.next)

    def _add_sources(self, p: int, owner: Owner) -> None:
        named: dict[str, int] = {}
        for entry in self.plan.entries:
            if entry.kind != "give_up" and entry.run is not None:
                for source in entry.roster:
                    named.setdefault(source, entry.time_ms)
        for source, time_ms in named.items():
            if source not in owner.assembler.sources:
                log = self.kafka.raw[source, p]
                start = bisect_left(log, time_ms, key=lambda r: r[2])
                resume = owner.committed.get(source) or Resume(start, {})
                owner.assembler.add_source(source, resume)

    def _read(self, p: int, owner: Owner) -> None:
        """Some records of each source that is not paused; what is held is offered again."""
        assembler = owner.assembler
        for source, state in assembler.sources.items():
            log = self.kafka.raw[source, p]
            for _ in range(self.rng.choice([0, 3, 200])):
                far = assembler.too_far(self.plan)
                if state.position >= len(log) or (source in far and not state.held):
                    break
                part, body, _ = log[state.position]
                if not assembler.offer(source, state.position, part, body, self.plan):
                    break

    def _caught_up(self, p: int, owner: Owner, source: str, seq: int) -> bool:
        high = owner.highs.setdefault((source, seq), len(self.kafka.raw[source, p]))
        return owner.assembler.sources[source].position >= high

    def _bundles(self, p: int, owner: Owner, t: int) -> None:
        law(owner.assembler.next >= owner.watermark, "a watermark went back")
        for _ in range(self.rng.choice([1, 3, 8])):
            bundle = owner.assembler.ready(
                self.plan, self.clock.now(t), lambda s, seq: self._caught_up(p, owner, s, seq)
            )
            if bundle is None:
                break
            owner.bundles.append(bundle)
        owner.watermark = owner.assembler.next
        if owner.bundles:
            owner.positions, owner.next = through_json(owner.assembler), owner.assembler.next

    def _commit(self, p: int, owner: Owner, t: int) -> bool:
        """One transaction; False if a later owner has begun."""
        if self.kafka.epochs[f"lane/{p}"] != owner.epoch:
            return False
        if not self.kafka.up(t):
            return True
        law(owner.next > self.kafka.committed.get(p, (-1, {}))[0], "a committed `next` went back")
        self.kafka.committed[p] = owner.next, owner.positions
        for bundle in owner.bundles:
            self.emitted(p, bundle, t)
            told = ResultPart(bundle.k, 0, 1, "events", 1, info_of(bundle))
            self.kafka.events[p].append((result_headers(told, NO_EVENTS), NO_EVENTS))
        owner.bundles = []
        return True


def info_of(bundle: Bundle) -> dict[str, Any]:
    """What a lane says of a slice: every row a hit, one event of all of them."""
    sources = {
        f.source: {"rows": f.rows, "hits": f.rows, "in_events": f.rows, "sum": f.close["sum"]}
        for f in bundle.fragments
    }
    return {
        "n_events": 1, "complete": bundle.complete, "failed": None, "sources": sources,
        "missing": {s: {"why": m.why, "rows": m.rows} for s, m in bundle.missing.items()},
    }  # fmt: skip


# ------------------------------------------------------------------ a writer

Files = dict[tuple[int, int], tuple[list[int], dict[int, int]]]  # (run, n) → slices, offsets


class Writer(Actor):
    """Merges the partitions of a run, run after run; a file is published by link."""

    def __init__(self, *args: Any, files: Files, cut: int) -> None:
        self.files, self.cut = files, cut
        super().__init__(*args)

    def born(self) -> None:
        super().born()
        self.chain: Chain | None = None
        self.run: Run | None = None
        self.slices: list[int] = []
        self.at: dict[int, int] = {}

    def finished(self, run: Run) -> bool:
        n = sum(key[0] == run.number for key in self.files)
        stored = [k for i in range(n) for k in self.files[run.number, i][0]]
        return run.last is not None and stored == list(range(run.first, run.last + 1))

    def work(self, t: int) -> None:
        if not self.kafka.up(t):
            return
        if self.chain is None:
            self.read_plan(t)
            self.run = next((r for r in self.plan.runs() if not self.finished(r)), None)
            if self.run is None:
                return
            self._begin(self.run)
        assert self.chain is not None and self.run is not None
        far = self.chain.too_far()
        for p, log in self.kafka.events.items():
            for _ in range(self.rng.choice([0, 2, 50])):
                if self.at[p] < len(log) and p not in far:
                    self.chain.offer(p, self.at[p], *log[self.at[p]])
                    self.at[p] += 1
        self.read_plan(t)
        run = self.plan.run(self.run.number)
        assert run is not None
        while (result := self.chain.take(run.last)) is not None:
            law(result.failed is None, f"slice {result.k}: {result.failed}")
            self.slices.append(result.k)
            full = len(self.slices) >= self.cut or self.chain.finished(run.last)
            if full and not self._publish(run):
                return
        law(self.chain.duplicates == self.chain.torn == 0, "a result came twice")
        if self.chain.finished(run.last):
            if self.slices:
                self._publish(run)
            self.chain = None

    def _begin(self, run: Run) -> None:
        n = 0
        while (run.number, n) in self.files:
            n += 1
        following, offsets = run.first, dict[int, int]()
        if n:
            slices, offsets = self.files[run.number, n - 1]
            following = slices[-1] + 1
        self.number, self.slices = n, []
        self.chain = Chain(following, offsets, self.kafka.install.P)
        self.at = {p: offsets.get(p, 0) for p in self.kafka.events}

    def _publish(self, run: Run) -> bool:
        """Link without replacing. False: the number was taken, begin again behind it."""
        assert self.chain is not None
        mine = (self.slices, self.chain.offsets())
        if self.files.setdefault((run.number, self.number), mine) is not mine:
            self._begin(run)
            return False
        self.number, self.slices = self.number + 1, []
        return True


def ticks_of(part: Part, body: bytes) -> tuple[list[int], list[int], list[int]]:
    """Ticks of the body rows of a part, and of its guards before and after."""
    ticks = [tick_of(r) for r in body_rows(body)]
    n, m = part.rows, part.rows + part.gb
    return ticks[:n], ticks[n:m], ticks[m:]
