"""`freerun bench kernel`: the published task per core, beside the same in DataFrame operations."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from freerun.app.bench import Table, repeat, side_by_side
from freerun.config.geometry import NATIVE
from freerun.errors import FreerunError
from freerun.simulation import TelescopeConfig, block_words
from freerun.simulation.config import BLOCK_NS
from freerun.ticks import Clock
from freerun.words import TRIGGER, decode, get_format

Array = npt.NDArray[Any]
SIZES = (20_000, 250_000, 2_500_000)
LENGTH_NS = 100_000_000
LENGTH = 120_000_000  # the same in ticks
GUARD = 6_000
WORDS_PER_MUON = 20.4
AT_LEAST = 1_500_000  # words of a measurement, so many different slices: a CPU remembers branches
GOAL, GOAL_RATIO = 75.0, 11.0
FORMAT = get_format("padova-v1")
SLOTS, SCINTILLATOR = 5, 128
LATENCY = 600


class Slice:
    """Words of a slice as int64, one array a source."""

    def __init__(self, k: int, words: list[Array]) -> None:
        self.tick0, self.words = k * LENGTH, [w.view(np.int64) for w in words]
        self.n = sum(map(len, words))


def simulated(k: int, n: int, sources: int = 1) -> Slice:
    """About `n` words of the simulated telescope; one source: both boards as they arrive."""
    telescope = TelescopeConfig(seed=k + 1, muon_rate_hz=n * 1e9 / LENGTH_NS / WORDS_PER_MUON)
    clock, blocks = Clock(0, 5, 6), LENGTH_NS // BLOCK_NS
    numbers = range(k * blocks, (k + 1) * blocks)
    boards = [
        np.concatenate([block_words(telescope, b, board, clock) for b in numbers])
        for board in (0, 1)
    ]
    if sources == 1:
        arrived = [np.maximum.accumulate(decode(w, FORMAT, k * LENGTH).tick) for w in boards]
        order = np.argsort(np.concatenate(arrived), kind="stable")
        boards = [np.concatenate(boards)[order]]
    return Slice(k, boards)


def disorder(s: Slice) -> float:
    """Part of the words of a source that are earlier than the word before them."""
    back = [np.diff(t.tick[t.kind != TRIGGER]) < 0
            for t in (decode(w.view(np.uint64), FORMAT, s.tick0) for w in s.words)]  # fmt: skip
    return float(np.mean(np.concatenate(back)))


def thirds(s: Slice) -> Slice:
    """The same with a third of its words at random places."""
    draw = np.random.default_rng(s.tick0 % 2**32)
    out = []
    for words in s.words:
        moved = words.copy()
        which = np.flatnonzero(draw.random(len(words)) < 1 / 3)
        moved[which] = words[draw.permutation(which)]
        out.append(moved.view(np.uint64))
    return Slice(s.tick0 // LENGTH, out)


def burst(s: Slice) -> Slice:
    """The same with all orbits made one: everything within 89.1 µs."""
    kept = []
    for words in s.words:
        head = words.view(np.uint64) >> np.uint64(62)
        shift = np.where(head == 3, 25, 17).astype(np.uint64)
        orbit = np.uint64((s.tick0 + LENGTH // 2) // (3564 * 30))
        cleared = words.view(np.uint64) & ~(np.uint64(0xFFFFFFFF) << shift)
        kept.append(cleared | (orbit << shift))
    return Slice(s.tick0 // LENGTH, kept)


class Machine:
    """The task with the tables of the simulated telescope."""

    def __init__(self, sources: int) -> None:
        task = import_module("processors.published")
        words = import_module("processors.published_words")
        self._run = task.Run
        boards = []
        for mine in ((0, 1),) if sources == 1 else ((0,), (1,)):
            slot_of = np.full(NATIVE, words.UNKNOWN, np.uint8)
            for board in mine:
                slot_of[(board << 9) + np.arange(128)] = 2 * board + np.arange(128) // 64
            if 1 in mine:
                slot_of[1 << 9 | SCINTILLATOR] = 4
            latency = np.full(4, LATENCY)
            boards.append(task.Board(slot_of, np.arange(4, dtype=np.uint8), latency))
        self.board, self.settings = boards[0], task.Settings()
        self._published = task.Published(boards, [0.0] * SLOTS, self.settings)

    def __call__(self, s: Slice) -> Any:
        runs = [self._run(i, [words]) for i, words in enumerate(s.words)]
        return self._published.run(runs, s.tick0, LENGTH, GUARD)

    def peer(self) -> Any:
        """The same task of one source in DataFrame operations."""
        from freerun.app.peers.dataframes import Task

        s, b = self.settings, self.board
        return Task(b.slot_of, b.mark_slot, b.latency, [0.0] * SLOTS, s.merge, s.span, s.before,
                    s.after)  # fmt: skip


def per_core(work: Callable[[], None], n: int) -> float:
    """Million words per CPU second of this process."""
    gc.collect()
    begun = time.process_time()
    work()
    return n / (time.process_time() - begun) / 1e6


def measure(table: Table, repeats: int, peer: bool, sizes: tuple[int, ...] = SIZES) -> None:
    """Fill `table`: one source and two, in order and not, beside the DataFrame way."""
    whole = Machine(1)
    for size in sizes:
        slices = [simulated(k, size) for k in range(max(1, AT_LEAST // size))]
        mean = sum(s.n for s in slices) / len(slices)
        about = f"{mean:,.0f} words a slice"
        back = f"{100 * disorder(slices[0]):.0f} % of the hits go back in time"
        if peer:
            _beside(table, whole, slices, about, back, repeats)
        else:
            ours = repeat(lambda s=slices: _ours(whole, s), repeats)  # type: ignore[misc]
            table.add(f"one source, {about}", ours, "M words/s", back, goal=GOAL)
        both = [simulated(k, size, 2) for k in range(max(1, AT_LEAST // size))]
        two = Machine(2)
        pair = repeat(lambda s=both, m=two: _ours(m, s), repeats)  # type: ignore[misc]
        table.add(f"two sources, {about}", pair, "M words/s", "each by itself in order", GOAL)
        for name, change in (("a third at random places", thirds), ("all in one orbit", burst)):
            other = [change(s) for s in slices]
            bad = repeat(lambda s=other: _ours(whole, s), max(3, repeats // 2))  # type: ignore[misc]
            table.add(f"  {name}, {about}", bad, "M words/s", "must not be quadratic")


def _ours(machine: Machine, slices: list[Slice]) -> float:
    def work() -> None:
        for s in slices:
            machine(s)

    return per_core(work, sum(s.n for s in slices))


def _beside(
    table: Table, machine: Machine, slices: list[Slice], about: str, back: str, repeats: int
) -> None:
    from freerun.app.peers.dataframes import under_dask

    frames = machine.peer()
    few = slices[: max(1, len(slices) // 5)]  # it is slow, and its speed the same for each

    def theirs() -> float:
        told = [(s.words[0], s.tick0) for s in few]
        return per_core(lambda: void(under_dask(frames, told, LENGTH)), sum(s.n for s in few))

    same(machine, frames, slices[0])
    ours, peer, ratio = side_by_side(lambda: _ours(machine, slices), theirs, repeats)
    table.add(f"one source, {about}", ours, "M words/s", back, goal=GOAL)
    table.add("  pandas under Dask", peer, "M words/s", "same answer; freerun/app/peers/dataframes")
    table.add("  ratio", ratio, "×", goal=GOAL_RATIO)


def void(_: Any) -> None:
    """Throw a result away."""


def same(machine: Machine, frames: Any, s: Slice) -> None:
    """`FreerunError` unless both ways give the same hits, events and histograms."""
    got, out = frames(s.words[0], s.tick0, LENGTH), machine(s)
    box, rates = np.zeros(out.box.size, np.int64), np.zeros((len(out.rates), 250), np.int64)
    box[got.box.index.to_numpy()] = got.box
    rates.reshape(-1)[got.rates.index.to_numpy()] = got.rates
    occupancy = np.zeros(NATIVE, np.int64)
    occupancy[got.occupancy.index.to_numpy()] = got.occupancy
    pairs = {
        "time": (got.hits["tick"], out.tick), "channel": (got.hits["channel"], out.channel),
        "drift": (got.hits["drift"].fillna(-1e9), np.nan_to_num(out.drift, nan=-1e9)),
        "t0": (got.events["t0"], out.t0), "first": (got.events["first"], out.first),
        "count": (got.events["count"], out.count),
        "chambers": (got.events["chambers"], out.chambers),
        "quality": (got.events["quality"], out.quality),
        "time box": (box, out.box.reshape(-1)), "rates": (rates[:, :SLOTS], out.rates),
        "occupancy": (occupancy, out.occupancy[0][:NATIVE]),
        "other": (np.array([got.other]), out.occupancy[0][NATIVE:]),
    }  # fmt: skip
    for name, (theirs, ours) in pairs.items():
        if not np.array_equal(np.asarray(theirs), ours):
            raise FreerunError(f"the DataFrame way and the kernels disagree about: {name}")
