"""The JSON schema of the file, for editors that complete and check while one writes."""

from __future__ import annotations

from typing import Any

from freerun.config.models import Bench


def json_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of bench.toml; keys of drivers and builders are free in it.

    With `like`, a detector may leave out what the schema otherwise asks for.
    """
    schema: dict[str, Any] = Bench.model_json_schema(by_alias=True)
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "freerun bench"
    detector = schema["properties"]["detector"]["items"]
    like = {
        "type": "object",
        "properties": {"id": {"type": "string"}, "like": {"type": "string"}},
        "required": ["id", "like"],
    }
    schema["properties"]["detector"]["items"] = {"anyOf": [detector, like]}
    return schema
