"""`freerun replay`: files that are good, files that are not, and words that are odd."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import uproot
from make_replay import Lab, Results, lab

from freerun import words as w
from freerun.app.replay import look
from freerun.app.replay_bench import Wishes, bench_of, shipped
from freerun.errors import ConfigError
from freerun.kafka import Broker
from freerun.simulation import BLOCK_NS, TelescopeConfig, block_words
from freerun.ticks import Clock
from producers.drivers.recording import Recording
from producers.drivers.span import MAX_EMPTY, scan
from producers.drivers.steady import steady, typical_tick
from producers.promise import Promises

RUN = "from freerun.app.cli import main; main()"
ROOT = Path(__file__).resolve().parents[1]
V1, V2, OBDT = (w.get_format(name) for name in ("padova-v1", "padova-v2", "padova-obdt"))
MS = 1_000_000
ORBIT_NS = 89_100
WRAP_NS = 2**32 * ORBIT_NS
U64 = np.ndarray[Any, np.dtype[np.uint64]]


def recording(
    milliseconds: int, orbit: int = 3_000_000_000, seed: int = 1, fmt: w.WordFormat = V1,
    rate: float = 2_000.0,
) -> U64:  # fmt: skip
    """Words of both boards of the telescope as a board would write them, from this orbit on."""
    config = TelescopeConfig(seed=seed, muon_rate_hz=rate, noise_hz_per_tube=20.0, format=fmt.name)
    first = 10_000
    clock = Clock(first * BLOCK_NS - orbit * ORBIT_NS, 25, 30)
    pieces = [
        block_words(config, first + b, board, clock)
        for b in range(milliseconds // 10) for board in (0, 1)
    ]  # fmt: skip
    everything = np.concatenate(pieces)
    ticks = w.decode(everything, fmt, orbit * w.TICKS_PER_ORBIT).tick
    disorder = np.random.default_rng(seed).integers(0, 2_000, len(ticks))
    return everything[np.argsort(ticks + disorder, kind="stable")]


def hit(orbit: int, channel: int = 7, board: int = 0) -> U64:
    return w.encode_hit(board, channel, np.array([orbit % 2**32]), 100, 15)


def saved(folder: Path, words: U64, tail: bytes = b"", name: str = "run.dat") -> Path:
    path = folder / name
    path.write_bytes(words.astype("<u8").tobytes() + tail)
    return path


def freerun(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if k != "FREERUN_KAFKA"}
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", RUN, "replay", *arguments], cwd=folder, text=True, timeout=170,
        env={**kept, "NO_COLOR": "1", "PYTHONPATH": path, **environment}, capture_output=True,
    )  # fmt: skip


# ------------------------------------------------------------------ the command


def test_a_file_through_kafka_and_dask(broker: str, shared_data: Path, tmp_path: Path) -> None:
    """The recorded run: its gap clusters and channel counts stand in the ROOT file."""
    file = shared_data / "minidt" / "run637_first60000.dat"
    answers = json.loads((file.parent / "run637_first60000.ref.json").read_text())
    said = freerun(
        tmp_path, str(file), "--format", "padova-v1", "--builder", "gaps", "--slice", "10ms",
        FREERUN_KAFKA=broker,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr + said.stdout
    assert "60,000 read = 60,000 in Kafka" in said.stdout
    assert "10,557 built = 10,557 published = 10,557 stored" in said.stdout
    assert "LEDGER closed: every word read is accounted for, none lost, none twice" in said.stdout
    out = tmp_path / "replay" / "run637_first60000"
    assert [p.name for p in out.iterdir()] == ["Run000001"]  # no trace of the machinery
    folder = out / "Run000001"
    document = json.loads((folder / "run.json").read_text())
    assert (document["state"], document["exit"], document["type"]) == ("closed", 0, "replay")
    assert document["plan"]["clock"] == "data"
    assert document["ledger"]["slices"] == {
        "expected": 6, "complete": 6, "incomplete": 0, "missing": 0
    }  # fmt: skip
    with uproot.open(folder / "Run000001_gaps_0000.root") as root:
        events = root["events"].arrays(["n_hit", "hit_channel"], library="np")
    answer = answers["gap_clusters_200ns"]["hist"]
    counts = np.bincount(events["n_hit"])
    assert {str(n): int(c) for n, c in enumerate(counts) if c} == answer
    channels = np.bincount(np.concatenate(events["hit_channel"]), minlength=1024)
    for board, told in answers["counts_raw_channel"].items():
        mine = channels[int(board) << 9 :][:128]
        assert {str(c): int(n) for c, n in enumerate(mine) if n} == {
            c: n for c, n in told.items() if int(c) < 128
        }
    with uproot.open(folder / "Run000001_monitor.root") as root:
        occupancy = [k for k in root.keys(recursive=True) if "/occupancy;" in k]
        assert sum(root[k].values().sum() for k in occupancy) == answers["physical_hits"]
    assert not [n for n in Broker(broker).partitions() if n.startswith("replay_")]


def test_a_text_file_inline_with_a_broker_of_its_own(shared_data: Path, tmp_path: Path) -> None:
    """Twice into the same folder: the second is the next run, with the same events."""
    file = shared_data / "minidt" / "run637_first60000.txt"
    short = tmp_path / "short.txt"
    short.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:20_001]))
    said = freerun(tmp_path, "short.txt", "--format", "padova-v1", "--inline", "--out", "here")
    assert said.returncode == 0, said.stderr + said.stdout
    assert "20,000 read = 20,000 in Kafka" in said.stdout and "broker    starting" in said.stdout
    assert [p.name for p in (tmp_path / "here").iterdir()] == ["Run000001"]
    assert (tmp_path / "here" / "Run000001" / "README.txt").is_file()


def test_an_interrupted_replay_leaves_nothing_running(broker: str, tmp_path: Path) -> None:
    later = recording(20, orbit=3_000_000_000 + 10**6, seed=2)
    saved(tmp_path, np.concatenate([recording(20), later]))
    command = [sys.executable, "-c", RUN, "replay", "run.dat", "--format", "padova-v1", "--inline"]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        [*command, "--recorded"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"FREERUN_KAFKA": broker, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
    ) as child:  # fmt: skip
        assert child.stdout is not None and child.stderr is not None
        while not child.stdout.readline().startswith(b"topics"):
            assert child.poll() is None
        time.sleep(1.5)
        child.send_signal(signal.SIGTERM)
        assert child.wait(30) == 130
        assert child.stderr.read() in (b"", b"freerun: interrupted\n")
    assert not [n for n in Broker(broker).partitions() if n.startswith("replay_")]


REFUSED = {
    "missing": (["none.dat", "--format", "padova-v1"], 2, "there is no such file"),
    "empty": (["empty.dat", "--format", "padova-v1"], 2, "holds no word"),
    "html": (["page.txt", "--format", "padova-v1"], 2, "(HTML or XML): this is not a recording"),
    "html as binary": (["page.dat", "--format", "padova-v1"], 2, "expected binary words, found"),
    "suffix": (["good.xyz", "--format", "padova-v1"], 2, "does not say what is in the file"),
    "no format": (["good.dat"], 2, "the format of the words is never guessed"),
    "format": (["good.dat", "--format", "padova-1"], 2, "did you mean 'padova-v1'?"),
    "speeds": (["good.dat", "--format", "padova-v1", "--fast", "--recorded"], 2, "exclude each"),
    "rate": (["good.dat", "--format", "padova-v1", "--rate", "2 mm"], 2, "is not one of a rate"),
    "slice": (["good.dat", "--format", "padova-v1", "--slice", "10"], 2, "has no unit"),
    "short slice": (["good.dat", "--format", "padova-v1", "--slice", "1us"], 2, "guard"),
    "builder": (["good.dat", "--format", "padova-v1", "--builder", "gap"], 2, "mean 'gaps'?"),
    "bench": (["good.dat", "--format", "padova-v1", "--bench", "no.toml"], 2, "no.toml"),
    "disk": (["good.dat", "--format", "padova-v1", "--out", "good.dat/x"], 3, "cannot be written"),
    "broker": (["good.dat", "--format", "padova-v1", "--inline"], 3, "no Kafka broker answers at "
               "127.0.0.1:1"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_replayed_is_one_sentence(what: str, tmp_path: Path) -> None:
    saved(tmp_path, recording(20), name="good.dat")
    saved(tmp_path, recording(20), name="good.xyz")
    (tmp_path / "empty.dat").write_bytes(b"")
    for name in ("page.txt", "page.dat"):
        (tmp_path / name).write_text("<html><body>404: the file was moved</body></html>\n")
    arguments, code, sentence = REFUSED[what]
    begun = time.monotonic()
    said = freerun(tmp_path, *arguments, FREERUN_KAFKA="127.0.0.1:1")
    assert said.returncode == code, said.stdout + said.stderr
    assert sentence in said.stderr, said.stderr
    assert said.stderr.startswith("freerun: ") and "Traceback" not in said.stderr
    assert time.monotonic() - begun < 30
    if what == "broker":
        assert not (tmp_path / "replay" / "good" / "Run000001").exists()


def test_a_bench_of_several_sources_needs_a_name(tmp_path: Path) -> None:
    demo = ROOT / "configs" / "bench.toml"
    wishes = Wishes(tmp_path / "run.dat", "padova-v1")
    with pytest.raises(ConfigError, match=r"2 sources of words \(tdc0, tdc1\): name the one"):
        bench_of(wishes, demo, "x", tmp_path)
    bench = bench_of(Wishes(tmp_path / "run.dat", source="tdc1"), demo, "x", tmp_path)
    assert [s.id for s in bench.sources] == ["tdc1"] and bench.sources[0].format == "padova-v1"
    mine = ["ch2", "ch3", "pulser", "scint"]
    assert sorted(d.id for d in bench.detectors) == mine and bench.simulation is None
    assert bench.pipelines[0].use == mine and bench.s3 is None
    assert bench_of(wishes, shipped(), "x", tmp_path).time.reference == "tdc"


# ------------------------------------------------------------------ from when to when


def span_of(path: Path, fmt: w.WordFormat = V1, slice_ns: int = 100 * MS) -> Any:
    return scan([path], fmt, slice_ns)


def edges(words: U64, orbit: int) -> tuple[int, int]:
    ticks = w.decode(words, V1, orbit * w.TICKS_PER_ORBIT).tick
    return int(ticks.min()), int(ticks.max())


@pytest.mark.parametrize("place", [0, 1, 2, 500, -3, -2, -1])
@pytest.mark.parametrize("seconds", [-1e5, -700, 700, 1e5])
def test_an_odd_word_does_not_decide_the_span(tmp_path: Path, place: int, seconds: float) -> None:
    words = recording(50)
    expected = edges(words, 3_000_000_000)
    odd = hit(3_000_000_000 + int(seconds * 1e9 / ORBIT_NS))
    at = place if place >= 0 else len(words) + 1 + place
    span = span_of(saved(tmp_path, np.concatenate([words[:at], odd, words[at:]])))
    assert (span.low, span.high) == expected
    assert span.words == len(words) + 1


def test_odd_words_next_to_each_other_and_across_pieces(tmp_path: Path, monkeypatch: Any) -> None:
    import producers.drivers.span as module

    monkeypatch.setattr(module, "CHUNK_WORDS", 50)
    words = recording(100)
    expected = edges(words, 3_000_000_000)
    random = np.random.default_rng(3)
    mixed = words
    for place in sorted(random.choice(len(words), 25, replace=False), reverse=True):
        odd = hit(3_000_000_000 + int(random.integers(-8_000_000, 8_000_000)))
        mixed = np.concatenate([mixed[:place], odd, mixed[place:]])
    span = span_of(saved(tmp_path, mixed))
    assert (span.low, span.high) == expected


def test_steady_means_its_python() -> None:
    random = np.random.default_rng(1)
    ticks = np.sort(random.integers(0, 10**6, 300)) + random.integers(0, 3_000, 300)
    ticks[[5, 100, 299]] += [10**9, -(10**9), 10**12]
    got = steady(ticks, 3_600, 10**7)
    assert (got == steady.py_func(ticks, 3_600, 10**7)).all()  # type: ignore[attr-defined]
    assert np.flatnonzero(~got).tolist() == [5, 100, 299]
    for n in range(4):
        assert steady(ticks[:n], 3_600, 10**7).all()


def test_slow_words_are_not_odd(tmp_path: Path) -> None:
    """One word a minute, then two in a row."""
    orbits = np.append(np.arange(40) * 673_400, 39 * 673_400 + 5) + 10
    span = span_of(saved(tmp_path, w.encode_hit(0, 3, orbits, 1, 1)))
    assert span.low // w.TICKS_PER_ORBIT == 10 and span.inside == 41 and span.outside == 0


def test_words_of_another_format_are_refused(tmp_path: Path) -> None:
    """Never silently wrong. (Plain hits of v1 and v2 are the same bits: they read the same.)"""
    v2, v1, obdt = (saved(tmp_path, recording(100, fmt=f), name=f"{f.name}.dat")
                    for f in (V2, V1, OBDT))  # fmt: skip
    with pytest.raises(ConfigError, match="would be run words of padova-v1, but they name ever"):
        span_of(v2, V1)
    with pytest.raises(ConfigError, match="are no words of padova-v2; they would make sense as"):
        span_of(v1, V2)
    with pytest.raises(ConfigError, match=r"are no words of padova-obdt.*padova-v1"):
        span_of(v1, OBDT)
    with pytest.raises(ConfigError, match=r"are no words of padova-v1.*padova-obdt"):
        span_of(obdt, V1)
    for path, fmt in ((v2, V2), (v1, V1), (obdt, OBDT)):
        assert span_of(path, fmt).bad == 0
    # heads 4 and 5 of v2 (tan ψ, x) would be hits of v1 at times that have nothing to do with it
    words = recording(100, fmt=V2)
    hits = words[(words >> np.uint64(61)) == 2]
    at = (hits >> np.uint64(17)) & np.uint64(0xFFFFFFFF)
    angle = np.uint64(4 << 61) | at << np.uint64(22) | np.uint64(0x1234)
    both = np.stack([hits, angle], axis=1).ravel()
    with pytest.raises(ConfigError, match="format"):
        span_of(saved(tmp_path, both, name="angle.dat"), V1)
    assert span_of(saved(tmp_path, both, name="angle.dat"), V2).kinds[w.PARAM] == len(hits)


def test_rows_of_another_format_are_refused(shared_data: Path) -> None:
    path = shared_data / "minidt" / "mapd_stream_42rows.csv"
    with pytest.raises(ConfigError, match="14 lines are no rows of padova-v1, only 28 are"):
        span_of(path, V1)
    assert span_of(path, V2).malformed == 8


def test_a_pause_is_empty_slices_and_a_huge_one_is_refused(tmp_path: Path) -> None:
    first = recording(20)
    pauses = {30: True, 3_500: True, 3_700: False, 90_000: False}
    for seconds, fine in pauses.items():
        later = recording(20, orbit=3_000_000_000 + seconds * 10**9 // ORBIT_NS, seed=2)
        path = saved(tmp_path, np.concatenate([first, later]))
        if fine:
            span = span_of(path)
            assert (span.high - span.low) * 25 // 30 // 10**9 == seconds
            assert span.inside >= span.words - 10
        else:
            with pytest.raises(ConfigError, match=f"more than {MAX_EMPTY:,d} slices.*--slice"):
                span_of(path)
    assert span_of(path, slice_ns=10**10).outside == 0
    # a few words from elsewhere, as of a buffer that was not emptied, are no second half
    rest = recording(100, seed=2, orbit=9)
    span = span_of(saved(tmp_path, np.concatenate([first[:9], rest])))
    assert 5 <= span.outside <= 9 and (span.low, span.high) == edges(rest, 9)


@pytest.mark.parametrize("before", [1, 500, 2_000])
def test_the_counters_wrap_decides_nothing(tmp_path: Path, before: int) -> None:
    """Most of the words may be behind it, and still the first ones are before."""
    words = recording(200, orbit=2**32 - before)
    path = saved(tmp_path, words)
    span = span_of(path)
    length = span.high - span.low
    assert abs(length - 200 * MS * 30 // 25) < 200_000
    plan = look(bench_of(Wishes(path, "padova-v1"), None, "x", tmp_path), path)
    begin = (2**32 - before) * ORBIT_NS
    assert plan.first == begin // (100 * MS)
    reader = Recording([path], V1, None)
    reader.open()
    reader.next()
    assert reader.first == span.first == typical_tick(words, V1)
    reader.close()


def test_an_odd_word_promises_nothing() -> None:
    lane, far = np.zeros(20, np.int64), 10**9
    ticks = np.arange(20, dtype=np.int64) * 1_000
    promises = Promises({0: 100}, 500, hold=50, few=9)
    assert promises.promise() is None
    promises.see(lane, ticks)
    assert promises.promise() == 15_000 - 100  # the middle one of the last nine
    promises.see(lane[:2], np.array([20_000, far]))
    assert promises.promise() == 17_000 - 100
    promises.see(lane[:1] + 9 * 256, np.array([far]))  # nor does one of a board that is none
    assert promises.promise() == 17_000 - 100
    promises.see(lane, ticks + 21_000)
    assert promises.promise() == 36_000 - 100


# ------------------------------------------------------------------ through Kafka


def through_kafka(
    broker: str, name: str, folder: Path, path: Path, slice_: str = "10 ms", rate: str = "fast"
) -> tuple[Results, dict[str, Any], Lab]:
    """The file in one lane; its events, and its account."""
    wishes = Wishes(path, "padova-v1", rate, slice=slice_, builder="gaps")
    bench = bench_of(wishes, None, name, folder)
    plan = look(bench, path)
    with lab(broker, bench, folder / "lab", 2, plan.first, plan.last, plan.anchor) as run:
        run.start_sources()
        run.run_lane("gaps")
        account = run.account()
        assert account["ok"], account["gaps"]
        return run.results("gaps"), account["sources"]["tdc"], run


def tubes(words: U64, ref: int) -> list[tuple[int, int]]:
    """Sorted (tick, channel) of the tubes among the words."""
    d = w.decode(words, V1, ref)
    mine = (d.kind == w.HIT) & (d.channel < 128) & (d.board < 2)
    channel = d.board[mine].astype(int) << 9 | d.channel[mine]
    return sorted(zip(d.tick[mine].tolist(), channel.tolist(), strict=True))


def found_tubes(found: Results) -> list[tuple[int, int]]:
    in_events = found.events["hit"].combine_chunks().flatten()
    both = [
        list(zip(t["ticks"].to_pylist(), t["channel"].to_pylist(), strict=True))
        for t in (pa.table({n: in_events.field(n) for n in ("ticks", "channel")}), found.hits)
    ]
    return sorted(x for part in both for x in part if x[1] & 511 < 128)


def test_odd_words_are_counted_and_nothing_else_is_lost(
    broker: str, installation: str, tmp_path: Path
) -> None:
    orbit = 3_000_000_000
    words = recording(300, orbit=orbit)
    n = len(words)
    odd = [
        (0, hit(orbit - 10**9)),  # before the run
        (n // 5, hit(orbit + 10**9)), (n // 5 + 1, hit(orbit + 10**9 + 1)),  # after it
        (n // 4, hit(orbit + 2_500)),  # in it, but 0.15 s too early in the file
        (n // 3, hit(orbit + 30)),  # in it, but 0.1 s too late: its slice is closed
        (n // 2, hit(orbit + 1_700, channel=300)), (n // 2, hit(orbit + 1_700, board=9)),
        (n // 2, np.array([1 << 62 | 3_564 << 5], np.uint64)),  # BX above 3563: no word
        (n - 1, hit(orbit + 2**31 + 5)),  # as far away as can be
    ]  # fmt: skip
    mixed = words
    for at, word in sorted(odd, key=lambda o: -o[0]):
        mixed = np.concatenate([mixed[:at], word, mixed[at:]])
    path = saved(tmp_path, mixed, tail=b"\x01\x02\x03")
    found, account, _ = through_kafka(broker, installation, tmp_path, path)
    assert {k: account[k] for k in ("quarantined", "late", "malformed", "unknown")} == {
        "quarantined": 4, "late": 1, "malformed": 2, "unknown": 2
    }  # fmt: skip
    # read: all of them, the torn one too; in slices: all but those that are named
    assert account["read"] == n + len(odd) + 1
    assert account["processed"] == n + len(odd) + 1 - 4 - 1 - 2
    ref = orbit * w.TICKS_PER_ORBIT
    expected = tubes(np.concatenate([words, hit(orbit + 2_500)]), ref)
    assert found_tubes(found) == expected


def test_a_counter_that_wraps_in_the_file(broker: str, installation: str, tmp_path: Path) -> None:
    """The same events as without the wrap, 4.4 days and some later."""
    fine = recording(60, orbit=5_000)
    wrapped = w.move_orbits(fine, V1, 2**32 - 5_000 - 100)
    both = []
    for i, words in enumerate((fine, wrapped)):
        folder = tmp_path / str(i)
        folder.mkdir()
        path = saved(folder, words)
        both.append(through_kafka(broker, f"{installation}{i}", folder, path, "7 ms"))
    (a, account, _), (b, other, _) = both
    assert account["read"] == other["read"] == len(fine) and not other["losses"]
    moved = WRAP_NS - (5_000 + 100) * ORBIT_NS
    assert (b.events["t0_ns"].to_numpy() - a.events["t0_ns"].to_numpy() == moved).all()
    assert min(b.events["t0_ns"].to_pylist()) > 0
    hits = [x.events["hit"].combine_chunks().flatten() for x in (a, b)]
    assert hits[0].field("channel").equals(hits[1].field("channel"))
    assert hits[0].field("t").equals(hits[1].field("t"))


def test_an_orbit_that_goes_back_is_late_and_named(
    broker: str, installation: str, tmp_path: Path
) -> None:
    """A board that jumps back by 0.2 s and counts on: its words are late until it has caught up."""
    orbit = 20_000
    words = recording(900, orbit=orbit)
    ticks = w.decode(words, V1, orbit * w.TICKS_PER_ORBIT).tick
    there = (orbit + 5_000) * w.TICKS_PER_ORBIT
    cut = int(np.searchsorted(np.maximum.accumulate(ticks), there))
    back = w.move_orbits(words[cut:], V1, -2_500)
    path = saved(tmp_path, np.concatenate([words[:cut], back]))
    found, account, run = through_kafka(broker, installation, tmp_path, path)
    assert account["read"] == len(words) == account["processed"] + account["late"]
    twice = np.count_nonzero(ticks[cut:] < there + 2_500 * w.TICKS_PER_ORBIT)
    # all that it counted twice, but for what came together with the last words before the jump
    assert twice - 4_096 - 500 < account["late"] < twice
    assert account["why"] == {}  # every slice was closed all the same
    assert len(found.infos) == run.last - run.first + 1
    # which ones are late does not depend on the pace
    again, told, _ = through_kafka(
        broker, f"{installation}b", tmp_path, path, rate="recorded"
    )  # fmt: skip
    assert told == account and again.events.equals(found.events)


def test_a_silent_half_minute_is_empty_slices(
    broker: str, installation: str, tmp_path: Path
) -> None:
    first, later = recording(20, orbit=1_000), recording(20, orbit=1_000 + 336_700, seed=2)
    path = saved(tmp_path, np.concatenate([first, later]))
    found, account, _ = through_kafka(broker, installation, tmp_path, path, "100 ms")
    assert len(found.infos) in (301, 302)
    empty = [i for i in found.infos if i["sources"]["tdc"]["rows"] == 0]
    assert len(empty) >= 298 and all(i["complete"] and i["n_events"] == 0 for i in empty)
    assert account["processed"] == len(first) + len(later) and not account["losses"]
    assert found_tubes(found) == tubes(np.concatenate([first, later]), 1_000 * w.TICKS_PER_ORBIT)
