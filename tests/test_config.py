"""The configuration: what a good file means, and what is said about a bad one."""

from __future__ import annotations

import json
import re
import sys
import tomllib
import types
from collections.abc import Callable
from fractions import Fraction
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field
from typer.testing import CliRunner

from freerun import config, plugins
from freerun.app import config_cli
from freerun.builder import MARKER, PMT, SCINT, TUBE, UNKNOWN, Builder
from freerun.config import units
from freerun.errors import ConfigError

GOOD = """
schema = 1
[system]
name = "telescope"
[time]
reference = "tdc0"
guard = "5 us"
[[source]]
id = "tdc0"
driver = "replay"
format = "padova-v1"
fpga = "all"
markers = [138]
file = "run637.dat"
clock = { offset = "-12.5 ns" }
[[detector]]
id = "ch0"
kind = "drift_chamber"
source = "tdc0"
fpga = 0
channels = "0-63"
position = { z = "21.98 cm", rotate = 0 }
[[detector]]
id = "ch1"
like = "ch0"
channels = "64-127"
[[detector]]
id = "ch2"
like = "ch0"
fpga = 1
[[detector]]
id = "ch3"
like = "ch1"
fpga = 1
[[detector]]
id = "scint"
kind = "scintillator"
source = "tdc0"
fpga = 1
channels = [128]
[[pipeline]]
id = "muons"
builder = "finder"
window = ["-50 ns", "500 ns"]
[[write]]
what = ["muons"]
[run_type.beam]
ask = { momentum = "float" }
stop_after = { time = "1 h", events = 1000 }
writers = ["muons"]
"""


class FinderBuilder(Builder):
    """A builder with keys of its own."""

    class Config(Builder.Config):
        window: tuple[units.Ps, units.Ps]
        min_layers: int = 3

    def reach(self) -> tuple[int, int]:
        return -self.config.window[0], self.config.window[1]

    def extent(self) -> tuple[int, int]:
        return self.reach()


class FileDriver:
    """A driver with keys of its own, one of them common to all sources."""

    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid")
        file: str
        format: str
        passes: int = Field(default=1, gt=0)


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for the installed plug-ins."""
    module = types.ModuleType("stand_in_plugins")
    module.__dict__.update(FinderBuilder=FinderBuilder, FileDriver=FileDriver)
    monkeypatch.setitem(sys.modules, "stand_in_plugins", module)
    table = {
        plugins.DRIVERS: {"replay": "FileDriver", "simulate": "FileDriver", "pulses": "FileDriver"},
        plugins.BUILDERS: {"finder": "FinderBuilder", "drift_tubes": "FinderBuilder"},
    }

    def points(group: str) -> list[EntryPoint]:
        return [EntryPoint(n, f"stand_in_plugins:{v}", group) for n, v in table[group].items()]

    monkeypatch.setattr(plugins, "entry_points", points)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def put(text: str) -> Path:
        path = tmp_path / "bench.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return put


def problems(call: Callable[[], object]) -> dict[str, str]:
    """Path → text of everything that `call` complains about, which is also in the message."""
    with pytest.raises(config.ConfigProblems) as caught:
        call()
    for problem in caught.value.problems:
        assert str(problem) in str(caught.value)
    return {problem.path: problem.text for problem in caught.value.problems}


def changed(old: str, new: str) -> dict[str, Any]:
    assert old in GOOD
    return tomllib.loads(GOOD.replace(old, new, 1))


# ------------------------------------------------------------------------- units


@pytest.mark.parametrize(
    ("text", "ns"),
    [("100 ms", 100_000_000), ("5us", 5_000), ("5 \u00b5s", 5_000), ("5 \u03bcs", 5_000),
     ("1 h", 36 * 10**11), ("-50 ns", -50), ("0.1 s", 100_000_000), ("1.5e3 ns", 1_500),
     ("12500 ps", None), ("2 min", 120_000_000_000)],
)  # fmt: skip
def test_durations_are_whole_nanoseconds(text: str, ns: int | None) -> None:
    if ns is None:
        with pytest.raises(ValueError, match="not a whole number of ns"):
            units.NANOSECONDS.whole(text)
    else:
        assert units.NANOSECONDS.whole(text) == ns


def test_exact_where_floats_are_not() -> None:
    assert units.PICOSECONDS.whole("12.5 ns") == 12_500
    assert units.PICOSECONDS.whole("0.29 s") == 290_000_000_000  # 0.29 * 10**12 is not, in floats
    assert units.BYTES.whole("1.5 GB") == 1_500_000_000
    assert units.BYTES.whole("2 MiB") == 2 << 20
    assert units.HERTZ.parse("2 MHz") == 2_000_000
    assert units.MILLIMETRES.parse("42.0 mm") == 42


@pytest.mark.parametrize(
    ("text", "said"),
    [(5, "has no unit"), ("5", "allowed are ps, ns, us, ms"), ("5 msec", "allowed are ps, ns"),
     ("five ms", "one number and one unit"), ("1 2 ms", "one number"), ("", "one number"),
     (True, "has no unit"), ("٣ ms", "one number"), ("1e99 s", "64 bits"), ("1e999999 s", "one "
     "number"), ("nan s", "one number"), ("{x} ms", "one number")],
)  # fmt: skip
def test_a_bad_duration_says_what_is_allowed(text: object, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        units.NANOSECONDS.whole(text)


@given(st.integers(-(2**63), 2**63 - 1))
def test_text_of_a_quantity_reads_back(value: int) -> None:
    for quantity in (units.NANOSECONDS, units.PICOSECONDS, units.BYTES):
        assert quantity.whole(quantity.text(value)) == value


@given(st.floats(0, 1e12))
def test_text_of_a_rate_reads_back(value: float) -> None:
    exact = Fraction(repr(value))
    if exact.denominator < 10**90:
        assert float(units.HERTZ.parse(units.HERTZ.text(value))) == value


# ------------------------------------------------------------------------- a good file


def test_what_a_file_means() -> None:
    bench = config.from_dict(tomllib.loads(GOOD))
    assert (bench.time.slice, bench.time.guard) == (100_000_000, 5_000)
    source = bench.source("tdc0")
    assert source.clock.offset == -12_500
    assert source.late.hit == 3_000
    assert source.sanity.trigger == 10_000_000_000
    assert source.options == {"file": "run637.dat"}
    assert source.domain == "common"
    assert bench.detector("ch3").channels == list(range(64, 128))
    assert bench.detector("ch0").position.z == pytest.approx(219.8)  # type: ignore[union-attr]
    assert bench.used(bench.pipeline("muons")) == ["ch0", "ch1", "ch2", "ch3", "scint"]
    assert bench.sources_of(bench.pipeline("muons")) == ["tdc0"]
    assert bench.writes[0].roll.size == 1_500_000_000
    assert bench.run_types["beam"].stop_after.time == 3_600_000_000_000
    assert (bench.cluster.partitions, bench.cluster.workers) == (8, 1)
    with pytest.raises(ConfigError, match="known are tdc0"):
        bench.source("tdc1")


def test_resolved_means_the_same(project: Path) -> None:
    demo = config.load(project / "configs/bench.toml")
    for bench in (config.from_dict(tomllib.loads(GOOD)), demo):
        again = config.from_dict(tomllib.loads(bench.resolved_toml()))
        assert again.resolved() == bench.resolved()
        assert again.digest() == bench.digest()
        assert json.loads(json.dumps(bench.resolved())) == bench.resolved()
        moved = config.from_dict(bench.resolved(), path=bench.path, cluster=bench.cluster)
        assert moved.folder == bench.folder
    other = config.from_dict(changed("-12.5 ns", "-12.6 ns"))
    assert other.digest() != config.from_dict(tomllib.loads(GOOD)).digest()


def test_file_and_folder(write: Callable[[str], Path], tmp_path: Path,
                         monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    bench = config.load(write(GOOD))
    assert bench.folder == tmp_path
    assert bench.text == GOOD
    assert bench.data_dir == tmp_path / "data" / "telescope"


def test_scale_is_a_file_of_its_own(write: Callable[[str], Path], tmp_path: Path) -> None:
    size = tmp_path / "cluster.toml"
    size.write_text('[cluster]\npartitions = 16\nworkers = 4\nkafka = "k1:9092,k2:9092"\n'
                    'heap = "256 MB"\n')  # fmt: skip
    bench = config.load(write(GOOD), size)
    assert (bench.cluster.partitions, bench.cluster.heap) == (16, 256_000_000)
    assert bench.cluster.kafka == "k1:9092,k2:9092"
    assert "cluster" not in bench.resolved()
    size.write_text("[cluster]\npartitons = 16\nworkers = 0\n[other]\n")
    said = problems(lambda: config.load(write(GOOD.replace("schema = 1", "schema = 2")), size))
    assert "did you mean 'partitions'" in said[f"{size}: cluster.partitons"]
    assert {"schema", f"{size}: cluster.workers", f"{size}: other"} <= set(said)
    inside = problems(lambda: config.load(write(GOOD + "[cluster]\nworkers = 2\n")))
    assert "file of its own" in inside["cluster"]


def test_the_demo_bench_describes_the_default_telescope(project: Path) -> None:
    from freerun.simulation.config import Geometry

    bench = config.load(project / "configs/bench.toml")
    telescope = config.telescope(bench, "tdc1")
    assert telescope.geometry == Geometry()
    assert telescope.muon_rate_hz == 50_000
    assert telescope.format == "padova-v1"


def test_the_demo_bench_with_its_own_plugins(project: Path,
                                             monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.undo()  # the real ones
    if "simulate" not in plugins.names(plugins.DRIVERS):
        pytest.skip("freerun is not installed here, so its drivers have no names")
    bench = config.check(project / "configs/bench.toml")
    assert config.driver_of(bench, "tdc0")[0].__name__ == "Simulate"
    assert config.builder_of(bench, "muons")[0].__name__ == "DriftTubes"


# ------------------------------------------------------------------------- geometry


def test_channels_become_detectors() -> None:
    raw = changed("markers = [138]", "markers = [136, 138]") | {
        "mask": {"tdc0": [{"channels": [5], "fpga": 1}, {"channels": "7-8", "fpga": 0}]},
        "calibration": {"detector": {
            "ch2": {"trigger_latency": "500.5 ns", "t0_correction": "-1.1 ns",
                    "drift_time": "400 ns", "offsets": {"3": "0.4 ns"}},
            "scint": {"delay": "90 ns"},
        }},
    }  # fmt: skip
    places = config.Geometry.of(config.from_dict(raw))
    channels = places.maps["tdc0"]
    board1 = 1 << 9
    at = board1 + 3
    assert (channels.det[at], channels.layer[at], channels.cell[at]) == (2, 1, 0)
    assert channels.offset_ps[at] == 400 and np.count_nonzero(channels.offset_ps) == 1
    assert list(channels.layer[:4]) == [4, 2, 3, 1]
    assert channels.cell[64 + 63] == 15
    assert channels.role[5] == TUBE and channels.role[board1 + 128] == SCINT
    assert channels.role[128] == UNKNOWN and channels.det[128] == 255
    assert channels.role[138] == channels.role[board1 + 136] == MARKER
    assert list(np.flatnonzero(channels.masked)) == [7, 8, board1 + 5]
    assert list(channels.trigger_det[:5]) == [0, 1, 2, 3, 255]
    assert list(places.chamber_of_trigger[:5]) == [0, 1, 2, 3, 255]
    assert channels.det.shape == (8192,) and channels.det.dtype == np.uint8
    chamber = places.chambers[2]
    assert (chamber.id, chamber.det_index, chamber.t_max_ps) == ("ch2", 2, 400_000)
    assert (chamber.trigger_latency_ps, chamber.t0_correction_ps) == (500_500, -1_100)
    assert chamber.v_mm_per_ns == pytest.approx(21 / 400)
    assert chamber.wire_x.shape == (5, 16) and chamber.layer_z.shape == (5,)
    assert chamber.wire_x[1, 0] - chamber.wire_x[2, 0] == pytest.approx(21.0)
    assert chamber.wire_x[2].sum() == pytest.approx(0)
    assert list(chamber.layer_z[1:]) == [-19.5, -6.5, 6.5, 19.5]
    assert not places.chambers[0].calibrated and chamber.calibrated
    assert [(c.id, c.det_index, c.delay_ps) for c in places.scintillators] == [("scint", 4, 90_000)]
    assert places.index == {"ch0": 0, "ch1": 1, "ch2": 2, "ch3": 3, "scint": 4}


def test_a_detector_that_is_not_used_is_masked() -> None:
    bench = config.from_dict(changed('builder = "finder"', 'builder = "finder"\nuse = ["ch1"]'))
    places = config.Geometry.of(bench, bench.pipeline("muons"))
    assert [c.id for c in places.chambers] == ["ch1"]
    assert list(np.flatnonzero(places.maps["tdc0"].masked[:128])) == list(range(64))
    assert list(places.maps["tdc0"].trigger_det[:4]) == [255, 1, 255, 255]


def test_pulses_have_plain_channels(project: Path) -> None:
    places = config.Geometry.of(config.load(project / "configs/bench.toml"))
    assert list(places.maps["digi0"].role[:3]) == [PMT, PMT, UNKNOWN]
    assert list(places.maps["digi0"].det[:3]) == [5, 6, 255]
    assert list(places.maps["tdc1"].det[[0, 64, 128]]) == [2, 3, 4]


def test_the_default_map_fits_the_recorded_run(shared_data: Path) -> None:
    """Muons cross adjacent cells: 1237 of the 1333 isolated four-layer groups do.

    Isolated: a chamber is silent for 420 ns (the longest drift and a margin), and in the 420 ns
    that begin with the next hit each layer has exactly one.
    """
    words = np.fromfile(shared_data / "minidt" / "run637_first60000.dat", "<u8").astype(np.int64)
    native = words >> 49 & 0x1FFF  # (fpga << 9) | raw
    tick = ((words >> 17 & 0xFFFFFFFF) * 3564 + (words >> 5 & 0xFFF)) * 30 + (words & 31)

    def adjacent(raw: dict[str, Any]) -> tuple[int, int]:
        places = config.Geometry.of(config.from_dict(raw))
        channels, window = places.maps["tdc0"], 420 * 30 // 25
        groups = good = 0
        for chamber in places.chambers:
            mine = np.flatnonzero(channels.det[native & 0x1FFF] == chamber.det_index)
            mine = mine[np.lexsort((native[mine], tick[mine]))]
            t, number = tick[mine], native[mine]
            first = np.flatnonzero(np.diff(t, prepend=t[0] - window) >= window)
            first = first[first < len(t) - 4]
            alone = (t[first + 3] - t[first] <= window) & (t[first + 4] - t[first] >= window)
            four = number[first[alone][:, None] + np.arange(4)]
            layers = channels.layer[four]
            order = np.argsort(layers, axis=1)
            four = np.take_along_axis(four, order, axis=1)
            layers = np.take_along_axis(layers, order, axis=1)
            whole = (layers == [1, 2, 3, 4]).all(axis=1)
            x = chamber.wire_x[layers[whole], channels.cell[four[whole]]]
            groups += len(x)
            good += int((np.abs(np.diff(x, axis=1)) == 21.0).all(axis=1).sum())
        return good, groups

    assert adjacent(tomllib.loads(GOOD)) == (1237, 1333)
    wrong = tomllib.loads(GOOD)
    wrong["detector"][0]["layer_of"] = [4, 1, 2, 3]
    good, groups = adjacent(wrong)
    assert good < 0.6 * groups


# ------------------------------------------------------------------------- bad files


@pytest.mark.parametrize(
    ("old", "new", "path", "said"),
    [
        ('driver = "replay"', 'drvier = "replay"', "source[0].driver", "is missing"),
        ('guard = "5 us"', 'gaurd = "5 us"', "time.gaurd", "did you mean 'guard'"),
        ('guard = "5 us"', 'guard = "100 ms"', "time", "guard (100 ms) must be shorter than slice"),
        ('guard = "5 us"', "guard = 5", "time.guard", "has no unit"),
        ('guard = "5 us"', 'slice = "0 ms"', "time.slice", "greater than 0"),
        ('reference = "tdc0"', 'reference = "tdc9"', "time.reference", "did you mean 'tdc0'"),
        ('name = "telescope"', 'name = "Tele Scope"', "system.name", "a-z, 0-9 and _"),
        ('name = "telescope"', "name = 7", "system.name", "must be text in quotes, got 7"),
        ("schema = 1", "schema = 2", "schema", "got 2, expected 1"),
        ("[system]", "[[slow]]\n[system]", "slow", "unknown key 'slow'"),
        ('format = "padova-v1"', 'format = "padova-v3"', "source[0].format", "did you mean"),
        ('format = "padova-v1"\n', "", "source[0].format", "never guessed"),
        ('fpga = "all"\n', "", "source[0].fpga", "is missing"),
        ('fpga = "all"', "fpga = 16", "source[0].fpga", "a number 0-15"),
        ('fpga = "all"', "fpga = 0", "detector[2].fpga", "reads board 0, not 1"),
        ('offset = "-12.5 ns"', 'offset = "0.5 ps"', "source[0].clock.offset", "not a whole"),
        ("clock = {", 'clock = { kind = "comon", ', "source[0].clock.kind", "mean 'common'"),
        ("markers = [138]", 'late = { hits = "1 us" }', "source[0].late.hits", "you mean 'hit'"),
        ("markers = [138]", 'sanity = "1 kg"', "source[0].sanity", "allowed are"),
        ("markers = [138]", "markers = [62]", "detector[0].channels", "one of its markers"),
        ("markers = [138]", "markers = [600]", "source[0].markers", "channels 0-511"),
        ('kind = "drift_chamber"', 'kind = "drift"', "detector[0]", "did you mean 'drift_chamber'"),
        ('kind = "drift_chamber"\n', "", "detector[0]", "`kind` is missing"),
        ('source = "tdc0"', 'source = "tcd0"', "detector[0].source", "did you mean 'tdc0'"),
        ('channels = "0-63"', 'channels = "0-64"', "detector[0].channels", "at most 64"),
        ('channels = "0-63"', 'channels = "63-0"', "detector[0].channels", "runs backwards"),
        ('channels = "0-63"', 'channels = "0-x"', "detector[0].channels", "write them like"),
        ('channels = "64-127"', 'channels = "60-100"', "detector[1].channels",
         "channel 60-63 of tdc0 already belongs to detector[0] (ch0)"),
        ('like = "ch1"', 'like = "chh1"', "detector[3].like", "did you mean 'ch1'"),
        ('like = "ch1"', 'like = "ch3"', "detector[3].like", "like itself"),
        ("position = {", "layer_of = [1, 2, 3, 3]\nposition = {", "detector[0].layer_of", "once"),
        ("rotate = 0", "rotate = 45", "detector[0].position.rotate", "got 45, expected 0 or 90"),
        ('z = "21.98 cm"', 'z = "21.98 s"', "detector[0].position.z", "allowed are um, mm, cm, m"),
        ('builder = "finder"', 'builder = "finder"\nuse = ["ch9"]', "pipeline[0].use", "known "
         "are ch0"),
        ('what = ["muons"]', 'what = ["muon"]', "write[0].what", "did you mean 'muons'"),
        ('what = ["muons"]', 'what = ["muons"]\nformat = "nexus"', "write[0].format", "known are "
         "root"),
        ('what = ["muons"]', 'what = ["muons"]\n[[write]]\nwhat = ["muons"]', "write[1].what",
         "written by write[0] already"),
        ('writers = ["muons"]', 'writers = ["tof"]', "run_type.beam.writers", "unknown output"),
        ('momentum = "float"', 'momentum = "real"', "run_type.beam.ask.momentum", "known are text"),
        ("[run_type.beam]", "[run_type.Beam]", "run_type.Beam", "a-z, 0-9 and _"),
        ("events = 1000", "events = 0", "run_type.beam.stop_after.events", "greater than 0"),
        ("[run_type.beam]", "[mask.tdc9]\nchannels = [1]\n[run_type.beam]", "mask", "did you mean"),
        ("[run_type.beam]", "[mask.tdc0]\nchannels = [1]\n[run_type.beam]", "mask.tdc0.fpga",
         "reads all boards"),
        ("[run_type.beam]", '[calibration.detector.scint]\ndrift_time = "1 ns"\n[run_type.beam]',
         "calibration.detector.scint.drift_time", "does not apply to a scintillator"),
        ("[run_type.beam]", '[calibration.detector.ch0.offsets]\n99 = "1 ns"\n[run_type.beam]',
         "calibration.detector.ch0.offsets.99", "is no channel of ch0"),
    ],
)  # fmt: skip
def test_one_mistake(old: str, new: str, path: str, said: str) -> None:
    found = problems(lambda: config.from_dict(changed(old, new)))
    assert path in found, found
    assert said in found[path]
    for other in found:  # nothing is said that does not follow from it
        assert other.split("[")[0].split(".")[0] in (path.split("[")[0].split(".")[0], "write",
                                                    "pipeline", "run_type"), found  # fmt: skip


def test_an_inherited_mistake_is_said_once() -> None:
    found = problems(lambda: config.from_dict(changed("rotate = 0", "rotat = 0")))
    assert list(found) == ["detector[0].position.rotat"]


def test_channels_of_a_source_are_alike() -> None:
    raw = tomllib.loads(GOOD)
    raw["source"][0]["channel"] = {
        "0": {"threshold": "15 mV", "range": "2 Vpp"},
        "1": {"like": 0, "threshold": "18 mV"},
    }
    options = config.from_dict(raw).sources[0].options
    assert options["channel"]["1"] == {"threshold": "18 mV", "range": "2 Vpp"}
    raw["source"][0]["channel"]["1"]["like"] = 7
    found = problems(lambda: config.from_dict(raw))
    assert "unknown channel '7'" in found["source[0].channel.1.like"]


BAD = """
schema = 1
[system]
name = "Bad Name"
contackt = "x"
[time]
reference = "tdc9"
slice = "100 msec"
[[source]]
id = "tdc0"
driver = "replai"
format = "v1"
fpga = 0
clock = { kind = "comon" }
[[source]]
id = "tdc0"
driver = "replay"
file = 7
format = "padova-v1"
fpga = 1
pases = 2
crtical = true
[[detector]]
id = "a"
kind = "scintillator"
source = "tdc0"
channels = "5"
[[detector]]
id = "b"
like = "a"
chanels = "6"
[[pipeline]]
id = "muons"
builder = "findr"
[[pipeline]]
id = "more"
builder = "finder"
window = ["-50 n", "500 ns"]
[[write]]
what = ["moun"]
hits = "some"
"""


def test_all_at_once_beside_an_unknown_driver(write: Callable[[str], Path]) -> None:
    first = problems(lambda: config.load(write(BAD)))
    assert "did you mean 'replay'" in first["source[0].driver"]
    assert "did you mean 'finder'" in first["pipeline[0].builder"]
    assert set(first) == {
        "system.name", "system.contackt", "time.reference", "time.slice", "source[0].driver",
        "source[0].format", "source[0].clock.kind", "source[1].id", "detector[1].chanels",
        "detector[1].channels", "pipeline[0].builder", "write[0].what", "write[0].hits",
    }  # fmt: skip
    both = problems(lambda: config.check(write(BAD)))
    assert set(both) == set(first) | {
        "source[1].file", "source[1].pases", "source[1].crtical", "pipeline[1].window[0]",
    }  # fmt: skip
    assert "did you mean 'passes'" in both["source[1].pases"]
    assert "did you mean 'critical'" in both["source[1].crtical"]
    assert "allowed are ps, ns" in both["pipeline[1].window[0]"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("schema = 1\n[system\nname = 'x'\n", r"line 2, column 8: not TOML"),
        ("schema = 1\nschema = 2\n", r"line 2"),
        ("<!DOCTYPE html>\n<html></html>\n", r"line 1, column 1"),
        ('schema = 1\nname = "', r"line 2"),
        ("a = 1\x00", r"line 1"),
    ],
)
def test_what_is_not_toml(text: str, said: str, write: Callable[[str], Path]) -> None:
    with pytest.raises(ConfigError, match=said):
        config.load(write(text))


def test_what_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        config.load(tmp_path / "nothing.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        config.load(tmp_path)
    (tmp_path / "words.dat").write_bytes(b"\xf3\x22\x4c\x6d")
    with pytest.raises(ConfigError, match="UTF-8"):
        config.load(tmp_path / "words.dat")


def test_an_empty_file_lacks_everything(write: Callable[[str], Path]) -> None:
    assert set(problems(lambda: config.load(write("")))) == {"system", "time", "source"}


@pytest.mark.parametrize("section", ["source", "detector", "pipeline", "write", "mask", "system",
                                     "time", "run_type", "calibration", "simulation"])  # fmt: skip
@pytest.mark.parametrize(
    "value", [3, "text", [], [3], [[]], {"x": 3}, {"x": {}}, [{}], [{"id": []}], [{"like": []}]]
)
def test_any_shape_is_an_answer(section: str, value: object) -> None:
    raw = tomllib.loads(GOOD) | {section: value}
    try:
        config.from_dict(raw)
    except config.ConfigProblems as error:
        assert error.problems


# ------------------------------------------------------------------------- plug-ins


def test_plugin_keys(write: Callable[[str], Path]) -> None:
    bench = config.check(write(GOOD))
    driver, keys = config.driver_of(bench, "tdc0")
    assert driver is FileDriver
    assert keys == FileDriver.Config(file="run637.dat", format="padova-v1")
    builder, told = config.builder_of(bench, "muons")
    assert builder is FinderBuilder
    assert told.model_dump() == {"window": (-50_000, 500_000), "min_layers": 3}
    config.check_plugins(bench)


def test_the_reach_of_a_builder_needs_a_guard(write: Callable[[str], Path]) -> None:
    # reach and extent are 50 ns before and 500 ns after: 550 ns decide about a row of the slice
    assert config.check(write(GOOD.replace("5 us", "550 ns")))
    found = problems(lambda: config.check(write(GOOD.replace("5 us", "549 ns"))))
    assert "looks 550 ns around a slice, but time.guard is 549 ns" in found["pipeline[0]"]
    moved = GOOD.replace("5 us", "550 ns") + '[calibration.detector.ch0.offsets]\n5 = "-1 ns"\n'
    found = problems(lambda: config.check(write(moved)))
    assert "looks 552 ns" in found["pipeline[0]"]


def test_a_plugin_beside_the_file(write: Callable[[str], Path], tmp_path: Path,
                                  monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_setup_a.py").write_text(
        "from freerun.builder import Builder\n"
        "class Pair(Builder):\n"
        "    class Config(Builder.Config):\n"
        "        up: str\n"
        "    def reach(self): return 0, 0\n"
        "    def extent(self): return 0, 0\n"
        "number = 3\n"
    )
    text = GOOD.replace('builder = "finder"\nwindow = ["-50 ns", "500 ns"]',
                        'builder = "my_setup_a:Pair"\nup = "scint"')  # fmt: skip
    assert config.check(write(text)).pipelines[0].builder == "my_setup_a:Pair"
    runner, app = CliRunner(), typer.Typer()
    config_cli.add(app)
    said = runner.invoke(app, ["config", "check", str(write(text))])
    assert said.exit_code == 0, said.output
    assert "imported your own code" in said.output and "my_setup_a:Pair" in said.output

    def complaint(builder: str, keys: str = 'up = "x"') -> str:
        changed = text.replace('builder = "my_setup_a:Pair"\nup = "scint"',
                               f'builder = "{builder}"\n{keys}')  # fmt: skip
        return "\n".join(problems(lambda: config.check(write(changed))).values())

    assert "did you mean 'Pair'" in complaint("my_setup_a:Pairs")
    assert "unknown class 'number'" in complaint("my_setup_a:number")
    assert "no module 'my_setup_b'" in complaint("my_setup_b:Pair")
    assert "write module:Class" in complaint("my_setup_a:")
    assert "did you mean 'up'" in complaint("my_setup_a:Pair", 'upp = "x"')
    (tmp_path / "my_setup_c.py").write_text("import math\n\n1 / 0\n")
    assert "ZeroDivisionError" in complaint("my_setup_c:Pair")
    (tmp_path / "my_setup_d.py").write_text("class Pair(:\n")
    assert re.search(r"SyntaxError.*my_setup_d.py, line 1", complaint("my_setup_d:Pair"))
    (tmp_path / "my_setup_e.py").write_text("import no_such_library\n")
    assert "needs the module 'no_such_library'" in complaint("my_setup_e:Pair")
    (tmp_path / "my_setup_f.py").write_text("class Pair: pass\n")
    assert "has no `Config`" in complaint("my_setup_f:Pair", "")
    (tmp_path / "my_setup_g.py").write_text(
        "from freerun.builder import Builder\n"
        "class Pair(Builder):\n"
        "    def reach(self): return self.no_such_thing\n"
    )
    assert re.search(r"AttributeError.*my_setup_g.py, line 3", complaint("my_setup_g:Pair", ""))


def test_nothing_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "entry_points", lambda group: [])
    with pytest.raises(ConfigError, match="install freerun with pip"):
        plugins.find_driver("replay")
    assert config.from_dict(tomllib.loads(GOOD))  # names cannot be judged, so they are not


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('id       = "scint"\nkind     = "scintillator"', 'id = "scint"\nlike = "ch0"', None),
        ('channels = "128"', 'channels = "128, 129"', "one scintillator with one channel"),
        ('id       = "ch1"', 'id = "ch1"\ncell = [40.0, 13.0]', "ch1 differs from ch0"),
        ('trigger_latency = "498.9 ns"', 'trigger_latency = "3 us"', "trigger latency reach"),
        ("z = 219.8,", "x = 3.0, z = 219.8,", "no position.x"),
    ],
)
def test_what_cannot_be_simulated(old: str, new: str, said: str | None, project: Path,
                                  write: Callable[[str], Path]) -> None:  # fmt: skip
    text = (project / "configs/bench.toml").read_text()
    assert old in text
    if said is None:
        with pytest.raises(ConfigError):
            config.check(write(text.replace(old, new, 1)))
    else:
        found = problems(lambda: config.check(write(text.replace(old, new, 1))))
        assert said in found["simulation"]


# ------------------------------------------------------------------------- schema, command


def test_schema_fits_the_demo_bench(project: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = config.json_schema()
    json.dumps(schema)
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    raw = tomllib.loads((project / "configs/bench.toml").read_text())
    assert not list(validator.iter_errors(raw))
    assert not list(validator.iter_errors(tomllib.loads(GOOD)))
    assert not list(validator.iter_errors(config.from_dict(raw).resolved()))
    raw["time"]["guard"] = 5
    raw["time"]["gaurd"] = "5 us"
    assert len(list(validator.iter_errors(raw))) == 2


def test_commands(write: Callable[[str], Path]) -> None:
    runner, app = CliRunner(), typer.Typer()
    config_cli.add(app)
    good = runner.invoke(app, ["config", "check", str(write(GOOD))])
    assert good.exit_code == 0 and "good. telescope: 1 source, 5 detectors" in good.output
    bad = runner.invoke(app, ["config", "check", str(write(BAD))])
    assert isinstance(bad.exception, ConfigError) and bad.exception.exit_code == 2
    schema = runner.invoke(app, ["config", "schema"])
    assert json.loads(schema.output)["title"] == "freerun bench"
