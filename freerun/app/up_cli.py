"""`freerun up`: the bench until Ctrl-C."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

BenchArg = Annotated[
    Path | None,
    typer.Argument(
        metavar="[BENCH]", help="The configuration; ./bench.toml or the demo's if left out."
    ),
]
DataOpt = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="Folder of the runs, if not the bench's own."),
]
ClusterOpt = Annotated[
    Path | None,
    typer.Option("--cluster", metavar="FILE", help="Scale: partitions, workers, broker."),
]


def add(app: typer.Typer) -> None:
    app.command(epilog="Example: `freerun up configs/bench.toml --data /data/telescope`")(up)


def up(
    bench: BenchArg = None,
    data: DataOpt = None,
    cluster: ClusterOpt = None,
    port: Annotated[int, typer.Option(help="Of the web pages; 0 takes any free one.")] = 8050,
) -> None:
    """Run the bench until Ctrl-C: broker, sources, Dask, controllers, web pages.

    Each in a process of its own, started again when it dies, stopped in order at the end. Ctrl-C
    in a run first stops the run; a second Ctrl-C does not wait for it.
    """
    from freerun.app.session import Session

    with Session.open(bench, data, cluster, port) as session:
        session.until_interrupted()
