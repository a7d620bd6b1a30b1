"""What a machine says of itself over ssh: reachability, CUDA, runs, and every file with its checksum."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path, PurePosixPath

from runner.machines.lambda_api import CloudInstance
from runner.plan.command import Command, home_or_path, identity_of, quote, sh, shell_word
from runner.plan.settings import Settings
from runner.research_log.runs import METRICS, STATE, Progress, RunState, RunStatus, progress_of, whole_lines
from runner.world.world import Fact, Result

# Checksum and size of a file as it is at this moment; of a link, of what it says. Also for bash 3.
# A file of lines only grows: what it held at one moment is whole. Of no other file is a part any good.
FILE_STATE = """\
of_lines() { case "$1" in *.jsonl|*.log|*.csv|*.tsv|*.txt|*/log) ;; *) false;; esac; }
sum() { { openssl dgst -sha256 -r || sha256sum || shasum -a 256; } 2>/dev/null | cut -c1-64; }
state() {
  if [ -L "$1" ]; then echo "$(readlink "$1" | sum)/link"
  elif [ -f "$1" ]; then size=$(($(wc -c <"$1"))); echo "$(head -c $size "$1" | sum)/$size"
  else echo absent/0; fi; }"""

# Runs on the machine, in a phase's folder: a record `checksum/size/name` for each file behind the names
# that there is, `open/0/name` for one that a process is writing, `unreadable/0/name` for what nobody lets
# us see. A link comes home when it stays inside; what it leads to comes when a name covers it, and
# `outside` is told of it otherwise.
RECORDS = """\
written() {
  [ $(($(date +%s) - $(stat -c %Y "$1"))) -lt 600 ] || return
  for fd in /proc/[0-9]*/fd/*; do
    [ "$fd" -ef "$1" ] || continue
    case "$(sed -n "s/^flags:.*\\(.\\)$/\\1/p" "${fd/fd/fdinfo}" 2>/dev/null)" in 1|2) return 0;; esac
  done; return 1; }
absent() {
  local at=$1; ! { [ -e "$1" ] || [ -L "$1" ]; } || return 1
  until [ -e "$at" ]; do case "$at" in */*) at=${at%/*};; *) at=.;; esac; done; [ -x "$at" ]; }
listing() {
  for name in "$@"; do
    ! absent "$name" || continue
    [ ! -d "$name" ] || name=$name/
    find "$name" -ignore_readdir_race -type d \\( ! -readable -o ! -executable \\) -printf "!%p\\0" -prune \
      -o \\( -type f -o -type l \\) -print0 2>/dev/null || printf "!%s\\0" "$name"
  done; }
covered() { local real; for real in "${reals[@]}"; do case "$1/" in "$real"/*) return;; esac; done; false; }
comes() {
  local to; to=$(realpath -m "$1"); [ ! -e "$1" ] || covered "$to" || outside "$1"
  case "$(readlink "$1")" in /*) false;; *) case "$to" in "$(pwd -P)"/*) true;; *) false;; esac;; esac; }
look() { is=$(state "$1"); [ -L "$1" ] || of_lines "$1" || ! written "$1" || is=open/0; }
records() {
  local real reals=()
  while IFS= read -r -d "" real; do reals+=("$real"); done < <(realpath -mz -- "$@" 2>/dev/null)
  listing "$@" | LC_ALL=C sort -zu | while IFS= read -r -d "" file; do
    case "$file" in !*) printf "unreadable/0/%s\\0" "${file#!}"; continue;; esac
    if [ -L "$file" ]; then comes "$file" || continue; else [ -e "$file" ] || continue; fi
    is=unreadable/0; ! { [ -L "$file" ] || [ -r "$file" ]; } || look "$file"
    printf "%s/%s\\0" "$is" "$file"
  done; }"""

# Runs on the machine, in its root, for each folder that holds runs: of our research log, or of whatever
# another laptop calls its own. What a run has to bring home is written in its folder, and so is what it
# left there; the files by which it is steered are not worth keeping. Artifacts that only the
# configuration knows (somebody ran the script by hand) come on top. Whoever holds a run's lock is alive,
# also when its exit code is known, or its token is not there yet. `stamps` are as good as checksums to see
# that nothing changed.
_CONTENTS = """\
shopt -s nullglob dotglob
outside() { printf "outside/link/%s\\0" "$1"; }
hidden() {
  [ -e "$1" ] && ! { [ -r "$1" ] && [ -x "$1" ]; } && printf "folder/\\0unreadable/0/%s\\0" "$1"; }
holds_runs() {
  local tokens; case "$1" in "$log"|"$log"/*) return;; esac
  [ ! -L "$1" ] && [ ! -L "${1%/*}" ] && tokens=("$1"/runs/*/token) && [ ${#tokens[@]} != 0 ]; }
left() {
  for name in "$1"/*; do case "${name##*/}" in
    token|token.new|lock|pid|exit_code|exit_code.new|artifacts|abandoned|reserved) ;;
    *) printf "%s\\0" "./runs/${1##*/}/${name##*/}";; esac; done
  while IFS= read -r -d "" name; do printf "./%s\\0" "${name%/}"; done <"$1"/artifacts; }
is_alive() { [ -e "$1"/lock ] && ! flock -n -s "$1"/lock true; }
state_of() { if is_alive "$1"; then echo running; else run_state; fi; }
holdings() {
  local folder run name names
  for folder in */ */*/; do
    folder=${folder%/}; ! hidden "$folder" && holds_runs "$folder" || continue
    names=(); while IFS= read -r -d "" name; do names+=("./$name"); done < <(declared)
    hidden "$folder"/runs
    for run in "$folder"/runs/*/; do
      run=${run%/}; ! hidden "$run" && { [ -e "$run"/token ] || is_alive "$run"; } || continue
      printf "run/%s/%s\\0" "$(state_of "$run")" "$run"
      [ ! -e "$run"/artifacts ] || [ -r "$run"/artifacts ] || names+=("./runs/${run##*/}/artifacts")
      while IFS= read -r -d "" name; do names+=("$name"); done < <(left "$run" 2>/dev/null)
    done
    printf "folder/%s\\0" "$folder"
    (cd "$folder" || exit; records "${names[@]}"; true) || exit
  done; }
stamps() { (look() { is=$(stat -c %s-%.Y-%.Z "$1")/0; }; holdings); }"""


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
    """A file that a run made; `path` is relative to the root, `size` is None for a link."""

    path: str
    checksum: str
    size: int | None

    @property
    def told(self) -> str:
        """Its path, and what is the matter where that is not only that it is missing here."""
        why = {"unreadable": " (cannot be read there)", "outside": " (a link to what no artifact names)"}
        return self.path + why.get(self.checksum, "")


@dataclass(frozen=True)
class MachineContents:
    """All runs on the machine, and all that they have to bring home.

    `stamps` is the same at the moment before, with a stamp of time and size in the place of a checksum.
    """

    runs: tuple[HeldRun, ...] = ()
    files: tuple[RemoteFile, ...] = ()
    stamps: "MachineContents | None" = None


def ask_contents(
    over_ssh: Callable[[Command], Command],
    root: str,
    research_log: str,
    declared: Mapping[str, tuple[str, ...]] | None = None,
    only_stamps: bool = False,
) -> Fact[MachineContents | None]:
    """What the machine holds; None when it cannot be seen. `research_log` is the folder's name.

    `declared`: phase → its artifacts, for phases whose runs did not leave word of them.
    `only_stamps`: what is there, without the checksums, which may take minutes.
    """
    cases = [
        f"{quote(f'{research_log}/{phase}')}) {_listing(names)};;"
        for phase, names in sorted((declared or {}).items())
        if names
    ]
    at = shell_word(home_or_path(root))
    body = "\n".join(
        [
            f"cd {at} 2>/dev/null || {{ [ -e {at} ] || [ -L {at} ] || exit 0; exit 1; }}; [ -r . ] || exit 1",
            FILE_STATE,
            RECORDS,
            f"run_state() {{ {STATE}\n}}",
            'declared() { case "$folder" in ' + " ".join(cases) + " esac; }",
            f"log={quote(research_log)}",
            _CONTENTS,
            "stamps || exit" + ("" if only_stamps else r'; printf "then/\0"; holdings'),
        ]
    )
    return Fact(over_ssh(Command(body)), _read_contents)


def _listing(names: tuple[str, ...]) -> str:
    """The command that prints these names, each with a NUL behind it."""
    return sh("printf", r"%s\0", *(name.rstrip("/") for name in names)).text


def _read_contents(result: Result) -> MachineContents | None:
    """The stamps, `then/`, and the same with checksums; the first alone where only they were asked for."""
    if not result.ok:
        return None
    records = list(map(os.fsdecode, result.stdout.split(b"\0")))
    if "then/" not in records:
        return _held_in(records)
    at = records.index("then/")
    return replace(_held_in(records[at + 1 :]), stamps=_held_in(records[:at]))


def _held_in(records: list[str]) -> MachineContents:
    """`run/ended 0/<folder>`, `folder/<folder>` and then `checksum/size/./name` of its files."""
    runs: list[HeldRun] = []
    files: list[RemoteFile] = []
    folder = ""
    for record in records:
        first, _, rest = record.partition("/")
        if first == "run":
            state, _, at = rest.partition("/")
            word, _, code = state.partition(" ")
            runs.append(HeldRun(at, RunStatus(RunState(word), int(code) if code.isdigit() else None)))
        elif first == "folder":
            folder = rest
        elif rest:
            size, _, name = rest.partition("/")
            path = str(PurePosixPath(folder, name))
            files.append(RemoteFile(path, first, int(size) if size.isdigit() else None))
    return MachineContents(tuple(runs), tuple(files))


def states(held: MachineContents) -> tuple[tuple[str, str], ...]:
    """Each run and each file with its state: when one changes, so does this."""
    runs = [(run.folder, f"{run.status.state} {run.status.exit_code}") for run in held.runs]
    return tuple(sorted(runs + [(file.path, file.checksum) for file in held.files]))


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
    """Whether ssh answered; else the last line it said."""

    answered: bool
    said: str = ""


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


def _direct_ssh(settings: Settings, machine: CloudInstance) -> Command:
    """`ssh … user@ip` that needs no entry in any configuration; the key of a new host is kept."""
    options = [
        f"HostKeyAlias={host_key_alias(machine.id)}",
        f"UserKnownHostsFile={_config_path(known_hosts(settings))}",
        "StrictHostKeyChecking=accept-new",
        "BatchMode=yes",
        "ConnectTimeout=8",
        "ServerAliveInterval=5",
        "ServerAliveCountMax=3",
        "ControlPath=none",
        "LogLevel=ERROR",
    ]
    words = [word for option in options for word in ("-o", option)]
    there = settings.ssh.config if settings.ssh.config.exists() else Path("/dev/null")
    config = [] if settings.ssh.is_default else ["-F", str(there)]
    identity = identity_of(settings)
    key = ["-i", str(identity), "-o", "IdentitiesOnly=yes"] if identity else []
    return sh("ssh", *config, *words, *key, "-p", settings.ssh.port, f"{settings.ssh.user}@{machine.ip}")


def _config_path(path: Path) -> str:
    """A path as a value of OpenSSH's configuration: quoted, `%` doubled."""
    return '"' + str(path).replace("%", "%%") + '"'


def on_machine(settings: Settings, machine: CloudInstance, script: str) -> Command:
    """The script, run by bash there whatever the login shell is."""
    words = sh("bash", "-c", script).text
    ssh = _direct_ssh(settings, machine)
    return sh(*ssh.argv, words)


def ask_reach(settings: Settings, machine: CloudInstance) -> Fact[SshAnswer]:
    """Whether a command can be run there."""
    return Fact(on_machine(settings, machine, "true"), _read_reach)


def _read_reach(result: Result) -> SshAnswer:
    """The last line of ssh's complaint, for the progress and the diagnosis."""
    said = result.stderr.decode(errors="replace").strip().splitlines()
    return SshAnswer(result.ok, said[-1] if said else f"exit code {result.exit_code}")


# torch is not there yet, and a happy nvidia-smi does not prove a working GPU: the driver itself is asked.
_CUDA_PROBE = """python3 -c 'import ctypes
try:
    lib = ctypes.CDLL("libcuda.so.1")
except OSError as error:
    print("cuda none", error)
else:
    count, code = ctypes.c_int(0), lib.cuInit(0)
    code = code or lib.cuDeviceGetCount(ctypes.byref(count))
    print("cuda", code if code or count.value else 100)'"""


def is_cuda_wanted(settings: Settings, machine: CloudInstance) -> bool:
    """Whether its GPU should compute; `instance=local` says nothing of a rented machine."""
    is_asked = settings.instance.cuda or settings.instance.is_local
    return is_asked and not machine.type.startswith("cpu_")


def ask_cuda(settings: Settings, machine: CloudInstance) -> Fact[Cuda]:
    """What the CUDA driver says when it is started."""
    return Fact(on_machine(settings, machine, _CUDA_PROBE), _read_cuda)


def _read_cuda(result: Result) -> Cuda:
    """`cuda 802` → 802."""
    text = result.stdout.decode(errors="replace")
    match = re.search(r"^cuda (\d+)", text, re.MULTILINE)
    said = (text.strip() or result.stderr.decode(errors="replace").strip()).splitlines()
    return Cuda(int(match[1]) if match else None, said[-1] if said else f"exit code {result.exit_code}")


# Runs lie below any research log (two clones may differ in its name), those without a phase beside the
# phases; what has no token never began. The metrics of a phase are those of the run that wrote to them
# last: begun before, and not over by then.
INSIDE = """echo "up $(cut -d. -f1 /proc/uptime)"
nvidia-smi --query-gpu=utilization.gpu --format=csv,noheader,nounits 2>/dev/null | sed 's/^/gpu /'
cd {root} 2>/dev/null || exit 0
left=$(cat {venv}/installed.sha256 2>/dev/null)
freeze() {{ PATH=~/.local/bin:$PATH uv pip freeze --python {venv} 2>/dev/null | sha256sum | cut -c1-64; }}
[ -z "$left" ] || [ "$(freeze)" = "$left" ] || echo "drift yes"
now=$(date +%s)
for run in */runs/*/ */*/runs/*/; do
  [ -e "$run/token" ] || continue
  state=lost
  if read -r code 2>/dev/null <"$run/exit_code"; then state=ended:$code
  elif [ -e "$run/lock" ]; then flock -n -s "$run/lock" true || state=running
  elif kill -0 "$(cat "$run/pid" 2>/dev/null)" 2>/dev/null; then state=running; fi
  touched=$(stat -c %Y "$run" "$run/log" "$run/exit_code" 2>/dev/null | sort -n | tail -1)
  echo "run $state $((now - touched)) ${{run%/}}"
  for file in "${{run%runs/*}}{metrics}" "$run/{metrics}"; do
    [ -s "$file" ] && [ "$file" -nt "$run/token" ] || continue
    [ -e "$run/exit_code" ] && [ "$file" -nt "$run/exit_code" ] && continue
    tail -c 16384 "$file" | tail -n 20 | sed 's/^/metrics /'
  done
done"""


def ask_inside(settings: Settings, machine: CloudInstance) -> Fact[Activity | None]:
    """Runs, GPU use and uptime; None where the machine does not answer."""
    root = shell_word(home_or_path(settings.remote.root))
    venv = shell_word(home_or_path(settings.remote.venv))
    script = INSIDE.format(root=root, venv=venv, metrics=METRICS)
    return Fact(on_machine(settings, machine, script), read_inside)


def read_inside(result: Result) -> Activity | None:
    """The lines of INSIDE."""
    lines = [line.split(" ", 1) for line in result.stdout.decode(errors="replace").splitlines()]
    told = [(key, rest[0]) for key, *rest in lines if rest]
    ups = [float(text) for key, text in told if key == "up" and text.strip().isdigit()]
    if not ups:
        return None
    gpus = [int(text) for key, text in told if key == "gpu" and text.strip().isdigit()]
    runs: list[RemoteRun] = []
    metrics: dict[str, list[str]] = {}
    for key, text in told:
        if key == "run":
            runs.append(_read_run(text))
        elif key == "metrics":
            metrics.setdefault(runs[-1].folder, []).append(text)
    measured = {folder: progress_of(whole_lines(lines)) for folder, lines in metrics.items()}
    each = tuple(replace(run, progress=measured.get(run.folder)) for run in runs)
    return Activity(ups[0], max(gpus, default=None), each, has_drifted=("drift", "yes") in told)


def _read_run(text: str) -> RemoteRun:
    """`ended:0 312 research-log/phase12/runs/0001-train`."""
    state, _, rest = text.partition(" ")
    seconds, _, folder = rest.partition(" ")
    word, _, code = state.partition(":")
    return RemoteRun(folder, word, int(code) if code.isdigit() else None, float(seconds or 0))
