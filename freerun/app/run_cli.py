"""`freerun run start | stop | list | show | verify`: the same commands as the web pages'."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from freerun.errors import ConfigError, LedgerGap

if TYPE_CHECKING:
    from freerun.app.client import Client

group = typer.Typer(
    help="Runs: start, stop, list, show, verify.", no_args_is_help=True, rich_markup_mode="markdown"
)
BenchOpt = Annotated[
    Path | None, typer.Option("--bench", metavar="FILE", help="The configuration of the bench.")
]
DataOpt = Annotated[Path | None, typer.Option("--data", metavar="DIR", help="Folder of the runs.")]


def add(app: typer.Typer) -> None:
    app.add_typer(group, name="run")


def _client(bench: Path | None, data: Path | None) -> Client:
    from freerun.app.client import Client
    from freerun.app.locate import place

    where = place(bench, data)
    return Client(where.broker(), where.topics)


@group.command(epilog="Example: `freerun run start --type beam --comment 'HV 3550 V' --for 30s`")
def start(
    type_: Annotated[str | None, typer.Option("--type", help="A [run_type] of the bench.")] = None,
    comment: Annotated[str, typer.Option(help="What is special about this run.")] = "",
    shifter: Annotated[str, typer.Option(help="Who is on shift.")] = "",
    for_: Annotated[
        str | None, typer.Option("--for", metavar="TIME", help="Stop after this: 30s, 10 min, 1 h.")
    ] = None,
    events: Annotated[int | None, typer.Option(help="Stop after this many events.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="What the type of run asks for."),
    ] = None,
    wait: Annotated[bool, typer.Option(help="Wait until the run is closed; exit by it.")] = False,
    bench: BenchOpt = None,
    data: DataOpt = None,
) -> None:
    """Start a run and print its number."""
    from freerun.app.options import nanoseconds

    stop: dict[str, Any] = {}
    if for_ is not None:
        stop["time_ns"] = nanoseconds(for_)
    if events is not None:
        stop["events"] = events
    client = _client(bench, data)
    answer = client.command(
        "start_run", type=type_, comment=comment, shifter=shifter, stop_after=stop,
        answers=dict(_pair(text) for text in set_ or ()),
    )  # fmt: skip
    _tell(answer)
    if wait:
        _wait(client, int(answer["run"]), None)


@group.command(epilog="Example: `freerun run stop`")
def stop(
    wait: Annotated[bool, typer.Option(help="Wait until the run is closed; exit by it.")] = True,
    bench: BenchOpt = None,
    data: DataOpt = None,
) -> None:
    """Stop the run that goes on; waits until its files are closed, and exits by its ledger."""
    client = _client(bench, data)
    answer = client.command("stop_run")
    _tell(answer)
    if wait:
        _wait(client, int(answer["run"]), 120.0)


def _pair(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign:
        raise ConfigError(f"--set {text}: write NAME=VALUE, like --set momentum_gev=2.5")
    return name.strip(), value.strip()


def _tell(answer: dict[str, Any]) -> None:
    if not answer["ok"]:
        raise ConfigError(answer["text"])
    typer.echo(answer["text"])


def _wait(client: Client, number: int, timeout_s: float | None) -> None:
    begun, state = time.monotonic(), ""
    while True:
        document = client.run(number)
        if document is not None and document["state"] != state:
            state = document["state"]
            typer.echo(f"run {number} {state}")
        if document is not None and state in ("closed", "failed"):
            typer.echo(document["ledger"]["line"] if document["ledger"] else "no ledger")
            if document["exit"] != 0:
                raise LedgerGap(f"run {number} did not close well: 'freerun run show {number}'")
            return
        if timeout_s is not None and time.monotonic() - begun > timeout_s:
            raise LedgerGap(f"run {number} is still {state or 'not begun'}: look at it later with "
                            f"'freerun run show {number}'")  # fmt: skip
        time.sleep(0.3)


@group.command("list", epilog="Example: `freerun run list`")
def list_(bench: BenchOpt = None, data: DataOpt = None) -> None:
    """All runs of the installation, the newest last."""
    documents = _client(bench, data).documents()
    runs = sorted((d for k, d in documents.items() if k.startswith("run/")), key=lambda d: d["run"])
    if not runs:
        typer.echo("no runs yet")
    for d in runs:
        began = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(d["t_start_ns"] / 1e9))
        long = f"{(d['t_stop_ns'] - d['t_start_ns']) / 1e9:.1f} s" if d["t_stop_ns"] else "…"
        ledger = "" if d["ledger"] is None else "ledger ok" if d["ledger"]["ok"] else "LEDGER GAP"
        typer.echo(
            f"{d['run']:6d}  {d['state']:8s} {began}Z {long:>9s} {d['type']:10s} "
            f"{d['n_events']:>12,d} events  {ledger}  {d['comment']}"
        )


@group.command(epilog="Example: `freerun run show 42`")
def show(
    number: Annotated[int, typer.Argument(metavar="N", help="Number of the run.")],
    as_json: Annotated[bool, typer.Option("--json", help="The whole document.")] = False,
    bench: BenchOpt = None,
    data: DataOpt = None,
) -> None:
    """One run: state, account, files; and why slices are incomplete, source by source."""
    document = _client(bench, data).run(number)
    if document is None:
        raise ConfigError(f"there is no run {number}: 'freerun run list' shows all")
    if as_json:
        typer.echo(json.dumps(document, indent=1))
        return
    from freerun.app.account import lines

    for line in lines(document):
        typer.echo(line)


@group.command(epilog="Example: `freerun run verify 42 --deep`")
def verify(
    number: Annotated[int, typer.Argument(metavar="N", help="Number of a run that is over.")],
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Build every event again from the raw words, and compare."),
    ] = False,
    json_: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the whole result here.")
    ] = None,
    bench: BenchOpt = None,
    data: DataOpt = None,
) -> None:
    """Recompute a run's ledger from the topics and the files; exits by it.

    Reads every record of the run and every byte of its files. What cannot be known any more
    (retention deleted it, it is in S3 only) is said and not guessed. 0: closed, 1: a gap.
    """
    from freerun.app import account
    from freerun.app.locate import place
    from freerun.app.verify import verify as verify_run

    where = place(bench, data)
    found = verify_run(where.broker(), where.bench, number, data=data.absolute() if data else None,
                       deep=deep, say=typer.echo)  # fmt: skip
    if json_ is not None:
        json_.write_text(json.dumps(found.to_json(), indent=1) + "\n")
    for line in account.verified(found):
        typer.echo(line)
    if not found.ok:
        raise LedgerGap(found.line)
    typer.secho(found.line, fg="green")
