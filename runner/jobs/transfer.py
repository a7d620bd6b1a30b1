"""sync and backup: the phase's code to the machine, and what its jobs made back home, both verified."""

import os
from pathlib import Path, PurePosixPath

from runner.environment.setup import needed_phase
from runner.errors import UsageError
from runner.executors.base import Submission
from runner.executors.ssh import refused
from runner.machines.probe import FILE_STATE, RECORDS
from runner.plan.command import Command, home_or_path, quote, route_of, sh, shell_word
from runner.plan.plan import HERE, Effect, Plan, Step, target_of
from runner.plan.settings import Phase, Settings, Source
from runner.research_log.code import Code, code_of, is_product
from runner.world.world import Asking

_PARTIAL = ("--partial-dir=.rsync-partial",)  # an interrupted file is kept under another name

# Runs here, in the phase's folder. A file that differs from its record is fetched into a folder apart
# and gets its name only when it fits the record; one that changed meanwhile, or is being written, is
# recorded and fetched again. What was here under that name is kept in runs/replaced, unless it was
# brought from the very same place before (runs/.home remembers) or is how the file begins; and always when
# the new one is cut short: a job that died while it saved leaves less than it had saved before. An rsync
# that was killed leaves what it had fetched under a name of its own (.name.Xy12Zz), which nobody takes up
# again. A disk that does not tell A from a has one file where the machine has two.
BACKUP = """\
set +e -o pipefail
{state}
theirs() {{ {theirs}
}}
fetch() {{ {fetch}
}}
differing() {{
  while IFS=/ read -r -d "" sum size name; do
    [ "$(state "$name")" = "$sum/$size" ] || printf "%s/%s/%s\\0" "$sum" "$size" "$name"
  done; }}
names() {{
  while IFS=/ read -r -d "" sum size name; do
    case "$sum" in open|unreadable) ;; *) printf "%s\\0" "$name";; esac; done; }}
begins() {{ [ -f "$1" ] && [ ! -L "$1" ] && [ "$(head -c "$3" "$1" | sum)" = "$2" ]; }}
fits() {{
  [ "$(state "$1")" = "$sum/$size" ] || {{ of_lines "$1" && begins "$1" "$sum" "$size" &&
    head -c "$size" "$1" >$new/cut && touch -r "$1" $new/cut && mv $new/cut "$1"; }}; }}
mark() {{ printf "%s %s %s" "$origin" "$1" "$name" | tr "\\n" "?"; }}
is_cut_short() {{
  [ "$size" != link ] && [ "$size" -lt "${{was#*/}}" ] &&
    {{ [ $((size*2)) -lt "${{was#*/}}" ] || begins "$name" "$sum" "$size"; }}; }}
keep() {{
  was=$(state "$name"); is_cut_short || ! grep -qxF "$(mark "$was")" runs/.home 2>/dev/null || return 0
  ! begins "$new/files/$name" "${{was%/*}}" "${{was#*/}}" 2>/dev/null || return 0
  kept=runs/replaced/${{was:0:8}}/$folder; mkdir -p "$kept" && cp -p "$name" "$kept" &&
    echo "kept what was here of $name in $kept"; }}
into_place() {{
  folder=$(dirname "$name"; echo /); folder=${{folder%??}}; mkdir -p "$folder" || return
  if [ -L "$name" ]; then rm "$name"; elif [ -f "$name" ]; then keep; else [ ! -e "$name" ]; fi &&
    mv -f "$new/files/$name" "$folder/.incoming" && mv -f "$folder/.incoming" "$name" &&
    {{ mark "$sum/$size"; echo; }} >>runs/.home; }}
place() {{
  placed=0; while IFS=/ read -r -d "" sum size name; do
    if [ "$sum" = unreadable ]; then echo "cannot be read there: $name" >&2; hopeless=yes
    elif fits "$new/files/$name"; then into_place || placed=74
    else rm -f "$new/files/$name"; echo "not verified yet: $name" >&2; placed=65; fi
  done; return $placed; }}
brought() {{ tr "\\n\\0" "?\\n" <$new/theirs | cut -d/ -f3-; }}
is_one_of_two() {{
  brought | tr "[:upper:]" "[:lower:]" | sort | uniq -d | grep -q . &&
    differing <$new/theirs | tr "\\n\\0" "?\\n" | cut -d/ -f3- | grep .; }}
missing() {{
  absent=; for name in {names}; do
    name=${{name//$'\\n'/?}}
    brought | grep -qxF -e "$name" || brought | grep -qF -e "$name/" || absent+=" $name"
  done; [ -z "$absent" ] || echo "there is nothing on the machine of these artifacts:$absent"; }}
mkdir -p {phase}/runs && cd {phase} && exec 9>>runs/.lock || exit
flock 9 2>/dev/null || perl -e 'open(F, ">&=9") and flock(F, 2)'
new=runs/.incoming; hopeless=; mkdir -p $new/files || exit
find $new/files -type f -name ".*.??????" ! -path "*/.rsync-partial/*" -exec rm -f {{}} +
for pause in 1 1 2 4 8 15 30 0; do
  theirs >$new/all && {{ IFS= read -r -d "" origin; cat >$new/theirs; }} <$new/all &&
    differing <$new/theirs >$new/wanted; code=$?
  if [ $code = 0 ] && [ -s $new/wanted ]; then
    names <$new/wanted | fetch; fetched=$?
    place <$new/wanted; code=$?
    [ $code = 0 ] || [ $fetched = 0 ] || code=$fetched
  fi
  [ $code != 0 ] || [ -z "$hopeless" ] || exit 65
  if [ $code = 0 ]; then
    ! is_one_of_two || {{ echo "not verified: this disk has one file for two of the machine" >&2; exit 65; }}
    missing >&2
    echo "verified: $(tr -dc "\\0" <$new/theirs | wc -c | tr -d " ") files"; rm -rf $new; exit 0
  fi
  sleep $pause
done
exit $code"""

OUTSIDE = 'outside() { echo "not brought home: $1, a link to what no artifact names" >&2; }'

# Names a folder on a machine, so that another machine behind the same name is told from it.
ORIGIN = 'printf "%s\\0" "$(cat /etc/machine-id 2>/dev/null)-$(stat -c %i-%W .)"'

# Runs on the machine. What runs made in the folder stays as it is, also where the repository has a file of
# that name: it may be nine hours of work.
CLONE = """\
mkdir -p {root}/{folder} && cd {root}/{folder} || exit; from={git}; ref={ref}
if [ "$(cat .git/cloned 2>/dev/null)" = "$from $ref" ] && git diff --quiet HEAD -- . {unless}; then
  echo "nothing to do: this commit was cloned before"; exit
fi
made() {{ for name in {products}; do [ ! -e "$name" ] || find "$name" ! -type d -print0; done; }}
rm -rf .source && git clone --quiet --recurse-submodules "$from" .source &&
  git -C .source checkout --quiet --detach "$ref" &&
  git -C .source submodule --quiet update --init --recursive &&
  made | (cd .source && xargs -0 rm -f --) &&
  rm -rf .git && cp -a .source/. . && rm -rf .source && echo "$from $ref" >.git/cloned"""


def sync(settings: Settings) -> Asking[Plan]:
    """The phase's code on the machine, and nothing of what its runs made."""
    phase = needed_phase(settings)
    code: Code = yield code_of(settings.paths.root, _folder_of(settings, phase), phase.artifacts)
    local = settings.instance.is_local
    return Plan(
        action="sync",
        effect=Effect.CHANGE,
        target=target_of(settings),
        phase=phase.name,
        steps=() if local else (sync_step(settings, phase, code),),
        basis=(("machine", settings.alias), ("code", code.digest)),
        reason="jobs on this machine run in this very folder" if local else None,
        details=(("code", f"{len(code.files)} files, {_shown_bytes(code.num_bytes)}, {code.digest}"),),
    )


def _folder_of(settings: Settings, phase: Phase) -> str:
    """The phase's folder, relative to the root."""
    return f"{settings.paths.research_log.name}/{phase.name}"


def sync_step(settings: Settings, phase: Phase, code: Code, submission: Submission | None = None) -> Step:
    """Push what git lists and what the phase names, or clone where the code comes from.

    For a `submission` only where its run's name is not another plan's: that one's code may be running.
    """
    alias = settings.alias
    if phase.source:
        return Step(
            "sync",
            _clone(settings, phase, phase.source, submission),
            on=alias,
            reason=f"{phase.source.git} at {phase.source.ref}",
        )
    if code.submodules:
        raise UsageError(
            f"{code.submodules[0]} is a git repository of its own inside {phase.name}: pushed without its "
            ".git folder it would not work on the machine",
            "Have it cloned there, by the phase's YAML: source: {git: URL, ref: COMMIT}",
        )
    inputs = _input_files(settings, phase)
    num = len(code.files) + len(inputs)
    reason = (
        f"{num} file{'s' * (num != 1)}, {_shown_bytes(code.num_bytes + _size_of(settings, inputs))} → {alias}"
    )
    return Step("sync", _push(settings, phase, inputs, submission), on=HERE, reason=reason)


def _push(
    settings: Settings, phase: Phase, inputs: tuple[str, ...], submission: Submission | None
) -> Command:
    """git's list without the products of runs, through rsync; then what vanished here is removed there."""
    folder = _folder_of(settings, phase)
    route, root = route_of(settings), shell_word(home_or_path(settings.remote.root))
    listed = sh(
        *("git", "--no-optional-locks", "--literal-pathspecs", "ls-files"),
        *("-co", "--exclude-standard", "-z", "--", folder),
    ).text
    every = sh(
        "find", folder, "-name", ".git", "-prune", "-o", "(", "-type", "f", "-o", "-type", "l", ")", "-print0"
    )
    named = sh("printf", r"%s\0", *inputs).text if inputs else "true"
    kept = (
        f"while IFS= read -r -d '' f; do case \"$f\" in {_products(folder, phase)}) continue;; esac; "
        '[ -f "$f" ] || [ -L "$f" ] || continue; printf \'%s\\0\' "$f"; done'
    )
    there = Command(f"mkdir -p {root} && cd {root}")
    guard = None
    if submission:
        guard = Command(f"cd {root} || exit\n{refused(submission)}")
        there = there & Command(f"{{ {refused(submission, quietly=True)}; }}")
    progress = ("--progress",) if inputs else ()
    rsync = route.rsync("-lptRc", "--from0", "--files-from=-", *_PARTIAL, *progress, there=there)
    in_git = "git rev-parse --git-dir >/dev/null 2>&1"
    files = f"{{ if {in_git}; then {listed}; else {every.text}; fi | {kept}; {named}; }}"
    pushed = _pushed_list(settings, phase)
    new = quote(f"{pushed}.new")
    steps = [
        f"mkdir -p {quote(str(pushed.parent))} && cd {quote(str(settings.paths.root))}",
        f"{files} | tee {new} | {route.rsync_or_255(f'{rsync.text} ./ {route.remote_dot}', guard)}",
        *_remove_vanished(settings, phase, pushed),
        f"mv {new} {quote(str(pushed))}",
    ]
    return Command(f"(set -o pipefail; {' && '.join(steps)})")


def _pushed_list(settings: Settings, phase: Phase) -> Path:
    """The file that remembers what of the phase was pushed to the machine last, names ended by NUL."""
    return settings.paths.state / "pushed" / settings.alias / phase.name


def _remove_vanished(settings: Settings, phase: Phase, pushed: Path) -> tuple[str, ...]:
    """The command that removes there what was pushed before and is gone here; none when nothing is."""
    if not pushed.is_file():
        return ()
    folder, root = _folder_of(settings, phase), settings.paths.root
    before = [os.fsdecode(name) for name in pushed.read_bytes().split(b"\0") if name]
    gone = [
        name
        for name in before
        if name.startswith(f"{folder}/")
        and not is_product(name[len(folder) + 1 :], phase.artifacts)
        and not os.path.lexists(root / name)
    ]
    remove = sh("rm", "-f", "--", *gone).within(home_or_path(settings.remote.root))
    return (route_of(settings).ssh(remove).text,) if gone else ()


def _products(folder: str, phase: Phase) -> str:
    """The patterns of `case` for what runs made: as facts/research_log.is_product says."""
    each = [quote(str(PurePosixPath(folder, name))) for name in _product_names(phase)]
    return "|".join([*(f"{path}|{path}/*" for path in each), "*/__pycache__/*"])


def _product_names(phase: Phase) -> tuple[str, ...]:
    """Where runs put what they make, below the phase's folder."""
    return ("runs", "run.log", ".venv", *(artifact.rstrip("/") for artifact in phase.artifacts))


def _input_files(settings: Settings, phase: Phase) -> tuple[str, ...]:
    """The files behind `phase.inputs`, relative to the root.

    A path is meant from the phase's folder, else from the root.
    """
    root = settings.paths.root
    files: list[str] = []
    for name in phase.inputs:
        tried = [os.path.normpath(root / _folder_of(settings, phase) / name), os.path.normpath(root / name)]
        path = next((Path(t) for t in tried if Path(t).exists()), None)
        if path is None or not path.is_relative_to(root):
            raise UsageError(f"phase.inputs: {name} is neither below the phase's folder nor below {root}")
        found = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
        files += [str(p.relative_to(root)) for p in found]
    return tuple(dict.fromkeys(files))


def _size_of(settings: Settings, files: tuple[str, ...]) -> int:
    """Their bytes."""
    return sum((settings.paths.root / name).stat().st_size for name in files)


def _clone(settings: Settings, phase: Phase, source: Source, submission: Submission | None) -> Command:
    """The repository in the phase's folder on the machine, at the commit; what runs made there stays."""
    folder, root = quote(_folder_of(settings, phase)), shell_word(home_or_path(settings.remote.root))
    git, ref = quote(source.git), quote(source.ref)
    made = _product_names(phase)
    unless = sh(*(f":(exclude,literal){name}" for name in made)).text
    products = sh(*(f"./{name}" for name in made)).text
    text = CLONE.format(root=root, folder=folder, git=git, ref=ref, unless=unless, products=products)
    if submission:
        text = f"mkdir -p {root} && cd {root} || exit\n{refused(submission)}\ncd || exit\n{text}"
    cloned = route_of(settings).ssh(Command(text))
    return sh("mkdir", "-p", settings.paths.state) & cloned if settings.ssh.socket else cloned


def backup(settings: Settings) -> Asking[Plan]:
    """The phase's artifacts here, verified; nothing is deleted on either side."""
    yield from ()
    phase = needed_phase(settings)
    reason = None
    if settings.instance.is_local:
        reason = "jobs on this machine leave their artifacts in this very folder"
    elif not phase.artifacts:
        reason = f"{phase.name} declares no artifacts (phase.artifacts)"
    return Plan(
        action="backup",
        effect=Effect.CHANGE,
        target=target_of(settings),
        phase=phase.name,
        steps=() if reason else (backup_step(settings, phase),),
        basis=(("machine", settings.alias),),
        reason=reason,
        details=(("artifacts", " ".join(phase.artifacts) or "none"),),
    )


def backup_step(settings: Settings, phase: Phase) -> Step:
    """Fetch, compare, put into place; again for what changed meanwhile."""
    route, folder = route_of(settings), _folder_of(settings, phase)
    there = Command(f"cd {shell_word(home_or_path(settings.remote.root))}/{quote(folder)}")
    names = sh(*(f"./{name.rstrip('/')}" for name in phase.artifacts)).text
    recorded = route.ssh(
        Command(f"{there.text} || exit\n{ORIGIN}\n{FILE_STATE}\n{RECORDS}\n{OUTSIDE}\nrecords {names}")
    )
    options = ("-lptR", "--no-implied-dirs", "--from0", "--files-from=-", "--sparse", *_PARTIAL)
    here = settings.paths.research_log / phase.name
    body = BACKUP.format(
        state=FILE_STATE,
        phase=quote(str(here)),
        theirs=recorded.text,
        names=names,
        fetch=route.rsync_or_255(f"{route.rsync(*options, there=there).text} {route.remote_dot} $new/files"),
    )
    reason = f"{' '.join(phase.artifacts)} → {settings.paths.shown(here)}/, verified by checksum"
    return Step("backup", Command(f"({body})"), reason=reason)


def _shown_bytes(num: int) -> str:
    """`61 kB`."""
    size = float(num)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}" if unit != "B" else f"{num} B"
        size /= 1000
    return f"{size:.3g} GB"
