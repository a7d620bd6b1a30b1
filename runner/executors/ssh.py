"""The executor for a machine behind ssh: jobs run detached there, and are followed from here.

A run's folder on the machine holds, beside what the job puts there:

    token      which plan started it: a run starts once, however often it is asked to
    lock       held (flock) by the run's processes while one of them is alive; names those that keep it
    pid        the job's process
    log        everything the job printed
    exit_code  written last and at once; without it and without a holder of the lock the run is lost

Nothing that happens to the link, to the follower or to this machine reaches the job: it has a session
and descriptors of its own.
"""

from hashlib import sha256
from pathlib import Path

from runner.executors.base import STOP, Submission, write_file
from runner.plan.command import Command, Route, below, home_or_path, quote, sh, shell_word
from runner.plan.plan import Effect, Step
from runner.research_log.runs import ANOTHERS, NO_RUN, STATE, RunPaths, RunStatus, named, read_state, token_in
from runner.world.world import Fact

# Runs on the machine. `run` is the run's folder, `token` this plan's; `job` is the job itself.
# The run's processes are one session without a terminal. tee, in a session of its own, outlives the
# signals that stop the job and a disk that is full; when the job leaves processes behind that keep
# the pipe open, the exit code waits for them five seconds at most. It has its block on the disk
# before the job begins. `trap :` rather than the empty string, which the job would inherit.
# A start that was given up as failed must not happen later: `abandoned` tells one that is merely slow.
_START = """\
detached() {
  trap : INT TERM HUP
  flock -w 5 9 && [ ! -e "$run"/token ] && [ ! -e "$run"/abandoned ] || exit
  : >>"$run"/log
  echo "   " >"$run"/exit_code.new && echo "$token" >"$run"/token.new || exit
  mv "$run"/token.new "$run"/token || exit
  exec 7> >(trap "" INT TERM HUP; exec setsid tee -ia "$run"/log >/dev/null 2>&1 9>&-); tee=$!
  echo "$$ $$ $tee" >&9
  (sh -c "echo \\$PPID" >"$run"/pid; job) >&7 2>&1 7>&-; code=$?
  exec 7>&-
  for _ in $(seq 250); do kill -0 "$tee" 2>/dev/null || break; sleep 0.02; done
  echo "$code" 6<>"$run"/exit_code.new >&6 && truncate -s $((${#code}+1)) "$run"/exit_code.new
  sync "$run"/log "$run"/exit_code.new
  mv "$run"/exit_code.new "$run"/exit_code
}
abandoned() (flock -n 9 && { [ -e "$run"/token ] || : >"$run"/abandoned; })
if [ ! -e "$run"/token ]; then
  rm -f "$run"/abandoned; what="$(declare -p run token; declare -f job detached); detached"
  setsid --fork bash -c "$what" </dev/null >/dev/null 2>&1 9>>"$run"/lock
  for _ in $(seq 500); do [ ! -e "$run"/token ] || break; sleep 0.02; done
  for _ in $(seq 100); do [ ! -e "$run"/token ] && ! abandoned 9>>"$run"/lock || break; sleep 0.1; done
fi
[ -e "$run"/token ] || { echo "the run could not be started, and will not be:"; df -h "$run"; exit 74; } >&2
"""

# A name that is taken there is refused, before anything of ours is there.
_REFUSE = (
    f"""\
if {ANOTHERS}; then
"""
    + """\
  last=$(ls "${run%/*}" | sed -n "s/^0*\\([0-9][0-9]*\\)-.*/\\1/p" | sort -n | tail -n 1)
  echo "${run##*/} was started on this machine by another plan: another laptop, or a fresh clone."
  printf "Nothing was started. The next free number is %04d: add run=%04d\\n" $((last+1)) $((last+1))
  exit 77
fi >&2"""
)

# Before what is meant for a run of ours: the same name may stand for another's.
_OURS = f"""\
if {ANOTHERS}; then
  echo "${{run##*/}} on this machine was started by another plan: another laptop, or a fresh clone" >&2
  exit {NO_RUN}
fi
[ -e "$run"/token ] || exit {NO_RUN}"""

# Streams the log from byte `at` until the run is over. The waiting process is what tail watches.
_STREAM = f"""\
{_OURS}
until [ -e "$run"/exit_code ] || flock -n -s "$run"/lock true; do
  [ -e "$run"/token ] || exit; sleep 0.2; done & over=$!
tail -c +$((at+1)) -f -s 0.1 --pid=$over "$run"/log; code=$?
kill $over 2>/dev/null; exit $code"""

# How the run ended (or that it is lost), and the size and checksum of its log. A pipe would take as long
# as the checksum; it is needed only where somebody whom the job left behind still writes.
_ENDED = (
    f"{_OURS}\n"
    + """\
code=$(cat "$run"/exit_code 2>/dev/null) || code=lost; size() { stat -c %s "$run"/log; }
sum() { { openssl dgst -sha256 -r 2>/dev/null || sha256sum; } | cut -c1-64; }
size=$(size); sum=$(sum <"$run"/log); [ "$(size)" = $size ] || sum=$(head -c $size "$run"/log | sum)
echo $code $size $sum"""
)

# Runs here. Until the exit code is here: stream from where the log here ends, for ever. Whoever holds
# the lock writes the log; its children hold it too, so that nothing is written twice when this is
# killed. Both ends are summed at once, by openssl where it is: it uses what the processor has for it.
# (macOS has no flock and no sha256sum, but perl and shasum.)
_FOLLOW = """\
set +e -o pipefail; trap 'exit 130' INT; trap 'exit 143' TERM HUP
mkdir -p {folders} || exit; exec 9>>"$here"/follower
flock 9 2>/dev/null || perl -e 'open(F, ">&=9") and flock(F, 2)'
sum() {{ {{ openssl dgst -sha256 -r || sha256sum || shasum -a 256; }} 2>/dev/null | cut -c1-64; }}
size() {{ echo $(($(wc -c <"$here"/log))); }}
: >>"$here"/log; pause=0; tries=0
until [ -e "$here"/exit_code ]; do
  sleep $pause; at=$(size)
  {stream} | tee -ia "$here"/log
  how=(${{PIPESTATUS[@]}})
  [ ${{how[0]}} != 66 ] || {{
    [ -s "$here"/log ] || rm "$here"/log; echo "$alias holds no such run: $here" >&2; exit 69; }}
  if [ ${{how[0]}} = 0 ] && exec 8< <(sum <"$here"/log) && said=$({ended}); then
    set -- $said; read -r sum <&8
    if [ "$2" = "$(size)" ] && [ "$3" = "$sum" ]; then
      [ "$1" != lost ] || {{ echo "lost: no exit code was left (a reboot, or kill -9)" >&2; exit 137; }}
      echo "$1" >"$here"/exit_code.new && mv "$here"/exit_code.new "$here"/exit_code; break
    elif [ "$(size)" -ge "$2" ] && [ $tries -lt 2 ]; then
      tries=$((tries+1)); mv "$here"/log "$here"/log.differs; : >"$here"/log; continue
    elif [ $tries -ge 2 ]; then
      echo "the log here differs from the one on $alias" >&2; exit 65
    fi
  fi
  [ "$(size)" = "$at" ] || pause=0
  pause=$((pause < 1 ? 1 : pause < 16 ? pause * 2 : 30))
  [ ${{how[1]}} = 0 ] || echo "the log cannot be written here; the job runs on" >&2
  [ ${{how[0]}} = 0 ] || echo "no link to $alias; the job runs on there. Trying again in $pause s" >&2
done
exit $(cat "$here"/exit_code)"""

_FREE = 'free() { flock -n -s "$run"/lock true; }'


class Ssh:
    """Jobs run in `root` of the machine behind `route`, under the environment `venv` below it.

    `home` is the folder here that corresponds to `root`.
    """

    def __init__(self, route: Route, root: str, venv: str, home: Path) -> None:
        self.route = route
        self.root = home_or_path(root)
        self.venv = home_or_path(venv)  # relative to the root, or a place of its own
        self.home = home

    def submit(self, submission: Submission) -> tuple[Step, ...]:
        """Start, which ends at once and may be asked again, and follow, which ends with the job's code."""
        start = Step(
            "start",
            self._start(submission),
            on=self.route.alias,
            reason="detached; the log is kept on both ends",
        )
        return (*self._files(submission), start, self.follow(submission.paths, _token_of(submission)))

    def _files(self, submission: Submission) -> tuple[Step, ...]:
        """The run's files, written here and copied. What the machine has belongs to a run that was."""
        if not submission.files:
            return ()
        folder = str(submission.paths.folder)
        there = below(self.root, folder)
        push = self.route.rsync("-t", "--ignore-existing", there=sh("mkdir", "-p", there) & sh("cd", there))
        names = " ".join(shell_word(f"./{file.name}") for file in submission.files)
        copied = self.route.rsync_or_255(f"{push.text} {names} {self.route.remote_dot}")
        copy = Command(copied).within(self.home / folder)
        reason = f"{len(submission.files)} file{'s' * (len(submission.files) != 1)} → {self.route.alias}"
        return (*write_file(self.home, submission), Step("configs", copy, on=self.route.alias, reason=reason))

    def _start(self, submission: Submission) -> Command:
        """The one idempotent command, asked again while the link fails."""
        activate = sh("source", below(self.venv, "bin/activate"))
        if submission.is_adhoc:
            activate = Command(f"{{ [ ! -e {_below_text(self.venv, 'bin/activate')} ] || {activate.text}; }}")
        lines = [
            f"mkdir -p {shell_word(self.root)} && cd {shell_word(self.root)} || exit",
            named(submission.paths.folder, _token_of(submission)),
            "PATH=~/.local/bin:$PATH",
            *(['eval "$(cat)"'] if submission.secrets else []),
            f"job() {{ {activate.text} && exec {submission.command.text}; }}",
            'mkdir -p "$run" || exit',
            *self._marks(submission),
            _START + _REFUSE,
        ]
        remote = self.route.ssh(Command("\n".join(lines)), stdin=bool(submission.secrets))
        ask = f"{_secrets(submission.secrets)} | {remote.text}" if submission.secrets else remote.text
        again = "for pause in 1 2 4 8 15 0; do"
        asked = f"({again} {ask}; code=$?; [ $code = 255 ] && sleep $pause || exit $code; done; exit 255)"
        return Command(f"{asked} && {self._newest_log(submission)}")

    def _newest_log(self, submission: Submission) -> str:
        """`run.log` here as a link to this run's log; a file from before moves into the run's folder."""
        paths = submission.paths
        keep = sh("mv", self.home / paths.newest_log, self.home / paths.folder / "run.log.before")
        link = _newest_link(paths).within(self.home)
        return (keep & link).text if submission.moves_old_log else link.text

    def _marks(self, submission: Submission) -> list[str]:
        """`run.log`, and what has to come home from this run."""
        paths = submission.paths
        lines = [_newest_link(paths).text]
        if submission.artifacts:
            held = sh("printf", r"%s\0", *submission.artifacts)
            lines.append(f'{held.text} >"$run"/artifacts')
        return [f'[ -e "$run"/token ] || {line}' for line in lines]

    def follow(self, paths: RunPaths, token: str) -> Step:
        """Bring the log home until the run ended; its exit code is the job's."""
        here = self.home / paths.folder
        stream = self.route.ssh(self._at_run(paths, token, _STREAM), first='"at=$at; "')
        ended = self.route.ssh(self._at_run(paths, token, _ENDED))
        folders = ['"$here"', *([quote(str(self.route.socket.parent))] if self.route.socket else [])]
        body = _FOLLOW.format(folders=" ".join(folders), stream=stream.text, ended=ended.text)
        names = f"here={quote(str(here))}; alias={quote(self.route.alias)}"
        return Step(
            "follow",
            Command(f"({names}\n{body})", log=str(here / "log")),
            effect=Effect.READ,
            reason="until the job has ended, through every loss of the link",
            carries_on=True,
        )

    def _at_run(self, paths: RunPaths, token: str, body: str) -> Command:
        there = f"cd {shell_word(self.root)} || exit {NO_RUN}; {named(paths.folder, token)}"
        return Command(f"{there}\n{body}")

    def _token(self, paths: RunPaths) -> str:
        return token_in(self.home / paths.folder)

    def state(self, paths: RunPaths) -> Fact[RunStatus]:
        """From the exit code there, else from the lock."""
        return Fact(self.route.ask(self._at_run(paths, self._token(paths), STATE)), read_state)

    def logs(self, paths: RunPaths, lines: int | None) -> tuple[Step, ...]:
        """With `lines` the end of the log there, or of the copy here if the machine is silent."""
        here, token = self.home / paths.log, self._token(paths)
        if lines is None:
            shown = Step("log", sh("cat", here), effect=Effect.READ, reason="what is here of it")
            follow = self.follow(paths, token)
            return (shown, follow) if here.exists() else (follow,)
        there = self.route.ssh(self._at_run(paths, token, f'{_OURS}\ntail -n {lines} "$run"/log'))
        is_all = sh("test", "-e", self.home / paths.exit_code)
        text = f"{{ ! {is_all.text} && {there.text}; }} || {sh('tail', '-n', lines, here).text}"
        return (Step("log", Command(text), effect=Effect.READ),)

    def stop(self, paths: RunPaths) -> Step:
        """TERM to the run's processes, KILL after ten seconds; the exit code is recorded there."""
        stop = f"({_OURS}) || exit 69\nby=sid\n{_FREE}\n{STOP}"
        command = self.route.ssh(self._at_run(paths, self._token(paths), stop))
        return Step(
            "stop", command, on=self.route.alias, reason="TERM, and KILL after 10 s; the machine stays"
        )


def refused(submission: Submission, quietly: bool = False) -> str:
    """bash for the root on the machine: exit code 77 where the run's name is another plan's."""
    what = f"if {ANOTHERS}; then exit 77; fi" if quietly else _REFUSE
    return f"{named(submission.paths.folder, _token_of(submission))}\n{what}"


def _newest_link(paths: RunPaths) -> Command:
    """`run.log` of the phase as a link to this run's log."""
    return sh("ln", "-sfn", f"runs/{paths.folder.name}/log", paths.newest_log)


def _below_text(folder: object, part: str) -> str:
    """A path below a folder, spelled."""
    return shell_word(below(folder, part))  # type: ignore[arg-type]


def _token_of(submission: Submission) -> str:
    """Which plan starts the run: the same for the same run, code and command, and not the digest itself,
    which covers this very text."""
    named = [str(submission.paths.folder), submission.code, submission.command.text]
    named += [line for file in submission.files for line in (file.name, *file.lines)]
    return sha256("\0".join(named).encode(errors="surrogateescape")).hexdigest()[:12]


def _secrets(names: tuple[str, ...]) -> str:
    """Prints `export NAME=value` for those that are set here; only ever into a pipe. printf is bash's own,
    so that no value becomes the argument of a process."""
    each = (f'[ -z "${{{name}+x}}" ] || printf \'export {name}=%q\\n\' "${name}"' for name in names)
    return "{ " + "; ".join(each) + "; }"
