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
PlotOpt = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE", help="Draw them: .html, or .png.")
]
RepeatsOpt = Annotated[int, typer.Option(min=1, help="Measurements behind each figure.")]


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


@group.command(epilog="Example: `freerun bench produce --repeats 3`")
def produce(
    size: Annotated[float, typer.Option(metavar="GB", help="Rows of one turn.")] = 2.0,
    repeats: RepeatsOpt = 3,
    json_file: JsonOpt = None,
    plot: PlotOpt = None,
) -> None:
    """Rows in memory → acknowledged by Kafka, beside Kafka's own producer perf tool.

    The same records and settings on the same broker, in turns. Writes about 10 times --size to
    the disk for each repeat and takes it away again.
    """
    from freerun.app.bench import Table, check_files
    from freerun.app.bench_produce import measure

    check_files(json_file, plot)
    table = Table("produce")
    measure(table, round(size * 1e9), repeats)
    table.finish(json_file, plot)


@group.command(epilog="Example: `freerun bench idle --cold`")
def idle(
    bench: BenchArg = None,
    quiet: Annotated[str, typer.Option(metavar="TIME", help="To be measured.")] = "30 s",
    cold: Annotated[
        bool, typer.Option("--cold", help="Begin with an `up` without compiled kernels.")
    ] = False,
    json_file: JsonOpt = None,
    plot: PlotOpt = None,
) -> None:
    """`freerun up`: seconds to the first plot, and the CPU of each process while nothing runs.

    Starts a bench, takes a short run, waits until all is quiet again, and looks.
    """
    from freerun.app.bench import Table, check_files
    from freerun.app.bench_idle import measure
    from freerun.app.options import nanoseconds

    check_files(json_file, plot)
    table = Table("idle")
    measure(table, bench, nanoseconds(quiet, "--quiet") / 1e9, cold)
    table.finish(json_file, plot)


@group.command(epilog="Example: `freerun bench latency --rate 1.5 --for '60 s'`")
def latency(
    bench: BenchArg = None,
    rate: Annotated[float, typer.Option(metavar="M", help="Million rows a second.")] = 1.5,
    for_: Annotated[str, typer.Option("--for", metavar="TIME", help="To be measured.")] = "60 s",
    slice_: Annotated[str, typer.Option("--slice", metavar="TIME", help="Length.")] = "100 ms",
    partitions: Annotated[int, typer.Option(min=1, max=1024, help="Of the topics.")] = 8,
    json_file: JsonOpt = None,
    plot: PlotOpt = None,
) -> None:
    """From a hit to its visible result at half load: every slice of a run, hop by hop.

    Counted from the end of each slice in experiment time, so that a stall counts for all slices
    that wait in it.
    """
    from freerun.app.bench import Table, check_files
    from freerun.app.bench_latency import measure
    from freerun.app.options import nanoseconds

    check_files(json_file, plot)
    table = Table("latency")
    length = nanoseconds(slice_, "--slice")
    measure(table, bench, rate, nanoseconds(for_) / 1e9, length, partitions)
    table.finish(json_file, plot)


@group.command(epilog="Example: `freerun bench growth --full --json growth.json`")
def growth(
    full: Annotated[
        bool, typer.Option("--full", help="More points along each axis: about ten minutes.")
    ] = False,
    seconds: Annotated[float, typer.Option(min=0.5, help="To be measured, each point.")] = 6.0,
    builder: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="What builds the events; `published`: the task of `bench kernel`."
        ),
    ] = "published",
    json_file: JsonOpt = None,
    plot: PlotOpt = None,
) -> None:
    """How the CPU of a lane grows with words, parts, slices and time: a fit over a grid.

    Points along the axes partitions (1-64), sources (1-64), length of a slice (10 ms-1 s) and
    words a second, each a live lane on the real broker that is fed at the pace of time.
    """
    from freerun.app.bench import Table, check_files
    from freerun.app.bench_growth import grid, measure

    check_files(json_file, plot)
    table = Table("growth")
    measure(table, grid(full), seconds, builder)
    table.finish(json_file, plot)


@group.command(epilog="Example: `freerun bench write --size 0.5`")
def write(
    bench: BenchArg = None,
    size: Annotated[float, typer.Option(metavar="GB", help="Results of one turn.")] = 0.5,
    repeats: RepeatsOpt = 3,
    endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="Of an S3 store: upload there, too.")
    ] = None,
    bucket: Annotated[str, typer.Option(help="In that store; keys as for `freerun up`.")] = "bench",
    json_file: JsonOpt = None,
    plot: PlotOpt = None,
) -> None:
    """Results of simulated slices → durable ROOT file, beside plain uproot and a plain copy.

    The writer's own work without Kafka: records checked, merged, written, synced and summed.
    """
    from freerun.app.bench import Table, check_files
    from freerun.app.bench_write import measure

    check_files(json_file, plot)
    table = Table("write")
    measure(table, bench, round(size * 1e9), repeats, endpoint, bucket)
    table.finish(json_file, plot)


@group.command(epilog="Example: `freerun bench paper --figure workers --plot workers.html`")
def paper(
    figure: Annotated[str, typer.Option(help="producers, workers, or both.")] = "both",
    most: Annotated[int, typer.Option(min=1, help="Producers or workers, up to so many.")] = 4,
    size: Annotated[float, typer.Option(metavar="GB", help="Rows of each producer.")] = 0.5,
    seconds: Annotated[float, typer.Option(help="Of work for each worker.")] = 10.0,
    builder: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="What the workers build; `published`: the task of `bench kernel`."
        ),
    ] = "published",
    repeats: RepeatsOpt = 3,
    json_file: JsonOpt = None,
    plot: PlotOpt = None,
) -> None:
    """The two figures of the published prototype: throughput against producers, and workers.

    Its numbers stand beside ours: 230 MB/s a producer, 7.5 M hits/s a worker. It had a machine
    for each; here all share one, so the CPU of each is shown, too.
    """
    from freerun.app import bench_paper
    from freerun.app.bench import Table, check_files
    from freerun.errors import ConfigError

    if figure not in ("producers", "workers", "both"):
        raise ConfigError(f"--figure {figure}: known are producers, workers and both")
    if figure == "both" and plot is not None:
        raise ConfigError("--plot draws one figure: add --figure producers or --figure workers")
    check_files(json_file, plot)
    counts = [n for n in (1, 2, 4, 8, 16, 32) if n <= most]
    table = Table("paper")
    if figure != "workers":
        bench_paper.producers(table, counts, round(size * 1e9), repeats)
    if figure != "producers":
        bench_paper.workers(table, counts, seconds, builder)
    table.finish(json_file, plot)


@group.command(epilog="Example: `freerun bench soak --for '1 h' --json soak.json`")
def soak(
    bench: BenchArg = None,
    for_: Annotated[str, typer.Option("--for", metavar="TIME", help="How long.")] = "1 h",
    rate: Annotated[float, typer.Option(metavar="M", help="Million rows a second.")] = 0.75,
    run: Annotated[str, typer.Option(metavar="TIME", help="Length of one run.")] = "5 min",
    every: Annotated[str, typer.Option(metavar="TIME", help="Between two looks.")] = "5 s",
    json_file: JsonOpt = None,
    plot: PlotOpt = None,
) -> None:
    """Run after run for an hour, with retention deleting: does anything grow?

    Memory, threads, file descriptors, lag and CPU per row must stay flat within the bands that
    are printed, and every run's ledger must close. Needs about 30 GB of disk (TMPDIR).
    """
    from freerun.app.bench import Table, check_files
    from freerun.app.bench_soak import measure
    from freerun.app.options import nanoseconds

    check_files(json_file, plot)
    table = Table("soak")
    length = nanoseconds(run, "--run") / 1e9
    pause = nanoseconds(every, "--every") / 1e9
    measure(table, bench, rate, nanoseconds(for_) / 1e9, pause, run_s=length)
    table.finish(json_file, plot)


@group.command("end-to-end", epilog="Example: `freerun bench end-to-end --rate 3 --for '60 s'`")
def end_to_end(
    bench: BenchArg = None,
    rate: Annotated[float, typer.Option(metavar="M", help="Million rows a second.")] = 3.0,
    for_: Annotated[
        str, typer.Option("--for", metavar="TIME", help="How long to measure.")
    ] = "60 s",
    warm: Annotated[str, typer.Option(metavar="TIME", help="Of the run, before that.")] = "30 s",
    json_file: JsonOpt = None,
) -> None:
    """The whole bench on this machine: does the lag grow, and what does each process cost?"""
    from freerun.app.bench import Table
    from freerun.app.bench_whole import measure
    from freerun.app.options import nanoseconds

    table = Table("end-to-end")
    measure(table, bench, rate, nanoseconds(for_) / 1e9, nanoseconds(warm) / 1e9)
    table.finish(json_file)


@group.command(epilog="Example: `freerun bench kernel --json kernel.json`")
def kernel(
    peer: Annotated[
        bool, typer.Option("--peer/--no-peer", help="The DataFrame way, too; needs pandas.")
    ] = True,
    repeats: RepeatsOpt = 7,
    json_file: JsonOpt = None,
    plot: PlotOpt = None,
) -> None:
    """The published task on one core: words to events, drift times, occupancy and rates."""
    from freerun.app.bench import Table, check_files
    from freerun.app.bench_kernel import measure

    check_files(json_file, plot)
    table = Table("kernel")
    measure(table, repeats, peer)
    table.finish(json_file, plot)


@group.command(epilog="Example: `freerun bench process --million 40 --json process.json`")
def process(
    million: Annotated[float, typer.Option(help="Million words in Kafka.")] = 30.0,
    words: Annotated[int, typer.Option(help="Words of a slice.")] = 1_000_000,
    repeats: RepeatsOpt = 3,
    json_file: JsonOpt = None,
    plot: PlotOpt = None,
) -> None:
    """One worker with the published task: raw records in Kafka to committed results."""
    from freerun.app.bench import Table, check_files
    from freerun.app.bench_process import measure

    check_files(json_file, plot)
    table = Table("process")
    measure(table, million, words, repeats)
    table.finish(json_file, plot)
