"""The ledger of a run, from the topics and the files themselves: nobody's word is taken for it.

What retention deleted cannot be recomputed. Then the headers of the results stand in for raw data,
and the files for results; the account says so under `unknown`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Protocol

from freerun.assembler import Assembler, Resume, read_record
from freerun.errors import Quarantined
from freerun.kafka import Reader
from freerun.ledger import Account, SourceAccount
from freerun.plan import Plan, Run
from freerun.readback import Stretch, read, stretch
from freerun.slices import first_in, partition
from freerun.topics import Topics
from freerun.wire import MARK, Part, checksum, read_part, read_result

FOREVER = 1 << 62
WINDOW = 20_000  # slices whose fragments may be held at once; a switch of source costs a seek
QUEUE_MB = 16  # only headers are looked at: what is fetched ahead is memory for nothing


class Files(Protocol):
    """What the files of a pipeline say of single slices."""

    def info(self, k: int) -> Mapping[str, Any] | None: ...


@dataclass(frozen=True)
class _Raw:
    """The raw topics of a run as far as they are kept."""

    stretches: Mapping[tuple[str, int], Stretch]
    whole_from: int  # of earlier slices something may be gone
    cut: tuple[str, ...]  # sources whose beginning is gone


def account_of(
    address: str, topics: Topics, plan: Plan, run: Run, pipeline: str,
    stored_events: int | None, deep: bool = False, *, files: Files | None = None,
    to_ms: int | None = None, only: Collection[str] | None = None,
) -> Account:  # fmt: skip
    """Run the assembler again over the raw headers, then look at the results.

    `only`: the sources that the pipeline reads; None means all of the run's roster.
    `deep`: bodies, too, must have their checksum. `to_ms`: only what was in Kafka at that time of
    the broker. `files` stand in for results that are deleted; `stored_events`: what is in them,
    None if nobody writes this pipeline.
    """
    assert run.last is not None and plan.install is not None
    partitions = plan.install.P
    sources = sorted({s for e in plan.entries if e.run == run.number for s in e.roster
                      if only is None or s in only})  # fmt: skip
    reader = Reader(address, f"{topics.system}.verify", queue_mb=QUEUE_MB, fetch_wait_ms=5)
    try:
        raw = _kept(reader, topics, plan, run, sources, partitions, to_ms)
        account = Account(
            run.first, run.last, {s: SourceAccount() for s in sources}, raw_from=raw.whole_from
        )
        if raw.cut:
            account.unknown.append(
                f"what {', '.join(raw.cut)} sent before slice {raw.whole_from}: retention deleted "
                "it; the headers of the results stand in for it"
            )
        for p in range(partitions):
            _raw(reader, plan, run, p, raw, account, deep)
            _results(reader, topics, run, p, partitions, pipeline, account, files)
    finally:
        reader.close()
    if stored_events is None or account.forgotten:  # what is published is all there is to compare
        stored_events = account.events["published"]
    account.stored(stored_events)
    return account


def _kept(
    reader: Reader, topics: Topics, plan: Plan, run: Run, sources: list[str], partitions: int,
    to_ms: int | None,
) -> _Raw:  # fmt: skip
    """Where the raw topics of the run begin and end, and from which slice on they are whole."""
    assert run.last is not None
    found, cut, whole_from = {}, [], run.first
    for source in sources:
        for p in range(partitions):
            what = stretch(reader, (topics.raw(source), p), plan.told_ms(run), to_ms)
            found[(source, p)] = what
            if not what.may_be_cut:
                continue
            k = next((x for r in read(reader, what) if (x := _begins(r.headers)) is not None), None)
            if k is None or k > first_in(p, run.first, partitions):
                # one more: the close before the first whole slice says where counts stood
                whole_from = max(whole_from, run.last + 1 if k is None else k + 1)
                cut.append(source)
    return _Raw(found, min(whole_from, run.last + 1), tuple(dict.fromkeys(cut)))


def _begins(headers: Any) -> int | None:
    """The first slice that a log beginning with this record may hold whole."""
    try:
        part = read_part(headers)
    except Quarantined:
        return None
    return part.k + (part.part > 0)


def _raw(
    reader: Reader, plan: Plan, run: Run, p: int, raw: _Raw, account: Account, deep: bool
) -> None:
    """One partition, a window of slices at a time, so that a day's run needs no day's memory."""
    assert plan.install is not None and run.last is not None
    last = run.last
    assembler = Assembler(
        p, plan.install.P, raw.whole_from, _check if deep else None, account.sources
    )

    def offer(source: str, what: Stretch, edge: int) -> Stretch | None:
        """Offer what is of slices before `edge`; returns what is left then, None if nothing is."""
        mine, fragments = account.sources[source], assembler.sources[source].fragments
        with closing(read(reader, what)) as records:
            for record in records:
                part = read_record(source, record.headers, record.time_ms, plan)
                if isinstance(part, Part):
                    if edge <= part.k < FOREVER:
                        return replace(what, start=record.offset)
                    mine.see(part)
                    if part.part != MARK and not raw.whole_from <= part.k <= last:
                        if part.late:
                            continue
                        # of another run: all that matters here is how far the source has come
                        part = replace(part, part=MARK, flags=0, rows=0)
                assembler.offer(source, record.offset, part, record.value if deep else b"", plan)
                if isinstance(part, Part) and part.k in fragments:
                    fragments[part.k].bodies.clear()
        return None

    left = {source: raw.stretches[(source, p)] for source in account.sources}
    for source in left:
        assembler.add_source(source, Resume(0, {}))
    edge = raw.whole_from
    while left:
        edge = edge + WINDOW if edge <= last else FOREVER
        for source, what in list(left.items()):
            rest = offer(source, what, edge)
            if rest is None:
                del left[source]
            else:
                left[source] = rest
        while assembler.next <= last:
            bundle = assembler.ready(plan, FOREVER, lambda source, _seq: source not in left)
            if bundle is None:
                break
            account.bundle(bundle)
    if assembler.next <= last:
        account.gaps.append(
            f"slice {assembler.next}: still waits for {sorted(assembler.awaited(plan))}"
        )
    account.trailing({s: dict(state.counts) for s, state in assembler.sources.items()})


def _check(part: Part, body: bytes) -> None:
    if checksum(body) != part.crc:
        raise Quarantined("checksum", f"crc {checksum(body)}, the header says {part.crc}")


def _results(
    reader: Reader, topics: Topics, run: Run, p: int, partitions: int, pipeline: str,
    account: Account, files: Files | None,
) -> None:  # fmt: skip
    assert run.last is not None
    what = stretch(reader, (topics.events(pipeline), p), run.start.time_ms)
    info: Mapping[str, Any] | None = None
    published, kept_from = 0, run.last + 1 if what.may_be_cut else run.first
    for record in read(reader, what):
        try:
            result = read_result(record.headers)
        except Quarantined as why:
            account.gaps.append(f"{what.where[0]}/{p} holds a record that is no result, at offset "
                                f"{record.offset}: {why}")  # fmt: skip
            continue
        if what.may_be_cut and result.part == 0:
            kept_from = min(kept_from, result.k)
        if result.k > run.last:
            break  # a partition is in the order of its slices
        if result.k < run.first:
            continue
        if result.part == 0:
            if info is not None:
                account.gaps.append(f"before slice {result.k}: a result that is not whole")
            info, published = result.info, 0
        if result.table == "events":
            published += result.rows
        if result.part == result.parts - 1 and info is not None:
            account.result(result.k, info, published)
            info = None
    if info is not None:
        account.gaps.append(f"at the end of {what.where[0]}/{p}: a result that is not whole")
    gone = [k for k in range(run.first, kept_from) if partition(k, partitions) == p]
    if gone:
        _from_files(gone, topics.events(pipeline), account, files)


def _from_files(gone: list[int], topic: str, account: Account, files: Files | None) -> None:
    """Results that retention deleted: the files say what they were, or nobody does."""
    lost = []
    for k in gone:
        info = files.info(k) if files is not None else None
        if info is None:
            lost.append(k)
        else:
            account.result(k, info, int(info["n_events"]))
    if len(lost) < len(gone):
        account.unknown.append(
            f"results of {len(gone) - len(lost)} slices from {gone[0]} on: retention deleted them "
            f"from {topic}; the files stand in for them"
        )
    if lost:
        account.forget(lost)
        account.unknown.append(
            f"results of {len(lost)} slices from {lost[0]} on: retention deleted them from {topic}"
        )
