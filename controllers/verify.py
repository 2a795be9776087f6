"""The ledger of a run, from the topics and the files themselves: nobody's word is taken for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from freerun.assembler import Assembler, Resume
from freerun.errors import Quarantined
from freerun.kafka import Reader
from freerun.ledger import Account, SourceAccount
from freerun.plan import Plan, Run
from freerun.topics import Topics
from freerun.wire import MARK, Part, checksum, read_part, read_result

FOREVER = 1 << 62


def account_of(
    address: str, topics: Topics, plan: Plan, run: Run, pipeline: str,
    stored_events: int | None, deep: bool = False,
) -> Account:  # fmt: skip
    """Run the assembler again over the raw headers, then look at the results and the files."""
    assert run.last is not None and plan.install is not None
    sources = sorted({s for e in plan.entries if e.run == run.number for s in e.roster})
    account = Account(run.first, run.last, {s: SourceAccount() for s in sources})
    reader = Reader(address, f"{topics.system}.verify", fetch_wait_ms=5)
    try:
        for p in range(plan.install.P):
            _raw(reader, topics, plan, run, p, sources, account, deep)
        for p in range(plan.install.P):
            _results(reader, topics, run, p, pipeline, account)
    finally:
        reader.close()
    # nobody writes this pipeline: what is published is all there is
    account.stored(account.events["published"] if stored_events is None else stored_events)
    return account


def _read(reader: Reader, places: list[tuple[str, int]], time_ms: int) -> Any:
    """All records from a broker time to the end, place after place."""
    for where in places:
        start = reader.offsets_at([where], time_ms)[where]
        end = reader.high(where)
        if start >= end:
            continue
        reader.assign({where: start})
        while reader.position[where] < end:
            yield from reader.poll(500, 0.1)
            if reader.at_end(where):
                break
        reader.unassign([where])


def _raw(
    reader: Reader, topics: Topics, plan: Plan, run: Run, p: int, sources: list[str],
    account: Account, deep: bool,
) -> None:  # fmt: skip
    assert plan.install is not None and run.last is not None
    assembler = Assembler(p, plan.install.P, run.first, _check if deep else None)
    for source in sources:
        assembler.add_source(source, Resume(0, {}))
        for record in _read(reader, [(topics.raw(source), p)], run.start.time_ms):
            part: Part | Quarantined
            try:
                part = read_part(record.headers)
            except Quarantined as why:
                part = why
            if isinstance(part, Part) and part.source != source:
                part = Quarantined("source", f"expected {source}, the header says {part.source}")
            if isinstance(part, Part):
                account.sources[source].see(part)
                if part.part != MARK and not run.first <= part.k <= run.last:
                    if part.late:
                        continue
                    # of another run: all that matters here is how far the source has come
                    part = replace(part, part=MARK, flags=0, rows=0)
            assembler.offer(source, record.offset, part, record.value if deep else b"", plan)
            for fragment in assembler.sources[source].fragments.values():
                fragment.bodies.clear()
    while assembler.next <= run.last:
        bundle = assembler.ready(plan, FOREVER, lambda _s, _seq: True)
        if bundle is None:
            account.gaps.append(
                f"slice {assembler.next}: still waits for {sorted(assembler.awaited(plan))}"
            )
            break
        account.bundle(bundle)
    account.trailing({s: dict(state.counts) for s, state in assembler.sources.items()})


def _check(part: Part, body: bytes) -> None:
    if checksum(body) != part.crc:
        raise Quarantined("checksum", f"crc {checksum(body)}, the header says {part.crc}")


def _results(
    reader: Reader, topics: Topics, run: Run, p: int, pipeline: str, account: Account
) -> None:
    assert run.last is not None
    info: Mapping[str, Any] | None = None
    published = 0
    for record in _read(reader, [(topics.events(pipeline), p)], run.start.time_ms):
        result = read_result(record.headers)
        if not run.first <= result.k <= run.last:
            continue
        if result.part == 0:
            info, published = result.info, 0
        if result.table == "events":
            published += result.rows
        if result.part == result.parts - 1 and info is not None:
            account.result(result.k, info, published)
            info = None
