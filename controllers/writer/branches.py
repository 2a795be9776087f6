"""The agreement about the trees: every branch, its ROOT type, unit, meaning and origin, as data.

A branch is never renamed. Types are numpy codes: u1 u2 u4 u8 = ROOT b s i l, i4 i8 = I L,
f4 f8 = F D. What a builder adds beyond these passes through with its own type.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from freerun import schemas

SCHEMA = 1  # number of this agreement; stands in every file

KAFKA, WRITER, HEADER = "result", "writer", "header"  # where a value comes from


@dataclass(frozen=True)
class Branch:
    """One branch: numpy type, unit ("" if none), meaning, and where the value comes from."""

    name: str
    type: str
    unit: str
    meaning: str
    origin: str = WRITER

    @property
    def about(self) -> dict[str, str]:
        return {"unit": self.unit, "meaning": self.meaning, "from": self.origin}


def _from_kafka(columns: tuple[schemas.Column, ...], types: str) -> tuple[Branch, ...]:
    """Branches of Kafka columns, `types` being "name:code …" in the order of the branches."""
    known = {c.name: c for c in columns}
    out = []
    for word in types.split():
        name, code = word.split(":")
        column = known[name]
        out.append(Branch(name, code, column.unit, column.meaning, KAFKA))
    return tuple(out)


_WIDTH = Branch("width", "f4", "ns", "time over threshold; -1 = none")

# groups of `events`: a record branch each, its counter is n_<group>
HIT = (
    *_from_kafka(schemas.HIT, "source:u2 channel:u2 det:u1 layer:u1 cell:u2 t:f4 ticks:i8"),
    _WIDTH,
    *_from_kafka(schemas.HIT, "flags:u4"),
)
SEG = _from_kafka(
    schemas.SEG, "det:u1 t0:f4 x:f4 slope:f4 chi2:f4 n:u1 lat:u1 origin:u1 quality:u1"
)
PULSE = _from_kafka(
    schemas.PULSE,
    "source:u2 channel:u2 det:u1 t:f4 q:f4 qs:f4 psd:f4 amp:f4 base:f4 flags:u4",
)
GROUPS: dict[str, tuple[Branch, ...]] = {"hit": HIT, "seg": SEG, "pulse": PULSE}

_EVENT = Branch(
    "event", "i8", "", "(slice - first slice) << 24 | index: the same however it was processed"
)
_SLICE = Branch("slice", "i8", "", "number of the slice", HEADER)
_T_RUN = Branch("t_run", "f8", "ns", "since the run's start: use this one in Draw")

# scalar branches of `events`, in order; the groups follow
EVENTS = (
    _EVENT,
    Branch("run", "u4", "", "run number"),
    Branch("spill", "i4", "", "spill number; -1 = outside or none"),
    _SLICE,
    *_from_kafka(schemas.EVENT, "t0_ns:i8 t0_ps:u2"),
    _T_RUN,
    *_from_kafka(schemas.EVENT, "t0_kind:u1 t0_err:f4 quality:u4"),
    Branch("missing", "u8", "bits", "bit i: source i of run_document is absent", HEADER),
    Branch("weight", "f4", "", "prescale; 1 normally"),
)

_IN_NONE = Branch("event", "i8", "", "number of its event; -1 = in no event")
_HEAD = (_IN_NONE, _SLICE, *_from_kafka(schemas.FLAT_HIT, "t_ns:i8 t_ps:u2"), _T_RUN,
         *_from_kafka(schemas.FLAT_HIT, "source:u2 channel:u2"))  # fmt: skip
HITS = (
    *_HEAD,
    *_from_kafka(schemas.FLAT_HIT, "ticks:i8"),
    _WIDTH,
    *_from_kafka(schemas.FLAT_HIT, "flags:u4"),
)
PULSES = (
    *_HEAD,
    *_from_kafka(
        schemas.FLAT_PULSE,
        "q:f4 qs:f4 psd:f4 amp:f4 base:f4 base_rms:f4 cfd:f4 rise:f4 e_fw:u2 es_fw:u2 flags:u4",
    ),
)
SLICES = (
    _SLICE,
    Branch("t_ns", "i8", "ns", "start of the slice, Unix epoch"),
    Branch("dt", "i8", "ns", "length of the slice"),
    Branch("complete", "u1", "", "1: every source of the roster is in it", HEADER),
    Branch("by_timeout", "u1", "", "1: a source closed it by its flush time", HEADER),
    Branch("missing", "u8", "bits", "bit i: source i of run_document is absent", HEADER),
    Branch("live_ns", "i8", "ns", "dt if complete and processed, else 0"),
    Branch("good", "u1", "", "1: complete and processed"),
    Branch("spill", "i4", "", "spill number; -1 = outside or none"),
    Branch("n_rows", "u4", "", "body rows of all sources", HEADER),
    Branch("n_events", "u4", "", "events stored"),
    Branch("config_version", "u4", "", "sequence number of the plan entry in force", HEADER),
)
_COUNTS = {
    "read": "words read, since the source's close before",
    "produced": "body rows that the source put into Kafka, since its close before",
    "assembled": "body rows in this slice",
    "processed": "rows that a kernel took; 0 if the slice failed",
    "hits": "detector hits among them",
    "other": "trigger words, markers and other words",
    "masked": "rows of masked channels",
    "unknown": "rows of channels that no detector has",
    "unassigned": "hits in no event",
    "shared": "hits in more than one event, the second time on",
    "late": "rows after the close of their slice, at the source",
    "malformed": "words that could not be read",
    "quarantined": "rows with an impossible time, and records that could not be read",
    "pre_start": "rows before the source's first slice",
    "dropped": "rows dropped because the spool was full",
    "gap": "produced and not in a slice since the close before: gap, broken or given up",
    "stale": "records of an older life of the source",
    "duplicate": "records seen before",
    "hw_lost": "rows the hardware says it lost",
    "spooled": "rows that waited in the spool file",
}
LEDGER = (
    _SLICE,
    Branch("source", "u2", "", "index in run_document.sources"),
    *(Branch(name, "u8", "", meaning, HEADER) for name, meaning in _COUNTS.items()),
    Branch("checksum", "u4", "", "sum mod 2^32 of a 64-bit mix of each body row", HEADER),
)
RUN = (
    Branch("number", "u4", "", "run number"),
    Branch("t_start_ns", "i8", "ns", "start of the run's first slice, Unix epoch"),
    Branch("t_stop_ns", "i8", "ns", "end of the run, or of this file's last slice if it was open"),
    Branch("slice_ns", "i8", "ns", "length of a slice"),
    Branch("n_slices", "u8", "", "slices in this file"),
    Branch("n_complete", "u8", "", "complete ones among them"),
    Branch("live_ns", "i8", "ns", "sum of slices.live_ns in this file"),
    Branch("n_events", "u8", "", "events in this file"),
    Branch("file", "u4", "", "number of this file"),
    Branch("exit", "i4", "", "as this file was closed: -1 run open, 0 good, 1 not"),
    Branch("schema", "u4", "", "number of this agreement"),
)
FLAT: dict[str, tuple[Branch, ...]] = {
    "hits": HITS,
    "pulses": PULSES,
    "slices": SLICES,
    "ledger": LEDGER,
    "run": RUN,
}


def about(extra: dict[str, dict[str, str]] | None = None) -> dict[str, dict[str, Any]]:
    """tree → branch → {unit, meaning, from}, for the file's `columns`; `extra`: of `events`."""
    events: dict[str, Any] = {b.name: b.about for b in EVENTS}
    for group, fields in GROUPS.items():
        counted = Branch(f"n_{group}", "i4", "", f"number of {group}_* in this event")
        events[counted.name] = counted.about
        events |= {f"{group}_{b.name}": b.about for b in fields}
    events |= extra or {}
    return {"events": events} | {t: {b.name: b.about for b in bs} for t, bs in FLAT.items()}
