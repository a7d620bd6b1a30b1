"""The layer of a preflight that tries what was installed: imports, and `--help` of scripts with a parser."""

import sys
from dataclasses import dataclass

from runner.executors.base import job_command
from runner.facts import requirements
from runner.facts.packages import distribution
from runner.facts.preflights import Subject
from runner.facts.requirements import PARSERS
from runner.plan.command import quote, sh
from runner.plan.settings import Job, Phase

IMPORT_LIMIT_S = 300
HELP_LIMIT_S = 30

# Runs import statements one by one. One behind a `?` stands in a function, which this job may never
# call: that its package is missing is told, that its package is broken is a failure.
IMPORT = """\
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
class Trial:
    """One phase's. `folder` is the phase's below `$work/code`, `code` the same spelled for bash.

    `left_out` are packages that have no stand-in on a CPU.
    """

    phase: Phase
    subject: Subject
    folder: str
    code: str
    left_out: tuple[str, ...]

    def text(self) -> str:
        """Every import, then every --help; with a home and a temporary folder that are thrown away too."""
        words = f'{sh(*self.import_lines()).text} "${{found[@]}}"'
        imports = f"limited {IMPORT_LIMIT_S} python -c {quote(IMPORT)} {words} || exit 65"
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
            f"limited {HELP_LIMIT_S} {run} --help > /dev/null || {{ {late}; exit 65; }}"
        )
        if self.phase.source is None:
            return asked
        parser = rf"(import|from)[[:space:]]+({'|'.join(sorted(PARSERS))})"
        return f"if grep -qE {quote(parser)} {quote(script)}; then {asked}; fi"
