"""`freerun config check | schema`: the configuration of the bench."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from freerun.config import Bench

group = typer.Typer(
    help="The configuration of the bench: check it, print its schema.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


def add(app: typer.Typer) -> None:
    app.add_typer(group, name="config")


@group.command(epilog="Example: `freerun config check configs/bench.toml`")
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The bench, a TOML file.")],
    cluster: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="How much runs where: partitions, workers, broker."),
    ] = None,
) -> None:
    """Check FILE with the keys of all its drivers and builders; every problem with its path."""
    from freerun import config

    bench = config.check(file, cluster)
    typer.echo(f"{file}: good. {_summary(bench)}")
    for line in _imported(bench):
        typer.echo(line)


@group.command()
def schema() -> None:
    """Print the JSON schema of the file, for editors that complete and check."""
    from freerun.config import json_schema

    typer.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))


def _summary(bench: Bench) -> str:
    from freerun.config.units import NANOSECONDS

    def some(count: int, what: str) -> str:
        return f"{count} {what}{'' if count == 1 else 's'}"

    return (
        f"{bench.system.name}: {some(len(bench.sources), 'source')}, "
        f"{some(len(bench.detectors), 'detector')}, {some(len(bench.pipelines), 'pipeline')}, "
        f"slices of {NANOSECONDS.text(bench.time.slice)} with "
        f"{NANOSECONDS.text(bench.time.guard)} of guard, data in {bench.data_dir}"
    )


def _imported(bench: Bench) -> list[str]:
    """Which code of the user's own the check has run."""
    own = [f"driver {s.driver} of source {s.id}" for s in bench.sources if ":" in s.driver]
    own += [f"builder {p.builder} of pipeline {p.id}" for p in bench.pipelines if ":" in p.builder]
    return [f"imported your own code from {bench.folder}: {', '.join(own)}"] if own else []
