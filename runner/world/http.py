"""Sends requests to the cloud: the key by header alone, our own rate limits, GETs asked again."""

import json
import os
import random
import time
from collections.abc import Callable
from hashlib import sha256

import httpx

from runner.errors import UsageError
from runner.machines.lambda_api import retry_after_s
from runner.plan.plan import Request
from runner.world.world import Result

_KEY = "LAMBDA_API_KEY"
_USER_AGENT = "fractal-runner"

# The API's documented limits, kept by ourselves so that nobody has to tell us.
_REQUEST_INTERVAL_S = 1.0
_LAUNCH_INTERVAL_S = 12.0

_NUM_TRIES = 6
_LONGEST_WAIT_S = 60.0
_GET_TIMEOUT_S, _POST_TIMEOUT_S, _LAUNCH_TIMEOUT_S = 30.0, 60.0, 180.0

# A request that nobody answered ends with the exit code that curl would have ended with.
_CURL_CODES: tuple[tuple[type[httpx.HTTPError], int], ...] = (
    (httpx.ConnectTimeout, 28),
    (httpx.ConnectError, 7),
    (httpx.TimeoutException, 28),
    (httpx.RemoteProtocolError, 52),
    (httpx.NetworkError, 56),
    (httpx.HTTPError, 2),
)
_HTTP_ERROR = 22


class Cloud:
    """One conversation with the API. Timeouts are scaled by `time_scale`; `pause` waits, and tells why."""

    def __init__(self, time_scale: float, pause: Callable[[float, str], None]) -> None:
        self.time_scale = time_scale
        self.pause = pause
        self.key = _api_key()
        self.client = httpx.Client(
            headers={"User-Agent": _USER_AGENT, "Accept": "application/json"}, follow_redirects=False
        )
        self._sent_at: dict[bool, float] = {}

    def send(self, request: Request) -> Result:
        """The answer to a request. A GET without a good one is asked again; nothing else ever is."""
        result = self._send_once(request)
        for num_tried in range(1, _NUM_TRIES if request.method == "GET" else 1):
            if not _is_passing(result):
                break
            line = f"{_why(result)}; asked {num_tried} of {_NUM_TRIES} times"
            self.pause(_patience_s(result, num_tried), line)
            result = self._send_once(request)
        return result

    def _send_once(self, request: Request) -> Result:
        self._keep_rate(_is_launch(request))
        started = time.time()
        try:
            answer = self.client.request(
                request.method,
                request.url,
                content=None if request.json is None else json.dumps(request.json).encode(),
                headers=self._headers(request),
                timeout=max(2.0, _timeout_s(request) * self.time_scale),
            )
            body, status, code, said = answer.content, answer.status_code, 0, b""
            said = (answer.headers.get("Retry-After") or "").encode()
            code = 0 if answer.is_success else _HTTP_ERROR
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            body, status, said = b"", None, f"{type(error).__name__}: {error}".encode()
            code = next((code for kind, code in _CURL_CODES if isinstance(error, kind)), 2)
        return Result(code, self._hide(body), self._hide(said), started, time.time() - started, status)

    def _headers(self, request: Request) -> dict[str, str]:
        """The key, and what the curl line of the plan says."""
        kind = {} if request.json is None else {"Content-Type": "application/json"}
        return {"Authorization": f"Bearer {self.key}", **kind}

    def _hide(self, text: bytes) -> bytes:
        """Whatever echoes the key back at us, it goes no further."""
        return text.replace(self.key.encode(), b"$" + _KEY.encode())

    def _keep_rate(self, launch: bool) -> None:
        """Wait until this request is allowed; a launch is a request too."""
        limits = {False: _REQUEST_INTERVAL_S, **({True: _LAUNCH_INTERVAL_S} if launch else {})}
        now = time.monotonic()
        due = max(self._sent_at.get(kind, -1e9) + s * self.time_scale for kind, s in limits.items())
        if due > now:
            time.sleep(due - now)
        for kind in limits:
            self._sent_at[kind] = time.monotonic()


def _api_key() -> str:
    """The key from the environment; UsageError says what is wrong with it without showing it."""
    key = os.environ.get(_KEY)
    if key is None:
        raise UsageError(f"{_KEY} is not set", f"export {_KEY}=…  (keys: https://cloud.lambda.ai/api-keys)")
    if not key.strip():
        raise UsageError(f"{_KEY} is set, and empty", f"export {_KEY}=…")
    if not all("!" <= char <= "~" for char in key):
        raise UsageError(
            f"{_KEY} holds a space, a line break or another character that no key has",
            f"Set it again without: export {_KEY}=…",
        )
    return key


def fingerprint(base_url: str) -> str:
    """What tells two accounts apart and says nothing of the key."""
    return sha256(f"{base_url}\0{_api_key()}".encode()).hexdigest()[:12]


def _is_launch(request: Request) -> bool:
    """Whether the stricter limit holds."""
    return request.method == "POST" and request.url.endswith("/instance-operations/launch")


def _timeout_s(request: Request) -> float:
    """How long an answer may take; a launch takes its time."""
    if request.method == "GET":
        return _GET_TIMEOUT_S
    return _LAUNCH_TIMEOUT_S if _is_launch(request) else _POST_TIMEOUT_S


def _is_passing(result: Result) -> bool:
    """Whether the same question may be answered in a moment."""
    if result.ok:
        return not _is_json(result.stdout)
    return result.status is None or result.status == 429 or result.status >= 500


def _why(result: Result) -> str:
    """What a person is told while the same question is asked again."""
    if result.status is None:
        return f"the cloud does not answer ({result.stderr.decode(errors='replace')})"
    return f"the cloud answers HTTP {result.status}" if result.status != 200 else "the cloud answers no JSON"


def _is_json(text: bytes) -> bool:
    """Whether this can be read; a proxy's page cannot."""
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _patience_s(result: Result, num_tried: int) -> float:
    """How long to wait before asking again: as told by header or body, else longer each time.

    A header may also hold a date. The jitter keeps two runners from asking in step for ever.
    """
    told = retry_after_s(result)
    if told is not None:
        return min(_LONGEST_WAIT_S, max(told, 0.0) + 0.1)
    return float(min(_LONGEST_WAIT_S, 2 ** (num_tried - 1)) * random.uniform(1.0, 1.25))
