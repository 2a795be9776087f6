"""The simulated digitizer: two PMTs that see some of the telescope's muons, and background."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from freerun.driver import DriverContext
from freerun.rows import PULSE_SCHEMA, PulseCodec, Rows
from freerun.simulation import DigitizerConfig, block_pulses
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

    def make(self, block: int, clock: Clock) -> Rows:
        """A batch of `PULSE_SCHEMA`, ordered by (ticks, channel)."""
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
