"""Every way the cloud says no: what happened, whether money is being spent, what to type next.

An answer need not be the API's: a proxy before it answers 403, 429 and 5xx with text or HTML.
The tables are by `error.code`; messages are shown, never read.
"""

import email.utils
import json
from dataclasses import dataclass

from runner.errors import Refused, RunnerError, TryLater, Unreachable, UsageError
from runner.facts.fact import Result
from runner.plan.plan import Request

KEYS_PAGE = "https://cloud.lambda.ai/api-keys"
NOTHING_RENTED = "Nothing was rented by this request."
STATUS = "What is running and what it costs: python -m runner action=status"


@dataclass(frozen=True)
class Told:
    """How an error code is told: the class decides the exit code, `hints` are lines for a person."""

    error: type[RunnerError]
    hints: tuple[str, ...]


TOLD = {
    "global/invalid-api-key": Told(
        UsageError,
        (f"Make a key at {KEYS_PAGE} and export LAMBDA_API_KEY=…", "Machines that run go on being billed."),
    ),
    "global/account-inactive": Told(
        UsageError,
        (
            "Verify the e-mail address and the payment method of the account.",
            "Machines that run are billed meanwhile. Then: python -m runner action=status",
        ),
    ),
    "global/invalid-address": Told(
        UsageError, ("Put the billing address of the account right.", NOTHING_RENTED, STATUS)
    ),
    "global/forbidden": Told(
        UsageError, ("Ask an administrator of the account for a role that may do this.", STATUS)
    ),
    "global/invalid-parameters": Told(UsageError, (NOTHING_RENTED, STATUS)),
    "global/object-does-not-exist": Told(
        UsageError, ("Types and regions: python -m runner action=available", STATUS)
    ),
    "global/not-found": Told(
        UsageError, ("Is cloud.base_url right? The key may also lack a role for this.", STATUS)
    ),
    "global/duplicate": Told(UsageError, ("The name is taken. Nothing was made.", STATUS)),
    "global/quota-exceeded": Told(
        Refused,
        (
            NOTHING_RENTED,
            "Terminate a machine, or ask the cloud's support for a higher quota.",
            "Machines: python -m runner action=status",
        ),
    ),
    "global/conflict": Told(TryLater, ("Another action on this machine is under way; it is billed.", STATUS)),
    "global/internal-error": Told(Unreachable, ("Try again in a minute.", STATUS)),
    "global/unknown": Told(Unreachable, ("Try again in a minute.", STATUS)),
    "instance-operations/launch/insufficient-capacity": Told(
        TryLater,
        (
            NOTHING_RENTED,
            "Wait for a free one: wait_for_capacity=2h",
            "Others: python -m runner action=available",
        ),
    ),
    "instance-operations/launch/file-system-in-wrong-region": Told(
        UsageError, (NOTHING_RENTED, "A filesystem is mounted in its own region only: instance.regions=[…]")
    ),
    "instance-operations/launch/file-systems-not-supported": Told(
        UsageError, (NOTHING_RENTED, "Leave it out: instance.filesystem=null")
    ),
    "filesystems/filesystem-in-use": Told(UsageError, ("It is billed until it is deleted.", STATUS)),
    "firewall-rulesets/firewall-ruleset-in-use": Told(UsageError, ("Nothing was changed.", STATUS)),
    "ssh-keys/key-in-use": Told(UsageError, ("Nothing was changed.", STATUS)),
    "support-tickets/creation-failed": Told(UsageError, ("Nothing was rented.", STATUS)),
}
PROVIDER = Told(Unreachable, ("The cloud's own provider does not answer. Try again in a minute.", STATUS))

CAPACITY = "instance-operations/launch/insufficient-capacity"
WRONG_REGION = "instance-operations/launch/file-system-in-wrong-region"

# The answers after which a launch has certainly not happened. Anything else leaves a doubt.
DEFINITE_REFUSALS = frozenset(
    code for code in TOLD if code not in ("global/internal-error", "global/conflict", "global/unknown")
)


@dataclass(frozen=True)
class CloudError:
    """The API's error envelope; `code` is None for an answer that is not the API's."""

    code: str | None
    message: str
    suggestion: str


def envelope(result: Result) -> CloudError:
    """What an answer says of its failure, whoever wrote it."""
    try:
        error = json.loads(result.stdout)["error"]
        told = CloudError(str(error["code"]), str(error.get("message") or ""), error.get("suggestion") or "")
    except (ValueError, KeyError, TypeError, AttributeError):
        return CloudError(None, first_words(result), "")
    return told


def first_words(result: Result) -> str:
    """A hint at what a proxy or a dead line said."""
    if result.status is None:
        return result.stderr.decode(errors="replace").strip()
    text = result.stdout.decode(errors="replace")
    if "<html" in text.lower() or "<!doctype" in text.lower():
        return f"HTTP {result.status} with a page of HTML instead of an answer"
    return f"HTTP {result.status}: {' '.join(text.split())[:120] or 'an empty answer'}"


def cloud_error(request: Request, result: Result) -> RunnerError | None:
    """The error behind an answer, None for a good one."""
    asked = f"{request.method} {request.url}"
    if result.ok:
        return (
            None if is_data(result) else Unreachable(f"{asked} answered with {first_words(result)}", STATUS)
        )
    told = envelope(result)
    known = TOLD.get(told.code or "")
    if known is None and (told.code or "").startswith("provider/"):
        known = PROVIDER
    if known is not None:
        suggestion = (told.suggestion,) if told.suggestion else ()
        return known.error(
            f"The cloud says: {told.message or told.code} ({told.code})", *suggestion, *known.hints
        )
    return by_status(asked, result, told)


def is_data(result: Result) -> bool:
    """Whether this is the API's envelope of a good answer."""
    try:
        return "data" in json.loads(result.stdout)
    except (ValueError, TypeError):
        return False


def by_status(asked: str, result: Result, told: CloudError) -> RunnerError:
    """An answer without a code that we know, by its HTTP status."""
    said = f"{told.message} ({told.code})" if told.code else told.message
    if result.status is None:
        return Unreachable(
            f"{asked}: {said}", "Is the network up? Machines that run go on being billed.", STATUS
        )
    if result.status == 429:
        return TryLater("The cloud limits how often it may be asked, and said so (429)", STATUS)
    if result.status in (401, 403):
        hint = f"Is LAMBDA_API_KEY right? Keys: {KEYS_PAGE}. Machines that run go on being billed."
        return UsageError(f"The cloud refuses {asked}: {said}", hint)
    if result.status >= 500:
        return Unreachable(f"The cloud has trouble: {said}", "Try again in a minute.", STATUS)
    return UsageError(f"The cloud refuses {asked}: {said}", STATUS)


def retry_after_s(result: Result) -> float | None:
    """`Retry-After` in seconds or as a date, else `retry_after` of a JSON body; None: nobody said.

    The header travels in `stderr`, where curl would have put what it has to say.
    """
    header = result.stderr.decode(errors="replace").strip() if result.status is not None else ""
    if header:
        try:
            return max(0.0, float(header))
        except ValueError:
            pass
        try:
            date = email.utils.parsedate_to_datetime(header)
            return max(0.0, date.timestamp() - (result.started_at + result.seconds))  # it may be past
        except (ValueError, TypeError):
            pass
    try:
        return max(0.0, float(json.loads(result.stdout)["retry_after"]))
    except (ValueError, KeyError, TypeError):
        return None
