"""Padova 64-bit TDC words: what the bits mean, and nothing else.

Three layouts, chosen by configuration and never guessed (a v1 word with HEAD 1 has exactly the
bits of a v2 word with HEAD 2):

``padova-v1``    HEAD 63:62 (1, 2 hit; 3 trigger; 0 run word), FPGA 61:58
``padova-v2``    HEAD 63:61 (2 hit; 0, 1 equation with its t0; 4 tan psi, 5 local x), FPGA 60:58
``padova-obdt``  the bits of v1; neither channel nor TDC is shifted, so the raw TDC 0…29 is the time

In all of them a hit is CHANNEL 57:49, ORBIT 48:17, BX 16:5, TDC 4:0. A word always holds the raw
fields. `WordFormat.shifted` says only how *text* files of the format publish them: v1 channel + 1
and TDC − 1 (TDC as it is for the event numbers, raw channels 136 and 137), v2 TDC − 1.

The native tick is 25/30 ns: `tick = (orbit·3564 + bx)·30 + tdc`, TDC 0…29, where raw 1…30 means
0…29 in v1 and v2 hits. The orbit is a 32-bit counter; `decode` unwraps it.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from freerun import word_kernels
from freerun.errors import ConfigError
from freerun.word_kernels import BAD, HIT, PARAM, RUN, TRIGGER

__all__ = [
    "BAD", "BX_PER_ORBIT", "FORMATS", "HIT", "PARAM", "RUN", "TICK", "TICKS_PER_BX",
    "TICKS_PER_ORBIT", "TRIGGER", "WRAP", "Decoded", "WordFormat", "checksum", "decode",
    "encode_hit", "encode_trigger", "get_format", "mix", "move_orbits",
]  # fmt: skip

U64 = npt.NDArray[np.uint64]

BX_PER_ORBIT = 3564
TICKS_PER_BX = 30
TICKS_PER_ORBIT = BX_PER_ORBIT * TICKS_PER_BX
WRAP = 2**32 * TICKS_PER_ORBIT
"""Ticks after which the 32-bit orbit begins again (4.4 days)."""
TICK = Fraction(25, 30)
"""A tick in ns."""


@dataclass(frozen=True)
class WordFormat:
    """One word layout and the convention of its text files."""

    name: str
    layout: int
    """1 or 2: where the bits are."""
    tdc_first: int
    """The raw TDC value that means the beginning of the bunch crossing."""
    shifted: bool
    """Text files publish channel and TDC with the ±1 of this layout, else raw."""
    tick: Fraction = TICK


FORMATS = {
    "padova-v1": WordFormat("padova-v1", layout=1, tdc_first=1, shifted=True),
    "padova-v2": WordFormat("padova-v2", layout=2, tdc_first=1, shifted=True),
    "padova-obdt": WordFormat("padova-obdt", layout=1, tdc_first=0, shifted=False),
}


def get_format(name: str, *, shifted: bool | None = None) -> WordFormat:
    """The format called `name`; `shifted` overrides the convention of its text files.

    Raises `ConfigError` for an unknown name, and for a shift asked of the variant without one.
    """
    known = FORMATS.get(name)
    if known is None:
        near = difflib.get_close_matches(name, FORMATS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(
            f"unknown word format {name!r}: {hint}known are {', '.join(sorted(FORMATS))}"
        )
    if shifted is None:
        return known
    if shifted and known.tdc_first == 0:
        raise ConfigError(f"word format {name!r} has no shifted text: leave out `shifted`")
    return replace(known, shifted=shifted)


class Decoded(NamedTuple):
    """Words taken apart, all arrays of one length and in the order of the words."""

    kind: npt.NDArray[np.uint8]
    """HIT, TRIGGER, RUN, PARAM or BAD."""
    tick: npt.NDArray[np.int64]
    """Unwrapped native ticks. TRIGGER: its tag (v1: whole bunch crossings). PARAM: the beginning
    of its orbit. RUN and BAD have no time: that of the last timed word before, or `ref_tick`."""
    board: npt.NDArray[np.uint8]
    """FPGA; of a v1 trigger word the FPGA of its chamber, SL // 2; 255 where there is none."""
    channel: npt.NDArray[np.int16]
    """HIT: raw channel. TRIGGER: macrocell, + 8 in the second chamber of its board (v1: SL odd;
    v2 has four bits for it), so that chamber = 2·board + (channel >> 3). PARAM: macrocell.
    −1 where there is none."""


def decode(words: U64, fmt: WordFormat, ref_tick: int = 0) -> Decoded:
    """Take `words` (u64[n]) apart in one pass.

    Each orbit is unwrapped to the one nearest to that of `ref_tick` (an unwrapped tick within
    2.2 days of all the words).
    """
    n = len(words)
    out = Decoded(
        np.empty(n, np.uint8), np.empty(n, np.int64), np.empty(n, np.uint8), np.empty(n, np.int16)
    )
    if fmt.layout == 1:
        word_kernels.decode_v1(words.view(np.int64), fmt.tdc_first, ref_tick, *out)
    else:
        word_kernels.decode_v2(words.view(np.int64), fmt.tdc_first, ref_tick, *out)
    return out


def _u64(values: npt.ArrayLike, bits: int, name: str) -> U64:
    array = np.asarray(values)
    if array.size and (array.min() < 0 or array.max() >= 1 << bits):
        raise ValueError(f"{name} must be 0…{(1 << bits) - 1} ({bits} bits)")
    return array.astype(np.uint64)


def _put(value: U64, shift: int) -> U64:
    return value << np.uint64(shift)


def encode_hit(
    board: npt.ArrayLike,
    channel: npt.ArrayLike,
    orbit: npt.ArrayLike,
    bx: npt.ArrayLike,
    tdc_raw: npt.ArrayLike,
    head: npt.ArrayLike | None = None,
    *,
    fmt: WordFormat = FORMATS["padova-v1"],
) -> U64:
    """Hit words from raw fields; all arguments broadcast. `head` defaults to 1 (v1) or 2 (v2).

    Raises `ValueError` when a field does not fit its bits; a legal-looking but impossible value
    (BX 3564) is encoded as asked.
    """
    if head is None:
        head = 1 if fmt.layout == 1 else 2
    head_bits, board_bits = (2, 4) if fmt.layout == 1 else (3, 3)
    return (
        _put(_u64(head, head_bits, "HEAD"), 64 - head_bits)
        | _put(_u64(board, board_bits, "FPGA"), 58)
        | _put(_u64(channel, 9, "TDC_CHANNEL"), 49)
        | _put(_u64(orbit, 32, "ORBIT_CNT"), 17)
        | _put(_u64(bx, 12, "BX_COUNTER"), 5)
        | _u64(tdc_raw, 5, "TDC_MEAS")
    )


def encode_trigger(
    board: npt.ArrayLike,
    channel: npt.ArrayLike,
    orbit: npt.ArrayLike,
    bx: npt.ArrayLike,
    extra: npt.ArrayLike = 0,
    *,
    fmt: WordFormat = FORMATS["padova-v1"],
) -> U64:
    """Trigger words; board and channel as `decode` gives them (channel 0…15, ≥ 8 second chamber).

    `extra` is QUAL (1 bit) in v1, where BX is written as "none" (4095); in v2 it is EQ_LABEL
    (5 bits), and TDC0 is 0. Raises `ValueError` when a field does not fit its bits.
    """
    first = _u64(channel, 4, "channel")
    if fmt.layout == 1:
        sl = _put(_u64(board, 1, "board"), 1) | (first >> np.uint64(3))
        return (
            np.uint64(3 << 62 | 4095 << 1)
            | _put(sl, 60)
            | _put(first & np.uint64(7), 57)
            | _put(_u64(orbit, 32, "TAG_ORBIT"), 25)
            | _put(_u64(bx, 12, "TAG_BX"), 13)
            | _u64(extra, 1, "QUAL")
        )
    return (
        _put(_u64(board, 3, "FPGA"), 58)
        | _put(first, 54)
        | _put(_u64(orbit, 32, "ORBIT"), 22)
        | _put(_u64(bx, 12, "BX0"), 10)
        | _u64(extra, 5, "EQ_LABEL")
    )


def move_orbits(words: U64, fmt: WordFormat, orbits: int) -> U64:
    """The same words `orbits` later (or earlier), as the device would have written them.

    Words without an orbit (run words, unknown heads) come back as they are.
    """
    out = np.empty_like(words)
    word_kernels.move_orbits(words, fmt.layout, orbits % (1 << 32), out)
    return out


def mix(words: U64) -> U64:
    """A fixed 64-bit mix of each word (the finaliser of splitmix64)."""
    out = np.empty_like(words)
    word_kernels.mix(words, out)
    return out


def checksum(words: U64) -> int:
    """Sum of `mix` over all words, modulo 2**32: the same in any order and any cut."""
    return int(word_kernels.checksum(words))
