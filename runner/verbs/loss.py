"""The guard: what would be lost with a machine, less what `discard` names."""

from dataclasses import dataclass
from pathlib import PurePosixPath

from runner.errors import UsageError, choices
from runner.facts.health import failed_before_start
from runner.facts.lambda_cloud import Rented
from runner.facts.machine import HeldFile, HeldRun, Holdings, is_here
from runner.plan.settings import Settings
from runner.verbs.recorded import recorded_runs, was_asked_for_here
from runner.verbs.rented import Seen

UNREACHABLE = "unreachable"
MANY = 100  # names that a refusal lists before it counts the rest


@dataclass(frozen=True)
class Loss:
    """What would go with the machine: alive runs and files that `discard` does not name, and what it names.

    `num_here` files are here, byte for byte. `unseen` says why nobody knows what else is there.
    """

    alive: tuple[HeldRun, ...] = ()
    files: tuple[HeldFile, ...] = ()
    unseen: str = ""
    given_up_runs: tuple[HeldRun, ...] = ()
    given_up_files: tuple[HeldFile, ...] = ()
    accepts_unseen: bool = False
    num_here: int = 0

    @property
    def reason(self) -> str | None:
        """Why the machine must not go yet."""
        parts = []
        if self.unseen:
            parts.append(f"it cannot be seen what is on it ({self.unseen}), so nothing there is backed up")
        if self.alive:
            parts.append(f"alive: {listed([run.folder for run in self.alive])}")
        if self.files:
            parts.append(f"not verified here: {listed([file.told for file in self.files])}")
        return "; ".join(parts) or None

    @property
    def accepted(self) -> tuple[str, ...]:
        """What `discard` gives up, in words."""
        unseen = ("all that nobody can see",) if self.accepts_unseen else ()
        runs = (f"{run.folder}, which is alive, and all that it writes" for run in self.given_up_runs)
        return (*unseen, *runs, *(file.told for file in self.given_up_files))

    @property
    def basis(self) -> tuple[tuple[str, str], ...]:
        """What is given up, for the digest: whoever consents has seen these very bytes go.

        Of a run that is alive the name says all that it ever writes.
        """
        runs = [("lost", run.folder) for run in self.given_up_runs]
        files = [("lost", f"{file.checksum} {file.path}") for file in self.given_up_files]
        return tuple(sorted(runs + files))


def listed(names: list[str]) -> str:
    """All of them, up to a great number."""
    more = f" and {len(names) - MANY} more" if len(names) > MANY else ""
    return ", ".join(names[:MANY]) + more


def loss_of(settings: Settings, seen: Seen, machine: Rented, held: Holdings | None) -> Loss:
    """What is alive, what is not here, what nobody can see; less what `discard` names.

    UsageError for a word of `discard` that may mean one thing or another.
    """
    accepts = UNREACHABLE in settings.discard
    if held is None:
        unseen = why_unseen(settings, seen, machine)
        return Loss(unseen="" if accepts else unseen, accepts_unseen=accepts and bool(unseen))
    astray = elsewhere(settings, seen, machine, held)
    missing = tuple(file for file in held.files if not is_here(file, settings.paths.root))
    words = [word for word in settings.discard if word != UNREACHABLE]
    meant = Meant.of(words, held, missing)
    alive = [run for run in held.runs if run.is_alive]
    dying = [run for run in alive if run.folder in meant.runs]
    of_dying = [file for file in missing if any(meant.is_of(run, file) for run in dying)]
    rest = [file for file in missing if file not in of_dying]
    return Loss(
        alive=tuple(run for run in alive if run not in dying),
        files=tuple(file for file in rest if not meant.gives_up(file)),
        unseen="" if accepts else astray,
        accepts_unseen=accepts and bool(astray),
        given_up_runs=tuple(dying),
        given_up_files=tuple(file for file in rest if meant.gives_up(file)),
        num_here=len(held.files) - len(missing),
    )


# ------------------------------------------------------------------------------ what cannot be seen


def why_unseen(settings: Settings, seen: Seen, machine: Rented) -> str:
    """Why what is on a machine into which nobody can look is not known; empty where it is: nothing.

    That needs our own request for the machine on record, and no run of ours that may have gone there.
    """
    why = no_answer(machine)
    if not was_asked_for_here(seen.ledger, machine):
        return f"{why}, and its launch is not on record here, so others may have started runs on it"
    runs = [folder.name for folder in recorded_runs(settings, machine, seen.ledger)]
    return f"{why}, and runs may have been started on it: {listed(runs)}" if runs else ""


def no_answer(machine: Rented) -> str:
    """`it is booting and has no address`, or that ssh does not answer."""
    return f"it is {machine.status} and has no address" if machine.ip is None else "it does not answer ssh"


def elsewhere(settings: Settings, seen: Seen, machine: Rented, held: Holdings) -> str:
    """The runs that were started from here and that the machine does not show: we look in a wrong place."""
    recorded = recorded_runs(settings, machine, seen.ledger)
    started = [f for f in recorded if (failed := failed_before_start(f)) is None or failed.exit_code == 255]
    astray = [
        settings.paths.shown(folder)
        for folder in started
        if not any(ends_with(str(folder), run.folder) for run in held.runs)
    ]
    if not astray:
        return ""
    return (
        f"{listed(astray)} ran on it and is not below {settings.remote.root} there: was remote.root another?"
    )


# ----------------------------------------------------------------------------- what discard names


@dataclass(frozen=True)
class Meant:
    """What the words of `discard` mean on this machine: folders of runs, and other paths.

    Nobody can say which run of a phase left an artifact. So it goes with its runs when all of them go.
    """

    runs: frozenset[str]
    paths: frozenset[str]
    phases: frozenset[str] = frozenset()  # the folders of those whose runs all go

    @staticmethod
    def of(words: list[str], held: Holdings, missing: tuple[HeldFile, ...]) -> "Meant":
        """A word that is a run's is only the run; UsageError where it may be one thing or another."""
        runs: set[str] = set()
        paths: set[str] = set()
        for word in map(plain, words):
            named = [run.folder for run in held.runs if ends_with(run.folder, word)]
            found = named or sorted({at for file in missing if (at := named_part(file.path, word))})
            if len(found) > 1:
                raise UsageError(
                    f"discard=[{word}] may mean {len(found)} things on the machine; say which",
                    *(f"  {path}" for path in found[:MANY]),
                )
            (runs if named else paths).update(found)
        stay = {phase_of(run.folder) for run in held.runs if run.folder not in runs}
        phases = {phase for run in runs if (phase := phase_of(run))} - stay
        return Meant(frozenset(runs), frozenset(paths), frozenset(phases))

    def is_of(self, run: HeldRun, file: HeldFile) -> bool:
        """Whether the file is this run's: in its folder, or an artifact that goes with it."""
        phase = phase_of(run.folder)
        return is_below(file.path, run.folder) or (phase in self.phases and is_below(file.path, phase))

    def gives_up(self, file: HeldFile) -> bool:
        """Whether this file may go: it is named, or in a folder that is, or its runs are."""
        return any(is_below(file.path, path) for path in (*self.runs, *self.phases, *self.paths))


def phase_of(run: str) -> str:
    """`research-log/phase12-…` of a run's folder; empty for a run of no phase, which leaves no artifacts."""
    folder = run.rpartition("/runs/")[0]
    return folder if "/" in folder else ""


def plain(word: str) -> str:
    """As typed, without what says nothing."""
    return word.strip("/").removeprefix("./")


def ends_with(path: str, word: str) -> bool:
    """Whether these are the path's last parts, or all of them."""
    return bool(word) and f"/{path}".endswith(f"/{word}")


def named_part(path: str, word: str) -> str | None:
    """The file itself, or the folder it is in, that this word names: whole, or by its last parts."""
    parts = PurePosixPath(path).parts
    shown = ("/".join(parts[: n + 1]) for n in range(len(parts)))
    return next((at for at in shown if ends_with(at, word)), None)


def is_below(path: str, folder: str) -> bool:
    """Whether it is this path, or something in it."""
    return path == folder or path.startswith(f"{folder}/")


def unmatched(discard: tuple[str, ...], held: Holdings | None, loss: Loss) -> tuple[str, ...]:
    """What `discard` names and the machine does not hold: it accepts no loss, so it may be a slip."""
    if held is None:
        return ()
    paths = [*(run.folder for run in held.runs), *(file.path for file in held.files)]
    known = [*paths, *(path.rpartition("/")[2] for path in paths)]
    notes = []
    for word in discard:
        if word == UNREACHABLE and loss.accepts_unseen:
            continue
        if word == UNREACHABLE:
            notes.append(f"discard=[{word}] accepts nothing: the machine answers, and was looked at")
        elif not any(named_part(path, plain(word)) for path in paths):
            meant = choices(word, known, "")[:-1]
            notes.append(f"discard=[{word}] matches nothing on the machine. {' '.join(meant)}".strip())
    return tuple(notes)
