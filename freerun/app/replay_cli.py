"""`freerun replay`: a recorded file as one whole run."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from freerun.errors import ConfigError, LedgerGap


def add(app: typer.Typer) -> None:
    app.command(epilog="Example: `freerun replay run637.dat --format padova-v1 --inline`")(replay)


def replay(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE|RUN",
            help="Recorded words: .dat .bin (binary), .txt .csv (rows); with --verify a run.",
        ),
    ],
    format_: Annotated[
        str | None,
        typer.Option("--format", help="Layout of the words: padova-v1, padova-v2, padova-obdt."),
    ] = None,
    rate: Annotated[
        str | None, typer.Option(metavar="RATE", help="Words a second: 2MHz, 500kHz.")
    ] = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="As fast as possible (the default).")
    ] = False,
    recorded: Annotated[
        bool, typer.Option("--recorded", help="At the speed of the recording.")
    ] = False,
    inline: Annotated[
        bool, typer.Option("--inline", help="Process without Dask: quicker to start.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where the run's folder goes; ./replay/<file>."),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the topics in Kafka.")] = False,
    bench: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What the channels are; the miniDT set-up if left out."),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Source of the bench whose place the file takes."),
    ] = None,
    slice_: Annotated[
        str | None, typer.Option("--slice", metavar="TIME", help="Processing step, like 100ms.")
    ] = None,
    partitions: Annotated[int, typer.Option(min=1, max=1024, help="Of the topics.")] = 8,
    builder: Annotated[
        str | None, typer.Option(metavar="NAME", help="drift_tubes, gaps, or module:Class.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Data folder of a bench whose broker to use.")
    ] = None,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Process stored run RUN again and compare bit by bit."),
    ] = False,
) -> None:
    """Replay a recorded file as one whole run, through Kafka into the same files as a live one.

    Uses the broker of FREERUN_KAFKA, or of a bench that runs here, or one of its own for the
    while. Waits until the files are closed, prints the account, and exits by it: 0 every word is
    accounted for, 1 there is a gap, 2 the file or an option is wrong, 3 broker or disk refuse.

    With --verify nothing is written: the raw data of a run of the bench (its number or folder) go
    through the same code again, with the decisions its results recorded, and every column of
    every result is compared with the stored one. 0 not one bit differs, 1 something does.
    """
    if verify:
        _verify(file, bench, data)
        return
    from freerun.app.replay import Options, report
    from freerun.app.replay import replay as run_replay
    from freerun.app.replay_bench import Wishes

    speeds = [s for s in (rate, "fast" if fast else None, "recorded" if recorded else None) if s]
    if len(speeds) > 1:
        raise ConfigError("--rate, --fast and --recorded exclude each other: give one")
    wishes = Wishes(file, format_, speeds[0] if speeds else "fast", source, slice_, builder)
    begun = time.monotonic()
    before = signal.signal(signal.SIGTERM, _interrupted)
    try:
        document = run_replay(
            Options(wishes, bench, out, inline, keep, partitions, data), typer.echo
        )
    finally:
        signal.signal(signal.SIGTERM, before)
    for line in report(document, time.monotonic() - begun):
        typer.echo(line)
    if document["exit"] != 0:
        raise LedgerGap(document["ledger"]["line"] if document["ledger"] else "the run failed")


def _verify(run: Path, bench: Path | None, data: Path | None) -> None:
    from freerun.app.locate import place
    from freerun.app.replay_verify import report, run_number
    from freerun.app.replay_verify import verify as verify_run

    number = run_number(str(run))
    found = verify_run(place(bench, data), number, typer.echo)
    for line in report(found):
        typer.echo(line)
    if not found["ok"]:
        raise LedgerGap(f"run {number} is not the same when it is processed again")


def _interrupted(*_: Any) -> None:
    raise KeyboardInterrupt
