"""The account of a run: two chains and a link, per source; every difference has a name. Pure.

    read      = in Kafka - sent twice + malformed + quarantined + pre_start + dropped  (the source)
    in Kafka  = assembled + gap + broken + given up + after give-up + off roster
                + quarantined + late + stale + duplicate                       (in the topic)
    assembled = processed + failed;  processed = hits + other + masked + unknown
    events    : built = published = stored
    link      : rows in events - shared + unassigned = hits

Rows that a killed source had sent but not closed count as read; what it had read and not sent
cannot be known, and the account says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from freerun.assembler import BROKEN, GAP, GIVEN_UP, Bundle
from freerun.wire import MARK, Part

AT_SOURCE = ("malformed", "quarantined", "pre_start", "dropped")
IN_TOPIC = (
    "assembled", "gap", "broken", "given_up", "after_give_up", "off_roster", "quarantined_topic",
    "late", "stale", "duplicate", "forgotten",
)  # fmt: skip
LOSSES = ("malformed", "quarantined", "dropped", "gap", "broken", "given_up", "after_give_up",
          "off_roster", "quarantined_topic", "late", "superseded", "failed")  # fmt: skip
_WHY = {GAP: "gap", BROKEN: "broken", GIVEN_UP: "given_up"}


@dataclass(frozen=True)
class Standing:
    """The counts of one life of a source when it stood at the start of slice `k`."""

    k: int
    counts: Mapping[str, int]
    mark: bool

    @property
    def key(self) -> tuple[int, int, int]:
        """Counts only grow, so of two that stand at the same slice the greater is the later."""
        return self.k, self.counts.get("read", 0), self.counts.get("dropped", 0)


@dataclass
class LifeAccount:
    """One incarnation, as far as it took part in the run."""

    base: Standing | None = None  # before its first slice of the run
    end: Standing | None = None  # after its last one
    open: dict[int, list[int]] = field(default_factory=dict)  # slice → [highest part, rows]
    closed: set[int] = field(default_factory=set)
    late: set[int] = field(default_factory=set)  # numbers of late parts
    late_rows: int = 0

    def stand(self, new: Standing, first: int, last: int) -> None:
        base = self.base
        if new.k <= first:
            if base is None or base.k > first or new.key > base.key:
                self.base = new
        elif new.mark and (base is None or (base.k > first and new.key < base.key)):
            self.base = new  # it joined in the middle of the run
        if first < new.k <= last + 1 and (self.end is None or new.key > self.end.key):
            self.end = new

    def again(self, part: Part) -> bool:
        """Was this very record here already?"""
        if part.late:
            if part.part in self.late:
                return True
            self.late.add(part.part)
            return False
        return part.k in self.closed or (part.k in self.open and part.part <= self.open[part.k][0])

    def total(self, name: str) -> int:
        """How much a count grew during the run."""
        if self.end is None:
            return 0
        return self.end.counts.get(name, 0) - (self.base.counts.get(name, 0) if self.base else 0)


@dataclass
class SourceAccount:
    """What one source did and what became of it; numbers are rows. Slices first…last count."""

    counts: Counter[str] = field(default_factory=Counter)
    first: int = 0
    last: int = 1 << 62
    lives: dict[int, LifeAccount] = field(default_factory=dict)

    def see(self, part: Part) -> None:
        """One record of the source's topic, of any slice, in the order of its partition."""
        life = self.lives.setdefault(part.inc, LifeAccount())
        mark = part.part == MARK
        if part.close is not None:
            life.stand(Standing(part.k + (not mark), part.close, mark), self.first, self.last)
        if mark or not self.first <= part.k <= self.last:
            return
        self.counts["in_kafka"] += part.rows
        if life.again(part):
            self.counts["twice"] += part.rows
        elif part.late:
            life.late_rows += part.rows
        elif part.closes:
            life.open.pop(part.k, None)
            life.closed.add(part.k)
        else:
            seen = life.open.setdefault(part.k, [part.part, 0])
            seen[0], seen[1] = part.part, seen[1] + part.rows

    def close(self) -> None:
        """Add up the closes: differences to where each incarnation began."""
        sums: Counter[str] = Counter()
        for life in self.lives.values():
            for name in (*AT_SOURCE, "lost"):
                sums[name] += life.total(name)
            told = life.total("late")
            # late parts are in the counts of closes only from the next close on, and may be of
            # slices of the run before: then the run goes on from a close, not from a mark
            borrowed = life.base is not None and not life.base.mark
            late = life.late_rows if borrowed else max(told, life.late_rows)
            behind = life.end.k if life.end is not None else self.first
            unclosed = sum(rows for k, (_, rows) in life.open.items() if k >= behind)
            sums["read"] += life.total("read") - told + late + unclosed
            sums["unclosed"] += unclosed + late - min(late, told)
        sums["read"] += self.counts["by_header"]
        for name in ("read", *AT_SOURCE, "lost", "unclosed"):
            self.counts[name] = sums[name]
        copies = self.counts["duplicate"] + self.counts["stale"] - self.counts["twice"]
        self.counts["superseded"] = max(0, copies)


@dataclass
class Account:
    """The whole run. Feed it, then ask for `verdict`."""

    first: int
    last: int
    sources: dict[str, SourceAccount]
    slices: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    gaps: list[str] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)
    assembled: dict[tuple[int, str], tuple[int, int]] = field(default_factory=dict)
    why: dict[str, Counter[str]] = field(default_factory=dict)
    raw_from: int | None = None
    """Of slices before this one raw data are not kept: the headers of their results stand in."""
    unknown: list[str] = field(default_factory=list)  # what cannot be known (any more), as said
    forgotten: set[int] = field(default_factory=set)  # slices whose results are deleted

    def __post_init__(self) -> None:
        if self.raw_from is None:
            self.raw_from = self.first
        for account in self.sources.values():
            account.first, account.last = self.raw_from, self.last

    def bundle(self, bundle: Bundle) -> None:
        """What the assembler, run again over the raw topic, says of a slice."""
        for fragment in bundle.fragments:
            account = self.sources[fragment.source]
            account.counts["assembled"] += fragment.rows
            close = fragment.close
            self.assembled[(bundle.k, fragment.source)] = (fragment.rows, close.get("sum", 0))
        for source, missing in bundle.missing.items():
            self.sources[source].counts[_WHY[missing.why]] += missing.rows
            self.why.setdefault(source, Counter())[f"{missing.why}: {missing.detail}"] += 1
        self.trailing(bundle.counts)

    def trailing(self, counts: Mapping[str, Mapping[str, int]]) -> None:
        """Rows that were counted and not used."""
        for source, mine in counts.items():
            for name, n in mine.items():
                if name == "quarantined_records":
                    continue
                told = "quarantined_topic" if name == "quarantined" else name
                self.sources[source].counts[told] += n

    def result(self, k: int, info: Mapping[str, Any], published: int) -> None:
        """What the lanes published of a slice; `published` event rows."""
        if k in self.seen:
            self.slices["duplicate"] += 1
            return
        self.seen.add(k)
        self.slices["complete" if info["complete"] and not info["failed"] else "incomplete"] += 1
        self.events["built"] += int(info["n_events"])
        self.events["published"] += published
        if self.raw_from is not None and k < self.raw_from:
            self._by_header(k, info)
        for source, mine in info["sources"].items():
            account = self.sources[source].counts
            rows, total = self.assembled.pop((k, source), (None, 0))
            if rows != mine["rows"]:
                self.gaps.append(f"slice {k} {source}: assembled {rows}, processed {mine['rows']}")
            elif mine.get("sum") is not None and total != mine["sum"] and not info["failed"]:
                self.gaps.append(f"slice {k} {source}: the rows are not those the source closed")
            account["live_slices"] += 1
            if info["failed"]:
                account["failed"] += mine["rows"]
                continue
            account["processed"] += mine["rows"]
            for name in ("hits", "other", "masked", "unknown", "unassigned", "shared", "in_events"):
                account[name] += mine.get(name, 0)
        for source, absent in info.get("missing", {}).items():
            # whole in Kafka, but the lane did without it: given up first, or unreadable
            rows, _ = self.assembled.pop((k, source), (0, 0))
            self.sources[source].counts["assembled"] -= rows
            self.sources[source].counts[_WHY.get(absent["why"], "broken")] += rows

    def _by_header(self, k: int, info: Mapping[str, Any]) -> None:
        """Raw data of the slice are gone: what its header says stands for what was in Kafka."""
        said: Counter[str] = Counter()
        for source, mine in info["sources"].items():
            self.assembled[(k, source)] = (mine["rows"], mine.get("sum", 0))
            self.sources[source].counts["assembled"] += mine["rows"]
            said[source] += mine["rows"]
        for source, absent in info.get("missing", {}).items():
            said[source] += absent.get("rows", 0)
            self.assembled[(k, source)] = (absent.get("rows", 0), 0)
            self.sources[source].counts["assembled"] += absent.get("rows", 0)
            reason = f"{absent['why']}: {absent.get('detail', '')}"
            self.why.setdefault(source, Counter())[reason] += 1
        for source, counts in info.get("counts", {}).items():
            said[source] += sum(n for name, n in counts.items() if name != "quarantined_records")
        self.trailing(info.get("counts", {}))
        for source, rows in said.items():
            self.sources[source].counts["in_kafka"] += rows
            self.sources[source].counts["by_header"] += rows

    def forget(self, slices: Iterable[int]) -> None:
        """Results of these slices are kept nowhere: nothing is said of them."""
        for k in slices:
            self.forgotten.add(k)
            for source, account in self.sources.items():
                rows, _ = self.assembled.pop((k, source), (0, 0))
                account.counts["assembled"] -= rows
                account.counts["forgotten"] += rows

    def stored(self, events: int) -> None:
        self.events["stored"] += events

    def verdict(self) -> dict[str, Any]:
        """The account as JSON: totals, gaps with their names, and whether it closes."""
        n = self.last - self.first + 1
        missing = n - len(self.seen) - len(self.forgotten)
        gaps = list(self.gaps)
        if missing:
            gaps.append(f"{missing} of {n} slices have no result")
        if self.slices["duplicate"]:
            gaps.append(f"{self.slices['duplicate']} slices were published twice")
        for (k, source), (rows, _) in sorted(self.assembled.items()):
            gaps.append(f"slice {k} {source}: {rows} rows assembled, not in its result")
        per_source: dict[str, dict[str, Any]] = {}
        for source, account in self.sources.items():
            account.close()
            c = account.counts
            for text, left, right in (
                ("read = in Kafka + kept back", c["read"],
                 c["in_kafka"] - c["twice"] + sum(c[x] for x in AT_SOURCE)),
                ("in Kafka = assembled + named", c["in_kafka"], sum(c[x] for x in IN_TOPIC)),
                ("assembled = processed + failed", c["assembled"], c["processed"] + c["failed"]),
                ("processed = hits + rest", c["processed"],
                 c["hits"] + c["other"] + c["masked"] + c["unknown"]),
                ("rows in events - shared + unassigned = hits",
                 c["in_events"] - c["shared"] + c["unassigned"], c["hits"]),
            ):  # fmt: skip
                if left != right:
                    gaps.append(f"{source}: {text}: {left} is not {right}")
            named = {x: c[x] for x in LOSSES if c[x]}
            per_source[source] = {
                **{x: c[x] for x in ("read", "in_kafka", *AT_SOURCE, "unclosed", "twice", *IN_TOPIC,
                                     "processed", "failed", "hits", "other", "masked", "unknown",
                                     "in_events", "unassigned", "shared", "lost")},
                "live_fraction": c["live_slices"] / n if n else 1.0,
                "live_slices": c["live_slices"],
                "losses": named,
                "why": dict(self.why.get(source, {})),
            }  # fmt: skip
        e = self.events
        if not e["built"] == e["published"] == e["stored"]:
            gaps.append(
                f"events: built {e['built']}, published {e['published']}, stored {e['stored']}"
            )
        return {
            "ok": not gaps,
            "gaps": gaps[:50],
            "unknown": list(self.unknown),
            "slices": {"expected": n, "complete": self.slices["complete"],
                       "incomplete": self.slices["incomplete"], "missing": missing},
            "events": {x: e[x] for x in ("built", "published", "stored")},
            "sources": per_source,
            "losses": sum(sum(s["losses"].values()) for s in per_source.values()),
        }  # fmt: skip


def not_computed(first: int, last: int, why: str, tries: int) -> dict[str, Any]:
    """The verdict on a run whose account could not be made."""
    verdict = Account(first, last, {}).verdict()
    return verdict | {"ok": False, "gaps": [f"the ledger could not be computed ({tries} tries): "
                                            f"{why}"]}  # fmt: skip


def total(verdict: Mapping[str, Any], names: Iterable[str]) -> int:
    """Sum of some columns over all sources."""
    return sum(int(s.get(n, 0)) for s in verdict["sources"].values() for n in names)


def line(verdict: Mapping[str, Any]) -> str:
    """The LEDGER line."""
    if not verdict["ok"]:
        more = f" (+{len(verdict['gaps']) - 1} more)" if len(verdict["gaps"]) > 1 else ""
        return f"LEDGER has a gap: {verdict['gaps'][0]}{more}"
    named = {}
    for source, account in verdict["sources"].items():
        for name, n in account["losses"].items():
            named[f"{name} {source}"] = n
    what = ", ".join(f"{n} {name}" for name, n in named.items())
    if verdict.get("unknown"):
        more = f"; named: {what}" if named else ""
        return f"LEDGER closed as far as can be known ({len(verdict['unknown'])} not){more}"
    if not named:
        return "LEDGER closed: every word read is accounted for, none lost, none twice"
    return f"LEDGER closed; named: {what}"
