"""From a command line to a composed configuration; every mistake becomes one message that names it."""

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runner.config.fast_compose import composed
from runner.config.schema import (
    CHECKOUT,
    CONF,
    GROUPS,
    RunnerConf,
    arrives_as,
    bare,
    group_choices,
    is_text,
    keys_of,
    type_at,
)
from runner.errors import UsageError, choices

# What stands behind these keys is taken as typed: it never passes through Hydra's grammar, which
# would refuse `~`, `>=` and spaces, and reads an id such as 12e4… as a number.
_VERBATIM = re.compile(
    r"(confirm|command|discard|machine|run|resume|phase\.deps|(?:remote|paths|ssh)\.\w+)=(.*)",
    re.DOTALL,
)


@dataclass(frozen=True)
class CommandLine:
    """A command line taken apart: `grammar` is for Hydra, `verbatim` are (key, text) pairs."""

    overrides: tuple[str, ...]
    raw: tuple[tuple[str, str], ...]

    @staticmethod
    def of(overrides: list[str]) -> "CommandLine":
        """Split the overrides; the last of two equal keys counts, as in Hydra."""
        grammar: list[str] = []
        verbatim: dict[str, str] = {}
        for override in overrides:
            if match := _VERBATIM.fullmatch(override):
                verbatim[match[1]] = match[2]
            else:
                grammar.append(override)
        return CommandLine(tuple(grammar), tuple(verbatim.items()))


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

    escaped = _escape_interpolation(text)
    return f"{key}={QuotedString(text=escaped, quote=Quote.double).with_quotes()}"


def _escape_interpolation(text: str) -> str:
    """Text whose `${` is not an interpolation."""
    return re.sub(r"(\\*)\$\{", lambda m: m[1] * 2 + r"\${", text)


def compose_config(typed: CommandLine, cwd: Path, config_dir: Path | None = None) -> DictConfig:
    """The composed configuration, typed values included. UsageError says which override is wrong."""
    folders = conf_folders(config_dir)
    overrides = parsed(typed.overrides, folders)
    _check_single(overrides)
    _check_machine(dict(typed.raw).get("machine", ""))
    _check_choices(typed, folders, cwd)
    try:
        made = composed(overrides, config_dir)
    except Exception as error:
        from runner.config.mistakes import translate

        raise translate(error, typed.overrides, folders, cwd) from error
    _refuse_lost_words(made.files, folders, cwd)
    _refuse_sections_from_elsewhere(made.config)
    for key, text in typed.raw:
        set_verbatim(made.config, key, text, cwd)
    return made.config


def _refuse_lost_words(files: Sequence[str], folders: tuple[Path, ...], cwd: Path) -> None:
    """UsageError for a word in one of these files that YAML would change in silence."""
    from runner.config.mistakes import file_of, lost_in

    for name in files:
        group, _, choice = name.rpartition("/")
        if group and (file := file_of(group, choice, folders)) and (lost := lost_in(file, group, cwd)):
            raise lost


def _refuse_sections_from_elsewhere(config: DictConfig) -> None:
    """UsageError for a section that is `${…}`: no key of it could be set or checked."""
    for section in keys_of(RunnerConf):
        if keys_of(type_at(section)) and OmegaConf.is_interpolation(config, section):
            raise UsageError(f"{section}: a whole section cannot be ${{…}}; its keys can")


def conf_folders(config_dir: Path | None) -> tuple[Path, ...]:
    """Where the choices of a group are files; a file of the last folder that has one of its name counts."""
    if config_dir is not None and not config_dir.is_dir():
        raise UsageError(f"--config-dir {config_dir}: there is no such folder")
    return (CONF, config_dir) if config_dir else (CONF,)


def parsed(overrides: Sequence[str], folders: tuple[Path, ...] = (CONF,)) -> list[Any]:
    """The overrides by Hydra's grammar. UsageError for what it cannot read, with the form that it can."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    found = []
    for override in overrides:
        try:
            (one,) = parser.parse_overrides([override])
            found.append(_kept_text(one, parser))
        except HydraException as error:
            raise UsageError(
                f"Hydra's grammar cannot read {override!r}", *_quoted(override, folders)
            ) from error
        if override.startswith("="):
            raise UsageError(f"{override!r} has no key", *_quoted(override))
    return found


def _kept_text(override: Any, parser: Any) -> Any:
    """The override, where a text is wanted and the grammar read a number, as the text that was typed."""
    key, typed = override.key_or_group, (override.input_line or "").partition("=")[2].strip()
    kind = type_at(key)
    if override.is_delete() or override.is_sweep_override() or kind is None or not typed:
        return override
    value = override.value()
    if isinstance(value, int | float) and is_text(kind, key) and arrives_as(value, key) != typed:
        words = in_grammar("", typed)[1:]
    elif _is_list_of_texts(kind) and isinstance(value, list) and not all(isinstance(i, str) for i in value):
        words = f"[{','.join(in_grammar('', item)[1:] for item in typed_list(typed))}]"
    else:
        return override
    return parser.parse_override(f"{(override.input_line or '').partition('=')[0]}={words}")


def _is_list_of_texts(kind: Any) -> bool:
    return get_origin(bare(kind)) is list and get_args(bare(kind))[0] is str


def _check_single(overrides: Sequence[Any]) -> None:
    """UsageError for several values where one is meant (a comma reads as a sweep, too), or for none."""
    for override in overrides:
        typed, key = override.input_line or "", override.key_or_group
        if override.is_sweep_override():
            hint = "To run them all: -m"
            raise UsageError(f"{typed!r} is a sweep over several values", hint, *_quoted(typed))
        if override.is_delete():
            _check_delete(key)
        if override.is_add() and key in GROUPS:
            raise UsageError(f"{typed}: {key} takes no plus", f"Type: {shlex.quote(typed.lstrip('+'))}")


def _check_machine(name: str) -> None:
    """UsageError for several machines where one is meant; what is taken as typed is never a sweep."""
    if "," in name and not name.startswith("["):
        raise UsageError(f"machine={name}: the name or id of one machine is wanted")


def _check_delete(key: str) -> None:
    """UsageError for taking away what the runner needs; only names of the person's own can go."""
    from runner.config.schema import is_section_key

    if key in GROUPS:
        raise UsageError(f"~{key}: a choice is not taken away; leave {key}=… out, or give another")
    if is_section_key(key):
        raise UsageError(f"~{key}: the runner needs this key", f"To give it another value: {key}=…")


def _quoted(override: str, folders: tuple[Path, ...] = (CONF,)) -> tuple[str, ...]:
    """The hint with the form of this override that arrives as it was typed, if there is one."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    key, equals, text = override.partition("=")
    if not equals or not key:
        return (*_bare_word(override, folders), "An argument is key=value; see: python -m runner --help")
    works = in_grammar(key, text)
    try:
        OverridesParser.create().parse_override(works)
    except HydraException:
        return (f"{key!r} cannot be a key; see: python -m runner --help",)
    return (
        *_whole_line(override),
        f"To give it exactly this text, type: {shlex.quote(works)}",
    )


def _whole_line(text: str) -> tuple[str, ...]:
    """What to type, where a whole line stands in one pair of quotes."""
    try:
        words = shlex.split(text)
    except ValueError:
        return ()
    if len(words) < 2 or not all(re.match(r"[+~]*[\w./]+=|-", word) for word in words):
        return ()
    return (f"If these are {len(words)} arguments, they stand in no quotes together: {shlex.join(words)}",)


def _bare_word(word: str, folders: tuple[Path, ...]) -> tuple[str, ...]:
    """What somebody may have meant who typed a word alone: a choice, what to do, or the rest of a value."""
    if word in ("help", "version"):
        return (f"Type: python -m runner --{word}",)
    if group := next((group for group in GROUPS if word in group_choices(group, folders)), None):
        return (f"Type: {group}={word}",)
    if not re.fullmatch(r"[A-Za-z][\w.-]*", word):
        return ()
    return (f"If this is what to do, type: action={word}", "A value with spaces stands in quotes: 'key=a b'")


def _check_choices(typed: CommandLine, folders: tuple[Path, ...], cwd: Path) -> None:
    """UsageError for a file that a group does not have, with the near matches."""
    for override in typed.overrides:
        group, _, choice = override.lstrip("+").partition("=")
        known = group_choices(group, folders) if group in GROUPS else []
        swept = not re.fullmatch(r"[\w.-]*", choice)
        if group in GROUPS and not swept and choice not in known:
            from runner.config.mistakes import unknown_choice

            given = dict(typed.raw).get("paths.research_log")
            log = absolute(given, cwd) if given else CHECKOUT / "research-log"
            raise unknown_choice(group, choice, known, folders, log)


def _verbatim_values(key: str, text: str, cwd: Path) -> str | list[str] | None:
    """What was typed, as the value it means; typed paths are relative to the current folder."""
    if key in ("discard", "phase.deps"):
        return typed_list(text)
    if text == "null" and key != "confirm":
        return None
    if key.startswith("paths.") or key in ("ssh.config", "ssh.identity"):
        return str(absolute(text, cwd))
    return text


def verbatim_in_grammar(typed: CommandLine, cwd: Path) -> list[str]:
    """The verbatim overrides in Hydra's grammar, for when Hydra itself composes."""
    words = []
    for key, text in typed.raw:
        value = _verbatim_values(key, text, cwd)
        if isinstance(value, list):
            words.append(f"{key}=[{','.join(in_grammar('', item)[1:] for item in value)}]")
        else:
            words.append(f"{key}=null" if value is None else in_grammar(key, value))
    return words


def set_verbatim(config: DictConfig, key: str, text: str, cwd: Path) -> None:
    """Put a value in as it was typed."""
    value = _verbatim_values(key, text, cwd)
    if isinstance(value, list):
        escaped: Any = [_escape_interpolation(item) for item in value]
    else:
        escaped = None if value is None else _escape_interpolation(value)
    try:
        OmegaConf.update(config, key, escaped)
    except OmegaConfBaseException as error:
        parent, _, last = key.rpartition(".")
        if re.search(r"not in '|not found", str(error)):
            known = list(OmegaConf.select(config, parent) or config)
            raise UsageError(f"{key}: there is no such key", *choices(last, known, "Keys there")) from error
        from runner.config.mistakes import wrong_value

        raise wrong_value(f"{key}={text}", str(error)) from error


def absolute(text: str, base: Path) -> Path:
    """The path as typed, `~` and relative to `base`; not resolved, so that links keep their names.

    UsageError for the home folder of nobody.
    """
    try:
        return Path(os.path.normpath(base / Path(text).expanduser()))
    except RuntimeError as error:
        raise UsageError(f"{text}: {text.partition('/')[0]} is nobody's home folder here") from error
