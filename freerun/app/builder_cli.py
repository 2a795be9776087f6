"""`freerun builder check`: is an event builder independent of where the stream is cut?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from freerun.errors import LedgerGap

group = typer.Typer(
    help="Event builders: check.", no_args_is_help=True, rich_markup_mode="markdown"
)


def add(app: typer.Typer) -> None:
    app.add_typer(group, name="builder")


@group.callback()
def _group() -> None:
    """Event builders: check."""


@group.command(epilog="Example: `freerun builder check my_builder:PairTof --bench bench.toml`")
def check(
    builder: Annotated[
        str, typer.Argument(metavar="BUILDER", help="drift_tubes, gaps, or module:Class.")
    ],
    recording: Annotated[
        Path | None,
        typer.Argument(help="Recorded words: .dat .bin .txt .csv; else the bench's simulation."),
    ] = None,
    bench: Annotated[
        Path | None,
        typer.Option("--bench", "--config", metavar="FILE", help="The bench; its keys of BUILDER."),
    ] = None,
    format_: Annotated[
        str | None, typer.Option("--format", help="Layout of recorded words, like padova-v1.")
    ] = None,
    source: Annotated[
        str | None, typer.Option(metavar="ID", help="Source whose place the recording takes.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.01, help="How much to simulate.")] = 0.5,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other cuts.")] = 1,
    cuts: Annotated[int, typer.Option(min=1, help="How many, at most.")] = 1000,
) -> None:
    """Cut a stream at random places and compare what the builder makes of it with the whole.

    Every piece has its guards. Events, rows in none, pulses and histograms must be the same to
    the bit. The first difference is printed with the fewest rows and the one cut that show it.
    0: the same everywhere, 1: not.
    """
    from freerun.app.builder_check import Options
    from freerun.app.builder_check import check as run_check

    found = run_check(
        Options(builder, recording, bench, format_, source, seconds, seed, cuts), typer.echo
    )
    if not found["ok"]:
        raise LedgerGap(f"builder {builder} makes something else of a cut stream: {found['first']}")
    typer.secho(f"the same  wherever it is cut ({found['cuts']:,d} cuts)", fg="green")
