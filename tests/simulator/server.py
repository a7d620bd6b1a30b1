"""The simulated Lambda Cloud as a server: `Simulator`, in threads of the test's own process.

    with Simulator(scale=0.01, machines="auto") as cloud:
        … cloud.base_url, cloud.api_key, cloud.ssh_port …
        cloud.faults.add(Fault("lose-answer", match="launch", times=1))
        assert len(cloud.journal.launched()) == 1

Everything under /api/v1 is the API; what is under /simulator is for who rehearses, see control.py.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import shutil
import socket
import struct
import tempfile
import threading
from collections.abc import Iterable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .account import Account
from .closing import Closing
from .control import control
from .exchange import API, Answer, Exchange
from .faults import Fault, Faults
from .instance import Instance
from .journal import Journal
from .machine import Machine
from .power import Machines
from .settings import Bucket, Clock, Settings

API_KEY = "secret_rehearsal_00000000000000000000000000000000.00000000000000000000000000000000"
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Simulator(Closing):
    """A cloud with one account, serving from construction until `close`.

    `machines`: none (instances are only data), plain, namespaces, or auto (namespaces if possible).
    `network`, `share`: as for `Machine`. `ssh_port`: the port of all machines, 0 for a free one.
    `state`: a folder to keep the journal and the filesystems in. Further words are `Settings`.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        api_key: str = API_KEY,
        machines: str = "none",
        network: str = "own",
        ssh_port: int = 0,
        share: Sequence[str] = (),
        state: Path | None = None,
        faults: Iterable[Fault] = (),
        seed: int = 0,
        **settings: Any,
    ) -> None:
        chosen = Settings().changed(**settings)
        self.api_key = api_key
        self.clock = Clock(chosen.scale)
        self.faults = Faults(faults, seed)
        self._owns_folder = state is None
        self.folder = Path(state or tempfile.mkdtemp(prefix="simulator-"))
        self.folder.mkdir(parents=True, exist_ok=True)
        self.journal = Journal(self.folder / "journal.jsonl" if state else None)
        self.machines = Machines(machines, ssh_port, self.folder, self.clock, network, share)
        self.account = Account(chosen, self.clock, self.faults, self.machines, seed)
        self.stopping = threading.Event()
        self._limits = threading.Lock()
        self._set_limits()
        self._server = _Server(("127.0.0.1", port), self)
        serve = self._server.serve_forever
        self._thread = threading.Thread(target=serve, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    @property
    def base_url(self) -> str:
        """The value of cloud.base_url."""
        return f"http://127.0.0.1:{self.port}{API}"

    @property
    def ssh_port(self) -> int:
        """The value of ssh.port."""
        return self.machines.ssh_port

    @property
    def ssh_user(self) -> str:
        """The value of ssh.user: plain machines know only the current user."""
        return getpass.getuser() if self.machines.mode == "plain" else "ubuntu"

    @property
    def settings(self) -> Settings:
        return self.account.settings

    def change(self, **settings: Any) -> None:
        """Behave otherwise from now on; the scale stays. ValueError names an unknown setting."""
        if "scale" in settings:
            raise ValueError("scale cannot be changed while the simulator runs")
        with self._limits:
            self.account.change_settings(self.settings.changed(**settings))
            self._set_limits()

    def alive(self) -> list[Instance]:
        """Return the instances that are rented now: nobody asked to terminate them."""
        with self.account.lock:
            now = self.clock.now()
            return [i for i in self.account.instances if i.terminate_s > now]

    def usd(self) -> float:
        """Return what all instances have cost."""
        with self.account.lock:
            return sum(i.usd(self.clock.now()) for i in self.account.instances)

    def instance(self, name_or_id: str) -> Instance:
        """Return the newest instance of this name or id; KeyError: there is none."""
        with self.account.lock:
            for instance in reversed(self.account.instances):
                if name_or_id in (instance.id, instance.name):
                    return instance
        raise KeyError(name_or_id)

    def machine(self, name_or_id: str) -> Machine:
        """Return the machine behind an instance, to cut its link or fail its power."""
        return self.machines.by_id[self.instance(name_or_id).id]

    def close(self) -> None:
        """Stop serving and end all machines."""
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self.machines.close()
        if self._owns_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def wait_s(self, path: str) -> float:
        """Take one request from the rate limits; return how many seconds it is too early."""
        if not self.settings.rate_limit:
            return 0.0
        with self._limits:
            now = self.clock.now()
            early_s = self._requests.take(now)
            if not early_s and path == "/instance-operations/launch":
                early_s = self._launches.take(now)
            return early_s

    def _set_limits(self) -> None:
        settings, now = self.settings, self.clock.now()
        self._requests = Bucket(settings.request_every_s, settings.request_burst, now)
        self._launches = Bucket(settings.launch_every_s, settings.launch_burst, now)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], simulator: Simulator) -> None:
        self.simulator = simulator
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client may go away at any time."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815

    def log_message(self, format: str, *words: Any) -> None:
        """Say nothing: the journal has it."""

    def version_string(self) -> str:
        return "cloudflare"

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        body = self._read_body()
        if parts.path.startswith("/simulator"):
            status, data = control(self.server.simulator, self.command, parts, body)
            self._send(Answer(status, json.dumps(data, indent=1) + "\n"))
            return
        exchange = Exchange(self.server.simulator, self.command, parts.path, body, self.headers)
        answer = exchange.answer()
        exchange.record(answer, parts.query)  # first: who has the answer may look at the journal
        self._deliver(answer, exchange.kept_back())

    def _read_body(self) -> Any:
        """Return the body as JSON, whatever its declared type; as text when it is no JSON."""
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            return json.loads(data) if data else None
        except ValueError:
            return data.decode(errors="replace")

    def _deliver(self, answer: Answer | None, fault: Fault | None) -> None:
        """Send the answer, unless there is none or a fault keeps it back."""
        if answer is None:
            self._hang_up()
        elif fault is None:
            self._send(answer)
        elif fault.kind == "hang":
            simulator = self.server.simulator
            simulator.stopping.wait(simulator.clock.real(fault.number(600)))
            self._hang_up()
        elif fault.kind == "cut-answer":
            self._hang_up(self._encoded(answer)[: -len(answer.text) // 2])
        else:
            self._hang_up(reset=fault.text == "reset")

    def _hang_up(self, first: bytes = b"", reset: bool = False) -> None:
        self.wfile.write(first)
        self.close_connection = True
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        with contextlib.suppress(OSError):
            if not reset:
                self.connection.shutdown(socket.SHUT_RDWR)
            self.connection.close()

    def _send(self, answer: Answer) -> None:
        self.wfile.write(self._encoded(answer))

    def _encoded(self, answer: Answer) -> bytes:
        """Return head and body in one piece, so that no packet waits for another."""
        body = answer.text.encode()
        head = [f"HTTP/1.1 {answer.status} {self.responses.get(answer.status, ('Unknown',))[0]}"]
        headers = {**answer.headers, "Content-Length": str(len(body)), "Server": "cloudflare"}
        head += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*head, "", ""]).encode() + body
