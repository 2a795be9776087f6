"""`freerun config`: check a configuration, print its schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from freerun.config import Bench, check, json_schema
from freerun.config.units import NANOSECONDS
from freerun.errors import ConfigError

app = typer.Typer(help="The configuration of the bench.", no_args_is_help=True)


@app.command("check")
def check_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="the bench, a TOML file")],
    cluster: Annotated[
        Path | None, typer.Option(metavar="FILE", help="partitions, workers, broker")
    ] = None,
) -> None:
    """Check FILE with all its drivers and builders; every problem is listed with its path."""
    try:
        bench = check(file, cluster)
    except ConfigError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(error.exit_code) from None
    typer.echo(f"{file}: good. {_summary(bench)}")
    for line in _imported(bench):
        typer.echo(line)


@app.command("schema")
def schema_command() -> None:
    """Print the JSON schema of the file."""
    typer.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))


def _summary(bench: Bench) -> str:
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
