"""Every way the cloud says no is told with what happened, the money, and what to type."""

import json

import pytest

from runner.errors import RunnerError, TryLater, Unreachable, UsageError
from runner.machines.lambda_api import ADVICE, DEFINITE_REFUSALS, cloud_error, retry_after_s
from runner.plan.plan import Request
from runner.world.world import Result

LAUNCH = Request("POST", "https://cloud.lambda.ai/api/v1/instance-operations/launch", {})


# A command of the runner, one of its keys, or a variable of the shell.
TYPED = ("python -m runner action=", "instance.regions=", "instance.filesystem=", "export lambda_api_key=")


def refusal(code: str, status: int = 400, **more: str) -> Result:
    body = {"error": {"code": code, "message": "Because.", **more}}
    return Result(22, json.dumps(body).encode(), status=status)


def told(result: Result) -> RunnerError:
    error = cloud_error(LAUNCH, result)
    assert error is not None
    return error


@pytest.mark.parametrize("code", ADVICE)
def test_every_code_says_what_happened_and_what_about_the_money(code: str) -> None:
    error = told(refusal(code))
    assert "Because." in error.message
    assert code in error.message
    everything = " ".join(error.hints).lower()
    assert any(word in everything for word in ("billed", "rented", "status", "nothing was")), error.hints
    assert any(typed in everything for typed in TYPED), f"nothing to type next: {error.hints}"
    assert error.exit_code in (64, 69, 75, 77)


def test_the_suggestion_of_the_cloud_is_passed_on() -> None:
    assert "Call us." in told(refusal("global/quota-exceeded", suggestion="Call us.")).hints


def test_an_unknown_code_of_a_provider_is_worth_another_try() -> None:
    assert isinstance(told(refusal("provider/internal-unavailable", 503)), Unreachable)


@pytest.mark.parametrize(
    ("result", "kind"),
    [
        (Result(22, b"error code: 1015", status=429), TryLater),
        (Result(22, b"error code: 1010", status=403), UsageError),
        (Result(22, b"<!DOCTYPE html><html>oops</html>", status=502), Unreachable),
        (Result(0, b"<html>captive portal</html>", status=200), Unreachable),
        (Result(0, b'{"something": 1}', status=200), Unreachable),
        (Result(22, b'{"error": "a string"}', status=500), Unreachable),
        (Result(22, b"[]", status=418), UsageError),
        (Result(7, b"", b"ConnectError: refused", status=None), Unreachable),
        (Result(22, b"\xff\xfe", status=500), Unreachable),
    ],
)
def test_an_answer_that_is_not_the_cloud_s_is_told_by_its_status(result: Result, kind: type) -> None:
    error = told(result)
    assert isinstance(error, kind)
    assert "<html" not in error.message.lower()


def test_only_what_certainly_came_to_nothing_is_definite() -> None:
    assert "instance-operations/launch/insufficient-capacity" in DEFINITE_REFUSALS
    assert not {"global/internal-error", "global/conflict"} & DEFINITE_REFUSALS


@pytest.mark.parametrize(
    ("header", "body", "wanted"),
    [
        (b"12", b"", 12.0),
        (b"", b'{"error_code":1015,"retry_after":7,"status":429}', 7.0),
        (b"Thu, 01 Jan 1970 00:01:30 GMT", b"", 30.0),
        (b"Thu, 01 Jan 1970 00:00:30 GMT", b"", 0.0),
        (b"-3", b"", 0.0),
        (b"soon", b"error code: 1015", None),
        (b"", b"[1]", None),
    ],
)
def test_how_long_to_wait_is_read_wherever_it_stands(
    header: bytes, body: bytes, wanted: float | None
) -> None:
    assert retry_after_s(Result(22, body, header, started_at=60.0, status=429)) == wanted
