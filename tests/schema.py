"""The published schema of the cloud's API, where it is at hand, and answers made from it alone.

It lies beside the checkout and is not ours to publish; without it there is nothing to make them from.
"""

import json
import re
from functools import cache
from typing import Any

import pytest

from tests.support import CHECKOUT

SCHEMA = CHECKOUT.parent / "shared/lambda/openapi.json"
needs_schema = pytest.mark.skipif(not SCHEMA.exists(), reason=f"the schema is not here: {SCHEMA}")
PREFIX = "/api/v1"


@cache
def document() -> dict[str, Any]:
    """The schema."""
    loaded: dict[str, Any] = json.loads(SCHEMA.read_text())
    return loaded


def operation(method: str, path: str) -> dict[str, Any] | None:
    """What the schema says of this request; `path` is without the prefix, its ids as they are."""
    for template, operations in document()["paths"].items():
        pattern = re.sub(r"\{\w+\}", "[^/]+", template)
        if re.fullmatch(pattern, PREFIX + path) and method.lower() in operations:
            found: dict[str, Any] = operations[method.lower()]
            return found
    return None


def answer(method: str, path: str, full: bool) -> Any:
    """What a mock of this operation would say: with what is required only, or with everything."""
    asked = operation(method, path)
    assert asked, (method, path)
    return sample(asked["responses"]["200"]["content"]["application/json"]["schema"], full)


def sample(schema: dict[str, Any], full: bool) -> Any:
    """A value that the schema allows: only what is required, or everything."""
    if "$ref" in schema:
        target: Any = document()
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        return sample(target, full)
    for key in ("const", "default", "example"):
        if key in schema:
            return schema[key]
    for key in ("examples", "enum"):
        if schema.get(key):
            return schema[key][0]
    for key in ("oneOf", "anyOf", "allOf"):
        if key in schema:
            return sample(schema[key][0], full)
    kind = schema.get("type", "object")
    if kind == "object":
        names = schema.get("properties", {}) if full else schema.get("required", [])
        made = {n: sample(schema["properties"][n], full) for n in names if n in schema["properties"]}
        more = schema.get("additionalProperties")
        return made | ({"any name": sample(more, full)} if isinstance(more, dict) else {})
    if kind == "array":
        return [sample(schema["items"], full)]
    return {"string": "text", "integer": 1, "number": 1.0, "boolean": True}.get(kind)
