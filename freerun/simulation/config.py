"""What the simulated telescope is: geometry, rates, imperfections. Plain frozen data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from freerun.errors import ConfigError
from freerun.words import WordFormat, get_format

BLOCK_NS = 10_000_000
"""Words and truth are made in blocks of experiment time [b·10 ms, (b+1)·10 ms)."""
OVERLAP_NS = 2_000
"""No word of a block is earlier than its start, none later than its end plus this."""
CYCLE_BLOCKS, CYCLE_ORBITS = 891, 100_000
"""The shortest time that is whole blocks and whole orbits: 8.91 s."""

MAX_BOARDS, MAX_CHANNELS = 8, 512


@dataclass(frozen=True)
class Chamber:
    """One drift-tube chamber: where it is read out and where it stands."""

    board: int
    first_channel: int
    """0 or 64."""
    z: float
    """Of its middle, mm."""
    rotated: bool
    """Measures y instead of x."""
    latency_ns: float
    """Trigger words are tagged with the bunch crossing that holds t0 + latency; so t0 is best
    estimated by tag + 12.5 ns − latency."""


DEFAULT_CHAMBERS = (
    Chamber(0, 0, 219.8, False, 498.9),
    Chamber(0, 64, 977.3, True, 506.4),
    Chamber(1, 0, 1035.6, False, 500.5),
    Chamber(1, 64, 1819.8, True, 497.4),
)


@dataclass(frozen=True)
class Geometry:
    """All that a track needs to become channels and times.

    The wire of (layer, cell) is at (cell + 0.5 + shift[layer − 1] − cells/2)·width from the axis,
    its layer at z + (layer − 2.5)·height.
    """

    chambers: tuple[Chamber, ...] = DEFAULT_CHAMBERS
    layer_of: tuple[int, int, int, int] = (4, 2, 3, 1)
    """Layer 1…4 of raw channel % 4."""
    shift: tuple[float, float, float, float] = (0.5, 0.0, 0.5, 0.0)
    """Of layers 1…4, in cells."""
    cell_mm: tuple[float, float] = (42.0, 13.0)
    cells: int = 16
    drift_max_ns: float = 390.0
    """Drift time over half a cell."""
    scintillator: tuple[int, int] = (1, 128)
    """Board and raw channel."""


class Tables(NamedTuple):
    """`TelescopeConfig` as arrays for the kernels."""

    board: npt.NDArray[np.int64]  # per chamber, as the next four
    first_channel: npt.NDArray[np.int64]
    z: npt.NDArray[np.float64]
    rotated: npt.NDArray[np.uint8]
    latency_ps: npt.NDArray[np.int64]
    channel: npt.NDArray[np.int64]  # [layer − 1, cell] → channel within the chamber
    shift: npt.NDArray[np.float64]  # per layer
    alive: npt.NDArray[np.uint8]  # [board, channel]
    numbers: npt.NDArray[np.float64]  # see `muons`: spot, slope, ps per mm, …


@dataclass(frozen=True)
class TelescopeConfig:
    """A beam on four chambers, with everything that goes wrong in a real one."""

    seed: int = 1
    muon_rate_hz: float = 50_000.0
    noise_hz_per_tube: float = 100.0
    noisy: Mapping[tuple[int, int], float] = field(default_factory=dict)
    """(board, raw channel) → Hz, on top."""
    pulsers: Mapping[tuple[int, int], float] = field(default_factory=dict)
    """(board, raw channel) → Hz, exactly periodic; nothing else may fire there."""
    dead: tuple[tuple[int, int], ...] = ()
    inefficiency: float = 0.03
    """Per layer."""
    resolution_ps: float = 3_000.0
    """σ of the drift time (nearly normal, cut at ±4.9 σ, reflected at zero drift)."""
    spot_mm: float = 250.0
    """Muons are uniform in ±spot at z = 0, in x and y."""
    angle_mrad: float = 15.0
    """σ of the slopes."""
    scintillator_delay_ns: float = 95.0
    scintillator_jitter_ps: float = 1_000.0
    scintillator_efficiency: float = 0.98
    trigger_efficiency: float = 0.9
    """Per muon and chamber with three layers or more."""
    pmt_acceptance: float = 0.1
    """Fraction of the muons that give light in both PMTs."""
    disorder_ns: float = 400.0
    """Every word arrives up to this much after its time …"""
    late_fraction: float = 0.002
    """… but this fraction (steps of 2⁻¹⁶) up to `late_max_ns` after."""
    late_max_ns: float = 3_000.0
    repeat: bool = False
    """The muons of the first `CYCLE_BLOCKS` come again and again."""
    format: str = "padova-v1"
    geometry: Geometry = field(default_factory=Geometry)

    def __post_init__(self) -> None:
        """Refuse what the block overlap, the words' bits or probability do not allow."""
        for name in ("inefficiency", "scintillator_efficiency", "trigger_efficiency",
                     "pmt_acceptance", "late_fraction"):  # fmt: skip
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"simulation: {name} is a fraction, got {getattr(self, name)}")
        for name in ("muon_rate_hz", "noise_hz_per_tube"):
            if not 0 <= getattr(self, name) <= 50e6:
                raise ConfigError(f"simulation: {name} must be 0…5e7, got {getattr(self, name)}")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"simulation: seed must be 0…2**63 − 1, got {self.seed}")
        if not 0 <= self.disorder_ns <= self.late_max_ns:
            raise ConfigError("simulation: disorder_ns must lie between 0 and late_max_ns")
        geometry = self.geometry
        reach = max(
            geometry.drift_max_ns * (1 + 1e-9) + 5 * self.resolution_ps / 1000,
            self.scintillator_delay_ns + 5 * self.scintillator_jitter_ps / 1000,
            *(c.latency_ns for c in geometry.chambers),
        )
        if reach > OVERLAP_NS:
            raise ConfigError(
                f"simulation: words may follow their muon by at most {OVERLAP_NS} ns, "
                f"drift, scintillator or trigger latency reach {reach:.0f} ns"
            )
        if sorted(geometry.layer_of) != [1, 2, 3, 4] or not 1 <= geometry.cells <= 16:
            raise ConfigError("simulation: layer_of must name layers 1 to 4, cells be 1 to 16")
        for chamber in geometry.chambers:
            if chamber.first_channel not in (0, 64) or not 0 <= chamber.board < MAX_BOARDS:
                raise ConfigError(f"simulation: {chamber} has no place in the words")
            if self.word_format.layout == 1 and chamber.board > 1:
                raise ConfigError(f"simulation: v1 triggers know boards 0 and 1, not {chamber}")
            if chamber.latency_ns < 25:
                raise ConfigError("simulation: a trigger latency must be at least 25 ns")
        for board, channel in (*self.noisy, *self.dead, *self.pulsers, geometry.scintillator):
            if not (0 <= board < MAX_BOARDS and 0 <= channel < MAX_CHANNELS):
                raise ConfigError(f"simulation: there is no board {board} channel {channel}")
        self._check_pulsers()

    def _check_pulsers(self) -> None:
        """A pulser fires at its rate, and by nothing else."""
        chambers = self.geometry.chambers
        for (board, channel), rate in self.pulsers.items():
            of_chamber = any(
                c.board == board and 0 <= channel - c.first_channel < 4 * self.geometry.cells
                for c in chambers
            )
            if of_chamber or (board, channel) in (
                *self.noisy, *self.dead, self.geometry.scintillator
            ):  # fmt: skip
                raise ConfigError(
                    f"simulation: the pulser on board {board} channel {channel} needs a channel of "
                    "its own: not of a chamber or the scintillator, not noisy, not dead"
                )
            if rate <= 0:
                raise ConfigError(f"simulation: a pulser's rate must be above 0, got {rate}")
            if self.repeat and (Fraction(repr(rate)) * CYCLE_BLOCKS * BLOCK_NS) % 10**9:
                raise ConfigError(
                    f"simulation: with repeat = true a pulser must fit into 8.91 s: {rate:g} Hz "
                    "does not, 100 Hz does"
                )

    def drawn(self, block: int) -> int:
        """The block whose random numbers `block` is made of."""
        return block % CYCLE_BLOCKS if self.repeat else block

    @cached_property
    def word_format(self) -> WordFormat:
        """The format the words are written in."""
        return get_format(self.format)

    @cached_property
    def boards(self) -> tuple[int, ...]:
        """Boards that have something to say, in order."""
        geometry = self.geometry
        pulsers = {board for board, _ in self.pulsers}
        return tuple(
            sorted({c.board for c in geometry.chambers} | {geometry.scintillator[0]} | pulsers)
        )

    @cached_property
    def tables(self) -> Tables:
        """Everything as arrays."""
        geometry = self.geometry
        chambers = geometry.chambers
        channel = np.zeros((4, geometry.cells), np.int64)
        for rest, layer in enumerate(geometry.layer_of):
            channel[layer - 1] = 4 * np.arange(geometry.cells) + rest
        alive = np.ones((MAX_BOARDS, MAX_CHANNELS), np.uint8)
        for board, number in self.dead:
            alive[board, number] = 0
        width, height = geometry.cell_mm
        numbers = [
            self.spot_mm, self.angle_mrad / 1000, width, height,
            geometry.drift_max_ns * 1000 / (width / 2), self.resolution_ps, self.inefficiency,
            self.scintillator_delay_ns * 1000, self.scintillator_jitter_ps,
            self.scintillator_efficiency, self.trigger_efficiency, self.pmt_acceptance,
            self.disorder_ns * 1000, self.late_fraction, self.late_max_ns * 1000,
        ]  # fmt: skip
        return Tables(
            np.array([c.board for c in chambers], np.int64),
            np.array([c.first_channel for c in chambers], np.int64),
            np.array([c.z for c in chambers], np.float64),
            np.array([c.rotated for c in chambers], np.uint8),
            np.array([round(c.latency_ns * 1000) for c in chambers], np.int64),
            channel,
            np.array(geometry.shift, np.float64),
            alive,
            np.array(numbers, np.float64),
        )
