"""From a TOML file to a `Bench`, or to all its problems at once."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from freerun.config import like
from freerun.config.checks import View, check
from freerun.config.detectors import Calibration, Detector, Mask
from freerun.config.models import Bench, Cluster
from freerun.config.pipelines import Pipeline, RunType, Write
from freerun.config.plugin_keys import unknown_names
from freerun.config.problems import ConfigProblems, Problem, explain
from freerun.config.sources import Source
from freerun.errors import ConfigError
from freerun.suggest import unknown


@dataclass
class Draft:
    """A file as far as it could be read; `bench` is None if it has problems."""

    where: str
    raw: dict[str, Any]
    bench: Bench | None
    problems: list[Problem] = field(default_factory=list)


def load(path: str | os.PathLike[str], cluster: str | os.PathLike[str] | None = None) -> Bench:
    """The bench described by the TOML file `path`, scaled by the optional file `cluster`.

    Raises `ConfigProblems` (a `ConfigError`) that lists everything wrong with it. The plug-ins'
    own keys are not looked at: no user code is imported (`check` does both).
    """
    return _finished(read(path, cluster))


def from_dict(
    raw: dict[str, Any],
    where: str = "configuration",
    cluster: Cluster | None = None,
    path: Path | None = None,
) -> Bench:
    """The bench described by a table in the shape of the file: a replay's, or `Bench.resolved()`
    in another process, where `path` is the file it came from.
    """
    draft = examine(raw, where)
    if draft.bench is not None:
        draft.bench._path = path
        draft.bench._cluster = cluster or Cluster()
    return _finished(draft)


def _finished(draft: Draft) -> Bench:
    if draft.bench is None or draft.problems:
        raise ConfigProblems(draft.where, draft.problems)
    return draft.bench


def read(path: str | os.PathLike[str], cluster: str | os.PathLike[str] | None = None) -> Draft:
    """What `load` does, without raising for problems inside the bench file."""
    text = _text(Path(path))
    draft = examine(_toml(Path(path), text), str(path))
    if draft.bench is not None:
        draft.bench._path = Path(path).absolute()
        draft.bench._text = text
    if cluster is not None:
        try:
            size = load_cluster(cluster)
        except ConfigProblems as error:
            draft.problems += [Problem(f"{error.where}: {p.path}", p.text) for p in error.problems]
        else:
            if draft.bench is not None:
                draft.bench._cluster = size
    return draft


def load_cluster(path: str | os.PathLike[str]) -> Cluster:
    """The [cluster] table of the file `path`, which holds nothing else."""
    raw = _toml(Path(path), _text(Path(path)))
    problems = [Problem(key, unknown("key", key, ["cluster"])) for key in raw if key != "cluster"]
    try:
        cluster = Cluster.model_validate(raw.get("cluster", {}))
    except ValidationError as error:
        raise ConfigProblems(str(path), problems + explain(error, Cluster, ("cluster",))) from None
    if problems:
        raise ConfigProblems(str(path), problems)
    return cluster


def examine(raw: dict[str, Any], where: str) -> Draft:
    """Check a whole table; see `Draft`."""
    raw, problems, inherited = like.detectors(raw)
    raw, more = like.channels(raw)
    problems += more
    if "cluster" in raw:
        problems.append(Problem("cluster", "stands in a file of its own (--cluster FILE), so that "
                                "this one is the same everywhere"))  # fmt: skip
        raw = {key: value for key, value in raw.items() if key != "cluster"}
    bench = None
    try:
        bench = Bench.model_validate(raw)
    except ValidationError as error:
        problems += [p for p in explain(error, Bench) if not _under(p.path, inherited)]
    lost = {p.path.removesuffix(".like") for p in problems if p.path.endswith(".like")}
    problems = [p for p in problems if not (_under(p.path, lost) and "is missing" in p.text)]
    said = {p.path for p in problems} | lost
    problems += [p for p in check(_view(raw)) if not _under(p.path, said)]
    problems += unknown_names(raw)
    return Draft(where, raw, bench if not problems else None, _in_order(problems, raw))


def _under(path: str, parents: set[str]) -> bool:
    return any(path == p or path.startswith((f"{p}.", f"{p}[")) for p in parents)


def _in_order(problems: list[Problem], raw: dict[str, Any]) -> list[Problem]:
    """As in the file: by section, then by number in it; each once."""
    sections = {name: i for i, name in enumerate(raw)}

    def place(problem: Problem) -> tuple[int, int]:
        match = re.match(r"(\w+)(?:\[(\d+)\])?", problem.path)
        if match is None:
            return len(sections), 0
        return sections.get(match[1], len(sections)), int(match[2] or 0)

    return sorted(dict.fromkeys(problems), key=place)


def _view(raw: dict[str, Any]) -> View:
    """The parts of `raw` that are sound by themselves."""

    def rows(section: str) -> Iterator[tuple[int, Any]]:
        value = raw.get(section)
        yield from enumerate(value if isinstance(value, list) else [])

    def sound(section: str, kind: Any) -> dict[int, Any]:
        return {i: v for i, row in rows(section) if (v := _try(kind, row)) is not None}

    def named(section: str, kind: Any) -> dict[str, Any]:
        value = raw.get(section)
        items = value.items() if isinstance(value, dict) else ()
        return {k: v for k, row in items if (v := _try(kind, row)) is not None}

    time = raw.get("time")
    reference = time.get("reference") if isinstance(time, dict) else None
    return View(
        ids={
            section: [row.get("id") if isinstance(row, dict) else None for _, row in rows(section)]
            for section in ("source", "detector", "pipeline")
        },
        reference=reference if isinstance(reference, str) else None,
        sources=sound("source", Source),
        detectors=sound("detector", Detector),
        pipelines=sound("pipeline", Pipeline),
        writes=sound("write", Write),
        run_types=named("run_type", RunType),
        masks={
            name: [mask for item in (rows_ if isinstance(rows_, list) else [rows_])
                   if (mask := _try(Mask, item)) is not None]
            for name, rows_ in (raw.get("mask") or {}).items()
        } if isinstance(raw.get("mask", {}), dict) else {},
        calibration=_try(Calibration, raw.get("calibration", {})) or Calibration(),
        simulation="simulation" in raw,
    )  # fmt: skip


def _try(kind: Any, value: object) -> Any:
    """`value` as a `kind`; without its wrong keys, if it is sound then; else None."""
    adapter = TypeAdapter(kind)
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        if not isinstance(value, dict):
            return None
        wrong = {step for item in error.errors(include_url=False) for step in item["loc"]}
    try:
        return adapter.validate_python({k: v for k, v in value.items() if k not in wrong})
    except ValidationError:
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: not a text file in UTF-8 (byte {error.start} is wrong)"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None


def _toml(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        match = re.fullmatch(r"(?s)(.*) \(at (?:line (\d+), column (\d+)|(end of document))\)",
                             str(error))  # fmt: skip
        if match is None:
            raise ConfigError(f"{path}: not TOML: {error}") from None
        line = match[2] or str(text.count("\n") + 1)
        column = f", column {match[3]}" if match[3] else ""
        raise ConfigError(f"{path}, line {line}{column}: not TOML: {match[1]}") from None
