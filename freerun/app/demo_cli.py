"""`freerun demo`: a simulated bench and a run of it, compared with the truth."""

from __future__ import annotations

from typing import Annotated

import typer

from freerun.app.up_cli import BenchArg, ClusterOpt, DataOpt


def add(app: typer.Typer) -> None:
    app.command(epilog="Example: `freerun demo --for 30s --kill`")(demo)


def demo(
    bench: BenchArg = None,
    data: DataOpt = None,
    cluster: ClusterOpt = None,
    for_: Annotated[str, typer.Option("--for", metavar="TIME", help="Length of the run.")] = "30 s",
    kill: Annotated[
        bool, typer.Option("--kill", help="Kill a worker and the writer in mid-run, too.")
    ] = False,
    port: Annotated[int, typer.Option(help="Of the web pages; 0 takes any free one.")] = 8050,
) -> None:
    """Run a simulated telescope of drift tubes, take a run, compare it with the truth.

    Exits 0 only if every row is accounted for and the events are exactly those of the whole
    stream, with the efficiency, purity and resolution that the geometry allows.
    """
    from freerun.app.demo import demo as run_demo
    from freerun.app.options import nanoseconds

    seconds = nanoseconds(for_) / 1e9
    run_demo(bench, data, cluster, port, seconds, kill)
