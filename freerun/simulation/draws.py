"""Random numbers without state: a value is a hash of (seed, stream, block, index).

So any process draws the same numbers for any block in any order. Only integer and basic IEEE
operations are used (an own logarithm, no libm), so the numbers are the same on every machine.
"""

from __future__ import annotations

import math

import numpy as np

from freerun.jit import kernel

MUON_TIME, MUON, NOISE_TIME, NOISE, BACKGROUND_TIME, BACKGROUND, WAVEFORM = range(7)
"""Streams; noise streams take the process number times 16 on top (see `stream_key`)."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_BYTES = np.uint64(0x00FF00FF00FF00FF)
_SUM = np.uint64(0x0001000100010001)
_TWO_M53 = 2.0**-53
_GAUSS_SCALE = 1.0 / math.sqrt(8.0 * (256.0**2 - 1.0) / 12.0)


@kernel
def scramble(word: np.uint64) -> np.uint64:
    """splitmix64's finaliser."""
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


@kernel
def stream_key(seed: int, stream: int, block: int) -> np.uint64:
    """Where the sequence of this (seed, stream, block) begins."""
    key = scramble(np.uint64(seed) + _GOLDEN)
    key = scramble(key + np.uint64(stream) * _GOLDEN)
    return scramble(key + np.uint64(block) * _GOLDEN)


@kernel
def draw(key: np.uint64, index: int) -> np.uint64:
    """The 64 random bits number `index` of a stream."""
    return scramble(key + (np.uint64(index) + np.uint64(1)) * _GOLDEN)


@kernel
def uniform(bits: np.uint64) -> float:
    """Uniform in [0, 1) from 64 bits (the upper 53 count)."""
    return np.float64(bits >> np.uint64(11)) * _TWO_M53


@kernel
def gauss(bits: np.uint64) -> float:
    """Nearly normal, mean 0, variance 1: the sum of eight bytes and a dither (within ±4.9)."""
    pairs = (bits & _BYTES) + ((bits >> np.uint64(8)) & _BYTES)
    total = (pairs * _SUM) >> np.uint64(48)
    dither = uniform(bits * _GOLDEN) - 0.5
    return (np.float64(total) - 1020.0 + dither) * _GAUSS_SCALE


@kernel
def exponential(bits: np.uint64) -> float:
    """Exponential with mean 1: −ln of a uniform in (0, 1], by a series good to 1e-14."""
    mantissa, power = math.frexp((np.float64(bits >> np.uint64(11)) + 1.0) * _TWO_M53)
    if mantissa < 0.7071067811865476:
        mantissa *= 2.0
        power -= 1
    s = (mantissa - 1.0) / (mantissa + 1.0)
    q = s * s
    series = q * (1.0 / 15.0 + q * (1.0 / 17.0))
    series = q * (1.0 / 9.0 + q * (1.0 / 11.0 + q * (1.0 / 13.0 + series)))
    series = 1.0 + q * (1.0 / 3.0 + q * (1.0 / 5.0 + q * (1.0 / 7.0 + series)))
    return -(2.0 * s * series + power * 0.6931471805599453)
