"""terminate: the machine gone, and nothing of value with it; the only verb that ever ends a machine."""

from functools import partial

from runner.machines.fleet import Fleet, answers_to, configured_alias, find_machine, list_fleet, target_for
from runner.machines.guard import (
    UNREACHABLE,
    Declared,
    Guard,
    check_loss,
    is_below_any,
    listed,
    no_answer,
    rescue_lines,
    unmatched,
    why_unseen,
)
from runner.machines.lambda_api import CloudInstance, terminate_request
from runner.machines.ledger import LedgerMachine
from runner.machines.probe import MachineContents, ask_contents, direct_question, states
from runner.machines.ssh_config import removal_step
from runner.plan.next_command import spell_next
from runner.plan.plan import Effect, Plan, Step, Target
from runner.plan.settings import Settings
from runner.world.world import Asking


def terminate(settings: Settings) -> Asking[Plan]:
    """One request, refused while anything would be lost; then our block leaves the ssh configuration."""
    seen = yield from list_fleet(settings)
    if (gone := _already_gone(settings, seen)) is not None:
        return _nothing_to_end(settings, gone, seen.now)
    machine = find_machine(settings, seen)
    held = yield from _contents(settings, machine)
    loss = check_loss(settings, seen, machine, held)
    removal = removal_step(settings, machine)
    ending = Step(
        "terminate",
        terminate_request(settings.base_url, machine.id),
        Effect.DESTROY,
        reason=f"ends {machine.name or machine.id} and its bill, until the cloud no longer lists it",
    )
    return Plan(
        action="terminate",
        effect=Effect.DESTROY,
        target=target_for(settings, machine),
        steps=(ending, removal) if removal else (ending,),
        basis=(
            ("machine", machine.id),
            *(("discard", name) for name in sorted(settings.discard)),
            *loss.basis,
            ("holds", loss.contents or "nobody can see it"),
            ("refused", str(loss.reason is not None)),
        ),
        reason=loss.reason,
        refused=loss.reason is not None,
        details=_details(seen, machine, held, loss),
        notes=(*notes(settings, machine, loss), *unmatched(settings.discard, held, loss)),
        next=spell_next(settings, "status"),
        observed=observed(held, loss.going) if held else (),
    )


_GIVEN_UP = "given up"  # the state of a folder that may go, whatever is written to it until then


def observed(held: MachineContents, given_up: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """What the machine shows, but for what is given up alive; never empty, so that it was seen."""
    kept = (row for row in states(held) if not is_below_any(row[0], given_up))
    return (*((folder, _GIVEN_UP) for folder in given_up), *kept, ("machine", "seen"))


def recheck(settings: Settings, plan: Plan) -> Asking[str | None]:
    """What happened on the machine while the plan was made: a run that began, a file that changed."""
    seen = yield from list_fleet(settings)
    machine = next((i for i in seen.alive if i.id == dict(plan.basis)["machine"]), None)
    if machine is None:
        return None
    if not plan.observed:
        return None if UNREACHABLE in settings.discard else why_unseen(settings, seen, machine) or None
    held = yield from _contents(settings, machine, only_stamps=True)
    if held is None:
        return f"{no_answer(machine)} any more, and did when the plan was made"
    now = observed(held, tuple(name for name, state in plan.observed if state == _GIVEN_UP))
    changed = sorted({name for name, _ in set(now) ^ set(plan.observed)})
    return f"on the machine changed meanwhile: {listed(changed)}" if changed else None


def _contents(
    settings: Settings, machine: CloudInstance, only_stamps: bool = False
) -> Asking[MachineContents | None]:
    """What is on it; None when nobody can look, as into a machine without an address."""
    if machine.ip is None:
        return None
    question = partial(direct_question, settings, machine, settings.remote.root)
    held: MachineContents | None = yield ask_contents(question, settings.remote.venv, only_stamps)
    return held


def _declared_phases(settings: Settings) -> dict[str, Declared]:
    """Every phase that is configured, by its folder's name."""
    import yaml

    declared: dict[str, Declared] = {}
    for file in (f for folder in settings.paths.conf for f in sorted((folder / "phase").glob("*.yaml"))):
        try:
            phase = yaml.safe_load(file.read_text())["phase"]
            artifacts = tuple(map(str, phase.get("artifacts") or ()))
            declared[str(phase["name"])] = Declared(file.stem, artifacts)
        except (yaml.YAMLError, OSError, KeyError, TypeError, AttributeError, UnicodeDecodeError):
            continue
    if settings.phase:
        known = declared.get(settings.phase.name, Declared(settings.phase.choice))
        both = (*known.artifacts, *settings.phase.artifacts)
        declared[settings.phase.name] = Declared(known.choice, both)
    return declared


def _already_gone(settings: Settings, seen: Fleet) -> LedgerMachine | None:
    """The machine that is meant, if the cloud no longer lists it; one that may still come up is not gone."""
    wanted = settings.machine or configured_alias(settings)
    if any(answers_to(i, wanted) for i in seen.alive) or (settings.machine is None and seen.ledger.ours):
        return None
    known = [m for m in seen.ledger.machines if m.is_ours and wanted in (m.id, m.name, m.alias)]
    last = known[-1] if known else None
    return last if last and last.id and last.name not in {d.name for d in seen.unconfirmed()} else None


def _nothing_to_end(settings: Settings, machine: LedgerMachine, now: float) -> Plan:
    """Ending twice harms nobody."""
    cost = f"{machine.bound}${machine.usd_until(now):.2f}"
    return Plan(
        action="terminate",
        effect=Effect.DESTROY,
        target=Target(machine.alias, "lambda", machine.type, machine.usd_per_hour),
        steps=(),
        basis=(("machine", machine.id or machine.name),),
        reason=f"the cloud no longer lists {machine.name}; it cost {cost} in all",
        next=spell_next(settings, "status"),
    )


def _details(
    seen: Fleet, machine: CloudInstance, held: MachineContents | None, loss: Guard
) -> tuple[tuple[str, str], ...]:
    """What a person weighs before ending a machine."""
    known = seen.ledger.by_id(machine.id)
    rows = [("name", f"{machine.name or '(no name)'} · {machine.id} · {machine.status} in {machine.region}")]
    if known and known.is_ours:
        hours = (seen.now - known.since) / 3600
        cost = f"{known.bound}${known.usd_until(seen.now):.2f} so far, {known.bound}{hours:.1f} h"
        rows.append(("cost", cost))
    else:
        rows.append(("cost", "unknown: it was not launched from here"))
    if held is not None:
        num_runs, num_files = len(held.runs), len(held.files)
        rows.append(
            ("holds", f"{num_runs} run(s), {num_files} file(s), {loss.num_here} of them verified here")
        )
        if new := [entry.told for entry in (*loss.home, *loss.given_up_home)]:
            rows.append(("home", listed(new)))
    else:
        rows.append(("holds", f"nobody can see it: {no_answer(machine)}"))
    return tuple(rows)


def notes(settings: Settings, machine: CloudInstance, loss: Guard) -> tuple[str, ...]:
    """What is given up, and how to lose nothing."""
    given_up = (f"will be lost, as discard says: {listed(list(loss.accepted))}",) if loss.accepted else ()
    if loss.reason is None:
        return given_up
    return (*given_up, *rescue_lines(settings, machine, loss, _declared_phases(settings)))
