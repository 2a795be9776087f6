"""A TDC board of the simulated telescope: words of block after block of experiment time."""

from __future__ import annotations

from freerun.driver import DriverContext
from freerun.errors import ConfigError
from freerun.rows import Rows, codec
from freerun.simulation import CYCLE_BLOCKS, CYCLE_ORBITS, block_words
from freerun.ticks import Clock
from freerun.words import move_orbits
from producers.drivers.blocks import SimulatedConfig, SimulatedDriver


class Simulate(SimulatedDriver):
    """The board `fpga`, or all boards in one stream."""

    name = "simulate"

    def __init__(self, config: SimulatedConfig, context: DriverContext) -> None:
        """Raises `ConfigError` for a board that the telescope does not have."""
        super().__init__(config, context)
        fmt = self.telescope.word_format
        if context.format is not None and context.format != fmt.name:
            raise ConfigError(
                f"source {context.source_id}: the simulation writes {fmt.name}, "
                f"the source says format = {context.format!r}"
            )
        boards = self.telescope.boards
        if context.fpga is not None and context.fpga not in boards:
            known = ", ".join(str(b) for b in boards)
            raise ConfigError(
                f"source {context.source_id}: fpga = {context.fpga} reads no chamber of the "
                f"simulated telescope, which has boards {known}"
            )
        self.boards = boards if context.fpga is None else (context.fpga,)
        self.schema = fmt.name
        self.tick = fmt.tick
        self._made: dict[int, tuple[Clock, int, Rows]] = {}  # a cycle's blocks, if they repeat

    def make(self, block: int, clock: Clock) -> Rows:
        """Words (uint64) of the board(s) in arrival order, board after board."""
        if not self.telescope.repeat:
            return self._simulate(block, clock)
        told, first, words = self._made.get(block % CYCLE_BLOCKS) or (None, 0, None)
        if told != clock or words is None:
            words = self._simulate(block, clock)
            self._made[block % CYCLE_BLOCKS] = (clock, block, words)
            return words
        orbits = (block - first) // CYCLE_BLOCKS * CYCLE_ORBITS
        return move_orbits(words, self.telescope.word_format, orbits)

    def _simulate(self, block: int, clock: Clock) -> Rows:
        words = [block_words(self.telescope, block, board, clock) for board in self.boards]
        return codec(self.schema).concat(words)
