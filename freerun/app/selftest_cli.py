"""`freerun selftest`: processes killed, stopped and cut off, under load, and the run's account."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def add(app: typer.Typer) -> None:
    app.command(epilog="Example: `freerun selftest --json selftest.json`")(selftest)


def selftest(
    full: Annotated[
        bool, typer.Option("--full", help="Production time-outs; takes ten minutes.")
    ] = False,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="FAULT", help="This one; again for more.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the rows, too.")
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--folder", metavar="DIR", help="Work and leave everything there."),
    ] = None,
) -> None:
    """Break a bench of its own in every way we know, under load, and see what is lost.

    Kills and stops each of its processes, cuts the broker off, fills disks. Exits 0 only if the
    run's ledger closes and its events are exactly those of the uncut stream.
    """
    from freerun.app.selftest import selftest as run

    run(full, only or [], json_file, folder)
