"""The life of one simulated instance: its status and its looks as functions of the time."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from .data import Image, InstanceType, region_body
from .settings import Settings

BILLED = ("active", "unhealthy")
ACTIONS = ("migrate", "rebuild", "restart", "cold_reboot", "terminate", "power_cycle")
REASONS = {
    "vm-has-not-launched": "This instance has not launched yet.",
    "vm-is-terminating": "This instance is being terminated.",
    "vm-action-in-progress": "Another action is in progress on this instance.",
}


@dataclass(frozen=True)
class Fate:
    """What will go wrong with an instance, decided at its launch."""

    unhealthy: bool = False
    stuck_booting: bool = False
    silent_ssh: bool = False
    no_ip: bool = False
    no_private_ip: bool = False
    cuda_802: bool = False
    slowness: float = 1.0
    listed_after_s: float = 0.0
    unknown_status: str = ""
    preempted_after_s: float = math.inf
    shut_down_after_s: float = math.inf


@dataclass
class Instance:
    """One instance; times are simulated seconds since the start of the cloud."""

    id: str
    type: InstanceType
    region: str
    image: Image
    name: str | None
    hostname: str | None
    ssh_key_names: tuple[str, ...]
    mounts: tuple[tuple[str, str, str], ...]  # (mount point, filesystem id, filesystem name)
    tags: tuple[tuple[str, str], ...]
    firewall_rulesets: tuple[str, ...]
    fate: Fate
    launched_s: float
    address: str
    private_ip: str
    jupyter_token: str
    settings: Settings
    terminate_s: float = math.inf
    restart_s: float = -math.inf
    off_s: float = math.inf  # when it was found shut down or broken from inside
    machine_up: bool = True  # false while a machine that belongs to it has yet to boot
    machine_ended: bool = True  # false while a machine that belongs to it runs
    machine_error: str = ""
    history: list[str] = field(default_factory=list)

    # --- when things happen ---------------------------------------------------------------------

    @property
    def ssh_s(self) -> float:
        """When sshd is up."""
        return self.launched_s + self.settings.ssh_s * self.fate.slowness

    @property
    def active_s(self) -> float:
        return self.launched_s + self.settings.active_s * self.fate.slowness

    @property
    def preempted_s(self) -> float:
        return self.active_s + self.fate.preempted_after_s

    @property
    def shut_down_s(self) -> float:
        return min(self.active_s + self.fate.shut_down_after_s, self.off_s)

    def status(self, now: float) -> str:
        """Return the API's word for its state; "" when it cannot be seen yet."""
        if now >= self.terminate_s:
            over = now >= self.terminate_s + self.settings.terminating_s
            return "terminated" if over and self.machine_ended else "terminating"
        if now < self.launched_s + self.fate.listed_after_s:
            return ""
        if now >= self.preempted_s:
            return "preempted"
        if now >= self.shut_down_s or self.machine_error:
            return "unhealthy"
        return self._living_status(now)

    def _living_status(self, now: float) -> str:
        if now < self.restart_s + self.settings.restart_s:
            return "booting"
        if now < self.active_s or self.fate.stuck_booting or not self.machine_up:
            late = now >= (self.launched_s + self.active_s) / 2
            return self.fate.unknown_status if late and self.fate.unknown_status else "booting"
        return "unhealthy" if self.fate.unhealthy else "active"

    def usd(self, now: float) -> float:
        """Return what it has cost: billed by the minute from its health check to terminate."""
        if self.fate.stuck_booting or now <= self.active_s:
            return 0.0
        end = min(now, self.terminate_s, self.preempted_s)
        minutes = math.ceil(max(0.0, end - self.active_s) / 60)
        return minutes * self.type.price_cents_per_hour / 6000

    # --- how it looks ---------------------------------------------------------------------------

    def body(self, now: float) -> dict[str, Any]:
        """Return it as the API shows it; absent fields are None, the deployment decides on them."""
        status = self.status(now) or "booting"
        has_ip = now >= self.launched_s + self.settings.ip_s * self.fate.slowness
        has_ip = has_ip and not self.fate.no_ip and status != "terminated"
        full = now >= self.active_s and status not in ("booting", "terminated")
        return {
            "id": self.id,
            "name": self.name,
            "ip": self.address if has_ip else None,
            "private_ip": self.private_ip if full and not self.fate.no_private_ip else None,
            "status": status,
            "ssh_key_names": list(self.ssh_key_names),
            "file_system_names": [name for _, _, name in self.mounts],
            "file_system_mounts": self._mount_bodies() or None,
            "region": region_body(self.region),
            "instance_type": self.type.body(),
            "image": self._image_body() if status != "terminated" else None,
            "hostname": self.hostname if full else None,
            "jupyter_token": self.jupyter_token if full else None,
            "jupyter_url": self._jupyter_url() if full else None,
            "actions": self._actions(status, now),
            "tags": [{"key": key, "value": value} for key, value in self.tags],
            "firewall_rulesets": [{"id": ruleset} for ruleset in self.firewall_rulesets] or None,
        }

    def _mount_bodies(self) -> list[dict[str, str]]:
        return [{"mount_point": at, "file_system_id": its_id} for at, its_id, _ in self.mounts]

    def _image_body(self) -> dict[str, str]:
        return {"id": self.image.image_id, "family": self.image.family}

    def _jupyter_url(self) -> str:
        return f"https://jupyter-{self.id}.lambdaspaces.com/?token={self.jupyter_token}"

    def _actions(self, status: str, now: float) -> dict[str, Any]:
        code = ""
        if status in ("terminating", "terminated"):
            code = "vm-is-terminating"
        elif now < self.restart_s + self.settings.restart_s:
            code = "vm-action-in-progress"
        elif status not in ("active", "unhealthy", "preempted"):
            code = "vm-has-not-launched"
        if not code:
            return {action: {"available": True} for action in ACTIONS}
        blocked = {"available": False, "reason_code": code, "reason_description": REASONS[code]}
        return {action: dict(blocked) for action in ACTIONS}
