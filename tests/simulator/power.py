"""Gives every simulated instance a real machine, and carries out on it what the cloud decides."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from .instance import Instance
from .machine import (
    UBUNTU_ID,
    Machine,
    MachineError,
    can_have_namespaces,
    random_address,
    random_port,
)
from .settings import Clock

LOOK_EVERY_S = 0.2  # how late a machine may notice that the clock was advanced


class Addresses:
    """Hands out loopback addresses, the last one returned first when they are recycled."""

    def __init__(self) -> None:
        self._returned: list[str] = []
        self._lock = threading.Lock()

    def take(self, recycle: bool) -> str:
        with self._lock:
            return self._returned.pop() if recycle and self._returned else random_address()

    def give_back(self, address: str) -> None:
        with self._lock:
            self._returned.append(address)


class Machines:
    """The machines of a cloud by instance id; all use `ssh_port`, each its own address."""

    def __init__(
        self,
        mode: str,
        ssh_port: int,
        folder: Path,
        clock: Clock,
        network: str,
        share: Sequence[str],
    ) -> None:
        found = "namespaces" if can_have_namespaces() else "plain"
        self.mode = found if mode == "auto" else mode
        self.ssh_port = ssh_port or random_port()
        self.folder = folder
        self.clock = clock
        self.network = network
        self.share = share
        self.addresses = Addresses()
        self.by_id: dict[str, Machine] = {}
        self._ends: dict[str, threading.Event] = {}
        self._threads: list[threading.Thread] = []

    def start(self, instance: Instance, public_keys: Sequence[str]) -> None:
        """Give an instance its address, and its machine, which boots when its time has come."""
        recycle = instance.settings.recycle_ips
        instance.address = self.addresses.take(recycle)
        if self.mode == "none" or instance.fate.silent_ssh or instance.fate.unhealthy:
            return
        self.by_id[instance.id] = self._make(instance, public_keys)
        instance.machine_up = instance.machine_ended = False
        self._ends[instance.id] = threading.Event()
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        self._run(self._live, instance)

    def end(self, instance: Instance) -> None:
        """End an instance's machine and everything in it; returns at once."""
        if instance.id in self._ends:
            self._ends[instance.id].set()
        else:
            self.addresses.give_back(instance.address)

    def restart(self, instance: Instance) -> None:
        """Reboot an instance's machine; returns at once."""
        if machine := self.by_id.get(instance.id):
            self._run(self._attempt, instance, machine.reboot)

    def close(self) -> None:
        """End all machines."""
        for end in self._ends.values():
            end.set()
        for thread in self._threads:
            thread.join()

    def _make(self, instance: Instance, public_keys: Sequence[str]) -> Machine:
        folder = self.folder / "machines" / instance.id
        gpu = instance.type.gpu()

        def ended(word: str) -> None:
            if word != "reboot":
                instance.off_s = self.clock.now()

        for _ in range(10):
            try:
                machine = Machine(
                    folder,
                    mode=self.mode,
                    network=self.network,
                    address=instance.address,
                    port=self.ssh_port,
                    authorized_keys=public_keys,
                    gpu=gpu,
                    hostname=instance.hostname or "lambda",
                    architecture=instance.type.architecture,
                    share=self.share,
                    mounts=self._mounts(instance),
                    on_power=ended,
                    remove_folder=True,
                    boot=False,
                )
            except MachineError as error:
                problem = error
                instance.address = random_address()
                shutil.rmtree(folder, ignore_errors=True)
                continue
            if instance.fate.cuda_802:
                machine.set_gpu(cuda=802)
            return machine
        raise problem

    def _mounts(self, instance: Instance) -> dict[str, Path]:
        mounts = {}
        for at, filesystem_id, _ in instance.mounts:
            mounts[at] = path = self.folder / "filesystems" / filesystem_id
            path.mkdir(parents=True, exist_ok=True)
            if self.mode == "namespaces":
                shutil.chown(path, UBUNTU_ID, UBUNTU_ID)
        return mounts

    def _live(self, instance: Instance) -> None:
        """Boot in time, fail in time, and end when asked to."""
        machine = self.by_id[instance.id]
        if not self._wait_until(instance, instance.ssh_s):
            self._attempt(instance, machine.boot)
            instance.machine_up = True
            fails_s = min(instance.preempted_s, instance.active_s + instance.fate.shut_down_after_s)
            if not self._wait_until(instance, fails_s):
                silently = instance.preempted_s <= instance.shut_down_s
                self._attempt(instance, lambda: machine.halt(silently))
                self._ends[instance.id].wait()
        machine.close()
        self.addresses.give_back(instance.address)
        instance.machine_ended = True

    def _wait_until(self, instance: Instance, simulated_s: float) -> bool:
        """Wait for a time; return whether the instance was ended before."""
        end = self._ends[instance.id]
        while (missing_s := self.clock.real(simulated_s - self.clock.now())) > 0:
            if end.wait(min(missing_s, LOOK_EVERY_S)):
                return True
        return end.is_set()

    def _attempt(self, instance: Instance, action: Callable[[], None]) -> None:
        try:
            action()
        except MachineError as error:
            instance.machine_error = str(error)

    def _run(self, action: Callable[..., None], *words: object) -> None:
        thread = threading.Thread(target=action, args=words, daemon=True)
        self._threads.append(thread)
        thread.start()
