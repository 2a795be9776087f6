"""Drivers and builders by name: installed ones (entry points), or `module:Class` of the user.

Nothing is imported before it is asked for, and freerun itself knows none of them.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from freerun.errors import ConfigError
from freerun.suggest import unknown

DRIVERS, BUILDERS = "freerun.drivers", "freerun.builders"


def names(group: str) -> list[str]:
    """Names of the installed plug-ins of a group, without importing any."""
    return sorted(_points(group))


def find_driver(name: str, folder: Path | None = None) -> type[Any]:
    """The driver class called `name`; `folder` (the configuration's) is searched for modules.

    Raises `ConfigError` if there is none, it cannot be imported, or it has no `Config`.
    """
    return _find(DRIVERS, "driver", name, folder)


def find_builder(name: str, folder: Path | None = None) -> type[Any]:
    """The builder class called `name`; as `find_driver`."""
    return _find(BUILDERS, "builder", name, folder)


def _points(group: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=group)}


def _find(group: str, what: str, name: str, folder: Path | None) -> type[Any]:
    if ":" in name:
        found = _import(what, name, folder)
    else:
        points = _points(group)
        if not points:
            raise ConfigError(f"no {what}s are installed: install freerun with pip into the "
                              f"environment of {sys.executable}")  # fmt: skip
        if name not in points:
            raise ConfigError(f"{unknown(what, name, points)}; one of your own is module:Class")
        found = _import(what, points[name].value, None)
    config = getattr(found, "Config", None)
    if not (isinstance(config, type) and issubclass(config, BaseModel)):
        raise ConfigError(f"{what} {name!r} has no `Config` (a pydantic model): derive it from "
                          f"freerun's {what.capitalize()}")  # fmt: skip
    return found


def _import(what: str, target: str, folder: Path | None) -> type[Any]:
    module_name, _, attribute = (part.strip() for part in target.partition(":"))
    if not module_name or not attribute.isidentifier():
        raise ConfigError(f"{what} {target!r}: write module:Class")
    if folder is not None and str(folder) not in sys.path:
        # for good: the module may import its neighbours later
        sys.path.insert(0, str(folder))
        importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise ConfigError(f"{what} {target!r}: {module_name} needs the module {error.name!r}, "
                              f"which is not installed") from error  # fmt: skip
        place = f"beside the configuration ({folder}) or " if folder is not None else ""
        raise ConfigError(f"{what} {target!r}: no module {module_name!r} {place}"
                          f"installed") from None  # fmt: skip
    except Exception as error:  # the user's code may fail in any way
        raise ConfigError(
            f"{what} {target!r}: importing {module_name} failed with {failure(error)}"
        ) from error
    found = getattr(module, attribute, None)
    if not isinstance(found, type):
        classes = [n for n, v in vars(module).items() if isinstance(v, type)
                   and v.__module__ == module.__name__]  # fmt: skip
        raise ConfigError(f"{what} {target!r}: {unknown('class', attribute, classes)} "
                          f"in {module_name}")  # fmt: skip
    return found


def failure(error: Exception) -> str:
    """What went wrong in somebody's code, and where."""
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error.msg} ({error.filename}, line {error.lineno})"
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({last.filename}, line {last.lineno})"
