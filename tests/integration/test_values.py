"""Any text arrives in the script as it was: as a value, a list item, a path, a variable; through real bash.

Each case is a job started as a plan starts it: cd, activation of the environment, `python script --key=…`,
tee. The script says what it got, and the log is compared with what was given.
"""

import itertools
import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.executors.base import Submission, job_command
from runner.executors.local import Local
from runner.plan.settings import Job
from runner.plan.tools import Here
from runner.research_log.runs import RunPaths
from runner.world.files import write_tools
from tests.support import runner_env, soak_size

SCRIPT = "import json, os, sys; print(json.dumps([sys.argv, os.environ['V']]))"
AT_ONCE = 10  # cases of one Hypothesis example, which run beside each other

NAMED = (
    "$(touch x)",
    "`touch x`",
    "'; rm -rf ~",
    '"; touch x; "',
    "a\nb\n",
    "\r\n\t\x1b[31m\x07",
    "李明",
    "ckpt=epoch=3-step=10.ckpt",
    "--flag",
    "-",
    "",
    " ",
    "~",
    "~/x",
    "$HOME ${HOME} $$ $? !!",
    "a\\",
    "\\n",
    "* ? [a] {a,b}",
    "#x",
    "%s %d",
    "null",
    "true",
    "1e3",
    "${oc.env:HOME}",
    "e\u0301 \u202e \u2028 \U0001f600",
)

TEXT = st.one_of(st.sampled_from(NAMED), st.text(st.characters(exclude_characters="\0", codec="utf-8")))
# What a file can be called; the configuration refuses a phase that begins with a dash.
NAME = (
    st.text(st.characters(exclude_characters="\0/", codec="utf-8"), min_size=1, max_size=40)
    .map(lambda name: name[:40])
    .filter(lambda name: name.strip(".") and not name.startswith("-"))
)


@dataclass(frozen=True)
class Case:
    """What one job is given."""

    value: str
    items: tuple[str, ...]
    variable: str
    phase: str
    entrypoint: str


CASES = st.builds(Case, TEXT, st.lists(TEXT, max_size=4).map(tuple), TEXT, NAME, NAME)


class Bench:
    """Runs cases, each in a folder of its own."""

    def __init__(self, place: Path, venv: Path) -> None:
        self.place, self.venv = place, venv
        self.numbers = itertools.count()
        self.env = runner_env(place)

    def check(self, case: Case) -> None:
        """Start the job as a plan would, and compare what it got with what it was given."""
        root = self.place / str(next(self.numbers))
        folder = root / "research-log" / f"phase1{case.phase}"
        folder.mkdir(parents=True)
        (folder / case.entrypoint).write_text(SCRIPT)
        job = Job(
            "train",
            case.entrypoint,
            args=(("value", case.value), ("none", None), ("items", case.items)),
            env=(("V", case.variable),),
        )
        paths = RunPaths.of("research-log", folder.name, "0001-train")
        script = f"research-log/{folder.name}/{case.entrypoint}"
        local = Local(Here(root, root / ".runner"), self.venv)
        (step,) = local.submit(Submission(job_command(job, script), paths))
        write_tools(step.tools)
        done = subprocess.run(
            ["/bin/bash", "-c", step.command], env=self.env, capture_output=True, check=False, cwd="/"
        )
        argv = [script, f"--value={case.value}", "--items", *case.items]
        log = (folder / "run.log").read_text()
        assert (done.returncode, json.loads(log)) == (0, [argv, case.variable]), done.stderr
        assert os.fsencode(log) == done.stdout
        left = {path.name for path in folder.iterdir()} - {case.entrypoint}
        assert left == {"runs", "run.log"}  # nothing in a value was run


@pytest.fixture
def bench(tmp_path: Path, shared_venv: Path) -> Bench:
    return Bench(tmp_path, shared_venv)


@pytest.mark.parametrize("text", NAMED)
def test_named_values_arrive(text: str, bench: Bench) -> None:
    bench.check(Case(text, (text, "x", text), text, text.replace("/", "∕"), text.replace("/", "∕") + ".py"))


@pytest.mark.soak
def test_any_text_arrives(bench: Bench) -> None:
    num_cases = soak_size(2000, 500)

    @settings(max_examples=num_cases // AT_ONCE)
    @given(st.lists(CASES, min_size=AT_ONCE, max_size=AT_ONCE))
    def together(cases: list[Case]) -> None:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(bench.check, cases))

    together()
    print(f"{next(bench.numbers)} jobs: a value, a list, a variable, a folder and a script of any text")
