"""Reads the bodies of requests as strictly as the API does; what is wrong raises its 400."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from .errors import ApiError, invalid

TAG_KEY = r"[a-z][a-z0-9-:]+"
MOUNT_POINT = r"(/home|/lambda/nfs|/data)[//a-zA-Z0-9-]*"
HOSTNAME = r"[a-z0-9][0-9a-z-]{0,62}"
FILESYSTEM_NAME = r"[a-zA-Z]+[0-9a-zA-Z-]*"
OBJECT_ID = r"[0-9a-f]{32}"
MAX_USER_DATA = 1 << 20


@dataclass(frozen=True)
class Launch:
    """A launch request that is well-formed; whether what it names exists is another question."""

    region: str
    type: str
    ssh_key_names: tuple[str, ...]
    name: str | None
    hostname: str | None
    image: dict[str, str] | None
    file_system_names: tuple[str, ...]
    file_system_mounts: tuple[tuple[str, str], ...]  # (mount point, filesystem id)
    tags: tuple[tuple[str, str], ...] | None
    firewall_rulesets: tuple[str, ...]


def json_object(body: Any) -> dict[str, Any]:
    """Return the body if it is an object."""
    if not isinstance(body, dict):
        raise ApiError("global/invalid-parameters")
    return body


def string(
    body: dict[str, Any],
    name: str,
    *,
    least: int = 0,
    most: int = 256,
    pattern: str = "",
    required: bool = True,
) -> str | None:
    """Return a field's text; None when it is absent or null and need not be there."""
    value = body.get(name)
    if value is None:
        if required:
            raise invalid(name, "Field required")
        return None
    if not isinstance(value, str):
        raise invalid(name, "Input should be a valid string")
    if len(value) < least:
        raise invalid(name, f"String should have at least {least} characters")
    if len(value) > most:
        raise invalid(name, f"String should have at most {most} characters")
    if pattern and not re.fullmatch(pattern, value):
        raise invalid(name, f"String should match pattern '^{pattern}$'")
    return value


def text(body: dict[str, Any], name: str, **rules: Any) -> str:
    """Return the text of a required field."""
    value = string(body, name, **rules)
    assert value is not None
    return value


def strings(body: dict[str, Any], name: str, required: bool = False) -> tuple[str, ...]:
    """Return a field that is a list of texts; () when it is absent."""
    values = body.get(name)
    if values is None and not required:
        return ()
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise invalid(name, "Input should be a valid list of strings")
    return tuple(values)


def objects(body: dict[str, Any], name: str) -> list[dict[str, Any]] | None:
    """Return a field that is a list of objects; None when it is absent."""
    values = body.get(name)
    if values is None:
        return None
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise invalid(name, "Input should be a valid list of objects")
    return values


def tags(body: dict[str, Any]) -> tuple[tuple[str, str], ...] | None:
    """Return the tags; None when the field is absent, which means: as they are."""
    entries = objects(body, "tags")
    if entries is None:
        return None
    read = []
    for entry in entries:
        key = text(entry, "key", most=55, pattern=TAG_KEY)
        if key.startswith("lambda-ai-"):
            raise invalid("tags", f"The key {key!r} is reserved")
        read.append((key, text(entry, "value", most=128)))
    return tuple(read)


def instance_ids(body: Any) -> tuple[str, ...]:
    """Return the ids of a terminate or restart request, each well-formed."""
    ids = strings(json_object(body), "instance_ids", required=True)
    for instance_id in ids:
        check_id(instance_id)
    return ids


def check_id(object_id: str) -> None:
    """Refuse a malformed id, such as a name: 400, not 404."""
    if not re.fullmatch(OBJECT_ID, object_id):
        raise invalid("id", "Input should be a valid id")


def launch(body: Any) -> Launch:
    """Read a launch request."""
    body = json_object(body)
    quantity = body.get("quantity", 1)
    if not isinstance(quantity, int) or isinstance(quantity, bool) or quantity < 1:
        raise invalid("quantity", "Input should be a valid integer")
    if quantity > 1:
        raise invalid("", "Requested too many instances.")
    keys = strings(body, "ssh_key_names", required=True)
    if len(keys) != 1:
        raise invalid("ssh_key_names", "Exactly one SSH key must be specified")
    string(body, "user_data", most=MAX_USER_DATA, required=False)
    return Launch(
        region=text(body, "region_name"),
        type=text(body, "instance_type_name"),
        ssh_key_names=keys,
        name=string(body, "name", most=64, required=False),
        hostname=string(body, "hostname", pattern=HOSTNAME, required=False),
        image=_image(body),
        file_system_names=strings(body, "file_system_names"),
        file_system_mounts=_mounts(body),
        tags=tags(body),
        firewall_rulesets=tuple(text(e, "id") for e in objects(body, "firewall_rulesets") or ()),
    )


def _image(body: dict[str, Any]) -> dict[str, str] | None:
    image = body.get("image")
    if image is None:
        return None
    if not isinstance(image, dict) or not ("id" in image or "family" in image):
        raise invalid("image", "Either id or family is required")
    name = "id" if "id" in image else "family"
    return {name: text(image, name)}


def _mounts(body: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple(
        (text(entry, "mount_point", pattern=MOUNT_POINT), text(entry, "file_system_id"))
        for entry in objects(body, "file_system_mounts") or ()
    )
