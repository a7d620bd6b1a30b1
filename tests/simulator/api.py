"""Maps a method and a path of the API to an operation of the account."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from .account import Account, Effects
from .errors import ApiError

Operation = Callable[[Account, str, Any, Effects], Any]

ROUTES: dict[tuple[str, str], Operation] = {
    ("GET", "/instance-types"): lambda account, *_: account.list_instance_types(),
    ("GET", "/regions"): lambda account, *_: account.list_regions(),
    ("GET", "/images"): lambda account, *_: account.list_images(),
    ("GET", "/instances"): lambda account, *_: account.list_instances(),
    ("GET", "/instances/{id}"): lambda account, its_id, *_: account.get_instance(its_id),
    ("POST", "/instances/{id}"): lambda account, its_id, body, _: account.change_instance(its_id, body),
    ("POST", "/instance-operations/launch"): lambda account, _, body, effects: account.launch(body, effects),
    ("POST", "/instance-operations/terminate"): lambda account, _, body, effects: account.terminate(
        body, effects
    ),
    ("POST", "/instance-operations/restart"): lambda account, _, body, __: account.restart(body),
    ("GET", "/ssh-keys"): lambda account, *_: account.list_ssh_keys(),
    ("POST", "/ssh-keys"): lambda account, _, body, __: account.add_ssh_key(body),
    ("DELETE", "/ssh-keys/{id}"): lambda account, its_id, *_: account.delete_ssh_key(its_id),
    ("GET", "/file-systems"): lambda account, *_: account.list_filesystems(),
    ("POST", "/filesystems"): lambda account, _, body, __: account.create_filesystem(body),
    ("DELETE", "/filesystems/{id}"): lambda account, its_id, *_: account.delete_filesystem(its_id),
    ("GET", "/firewall-rules"): lambda account, *_: account.list_firewall_rules(),
    ("PUT", "/firewall-rules"): lambda account, _, body, __: account.set_firewall_rules(body),
}


def operate(account: Account, method: str, path: str, body: Any, effects: Effects) -> Any:
    """Carry out a request and return its `data`; ApiError is its refusal."""
    for (its_method, template), operation in ROUTES.items():
        match = re.fullmatch(template.replace("{id}", "([^/]+)"), path)
        if match and its_method == method:
            return operation(account, "".join(match.groups()), body, effects)
    raise ApiError("global/not-found")
