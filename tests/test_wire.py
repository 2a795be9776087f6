"""Records on the wire: there and back, and ten thousand that somebody else wrote."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freerun.errors import Quarantined
from freerun.rows import PULSE_SCHEMA, WORD_SCHEMA, codec
from freerun.wire import (
    BY_TIMEOUT,
    CLOSE,
    LATE,
    MARK,
    Headers,
    Part,
    ResultPart,
    checksum,
    part_headers,
    read_batch,
    read_part,
    read_result,
    result_headers,
    write_batch,
)

SOME = settings(max_examples=300, derandomize=True, deadline=None)
natural = st.integers(0, 2**63 - 1)
names = st.from_regex(r"[a-z0-9_]{1,32}", fullmatch=True)
counts = st.dictionaries(st.text(max_size=8), st.integers(-(2**63), 2**63 - 1), max_size=6)


@st.composite
def parts(draw: st.DrawFn) -> Part:
    flags = draw(st.sampled_from([0, CLOSE, LATE, BY_TIMEOUT, CLOSE | BY_TIMEOUT]))
    number = draw(natural)
    close = draw(counts) if flags & CLOSE else None
    if flags == 0 and draw(st.booleans()):
        number, close = MARK, draw(counts)
    return Part(
        draw(names), draw(natural), draw(natural), number, flags, draw(names),
        draw(st.integers(-(2**63), 2**63 - 1)), draw(st.integers(1, 2**40)),
        draw(st.integers(1, 2**40)), draw(st.integers(-(2**62), 2**62)),
        0 if number == MARK else draw(natural), draw(natural), draw(natural),
        draw(st.integers(0, 2**32 - 1)), close,
    )  # fmt: skip


@SOME
@given(parts())
def test_a_part_comes_back_as_it_was(part: Part) -> None:
    headers = part_headers(part)
    assert all(value.isascii() for _, value in headers)
    back = read_part(headers)
    assert back == part
    assert back.triple == (part.inc, part.k, part.part)


def test_the_headers_are_those_of_the_protocol() -> None:
    part = Part("tdc0", 17, 42, 3, CLOSE, "padova-v1", 1, 25, 30, 5, 10, 2, 1, 99, {"rows": 10})
    assert [name for name, _ in part_headers(part)] == [
        "v", "src", "inc", "k", "part", "flags", "tick0", "num", "den", "anchor", "rows", "ga",
        "gb", "crc", "schema", "close",
    ]  # fmt: skip


# ------------------------------------------------------------------ hostile headers


def good(**changes: bytes | None) -> Headers:
    """Headers of a good close, some of them changed; None leaves one out."""
    part = Part("tdc0", 17, 42, 3, CLOSE, "padova-v1", 1, 25, 30, 5, 10, 2, 1, 99,
                {"rows": 10, "parts": 4})  # fmt: skip
    headers = dict(part_headers(part)) | changes
    return [(name, value) for name, value in headers.items() if value is not None]


NUMBERS = ("inc", "k", "part", "flags", "tick0", "num", "den", "anchor", "rows", "ga", "gb", "crc")
NOT_NUMBERS = (
    b"", b" ", b" 1", b"1 ", b"1_0", b"0x10", b"1.0", b"1e3", b"-", b"--1", b"+1", b"nan", b"inf",
    b"\xd9\xa1", "\u0661".encode(), b"\x00", b"1\x00", b"9" * 5000, b"True", b"None", b"1,0",
)  # fmt: skip


@pytest.mark.parametrize("name", NUMBERS)
def test_what_is_no_number_is_quarantined(name: str) -> None:
    for value in (*NOT_NUMBERS, None):
        with pytest.raises(Quarantined) as why:
            read_part(good(**{name: value}))
        assert why.value.reason == "bad_headers"


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, str(n).encode()) for name in NUMBERS for n in (10**30, -(10**30), 2**63, -(2**63) - 1)]
    + [(n, b"-1") for n in ("inc", "k", "flags", "rows", "ga", "gb", "crc")]
    + [("part", b"-2"), ("num", b"0"), ("den", b"0"), ("num", b"-5"), ("flags", b"8"),
       ("crc", str(2**32).encode()), ("flags", b"3"), ("part", b"-1")],
)  # fmt: skip
def test_numbers_out_of_range_are_quarantined(name: str, value: bytes) -> None:
    with pytest.raises(Quarantined):
        read_part(good(**{name: value}))


@pytest.mark.parametrize(
    "close",
    [
        b"[]", b"1", b"true", b"null", b'"rows"', b"{", b"}", b"{'rows': 1}", b'{"rows": 1.0}',
        b'{"rows": true}', b'{"rows": null}', b'{"rows": "1"}', b'{"rows": NaN}',
        b'{"rows": Infinity}', b'{"rows": [1]}', b'{"rows": 9223372036854775808}',
        b'{"rows": ' + b"9" * 5000 + b"}", b"[" * 100_000, b'{"a":' * 100_000,
        b"\xff\xfe\x00", '{"rows": 1}'.encode("utf-16"), '{"rös": 1}'.encode(),
        b'{"rows": 1} {"rows": 2}', b"\x00",
    ],
)  # fmt: skip
def test_a_close_that_is_none_is_quarantined(close: bytes) -> None:
    with pytest.raises(Quarantined):
        read_part(good(close=close))


def test_a_close_must_say_its_counts_and_others_need_not() -> None:
    with pytest.raises(Quarantined):
        read_part(good(close=None))
    assert read_part(good(close=None, flags=b"0")).close is None


@pytest.mark.parametrize("headers", [None, [], [("v", None)], [("v", b"2")], [("k", b"1")]])
def test_headers_of_nobody(headers: Any) -> None:
    for reader in (read_part, read_result):
        with pytest.raises(Quarantined):
            reader(headers)


def test_a_repeated_header_counts_once_and_the_last_is_it() -> None:
    assert read_part([*good(), ("k", b"7")]).k == 7
    with pytest.raises(Quarantined):
        read_part([*good(), ("k", b"seven")])


@pytest.mark.parametrize("value", ["42", 42, 4.2, [b"42"], bytearray(b"4"), True])
def test_values_that_are_not_bytes(value: Any) -> None:
    with pytest.raises(Quarantined):
        read_part(good(k=value))
    with pytest.raises(Quarantined):
        read_part(good(src=value))


def test_text_that_is_not_ascii() -> None:
    for name in ("src", "schema"):
        with pytest.raises(Quarantined):
            read_part(good(**{name: "tdc°".encode()}))
        with pytest.raises(Quarantined):
            read_part(good(**{name: b"\xff\xfe"}))


def broken(value: bytes, rng: random.Random) -> bytes | None:
    """One of the things that go wrong with a header's value."""
    return rng.choice([
        lambda: None,
        lambda: b"",
        lambda: value[: rng.randrange(len(value) + 1)],
        lambda: value + rng.randbytes(rng.randrange(1, 9)),
        lambda: rng.randbytes(rng.randrange(40)),
        lambda: str(rng.randrange(-(2**70), 2**70)).encode(),
        lambda: str(rng.uniform(-1e30, 1e30)).encode(),
        lambda: rng.choice(NOT_NUMBERS),
        lambda: json.dumps(rng.choice([[], {}, None, True, {"a": 1.5}, {"a": 2**64}])).encode(),
        lambda: bytes(b ^ (1 << rng.randrange(8)) if rng.random() < 0.2 else b for b in value),
    ])()  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_thousands_of_hostile_headers_end_in_quarantine_or_are_sound(seed: int) -> None:
    rng = random.Random(seed)
    ends: Counter[str] = Counter()
    result = [(n, v) for n, v in result_headers(ResultPart(4, 0, 2, "events", 3, {"a": 1}), b"x")]
    for _ in range(3_000):
        headers: Any = [*(good() if rng.random() < 0.7 else result)]
        for _ in range(rng.randrange(1, 4)):
            i = rng.randrange(len(headers))
            headers[i] = (headers[i][0], broken(headers[i][1] or b"", rng))
        if rng.random() < 0.2:
            del headers[rng.randrange(len(headers))]
        if rng.random() < 0.2:
            headers.append(rng.choice(headers) if headers else ("", b""))
        try:
            part = read_part(headers)
        except Quarantined as why:
            assert why.reason and str(why)
            ends["part quarantined"] += 1
        else:
            ends["part read"] += 1
            numbers = [getattr(part, name) for name in NUMBERS] + list((part.close or {}).values())
            assert all(type(n) is int and -(2**63) <= n < 2**63 for n in numbers)
            assert read_part(part_headers(part)) == part
        try:
            read_result(headers)
        except Quarantined:
            ends["result quarantined"] += 1
        else:
            ends["result read"] += 1
    assert min(ends.values()) > 50 and len(ends) == 4, ends


# ------------------------------------------------------------------ bodies


def words(n: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array(np.arange(n, dtype=np.uint64))], schema=WORD_SCHEMA)


def pulses(n: int) -> pa.RecordBatch:
    samples = pa.ListArray.from_arrays(
        np.arange(n + 1, dtype=np.int32) * 5, pa.array(np.arange(n * 5, dtype=np.uint16))
    )
    return pa.RecordBatch.from_arrays(
        [pa.array(np.arange(n)), pa.array(np.zeros(n, np.uint16)),
         pa.array(np.zeros(n, np.uint32)), samples],
        schema=PULSE_SCHEMA,
    )  # fmt: skip


@pytest.mark.parametrize("make", [words, pulses])
@pytest.mark.parametrize("n", [0, 1, 1000])
def test_a_batch_comes_back_also_as_a_piece(make: Any, n: int) -> None:
    batch = make(n)
    for some in (batch, batch.slice(n // 3, n // 2)):
        body = write_batch(some)
        assert read_batch(body).equals(some)
        assert read_batch(body.to_pybytes()).equals(some)
        assert read_batch(memoryview(body)).equals(some)
    # a piece carries only its own bytes
    assert write_batch(batch.slice(0, n // 2)).size <= write_batch(batch).size


@pytest.mark.parametrize("body", [b"", b"\x00", b"ARROW1", b"\xff" * 100, b"a,b\n1,2\n"])
def test_bodies_of_nobody(body: bytes) -> None:
    with pytest.raises(Quarantined) as why:
        read_batch(body)
    assert why.value.reason == "bad_body"


def test_a_stream_without_a_batch() -> None:
    sink = pa.BufferOutputStream()
    pa.ipc.new_stream(sink, WORD_SCHEMA).close()
    with pytest.raises(Quarantined):
        read_batch(sink.getvalue())


@pytest.mark.parametrize("make", [words, pulses])
def test_every_truncation_of_a_body(make: Any) -> None:
    body = write_batch(make(20)).to_pybytes()
    whole = make(20)
    for n in range(len(body)):
        try:
            batch = read_batch(body[:n])
        except Quarantined:
            continue
        assert batch.equals(whole)  # only the end-of-stream marker is gone


@pytest.mark.parametrize("seed", range(4))
def test_thousands_of_hostile_bodies_end_in_quarantine_or_are_sound(seed: int) -> None:
    rng = random.Random(seed)
    seeds = [write_batch(make(n)).to_pybytes() for make in (words, pulses) for n in (0, 3, 40)]
    ends: Counter[str] = Counter()
    for _ in range(3_000):
        body = bytearray(rng.choice(seeds))
        for _ in range(rng.randrange(1, 8)):
            body[rng.randrange(len(body))] = rng.randrange(256)
        if rng.random() < 0.3:
            del body[rng.randrange(len(body)) :]
        try:
            batch = read_batch(bytes(body))
            rows = codec("pulses-1" if batch.num_columns == 4 else "padova-v1").rows(batch)
        except Quarantined:
            ends["quarantined"] += 1
            continue
        ends["read"] += 1
        if batch.num_columns == 4:  # what a kernel would follow lies within the batch
            samples = rows.column("samples")
            offsets = samples.offsets.to_numpy()
            assert (np.diff(offsets) >= 0).all() and offsets[0] >= 0
            assert offsets[-1] <= len(samples.values)
        else:
            assert int(rows.sum()) >= 0
    assert min(ends.values()) > 50, ends


def test_the_checksum_is_crc32() -> None:
    assert checksum(b"123456789") == 0xCBF43926
    assert checksum(memoryview(b"")) == 0


# ------------------------------------------------------------------ results


@SOME
@given(natural, st.integers(0, 5), st.integers(1, 5), natural, st.none() | counts)
def test_a_result_comes_back(
    k: int, part: int, more: int, rows: int, info: dict[str, int] | None
) -> None:
    told = ResultPart(k, part, part + more, "events", rows, info)
    back = read_result(result_headers(told, b"body"))
    assert back == told


@pytest.mark.parametrize(
    "info", [b"[", b"[]", b"1", b"[" * 100_000, b"\xff", b'"x"', b"nul", b"NaN"]
)
def test_an_info_that_is_none(info: bytes) -> None:
    headers = dict(result_headers(ResultPart(1, 0, 1, "events"), b"")) | {"info": info}
    with pytest.raises(Quarantined):
        read_result(headers.items())
