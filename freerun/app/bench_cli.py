"""`freerun bench transactions | end-to-end`: measured on this machine, named with it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from freerun.app.up_cli import BenchArg

group = typer.Typer(
    help="Benchmarks: printed with the machine they ran on.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
JsonOpt = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write the rows, too.")
]


def add(app: typer.Typer) -> None:
    app.add_typer(group, name="bench")


@group.command(epilog="Example: `freerun bench transactions`")
def transactions(
    seconds: Annotated[float, typer.Option(help="Time for each row of the table.")] = 5.0,
    size: Annotated[int, typer.Option(help="Bytes of results in a transaction.")] = 200_000,
    json_file: JsonOpt = None,
) -> None:
    """What a transaction costs on the real broker: begin to visible, at 1, 16 and 64 ids."""
    from freerun.app.bench import Table
    from freerun.app.bench_transactions import measure

    table = Table("transactions")
    measure(table, seconds, size)
    table.finish(json_file)


@group.command("end-to-end", epilog="Example: `freerun bench end-to-end --rate 3 --for '60 s'`")
def end_to_end(
    bench: BenchArg = None,
    rate: Annotated[float, typer.Option(metavar="M", help="Million rows a second.")] = 3.0,
    for_: Annotated[str, typer.Option("--for", metavar="TIME", help="Length of the run.")] = "60 s",
    json_file: JsonOpt = None,
) -> None:
    """The whole bench on this machine: does the lag grow, and what does each process cost?"""
    from freerun.app.bench import Table
    from freerun.app.bench_whole import measure
    from freerun.app.options import nanoseconds

    table = Table("end-to-end")
    measure(table, bench, rate, nanoseconds(for_) / 1e9)
    table.finish(json_file)
