"""The runner against a cloud made from the published schema alone, which knows nothing of how we read it."""

import json
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Runner
from tests.schema import PREFIX, answer, document, needs_schema, operation
from tests.support import consented

pytestmark = needs_schema


class Mock(ThreadingHTTPServer):
    """Answers every request of the schema with a sample; holds each request's body against the schema."""

    def __init__(self, full: bool) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.full = full
        self.asked: list[str] = []
        self.mistakes: list[str] = []

    @property
    def words(self) -> tuple[str, ...]:
        """What makes the runner ask here."""
        place = f"cloud.base_url=http://127.0.0.1:{self.server_port}{PREFIX}"
        return (place, "cloud.time_scale=0.001", "instance=gpu_1x_a10", "instance.max_usd_per_hour=null")


class Handler(BaseHTTPRequestHandler):
    server: Mock

    def do_GET(self) -> None:
        path = self.path.removeprefix(PREFIX)
        asked = operation(self.command, path)
        self.server.asked.append(f"{self.command} {path}")
        if asked is None:
            self.server.mistakes.append(f"{self.command} {self.path} is not in the schema")
            self.send_error(404)
            return
        self.check_body(asked)
        body = json.dumps(self.said(path)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def said(self, path: str) -> Any:
        """A sample; but the regions are those that have capacity, and what was ended is not listed."""
        ended = "POST /instance-operations/terminate" in self.server.asked
        if path == "/instances" and ended:
            return {"data": []}
        if path != "/regions":
            return answer(self.command, path, self.server.full)
        types = answer("GET", "/instance-types", self.server.full)["data"].values()
        return {"data": [region for kind in types for region in kind["regions_with_capacity_available"]]}

    do_POST = do_GET  # noqa: N815

    def check_body(self, asked: dict[str, Any]) -> None:
        """Note what the schema would not allow."""
        from jsonschema import Draft202012Validator

        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "requestBody" in asked:
            schema = asked["requestBody"]["content"]["application/json"]["schema"]
            whole = {**schema, "components": document()["components"]}
            errors = Draft202012Validator(whole).iter_errors(json.loads(data))
            self.server.mistakes += [f"{self.path}: {error.message}" for error in errors]
        elif data:
            self.server.mistakes.append(f"{self.path}: a body that nobody asked for")

    def log_message(self, format: str, *words: Any) -> None:
        """Say nothing."""


@pytest.fixture(params=[False, True], ids=["only what is required", "every field"])
def mock(request: pytest.FixtureRequest) -> Iterator[Mock]:
    """A cloud of samples."""
    with Mock(request.param) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_the_runner_talks_to_a_cloud_made_from_the_schema_alone(
    mock: Mock, runner_here: Runner, home: Path, tmp_path: Path
) -> None:
    (home / ".ssh").mkdir()
    key = home / ".ssh/id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    (home / ".ssh/config").write_text("Host *\n  ProxyCommand false\n")  # the samples' addresses lead nowhere

    def run(*words: str) -> Any:
        where = (f"paths.state={tmp_path}/state", f"ssh.identity={key}", f"ssh.config={home}/.ssh/config")
        return runner_here(*mock.words, *where, *words, env={"LAMBDA_API_KEY": "any"})

    types = run("action=available", "output=json").documents[0]["types"]
    (instance,) = run("action=status", "output=json").documents[0]["instances"]
    assert instance["id"] and instance["state"]
    launched = consented(run, "action=launch", "machine=new", f"instance.types=[{types[0]['name']}]")
    assert launched.exit_code == 0, launched
    assert run("action=doctor", "output=json").documents[0]["format"] == "runner.doctor/1"
    plan = run("action=terminate", f"machine={instance['id']}", "discard=[unreachable]", "output=json").plan
    ended = run(
        "action=terminate", f"machine={instance['id']}", "discard=[unreachable]", f"confirm={plan['digest']}"
    )
    assert ended.exit_code == 0, ended
    assert mock.mistakes == []
    assert {
        "POST /ssh-keys",
        "POST /instance-operations/launch",
        "POST /instance-operations/terminate",
    } <= set(mock.asked)
