"""The command line: arguments → exit code."""

import atexit
import errno
import gc
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from traceback import print_exc
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runner.errors import RunnerError


def main() -> int:
    """Run the command line of this process and give its exit code."""
    _on_interrupt(_leave)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  closed by whoever started us
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    sys.dont_write_bytecode = True  # showing a plan writes no file; `make` compiles the runner
    gc.disable()  # until the configuration is composed: it makes much and leaves no garbage, 7 % of a dry run
    atexit.register(gc.freeze)  # and at the end, when all memory is given back anyway, another 8 %
    arguments = sys.argv[1:]
    return _guarded(arguments)


def _guarded(arguments: list[str]) -> int:
    """`run`, with every way it can end translated to what a person and a program understand."""
    from runner.errors import RunnerError
    from runner.view.text import Paint, error_text

    for stream in (sys.stdout, sys.stderr):  # UTF-8 wherever this runs: names and arrows are in it
        stream.reconfigure(encoding="utf-8", errors="surrogateescape")  # type: ignore[union-attr]
    try:
        return _run(arguments)
    except RunnerError as error:
        print(error_text(error, Paint(_colourful(sys.stderr))), file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception as error:
        if mistake := _mistake_behind(error):
            print(error_text(mistake, Paint(_colourful(sys.stderr))), file=sys.stderr)
            return mistake.exit_code
        print_exc()
        print("This is a bug of the runner. What ran until here is in the run's folder.", file=sys.stderr)
        return 70
    except KeyboardInterrupt as interrupted:
        print("\nInterrupted.", file=sys.stderr)
        return 128 + (interrupted.args[0] if interrupted.args else signal.SIGINT)


def _mistake_behind(error: Exception) -> "RunnerError | None":
    """The person's mistake behind an error of Python's: nobody set it up, or a name is too long."""
    from runner.errors import UsageError

    missing = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if missing in ("hydra", "omegaconf"):
        return UsageError(
            f"{sys.executable} has no {missing}: nobody set the runner up for it",
            "To set it up, and see it work: make demo",
            "Where that was done: .venv/bin/python -m runner",
        )
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return UsageError(f"{error.filename}: no file system takes a name that long")
    return None


def _on_interrupt(handle: Callable[[int, FrameType | None], None]) -> None:
    """Ctrl-C, a polite kill and a closed terminal call `handle`; what nohup ignores stays ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handle)


def _leave(number: int, frame: FrameType | None) -> None:
    """End at once, while nothing was begun: an exception inside OmegaConf comes out as another one."""
    del frame
    os.write(sys.stderr.fileno(), b"\nInterrupted.\n")
    os._exit(128 + number)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Unwind what was begun."""
    del frame
    raise KeyboardInterrupt(number)


def _run(arguments: list[str]) -> int:
    """Everything between the arguments and the exit code."""
    if any(flag in arguments for flag in ("--help", "-h")):
        from runner.help import page

        print(page(arguments), end="")
        return 0
    if "--version" in arguments:
        print(_versions())
        return 0
    from runner.hydra_flags import parse, serve

    flags = parse(arguments)
    if flags.is_hydras:
        return serve(flags, arguments)
    from runner.view.text import Paint

    settings, rules = _loaded(flags)
    gc.enable()
    _on_interrupt(_interrupt)
    paint = Paint(_colourful(sys.stdout))
    from runner.errors import RunnerError
    from runner.machines.ledger import LEDGER
    from runner.plan.next_command import in_context
    from runner.plan.plan import Plan
    from runner.world.live import Live, answer

    transport = Live(settings.paths.state / LEDGER, settings.time_scale)
    try:
        outcome = answer(transport, rules())
        if isinstance(outcome, Plan):
            from runner.consent import show_or_apply

            return show_or_apply(outcome, settings, transport, paint, lambda: answer(transport, rules()))
        _show_report(outcome, settings.output, paint)
        return int(getattr(outcome, "exit_code", 0))
    except RunnerError as error:  # whoever raised it may not have known what was typed
        error.hints = tuple(in_context(settings, hint) for hint in error.hints)
        raise
    finally:
        _tell_running(settings, transport.now())


def _versions() -> str:
    """Ours first, then Hydra's."""
    from importlib.metadata import PackageNotFoundError, version

    import hydra

    try:
        ours = version("runner")
    except PackageNotFoundError:
        ours = "of a checkout that is not installed"
    return f"runner {ours}\nHydra {hydra.__version__}"


def _tell_running(settings: Any, now: float) -> None:
    """The last lines of every answer: what is running, and at what price; on stderr where stdout is data
    or a job's output."""
    from runner.errors import RunnerError
    from runner.machines.ledger import read_ledger

    try:
        ledger = read_ledger(settings.paths.state)
    except RunnerError as error:  # what was done is done; what is billed has to be said all the same
        print(f"It is not known what is running: {error.message}", *error.hints, sep="\n  ", file=sys.stderr)
        return
    if not ledger.ours:
        return
    from runner.view.tables import running_lines

    sys.stdout.flush()
    is_answer = settings.output == "text" and settings.action != "logs"  # whose stdout is the log
    out = sys.stdout if is_answer and settings.confirm == "false" else sys.stderr
    for line in running_lines(ledger, now):
        print(line, file=out)


def _loaded(flags: Any) -> tuple[Any, Any]:
    """The settings of one configuration or of a sweep of them, and what begins to ask by its rules."""
    given = (list(flags.overrides), Path.cwd(), flags.config_dir, _program())
    if flags.multirun:
        from runner.config.multirun import load_sweep
        from runner.verbs import sweep_rules

        many = load_sweep(*given)
        return many.settings, lambda: sweep_rules(many.settings, many.members)
    from runner.config.freeze import load
    from runner.verbs import rule_for

    settings = load(*given)
    return settings, lambda: rule_for(settings)


def _show_report(report: Any, output: str, paint: Any) -> None:
    """A report in the form that was asked for."""
    import runner.view.reports
    import runner.view.tables  # noqa: F401  these two register the reports of their verbs
    from runner.plan.plan import to_json
    from runner.view.text import report_text

    document = report.document()
    if document["format"] == "runner.report/1":
        _show_drawn(report, document, output, paint)
    else:
        print(to_json(document) if output == "json" else report_text(report, paint))
    sys.stdout.flush()
    for problem in getattr(report, "problems", ()):
        print(f"warning: {problem}", file=sys.stderr)


def _show_drawn(report: Any, document: dict[str, Any], output: str, paint: Any) -> None:
    """A report with a page: its figures are shown also where the page cannot be drawn."""
    import runner.view.reports  # noqa: F401  registers the report of a run
    from runner.errors import UsageError
    from runner.plan.plan import to_json
    from runner.view.text import report_text
    from runner.world.files import write_page

    files: tuple[str, ...] = ()
    problem = None
    try:
        files = write_page(report)
    except UsageError as error:
        problem = error
    document |= {"page": files[0] if files else None, "pictures": list(files[1:])}
    print(to_json(document) if output == "json" else report_text(report, paint))
    if problem:
        raise problem
    if output != "json":
        print("\n".join(f"  {'page' if file == files[0] else 'picture':<9} {file}" for file in files))


def _program() -> str:
    """How this program is called here, as the next command has to spell it."""
    if Path(sys.argv[0]).name == "runner":
        return "runner"
    python = shutil.which("python")
    here = Path(sys.executable)
    if python and Path(python).resolve() == here.resolve() and Path(python).parent == here.parent:
        return "python -m runner"
    shown = here.relative_to(Path.cwd()) if here.is_relative_to(Path.cwd()) else here
    return f"{shown} -m runner"


def _colourful(stream: Any) -> bool:
    """Whether colour would be seen: a terminal, and nobody who said NO_COLOR."""
    return bool(stream.isatty()) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


if __name__ == "__main__":
    print("This file is a part. From the checkout, type: python -m runner", file=sys.stderr)
    raise SystemExit(64)
