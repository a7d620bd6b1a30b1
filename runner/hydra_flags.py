"""Hydra's own flags: parsed by Hydra's parser; those that only show something are served by Hydra itself."""

import os
import sys
from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from runner.errors import UsageError, choices
from runner.verbs import VERBS

_SHOWING = ("hydra_help", "cfg", "info", "shell_completion")
_UNSUPPORTED = ("config_path", "config_name", "experimental_rerun", "run")
# What other programs call what is ours by another name.
_SHOWN = "A plan is only shown until confirm= says so: leave {flag} out"
_CONSENT = "To run what is shown: confirm=ask, or confirm=<the plan's digest>"
_ELSEWHERE = {
    **dict.fromkeys(("--dry-run", "--dryrun", "--plan", "-n"), _SHOWN),
    **dict.fromkeys(("--yes", "-y", "--force", "-f", "--apply"), _CONSENT),
}


@dataclass(frozen=True)
class Flags:
    """A command line without its flags, and what the flags said."""

    overrides: tuple[str, ...]
    multirun: bool
    config_dir: Path | None
    is_hydras: bool
    shell_query: str = ""  # the shell that wants a completion


def parse(arguments: list[str]) -> Flags:
    """The flags of one command line. UsageError for one that Hydra does not know."""
    from hydra._internal.utils import get_args_parser

    parser = get_args_parser()
    parser.error = lambda message: _refuse(message, parser)  # type: ignore[method-assign]
    parsed = parser.parse_intermixed_args(arguments)
    for name in _UNSUPPORTED:
        if getattr(parsed, name):
            flag = "--" + name.replace("_", "-")
            raise UsageError(
                f"{flag} is not served here", "Own phases: --config-dir DIR adds DIR/phase/*.yaml"
            )
    return Flags(
        overrides=tuple(parsed.overrides),
        multirun=parsed.multirun,
        config_dir=Path.cwd() / parsed.config_dir if parsed.config_dir else None,
        is_hydras=any(getattr(parsed, name) for name in _SHOWING),
        shell_query=next((o.removeprefix("query=") for o in parsed.overrides if o.startswith("query=")), ""),
    )


def actions_to_complete(line: str) -> list[str]:
    """What may follow `action=` at the end of a command line: the verbs, and the jobs of its phase.

    Hydra completes a value by the one that is configured, and takes no second plugin for a shell
    (hydra/_internal/hydra.py, "Multiple plugins installed"); so this one key is answered before it asks.
    """
    *words, last = line.split(" ")
    if not last.startswith("action="):
        return []
    from runner.config.compose import conf_folders
    from runner.config.mistakes import file_of, jobs_of

    try:
        flags = parse([word for word in words[1:] if word])
    except UsageError:  # a line that is not finished yet
        return []
    chosen = dict(word.partition("=")[::2] for word in flags.overrides)
    file = file_of("phase", chosen.get("phase", ""), conf_folders(flags.config_dir))
    jobs = [job for _, names in jobs_of(file) for job in names] if file else []
    return [
        f"action={name}" for name in (*jobs, *(v.name for v in VERBS)) if f"action={name}".startswith(last)
    ]


def _with_phase_files(line: str) -> str:
    """The line with `phase=15` as that file is called; its last word is still being typed."""
    from runner.config.schema import CONF
    from runner.config.short import with_phase_file

    *words, last = line.split(" ")
    return " ".join([*with_phase_file(words, (CONF,)), last])


def _refuse(message: str, parser: ArgumentParser) -> NoReturn:
    """argparse's complaint as ours, with the near matches of an unknown flag."""
    from runner.config.schema import RunnerConf, keys_of

    wrong = message.rpartition(":")[2].split()
    known = [option for action in parser._actions for option in action.option_strings]
    hints = choices(wrong[0], known, "Flags")[:-1] if "unrecognized" in message and wrong else ()
    if wrong and (key := wrong[0].lstrip("-").partition("=")[0].replace("-", "_")) in keys_of(RunnerConf):
        hints = (f"Keys are typed without dashes: {key}=…",)
    if wrong and (meant := _ELSEWHERE.get(wrong[0])):
        hints = (meant.format(flag=wrong[0]),)
    raise UsageError(message, *hints, "See: python -m runner --help")


def serve(flags: Flags, arguments: list[str]) -> int:
    """Let Hydra show its help, the composed configuration, its information or a completion."""
    import hydra

    if flags.shell_query:
        os.environ["COMP_LINE"] = _with_phase_files(os.environ.get("COMP_LINE", ""))
    if flags.shell_query and (actions := actions_to_complete(os.environ.get("COMP_LINE", ""))):
        print("\n".join(actions) if flags.shell_query == "fish" else " ".join(actions))
        return 0
    from runner.config.compose import CommandLine, compose_config, conf_folders, verbatim_in_grammar
    from runner.config.fast_compose import searched_first
    from runner.config.schema import CONF
    from runner.config.short import in_full, told_short

    typed = CommandLine.of(list(flags.overrides))
    if "--shell-completion" not in arguments and "-sc" not in arguments:
        with told_short(flags.overrides):
            typed = CommandLine.of(in_full(flags.overrides, conf_folders(flags.config_dir)))
            compose_config(typed, Path.cwd(), flags.config_dir)
    others = [a for a in arguments if a not in flags.overrides]
    # flags last: --info would take an override behind it for its choice
    sys.argv = [sys.argv[0], *typed.overrides, *verbatim_in_grammar(typed, Path.cwd()), *others]
    with searched_first(flags.config_dir):
        hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")(lambda _: None)()
    return 0
