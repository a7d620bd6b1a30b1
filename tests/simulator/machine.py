"""A machine for tests: an sshd with a home of its own, a link to cut, and power that can fail.

    with Machine() as machine:
        machine.ssh("nvidia-smi -L")        # or: ssh -F machine.ssh_config lambda …
        machine.cut(); machine.heal(); machine.reset(); machine.reboot()

As root on Linux a machine has namespaces of its own (network, processes, mounts, host name, ipc),
the user `ubuntu`, and sees of this host only its programs, /opt and what `share` names. Otherwise
it is a plain loopback sshd of the current user with another HOME, that sees everything. It is
reached at `address`:`port` on this host, through the link of its keeper. It ends with the `with`
block, and also when the test is killed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import getpass
import json
import os
import random
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from .closing import Closing

HERE = Path(__file__).resolve().parent
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
NEEDED_PROGRAMS = ("sshd", "ssh", "ssh-keygen", "rsync")
REPLY_LIMIT_S = 90.0
# Neither root, who owns the host's files, nor 1000, who may own them in a container.
UBUNTU_ID = 51022
POWER_NAMES = ("poweroff", "shutdown", "halt", "reboot")
SSHD_OPTIONS = {  # what Ubuntu ships, and what a fast and harmless sshd needs
    "KexAlgorithms": "curve25519-sha256,curve25519-sha256@libssh.org,ecdh-sha2-nistp256",
    "MaxSessions": "10",
    "MaxStartups": "10:30:100",
    "PasswordAuthentication": "no",
    "KbdInteractiveAuthentication": "no",
    "PermitRootLogin": "no",
    "PrintMotd": "no",
    "UseDNS": "no",
    "UsePAM": "no",
}
UBUNTU_ENV = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/games",
    "LANG": "C.UTF-8",
}
PROFILE = """\
if [ -f "$HOME/.bashrc" ]; then . "$HOME/.bashrc"; fi
if [ -d "$HOME/.local/bin" ]; then PATH="$HOME/.local/bin:$PATH"; fi
"""
BASHRC = "case $- in *i*) ;; *) return ;; esac\n"


class MachineError(Exception):
    """The machine could not do what was asked of it; the message holds the end of its console."""


@dataclasses.dataclass(frozen=True)
class Gpu:
    """What nvidia-smi and the CUDA driver say; `cuda` is what cuInit returns (0, 802)."""

    count: int = 1
    name: str = "NVIDIA A100-SXM4-40GB"
    memory_mib: int = 40960
    utilization: int = 0
    memory_used_mib: int = 4
    cuda: int = 0


NO_GPU = Gpu(count=0, cuda=100)


@functools.cache
def missing_programs() -> tuple[str, ...]:
    """Return the programs that machines need and that are not installed here."""
    return tuple(name for name in NEEDED_PROGRAMS if not program(name))


def program(name: str) -> str | None:
    """Return the path of a program, looked for in the folders of the administrator too."""
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{SBIN}")


@functools.cache
def can_have_namespaces() -> bool:
    """Return whether this process may make namespaces and mount in them."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return False
    words = "mount -t tmpfs x /mnt && ip link set lo up"
    own = ["--net", "--mount", "--pid", "--uts", "--ipc"]
    command = ["unshare", *own, "--fork", "bash", "-c", words]
    try:
        return subprocess.run(command, capture_output=True, timeout=10).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


@functools.cache
def cuda_library() -> bytes | None:
    """Return the CUDA driver's stand-in, compiled; None where there is no C compiler.

    Without a compiler a machine has nvidia-smi but no libcuda.so.1, as a machine without a driver.
    """
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "libcuda.so.1")
        command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(output), str(HERE / "libcuda.c")]
        done = subprocess.run(command, capture_output=True)
        return output.read_bytes() if done.returncode == 0 else None


def random_address() -> str:
    """Return a loopback address that nobody else is likely to use; macOS has only one."""
    if sys.platform != "linux":
        return "127.0.0.1"
    chosen = random.SystemRandom()
    return f"127.{chosen.randint(64, 127)}.{chosen.randint(0, 255)}.{chosen.randint(2, 254)}"


def random_port() -> int:
    """Return a free port below those that the system gives to clients."""
    while True:
        port = random.SystemRandom().randint(20000, 32000)
        with socket.socket() as sock:
            try:
                sock.bind(("", port))
            except OSError:
                continue
        return port


def make_key(path: Path, comment: str) -> str:
    """Write a new key pair at path and return its public line."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return path.with_name(path.name + ".pub").read_text().strip()


class Machine(Closing):
    """One machine, on when the constructor returns unless `boot=False`; see the module's docstring.

    `authorized_keys` are public lines; without any, a key is made and `ssh_config` names it.
    `share` lists files and folders of this host that the machine sees at the same place.
    `mounts` maps places in the machine to folders of this host; a plain machine has none of them.
    `network="host"`: the machine uses this host's network (for package registries), not its own.
    `disk_mb`: its home is that small, in memory, and lost by a reboot.
    `remove_folder`: at the end; by default only a folder that was made here.
    `on_power(word)` is called when it ended by itself: "poweroff", "reboot" or "exit N".
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        alias: str = "lambda",
        mode: str = "auto",
        network: str = "own",
        address: str | None = None,
        port: int = 0,
        authorized_keys: Sequence[str] = (),
        gpu: Gpu = Gpu(),
        hostname: str = "lambda-test",
        architecture: str = "x86_64",
        share: Sequence[str | Path] = (),
        mounts: Mapping[str, Path] | None = None,
        disk_mb: int = 0,
        sshd_options: Mapping[str, str] | None = None,
        on_power: Callable[[str], None] | None = None,
        remove_folder: bool | None = None,
        boot: bool = True,
    ) -> None:
        if missing_programs():
            raise MachineError(f"not installed: {', '.join(missing_programs())}")
        self.mode = mode if mode != "auto" else "namespaces" if can_have_namespaces() else "plain"
        self.user = "ubuntu" if self.mode == "namespaces" else getpass.getuser()
        self.alias, self.hostname, self.pid = alias, hostname, 0
        self._owns_folder = folder is None if remove_folder is None else remove_folder
        self.folder = Path(folder or tempfile.mkdtemp(prefix="machine-"))
        self.inside = self.folder / "inside"
        self.disk_mb = disk_mb if self.mode == "namespaces" else 0
        self.has_own_network = self.mode == "namespaces" and network == "own"
        self._on_power = on_power
        self._write_folder(share, mounts or {})
        self._write_commands(architecture)
        self.gpu = gpu
        self.set_gpu()
        self.identity = self.folder / "id" if not authorized_keys else None
        own = [make_key(self.identity, "test")] if self.identity else []
        self._write_home([*own, *authorized_keys])
        self.host_key = make_key(self.inside / "etc/host_key", self.hostname)
        self._start_keeper(address, port)
        self._write_sshd_config(sshd_options or {})
        self.ssh_config = self._write_ssh_config()
        if boot:
            self._boot_or_close()

    # --- power and link -----------------------------------------------------------------------

    def boot(self) -> None:
        """Switch the machine on; returns when sshd greets. Nothing happens when it is on."""
        (self.inside / "boot_id").write_text(f"{uuid.uuid4()}\n")
        self.pid = int(self._order("boot")["pid"])

    def halt(self, silently: bool = False) -> None:
        """Switch it off: every process ends. Silently: its connections hang, as without power."""
        self._order("halt", silently=silently)
        self.pid = 0

    def reboot(self) -> None:
        """Switch it off and on: /home and /tmp stay, processes end, the boot id changes."""
        self.halt()
        self.boot()

    def cut(self) -> None:
        """Let nothing through the link until `heal`; no connection is closed, new ones hang."""
        self._order("cut")

    def heal(self) -> None:
        """Mend the link: what was held back is delivered, as TCP does."""
        self._order("heal")

    def reset(self) -> None:
        """Reset every open connection at both ends."""
        self._order("reset")

    def stats(self) -> dict[str, int]:
        """Return open `connections`, `accepted` ones since the start, and `bytes` relayed."""
        return self._order("stats")

    def close(self) -> None:
        """End the machine and everything in it, and remove its folder if it is ours."""
        self.pid = 0
        self._end_keeper()
        if self._owns_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    # --- what is in it ------------------------------------------------------------------------

    @property
    def home(self) -> Path:
        """The user's home, seen from this host."""
        if self.disk_mb:
            return Path(f"/proc/{self.pid}/root/home/ubuntu")
        return self.inside / "home/ubuntu"

    @property
    def has_cuda(self) -> bool:
        """Whether libcuda.so.1 is found in it; false too where no compiler could make it."""
        return (self.inside / "lib/libcuda.so.1").exists()

    def ssh(self, command: str, *options: str, **words: Any) -> subprocess.CompletedProcess[str]:
        """Run a command on the machine by the OpenSSH client and return what came of it."""
        line = ["ssh", "-F", str(self.ssh_config), *options, self.alias, command]
        defaults = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
        return subprocess.run(line, **{**defaults, **words})

    def processes(self) -> dict[int, str]:
        """Return the machine's processes, sshd's own among them: id on this host → command line."""
        found = {}
        for pid in _below(self._keeper.pid):
            try:
                line = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            found[pid] = line.replace(b"\0", b" ").decode(errors="replace").strip()
        return found

    def command(self, name: str, script: str) -> None:
        """Give the machine a command of its own, which comes before the host's of that name."""
        path = self.inside / "bin" / name
        path.unlink(missing_ok=True)
        path.write_text(script)
        path.chmod(0o755)

    def set_gpu(self, **changes: Any) -> None:
        """Change what nvidia-smi and CUDA say: fields of `Gpu`; read anew at every call in it."""
        self.gpu = gpu = dataclasses.replace(self.gpu, **changes)
        lines = [
            f"{n},{gpu.name},GPU-{uuid.uuid5(uuid.NAMESPACE_DNS, str(n))},{gpu.utilization},"
            f"{gpu.memory_used_mib},{gpu.memory_mib}\n"
            for n in range(gpu.count)
        ]
        _replace(self.inside / "gpus", "".join(lines))
        _replace(self.inside / "cuda", f"{gpu.cuda} {gpu.count} {gpu.memory_mib} {gpu.name}\n")
        library = cuda_library()
        if gpu.count and library and not self.has_cuda:
            (self.inside / "lib/libcuda.so.1").write_bytes(library)

    # --- making it ----------------------------------------------------------------------------

    def _write_folder(self, share: Sequence[str | Path], mounts: Mapping[str, Path]) -> None:
        inside = self.inside
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        for name in ("home/ubuntu/.ssh", "tmp", "bin", "lib", "etc"):
            (inside / name).mkdir(parents=True, exist_ok=True)
        for path in (inside, *inside.glob("*"), inside / "home/ubuntu"):
            path.chmod(0o755)
        (inside / "tmp").chmod(0o1777)
        os.mkfifo(inside / "power")
        (inside / "power").chmod(0o666)
        (inside / "home/ubuntu/.ssh").chmod(0o700)
        self._write_accounts()
        shared = [str(path) for path in (*share, *self._link_python())]
        pairs = [*((path, path) for path in shared), *((str(f), at) for at, f in mounts.items())]
        flat = [word for pair in pairs for word in pair]
        (inside / "machine.conf").write_text(
            f"MODE={self.mode}\nSSHD={shlex.quote(program('sshd') or 'sshd')}\n"
            f"HOSTNAME_INSIDE={shlex.quote(self.hostname)}\nSHARE=({shlex.join(flat)})\n"
            f"DISK_MB={self.disk_mb}\nOWN_NETWORK={int(self.has_own_network)}\n"
        )

    def _write_accounts(self) -> None:
        entries = {
            "passwd": f"ubuntu:x:{UBUNTU_ID}:{UBUNTU_ID}:Ubuntu:/home/ubuntu:/bin/bash",
            "group": f"ubuntu:x:{UBUNTU_ID}:",
            "shadow": "ubuntu:*:19000:0:99999:7:::",
        }
        for name, entry in entries.items() if self.mode == "namespaces" else ():
            lines = Path("/etc", name).read_text().splitlines()
            kept = [line for line in lines if not line.startswith("ubuntu:")]
            (self.inside / "etc" / name).write_text("\n".join([*kept, entry]) + "\n")
            (self.inside / "etc" / name).chmod(0o600 if name == "shadow" else 0o644)
        (self.inside / "etc/hostname").write_text(f"{self.hostname}\n")
        (self.inside / "etc/hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {self.hostname}\n")

    def _link_python(self) -> tuple[str, ...]:
        """Where there is no /usr/bin/python3, give it the tests' own; return what to share."""
        if self.mode != "namespaces" or Path("/usr/bin/python3").exists():
            return ()
        (self.inside / "bin/python3").symlink_to(Path(sys.base_prefix, "bin/python3"))
        return () if sys.base_prefix.startswith(("/usr/", "/opt/")) else (sys.base_prefix,)

    def _write_commands(self, architecture: str) -> None:
        names = {"nvidia-smi": "nvidia-smi", "sudo": "sudo"}
        names |= dict.fromkeys(POWER_NAMES, "power")
        if architecture == "arm64":
            names["uname"] = "uname"
        for name, source in names.items():
            self.command(name, (HERE / "commands" / source).read_text())

    def _write_home(self, authorized_keys: Sequence[str]) -> None:
        home = self.inside / "home/ubuntu"
        (home / ".ssh/authorized_keys").write_text("".join(f"{key}\n" for key in authorized_keys))
        (home / ".ssh/authorized_keys").chmod(0o600)
        (home / ".profile").write_text(PROFILE)
        (home / ".bashrc").write_text(BASHRC)
        if self.mode == "namespaces":
            for path in (home, *home.rglob("*")):
                os.chown(path, UBUNTU_ID, UBUNTU_ID)

    def _start_keeper(self, address: str | None, port: int) -> None:
        for _ in range(20):
            self.address, self.port = address or random_address(), port or random_port()
            self._set_sshd_place()
            self._spawn_keeper()
            first = self._reply()
            if "ready" in first:
                return
            self._end_keeper()
            if address and port:
                break
        raise MachineError(f"{self.address}:{self.port}: {first['error']}")

    def _set_sshd_place(self) -> None:
        """Port 22 in a network of its own; else a free one beside the link's."""
        self._sshd_address, self._sshd_port = "127.0.0.1", 22
        if not self.has_own_network:
            self._sshd_address = self.address
            self._sshd_port = random_port()

    def _spawn_keeper(self) -> None:
        orders = {
            "command": self._boot_command(),
            "folder": str(self.folder),
            "address": self.address,
            "port": self.port,
            "sshd_address": self._sshd_address,
            "sshd_port": self._sshd_port,
            "own_network": self.has_own_network,
            "remove_folder": self._owns_folder,
        }
        self._lock = threading.Lock()
        self._replies: Queue[dict[str, Any]] = Queue()
        # A session of its own: Ctrl-C is for the test, which then ends the machine in order.
        self._keeper = subprocess.Popen(
            [sys.executable, "-I", "-S", str(HERE / "keeper.py"), json.dumps(orders)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, "PATH": f"{os.environ.get('PATH', os.defpath)}:{SBIN}"},
        )
        self._reader = threading.Thread(target=self._read_keeper, args=(self._keeper,), daemon=True)
        self._reader.start()

    def _end_keeper(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            if self._keeper.stdin:
                self._keeper.stdin.close()
        try:
            self._keeper.wait(REPLY_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._keeper.kill()
            self._keeper.wait()
        self._reader.join()
        if self._keeper.stdout:
            self._keeper.stdout.close()

    def _boot_command(self) -> list[str]:
        """Return the command line of the machine's first process, which dies with its keeper."""
        tie = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        boot = ["/bin/bash", str(HERE / "boot.sh"), str(self.inside)]
        if self.mode == "plain":
            return [*tie, *boot]
        own = ["--mount", "--pid", "--uts", "--ipc", *(["--net"] if self.has_own_network else [])]
        return [*tie, "unshare", *own, "--fork", "--kill-child", *boot]

    @property
    def _sshd_config(self) -> Path:
        return self.inside / "etc/sshd_config"

    def _write_sshd_config(self, changes: Mapping[str, str]) -> None:
        seen = self.inside if self.mode == "plain" else Path("/run/machine")
        options = {
            "ListenAddress": self._sshd_address,
            "Port": str(self._sshd_port),
            "HostKey": f"{seen}/etc/host_key",
            "PidFile": "none",
            "Subsystem": f"sftp {_sftp_server()}",
            **SSHD_OPTIONS,
            **(self._plain_options() if self.mode == "plain" else {"SetEnv": _set_env(**UBUNTU_ENV)}),
            **changes,
        }
        lines = [f"{key} {value}\n" for key, value in options.items()]
        self._sshd_config.write_text("".join(lines))
        if self.mode == "plain" and os.geteuid() == 0:
            Path("/run/sshd").mkdir(parents=True, exist_ok=True)

    def _plain_options(self) -> dict[str, str]:
        """Another HOME for the current user; sessions would start in the real one by themselves."""
        home = self.inside / "home/ubuntu"
        path = f"{self.inside}/bin:{os.environ.get('PATH', os.defpath)}"
        enter = 'cd "$HOME" && if [ -n "$SSH_ORIGINAL_COMMAND" ]; then '
        enter += 'exec /bin/bash -c "$SSH_ORIGINAL_COMMAND"; else exec /bin/bash -l; fi'
        places = {"HOME": home, "PATH": path, "MACHINE_FOLDER": self.inside}
        return {
            "StrictModes": "no",
            "PermitRootLogin": "prohibit-password",
            "AuthorizedKeysFile": f"{home}/.ssh/authorized_keys",
            "SetEnv": _set_env(**places, LD_LIBRARY_PATH=self.inside / "lib"),
            "ForceCommand": enter,
        }

    def _write_ssh_config(self) -> Path:
        place = self.address if self.port == 22 else f"[{self.address}]:{self.port}"
        known_hosts = self.folder / "known_hosts"
        known_hosts.write_text(f"{place} {' '.join(self.host_key.split()[:2])}\n")
        options = {
            "HostName": self.address,
            "Port": self.port,
            "User": self.user,
            **({"IdentityFile": self.identity, "IdentitiesOnly": "yes"} if self.identity else {}),
            "IdentityAgent": "none",
            "UserKnownHostsFile": known_hosts,
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes",
            "BatchMode": "yes",
            "ConnectTimeout": 20,
            "LogLevel": "ERROR",
        }
        lines = [f"Host {self.alias}\n", *(f"  {key} {value}\n" for key, value in options.items())]
        path = self.folder / "ssh_config"
        path.write_text("".join(lines))
        return path

    def _boot_or_close(self) -> None:
        try:
            self.boot()
        except MachineError:
            self.close()
            raise

    # --- talking to the keeper ----------------------------------------------------------------

    def _order(self, do: str, **words: object) -> dict[str, Any]:
        with self._lock:
            line = json.dumps({"do": do, **words}) + "\n"
            stdin = self._keeper.stdin
            if stdin is None or stdin.closed:
                raise MachineError(f"cannot {do}: the machine was closed")
            try:
                stdin.write(line.encode())
                stdin.flush()
            except BrokenPipeError:
                raise MachineError(f"cannot {do}: the machine's keeper was killed") from None
            reply = self._reply()
        if "error" in reply:
            raise MachineError(f"cannot {do}: {reply['error']}")
        return dict(reply["done"])

    def _reply(self) -> dict[str, Any]:
        try:
            return self._replies.get(timeout=REPLY_LIMIT_S)
        except Empty:
            raise MachineError("the machine's keeper does not answer") from None

    def _read_keeper(self, keeper: subprocess.Popen[bytes]) -> None:
        assert keeper.stdout
        for line in keeper.stdout:
            words = json.loads(line)
            if "event" not in words:
                self._replies.put(words)
                continue
            self.pid = int(words.get("pid", 0))
            if self._on_power:
                self._on_power(words["event"])
        self._replies.put({"error": "the machine's keeper ended"})


def _set_env(**values: object) -> str:
    """Return sshd's SetEnv argument; sshd heeds one such line only."""
    return " ".join(f'"{name}={value}"' for name, value in values.items())


def _sftp_server() -> str:
    """Return the external server, which heeds HOME, or the internal one where there is none."""
    folders = ("/usr/lib/openssh", "/usr/libexec", "/usr/lib/ssh")
    places = (f"{folder}/sftp-server" for folder in folders)
    return next((place for place in places if Path(place).exists()), "internal-sftp")


def _replace(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old text or the new one."""
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    new.replace(path)


def _below(pid: int) -> list[int]:
    """Return the processes that descend from pid."""
    done = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True)
    pairs = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    found, queue = [], [pid]
    while queue:
        parent = queue.pop()
        below = [child for child, its_parent in pairs if its_parent == parent]
        found += below
        queue += below
    return found
