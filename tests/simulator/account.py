"""The state of one simulated account, and the operations of the API on it."""

from __future__ import annotations

import base64
import contextlib
import datetime
import random
import subprocess
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from . import requests
from .data import (
    CAPACITY,
    FUTURE_TYPES,
    IMAGES,
    INSTANCE_TYPES,
    NEW_REGIONS,
    REGIONS,
    Image,
    InstanceType,
    default_image,
    region_body,
)
from .errors import ApiError, invalid, missing
from .faults import INSTANCE, LAUNCH, Faults
from .instance import Fate, Instance
from .settings import Clock, Settings

OWNER = {"id": "0" * 31 + "1", "email": "rehearsal@example.com", "status": "active"}
SSH_ONLY = {
    "protocol": "tcp",
    "port_range": [22, 22],
    "source_network": "0.0.0.0/0",
    "description": "Allow SSH from anywhere",
}


class Power(Protocol):
    """What gives instances their machines: power.Machines."""

    def start(self, instance: Instance, public_keys: list[str]) -> None: ...

    def end(self, instance: Instance) -> None: ...

    def restart(self, instance: Instance) -> None: ...


@dataclass
class SSHKey:
    id: str
    name: str
    public_key: str

    def body(self) -> dict[str, Any]:
        return {"id": self.id, "name": self.name, "public_key": self.public_key}


@dataclass
class Filesystem:
    id: str
    name: str
    region: str
    created: str


@dataclass
class Effects:
    """What a request did, for the journal."""

    launched: list[str] = field(default_factory=list)
    terminated: list[str] = field(default_factory=list)


class Account:
    """Keys, filesystems and instances; every method is one operation and may raise ApiError."""

    def __init__(self, settings: Settings, clock: Clock, faults: Faults, power: Power, seed: int):
        self.settings = settings
        self.clock = clock
        self.faults = faults
        self.power = power
        self.lock = threading.RLock()
        self.capacity: dict[str, tuple[str, ...]] = dict(CAPACITY)
        self.keys: list[SSHKey] = []
        self.filesystems: list[Filesystem] = []
        self.instances: list[Instance] = []
        self.firewall_rules: list[dict[str, Any]] = [dict(SSH_ONLY)]
        self._random = random.Random(f"ids {seed}")

    def change_settings(self, settings: Settings) -> None:
        """Behave otherwise from now on, also towards the instances that there are."""
        with self.lock:
            self.settings = settings
            for instance in self.instances:
                instance.settings = settings

    # --- the catalogue --------------------------------------------------------------------------

    def regions(self) -> tuple[str, ...]:
        old = self.settings.deployment == "old"
        return tuple(name for name in REGIONS if not (old and name in NEW_REGIONS))

    def types(self) -> dict[str, InstanceType]:
        future = self.settings.deployment == "future"
        return INSTANCE_TYPES | FUTURE_TYPES if future else INSTANCE_TYPES

    def list_instance_types(self) -> dict[str, Any]:
        return {
            name: {
                "instance_type": row.body(),
                "regions_with_capacity_available": [
                    region_body(region) for region in self.capacity.get(name, ()) if region in self.regions()
                ],
            }
            for name, row in self.types().items()
        }

    def list_regions(self) -> list[dict[str, Any]]:
        if self.settings.deployment == "old":
            raise ApiError("global/not-found")
        return [region_body(name) for name in self.regions()]

    def list_images(self) -> list[dict[str, Any]]:
        return [image.body(region) for image in IMAGES for region in self.regions()]

    # --- ssh keys -------------------------------------------------------------------------------

    def list_ssh_keys(self) -> list[dict[str, Any]]:
        with self.lock:
            return [key.body() for key in self.keys]

    def add_ssh_key(self, body: Any) -> dict[str, Any]:
        body = requests.json_object(body)
        name = requests.text(body, "name", least=1, most=64)
        public = requests.string(body, "public_key", least=1, most=4096, required=False)
        if public is not None and not is_public_key(public):
            raise invalid("public_key", "Invalid public key")
        with self.lock:
            taken = any(key.name == name for key in self.keys)
            if taken and self.settings.duplicate_key_names == "refuse":
                raise ApiError("global/duplicate", f"An SSH key named {name!r} exists already.")
            private, public = ("", public) if public is not None else generate_key()
            key = SSHKey(self._new_id(), name, public.strip())
            self.keys.append(key)
        return {**key.body(), **({"private_key": private} if private else {})}

    def delete_ssh_key(self, key_id: str) -> dict[str, Any]:
        requests.check_id(key_id)
        with self.lock:
            kept = [key for key in self.keys if key.id != key_id]
            if len(kept) == len(self.keys):
                raise missing("SSH key", key_id)
            self.keys = kept
        return {}

    # --- filesystems ----------------------------------------------------------------------------

    def list_filesystems(self) -> list[dict[str, Any]]:
        with self.lock:
            return [self._filesystem_body(filesystem) for filesystem in self.filesystems]

    def create_filesystem(self, body: Any) -> dict[str, Any]:
        body = requests.json_object(body)
        name = requests.text(body, "name", least=1, most=60, pattern=requests.FILESYSTEM_NAME)
        region = requests.text(body, "region")
        if region not in self.regions():
            raise invalid("region", f"Region {region!r} does not exist")
        with self.lock:
            if any(filesystem.name == name for filesystem in self.filesystems):
                raise ApiError("global/duplicate", f"A filesystem named {name!r} exists already.")
            if len(self.filesystems) >= self.settings.quota_filesystems:
                raise ApiError("global/quota-exceeded")
            created = datetime.datetime.now(datetime.UTC).isoformat()
            filesystem = Filesystem(self._new_id(), name, region, created)
            self.filesystems.append(filesystem)
            return self._filesystem_body(filesystem)

    def delete_filesystem(self, filesystem_id: str) -> dict[str, Any]:
        requests.check_id(filesystem_id)
        with self.lock:
            found = [f for f in self.filesystems if f.id == filesystem_id]
            if not found:
                raise ApiError("global/object-does-not-exist", "Filesystem was not found.")
            if self._is_in_use(found[0]):
                raise ApiError("filesystems/filesystem-in-use")
            self.filesystems.remove(found[0])
        return {"deleted_ids": [filesystem_id]}

    def _filesystem_body(self, filesystem: Filesystem) -> dict[str, Any]:
        return {
            "id": filesystem.id,
            "name": filesystem.name,
            "mount_point": f"/lambda/nfs/{filesystem.name}",
            "created": filesystem.created,
            "created_by": dict(OWNER),
            "is_in_use": self._is_in_use(filesystem),
            "region": region_body(filesystem.region),
            "bytes_used": 0,
        }

    def _is_in_use(self, filesystem: Filesystem) -> bool:
        now = self.clock.now()
        return any(
            filesystem.id == mounted
            for instance in self.instances
            for _, mounted, _ in instance.mounts
            if instance.status(now) != "terminated"
        )

    # --- firewall -------------------------------------------------------------------------------

    def list_firewall_rules(self) -> list[dict[str, Any]]:
        with self.lock:
            return list(self.firewall_rules)

    def set_firewall_rules(self, body: Any) -> list[dict[str, Any]]:
        rules = requests.objects(requests.json_object(body), "data")
        if rules is None:
            raise invalid("data", "Field required")
        for rule in rules:
            requests.text(rule, "protocol", pattern="tcp|udp|icmp|all")
            requests.text(rule, "source_network")
            requests.text(rule, "description", most=128)
        with self.lock:
            self.firewall_rules = rules
            return list(rules)

    # --- instances ------------------------------------------------------------------------------

    def list_instances(self) -> list[dict[str, Any]]:
        with self.lock:
            now = self.clock.now()
            return [i.body(now) for i in self.instances if i.status(now) not in ("", "terminated")]

    def get_instance(self, instance_id: str) -> dict[str, Any]:
        requests.check_id(instance_id)
        with self.lock:
            return self._visible(instance_id).body(self.clock.now())

    def change_instance(self, instance_id: str, body: Any) -> dict[str, Any]:
        requests.check_id(instance_id)
        body = requests.json_object(body)
        name = requests.string(body, "name", most=64, required=False)
        tags = requests.tags(body)
        with self.lock:
            instance = self._visible(instance_id)
            instance.name = instance.name if name is None else name
            instance.tags = instance.tags if tags is None else tags
            return instance.body(self.clock.now())

    def launch(self, body: Any, effects: Effects) -> dict[str, Any]:
        """Rent one instance; refusals come in the order in which the real API gives them."""
        wish = requests.launch(body)
        with self.lock:
            kind, image = self._check_names(wish)
            self._check_capacity(wish)
            mounts = self._mounts(wish)
            instance = self._new_instance(wish, kind, image, mounts)
            keys = [key.public_key for key in self.keys if key.name in wish.ssh_key_names]
            self.power.start(instance, keys)
            self.instances.append(instance)
            effects.launched.append(instance.id)
        return {"instance_ids": [instance.id]}

    def terminate(self, body: Any, effects: Effects) -> dict[str, Any]:
        """Terminate what exists; a terminated one does not exist any more."""
        with self.lock:
            chosen = self._chosen(requests.instance_ids(body))
            now = self.clock.now()
            booting = [i for i in chosen if i.status(now) == "booting"]
            if booting and self.settings.terminate_booting == "refuse":
                raise ApiError("global/invalid-parameters", "The instance has not launched yet.")
            for instance in chosen:
                if instance.terminate_s > now:
                    instance.terminate_s = now
                    self.power.end(instance)
                    effects.terminated.append(instance.id)
            return {"terminated_instances": [i.body(now) for i in chosen]}

    def restart(self, body: Any) -> dict[str, Any]:
        with self.lock:
            chosen = self._chosen(requests.instance_ids(body))
            now = self.clock.now()
            if any(not i.body(now)["actions"]["restart"]["available"] for i in chosen):
                raise ApiError("global/conflict")
            for instance in chosen:
                instance.restart_s = now
                self.power.restart(instance)
            return {"restarted_instances": [i.body(now) for i in chosen]}

    # --- helpers --------------------------------------------------------------------------------

    def _new_id(self) -> str:
        return f"{self._random.getrandbits(128):032x}"

    def _visible(self, instance_id: str) -> Instance:
        now = self.clock.now()
        found = [i for i in self.instances if i.id == instance_id and i.status(now)]
        hidden = self.settings.after_the_end == "404"
        if not found or (hidden and found[0].status(now) == "terminated"):
            raise ApiError("global/object-does-not-exist")
        return found[0]

    def _chosen(self, ids: tuple[str, ...]) -> list[Instance]:
        """Return the instances of these ids; an unknown one is a 404 or is passed over."""
        chosen = []
        for instance_id in dict.fromkeys(ids):
            try:
                instance = self._visible(instance_id)
                if instance.status(self.clock.now()) == "terminated":
                    raise ApiError("global/object-does-not-exist")
            except ApiError:
                if self.settings.terminate_unknown == "404" or len(ids) == 1:
                    raise
                continue
            chosen.append(instance)
        return chosen

    def _check_names(self, wish: requests.Launch) -> tuple[InstanceType, Image]:
        kind = self.types().get(wish.type)
        if kind is None:
            raise missing("Instance type", wish.type)
        if wish.region not in self.regions():
            raise missing("Region", wish.region)
        for name in wish.ssh_key_names:
            if all(key.name != name for key in self.keys):
                raise missing("SSH key", name)
        return kind, self._image(wish, kind)

    def _image(self, wish: requests.Launch, kind: InstanceType) -> Image:
        if wish.image is None:
            return default_image(kind.architecture)
        for image in IMAGES:
            wished = {"family": image.family, "id": image.image_id}.items() & wish.image.items()
            if wished and image.architecture == kind.architecture:
                return image
        raise missing("Image", str(wish.image))

    def _check_capacity(self, wish: requests.Launch) -> None:
        struck = self.faults.strike(LAUNCH, f"{wish.type} {wish.region} {wish.name or ''}")
        kinds = [fault.kind for fault in struck]
        if wish.region not in self.capacity.get(wish.type, ()) or "no-capacity" in kinds:
            raise ApiError("instance-operations/launch/insufficient-capacity")
        now, quota = self.clock.now(), self.settings.quota_instances
        alive = [i for i in self.instances if i.status(now) != "terminated"]
        if "quota" in kinds or (quota is not None and len(alive) >= quota):
            raise ApiError("global/quota-exceeded")

    def _mounts(self, wish: requests.Launch) -> tuple[tuple[str, str, str], ...]:
        by_name = {f.name: f for f in self.filesystems}
        by_id = {f.id: f for f in self.filesystems}
        mounts = {}
        for name in wish.file_system_names:
            if name not in by_name:
                raise missing("Filesystem", name)
            mounts[by_name[name].id] = f"/lambda/nfs/{name}"
        for mount_point, filesystem_id in wish.file_system_mounts:
            if filesystem_id not in by_id:
                raise missing("Filesystem", filesystem_id)
            mounts[filesystem_id] = mount_point
        if any(by_id[its_id].region != wish.region for its_id in mounts):
            raise ApiError("instance-operations/launch/file-system-in-wrong-region")
        return tuple((at, its_id, by_id[its_id].name) for its_id, at in mounts.items())

    def _new_instance(
        self,
        wish: requests.Launch,
        kind: InstanceType,
        image: Image,
        mounts: tuple[tuple[str, str, str], ...],
    ) -> Instance:
        private_ip = f"10.19.{self._random.randint(0, 255)}.{self._random.randint(2, 254)}"
        return Instance(
            id=self._new_id(),
            type=kind,
            region=wish.region,
            image=image,
            name=wish.name,
            hostname=wish.hostname or private_ip.replace(".", "-"),
            ssh_key_names=wish.ssh_key_names,
            mounts=mounts,
            tags=wish.tags or (),
            firewall_rulesets=wish.firewall_rulesets,
            fate=self._fate(f"{wish.type} {wish.region} {wish.name or ''}"),
            launched_s=self.clock.now(),
            address="",
            private_ip=private_ip,
            jupyter_token=self._new_id(),
            settings=self.settings,
        )

    def _fate(self, subject: str) -> Fate:
        struck = {fault.kind: fault for fault in self.faults.strike(INSTANCE, subject)}
        names = ("unhealthy", "stuck-booting", "silent-ssh", "no-ip", "no-private-ip", "cuda-802")
        fields: dict[str, Any] = {name.replace("-", "_"): name in struck for name in names}
        for kind, name, default in (
            ("slow-boot", "slowness", 5.0),
            ("slow-list", "listed_after_s", 30.0),
            ("preempted", "preempted_after_s", 60.0),
            ("shut-down", "shut_down_after_s", 60.0),
        ):
            if kind in struck:
                fields[name] = struck[kind].number(default)
        if "unknown-status" in struck:
            fields["unknown_status"] = struck["unknown-status"].text or "provisioning"
        return Fate(**fields)


def is_public_key(text: str) -> bool:
    """Return whether a text looks like a public key in one of the forms the API takes."""
    if text.startswith(("-----BEGIN ", "---- BEGIN ")):
        return True
    words = text.split()
    if len(words) < 2 or "\n" in text.strip():
        return False
    with contextlib.suppress(ValueError):
        blob = base64.b64decode(words[1], validate=True)
        length = int.from_bytes(blob[:4], "big")
        return blob[4 : 4 + length].decode("ascii", "replace") == words[0]
    return False


def generate_key() -> tuple[str, str]:
    """Return a new RSA key pair: (PEM text, public line)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "key")
        command = ["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-m", "PEM", "-N", "", "-C", ""]
        subprocess.run([*command, "-f", path], check=True, stdin=subprocess.DEVNULL)
        return path.read_text(), path.with_suffix(".pub").read_text().strip()
