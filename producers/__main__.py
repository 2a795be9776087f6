"""`python -m producers`: one source."""

from __future__ import annotations

from freerun import config, service
from freerun.config import Bench
from freerun.config.simulation import telescope
from freerun.config.sources import Source
from freerun.driver import Driver, DriverContext
from freerun.simulation import TelescopeConfig
from producers.source import SourceProcess


def make_driver(bench: Bench, source: Source, clock: str = "host") -> Driver:
    """The source's driver, with its own keys checked."""
    kind, told = config.driver_of(bench, source.id)
    simulated: TelescopeConfig | None = None
    if bench.simulation is not None:
        simulated = telescope(bench, source.id if source.driver == "simulate" else None)
    context = DriverContext(
        source.id,
        fpga=source.fpga if isinstance(source.fpga, int) else None,
        format=source.format,
        offset_ps=source.clock.offset,
        folder=bench.folder,
        clock=clock,
        telescope=simulated,
    )
    driver: Driver = kind(told, context)
    return driver


def main() -> None:
    arguments = service.parser("python -m producers", "Reads one source out into Kafka.")
    arguments.add_argument("--source", required=True, help="id of a [[source]]")
    arguments.add_argument("--clock", choices=("host", "data"), default="host",
                           help="data: a recording on its own time (freerun replay)")  # fmt: skip
    me = service.start(arguments)
    source = me.bench.source(me.args.source)
    driver = make_driver(me.bench, source, me.args.clock)
    SourceProcess(me, source, driver).run(me.stopping.is_set)


if __name__ == "__main__":
    service.run(main)
