"""terminate: the machine gone, and nothing of value with it; the only verb that ever ends a machine."""

import json
from dataclasses import dataclass
from pathlib import Path

from runner.facts.fact import Asking, Fact
from runner.facts.holdings import HeldFile, HeldRun, Holdings, inventory, is_here, read_holdings
from runner.facts.lambda_cloud import Rented, terminate_request
from runner.facts.ledger import Machine
from runner.facts.probe import on_machine
from runner.plan.command import home_or_path
from runner.plan.plan import Effect, Plan, Step, Target
from runner.plan.settings import Settings
from runner.verbs.rented import Seen, alias_for, called, configured_alias, find, look, target_for
from runner.verbs.setup_ssh import removal_step

UNREACHABLE = "unreachable"
MANY = 100  # names that a refusal lists before it counts the rest


@dataclass(frozen=True)
class Loss:
    """What would go with the machine, less what may. `accepted` counts what `discard` named."""

    alive: tuple[HeldRun, ...] = ()
    files: tuple[HeldFile, ...] = ()
    unseen: str = ""
    accepted: tuple[str, ...] = ()

    @property
    def reason(self) -> str | None:
        """Why the machine must not go yet."""
        parts = []
        if self.unseen:
            parts.append(
                f"it cannot be seen what is on it ({self.unseen}), so nothing there counts as backed up"
            )
        if self.alive:
            parts.append(f"alive: {listed([run.folder for run in self.alive])}")
        if self.files:
            parts.append(f"not verified here: {listed([file.path for file in self.files])}")
        return "; ".join(parts) or None


def listed(names: list[str]) -> str:
    """All of them, up to a great number."""
    more = f" and {len(names) - MANY} more" if len(names) > MANY else ""
    return ", ".join(names[:MANY]) + more


def terminate(settings: Settings) -> Asking[Plan]:
    """One request, refused while anything would be lost; then our block leaves the ssh configuration."""
    seen = yield from look(settings)
    if (gone := already_gone(settings, seen)) is not None:
        return nothing_to_end(settings, gone, seen.now)
    machine = find(settings, seen)
    held = yield from holdings(settings, machine)
    loss = loss_of(settings, seen, machine, held)
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
        basis=(("machine", machine.id), *(("discard", name) for name in sorted(settings.discard))),
        reason=loss.reason,
        refused=loss.reason is not None,
        details=details(settings, seen, machine, held),
        notes=notes(settings, machine, loss),
        then=f"{settings.program} action=status",
    )


def holdings(settings: Settings, machine: Rented) -> Asking[Holdings]:
    """What is on it; a machine without an address cannot be asked."""
    if machine.ip is None:
        return Holdings(False, said=f"it is {machine.status} and has no address")
    declared = {folder: artifacts for folder, (_, artifacts) in declared_phases(settings).items()}
    script = inventory(home_or_path(settings.remote.root), declared)
    held: Holdings = yield Fact(on_machine(settings, machine, script), read_holdings)
    return held


def declared_phases(settings: Settings) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Phase folder below the root → (its choice, its artifacts), of every phase that is configured."""
    import yaml

    log = settings.paths.research_log.name
    declared: dict[str, tuple[str, tuple[str, ...]]] = {}
    for file in (f for folder in settings.paths.conf for f in sorted((folder / "phase").glob("*.yaml"))):
        try:
            phase = yaml.safe_load(file.read_text())["phase"]
            artifacts = tuple(map(str, phase.get("artifacts") or ()))
            declared[f"{log}/{phase['name']}"] = (file.stem, artifacts)
        except (yaml.YAMLError, OSError, KeyError, TypeError, AttributeError, UnicodeDecodeError):
            continue
    if settings.phase:
        folder = f"{log}/{settings.phase.name}"
        choice, artifacts = declared.get(folder, (settings.phase.choice, ()))
        declared[folder] = (choice, (*artifacts, *settings.phase.artifacts))
    return declared


def loss_of(settings: Settings, seen: Seen, machine: Rented, held: Holdings) -> Loss:
    """The guard: what is alive, what is not here, what nobody can see; less what `discard` names."""
    if not held.answered:
        if UNREACHABLE in settings.discard:
            return Loss(accepted=(UNREACHABLE,))
        return Loss() if holds_nothing(settings, seen, machine) else Loss(unseen=held.said)
    missing = [file for file in held.files if not is_here(file, settings.paths.root)]
    alive = [run for run in held.runs if run.is_alive]
    thrown = {run.folder for run in held.runs if any(names_run(name, run) for name in settings.discard)}
    thrown_phases = {folder.rsplit("/", 2)[0] for folder in thrown}
    given_up = [
        file
        for file in missing
        if file.phase in thrown_phases or any(names_file(name, file) for name in settings.discard)
    ]
    return Loss(
        alive=tuple(run for run in alive if run.folder not in thrown),
        files=tuple(file for file in missing if file not in given_up),
        accepted=(*sorted(thrown), *(file.path for file in given_up)),
    )


def names_run(word: str, run: HeldRun) -> bool:
    """`0003-train`, or its folder below the root, or the end of that: `phase12-…/runs/0003-train`."""
    word = word.rstrip("/")
    return word in (run.name, run.folder) or run.folder.endswith(f"/{word}")


def names_file(word: str, file: HeldFile) -> bool:
    """A file or a folder of artifacts, below the root or below its phase."""
    word = word.rstrip("/")
    return any(path == word or path.startswith(f"{word}/") for path in (file.path, file.in_phase))


def holds_nothing(settings: Settings, seen: Seen, machine: Rented) -> bool:
    """Whether no run was ever started on it: we launched it, and no run of ours was meant for it since."""
    known = seen.ledger.by_id(machine.id)
    if known is None or not known.is_ours:
        return False
    names = {alias_for(settings, machine), machine.name, machine.id}
    plans = settings.paths.research_log.glob("*/runs/*/plan.json")
    return not any(was_meant_for(plan, names, known.since) for plan in plans)


def was_meant_for(plan: Path, names: set[str], since: float) -> bool:
    """Whether this run was for that machine; a plan that cannot be read may have been."""
    try:
        if plan.stat().st_mtime < since:
            return False
        instance = json.loads(plan.read_text())["instance"]
        return bool(instance["provider"] != "local" and instance["name"] in names)
    except (OSError, ValueError, KeyError, TypeError):
        return True


def already_gone(settings: Settings, seen: Seen) -> Machine | None:
    """The machine that is meant, if the cloud no longer lists it; one that may still come up is not gone."""
    wanted = settings.machine or configured_alias(settings)
    if any(called(i, wanted) for i in seen.alive) or (settings.machine is None and seen.ledger.ours):
        return None
    known = [m for m in seen.ledger.machines if m.is_ours and wanted in (m.id, m.name, m.alias)]
    last = known[-1] if known else None
    return last if last and last.id and last.name not in {d.name for d in seen.doubtful()} else None


def nothing_to_end(settings: Settings, machine: Machine, now: float) -> Plan:
    """Ending twice harms nobody."""
    return Plan(
        action="terminate",
        effect=Effect.DESTROY,
        target=Target(machine.alias, "lambda", machine.type, machine.usd_per_hour),
        steps=(),
        basis=(("machine", machine.id or machine.name),),
        reason=f"the cloud no longer lists {machine.name}; it cost ${machine.usd_until(now):.2f} in all",
        then=f"{settings.program} action=status",
    )


def details(settings: Settings, seen: Seen, machine: Rented, held: Holdings) -> tuple[tuple[str, str], ...]:
    """What a person weighs before ending a machine."""
    known = seen.ledger.by_id(machine.id)
    rows = [("name", f"{machine.name or '(no name)'} · {machine.id} · {machine.status} in {machine.region}")]
    if known and known.is_ours:
        hours = (seen.now - known.since) / 3600
        rows.append(("cost", f"${known.usd_until(seen.now):.2f} so far, {hours:.1f} h"))
    else:
        rows.append(("cost", "unknown: it was not launched from here"))
    if held.answered:
        num_here = sum(is_here(file, settings.paths.root) for file in held.files)
        num_runs, num_files = len(held.runs), len(held.files)
        rows.append(("holds", f"{num_runs} run(s), {num_files} artifact file(s), {num_here} verified here"))
    else:
        rows.append(("holds", f"nobody can see it: {held.said}"))
    return tuple(rows)


def notes(settings: Settings, machine: Rented, loss: Loss) -> tuple[str, ...]:
    """What is given up, and how to lose nothing."""
    given_up = (f"will be lost, as discard says: {listed(list(loss.accepted))}",) if loss.accepted else ()
    if loss.reason is None:
        return given_up
    choices = {folder: choice for folder, (choice, _) in declared_phases(settings).items()}
    folders = sorted({file.phase for file in loss.files} | {run.phase for run in loss.alive})
    which = machine.name or machine.id
    backups = tuple(
        f"to bring it home: {settings.program} phase={choices[folder]} machine={which} action=backup"
        for folder in folders
        if folder in choices
    )
    words = [UNREACHABLE] if loss.unseen else [r.folder for r in loss.alive] + [f.path for f in loss.files]
    return (
        *given_up,
        *backups,
        f"to accept the loss: discard=[{', '.join(words[:5])}{', …' * (len(words) > 5)}]",
    )
