"""When simulated blocks of experiment time are due: as time passes, or as fast as they are asked.

What the drivers of simulated devices share.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Sequence
from fractions import Fraction
from typing import Annotated, Any

from pydantic import Field

from freerun.driver import Block, Driver, DriverConfig, DriverContext
from freerun.errors import ConfigError
from freerun.rows import Rows, codec
from freerun.simulation import BLOCK_NS, TelescopeConfig
from freerun.ticks import Clock

_NAP_S = 0.005
_BUDGET_NS = 60_000_000  # of host time for one read, catching up


class SimulatedConfig(DriverConfig):
    """Keys of every simulated device. What is simulated stands in [simulation]."""

    anchor_ns: int = Field(
        1_700_000_000_000_000_000, description="experiment time of tick 0, if this source is asked"
    )
    first_block: Annotated[int, Field(ge=0)] | None = Field(
        None, description="with the clock of the data: block (10 ms since 1970) to begin with"
    )
    blocks: Annotated[int, Field(gt=0)] | None = Field(
        None, description="with the clock of the data: how many, then the source ends"
    )
    speed: Annotated[float, Field(gt=0)] | None = Field(
        None, description="with the clock of the data: times real time; as fast as possible if not"
    )
    catch_up: Annotated[int, Field(gt=0, le=100)] = Field(10, description="most blocks of one read")


class SimulatedDriver(Driver):
    """Gives whole blocks, in order, each once its end is past, and promises the next one's start.

    A block is due by host time; a told range of blocks, for a run with the clock of the data, as
    fast as it is asked for or at `speed`.
    """

    Config = SimulatedConfig
    config: SimulatedConfig

    def __init__(self, config: SimulatedConfig, context: DriverContext) -> None:
        """Raises `ConfigError` when there is nothing to simulate, or no end to it."""
        super().__init__(config, context)
        if context.telescope is None:
            raise ConfigError(
                f"source {context.source_id}: driver {self.name!r} needs the section [simulation]"
            )
        if (config.first_block is None) != (config.blocks is None):
            raise ConfigError(
                f"source {context.source_id}: first_block and blocks belong together: they say "
                f"what to simulate with the clock of the data (leave both out for a live bench)"
            )
        if config.speed is not None and config.blocks is None:
            raise ConfigError(
                f"source {context.source_id}: speed is for first_block and blocks; beside a live "
                f"bench simulated time is now"
            )
        self.telescope: TelescopeConfig = context.telescope
        self._next = 0
        self._end: int | None = None
        self._opened = 0

    def open(self) -> None:
        """Begin with the block that is going on now, or the first one asked for."""
        self._opened = self.context.now()
        if self.config.first_block is not None and self.config.blocks is not None:
            self._next = self.config.first_block
            self._end = self._next + self.config.blocks
        else:
            self._next = self._opened // BLOCK_NS
        self.make(self._next, self.clock())  # compiles what a run must not wait for

    def estimate_anchor(self) -> int | None:
        """The configured one: simulated clocks are perfect."""
        return self.config.anchor_ns

    def first_tick(self) -> int | None:
        """The start of the next block."""
        return self.clock().tick_at(self._next * BLOCK_NS)

    def clock(self) -> Clock:
        """The source's clock, with the plan's anchor once it is known."""
        told = self.context.anchor_ns
        anchor = self.config.anchor_ns if told is None else told
        return Clock(anchor, self.tick.numerator, self.tick.denominator, self.context.offset_ps)

    def read(self) -> Block | None:
        """The blocks that are due, at most `catch_up`; None after a nap if none is."""
        clock = self.clock()
        if self._end is not None and self._next >= self._end:
            empty = codec(self.schema).concat([])
            return Block(empty, clock.tick_at(self._next * BLOCK_NS), end=True)
        due = self._due()
        if self._next >= due:
            time.sleep(_NAP_S)
            return None
        began = time.monotonic_ns()
        rows: list[Any] = []
        last = min(due, self._next + self.config.catch_up)
        while self._next < last and time.monotonic_ns() - began < _BUDGET_NS:
            rows.append(self.make(self._next, clock))
            self._next += 1
        return Block(
            self.join(rows), clock.tick_at(self._next * BLOCK_NS), end=self._next == self._end
        )

    def skip(self) -> None:
        """What nobody wants is not even made."""
        if self._end is None:
            self._next = self.context.now() // BLOCK_NS

    def _due(self) -> int:
        """The first block that is not past yet."""
        if self._end is None:
            return self.context.now() // BLOCK_NS
        if self.config.speed is None:
            return self._end
        passed = int((self.context.now() - self._opened) * self.config.speed)
        return min(self._end, (self.config.first_block or 0) + passed // BLOCK_NS)

    @abstractmethod
    def make(self, block: int, clock: Clock) -> Rows:
        """The rows of one block."""

    def join(self, rows: Sequence[Rows]) -> Rows:
        """The rows of several blocks as one."""
        return codec(self.schema).concat(rows)


def per_sample(sample_ps: int) -> Fraction:
    """The tick, in ns, of a device that counts samples."""
    return Fraction(sample_ps, 1000)
