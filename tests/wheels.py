"""Packages made on the spot, tiny and without a network: what the odd cases of dependencies need."""

import hashlib
import tarfile
import zipfile
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path


def make_wheel(
    folder: Path,
    name: str,
    version: str,
    source: str = "",
    *,
    requires: tuple[str, ...] = (),
    tag: str = "py3-none-any",
    python: str | None = None,
    files: Mapping[str, str] | None = None,
) -> Path:
    """A wheel of one module, `name`, whose `__init__` is `source`."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    contents = {f"{module}/__init__.py": source, **(files or {})}
    contents[f"{info}/METADATA"] = metadata(name, version, requires, python)
    contents[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n"
    record = "".join(
        f"{path},sha256={digest(text)},{len(text.encode())}\n" for path, text in contents.items()
    )
    contents[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n"
    path = folder / f"{module}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for inner, text in contents.items():
            wheel.writestr(zipfile.ZipInfo(inner, (2020, 1, 1, 0, 0, 0)), text)
    return path


def make_sdist(folder: Path, name: str, version: str, backend: str) -> Path:
    """A source distribution whose build backend, `backend`, is its own: building needs no other package."""
    pyproject = (
        f'[project]\nname = "{name}"\nversion = "{version}"\ndynamic = ["readme"]\n'
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    root = f"{name.replace('-', '_')}-{version}"
    contents = {
        "PKG-INFO": metadata(name, version, (), None),
        "pyproject.toml": pyproject,
        "backend.py": backend,
    }
    path = folder / f"{root}.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for inner, text in contents.items():
            member = tarfile.TarInfo(f"{root}/{inner}")
            member.size = len(text.encode())
            tar.addfile(member, BytesIO(text.encode()))
    return path


EDITABLE = """\
import os, zipfile
def build_editable(folder, config_settings=None, metadata_directory=None):
    with zipfile.ZipFile(os.path.join(folder, WHEEL), "w") as wheel:
        wheel.writestr("of_a_test.pth", os.path.abspath("lib"))
        for path, text in FILES.items():
            wheel.writestr(f"{INFO}/{path}", text)
    return WHEEL
"""


def make_project(folder: Path, name: str, source: str, *, requires: tuple[str, ...] = ()) -> Path:
    """A package with its code in lib/ that can be installed with -e, by a build backend of its own.

    Gives its pyproject.toml.
    """
    files = {
        "METADATA": metadata(name, "1.0", requires, None),
        "WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "",
    }
    wheel = f"WHEEL = '{name}-1.0-py3-none-any.whl'\nINFO = '{name}-1.0.dist-info'\nFILES = {files!r}\n"
    (folder / "backend.py").write_text(wheel + EDITABLE)
    (folder / "lib").mkdir()
    (folder / "lib" / f"{name}.py").write_text(source)
    pyproject = folder / "pyproject.toml"
    pyproject.write_text(
        f'[project]\nname = "{name}"\nversion = "1.0"\ndependencies = {list(requires)!r}\n'
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    return pyproject


def metadata(name: str, version: str, requires: tuple[str, ...], python: str | None) -> str:
    """The METADATA of a distribution."""
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Python: {python}"] if python else []
    return "\n".join([*lines, *(f"Requires-Dist: {requirement}" for requirement in requires), ""])


def digest(text: str) -> str:
    """As RECORD has it."""
    return urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
