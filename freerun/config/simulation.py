"""[simulation]: the beam and the imperfections that all simulated sources, and the truth, share.

Where the chambers stand and how they are read out is not said here again: that is taken from the
detectors and their calibration (`telescope`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from freerun.config.base import BOARDS, Section
from freerun.config.detectors import DriftChamber, Fpga, Scintillator
from freerun.config.geometry import Geometry
from freerun.config.units import Hertz, Mm, Ns, Ps
from freerun.errors import ConfigError

if TYPE_CHECKING:
    from freerun.config.models import Bench
    from freerun.config.pulsers import Pulser
    from freerun.config.sources import Source
    from freerun.simulation.config import TelescopeConfig

Fraction01 = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[Hertz, Field(ge=0, le=50e6)]


class ChannelName(Section):
    """One channel of one board."""

    fpga: Fpga
    channel: Annotated[int, Field(ge=0, lt=512)]


class NoisyChannel(ChannelName):
    """One that fires by itself."""

    rate: Rate


class Simulation(Section):
    """Defaults are a quiet telescope in a 50 kHz beam."""

    seed: Annotated[int, Field(ge=0)] = 1
    muon_rate: Rate = 50_000.0
    noise: Rate = Field(default=100.0, description="of every tube")
    noisy: list[NoisyChannel] = Field(default=[], description="on top of it")
    dead: list[ChannelName] = Field(default=[])
    inefficiency: Fraction01 = Field(default=0.03, description="of every layer")
    resolution: Annotated[Ps, Field(ge=0)] = Field(default=3_000, description="σ of a drift time")
    spot: Annotated[Mm, Field(gt=0)] = Field(
        default=250.0, description="beam in ± this, in x and y"
    )
    angle_mrad: Annotated[float, Field(ge=0)] = Field(default=15.0, description="σ of the slopes")
    scintillator_jitter: Annotated[Ps, Field(ge=0)] = 1_000
    scintillator_efficiency: Fraction01 = 0.98
    trigger_efficiency: Fraction01 = Field(
        default=0.9, description="of chambers with 3 layers or more"
    )
    pmt_acceptance: Fraction01 = Field(
        default=0.1, description="muons that give light in both PMTs"
    )
    disorder: Annotated[Ns, Field(ge=0)] = Field(
        default=400, description="words come up to this late"
    )
    late_fraction: Fraction01 = Field(default=0.002, description="… and this fraction of them")
    late_max: Annotated[Ns, Field(ge=0)] = Field(default=3_000, description="… up to this late")
    repeat: bool = Field(
        default=False,
        description="the same 8.91 s (100000 orbits) again and again: sources then only move the "
        "times of words made before, for benches that measure all but the simulation",
    )


def _pulser(source: Source, told: Pulser) -> tuple[tuple[int, int], float]:
    board = told.fpga if source.all_boards else source.fpga
    assert isinstance(board, int)  # checked when the file was read
    return (board, told.channel), told.rate


def _is_pulser(source: Source, detector: Scintillator) -> bool:
    """Is this the pulser of its source? No muon ever fires that."""
    told = source.pulser
    same_board = not source.all_boards or (told is not None and told.fpga == detector.fpga)
    return told is not None and detector.channels == [told.channel] and same_board


def telescope(bench: Bench, source: str | None = None) -> TelescopeConfig:
    """The telescope that the simulated sources of `bench` see; words in the format of `source`
    (of the first simulated source if not told; muons and times do not depend on it).

    Raises `ConfigError` if there is no [simulation] or the detectors cannot be simulated.
    """
    from freerun.simulation.config import Chamber, TelescopeConfig
    from freerun.simulation.config import Geometry as Simulated

    told = bench.simulation
    if told is None:
        raise ConfigError("a simulated source needs the section [simulation]: at least its seed")
    boards = {s.id: s for s in bench.sources if s.driver == "simulate"}
    if source is None:
        source = next(iter(boards), None)
    detectors = [d for d in bench.detectors if d.source in boards]
    chambers = [d for d in detectors if isinstance(d, DriftChamber)]
    counters = [
        d for d in detectors if isinstance(d, Scintillator) and not _is_pulser(boards[d.source], d)
    ]
    if source not in boards or not chambers:
        raise ConfigError("the simulation needs a source with driver = \"simulate\", and drift "
                          "chambers on it")  # fmt: skip
    if len(counters) != 1 or len(counters[0].channels) != 1:
        raise ConfigError("the simulation knows exactly one scintillator with one channel, "
                          f"got {', '.join(d.id for d in counters) or 'none'}")  # fmt: skip

    def board(d: DriftChamber | Scintillator) -> int:
        fpga = boards[d.source].fpga if d.fpga is None else d.fpga
        assert isinstance(fpga, int) and fpga < BOARDS  # checked when the file was read
        return fpga

    places = Geometry.of(bench)
    constants = {c.id: c for c in places.chambers}
    delays = {c.id: c.delay_ps for c in places.scintillators}
    like = chambers[0]
    for d in chambers:
        same = (d.layer_of, d.shift, d.cell) == (like.layer_of, like.shift, like.cell)
        if not same or constants[d.id].t_max_ps != constants[like.id].t_max_ps:
            raise ConfigError(f"the simulation knows chambers of one kind only: {d.id} differs "
                              f"from {like.id} in layer_of, shift, cell or drift_time")  # fmt: skip
        if d.position.x:
            raise ConfigError(f"the simulation knows no position.x, {d.id} has one: leave it out")
    a, b, c, e = like.layer_of
    return TelescopeConfig(
        seed=told.seed,
        muon_rate_hz=told.muon_rate,
        noise_hz_per_tube=told.noise,
        noisy={(n.fpga, n.channel): n.rate for n in told.noisy},
        pulsers=dict(_pulser(s, s.pulser) for s in boards.values() if s.pulser is not None),
        dead=tuple((n.fpga, n.channel) for n in told.dead),
        inefficiency=told.inefficiency,
        resolution_ps=float(told.resolution),
        spot_mm=told.spot,
        angle_mrad=told.angle_mrad,
        scintillator_delay_ns=delays[counters[0].id] / 1000,
        scintillator_jitter_ps=float(told.scintillator_jitter),
        scintillator_efficiency=told.scintillator_efficiency,
        trigger_efficiency=told.trigger_efficiency,
        pmt_acceptance=told.pmt_acceptance,
        disorder_ns=float(told.disorder),
        late_fraction=told.late_fraction,
        late_max_ns=float(told.late_max),
        repeat=told.repeat,
        format=str(boards[source].format),
        geometry=Simulated(
            chambers=tuple(
                Chamber(
                    board(d), d.channels[0], d.position.z, d.position.rotate == 90,
                    constants[d.id].trigger_latency_ps / 1000,
                )
                for d in chambers
            ),
            layer_of=(a, b, c, e),
            shift=(like.shift[0], like.shift[1], like.shift[2], like.shift[3]),
            cell_mm=(like.cell[0], like.cell[1]),
            drift_max_ns=constants[like.id].t_max_ps / 1000,
            scintillator=(board(counters[0]), counters[0].channels[0]),
        ),
    )  # fmt: skip
