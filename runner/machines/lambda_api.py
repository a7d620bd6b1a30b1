"""The cloud's HTTP API as pure requests and readers, and every way it says no.

Field names and limits are those of its version 1.10. Every enumeration is open and every answer may hold
more than is named here: a reader takes what it knows. What is missing or of another type is a RunnerError
that names the request, never a traceback.

An error says what happened, whether money is being spent, and what to type next. An answer need not be the
API's: a proxy before it answers 403, 429 and 5xx with text or HTML. The tables are by `error.code`;
messages are shown, never read.
"""

import email.utils
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from runner.errors import Refused, RunnerError, TryLater, Unreachable, UsageError
from runner.plan.plan import Request
from runner.world.world import Fact, Result

KEYS_PAGE = "https://cloud.lambda.ai/api-keys"
_NOTHING_RENTED = "Nothing was rented by this request."
STATUS = "What is running and what it costs: python -m runner action=status"


@dataclass(frozen=True)
class _Advice:
    """How an error code is told: the class decides the exit code, `hints` are lines for a person."""

    error: type[RunnerError]
    hints: tuple[str, ...]


ADVICE = {
    "global/invalid-api-key": _Advice(
        UsageError,
        (f"Make a key at {KEYS_PAGE} and export LAMBDA_API_KEY=…", "Machines that run go on being billed."),
    ),
    "global/account-inactive": _Advice(
        UsageError,
        (
            "Verify the e-mail address and the payment method of the account.",
            "Machines that run are billed meanwhile. Then: python -m runner action=status",
        ),
    ),
    "global/invalid-address": _Advice(
        UsageError, ("Put the billing address of the account right.", _NOTHING_RENTED, STATUS)
    ),
    "global/forbidden": _Advice(
        UsageError, ("Ask an administrator of the account for a role that may do this.", STATUS)
    ),
    "global/invalid-parameters": _Advice(UsageError, (_NOTHING_RENTED, STATUS)),
    "global/object-does-not-exist": _Advice(
        UsageError, ("Types and regions: python -m runner action=available", STATUS)
    ),
    "global/not-found": _Advice(
        UsageError, ("Is cloud.base_url right? The key may also lack a role for this.", STATUS)
    ),
    "global/duplicate": _Advice(UsageError, ("The name is taken. Nothing was made.", STATUS)),
    "global/quota-exceeded": _Advice(
        Refused,
        (
            _NOTHING_RENTED,
            "Terminate a machine, or ask the cloud's support for a higher quota.",
            "Machines: python -m runner action=status",
        ),
    ),
    "global/conflict": _Advice(
        TryLater, ("Another action on this machine is under way; it is billed.", STATUS)
    ),
    "global/internal-error": _Advice(Unreachable, ("Try again in a minute.", STATUS)),
    "global/unknown": _Advice(Unreachable, ("Try again in a minute.", STATUS)),
    "instance-operations/launch/insufficient-capacity": _Advice(
        TryLater,
        (
            _NOTHING_RENTED,
            "Wait for a free one: wait_for_capacity=2h",
            "Others: python -m runner action=available",
        ),
    ),
    "instance-operations/launch/file-system-in-wrong-region": _Advice(
        UsageError, (_NOTHING_RENTED, "A filesystem is mounted in its own region only: instance.regions=[…]")
    ),
    "instance-operations/launch/file-systems-not-supported": _Advice(
        UsageError, (_NOTHING_RENTED, "Leave it out: instance.filesystem=null")
    ),
    "filesystems/filesystem-in-use": _Advice(UsageError, ("It is billed until it is deleted.", STATUS)),
    "firewall-rulesets/firewall-ruleset-in-use": _Advice(UsageError, ("Nothing was changed.", STATUS)),
    "ssh-keys/key-in-use": _Advice(UsageError, ("Nothing was changed.", STATUS)),
    "support-tickets/creation-failed": _Advice(UsageError, ("Nothing was rented.", STATUS)),
}
_PROVIDER = _Advice(Unreachable, ("The cloud's own provider does not answer. Try again in a minute.", STATUS))

CAPACITY = "instance-operations/launch/insufficient-capacity"
WRONG_REGION = "instance-operations/launch/file-system-in-wrong-region"

# The answers after which a launch has certainly not happened. Anything else leaves a doubt.
DEFINITE_REFUSALS = frozenset(
    code for code in ADVICE if code not in ("global/internal-error", "global/conflict", "global/unknown")
)


@dataclass(frozen=True)
class CloudError:
    """The API's error envelope; `code` is None for an answer that is not the API's."""

    code: str | None
    message: str
    suggestion: str


def parse_error(result: Result) -> CloudError:
    """What an answer says of its failure, whoever wrote it."""
    try:
        error = json.loads(result.stdout)["error"]
        told = CloudError(str(error["code"]), str(error.get("message") or ""), error.get("suggestion") or "")
    except (ValueError, KeyError, TypeError, AttributeError):
        return CloudError(None, _first_words(result), "")
    return told


def _first_words(result: Result) -> str:
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
            None if _is_data(result) else Unreachable(f"{asked} answered with {_first_words(result)}", STATUS)
        )
    told = parse_error(result)
    known = ADVICE.get(told.code or "")
    if known is None and (told.code or "").startswith("provider/"):
        known = _PROVIDER
    if known is not None:
        suggestion = (told.suggestion,) if told.suggestion else ()
        return known.error(
            f"The cloud says: {told.message or told.code} ({told.code})", *suggestion, *known.hints
        )
    return _from_status(asked, result, told)


def _is_data(result: Result) -> bool:
    """Whether this is the API's envelope of a good answer."""
    try:
        return "data" in json.loads(result.stdout)
    except (ValueError, TypeError):
        return False


def _from_status(asked: str, result: Result, told: CloudError) -> RunnerError:
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


T = TypeVar("T")

GONE = ("terminated",)  # and absence from the list; an unknown status is alive
FAILED = ("unhealthy", "terminated", "terminating", "preempted")

# Asked for where GET /regions is not served; the newest list that was seen.
_KNOWN_REGIONS = (
    *("us-east-1", "us-east-2", "us-east-3", "us-midwest-1", "us-midwest-2", "us-south-1", "us-south-2"),
    *("us-south-3", "us-southeast-1", "us-west-1", "us-west-2", "us-west-3", "asia-northeast-1"),
    *("asia-northeast-2", "asia-south-1", "australia-east-1", "europe-central-1", "me-west-1"),
)


@dataclass(frozen=True)
class InstanceType:
    """A kind of machine, its price now, and the regions that say they have one now (a hint)."""

    name: str
    gpu: str
    num_gpus: int
    memory_gib: int
    usd_per_hour: float
    regions: tuple[str, ...]
    architecture: str = "x86_64"


@dataclass(frozen=True)
class CloudInstance:
    """An instance as the list shows it. `ip` appears while it boots; `status` may be a word of the future."""

    id: str
    name: str
    status: str
    type: str
    region: str
    usd_per_hour: float
    ip: str | None = None
    ssh_keys: tuple[str, ...] = ()
    filesystems: tuple[str, ...] = ()

    @property
    def is_alive(self) -> bool:
        """Whether it may be billed: everything but what is known to be gone."""
        return self.status not in GONE


@dataclass(frozen=True)
class SshKey:
    """A public key that the account knows; `public` is `<type> <base64>` without its comment."""

    id: str
    name: str
    public: str


@dataclass(frozen=True)
class Filesystem:
    """Storage that is billed until it is deleted, mounted or not."""

    id: str
    name: str
    region: str
    is_in_use: bool
    bytes_used: int | None = None


def list_types(base: str) -> Fact[tuple[InstanceType, ...]]:
    """Types by price, then name."""
    return _get(f"{base}/instance-types", _types)


def list_instances(base: str) -> Fact[tuple[CloudInstance, ...]]:
    """All instances of the account, ours and others'."""
    return _get(f"{base}/instances", lambda data: tuple(map(instance_of, data)))


def list_ssh_keys(base: str) -> Fact[tuple[SshKey, ...]]:
    """The account's public keys."""
    return _get(f"{base}/ssh-keys", lambda data: tuple(map(_ssh_key, data)))


def list_filesystems(base: str) -> Fact[tuple[Filesystem, ...]]:
    """The account's persistent filesystems."""
    return _get(f"{base}/file-systems", lambda data: tuple(map(_filesystem, data)))


def list_regions(base: str) -> Fact[tuple[str, ...]]:
    """The names of the regions, whether they have capacity or not, in the order in which we try them."""

    def read(result: Result) -> tuple[str, ...]:
        if result.status == 404:  # absent before 1.10
            return _regions_in_order(_KNOWN_REGIONS)
        return _regions_in_order(str(row["name"]) for row in _payload(request, result))

    request = Request("GET", f"{base}/regions")
    return Fact(request, lambda result: _reading(request, lambda: read(result)))


def _regions_in_order(names: Any) -> tuple[str, ...]:
    """Sorted, those of the United States first: most of the capacity is there."""
    return tuple(sorted(set(names), key=lambda name: (not name.startswith("us-"), name)))


def launch_request(
    base: str,
    *,
    name: str,
    type_name: str,
    region: str,
    ssh_key: str,
    tag: tuple[str, str],
    image: str | None = None,
    filesystem: str | None = None,
) -> Request:
    """Rent one machine. Exactly one ssh key can be given; the tag's key is lower case, 2 to 55 long."""
    body: dict[str, Any] = {
        "region_name": region,
        "instance_type_name": type_name,
        "ssh_key_names": [ssh_key],
        "name": name,
        "tags": [{"key": tag[0], "value": tag[1]}],
    }
    if image:
        body["image"] = {"family": image}
    if filesystem:
        body["file_system_names"] = [filesystem]
    return Request("POST", f"{base}/instance-operations/launch", body)


def terminate_request(base: str, instance_id: str) -> Request:
    """End one machine and its bill."""
    return Request("POST", f"{base}/instance-operations/terminate", {"instance_ids": [instance_id]})


def add_ssh_key_request(base: str, name: str, public_key: str) -> Request:
    """Make a public key known to the account."""
    return Request("POST", f"{base}/ssh-keys", {"name": name, "public_key": public_key})


def launched_id(result: Result) -> str | None:
    """The id in the answer to a launch, None if the answer holds none."""
    try:
        ids = json.loads(result.stdout)["data"]["instance_ids"]
        return str(ids[0]) if ids else None
    except (ValueError, KeyError, TypeError, IndexError):
        return None


def _payload(request: Request, result: Result) -> Any:
    """The answer's `data`; raises the API's error, or Unreachable without a usable answer."""
    error = cloud_error(request, result)
    if error is not None:
        raise error
    return json.loads(result.stdout)["data"]


def _get(url: str, read: Callable[[Any], T]) -> Fact[T]:
    request = Request("GET", url)
    return Fact(request, lambda result: _reading(request, lambda: read(_payload(request, result))))


def _reading(request: Request, read: Callable[[], T]) -> T:
    try:
        return read()
    except RunnerError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Unreachable(
            f"{request.method} {request.url} answered with something that is not its format: {error!r}",
            "Is cloud.base_url the cloud's API?",
        ) from error


def _types(data: Any) -> tuple[InstanceType, ...]:
    return tuple(sorted(map(_type, data.values()), key=lambda kind: (kind.usd_per_hour, kind.name)))


def _type(row: Any) -> InstanceType:
    kind = row["instance_type"]
    specs = kind.get("specs") or {}
    return InstanceType(
        name=str(kind["name"]),
        gpu=str(kind.get("gpu_description") or kind.get("description") or ""),
        num_gpus=int(specs.get("gpus") or 0),
        memory_gib=int(specs.get("memory_gib") or 0),
        usd_per_hour=_usd(kind),
        regions=_regions_in_order(str(r["name"]) for r in row.get("regions_with_capacity_available") or ()),
        architecture=str(kind.get("architecture") or ("arm64" if "gh200" in kind["name"] else "x86_64")),
    )


def _usd(kind: Any) -> float:
    """Dollars an hour."""
    return int(kind["price_cents_per_hour"]) / 100


def instance_of(row: Any) -> CloudInstance:
    """One row of the list; what a booting or a terminated instance leaves out is left out here."""
    kind = row.get("instance_type") or {}
    return CloudInstance(
        id=str(row["id"]),
        name=str(row.get("name") or ""),
        status=str(row.get("status") or "unknown"),
        type=str(kind.get("name") or "unknown"),
        region=str((row.get("region") or {}).get("name") or "unknown"),
        usd_per_hour=_usd(kind) if "price_cents_per_hour" in kind else 0.0,
        ip=str(row["ip"]) if row.get("ip") else None,
        ssh_keys=tuple(map(str, row.get("ssh_key_names") or ())),
        filesystems=tuple(map(str, row.get("file_system_names") or ())),
    )


def _ssh_key(row: Any) -> SshKey:
    return SshKey(str(row["id"]), str(row["name"]), bare_key(str(row.get("public_key") or "")))


def bare_key(text: str) -> str:
    """`ssh-ed25519 AAAA… me@here` without its comment: what two copies of one key share."""
    return " ".join(text.split()[:2])


def _filesystem(row: Any) -> Filesystem:
    return Filesystem(
        id=str(row["id"]),
        name=str(row["name"]),
        region=str((row.get("region") or {}).get("name") or "unknown"),
        is_in_use=bool(row.get("is_in_use")),
        bytes_used=row.get("bytes_used"),
    )
