"""Consent: a plan runs when it is named, runs once, and runs as it was printed."""

import json
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import Runner
from tests.support import PYTHON, Done, Lab, run_runner, runner_env

TRAIN = ("phase=phase1", "action=train")


@pytest.fixture
def shown(research_log: Lab, runner: Runner) -> Done:
    """The plan of a job, as JSON."""
    research_log.add_phase(args={"epochs": 3})
    done = runner(*TRAIN, "output=json", *research_log.args)
    assert done.exit_code == 0, done
    return done


def test_the_digest_runs_the_plan_and_is_spent_by_it(shown: Done, research_log: Lab, runner: Runner) -> None:
    digest = f"confirm={shown.plan['digest']}"
    first = runner(*TRAIN, digest, *research_log.args)
    assert first.exit_code == 0, first
    second = runner(*TRAIN, digest, *research_log.args)
    assert second.exit_code == 77, second
    assert re.search("spent by .*0001-train", second.stderr)
    assert "confirm=" not in second.stderr, "the plan of now is to be looked at, not to be agreed to unseen"
    assert [path.name for path in (research_log.log / "phase1-test/runs").iterdir()] == ["0001-train"]


def test_the_words_of_the_document_run_the_plan(
    research_log: Lab, runner: Runner, home: Path, tmp_path: Path
) -> None:
    folder = research_log.add_phase(args={"text": "x"})
    words = (*TRAIN, """phase.jobs.train.args.text='it is; $(id) "a"'""", *research_log.args)
    plan = runner(*words, "output=json", cwd=tmp_path).plan
    assert plan["values"] == {"text": 'it is; $(id) "a"'}
    done = subprocess.run(plan["confirm"], cwd=tmp_path, env=runner_env(home), capture_output=True, text=True)
    assert done.returncode == 0, done
    assert plan["digest"] in done.stdout and "setup" not in done.stdout, "what was shown is not shown again"
    kept = json.loads((folder / "runs/0001-train/plan.json").read_text())
    assert {key: plan[key] for key in plan if key != "confirm"} == {
        key: kept[key] for key in plan if key in kept
    }


def test_what_may_not_run_has_no_words_to_run_it(research_log: Lab, runner: Runner) -> None:
    research_log.add_phase(deps=["numpy"])
    plan = runner(*TRAIN, "require_preflight=true", "output=json", *research_log.args).plan
    assert (plan["refused"], plan["confirm"]) == (True, None)


def test_any_other_digest_is_refused_and_the_plan_of_now_is_shown(
    shown: Done, research_log: Lab, runner: Runner
) -> None:
    done = runner(*TRAIN, "confirm=p000000000000", *research_log.args)
    assert done.exit_code == 77
    assert shown.plan["digest"] in done.stdout
    assert shown.plan["digest"] in done.stderr
    assert not (research_log.log / "phase1-test/runs").exists()


@pytest.mark.parametrize("change", ["code", "argument", "run"])
def test_what_changed_since_makes_another_plan(
    change: str, shown: Done, research_log: Lab, runner: Runner
) -> None:
    folder = research_log.log / "phase1-test"
    words: tuple[str, ...] = ()
    if change == "code":
        (folder / "train.py").write_text("print('other')")
    elif change == "argument":
        words = ("phase.jobs.train.args.epochs=4",)
    else:
        (folder / "runs/0001-train").mkdir(parents=True)
    done = runner(*TRAIN, *words, f"confirm={shown.plan['digest']}", *research_log.args)
    assert done.exit_code == 77, done


def test_to_ask_without_a_terminal_is_refused_with_the_digest(
    shown: Done, research_log: Lab, runner: Runner
) -> None:
    done = runner(*TRAIN, "confirm=ask", *research_log.args)
    assert (done.exit_code, f"confirm={shown.plan['digest']}\n" in done.stderr) == (77, True), done
    assert not (research_log.log / "phase1-test/runs").exists()


@pytest.mark.parametrize("word", ["yes", "p123", "P000000000000", "p00000000000g", "12e456789012", "1", ""])
def test_what_is_no_digest_is_a_mistake(word: str, research_log: Lab, runner_here: Runner) -> None:
    research_log.add_phase()
    done = runner_here(*TRAIN, f"confirm={word}", *research_log.args)
    assert done.exit_code == 64, done


def test_the_digest_is_the_same_everywhere(research_log: Lab, home: Path, tmp_path: Path) -> None:
    research_log.add_phase(args={"b": 1, "a": [1, 2]}, env={"Z": "1", "A": "2"}, artifacts=["x/", "y"])

    def digest(seed: int) -> str:
        env = {"PYTHONHASHSEED": str(seed), "COLUMNS": "200" if seed % 2 else "40", "TZ": f"UTC{seed - 10}"}
        done = run_runner(*TRAIN, "output=json", *research_log.args, cwd=tmp_path, env=runner_env(home, env))
        return str(done.plan["digest"])

    with ThreadPoolExecutor(2) as pool:
        assert len(set(pool.map(digest, range(20)))) == 1


def test_text_json_and_script_are_of_one_plan(shown: Done, research_log: Lab, runner_here: Runner) -> None:
    for output in ("text", "script"):
        done = runner_here(*TRAIN, f"output={output}", *research_log.args)
        assert shown.plan["digest"] in done.stdout
        for step in shown.plan["steps"]:
            assert step["command"] in done.stdout


def executed(trace: Path) -> list[str]:
    """The texts given to `bash -c` by the runner itself, unescaped."""
    texts = []
    for line in trace.read_text().splitlines():
        if match := re.search(r'execve\("/bin/bash", \["/bin/bash", "-c", "(.*)"\], ', line):
            escaped = match[1].encode().decode("unicode_escape")
            texts.append(escaped.encode("latin-1").decode("utf-8", "surrogateescape"))
    return texts


def test_what_runs_is_what_was_printed(hostile_log: Lab, home: Path, tmp_path: Path) -> None:
    hostile_log.add_phase(args={"text": "it's \"x\"; 'echo foo' $(touch x)\n李明"}, deps=[])
    env = runner_env(home)
    shown = run_runner(*TRAIN, "output=json", *hostile_log.args, cwd=tmp_path, env=env)
    strace = shutil.which("strace")
    assert strace
    trace = tmp_path / "trace"
    quiet = ("-f", "-qq", "-v", "-s", "1000000", "-e", "trace=execve", "-e", "signal=none")
    done = run_runner(
        *TRAIN,
        f"confirm={shown.plan['digest']}",
        *hostile_log.args,
        cwd=tmp_path,
        env=env,
        python=(strace, *quiet, "-o", str(trace), PYTHON),
    )
    assert done.exit_code == 0, done
    assert executed(trace) == [step["command"] for step in shown.plan["steps"]]


def tree(root: Path) -> dict[str, str]:
    """What is below a folder, without the places and times that differ from one folder to another."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_file() and path.name != "pid":
            text = path.read_text().replace(str(root), "ROOT")
            text = re.sub(r'"seconds": [0-9.]+', '"seconds": 0', text)
            found[name] = re.sub(r"\bp[0-9a-f]{12}\b", "DIGEST", text)
        else:
            found[name] = "a folder" if path.is_dir() else "a file"
    return found


@pytest.mark.parametrize("code", [0, 3])
def test_the_script_does_what_confirming_does(
    code: int, tmp_path: Path, shared_venv: Path, runner: Runner, home: Path
) -> None:
    script = (
        "import pathlib, sys; pathlib.Path(__file__).with_name('it\\'s').mkdir()\n"
        "print('input', sys.stdin.read())\n"
        f"open('made', 'w').write('x'); print('a line'); raise SystemExit({code})"
    )
    trees = []
    for way in ("confirm", "script"):
        lab = Lab(tmp_path / way, shared_venv)
        lab.add_phase(script=script, args={"text": "it's; 李明"}, artifacts=["it's/", "none.jsonl"])
        if way == "confirm":
            done = runner(*TRAIN, "confirm=true", *lab.args, cwd=lab.root)
            assert done.exit_code == code, done
        else:
            text = runner(*TRAIN, "output=script", *lab.args, cwd=lab.root).stdout
            assert bash(text, home).returncode == code
            before = tree(lab.root)
            again = bash(text, home)
            assert again.returncode == 77  # it is good once
            assert again.stderr.startswith("0001-train was started before"), again
            assert tree(lab.root) == before
        trees.append(tree(lab.root))
    confirmed, scripted = trees
    assert scripted == confirmed
    assert json.loads(scripted["research-log/phase1-test/runs/0001-train/result.json"])["ok"] is (code == 0)


def bash(script: str, home: Path) -> subprocess.CompletedProcess[str]:
    """`… | bash`, from a folder that has nothing to do with it."""
    return subprocess.run(
        ["bash"], input=script, text=True, env=runner_env(home), cwd="/", capture_output=True, check=False
    )


def test_two_at_once_run_it_once(research_log: Lab, home: Path, tmp_path: Path, runner: Runner) -> None:
    folder = research_log.add_phase(script="import time; time.sleep(0.5); print('ran')")
    for number in range(1, 4):
        digest = runner(*TRAIN, "output=json", *research_log.args).plan["digest"]
        words = (*TRAIN, f"confirm={digest}", *research_log.args)

        def one(_: int, words: tuple[str, ...] = words) -> Done:
            return run_runner(*words, cwd=tmp_path, env=runner_env(home))

        with ThreadPoolExecutor(2) as pool:
            codes = sorted(done.exit_code for done in pool.map(one, range(2)))
        assert codes == [0, 77]
        assert (folder / "run.log").read_text() == "ran\n"
        assert len(list((folder / "runs").iterdir())) == number


def test_a_plan_document_is_what_is_promised(shown: Done) -> None:
    plan = shown.plan
    assert list(plan) == [
        *("format", "digest", "action", "phase", "effect", "instance", "run", "reason", "refused", "notes"),
        *("monitor", "values", "code", "details", "steps", "confirm"),
    ]
    assert (plan["refused"], plan["values"], plan["code"]) == (
        False,
        {"epochs": 3},
        {"commit": None, "changed": []},
    )
    assert plan["details"]["values"] == "epochs 3"
    assert plan["confirm"][-1] == f"confirm={plan['digest']}" and "action=train" in plan["confirm"]
    assert plan["instance"] == {"name": "local", "provider": "local", "type": None, "usd_per_hour": 0.0}
    assert (plan["action"], plan["phase"], plan["effect"]) == ("train", "phase1-test", "change")
    assert [step["name"] for step in plan["steps"]] == ["setup", "start"]
    for step in plan["steps"]:
        assert list(step) == ["name", "effect", "on", "command", "timeout_s"]
    assert json.dumps(plan).isascii()
