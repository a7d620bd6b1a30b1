"""What Hydra and OmegaConf say about a mistake, as one message in the words of who made it."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from runner.composing import whole
from runner.conf_file import HEADER, declared, file_of, problem_in
from runner.config import CHECKOUT, GROUPS, RunnerConf, group_choices
from runner.errors import UsageError, choices
from runner.facts.declared import phase_files
from runner.facts.research_log import phase_folders
from runner.wanted import keys_of, type_at, wanted


def explained(
    error: Exception, overrides: tuple[str, ...], folders: tuple[Path, ...], cwd: Path
) -> UsageError:
    """What is wrong: in a file that was chosen, else in an override, else in Hydra's own words."""
    text = str(error)
    if match := re.search(r"Error merging override (.*)", text, re.DOTALL):
        return wrong_value(match[1], str(error.__cause__ or error))
    if match := re.search(r"already at '([^']*)'", text):
        return already_there(match[1], overrides)
    if problem := problem_of_choices(overrides, folders, cwd):
        return problem
    if match := re.search(r"Could not override '([^']*)'", text):
        return unknown_key(match[1], overrides)
    if match := re.search(r"Key '([^']*)' not in '(\w+)'(?:\s+full_key: (\S+))?", text):
        known = keys_of(type_at((match[3] or match[1]).rpartition(".")[0]))
        where = match[3] or match[1]
        return UsageError(f"{where}: there is no such key", *choices(match[1], known, "Keys there"))
    if match := re.search(r"Could not (?:find|load) '([^']*)/([^'/]*)'", text):
        known = group_choices(match[1], folders) or options_in(text)
        said = f"{match[1]}={match[2]}: there is no such {match[1]}"
        return UsageError(said, *choices(match[2], known, "Choices"))
    return UsageError("The configuration cannot be composed: " + " ".join(text.split())[:400])


def options_in(text: str) -> list[str]:
    """The choices that Hydra lists, indented below its message."""
    listed = re.search(r"Available options in '[^']*':\n((?:\t.*\n)*)", text)
    return listed[1].split() if listed else []


def problem_of_choices(overrides: tuple[str, ...], folders: tuple[Path, ...], cwd: Path) -> UsageError | None:
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


def already_there(key: str, overrides: tuple[str, ...]) -> UsageError:
    """A plus before a key that the configuration has."""
    typed = next((o for o in overrides if o.startswith(f"+{key}=") or o == f"+{key}"), f"+{key}=…")
    return UsageError(
        f"{typed}: + adds a key, and {key} is there already", f"Type it without: {shlex.quote(typed[1:])}"
    )


def unknown_key(key: str, overrides: tuple[str, ...]) -> UsageError:
    """The message for a key that is nowhere in the configuration."""
    try:
        known = list(flat_keys(whole([o for o in overrides if o.partition("=")[0] in GROUPS])))
    except Exception:  # a phase of --config-dir: the schema alone will do
        known = list(flat_keys(OmegaConf.structured(RunnerConf)))
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


# ------------------------------------------------------------------------------------ a choice that is none


def unknown_choice(
    group: str, choice: str, known: list[str], folders: tuple[Path, ...], research_log: Path
) -> UsageError:
    """The message for a file that a group does not have."""
    if choice == "null":
        leave = (f"To have none, leave {group}= out.",) if group == "phase" else ()
        return UsageError(f"{group}=null: the name of one is wanted", *leave, *choices("", known, "Choices"))
    if group == "phase" and (error := folder_meant(choice, known, folders, research_log)):
        return error
    return UsageError(f"{group}={choice}: there is no such {group}", *choices(choice, known, "Choices"))


def folder_meant(
    choice: str, known: list[str], folders: tuple[Path, ...], research_log: Path
) -> UsageError | None:
    """Whoever types a phase's folder, or the beginning of its name, hears which file stands for it."""
    names = [phase.name for phase in phase_folders(research_log)] if research_log.is_dir() else []
    stems = {folder: stem for stem, file in phase_files(folders) for folder, _ in declared(file)}
    meant = [n for n in (*names, *stems) if choice == n] or [n for n in names if n.startswith(f"{choice}-")]
    if not meant:
        return None
    if stem := stems.get(meant[0]):
        said = f"phase={choice} names a folder; the phase is called like its file, {stem}.yaml"
        return UsageError(said, f"Type: phase={stem}")
    file = folders[-1] / "phase" / f"{meant[0].partition('-')[0]}.yaml"
    shown = file.relative_to(CHECKOUT) if file.is_relative_to(CHECKOUT) else file
    return UsageError(
        f"phase={choice}: no YAML file declares {research_log.name}/{meant[0]} yet",
        f"Write {shown}:",
        *(f"  {line}" for line in smallest_yaml(meant[0], research_log)),
        *choices("", known, "Choices"),
    )


def smallest_yaml(folder: str, research_log: Path) -> tuple[str, ...]:
    """The lines of the least that declares a phase, with a script that is there."""
    scripts = sorted(path.name for path in (research_log / folder).glob("*.py"))
    job = (
        {"train": "train.py"} if "train.py" in scripts or not scripts else {Path(scripts[0]).stem: scripts[0]}
    )
    name, script = next(iter(job.items()))
    return (
        HEADER,
        "phase:",
        f"  name: {folder}",
        f"  jobs: {{{name}: {{entrypoint: {script}}}}}",
    )
