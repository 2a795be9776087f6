"""`freerun broker start | stop | status | fetch`: the local Kafka broker."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from freerun.errors import FreerunError

if TYPE_CHECKING:
    from freerun.broker import Status
    from freerun.broker.jars import Progress

Data = Annotated[
    Path,
    typer.Option(
        "--data",
        metavar="DIR",
        help="The installation's data folder; the broker lives in `.freerun/` below it.",
    ),
]
DEFAULT_DATA = Path("data/bench")

group = typer.Typer(
    help="The local Kafka broker: start, stop, status.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


def add(app: typer.Typer) -> None:
    app.add_typer(group, name="broker")


@group.command(epilog="Example: `freerun broker start --data /data/telescope`")
def start(
    data: Data = DEFAULT_DATA,
    heap: Annotated[int, typer.Option(metavar="MB", help="The JVM's heap, 128 to 768 MB.")] = 512,
) -> None:
    """Start the broker of a data folder and print its address.

    It goes on after this command, until `freerun broker stop`. Its data and its address survive
    a stop and a crash. Starting one that runs is an error that names its pid and address.
    """
    from freerun.broker import start as start_broker

    if elsewhere():
        typer.echo(f"note: FREERUN_KAFKA={elsewhere()} is set; freerun uses that one", err=True)
    with fetching() as progress:
        broker = start_broker(state_folder(data), heap_mb=heap, progress=progress)
    typer.echo(f"Kafka at {broker.address} (pid {broker.pid}), log {broker.folder / 'kafka.log'}")


@group.command(epilog="Example: `freerun broker stop --data /data/telescope`")
def stop(data: Data = DEFAULT_DATA) -> None:
    """Stop the broker of a data folder; its data stay. Good too if none runs."""
    from freerun.broker import status as ask
    from freerun.broker import stop as stop_broker

    pid = ask(state_folder(data)).pid
    stopped = stop_broker(state_folder(data))
    typer.echo(f"stopped (pid {pid})" if stopped else f"no broker runs in {state_folder(data)}")


@group.command(epilog="Example: `freerun broker status && echo ready`")
def status(data: Data = DEFAULT_DATA) -> None:
    """Say which broker freerun uses here, and whether it answers: exit code 0 if so, else 3."""
    from freerun.broker import brokers_at
    from freerun.broker import status as ask

    named = elsewhere()
    if named:
        count = brokers_at(named)
        ready = count > 0
        typer.echo(
            f"FREERUN_KAFKA={named}: "
            + (f"answers, {count} broker{'s' * (count > 1)}" if ready else "no answer")
        )
    else:
        ready = _say(ask(state_folder(data)))
    if not ready:
        raise typer.Exit(3)


@group.command(epilog="Example: `FREERUN_CACHE=/scratch/cache freerun broker fetch`")
def fetch() -> None:
    """Fetch Kafka's jars into the cache, so that `start` needs no network, and make an archive of
    their classes for this Java: with it a broker starts in half the time."""
    from freerun.broker import archive_for, default_cache, ensure_archive, ensure_jars, find_java

    with fetching() as progress:
        jars = ensure_jars(progress=progress)
    typer.echo(f"Kafka's {len(jars)} jars are in {default_cache()}")
    try:
        java = find_java()
        if not archive_for(java, jars).exists():
            typer.echo("making an archive of their classes, once: Kafka starts in half the time …")
            ensure_archive(java, jars)
    except FreerunError as why:  # also a path that Kafka does not allow
        typer.echo(f"note: {why}; Kafka works without it, and starts slower", err=True)


def _say(now: Status) -> bool:
    if not now.running:
        last = f"; it was at {now.address}" if now.address else ""
        typer.echo(f"stopped: no broker runs in {now.folder}{last}")
    elif not now.ready:
        typer.echo(f"not ready: pid {now.pid} at {now.address}, log {now.log}")
    else:
        typer.echo(f"ready: {now.address} (pid {now.pid}), log {now.log}")
    return now.ready


def state_folder(data: Path) -> Path:
    """Where broker, spool, locks, pids and logs of a data folder live."""
    return data.expanduser() / ".freerun"


def elsewhere() -> str:
    """The broker that FREERUN_KAFKA names, empty if it names none."""
    return os.environ.get("FREERUN_KAFKA", "").strip()


@contextlib.contextmanager
def fetching() -> Iterator[Progress]:
    """A function that shows the jars as they come; nothing is shown if none has to."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns = TextColumn("Kafka's jars"), BarColumn(), MofNCompleteColumn()
    bar = Bar(*columns, TextColumn("{task.description}"), console=console)
    task = bar.add_task("")

    def show(done: int, total: int, name: str) -> None:
        if console.is_terminal:
            bar.start()
            bar.update(task, completed=done, total=total, description=name)
        elif done == total or done % 10 == 0:
            typer.echo(f"Kafka's jars: {done} of {total}", err=True)

    try:
        yield show
    finally:
        if console.is_terminal:
            bar.stop()
