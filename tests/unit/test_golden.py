"""Plans as people and programs see them, in files that a person can review.

After a change that is meant: GOLDEN=write make test (or this file alone), then read the difference in git.
"""

import os
import re
import sys

import pytest
from uv import find_uv_bin

from tests.conftest import Runner
from tests.support import CHECKOUT, Done, Lab

GOLDEN = CHECKOUT / "tests/golden"
ENDINGS = {"text": "txt", "json": "json", "script": "sh"}


@pytest.fixture
def lab(research_log: Lab) -> Lab:
    """A phase that shows most of what a phase can say."""
    folder = research_log.add_phase(
        "phase7-golden",
        args={
            "batch_size": "${batch_size}",
            "lr": 0.001,
            "text": "it's 李明; $(id)",
            "layers": [1, 2],
            "none": None,
            "flag": True,
        },
        env={"HF_TOKEN": None, "MODE": "a b"},
        deps=["torch>=2.5", "numpy"],
        batch_size=4,
        artifacts=["checkpoints/", "metrics.jsonl"],
    )
    (folder / "run.log").write_text("from before")
    return research_log


def normalised(text: str, lab: Lab) -> str:
    """Without the places of this machine and what depends on them."""
    places = [(str(lab.root), "/home/me/lab"), (str(lab.venv), "/home/me/venv"), (find_uv_bin(), "/bin/uv")]
    for place, name in [*places, (sys.executable, "/bin/python"), (str(CHECKOUT), "/home/me/Fractal")]:
        text = text.replace(place, name)
    text = re.sub(r"(--find-links \S+|--torch-backend \w+)", "--find-links /wheels", text)
    text = re.sub(r"(?m)^(  code      ).*", r"\1…", text)
    text = re.sub(r'("code": )("[^"]*"|\{"commit": [^}]*\})', r"\1…", text)
    text = re.sub(r"\S*python -m runner", "python -m runner", text)
    text = re.sub(r'"[^"]*python", "-m", "runner"', '"python", "-m", "runner"', text)
    text = re.sub(
        r"(?ms)^(mkdir .* && cat > \S*shim-\w+ <<'(\w+)'[^\n]*\n).*?^\2$", r"\1(the shim)\n\2", text
    )
    text = re.sub(r"shim-[0-9a-f]{8}", "shim-00000000", text)
    text = re.sub(r"shim-0+ \([\d,]+ lines\)", "shim-00000000 (N lines)", text)
    text = re.sub(r'(shim-0+", "lines": )\d+', r"\g<1>0", text)
    return re.sub(r"\bp[0-9a-f]{12}\b", "p" + "0" * 12, text)


def check(name: str, done: Done, lab: Lab) -> None:
    assert done.exit_code == 0, done
    text = normalised(done.stdout, lab)
    file = GOLDEN / name
    if os.environ.get("GOLDEN") == "write":
        file.write_text(text)
    assert text == file.read_text(), f"{file} differs; if it should, GOLDEN=write and review"


@pytest.mark.parametrize("output", ENDINGS)
@pytest.mark.parametrize("action", ["train", "setup"])
def test_a_plan_looks_like_this(action: str, output: str, lab: Lab, runner_here: Runner) -> None:
    words = ("phase=phase7", f"action={action}", f"output={output}", *lab.args)
    check(f"{action}.{ENDINGS[output]}", runner_here(*words, cwd=lab.root), lab)


@pytest.mark.parametrize("output", ["text", "json"])
def test_discover_looks_like_this(output: str, lab: Lab, runner_here: Runner) -> None:
    for name in ("phase2.5-bpe", "phase19.5-full-critic", "phase19-critic"):
        (lab.log / name).mkdir()
    (lab.log / "phase2.5-bpe/RESULTS_PHASE2.5.md").touch()
    (lab.log / "phase19-critic/PLAN_PHASE19.md").touch()
    done = runner_here(f"output={output}", *lab.args, cwd=lab.root)
    check(f"discover.{ENDINGS[output]}", done, lab)
