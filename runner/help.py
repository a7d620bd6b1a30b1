"""The pages of --help: of all that there is, or of one verb or job."""

import textwrap
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from runner.verbs import OF_JOB, VERBS, Verb, rule_for, verb_named

if TYPE_CHECKING:
    from runner.plan.settings import Job, Settings

CONF = Path(__file__).resolve().parent.parent / "conf"
_WIDTH = 80

_USAGE = """\
Plans, runs and guards training and sampling, here or on rented GPUs.

  python -m runner [key=value | group=choice]... [-m]

Without confirm= a verb that changes, pays or destroys prints its plan and does
nothing. One verb or job alone: python -m runner action=VERB --help

Verbs (action=…)
{verbs}

Phases (phase=…)
{phases}

Instances (instance=…)
{instances}

Examples
  python -m runner                                          what is current
  python -m runner phase=phase11 action=train               show the plan
  python -m runner phase=phase11 action=train confirm=ask   … ask, and run it
  python -m runner phase=phase11 action=train args.lr=0.1   … another argument
  python -m runner -m phase=phase12 action=generate generation.n=1,8   a sweep

Keys
  batch_size=8 · args.NAME=VALUE · generation=greedy · machine=NAME
  output=text|json|script · confirm=false|ask|true|<digest of a plan>
  every other key: python -m runner --cfg job

Hydra's own flags
  --multirun, -m · --cfg job · --info · --config-dir DIR · --hydra-help
  --version · completion: -sc install=bash
"""

_KEYS = {
    "phase": "which phase: a file of conf/phase/",
    "instance": "which kind of machine: a file of conf/instance/",
    "machine": "the name or id of a rented machine, where there are several",
    "batch_size": "how many samples at a time, where an argument takes it",
    "command": "the command line, as typed",
    "run": "which run: 3, 0003 or 0003-train; without it the newest",
    "lines": "the last so many lines of the log",
    "resume": "the run of a sweep whose unfinished members are run",
    "discard": "[runs and files whose loss is accepted], or [unreachable]",
    "wait_for_capacity": "how long to wait for a free one: 90s, 30m, 2h",
    "budget_usd": "refuse when this month's total would pass it",
    "require_preflight": "true: refuse when no preflight of these packages passed",
    "confirm": "false (show the plan), ask, true, or the digest of a plan",
    "output": "text, json or script",
}
# Beside the keys of its own: what a verb goes by, and one example.
_GOES_BY = {
    "preflight": (("phase", "instance"), "phase=phase12 action=preflight"),
    "available": (("instance",), "action=available"),
    "launch": (("instance", "machine"), "action=launch instance=gpu_1x_a10"),
    "wait": (("machine",), "action=wait"),
    "setup-ssh": (("machine",), "action=setup-ssh"),
    "up": (("instance", "machine"), "action=up instance=gpu_1x_a10"),
    "sync": (("phase", "instance", "machine"), "phase=phase12 action=sync"),
    "setup": (("phase", "instance", "machine"), "phase=phase12 action=setup"),
    "run": (("instance", "machine"), "action=run command='df -h'"),
    "status": (("machine",), "action=status"),
    "logs": (("phase", "machine"), "phase=phase12 action=logs lines=100"),
    "stop": (("phase", "machine"), "phase=phase12 action=stop run=3"),
    "doctor": (("phase", "machine"), "phase=phase12 action=doctor"),
    "report": (("phase",), "phase=phase12 action=report run=1"),
    "backup": (("phase", "instance", "machine"), "phase=phase12 action=backup"),
    "terminate": (("machine", "phase"), "action=terminate"),
}


def page(arguments: list[str]) -> str:
    """What --help shows beside these arguments. UsageError for an action that there is not."""
    words = [word for word in arguments if word not in ("--help", "-h")]
    action = next((w.partition("=")[2] for w in reversed(words) if w.startswith("action=")), "")
    if not action:
        return help_text((CONF, *_config_dirs(words)))
    if verb := verb_named(action):
        return _verb_page(verb)
    return _job_page(words)


def help_text(folders: tuple[Path, ...]) -> str:
    """The page, with the choices that the folders of configuration hold now."""
    rows = [(verb.name, verb.summary, verb.effect.value) for verb in VERBS]
    rows.insert(1, ("<job>", "a job of the phase: train, generate, …", "change"))
    name, summary = (max(len(row[column]) for row in rows) for column in (0, 1))
    verbs = "\n".join(f"  {row[0]:<{name}}  {row[1]:<{summary}}  {row[2]}" for row in rows)
    return _USAGE.format(
        verbs=verbs,
        phases=_wrapped(" · ".join(_stems(folders, "phase")) or "none yet"),
        instances=_wrapped(" · ".join(_stems(folders, "instance"))),
    )


def _wrapped(text: str, indent: str = "  ") -> str:
    """The text in lines that fit."""
    return textwrap.fill(
        text, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )


def _stems(folders: tuple[Path, ...], group: str) -> list[str]:
    """The choices of a group."""
    return sorted({file.stem for folder in folders for file in (folder / group).glob("*.yaml")})


def _config_dirs(arguments: list[str]) -> list[Path]:
    """The folders behind --config-dir, for a help that imports no parser."""
    flags = ("--config-dir", "-cd")
    joined = [word.partition("=")[2] for word in arguments if word.startswith("--config-dir=")]
    return [Path(d) for d in joined + [b for a, b in pairwise(arguments) if a in flags]]


def _verb_page(verb: Verb) -> str:
    """One verb: what it does, its keys, one example."""
    goes_by, example = _GOES_BY.get(verb.name, ((), f"action={verb.name}"))
    consent = () if verb.effect.value == "read" else ("confirm",)
    shown = "" if verb.effect.value == "read" else "Without confirm= it prints its plan and does nothing.\n"
    return (
        f"action={verb.name} ({verb.effect.value}): {verb.summary}\n{shown}\n"
        f"Keys\n{_rows((key, _KEYS.get(key, '')) for key in (*goes_by, *verb.keys, *consent, 'output'))}\n\n"
        f"Example\n  python -m runner {example}\n"
    )


def _job_page(words: list[str]) -> str:
    """One job of the phase that is named."""
    from runner.config.freeze import load
    from runner.hydra_flags import parse

    flags = parse(words)
    settings = load(list(flags.overrides), Path.cwd(), flags.config_dir)
    job = settings.phase.job(settings.action) if settings.phase else None
    if job is None:
        rule_for(settings)  # says what is wrong
    return _page_of(job, settings) if job else help_text((CONF,))


def _page_of(job: "Job", settings: "Settings") -> str:
    """A job: what it does, its arguments with their values, its keys, one example."""
    from runner.plan.settings import script_text

    phase = settings.phase
    values = [
        (name, " ".join(map(script_text, value)) if isinstance(value, tuple) else script_text(value))
        for name, value in job.args
    ]
    plain = [(name, "(left out)" if text == "None" else text or "''") for name, text in values]
    example = f" args.{plain[0][0]}={plain[0][1]}" if plain and plain[0][1].isalnum() else ""
    takes = (*(("batch_size",) if "batch_size" in dict(job.args) else ()), *OF_JOB)
    keys = ("instance", "machine", *takes, "confirm", "output")
    shown = _rows(plain) if plain else "  none: the script gets no argument"
    return (
        f"action={job.name} (change): {job.entrypoint} of {phase.name if phase else ''}\n"
        "Its code and packages there, the script followed, what it made back here: one\n"
        "plan. Without confirm= the plan is printed and nothing is done.\n\n"
        f"Arguments (args.NAME=value)\n{shown}\n\n"
        f"Keys\n{_rows((key, _KEYS[key]) for key in keys)}\n\n"
        f"Example\n  python -m runner phase={phase.choice if phase else ''} action={job.name}{example}\n"
    )


def _rows(pairs: Iterable[tuple[str, str]]) -> str:
    """Names and what they are, in two columns."""
    rows = list(pairs)
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {text}" for name, text in rows)
