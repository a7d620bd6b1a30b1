"""From a multirun command line to the members of a sweep, each a job with values of its own.

Hydra composes once for every distinct set of group choices; the swept values are then put into that
configuration one member after the other, and only the job is converted. A composition costs 20 ms,
a member 1 to 2 ms, most of it for parsing its interpolations.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from runner.config.compose import CommandLine, compose_config, conf_folders, parsed
from runner.config.freeze import job_of, refuse_idle_batch_size, settings
from runner.config.schema import GROUPS, group_choices
from runner.config.short import in_full, told_short, with_phase_file
from runner.errors import RunnerError, UsageError
from runner.plan.fold import SweptJob
from runner.plan.settings import Settings

# One plan is of one action on one machine in one phase, shown once.
_NEVER_SWEPT = re.compile(r"(action|confirm|output|instance|phase)|(instance|paths|remote|ssh|cloud)\..*")


@dataclass(frozen=True)
class Sweep:
    """Many configurations of one job. `settings` are those that all members agree in."""

    settings: Settings
    members: tuple[SweptJob, ...]


@dataclass(frozen=True)
class _Axis:
    """One override of a multirun, as the overrides that it stands for."""

    key: str
    elements: tuple[str, ...]
    is_swept: bool
    has_containers: bool

    @property
    def adds(self) -> bool:
        """Whether this is `+key=…`, which must not be there yet."""
        return self.key.startswith("+") and not self.key.startswith("++")


def load_sweep(
    arguments: list[str], cwd: Path, config_dir: Path | None = None, program: str = "python -m runner"
) -> Sweep:
    """The sweep of one command line. UsageError that lists all invalid members together, if there are any."""
    folders = conf_folders(config_dir)
    with told_short(arguments):
        found = _found(CommandLine.of(in_full(arguments, folders)), cwd, config_dir)
    first = next(made for _, made in found if isinstance(made, tuple))[0]
    members = tuple(
        SweptJob(number, overrides, made[1])
        for number, (overrides, made) in enumerate(found)
        if isinstance(made, tuple)
    )
    added = (f"--config-dir={config_dir}",) if config_dir else ()
    said = tuple(t for t in with_phase_file(arguments, folders) if not re.match(r"(confirm|output)=", t))
    return Sweep(replace(first, program=program, typed=("-m", *said, *added)), members)


def _refuse_verbatim(typed: CommandLine) -> None:
    """What is taken as typed is never a sweep, also where it looks like one."""
    given = dict(typed.raw)
    for key in ("confirm", "machine"):
        if "," in given.get(key, "") and not given[key].startswith("["):
            raise _never(key)
    if given.get("resume", "null") != "null":
        raise UsageError(
            "resume= runs what is missing of a sweep that was; it takes no -m",
            f"Leave out -m and what is swept: phase=… action=… resume={given['resume']}",
        )


def _never(key: str) -> UsageError:
    """Why this cannot be swept."""
    return UsageError(
        f"A sweep over {key} is not possible: a sweep is one plan, of one job of one phase on one machine",
        "Sweep over what the job is given: generation.…, batch_size, phase.jobs.<job>.args.…",
    )


def _axes_of(overrides: Sequence[Any], folders: tuple[Path, ...]) -> tuple[_Axis, ...]:
    """The overrides taken apart: a list, `choice()`, `range()` and `glob()` are swept."""
    axes = []
    for override in overrides:
        key = override.get_key_element()
        if not override.is_sweep_override():
            axes.append(_Axis(key, (f"{key}={override.get_value_element_as_str()}",), False, False))
            if override.is_delete():
                axes[-1] = replace(axes[-1], elements=(override.input_line or "",))
            continue
        if _NEVER_SWEPT.fullmatch(key.lstrip("+~")):
            raise _never(key)
        words = tuple(_swept_words(override, folders))
        if not words:
            raise UsageError(f"{override.input_line}: nothing matches, so there is nothing to run")
        containers = any(word[:1] in "[{" for word in words)
        axes.append(_Axis(key, tuple(f"{key}={word}" for word in words), True, containers))
    return tuple(axes)


def _swept_words(override: Any, folders: tuple[Path, ...]) -> Iterator[str]:
    """The values of a sweep, each as Hydra's grammar spells it."""
    from hydra.core.override_parser.types import Glob

    if isinstance(glob := override.value(), Glob):
        if override.key_or_group not in GROUPS:
            raise UsageError(
                f"{override.input_line}: glob() chooses among files; {', '.join(GROUPS)} have some"
            )
        return iter(glob.filter(group_choices(override.key_or_group, folders)))
    if not override.is_discrete_sweep():
        raise UsageError(f"{override.input_line}: an interval has no members; use range() or a list")
    if getattr(override.value(), "shuffle", False):
        raise UsageError(f"{override.input_line}: shuffle() makes another plan each time; leave it out")
    words: Iterator[str] = override.sweep_string_iterator()
    return words


_Made = tuple[Settings, Any] | RunnerError


class _Composer:
    """Composes the members of one sweep; what is equal for many of them is done once."""

    def __init__(
        self, typed: CommandLine, axes: tuple[_Axis, ...], cwd: Path, config_dir: Path | None
    ) -> None:
        self.typed, self.axes, self.cwd, self.config_dir = typed, axes, cwd, config_dir
        self.in_place = _can_be_put_in_place(axes)
        self.bases: dict[tuple[str, ...], tuple[DictConfig, Settings] | RunnerError] = {}
        self.wrong: dict[str, RunnerError] = {}  # override → its error, explained once
        self.parsed: dict[str, Any] = {}

    def members(self) -> Iterator[tuple[tuple[str, ...], _Made]]:
        """For every member its swept overrides, and its settings and job or what is wrong with it."""
        for combination in product(*(axis.elements for axis in self.axes)):
            pairs = list(zip(self.axes, combination, strict=True))
            yield tuple(word for axis, word in pairs if axis.is_swept), self.member(pairs)

    def member(self, pairs: list[tuple[_Axis, str]]) -> _Made:
        """One member: the base of its group choices, with its values put in."""
        late = [word for axis, word in pairs if self.is_value(axis)]
        base = self.base(tuple(word for axis, word in pairs if not self.is_value(axis)))
        if isinstance(base, RunnerError):
            return base
        config, shared = base
        try:
            for word in late:
                self.set_value(config, word)
            return shared, job_of(config, shared.action)
        except RunnerError as error:
            return error

    def is_value(self, axis: _Axis) -> bool:
        """Whether this axis is a swept value, put in after composing."""
        return self.in_place and axis.is_swept and axis.key not in GROUPS

    def base(self, words: tuple[str, ...]) -> tuple[DictConfig, Settings] | RunnerError:
        """The configuration that these overrides compose, composed once."""
        if words not in self.bases:
            try:
                config = compose_config(CommandLine(words, self.typed.raw), self.cwd, self.config_dir)
                frozen = settings(config, self.cwd, conf_folders(self.config_dir), words)
                refuse_idle_batch_size(config, frozen, self.typed.overrides)
                self.bases[words] = (config, frozen)
            except RunnerError as error:
                self.bases[words] = error
        return self.bases[words]

    def set_value(self, config: DictConfig, word: str) -> None:
        """Override one value in place, by Hydra's own rules for it."""
        from hydra._internal.config_loader_impl import ConfigLoaderImpl
        from hydra.core.override_parser.overrides_parser import OverridesParser
        from hydra.errors import HydraException

        if word in self.wrong:
            raise self.wrong[word]
        if word not in self.parsed:
            self.parsed[word] = OverridesParser.create().parse_override(word)
        try:
            ConfigLoaderImpl._apply_overrides_to_config([self.parsed[word]], config)
        except HydraException as error:
            from runner.config.mistakes import translate

            self.wrong[word] = translate(error, self.typed.overrides, conf_folders(self.config_dir), self.cwd)
            raise self.wrong[word] from error


def _found(typed: CommandLine, cwd: Path, config_dir: Path | None) -> list[tuple[tuple[str, ...], _Made]]:
    """All members. UsageError for what is wrong with any."""
    overrides = parsed(typed.overrides, conf_folders(config_dir))
    _refuse_verbatim(typed)
    axes = _axes_of(overrides, conf_folders(config_dir))
    found = list(_Composer(typed, axes, cwd, config_dir).members())
    invalid = [(overrides, made) for overrides, made in found if isinstance(made, RunnerError)]
    if invalid:
        raise _invalid_members(invalid, len(found))
    return found


def _can_be_put_in_place(axes: tuple[_Axis, ...]) -> bool:
    """Whether each member sets the same plain keys, so that it overwrites all of the one before.

    Lists and dictionaries merge, `+key` may be added once, and a key given twice depends on the order:
    then Hydra composes each.
    """
    plain = [axis.key.lstrip("+") for axis in axes]
    swept = [axis.key.lstrip("+") for axis in axes if axis.is_swept]
    if any(axis.has_containers or axis.adds for axis in axes if axis.is_swept):
        return False
    related = (other for key in swept for other in plain if f"{other}.".startswith(f"{key}."))
    return sum(1 for _ in related) == len(swept)


def _invalid_members(invalid: list[tuple[tuple[str, ...], RunnerError]], num_members: int) -> UsageError:
    """All that is wrong, a line for each invalid member."""
    said = {(error.message, error.hints): error for _, error in invalid}
    if len(said) == 1 and len(invalid) == num_members:
        only = next(iter(said.values()))
        return UsageError(only.message, *only.hints)
    lines = [f"{' '.join(overrides)}: {error.message}" for overrides, error in invalid]
    hints = dict.fromkeys(hint for error in said.values() for hint in error.hints)
    count = f"{len(invalid)} of {num_members} members are invalid; nothing is planned:"
    return UsageError(count, *lines, *hints)
