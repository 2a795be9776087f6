"""A recorded file as one whole run: an installation of its own, beside whatever else runs.

Time is the recording's: nothing waits for the host's clock, and the results do not depend on how
fast the file is replayed, on the number of partitions, or on where the slices are cut.
"""

from __future__ import annotations

import importlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freerun import config
from freerun.app import account
from freerun.app.replay_bench import Wishes, bench_of
from freerun.app.replay_services import Replaying
from freerun.config import Bench
from freerun.errors import ConfigError, EnvironmentProblem
from freerun.ticks import Clock
from freerun.words import HIT, TRIGGER, WRAP, get_format

Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What `freerun replay` was told."""

    wishes: Wishes
    bench: Path | None = None
    out: Path | None = None
    inline: bool = False
    keep: bool = False
    partitions: int = 8
    data: Path | None = None
    """Folder of a bench whose broker may be used."""


@dataclass(frozen=True)
class Plan:
    """What will be replayed: slices, and where tick 0 lies (ns)."""

    first: int
    last: int
    anchor: int
    words: int
    seconds: float

    @property
    def slices(self) -> int:
        return self.last - self.first + 1


def replay(options: Options, say: Say = print) -> dict[str, Any]:
    """Replay a file; returns the run's document once its files are closed.

    Raises `ConfigError` for a file that cannot be replayed, `EnvironmentProblem` if broker or
    disk refuse, `LedgerGap` if it does not come to its end. The document's `exit` is the account's.
    """
    file = options.wishes.file
    out = (options.out or Path("replay") / file.stem).absolute()
    name = f"replay_{uuid.uuid4().hex[:8]}"
    bench = bench_of(options.wishes, options.bench, name, out)
    plan = look(bench, file)
    say(
        f"file      {file}: {plan.words:,d} words of {bench.sources[0].format}, "
        f"{plan.seconds:.6g} s, {plan.slices:,d} slices of {bench.time.slice / 1e6:g} ms"
    )
    paths = _configuration(bench, options.partitions, out, name)
    beside = options.bench.absolute().parent if options.bench else None
    services = Replaying(config.load(*paths), out, paths, options.keep, beside, say)
    good = False
    try:
        services.begin_replay(
            plan.first, plan.last, plan.anchor, f"replay of {file}", options.inline, options.data
        )
        document = services.watch(plan.words, plan.slices)
        good = document["state"] == "closed"
        return document
    finally:
        services.finish(good)


def look(bench: Bench, file: Path) -> Plan:
    """First and last slice of the file; raises `ConfigError` if it cannot be replayed."""
    if not file.is_file():
        raise ConfigError(f"{file}: there is no such file")
    source, length = bench.sources[0], bench.time.slice
    fmt = get_format(source.format or "")
    span = importlib.import_module("producers.drivers.span").scan(
        [file],
        fmt,
        length,
        source.fpga if isinstance(source.fpga, int) else None,
        {HIT: source.late.hit, TRIGGER: source.late.trigger},
        source.sanity.hit,
    )

    def clock(anchor: int) -> Clock:
        return Clock(anchor, fmt.tick.numerator, fmt.tick.denominator, source.clock.offset)

    # recorded time begins at the counter's 0, or where that would be negative (the file begins
    # just before the counter wraps) one wrap earlier
    anchor = 0 if clock(0).ns(span.low) >= 0 else WRAP * fmt.tick.numerator // fmt.tick.denominator
    low, high = clock(anchor).ns(span.low), clock(anchor).ns(span.high)
    return Plan(low // length, high // length, anchor, span.words, (high - low) / 1e9)


def _configuration(bench: Bench, partitions: int, out: Path, name: str) -> tuple[Path, Path]:
    """The replay's own bench and cluster files, for its processes."""
    folder = out / ".freerun" / name
    paths = folder / "bench.toml", folder / "cluster.toml"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        paths[0].write_text(bench.resolved_toml())
        paths[1].write_text(f"[cluster]\npartitions = {partitions}\nworkers = 1\n")
    except OSError as error:
        raise EnvironmentProblem(
            f"{out} cannot be written to ({error.strerror}): name another folder with --out"
        ) from error
    return paths


def report(document: dict[str, Any], seconds: float) -> list[str]:
    """What is printed at the end."""
    return [
        *account.lines(document),
        f"folder    {document['folder']}",
        f"took      {seconds:.1f} s",
    ]
