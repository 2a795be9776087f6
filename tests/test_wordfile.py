"""Recorded files: binary and text, whole, torn, and files that are something else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from freerun import words as w
from freerun.errors import ConfigError
from freerun.wordfile import HEADER, WordFile

V1, V2, OBDT = (w.get_format(n) for n in ("padova-v1", "padova-v2", "padova-obdt"))
RAW = w.get_format("padova-v1", shifted=False)
HEAD_LINE = HEADER.decode() + "\n"


def read(
    path: Path, fmt: w.WordFormat = V1, chunk: int = 1 << 16
) -> tuple[np.ndarray[tuple[int], np.dtype[np.uint64]], WordFile]:
    file = WordFile(path, fmt)
    pieces = list(file.chunks(chunk))
    assert all(0 < len(p) <= chunk for p in pieces)
    found = np.concatenate([*pieces, np.empty(0, np.uint64)])
    assert file.words == len(found)
    return found, file


def text_of(word: int, fmt: w.WordFormat) -> str:
    """A hit word as the text dialect publishes it."""
    head, board = (word >> 62, word >> 58 & 15) if fmt.layout == 1 else (word >> 61, word >> 58 & 7)
    channel, tdc = word >> 49 & 511, word & 31
    if fmt.shifted:
        if not (fmt.layout == 1 and channel in (136, 137)):
            tdc -= 1
        if fmt.layout == 1:
            channel = (channel + 1) & 511
    return f"{head},{board},{channel},{word >> 17 & 0xFFFFFFFF},{word >> 5 & 4095},{tdc}\n"


@pytest.mark.parametrize("chunk", [17, 1000, 1 << 16])
def test_dat_and_txt_of_the_recorded_run_are_the_same_words(shared_data: Path, chunk: int) -> None:
    expected = np.fromfile(shared_data / "minidt/run637_first60000.dat", "<u8")
    for suffix in ("dat", "txt"):
        path = shared_data / f"minidt/run637_first60000.{suffix}"
        found, file = read(path, V1, chunk)
        assert (found == expected).all() and file.malformed == 0


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(
    st.lists(st.integers(0, 2**64 - 2), min_size=1, max_size=40),
    st.sampled_from([V1, RAW, V2, OBDT]),
    st.integers(1, 50),
)
def test_text_gives_back_every_word(
    tmp_path: Path, many: list[int], fmt: w.WordFormat, chunk: int
) -> None:
    if fmt.layout == 2:
        many = [word & (2**61 - 1) | 2 << 61 for word in many]
    path = tmp_path / "rows.csv"
    path.write_text(HEAD_LINE + "".join(text_of(word, fmt) for word in many))
    found, file = read(path, fmt, chunk)
    assert found.tolist() == many and file.malformed == 0


def test_event_numbers_keep_their_tdc(tmp_path: Path) -> None:
    path = tmp_path / "rows.txt"
    path.write_text(HEAD_LINE + "1,0,137,5,6,31\n1,0,138,5,6,0\n1,0,139,5,6,29\n")
    found, _ = read(path)
    assert [(int(x) >> 49 & 511, int(x) & 31) for x in found] == [(136, 31), (137, 0), (138, 30)]


def test_torn_ends_count_once(tmp_path: Path) -> None:
    binary = tmp_path / "a.dat"
    words = w.encode_hit(0, np.arange(10), 1, 2, 3)
    binary.write_bytes(words.astype("<u8").tobytes() + b"\x01\x02\x03")
    for chunk in (1, 4, 100):
        found, file = read(binary, V1, chunk)
        assert (found == words).all() and (file.malformed, file.torn_bytes) == (1, 3)
    text = tmp_path / "a.txt"
    text.write_text(HEAD_LINE + "1,0,4,1,2,2\r\n\n1,0,5,1,2,2\n1,0,6,1,2,2")
    for chunk in (1, 4, 100):
        found, file = read(text, V1, chunk)
        assert len(found) == 2 and file.malformed == 1


def test_lines_that_are_no_row_are_counted(tmp_path: Path) -> None:
    bad = ["1,0,4,1,2", "1,0,4,1,2,3,4", "a,b,c,d,e,f", "1,0,4,1,2,", "4,0,4,1,2,3",
           "1,16,4,1,2,3", "1,0,4,4294967296,2,3", "1,0,4,1,4096,3", "1,0,4,1,2,31",
           "1,0,4,-1,2,3", "1,0,4,1,2,2.5", "1;0;4;1;2;3",
           "99999999999999999999,0,4,1,2,3", "1,0,513,1,2,3", "<p>",
           HEADER.decode(), "x" * 100_000]  # fmt: skip
    path = tmp_path / "a.csv"
    path.write_text(HEAD_LINE + "".join(f"{line}\n1,0,4,1,2,3\n" for line in bad))
    for chunk in (7, 1 << 16):
        found, file = read(path, V1, chunk)
        assert (len(found), file.malformed) == (len(bad), len(bad))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", b"<!DOCTYPE html>\n<html>404</html>\n", "'<!DOCTYPE html>' (HTML or XML)"),
        ("a.csv", b"time,value\n1,2\n", "found 'time,value'"),
        ("a.txt", b"", "an empty file"),
        ("a.csv", bytes(range(200, 256)), r"found '\\xc8"),
        ("a.dat", b"<html>", "(HTML or XML)"),
        ("a.dat", HEADER + b"\n1,0,4,1,2,3\n", "ends in .txt or .csv"),
        ("a.dat", b"version https://git-lfs.github.com/spec/v1\noid 1", "'version https"),
        ("a.root", b"root", "suffix '.root'"),
    ],
)
def test_another_file_is_refused_in_one_sentence(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        list(WordFile(path, V1).chunks())
    assert says in str(error.value) and str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.dat: cannot be read: No such file"):
        list(WordFile(tmp_path / "gone.dat", V1).chunks())


def test_newer_stream_format(shared_data: Path) -> None:
    path = shared_data / "minidt/mapd_stream_42rows.csv"
    found, file = read(path, V2)
    lines = path.read_text().splitlines()[1:]
    no_word = [x for x in lines if x[0] in "13"]
    assert (len(found), file.malformed) == (len(lines) - len(no_word), len(no_word))
    decoded = w.decode(found, V2, 3387200947 * w.TICKS_PER_ORBIT)
    hits = [tuple(map(int, x.split(","))) for x in lines if x[0] == "2"]
    is_hit = decoded.kind == w.HIT
    expected = [((o * 3564 + bx) * 30 + tdc, b, c) for _, b, c, o, bx, tdc in hits]
    fields = (decoded.tick, decoded.board, decoded.channel)
    assert list(zip(*(f[is_hit].tolist() for f in fields), strict=True)) == expected
    values = [x.split(",") for x in lines if x[0] in "45"]
    stored = found[decoded.kind == w.PARAM]
    assert len(stored) == len(values)
    for word, row in zip(stored.tolist(), values, strict=True):
        number = (word & 0xFFFF) - (word & 0x8000) * 2
        assert word >> 61 == int(row[0])
        assert abs(number / (1 << (14 if row[0] == "4" else 8)) - float(row[5])) < 1e-6
