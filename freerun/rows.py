"""Rows of a source, whatever they are: words (a uint64 array) or tables (Arrow batches).

A codec knows one schema: when its rows were, how they are stored, and how they are summed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from freerun import words
from freerun.errors import ConfigError, Quarantined

Int64 = npt.NDArray[np.int64]
Rows = Any  # np.ndarray[uint64] or pa.RecordBatch, according to the codec

WORD_SCHEMA = pa.schema([pa.field("word", pa.uint64(), nullable=False)])
PULSE_SCHEMA = pa.schema(
    [
        pa.field("ticks", pa.int64(), nullable=False),
        pa.field("channel", pa.uint16(), nullable=False),
        pa.field("flags", pa.uint32(), nullable=False),
        pa.field("samples", pa.list_(pa.uint16()), nullable=False),
    ]
)
SCHEMAS = (*words.FORMATS, "pulses-1")


class Codec(Protocol):
    """How rows of one schema are handled."""

    name: str

    def times(self, rows: Rows, ref_tick: int) -> tuple[Int64, npt.NDArray[np.uint8]]:
        """Unwrapped ticks, and the kind of each row (`words.BAD`: no row at all)."""
        ...

    def take(self, rows: Rows, which: npt.NDArray[Any]) -> Rows: ...
    def concat(self, many: Sequence[Rows]) -> Rows: ...
    def bytes_per_row(self, rows: Rows) -> int: ...
    def batch(self, rows: Rows) -> pa.RecordBatch: ...
    def rows(self, batch: pa.RecordBatch) -> Rows: ...
    def checksum(self, rows: Rows) -> int: ...


class WordCodec:
    """Vendor's 64-bit words as they came."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.format = words.get_format(name)

    def times(self, rows: Rows, ref_tick: int) -> tuple[Int64, npt.NDArray[np.uint8]]:
        decoded = words.decode(rows, self.format, ref_tick)
        return decoded.tick, decoded.kind

    def take(self, rows: Rows, which: npt.NDArray[Any]) -> Rows:
        return rows[which]

    def concat(self, many: Sequence[Rows]) -> Rows:
        if len(many) == 1:
            return many[0]
        return np.concatenate(many) if many else np.empty(0, np.uint64)

    def bytes_per_row(self, rows: Rows) -> int:
        return 8

    def batch(self, rows: Rows) -> pa.RecordBatch:
        return pa.RecordBatch.from_arrays([pa.array(rows)], schema=WORD_SCHEMA)

    def rows(self, batch: pa.RecordBatch) -> Rows:
        if batch.schema != WORD_SCHEMA:
            raise Quarantined("schema", f"expected one column word: uint64, got {batch.schema}")
        return batch.column(0).to_numpy()

    def checksum(self, rows: Rows) -> int:
        return words.checksum(rows)


class PulseCodec:
    """Triggered waveforms of a digitizer, each with its native tick."""

    name = "pulses-1"

    def times(self, rows: Rows, ref_tick: int) -> tuple[Int64, npt.NDArray[np.uint8]]:
        return rows.column(0).to_numpy(), np.zeros(rows.num_rows, np.uint8)

    def take(self, rows: Rows, which: npt.NDArray[Any]) -> Rows:
        if which.dtype == np.bool_:
            return rows.filter(pa.array(which))
        return rows.take(pa.array(which))

    def concat(self, many: Sequence[Rows]) -> Rows:
        if not many:
            return pa.RecordBatch.from_pylist([], schema=PULSE_SCHEMA)
        return many[0] if len(many) == 1 else pa.concat_batches(many)

    def bytes_per_row(self, rows: Rows) -> int:
        return 1 + int(rows.nbytes) // max(1, int(rows.num_rows))

    def batch(self, rows: Rows) -> pa.RecordBatch:
        return rows

    def rows(self, batch: pa.RecordBatch) -> Rows:
        if batch.schema != PULSE_SCHEMA:
            raise Quarantined("schema", f"expected {PULSE_SCHEMA}, got {batch.schema}")
        return batch

    def checksum(self, rows: Rows) -> int:
        """The mix of ticks and channel, and of the sum of the samples."""
        if rows.num_rows == 0:
            return 0
        samples = rows.column("samples")
        flat = samples.flatten().to_numpy().astype(np.uint64)
        offsets = samples.offsets.to_numpy().astype(np.int64)
        running = np.concatenate(([np.uint64(0)], np.cumsum(flat, dtype=np.uint64)))
        sums = running[offsets[1:] - offsets[0]] - running[offsets[:-1] - offsets[0]]
        head = rows.column("ticks").to_numpy().view(np.uint64) << np.uint64(16)
        head = head ^ rows.column("channel").to_numpy().astype(np.uint64)
        mixed = words.mix(np.ascontiguousarray(head ^ (sums << np.uint64(32))))
        return int(np.sum(mixed, dtype=np.uint64) & np.uint64(0xFFFFFFFF))


@lru_cache
def codec(schema: str) -> Codec:
    """The codec of a schema; `ConfigError` if there is none."""
    if schema in words.FORMATS:
        return WordCodec(schema)
    if schema == PulseCodec.name:
        return PulseCodec()
    raise ConfigError(f"unknown schema {schema!r}: known are {', '.join(SCHEMAS)}")
