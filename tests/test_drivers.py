"""Drivers that need no hardware: replay, the simulated telescope, the simulated digitizer."""

from __future__ import annotations

import time
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from freerun import words as w
from freerun.driver import Driver, DriverContext
from freerun.errors import ConfigError
from freerun.rows import PULSE_SCHEMA
from freerun.simulation import (
    BLOCK_NS,
    CYCLE_BLOCKS,
    TelescopeConfig,
    block_pulses,
    block_truth,
    block_words,
)
from freerun.ticks import Clock
from producers.drivers import blocks as blocks_module
from producers.drivers import recording as recording_module
from producers.drivers import replay as replay_module
from producers.drivers.pulses import Pulses
from producers.drivers.replay import Replay
from producers.drivers.simulate import Simulate

FIRST = 178_000_000_123
ANCHOR = 1_700_000_000_000_000_000
V1 = w.get_format("padova-v1")


class HostClock:
    """Time that passes when it is told to, and by the naps of the driver."""

    def __init__(self, ns: int = FIRST * BLOCK_NS) -> None:
        self.ns = ns

    def __call__(self) -> int:
        return self.ns

    def sleep(self, seconds: float) -> None:
        assert seconds < 0.1
        self.ns += round(seconds * 1e9)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> HostClock:
    clock = HostClock()
    told = SimpleNamespace(**{**vars(time), "sleep": clock.sleep})
    for module in (blocks_module, replay_module):  # theirs alone: other threads sleep as ever
        monkeypatch.setattr(module, "time", told)
    return clock


def simulate(
    cls: type[Any] = Simulate, now: Any = None, fpga: int | None = 0, **config: Any
) -> Any:
    context = DriverContext("s", fpga=fpga, telescope=TelescopeConfig(seed=2))
    if now is not None:
        context.now = now
    return cls(cls.Config(**config), context)


def replay(path: Path | list[Path], host: Any, clock: str = "data", fpga: int | None = None,
           **config: Any) -> Replay:  # fmt: skip
    files = [str(p) for p in path] if isinstance(path, list) else str(path)
    context = DriverContext("r", fpga=fpga, format="padova-v1", clock=clock, now=host)
    driver = Replay(Replay.Config(file=files, **config), context)
    driver.open()
    return driver


def all_words(driver: Driver, most: int = 10_000) -> Any:
    found = []
    for _ in range(most):
        block = driver.read()
        if block is not None:
            found.append(block.rows)
            if block.end:
                return np.concatenate(found), block
    raise AssertionError("no end")


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """20 ms of two boards at orbits beyond 2**31, 0.2 M words/s."""
    cfg = TelescopeConfig(seed=3, muon_rate_hz=10_000.0, noise_hz_per_tube=50.0)
    clock = Clock(ANCHOR - 300_000_000_000_000, 25, 30)  # 83 h: an orbit of 32 bits, high
    words = np.concatenate([
        block_words(cfg, ANCHOR // BLOCK_NS + i, board, clock) for i in range(2) for board in (0, 1)
    ])  # fmt: skip
    ticks = w.decode(words, V1, w.WRAP // 2).tick
    disorder = np.random.default_rng(1).integers(0, 2_400, len(words))  # up to 2 µs
    path = tmp_path / "recorded.dat"
    words[np.argsort(ticks + disorder)].astype("<u8").tofile(path)
    return path


# ------------------------------------------------------------------ simulated devices


def test_simulate_live_gives_each_block_once_it_is_past(host: HostClock) -> None:
    driver = simulate(now=host)
    driver.open()
    assert driver.estimate_anchor() == ANCHOR
    driver.set_anchor(ANCHOR)
    clock = Clock(ANCHOR, 25, 30)
    assert driver.read() is None  # its first block is going on
    seen = []
    while len(seen) < 5:
        block = driver.read()
        if block is not None:
            seen.append(block)
            done = FIRST + len(seen)
            assert host.ns >= done * BLOCK_NS
            assert block.promise == clock.tick_at(done * BLOCK_NS) and not block.end
    expected = [block_words(driver.telescope, FIRST + i, 0, clock) for i in range(5)]
    assert all((b.rows == e).all() for b, e in zip(seen, expected, strict=True))


def test_no_word_breaks_a_promise() -> None:
    driver = simulate(fpga=None, first_block=FIRST, blocks=30, catch_up=3)
    driver.open()
    promise = driver.first_tick()
    for _ in range(10):
        block = driver.read()
        assert block is not None and promise is not None
        ticks = w.decode(block.rows, V1, promise).tick
        assert ticks.min() >= promise
        promise = block.promise
    assert block.end


def test_simulate_catches_up_in_bounded_steps_and_skips(host: HostClock) -> None:
    driver = simulate(now=host)
    driver.open()
    host.ns += 500_000_000
    rates = []
    while (block := driver.read()) is not None:
        rates.append(len(block.rows))
    assert len(rates) >= 5
    host.ns += 10**12
    driver.skip()
    assert driver.read() is None


def test_simulate_a_range_of_blocks_and_no_more() -> None:
    clock = Clock(ANCHOR, 25, 30)
    driver = simulate(fpga=1, first_block=FIRST, blocks=25)
    driver.open()
    found, last = all_words(driver)
    expected = [block_words(driver.telescope, FIRST + i, 1, clock) for i in range(25)]
    assert (found == np.concatenate(expected)).all()
    assert last.promise == clock.tick_at((FIRST + 25) * BLOCK_NS)
    again = driver.read()
    assert again.end and len(again.rows) == 0
    assert driver.schema == "padova-v1" and driver.tick == Fraction(25, 30)


def test_simulate_at_a_speed(host: HostClock) -> None:
    driver = simulate(now=host, first_block=5, blocks=10, speed=2.0)
    driver.open()
    began = host.ns
    all_words(driver)
    assert 50_000_000 <= host.ns - began < 70_000_000


def test_the_plans_anchor_and_offset_count() -> None:
    driver = simulate(first_block=FIRST, blocks=1)
    driver.context.offset_ps = 12_500
    driver.open()
    driver.set_anchor(ANCHOR + 5)
    found, _ = all_words(driver)
    expected = block_words(driver.telescope, FIRST, 0, Clock(ANCHOR + 5, 25, 30, 12_500))
    assert (found == expected).all()


@pytest.mark.parametrize("name", ["padova-v1", "padova-v2"])
def test_a_repeating_telescope_only_moves_its_words(name: str) -> None:
    """The same muons a cycle later; what the driver moves is what the simulation would make."""
    telescope = TelescopeConfig(seed=2, repeat=True, format=name)
    context = DriverContext("s", fpga=1, telescope=telescope, offset_ps=12_345)
    later = FIRST + 3 * CYCLE_BLOCKS
    for cls in (Simulate, Pulses):
        driver = cls(cls.Config(), context)
        made = [driver.make(b, driver.clock()) for b in (FIRST, later, FIRST + CYCLE_BLOCKS)]
        fresh = cls(cls.Config(), context)
        same = fresh.make(later, fresh.clock())
        if cls is Simulate:
            assert len(same) > 100 and (made[1] == same).all() and (made[0] != same).any()
        else:
            assert same.num_rows > 3 and made[1].equals(same) and not made[0].equals(same)
    truth, again = block_truth(telescope, FIRST), block_truth(telescope, later)
    assert (again["t0_ns"] - truth["t0_ns"] == 3 * CYCLE_BLOCKS * BLOCK_NS).all()
    assert (again["x0"] == truth["x0"]).all() and again["muon"][0] == later << 20
    assert (
        len(block_truth(telescope, FIRST + 1)) != len(truth)
        or (block_truth(telescope, FIRST + 1)["x0"] != truth["x0"]).any()
    )


def test_pulses_come_as_arrow() -> None:
    driver = simulate(Pulses, fpga=None, first_block=FIRST, blocks=12)
    driver.open()
    clock = Clock(ANCHOR, 4, 1)
    assert driver.tick == 4 and driver.schema == "pulses-1"
    found = []
    while True:
        block = driver.read()
        assert block.rows.schema == PULSE_SCHEMA
        found.append(block)
        if block.end:
            break
    assert found[-1].promise == clock.tick_at((FIRST + 12) * BLOCK_NS)
    ticks = np.concatenate([b.rows.column("ticks").to_numpy() for b in found])
    samples = np.concatenate([b.rows.column("samples").flatten().to_numpy() for b in found])
    expected = [block_pulses(driver.telescope, FIRST + i, clock) for i in range(12)]
    assert (ticks == np.concatenate([p.ticks for p in expected])).all()
    assert (samples == np.concatenate([p.samples.ravel() for p in expected])).all()


def test_wrong_simulated_sources_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"needs the section \[simulation\]"):
        Simulate(Simulate.Config(), DriverContext("s", fpga=0))
    with pytest.raises(ConfigError, match="has boards 0, 1"):
        simulate(fpga=3)
    with pytest.raises(ConfigError, match="belong together"):
        simulate(first_block=3)
    with pytest.raises(ConfigError, match="speed is for"):
        simulate(speed=2.0)
    with pytest.raises(ConfigError, match="the source says format = 'padova-v2'"):
        Simulate(Simulate.Config(), DriverContext("s", telescope=TelescopeConfig(),
                                                  format="padova-v2"))  # fmt: skip
    with pytest.raises(ValidationError):
        simulate(sped=2.0)


# ------------------------------------------------------------------ replay


def test_a_file_as_it_is(recorded: Path, host: HostClock) -> None:
    expected = np.fromfile(recorded, "<u8")
    driver = replay(recorded, host, rate="fast")
    first = driver.first_tick()
    assert first == w.decode(expected, V1, w.WRAP // 2).tick[0]
    assert first // w.TICKS_PER_ORBIT > 2**31 and driver.estimate_anchor() == 0
    found, last = all_words(driver)
    assert (found == expected).all() and last.malformed == 0 and last.promise is None


def test_one_board_of_several_and_several_files(
    recorded: Path, tmp_path: Path, host: HostClock
) -> None:
    expected = np.fromfile(recorded, "<u8")
    torn = tmp_path / "second.dat"
    torn.write_bytes(recorded.read_bytes()[:8_003])
    expected = np.concatenate([expected, expected[:1000]])
    for fpga in (0, 1):
        found, last = all_words(replay([recorded, torn], host, fpga=fpga, rate="fast"))
        board = w.decode(expected, V1, w.WRAP // 2).board
        assert (found == expected[board == fpga]).all() and last.malformed == 1


@pytest.mark.parametrize("kept", [True, False])
def test_further_passes_are_later_by_the_duration_and_an_orbit(
    recorded: Path, host: HostClock, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kept:
        monkeypatch.setattr(recording_module, "KEEP_WORDS", 100)
    expected = np.fromfile(recorded, "<u8")
    driver = replay(recorded, host, rate="fast", passes=3)
    found, _ = all_words(driver)
    found = found.reshape(3, -1)
    ref = driver.first_tick()
    assert ref is not None
    ticks = [w.decode(x, V1, ref).tick for x in found]
    orbits = ticks[0] // w.TICKS_PER_ORBIT
    step = (int(orbits.max() - orbits.min()) + 1) * w.TICKS_PER_ORBIT
    assert (found[0] == expected).all()
    assert (ticks[1] - ticks[0] == step).all() and (ticks[2] - ticks[1] == step).all()


def test_recorded_speed(recorded: Path, host: HostClock) -> None:
    driver = replay(recorded, host)  # clock of the data: paced from the first read
    began = host.ns
    first = driver.first_tick()
    total = 0
    while True:
        block = driver.read()
        if block is None:
            continue
        if block.end:
            break
        total += len(block.rows)
        passed = (host.ns - began) * 30 // 25
        newest = int(w.decode(block.rows, V1, first).tick.max())
        assert newest - first <= passed + 3_600
    assert total == recorded.stat().st_size // 8
    assert abs(host.ns - began - 20e6) < 6e6


def test_given_rate(recorded: Path, host: HostClock) -> None:
    n = recorded.stat().st_size // 8
    driver = replay(recorded, host, rate="20 kHz")
    began = host.ns
    found, _ = all_words(driver)
    assert len(found) == n and abs((host.ns - began) / 1e9 - n / 20_000) < 0.01


def live_blocks(driver: Replay, host: HostClock, reads: int) -> list[tuple[int, Any]]:
    """(host tick, ticks of the words) of each read that gave words."""
    clock = Clock(driver.context.anchor_ns or replay_module.ANCHOR_NS, 25, 30)
    out = []
    for _ in range(reads):
        block = driver.read()
        if block is not None and len(block.rows):
            now = clock.tick_at(host.ns)
            out.append((now, w.decode(block.rows, V1, now).tick))
    return out


@pytest.mark.parametrize("rate", ["recorded", "fast", "10 MHz"])
def test_live_words_are_now_and_never_in_the_future(
    recorded: Path, host: HostClock, rate: str
) -> None:
    driver = replay(recorded, host, clock="host", loop=True, rate=rate)
    driver.set_anchor(ANCHOR + 1_234)
    seen = live_blocks(driver, host, 60)
    assert sum(len(t) for _, t in seen) > 30_000
    newest = 0
    for now, ticks in seen:
        assert ticks.max() <= now + 3_600  # a late word's neighbours paced it: 3 µs
        assert ticks.min() > now - 12_000_000  # 10 ms
        assert ticks.max() >= newest - 3_600
        newest = max(newest, int(ticks.max()))


def test_live_and_slower_is_stretched_by_jumps(recorded: Path, host: HostClock) -> None:
    driver = replay(recorded, host, clock="host", loop=True, rate="1 kHz")
    began = host.ns
    seen = live_blocks(driver, host, 2_000)
    total = sum(len(t) for _, t in seen)
    assert host.ns - began > 4e9 and abs(total - (host.ns - began) / 1e6) < 20
    lag = [(now - int(t.max())) * 25 / 30 for now, t in seen]
    assert max(lag) < 1.1e9


def test_live_after_a_pause_goes_on_now(recorded: Path, host: HostClock) -> None:
    driver = replay(recorded, host, clock="host")
    live_blocks(driver, host, 2)
    driver.skip()
    host.ns += 3_600 * 10**9
    (now, ticks), *_ = live_blocks(driver, host, 4)
    assert abs(now - ticks.max()) < 12_000_000


def test_live_at_its_end_is_silent_and_says_so(recorded: Path, host: HostClock) -> None:
    driver = replay(recorded, host, clock="host")
    live_blocks(driver, host, 20)
    block = driver.read()
    assert block is not None and len(block.rows) == 0 and not block.end
    assert block.promise == Clock(replay_module.ANCHOR_NS, 25, 30).tick_at(host.ns)


def test_an_impossible_orbit_does_not_stop_the_others(
    recorded: Path, tmp_path: Path, host: HostClock
) -> None:
    words = np.fromfile(recorded, "<u8")
    words[1000] = w.encode_hit(0, 1, 5, 5, 5)
    path = tmp_path / "odd.dat"
    words.tofile(path)
    driver = replay(path, host)
    began = host.ns
    found, _ = all_words(driver)
    assert (found == words).all() and host.ns - began < 40_000_000


def test_wrong_replays_are_refused(tmp_path: Path, host: HostClock) -> None:
    page = tmp_path / "page.txt"
    page.write_text("<html></html>\n")
    with pytest.raises(ConfigError, match="HTML"):
        replay(page, host)
    with pytest.raises(ConfigError, match="No such file"):
        replay(tmp_path / "none.dat", host)
    with pytest.raises(ConfigError, match="suffix"):
        replay(tmp_path / "none", host)
    with pytest.raises(ConfigError, match="needs the key format"):
        Replay(Replay.Config(file="a.dat"), DriverContext("r"))
    for wrong in ({"rate": "2 mm"}, {"rate": 5}, {"rate": "0 Hz"}, {"loop": True, "passes": 2},
                  {"file": []}, {"speed": 3}):  # fmt: skip
        with pytest.raises(ValidationError):
            Replay.Config(**{"file": "a.dat", **wrong})


def test_an_empty_file_is_at_its_end(tmp_path: Path, host: HostClock) -> None:
    path = tmp_path / "empty.dat"
    path.write_bytes(b"")
    driver = replay(path, host, loop=True)
    assert driver.first_tick() is None
    block = driver.read()
    assert block is not None and block.end


def test_recorded_run_637(shared_data: Path, host: HostClock) -> None:
    expected = np.fromfile(shared_data / "minidt/run637_first60000.dat", "<u8")
    for suffix in ("dat", "txt"):
        path = shared_data / f"minidt/run637_first60000.{suffix}"
        found, _ = all_words(replay(path, host, rate="fast"))
        assert (found == expected).all()
