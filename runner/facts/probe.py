"""Questions to a rented machine before anything of ours is set up on it: ssh, CUDA, runs, idleness."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from runner.facts.fact import Fact, Result
from runner.facts.lambda_cloud import Rented
from runner.facts.metrics import METRICS, Progress, progress_of, whole_lines
from runner.plan.command import Command, home_or_path, sh, spell
from runner.plan.settings import Settings

CUDA_OK, CUDA_ABSENT, CUDA_BROKEN = 0, 100, 802


@dataclass(frozen=True)
class Reach:
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
        return self.code == CUDA_OK


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
class Inside:
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


def direct_ssh(settings: Settings, machine: Rented) -> Command:
    """`ssh … user@ip` that needs no entry in any configuration; the key of a new host is kept."""
    options = [
        f"HostKeyAlias={host_key_alias(machine.id)}",
        f"UserKnownHostsFile={config_path(known_hosts(settings))}",
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


def config_path(path: Path) -> str:
    """A path as a value of OpenSSH's configuration: quoted, `%` doubled."""
    return '"' + str(path).replace("%", "%%") + '"'


def identity_of(settings: Settings) -> Path | None:
    """The private key: the configured one, else the first of ~/.ssh/id_* that has a public half."""
    if settings.ssh.identity:
        return settings.ssh.identity
    found = sorted(Path.home().glob(".ssh/id_*"))
    return next((p for p in found if p.suffix != ".pub" and p.is_file()), None)


def on_machine(settings: Settings, machine: Rented, script: str) -> Command:
    """The script, run by bash there whatever the login shell is."""
    words = sh("bash", "-c", script).text
    ssh = direct_ssh(settings, machine)
    return sh(*ssh.argv, words)


def ask_reach(settings: Settings, machine: Rented) -> Fact[Reach]:
    """Whether a command can be run there."""
    return Fact(on_machine(settings, machine, "true"), read_reach)


def read_reach(result: Result) -> Reach:
    """The last line of ssh's complaint, for the progress and the diagnosis."""
    said = result.stderr.decode(errors="replace").strip().splitlines()
    return Reach(result.ok, said[-1] if said else f"exit code {result.exit_code}")


# torch is not there yet, and a happy nvidia-smi does not prove a working GPU: the driver itself is asked.
CUDA_PROBE = """python3 -c 'import ctypes
try:
    lib = ctypes.CDLL("libcuda.so.1")
except OSError as error:
    print("cuda none", error)
else:
    count, code = ctypes.c_int(0), lib.cuInit(0)
    code = code or lib.cuDeviceGetCount(ctypes.byref(count))
    print("cuda", code if code or count.value else 100)'"""


def is_cuda_wanted(settings: Settings, machine: Rented) -> bool:
    """Whether its GPU should compute; `instance=local` says nothing of a rented machine."""
    is_asked = settings.instance.cuda or settings.instance.is_local
    return is_asked and not machine.type.startswith("cpu_")


def ask_cuda(settings: Settings, machine: Rented) -> Fact[Cuda]:
    """What the CUDA driver says when it is started."""
    return Fact(on_machine(settings, machine, CUDA_PROBE), read_cuda)


def read_cuda(result: Result) -> Cuda:
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


def ask_inside(settings: Settings, machine: Rented) -> Fact[Inside | None]:
    """Runs, GPU use and uptime; None where the machine does not answer."""
    root = spell(home_or_path(settings.remote.root))
    venv = spell(home_or_path(settings.remote.venv))
    script = INSIDE.format(root=root, venv=venv, metrics=METRICS)
    return Fact(on_machine(settings, machine, script), read_inside)


def read_inside(result: Result) -> Inside | None:
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
            runs.append(read_run(text))
        elif key == "metrics":
            metrics.setdefault(runs[-1].folder, []).append(text)
    measured = {folder: progress_of(whole_lines(lines)) for folder, lines in metrics.items()}
    each = tuple(replace(run, progress=measured.get(run.folder)) for run in runs)
    return Inside(ups[0], max(gpus, default=None), each, has_drifted=("drift", "yes") in told)


def read_run(text: str) -> RemoteRun:
    """`ended:0 312 research-log/phase12/runs/0001-train`."""
    state, _, rest = text.partition(" ")
    seconds, _, folder = rest.partition(" ")
    word, _, code = state.partition(":")
    return RemoteRun(folder, word, int(code) if code.isdigit() else None, float(seconds or 0))
