"""What all sections of the configuration have in common."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

ID_PATTERN = r"[a-z0-9_]{1,32}"
_RANGE = re.compile(r"(\d+)(?:\s*-\s*(\d+))?", re.ASCII)

RAW_CHANNELS = 512
"""A board has raw channels 0…511."""
BOARDS = 16


class Section(BaseModel):
    """A table of the file: unknown keys are errors, nothing is converted behind one's back."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def problem(text: str) -> PydanticCustomError:
    """An error of a validator with exactly this text."""
    return PydanticCustomError("problem", "{text}", {"text": text})


def _id(value: str) -> str:
    if not re.fullmatch(ID_PATTERN, value, re.ASCII):
        raise problem(f"{value!r} is not a name: use 1 to 32 of the characters a-z, 0-9 and _")
    return value


Id = Annotated[
    str,
    AfterValidator(_id),
    WithJsonSchema({"type": "string", "pattern": f"^{ID_PATTERN}$"}),
]


def _channels(value: object) -> list[int]:
    """`"0-63, 128"`, `[17, 63]` or `5` as sorted raw channels."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = [value]
    if isinstance(value, str):
        out: list[int] = []
        for piece in value.split(","):
            match = _RANGE.fullmatch(piece.strip())
            if match is None:
                raise problem(f'{value!r} are no channels: write them like "0-63, 128"')
            first, last = int(match[1]), int(match[2] or match[1])
            if first > last:
                raise problem(f'{piece.strip()!r} runs backwards: write "{last}-{first}"')
            if last >= RAW_CHANNELS:
                raise problem(f"channel {last} in {value!r}: a board has channels 0-511")
            out.extend(range(first, last + 1))
    elif isinstance(value, list) and all(type(item) is int for item in value):
        out = list(value)
    else:
        raise problem(f'{value!r} are no channels: write them like "0-63" or [17, 63]')
    for number in out:
        if not 0 <= number < RAW_CHANNELS:
            raise problem(f"channel {number}: a board has channels 0-511")
    double = sorted({number for number in out if out.count(number) > 1})
    if double:
        raise problem(f"channel {double[0]} is there twice")
    return sorted(out)


def _ranges(channels: list[int]) -> str:
    """`[0, 1, 2, 5]` as `"0-2, 5"`."""
    pieces: list[list[int]] = []
    for number in channels:
        if pieces and pieces[-1][-1] == number - 1:
            pieces[-1].append(number)
        else:
            pieces.append([number])
    return ", ".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in pieces)


Channels = Annotated[
    list[int],
    BeforeValidator(_channels),
    PlainSerializer(lambda value: _ranges(value) if value else [], when_used="json"),
    WithJsonSchema({
        "anyOf": [
            {"type": "string", "pattern": r"^\s*\d+(\s*-\s*\d+)?(\s*,\s*\d+(\s*-\s*\d+)?)*\s*$"},
            {"type": "integer", "minimum": 0, "maximum": 511},
            {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 511}},
        ],
        "description": "raw channels of a board, like \"0-63, 128\" or [17, 63]",
    }),
]  # fmt: skip


def without_none(value: Any) -> Any:
    """`value` (tables and lists) without the keys that are None: TOML has no word for it."""
    if isinstance(value, dict):
        return {str(k): without_none(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [without_none(item) for item in value]
    return value
