"""The commands of a preflight: each layer as one line of bash that fails early, with exit code 65.

What they share lies in one throw-away folder inside uv's own cache, where installing is linking and
where `uv cache prune` would find what a power cut left. Each step removes it when it fails or is
stopped, the last one always.
"""

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from runner.environment import requirements
from runner.environment.passes import PreflightInput, lock_key, lock_path, pass_key, record_path
from runner.environment.requirements import PARSERS, cpu_builds, distribution, has_lower_bound
from runner.environment.setup import find_requirement_files, packages
from runner.executors.base import job_command
from runner.plan.command import SHA256, Command, quote, sh
from runner.plan.plan import Step
from runner.plan.settings import Job, Phase, Settings


def platform_text(settings: Settings) -> str:
    """`x86_64-manylinux_2_39 · Python 3.12 · lambda-stack-24-04`."""
    machine = settings.instance
    if machine.is_local:
        return "this machine"
    python = f"Python {machine.python}" if machine.python else None
    return " · ".join(
        part for part in (machine.platform, python, machine.image, machine.torch_backend) if part
    )


_IMPORT_LIMIT_S = 300
_HELP_LIMIT_S = 30

# Runs import statements one by one. One behind a `?` stands in a function, which this job may never
# call: that its package is missing is told, that its package is broken is a failure.
_IMPORT = """\
import sys
for line in sys.argv[1:]:
    statement, module = line.lstrip("?"), line.split()[1]
    print("import:", statement, flush=True)
    try:
        exec(statement, {})
    except ModuleNotFoundError as error:
        if line == statement or error.name != module.split(".")[0]:
            raise
        print("not installed:", statement, flush=True)
"""

# In the background, so that a signal to the shell is heard at once and handed on by `leave`. (macOS has no
# `timeout`; the alarm of perl outlives its exec.)
LIMITED = (
    "limit=(timeout -k 5); command -v timeout >/dev/null || limit=(perl -e 'alarm shift; exec @ARGV'); "
    'limited() { "${limit[@]}" "$1" env -u PYTHONPATH -u PYTHONHOME -u PYTHONDONTWRITEBYTECODE '
    'HOME="$work"/home TMPDIR="$work"/tmp XDG_CACHE_HOME="$work"/home XDG_CONFIG_HOME="$work"/home '
    'PATH="$work/venv/bin:$PATH" "${@:2}" < /dev/null & wait "$!"; }'
)


@dataclass(frozen=True)
class _ImportCheck:
    """One phase's. `folder` is the phase's below `$work/code`, `code` the same spelled for bash.

    `left_out` are packages that have no stand-in on a CPU.
    """

    phase: Phase
    subject: PreflightInput
    folder: str
    code: str
    left_out: tuple[str, ...]

    def text(self) -> str:
        """Every import, then every --help; with a home and a temporary folder that are thrown away too."""
        words = f'{sh(*self.import_lines()).text} "${{found[@]}}"'
        imports = f"limited {_IMPORT_LIMIT_S} python -c {quote(_IMPORT)} {words} || exit 65"
        found = f"found=(){self.found_in_source()}"
        return "; ".join((LIMITED, found, 'cd "$work"/home', imports, 'cd "$work"/code', *self.helps()))

    def import_lines(self) -> tuple[str, ...]:
        """The statements to try, but for those of packages that are left out here."""
        imports = self.subject.imports
        lines = (*imports.top, *(f"?{line}" for line in imports.inner))
        return tuple(line for line in lines if not self.is_left_out(line))

    def is_left_out(self, statement: str) -> bool:
        """Whether it imports a package that has no stand-in on a CPU."""
        name = distribution(statement.split()[1].partition(".")[0])
        return name in self.left_out

    def found_in_source(self) -> str:
        """For code that is not here before it is cloned: its statements, read when it is."""
        if self.phase.source is None:
            return ""
        scripts = dict.fromkeys(job.entrypoint for job in self.phase.jobs)
        reader = f"{sh(sys.executable, requirements.__file__).text} {self.code} {sh(*scripts).text}"
        return f"; mapfile -d '' -t found < <({reader})"

    def helps(self) -> tuple[str, ...]:
        """`--help` of each script that has a parser; never a script itself, which might train."""
        jobs = {job.entrypoint: job for job in reversed(self.phase.jobs)}
        if self.phase.source:
            return tuple(self.help(job) for job in jobs.values())
        able = (s for s in self.subject.scripts_with_help if not any(map(self.is_left_out, s.top)))
        return tuple(self.help(jobs[script.name]) for script in able)

    def help(self, job: Job) -> str:
        """One script's --help within its time, with the job's environment and none of its arguments."""
        script = job.entrypoint if self.phase.source else f"{self.folder}/{job.entrypoint}"
        run = job_command(Job(job.name, job.entrypoint, env=job.env), script).text
        late = f"[ $? != 124 ] || echo {quote(f'no end: {script} --help')}"
        asked = (
            f"echo {quote(f'help: {script}')}; "
            f"limited {_HELP_LIMIT_S} {run} --help > /dev/null || {{ {late}; exit 65; }}"
        )
        if self.phase.source is None:
            return asked
        parser = rf"(import|from)[[:space:]]+({'|'.join(sorted(PARSERS))})"
        return f"if grep -qE {quote(parser)} {quote(script)}; then {asked}; fi"


_VERSION = re.compile(r"\d+(\.\d+)*")  # instance.python may be a path, of which no resolver knows the version
_NEVER = 'sys_platform == "never"'
_PINS = quote(r"^[A-Za-z0-9][^ ;\]*==[^ ;\]+")


class PreflightSteps:
    """The steps for one phase and one kind of machine; pure."""

    def __init__(self, settings: Settings, phase: Phase, subject: PreflightInput) -> None:
        from uv import find_uv_bin

        self.settings, self.phase, self.subject = settings, phase, subject
        self.uv = quote(find_uv_bin())
        self.cpu = cpu_builds(settings.paths.conf)
        self.is_local = settings.instance.is_local
        key = pass_key(settings, subject)
        self.lock = quote(self.near(lock_path(settings, lock_key(settings, subject))))
        self.record = quote(self.near(record_path(settings, key)))
        self.newest = quote(self.near(record_path(settings, key, "newest")))
        self.log = record_path(settings, key, "log")
        named = settings.instance.python if self.is_local else self.cpu.python
        self.python_here = quote(named or sys.executable)
        self.folder = f"{settings.paths.research_log.name}/{phase.name}"
        self.code = '"$work"/code' if phase.source else f'"$work"/code/{quote(self.folder)}'

    def near(self, path: Path) -> str:
        """The path as it is reached from the root, where every step runs."""
        root = self.settings.paths.root
        return str(path.relative_to(root) if path.is_relative_to(root) else path)

    def steps(self) -> tuple[Step, ...]:
        """Fast to slow, then what is remembered, then nothing left behind."""
        source = self.phase.source
        machine = platform_text(self.settings)
        left_out = tuple(name for name, text in self.stand_ins().items() if text is None)
        trial = _ImportCheck(self.phase, self.subject, self.folder, self.code, left_out)
        return (
            self.step("code", self.fetched(), "phase.source, cloned with its submodules")
            if source
            else self.step("code", self.copied(), "the phase's code, as git would carry it"),
            self.step("resolve", self.resolved(), f"for {machine}; nothing is downloaded"),
            self.step("install", self.installed(), "for a CPU, here, in a throw-away environment"),
            self.step("import", trial.text(), "what the scripts import, and their --help"),
            self.step("remember", self.remembered(), "that this content has passed with this lock"),
            Step("clean", self.cleaned(), reason="whatever happened", always=True),
        )

    # -------------------------------------------------------------------------------- around each layer

    def step(self, name: str, body: str, reason: str) -> Step:
        """The body, run in the root, its words in the log, `$work` gone when it fails."""
        state = self.near(self.settings.paths.state)
        folders = sh("mkdir", "-p", f"{state}/locks", f"{state}/preflights")
        logged = folders & Command(f"{self.work()}; {_TRAPPED}; {body}").logged(self.near(self.log))
        text = logged.within(self.settings.paths.root).text
        return Step(name, Command(text, log=str(self.log)), reason=reason)

    def work(self) -> str:
        """Names the throw-away folder, `$work`; the runner's process id keeps two preflights apart."""
        return f'work="$({self.uv} cache dir)/fractal-preflight-$PPID"'

    def emptied(self) -> str:
        """The folder made anew; those of runners that are no longer alive go."""
        dead = 'kill -0 "${old##*-}" 2>/dev/null || rm -rf "$old"'
        return (
            f"echo {quote(f'--- preflight of {self.phase.name}')}; "
            f'for old in "${{work%-*}}"-*; do {dead}; done; '
            'rm -rf "$work" && mkdir -p "$work"/code "$work"/home "$work"/tmp || exit'
        )

    def cleaned(self) -> Command:
        """No throw-away folder, also when a tool that was killed is still writing its last file."""
        again = 'for _ in 1 2 3 4 5; do rm -rf "$work" && break; sleep 0.5; done; [ ! -e "$work" ]'
        return Command(f"(trap '' INT TERM HUP; {self.work()}; {again})")

    # -------------------------------------------------------------------------------- code

    def copied(self) -> str:
        """The files that git would carry, submodules refused; outside git the small ones."""
        folder = quote(self.folder)
        git = "git --no-optional-locks --literal-pathspecs ls-files"
        submodules = f"submodules=$({git} -s -- {folder} 2>/dev/null | grep '^160000')"
        refused = f'if {submodules}; then echo "submodules are not pushed:" "$submodules"; exit 65; fi'
        carried = f"{git} -co --exclude-standard -z -- {folder} 2>/dev/null"
        small = f"find {folder} -name .venv -prune -o -type f -size -1024k -print0"
        is_there = """if [ -f "$file" ]; then printf '%s\\0' "$file"; fi"""
        there = f"while IFS= read -r -d '' file; do {is_there}; done"
        tar = 'tar --null -T - -cf - | tar -xf - -C "$work"/code'
        return f"{self.emptied()}; {refused}; {{ {carried} || {small}; }} | {there} | {tar}"

    def fetched(self) -> str:
        """A fresh clone at the ref, with submodules."""
        assert self.phase.source
        url, ref = quote(self.phase.source.git), quote(self.phase.source.ref)
        git = 'git -C "$work"/code'
        return (
            f"{self.emptied()}; export GIT_TERMINAL_PROMPT=0; "
            f'git clone --quiet --no-checkout -- {url} "$work"/code && {git} checkout --quiet {ref} -- '
            f"&& {git} submodule --quiet update --init --recursive || exit 65"
        )

    # -------------------------------------------------------------------------------- resolve

    def resolved(self) -> str:
        """The lock for the machine, if all of it can be had there; the pins of an earlier one are kept."""
        asked = [r.text for r in self.subject.requirements]
        if self.is_local:
            asked = [*packages(self.settings, self.phase), *asked[len(self.phase.deps) :]]
        overrides = self.cpu_overrides() if self.is_local else ""
        own = f"grep -E '^[./]|^file:| @ file:' {self.lock}.new"
        parts = (
            self.compiling(tuple(asked)),
            f'cp {self.lock} "$work"/lock.txt 2>/dev/null',
            f'compile --generate-hashes {self.target()} {overrides} -o "$work"/lock.txt || exit 65',
            f"grep -v '^-e ' \"$work\"/lock.txt > {self.lock}.new",
            f"if {own}; then echo 'a file of this machine'; rm {self.lock}.new; exit 65; fi",
            *(() if self.is_local else (self.wheels_checked(), *self.newest_asked())),
            f"mv {self.lock}.new {self.lock}",
        )
        return "; ".join(parts)

    def compiling(self, asked: tuple[str, ...]) -> str:
        """The function `compile`: uv's resolver over the names, requirements.txt and the project's own."""
        uv = f'{self.uv} pip compile - "${{files[@]}}" --no-header --no-annotate --no-python-downloads'
        asking = f'compile() {{ {_line_by_line(*asked)} | {uv} "$@" > /dev/null; }}'
        return f"{find_requirement_files(self.code)}; {asking}"

    def target(self) -> str:
        """uv's options for the machine: processor and C library, Python, CUDA backend.

        The Python of this machine builds what has no wheel. Not told which, uv tries all there are,
        half a second each time.
        """
        machine = self.settings.instance
        if self.is_local:
            return f"--python {self.python_here} {self.cpu_index()}"
        options = {
            "--python-platform": machine.platform,
            "--python-version": machine.python if _VERSION.fullmatch(machine.python or "") else None,
            "--torch-backend": machine.torch_backend,
        }
        words = (word for name, value in options.items() if value for word in (name, value))
        return f"--python {self.python_here} {sh(*words).text}".rstrip()

    def wheels_checked(self) -> str:
        """What has no wheel there is fine when it has none here either: then building it is tested here.

        A package with a wheel here and none there would be compiled on the machine, or not at all.
        """
        wheels = f"{self.uv} pip compile --no-deps --only-binary :all: --no-python-downloads -q"
        allowed = "|".join(["-", *map(distribution, self.phase.builds)])
        named = r"s/.*ecause ([A-Za-z0-9._-]+==[^ ]+) has no .*wheels.*/\1/p"
        has_here = f'{wheels} - --python {self.python_here} <<<"$pin" >/dev/null 2>&1'
        refused = f'rm {self.lock}.new; echo "no wheel: $pin"; exit 65'
        return (
            f'grep -oE {_PINS} {self.lock}.new > "$work"/pins; '
            f'until why=$({wheels} "$work"/pins {self.target()} 2>&1 >/dev/null); do '
            f"pin=$(tr -s '[:space:]' ' ' <<<\"$why\" | sed -nE '{named}'); "
            '[ -n "$pin" ] || { echo "$why"; break; }; '
            f'case "${{pin%%==*}}" in {allowed}) ;; '
            f'*) if {has_here}; then {refused}; else echo "from source: $pin"; fi;; esac; '
            'grep -vxF "$pin" "$work"/pins > "$work"/rest; mv "$work"/rest "$work"/pins; done'
        )

    def newest_asked(self) -> tuple[str, ...]:
        """The newest versions of what has no lower bound, to see how far below them the lock is."""
        names = [r.name for r in self.subject.requirements if not has_lower_bound(r.text)]
        if not names:
            return ()
        uv = f"{self.uv} pip compile - --no-deps -q --no-header --no-annotate --no-python-downloads"
        return (f"{_line_by_line(*names)} | {uv} {self.target()} > {self.newest} 2>/dev/null",)

    # -------------------------------------------------------------------------------- install

    def installed(self) -> str:
        """The same set for a CPU: the lock's versions wherever they can be had, in a new environment."""
        own = quote(f"^({'|'.join(['-', *self.stand_ins()])})==")
        pip = f'{self.uv} pip install --python "$work"/venv --no-deps'
        cpu = f'{self.cpu_index()} {self.cpu_overrides()} -o "$work"/cpu.txt'
        parts = (
            self.compiling(self.cpu_packages()),
            f'{self.uv} venv --quiet --python {self.python_here} "$work"/venv || exit 65',
            f'grep -oE {_PINS} {self.lock} | grep -vE {own} > "$work"/cpu.txt',
            f'compile --quiet --python "$work"/venv {cpu} || exit 65',
            f'{pip} {self.cpu_index()} -r "$work"/cpu.txt || exit 65',
            f'if [ -n "$project" ]; then {pip} -e {self.code} || exit 65; fi',
        )
        return "; ".join(parts)

    def stand_ins(self) -> dict[str, str | None]:
        """What is installed on a CPU in a package's place: as local.yaml says, then as the phase says."""
        return {distribution(name): text for name, text in (*self.cpu.packages, *self.phase.stand_ins)}

    def cpu_packages(self) -> tuple[str, ...]:
        """The requirements as they are installed here."""
        mapped = self.stand_ins()
        found = (mapped.get(r.name, r.text) for r in self.subject.requirements)
        return tuple(dict.fromkeys(text for text in found if text))

    def cpu_index(self) -> str:
        """Where CPU builds come from."""
        if self.cpu.find_links:
            return sh("--find-links", self.cpu.find_links).text
        return sh("--torch-backend", self.cpu.torch_backend).text if self.cpu.torch_backend else ""

    def cpu_overrides(self) -> str:
        """`--override <(…)` for those of the requirements that need some, and for what is left out."""
        asked = {r.name for r in (*self.subject.requirements, *self.subject.listed)}
        lines = [line for name, lines in self.cpu.overrides if name in asked for line in lines]
        lines += [f"{name}; {_NEVER}" for name, text in self.stand_ins().items() if not text]
        return f"--override <({_line_by_line(*lines)})" if lines else ""

    # -------------------------------------------------------------------------------- remember

    def remembered(self) -> str:
        """The record, whole or not at all."""
        machine = self.settings.instance
        known = {"phase": self.phase.name, "platform": machine.platform, "python": machine.python}
        form = '{"passed_at": "%s", "lock_sha256": "%s", "source_commit": "%s", %s\\n'
        kept = f"{self.record}.new && mv {self.record}.new {self.record}"
        commit = '$(git -C "$work"/code rev-parse HEAD)' if self.phase.source else ""
        return (
            f'printf {quote(form)} "$(date -u +%FT%TZ)" "$({SHA256} < {self.lock} | cut -c1-64)" '
            f'"{commit}" {quote(json.dumps(known)[1:])} > {kept}'
        )


_TRAPPED = (
    'leave() { code=$?; trap "" INT TERM HUP; [ -z "${!:-}" ] || kill "$!" 2>/dev/null; '
    '[ "$code" = 0 ] || rm -rf "$work"; exit "$code"; }; '
    "trap leave EXIT; trap 'exit 130' INT; trap 'exit 143' TERM; trap 'exit 129' HUP"
)


def _line_by_line(*words: str) -> str:
    """The command that prints each word on a line of its own."""
    return sh("printf", r"%s\n", *words).text
