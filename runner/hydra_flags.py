"""Hydra's own flags: parsed by Hydra's parser; those that only show something are served by Hydra itself."""

import sys
from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from runner.errors import UsageError, choices

SHOWING = ("hydra_help", "cfg", "info", "shell_completion")
UNSUPPORTED = ("config_path", "config_name", "experimental_rerun", "run")


@dataclass(frozen=True)
class Flags:
    """A command line without its flags, and what the flags said."""

    overrides: tuple[str, ...]
    multirun: bool
    config_dir: Path | None
    is_hydras: bool


def parse(arguments: list[str]) -> Flags:
    """The flags of one command line. UsageError for one that Hydra does not know."""
    from hydra._internal.utils import get_args_parser

    parser = get_args_parser()
    parser.error = lambda message: refuse(message, parser)  # type: ignore[method-assign]
    parsed = parser.parse_intermixed_args(arguments)
    for name in UNSUPPORTED:
        if getattr(parsed, name):
            flag = "--" + name.replace("_", "-")
            raise UsageError(
                f"{flag} is not served here", "Own phases: --config-dir DIR adds DIR/phase/*.yaml"
            )
    return Flags(
        overrides=tuple(parsed.overrides),
        multirun=parsed.multirun,
        config_dir=Path.cwd() / parsed.config_dir if parsed.config_dir else None,
        is_hydras=any(getattr(parsed, name) for name in SHOWING),
    )


def refuse(message: str, parser: ArgumentParser) -> NoReturn:
    """argparse's complaint as ours, with the near matches of an unknown flag."""
    wrong = message.rpartition(":")[2].split()
    known = [option for action in parser._actions for option in action.option_strings]
    hints = choices(wrong[0], known, "Flags") if "unrecognized" in message and wrong else ()
    raise UsageError(message, *hints, "See: python -m runner --help")


def serve(flags: Flags, arguments: list[str]) -> int:
    """Let Hydra show its help, the composed configuration, its information or a completion."""
    import hydra

    from runner.compose import Typed, compose_config, verbatim_in_grammar
    from runner.config import CONF

    typed = Typed.of(list(flags.overrides))
    if "--shell-completion" not in arguments and "-sc" not in arguments:
        compose_config(typed, Path.cwd(), flags.config_dir)
    others = [a for a in arguments if a not in flags.overrides]
    # flags last: --info would take an override behind it for its choice
    sys.argv = [sys.argv[0], *typed.grammar, *verbatim_in_grammar(typed, Path.cwd()), *others]
    hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")(lambda _: None)()
    return 0
