"""What a machine holds: its runs, and the files they made with their checksums."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from runner.facts.fact import Fact, Result
from runner.facts.run import STATE, RunState, RunStatus
from runner.plan.command import Command, home_or_path, quote, sh, spell

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
# that there is, `open/0/name` for one that a process is writing. A link out of the folder is told and
# left: what it leads to is no product of ours.
RECORDS = """\
written() {
  [ $(($(date +%s) - $(stat -c %Y "$1"))) -lt 600 ] || return
  for fd in /proc/[0-9]*/fd/*; do
    [ "$fd" -ef "$1" ] || continue
    case "$(sed -n "s/^flags:.*\\(.\\)$/\\1/p" "${fd/fd/fdinfo}" 2>/dev/null)" in 1|2) return 0;; esac
  done; return 1; }
inside() { case "$(readlink "$1")" in /*) false;; *)
  case "$(realpath -m "$1")" in "$(pwd -P)"/*) true;; *) false;; esac;; esac; }
records() {
  for name in "$@"; do
    [ ! -d "$name" ] || name=$name/
    find "$name" \\( -type f -o -type l \\) -print0 2>/dev/null
  done | LC_ALL=C sort -zu | while IFS= read -r -d "" file; do
    if [ -L "$file" ] && ! inside "$file"; then
      echo "not brought home: $file, a link out of the phase's folder" >&2
    else
      is=$(state "$file"); [ -L "$file" ] || of_lines "$file" || ! written "$file" || is=open/0
      printf "%s/%s\\0" "$is" "$file"
    fi
  done; }"""

# Runs on the machine, in its root. What a run has to bring home is written in its folder, and so is
# what it left there; the files by which it is steered are not worth keeping. Artifacts that only the
# configuration knows (somebody ran the script by hand) come on top.
HOLDINGS = """\
for folder in {log}/ {log}/*/; do
  folder=${{folder%/}}; names=()
  while IFS= read -r -d '' name; do names+=("./$name"); done < <(declared)
  for run in "$folder"/runs/*/; do
    [ -e "$run"/token ] || continue
    run=${{run%/}}; printf "run/%s/%s\\0" "$(run_state)" "$run"
    while IFS= read -r -d "" name; do names+=("./${{name%/}}"); done < <(cat "$run"/artifacts 2>/dev/null)
    for name in "$run"/*; do case "${{name##*/}}" in token|lock|pid|exit_code|exit_code.new|artifacts) ;;
      *) names+=("./runs/${{run##*/}}/${{name##*/}}");; esac; done
  done
  printf "folder/%s\\0" "$folder"
  (cd "$folder" && records "${{names[@]}}")
done"""


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
class HeldFile:
    """A file that a run made; `path` is relative to the root, `size` is None for a link."""

    path: str
    checksum: str
    size: int | None

    @property
    def told(self) -> str:
        """Its path, and what is the matter where that is not only that it is missing here."""
        why = {"unreadable": " (cannot be read there)", "outside": " (a link out of the folder)"}
        return self.path + why.get(self.checksum, "")


@dataclass(frozen=True)
class Holdings:
    """All runs on the machine, and all that they have to bring home."""

    runs: tuple[HeldRun, ...] = ()
    files: tuple[HeldFile, ...] = ()


def ask_holdings(
    over_ssh: Callable[[Command], Command],
    root: str,
    research_log: str,
    declared: Mapping[str, tuple[str, ...]] | None = None,
) -> Fact[Holdings | None]:
    """What the machine holds; None when it cannot be seen. `research_log` is the folder's name.

    `declared`: phase → its artifacts, for phases whose runs did not leave word of them.
    """
    cases = [
        f"{quote(f'{research_log}/{phase}')}) {listing(names)};;"
        for phase, names in sorted((declared or {}).items())
        if names
    ]
    body = "\n".join(
        [
            f"cd {spell(home_or_path(root))} 2>/dev/null || exit 0",
            FILE_STATE,
            RECORDS,
            f"run_state() {{ {STATE}\n}}",
            'declared() { case "$folder" in ' + " ".join(cases) + " esac; }",
            HOLDINGS.format(log=quote(research_log)),
        ]
    )
    return Fact(over_ssh(Command(body)), read_holdings)


def listing(names: tuple[str, ...]) -> str:
    """The command that prints these names, each with a NUL behind it."""
    return sh("printf", r"%s\0", *(name.rstrip("/") for name in names)).text


def read_holdings(result: Result) -> Holdings | None:
    """`run/ended 0/<folder>`, `folder/<folder>` and then `checksum/size/./name` of its files."""
    if not result.ok:
        return None
    runs: list[HeldRun] = []
    files: list[HeldFile] = []
    folder = ""
    for record in map(os.fsdecode, result.stdout.split(b"\0")):
        first, _, rest = record.partition("/")
        if first == "run":
            state, _, at = rest.partition("/")
            word, _, code = state.partition(" ")
            runs.append(HeldRun(at, RunStatus(RunState(word), int(code) if code.isdigit() else None)))
        elif first == "folder":
            folder = rest
        elif rest:
            size, _, name = rest.partition("/")
            path = f"{folder}/{name.removeprefix('./')}"
            files.append(HeldFile(path, first, int(size) if size.isdigit() else None))
    return Holdings(tuple(runs), tuple(files))


def is_here(file: HeldFile, root: Path) -> bool:
    """Whether the file is here too, byte for byte."""
    path = root / file.path
    if file.size is None:
        return path.is_symlink() and link_checksum(path) == file.checksum
    if path.is_symlink() or not path.is_file() or path.stat().st_size != file.size:
        return False
    digest = sha256()
    with path.open("rb") as stream:
        while part := stream.read(1 << 20):
            digest.update(part)
    return digest.hexdigest() == file.checksum


def link_checksum(path: Path) -> str:
    """Of what a link says and a newline, as `readlink | sha256sum` has it."""
    return sha256(os.fsencode(path.readlink()) + b"\n").hexdigest()
