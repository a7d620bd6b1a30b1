"""What a machine holds: its runs, and the files they made with their checksums."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path, PurePosixPath

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
HOLDINGS = """\
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
class HeldFile:
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
class Holdings:
    """All runs on the machine, and all that they have to bring home.

    `stamps` is the same at the moment before, with a stamp of time and size in the place of a checksum.
    """

    runs: tuple[HeldRun, ...] = ()
    files: tuple[HeldFile, ...] = ()
    stamps: "Holdings | None" = None


def ask_holdings(
    over_ssh: Callable[[Command], Command],
    root: str,
    research_log: str,
    declared: Mapping[str, tuple[str, ...]] | None = None,
    only_stamps: bool = False,
) -> Fact[Holdings | None]:
    """What the machine holds; None when it cannot be seen. `research_log` is the folder's name.

    `declared`: phase → its artifacts, for phases whose runs did not leave word of them.
    `only_stamps`: what is there, without the checksums, which may take minutes.
    """
    cases = [
        f"{quote(f'{research_log}/{phase}')}) {listing(names)};;"
        for phase, names in sorted((declared or {}).items())
        if names
    ]
    at = spell(home_or_path(root))
    body = "\n".join(
        [
            f"cd {at} 2>/dev/null || {{ [ -e {at} ] || [ -L {at} ] || exit 0; exit 1; }}; [ -r . ] || exit 1",
            FILE_STATE,
            RECORDS,
            f"run_state() {{ {STATE}\n}}",
            'declared() { case "$folder" in ' + " ".join(cases) + " esac; }",
            f"log={quote(research_log)}",
            HOLDINGS,
            "stamps || exit" + ("" if only_stamps else r'; printf "then/\0"; holdings'),
        ]
    )
    return Fact(over_ssh(Command(body)), read_holdings)


def listing(names: tuple[str, ...]) -> str:
    """The command that prints these names, each with a NUL behind it."""
    return sh("printf", r"%s\0", *(name.rstrip("/") for name in names)).text


def read_holdings(result: Result) -> Holdings | None:
    """The stamps, `then/`, and the same with checksums; the first alone where only they were asked for."""
    if not result.ok:
        return None
    records = list(map(os.fsdecode, result.stdout.split(b"\0")))
    if "then/" not in records:
        return held_in(records)
    at = records.index("then/")
    return replace(held_in(records[at + 1 :]), stamps=held_in(records[:at]))


def held_in(records: list[str]) -> Holdings:
    """`run/ended 0/<folder>`, `folder/<folder>` and then `checksum/size/./name` of its files."""
    runs: list[HeldRun] = []
    files: list[HeldFile] = []
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
            files.append(HeldFile(path, first, int(size) if size.isdigit() else None))
    return Holdings(tuple(runs), tuple(files))


def states(held: Holdings) -> tuple[tuple[str, str], ...]:
    """Each run and each file with its state: when one changes, so does this."""
    runs = [(run.folder, f"{run.status.state} {run.status.exit_code}") for run in held.runs]
    return tuple(sorted(runs + [(file.path, file.checksum) for file in held.files]))


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
