"""`freerun builder check`: builders that are good, and how bad ones are found out."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from freerun.app.builder_check import Options, check
from freerun.app.cli import app
from freerun.errors import ConfigError, LedgerGap
from freerun.ticks import Clock
from freerun.words import encode_hit
from processors.cutting import Stream, random_cuts

ROOT = Path(__file__).resolve().parents[1]

BAD = '''
import numpy as np
from processors.builders.gaps import Gaps

class Borders(Gaps):
    """Marks events near the beginning of a slice."""
    def build(self, s):
        events = super().build(s)
        near = np.where(events.anchor < 300_000, 16, 0).astype(np.uint32)
        events.quality = events.quality | near
        return events

class Dice(Gaps):
    def build(self, s):
        events = super().build(s)
        events.t0_err = np.random.rand(len(events)).astype(np.float32)
        return events

class Greedy(Gaps):
    """Fills its histogram with the neighbours' events, too."""
    def fill(self, s, events, owned, into):
        super().fill(s, events, np.ones_like(owned), into)

class Boom(Gaps):
    def build(self, s):
        raise ValueError("not today")
'''


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    """The demonstration in a thin beam, with bad builders beside it."""
    text = (ROOT / "configs" / "bench.toml").read_text()
    text = re.sub(r'muon_rate     = "50 kHz"', 'muon_rate = "5 kHz"', text)
    (tmp_path / "bench.toml").write_text(text)
    (tmp_path / f"bad_{tmp_path.name}.py").write_text(BAD)
    return tmp_path / "bench.toml"


def options(bench: Path, name: str, **more: object) -> Options:
    known = name if name in ("gaps", "drift_tubes") else f"bad_{bench.parent.name}:{name}"
    return Options(known, bench=bench, seconds=0.02, cuts=100, **more)


@pytest.mark.parametrize("name", ["gaps", "drift_tubes"])
def test_the_builders_here_do_not_see_the_cuts(bench: Path, name: str) -> None:
    said: list[str] = []
    found = check(options(bench, name, seed=7), said.append)
    assert found["ok"] and found["first"] is None and found["cuts"] > 80
    assert any("--seed 7" in line for line in said)


def test_one_that_looks_at_the_border_is_shown_with_one_row(bench: Path) -> None:
    said: list[str] = []
    found = check(options(bench, "Borders"), said.append)
    assert not found["ok"] and "events.quality" in found["first"]
    assert "uncut 0, cut 16" in found["first"]
    at = next(i for i, line in enumerate(said) if line.startswith("example"))
    assert said[at].startswith("example   1 rows and one cut, at ")
    assert " ns  tdc" in said[at + 1] and "word 0x" in said[at + 1]


@pytest.mark.parametrize(("name", "says"), [("Dice", "events.t0_err, row 0: once"),
                                            ("Greedy", "histogram.")])  # fmt: skip
def test_one_that_throws_dice_and_one_that_counts_twice(bench: Path, name: str, says: str) -> None:
    found = check(options(bench, name), lambda _: None)
    assert not found["ok"] and says in found["first"]


def test_one_that_fails_and_what_cannot_be_checked(bench: Path) -> None:
    with pytest.raises(LedgerGap, match="failed with ValueError: not today"):
        check(options(bench, "Boom"), lambda _: None)
    with pytest.raises(ConfigError, match="format of the words is never guessed"):
        check(Options("gaps", Path("words.dat")), lambda _: None)


def test_the_command_and_a_recording(shared_data: Path) -> None:
    file = shared_data / "minidt" / "run637_first60000.dat"
    done = CliRunner().invoke(app, ["builder", "check", "gaps", str(file), "--format",
                                    "padova-v1", "--cuts", "50"])  # fmt: skip
    assert done.exit_code == 0 and "60,000 rows of tdc" in done.stdout, done.output
    assert "the same  wherever it is cut (" in done.stdout


def test_cuts_repeat_by_their_seed_and_keep_a_guard_apart() -> None:
    ticks = np.arange(0, 1_200_000, 1_200)
    bunch, tdc = np.divmod(ticks, 30)
    words = encode_hit(0, np.zeros(len(ticks), np.int64), bunch // 3564, bunch % 3564, tdc + 1)
    stream = Stream({"a": ("padova-v1", words, Clock(0, 25, 30))}, 0, 1_000_000)
    one, other = random_cuts(stream, 5_000, 3, 40), random_cuts(stream, 5_000, 4, 40)
    assert one == random_cuts(stream, 5_000, 3, 40) != other
    assert (np.diff([0, *one, 1_000_000]) > 5_000).all() and len(one) > 20
    assert len(stream.within(0, 10_000)["a"][1]) == 10
