"""Recorded word files, read in pieces: binary `.dat` and the unpacked text dialect.

Binary: little-endian 64-bit words, nothing else. Text: a header line
`HEAD,FPGA,TDC_CHANNEL,ORBIT_CNT,BX_COUNTER,TDC_MEAS`, then one row a word; rows become the words
they were unpacked from, exactly. Whether channel and TDC of the text carry the ±1 of the format is
`WordFormat.shifted`; whether a file is binary or text is told by its suffix or by the caller.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from freerun.errors import ConfigError
from freerun.text_kernels import parse_lines
from freerun.words import WordFormat

U64 = npt.NDArray[np.uint64]
Kind = Literal["binary", "text"]

HEADER = b"HEAD,FPGA,TDC_CHANNEL,ORBIT_CNT,BX_COUNTER,TDC_MEAS"
SUFFIXES: dict[str, Kind] = {".dat": "binary", ".bin": "binary", ".txt": "text", ".csv": "text"}

_LONGEST_LINE = 4096


def kind_of(path: Path) -> Kind:
    """Binary or text, by the suffix; `ConfigError` for one that says nothing."""
    try:
        return SUFFIXES[path.suffix.lower()]
    except KeyError:
        raise ConfigError(
            f"{path}: the suffix {path.suffix!r} does not say what is in the file: expected "
            f".dat or .bin (words) or .txt or .csv (unpacked rows)"
        ) from None


class WordFile:
    """One file of words. Iterate `chunks`; then `words` and `malformed` hold the counts so far.

    `malformed` counts lines that were no row and a torn last word (one, whatever is left of it;
    `torn_bytes` says how much). A last line without its line end counts as torn, too: nobody can
    tell 2 from the beginning of 28.
    """

    def __init__(self, path: Path | str, fmt: WordFormat, kind: Kind | None = None) -> None:
        self.path = Path(path)
        self.format = fmt
        self.kind: Kind = kind or kind_of(self.path)
        self.words = 0
        self.malformed = 0
        self.torn_bytes = 0

    def chunks(self, max_words: int = 1 << 16) -> Iterator[U64]:
        """Arrays (uint64) of at most `max_words` words each, in the order of the file.

        Raises `ConfigError` if the file cannot be opened or is something else.
        """
        try:
            file = self.path.open("rb")
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot be read: {error.strerror}") from error
        with file:
            pieces = (
                self._binary(file, max_words)
                if self.kind == "binary"
                else self._text(file, max_words)
            )
            for piece in pieces:
                self.words += len(piece)
                yield piece

    def _binary(self, file: BinaryIO, max_words: int) -> Iterator[U64]:
        rest = b""
        first = True
        while data := file.read(8 * max_words - len(rest)):
            data = rest + data
            if first:
                self._refuse_text(data[:512])
                first = False
            whole = len(data) // 8 * 8
            rest = data[whole:]
            if whole:
                yield np.frombuffer(data[:whole], "<u8").astype(np.uint64, copy=False)
        if rest:
            self.torn_bytes = len(rest)
            self.malformed += 1

    def _refuse_text(self, head: bytes) -> None:
        start = head.lstrip()[:5].lower()
        printable = all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head)
        if printable and (len(head) >= 32 or start.startswith((b"<", b"head,"))):
            raise ConfigError(
                f"{self.path}: expected binary words, found {_said(head)} in line 1: "
                f"{'a text file of rows ends in .txt or .csv' if start == b'head,' else _WHY}"
            )

    def _text(self, file: BinaryIO, max_words: int) -> Iterator[U64]:
        line = file.readline(_LONGEST_LINE)
        if line.removeprefix(b"\xef\xbb\xbf").replace(b" ", b"").strip() != HEADER:
            raise ConfigError(
                f"{self.path}: expected {HEADER.decode()} in line 1, found {_said(line)}: {_WHY}"
            )
        rest = b""
        too_long = False  # inside a line that is no row, whatever comes
        while data := file.read(max(2 * _LONGEST_LINE, 12 * max_words)):
            if too_long:
                data = data[data.find(b"\n") + 1 :] if b"\n" in data else b""
                too_long = not data
            data = rest + data
            whole = data.rfind(b"\n") + 1
            rest = data[whole:]
            if len(rest) > _LONGEST_LINE:
                self.malformed += 1
                rest, too_long = b"", True
            if whole:
                yield from self._rows(data[:whole], max_words)
        if rest.strip():
            self.malformed += 1

    def _rows(self, lines: bytes, max_words: int) -> Iterator[U64]:
        # No row is shorter than 12 bytes: "1,0,0,0,0,0" and its line end.
        out = np.empty(len(lines) // 12 + 1, np.uint64)
        fmt = self.format
        found, bad = parse_lines(np.frombuffer(lines, np.uint8), fmt.layout, int(fmt.shifted), out)
        self.malformed += int(bad)
        for first in range(0, found, max_words):
            yield out[first : min(found, first + max_words)]


_WHY = "this is not a recording of words"


def _said(line: bytes) -> str:
    """The beginning of line 1, fit for a sentence."""
    text = line.splitlines()[0][:60].decode("ascii", "backslashreplace") if line else ""
    if line.lstrip()[:1] == b"<":
        return f"{text!r} (HTML or XML)"
    return repr(text) if text else "an empty line" if line else "an empty file"
