"""Word formats: the documented vectors, a slow oracle, and laws."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from freerun import words as w
from freerun.errors import ConfigError

V1, V2, OBDT = (w.get_format(n) for n in ("padova-v1", "padova-v2", "padova-obdt"))
Row = tuple[int, int, int, int]  # kind, tick, board, channel


def nearest(orbit: int, ref_tick: int) -> int:
    """The number congruent to `orbit` modulo 2**32 nearest to the reference's orbit."""
    ref = ref_tick // w.TICKS_PER_ORBIT
    candidates = [(ref // 2**32 + i) * 2**32 + orbit for i in (-1, 0, 1)]
    return min(candidates, key=lambda c: (abs(c - ref), c))


def oracle(word: int, fmt: w.WordFormat, ref: int, last: int) -> Row:
    """One word, in Python integers, bit field by bit field as the documentation lists them."""

    def bits(high: int, low: int) -> int:
        return (word >> low) & ((1 << (high - low + 1)) - 1)

    v1 = fmt.layout == 1
    head = bits(63, 62) if v1 else bits(63, 61)
    board = bits(61, 58) if v1 else bits(60, 58)
    if head == 2 or (v1 and head == 1):
        channel, orbit, bx, tdc = bits(57, 49), bits(48, 17), bits(16, 5), bits(4, 0)
        tdc -= fmt.tdc_first
        if v1 and channel in (136, 137):
            tdc = 0
        if bx > 3563 or not 0 <= tdc <= 29:
            return w.BAD, last, board, channel
        return w.HIT, (nearest(orbit, ref) * 3564 + bx) * 30 + tdc, board, channel
    if v1 and head == 3:
        board, channel = bits(61, 60) // 2, bits(59, 57) + 8 * (bits(61, 60) % 2)
        if bits(24, 13) > 3563:
            return w.BAD, last, board, channel
        tick = (nearest(bits(56, 25), ref) * 3564 + bits(24, 13)) * 30
        return w.TRIGGER, tick, board, channel
    if v1:
        return w.RUN, last, 255, -1
    orbit, macrocell = nearest(bits(53, 22), ref), bits(57, 54)
    if head in (0, 1):
        if bits(21, 10) > 3563 or bits(9, 5) > 30:
            return w.BAD, last, board, macrocell
        return w.TRIGGER, (orbit * 3564 + bits(21, 10)) * 30 + bits(9, 5), board, macrocell
    if head in (4, 5):
        return w.PARAM, orbit * w.TICKS_PER_ORBIT, board, macrocell
    return w.BAD, last, board, -1


def rows(decoded: w.Decoded) -> list[Row]:
    return [tuple(int(x) for x in row) for row in zip(*decoded, strict=True)]


@pytest.mark.parametrize(
    ("word", "fmt", "fields"),
    [
        (0x44FE00000003BD7D, V1, (1, 127, 1, 3563, 29)),
        (0x407FFFFFFFFFBD7E, V1, (0, 63, 4294967295, 3563, 30)),
        (0x85000003C4800C8F, V1, (1, 128, 123456, 100, 15)),
        (0x45002E286E0AE5AC, V2, (1, 128, 387200773, 1837, 12)),
        (int.from_bytes(bytes.fromhex("f3224c6d01008e40"), "little"), V1, (0, 71, 46758, 279, 19)),
    ],
)
def test_documented_vectors(
    word: int, fmt: w.WordFormat, fields: tuple[int, int, int, int, int]
) -> None:
    board, channel, orbit, bx, tdc = fields
    tick = (orbit * 3564 + bx) * 30 + tdc - 1
    decoded = w.decode(np.array([word], np.uint64), fmt, w.WRAP // 2)
    assert rows(decoded) == [(w.HIT, tick, board, channel)]
    head = word >> 62 if fmt.layout == 1 else word >> 61
    assert int(w.encode_hit(board, channel, orbit, bx, tdc, head, fmt=fmt)) == word


def test_first_vector_has_no_legal_tdc() -> None:
    word = w.encode_hit(0, 0, 0, 0, 0)
    assert int(word) == 0x4000000000000000
    assert w.decode(np.array([word]), V1).kind[0] == w.BAD
    assert rows(w.decode(np.array([word]), OBDT)) == [(w.HIT, 0, 0, 0)]


@given(
    st.lists(st.integers(0, 2**64 - 1), max_size=30),
    st.sampled_from([V1, V2, OBDT]),
    st.integers(0, 300 * w.WRAP),
)
def test_decode_equals_oracle(many: list[int], fmt: w.WordFormat, ref: int) -> None:
    expected, last = [], ref
    for word in many:
        expected.append(oracle(word, fmt, ref, last))
        last = expected[-1][1]
    assert rows(w.decode(np.array(many, np.uint64), fmt, ref)) == expected


@pytest.mark.parametrize("fmt", [V1, V2, OBDT])
def test_decode_equals_oracle_on_likely_words(fmt: w.WordFormat) -> None:
    """Random bits rarely give legal BX and TDC: here all fields are near their borders."""
    rng = random.Random(1)
    ref = 5 * w.WRAP - 77
    many = []
    for _ in range(3000):
        orbit = rng.choice([0, 1, 2**31, 2**32 - 1, rng.randrange(2**32)])
        bx = rng.choice([0, 3563, 3564, rng.randrange(3564)])
        if rng.random() < 0.7:
            channel = rng.choice([0, 63, 64, 127, 128, 136, 137, 138, 511])
            head = rng.randrange(4 if fmt.layout == 1 else 8)
            board = rng.randrange(16 if fmt.layout == 1 else 8)
            hit = w.encode_hit(board, channel, orbit, bx, rng.randrange(32), head, fmt=fmt)
            many.append(int(hit))
        else:
            many.append(int(w.encode_trigger(rng.randrange(2), rng.randrange(16), orbit, bx,
                                             rng.randrange(2), fmt=fmt)))  # fmt: skip
    expected, last = [], ref
    for word in many:
        expected.append(oracle(word, fmt, ref, last))
        last = expected[-1][1]
    assert rows(w.decode(np.array(many, np.uint64), fmt, ref)) == expected


def test_read_only_and_strided_words_decode_alike() -> None:
    words = w.encode_hit(1, np.arange(100), 7, 8, 9)
    frozen = words.copy()
    frozen.flags.writeable = False
    wide = np.zeros((100, 2), np.uint64)
    wide[:, 0] = words
    expected = rows(w.decode(words, V1))
    assert rows(w.decode(frozen, V1)) == expected == rows(w.decode(wide[:, 0], V1))
    assert w.checksum(frozen) == w.checksum(words)


@pytest.mark.parametrize("fmt", [V1, V2])
@given(
    board=st.integers(0, 1), channel=st.integers(0, 15), bx=st.integers(0, 3563),
    orbit=st.integers(0, 40 * 2**32), extra=st.integers(0, 1),
)  # fmt: skip
def test_trigger_round_trip(
    fmt: w.WordFormat, board: int, channel: int, orbit: int, bx: int, extra: int
) -> None:
    word = w.encode_trigger(board, channel, orbit % 2**32, bx, extra, fmt=fmt)
    tick = (orbit * 3564 + bx) * 30
    decoded = w.decode(np.array([word]), fmt, tick + 5)
    assert rows(decoded) == [(w.TRIGGER, tick, board, channel)]


@given(st.integers(0, 1000 * w.WRAP), st.integers(-(2**31) + 1, 2**31 - 1))
def test_orbits_unwrap_to_the_nearest(ref: int, orbits: int) -> None:
    tick = (ref // w.TICKS_PER_ORBIT + orbits) * w.TICKS_PER_ORBIT
    word = w.encode_hit(0, 0, tick // w.TICKS_PER_ORBIT % 2**32, 0, 1)
    assert w.decode(np.array([word]), V1, ref).tick[0] == tick


def test_wrap_inside_a_stream() -> None:
    ref = 3 * w.WRAP
    orbits = np.arange(-3, 4)
    words = w.encode_hit(0, 5, orbits % 2**32, 1, 1)
    assert (w.decode(words, V1, ref).tick == ref + orbits * w.TICKS_PER_ORBIT + 30).all()


def test_fields_that_do_not_fit_are_refused() -> None:
    for arguments in ((16, 0, 0, 0, 1), (0, 512, 0, 0, 1), (0, 0, 2**32, 0, 1),
                      (0, 0, 0, 4096, 1), (0, 0, 0, 0, 32), (0, -1, 0, 0, 1)):  # fmt: skip
        with pytest.raises(ValueError, match="must be 0…"):
            w.encode_hit(*arguments)
    with pytest.raises(ValueError, match="FPGA"):
        w.encode_hit(8, 0, 0, 0, 1, fmt=V2)


def test_formats_by_name() -> None:
    assert w.get_format("padova-v1").shifted and not w.get_format("padova-obdt").shifted
    assert not w.get_format("padova-v1", shifted=False).shifted
    with pytest.raises(ConfigError, match="did you mean 'padova-v1'"):
        w.get_format("padova1")
    with pytest.raises(ConfigError, match="no shifted text"):
        w.get_format("padova-obdt", shifted=True)


@given(st.integers(-(2**40), 2**40), st.sampled_from([V1, V2]))
def test_move_orbits(orbits: int, fmt: w.WordFormat) -> None:
    ref = 1000 * w.WRAP
    start = ref // w.TICKS_PER_ORBIT
    words = np.concatenate([
        np.atleast_1d(w.encode_hit(1, 9, (start + np.arange(5)) % 2**32, 77, 3, fmt=fmt)),
        np.atleast_1d(w.encode_trigger(1, 9, (start + np.arange(5)) % 2**32, 99, fmt=fmt)),
    ])  # fmt: skip
    before = w.decode(words, fmt, ref)
    shift = orbits * w.TICKS_PER_ORBIT
    moved = w.decode(w.move_orbits(words, fmt, orbits), fmt, ref + shift)
    assert (moved.tick == before.tick + shift).all()
    assert (moved.channel == before.channel).all() and (moved.kind == before.kind).all()


def test_words_without_an_orbit_do_not_move() -> None:
    words = np.array([0x0000000500000007], np.uint64)
    assert (w.move_orbits(words, V1, 12) == words).all()
    unknown = np.array([3 << 61 | 5, 6 << 61, 7 << 61], np.uint64)
    assert (w.move_orbits(unknown, V2, 12) == unknown).all()


def test_mix_and_checksum() -> None:
    def mix(z: int) -> int:
        mask = 2**64 - 1
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
        return z ^ (z >> 31)

    rng = random.Random(2)
    many = [rng.randrange(2**64) for _ in range(200)] + [0, 2**64 - 1]
    words = np.array(many, np.uint64)
    assert w.mix(words).tolist() == [mix(z) for z in many]
    assert w.checksum(words) == sum(mix(z) for z in many) % 2**32
    assert w.checksum(words[::-1].copy()) == w.checksum(words)
    assert w.checksum(words[:0]) == 0
    assert (w.checksum(words[:50]) + w.checksum(words[50:])) % 2**32 == w.checksum(words)


def test_recorded_run(shared_data: Path) -> None:
    words = np.fromfile(shared_data / "minidt/run637_first60000.dat", "<u8")
    ref = json.loads((shared_data / "minidt/run637_first60000.ref.json").read_text())
    decoded = w.decode(words, V1, w.WRAP // 2)
    assert (decoded.kind == w.HIT).all()
    for board, counts in ref["counts_raw_channel"].items():
        ours = np.bincount(decoded.channel[decoded.board == int(board)], minlength=512)
        assert {str(c): int(n) for c, n in enumerate(ours) if n} == counts
    orbits = decoded.tick // w.TICKS_PER_ORBIT
    assert int(orbits.sum()) == ref["sum_orbit"]
    assert int((decoded.tick % w.TICKS_PER_ORBIT // 30).sum()) == ref["sum_bx"]
    assert int((decoded.tick % 30 + 1).sum()) == ref["sum_tdc_raw"]
    assert len(np.unique(orbits)) == ref["unique_orbits"]
    # bits of a v1 word with HEAD 1 are those of a v2 word with HEAD 2
    assert (w.decode(words, V2, w.WRAP // 2).tick == decoded.tick).all()
