"""The readers against answers made from the published schema alone, bare and full, by nobody's hand.

The schema lies beside the checkout and is not ours to publish; without it there is nothing to make them from.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from runner.facts.fact import Fact, Result
from runner.facts.lambda_cloud import (
    launched_id,
    list_filesystems,
    list_instances,
    list_regions,
    list_ssh_keys,
    list_types,
)
from runner.plan.plan import Request

SCHEMA = Path(__file__).resolve().parents[3] / "shared/lambda/openapi.json"
pytestmark = pytest.mark.skipif(not SCHEMA.exists(), reason=f"the schema is not here: {SCHEMA}")
BASE = "https://cloud.lambda.ai/api/v1"


def sample(schema: dict[str, Any], document: dict[str, Any], full: bool) -> Any:
    """A value that the schema allows: only what is required, or everything."""
    if "$ref" in schema:
        target: Any = document
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        return sample(target, document, full)
    for key in ("const", "default", "example"):
        if key in schema:
            return schema[key]
    for key in ("examples", "enum"):
        if schema.get(key):
            return schema[key][0]
    for key in ("oneOf", "anyOf", "allOf"):
        if key in schema:
            return sample(schema[key][0], document, full)
    kind = schema.get("type", "object")
    if kind == "object":
        names = schema.get("properties", {}) if full else schema.get("required", [])
        made = {
            n: sample(schema["properties"][n], document, full) for n in names if n in schema["properties"]
        }
        more = schema.get("additionalProperties")
        return made | ({"any name": sample(more, document, full)} if isinstance(more, dict) else {})
    if kind == "array":
        return [sample(schema["items"], document, full)]
    return {"string": "text", "integer": 1, "number": 1.0, "boolean": True}.get(kind)


def answer(method: str, path: str, full: bool) -> Result:
    """What a mock of this operation would say."""
    document = json.loads(SCHEMA.read_text())
    operation = document["paths"][f"/api/v1{path}"][method.lower()]
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    return Result(0, json.dumps(sample(schema, document, full)).encode(), status=200)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("ask", [list_types, list_instances, list_regions, list_ssh_keys, list_filesystems])
def test_every_reader_takes_what_the_schema_allows(ask: Any, full: bool) -> None:
    fact: Fact[Any] = ask(BASE)
    assert isinstance(fact.ask, Request)
    rows = fact.read(answer("GET", fact.ask.url.removeprefix(BASE), full))
    assert len(rows) == 1


def test_the_id_of_a_launch_is_where_the_schema_says() -> None:
    assert launched_id(answer("POST", "/instance-operations/launch", full=True))
