"""What a machine says of itself over ssh: reachability, CUDA, runs, and every file with its checksum."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from runner.machines.lambda_api import CloudInstance
from runner.plan.command import Command, identity_of, shim_question
from runner.plan.settings import Settings
from runner.research_log.runs import METRICS, Progress, RunState, RunStatus, progress_of, whole_lines
from runner.shim import NOT_ASKED
from runner.world.world import Fact, Result, documents_of

NOT_REACHED = 255  # how a question ends when there is no link; with any other code something answered


@dataclass(frozen=True)
class HeldRun:
    """A run's folder on the machine, relative to the root."""

    folder: str
    status: RunStatus

    @property
    def is_alive(self) -> bool:
        """Whether its processes run."""
        return self.status.state is RunState.RUNNING


@dataclass(frozen=True)
class RemoteFile:
    """A file on the machine; `path` is relative to the root, `size` is None for a link.

    `checksum` is open, unreadable or outside where there is none. `stamp` changes whenever the file does.
    `was_pushed`: it came from a home of the runner's, and nobody changed it since.
    """

    path: str
    checksum: str
    size: int | None
    stamp: str = ""
    was_pushed: bool = False

    @property
    def told(self) -> str:
        """Its path, and what is the matter where that is not only that it is missing here."""
        why = {
            "open": " (it is being written)",
            "unreadable": " (cannot be read there)",
            "outside": " (a link that leads out of the root)",
        }
        return self.path + why.get(self.checksum, "")


@dataclass(frozen=True)
class HomeEntry:
    """A file or folder in the home folder beside the root; `stamp` changes when anything in it does."""

    name: str
    num_files: int
    num_bytes: int
    stamp: str

    @property
    def path(self) -> str:
        """`~/data`."""
        return f"~/{self.name}"

    @property
    def told(self) -> str:
        """`~/data (3 files, 1.2 GB)`."""
        files = "1 file" if self.num_files == 1 else f"{self.num_files} files"
        return f"{self.path} ({files}, {_size(self.num_bytes)})"


def _size(num_bytes: int) -> str:
    """`1.2 GB`."""
    size = float(num_bytes)
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"


@dataclass(frozen=True)
class MachineContents:
    """All runs, every file below the root that is not ours to make again, and what is beside the root."""

    runs: tuple[HeldRun, ...] = ()
    files: tuple[RemoteFile, ...] = ()
    home: tuple[HomeEntry, ...] = ()


def ask_contents(
    question: Callable[..., Command], venv: str, only_stamps: bool = False
) -> Fact[MachineContents | None]:
    """What the machine holds; None when it cannot be seen. `question` makes a question to the machine.

    `only_stamps`: what is there, without the checksums, which may take minutes.
    """
    words = ("look", "--home", "--without", venv, *(["--stamps"] if only_stamps else []))
    return Fact(question(*words), _read_contents)


def _read_contents(result: Result) -> MachineContents | None:
    documents = documents_of(result)
    if not documents and documents != []:
        return None
    runs = tuple(_held_run(told["run"]) for told in documents if "run" in told)
    files = tuple(_remote_file(told["file"]) for told in documents if "file" in told)
    if any(file.path == "." for file in files):
        return None  # the root itself cannot be read
    home = tuple(_home_entry(told["home"]) for told in documents if "home" in told)
    return MachineContents(runs, files, home)


def _home_entry(told: dict[str, Any]) -> HomeEntry:
    stamp = f"{told['files']} {told['bytes']} {told['newest']}"
    return HomeEntry(told["name"], told["files"], told["bytes"], stamp)


def _held_run(told: dict[str, Any]) -> HeldRun:
    return HeldRun(told["folder"], RunStatus(RunState(told["state"]), told.get("exit_code")))


def _remote_file(told: dict[str, Any]) -> RemoteFile:
    state = told["state"]
    checksum = str(told.get("sha256", "")) if state in ("file", "link") else state
    size = None if state == "link" else told["size"]
    return RemoteFile(told["path"], checksum, size, told["stamp"], bool(told.get("pushed")))


def states(held: MachineContents) -> tuple[tuple[str, str], ...]:
    """Each run and each file with its state: when one changes, so does this."""
    runs = [(run.folder, f"{run.status.state} {run.status.exit_code}") for run in held.runs]
    files = [(file.path, file.stamp) for file in held.files]
    return tuple(sorted(runs + files + [(entry.path, entry.stamp) for entry in held.home]))


def is_here(file: RemoteFile, root: Path) -> bool:
    """Whether the file is here too, byte for byte."""
    path = root / file.path
    if file.size is None:
        return path.is_symlink() and _link_checksum(path) == file.checksum
    if path.is_symlink() or not path.is_file() or path.stat().st_size != file.size:
        return False
    digest = sha256()
    with path.open("rb") as stream:
        while part := stream.read(1 << 20):
            digest.update(part)
    return digest.hexdigest() == file.checksum


def _link_checksum(path: Path) -> str:
    """Of what a link says and a newline, as `readlink | sha256sum` has it."""
    return sha256(os.fsencode(path.readlink()) + b"\n").hexdigest()


_CUDA_OK, _CUDA_ABSENT, _CUDA_BROKEN = 0, 100, 802


@dataclass(frozen=True)
class SshAnswer:
    """Whether a question was answered as a whole; else what was said instead.

    255 is the exit code where there is no link; with any other something answered, but not to the question.
    """

    answered: bool
    said: str = ""
    exit_code: int = 0

    @property
    def is_reached(self) -> bool:
        """Whether somebody is there at all, who said what this is not."""
        return self.answered or (self.exit_code != NOT_REACHED and NOT_ASKED in self.said)


@dataclass(frozen=True)
class Cuda:
    """What cuInit returned: 0 is a working GPU, 802 one that will never be; None: no driver at all."""

    code: int | None
    said: str = ""

    @property
    def works(self) -> bool:
        """Whether programs can compute there."""
        return self.code == _CUDA_OK


@dataclass(frozen=True)
class RemoteRun:
    """A run's folder on the machine. `state` is running, ended or lost; `progress` what it measured last."""

    folder: str
    state: str
    exit_code: int | None
    touched_s_ago: float
    progress: Progress | None = None

    @property
    def name(self) -> str:
        """`0003-train`."""
        return self.folder.rpartition("/")[2]

    @property
    def is_running(self) -> bool:
        """Whether its processes are alive."""
        return self.state == "running"

    def document(self, gpu_percent: int | None) -> dict[str, object]:
        """As JSON; the machine's GPU counts for a run while it runs."""
        now = self.progress
        return {
            "run": self.folder,
            "state": self.state,
            "exit_code": self.exit_code,
            "step": now.step if now else None,
            "metrics": dict(now.metrics) if now else {},
            "throughput": dict(now.throughput) if now else {},
            "gpu_percent": gpu_percent if self.is_running else None,
        }


@dataclass(frozen=True)
class Activity:
    """What the machine itself says. `gpu_percent` is of its busiest GPU, None without one.

    `has_drifted`: the packages of the shared environment are not those that the last setup left.
    """

    up_s: float
    gpu_percent: int | None
    runs: tuple[RemoteRun, ...]
    has_drifted: bool = False

    @property
    def idle_s(self) -> float:
        """For how long nothing ran: since the last run was touched, else since it came up."""
        if (self.gpu_percent or 0) > 0 or any(run.is_running for run in self.runs):
            return 0.0
        return min([self.up_s, *(run.touched_s_ago for run in self.runs)])


def host_key_alias(instance_id: str) -> str:
    """The name under which a machine's host key is remembered, so that a recycled address is a new host."""
    return f"fractal-{instance_id}"


def known_hosts(settings: Settings) -> Path:
    """The file of host keys that is ours."""
    return settings.paths.state / "known_hosts"


def direct_question(settings: Settings, machine: CloudInstance, root: str, *words: str) -> Command:
    """What the shim is asked on the machine by its address; the key of a new host is kept.

    It needs no entry in any configuration.
    """
    identity = identity_of(settings)
    options = (
        f"HostKeyAlias={host_key_alias(machine.id)}",
        f"UserKnownHostsFile={_config_path(known_hosts(settings))}",
        "StrictHostKeyChecking=accept-new",
        "ControlPath=none",
        f"Port={settings.ssh.port}",
        *((f"IdentityFile={_config_path(identity)}", "IdentitiesOnly=yes") if identity else ()),
    )
    there = settings.ssh.config if settings.ssh.config.exists() else Path("/dev/null")
    config = None if settings.ssh.is_default else there
    return shim_question(f"{settings.ssh.user}@{machine.ip}", root, words, config, options)


def _config_path(path: Path) -> str:
    """A path as a value of OpenSSH's configuration: quoted, `%` doubled."""
    return '"' + str(path).replace("%", "%%") + '"'


def ask_reach(settings: Settings, machine: CloudInstance) -> Fact[SshAnswer]:
    """Whether a command can be run there, and is answered as a whole."""
    return Fact(direct_question(settings, machine, ".", "reach"), read_answer)


def read_answer(result: Result) -> SshAnswer:
    """Whether there was a whole answer; else all that was said, for the progress and the diagnosis."""
    if documents_of(result) is not None:
        return SshAnswer(True, exit_code=result.exit_code)
    said = " ".join(result.stderr.decode(errors="replace").split())
    return SshAnswer(False, said or f"exit code {result.exit_code}", result.exit_code)


def is_cuda_wanted(settings: Settings, machine: CloudInstance) -> bool:
    """Whether its GPU should compute; `instance=local` says nothing of a rented machine."""
    is_asked = settings.instance.cuda or settings.instance.is_local
    return is_asked and not machine.type.startswith("cpu_")


def ask_cuda(settings: Settings, machine: CloudInstance) -> Fact[Cuda | None]:
    """What the CUDA driver says when it is started; None when the machine does not answer."""
    return Fact(direct_question(settings, machine, ".", "cuda"), _read_cuda)


def _read_cuda(result: Result) -> Cuda | None:
    documents = documents_of(result)
    return Cuda(documents[0]["cuda"], documents[0]["said"]) if documents else None


def ask_inside(settings: Settings, machine: CloudInstance) -> Fact[Activity | None]:
    """Runs, GPU use and uptime; None where the machine does not answer."""
    words = ("status", "--venv", settings.remote.venv, "--metrics", METRICS)
    return Fact(direct_question(settings, machine, settings.remote.root, *words), read_inside)


def read_inside(result: Result) -> Activity | None:
    """What `status` answers."""
    documents = documents_of(result)
    if not documents:
        return None
    (told,) = documents
    return Activity(
        up_s=told["up_s"],
        gpu_percent=max(told["gpu_percent"], default=None),
        runs=tuple(map(_run_in, told["runs"])),
        has_drifted=told["drifted"],
    )


def _run_in(row: dict[str, Any]) -> RemoteRun:
    """A run, from its row."""
    progress = progress_of(whole_lines(row["metrics"]))
    return RemoteRun(row["folder"], row["state"], row.get("exit_code"), row["touched_s_ago"], progress)
