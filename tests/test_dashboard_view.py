"""The dashboard without Kafka and without a browser: what is shown of what is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from make_bench import L, add_hits, histograms, snapshot_record

from dashboard import words
from dashboard.board import FRESH_S, Board
from dashboard.figures import FIGURES, figures
from dashboard.files import Shelf
from dashboard.guard import LOCAL, refuse
from dashboard.page import TILES, layout
from dashboard.rates import with_rates
from dashboard.snapshot import Snapshot, decode
from dashboard.view import look
from dashboard.world import BAD, BUSY, GOOD, OFF, WARN, World
from freerun.errors import Quarantined
from freerun.wire import read_batch, write_batch

S = 1_000_000_000
NOW = 1_795_235_652 * S


CLOSES = {"ok": True, "gaps": [], "line": "LEDGER closed"}


def snapshot(run: int = 42, events: int = 500, **more: Any) -> Snapshot:
    values = {h.name: h.zeros() for h in histograms()}
    add_hits(np.random.default_rng(1), values, events)
    info = {"run": run, "t_ns": NOW - S // 2, "made_ns": NOW - S // 5, "n_slices": 100,
            "n_complete": 100, "n_events": events, "final": False,
            "rates": [[1.0, {"tdc0": 4e5, "tdc1": 6e5}, 900.0],
                      [2.0, {"tdc0": 5e5, "tdc1": 5e5}, 1000.0]]} | more  # fmt: skip
    return decode(*snapshot_record(values, info))


def world(**more: Any) -> World:
    beat = {"time_ns": NOW - S // 2, "pid": 7, "state": "RUNNING"}
    known: dict[str, Any] = {
        "now_ns": NOW, "system": "telescope", "slice_ns": L, "sources": ("tdc0", "digi0"),
        "snapshot": snapshot(), "disk_free": 10**12,
        "states": {
            "control/run": {**beat, "run": 42, "run_state": "running"},
            "source/tdc0": {**beat, "closed": NOW // L - 5, "promise_age_s": 0.2, "rate": 5e5,
                            "spool": 0},
            "writer/root": {**beat, "run": 42, "bytes": 10**9},
            "loop/muons": {**beat, "dask": "http://127.0.0.1:8787/status"},
        },
        "runs": {42: {"run": 42, "state": "running", "t_start_ns": NOW - 100 * S, "type": "beam"}},
    }  # fmt: skip
    return World(**(known | more))


def state(w: World, key: str, **more: Any) -> World:
    return world(states={**w.states, key: {**w.states[key], **more}}, snapshot=w.snapshot)


def test_a_running_bench() -> None:
    view = look(world())
    top = view.top
    assert (top.state.text, top.state.level, top.running, top.run) == ("RUNNING", GOOD, True, 42)
    assert (top.elapsed_s, top.words_per_s, top.bytes_per_s) == (100.0, 1e6, 8e6)
    assert (top.events_per_s, top.live, top.lag_s) == (1000.0, 1.0, 0.5)
    # 1 GB in 100 s of files and 8 MB/s of words
    assert top.files_gb_h == pytest.approx(36.0) and top.raw_gb_h == pytest.approx(28.8)
    assert top.hours_left == pytest.approx(1000 / 64.8)
    assert (top.ledger.level, view.trouble) == (BUSY, "")
    assert view.dask == "http://127.0.0.1:8787/status"
    assert "run 42" in view.plots and "100 % of 100 slices" in view.plots
    tdc0, digi0 = view.sources
    assert (tdc0.lamp.level, tdc0.rate, tdc0.spool) == (GOOD, 5e5, 0)
    assert tdc0.data_age_s == pytest.approx(0.4)
    assert (digi0.lamp.level, digi0.lamp.text) == (OFF, "NEVER HEARD")
    assert [s.role for s in view.services] == ["control", "loop", "writer"]


def test_after_stop_the_plots_stay_with_their_number_and_age() -> None:
    closed = {"run": 42, "state": "closed", "t_start_ns": NOW - 700 * S, "t_stop_ns": NOW - 600 * S,
              "ledger": CLOSES, "n_events": 500}  # fmt: skip
    view = look(world(runs={42: closed}, snapshot=snapshot(final=True, made_ns=NOW - 599 * S)))
    assert (view.top.state.text, view.top.running, view.top.elapsed_s) == ("READY", False, 100.0)
    assert view.top.words_per_s is None and view.top.lag_s is None
    assert view.top.ledger.level == GOOD
    assert "run 42 · since start · final, 10 min old" in view.plots
    assert (view.runs[0].events, view.runs[0].duration_s) == (500, 100.0)


@pytest.mark.parametrize(
    ("document", "info", "level", "text"),
    [
        ({"state": "running"}, {}, BUSY, "OPEN"),
        ({"state": "running"}, {"n_complete": 97}, WARN, "OPEN, 3 INCOMPLETE"),
        (
            {"state": "closed", "ledger": CLOSES},
            {},
            GOOD,
            "CLOSES",
        ),
        ({"state": "closed", "ledger": {"ok": False, "gaps": ["x"]}}, {}, BAD, "GAP"),
        ({"state": "closed", "ledger": {"ok": False}}, {}, BAD, "GAP"),
        ({"state": "closed", "ledger": None}, {}, WARN, "NONE"),
        ({"state": "failed"}, {}, BAD, "FAILED"),
    ],
)
def test_the_ledger_lamp(document: Any, info: Any, level: str, text: str) -> None:
    runs = {42: {"run": 42, "t_start_ns": NOW - S, **document}}
    lamp = look(world(runs=runs, snapshot=snapshot(**info))).top.ledger
    assert (lamp.level, lamp.text) == (level, text)


@pytest.mark.parametrize(
    ("more", "level", "text"),
    [
        ({"time_ns": NOW - 6 * S}, BAD, "SILENT"),
        ({"state": "ERROR", "error": "no link"}, BAD, "ERROR"),
        ({"state": "SPOOLING"}, WARN, "SPOOLING"),
        ({"spool": 10**9}, WARN, "SPOOLING"),
        ({"state": "DROPPING"}, BAD, "DROPPING"),
        ({"promise_age_s": 9.0}, WARN, "LATE"),
        ({"state": "STOPPED", "time_ns": NOW - 60 * S}, OFF, "STOPPED"),
        ({"promise_age_s": None, "state": "READY"}, GOOD, "READY"),
    ],
)
def test_the_lamp_of_a_source(more: Any, level: str, text: str) -> None:
    lamp = look(state(world(), "source/tdc0", **more)).sources[0].lamp
    assert (lamp.level, lamp.text) == (level, text)


def test_who_is_silent_for_long_is_not_listed_but_the_bench_s_sources_are() -> None:
    old = {k: {**s, "time_ns": NOW - 3600 * S} for k, s in world().states.items()}
    view = look(world(states=old))
    assert view.services == [] and [s.id for s in view.sources] == ["tdc0", "digi0"]
    assert view.top.state.text == "NO CONTROL"


def test_nothing_known_at_all() -> None:
    view = look(World(now_ns=NOW, system="telescope", slice_ns=L))
    assert view.top.run is None and view.runs == [] and view.hits is None
    assert view.plots == "no data yet: press Start Run"
    assert all(not f["data"] and f["layout"]["annotations"] for f in figures(None).values())


def test_a_link_is_a_web_address_or_nothing() -> None:
    assert look(state(world(), "loop/muons", dask="javascript:alert(1)")).dask == ""


def test_a_snapshot_comes_back_as_it_was_written() -> None:
    values = {h.name: h.zeros() for h in histograms()}
    add_hits(np.random.default_rng(3), values, 100)
    got = decode(*snapshot_record(values, {"run": 1}))
    assert set(got.hists) == set(values)
    for hist, counts in got.hists.values():
        np.testing.assert_array_equal(counts, values[hist.name])
    assert got.hits == sum(int(v.sum()) for n, v in values.items() if n.endswith("/occupancy"))


def test_a_record_that_is_no_snapshot_is_refused() -> None:
    headers, body = snapshot_record({h.name: h.zeros() for h in histograms()}, {"run": 1})
    bare = write_batch(read_batch(body).replace_schema_metadata(None)).to_pybytes()
    for bad in ((None, body), ([("info", b"{")], body), (headers, body[:50]), (headers, bare)):
        with pytest.raises(Quarantined):
            decode(*bad)


def test_figures_hold_what_was_counted_and_say_its_unit() -> None:
    snap = snapshot(events=2000)
    drawn = figures(snap)
    assert set(drawn) == set(FIGURES)
    json.dumps(drawn)  # plain, so every viewer can get the same bytes
    maps = drawn["occupancy"]["data"]
    shown = sum(v for m in maps for line in m["z"] for v in line if v is not None)
    chambers = [c for _, c in snap.ending("/occupancy").values() if c.shape == (4, 16)]
    assert len(maps) == 4 and shown == sum(int(c.sum()) for c in chambers)
    assert maps[1]["z"][2][11] is None  # a dead cell has no colour of the scale
    assert drawn["occupancy"]["layout"]["coloraxis"]["cmax"] < max(c.max() for c in chambers)
    for name in ("drift-time", "charge", "psd"):
        assert "ns]" in drawn[name]["layout"]["xaxis"]["title"]["text"]
    assert drawn["rate"]["layout"]["yaxis"]["title"]["text"] == "rows [kHz]"
    assert sum(drawn["multiplicity"]["data"][0]["y"]) == 2000
    for figure in drawn.values():
        assert figure["layout"]["uirevision"] == "freerun"
        for name, axis in figure["layout"].items():
            # a range of ours would throw the viewer's zoom away with each new snapshot
            assert not name.startswith(("xaxis", "yaxis")) or "range" not in axis


@given(st.floats(0, 1e15))
def test_numbers_have_at_most_four_digits_and_keep_their_value(x: float) -> None:
    number, _, unit = words.si(x, "Hz").partition(" ")
    factor = {"Hz": 1, "kHz": 1e3, "MHz": 1e6, "GHz": 1e9, "THz": 1e12}[unit]
    assert float(number) * factor == pytest.approx(x, rel=0.01, abs=0.005)


def test_words() -> None:
    assert words.si(1.134e6, "Hz") == "1.13 MHz" and words.si(None, "Hz") == "–"
    assert words.si(9_100_000, "B/s") == "9.10 MB/s" and words.si(0, "B") == "0 B"
    assert words.clock(45296.9) == "12:34:56"
    ages = {0.44: "0.4 s", 59.0: "59 s", 720.0: "12 min", 9000.0: "2.5 h"}
    assert {s: words.age(s) for s in ages} == ages
    assert words.age(3 * 86400 + 4 * 3600 + 5) == "3 d 4 h"
    assert [words.percent(x) for x in (0.5, 0.99999, 1.0)] == ["50.0 %", "> 99.9 %", "100 %"]


def test_rates_follow_from_two_heartbeats() -> None:
    before = {"inc": 1, "time_ns": 0, "read": 1000, "read_bytes": 8000}
    after = {"inc": 1, "time_ns": 2 * S, "read": 5000, "read_bytes": 40000}
    got = with_rates(before, after)
    assert got is not None and (got["rate"], got["bytes_per_s"]) == (2000.0, 16000.0)
    for other in ({**after, "inc": 2}, {**after, "read": 1, "read_bytes": 1}, before):
        assert "rate" not in (with_rates(before, other) or {})
    assert with_rates(before, None) is None


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    folder = tmp_path / "data" / "Run000042"
    (folder / "raw").mkdir(parents=True)
    for name in ("Run000042_muons_0000.root", "Run000042_muons_0000.root.json", "run.json",
                 ".Run000042_muons_0001.root.part", "README.txt", "raw/a.dat"):  # fmt: skip
        (folder / name).write_text(name)
    (tmp_path / "data" / "secret.txt").write_text("secret")
    (folder / "link").symlink_to(tmp_path / "data" / "secret.txt")
    return Shelf(tmp_path / "data")


DOCUMENT = {"folder": "Run000042"}


def test_files_of_a_run(shelf: Shelf, tmp_path: Path) -> None:
    names = [f.name for f in shelf.list(DOCUMENT)]
    assert names == ["Run000042_muons_0000.root", "link", "README.txt", "run.json"]
    assert shelf.find(DOCUMENT, "raw/a.dat") == tmp_path / "data/Run000042/raw/a.dat"
    for name in ("../secret.txt", "raw/../../secret.txt", "/etc/passwd", "link", "", ".", "raw",
                 ".Run000042_muons_0001.root.part", "a\0b"):  # fmt: skip
        assert shelf.find(DOCUMENT, name) is None, name
    for folder in ("..", "/etc", "../data2", "", None, 5):
        assert shelf.find({"folder": folder}, "passwd") is None
    (tmp_path / "data/Run000042/new.root").write_text("new")
    assert "new.root" in [f.name for f in shelf.list(DOCUMENT)]


@given(st.text(max_size=30))
def test_no_name_leads_out_of_the_folder(tmp_path_factory: pytest.TempPathFactory, x: str) -> None:
    folder = tmp_path_factory.getbasetemp() / "Run000001"
    folder.mkdir(exist_ok=True)
    found = Shelf(folder.parent).find({"folder": "Run000001"}, x)
    assert found is None or found.is_relative_to(folder)


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("GET", {"host": "127.0.0.1:8050"}, 200),
        ("GET", {"host": "localhost"}, 200),
        ("GET", {"host": "[::1]:8050"}, 200),
        ("GET", {"host": "evil.example:8050"}, 403),
        ("GET", {}, 403),
        ("POST", {"host": "localhost:1", "content-type": "application/json"}, 200),
        ("POST", {"host": "localhost:1", "content-type": "application/json;charset=utf-8"}, 200),
        ("POST", {"host": "localhost:1", "content-type": "text/plain"}, 415),
        ("POST", {"host": "localhost:1"}, 415),
        ("POST", {"host": "localhost:1", "content-type": "application/json",
                  "origin": "http://localhost:1"}, 200),
        ("POST", {"host": "localhost:1", "content-type": "application/json",
                  "origin": "http://localhost:2"}, 403),
        ("GET", {"host": "localhost:1", "origin": "null"}, 403),
    ],
)  # fmt: skip
def test_who_may_ask(method: str, headers: dict[str, str], status: int) -> None:
    assert refuse(method, headers, LOCAL)[0] == status


def test_the_board_draws_only_what_is_new(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, known = [0.0], [world()]
    monkeypatch.setattr("dashboard.board.time.monotonic", lambda: clock[0])
    board = Board(lambda: known[0], shelf)

    def update(seen: str) -> dict[str, Any]:
        got: dict[str, Any] = json.loads(board.update(seen))
        return got

    first = update("")
    on_page = {part.id for part in layout("telescope", ["beam"])._traverse_ids()}
    assert {piece.partition(".")[0] for piece in first["set"]} <= on_page
    assert {f"{tile}.figure" for tile in TILES} < set(first["set"])
    assert "run 42" in first["title"] and board.drawings == 1
    assert board.update("") is board.update("")  # the same bytes for all
    assert update(first["seen"])["set"] == {}
    clock[0] += FRESH_S
    second = update(first["seen"])  # another second, nothing new
    assert second["set"] == {} and board.drawings == 1
    clock[0] += FRESH_S
    known[0] = world(snapshot=snapshot(events=600))
    third = update(second["seen"])
    assert "occupancy.figure" in third["set"] and "sources.children" not in third["set"]
    assert board.drawings == 2
    assert set(update("another server-1")["set"]) == set(first["set"])


def test_nonsense_in_kafka_is_said_and_does_not_end_the_page(shelf: Shelf) -> None:
    bad = world(states={"control/run": {"time_ns": "yesterday", "run": 1}})
    view = Board(lambda: bad, shelf).view()
    assert "not as agreed" in view.trouble and view.top.state.text == "NO DATA"
