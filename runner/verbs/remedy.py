"""What to type to lose nothing with a machine, or to accept the loss: a command line for each kind of it."""

import re
from dataclasses import dataclass

from runner.facts.lambda_cloud import Rented
from runner.facts.machine import HeldFile
from runner.facts.research_log import is_product
from runner.plan.command import home_or_path, sh
from runner.plan.route import Route
from runner.plan.settings import Settings
from runner.verbs.loss import UNREACHABLE, Loss
from runner.verbs.own_line import own_line
from runner.verbs.rented import alias_for

FEW = 5  # files that a command line lists; more of them are named by their folders
IN_RUN = re.compile(r"runs/(?P<run>[^/]+)(?P<rest>/.*)?")


@dataclass(frozen=True)
class Declared:
    """A phase as its YAML declares it: what phase= calls it, and its artifacts."""

    choice: str
    artifacts: tuple[str, ...] = ()


def remedies(
    settings: Settings, machine: Rented, loss: Loss, declared: dict[str, Declared]
) -> tuple[str, ...]:
    """A line for each way home, and one for the loss."""
    where = Where(settings, machine, declared)
    lines = [
        *where.waits(loss),
        *where.logs(loss),
        *where.backups(loss),
        *where.copies(loss),
        *hopeless(loss),
    ]
    return (*dict.fromkeys(lines), f"to accept the loss: {where.giving_up(named(loss))}")


@dataclass(frozen=True)
class Where:
    """The machine, and the phases that are known here."""

    settings: Settings
    machine: Rented
    declared: dict[str, Declared]

    def line(self, action: str, folder: str | None, *more: str) -> str:
        """The runner's own command line about a phase on this machine."""
        phase = (f"phase={self.declared[folder].choice}",) if folder else ()
        which = self.machine.name or self.machine.id
        words = (*phase, *kind_of(self.settings, self.machine), *more)
        return own_line(self.settings, action, *words, machine=which)

    def giving_up(self, words: list[str]) -> str:
        """The command line that ends the machine all the same."""
        return self.line("terminate", None, f"discard=[{', '.join(words)}]")

    def waits(self, loss: Loss) -> list[str]:
        """For runs that are alive: their end."""
        runs = [run.folder for run in loss.alive if self.is_ours(run.folder)]
        return [f"to wait for its end: {self.logs_line(run)}" for run in runs]

    def logs(self, loss: Loss) -> list[str]:
        """For the logs of runs that were started here: only whoever follows a log may write it."""
        runs = [file.path.removesuffix("/log") for file in loss.files if self.is_log(file)]
        return [f"to bring its log home: {self.logs_line(run)}" for run in runs]

    def logs_line(self, run: str) -> str:
        """The command line that follows this run."""
        folder, name = self.split(run)
        return self.line("logs", self.phase_in(folder), f"run={name.removeprefix('runs/')}")

    def backups(self, loss: Loss) -> list[str]:
        """For what a backup brings: as the phase declares it, and else by its name."""
        folders = sorted({self.split(run.folder)[0] for run in loss.alive} | set(self.by_folder(loss)))
        lines = []
        for folder in folders:
            if (phase := self.phase_in(folder)) is None:
                continue
            names = self.by_folder(loss).get(folder, [])
            artifacts = self.declared[phase].artifacts
            others = [name for name in names if not is_product(name, artifacts) or is_of_run(name)]
            if len(others) < len(names) or not names:
                lines.append(f"to bring it home: {self.line('backup', phase)}")
            if others:
                wanted = f"phase.artifacts=[{','.join(others)}]"
                lines.append(f"to bring home what no artifact names: {self.line('backup', phase, wanted)}")
        return lines

    def copies(self, loss: Loss) -> list[str]:
        """For what belongs to no phase that is known here: rsync itself."""
        config = None if self.settings.ssh.is_default else self.settings.ssh.config
        route = Route(alias_for(self.settings, self.machine), config)
        there = sh("cd", home_or_path(self.settings.remote.root))
        rsync = route.rsync("-arR", "--from0", "--files-from=-", there=there).text
        fetch = f"{rsync} {route.far} {sh(f'{self.settings.paths.root}/').text}"
        strangers = {f: names for f, names in self.by_folder(loss).items() if self.phase_in(f) is None}
        listed = [sh("printf", r"%s\0", *(f"{f}/{n}" for n in names)).text for f, names in strangers.items()]
        return [f"to bring it home: {names} | {fetch}" for names in listed]

    def by_folder(self, loss: Loss) -> dict[str, list[str]]:
        """Folder of runs → the files in it that can be fetched; where they are many, what they are in."""
        found: dict[str, list[str]] = {}
        for file in loss.files:
            if file.checksum not in ("outside", "unreadable") and not self.is_log(file):
                folder, name = self.split(file.path)
                found.setdefault(folder, []).append(name)
        return {
            folder: names if len(names) <= FEW else list(dict.fromkeys(map(part_of, names)))
            for folder, names in found.items()
        }

    def split(self, path: str) -> tuple[str, str]:
        """`research-log/phase12` and the rest, or `research-log` and `runs/…` of a run without a phase."""
        parts = path.split("/")
        num = 1 if parts[1:2] == ["runs"] else 2
        return "/".join(parts[:num]), "/".join(parts[num:])

    def phase_in(self, folder: str) -> str | None:
        """The phase that is configured here for this folder."""
        log, _, phase = folder.partition("/")
        return phase if log == self.settings.paths.research_log.name and phase in self.declared else None

    def is_log(self, file: HeldFile) -> bool:
        """Whether it is the log of a run that was started here, from a phase that is configured or none."""
        return file.path.endswith("/log") and self.is_ours(file.path.removesuffix("/log"))

    def is_ours(self, run: str) -> bool:
        """Whether `logs` knows this run's folder."""
        folder, name = self.split(run)
        is_run = IN_RUN.fullmatch(name) is not None and "/" not in name.removeprefix("runs/")
        known = self.phase_in(folder) is not None or folder == self.settings.paths.research_log.name
        return is_run and known and (self.settings.paths.root / run / "plan.json").exists()


def is_of_run(name: str) -> bool:
    """Whether it is in a run's folder, which no artifact is."""
    return IN_RUN.fullmatch(name) is not None


def part_of(name: str) -> str:
    """`checkpoints` of `checkpoints/1/a.pt`, `runs/0001-train/.hydra` of what is in there."""
    parts = name.split("/")
    return "/".join(parts[: 3 if parts[0] == "runs" else 1])


def hopeless(loss: Loss) -> list[str]:
    """What has to be seen to on the machine first."""
    by_state = {file.checksum for file in loss.files}
    lines = []
    if "unreadable" in by_state:
        lines.append("what cannot be read there has to be made readable there: chmod, or sudo chown")
    if "outside" in by_state:
        lines.append("what a link leads to comes home only by a name of its own in phase.artifacts")
    return lines


def named(loss: Loss) -> list[str]:
    """The words of `discard` that accept this loss; many files by the runs and folders they are in."""
    runs = [run.folder for run in loss.alive]
    files = [file.path for file in loss.files]
    if len(runs) + len(files) > FEW:
        files = list(dict.fromkeys(folder_of(path) for path in files))
    return [*([UNREACHABLE] if loss.unseen else []), *dict.fromkeys([*runs, *files])]


def folder_of(path: str) -> str:
    """The run's folder that a file is in, or what is next below the phase's."""
    match = re.match(r"(?:[^/]+/){1,2}runs/[^/]+", path)
    return match[0] if match else "/".join(path.split("/")[:3])


def kind_of(settings: Settings, machine: Rented) -> tuple[str, ...]:
    """`instance=…` where none was typed: the phase's own may be this computer, from which nothing comes."""
    known = {file.stem for folder in settings.paths.conf for file in (folder / "instance").glob("*.yaml")}
    typed = any(word.startswith("instance=") for word in settings.typed)
    return (f"instance={machine.type}",) if machine.type in known and not typed else ()
