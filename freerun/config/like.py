"""`like = "ch0"`: a detector, or a channel of a source, takes what it does not say itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from freerun.config.problems import Problem, path_text
from freerun.suggest import unknown

Table = dict[str, Any]
KEPT = ("id", "like")  # never inherited


def detectors(raw: Table) -> tuple[Table, list[Problem], set[str]]:
    """`raw` with the likes of its [[detector]] list resolved; the problems; and the paths of
    inherited keys, whose problems are reported once, where they are written.
    """
    items = raw.get("detector")
    if not isinstance(items, list):
        return raw, [], set()
    named: Table = {}
    for item in items:
        if isinstance(item, dict) and isinstance(item.get("id"), str):
            named.setdefault(item["id"], item)
    problems: list[Problem] = []
    inherited: set[str] = set()
    out: list[Any] = []
    for i, item in enumerate(items):
        if isinstance(item, dict) and "like" in item:
            path = path_text(("detector", i))
            item, keys, found = _resolve(item, named, "detector", f"{path}.like")
            inherited |= {f"{path}.{key}" for key in keys}
            problems += found
        out.append(item)
    return raw | {"detector": out}, problems, inherited


def channels(raw: Table) -> tuple[Table, list[Problem]]:
    """`raw` with the likes in the `channel` tables of its sources resolved."""
    items = raw.get("source")
    if not isinstance(items, list):
        return raw, []
    problems: list[Problem] = []
    out: list[Any] = []
    for i, source in enumerate(items):
        tables = source.get("channel") if isinstance(source, dict) else None
        if isinstance(tables, dict):
            done = {}
            for name, table in tables.items():
                if isinstance(table, dict) and "like" in table:
                    path = path_text(("source", i, "channel", name, "like"))
                    table, _, found = _resolve(table, tables, "channel", path)
                    problems += found
                done[name] = table
            source = source | {"channel": done}
        out.append(source)
    return raw | {"source": out}, problems


def _resolve(
    item: Table, named: Mapping[str, Any], what: str, path: str
) -> tuple[Table, set[str], list[Problem]]:
    """`item` with the keys of all it is like; the inherited keys; problems at `path`."""
    own = {key: value for key, value in item.items() if key != "like"}
    merged, seen, at = dict(own), [item], item
    while "like" in at:
        # in TOML a channel's name is text, and `like = 0` a number
        name = str(at["like"]) if type(at["like"]) is int else at["like"]
        base = named.get(name) if isinstance(name, str) else None
        if not isinstance(base, dict):
            return merged, set(merged) - set(own), [Problem(path, unknown(what, name, named))]
        if any(base is other for other in seen):
            text = f"{name!r} is in the end like itself: say it all in one of them"
            return merged, set(merged) - set(own), [Problem(path, text)]
        seen.append(base)
        merged = {k: v for k, v in base.items() if k not in KEPT} | merged
        at = base
    return merged, set(merged) - set(own), []
