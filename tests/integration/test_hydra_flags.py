"""Hydra's own flags behave as Hydra's users know them, with our phases and with values as typed."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Runner
from tests.support import PYTHON, Lab, runner_env

CONSOLE_SCRIPT = Path(PYTHON).parent / "runner"


def test_cfg_shows_what_was_typed(runner: Runner) -> None:
    words = (
        "phase=phase11",
        "batch_size=8",
        "remote.root=~/X",
        "phase.deps=[torch>=2.5, b]",
        "command=a, b=c",
    )
    done = runner("--cfg", "job", *words)
    assert done.exit_code == 0, done
    for line in ("batch_size: 8", "  root: ~/X", "  - torch>=2.5", "command: a, b=c", "confirm: 'false'"):
        assert line in done.stdout.splitlines()


def test_cfg_of_a_package_and_resolved(research_log: Lab, runner: Runner) -> None:
    research_log.add_phase(batch_size=5)
    done = runner("--cfg", "job", "--resolve", "-p", "batch_size", "phase=phase1", *research_log.args)
    assert done.stdout.strip() == "5", done


def test_info_shows_the_defaults(runner: Runner) -> None:
    for words in (("--info", "defaults", "phase=phase11"), ("phase=phase11", "--info")):
        done = runner(*words)
        assert done.exit_code == 0, done
        assert "phase/phase11" in done.stdout


def test_showing_flags_leave_no_folder(runner: Runner, tmp_path: Path) -> None:
    runner("--cfg", "job")
    runner("--hydra-help")
    assert {path.name for path in tmp_path.iterdir()} <= {"home"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--cfg", "job", "phase=phse11"), "Did you mean phase11"),
        (("--cfg", "nonsense"), "choose from"),
        (("--cfg", "job", "batchsize=3"), "Did you mean batch_size"),
        (("--config-dir", "/nonexistent"), "no such folder"),
    ],
)
def test_a_mistake_beside_a_flag_gets_the_same_message(
    words: tuple[str, ...], expected: str, runner: Runner
) -> None:
    done = runner(*words)
    assert done.exit_code == 64, done
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("runner phase=", {"phase=phase11", "phase=phase12"}),
        ("runner phase=phase11 batch", {"batch_size="}),
        ("runner instance=gpu_1x_a10", {"instance=gpu_1x_a10", "instance=gpu_1x_a100_sxm4"}),
        ("runner phase=phase11 phase.jobs.train.args.l", {"phase.jobs.train.args.lr="}),
        ("runner phase=11 action=tr", {"action=train"}),
        ("runner phase=11 phase.jobs.train.args.l", {"phase.jobs.train.args.lr="}),
        ("runner phase=phase12 action=", {"action=generate", "action=mutate", "action=terminate"}),
    ],
)
def test_completion_in_bash(line: str, expected: set[str], home: Path) -> None:
    env = runner_env(home, {"COMP_LINE": line, "COMP_POINT": str(len(line))})
    done = subprocess.run(
        [CONSOLE_SCRIPT, "-sc", "query=bash"], env=env, capture_output=True, text=True, check=True
    )
    assert expected <= set(done.stdout.split())


def test_completion_can_be_installed(home: Path) -> None:
    script = 'eval "$(runner -sc install=bash)"; complete -p runner'
    env = runner_env(home, {"PATH": f"{CONSOLE_SCRIPT.parent}:{os.environ['PATH']}"})
    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, check=True)
    assert "hydra_bash_completion runner" in done.stdout


def test_the_console_script_does_the_same(
    research_log: Lab, runner: Runner, home: Path, tmp_path: Path
) -> None:
    research_log.add_phase()
    words = ("phase=phase1", "action=train", "output=json", *research_log.args)
    done = subprocess.run(
        [CONSOLE_SCRIPT, *words],
        env=runner_env(home),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    ours, module = json.loads(done.stdout), runner(*words).plan
    assert ours.pop("confirm") == ["runner", *module.pop("confirm")[3:]]  # what each calls itself
    assert ours == module


def said(*words: str, home: Path) -> str:
    """What a program says on stdout."""
    env = runner_env(home)
    return subprocess.run(words, env=env, cwd=home, stdout=subprocess.PIPE, text=True, check=True).stdout


def test_the_version_is_ours_and_then_hydras(runner: Runner) -> None:
    done = runner("--version")
    assert done.exit_code == 0, done
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["runner", "Hydra"]


def test_help_is_ours_and_imports_nothing_heavy(runner: Runner, home: Path) -> None:
    done = runner("--help", "phase=nonsense")
    assert done.exit_code == 0
    assert "Verbs (action=…)" in done.stdout
    code = "import sys; sys.argv = ['x', '--help']; from runner.cli import main; main(); print(*sys.modules)"
    ran = subprocess.run(
        [PYTHON, "-c", code], env=runner_env(home), capture_output=True, text=True, check=True
    )
    loaded = {name.split(".")[0] for name in ran.stdout.splitlines()[-1].split()}
    assert not loaded & {"hydra", "omegaconf", "yaml", "httpx", "invoke", "fabric", "rich"}


def test_a_dry_run_imports_nothing_that_acts(research_log: Lab, home: Path) -> None:
    research_log.add_phase()
    words = ["-m", "phase=phase1", "action=train", *research_log.args]
    code = f"import sys; sys.argv = {words!r}; from runner.cli import main; main(); print(*sys.modules)"
    ran = subprocess.run(
        [PYTHON, "-c", code], env=runner_env(home), capture_output=True, text=True, check=True
    )
    loaded = {name.split(".")[0] for name in ran.stdout.splitlines()[-1].split()}
    assert "hydra" in loaded
    assert not loaded & {"httpx", "invoke", "fabric", "paramiko", "rich", "asyncio"}
