"""Carries out a plan that was consented to: its very steps, in order, and tells how they went."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from runner.plan.command import Command
from runner.plan.plan import MembersResult, Plan, PlanResult, Request, Step, StepResult, WriteFile
from runner.plan.settings import LOCAL
from runner.research_log.runs import tail_of
from runner.research_log.sweep_results import members_result
from runner.world.files import claim_run, record_result, write_tools
from runner.world.live import Transport, answer
from runner.world.screen import Screen
from runner.world.world import Result

if TYPE_CHECKING:
    from runner.machines.launch_protocol import Outcome


_AGAIN_AFTER_S = (1.0, 2.0, 4.0, 8.0, 15.0)  # how often a step is asked again that the link failed
Tell = Callable[[str], None]


def apply(plan: Plan, transport: Transport, screen: Screen, tell: Tell) -> PlanResult:
    """Take the steps until one fails. The first failure's exit code is the plan's.

    Behind the job itself (a step that carries on) the others are still taken: what a failed job made
    comes home too; a step that cleans up (always) is taken whatever happened. `tell` gets a line for
    each step, for the person, not for the data.
    """
    if any(isinstance(step.action, Command) for step in plan.steps):
        import runner.world.process  # noqa: F401  now: an import that Ctrl-C broke in a step cannot be repeated
    if plan.starts_run and plan.target.provider != LOCAL and transport.has_rented():
        # before anything runs there: whoever ends a machine that does not answer has to know of it
        transport.record({"event": "run", "name": plan.target.name, "run": plan.run_folder})
    write_tools(plan.tools)
    claim_run(plan)
    done: list[StepResult] = []
    try:
        code, last_lines = _take_in_order(plan, done, transport, screen, tell)
    finally:  # an interrupt may fall between two steps
        cleaned = _clean_up(plan, done, transport, screen, tell)
    files = (_log_of(plan), _present_artifacts(plan))
    finished = PlanResult(plan, code or cleaned, tuple(done), *files, last_lines, _members_of(plan))
    if problem := record_result(finished):
        tell(f"warning: {problem.message}")
    return finished


def _take_in_order(
    plan: Plan, done: list[StepResult], transport: Transport, screen: Screen, tell: Tell
) -> tuple[int, tuple[bytes, ...]]:
    """The steps but for those that clean up; the first failure's exit code and its last lines."""
    last_lines: tuple[bytes, ...] = ()
    code, stopped = 0, False
    requests = [step for step in plan.steps if isinstance(step.action, Request)]
    for step in plan.steps:
        if isinstance(step.action, Request):
            if step is requests[0]:
                done += (sent := _send_all(plan, requests, transport, tell))
                code, stopped = sent[-1].exit_code, sent[-1].exit_code != 0
        elif not step.always:
            tell(_begun(step))
            result = _taken(step, transport, screen)
            done.append(StepResult(step.name, result.exit_code, result.seconds))
            tell(_outcome(step, result))
            if code == 0:
                code = 130 if result.interrupted else _own_code(step, result)
                last_lines = _said_last(step, screen) if code else ()
            stopped = result.interrupted or (not result.ok and not step.carries_on)
        if stopped:
            break
    return code, last_lines


def _begun(step: Step) -> str:
    """`sync: 18 files, 61 kB → lambda …`."""
    return f"{step.name}: {step.reason} …" if step.reason else f"{step.name} …"


def _said_last(step: Step, screen: Screen) -> tuple[bytes, ...]:
    """What the step said last; of a job only what is in its log: bash says on the screen who killed it."""
    shown = tuple(screen.last_lines)
    if not (isinstance(step.action, Command) and step.action.log):
        return shown
    logged = set(tail_of(Path(step.action.log)).split("\n"))
    return tuple(line for line in shown if line.decode(errors="replace") in logged) or shown


def _clean_up(plan: Plan, done: list[StepResult], transport: Transport, screen: Screen, tell: Tell) -> int:
    """The steps that are taken always, without a word when all is well; the first failure's exit code."""
    code = 0
    for step in (step for step in plan.steps if step.always):
        result = _taken(step, transport, screen)
        done.append(StepResult(step.name, result.exit_code, result.seconds))
        if not result.ok:
            tell(_outcome(step, result))
            code = code or result.exit_code
    return code


def _taken(step: Step, transport: Transport, screen: Screen) -> Result:
    """One step, its output on the screen. Ctrl-C before the step could hear it is an interrupted step."""
    screen.last_lines.clear()
    try:
        if isinstance(step.action, WriteFile):
            return transport.write(step.action, screen)
        result = transport.shell(step, screen)
        for seconds in _AGAIN_AFTER_S if step.repeats else ():
            if result.exit_code != 255 or result.interrupted:
                break
            transport.pause(seconds, f"no link for {step.name}; trying again in {seconds:.0f} s")
            result = transport.shell(step, screen)
        return result
    except KeyboardInterrupt:
        return Result(130, interrupted=True)
    finally:
        screen.close()


def _send_all(plan: Plan, requests: list[Step], transport: Transport, tell: Tell) -> list[StepResult]:
    """The requests of a plan, in order until one fails; a launch alone, from its key on."""
    attempts = tuple(step for step in requests if step.attempt is not None)
    name = dict(plan.basis)["name"] if attempts else ""
    done: list[StepResult] = []
    with transport.claim(name) if name else nullcontext():
        for step in (step for step in requests if step.attempt is None):
            done.append(_send(step, transport, tell))
            if done[-1].exit_code:
                return done
        return done + (_send_attempts(plan, attempts, transport, tell) if attempts else [])


def _send(step: Step, transport: Transport, tell: Tell) -> StepResult:
    """One request that can be repeated, seen through to its effect."""
    from runner.machines.launch_protocol import carry_out  # here: jobs send nothing

    tell(_begun(step))
    sent = answer(transport, carry_out(step))
    _tell_sent(sent, tell)
    return StepResult(step.name, sent.exit_code, sent.seconds)


def _send_attempts(
    plan: Plan, attempts: tuple[Step, ...], transport: Transport, tell: Tell
) -> list[StepResult]:
    """All attempts of a launch, in order, as one affair: one of them at most rents a machine."""
    from runner.machines.launch_protocol import launch_any

    tell(f"launch {dict(plan.basis)['name']} …")
    launch = answer(transport, launch_any(attempts, plan.digest, plan.wait_for_capacity_s))
    for sent in launch.result():
        _tell_sent(sent, tell)
    return [StepResult(sent.step.name, sent.exit_code, sent.seconds) for sent in launch.result()]


def _tell_sent(sent: "Outcome", tell: Tell) -> None:
    """How a request went, and what to do about it."""
    where = f" ({sent.step.offer.type} in {sent.step.offer.region})" if sent.step.offer else ""
    if sent.error is None:
        tell(f"{sent.step.name}{where}: done in {sent.seconds:.1f} s")
        return
    tell(f"{sent.step.name}{where}: {sent.error.message}")
    for hint in sent.error.hints:
        tell(f"  {hint}")


def _own_code(step: Step, result: Result) -> int:
    """The exit code to report: 255 of ssh, or of rsync over ssh, means that the machine was not reached."""
    not_reached = result.exit_code == 255 and not step.carries_on and bool(step.tools)
    return 69 if not_reached else result.exit_code


def _outcome(step: Step, result: Result) -> str:
    """`setup: 3.1 s` or how it failed."""
    if result.interrupted:
        return f"{step.name}: stopped after {result.seconds:.1f} s"
    if result.ok:
        return f"{step.name}: done in {result.seconds:.1f} s"
    how = f"killed by signal {result.signal}, " if result.signal else ""
    return f"{step.name}: failed after {result.seconds:.1f} s ({how}exit code {result.exit_code})"


def _log_of(plan: Plan) -> str | None:
    """The run's log here, if there is one."""
    log = Path(plan.run_folder or "") / "log"
    return str(log) if plan.run_folder and log.exists() else None


def _members_of(plan: Plan) -> MembersResult | None:
    """What the members of a sweep have left here."""
    if not plan.members or plan.results is None:
        return None
    return members_result(Path(plan.results), [member.number for member in plan.members])


def _present_artifacts(plan: Plan) -> tuple[str, ...]:
    """Those of the declared artifacts that are here now, as absolute paths."""
    if plan.run_folder is None:
        return ()
    phase = Path(plan.run_folder).parent.parent
    return tuple(str(phase / name) for name in plan.artifacts if (phase / name).exists())
