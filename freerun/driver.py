"""What a driver is: it talks to one kind of device and gives rows and a promise.

A driver of one's own is a class with a `Config`, `open`, `read` and `close`, registered under the
entry point `freerun.drivers` or named in the configuration as `module:Class`.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from freerun.rows import Rows
from freerun.simulation.config import TelescopeConfig


@dataclass
class Block:
    """What one `Driver.read` returns."""

    rows: Rows
    """As they came: words (uint64 array) or an Arrow batch, according to the driver's schema."""
    promise: int | None
    """No row earlier than this tick (raw or unwrapped) will follow; None: the driver cannot say,
    and the configured windows stand in."""
    lost: int = 0
    """What the hardware says it lost, since `open`."""
    malformed: int = 0
    """Rows that were none (torn words, lines that are no row), since `open`."""
    end: bool = False
    """The driver will give no more rows: a file at its end."""


@dataclass
class DriverContext:
    """What a driver is told about its place; the same for all kinds."""

    source_id: str
    fpga: int | None = None
    """The board to read; None: all there are."""
    format: str | None = None
    """Word format of the source, as configured."""
    anchor_ns: int | None = None
    """Experiment time of tick 0 of the clock domain; None until the plan says it."""
    offset_ps: int = 0
    """Of this source within its domain."""
    now: Callable[[], int] = time.time_ns
    """Host time, ns since the Unix epoch."""
    folder: Path = field(default_factory=Path.cwd)
    """Where relative paths of the configuration begin."""
    clock: str = "host"
    """"host": experiment time is now. "data": it is the recording's, and nothing waits for the
    host's clock. Set before rows of a run are wanted, with the anchor."""
    telescope: TelescopeConfig | None = None
    """The simulated experiment, for drivers that simulate."""


class DriverConfig(BaseModel):
    """Base of a driver's own configuration keys: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Driver(ABC):
    """One device. Every method is called from one thread; only `open` and `read` may wait."""

    name: ClassVar[str]
    Config: ClassVar[type[BaseModel]]
    schema: str
    """A name in `freerun.rows.SCHEMAS`, set when the driver is made."""
    tick: Fraction
    """A native tick in ns, set when the driver is made."""

    def __init__(self, config: BaseModel, context: DriverContext) -> None:
        """Take the checked configuration; touch no device yet."""
        self.config = config
        self.context = context

    @abstractmethod
    def open(self) -> None:
        """Connect. Raises `ConfigError` or `EnvironmentProblem` with what is wrong."""

    @abstractmethod
    def read(self) -> Block | None:
        """Rows since the last call, or None if there are none; waits less than 100 ms."""

    def skip(self) -> None:
        """Nobody wants rows now: throw away what has come, so that nothing old is read later."""
        self.read()

    def close(self) -> None:  # noqa: B027 - optional
        """Let go of the device. Called once, also after an error."""

    def estimate_anchor(self) -> int | None:
        """After `open`: experiment time (ns) of tick 0 as this device sees it, or None.

        What the reference source says first becomes the anchor of its clock domain.
        """
        return None

    def first_tick(self) -> int | None:
        """After `open`: an unwrapped tick near the first row, to unwrap the first rows by; or
        None if the anchor and the host's time tell it."""
        return None

    def set_anchor(self, anchor_ns: int, clock: str | None = None) -> None:
        """The plan's anchor and clock, once known; called before rows of a run are wanted."""
        self.context.anchor_ns = anchor_ns
        if clock is not None:
            self.context.clock = clock
