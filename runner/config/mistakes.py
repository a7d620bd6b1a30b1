"""What is wrong with a configuration: Hydra's messages in our words, and mistakes in YAML by line."""

import re
import shlex
from collections.abc import Iterator
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from omegaconf import DictConfig, OmegaConf

from runner.config.fast_compose import compose_by_hydra, searched_first
from runner.config.plain import LOADER, lost_words
from runner.config.schema import (
    CHECKOUT,
    GROUPS,
    RunnerConf,
    bare,
    group_choices,
    inner_type,
    keys_of,
    may_be_null,
    type_at,
    wanted,
)
from runner.errors import UsageError, choices
from runner.research_log.phases import file_to_write, phase_files, phase_folders

_HEADER = "# @package _global_"
_ENTRY = re.compile(r"(?P<override>override\s+)?(?P<slash>/?)(?P<group>[\w/]+)")
_NO_KEYS = ("bool", "null", "int", "float")  # what YAML makes of `yes:`, `null:` and `1:`


class _YamlMistake(Exception):
    """A mistake and where it is; becomes a UsageError that names the file."""

    def __init__(self, line: int, message: str, *hints: str) -> None:
        super().__init__(message)
        self.line, self.message, self.hints = line, message, hints


def file_of(group: str, choice: str, folders: tuple[Path, ...]) -> Path | None:
    """The file that a choice means; the last folder that has it, as Hydra searches."""
    files = (folder / group / f"{choice}.yaml" for folder in reversed(folders))
    return next((file for file in files if file.is_file()), None)


def problem_in(file: Path, group: str, folders: tuple[Path, ...], cwd: Path) -> UsageError | None:
    """The first mistake in a file of a group as `conf/phase/x.yaml:3: …`; None when there is none."""
    shown = file.relative_to(cwd) if file.is_relative_to(cwd) else file
    try:
        _check(_text_of(file), group, folders)
    except _YamlMistake as wrong:
        return UsageError(f"{shown}:{wrong.line}: {wrong.message}", *wrong.hints)
    except RecursionError:
        return UsageError(f"{shown}:1: an alias (*name) stands inside of what it names")
    return None


def lost_in(file: Path, group: str, cwd: Path) -> UsageError | None:
    """The first word in a file that composes which would not arrive as it stands there."""
    text = file.read_text(encoding="utf-8", errors="surrogateescape")
    shown = file.relative_to(cwd) if file.is_relative_to(cwd) else file
    for lost in lost_words(_root_of(text), _kind_of(text, group)):
        return UsageError(f"{shown}:{lost.line}: {lost.message}", lost.hint)
    return None


def _kind_of(text: str, group: str) -> Any:
    """The type of what the file of a group holds; Any for a group of the person's own."""
    return RunnerConf if _says_global(text) else type_at(group.replace("/", ".")) or Any


def _text_of(file: Path) -> str:
    """What the file says; Wrong for what cannot be read as text."""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _YamlMistake(1, f"the file cannot be read: {error}") from error


def _check(text: str, group: str, folders: tuple[Path, ...]) -> None:
    """Wrong for the first thing in the file that cannot be meant."""
    root = _root_of(text)
    is_global = _says_global(text)
    if group == "phase" and not is_global:
        raise _no_header(text)
    if root is not None and not isinstance(root, yaml.MappingNode):
        raise _YamlMistake(_line_of(root), "a mapping is wanted: key: value, a line each")
    if root is not None:
        _check_node(root, _kind_of(text, group), "", folders)
        for lost in lost_words(root, _kind_of(text, group)):
            raise _YamlMistake(lost.line, lost.message, lost.hint)
    if group == "phase" and _node_at(_node_at(root, "phase"), "name") is None:
        raise _YamlMistake(1, "phase.name is missing: the folder in the research log")


def _root_of(text: str) -> Any:
    """The tree of nodes, each with its place; None for an empty file."""
    with suppress(yaml.YAMLError):  # ten times as quick, and stricter with JSON's halves of a character
        return yaml.compose(text, Loader=LOADER)
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = min(mark.line + 1, len(text.splitlines())) if mark else 1
        raise _YamlMistake(line, f"this is no YAML: {_in_plain_words(error.problem or '')}") from error
    except yaml.YAMLError as error:
        raise _YamlMistake(1, f"this is no YAML: {error}") from error


# What PyYAML says → what is the matter.
_PLAIN = {
    r"found character '.t' that cannot start": "a tab stands here, and YAML indents with spaces only",
    r"found character (\S+) that cannot start": "a word that begins with {} has to stand in quotes",
    r"mapping values are not allowed": "either this line is indented more than the one it belongs beside,"
    " or a text that holds ': ' has no quotes",
    r"expected <block end>": "this line is indented less or more than the lines that it stands among",
    r"could not find expected ':'": "a key without its colon: `key: value`",
    r"expected ',' or '([]}])'": "the list or mapping that was begun is not closed: {} is missing",
    r"found unexpected end of stream|found unexpected document": "a quote that was opened is not closed",
    r"found undefined alias": "*name points to no &name; a text that begins with * has to stand in quotes",
}


def _in_plain_words(problem: str) -> str:
    """PyYAML's complaint as somebody who mends it would say it."""
    for pattern, words in _PLAIN.items():
        if match := re.search(pattern, problem):
            return words.format(*match.groups())
    return problem


def _says_global(text: str) -> bool:
    """Whether the first line that says something is the header, as Hydra reads it."""
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return bool(re.fullmatch(r"#\s*@package\s+_global_", first))


def _no_header(text: str) -> _YamlMistake:
    """Why the file of a phase is not read as one, and what to do."""
    if text.startswith("\ufeff"):
        return _YamlMistake(
            1, "the file begins with a byte order mark, which hides its first line: save it without"
        )
    why = "Without it Hydra would put all of this below phase., as phase.phase."
    if any(_says_global(line) for line in text.splitlines()):
        return _YamlMistake(1, f"{_HEADER} must be the very first line; move it to the top", why)
    return _YamlMistake(1, f"the first line of a phase's file must be: {_HEADER}", why)


def _check_node(node: yaml.MappingNode, kind: Any, key: str, folders: tuple[Path, ...]) -> None:
    """A mapping against the section that it is."""
    seen: set[str] = set()
    for name_node, value in node.value:
        name = _name_of(name_node, key)
        if name in seen:
            raise _YamlMistake(_line_of(name_node), f"{_joined(key, name)} is there twice")
        seen.add(name)
        if name == "defaults" and not key:
            _check_defaults(value, folders)
        elif name != "<<":
            _check_value(name_node, value, inner_type(bare(kind), name), _joined(key, name), folders, kind)


def _name_of(node: Any, key: str) -> str:
    """The name that a key node is; Wrong for what YAML reads as something else than text."""
    if not isinstance(node, yaml.ScalarNode):
        raise _YamlMistake(_line_of(node), f"{key or 'the file'}: a key must be plain text")
    if node.tag.rpartition(":")[2] in _NO_KEYS and not node.style:
        read = {"bool": "true or false", "null": "null"}.get(node.tag.rpartition(":")[2], "a number")
        raise _YamlMistake(
            _line_of(node),
            f"{_joined(key, node.value)}: YAML reads the key {node.value} as {read}, and a key must be text",
            f'Put it in quotes: "{node.value}":',
        )
    return str(node.value)


def _check_value(name: Any, value: Any, kind: Any, key: str, folders: tuple[Path, ...], parent: Any) -> None:
    """What stands behind one key against the type that it has."""
    if kind is None:
        known = keys_of(parent)
        raise _YamlMistake(
            _line_of(name), f"{key}: there is no such key", *choices(name.value, known, "Keys there")
        )
    if _is_interpolation(value):
        return
    if not _is_of(value, kind):
        raise _YamlMistake(_line_of(name), f"{key}: it must be {wanted(kind)}")
    if isinstance(value, yaml.MappingNode):
        _check_node(value, kind, key, folders)
    for item in value.value if isinstance(value, yaml.SequenceNode) else ():
        if isinstance(item, yaml.MappingNode):
            _check_node(item, Any, key, folders)


def _is_of(node: Any, kind: Any) -> bool:
    """Whether OmegaConf would take this node for a value of this type."""
    tag = node.tag.rpartition(":")[2]
    if kind is Any or tag == "null":
        return may_be_null(kind)
    kind = bare(kind)
    if keys_of(kind) or get_origin(kind) is dict:
        return isinstance(node, yaml.MappingNode)
    if get_origin(kind) is list:
        return isinstance(node, yaml.SequenceNode) and all(
            _is_of(item, get_args(kind)[0]) for item in node.value
        )
    return isinstance(node, yaml.ScalarNode) and _reads_as(node.value, tag, kind)


def _reads_as(text: str, tag: str, kind: Any) -> bool:
    """Whether a scalar can be converted to the type."""
    if kind is bool:
        return tag in ("bool", "int") or text.lower() in ("y", "n", "true", "false", "on", "off")
    if kind not in (int, float) or tag == "int":
        return True
    try:
        kind(text)
    except ValueError:
        return False
    return True


def _is_interpolation(node: Any) -> bool:
    """Whether the value comes from elsewhere."""
    return isinstance(node, yaml.ScalarNode) and "${" in node.value


def _check_defaults(node: Any, folders: tuple[Path, ...]) -> None:
    """The list of what the file is composed with."""
    if not isinstance(node, yaml.SequenceNode):
        raise _YamlMistake(_line_of(node), "defaults: a list is wanted: [{override /instance: NAME}]")
    for item in node.value:
        for name, value in item.value if isinstance(item, yaml.MappingNode) else ():
            _check_default(name, value, folders)


def _check_default(name: Any, value: Any, folders: tuple[Path, ...]) -> None:
    """One `override /group: choice` of a phase's file."""
    said = f"defaults: {name.value}: {value.value}" if isinstance(value, yaml.ScalarNode) else name.value
    match = _ENTRY.fullmatch(str(name.value))
    known = sorted({path.name for folder in folders for path in folder.iterdir() if path.is_dir()})
    group = match["group"] if match else str(name.value)
    if group not in known:
        raise _YamlMistake(
            _line_of(name), f"{said}: there is no such group", *choices(group, known, "Groups")
        )
    if match and not (match["override"] and match["slash"]):
        write = f"override /{group}: {value.value if isinstance(value, yaml.ScalarNode) else 'NAME'}"
        raise _YamlMistake(_line_of(name), f"{said}: {group} has a choice already", f"Write: {write}")
    files = group_choices(group, folders)
    if isinstance(value, yaml.ScalarNode) and value.value not in files and not _is_interpolation(value):
        raise _YamlMistake(
            _line_of(value), f"{said}: there is no such {group}", *choices(value.value, files, "Choices")
        )


def jobs_of(file: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(folder, jobs) of the phase that a file declares; nothing for a file that declares none."""
    try:
        root = _root_of(_text_of(file))
    except _YamlMistake:
        return
    phase = _node_at(root, "phase")
    name = _node_at(phase, "name")
    if isinstance(name, yaml.ScalarNode):
        jobs = _node_at(phase, "jobs")
        pairs = jobs.value if isinstance(jobs, yaml.MappingNode) else []
        yield name.value, tuple(str(job.value) for job, _ in pairs)


def _node_at(node: Any, name: str) -> Any:
    """The node behind a key, if the node is a mapping that has it."""
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return next((value for key, value in pairs if key.value == name), None)


def _joined(key: str, name: str) -> str:
    """The dotted key."""
    return f"{key}.{name}" if key else name


def _line_of(node: Any) -> int:
    """The line that it begins in, from 1."""
    return int(node.start_mark.line) + 1


def translate(
    error: Exception, overrides: tuple[str, ...], folders: tuple[Path, ...], cwd: Path
) -> UsageError:
    """What is wrong: in a file that was chosen, else in an override, else in Hydra's own words."""
    text = str(error)
    if match := re.search(r"Error merging override (.*)", text, re.DOTALL):
        return wrong_value(match[1], str(error.__cause__ or error))
    if match := re.search(r"already at '([^']*)'", text):
        return _already_there(match[1], overrides)
    if problem := _problem_of_choices(overrides, folders, cwd):
        return problem
    if match := re.search(r"Could not override '([^']*)'", text):
        return _unknown_key(match[1], overrides, folders)
    if match := re.search(r"Key '([^']*)' not in '(\w+)'(?:\s+full_key: (\S+))?", text):
        known = keys_of(type_at((match[3] or match[1]).rpartition(".")[0]))
        where = match[3] or match[1]
        return UsageError(f"{where}: there is no such key", *choices(match[1], known, "Keys there"))
    if match := re.search(r"Could not (?:find|load) '([^']*)/([^'/]*)'", text):
        known = group_choices(match[1], folders) or _options_in(text)
        said = f"{match[1]}={match[2]}: there is no such {match[1]}"
        return UsageError(said, *choices(match[2], known, "Choices"))
    return UsageError("The configuration cannot be composed: " + " ".join(text.split())[:400])


def _options_in(text: str) -> list[str]:
    """The choices that Hydra lists, indented below its message."""
    listed = re.search(r"Available options in '[^']*':\n((?:\t.*\n)*)", text)
    return listed[1].split() if listed else []


def _problem_of_choices(
    overrides: tuple[str, ...], folders: tuple[Path, ...], cwd: Path
) -> UsageError | None:
    """The first mistake in the files that were chosen, the phase's first."""
    pairs = dict(override.lstrip("+").partition("=")[::2] for override in overrides)
    for group in GROUPS:
        file = file_of(group, pairs.get(group, ""), folders)
        if file and (problem := problem_in(file, group, folders, cwd)):
            return problem
    return None


def wrong_value(override: str, said: str) -> UsageError:
    """A value that its key cannot have, and what is wanted there."""
    key = override.partition("=")[0].lstrip("+~")
    if (match := re.search(r"Key '([^']*)' not in", said)) or type_at(key) is None:
        name = match[1] if match else key.rpartition(".")[2]
        known = keys_of(type_at(key)) or keys_of(type_at(key.rpartition(".")[0]))
        return UsageError(f"{override}: there is no key {name}", *choices(name, known, "Keys there"))
    kind = type_at(key)
    hint = (f"To set one of its keys: {key}.{keys_of(kind)[0]}=…",) if keys_of(kind) else ()
    return UsageError(f"{override}: it must be {wanted(kind)}", *hint)


def _already_there(key: str, overrides: tuple[str, ...]) -> UsageError:
    """A plus before a key that the configuration has."""
    typed = next((o for o in overrides if o.startswith(f"+{key}=") or o == f"+{key}"), f"+{key}=…")
    return UsageError(
        f"{typed}: + adds a key, and {key} is there already", f"Type it without: {shlex.quote(typed[1:])}"
    )


def _unknown_key(key: str, overrides: tuple[str, ...], folders: tuple[Path, ...]) -> UsageError:
    """The message for a key that is nowhere in the configuration."""
    config = _without_values(overrides, folders)
    if match := re.fullmatch(r"(phase\.jobs\.([\w-]+)\.args)\.(.+)", key):
        return _unknown_argument(match[1], match[2], match[3], config)
    known = list(flat_keys(config))
    meant = choices(key, (*known, *GROUPS), "Keys")
    if argument := _argument_meant(key, overrides, config, is_exact=len(meant) > 1):
        return UsageError(f"{key}: there is no such key", argument)
    short = meant[:1] if len(meant) > 1 else (f"Keys: {', '.join(k for k in known if '.' not in k)}",)
    env = re.fullmatch(r"phase\.jobs\.\w+\.env\.\S+", key)
    more = (f"To add a variable that the YAML does not have: +{key}=…",) if env else ()
    return UsageError(f"{key}: there is no such key", *short, *more)


def _without_values(overrides: tuple[str, ...], folders: tuple[Path, ...]) -> Any:
    """What the choices alone compose; the schema, where they cannot be."""
    try:
        with searched_first(folders[-1] if len(folders) > 1 else None):
            return compose_by_hydra([o for o in overrides if o.startswith(("phase=", "instance="))])
    except Exception:
        return OmegaConf.structured(RunnerConf)


def _unknown_argument(parent: str, job: str, name: str, config: Any) -> UsageError:
    """A name that the job has no argument of."""
    jobs = [str(known) for known in config.phase.jobs]
    if job not in jobs:
        known = choices(job, jobs, f"Jobs of {config.phase.name or 'no phase'}")
        return UsageError(
            f"{parent}.{name}: action={job} is no job of the phase, so it has no arguments", *known
        )
    names = [str(known) for known in config.phase.jobs[job].args]
    hints = choices(name, names, f"Arguments of {job}")
    near = [hint.replace("Did you mean ", f"Did you mean {parent}.") for hint in hints[:-1]]
    return UsageError(
        f"{parent}.{name}: there is no such key: the job {job} has no argument {name}",
        *(near or hints),
        f"To add an argument that the YAML does not have: +{parent}.{name}=…",
    )


def _argument_meant(key: str, overrides: tuple[str, ...], config: Any, is_exact: bool) -> str | None:
    """What to type where the key is the name of an argument of the job; a near one unless `is_exact`."""
    typed = dict(override.partition("=")[::2] for override in overrides)
    job = config.phase.jobs.get(typed.get("action", ""))
    names = [str(name) for name in job.args] if job is not None else []
    near = [key] if key in names else [] if is_exact else get_close_matches(key, names, n=1)
    if not near:
        return None
    word = shlex.quote(f"args.{near[0]}={typed.get(key, '…')}")
    return f"{key} is an argument of the job; type: {word}" if near == [key] else f"Did you mean {word}?"


def flat_keys(config: Any, prefix: str = "") -> Iterator[str]:
    """All dotted keys of a configuration, inner nodes included."""
    for key in config:
        yield f"{prefix}{key}"
        node = config._get_node(key)
        if isinstance(node, DictConfig) and not node._is_none():
            yield from flat_keys(node, f"{prefix}{key}.")


# ------------------------------------------------------------------------------------ a choice that is none


def unknown_choice(
    group: str, choice: str, known: list[str], folders: tuple[Path, ...], research_log: Path
) -> UsageError:
    """The message for a file that a group does not have."""
    if choice == "null":
        leave = (f"To have none, leave {group}= out.",) if group == "phase" else ()
        return UsageError(f"{group}=null: the name of one is wanted", *leave, *choices("", known, "Choices"))
    if group == "phase" and (error := _folder_meant(choice, known, folders, research_log)):
        return error
    hints = (*_other_ending(group, choice, folders), *choices(choice, known, "Choices"))
    if len(hints) == 1 and (near := _with_part(choice, known)):
        hints = (f"Did you mean {' or '.join(near)}?", *hints)
    return UsageError(f"{group}={choice}: there is no such {group}", *hints)


def _with_part(part: str, known: list[str]) -> list[str]:
    """The names of which this is a part between underscores, `a10` of gpu_1x_a10; else those that hold it."""
    whole = [name for name in known if part.lower() in re.split("[_-]", name.lower())]
    return whole or [name for name in known if len(part) > 1 and part.lower() in name.lower()]


def _other_ending(group: str, choice: str, folders: tuple[Path, ...]) -> tuple[str, ...]:
    """A file that would be the choice, if its name ended otherwise."""
    files = [folder / group / f"{choice}.yml" for folder in folders]
    return tuple(f"{unread(file)}" for file in files if file.is_file())


def unread(file: Path) -> str:
    """Why a file of configuration is not seen."""
    shown = file.relative_to(CHECKOUT) if file.is_relative_to(CHECKOUT) else file
    return f"{shown} is not read: rename it to {file.stem}.yaml"


def _folder_meant(
    choice: str, known: list[str], folders: tuple[Path, ...], research_log: Path
) -> UsageError | None:
    """Whoever types a phase's folder, or the beginning of its name, hears which file stands for it."""
    names = [phase.name for phase in phase_folders(research_log)] if research_log.is_dir() else []
    stems = {folder: stem for stem, file in phase_files(folders) for folder, _ in jobs_of(file)}
    meant = [n for n in (*names, *stems) if choice == n] or [n for n in names if n.startswith(f"{choice}-")]
    if not meant:
        return None
    if stem := stems.get(meant[0]):
        said = f"phase={choice} names a folder; the phase is called like its file, {stem}.yaml"
        return UsageError(said, f"Type: phase={stem}")
    file = file_to_write(meant[0], folders, known)
    shown = file.relative_to(CHECKOUT) if file.is_relative_to(CHECKOUT) else file
    return UsageError(
        f"phase={choice}: no YAML file declares {research_log.name}/{meant[0]} yet",
        f"Write {shown}:",
        *(f"  {line}" for line in _smallest_yaml(meant[0], research_log)),
        *choices("", known, "Choices"),
    )


def _smallest_yaml(folder: str, research_log: Path) -> tuple[str, ...]:
    """The lines of the least that declares a phase, with a script that is there."""
    scripts = sorted(path.name for path in (research_log / folder).glob("*.py"))
    job = (
        {"train": "train.py"} if "train.py" in scripts or not scripts else {Path(scripts[0]).stem: scripts[0]}
    )
    name, script = next(iter(job.items()))
    return (
        _HEADER,
        "phase:",
        f"  name: {folder}",
        f"  jobs: {{{name}: {{entrypoint: {script}}}}}",
    )
