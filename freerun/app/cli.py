"""The `freerun` command: one module per group of sub-commands, errors as one line.

A command module imports nothing heavy at its top (only typer and freerun's own light modules);
what a command needs, it imports in its function. So `freerun --help` stays quick.
To add commands: write `freerun/app/<x>_cli.py` with a function `add(app)` and name it in `GROUPS`.
"""

from __future__ import annotations

import os
import sys
from importlib import metadata
from typing import Annotated

import typer

from freerun.app import (
    bench_cli,
    broker_cli,
    builder_cli,
    config_cli,
    demo_cli,
    replay_cli,
    run_cli,
    selftest_cli,
    up_cli,
)
from freerun.errors import FreerunError

GROUPS = [demo_cli, up_cli, run_cli, replay_cli, config_cli, broker_cli, bench_cli,
          selftest_cli, builder_cli]  # fmt: skip

app = typer.Typer(
    name="freerun",
    help="Trigger-less data acquisition on Kafka and Dask.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"freerun {installed_version()}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and end."
        ),
    ] = False,
) -> None:
    """Trigger-less data acquisition on Kafka and Dask."""


for _group in GROUPS:
    _group.add(app)


def installed_version() -> str:
    try:
        return metadata.version("freerun")
    except metadata.PackageNotFoundError:
        return "(not installed)"


def main() -> None:
    """Run the command line; every FreerunError becomes one line and its exit code.

    0 good, 1 the ledger or the truth has a gap, 2 usage or configuration, 3 environment,
    130 interrupted.
    """
    try:
        app(prog_name="freerun")
    except FreerunError as e:
        complain(str(e))
        sys.exit(e.exit_code)
    except KeyboardInterrupt:
        complain("interrupted")
        sys.exit(130)
    except BrokenPipeError:  # `freerun … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def complain(sentence: str) -> None:
    """One line on stderr, red where it is a terminal that wants colour."""
    colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    red, plain = ("\x1b[31m", "\x1b[0m") if colour else ("", "")
    print(f"{red}freerun: {sentence}{plain}", file=sys.stderr)
