"""A simulated telescope and digitizer with known truth: pure functions of (seed, block).

No input, no output, no state: whoever sends the words, checks them or writes the truth computes
the same thing.
"""

from __future__ import annotations

from freerun.simulation.config import (
    BLOCK_NS,
    CYCLE_BLOCKS,
    CYCLE_ORBITS,
    OVERLAP_NS,
    Chamber,
    Geometry,
    TelescopeConfig,
)
from freerun.simulation.muons import TRUTH, block_truth
from freerun.simulation.pulses import DigitizerConfig, Pulses, block_pulses
from freerun.simulation.telescope import block_words

__all__ = [
    "BLOCK_NS", "CYCLE_BLOCKS", "CYCLE_ORBITS", "OVERLAP_NS", "TRUTH", "Chamber",
    "DigitizerConfig", "Geometry", "Pulses", "TelescopeConfig", "block_pulses",
    "block_truth", "block_words",
]  # fmt: skip
