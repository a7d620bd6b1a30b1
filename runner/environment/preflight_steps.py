"""The steps of a preflight: one line each, which calls a layer of `runner/trial.py`."""

import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from runner.environment.passes import (
    PreflightInput,
    lock_key,
    lock_path,
    pass_key,
    python_version,
    record_path,
)
from runner.environment.requirements import cpu_builds, distribution, has_lower_bound
from runner.environment.setup import packages
from runner.plan.command import Command, Var, Word, sh
from runner.plan.plan import Step
from runner.plan.settings import Phase, Settings
from runner.plan.tools import here_of
from runner.trial import NEVER

TRIAL = Path(__file__).parent.parent / "trial.py"

_LS_FILES = ("git", "ls-files", "-co", "--exclude-standard")


def platform_text(settings: Settings) -> str:
    """`x86_64-manylinux_2_39 · Python 3.12 · lambda-stack-24-04`."""
    machine = settings.instance
    if machine.is_local:
        return "this machine"
    python = f"Python {machine.python}" if machine.python else None
    return " · ".join(
        part for part in (machine.platform, python, machine.image, machine.torch_backend) if part
    )


@cache
def _trial_text() -> str:
    return TRIAL.read_text()


class PreflightSteps:
    """The steps for one phase and one kind of machine; pure."""

    def __init__(self, settings: Settings, phase: Phase, subject: PreflightInput) -> None:
        from uv import find_uv_bin

        self.settings, self.phase, self.subject = settings, phase, subject
        self.machine = settings.instance
        self.cpu = cpu_builds(settings.paths.conf)
        self.here = here_of(settings)
        self.tool = self.here.tool("trial", _trial_text())
        self.uv = self.near(Path(find_uv_bin()))
        key = pass_key(settings, subject)
        self.lock = self.near(lock_path(settings, lock_key(settings, subject)))
        self.log = record_path(settings, key, "log")
        self.other_python = self.machine.python if self.machine.is_local else self.cpu.python
        self.python_here = self.other_python or self.near(Path(sys.executable))
        self.folder = f"{settings.paths.research_log.name}/{phase.name}"

    def near(self, path: Path) -> str:
        """The path as it is reached from the root, where every step runs."""
        return self.here.named(path)

    def steps(self) -> tuple[Step, ...]:
        """Fast to slow, then what is remembered, then nothing left behind."""
        cloned, copied = "phase.source, cloned with its submodules", "the phase's code, as git would carry it"
        for_machine = f"for {platform_text(self.settings)}; nothing is downloaded"
        return (
            self.step("code", self.code(), cloned if self.phase.source else copied),
            self.step("resolve", self.resolve(), for_machine),
            self.step("install", self.install(), "for a CPU, here, in a throw-away environment"),
            self.step("import", self.imports(), "what the scripts import, and their --help"),
            self.step("remember", self.remember(), "that this content has passed with this lock"),
            Step("clean", self.clean(), reason="whatever happened", always=True, tools=(self.tool,)),
        )

    def step(self, name: str, words: tuple[Word, ...], reason: str) -> Step:
        """A layer with its words; what it prints is in the log."""
        record = self.near(self.log).removesuffix(".log")
        cloned = ("--cloned",) if self.phase.source else ()
        text = self.trial(name, self.folder, f"--record={record}", *cloned, *words).text
        return Step(name, Command(text, log=str(self.log)), reason=reason, tools=(self.tool,))

    def trial(self, layer: str, *words: Word) -> Command:
        """The program, in the root. The number of the process that asks tells two preflights apart."""
        common: tuple[Word, ...] = (f"--uv={self.uv}", "--run", Var("PPID"))
        program = (self.near(Path(sys.executable)), self.tool.name)
        return sh(*program, layer, *words[:1], *common, *words[1:]).within(self.here.root)

    def clean(self) -> Command:
        """The throw-away folder goes; nothing stops that."""
        return Command(f"(trap '' INT TERM HUP; {self.trial('clean').text})")

    # -------------------------------------------------------------------------------- the words of each layer

    def code(self) -> tuple[Word, ...]:
        """The scripts that are read, for which Python; how the files are come by."""
        python = python_version(self.settings)
        source = self.phase.source
        clone = ("git", "clone", source.git) if source else _LS_FILES
        return (
            *((f"--python={python}",) if python else ()),
            *((f"--ref={source.ref}",) if source else ()),
            *(word for script in self.scripts() for word in ("--script", script)),
            *self.inputs(),
            "--",
            *clone,
        )

    def scripts(self) -> tuple[str, ...]:
        """Those of the jobs, each once."""
        return tuple(dict.fromkeys(job.entrypoint for job in self.phase.jobs))

    def inputs(self) -> tuple[str, ...]:
        """What may hold modules of other phases; a checkpoint is no such thing."""
        return tuple(f"--input={name}" for name in self.phase.inputs if self.subject.modules_of_inputs)

    def resolve(self) -> tuple[Word, ...]:
        """`uv pip compile` for the machine: processor and C library, Python, CUDA backend."""
        asked = tuple(r.text for r in self.subject.requirements)
        options: tuple[str, ...] = ("--local",)
        if self.machine.is_local:
            asked = (*packages(self.settings, self.phase), *asked[len(self.phase.deps) :])
            options += self.overrides()
        else:
            newest = [r.name for r in self.subject.requirements if not has_lower_bound(r.text)]
            options = (*_listed("newest", newest), *_listed("builds", map(distribution, self.phase.builds)))
        compiles = (self.uv, "pip", "compile", *self.target())
        return (f"--lock={self.lock}", *options, "--", *compiles, "--", *asked)

    def target(self) -> tuple[str, ...]:
        """uv's options for the machine.

        The Python of this machine builds what has no wheel. Not told which, uv tries all there are,
        half a second each time.
        """
        if self.machine.is_local:
            return ("--python", self.python_here, *self.cpu_index())
        options = {
            "--python-platform": self.machine.platform,
            "--python-version": python_version(self.settings),
            "--torch-backend": self.machine.torch_backend,
        }
        words = (word for name, value in options.items() if value for word in (name, value))
        return ("--python", self.python_here, *words)

    def install(self) -> tuple[Word, ...]:
        """`uv pip install` of the lock's versions, and of the stand-ins for what needs a GPU."""
        python = (f"--python={self.other_python}",) if self.other_python else ()
        unlocked = _listed("unlocked", self.stand_ins())
        own = (f"--lock={self.lock}", *python, *unlocked, *self.overrides())
        return (*own, "--", self.uv, "pip", "install", *self.cpu_index(), "--", *self.cpu_packages())

    def imports(self) -> tuple[Word, ...]:
        """The scripts, each with the environment of its first job and none of its arguments."""
        jobs = {job.entrypoint: job for job in reversed(self.phase.jobs)}
        scripts = [
            word
            for script in self.scripts()
            for word in ("--script", script, *(f"{k}={v}" for k, v in jobs[script].env if v is not None))
        ]
        left_out = _listed("without", (name for name, text in self.stand_ins().items() if text is None))
        more = (f"--module={module}" for module in self.phase.imports)
        return (*left_out, *more, *self.inputs(), *scripts)

    def remember(self) -> tuple[Word, ...]:
        """What the record says besides."""
        known = {"platform": self.machine.platform, "python": self.machine.python}
        return (f"--lock={self.lock}", *(f"--{name}={value}" for name, value in known.items() if value))

    # -------------------------------------------------------------------------------- on a CPU

    def stand_ins(self) -> dict[str, str | None]:
        """What is installed on a CPU in a package's place: as local.yaml says, then as the phase says."""
        return {distribution(name): text for name, text in (*self.cpu.packages, *self.phase.stand_ins)}

    def cpu_packages(self) -> tuple[str, ...]:
        """The requirements as they are installed here."""
        mapped = self.stand_ins()
        found = (mapped.get(r.name, r.text) for r in self.subject.requirements)
        return tuple(dict.fromkeys(text for text in found if text))

    def cpu_index(self) -> tuple[str, ...]:
        """Where CPU builds come from."""
        if self.cpu.find_links:
            return ("--find-links", self.cpu.find_links)
        return ("--torch-backend", self.cpu.torch_backend) if self.cpu.torch_backend else ()

    def overrides(self) -> tuple[str, ...]:
        """The override lines for those of the requirements that need some, and for what is left out."""
        asked = {r.name for r in (*self.subject.requirements, *self.subject.listed)}
        lines = [line for name, lines in self.cpu.overrides if name in asked for line in lines]
        never = [line.partition(";")[0] for line in lines if line.endswith(f"; {NEVER}")]
        never += [name for name, text in self.stand_ins().items() if not text]
        others = (f"--override={line}" for line in lines if not line.endswith(f"; {NEVER}"))
        return (*others, *_listed("never", never))


def _listed(option: str, names: Iterable[str]) -> tuple[str, ...]:
    """`--option=a,b` of normalised names; nothing where there are none."""
    listed = ",".join(dict.fromkeys(names))
    return (f"--{option}={listed}",) if listed else ()
