"""The tables of a slice's results in Kafka: names, types, units and meaning in one place.

An `events` row holds its hits, segments and pulses as lists of records. The names agree with the
branches of the files (`hit.t` here is `hit_t` there); run, slice and the event's number are not
in the rows: a run is a view, and the slice stands in the record's header.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

RESULT_VERSION = 1


@dataclass(frozen=True)
class Column:
    """One column: Arrow type, unit ("" if none) and meaning."""

    name: str
    type: pa.DataType
    unit: str
    meaning: str


HIT = (
    Column("source", pa.int16(), "", "index in run_document.sources"),
    Column("channel", pa.int16(), "", "native, 0-based channel"),
    Column("det", pa.uint8(), "", "index in run_document.detectors; 255 = none"),
    Column("layer", pa.uint8(), "", "layer in the chamber, 1..4; 255 = none"),
    Column("cell", pa.int16(), "", "cell in the layer, 0-based; 255 = none"),
    Column("t", pa.float32(), "ns", "time minus the event's t0, offsets applied"),
    Column("ticks", pa.int64(), "tick", "native, unwrapped: exact"),
    Column("flags", pa.uint32(), "", "vendor's in bits 0-15, ours above (65536 = in two events)"),
)
SEG = (
    Column("det", pa.uint8(), "", "index of the chamber"),
    Column("t0", pa.float32(), "ns", "segment's t0 minus the event's t0"),
    Column("x", pa.float32(), "mm", "position at the chamber's centre"),
    Column("slope", pa.float32(), "", "dx/dz"),
    Column("chi2", pa.float32(), "", "chi square per degree of freedom; -1 = no fit"),
    Column("n", pa.uint8(), "", "hits in the segment"),
    Column("lat", pa.uint8(), "", "left/right bits, bit i = layer i+1 right of its wire"),
    Column("origin", pa.uint8(), "", "0 software, 1 FPGA"),
    Column("quality", pa.uint8(), "", "bits: 1 three hits only, 2 second best combination near"),
)
PULSE = (
    Column("source", pa.int16(), "", "index in run_document.sources"),
    Column("channel", pa.int16(), "", "native, 0-based channel"),
    Column("det", pa.uint8(), "", "index in run_document.detectors; 255 = none"),
    Column("t", pa.float32(), "ns", "CFD time minus the event's t0"),
    Column("q", pa.float32(), "ADC ns", "long charge"),
    Column("qs", pa.float32(), "ADC ns", "short charge"),
    Column("psd", pa.float32(), "", "(q - qs) / q"),
    Column("amp", pa.float32(), "ADC", "amplitude above baseline"),
    Column("base", pa.float32(), "ADC", "baseline"),
    Column("flags", pa.uint32(), "", "vendor's in bits 0-15, ours above"),
)


def _struct(columns: tuple[Column, ...]) -> pa.DataType:
    return pa.struct([pa.field(c.name, c.type, nullable=False) for c in columns])


HIT_TYPE, SEG_TYPE, PULSE_TYPE = _struct(HIT), _struct(SEG), _struct(PULSE)

EVENT = (
    Column("t0_ns", pa.int64(), "ns", "t0, Unix epoch, whole nanoseconds"),
    Column("t0_ps", pa.uint16(), "ps", "t0, the rest, 0-999"),
    Column("t0_kind", pa.uint8(), "", "0 FPGA 1 mean-timer 2 scintillator 3 coincidence "
                                      "4 first hit 5 majority"),
    Column("t0_err", pa.float32(), "ns", "uncertainty of t0"),
    Column("quality", pa.uint32(), "bits", "1 slice incomplete, 2 truncated, 4 shared hits, "
           "8 pile-up, 64 slice closed by timeout, 128 a chamber without its own calibration; "
           "16 and 32 are kept for near a masked channel, clock not locked: never set yet"),
    Column("hit", pa.list_(pa.field("item", HIT_TYPE, nullable=False)), "", "hits of the event"),
    Column("seg", pa.list_(pa.field("item", SEG_TYPE, nullable=False)), "", "track segments"),
    Column("pulse", pa.list_(pa.field("item", PULSE_TYPE, nullable=False)), "", "pulses"),
)  # fmt: skip

_HEAD = (
    Column("t_ns", pa.int64(), "ns", "Unix epoch, whole nanoseconds"),
    Column("t_ps", pa.uint16(), "ps", "the rest, 0-999"),
    Column("source", pa.int16(), "", "index in run_document.sources"),
    Column("channel", pa.int16(), "", "native, 0-based channel"),
)
# hits that are in no event of this slice
FLAT_HIT = (
    *_HEAD,
    Column("ticks", pa.int64(), "tick", "native, unwrapped: exact"),
    Column("flags", pa.uint32(), "", "131072 = in an event that the neighbouring slice owns"),
)
# every pulse; `index` is the event's position in this slice, -1 = in no event
FLAT_PULSE = (
    Column("index", pa.int32(), "", "event of this slice, by position; -1 = none"),
    *_HEAD,
    Column("q", pa.float32(), "ADC ns", "long charge"),
    Column("qs", pa.float32(), "ADC ns", "short charge"),
    Column("psd", pa.float32(), "", "(q - qs) / q"),
    Column("amp", pa.float32(), "ADC", "amplitude above baseline"),
    Column("base", pa.float32(), "ADC", "baseline"),
    Column("base_rms", pa.float32(), "ADC", "rms of the baseline"),
    Column("cfd", pa.float32(), "ns", "CFD time after the trigger tick"),
    Column("rise", pa.float32(), "ns", "rise time 10-90 %"),
    Column("e_fw", pa.int16(), "ADC", "energy of the firmware, -1 = none"),
    Column("es_fw", pa.int16(), "ADC", "short energy of the firmware, -1 = none"),
    Column("flags", pa.uint32(), "", "vendor's in bits 0-15, ours above"),
)


def arrow_schema(columns: tuple[Column, ...]) -> pa.Schema:
    """The Arrow schema of a table; units and meanings are the fields' metadata."""
    return pa.schema(
        [
            pa.field(c.name, c.type, nullable=False,
                     metadata={"unit": c.unit, "meaning": c.meaning})
            for c in columns
        ]
    )  # fmt: skip


EVENTS = arrow_schema(EVENT)
HITS = arrow_schema(FLAT_HIT)
PULSES = arrow_schema(FLAT_PULSE)
MONITOR = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("shape", pa.list_(pa.int32()), nullable=False),
        pa.field("values", pa.list_(pa.int64()), nullable=False),
    ]
)
