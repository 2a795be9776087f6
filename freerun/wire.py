"""Records on the wire: parts of fragments, and the parts of a slice's results.

Headers are ASCII and decode alone, without the body. A body is one Arrow IPC stream with one
batch, so any tool that reads Kafka and Arrow reads it.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

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


def part_headers(part: Part) -> Headers:
    """The Kafka headers of a part."""
    out: Headers = [("v", b"%d" % VERSION), ("src", part.source.encode())]
    out += [(name, b"%d" % getattr(part, name)) for name in _NUMBERS]
    out.append(("schema", part.schema.encode()))
    if part.close is not None:
        out.append(("close", json.dumps(dict(part.close), separators=(",", ":")).encode()))
    return out


def read_part(headers: Iterable[tuple[str, bytes | None]] | None) -> Part:
    """The part behind Kafka headers; raises `Quarantined` if they are not those of a part."""
    if not headers:
        raise Quarantined("no_headers", "expected the headers of a raw part, got none")
    got = dict(headers)
    try:
        if got["v"] != b"%d" % VERSION:
            raise Quarantined("version", f"expected header v={VERSION}, got {got['v']!r}")
        numbers = {name: int(got[name] or b"") for name in _NUMBERS}
        raw_close = got.get("close")
        close = json.loads(raw_close) if raw_close else None
        source, schema = (got["src"] or b"").decode(), (got["schema"] or b"").decode()
    except (KeyError, ValueError) as error:
        raise Quarantined("bad_headers", f"{type(error).__name__} {error}") from error
    part = Part(source=source, schema=schema, close=close, **numbers)
    if close is not None and not all(
        isinstance(k, str) and isinstance(v, int) for k, v in close.items()
    ):
        raise Quarantined("bad_headers", "the close does not hold whole numbers")
    if (
        part.num <= 0 or part.den <= 0 or part.rows < 0 or part.ga < 0 or part.gb < 0
        or part.part < MARK or part.inc < 0 or (part.closes and close is None)
    ):  # fmt: skip
        raise Quarantined("bad_headers", "a number is out of its range")
    return part


def checksum(body: bytes | memoryview) -> int:
    return zlib.crc32(body)


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
        batch.validate()
    except (pa.ArrowException, StopIteration, ValueError, OSError) as error:
        raise Quarantined("bad_body", f"{type(error).__name__}: {error}") from error
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
        ("crc", b"%d" % zlib.crc32(body)),
    ]
    if part.info is not None:
        out.append(("info", json.dumps(part.info, separators=(",", ":")).encode()))
    return out


def read_result(headers: Iterable[tuple[str, bytes | None]] | None) -> ResultPart:
    """The result part behind Kafka headers; raises `Quarantined` if they are not one."""
    got = dict(headers or ())
    try:
        raw_info = got.get("info")
        return ResultPart(
            k=int(got["k"] or b""),
            part=int(got["part"] or b""),
            parts=int(got["parts"] or b""),
            table=(got["table"] or b"").decode(),
            rows=int(got["rows"] or b""),
            info=json.loads(raw_info) if raw_info else None,
        )
    except (KeyError, ValueError) as error:
        raise Quarantined("bad_headers", f"{type(error).__name__} {error}") from error
