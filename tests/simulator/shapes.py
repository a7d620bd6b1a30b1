"""Gives answers the shape of an older or later deployment: missing, null, unknown fields."""

from __future__ import annotations

import datetime
from typing import Any

from .settings import Settings

# a field that tells what kind of object it is: the field of it that older deployments do not have
LEFT_OUT_BY_OLD = {
    "price_cents_per_hour": "architecture",
    "ssh_key_names": "image",
    "rebuild": "power_cycle",
}
WORKSPACE_ID = "7" * 32


def shaped(data: Any, settings: Settings) -> Any:
    """Return the data of an answer as the deployment shows it; absent fields are None in `data`."""
    if isinstance(data, list):
        return [shaped(item, settings) for item in data]
    if not isinstance(data, dict):
        return data
    left_out = {key for kind, key in LEFT_OUT_BY_OLD.items() if kind in data}
    new = {}
    for key, value in data.items():
        if value is None and not settings.nulls:
            continue
        if settings.deployment == "old" and key in left_out:
            continue
        new[key] = shaped(value, settings)
    if settings.deployment == "future":
        new |= _unknown_fields(new)
    return new


def _unknown_fields(body: dict[str, Any]) -> dict[str, Any]:
    if "ssh_key_names" in body:
        born = datetime.datetime.now(datetime.UTC).isoformat()
        return {"workspace_id": WORKSPACE_ID, "is_reserved": False, "first_healthy": born}
    if "price_cents_per_hour" in body:
        return {"price_micros_per_second": {"amount": 360, "currency": "USD"}, "labels": []}
    if "available" in body:
        return {"retry_at": None}
    return {}
