"""The frame of the benchmarks, and `freerun bench kernel` with its peer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from run_freerun import freerun

from freerun.app import bench, bench_kernel
from freerun.app.bench import Curve, Measured, Table, check_files, repeat, side_by_side
from freerun.app.bench_kernel import Machine, burst, disorder, same, simulated, thirds
from freerun.errors import ConfigError, FreerunError

KEYS = {"what", "value", "unit", "peer", "goal", "ok"}


def test_warm_up_is_thrown_away_and_spread_is_told() -> None:
    seen = iter([1000.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    assert repeat(lambda: next(seen), 5) == Measured(3.0, pytest.approx(1.4), pytest.approx(4.6), 5)


def test_peers_are_measured_in_turns() -> None:
    turns: list[str] = []

    def one(name: str, value: float) -> float:
        turns.append(name)
        return value

    ours, peer, ratio = side_by_side(lambda: one("a", 6.0), lambda: one("b", 2.0), 2)
    assert "".join(turns) == "ab" + "ab" + "ba"
    assert (ours.value, peer.value, ratio.value) == (6.0, 2.0, 3.0)


def test_table_json_and_plot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "machine", lambda: {"cpu": "x", "cores": 2, "memcpy_GB_s": 9.5})
    table = Table("kernel")
    table.add("fast", Measured(80.0, 75.0, 85.0, 7), "M words/s", "peer 6.5", goal=75)
    table.add("slow", 3.0, "ms", goal=2, at_most=True)
    table.finish(tmp_path / "out.json", tmp_path / "out.html")
    said = capsys.readouterr().out
    assert "75–85 (7×)" in said
    assert "2 MISSED" in said
    assert said.count("memcpy 9.5 GB/s") == 2
    told = json.loads((tmp_path / "out.json").read_text())
    assert told["bench"] == "kernel"
    assert told["machine"]["cores"] == 2
    assert [r["ok"] for r in told["rows"]] == [True, False]
    assert all(set(r) > KEYS for r in told["rows"])
    assert "plotly" in (tmp_path / "out.html").read_text()
    table.curves.append(Curve("freerun", [1, 2], [3, 4]))
    table.finish(None, tmp_path / "curve.html")
    assert "lines+markers" in (tmp_path / "curve.html").read_text()


def test_files_that_cannot_be_written_are_told_first(tmp_path: Path) -> None:
    for json_file, plot in ((tmp_path / "no" / "a.json", None), (None, tmp_path / "a.pdf")):
        with pytest.raises(ConfigError, match=r"--json|--plot"):
            check_files(json_file, plot)


def test_the_dataframe_way_gives_the_same_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pandas")
    machine = Machine(1)
    frames = machine.peer()
    s = simulated(3, 5_000)
    assert 0.2 < disorder(s) < 0.5
    for some in (s, thirds(s), burst(s)):
        assert some.n == s.n
        same(machine, frames, some)
    assert disorder(thirds(s)) > disorder(s)
    frames.correction = frames.correction + 1.0
    with pytest.raises(FreerunError, match="disagree about: drift"):
        same(machine, frames, s)


def test_two_sources_are_one_stream() -> None:
    """The boards apart and the boards in one stream: the same hits and events."""
    one = Machine(1)(simulated(1, 5_000))
    first = [np.array(c) for c in (one.tick, one.channel, one.drift, one.t0, one.count)]
    two = Machine(2)(simulated(1, 5_000, 2))
    for a, b in zip(first, (two.tick, two.channel, two.drift, two.t0, two.count), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_table_of_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pandas")
    monkeypatch.setattr(bench_kernel, "AT_LEAST", 4_000)
    table = Table("kernel")
    bench_kernel.measure(table, 1, True, (2_000,))
    assert [r["goal"] for r in table.rows] == [75.0, None, 11.0, 75.0, None, None]
    assert all(r["value"] > 0 for r in table.rows)


def test_the_command_says_what_is_wrong(tmp_path: Path) -> None:
    code, said = freerun("bench", "kernel", "--plot", str(tmp_path / "x.gif"))
    assert code == 2
    assert ".html" in said
