"""The readers against answers made from the published schema alone, bare and full, by nobody's hand."""

import json
from typing import Any

import pytest

from runner.machines.lambda_api import (
    launched_id,
    list_filesystems,
    list_instances,
    list_regions,
    list_ssh_keys,
    list_types,
)
from runner.plan.plan import Request
from runner.world.world import Fact, Result
from tests.schema import answer, needs_schema

pytestmark = needs_schema
BASE = "https://cloud.lambda.ai/api/v1"


def said(method: str, path: str, full: bool) -> Result:
    """As it comes over the wire."""
    return Result(0, json.dumps(answer(method, path, full)).encode(), status=200)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("ask", [list_types, list_instances, list_regions, list_ssh_keys, list_filesystems])
def test_every_reader_takes_what_the_schema_allows(ask: Any, full: bool) -> None:
    fact: Fact[Any] = ask(BASE)
    assert isinstance(fact.ask, Request)
    rows = fact.read(said("GET", fact.ask.url.removeprefix(BASE), full))
    assert len(rows) == 1


def test_the_id_of_a_launch_is_where_the_schema_says() -> None:
    assert launched_id(said("POST", "/instance-operations/launch", full=True))
