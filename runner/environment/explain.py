"""Why a preflight failed, in our words: from what tools print to the package, version and line at fault.

A rule gets the text, the same text on one line, and what was asked for; the first that knows answers.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from runner.environment.requirements import Requirement, distribution, has_lower_bound

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_PIN = r"([A-Za-z0-9][\w.-]*)(?:\[[^\]]*\])?"
_OFFLINE = re.compile(
    r"error sending request|dns error|failed to lookup address|Connection refused|operation timed out"
    r"|Could not resolve host|network was disabled"
)
_NUMPY_1 = re.compile(
    r"numpy\.dtype size changed|compiled using NumPy 1\.x|numpy\.core\.multiarray failed to import"
    r"|_ARRAY_API not found"
)


@dataclass(frozen=True)
class Asked:
    """What was asked for, and for which machine; what an explanation may name beside the tools' words."""

    requirements: tuple[Requirement, ...]
    platform: str
    pins: tuple[tuple[str, str], ...] = ()

    def said(self, name: str) -> str:
        """`torch==2.12.0 (conf/phase/phase12.yaml, line 6)`; what nobody asked for says who needs it."""
        asked = [r for r in self.requirements if r.name == distribution(name)]
        return " and ".join(f"{r.text} ({r.where})" for r in asked) or f"{name}, which another package needs"

    def unbound(self, name: str) -> str:
        """A sentence for a package that nothing keeps from being resolved to any old version."""
        asked = [r for r in self.requirements if r.name == distribution(name)]
        if not asked or any(has_lower_bound(r.text) for r in asked):
            return ""
        return f" Nothing asks for a newer {name} either: give it a lower bound, {name}>=…, first."

    def pinned(self, name: str) -> str:
        """`numpy 2.3.5`, or the bare name."""
        version = dict(self.pins).get(distribution(name))
        return f"{name} {version}" if version else name


def explain(log: str, asked: Asked) -> str | None:
    """A sentence or two on what was printed since the last preflight began; None when no rule knows it."""
    said = _ANSI.sub("", log.rpartition("--- preflight of ")[2])
    flat = " ".join(said.split())
    return next((sentence for rule in _RULES if (sentence := rule(said, flat, asked))), None)


# ------------------------------------------------------------------------------------ code


def _submodule_here(said: str, flat: str, asked: Asked) -> str | None:
    """The phase's folder holds a submodule."""
    del flat, asked
    if match := re.search(r"submodules are not pushed: .*?\t(\S+)", said):
        return (
            f"{match[1]} is a git submodule: its files are not the phase's own and never reach a machine. "
            "Name the repository as phase.source; it is cloned there, submodules included."
        )
    return None


def _clone_fails(said: str, flat: str, asked: Asked) -> str | None:
    """phase.source or one of its submodules cannot be had."""
    del said, asked
    if match := re.search(r"clone of '([^']*)' into submodule path '([^']*)' failed", flat):
        path = match[2].rpartition("/code/")[2]
        return f"phase.source: its submodule {path} cannot be cloned from {match[1]}."
    if match := re.search(r"[Nn]o url found for submodule path '([^']*)'", flat):
        return f"phase.source: its submodule {match[1]} has no address in .gitmodules."
    missing = r"pathspec '([^']*)' did not match|(?:invalid reference|reference is not a tree): (\S+)"
    if match := re.search(missing, flat):
        return f"phase.source.ref: the repository has no commit, branch or tag {match[1] or match[2]}."
    if match := re.search(r"fatal: (?:repository )?'?([^']+?)'? (?:does not|not found)", flat):
        return f"phase.source.git: {match[1]} is no repository that can be cloned from here."
    return None


def _unreadable(said: str, flat: str, asked: Asked) -> str | None:
    """A script that the machine could not start: its text, its encoding, its Python."""
    del flat, asked
    found = re.findall(r"(?m)^unreadable: (.*)$", said)
    more = f" ({len(found) - 1} more are in the log)" if len(found) > 1 else ""
    return f"{found[0].rstrip('.')}{more}." if found else None


# ------------------------------------------------------------------------------------ resolve


def _git_requirement(said: str, flat: str, asked: Asked) -> str | None:
    """A requirement that is a git repository which cannot be had."""
    del said
    if "Git operation failed" not in flat:
        return None
    match = re.search(rf"`{_PIN} @ git\+[^`]+`", flat)
    address = re.search(r"(?:git\+|Updating )(\S+)", flat)
    named = match[1] if match else next((r.name for r in asked.requirements if "git+" in r.text), "a package")
    branch = re.search(r"failed to (?:fetch|find) (?:branch or tag|branch|tag|commit) `([^`]+)`", flat)
    what = f"{branch[1]} cannot be fetched from" if branch else "nobody can clone"
    where = address[1].rstrip("`") if address else "its repository"
    return f"{asked.said(named)}: {what} {where}. Name a repository and a commit that any machine can fetch."


def _unparsable(said: str, flat: str, asked: Asked) -> str | None:
    """A line that is no requirement."""
    if "parse requirement" not in flat:
        return None
    line = re.search(r"(?m)^\s+(\S.*)\n\s+\^+", said)
    why = re.search(r"(?m)^\s+cause: (.*)$", said)
    text = line[1].strip() if line else "a line"
    where = next((f" ({r.where})" for r in asked.requirements if r.text == text), "")
    return f"{text}{where} is no requirement: {why[1] if why else 'uv cannot read it'}."


def _local_file(said: str, flat: str, asked: Asked) -> str | None:
    """A requirement that only this machine has."""
    if "a file of this machine" not in flat:
        return None
    path = _last_match(r"(?m)^(?:\S+ @ )?((?:file:|[./])\S+)", said) or "a path"
    written = next((r for r in asked.requirements if path.rpartition("/")[2] in r.text), None)
    return (
        f"{path}{f' ({written.where})' if written else ''} is a file of this machine; a rented one lacks it."
    )


def _only_here(said: str, flat: str, asked: Asked) -> str | None:
    """A wheel for this machine and none for that one."""
    del said
    if match := re.search(r"no wheel: ([\w.-]+)==(\S+)", flat):
        return (
            f"{asked.said(match[1])}: {match[1]} {match[2]} has a wheel for this machine but none for "
            f"{asked.platform}; it would be compiled on the paid machine, or not at all. Take a version with "
            f"a wheel, or allow it: phase.preflight.builds=[{distribution(match[1])}]."
            f"{asked.unbound(match[1])}"
        )
    return None


def _no_wheel(said: str, flat: str, asked: Asked) -> str | None:
    """Wheels, but none for the machine."""
    del said
    kinds = "(Python ABI|Python implementation|Python version|platform)"
    tag = re.search(rf"{_PIN}(?:==(\S+)|\S*)? (?:has|have) no wheels with a matching {kinds} tag", flat)
    if tag is None:
        return None
    there = re.search(r"following (?:Python \w+ tags?|platforms?): (.*?)(?: hint:|$)", flat)
    has = f" It has wheels for {there[1].replace('`', '')}." if there else ""
    kind = "processor and C library" if tag[3] == "platform" else "Python"
    package = f"{tag[1]} {tag[2]}" if tag[2] else tag[1]
    where = f"the machine's {kind} ({asked.platform})"
    return f"{asked.said(tag[1])}: {package} has no wheel for {where}.{has}{asked.unbound(tag[1])}"


def _other_python(said: str, flat: str, asked: Asked) -> str | None:
    """Every version that fits wants another Python."""
    del said
    match = re.search(rf"{_PIN}\S* (?:requires|depends on) (?:one of: )?Python ?([<>=!~][\d.,<>=!~]+)", flat)
    if match is None:
        return None
    wanted = match[2].rstrip(",.")
    return f"{asked.said(match[1])} wants Python {wanted}; the machine has another ({asked.platform})."


def _not_there(said: str, flat: str, asked: Asked) -> str | None:
    """A name or a version that does not exist."""
    del said
    if match := re.search(rf"ecause {_PIN} was not found in", flat):
        return f"{asked.said(match[1])}: there is no package of this name. Is it spelt right?"
    if match := re.search(rf"there (?:is|are) no versions? of {_PIN}(==\S+|[<>~!]\S+)?", flat):
        version = f" {match[2].removeprefix('==')}" if match[2] else ""
        return f"{asked.said(match[1])}: there is no version{version} of {match[1]}."
    if match := re.search(
        rf"only {_PIN}(?:\{{[^}}]*\}})?[<>=]\S* (?:is|are) available and you require \1", flat
    ):
        return f"{asked.said(match[1])}: no version that exists fits."
    return None


def _conflict(said: str, flat: str, asked: Asked) -> str | None:
    """Two lines that cannot both be had."""
    del said
    if "No solution found" not in flat:
        return None
    twice = re.search(rf"ecause you require {_PIN}(\S+) and {_PIN}(\S+),", flat)
    if twice and twice[1] == twice[3]:
        return f"{asked.said(twice[1])} exclude each other: no version is both {twice[2]} and {twice[4]}."
    needs = re.search(rf"{_PIN}((?:[=<>~!]=?\S+)?) depends? on {_PIN}((?:[=<>~!]=?\S+)?)", flat)
    if needs is None:
        return None
    ours = [r for r in asked.requirements if re.search(rf"\b{re.escape(r.name)}\b", flat)]
    pinned = next((r.text for r in ours if r.name == distribution(needs[1]) and "==" in r.text), None)
    who = (pinned or f"{needs[1]}{needs[2]}").replace("==", " ").rstrip(",")
    named = " and ".join(f"{r.text} ({r.where})" for r in ours) or "The requirements"
    return f"{named} cannot be had together: {who} needs {needs[3]}{needs[4].rstrip(',')}."


def _unreachable(said: str, flat: str, asked: Asked) -> str | None:
    """Nothing was found out."""
    del said, asked
    if _OFFLINE.search(flat):
        return "A package index could not be reached, so nothing was found out about the dependencies."
    return None


# ------------------------------------------------------------------------------------ install


def _build_fails(said: str, flat: str, asked: Asked) -> str | None:
    """No wheel anywhere, and its own build breaks."""
    del said
    match = re.search(rf"Failed to (?:download and )?build `?{_PIN}(?:==([^` ]+))?", flat)
    if match is None:
        return None
    lacks = re.search(r"ModuleNotFoundError: No module named '([^']+)'", flat)
    why = f" (its build imports {lacks[1]}, which it does not declare)" if lacks else ""
    package = f"{match[1]} {match[2]}" if match[2] else match[1]
    return (
        f"{asked.said(match[1])}: {package} has no wheel and must be built from source, which fails "
        f"here{why}. Take a version with a wheel; if only a GPU can build it, leave it out here: "
        f"+phase.preflight.packages.{match[1]}=null."
    )


def _hashes(said: str, flat: str, asked: Asked) -> str | None:
    """What is offered is not what was locked."""
    del said
    if match := re.search(rf"Hash mismatch for `{_PIN}==([^`]+)`", flat):
        return f"{asked.said(match[1])}: what is offered as {match[1]} {match[2]} is not what was locked."
    return None


def _disk_full(said: str, flat: str, asked: Asked) -> str | None:
    """No space here."""
    del said, asked
    return "The disk of this machine is full." if "No space left on device" in flat else None


# ------------------------------------------------------------------------------------ import


def _numpy_abi(said: str, flat: str, asked: Asked) -> str | None:
    """Built for numpy 1, loaded beside numpy 2."""
    if not _NUMPY_1.search(flat):
        return None
    module = _imported_last(said)
    return (
        f"{asked.said(module)}: {asked.pinned(module)} was built for numpy 1 and breaks beside "
        f"{asked.pinned('numpy')}. Add numpy<2 to phase.deps, or take a newer version of it."
    )


def _of_a_sibling(said: str, flat: str, asked: Asked) -> str | None:
    """A module of another phase, which no machine is sent."""
    del flat, asked
    match = re.search(r"(?m)^sibling: (\S+) (.*)$", said)
    if match is None:
        return None
    phase = match[2].split("/")[1]
    statement = _last_match(r"(?m)^import: (.*)$", said) if "help: " not in said else None
    needs = f"`{statement}`" if statement else f"{_last_match(r'(?m)^help: (.*)$', said)} --help"
    return (
        f"{needs}: {match[1]} is a module of the sibling phase {phase}, reached by sys.path, and no machine "
        f"is sent it. Name it in phase.inputs: phase.inputs=[{match[2]}]."
    )


def _import_fails(said: str, flat: str, asked: Asked) -> str | None:
    """Installed, and does not work; or not installed."""
    del flat
    if "import: " not in said or "help: " in said:
        return None
    statement, module = _last_match(r"(?m)^import: (.*)$", said), _imported_last(said)
    error = _last_error(said)
    if missing := re.search(r"No module named '([^']+)'", error):
        root = missing[1].split(".")[0]
        if root == module and missing[1] == root:
            brings = f"no dependency of the phase brings {root}, and it has no {root}.py."
            return f"`{statement}`: {brings} Add its package to phase.deps."
        if root == module:
            return f"`{statement}`: {asked.pinned(root)} has no module {missing[1]}."
        brings = f"{asked.said(module)} needs {root}, which none of its own dependencies bring."
        return f"`{statement}`: {brings} Add it to phase.deps."
    if nothing := re.search(r"cannot import name '([^']+)' from '([^']+)'", error):
        owner = nothing[2].split(".")[0]
        return f"`{statement}`: {asked.pinned(owner)} has no {nothing[1]}. Asked for: {asked.said(owner)}."
    what = error or "Python died, or did not end in time"
    return f"`{statement}` fails although it is installed; {asked.said(module)}: {what}."


def _help_fails(said: str, flat: str, asked: Asked) -> str | None:
    """A script that cannot even say what its arguments are."""
    del flat
    script = _last_match(r"(?m)^help: (.*)$", said)
    if script is None:
        return None
    if f"no end: {script}" in said:
        return f"{script} --help does not end; it should read its arguments before its work begins."
    error = _last_error(said.rpartition(f"help: {script}")[2])
    lacks = re.search(r"No module named '([^'.]+)", error)
    more = f" No dependency and no file of the phase brings {lacks[1]}." if lacks else ""
    broken = f" Asked for: {asked.said(lacks[1])}." if lacks and dict(asked.pins).get(lacks[1]) else ""
    return f"{script} --help fails: {error or 'its last lines say why'}.{more}{broken}"


def _imported_last(said: str) -> str:
    """The package of the import that was being tried."""
    return _last_match(r"(?m)^import: (?:import|from) (\w+)", said) or "a package"


def _last_error(said: str) -> str:
    """The last line of the last traceback, with its kind."""
    return (_last_match(r"(?m)^(\w[\w.]*(?:Error|Exception|Exit|Interrupt)\b.*)$", said) or "").rstrip(".")


def _last_match(pattern: str, text: str) -> str | None:
    """The first group of the last match."""
    found: list[str] = re.findall(pattern, text)
    return found[-1] if found else None


_Rule = Callable[[str, str, Asked], str | None]
_RULES: tuple[_Rule, ...] = (
    _submodule_here,
    _unreadable,
    _of_a_sibling,
    _git_requirement,
    _clone_fails,
    _unparsable,
    _local_file,
    _hashes,
    _disk_full,
    _numpy_abi,
    _help_fails,
    _import_fails,
    _build_fails,
    _only_here,
    _no_wheel,
    _other_python,
    _not_there,
    _unreachable,
    _conflict,
)
