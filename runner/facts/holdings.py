"""What a machine holds that would be lost with it: runs that are alive, artifacts that are not here."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path

from runner.facts.fact import Result
from runner.plan.command import Word, quote, spell


@dataclass(frozen=True)
class HeldRun:
    """A run's folder on the machine, below its root."""

    folder: str
    is_alive: bool

    @property
    def name(self) -> str:
        """`0003-train`."""
        return self.folder.rpartition("/")[2]

    @property
    def phase(self) -> str:
        """The phase's folder, below the root."""
        return self.folder.rsplit("/", 2)[0]


@dataclass(frozen=True)
class HeldFile:
    """An artifact on the machine. `sum` is its sha256, or for a link `-> ` and what it says."""

    path: str
    size: int
    sum: str

    @property
    def phase(self) -> str:
        """The phase's folder, below the root."""
        return "/".join(self.path.split("/")[:2])

    @property
    def in_phase(self) -> str:
        """The path below the phase's folder."""
        return "/".join(self.path.split("/")[2:])


@dataclass(frozen=True)
class Holdings:
    """Everything of value there; `answered` is False when nobody could look, and `said` is why."""

    answered: bool
    runs: tuple[HeldRun, ...] = ()
    files: tuple[HeldFile, ...] = ()
    said: str = ""


# A run is alive while a process holds its lock, or, where there is none, while its process is there.
# Of each phase: what its runs declared as artifacts, and what this configuration declares ("$@": phase,
# artifact, phase, artifact …). A link out of the phase leads to nothing that is ours.
INVENTORY = r"""
cd {root} 2>/dev/null || {{ printf 'end\0'; exit 0; }}
shopt -s nullglob
alive() {{ [ ! -e "$1"/exit_code ] && if [ -e "$1"/lock ]; then ! flock -n -s "$1"/lock true
  else kill -0 "$(cat "$1"/pid 2>/dev/null)" 2>/dev/null; fi; }}
for run in */*/runs/*/; do
  run=${{run%/}}
  if alive "$run"; then printf 'alive/%s\0' "$run"; else printf 'over/%s\0' "$run"; fi
done
{{ for list in */*/runs/*/artifacts; do
    while IFS= read -r -d '' name; do printf '%s\0' "${{list%%/runs/*}}/$name"; done <"$list"
  done
  for name in "$@"; do printf '%s\0' "$name"; done
}} | LC_ALL=C sort -zu | while IFS= read -r -d '' name; do
  find "./$name" \( -type f -o -type l \) -print0 2>/dev/null
done | LC_ALL=C sort -zu | while IFS= read -r -d '' file; do
  phase=$(realpath -m "$(printf %s "$file" | cut -d/ -f1-3)")
  if [ -L "$file" ]; then
    to=$(readlink "$file"; echo /); to=${{to%??}}
    case "$(realpath -m "$file")" in "$phase"/*) printf 'file/0/-> %s\0%s\0' "$to" "$file";; esac
  else printf 'file/%s/%s\0%s\0' "$(stat -c %s "$file")" "$(sha256sum <"$file" | cut -c1-64)" "$file"; fi
done
printf 'end\0'
"""


def inventory(root: Word, declared: Mapping[str, tuple[str, ...]]) -> str:
    """The script that lists a machine's holdings; `declared` is phase folder → artifacts."""
    names = [f"{folder}/{name.rstrip('/')}" for folder, own in sorted(declared.items()) for name in own]
    return f"set -- {' '.join(map(quote, names))}\n{INVENTORY.format(root=spell(root))}"


def read_holdings(result: Result) -> Holdings:
    """The records of INVENTORY; a list without its end is no list."""
    records = [os.fsdecode(record) for record in result.stdout.split(b"\0")]
    if not result.ok or records[-2:] != ["end", ""]:
        said = result.stderr.decode(errors="replace").strip().splitlines()
        return Holdings(False, said=said[-1] if said else f"exit code {result.exit_code}")
    runs: list[HeldRun] = []
    files: list[HeldFile] = []
    rest = iter(records[:-2])
    for record in rest:
        kind, _, text = record.partition("/")
        if kind in ("alive", "over"):
            runs.append(HeldRun(text, kind == "alive"))
        elif kind == "file":
            size, _, total = text.partition("/")
            files.append(HeldFile(next(rest).removeprefix("./"), int(size), total))
    return Holdings(True, tuple(runs), tuple(files))


def is_here(file: HeldFile, root: Path) -> bool:
    """Whether the same path here has the same content, by checksum."""
    path = root / file.path
    try:
        if file.sum.startswith("-> "):
            said = os.readlink(path) if path.is_symlink() else None  # noqa: PTH115  Path would tidy it
            return said == file.sum.removeprefix("-> ")
        if path.is_symlink() or not path.is_file() or path.stat().st_size != file.size:
            return False
        with path.open("rb") as opened:
            return file_digest(opened, "sha256").hexdigest() == file.sum
    except OSError:
        return False
