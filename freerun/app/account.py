"""A run's document as lines that a person reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freerun import pulser
from freerun.ledger import LOSSES, total

if TYPE_CHECKING:
    from freerun.app.verify import Verified

NAMED = (*LOSSES, "duplicate")


def lines(document: Mapping[str, Any]) -> list[str]:
    """State, words, events, live time, what is missing and why, files."""
    d = document
    out = [
        f"run {d['run']}: {d['state']}, type {d['type']}"
        + (f", {d['comment']}" if d["comment"] else "")
    ]
    if d["ledger"] is None:
        return [*out, f"slices {d['first']} to {d['last'] if d['last'] is not None else '…'}"]
    out += words(d["ledger"])
    out.append(live(d))
    out += pulsers(d["ledger"])
    out += why(d["ledger"])
    out += not_known(d["ledger"])
    out.append(d["ledger"]["line"])
    out += [f"gap       {gap}" for gap in d["ledger"]["gaps"]]
    for files in d["outputs"].values():
        out += [
            f"file      {Path(d['folder']) / f['name']} ({f['bytes'] / 1e6:.1f} MB)" for f in files
        ]
    return out


def verified(found: Verified) -> list[str]:
    """What `freerun run verify` prints before its last line."""
    v = found.verdict
    out = [*words(v), *live_of_sources(v), *pulsers(v), *why(v), *not_known(v)]
    out += [f"built     {d['slices']:,d} slices of {name} again, {d['events']:,d} events: "
            + ("each the same" if not d["gaps"] else f"{len(d['gaps'])} differences")
            for name, d in found.deep.items()]  # fmt: skip
    return out + [f"gap       {gap}" for gap in found.gaps]


def live_of_sources(v: Mapping[str, Any]) -> list[str]:
    """Live time of each source: its complete slices."""
    return [f"live      {source} {s['live_ns'] / 1e9:.1f} s ({s['live_fraction']:.2%})"
            for source, s in v["sources"].items()]  # fmt: skip


def pulsers(v: Mapping[str, Any]) -> list[str]:
    """The channels of known rate, counted again in the files."""
    return [pulser.line(row) for row in v.get("pulser", ())]


def not_known(v: Mapping[str, Any]) -> list[str]:
    return [f"unknown   {what}" for what in v.get("unknown", ())]


def words(v: Mapping[str, Any]) -> list[str]:
    """The two chains and the link."""
    before = total(v, ["pre_start"])
    lost = {name: total(v, [name]) for name in NAMED}
    rest = "".join(f" + {n:,d} {name}" for name, n in lost.items() if n)
    e = v["events"]
    return [
        f"rows      {total(v, ['read']):,d} read = {total(v, ['in_kafka']):,d} in Kafka + "
        f"{before:,d} before the start",
        f"          {total(v, ['in_kafka']):,d} in Kafka = {total(v, ['processed']):,d} "
        f"processed{rest}",
        f"hits      {total(v, ['hits']):,d} = {total(v, ['in_events']):,d} in events - "
        f"{total(v, ['shared']):,d} used again + {total(v, ['unassigned']):,d} in none",
        f"events    {e['built']:,d} built = {e['published']:,d} published = "
        f"{e['stored']:,d} stored",
    ]


def live(d: Mapping[str, Any]) -> str:
    s = d["ledger"]["slices"]
    seconds = s["expected"] * d["slice_ns"] / 1e9
    fraction = s["complete"] / s["expected"] if s["expected"] else 0.0
    return (
        f"live      {d['live_ns'] / 1e9:.1f} s of {seconds:.1f} s ({fraction:.2%}): "
        f"{s['complete']} of {s['expected']} slices complete"
    )


def why(v: Mapping[str, Any]) -> list[str]:
    """Which source was missing in how many slices, and why."""
    return [
        f"missing   {source} in {n} slice{'s' if n > 1 else ''}: {reason}"
        for source, account in v["sources"].items()
        for reason, n in account["why"].items()
    ]
