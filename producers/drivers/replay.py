"""Recorded words as a source: at their own pace, at a given rate, or as fast as they are taken."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from freerun.config.units import HERTZ
from freerun.driver import Block, Driver, DriverConfig, DriverContext
from freerun.errors import ConfigError
from freerun.ticks import Clock
from freerun.words import TICKS_PER_ORBIT, get_format, move_orbits
from producers.drivers.recording import PIECE_WORDS, Piece, Recording

ANCHOR_NS = 1_700_000_000_000_000_000
"""Where tick 0 of a recording played live is put, if this source is the one that is asked."""

_NAP_S = 0.005
_LAG_NS = 1_000_000_000
_MOST_WORDS = 1 << 18
_DATA_WORDS = 1 << 12
"""Of each block with the clock of the data, however fast it goes: which words are late is decided
between blocks, and must not depend on the pace."""


def _rate(value: object) -> Any:
    """`"recorded"`, `"fast"`, or words per second."""
    if value in ("recorded", "fast"):
        return value
    try:
        rate = float(HERTZ.parse(value))
    except ValueError as error:
        raise ValueError(f'{error}; or "recorded", or "fast"') from None
    if rate <= 0:
        raise ValueError(f"a rate must be above 0, got {value!r}")
    return rate


class ReplayConfig(DriverConfig):
    """Keys of `driver = "replay"`. The word format is the source's own key `format`."""

    file: str | list[str] = Field(
        description="one recording, or its files in order: .dat .bin (words), .txt .csv (rows)"
    )
    rate: Annotated[float | Literal["recorded", "fast"], BeforeValidator(_rate)] = Field(
        "recorded", description='"recorded", words per second like "2 MHz", or "fast"'
    )
    loop: bool = Field(False, description="begin again at the end, for ever")
    passes: Annotated[int, Field(gt=0)] = Field(1, description="how often, if not for ever")
    shifted: bool | None = Field(
        None, description="text rows carry the ±1 of the format (the format's default if not told)"
    )

    @model_validator(mode="after")
    def _one_way(self) -> ReplayConfig:
        if not self.file:
            raise ValueError("file names no file")
        if self.loop and self.passes != 1:
            raise ValueError("loop is for ever: leave out passes")
        return self


class Replay(Driver):
    """Plays a recording.

    With the clock of the data the first pass gives the words as they are; each further pass is
    the same, later by the recording's duration and one orbit. Beside a live bench words are moved
    by whole orbits so that they happen when they are given, and never before their time: a rate
    above the recorded one has no effect there, and at a lower one time is stretched by jumps.
    """

    name = "replay"
    Config = ReplayConfig
    config: ReplayConfig

    def __init__(self, config: ReplayConfig, context: DriverContext) -> None:
        """Raises `ConfigError` when the source has no word format."""
        super().__init__(config, context)
        if context.format is None:
            raise ConfigError(f"source {context.source_id}: a replay needs the key format")
        self._format = get_format(context.format, shifted=config.shifted)
        self.schema, self.tick = self._format.name, self._format.tick
        files = [config.file] if isinstance(config.file, str) else config.file
        paths = [context.folder / Path(name).expanduser() for name in files]
        piece = _DATA_WORDS if context.clock == "data" else PIECE_WORDS
        self._recording = Recording(paths, self._format, context.fpga, piece)
        self._piece: Piece | None = None
        self._pass = 0
        self._shift = 0  # orbits
        self._started: int | None = None  # host ns when the pace began, …
        self._start_tick = 0  # … at this tick,
        self._given = 0  # and words given since
        self._settled = False  # live: the next word's time has been compared with now
        self._done = False

    def open(self) -> None:
        """Raises `ConfigError` for a file that is not there or is something else."""
        self._recording.open()
        self._piece = self._recording.next()

    def first_tick(self) -> int | None:
        """The first word's, unwrapped as recorded (orbits 0 … 2**32 − 1); None: no words."""
        return self._recording.first

    def estimate_anchor(self) -> int | None:
        """Beside a live bench any will do: words are moved to now. Recorded time begins at 0."""
        return 0 if self.context.clock == "data" else ANCHOR_NS

    def skip(self) -> None:
        """A recording waits; it goes on later with its words moved to then."""
        self._settled = False
        self._started = None

    def close(self) -> None:
        """Close the file."""
        self._recording.close()

    def read(self) -> Block | None:
        """The words that are due. After the end, with the clock of the data: `end`; live: no
        words, and the promise that the silence is one."""
        piece = self._current()
        if piece is None:
            data = self.context.clock == "data"
            if not data:
                time.sleep(_NAP_S)
            promise = None if data else self._clock().tick_at(self.context.now())
            return Block(self._recording.nothing(), promise, malformed=self._malformed(), end=data)
        n = self._due(piece)
        if n == 0:
            time.sleep(_NAP_S)
            return None
        words = piece.take(n)
        self._given += n
        if self._shift:
            words = move_orbits(words, self._format, self._shift)
        return Block(words, None, malformed=self._malformed())

    def _malformed(self) -> int:
        return self._recording.malformed

    def _current(self) -> Piece | None:
        """The piece with the next word; begins the next pass when one is over."""
        while not self._done and (self._piece is None or not self._piece.left):
            self._piece = self._recording.next()
            if self._piece is not None:
                continue
            self._pass += 1
            if self._recording.first is None or not (
                self.config.loop or self._pass < self.config.passes
            ):
                self._done = True
                break
            self._shift += self._recording.orbits + 1
            self._recording.rewind()
        return None if self._done else self._piece

    def _due(self, piece: Piece) -> int:
        """How many words of the piece may be given now."""
        now = self.context.now()
        live = self.context.clock != "data"
        most = _MOST_WORDS
        if live:
            self._settle(piece, now)
            most = min(most, piece.until(self._clock().tick_at(now) - self._moved()))
        if isinstance(self.config.rate, float):
            self._begin(piece, now)
            most = min(most, int(self._passed(now) * self.config.rate / 1e9) - self._given)
        elif self.config.rate == "recorded" and not live:
            self._begin(piece, now)
            passed = self._passed(now) * self.tick.denominator // self.tick.numerator
            most = min(most, piece.until(self._start_tick + passed - self._moved()))
        if not live:
            return piece.left if most >= piece.left else 0
        return max(0, min(most, piece.left))

    def _begin(self, piece: Piece, now: int) -> None:
        """The pace is counted from here."""
        if self._started is None:
            self._started, self._given = now, 0
            self._start_tick = piece.tick + self._moved()

    def _passed(self, now: int) -> int:
        """Host time since the pace began, ns."""
        return 0 if self._started is None else now - self._started

    def _settle(self, piece: Piece, now: int) -> None:
        """Live: move the next word to now if it has been waiting, or lies ahead at the start."""
        lag = self._clock().tick_at(now) - piece.tick - self._moved()
        lag_ns = lag * self.tick.numerator // self.tick.denominator
        if self._settled and lag_ns <= _LAG_NS:
            return
        if not self._settled or lag > 0:
            self._shift += -(-lag // TICKS_PER_ORBIT)
        self._settled = True

    def _moved(self) -> int:
        return self._shift * TICKS_PER_ORBIT

    def _clock(self) -> Clock:
        told = self.context.anchor_ns
        anchor = ANCHOR_NS if told is None else told
        return Clock(anchor, self.tick.numerator, self.tick.denominator, self.context.offset_ps)
