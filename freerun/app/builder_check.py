"""`freerun builder check`: a builder on a recorded or simulated stream, cut at random places."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from freerun import config
from freerun.app.locate import bench_file
from freerun.app.replay import look
from freerun.app.replay_bench import Wishes, bench_of
from freerun.config import Bench
from freerun.errors import ConfigError, LedgerGap
from freerun.plugins import failure
from freerun.rows import codec
from freerun.simulation import BLOCK_NS
from freerun.ticks import Clock
from freerun.wordfile import WordFile
from freerun.words import BAD, HIT, TRIGGER, get_format

Say = Callable[[str], None]
FIRST_BLOCK = 170_000_000_000
EPOCH = 1_700_000_000_000_000_000
MOST_WORDS = 2_000_000
MOST_ROWS = 30  # of an example that are printed


@dataclass(frozen=True)
class Options:
    """What `freerun builder check` was told."""

    builder: str
    recording: Path | None = None
    bench: Path | None = None
    format: str | None = None
    source: str | None = None
    seconds: float = 0.5
    seed: int = 1
    cuts: int = 1000


def check(options: Options, say: Say = print) -> dict[str, Any]:
    """Compare the cut stream with the uncut one; returns `ok`, `cuts`, `rows`, `events`, `first`.

    Raises `ConfigError` for a builder, bench or recording that cannot be used, and `LedgerGap` if
    the builder itself fails.
    """
    bench = _bench(options)
    name = bench.pipelines[0].id
    cutting = import_module("processors.cutting")
    made = import_module("processors.setup").pipeline_of(bench, name)
    stream = cutting.Stream(*(_recorded if options.recording else _simulated)(bench, options))
    if len(stream) == 0:
        raise ConfigError("there is no row to be cut: give a longer time or another recording")
    say(f"stream    {len(stream):,d} rows of {', '.join(stream.rows)}, "
        f"{(stream.end - stream.start) / 1e9:.6g} s")  # fmt: skip
    before, after = (max(x) / 1000 for x in zip(made.builder.reach(), made.builder.extent(),
                                                strict=True))  # fmt: skip
    say(f"builder   {options.builder}: looks {before:g} ns back and {after:g} ns ahead, guard "
        f"{bench.time.guard:,d} ns")  # fmt: skip
    checker = cutting.Checker(made, bench)
    try:
        twice = checker.repeatable(stream)
        cuts, found = ((), None) if twice else checker.check(stream, options.seed, options.cuts)
    except Exception as error:  # the user's code may fail in any way
        raise LedgerGap(f"builder {options.builder} failed with {failure(error)}") from error
    say(f"cut       at {len(cuts):,d} places, --seed {options.seed}")
    if twice is not None:
        say(f"different the same rows once more, uncut: {twice}")
        say("          a builder must depend on nothing but its rows: no clock, no random numbers")
    elif found is not None:
        for line in _example(found, made):
            say(line)
    return {"ok": twice is None and found is None, "cuts": len(cuts), "rows": len(stream),
            "seed": options.seed,
            "first": str(twice or (found.difference if found else "")) or None}  # fmt: skip


def _bench(options: Options) -> Bench:
    """The bench with one pipeline, of this builder."""
    if options.recording is not None:
        wishes = Wishes(options.recording, options.format, source=options.source,
                        builder=options.builder)  # fmt: skip
        return bench_of(wishes, options.bench, "check", Path("."))
    path = bench_file(options.bench)
    bench = config.check(path)
    own = [p for p in bench.pipelines if p.builder == options.builder]
    raw = bench.resolved()
    tables = [p for p in raw["pipeline"] if own and p["id"] == own[0].id]
    raw["pipeline"] = tables or [{"id": "check", "builder": options.builder}]
    raw.pop("write", None)
    raw.pop("run_type", None)
    made = config.from_dict(raw, f"{options.builder} with {path}", path=path.absolute())
    config.check_plugins(made)
    return made


def _recorded(bench: Bench, options: Options) -> tuple[dict[str, Any], int, int]:
    """The words of a file, the first ones if there are many."""
    assert options.recording is not None
    plan, source = look(bench, options.recording), bench.sources[0]
    form = get_format(source.format or "")
    chunks, n = [], 0
    for chunk in WordFile(options.recording, form).chunks():
        chunks.append(chunk)
        n += len(chunk)
        if n >= MOST_WORDS:
            break
    words = np.concatenate(chunks)[:MOST_WORDS]
    clock = Clock(plan.anchor, form.tick.numerator, form.tick.denominator, source.clock.offset)
    length = bench.time.slice
    start = plan.first * length
    ticks, _ = codec(form.name).times(words, clock.tick_at(start))
    end = min((plan.last + 1) * length, clock.ns(int(ticks.max())) + 1 + bench.time.guard)
    low = max(start, clock.ns(int(ticks.min())) - bench.time.guard)
    return {source.id: (form.name, words, clock)}, low, end


def _simulated(bench: Bench, options: Options) -> tuple[dict[str, Any], int, int]:
    """Some blocks of the simulation of the bench."""
    blocks = max(1, round(options.seconds * 1e9 / BLOCK_NS))
    rows: dict[str, Any] = {}
    for source in bench.sources:
        if source.driver not in ("simulate", "pulses"):
            continue
        driver = import_module("producers.__main__").make_driver(bench, source, "data")
        clock = Clock(EPOCH, driver.tick.numerator, driver.tick.denominator, source.clock.offset)
        made = [driver.make(b, clock) for b in range(FIRST_BLOCK, FIRST_BLOCK + blocks)]
        rows[source.id] = (driver.schema, driver.join(made), clock)
    if not rows:
        raise ConfigError(
            f"{bench.path} simulates no source: give a recording of its words to be cut"
        )
    start = FIRST_BLOCK * BLOCK_NS
    return rows, start, start + blocks * BLOCK_NS


def _example(found: Any, made: Any) -> list[str]:
    """The smallest stream that shows the difference, row by row."""
    stream, cut = found.stream, found.cut_ns
    out = [
        f"different {found.difference}",
        f"example   {len(stream)} rows and one cut, at {cut} ns, are enough; times from the cut:",
    ]
    rows = []
    for name, (schema, some, clock) in stream.rows.items():
        ticks, kind = codec(schema).times(some, clock.tick_at(stream.start))
        ps = clock.ps_since(ticks, cut)
        for i in np.flatnonzero(kind != BAD).tolist():
            what = {HIT: "hit", TRIGGER: "trigger word"}.get(int(kind[i]), "word")
            value = f"word 0x{int(some[i]):016x}" if isinstance(some, np.ndarray) else "pulse"
            rows.append((int(ps[i]), f"{name} {what}, tick {ticks[i]}, {value}"))
    for ps, text in sorted(rows)[:MOST_ROWS]:
        out.append(f"          {ps / 1000:+14.3f} ns  {text}")
    if len(rows) > MOST_ROWS:
        out.append(f"          … and {len(rows) - MOST_ROWS} more")
    before, after = made.builder.reach()
    out.append(f"          does it look further than its reach ({before / 1000:g} ns before, "
               f"{after / 1000:g} ns after an anchor), or at where the slice begins?")  # fmt: skip
    return out
