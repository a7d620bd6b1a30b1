"""What files ask of an environment: PEP 723, requirements.txt, imports. Any text is read, none is run."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.environment.requirements import (
    Requirement,
    distribution,
    has_lower_bound,
    listed_requirements,
    script_requirements,
)
from runner.trial import Imports, has_parser, script_imports, source_text
from tests.support import HOSTILE_NAME

BLOCK = """\
#!/usr/bin/env python
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "torch>=2.9",  # the newest
#     "numpy<3",
# ]
# ///
"""


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("Torch[extra]>=2", "torch"),
        ("flash_attn", "flash-attn"),
        ("zope.interface ==1", "zope-interface"),
        ("x @ git+https://host/x", "x"),
    ],
)
def test_a_requirement_has_a_normal_name(written: str, name: str) -> None:
    assert distribution(written) == name


@pytest.mark.parametrize(
    "written", ["a>=1", "a==1", "a~=1", "a>1", "a @ git+https://host/a", "a>=1; python_version<'4'"]
)
def test_a_bound_from_below_is_seen(written: str) -> None:
    assert has_lower_bound(written)


@pytest.mark.parametrize("written", ["a", "a<2", "a!=2", "a<=2; python_version>='3'"])
def test_no_bound_from_below_is_seen(written: str) -> None:
    assert not has_lower_bound(written)


def test_a_block_names_packages_with_their_lines() -> None:
    found = script_requirements(BLOCK + "import torch\n", "train.py")
    assert found == (Requirement("torch>=2.9", "train.py", 5), Requirement("numpy<3", "train.py", 6))
    assert found[0].where == "train.py, line 5"


@pytest.mark.parametrize("text", ["", "import torch", BLOCK.replace("[", "{"), BLOCK.replace("# ///\n", "")])
def test_no_block_or_a_broken_one_names_nothing(text: str) -> None:
    assert script_requirements(text) == ()


def test_a_list_names_packages_and_leaves_options() -> None:
    text = "# ours\nnumpy  # fast\n-r other.txt\n--index-url x\n\nscorer @ git+https://host/s#egg=s\n"
    assert [(r.text, r.line) for r in listed_requirements(text, "requirements.txt")] == [
        ("numpy", 2),
        ("scorer @ git+https://host/s#egg=s", 6),
    ]


IMPORTS = {
    "import a.b, c as d": (("import a.b", "import c"), ()),
    "from a import b as c, d": (("from a import b, d",), ()),
    "import os, sys\nfrom pathlib import Path": ((), ()),
    "from __future__ import annotations": ((), ()),
    "try:\n    import a\nexcept ImportError:\n    import b": ((), ()),
    "try:\n    import a\nfinally:\n    pass": (("import a",), ()),
    "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import a": ((), ()),
    "def f():\n    import a\n    if x:\n        import b": ((), ("import a",)),
    "import a\ndef f():\n    import a": (("import a",), ()),
    "class C:\n    import a\n    def f(self):\n        import b": (("import a",), ("import b",)),
    "with x():\n    import a": (("import a",), ()),
    "from . import a\nfrom .b import c": ((), ()),
    "if __name__ == '__main__':\n    import a": ((), ()),
    "from a import *": (("from a import *",), ()),
}


@pytest.mark.parametrize("source", IMPORTS)
def test_unconditional_imports_are_found(source: str, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(source)
    assert script_imports(tmp_path / "train.py", tmp_path) == Imports(*IMPORTS[source])


def test_own_modules_are_followed_and_not_named(tmp_path: Path) -> None:
    folder = tmp_path / HOSTILE_NAME
    (folder / "package").mkdir(parents=True)
    (folder / "train.py").write_text("import helper\nfrom package.deep import x\ndef f():\n    import lazy\n")
    (folder / "helper.py").write_text("import train\nimport numpy\n")  # in a circle
    (folder / "package/__init__.py").write_text("")
    (folder / "package/deep.py").write_text("import torch\n")
    (folder / "lazy.py").write_text("import vllm\n")
    assert script_imports(folder / "train.py", folder) == Imports(
        ("import numpy", "import torch"), ("import vllm",)
    )


@pytest.mark.parametrize(
    "source", ["import argparse", "from argparse import ArgumentParser", "def f():\n    import fire"]
)
def test_a_parser_is_seen(source: str) -> None:
    assert has_parser(source.encode())


@pytest.mark.parametrize("source", ["import sys", "# import argparse", "def (:", "\0"])
def test_no_parser_is_seen(source: str) -> None:
    assert not has_parser(source.encode())


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    script_requirements(text)
    script_requirements(f"# /// script\n# {text}\n# ///\n")
    listed_requirements(text)
    has_parser(text.encode(errors="surrogatepass"))
    source_text(text.encode(errors="surrogatepass"))
    distribution(text)
