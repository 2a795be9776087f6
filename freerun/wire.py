"""Records on the wire: parts of fragments, and the parts of a slice's results.

Headers are ASCII and decode alone, without the body. A body is one Arrow IPC stream with one
batch, so any tool that reads Kafka and Arrow reads it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from isal.isal_zlib import crc32

from freerun.errors import Quarantined

VERSION = 1
CLOSE, LATE, BY_TIMEOUT = 1, 2, 4  # bits of `flags`
MARK = -1  # part number of a mark
PART_BYTES = 900_000

Headers = list[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Part:
    """One record of a source: a part of a fragment, a late part, or a mark."""

    source: str
    inc: int  # incarnation
    k: int  # slice
    part: int  # 0…n-1, the running number of a late part, or MARK
    flags: int = 0
    schema: str = ""
    tick0: int = 0  # unwrapped tick at the start of the slice
    num: int = 1
    den: int = 1  # a tick lasts num/den ns
    anchor: int = 0  # ns, experiment time of tick 0
    rows: int = 0  # body rows; then come the guards
    ga: int = 0  # guard rows after
    gb: int = 0  # guard rows before
    crc: int = 0
    close: Mapping[str, int] | None = None  # the counts, cumulative since the incarnation's start

    @property
    def triple(self) -> tuple[int, int, int]:
        return (self.inc, self.k, self.part)

    @property
    def closes(self) -> bool:
        return bool(self.flags & CLOSE)

    @property
    def late(self) -> bool:
        return bool(self.flags & LATE)


_NUMBERS = ("inc", "k", "part", "flags", "tick0", "num", "den", "anchor", "rows", "ga", "gb", "crc")
_INT64 = range(-(2**63), 2**63)
_NATURAL = range(2**63)
_RANGES = {
    "inc": _NATURAL, "k": _NATURAL, "part": range(MARK, 2**63), "flags": range(8),
    "num": range(1, 2**63), "den": range(1, 2**63), "rows": _NATURAL, "ga": _NATURAL,
    "gb": _NATURAL, "crc": range(2**32),
}  # fmt: skip


def part_headers(part: Part) -> Headers:
    """The Kafka headers of a part."""
    out: Headers = [("v", b"%d" % VERSION), ("src", part.source.encode())]
    out += [(name, b"%d" % getattr(part, name)) for name in _NUMBERS]
    out.append(("schema", part.schema.encode()))
    if part.close is not None:
        out.append(("close", json.dumps(dict(part.close), separators=(",", ":")).encode()))
    return out


def _ascii(value: bytes | None) -> str:
    if not isinstance(value, bytes):
        raise ValueError(f"a header is bytes, got {value!r}")
    return value.decode("ascii")


def _number(value: bytes | None) -> int:
    """A decimal number; what else `int` would take (blanks, underscores) is none of ours."""
    text = _ascii(value)
    if not text.removeprefix("-").isdigit() or len(text) > 20:
        raise ValueError(f"expected a decimal number, got {text[:40]!r}")
    return int(text)


def _json(value: bytes | None) -> Any:
    try:
        return json.loads(_ascii(value))
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None


def _counts(value: bytes | None) -> dict[str, int] | None:
    """The counts of a close: names to whole numbers of 64 bits."""
    if not value:
        return None
    counts = _json(value)
    if not isinstance(counts, dict) or not all(
        type(n) is int and n in _INT64 for n in counts.values()
    ):
        raise ValueError("the close does not hold whole numbers")
    return counts


def read_part(headers: Iterable[tuple[str, bytes | None]] | None) -> Part:
    """The part behind Kafka headers; raises `Quarantined` if they are not those of a part."""
    if not headers:
        raise Quarantined("no_headers", "expected the headers of a raw part, got none")
    try:
        got = dict(headers)
        if got["v"] != b"%d" % VERSION:
            raise Quarantined("version", f"expected header v={VERSION}, got {got['v']!r}")
        numbers = {name: _number(got[name]) for name in _NUMBERS}
        close = _counts(got.get("close"))
        source, schema = _ascii(got["src"]), _ascii(got["schema"])
    except (KeyError, ValueError, TypeError) as error:
        raise Quarantined("bad_headers", f"{type(error).__name__} {error}") from error
    for name, number in numbers.items():
        if number not in _RANGES.get(name, _INT64):
            raise Quarantined("bad_headers", f"{name} = {number} is out of its range")
    part = Part(source=source, schema=schema, close=close, **numbers)
    if part.closes and close is None:
        raise Quarantined("bad_headers", "a close without its counts")
    if (part.closes and part.late) or (part.part == MARK and (part.flags or part.rows)):
        raise Quarantined("bad_headers", f"part {part.part} with flags {part.flags}")
    return part


def checksum(body: bytes | memoryview) -> int:
    """CRC-32 of zip and gzip; this library's is ten times as fast as zlib's."""
    return crc32(body)


def write_batch(batch: pa.RecordBatch) -> pa.Buffer:
    """One batch as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def read_batch(body: bytes | memoryview | pa.Buffer) -> pa.RecordBatch:
    """The batch of an Arrow IPC stream; raises `Quarantined` if it is not one."""
    try:
        with pa.ipc.open_stream(body) as reader:
            batch = reader.read_next_batch()
        # full: offsets of lists, too, which a kernel would follow anywhere
        batch.validate(full=True)
    except (pa.ArrowException, StopIteration, ValueError, TypeError, OSError) as error:
        raise Quarantined("bad_body", f"{type(error).__name__}: {error}") from error
    if batch.num_rows == 0:  # what its buffers hold was not looked at
        none = [pa.array([], field.type) for field in batch.schema]
        return pa.RecordBatch.from_arrays(none, schema=batch.schema)
    return batch


@dataclass(frozen=True, slots=True)
class ResultPart:
    """One record of a slice's results: a piece of one of its tables.

    `part` runs from 0 to `parts`-1 over all tables of the slice; part 0 carries `info`.
    """

    k: int
    part: int
    parts: int
    table: str  # events | hits | pulses | monitor
    rows: int = 0
    info: Mapping[str, Any] | None = None


def result_headers(part: ResultPart, body: bytes | memoryview) -> Headers:
    out: Headers = [
        ("v", b"%d" % VERSION),
        ("k", b"%d" % part.k),
        ("part", b"%d" % part.part),
        ("parts", b"%d" % part.parts),
        ("table", part.table.encode()),
        ("rows", b"%d" % part.rows),
        ("crc", b"%d" % checksum(body)),
    ]
    if part.info is not None:
        out.append(("info", json.dumps(part.info, separators=(",", ":")).encode()))
    return out


def read_result(headers: Iterable[tuple[str, bytes | None]] | None) -> ResultPart:
    """The result part behind Kafka headers; raises `Quarantined` if they are not one."""
    try:
        got = dict(headers or ())
        if got["v"] != b"%d" % VERSION:
            raise Quarantined("version", f"expected header v={VERSION}, got {got['v']!r}")
        k, part, parts, rows = (_number(got[name]) for name in ("k", "part", "parts", "rows"))
        table = _ascii(got["table"])
        info = _json(got["info"]) if got.get("info") else None
    except (KeyError, ValueError, TypeError) as error:
        raise Quarantined("bad_headers", f"{type(error).__name__} {error}") from error
    if not (0 <= part < parts <= 2**31 and 0 <= rows < 2**63 and abs(k) < 2**63):
        raise Quarantined("bad_headers", f"part {part} of {parts}, {rows} rows, slice {k}")
    if info is not None and not isinstance(info, dict):
        raise Quarantined("bad_headers", "info is not a JSON object")
    return ResultPart(k, part, parts, table, rows, info)
