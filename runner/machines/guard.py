"""The guard of terminate: what would be lost, which runs were started there, and what to type to save it."""

import json
import os
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath

from runner.errors import UsageError, choices
from runner.machines.fleet import Fleet, alias_for
from runner.machines.lambda_api import CloudInstance
from runner.machines.ledger import Ledger, LedgerMachine
from runner.machines.probe import HeldRun, HomeEntry, MachineContents, RemoteFile, is_here
from runner.plan.command import Route, home_or_path, sh
from runner.plan.next_command import spell_next
from runner.plan.settings import Settings
from runner.research_log.code import is_product
from runner.research_log.runs import failed_before_start, was_started

# A clock may have been wrong when the machine was asked for, or when the run began. Too early a bound only
# asks a person once more; too late a one takes a machine with work on it for an empty one.
_CLOCK_SLACK_S = 24 * 3600.0


@dataclass(frozen=True)
class _MachineNames:
    """What a machine is or was called. `own` mean it alone; an `alias` was another machine's before."""

    own: frozenset[str]
    aliases: frozenset[str]


def _was_asked_for_here(ledger: Ledger, machine: CloudInstance) -> bool:
    """Whether our own request for it is on record, so that no run of ours can be older than the record.

    A ledger that was rebuilt from the cloud's list, and one of another computer, hold no such request.
    """
    known = ledger.by_id(machine.id)
    return known is not None and known.was_asked_for


def _runs_started_on(settings: Settings, machine: CloudInstance, ledger: Ledger) -> list[Path]:
    """The folders here of runs that were, or may have been, started on this machine."""
    names = _names_of(settings, machine, ledger.by_id(machine.id))
    log = settings.paths.research_log
    plans = [*sorted(log.glob("runs/*/plan.json")), *sorted(log.glob("*/runs/*/plan.json"))]
    told = {plan.parent for plan in plans if _may_be_of(plan, names, machine, ledger)}
    return sorted(told | set(_runs_in_ledger(names, ledger.by_id(machine.id))))


def _runs_in_ledger(names: _MachineNames, known: LedgerMachine | None) -> list[Path]:
    """Those that the ledger tells of since the machine was asked for: of any research log, by any clock."""
    called = names.own | names.aliases
    folders = [Path(run.folder) for run in (known.runs if known else ()) if run.name in called]
    return [folder for folder in folders if was_started(folder)]


def _names_of(settings: Settings, machine: CloudInstance, known: LedgerMachine | None) -> _MachineNames:
    """All of them: it may have been renamed in the console, or reached by its address."""
    own = {machine.id, machine.name, machine.ip, *((known.name, known.ip) if known else ())}
    aliases = {alias_for(settings, machine), *((known.alias,) if known else ())}
    return _MachineNames(frozenset(name for name in own if name), frozenset(aliases))


def _may_be_of(plan: Path, names: _MachineNames, machine: CloudInstance, ledger: Ledger) -> bool:
    """Whether this run may have been started on the machine; a plan that cannot be read may be its."""
    try:
        at = plan.stat().st_mtime
        instance = json.loads(plan.read_text())["instance"]
        name, is_local = instance["name"], instance["provider"] == "local"
    except (OSError, ValueError, KeyError, TypeError):
        return True
    if is_local or not was_started(plan.parent):
        return False
    return name in names.own or (name in names.aliases and _is_of_its_time(at, name, machine, ledger))


def _is_of_its_time(at: float, alias: str, machine: CloudInstance, ledger: Ledger) -> bool:
    """Whether a run that began then can be of this machine, rather than of an earlier one of the alias."""
    known = ledger.by_id(machine.id)
    since = known.since if known else float("inf")
    if at >= since:
        return True
    earlier = (m for m in ledger.machines if m.id not in (None, machine.id) and m.alias == alias)
    if any(m.until is not None and m.since <= at <= m.until for m in earlier):
        return False
    return known is None or at >= since - _CLOCK_SLACK_S


UNREACHABLE = "unreachable"
_MANY = 100  # names that a refusal lists before it counts the rest


@dataclass(frozen=True)
class Guard:
    """What would go with the machine: alive runs and files that `discard` does not name, and what it names.

    `num_here` files are here, byte for byte, or were pushed from here and are as they were. `unknown_because`
    says why nobody knows what else is there. `going` are the folders that are given up with a run that is
    alive, whatever it writes until then; but for these `contents` changes when what the machine holds does.
    """

    alive: tuple[HeldRun, ...] = ()
    files: tuple[RemoteFile, ...] = ()
    unknown_because: str = ""
    given_up_runs: tuple[HeldRun, ...] = ()
    given_up_files: tuple[RemoteFile, ...] = ()
    accepts_unseen: bool = False
    home: tuple[HomeEntry, ...] = ()  # came into the home folder since our first look at the machine
    given_up_home: tuple[HomeEntry, ...] = ()
    going: tuple[str, ...] = ()
    num_here: int = 0
    contents: str = ""

    @property
    def reason(self) -> str | None:
        """Why the machine must not go yet."""
        parts = []
        if self.unknown_because:
            parts.append(
                f"it cannot be seen what is on it ({self.unknown_because}), so nothing there is backed up"
            )
        if self.alive:
            parts.append(f"alive: {listed([run.folder for run in self.alive])}")
        if self.files:
            parts.append(f"not verified here: {listed([file.told for file in self.files])}")
        if self.home:
            parts.append(f"in its home folder: {listed([entry.told for entry in self.home])}")
        return "; ".join(parts) or None

    @property
    def accepted(self) -> tuple[str, ...]:
        """What `discard` gives up, in words."""
        unseen = ("all that nobody can see",) if self.accepts_unseen else ()
        runs = (f"{run.folder}, which is alive, and all that it writes" for run in self.given_up_runs)
        files = (file.told for file in self.given_up_files)
        return (*unseen, *runs, *files, *(entry.told for entry in self.given_up_home))

    @property
    def basis(self) -> tuple[tuple[str, str], ...]:
        """What is given up, for the digest: whoever consents has seen these very bytes go.

        Of a run that is alive the name says all that it ever writes.
        """
        runs = [("lost", run.folder) for run in self.given_up_runs]
        files = [
            ("lost", f"{file.checksum} {file.path}")
            for file in self.given_up_files
            if not is_below_any(file.path, self.going)
        ]
        return tuple(sorted(runs + files))


def listed(names: list[str]) -> str:
    """All of them, up to a great number."""
    more = f" and {len(names) - _MANY} more" if len(names) > _MANY else ""
    return ", ".join(names[:_MANY]) + more


def check_loss(
    settings: Settings, seen: Fleet, machine: CloudInstance, held: MachineContents | None
) -> Guard:
    """What is alive, what is not here, what nobody can see; less what `discard` names.

    UsageError for a word of `discard` that may mean one thing or another.
    """
    accepts = UNREACHABLE in settings.discard
    if held is None:
        unseen = why_unseen(settings, seen, machine)
        return Guard(unknown_because="" if accepts else unseen, accepts_unseen=accepts and bool(unseen))
    astray = _elsewhere(settings, seen, machine, held)
    missing = _not_here(held, settings)
    meant = _DiscardSelection.of([w for w in settings.discard if w != UNREACHABLE], held, missing)
    alive = [run for run in held.runs if run.is_alive]
    dying = tuple(run for run in alive if run.folder in meant.runs)
    new = _new_in_home(held, seen.ledger.by_id(machine.id))
    going = (*(run.folder for run in dying), *sorted(meant.phases & {_phase_of(run.folder) for run in dying}))
    return Guard(
        alive=tuple(run for run in alive if run not in dying),
        files=tuple(file for file in missing if not meant.gives_up(file)),
        unknown_because="" if accepts else astray,
        accepts_unseen=accepts and bool(astray),
        given_up_runs=dying,
        given_up_files=tuple(file for file in missing if meant.gives_up(file)),
        home=tuple(entry for entry in new if entry.path not in meant.home),
        given_up_home=tuple(entry for entry in new if entry.path in meant.home),
        going=going,
        num_here=len(held.files) - len(missing),
        contents=_contents_sum(held, going),
    )


_AT_ONCE = 50  # files that a thread compares before it is given others


def _not_here(held: MachineContents, settings: Settings) -> tuple[RemoteFile, ...]:
    """The files that are neither here, byte for byte, nor as they were when they were pushed from here."""
    made = [file for file in held.files if not file.was_pushed]
    some = [made[at : at + _AT_ONCE] for at in range(0, len(made), _AT_ONCE)]
    root = settings.paths.root
    with ThreadPoolExecutor(min(8, (os.cpu_count() or 2) * 2)) as pool:
        missing = pool.map(lambda files: [file for file in files if not is_here(file, root)], some)
        return tuple(file for files in missing for file in files)


def _new_in_home(held: MachineContents, known: LedgerMachine | None) -> list[HomeEntry]:
    """What is in the home folder and was not there, or was another, at our first look; else all of it."""
    before = (known.home if known else None) or frozenset()
    return [entry for entry in held.home if (entry.name, entry.stamp) not in before]


def _contents_sum(held: MachineContents, going: tuple[str, ...]) -> str:
    """A checksum of all runs and files but for those that may change until the end, being given up alive."""
    runs = [(run.folder, f"{run.status.state} {run.status.exit_code}") for run in held.runs]
    files = [(file.path, file.checksum) for file in held.files]
    home = [(entry.path, entry.stamp) for entry in held.home]
    kept = [row for row in sorted(runs + files + home) if not is_below_any(row[0], going)]
    return sha256(json.dumps([kept, going]).encode()).hexdigest()


# ------------------------------------------------------------------------------ what cannot be seen


def why_unseen(settings: Settings, seen: Fleet, machine: CloudInstance) -> str:
    """Why what is on a machine into which nobody can look is not known; empty where it is: nothing.

    That needs our own request for the machine on record, and no run of ours that may have gone there.
    """
    why = no_answer(machine)
    if not _was_asked_for_here(seen.ledger, machine):
        return f"{why}, and its launch is not on record here, so others may have started runs on it"
    runs = [folder.name for folder in _runs_started_on(settings, machine, seen.ledger)]
    return f"{why}, and runs may have been started on it: {listed(runs)}" if runs else ""


def no_answer(machine: CloudInstance) -> str:
    """`it is booting and has no address`, or that ssh does not answer."""
    return f"it is {machine.status} and has no address" if machine.ip is None else "it does not answer ssh"


def _elsewhere(settings: Settings, seen: Fleet, machine: CloudInstance, held: MachineContents) -> str:
    """The runs that were started from here and that the machine does not show: we look in a wrong place."""
    recorded = _runs_started_on(settings, machine, seen.ledger)
    started = [f for f in recorded if (failed := failed_before_start(f)) is None or failed.exit_code == 255]
    astray = [
        settings.paths.shown(folder)
        for folder in started
        if not any(_ends_with(str(folder), run.folder) for run in held.runs)
    ]
    if not astray:
        return ""
    return (
        f"{listed(astray)} ran on it and is not below {settings.remote.root} there: was remote.root another?"
    )


# ----------------------------------------------------------------------------- what discard names


@dataclass(frozen=True)
class _DiscardSelection:
    """What the words of `discard` mean on this machine: folders of runs, and other paths.

    Nobody can say which run of a phase left an artifact. So it goes with its runs when all of them go.
    """

    runs: frozenset[str]
    paths: frozenset[str]
    phases: frozenset[str] = frozenset()  # the folders of those whose runs all go
    home: frozenset[str] = frozenset()  # `~/data`

    @staticmethod
    def of(words: list[str], held: MachineContents, missing: tuple[RemoteFile, ...]) -> "_DiscardSelection":
        """A word that is a run's is only the run; UsageError where it may be one thing or another."""
        runs: set[str] = set()
        paths: set[str] = set()
        home = {word.rstrip("/") for word in words if word.startswith("~/")}
        for word in (_plain(word) for word in words if not word.startswith("~/")):
            named = [run.folder for run in held.runs if _ends_with(run.folder, word)]
            found = named or sorted({at for file in missing if (at := _named_part(file.path, word))})
            if word in found:
                found = [word]  # the whole path
            if len(found) > 1:
                raise UsageError(
                    f"discard=[{word}] may mean {len(found)} things on the machine; say which",
                    *(f"  {path}" for path in found[:_MANY]),
                )
            (runs if named else paths).update(found)
        stay = {_phase_of(run.folder) for run in held.runs if run.folder not in runs}
        phases = {phase for run in runs if (phase := _phase_of(run))} - stay
        return _DiscardSelection(*map(frozenset, (runs, paths, phases, home)))

    def gives_up(self, file: RemoteFile) -> bool:
        """Whether this file may go: it is named, or in a folder that is, or its runs are."""
        return is_below_any(file.path, (*self.runs, *self.phases, *self.paths))


def _phase_of(run: str) -> str:
    """`research-log/phase12-…` of a run's folder; empty for a run of no phase, which leaves no artifacts."""
    folder = run.rpartition("/runs/")[0]
    return folder if "/" in folder else ""


def _plain(word: str) -> str:
    """As typed, without what says nothing."""
    return word.strip("/").removeprefix("./")


def _ends_with(path: str, word: str) -> bool:
    """Whether these are the path's last parts, or all of them."""
    return bool(word) and f"/{path}".endswith(f"/{word}")


def _named_part(path: str, word: str) -> str | None:
    """The file itself, or the folder it is in, that this word names: whole, or by its last parts."""
    parts = PurePosixPath(path).parts
    shown = ("/".join(parts[: n + 1]) for n in range(len(parts)))
    return next((at for at in shown if _ends_with(at, word)), None)


def is_below_any(path: str, folders: Iterable[str]) -> bool:
    """Whether it is one of these paths, or something in one."""
    return any(path == folder or path.startswith(f"{folder}/") for folder in folders)


def unmatched(discard: tuple[str, ...], held: MachineContents | None, loss: Guard) -> tuple[str, ...]:
    """What `discard` names and the machine does not hold: it accepts no loss, so it may be a slip."""
    if held is None:
        return ()
    paths = [*(run.folder for run in held.runs), *(file.path for file in held.files)]
    paths += [entry.path for entry in held.home]
    known = [*paths, *(path.rpartition("/")[2] for path in paths)]
    notes = []
    for word in discard:
        if word == UNREACHABLE and loss.accepts_unseen:
            continue
        if word == UNREACHABLE:
            notes.append(f"discard=[{word}] accepts nothing: the machine answers, and was looked at")
        elif not any(_named_part(path, _plain(word)) for path in paths):
            meant = choices(word, known, "")[:-1]
            notes.append(f"discard=[{word}] matches nothing on the machine. {' '.join(meant)}".strip())
    return tuple(notes)


_FEW = 5  # files that a command line lists; more of them are named by their folders
_PLAIN = re.compile(r"[\w][\w./+@-]*")
_IN_RUN = re.compile(r"runs/(?P<run>[^/]+)(?P<rest>/.*)?")


@dataclass(frozen=True)
class Declared:
    """A phase as its YAML declares it: what phase= calls it, and its artifacts."""

    choice: str
    artifacts: tuple[str, ...] = ()


def rescue_lines(
    settings: Settings, machine: CloudInstance, loss: Guard, declared: dict[str, Declared]
) -> tuple[str, ...]:
    """A line for each way home, and one for the loss."""
    where = _Rescue(settings, machine, declared)
    lines = [
        *where.waits(loss),
        *where.logs(loss),
        *where.backups(loss),
        *where.copies(loss),
        *where.home_copies(loss),
        *_unrescuable(loss),
    ]
    return (*dict.fromkeys(lines), f"to accept the loss: {where.giving_up(_named(loss))}")


@dataclass(frozen=True)
class _Rescue:
    """The machine, and the phases that are known here."""

    settings: Settings
    machine: CloudInstance
    declared: dict[str, Declared]

    def line(self, action: str, folder: str | None, *more: str) -> str:
        """The runner's own command line about a phase on this machine."""
        phase = (f"phase={self.declared[folder].choice}",) if folder else ()
        which = self.machine.name or self.machine.id
        words = (*phase, *_kind_of(self.settings, self.machine), *more)
        return spell_next(self.settings, action, *words, machine=which)

    def giving_up(self, words: list[str]) -> str:
        """The command line that ends the machine all the same."""
        return self.line("terminate", None, f"discard=[{', '.join(map(_list_word, words))}]")

    def waits(self, loss: Guard) -> list[str]:
        """For runs that are alive: their end."""
        runs = [run.folder for run in loss.alive if self.is_ours(run.folder)]
        return [f"to wait for its end: {self.logs_line(run)}" for run in runs]

    def logs(self, loss: Guard) -> list[str]:
        """For the logs of runs that were started here: only whoever follows a log may write it."""
        runs = [file.path.removesuffix("/log") for file in loss.files if self.is_log(file)]
        return [f"to bring its log home: {self.logs_line(run)}" for run in runs]

    def logs_line(self, run: str) -> str:
        """The command line that follows this run."""
        folder, name = self.split(run)
        return self.line("logs", self.phase_in(folder), f"run={name.removeprefix('runs/')}")

    def backups(self, loss: Guard) -> list[str]:
        """For what a backup brings: as the phase declares it, and else by its name."""
        found = self.in_phases(loss)
        folders = sorted({self.split(run.folder)[0] for run in loss.alive} | set(found))
        lines = []
        for folder in folders:
            if (phase := self.phase_in(folder)) is None:
                continue
            names = found.get(folder, [])
            artifacts = self.declared[phase].artifacts
            others = [name for name in names if not is_product(name, artifacts) or _is_of_run(name)]
            if len(others) < len(names) or not names:
                lines.append(f"to bring it home: {self.line('backup', phase)}")
            if others:
                wanted = f"phase.artifacts=[{','.join(map(_list_word, others))}]"
                lines.append(f"to bring home what no artifact names: {self.line('backup', phase, wanted)}")
        return lines

    def copies(self, loss: Guard) -> list[str]:
        """For what belongs to no phase that is known here: rsync itself. What is here is kept beside it."""
        files = [file.path for file in self.fetched(loss) if not self.is_in_phase(file)]
        outside = [file.path for file in loss.files if file.checksum == "outside"]
        lines = []
        if files:
            lines.append(f"to bring it home: {self.rsync(_few(files, _folder_of))}")
        if outside:
            copied = self.rsync(outside[:_MANY], "--copy-unsafe-links")
            lines.append(f"to bring home what the links lead to: {copied}")
        return lines

    def home_copies(self, loss: Guard) -> list[str]:
        """For what is in the home folder: rsync, into a folder of the machine's own here."""
        names = [entry.name for entry in loss.home]
        here = self.settings.paths.state / "home" / (self.machine.name or self.machine.id)
        made = sh("mkdir", "-p", here).text
        copied = self.rsync(names, there="~", here=str(here))
        return [f"to bring it home, and then discard it: {made} && {copied}"] if names else []

    def rsync(self, names: list[str], *options: str, there: str = "", here: str = "") -> str:
        """The command line that copies these files and folders from the machine's root into the one here."""
        config = None if self.settings.ssh.is_default else self.settings.ssh.config
        route = Route(alias_for(self.settings, self.machine), config)
        enter = sh("cd", home_or_path(there or self.settings.remote.root))
        keep = ("--backup", "--suffix=.before", "--from0", "--files-from=-")
        fetch = route.rsync("-arRc", *keep, *options, there=enter).text
        listed = sh("printf", r"%s\0", *names).text
        return f"{listed} | {fetch} {route.remote_dot} {sh(f'{here or self.settings.paths.root}/').text}"

    def fetched(self, loss: Guard) -> list[RemoteFile]:
        """The files that can be fetched as they are."""
        return [f for f in loss.files if f.checksum not in ("outside", "unreadable") and not self.is_log(f)]

    def is_in_phase(self, file: RemoteFile) -> bool:
        """Whether a backup of a phase that is known here brings it, by a name that can be typed."""
        return self.phase_in(self.split(file.path)[0]) is not None and _can_be_listed(file.path)

    def in_phases(self, loss: Guard) -> dict[str, list[str]]:
        """Folder of a phase → the files in it that can be fetched; where they are many, what they are in."""
        found: dict[str, list[str]] = {}
        for file in self.fetched(loss):
            if self.is_in_phase(file):
                folder, name = self.split(file.path)
                found.setdefault(folder, []).append(name)
        return {folder: _few(names, _top_folder) for folder, names in found.items()}

    def split(self, path: str) -> tuple[str, str]:
        """`research-log/phase12` and the rest, or `research-log` and `runs/…` of a run without a phase."""
        parts = path.split("/")
        num = 1 if parts[1:2] == ["runs"] else 2
        return "/".join(parts[:num]), "/".join(parts[num:])

    def phase_in(self, folder: str) -> str | None:
        """The phase that is configured here for this folder."""
        log, _, phase = folder.partition("/")
        return phase if log == self.settings.paths.research_log.name and phase in self.declared else None

    def is_log(self, file: RemoteFile) -> bool:
        """Whether it is the log of a run that was started here, from a phase that is configured or none."""
        return file.path.endswith("/log") and self.is_ours(file.path.removesuffix("/log"))

    def is_ours(self, run: str) -> bool:
        """Whether `logs` knows this run's folder."""
        folder, name = self.split(run)
        is_run = _IN_RUN.fullmatch(name) is not None and "/" not in name.removeprefix("runs/")
        known = self.phase_in(folder) is not None or folder == self.settings.paths.research_log.name
        return is_run and known and (self.settings.paths.root / run / "plan.json").exists()


def _few(names: list[str], folder_of: Callable[[str], str]) -> list[str]:
    """The names themselves; where they are many, the folders they are in."""
    return names if len(names) <= _FEW else list(dict.fromkeys(map(folder_of, names)))


def _list_word(name: str) -> str:
    """A name as it is typed among others between brackets."""
    if _PLAIN.fullmatch(name):
        return name
    return f'"{name}"' if "'" in name else f"'{name}'"


def _can_be_listed(name: str) -> bool:
    """Whether there is a way to type this name between brackets."""
    return "\\" not in name and not ("'" in name and '"' in name)


def _is_of_run(name: str) -> bool:
    """Whether it is in a run's folder, which no artifact is."""
    return _IN_RUN.fullmatch(name) is not None


def _top_folder(name: str) -> str:
    """`checkpoints` of `checkpoints/1/a.pt`, `runs/0001-train/.hydra` of what is in there."""
    parts = name.split("/")
    return "/".join(parts[: 3 if parts[0] == "runs" else 1])


def _unrescuable(loss: Guard) -> list[str]:
    """What has to be seen to on the machine first."""
    by_state = {file.checksum for file in loss.files}
    lines = []
    if "unreadable" in by_state:
        lines.append("what cannot be read there has to be made readable there: chmod, or sudo chown")
    if "outside" in by_state:
        lines.append(
            "a link that leads out of the root cannot be verified: once it is home, discard names it"
        )
    return lines


def _named(loss: Guard) -> list[str]:
    """The words of `discard` that accept this loss; many files by the runs and folders they are in."""
    runs = [run.folder for run in loss.alive]
    files = [_typed(file.path) for file in loss.files]
    for depth in (3, 2, 1):
        if len(runs) + len(files) > _FEW:
            files = list(dict.fromkeys(_folder_of(path, depth) for path in files))
    home = [entry.path for entry in loss.home]
    return [*([UNREACHABLE] if loss.unknown_because else []), *dict.fromkeys([*runs, *files]), *home]


def _typed(path: str) -> str:
    """The path, or the nearest folder above it whose name can be typed."""
    if _can_be_listed(path):
        return path
    return next(
        (at for at in map(str, PurePosixPath(path).parents) if _can_be_listed(at) and at != "."), path
    )


def _folder_of(path: str, depth: int = 3) -> str:
    """The run's folder that a file is in, or what is next below the phase's."""
    match = re.match(r"(?:[^/]+/){1,2}runs/[^/]+", path) if depth > 1 else None
    return match[0] if match else "/".join(path.split("/")[:depth])


def _kind_of(settings: Settings, machine: CloudInstance) -> tuple[str, ...]:
    """`instance=…` where none was typed: the phase's own may be this computer, from which nothing comes."""
    known = {file.stem for folder in settings.paths.conf for file in (folder / "instance").glob("*.yaml")}
    typed = any(word.startswith("instance=") for word in settings.typed)
    return (f"instance={machine.type}",) if machine.type in known and not typed else ()
