"""What the simulated cloud promises: the API's schema, the life of an instance, each fault, real machines.

Every answer that these tests see is validated against the published schema where that lies beside the
checkout (../shared/lambda/openapi.json); the header of the test run says whether it does.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.simulator.faults import KINDS, Fault, parse_fault
from tests.simulator.machine import Machine, can_have_namespaces, make_key, missing_programs
from tests.simulator.process import REPOSITORY, SimulatorProcess
from tests.simulator.server import Simulator

SCHEMA = REPOSITORY.parent / "shared/lambda/openapi.json"
UNKNOWN_ID = "0123456789abcdef" * 2
PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHOYsKwZqL6yPUBz2pFjXTVH3GzPKyNnjPEmYXnmMuR8 me@home"
MACHINES = [
    pytest.param(
        "namespaces",
        marks=pytest.mark.skipif(not can_have_namespaces(), reason="needs root and namespaces"),
    ),
    "plain",
]


# --- a client that holds every answer against the schema -------------------------------------------


@functools.cache
def schema_registry() -> Any:
    """Return the schema's registry; None where the schema is not present."""
    if not SCHEMA.exists():
        return None
    from referencing import Registry
    from referencing.jsonschema import DRAFT202012

    resource = DRAFT202012.create_resource(json.loads(SCHEMA.read_text()))
    return Registry().with_resource("urn:openapi", resource)


def check_schema(method: str, path: str, status: int, body: Any) -> None:
    """Fail unless the schema allows this answer."""
    registry = schema_registry()
    if registry is None:
        return
    from jsonschema import Draft202012Validator

    template = re.sub(r"(instances|ssh-keys|filesystems)/[^/]+$", r"\1/{id}", f"/api/v1{path}")
    words: tuple[str, ...] = ("paths", template, method.lower(), "responses", str(status))
    words = (*words, "content", "application/json", "schema")
    pointer = "/".join(word.replace("~", "~0").replace("/", "~1") for word in words)
    validator = Draft202012Validator({"$ref": f"urn:openapi#/{pointer}"}, registry=registry)
    validator.validate(body)


class Api:
    """A client of a simulator; `call` returns (status, data or error)."""

    def __init__(self, cloud: Simulator) -> None:
        self.cloud = cloud
        self.http = httpx.Client(headers={"Authorization": f"Bearer {cloud.api_key}"}, timeout=10)

    def raw(self, method: str, path: str, body: Any = None, **words: Any) -> httpx.Response:
        return self.http.request(method, self.cloud.base_url + path, json=body, **words)

    def call(self, method: str, path: str, body: Any = None, **words: Any) -> tuple[int, Any]:
        answer = self.raw(method, path, body, **words)
        document = answer.json()
        check_schema(method, path, answer.status_code, document)
        return answer.status_code, document.get("data", document.get("error"))

    def get(self, path: str) -> Any:
        status, data = self.call("GET", path)
        assert status == 200, data
        return data

    def launch(self, **changes: Any) -> tuple[int, Any]:
        body = {
            "region_name": "us-east-1",
            "instance_type_name": "gpu_1x_a10",
            "ssh_key_names": ["laptop"],
            "name": "lambda-1",
        }
        body = {key: value for key, value in (body | changes).items() if value is not None}
        return self.call("POST", "/instance-operations/launch", body)

    def launched(self, **changes: Any) -> str:
        status, data = self.launch(**changes)
        assert status == 200, data
        return str(data["instance_ids"][0])

    def terminate(self, *ids: str) -> tuple[int, Any]:
        return self.call("POST", "/instance-operations/terminate", {"instance_ids": list(ids)})

    def instance(self, instance_id: str) -> Any:
        return self.get(f"/instances/{instance_id}")

    def until(self, instance_id: str, status: str) -> Any:
        """Let time pass until the instance has a status; return it."""

        def look() -> Any:
            if self.cloud.machines.mode == "none":
                self.later(5)
            return self.raw("GET", f"/instances/{instance_id}").json()["data"]

        return until(look, lambda body: body["status"] == status)

    def later(self, simulated_s: float) -> None:
        self.cloud.clock.advance(simulated_s)


def until(look: Callable[[], Any], good: Callable[[Any], bool] = bool, limit_s: float = 30) -> Any:
    """Return the first thing seen that is good."""
    deadline = time.monotonic() + limit_s
    while not good(seen := look()):
        assert time.monotonic() < deadline, f"still {seen}"
        time.sleep(0.01)
    return seen


@contextlib.contextmanager
def serving(**words: Any) -> Iterator[Api]:
    """A simulator without machines, one registered key, a client; time passes when told to."""
    with Simulator(**{"scale": 1.0, "rate_limit": False, **words}) as cloud:
        api = Api(cloud)
        assert api.call("POST", "/ssh-keys", {"name": "laptop", "public_key": PUBLIC_KEY})[0] == 200
        yield api


@pytest.fixture
def api() -> Iterator[Api]:
    with serving() as api:
        yield api


def test_schema_is_beside_the_checkout() -> None:
    if not SCHEMA.exists():
        pytest.skip(f"{SCHEMA} is not present: the answers are not validated against it")
    assert schema_registry() is not None


# --- who may ask ------------------------------------------------------------------------------------


def test_bearer_and_basic_open_the_door(api: Api) -> None:
    key = api.cloud.api_key
    for auth in (None, (key, "")):
        assert httpx.get(f"{api.cloud.base_url}/instances", auth=auth).status_code == (200 if auth else 401)
    given = {"Authorization": f"Basic {key}"}
    assert httpx.get(f"{api.cloud.base_url}/instances", headers=given).status_code == 200


def test_two_messages_tell_no_key_from_a_bad_one(api: Api) -> None:
    for headers, message in (
        ({}, "No API key was provided."),
        ({"Authorization": "Bearer nope"}, "API key was invalid, expired, or deleted."),
        ({"Authorization": "Basic ###"}, "API key was invalid, expired, or deleted."),
    ):
        answer = httpx.get(f"{api.cloud.base_url}/instances", headers=headers)
        check_schema("GET", "/instances", answer.status_code, answer.json())
        assert answer.status_code == 401
        assert answer.json()["error"]["message"] == message


def test_python_urllib_is_turned_away_before_the_api(api: Api) -> None:
    answer = api.raw("GET", "/instances", headers={"User-Agent": "Python-urllib/3.11"})
    assert (answer.status_code, answer.text) == (403, "error code: 1010")


def test_key_is_kept_nowhere(tmp_path: Path) -> None:
    with serving(api_key="canary-4711", state=tmp_path) as api:
        api.get("/instances")
        api.cloud.faults.add(Fault("lose-answer", times=1))
        with pytest.raises(httpx.TransportError):
            api.launch()
        journal = httpx.get(f"http://127.0.0.1:{api.cloud.port}/simulator/journal").text
        files = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert "launch" in journal and b"launch" in files
    assert "canary" not in journal and b"canary" not in files


# --- what the API says ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/instance-types", "/regions", "/images", "/ssh-keys", "/file-systems", "/firewall-rules"]
)
def test_lists_have_the_published_shape(api: Api, path: str) -> None:
    api.call("POST", "/filesystems", {"name": "data", "region": "us-east-1"})
    assert api.get(path)


def test_sold_out_types_stay_listed(api: Api) -> None:
    types = api.get("/instance-types")
    assert types["gpu_8x_a100"]["regions_with_capacity_available"] == []
    assert types["gpu_1x_a10"]["instance_type"]["price_cents_per_hour"] == 129
    assert len(types) == 23


def test_image_ids_repeat_over_regions(api: Api) -> None:
    rows = api.get("/images")
    assert len({row["id"] for row in rows}) * len(api.get("/regions")) == len(rows)


def test_unknown_path_is_a_404_in_the_envelope(api: Api) -> None:
    answer = api.raw("GET", "/clusters")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "global/not-found")


def test_body_is_read_as_json_whatever_its_type(api: Api) -> None:
    body = json.dumps({"name": "form", "public_key": PUBLIC_KEY})
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = api.http.post(f"{api.cloud.base_url}/ssh-keys", content=body, headers=headers)
    assert answer.status_code == 200


def test_connections_are_kept_alive_and_quick(api: Api) -> None:
    times = []
    for _ in range(20):
        begin = time.monotonic()
        api.raw("GET", "/instances")
        times.append(time.monotonic() - begin)
    assert sorted(times)[5] < 0.035, "40 ms an answer is a delayed acknowledgement"


def test_generated_key_opens_and_is_told_once(api: Api, tmp_path: Path) -> None:
    _, key = api.call("POST", "/ssh-keys", {"name": "made"})
    private = tmp_path / "key"
    private.write_text(key["private_key"])
    private.chmod(0o600)
    public = subprocess.run(["ssh-keygen", "-y", "-f", private], capture_output=True, text=True)
    assert public.stdout.split()[:2] == key["public_key"].split()[:2]
    assert all("private_key" not in listed for listed in api.get("/ssh-keys"))


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"name": "laptop", "public_key": PUBLIC_KEY}, "global/duplicate"),
        ({"name": "", "public_key": PUBLIC_KEY}, "global/invalid-parameters"),
        ({"name": "x" * 65, "public_key": PUBLIC_KEY}, "global/invalid-parameters"),
        ({"name": "x", "public_key": "ssh-ed25519 nonsense"}, "global/invalid-parameters"),
        ({"name": "x", "public_key": "-----BEGIN"}, "global/invalid-parameters"),
        ("text", "global/invalid-parameters"),
    ],
)
def test_bad_ssh_key_is_refused(api: Api, body: Any, code: str) -> None:
    answer = api.raw("POST", "/ssh-keys", body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)


def test_duplicate_key_names_can_be_allowed(api: Api) -> None:
    api.cloud.change(duplicate_key_names="allow")
    assert api.call("POST", "/ssh-keys", {"name": "laptop", "public_key": PUBLIC_KEY})[0] == 200


def test_deleted_key_is_gone(api: Api) -> None:
    key = api.get("/ssh-keys")[0]
    assert api.call("DELETE", f"/ssh-keys/{key['id']}") == (200, {})
    assert api.get("/ssh-keys") == []


def test_filesystem_in_use_is_not_deleted(api: Api) -> None:
    _, made = api.call("POST", "/filesystems", {"name": "data", "region": "us-east-1"})
    instance = api.launched(file_system_names=["data"])
    assert api.get("/file-systems")[0]["is_in_use"]
    assert api.call("DELETE", f"/filesystems/{made['id']}")[1]["code"] == "filesystems/filesystem-in-use"
    api.terminate(instance)
    api.later(21)
    assert api.call("DELETE", f"/filesystems/{made['id']}") == (200, {"deleted_ids": [made["id"]]})


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"name": "data", "region": "us-east-1"}, "global/duplicate"),
        ({"name": "2data", "region": "us-east-1"}, "global/invalid-parameters"),
        ({"name": "more", "region": "mars-1"}, "global/invalid-parameters"),
        ({"name": "more", "region": "us-east-1"}, "global/quota-exceeded"),
    ],
)
def test_bad_filesystem_is_refused(api: Api, body: Any, code: str) -> None:
    api.call("POST", "/filesystems", {"name": "data", "region": "us-east-1"})
    api.cloud.change(quota_filesystems=1)
    status, error = api.call("POST", "/filesystems", body)
    assert (status, error["code"]) == (400, code)


# --- the life of an instance ------------------------------------------------------------------------


def test_instance_lives_through_its_statuses_in_order(api: Api) -> None:
    instance = api.launched(tags=[{"key": "made-by", "value": "test"}])
    first = api.instance(instance)
    absent = {"ip", "private_ip", "hostname", "jupyter_url", "jupyter_token"}
    assert first["status"] == "booting" and not absent & first.keys()
    assert first["actions"]["terminate"]["reason_code"] == "vm-has-not-launched"
    api.later(30)
    early = api.instance(instance)
    assert early["status"] == "booting" and absent & early.keys() == {"ip"}
    api.later(100)
    active = api.instance(instance)
    assert active["status"] == "active" and absent < active.keys() and active["ip"] == early["ip"]
    assert [body["id"] for body in api.get("/instances")] == [instance]
    assert api.terminate(instance)[1]["terminated_instances"][0]["status"] == "terminating"
    assert [body["status"] for body in api.get("/instances")] == ["terminating"]
    api.later(21)
    assert api.get("/instances") == []


@pytest.mark.parametrize(("after_the_end", "status"), [("terminated", 200), ("404", 404)])
def test_end_is_told_by_id_in_either_way(api: Api, after_the_end: str, status: int) -> None:
    api.cloud.change(after_the_end=after_the_end)
    instance = api.launched()
    api.terminate(instance)
    api.later(21)
    told, body = api.call("GET", f"/instances/{instance}")
    assert told == status
    assert body.get("status", body.get("code")) in ("terminated", "global/object-does-not-exist")
    assert not {"ip", "image"} & body.keys()


def test_terminating_twice_ends_in_404(api: Api) -> None:
    instance = api.launched()
    assert api.terminate(instance)[0] == api.terminate(instance)[0] == 200
    api.later(21)
    assert api.terminate(instance)[0] == 404
    assert api.cloud.journal.terminated() == [instance]


@pytest.mark.parametrize(("policy", "status", "num_left"), [("404", 404, 1), ("partial", 200, 0)])
def test_one_unknown_id_ends_all_or_none(api: Api, policy: str, status: int, num_left: int) -> None:
    api.cloud.change(terminate_unknown=policy)
    assert api.terminate(api.launched(), UNKNOWN_ID)[0] == status
    assert len(api.cloud.alive()) == num_left


def test_malformed_id_is_400_and_unknown_id_404(api: Api) -> None:
    assert api.call("GET", "/instances/lambda-1")[0] == 400
    assert api.call("GET", f"/instances/{UNKNOWN_ID}")[0] == 404
    assert api.terminate("lambda-1")[0] == 400


def test_restart_keeps_the_instance_and_conflicts_with_itself(api: Api) -> None:
    instance = api.launched()
    ids = {"instance_ids": [instance]}
    assert api.call("POST", "/instance-operations/restart", ids)[0] == 409
    api.until(instance, "active")
    status, data = api.call("POST", "/instance-operations/restart", ids)
    assert status == 200 and data["restarted_instances"][0]["status"] == "booting"
    assert api.call("POST", "/instance-operations/restart", ids)[1]["code"] == "global/conflict"
    api.until(instance, "active")


def test_rename_and_tags_replace_and_keep(api: Api) -> None:
    instance = api.launched(tags=[{"key": "aa", "value": "1"}])
    _, renamed = api.call("POST", f"/instances/{instance}", {"name": "other"})
    assert (renamed["name"], len(renamed["tags"])) == ("other", 1)
    _, cleared = api.call("POST", f"/instances/{instance}", {"tags": []})
    assert (cleared["name"], cleared["tags"]) == ("other", [])


def test_billing_runs_from_active_to_terminate(api: Api) -> None:
    instance = api.launched()
    api.later(119)
    assert api.cloud.usd() == 0
    api.later(3600)
    api.terminate(instance)
    assert api.cloud.usd() == pytest.approx(1.29, abs=0.03)
    api.later(3600)
    assert api.cloud.usd() == pytest.approx(1.29, abs=0.03)


LONG = "x" * 65


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"region_name": None}, 400, "global/invalid-parameters"),
        ({"instance_type_name": 7}, 400, "global/invalid-parameters"),
        ({"ssh_key_names": []}, 400, "global/invalid-parameters"),
        ({"ssh_key_names": ["laptop", "laptop"]}, 400, "global/invalid-parameters"),
        ({"name": LONG}, 400, "global/invalid-parameters"),
        ({"quantity": 2}, 400, "global/invalid-parameters"),
        ({"hostname": "UPPER"}, 400, "global/invalid-parameters"),
        ({"tags": [{"key": "a", "value": ""}]}, 400, "global/invalid-parameters"),
        ({"tags": [{"key": "lambda-ai-x", "value": ""}]}, 400, "global/invalid-parameters"),
        ({"file_system_mounts": [{"mount_point": "/etc", "file_system_id": "x"}]}, 400, "global/inv"),
        ({"instance_type_name": "gpu_1x_b100"}, 404, "global/object-does-not-exist"),
        ({"region_name": "mars-1"}, 404, "global/object-does-not-exist"),
        ({"ssh_key_names": ["nobody"]}, 404, "global/object-does-not-exist"),
        ({"image": {"family": "windows"}}, 404, "global/object-does-not-exist"),
        ({"region_name": "us-west-3"}, 400, "instance-operations/launch/insufficient-capacity"),
        ({"file_system_names": ["none"]}, 404, "global/object-does-not-exist"),
        ({"file_system_names": ["far"]}, 400, "instance-operations/launch/file-system-in-wrong-region"),
        # the order: parameters, then names, then capacity, then filesystems
        ({"name": LONG, "region_name": "mars-1"}, 400, "global/invalid-parameters"),
        ({"ssh_key_names": ["nobody"], "region_name": "us-west-3"}, 404, "global/object-does-not-exist"),
        ({"region_name": "us-west-3", "file_system_names": ["none"]}, 400, "instance-operations/launch/ins"),
    ],
)
def test_launch_is_refused_in_the_order_of_the_api(api: Api, changes: Any, status: int, code: str) -> None:
    api.call("POST", "/filesystems", {"name": "far", "region": "us-west-1"})
    told, error = api.launch(**changes)
    assert told == status and error["code"].startswith(code)
    assert api.cloud.alive() == [] and api.get("/instances") == []


def test_launch_takes_everything_that_the_schema_names(api: Api) -> None:
    _, near = api.call("POST", "/filesystems", {"name": "near", "region": "us-east-1"})
    mount = {"mount_point": "/data/near", "file_system_id": near["id"]}
    instance = api.launched(
        quantity=1,
        hostname="head",
        image={"family": "lambda-stack-22-04"},
        user_data="#cloud-config\n",
        file_system_names=["near"],
        file_system_mounts=[mount],
        tags=[{"key": "aa", "value": "b"}],
    )
    body = api.until(instance, "active")
    assert body["file_system_mounts"] == [mount] and body["hostname"] == "head"
    assert body["image"]["family"] == "lambda-stack-22-04"


def test_quota_is_counted_over_instances(api: Api) -> None:
    api.cloud.change(quota_instances=1)
    api.launched()
    assert api.launch()[1]["code"] == "global/quota-exceeded"


# --- the shapes of other deployments ----------------------------------------------------------------


def test_old_deployment_leaves_out_the_newer_fields(api: Api) -> None:
    api.cloud.change(deployment="old")
    body = api.raw("GET", f"/instances/{api.launched()}").json()["data"]
    assert "image" not in body and "power_cycle" not in body["actions"]
    assert "architecture" not in body["instance_type"]
    assert api.raw("GET", "/regions").status_code == 404
    assert "request_id" not in api.raw("GET", "/instances/x").json()["error"]


def test_future_deployment_adds_what_no_client_knows(api: Api) -> None:
    api.launched()
    api.cloud.change(deployment="future")
    answer = api.raw("GET", "/instances").json()
    assert "page_token" in answer and {"workspace_id", "first_healthy"} <= answer["data"][0].keys()
    types = api.raw("GET", "/instance-types").json()["data"]
    assert types["gpu_1x_x900"]["instance_type"]["architecture"] == "riscv64"


def test_absent_fields_can_be_null(api: Api) -> None:
    api.cloud.change(nulls=True)
    api.launched()
    assert api.raw("GET", "/instances").json()["data"][0]["ip"] is None


# --- the limits -------------------------------------------------------------------------------------


def test_second_launch_within_twelve_seconds_is_429() -> None:
    with serving(rate_limit_shape="body") as api:
        api.cloud.change(rate_limit=True)
        assert api.launch()[0] == 200
        early = api.raw("POST", "/instance-operations/launch", {})
        assert early.status_code == 429 and 0 < early.json()["retry_after"] <= 12
        api.later(early.json()["retry_after"])
        assert api.launch()[0] == 200


def test_one_request_a_second_passes_and_a_burst_does_not() -> None:
    with serving(scale=100) as api:
        api.cloud.change(rate_limit=True)
        statuses = [api.raw("GET", "/instances").status_code for _ in range(4)]
        assert statuses == [200, 200, 429, 429]
        for _ in range(5):
            api.later(1)
            assert api.raw("GET", "/instances").status_code == 200


@pytest.mark.parametrize(
    ("shape", "header", "body"),
    [
        ("header", r"12", r'"error_code":1015'),
        ("date", r"\w+, \d+ \w+ \d+ [\d:]+ GMT", r'"error_code":1015'),
        ("body", None, r'"retry_after":12'),
        ("text", None, r"^error code: 1015$"),
        ("bare", None, r'^(?!.*retry_after).*"status":429'),
    ],
)
def test_429_comes_in_every_shape(api: Api, shape: str, header: str | None, body: str) -> None:
    api.cloud.faults.add(Fault("rate-limit", text=shape))
    answer = api.raw("GET", "/instances")
    given = answer.headers.get("Retry-After")
    assert answer.status_code == 429 and re.search(body, answer.text)
    assert given is None if header is None else re.fullmatch(header, given)
    assert '"error":' not in answer.text


# --- the faults -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lose-answer", "lose-answer,text=reset", "cut-answer", "hang,value=0.1"])
def test_lost_answer_leaves_an_instance_to_be_found_by_name(api: Api, kind: str) -> None:
    api.cloud.faults.add(parse_fault(f"{kind},match=launch,times=1"))
    with pytest.raises(httpx.TransportError):
        api.launch(name="mine")
    assert [body["name"] for body in api.get("/instances")] == ["mine"]
    (entry,) = api.cloud.journal.entries("POST", "launch")
    assert entry.status is None and len(entry.launched) == 1


@pytest.mark.parametrize("kind", ["error-after", "error-after,value=524", "garbage"])
def test_page_of_the_proxy_can_hide_a_launch(api: Api, kind: str) -> None:
    api.cloud.faults.add(parse_fault(f"{kind},match=launch,times=1"))
    answer = api.raw("POST", "/instance-operations/launch", LAUNCH_BODY)
    assert answer.text.startswith("<html>") and answer.status_code in (200, 502, 524)
    assert len(api.cloud.alive()) == 1


@pytest.mark.parametrize(
    "kind", ["lose-request", "server-error", "server-error,value=503", "server-error,text=json"]
)
def test_failure_before_the_effect_rents_nothing(api: Api, kind: str) -> None:
    api.cloud.faults.add(parse_fault(f"{kind},match=launch,times=1"))
    with contextlib.suppress(httpx.TransportError):
        assert api.raw("POST", "/instance-operations/launch", LAUNCH_BODY).status_code >= 500
    assert api.cloud.alive() == [] and api.cloud.journal.launched() == []


LAUNCH_BODY = {
    "region_name": "us-east-1",
    "instance_type_name": "gpu_1x_a10",
    "ssh_key_names": ["laptop"],
}


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        ("invalid-key", 401, "global/invalid-api-key"),
        ("account-inactive", 403, "global/account-inactive"),
        ("invalid-address", 403, "global/invalid-address"),
        ("no-capacity", 400, "instance-operations/launch/insufficient-capacity"),
        ("quota", 400, "global/quota-exceeded"),
    ],
)
def test_refusals_can_be_ordered(api: Api, kind: str, status: int, code: str) -> None:
    api.cloud.faults.add(Fault(kind))
    told, error = api.launch()
    assert (told, error["code"]) == (status, code)
    assert api.cloud.alive() == []


def test_forbidden_is_told_for_lists(api: Api) -> None:
    api.cloud.faults.add(Fault("forbidden"))
    assert api.call("GET", "/instances")[1]["code"] == "global/forbidden"


def test_redirect_leads_to_another_host_name(api: Api) -> None:
    api.cloud.faults.add(Fault("redirect"))
    answer = api.raw("GET", "/instances")
    assert answer.status_code == 302 and answer.headers["Location"].startswith("http://localhost:")


def test_slow_answer_is_slow(api: Api) -> None:
    api.cloud.faults.add(Fault("slow", value=0.2))
    begin = time.monotonic()
    api.get("/instances")
    assert time.monotonic() - begin > 0.2


def test_catalogue_may_promise_what_launch_refuses(api: Api) -> None:
    api.cloud.faults.add(Fault("no-capacity", match="us-east-1"))
    shown = api.get("/instance-types")["gpu_1x_a10"]["regions_with_capacity_available"]
    assert [region["name"] for region in shown] == ["us-east-1", "us-west-1"]
    assert api.launch()[0] == 400
    assert api.launch(region_name="us-west-1")[0] == 200


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ("unhealthy", "unhealthy"),
        ("preempted,value=5", "preempted"),
        ("shut-down,value=5", "unhealthy"),
        ("unknown-status", "provisioning"),
        ("unknown-status,text=hibernating", "hibernating"),
    ],
)
def test_instance_can_go_wrong(api: Api, fault: str, status: str) -> None:
    api.cloud.faults.add(parse_fault(fault))
    instance = api.launched()
    api.until(instance, status)


def test_stuck_instance_stays_booting_and_costs_nothing(api: Api) -> None:
    api.cloud.faults.add(Fault("stuck-booting"))
    instance = api.launched()
    api.later(3600)
    assert api.instance(instance)["status"] == "booting" and api.cloud.usd() == 0


def test_private_ip_may_never_come(api: Api) -> None:
    api.cloud.faults.add(Fault("no-private-ip"))
    assert "private_ip" not in api.until(api.launched(), "active")


def test_new_instance_may_be_listed_late(api: Api) -> None:
    api.cloud.faults.add(Fault("slow-list", value=200))
    api.launched()
    assert api.get("/instances") == []
    api.later(200)
    assert len(api.get("/instances")) == 1


def test_shut_down_instance_goes_on_costing(api: Api) -> None:
    api.cloud.faults.add(Fault("shut-down", value=1))
    api.until(api.launched(), "unhealthy")
    before = api.cloud.usd()
    api.later(61)
    assert api.cloud.usd() > before


def test_same_seed_same_misfortune() -> None:
    def struck(seed: int) -> list[int]:
        rule = Fault("server-error", probability=0.5)
        with serving(seed=seed) as api:
            api.cloud.faults.add(rule)
            return [api.raw("GET", "/instances").status_code for _ in range(20)]

    assert struck(1) == struck(1) != struck(2)


def test_rule_strikes_as_often_and_as_late_as_told(api: Api) -> None:
    api.cloud.faults.add(Fault("server-error", times=2, after=1))
    statuses = [api.raw("GET", "/instances").status_code for _ in range(5)]
    assert statuses == [200, 502, 502, 200, 200]


@pytest.mark.parametrize("text", ["nonsense", "slow,often=1", "slow,value", "slow,value=x"])
def test_bad_rule_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_fault(text)


# --- the switches -----------------------------------------------------------------------------------


def test_faults_and_settings_change_over_http(api: Api) -> None:
    def control(method: str, place: str, body: Any = None) -> Any:
        url = f"http://127.0.0.1:{api.cloud.port}/simulator/{place}"
        return httpx.request(method, url, json=body)

    assert control("POST", "faults", ["server-error,times=1", {"kind": "slow"}]).status_code == 200
    assert [rule["kind"] for rule in control("GET", "faults").json()] == ["server-error", "slow"]
    assert control("DELETE", "faults").json() == []
    assert control("POST", "settings", {"deployment": "old"}).json()["deployment"] == "old"
    assert control("POST", "capacity", {"gpu_1x_a10": []}).status_code == 200
    assert api.raw("POST", "/instance-operations/launch", LAUNCH_BODY).status_code == 400
    for place, body in (("faults", "nonsense"), ("settings", {"nope": 1}), ("machines/x/cut", None)):
        assert control("POST", place, body).status_code == 400
    assert control("GET", "").json()["paths"]


def test_simulator_of_its_own_process_ends_with_its_starter() -> None:
    words = ("--machines", "none", "--scale", "0.001", "--faults", "server-error,times=1")
    with SimulatorProcess(*words) as cloud:
        headers = {"Authorization": f"Bearer {cloud.api_key}"}
        statuses = [httpx.get(f"{cloud.base_url}/instances", headers=headers).status_code for _ in "ab"]
        assert statuses == [502, 200]
        assert len(cloud.control("journal")) == 2
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{cloud.base_url}/instances")


def test_command_line_names_every_fault_and_refuses_bad_ones() -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tests.simulator", "--machines", "none", *words]
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)

    shown = run("--help")
    assert shown.returncode == 0 and all(kind in shown.stdout for kind in KINDS)
    for words in (["--faults", "nonsense"], ["--set", "nope=1"], ["--set", "deployment=x"]):
        refused = run(*words)
        assert refused.returncode == 64 and "choose from" in refused.stderr


# --- the machines -----------------------------------------------------------------------------------


needs_machines = pytest.mark.skipif(
    bool(missing_programs()), reason=f"not installed: {', '.join(missing_programs())}"
)


@pytest.fixture(scope="module", params=MACHINES)
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    if missing_programs():
        pytest.skip(f"not installed: {', '.join(missing_programs())}")
    with Machine(mode=request.param) as machine:
        yield machine
        assert machine.ssh("true").returncode == 0, "a test left it broken"


def start(machine: Machine, command: str, *options: str) -> subprocess.Popen[bytes]:
    """Run a command on the machine by ssh in the background; return when it runs."""
    line = ["ssh", *options, "-F", str(machine.ssh_config), machine.alias, f"echo; {command}"]
    ssh = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert ssh.stdout and ssh.stdout.read(1) == b"\n"
    return ssh


def detached(machine: Machine, command: str) -> None:
    """Leave a command running on the machine."""
    machine.ssh(f"setsid --fork {command} </dev/null >/dev/null 2>&1")
    until(lambda: [line for line in machine.processes().values() if line == command])


def test_machine_has_what_jobs_need(machine: Machine) -> None:
    words = "bash rsync python3 git flock setsid nvidia-smi sudo"
    done = machine.ssh(f"pwd; for w in {words}; do command -v $w || echo no $w; done")
    assert "no " not in done.stdout, done.stdout
    if machine.mode == "namespaces":
        assert done.stdout.startswith("/home/ubuntu\n")


def test_home_is_seen_from_both_sides(machine: Machine) -> None:
    machine.ssh("echo there > ~/from-there")
    assert (machine.home / "from-there").read_text() == "there\n"
    (machine.home / "from-here").write_text("here\n")
    assert machine.ssh("cat ~/from-here").stdout == "here\n"


def test_rsync_and_scp_work(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("content")
    ssh = f"ssh -F '{machine.ssh_config}'"
    copied = subprocess.run(["rsync", "-e", ssh, "-a", f"{tmp_path}/", f"{machine.alias}:got/"])
    assert copied.returncode == 0
    subprocess.run(["scp", "-q", "-F", machine.ssh_config, "lambda:got/a file", tmp_path / "b"], check=True)
    assert (tmp_path / "b").read_text() == "content"


def test_local_environment_convention_of_uv_works(machine: Machine) -> None:
    machine.ssh("mkdir -p ~/.local/bin; echo 'export PATH=$HOME/.local/bin:$PATH' > ~/.local/bin/env")
    machine.ssh("printf '#!/bin/bash\\necho stand-in\\n' > ~/.local/bin/uv; chmod +x ~/.local/bin/uv")
    assert machine.ssh("source ~/.local/bin/env && uv").stdout == "stand-in\n"


@needs_machines
@pytest.mark.skipif(not can_have_namespaces(), reason="needs root and namespaces")
def test_machine_sees_only_what_is_shared(tmp_path: Path) -> None:
    (tmp_path / "shared file").write_text("shared\n")
    with Machine(mode="namespaces", share=[tmp_path / "shared file"]) as machine:
        assert machine.ssh(f"cat '{tmp_path}/shared file'; ls {tmp_path}").stdout == "shared\nshared file\n"
        assert machine.ssh(f"ls {REPOSITORY}").returncode != 0
        machine.ssh("echo x > /tmp/left-there")
        assert not Path("/tmp/left-there").exists()
        assert machine.ssh("hostname; whoami").stdout == "lambda-test\nubuntu\n"


@needs_machines
@pytest.mark.skipif(not can_have_namespaces(), reason="needs root and namespaces")
def test_small_disk_gets_full() -> None:
    with Machine(mode="namespaces", disk_mb=10) as machine:
        assert "No space left" in machine.ssh("head -c 20000000 /dev/zero > big").stderr
        assert (machine.home / "big").stat().st_size < 11_000_000


def test_gpu_says_what_the_test_says(machine: Machine) -> None:
    machine.set_gpu(utilization=87, memory_used_mib=39000)
    query = "nvidia-smi --query-gpu=name,utilization.gpu,memory.used --format=csv,noheader,nounits"
    assert machine.ssh(query).stdout == "NVIDIA A100-SXM4-40GB, 87, 39000\n"
    assert "87%" in machine.ssh("nvidia-smi").stdout
    assert machine.ssh("nvidia-smi -L").stdout.startswith("GPU 0: NVIDIA A100")


def test_cuda_error_802_hides_behind_a_happy_nvidia_smi(machine: Machine) -> None:
    if not machine.has_cuda:
        pytest.skip("no C compiler: the machine has no CUDA library")
    probe = "python3 -c 'import ctypes; print(ctypes.CDLL(\"libcuda.so.1\").cuInit(0))'"
    assert machine.ssh(probe).stdout == "0\n"
    machine.set_gpu(cuda=802)
    assert machine.ssh(probe).stdout == "802\n" and machine.ssh("nvidia-smi").returncode == 0
    machine.set_gpu(cuda=0)


def test_cut_link_delivers_everything_when_it_heals(machine: Machine) -> None:
    size = 30_000_000
    data = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    (machine.home / "big").write_bytes(data)
    ssh = start(machine, "cat big")
    assert ssh.stdout
    digest = hashlib.sha256(ssh.stdout.read(1000))
    for _ in range(3):
        machine.cut()
        time.sleep(0.1)
        machine.heal()
        digest.update(ssh.stdout.read(1_000_000))
    digest.update(ssh.stdout.read())
    assert ssh.wait() == 0 and digest.digest() == hashlib.sha256(data).digest()
    ssh.stdout.close()


def test_cut_link_is_silent_and_lets_nobody_in(machine: Machine) -> None:
    machine.cut()
    try:
        begin = time.monotonic()
        assert machine.ssh("true", "-o", "ConnectTimeout=1").returncode == 255
        assert time.monotonic() - begin > 0.9
    finally:
        machine.heal()


def test_reset_ends_connections_at_once_and_leaves_detached_jobs(machine: Machine) -> None:
    detached(machine, "sleep 4712")
    with start(machine, "sleep 60") as ssh:
        machine.reset()
        assert ssh.wait(30) == 255
    assert "sleep 4712" in machine.processes().values()


def test_reboot_ends_every_process_and_keeps_the_home(machine: Machine) -> None:
    detached(machine, "sleep 4713")
    machine.ssh("echo kept > ~/kept")
    before = machine.processes()
    boot_id = "cat /proc/sys/kernel/random/boot_id"
    old = machine.ssh(boot_id).stdout
    machine.reboot()
    assert not [pid for pid in before if Path(f"/proc/{pid}").exists()]
    assert machine.ssh("cat ~/kept").stdout == "kept\n"
    if machine.mode == "namespaces":
        assert machine.ssh(boot_id).stdout != old


def test_power_failure_is_silence(machine: Machine) -> None:
    keepalive = ("-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=1")
    with start(machine, "sleep 60", *keepalive) as ssh:
        begin = time.monotonic()
        machine.halt(silently=True)
        assert ssh.wait(30) == 255 and time.monotonic() - begin > 0.8
    machine.boot()


def test_switched_off_machine_refuses(machine: Machine) -> None:
    machine.halt()
    assert "refused" in machine.ssh("true").stderr
    machine.boot()


def test_shutdown_inside_ends_the_machine(machine: Machine) -> None:
    machine.ssh("sudo shutdown now; sleep 5")
    until(lambda: machine.processes() == {})
    machine.boot()


@needs_machines
def test_two_machines_know_nothing_of_each_other() -> None:
    with Machine() as one, Machine(alias="other") as two:
        one.ssh("echo one > ~/file")
        assert (two.ssh("cat ~/file").returncode, one.address != two.address) == (1, True)
        assert one.host_key.split()[1] != two.host_key.split()[1]


@needs_machines
@pytest.mark.parametrize("mode", MACHINES)
def test_killed_test_leaves_no_process_and_no_folder(mode: str) -> None:
    script = (
        "import sys, time; from tests.simulator.machine import Machine; m = Machine(mode=sys.argv[1]);"
        "m.ssh('setsid --fork sleep 4714 </dev/null >/dev/null 2>&1');"
        "print(m.folder, *m.processes(), flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", script, mode]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as test:
        assert test.stdout
        folder, *pids = test.stdout.readline().split()
        assert len(pids) > 2 and Path(folder).exists()
        test.kill()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids) and not Path(folder).exists())


# --- instances with machines ------------------------------------------------------------------------


def ssh_to(cloud: Simulator, ip: str, identity: Path, command: str) -> subprocess.CompletedProcess[str]:
    user = cloud.ssh_user
    options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes"]
    options += ["IdentitiesOnly=yes", "IdentityAgent=none", "LogLevel=ERROR"]
    words = [word for option in options for word in ("-o", option)]
    line = [
        "ssh",
        "-F",
        "none",
        *words,
        "-i",
        str(identity),
        "-p",
        str(cloud.ssh_port),
        f"{user}@{ip}",
        command,
    ]
    return subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, text=True)


@pytest.fixture
def identity(tmp_path: Path) -> Path:
    make_key(tmp_path / "id", "laptop")
    return tmp_path / "id"


@pytest.fixture
def rented(identity: Path) -> Iterator[Api]:
    """A simulator whose instances are machines that let `identity` in."""
    if missing_programs():
        pytest.skip(f"not installed: {', '.join(missing_programs())}")
    with Simulator(scale=0.002, rate_limit=False, machines="auto") as cloud:
        api = Api(cloud)
        public = identity.with_suffix(".pub").read_text()
        api.call("POST", "/ssh-keys", {"name": "laptop", "public_key": public})
        yield api


def test_launched_instance_is_a_machine_and_terminate_ends_it(rented: Api, identity: Path) -> None:
    instance = rented.launched()
    ip = rented.until(instance, "active")["ip"]
    leave = "setsid --fork sleep 4715 </dev/null >/dev/null 2>&1; nvidia-smi -L"
    assert "NVIDIA A10" in ssh_to(rented.cloud, ip, identity, leave).stdout
    machine = rented.cloud.machine("lambda-1")
    pids = list(machine.processes())
    assert len(pids) >= 3
    rented.terminate(instance)
    until(lambda: rented.get("/instances") == [])
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert "refused" in ssh_to(rented.cloud, ip, identity, "true").stderr


def test_sshd_answers_before_the_api_says_active(rented: Api, identity: Path) -> None:
    rented.cloud.change(ssh_s=1, active_s=100_000)
    instance = rented.launched()
    ip = until(lambda: rented.instance(instance).get("ip"))
    until(lambda: ssh_to(rented.cloud, ip, identity, "true").returncode == 0)
    assert rented.instance(instance)["status"] == "booting"


def test_wrong_key_is_denied(rented: Api, tmp_path: Path) -> None:
    make_key(tmp_path / "stranger", "stranger")
    ip = rented.until(rented.launched(), "active")["ip"]
    assert "Permission denied" in ssh_to(rented.cloud, ip, tmp_path / "stranger", "true").stderr


def test_several_instances_have_one_port_and_own_addresses(rented: Api, identity: Path) -> None:
    ids = [rented.launched(name=f"lambda-{n}", hostname=f"host{n}") for n in (1, 2)]
    ips = [rented.until(instance, "active")["ip"] for instance in ids]
    assert len(set(ips)) == 2
    if can_have_namespaces():
        names = [ssh_to(rented.cloud, ip, identity, "hostname").stdout.strip() for ip in ips]
        assert names == ["host1", "host2"]


def test_recycled_ip_has_another_host_key(rented: Api) -> None:
    rented.cloud.change(recycle_ips=True)
    seen = []
    for _ in range(2):
        instance = rented.launched()
        seen.append((rented.until(instance, "active")["ip"], rented.cloud.machine(instance).host_key))
        rented.terminate(instance)
        until(lambda: rented.get("/instances") == [])
    assert seen[0][0] == seen[1][0] and seen[0][1] != seen[1][1]


def test_restart_over_the_api_reboots_the_machine(rented: Api, identity: Path) -> None:
    instance = rented.launched()
    ip = rented.until(instance, "active")["ip"]
    before = rented.cloud.machine(instance).processes()
    rented.call("POST", "/instance-operations/restart", {"instance_ids": [instance]})
    until(lambda: not [pid for pid in before if Path(f"/proc/{pid}").exists()])
    until(lambda: ssh_to(rented.cloud, ip, identity, "true").returncode == 0)


def test_shutdown_inside_is_unhealthy_and_still_rented(rented: Api, identity: Path) -> None:
    instance = rented.launched()
    ip = rented.until(instance, "active")["ip"]
    ssh_to(rented.cloud, ip, identity, "sudo poweroff; sleep 5")
    rented.until(instance, "unhealthy")
    assert len(rented.cloud.alive()) == 1


def test_preempted_machine_falls_silent(rented: Api) -> None:
    rented.cloud.faults.add(Fault("preempted", value=10))
    instance = rented.launched()
    rented.until(instance, "preempted")
    until(lambda: rented.cloud.machine(instance).processes() == {})


def test_machine_without_a_working_gpu_looks_well(rented: Api) -> None:
    rented.cloud.faults.add(Fault("cuda-802"))
    instance = rented.launched()
    rented.until(instance, "active")
    assert rented.cloud.machine(instance).gpu.cuda == 802


@pytest.mark.skipif(not can_have_namespaces(), reason="needs root and namespaces")
def test_filesystem_outlives_the_instance(rented: Api, identity: Path) -> None:
    rented.call("POST", "/filesystems", {"name": "data", "region": "us-east-1"})
    for command, expected in (("echo kept > /lambda/nfs/data/x", ""), ("cat /lambda/nfs/data/x", "kept\n")):
        instance = rented.launched(file_system_names=["data"])
        ip = rented.until(instance, "active")["ip"]
        assert ssh_to(rented.cloud, ip, identity, command).stdout == expected
        rented.terminate(instance)
        until(lambda: rented.get("/instances") == [])


def test_link_of_an_instance_is_cut_over_http(rented: Api, identity: Path) -> None:
    ip = rented.until(rented.launched(), "active")["ip"]
    act = f"http://127.0.0.1:{rented.cloud.port}/simulator/machines/lambda-1/"
    assert httpx.post(act + "halt").status_code == 200
    assert ssh_to(rented.cloud, ip, identity, "true").returncode == 255
    assert httpx.post(act + "boot").status_code == 200
    assert ssh_to(rented.cloud, ip, identity, "true").returncode == 0
    assert httpx.post(act + "gpu", json={"utilization": 99}).status_code == 200
    assert rented.cloud.machine("lambda-1").gpu.utilization == 99


# --- the packages -----------------------------------------------------------------------------------


def test_missing_package_is_named_and_nothing_is_installed(tmp_path: Path) -> None:
    for name in ("bash", "sort", "id"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    script = (REPOSITORY / "tests/install-debian-packages").read_text()
    # The script looks into the folders of the administrator; here it must not.
    bare = tmp_path / "script"
    bare.write_text(script.replace("PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin\n", ""))
    done = subprocess.run(
        [shutil.which("bash") or "bash", bare, "--check"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "openssh-server" in done.stderr and "rsync" in done.stderr


def test_nothing_missing_asks_no_package_manager(tmp_path: Path) -> None:
    if missing_programs():
        pytest.skip(f"not installed: {', '.join(missing_programs())}")
    (tmp_path / "apt-get").write_text("#!/bin/bash\ntouch '$0.called'\nexit 1\n")
    (tmp_path / "apt-get").chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run([REPOSITORY / "tests/install-debian-packages"], env=env)
    assert done.returncode == 0 and not (tmp_path / "apt-get.called").exists()
