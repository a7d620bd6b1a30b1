"""The errors of the simulated API: their codes, statuses and texts."""

from __future__ import annotations

import uuid

# code: (HTTP status, message, suggestion)
ERRORS: dict[str, tuple[int, str, str | None]] = {
    "global/invalid-api-key": (
        401,
        "API key was invalid, expired, or deleted.",
        "Check your API key or create a new one, then try again.",
    ),
    "global/account-inactive": (
        403,
        "Your account is inactive.",
        "Make sure you have verified your email address and have a valid payment method. "
        "Contact Support if problems continue.",
    ),
    "global/invalid-address": (
        403,
        "Your billing address is invalid.",
        "Make sure your billing address is valid. Contact Support if problems continue.",
    ),
    "global/forbidden": (403, "You are not permitted to do this.", None),
    "global/invalid-parameters": (400, "Invalid request data.", None),
    "global/object-does-not-exist": (404, "Specified instance does not exist.", None),
    "global/not-found": (404, "The requested resource was not found.", None),
    "global/duplicate": (400, "An object of this name exists already.", None),
    "global/quota-exceeded": (
        400,
        "Quota exceeded.",
        "Contact Support to increase your quota.",
    ),
    "global/conflict": (
        409,
        "The request conflicts with the current state of the resource.",
        None,
    ),
    "instance-operations/launch/insufficient-capacity": (
        400,
        "Not enough capacity to fulfill launch request.",
        "Choose an instance type with more availability, or try again later.",
    ),
    "instance-operations/launch/file-system-in-wrong-region": (
        400,
        "A filesystem is in another region than the instance.",
        None,
    ),
    "filesystems/filesystem-in-use": (400, "The filesystem is mounted to an instance.", None),
    "provider/internal-unavailable": (503, "Provider unavailable", "Try again shortly"),
}


class ApiError(Exception):
    """A refusal in the API's own words; `code` is a key of ERRORS."""

    def __init__(self, code: str, message: str = "", suggestion: str | None = None) -> None:
        self.status, default, advice = ERRORS[code]
        self.code = code
        self.message = message or default
        self.suggestion = suggestion or advice
        super().__init__(f"{code}: {self.message}")

    def body(self, with_request_id: bool) -> dict[str, object]:
        """Return the envelope."""
        error: dict[str, object] = {"code": self.code, "message": self.message}
        if self.suggestion:
            error["suggestion"] = self.suggestion
        if with_request_id:
            error["request_id"] = uuid.uuid4().hex
        return {"error": error}


def invalid(field: str, reason: str) -> ApiError:
    """Return the 400 for a field of a request."""
    return ApiError("global/invalid-parameters", f"{field}: {reason}" if field else reason)


def missing(what: str, name: str) -> ApiError:
    """Return the 404 for something that a launch names and that is not there."""
    return ApiError(
        "global/object-does-not-exist",
        f"{what} {name!r} does not exist.",
        f"Check the {what.lower()} and try again.",
    )
