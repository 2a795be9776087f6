"""The documents say what the code does: commands, links, snippets, tables, constants."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import re
import shlex
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import typer

from freerun import config, ledger, wire
from freerun.app.cli import app
from freerun.assembler import SourceState
from freerun.rows import codec
from freerun.slices import slice_of
from freerun.ticks import Clock
from freerun.topics import Topics

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("freerun", "producers", "processors", "controllers", "dashboard")
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
BLOCK = re.compile(r"(?:<!-- file: (\S+) -->\n)?```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def text_of(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def blocks(name: str, language: str) -> list[tuple[str, str]]:
    """`(name of the file or "", text)` of each code block in this language."""
    return [(f, body) for f, said, body in BLOCK.findall(text_of(name)) if said == language]


def without_code(text: str) -> str:
    return BLOCK.sub("", text)


# ------------------------------------------------------------------------------- links, commands


def slug(heading: str) -> str:
    """The anchor that a page gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


@pytest.mark.parametrize("name", NAMES)
def test_links_resolve(name: str) -> None:
    broken = []
    for link in LINK.findall(without_code(text_of(name))):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        if not target.exists():
            if target.parent.name == "screenshots" and not target.parent.exists():
                continue  # pictures are made from a running bench
            broken.append(link)
        elif anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text("utf-8"), re.MULTILINE)
            if anchor not in map(slug, headings):
                broken.append(link)
    assert not broken


def command_lines(name: str) -> list[str]:
    """`freerun …` in shell blocks and in running text: what follows the program's name.

    `a | b` means each of them, `[--x]` that it may be left out.
    """
    lines = [line for _, body in blocks(name, "sh") for line in body.splitlines()]
    lines += re.findall(r"`((?:\S*/)?freerun(?: [^`]+)?)`", without_code(text_of(name)))
    out = []
    for line in lines:
        words = shlex.split(line.replace("…", ""), comments=True)
        while words and re.match(r"[A-Z_]+=", words[0]):
            del words[0]
        if words and words[0].rpartition("/")[2] == "freerun":
            first, *others = " ".join(w.strip("[]") for w in words[1:]).split(" | ")
            group = first.rpartition(" ")[0]
            out += [first, *(f"{group} {other}" for other in others)]
    return out


def unknown_in(line: str) -> str:
    """The word or option of a command line that the program does not have, or ""."""
    command: Any = typer.main.get_command(app)
    for word in line.split():
        if word.startswith("--"):
            if not any(word in p.opts + p.secondary_opts for p in command.params):
                return word
        elif hasattr(command, "commands"):
            if word not in command.commands:
                return word
            command = command.commands[word]
    return ""


def test_a_wrong_command_is_seen() -> None:
    assert not unknown_in("run start --type beam")
    assert unknown_in("run begin") == "begin"
    assert unknown_in("demo --slow") == "--slow"


@pytest.mark.parametrize("name", NAMES)
def test_commands_exist(name: str) -> None:
    wrong = {line: bad for line in command_lines(name) if (bad := unknown_in(line))}
    assert not wrong


def test_the_readme_shows_all_commands() -> None:
    shown = " ".join(command_lines("README.md"))
    command: Any = typer.main.get_command(app)
    daily = {"demo", "up", "run", "config", "broker", "replay"} & set(command.commands)
    assert not [c for c in daily if c not in shown.split()]


@pytest.mark.parametrize("name", NAMES)
def test_make_targets_exist(name: str) -> None:
    targets = set(re.findall(r"^([\w-]+):", text_of("Makefile"), re.MULTILINE))
    said = [line for _, body in blocks(name, "sh") for line in body.splitlines()]
    said += re.findall(r"`(make [\w-]+)`", text_of(name))
    asked = {m[1] for line in said if (m := re.match(r"make ([\w-]+)", line))}
    assert asked <= targets


# ------------------------------------------------------------------------------- snippets


@pytest.mark.parametrize("name", NAMES)
def test_python_blocks_are_python(name: str) -> None:
    for _, body in blocks(name, "python"):
        ast.parse(body)


def test_the_cluster_file_of_operations(tmp_path: Path) -> None:
    (body,) = (body for _, body in blocks("docs/operations.md", "toml"))
    (tmp_path / "cluster.toml").write_text(body)
    bench = config.load(ROOT / "configs" / "bench.toml", tmp_path / "cluster.toml")
    assert bench.cluster.partitions == 8


@pytest.fixture
def shown_bench(tmp_path: Path) -> Any:
    """The README's bench with its driver and builder, beside each other in a folder."""
    before = set(sys.modules), list(sys.path)
    for language in ("python", "toml"):
        for name, body in blocks("README.md", language):
            if name:
                (tmp_path / name).write_text(body)
    yield config.check(tmp_path / "bench.toml")
    sys.path[:] = before[1]
    for name in {"my_driver", "my_builder"} - before[0]:
        sys.modules.pop(name, None)


def test_the_driver_and_the_builder_of_the_readme(shown_bench: Any) -> None:
    """The driver's rows through a sequencer: none late; through the builder: a pair each ms."""
    from processors import offline
    from processors.setup import pipeline_of
    from producers.__main__ import make_driver
    from producers.sequencer import Sequencer

    bench, length = shown_bench, 20_000_000
    driver = make_driver(bench, bench.source("tdc"))
    driver.open()
    driver.skip()  # before the anchor is known
    anchor = driver.estimate_anchor()
    driver.set_anchor(anchor)
    clock = Clock(anchor, driver.tick.numerator, driver.tick.denominator)
    sequencer = Sequencer("tdc", 1, codec(driver.schema), clock, length, 4, bench.time.guard)
    first = slice_of(time.time_ns(), length) + 1
    sequencer.arm(first, first + 4)
    blocks_read, sent = [], []
    end = time.monotonic() + 10
    while sequencer.first is not None and time.monotonic() < end:
        block = driver.read()
        blocks_read.append(block.rows)
        now = clock.tick_at(time.time_ns())
        sent += sequencer.offer(block.rows, now - 10**10, now + 10**10)
        sent += sequencer.advance(block.promise)
    driver.close()
    closed = [out.part for out in sent if out.part.closes]
    assert [part.k for part in closed] == list(range(first, first + 4))
    assert sum(part.rows for part in closed) in range(4 * 38, 4 * 42 + 1)
    assert sequencer.totals["late"] == sequencer.totals["quarantined"] == 0

    lane = pipeline_of(bench, "pairs")
    rows = {"tdc": (driver.schema, np.concatenate(blocks_read), clock)}
    tables = offline.uncut(lane, bench, first * length, 4 * length, rows)
    assert tables.events.num_rows in range(79, 82)
    assert set(tables.events.column("tof").to_pylist()) == {5.0}
    assert tables.hits.num_rows <= 1  # at most one pair lies across the border


# ------------------------------------------------------------------------------- tables, constants


def branch_tables() -> ModuleType:
    path = ROOT / "scripts" / "branch_tables.py"
    spec = importlib.util.spec_from_file_location("branch_tables", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_branches_in_files_md() -> None:
    made = branch_tables()
    text = text_of("docs/files.md")
    begin, end = made.between(text)
    wanted = made.tables().strip()
    assert text[begin:end].strip() == wanted, "run: python scripts/branch_tables.py"


CONSTANT = re.compile(r"`([a-z0-9_.]+)\.([A-Z_]+)` = (\([^)]*\)|[\d_.]+\d|\d)")


def test_the_constants_in_bounds_md() -> None:
    found = CONSTANT.findall(text_of("docs/bounds.md"))
    assert len(found) > 30
    wrong = []
    for module, name, told in found:
        value = getattr(importlib.import_module(module), name)
        if value != ast.literal_eval(told):
            wrong.append(f"{module}.{name} is {value}, bounds.md says {told}")
    assert not wrong


def plain(text: str) -> str:
    return " ".join(text.split())


def test_the_ledgers_equations_in_protocol_md() -> None:
    indented = [x for x in (ledger.__doc__ or "").splitlines() if x.startswith("    ")]
    told = [plain(body) for _, body in blocks("docs/protocol.md", "")]
    assert plain("\n".join(indented)) in told


def test_the_headers_and_metadata_in_protocol_md() -> None:
    text = text_of("docs/protocol.md")
    part = wire.Part("s", 0, 0, 0, wire.CLOSE, close={})
    missing = [name for name, _ in wire.part_headers(part) if f"`{name}`" not in text]
    result = wire.ResultPart(0, 0, 1, "events", info={})
    missing += [name for name, _ in wire.result_headers(result, b"") if f"`{name}`" not in text]
    assert not missing
    (shown,) = (json.loads(body) for _, body in blocks("docs/protocol.md", "json"))
    assert set(shown) == {"v", "g", "next", *SourceState().to_json(None)}


def test_the_topics_in_architecture_md() -> None:
    told = set(re.findall(r"^\| `(<s>\.\S+)` \|", text_of("docs/architecture.md"), re.MULTILINE))
    made = Topics("<s>").all(["<source>"], ["<pipeline>"], 8)
    assert told == {topic.name for topic in made}


def test_the_environment_variables_in_operations_md() -> None:
    used = set()
    for path in [p for name in PACKAGES for p in (ROOT / name).rglob("*.py")]:
        used |= set(re.findall(r"\bFREERUN_[A-Z]+\b", path.read_text("utf-8")))
    told = set(re.findall(r"\bFREERUN_[A-Z]+\b", text_of("docs/operations.md")))
    assert used <= told
    assert told - used <= {"FREERUN_BROWSER", "FREERUN_SHARED"}  # of the tests


def test_every_decision_is_listed() -> None:
    files = {p.name for p in (ROOT / "docs" / "adr").glob("[0-9]*.md")}
    assert set(LINK.findall(text_of("docs/adr/README.md"))) >= files
    numbers = sorted(int(name[:4]) for name in files)
    assert numbers == list(range(1, len(numbers) + 1))
