"""Records that are none: each a pure function of its seed and of a good record."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable

import pyarrow as pa

from freerun.wire import Headers, write_batch

NUMBERS = ("k", "part", "flags", "rows", "ga", "gb", "crc", "num", "den", "tick0", "anchor")
GARBAGE = (b"", b" 1", b"1_0", b"+1", b"-1", b"1e3", b"0x10", b"\xff\xfe", b"9" * 30, b"nan",
           b"1" * 100_000, "\u0661".encode())  # fmt: skip
CLOSES = (b"[]", b"7", b"{", b'{"parts":1.5}', b'{"parts":true}', b'{"rows":"3"}', b"[" * 2000,
          b'{"parts":1,"rows":' + b"9" * 25 + b"}", b"null", b"\xff")  # fmt: skip

Hostile = tuple[str, Headers | None, bytes]
Make = Callable[[random.Random, dict[str, bytes], bytes], tuple[dict[str, bytes] | None, bytes]]


def crc(h: dict[str, bytes], body: bytes) -> tuple[dict[str, bytes], bytes]:
    """The header agrees with the body, so that it has to be opened."""
    return {**h, "crc": b"%d" % zlib.crc32(body)}, body


def other_arrow(r: random.Random, h: dict[str, bytes], _: bytes) -> tuple[dict[str, bytes], bytes]:
    column = r.choice([
        pa.array([1.5, 2.5]), pa.array(["a", None]), pa.array([[1], [2, 3]]), pa.nulls(3),
        pa.array([1, None, 3], pa.uint64()), pa.array([1, 2], pa.int64()),
    ])  # fmt: skip
    name = r.choice(["word", "ticks", ""])
    return crc(h, write_batch(pa.RecordBatch.from_arrays([column], [name])).to_pybytes())


def missing(r: random.Random, h: dict[str, bytes]) -> dict[str, bytes]:
    gone = r.choice([name for name in h if name != "close"])
    return {name: value for name, value in h.items() if name != gone}


def cut(r: random.Random, body: bytes) -> bytes:
    return body[: r.randrange(len(body))]


def flipped(r: random.Random, body: bytes) -> bytes:
    out = bytearray(body)
    for _ in range(r.choice([1, 1, 5, 50])):
        out[r.randrange(len(out))] ^= 1 << r.randrange(8)
    return bytes(out)


MAKERS: dict[str, Make] = {
    "no_headers": lambda r, h, b: (None, b),
    "noise": lambda r, h, b: (None, r.randbytes(r.randrange(300))),
    "header_missing": lambda r, h, b: (missing(r, h), b),
    "header_garbage": lambda r, h, b: ({**h, r.choice(NUMBERS): r.choice(GARBAGE)}, b),
    "header_huge": lambda r, h, b: ({**h, r.choice(NUMBERS): b"%d" % r.getrandbits(64)}, b),
    "version": lambda r, h, b: ({**h, "v": r.choice([b"0", b"2", b"", b"x"])}, b),
    "schema": lambda r, h, b: ({**h, "schema": r.choice([b"", b"frames-9", b"\xc3\xa4"])}, b),
    "source": lambda r, h, b: ({**h, "src": r.choice([b"b", b"", b"nobody", b"\xff"])}, b),
    "close": lambda r, h, b: ({**h, "close": r.choice(CLOSES)}, b),
    "far_future": lambda r, h, b: ({**h, "k": b"%d" % r.randrange(2**40, 2**63)}, b),
    "past": lambda r, h, b: ({**h, "k": b"0"}, b),
    "cut": lambda r, h, b: (h, cut(r, b)),
    "cut_agreeing": lambda r, h, b: crc(h, cut(r, b)),
    "flipped": lambda r, h, b: (h, flipped(r, b)),
    "flipped_agreeing": lambda r, h, b: crc(h, flipped(r, b)),
    "noise_agreeing": lambda r, h, b: crc(h, r.randbytes(r.randrange(1, 400))),
    "other_arrow": other_arrow,
    "longer_agreeing": lambda r, h, b: crc(h, b + r.randbytes(64)),
    "rows": lambda r, h, b: ({**h, r.choice(["rows", "ga", "gb"]): b"%d" % r.randrange(99)}, b),
}


def hostile(seed: int, headers: Headers, body: bytes) -> Hostile:
    """`(kind, headers, body)` of record `seed` of the corpus, made of a good record."""
    rng = random.Random(seed)
    kind = list(MAKERS)[seed % len(MAKERS)]
    changed, changed_body = MAKERS[kind](rng, dict(headers), body)
    return kind, None if changed is None else list(changed.items()), changed_body
