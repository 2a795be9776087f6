"""The compiled loops behind `freerun.words`.

Words come in as int64 views where fields are cut out (an arithmetic shift and a mask), because
numba makes a float of int64 mixed with uint64; they stay uint64 where the arithmetic wraps.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from freerun.jit import kernel

HIT, TRIGGER, RUN, PARAM, BAD = 0, 1, 2, 3, 255

U64 = npt.NDArray[np.uint64]
U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
I16 = npt.NDArray[np.int16]

_BX = 3564
_ORBIT = _BX * 30
_LOW32 = 0xFFFFFFFF


@kernel
def decode_v1(
    words: I64, tdc_first: int, ref_tick: int, kind: U8, tick: I64, board: U8, channel: I16
) -> None:
    """See `freerun.words.Decoded`; 136 and 137 are the event numbers, whose TDC is no time."""
    near = ref_tick // _ORBIT - 0x80000000
    last = ref_tick
    for i in range(len(words)):
        word = words[i]
        head = (word >> 62) & 3
        what = BAD
        fpga = 255
        number = -1
        when = last
        if head == 1 or head == 2:
            fpga = (word >> 58) & 15
            number = (word >> 49) & 511
            bx = (word >> 5) & 4095
            tdc = (word & 31) - tdc_first
            if number == 136 or number == 137:
                tdc = 0
            if bx < _BX and tdc >= 0 and tdc < 30:
                what = HIT
                orbit = near + ((((word >> 17) & _LOW32) - near) & _LOW32)
                when = (orbit * _BX + bx) * 30 + tdc
        elif head == 3:
            fpga = (word >> 61) & 1
            number = ((word >> 57) & 7) | (((word >> 60) & 1) << 3)
            bx = (word >> 13) & 4095
            if bx < _BX:
                what = TRIGGER
                orbit = near + ((((word >> 25) & _LOW32) - near) & _LOW32)
                when = (orbit * _BX + bx) * 30
        else:
            what = RUN
        kind[i] = what
        tick[i] = when
        board[i] = fpga
        channel[i] = number
        last = when


@kernel
def decode_v2(
    words: I64, tdc_first: int, ref_tick: int, kind: U8, tick: I64, board: U8, channel: I16
) -> None:
    """See `freerun.words.Decoded`; heads 3, 6 and 7 are unknown.

    TDC0 of an equation is taken as published: nothing says that it is shifted.
    """
    near = ref_tick // _ORBIT - 0x80000000
    last = ref_tick
    for i in range(len(words)):
        word = words[i]
        head = (word >> 61) & 7
        what = BAD
        fpga = (word >> 58) & 7
        number = -1
        when = last
        if head == 2:
            number = (word >> 49) & 511
            bx = (word >> 5) & 4095
            tdc = (word & 31) - tdc_first
            if bx < _BX and tdc >= 0 and tdc < 30:
                what = HIT
                orbit = near + ((((word >> 17) & _LOW32) - near) & _LOW32)
                when = (orbit * _BX + bx) * 30 + tdc
        elif head < 2:
            number = (word >> 54) & 15
            bx = (word >> 10) & 4095
            tdc = (word >> 5) & 31
            if bx < _BX and tdc <= 30:
                what = TRIGGER
                orbit = near + ((((word >> 22) & _LOW32) - near) & _LOW32)
                when = (orbit * _BX + bx) * 30 + tdc
        elif head == 4 or head == 5:
            what = PARAM
            number = (word >> 54) & 15
            when = (near + ((((word >> 22) & _LOW32) - near) & _LOW32)) * _ORBIT
        kind[i] = what
        tick[i] = when
        board[i] = fpga
        channel[i] = number
        last = when


@kernel
def move_orbits(words: U64, layout: int, orbits: int, out: U64) -> None:
    """Add `orbits` (0 … 2**32 − 1) to the orbit field of each word that has one, modulo 2**32."""
    low = np.uint64(_LOW32)
    add = np.uint64(orbits)
    for i in range(len(words)):
        word = words[i]
        shift = np.uint64(17)
        moved = True
        if layout == 1:
            head = word >> np.uint64(62)
            if head == 3:
                shift = np.uint64(25)
            moved = head != 0
        else:
            head = word >> np.uint64(61)
            if head != 2:
                shift = np.uint64(22)
            moved = head != 3 and head < 6
        if moved:
            orbit = ((word >> shift) + add) & low
            out[i] = (word & ~(low << shift)) | (orbit << shift)
        else:
            out[i] = word


@kernel
def mix(words: U64, out: U64) -> None:
    """splitmix64's finaliser, word by word."""
    for i in range(len(words)):
        word = words[i]
        word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        out[i] = word ^ (word >> np.uint64(31))


@kernel
def checksum(words: U64) -> int:
    """Sum of the mixes modulo 2**32."""
    total = np.uint64(0)
    for i in range(len(words)):
        word = words[i]
        word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        total += word ^ (word >> np.uint64(31))
    return int(total & np.uint64(_LOW32))
