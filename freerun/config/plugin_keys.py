"""The second phase: keys that belong to drivers and builders, checked by their `Config` models.

This imports their code (the user's own, too). A plug-in whose `Config` names a common key
(`fpga`, `format`, `use`) is given that one as well.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from freerun import plugins
from freerun.config.base import Section
from freerun.config.geometry import Geometry
from freerun.config.models import Bench
from freerun.config.pipelines import Pipeline
from freerun.config.problems import ConfigProblems, Problem, explain, keys_of, path_text
from freerun.config.simulation import telescope
from freerun.config.sources import Source
from freerun.config.units import PICOSECONDS
from freerun.errors import ConfigError
from freerun.suggest import unknown

Find = Callable[[str, Path | None], type[Any]]
PARTS: dict[str, tuple[str, str, type[Section]]] = {
    "source": ("driver", plugins.DRIVERS, Source),
    "pipeline": ("builder", plugins.BUILDERS, Pipeline),
}


def unknown_names(raw: dict[str, Any]) -> list[Problem]:
    """Drivers and builders that are not installed; nothing is imported."""
    out = []
    for section, (what, group, _) in PARTS.items():
        known = plugins.names(group)
        for i, table in _tables(raw, section):
            name = table.get(what)
            if known and isinstance(name, str) and name and ":" not in name and name not in known:
                out.append(Problem(path_text((section, i, what)), unknown(what, name, known)
                           + "; one of your own is module:Class"))  # fmt: skip
    return out


def driver_of(bench: Bench, source: str) -> tuple[type[Any], BaseModel]:
    """The driver class of a source and its checked `Config`; raises `ConfigProblems`."""
    i = bench.sources.index(bench.source(source))
    return _one(bench, "source", i)


def builder_of(bench: Bench, pipeline: str) -> tuple[type[Any], BaseModel]:
    """The builder class of a pipeline and its checked `Config`; raises `ConfigProblems`."""
    i = bench.pipelines.index(bench.pipeline(pipeline))
    return _one(bench, "pipeline", i)


def _one(bench: Bench, section: str, i: int) -> tuple[type[Any], BaseModel]:
    found, config, problems = _checked(section, i, bench.resolved()[section][i], bench.resolved(),
                                       bench.folder)  # fmt: skip
    if found is None or config is None:
        raise ConfigProblems(str(bench.path or "configuration"), problems)
    return found, config


def check_plugins(bench: Bench) -> None:
    """Check every key of every driver and builder, and each builder's reach against the guard.

    Imports their code. Raises `ConfigProblems` with all that is wrong.
    """
    problems = [*keys_problems(bench.resolved(), bench.folder), *_whole(bench)]
    if problems:
        raise ConfigProblems(str(bench.path or "configuration"), list(dict.fromkeys(problems)))


def keys_problems(raw: dict[str, Any], folder: Path) -> Iterator[Problem]:
    """Of tables in the shape of the file, sound or not."""
    for section in PARTS:
        for i, table in _tables(raw, section):
            yield from _checked(section, i, table, raw, folder)[2]


def _whole(bench: Bench) -> Iterator[Problem]:
    """What needs a bench that is sound in itself."""
    for source in bench.sources:
        if source.driver in ("simulate", "pulses"):
            try:
                telescope(bench, source.id if source.driver == "simulate" else None)
            except ConfigError as error:
                yield Problem("simulation", str(error).removeprefix("simulation: "))
    resolved = bench.resolved()
    for i in range(len(bench.pipelines)):
        table = resolved["pipeline"][i]
        found, config, _ = _checked("pipeline", i, table, resolved, bench.folder)
        if found is not None and config is not None:
            places = Geometry.of(bench, bench.pipelines[i])
            yield from _reach(i, found, config, places, bench.time.guard * 1000)


def _reach(
    i: int, builder: type[Any], config: BaseModel, places: Geometry, guard: int
) -> Iterator[Problem]:
    """An event whose anchor is in the neighbouring slice may own rows of this one (extent), and
    rows around that anchor decide about it (reach): all of them must be within the guard.
    Channel offsets move rows after the guard was cut.
    """
    try:
        made = builder(config, places)
        before, after = made.reach()
        more_before, more_after = made.extent()
    except ConfigError as error:
        yield Problem(f"pipeline[{i}]", str(error))
        return
    except Exception as error:  # the user's code may fail in any way
        yield Problem(f"pipeline[{i}]", f"making its builder failed with {plugins.failure(error)}")
        return
    shift = 2 * max((int(abs(m.offset_ps).max()) for m in places.maps.values()), default=0)
    needed = max(before, after, more_after + before, more_before + after) + shift
    if needed > guard:
        yield Problem(f"pipeline[{i}]", f"its builder looks {PICOSECONDS.text(needed)} around a "
                      f"slice, but time.guard is {PICOSECONDS.text(guard)}: make the guard longer "
                      "or the builder's windows shorter")  # fmt: skip


def _tables(raw: dict[str, Any], section: str) -> Iterator[tuple[int, dict[str, Any]]]:
    value = raw.get(section)
    for i, table in enumerate(value if isinstance(value, list) else []):
        if isinstance(table, dict):
            yield i, table


def _checked(
    section: str, i: int, table: dict[str, Any], raw: dict[str, Any], folder: Path
) -> tuple[type[Any] | None, BaseModel | None, list[Problem]]:
    """The plug-in of one table, its `Config`, and what is wrong with it."""
    what, _, common = PARTS[section]
    name = table.get(what)
    if not isinstance(name, str) or not name:
        return None, None, []  # the first phase has said it
    find: Find = plugins.find_driver if section == "source" else plugins.find_builder
    try:
        found = find(name, folder)
    except ConfigError as error:
        return None, None, [Problem(path_text((section, i, what)), str(error))]
    model: type[BaseModel] = found.Config
    shared = set(keys_of(common))
    keys = {k: v for k, v in table.items() if k not in shared or k in model.model_fields}
    if section == "pipeline" and "use" in model.model_fields:
        keys.setdefault("use", [d.get("id") for _, d in _tables(raw, "detector")])
    try:
        return found, model.model_validate(keys), []
    except ValidationError as error:
        return found, None, explain(error, model, (section, i), keys_of(common))


def check(path: str | os.PathLike[str], cluster: str | os.PathLike[str] | None = None) -> Bench:
    """Both phases: `load`, and the plug-ins' keys, all problems of both at once."""
    from freerun.config.load import read

    draft = read(path, cluster)
    folder = Path(path).absolute().parent
    problems = [*draft.problems, *keys_problems(draft.raw, folder)]
    if draft.bench is not None:
        problems += _whole(draft.bench)
    # one mistake may be seen by both phases: the first one's words count
    first = {p.path: p for p in reversed(problems) if p.path}
    problems = [p for p in dict.fromkeys(problems) if p in draft.problems or first[p.path] is p]
    if draft.bench is None or problems:
        raise ConfigProblems(draft.where, problems)
    return draft.bench
