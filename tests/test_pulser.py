"""A channel of known rate: in the configuration, in the simulation, and counted in the files."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
import tomllib
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot
from hypothesis import given, settings
from hypothesis import strategies as st
from make_replay import Lab, lab
from test_verify import close_run
from typer.testing import CliRunner

from controllers import pulser as counting
from controllers.checking import verdict_of
from controllers.stored import Stored, read_back
from freerun import config
from freerun import words as w
from freerun.app.account import lines, verified
from freerun.app.cli import app
from freerun.app.verify import documents, plan_of, verify
from freerun.builder import FLAG_NEIGHBOUR, FLAG_SHARED
from freerun.config import Bench
from freerun.config.problems import ConfigProblems
from freerun.errors import ConfigError
from freerun.pulser import judge, line, stretches
from freerun.simulation import BLOCK_NS, CYCLE_BLOCKS, TelescopeConfig, block_words
from freerun.simulation.periodic import pulses_in
from freerun.ticks import Clock

ROOT = Path(__file__).resolve().parents[1]
FIRST = 178_000_000_123
EPOCH = 1_700_000_000_000_000_000
CHANNEL = 130
SECOND = 10**12  # ps


def raw_bench(rate: str = "1 kHz", **told: Any) -> dict[str, Any]:
    """The demonstration's bench with a pulser on a channel of its own."""
    raw = tomllib.loads((ROOT / "configs" / "bench.toml").read_text())
    raw["source"][1]["pulser"] = {"channel": CHANNEL, "rate": rate} | told
    raw["detector"] = [d for d in raw["detector"] if d["id"] != "pulser"]
    raw["detector"].append(
        {"id": "pulser", "kind": "scintillator", "source": "tdc1", "channels": str(CHANNEL)}
    )
    raw["pipeline"][0].pop("use")
    return raw


# ------------------------------------------------------------------ configuration


def test_a_pulser_in_the_configuration() -> None:
    bench = config.from_dict(raw_bench("10 Hz"))
    told = bench.source("tdc1").pulser
    assert told is not None and (told.rate, told.tolerance_ppm) == (10.0, 100.0)
    assert bench.source("tdc1").pulser_channel == CHANNEL
    assert bench.source("tdc0").pulser_channel is None
    assert config.from_dict(bench.resolved()).resolved() == bench.resolved()
    assert config.telescope(bench).pulsers == {(1, CHANNEL): 10.0}
    assert "Pulser" in config.json_schema()["$defs"]
    raw = raw_bench("10 Hz", fpga=1)
    raw["source"] = [raw["source"][1] | {"fpga": "all"}]
    raw["time"]["reference"] = "tdc1"
    raw["detector"] = [d | {"source": "tdc1", "fpga": 1} for d in raw["detector"][-1:]]
    for section in ("calibration", "pipeline", "write", "run_type"):
        raw.pop(section)
    assert config.from_dict(raw).source("tdc1").pulser_channel == 1 << 9 | CHANNEL


def _masked(raw: dict[str, Any]) -> None:
    raw["mask"] = {"tdc1": {"channels": [CHANNEL]}}


@pytest.mark.parametrize(
    ("told", "harm", "key", "says"),
    [
        ({"channel": 138}, None, "channel", "one of the markers"),
        ({"channel": 200}, None, "channel", "belongs to no detector"),
        ({"fpga": 0}, None, "fpga", "reads board 1, not 0"),
        ({"rate": "2 kHz"}, None, "rate", "less than or equal to 1000"),
        ({"rate": "10"}, None, "rate", "no unit"),
        ({"chanel": 3}, None, "chanel", "did you mean 'channel'"),
        ({}, _masked, "channel", "is masked"),
    ],
)
def test_a_pulser_that_cannot_be_counted(
    told: dict[str, Any], harm: Callable[[dict[str, Any]], None] | None, key: str, says: str
) -> None:
    raw = raw_bench(**told)
    if harm is not None:
        harm(raw)
    with pytest.raises(ConfigProblems) as caught:
        config.from_dict(raw)
    found = {p.path: p.text for p in caught.value.problems}
    assert says in found[f"source[1].pulser.{key}"]


def test_pulses_of_a_pmt_are_no_hits() -> None:
    raw = raw_bench()
    raw["source"][2]["pulser"] = {"channel": 1, "rate": "10 Hz"}
    with pytest.raises(ConfigProblems, match="only hits are counted again"):
        config.from_dict(raw)


# ------------------------------------------------------------------ simulation


@given(
    st.sampled_from([0.3, 1.0, 7.3, 10.0, 99.9, 100.0, 333.3, 1000.0]), st.integers(0, 10**12),
)  # fmt: skip
def test_pulses_are_periodic_over_the_borders_of_blocks(rate: float, block: int) -> None:
    """Block by block they are floor(n / rate), each n once."""
    many = 30
    made = [
        b * BLOCK_NS * 1000 + int(t)
        for b in range(block, block + many) for t in pulses_in(b, rate)
    ]  # fmt: skip
    exact = Fraction(str(rate))
    begin, end = (b * BLOCK_NS * 1000 for b in (block, block + many))
    numbers = range(math.ceil(begin * exact / SECOND), math.ceil(end * exact / SECOND))
    assert made == [math.floor(n * SECOND / exact) for n in numbers]


def pulser_ticks(cfg: TelescopeConfig, block: int, clock: Clock) -> list[int]:
    d = w.decode(
        block_words(cfg, block, 1, clock), cfg.word_format, clock.tick_at(block * BLOCK_NS)
    )
    assert (d.board == 1).all()
    ticks: list[int] = d.tick[(d.channel == CHANNEL) & (d.kind == w.HIT)].tolist()
    return ticks


@pytest.mark.parametrize("name", ["padova-v1", "padova-v2"])
def test_the_telescope_has_a_pulser(name: str) -> None:
    """Independent of seed, efficiency and of the block that is made first; nothing else changes."""
    without = TelescopeConfig(seed=3, muon_rate_hz=5_000, format=name)
    cfg = dataclasses.replace(without, pulsers={(1, CHANNEL): 1000.0})
    other = dataclasses.replace(cfg, seed=4, inefficiency=1.0)
    clock = Clock(EPOCH, 25, 30, 12_345)
    for block in (FIRST + 1, FIRST):
        ticks = pulser_ticks(cfg, block, clock)
        assert ticks == pulser_ticks(other, block, clock)
        t = clock.ps_since(np.array(ticks), block * BLOCK_NS)
        wanted = pulses_in(block, 1000.0)
        assert len(t) == 10 and wanted[0] == 0 <= t[0]  # the first at the block's start
        assert (abs(t - wanted) <= 834).all()
        mine, rest = (block_words(x, block, 1, clock) for x in (cfg, without))
        kept = w.decode(mine, cfg.word_format).channel != CHANNEL
        assert np.array_equal(mine[kept], rest)
        one, two = (block_words(x, block, 0, clock) for x in (cfg, without))
        assert np.array_equal(one, two)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"pulsers": {(1, 64): 10.0}}, "a channel of its own"),
        ({"pulsers": {(1, 128): 10.0}}, "a channel of its own"),
        ({"pulsers": {(1, 130): 10.0}, "dead": ((1, 130),)}, "a channel of its own"),
        ({"pulsers": {(1, 130): 10.0}, "repeat": True}, "must fit into 8.91 s"),
        ({"pulsers": {(1, 600): 10.0}}, "no board 1 channel 600"),
        ({"pulsers": {(1, 130): 0.0}}, "above 0"),
    ],
)
def test_pulsers_that_cannot_be_simulated(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        TelescopeConfig(**change)


def test_a_pulser_fits_into_a_cycle_that_repeats() -> None:
    cfg = TelescopeConfig(pulsers={(1, CHANNEL): 100.0}, repeat=True)
    assert np.array_equal(pulses_in(FIRST, 100.0), pulses_in(FIRST + CYCLE_BLOCKS, 100.0))
    assert cfg.boards == (0, 1)


# ------------------------------------------------------------------ stretches and pulses


@given(st.sets(st.integers(0, 40)))
def test_stretches_are_what_is_next_to_each_other(slices: set[int]) -> None:
    made = stretches(sorted(slices))
    assert {k for a, b in made for k in range(a, b)} == slices
    assert all(a < b for a, b in made)
    assert all(one[1] < two[0] for one, two in itertools.pairwise(made))


@settings(max_examples=100)
@given(st.data())
def test_each_lost_and_each_doubled_pulse_is_seen(data: st.DataObject) -> None:
    period = data.draw(st.integers(10**9, SECOND))
    real = period * (1 + data.draw(st.floats(-90e-6, 90e-6)))
    phase = data.draw(st.integers(0, period))
    good = sorted(data.draw(st.sets(st.integers(0, 30), min_size=1)))
    length = data.draw(st.integers(10**9, 5 * SECOND))
    rate, end = SECOND / period, 31 * length
    numbers = min(3000, int(end / real) + 1)
    if (numbers - 1) * real + phase < end - real:
        end = int((numbers - 1) * real + phase)  # of a fast pulser only the beginning
    shake = np.array([data.draw(st.integers(-period // 50, period // 50)) for _ in range(7)])
    t = (phase + np.arange(numbers) * real).astype(np.int64) + np.resize(shake, numbers)
    borders = [(a * length, min(b * length, end)) for a, b in stretches(good) if a * length < end]
    whole = judge(t, borders, rate, 100.0)
    assert (whole.missing, whole.doubled) == (0, 0) and whole.off <= 0
    assert whole.found == whole.expected == sum(((t >= a) & (t < b)).sum() for a, b in borders)

    # inside of a stretch, each one lost and each one doubled is counted
    inside = [i for a, b in borders for i in np.flatnonzero((t >= a) & (t < b))[1:-1].tolist()]
    if not inside:
        return
    lost = data.draw(st.sets(st.sampled_from(inside), max_size=20))
    twice = data.draw(st.sets(st.sampled_from(inside), max_size=20)) - lost
    other = np.sort(np.concatenate([np.delete(t, sorted(lost)), t[sorted(twice)]]))
    harmed = judge(other, borders, rate, 100.0)
    assert (harmed.missing, harmed.doubled) == (len(lost), len(twice))
    assert harmed.expected == whole.expected and harmed.off <= 0
    assert bool(harmed.where) == bool(lost or twice) and len(harmed.where) <= 5


def test_what_is_missing_at_an_edge_and_a_wrong_rate() -> None:
    t = np.arange(5, 100) * SECOND // 10 + SECOND // 20
    found = judge(t, [(0, 10 * SECOND)], 10.0, 100.0)  # half a second of silence first
    assert (found.missing, found.where[0]) == (5, 0)
    silent = judge(t[:0], [(0, SECOND), (2 * SECOND, 3 * SECOND)], 10.0, 100.0)
    assert (silent.found, silent.missing) == (0, 18)  # at least nine in each
    assert judge(t[:0], [(0, SECOND // 10)], 10.0, 100.0).expected == 0  # nothing is sure here
    drifting = (np.arange(36_000) * SECOND * 1.0003 / 10).astype(np.int64)
    found = judge(drifting, [(0, 3600 * SECOND)], 10.0, 100.0)
    assert found.missing == found.doubled == 0 and 5 < found.off < 8
    assert judge(drifting, [(0, 3600 * SECOND)], 10.0, 400.0).off <= 0


# ------------------------------------------------------------------ in a file


def write_tree(file: Any, name: str, columns: dict[str, Any]) -> None:
    kinds = {n: ak.type(c).content if isinstance(c, ak.Array) else c.dtype
             for n, c in columns.items()}  # fmt: skip
    file.mktree(name, kinds).extend(columns)


class Files:
    """A data file of the pulser's rows alone, as far as they are looked at; slices 100…105."""

    def __init__(self, bench: Bench, folder: Path, roster: tuple[str, ...] = ("tdc1",)) -> None:
        self.bench, self.path = bench, folder / "Run000001_muons_0000.root"
        self.length = bench.time.slice * 1000  # ps
        self.document: dict[str, Any] = {
            "run": 1, "sources": [s.id for s in bench.sources], "roster": dict.fromkeys(roster, 1),
            "first": 100, "slice_ns": bench.time.slice, "t_start_ns": 100 * bench.time.slice,
        }  # fmt: skip
        self.good = np.ones(6, np.uint8)
        self.events: list[tuple[int, int, list[tuple[int, int]]]] = []  # slice, t0, (t, flags)
        self.hits: list[tuple[int, int, int]] = []  # t, flags, event

    def every(self, period: int = SECOND // 100) -> list[int]:
        return list(range(3, 6 * self.length, period))

    def check(self, hits: tuple[str, ...] = ("unassigned",), **more: Any) -> dict[str, Any]:
        start = self.document["t_start_ns"]
        events, rows = sorted(self.events), sorted(self.hits)
        flat = {name: ak.Array([[x[i] for x in e[2]] for e in events] or [[]])
                for i, name in enumerate(("t", "flags"))}  # fmt: skip
        t0 = np.array([e[1] for e in events] or [0])
        hit = ak.zip({
            "source": ak.values_astype(ak.full_like(flat["t"], 1), np.uint16),
            "channel": ak.values_astype(ak.full_like(flat["t"], CHANNEL), np.uint16),
            "t": ak.values_astype((flat["t"] - t0) / 1000, np.float32),
            "flags": ak.values_astype(flat["flags"], np.uint32),
        })  # fmt: skip
        t, flags, event = np.array(rows or np.empty((0, 3)), np.int64).T
        with uproot.recreate(self.path) as file:
            write_tree(file, "events", {
                "slice": np.array([e[0] for e in events] or [0]), "hit": hit,
                "t0_ns": start + t0 // 1000, "t0_ps": (t0 % 1000).astype(np.uint16),
            })  # fmt: skip
            write_tree(file, "hits", {
                "event": event, "source": np.ones(len(t), np.uint16),
                "channel": np.full(len(t), CHANNEL, np.uint16), "t_ns": start + t // 1000,
                "t_ps": (t % 1000).astype(np.uint16), "flags": flags.astype(np.uint32),
            })  # fmt: skip
        stored = Stored(tuple(self.document["sources"]), 100, paths=[self.path])
        stored.slices = [{"slice": np.arange(100, 106), "good": self.good}]
        here = np.tile([[0], [1], [2]], (6, 1)).ravel()
        stored.ledger = [{"slice": np.repeat(np.arange(100, 106), 3), "source": here,
                          "assembled": np.repeat(self.good, 3).astype(np.int64)}]  # fmt: skip
        losses = more.pop("losses", {})
        verdict = {"sources": {"tdc1": {"losses": losses}}}
        args: dict[str, Any] = {"stored": stored, "thorough": True} | more
        out = counting.check(self.bench, self.document, "muons", args["stored"], hits, verdict,
                             args["thorough"])  # fmt: skip
        assert len(out["pulser"]) == 1 and line(out["pulser"][0]).startswith("pulser    tdc1/130")
        return out


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """60 pulses, ten a slice, in no event."""
    made = Files(config.from_dict(raw_bench("100 Hz")), tmp_path)
    made.hits = [(t, 0, -1) for t in made.every()]
    return made


def told(out: dict[str, Any]) -> tuple[Any, ...]:
    row = out["pulser"][0]
    return row["found"], row["expected"], row["ok"]


def test_a_row_is_counted_once_wherever_it_is(files: Files) -> None:
    times, length = files.every(), files.length
    assert told(files.check()) == (60, 60, True)
    # in an event; in two of its slice; in two events of neighbours; in that of the neighbour only
    a, b, c, d = times[3], times[14], times[20], times[40]
    files.hits = [h for h in files.hits if h[0] not in (a, b, c)]
    files.hits = [(t, FLAG_NEIGHBOUR if t == d else 0, e) for t, _, e in files.hits]
    files.events = [
        (100, a - 9_001, [(a, 0)]), (101, b - 100, [(b, FLAG_SHARED)]),
        (101, b - 25, [(b, FLAG_SHARED)]), (101, 2 * length - 7, [(c, FLAG_SHARED)]),
        (102, c + 11, [(c, FLAG_SHARED)]), (103, 4 * length - 1, [(d, 0)]),
    ]  # fmt: skip
    assert told(files.check()) == (60, 60, True)
    # hits = "all": those of events are there again, and none that is left to the neighbour
    files.hits = [h for h in files.hits if h[0] != d] + [(a, 0, 5), (b, 0, 7), (b, 0, 8), (d, 0, 9)]
    assert told(files.check(("all",))) == (60, 60, True)


def test_one_row_less_or_more_is_a_gap_with_its_name(files: Files) -> None:
    every = list(files.hits)
    files.hits = every[:23] + every[24:]
    out = files.check()
    assert told(out) == (59, 60, False)
    (gap,) = out["gaps"]
    assert gap == ("pulser tdc1/130 at 100 Hz: 1 of 60 pulses are not in the files, after "
                   "t_run = 0.220000 s (slice 102)")  # fmt: skip
    # a row that came late and was named as such may have been this one
    out = files.check(losses={"late": 1})
    assert told(out) == (59, 60, True) and not out["gaps"] and out["pulser"][0]["named"] == 1
    assert "1 perhaps among the rows named as lost" in line(out["pulser"][0])
    assert files.check(losses={"given_up": 10})["gaps"]  # such slices are not complete
    files.hits = [*every, every[7]]
    out = files.check()
    assert told(out) == (61, 60, False) and "1 pulses too many" in out["gaps"][0]
    # what is beside the complete slices is not looked at
    files.hits, files.good = every[:23] + every[24:], np.array([1, 1, 0, 1, 1, 1], np.uint8)
    assert told(files.check()) == (50, 50, True)
    files.hits = every[::2]
    assert "pulses are not in the files" in files.check()["gaps"][0]


def test_a_source_that_joins_later_is_counted_from_then_on(files: Files) -> None:
    files.document["roster"] = {"tdc0": 1}
    files.good[:3] = 0  # and in them nothing was assembled
    files.hits = files.hits[30:]
    assert told(files.check()) == (30, 30, True)


def test_what_cannot_be_counted_is_said(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    for more, says in (({"hits": ("none",)}, 'hits = "none"'), ({"stored": None}, "no file is")):
        out = files.check(**more)
        assert told(out) == (None, None, None) and not out["gaps"]
        assert says in out["unknown"][0]
    bench = files.bench
    raw = raw_bench("100 Hz")
    raw["pipeline"][0]["use"] = ["ch0"]
    files.bench = config.from_dict(raw)
    assert "no pipeline uses its detector" in files.check()["unknown"][0]
    files.bench = bench
    monkeypatch.setattr(counting, "AT_CLOSE_BYTES", 0)
    out = files.check(thorough=False)
    assert told(out) == (None, None, None) and not out["gaps"] and not out["unknown"]
    assert "counted by 'freerun run verify 1'" in line(out["pulser"][0])
    assert told(files.check()) == (60, 60, True)


# ------------------------------------------------------------------ a run


BLOCKS = 80


@pytest.fixture(scope="module")
def run(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A run of 0.8 s with a pulser of 1 kHz, from its source to its files."""
    raw = raw_bench()
    raw["system"]["name"] = f"tp{time.time_ns():x}"
    raw["simulation"] |= {"seed": 3, "muon_rate": "10 kHz", "noise": "20 Hz", "noisy": []}
    raw["source"] = raw["source"][1:2]
    raw["source"][0] |= {"first_block": 170_000_000_000, "blocks": BLOCKS}
    raw["time"]["reference"] = "tdc1"
    raw["detector"] = [
        {**raw["detector"][0], "id": "ch2", "source": "tdc1", "position": {"z": 1035.6}},
        *(d for d in raw["detector"] if d["id"] in ("scint", "pulser")),
    ]
    raw["calibration"]["detector"] = {"pulser": {"offsets": {str(CHANNEL): "-3 ns"}}}
    raw["write"] = [{"what": ["muons"], "format": "root", "roll": {"every": "300 ms"}}]
    raw.pop("run_type")
    bench = config.from_dict(raw)
    length, begin = bench.time.slice, 170_000_000_000 * BLOCK_NS
    first, last = begin // length, (begin + BLOCKS * BLOCK_NS - 1) // length
    with lab(broker, bench, tmp_path_factory.mktemp("pulser"), 3, first, last, EPOCH) as made:
        made.start_sources()
        made.run_lane("muons")
        document = close_run(made)
        assert document["exit"] == 0, document["ledger"]["gaps"]
        yield made


def test_the_pulser_of_a_run_is_found_again(run: Lab) -> None:
    document, _ = documents(run.address, run.topics, 1)
    (row,) = document["ledger"]["pulser"]
    assert (row["found"], row["expected"], row["ok"], row["live_ns"]) == (800, 800, True, 8 * 10**8)
    assert (row["source"], row["channel"], row["rate"]) == ("tdc1", CHANNEL, "1 kHz")
    says = "pulser    tdc1/130 at 1 kHz: 800 of 800 found again in the files (0.8 s in complete"
    assert next(x for x in lines(document) if x.startswith("pulser")).startswith(says)
    found = verify(run.address, run.bench, 1)
    assert found.ok and found.verdict["pulser"] == [row]
    assert any(x.startswith(says) for x in verified(found))
    shown = CliRunner().invoke(app, ["run", "verify", "1", "--bench", str(run.paths[0])],
                               env={"FREERUN_KAFKA": run.address})  # fmt: skip
    assert shown.exit_code == 0 and says in shown.stdout


def test_a_pulse_taken_out_of_the_files_is_missed(
    run: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of an event, and out of the hits in none: the verdict names both."""
    document, outputs = documents(run.address, run.topics, 1)
    files = outputs["root0"]["files"]
    stored = read_back(Path(document["folder"]), document, files, "muons", False)
    assert len(stored.paths) == 3
    index = document["sources"].index("tdc1")
    with uproot.open(stored.paths[1]) as file:
        names = ["slice", "t0_ns", "t0_ps", "hit_source", "hit_channel", "hit_t", "hit_flags"]
        events = file["events"].arrays(names)
        hits = file["hits"].arrays(["event", "source", "channel", "t_ns", "t_ps", "flags"],
                                   library="np")  # fmt: skip
    mine = ak.to_numpy(ak.flatten(events["hit_channel"] == CHANNEL))
    single = ak.to_numpy(ak.flatten(events["hit_flags"])) & FLAG_SHARED == 0
    harmed = np.flatnonzero(mine & single)[0]  # at 10 kHz about one in a hundred is in an event
    flat = ak.to_numpy(ak.flatten(events["hit_channel"])).copy()
    flat[harmed] = 0
    channel = ak.unflatten(flat, ak.num(events["hit_channel"]))
    lost = np.flatnonzero((hits["channel"] == CHANNEL) & (hits["source"] == index))[5]
    copy = tmp_path / stored.paths[1].name
    with uproot.recreate(copy) as out:
        hit = {n[4:]: events[n] for n in names[3:]} | {"channel": channel}
        columns = {n: ak.to_numpy(events[n]) for n in names[:3]} | {"hit": ak.zip(hit)}
        write_tree(out, "events", columns)
        write_tree(out, "hits", {name: np.delete(values, lost) for name, values in hits.items()})

    def other(*args: Any) -> Stored:
        read: Stored = read_back(*args)
        read.paths[1] = copy
        return read

    monkeypatch.setattr("controllers.checking.read_back", other)
    plan = plan_of(run.address, run.topics)
    verdict = verdict_of(
        run.address, run.topics, plan, plan.runs()[0], document, outputs, run.bench
    )
    assert not verdict["ok"] and (row := verdict["pulser"][0])["missing"] == 2
    assert (row["found"], row["expected"]) == (798, 800)
    assert verdict["line"].startswith(
        "LEDGER has a gap: pulser tdc1/130 at 1 kHz: 2 of 800 pulses are not in the files, after"
    )
