"""What is wrong with a configuration, each with its path, and all of it at once."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from freerun.errors import ConfigError
from freerun.suggest import unknown

Loc = tuple[int | str, ...]


@dataclass(frozen=True)
class Problem:
    """One thing to mend. `path` is like `source[1].clock.kind`; "" is the file as a whole."""

    path: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}: {self.text}" if self.path else self.text


class ConfigProblems(ConfigError):
    """All problems of a configuration; `str()` lists them, one a line."""

    def __init__(self, where: str, problems: Sequence[Problem]) -> None:
        self.where, self.problems = where, tuple(problems)
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__("\n".join([f"{where}: {count}", *(f"  {p}" for p in problems)]))


def path_text(loc: Iterable[int | str]) -> str:
    """`("source", 1, "clock")` as `source[1].clock`."""
    out = ""
    for step in loc:
        out += f"[{step}]" if isinstance(step, int) else f".{step}" if out else str(step)
    return out


def keys_of(model: type[BaseModel]) -> list[str]:
    """The keys a table of this kind may have, as they stand in the file."""
    return [field.alias or name for name, field in model.model_fields.items()]


def explain(error: ValidationError, model: type[BaseModel], prefix: Loc = (),
            more_keys: Iterable[str] = ()) -> list[Problem]:  # fmt: skip
    """The problems in a pydantic error of `model`; `more_keys` may also stand in its table."""
    out = []
    for item in error.errors(include_url=False):
        loc, parent, is_key = _follow(model, item["loc"])
        kind, got = item["type"], item.get("input")
        if kind == "extra_forbidden":
            known = keys_of(parent) if parent is not None else []
            text = unknown("key", loc[-1], [*known, *(more_keys if len(loc) == 1 else ())])
        elif is_key:
            text = f"as a name: {_sentence(kind, item, got)}"
        else:
            text = _sentence(kind, item, got)
        out.append(Problem(path_text((*prefix, *loc)), text))
    return out


def _sentence(kind: str, item: Any, got: object) -> str:
    context = item.get("ctx", {})
    if kind == "missing":
        return "is missing; it must be given"
    if kind == "union_tag_invalid":
        tags = [tag.strip().strip("'") for tag in context["expected_tags"].split(",")]
        return unknown("kind", context["tag"], tags)
    if kind == "union_tag_not_found":
        return "`kind` is missing; it must be given"
    if kind == "literal_error":
        known = context["expected"].replace(" or ", ", ").split(", ")
        if isinstance(got, str):
            return unknown("value", got, [name.strip("'") for name in known])
        return f"got {got!r}, expected {context['expected']}"
    wanted = _WANTED.get(kind)
    if wanted is not None:
        return f"must be {wanted}, got {got!r}"
    if kind in ("value_error", "assertion_error"):
        return str(context["error"])
    text: str = item["msg"]
    return text if kind in ("problem", "quantity") else f"{text}, got {got!r}"


_WANTED = {
    "string_type": "text in quotes",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "list_type": "a list [ … ]",
    "dict_type": "a table { … }",
    "model_type": "a table { … }",
    "model_attributes_type": "a table { … }",
}


def _follow(model: type[BaseModel], loc: Loc) -> tuple[Loc, type[BaseModel] | None, bool]:
    """The part of pydantic's `loc` that stands in the file, the model of the last table on the
    way, and whether the problem is a key itself. Names of union members are left out.
    """
    shown: list[int | str] = []
    at: Any = model
    parent: type[BaseModel] | None = model
    for step in loc:
        at, tagged = _choose(at, step)
        if tagged:
            continue
        if step == "[key]":
            return tuple(shown), parent, True
        shown.append(step)
        if isinstance(at, type) and issubclass(at, BaseModel):
            parent = at
            at = next((field.annotation if not field.metadata else
                       Annotated[field.annotation, *field.metadata]
                       for name, field in at.model_fields.items()
                       if step == (field.alias or name)), None)  # fmt: skip
        else:
            parent, at = None, _element(at)
    return tuple(shown), parent, False


def _strip(at: Any) -> Any:
    while get_origin(at) is Annotated:
        at = get_args(at)[0]
    return at


def _choose(at: Any, step: int | str) -> tuple[Any, bool]:
    """`at` without wrappers; for a union, the member that `step` names or (True) steps into."""
    at = _strip(at)
    if get_origin(at) not in (Union, types.UnionType):
        return at, False
    members = [_strip(member) for member in get_args(at) if member is not type(None)]
    if len(members) == 1:
        return members[0], False
    for member in members:
        if isinstance(member, type) and issubclass(member, BaseModel):
            kind = member.model_fields.get("kind")
            if kind is not None and step in get_args(kind.annotation):
                return member, True
    if step in {str(getattr(m, "__name__", m)) for m in members} | {"int", "str", "float"}:
        return next(iter(members)), True
    return None, False


def _element(at: Any) -> Any:
    args = typing.get_args(at)
    return args[-1] if args else None
