"""What an executor is: four pure answers about a job's run; nothing here touches the world."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from runner.plan.command import Command, quote, sh
from runner.plan.plan import Step, WriteFile
from runner.plan.settings import Job, Value, script_text
from runner.research_log.runs import RunPaths, RunStatus
from runner.world.world import Fact


@dataclass(frozen=True)
class RunFile:
    """A text file of the run's folder that the job reads; its lines are part of the plan."""

    name: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Submission:
    """A job on its way to a run: the script as a command from the root, and where it leaves its traces."""

    command: Command
    paths: RunPaths
    files: tuple[RunFile, ...] = ()
    moves_old_log: bool = False  # run.log is a file from before the runner, to be kept
    code: str = ""  # the digest of the phase's code
    secrets: tuple[str, ...] = ()  # variables of the caller that the job gets by name
    artifacts: tuple[str, ...] = ()  # what has to come home
    is_adhoc: bool = False  # a command of the person: it runs also where there is no environment yet


class Executor(Protocol):
    """How a job starts, is watched, is read and is stopped."""

    def submit(self, submission: Submission) -> tuple[Step, ...]:
        """The steps that start the job and stay until it ended."""

    def state(self, paths: RunPaths) -> Fact[RunStatus]:
        """The question where the run is."""

    def logs(self, paths: RunPaths, lines: int | None) -> tuple[Step, ...]:
        """Show the run's log: its last lines, or all of it until the run ends, with the job's exit code."""

    def stop(self, paths: RunPaths) -> Step:
        """End the run: TERM, then KILL for what ignores it."""


def job_command(job: Job, script: str) -> Command:
    """`env … python script --key=value …`; a value reaches the script as it is.

    Python is unbuffered so that the log is as live as the job.
    """
    env = [f"{name}={value}" for name, value in job.env if value is not None]
    words = [word for key, value in job.args for word in _argument(key, value)]
    return sh("env", "PYTHONUNBUFFERED=1", *env, "python", script, *words)


def _argument(key: str, value: Value) -> tuple[str, ...]:
    """The words of one argument: `--key=value`, `--key v w` for a list, none for null."""
    if value is None:
        return ()
    if isinstance(value, tuple):
        return (f"--{key}", *map(script_text, value))
    return (f"--{key}={script_text(value)}",)


def write_file(root: Path, submission: Submission) -> tuple[Step, ...]:
    """The steps that write the run's files here; none of them is there yet."""
    folder = root / submission.paths.folder
    files = [
        WriteFile(str(folder / f.name), "".join(f"{line}\n" for line in f.lines)) for f in submission.files
    ]
    return tuple(Step("configs", file) for file in files)


def claim_folder(submission: Submission) -> Command:
    """The run's folder as `$run`, and `run.log` as a link to this run's log.

    A `run.log` that is a file from before moves into the run's folder.
    """
    paths = submission.paths
    named = Command(f"run={quote(str(paths.folder))}") & Command('mkdir -p "$run"')
    link = sh("ln", "-sfn", f"runs/{paths.folder.name}/log", paths.newest_log)
    if submission.moves_old_log:
        named = named & Command(f'mv {quote(str(paths.newest_log))} "$run"/run.log.before')
    return named & link


# Space on the disk that is given back when the job is over, so that its last words fit on a full one.
_RESERVED = 'head -c 16384 /dev/zero > "$run"/reserved'
CUT_SHORT = "[runner] the log stops here: it could not be written any further"


# Whoever holds the run's lock belongs to it, and so does the log, which is written by a tee that outlives
# the signals that stop the job. What the job leaves behind on its output is waited for five seconds;
# tee goes on for it, and holds nothing that the caller waits for. It is over when `reserved` is gone. The
# last line of the log says where a full disk cut it off.
_LOGGED = """\
exec 7> >(trap '' INT TERM HUP; exec 2>/dev/null 6>&1 9>&-
  said=$(tee -a "$run"/log 2>&1 >&6) || {{
    : >"$run"/reserved; printf '%s\\n' "$said" {cut_short} | tee -a "$run"/log; }}
  rm -f "$run"/reserved); tee=$!"""

# flock(2) by whichever program is there: Linux has flock, macOS has perl.
_LOCKED = """exec 9>>"$run"/lock
flock -w 5 9 2>/dev/null || perl -e 'open(F, ">&=9"); alarm 5; flock(F, 2)' 2>/dev/null"""
FREE = """\
free() { [ ! -e "$run"/lock ] || (
  { flock -n -s 9 || perl -e 'open(F, "<&=9") and flock(F, 5) or exit 1'; } 2>/dev/null 9<"$run"/lock); }"""

# Where `$run` is the run's folder, `free` tells whether nobody holds its lock, and `by` is what ps calls
# the group that all of a run has to itself: TERM to all of its processes, then KILL to those that are
# left. Its processes are those who hold the lock, all below them and all of their group, wherever they
# went meanwhile. The last line of the lock names the three that end by themselves: the keeper, who
# writes the exit code; the leader of the group; tee. They are frozen while they are counted, so that
# none starts another behind our back. One that has just begun is waited for until it says who it is.
STOP = """\
holders() {
  if [ -d /proc/self/fd ]; then
    for fd in /proc/[0-9]*/fd/*; do
      [ ! "$fd" -ef "$run"/lock ] || { fd=${fd#/proc/}; echo "${fd%%/*}"; }
    done
  else lsof -t "$run"/lock; fi 2>/dev/null; }
members() { { echo $(holders) $all; ps -A -o pid= -o ppid= -o $by= -o stat=; } |
  awk -v keeper="$keeper" -v leader="$leader" -v tee="$tee" -v job="$job" '
    NR == 1 { for (i = 1; i <= NF; i++) ours[$i]; next }
    { up[$1] = $2; of[$1] = $3; if ($4 !~ /^Z/) alive[$1] }
    END {
      for (p in ours) if (of[p] > 1 && of[p] == leader) group = leader
      for (p in alive) {
        is = 0
        for (q = p; q > 1 && q in up && q != tee; q = up[q])
          if (q in ours || group && of[q] == group) is = 1
        if (is && q != tee && p != keeper && p != leader && (up[p] != keeper || p == job)) print p
      } }' | sort -n; }
end_all() {
  trap "" INT TERM HUP
  for _ in 1 2 3 4 5; do
    now=$(members); [ "$now" != "$all" ] || break
    all=$now; kill -STOP $all
  done
  kill -TERM $all; kill -CONT $all
  trap - INT TERM HUP; }
over() { [ -e "$run"/exit_code ] || free; }
over || {
  for _ in $(seq 30); do
    read -r keeper leader tee < <(tail -n 1 "$run"/lock); job=$(cat "$run"/pid)
    [ -z "$keeper" ] || [ -z "$job" ] || break; sleep 0.1
  done
  [ -n "$keeper" ] || leader=$(ps -o ppid= -p "$job" | tr -d " ") keeper=$leader
  end_all; end=$((SECONDS+10))
  while left=$(members); [ -n "$left" ] && [ $SECONDS -lt $end ]; do sleep 0.1; done
  while [ $SECONDS -lt $((end+10)) ]; do
    [ -z "$left" ] || kill -KILL $left
    left=$(members); [ -z "$left" ] && over && break; sleep 0.1
  done; } 2>/dev/null
over && [ -z "$left" ] || { echo "the run is still alive: $left" >&2; exit 70; }
if read -r code 2>/dev/null <"$run"/exit_code; then echo "ended with exit code $code"
else echo "gone, without an exit code"; fi"""


def logged(command: Command, before: Command) -> Command:
    """The job, logged, with `pid` while it runs and `exit_code`, written last and at once, when it ended.

    Runs where `$run` is the run's folder. `before` (activating an environment) may fail and is logged
    too; the job then replaces the shell, so that the exit code and the pid are its own. The trap keeps
    the outer shell alive through Ctrl-C and TERM to write the code; it is `:` rather than the empty
    string, which children would inherit. What bash says of a job that a signal ended is its code.
    """
    job = f"sh -c 'echo $PPID' >\"$run\"/pid; {before.text} && exec {command.text}"
    return Command(
        f"(trap : INT TERM HUP\n{_LOCKED}\n{_RESERVED}\n{_LOGGED.format(cut_short=quote(CUT_SHORT))}\n"
        f"sh -c 'echo $PPID $0 $1' $$ $tee >&9\n"
        f"{{ ({job}) >&7 2>&1 7>&-; code=$?; }} 2>/dev/null; exec 7>&-\n"
        'for _ in $(seq 250); do [ -e "$run"/reserved ] || break; sleep 0.02; done\n'
        'rm -f "$run"/reserved; echo $code >"$run"/exit_code.new\n'
        'mv "$run"/exit_code.new "$run"/exit_code && rm -f "$run"/lock\n'
        "exit $code)"
    )
