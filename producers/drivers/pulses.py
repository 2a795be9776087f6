"""The simulated digitizer: two PMTs that see some of the telescope's muons, and background."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from freerun.driver import DriverContext
from freerun.rows import PULSE_SCHEMA, PulseCodec, Rows
from freerun.simulation import BLOCK_NS, CYCLE_BLOCKS, DigitizerConfig, block_pulses
from freerun.ticks import Clock
from producers.drivers.blocks import SimulatedConfig, SimulatedDriver, per_sample


class Pulses(SimulatedDriver):
    """250 MS/s, records of 400 ns; the native tick is a sample, 4 ns."""

    name = "pulses"
    schema = PulseCodec.name

    def __init__(self, config: SimulatedConfig, context: DriverContext) -> None:
        """See `SimulatedDriver`."""
        super().__init__(config, context)
        self.digitizer = DigitizerConfig()
        self.tick = per_sample(self.digitizer.sample_ps)
        self._made: dict[int, tuple[Clock, int, Rows]] = {}  # a cycle's blocks, if they repeat

    def make(self, block: int, clock: Clock) -> Rows:
        """A batch of `PULSE_SCHEMA`, ordered by (ticks, channel)."""
        if not self.telescope.repeat:
            return self._simulate(block, clock)
        told, first, batch = self._made.get(block % CYCLE_BLOCKS) or (None, 0, None)
        if told != clock or batch is None:
            batch = self._simulate(block, clock)
            self._made[block % CYCLE_BLOCKS] = (clock, block, batch)
            return batch
        later = (block - first) * BLOCK_NS * 1000 // self.digitizer.sample_ps
        ticks = pa.array(batch.column("ticks").to_numpy() + later)
        return batch.set_column(0, PULSE_SCHEMA.field(0), ticks)

    def _simulate(self, block: int, clock: Clock) -> Rows:
        pulses = block_pulses(self.telescope, block, clock, self.digitizer)
        n, length = pulses.samples.shape
        samples = pa.ListArray.from_arrays(
            pa.array(np.arange(n + 1, dtype=np.int32) * length), pa.array(pulses.samples.ravel()),
            type=PULSE_SCHEMA.field("samples").type,
        )  # fmt: skip
        return pa.RecordBatch.from_arrays(
            [pa.array(pulses.ticks), pa.array(pulses.channel), pa.array(pulses.flags), samples],
            schema=PULSE_SCHEMA,
        )
