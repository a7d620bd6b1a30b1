"""One request to the simulated API: the gate, the operation, the answer, and their faults."""

from __future__ import annotations

import base64
import binascii
import contextlib
import email.utils
import json
import math
import time
from dataclasses import dataclass, field
from http.client import responses
from typing import TYPE_CHECKING, Any

from .account import Effects
from .api import operate
from .errors import ApiError
from .faults import AFTER, BEFORE, Fault
from .settings import CHOICES
from .shapes import shaped

if TYPE_CHECKING:
    from .server import Simulator

API = "/api/v1"
KEEPING_BACK = ("hang", "lose-answer", "cut-answer")
HTML = (
    "<html>\r\n<head><title>{0}</title></head>\r\n<body>\r\n<center><h1>{0}</h1></center>\r\n"
    "<hr><center>cloudflare</center>\r\n</body>\r\n</html>\r\n"
)
CODE_OF_FAULT = {
    "invalid-key": "global/invalid-api-key",
    "account-inactive": "global/account-inactive",
    "invalid-address": "global/invalid-address",
    "forbidden": "global/forbidden",
}


@dataclass
class Answer:
    """What goes back to the client, unless a fault keeps it from arriving."""

    status: int
    text: str
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})


class Refused(Exception):
    """An answer that comes before the request reached the account."""

    def __init__(self, answer: Answer | None) -> None:
        super().__init__("no answer" if answer is None else str(answer.status))
        self.answer = answer


class Exchange:
    """One request to the API, from its arrival to its entry in the journal."""

    def __init__(self, simulator: Simulator, method: str, path: str, body: Any, headers: Any) -> None:
        self.simulator = simulator
        self.method, self.body, self.headers = method, body, headers
        self.full_path = path
        self.path = path.removeprefix(API)
        self.subject = f"{method} {self.path}"
        self.at_s = simulator.clock.now()
        self.effects = Effects()
        self.struck: list[Fault] = []

    def answer(self) -> Answer | None:
        """Return the answer; None: the connection is to be closed without one."""
        try:
            self._pass_the_gate()
            self._authenticate()
            answer = self._operate()
        except Refused as refused:
            return refused.answer
        except ApiError as error:
            answer = self._envelope(error)
        return self._spoilt(answer)

    def kept_back(self) -> Fault | None:
        """Return the fault that keeps the answer from the client."""
        return next((fault for fault in self.struck if fault.kind in KEEPING_BACK), None)

    def record(self, answer: Answer | None, query: str) -> None:
        """Write the exchange into the journal; the key is in its headers, which are not kept."""
        self.simulator.journal.write(
            at_s=round(self.at_s, 3),
            method=self.method,
            path=self.path,
            query=query,
            body=self.body,
            user_agent=self.headers.get("User-Agent", ""),
            status=answer.status if answer and not self.kept_back() else None,
            answer=answer.text if answer else "",
            faults=tuple(fault.kind for fault in self.struck),
            launched=tuple(self.effects.launched),
            terminated=tuple(self.effects.terminated),
        )

    def _pass_the_gate(self) -> None:
        """What stands before the API: faults of the way there, and the rate limit."""
        self.struck = self.simulator.faults.strike(BEFORE, self.subject)
        for fault in self.struck:
            self._suffer(fault)
        if self.headers.get("User-Agent", "").startswith("Python-urllib"):
            raise Refused(Answer(403, "error code: 1010", {"Content-Type": "text/plain"}))
        if early_s := self.simulator.wait_s(self.path):
            raise Refused(self._too_many(early_s, self.simulator.settings.rate_limit_shape))

    def _suffer(self, fault: Fault) -> None:
        if fault.kind == "slow":
            self.simulator.stopping.wait(self.simulator.clock.real(fault.number(5)))
        elif fault.kind == "lose-request":
            raise Refused(None)
        elif fault.kind == "rate-limit":
            raise Refused(self._too_many(fault.number(12), fault.text or "any"))
        elif fault.kind == "server-error" and fault.text == "json":
            raise ApiError("provider/internal-unavailable")
        elif fault.kind == "server-error":
            raise Refused(error_page(int(fault.number(502))))
        elif fault.kind == "cloudflare-1010":
            raise Refused(Answer(403, "error code: 1010", {"Content-Type": "text/plain"}))
        elif fault.kind == "redirect":
            place = f"http://localhost:{self.simulator.port}{self.full_path}"
            raise Refused(Answer(302, "", {"Location": place}))
        else:
            raise ApiError(CODE_OF_FAULT[fault.kind])

    def _too_many(self, wait_s: float, shape: str) -> Answer:
        """Return a 429 as the proxy sends it; only `retry_after` in the body is evidenced."""
        simulator = self.simulator
        if simulator.settings.retry_after == "real":
            wait_s = simulator.clock.real(wait_s)
        if shape == "any":
            shape = simulator.faults.choose(CHOICES["rate_limit_shape"][:-1])
        title = "Error 1015: You are being rate limited"
        body: dict[str, Any] = {"title": title, "status": 429, "error_code": 1015}
        headers = {"Content-Type": "application/json"}
        if shape == "text":
            return Answer(429, "error code: 1015", {"Content-Type": "text/plain"})
        if shape == "body":
            body["retry_after"] = math.ceil(wait_s)
        elif shape == "header":
            headers["Retry-After"] = str(math.ceil(wait_s))
        elif shape == "date":
            headers["Retry-After"] = email.utils.formatdate(time.time() + wait_s, usegmt=True)
        return Answer(429, json.dumps(body, separators=(",", ":")), headers)

    def _authenticate(self) -> None:
        given = self.headers.get("Authorization")
        if not given:
            raise ApiError("global/invalid-api-key", "No API key was provided.")
        scheme, _, word = given.partition(" ")
        if scheme.lower() == "basic":
            with contextlib.suppress(binascii.Error, UnicodeDecodeError):
                word = base64.b64decode(word, validate=True).decode().removesuffix(":")
        if scheme.lower() not in ("bearer", "basic") or word.strip() != self.simulator.api_key:
            raise ApiError("global/invalid-api-key")

    def _operate(self) -> Answer:
        simulator = self.simulator
        if not self.full_path.startswith(API + "/"):
            raise ApiError("global/not-found")
        data = operate(simulator.account, self.method, self.path, self.body, self.effects)
        envelope = {"data": shaped(data, simulator.settings)}
        if simulator.settings.deployment == "future":
            envelope["page_token"] = None
        return Answer(200, json.dumps(envelope, separators=(",", ":")) + "\n")

    def _spoilt(self, answer: Answer) -> Answer:
        """Return the answer as faults of the way back leave it."""
        faults = self.simulator.faults.strike(AFTER, self.subject)
        self.struck += faults
        for fault in faults:
            if fault.kind == "error-after":
                answer = error_page(int(fault.number(502)))
            elif fault.kind == "garbage":
                answer = error_page(200)
        return answer

    def _envelope(self, error: ApiError) -> Answer:
        body = error.body(self.simulator.settings.deployment != "old")
        return Answer(error.status, json.dumps(body, separators=(",", ":")) + "\n")


def error_page(status: int) -> Answer:
    """Return the page of the proxy before the API."""
    title = f"{status} {responses.get(status, 'Unknown Error')}"
    return Answer(status, HTML.format(title), {"Content-Type": "text/html"})
