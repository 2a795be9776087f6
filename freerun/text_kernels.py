"""The compiled loop that reads unpacked rows of text back into words."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from freerun.jit import kernel

U8 = npt.NDArray[np.uint8]
U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

_COMMA, _MINUS, _PLUS, _DOT, _NEWLINE, _RETURN, _SPACE, _TAB = 44, 45, 43, 46, 10, 13, 32, 9
_ZERO, _NINE = 48, 57
_HUGE = 10**15


@kernel
def _parse(text: U8, i: int, end: int, fields: I64) -> int:
    """Six decimal numbers from text[i:end] into fields[0:6]; 0 if it is no row.

    Of the last, decimals are kept: fields[6] = its value without the dot, fields[7] = the power
    of ten to divide by (1: it was an integer).
    """
    fields[7] = 1
    for k in range(6):
        while i < end and (text[i] == _SPACE or text[i] == _TAB):
            i += 1
        negative = False
        if i < end and (text[i] == _MINUS or text[i] == _PLUS):
            negative = text[i] == _MINUS
            i += 1
        value = 0
        digits = 0
        dot = False
        while i < end:
            c = int(np.int64(text[i]))
            if c == _DOT and k == 5 and not dot:
                dot = True
            elif c >= _ZERO and c <= _NINE and value < _HUGE:
                value = value * 10 + (c - _ZERO)
                digits += 1
                if dot:
                    fields[7] *= 10
            else:
                break
            i += 1
        if digits == 0:
            return 0
        fields[k] = -value if negative else value
        while i < end and (text[i] == _SPACE or text[i] == _TAB or text[i] == _RETURN):
            i += 1
        if k < 5:
            if i >= end or text[i] != _COMMA:
                return 0
            i += 1
    return 1 if i == end else 0


@kernel
def _hit(f: I64, head_bits: int, shifted: int) -> np.uint64:
    """The word of a row with the fields of a hit; all ones if a field does not fit."""
    none = np.uint64(0xFFFFFFFFFFFFFFFF)
    channel, tdc = f[2], f[5]
    if shifted:
        event_number = head_bits == 2 and (channel == 137 or channel == 138)
        if not event_number:
            tdc += 1
        if head_bits == 2:
            channel -= 1
            if channel < 0:
                channel += 512  # published with a mask of 9 bits: raw 511 reads as 0
    fits = (
        f[7] == 1 and f[0] >= 0 and f[0] < (1 << head_bits)
        and f[1] >= 0 and f[1] < (1 << (6 - head_bits))
        and channel >= 0 and channel < 512 and f[3] >= 0 and f[3] < (1 << 32)
        and f[4] >= 0 and f[4] < 4096 and tdc >= 0 and tdc < 32
    )  # fmt: skip
    if not fits:
        return none
    low = (f[1] << 58) | (channel << 49) | (f[3] << 17) | (f[4] << 5) | tdc
    return (np.uint64(f[0]) << np.uint64(64 - head_bits)) | np.uint64(low)


@kernel
def _extra(f: I64) -> np.uint64:
    """The word of a v2 row that is no hit; all ones if it has none.

    Head 0: the channel column is EQ_LABEL, the macrocell is not published. Heads 4 and 5: the
    value in 2⁻¹⁴ and 2⁻⁸, 16 bits two's complement, the channel column is the macrocell. Rows of
    heads 1 and 3 hold other numbers, beyond the bits of TDC and BX: there is no word for them.
    """
    none = np.uint64(0xFFFFFFFFFFFFFFFF)
    if f[1] < 0 or f[1] > 7 or f[3] < 0 or f[3] >= (1 << 32):
        return none
    head, fpga, orbit = np.uint64(f[0]), np.uint64(f[1]), np.uint64(f[3])
    common = (head << np.uint64(61)) | (fpga << np.uint64(58)) | (orbit << np.uint64(22))
    if f[0] == 0:
        if f[7] != 1 or f[2] < 0 or f[2] > 31 or f[4] < 0 or f[4] > 4095 or f[5] < 0 or f[5] > 31:
            return none
        return common | np.uint64((f[4] << 10) | (f[5] << 5) | f[2])
    if f[2] < 0 or f[2] > 15 or f[4] != 0:
        return none
    scale = 1 << (14 if f[0] == 4 else 8)
    value = int(np.floor(f[5] * scale / f[7] + 0.5))
    if value < -32768 or value > 32767:
        return none
    return common | np.uint64((f[2] << 54) | (value & 0xFFFF))


@kernel
def parse_lines(text: U8, layout: int, shifted: int, out: U64) -> tuple[int, int]:
    """Whole lines of text into words; returns how many, and how many lines were no row.

    Empty lines count as neither. `out` must hold one word for every 12 bytes.
    """
    fields = np.empty(8, np.int64)
    none = np.uint64(0xFFFFFFFFFFFFFFFF)
    found = 0
    bad = 0
    start = 0
    for end in range(len(text)):
        if text[end] != _NEWLINE:
            continue
        line = start
        start = end + 1
        while line < end and text[line] <= _SPACE:
            line += 1
        if line == end:
            continue
        word = none
        if _parse(text, line, end, fields):
            head = fields[0]
            if layout == 1:
                word = _hit(fields, 2, shifted)
            elif head == 2:
                word = _hit(fields, 3, shifted)
            elif head == 0 or head == 4 or head == 5:
                word = _extra(fields)
        if word == none:
            bad += 1
        else:
            out[found] = word
            found += 1
    return found, bad
