"""The documentation is run: every command in it works as written, every link leads somewhere.

Commands are the `$ ` lines of ```console blocks and whole ```bash blocks. They run in a copy of the
checkout, top to bottom, a document at a time. `make` targets are checked for being there (running the
suite inside itself would not end), and what would ask the cloud for being a command that is known.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
PAGES = [*CHECKOUT.glob("*.md"), *(CHECKOUT / "docs").glob("*.md"), *(CHECKOUT / "benchmarks").glob("*.md")]
NAMES = [str(page.relative_to(CHECKOUT)) for page in sorted(PAGES)]
ASKS_THE_CLOUD = re.compile(r"action=(launch|up|wait|available|status|terminate|setup-ssh|doctor)\b")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def commands(page: str) -> list[str]:
    """The commands of a page, in order."""
    found = []
    for language, body in BLOCK.findall((CHECKOUT / page).read_text()):
        if language == "console":
            found += re.findall(r"^\$ (.*(?:\\\n.*)*)", body, re.MULTILINE)
        elif language == "bash":
            found.append(body)
    return found


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tracked and new files of the working tree, with the environment that runs the tests."""
    copy = tmp_path_factory.mktemp("docs") / "fractal"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=CHECKOUT, capture_output=True, check=True
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (CHECKOUT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, copy / name)
    (copy / ".venv").symlink_to(Path(sys.prefix))
    return copy


def run(command: str, clone: Path) -> subprocess.CompletedProcess[str]:
    """As typed in the clone, with the environment active and without a key of the cloud."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "PYTHONPATH": str(clone), "PATH": path}
    env.pop("LAMBDA_API_KEY", None)
    words = ["bash", "-e", "-c", command]
    return subprocess.run(words, cwd=clone, env=env, text=True, capture_output=True, timeout=120, check=False)


@pytest.mark.parametrize("page", NAMES)
def test_every_command_works_as_written(page: str, clone: Path) -> None:
    for command in commands(page):
        if command.startswith("make "):
            command = f"make -n {command.removeprefix('make ')}"
        done = run(command, clone)
        allowed = {0, 64} if ASKS_THE_CLOUD.search(command) else {0}
        assert done.returncode in allowed, f"{command}\n{done.stdout}{done.stderr}"
        if done.returncode == 64:
            assert "LAMBDA_API_KEY" in done.stderr, f"{command}\n{done.stderr}"


@pytest.mark.parametrize("page", NAMES)
def test_every_action_named_in_running_text_exists(page: str) -> None:
    from runner.verbs import VERBS

    known = {verb.name for verb in VERBS} | {"train", "generate", "mutate", "baseline"}
    named = set(re.findall(r"`[^`\n]*\baction=([\w-]+)[^`\n]*`", (CHECKOUT / page).read_text()))
    assert named <= known


@pytest.mark.parametrize("page", NAMES)
def test_no_link_is_dead(page: str) -> None:
    text = (CHECKOUT / page).read_text()
    targets = [target.split("#")[0] for target in re.findall(r"\]\((?!https?://)([^)]+)\)", text)]
    assert not [target for target in targets if target and not ((CHECKOUT / page).parent / target).exists()]


def test_the_readme_begins_with_the_two_commands() -> None:
    assert commands("README.md")[:2] == ["make demo", "make test"]


def test_every_verb_is_in_the_readme() -> None:
    from runner.verbs import VERBS

    text = (CHECKOUT / "README.md").read_text()
    assert not [verb.name for verb in VERBS if f"| `{verb.name}` |" not in text]


def test_the_house_that_is_drawn_is_the_one_that_stands() -> None:
    drawn = (
        (CHECKOUT / "docs" / "architecture.md")
        .read_text()
        .partition("## The house")[2]
        .partition("\nImports")[0]
    )
    modules = {path.stem for path in (CHECKOUT / "runner").rglob("*.py") if not path.stem.startswith("__")}
    assert sorted(modules - set(re.findall(r"\w+", drawn))) == []


def test_the_plan_in_the_readme_is_what_the_program_prints(clone: Path) -> None:
    """But for what differs between checkouts: hashes, the place, the commit, where torch comes from."""
    command = "python -m runner phase=phase11 action=train"
    shown = (CHECKOUT / "README.md").read_text().partition(f"$ {command}\n")[2].partition("```")[0]
    printed = run(f'PATH="$PWD/.venv/bin:$PATH" {command}', clone).stdout
    assert _plan_without_names(shown) == _plan_without_names(printed)


def _plan_without_names(text: str) -> str:
    """The text of a plan, equal for equal plans of two checkouts."""
    text = re.sub(r"\bp[0-9a-f]{12}\b", "DIGEST", text)
    text = re.sub(r"shim-[0-9a-f]{8}( \([\d,]+ lines\))?", "shim-HASH", text)
    text = re.sub(r"(?m)^(  code +).*", r"\1COMMIT", text)
    text = re.sub(r"--token [0-9a-f]{12}", "--token TOKEN", text)
    text = re.sub(r"--(find-links|torch-backend) \S+", "--from THERE", text)
    return re.sub(r"(?m)^(    cd) \S+", r"\1 ROOT", text)
