"""From a command line to a composed configuration; every mistake becomes one message that names it."""

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runner import config as schema
from runner.composing import composed
from runner.config import CONF
from runner.errors import UsageError, choices

GROUPS = ("phase", "instance", "generation")

# What stands behind these keys is taken as typed: it never passes through Hydra's grammar, which
# would refuse `~`, `>=` and spaces, and reads an id such as 12e4… as a number.
VERBATIM = re.compile(
    r"(confirm|command|discard|machine|run|resume|phase\.deps|(?:remote|paths|ssh)\.\w+)=(.*)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Typed:
    """A command line taken apart: `grammar` is for Hydra, `verbatim` are (key, text) pairs."""

    grammar: tuple[str, ...]
    verbatim: tuple[tuple[str, str], ...]

    @staticmethod
    def of(overrides: list[str]) -> "Typed":
        """Split the overrides; the last of two equal keys counts, as in Hydra."""
        grammar: list[str] = []
        verbatim: dict[str, str] = {}
        for override in overrides:
            if match := VERBATIM.fullmatch(override):
                verbatim[match[1]] = match[2]
            else:
                grammar.append(override)
        return Typed(tuple(grammar), tuple(verbatim.items()))


def typed_list(text: str) -> list[str]:
    """`[a, "b c", torch>=2,<3]` as typed: commas outside quotes and brackets separate the items.

    A piece that begins with a comparison belongs to the requirement before it.
    """
    inner = text.strip()
    if inner == "null":
        return []
    if inner.startswith("[") and inner.endswith("]"):
        inner = inner[1:-1]
    items: list[str] = []
    for piece in _split_commas(inner):
        if items and re.match(r"[<>=!~]=?", piece):
            items[-1] += "," + piece
        elif piece:
            items.append(_unquote(piece))
    return items


def _split_commas(text: str) -> list[str]:
    """The pieces between commas that are in no quotes and no brackets, stripped."""
    pieces, depth, quote = [""], 0, ""
    for char in text:
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"" and not pieces[-1].strip():
            quote = char
        depth += (char in "[(") - (char in ")]") if not quote else 0
        if char == "," and not quote and depth <= 0:
            pieces.append("")
        else:
            pieces[-1] += char
    return [piece.strip() for piece in pieces]


def _unquote(text: str) -> str:
    quoted = len(text) >= 2 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1] if quoted else text


def in_grammar(key: str, text: str) -> str:
    """The override in Hydra's grammar that gives `key` exactly this text."""
    from hydra.core.override_parser.types import Quote, QuotedString

    escaped = escape_interpolation(text)
    return f"{key}={QuotedString(text=escaped, quote=Quote.double).with_quotes()}"


def escape_interpolation(text: str) -> str:
    """Text whose `${` is not an interpolation."""
    return re.sub(r"(\\*)\$\{", lambda m: m[1] * 2 + r"\${", text)


def compose_config(typed: Typed, cwd: Path, config_dir: Path | None = None) -> DictConfig:
    """The composed configuration, typed values included. UsageError says which override is wrong."""
    overrides = parsed(typed.grammar)
    check_single(overrides)
    check_choices(typed.grammar, conf_folders(config_dir))
    extra = [f"hydra.searchpath=[{in_grammar('', str(config_dir))[1:]}]"] if config_dir else []
    try:
        config = composed(overrides, parsed(extra))
    except Exception as error:
        raise explained(error, typed.grammar) from error
    for key, text in typed.verbatim:
        set_verbatim(config, key, text, cwd)
    return config


def conf_folders(config_dir: Path | None) -> tuple[Path, ...]:
    """Where the choices of a group are files, the checkout's own folder first."""
    if config_dir is not None and not config_dir.is_dir():
        raise UsageError(f"--config-dir {config_dir}: there is no such folder")
    return (CONF, config_dir) if config_dir else (CONF,)


def group_choices(group: str, folders: tuple[Path, ...]) -> list[str]:
    """The names of the files of conf/<group>/, sorted."""
    return sorted({file.stem for folder in folders for file in (folder / group).glob("*.yaml")})


def parsed(overrides: Sequence[str]) -> list[Any]:
    """The overrides by Hydra's grammar. UsageError for what it cannot read, with the form that it can."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    found = []
    for override in overrides:
        try:
            found += parser.parse_overrides([override])
        except HydraException as error:
            raise UsageError(f"Hydra's grammar cannot read {override!r}", *quoted(override)) from error
        if override.startswith("="):
            raise UsageError(f"{override!r} has no key", *quoted(override))
    return found


def check_single(overrides: Sequence[Any]) -> None:
    """UsageError for several values where one is meant (a comma reads as a sweep, too), or for none."""
    for override in overrides:
        typed, key = override.input_line or "", override.key_or_group
        if override.is_sweep_override():
            hint = "To run them all: -m"
            raise UsageError(f"{typed!r} is a sweep over several values", hint, *quoted(typed))
        if override.is_delete() and key in schema.RunnerConf.__dataclass_fields__ and key not in GROUPS:
            raise UsageError(f"~{key}: the runner needs this key", f"To give it another value: {key}=…")


def quoted(override: str) -> tuple[str, ...]:
    """The hint with the form of this override that arrives as it was typed, if there is one."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    key, equals, text = override.partition("=")
    if not equals or not key:
        return ("An argument is key=value; see: python -m runner --help",)
    works = in_grammar(key, text)
    try:
        OverridesParser.create().parse_override(works)
    except HydraException:
        return (f"{key!r} cannot be a key; see: python -m runner --help",)
    return (f"To give it exactly this text, type: {shlex.quote(works)}",)


def check_choices(overrides: tuple[str, ...], folders: tuple[Path, ...]) -> None:
    """UsageError for a file that a group does not have, with the near matches."""
    for override in overrides:
        group, _, choice = override.lstrip("+").partition("=")
        known = group_choices(group, folders) if group in GROUPS else []
        swept = not re.fullmatch(r"[\w.-]*", choice)
        if group in GROUPS and not swept and choice != "null" and choice not in known:
            raise UsageError(
                f"{group}={choice}: there is no such {group}", *choices(choice, known, "Choices")
            )


def explained(error: Exception, overrides: tuple[str, ...]) -> UsageError:
    """What Hydra or OmegaConf says, in one message that names the override or the file."""
    text = str(error)
    cause = error.__cause__ or error
    if match := re.search(r"Could not override '([^']*)'", text):
        return unknown_key(match[1], overrides)
    if match := re.search(r"Error merging override (.*)", text, re.DOTALL):
        return UsageError(f"{match[1]}: {str(cause).splitlines()[0]}")
    if match := re.search(r"Key '([^']*)' not in '(\w+)'(?:\s+full_key: (\S+))?", text):
        known = list(getattr(getattr(schema, match[2], None), "__dataclass_fields__", ()))
        where = match[3] or match[1]
        return UsageError(f"{where}: there is no such key", *choices(match[1], known, "Keys there"))
    return UsageError("The configuration cannot be composed: " + " ".join(text.split())[:400])


def unknown_key(key: str, overrides: tuple[str, ...]) -> UsageError:
    """The message for a key that is nowhere in the configuration."""
    groups = [o for o in overrides if o.partition("=")[0] in GROUPS]
    try:
        known = list(flat_keys(composed(parsed(groups))))
    except Exception:  # a phase of --config-dir: the schema alone will do
        known = list(flat_keys(OmegaConf.structured(schema.RunnerConf)))
    hint = choices(key, (*known, *GROUPS), "Keys")
    short = hint if len(hint) > 1 else (f"Keys: {', '.join(k for k in known if '.' not in k)}",)
    args = re.fullmatch(r"(phase\.jobs\.\w+\.(?:args|env)\.\S+)", key)
    more = (f"To add an argument that the YAML does not have: +{key}=…",) if args else ()
    return UsageError(f"{key}: there is no such key", *(short[:1] if len(hint) > 1 else short), *more)


def flat_keys(config: Any, prefix: str = "") -> Iterator[str]:
    """All dotted keys of a configuration, inner nodes included."""
    for key in config:
        yield f"{prefix}{key}"
        node = config._get_node(key)
        if isinstance(node, DictConfig) and not node._is_none():
            yield from flat_keys(node, f"{prefix}{key}.")


def verbatim_values(key: str, text: str, cwd: Path) -> str | list[str] | None:
    """What was typed, as the value it means; typed paths are relative to the current folder."""
    if key in ("discard", "phase.deps"):
        return typed_list(text)
    if text == "null":
        return None
    if key.startswith("paths.") or key in ("ssh.config", "ssh.identity"):
        return str(absolute(text, cwd))
    return text


def verbatim_in_grammar(typed: Typed, cwd: Path) -> list[str]:
    """The verbatim overrides in Hydra's grammar, for when Hydra itself composes."""
    words = []
    for key, text in typed.verbatim:
        value = verbatim_values(key, text, cwd)
        if isinstance(value, list):
            words.append(f"{key}=[{','.join(in_grammar('', item)[1:] for item in value)}]")
        else:
            words.append(f"{key}=null" if value is None else in_grammar(key, value))
    return words


def set_verbatim(config: DictConfig, key: str, text: str, cwd: Path) -> None:
    """Put a value in as it was typed."""
    value = verbatim_values(key, text, cwd)
    if isinstance(value, list):
        escaped: Any = [escape_interpolation(item) for item in value]
    else:
        escaped = None if value is None else escape_interpolation(value)
    try:
        OmegaConf.update(config, key, escaped)
    except OmegaConfBaseException as error:
        parent, _, last = key.rpartition(".")
        if re.search(r"not in '|not found", str(error)):
            known = list(OmegaConf.select(config, parent) or config)
            raise UsageError(f"{key}: there is no such key", *choices(last, known, "Keys there")) from error
        raise UsageError(f"{key}={text}: {str(error).splitlines()[0]}") from error


def absolute(text: str, base: Path) -> Path:
    """The path as typed, `~` and relative to `base`; not resolved, so that links keep their names."""
    return Path(os.path.normpath(base / Path(text).expanduser()))
