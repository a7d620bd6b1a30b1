"""terminate: the machine gone, and nothing of value with it; the only verb that ever ends a machine."""

import json
from dataclasses import dataclass
from pathlib import Path

from runner.errors import choices
from runner.facts.fact import Asking
from runner.facts.health import failed_before_start
from runner.facts.lambda_cloud import Rented, terminate_request
from runner.facts.ledger import Machine
from runner.facts.machine import HeldFile, HeldRun, Holdings, ask_holdings, is_here
from runner.facts.probe import on_machine
from runner.plan.command import Command
from runner.plan.plan import Effect, Plan, Step, Target
from runner.plan.settings import Settings
from runner.verbs.own_line import own_line
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
        notes=(*notes(settings, machine, loss), *unmatched(settings.discard, held)),
        then=own_line(settings, "status"),
    )


def holdings(settings: Settings, machine: Rented) -> Asking[Holdings | None]:
    """What is on it; None when nobody can look, as into a machine without an address."""
    if machine.ip is None:
        return None
    log = settings.paths.research_log.name
    declared = {phase: artifacts for phase, (_, artifacts) in declared_phases(settings).items()}
    held: Holdings | None = yield ask_holdings(
        lambda command: over_ssh(settings, machine, command), settings.remote.root, log, declared
    )
    return held


def over_ssh(settings: Settings, machine: Rented, command: Command) -> Command:
    """The command on the machine, by its address: it need not have an alias yet."""
    return on_machine(settings, machine, command.text)


def declared_phases(settings: Settings) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Phase → (its choice, its artifacts), of every phase that is configured."""
    import yaml

    declared: dict[str, tuple[str, tuple[str, ...]]] = {}
    for file in (f for folder in settings.paths.conf for f in sorted((folder / "phase").glob("*.yaml"))):
        try:
            phase = yaml.safe_load(file.read_text())["phase"]
            artifacts = tuple(map(str, phase.get("artifacts") or ()))
            declared[str(phase["name"])] = (file.stem, artifacts)
        except (yaml.YAMLError, OSError, KeyError, TypeError, AttributeError, UnicodeDecodeError):
            continue
    if settings.phase:
        choice, artifacts = declared.get(settings.phase.name, (settings.phase.choice, ()))
        declared[settings.phase.name] = (choice, (*artifacts, *settings.phase.artifacts))
    return declared


def loss_of(settings: Settings, seen: Seen, machine: Rented, held: Holdings | None) -> Loss:
    """The guard: what is alive, what is not here, what nobody can see; less what `discard` names."""
    if held is None:
        if UNREACHABLE in settings.discard:
            return Loss(accepted=(UNREACHABLE,))
        return Loss() if holds_nothing(settings, seen, machine) else Loss(unseen=why_unseen(machine))
    if UNREACHABLE not in settings.discard and (astray := runs_not_found(settings, seen, machine, held)):
        root = settings.remote.root
        return Loss(
            unseen=f"{listed(astray)} ran on it and is not below {root} there: was remote.root another?"
        )
    missing = [file for file in held.files if not is_here(file, settings.paths.root)]
    thrown = {run.folder for run in held.runs if any(names(word, run.folder) for word in settings.discard)}
    phases = {phase_folder(folder) for folder in thrown}
    given_up = [
        file.path
        for file in missing
        if phase_folder(file.path) in phases or any(names(word, file.path) for word in settings.discard)
    ]
    return Loss(
        alive=tuple(run for run in held.runs if run.is_alive and run.folder not in thrown),
        files=tuple(file for file in missing if file.path not in given_up),
        accepted=(*sorted(thrown), *given_up),
    )


def why_unseen(machine: Rented) -> str:
    """`it is booting and has no address`, or that ssh does not answer."""
    return f"it is {machine.status} and has no address" if machine.ip is None else "it does not answer ssh"


def names(word: str, path: str) -> bool:
    """Whether a word of `discard` means this run or file: whole, its last parts, or a folder it is in."""
    word = word.strip("/").removeprefix("./")
    whole = f"/{path}/"
    return bool(word) and (whole.startswith(f"/{word}/") or f"/{word}/" in whole)


def unmatched(discard: tuple[str, ...], held: Holdings | None) -> tuple[str, ...]:
    """What `discard` names and the machine does not hold: it accepts no loss, so it may be a slip."""
    if held is None:
        return ()
    paths = [*(run.folder for run in held.runs), *(file.path for file in held.files)]
    known = [*paths, *(path.rpartition("/")[2] for path in paths)]
    notes = []
    for word in discard:
        if word == UNREACHABLE:
            notes.append(f"discard=[{word}] accepts nothing: the machine answers, and was looked at")
        elif not any(names(word, path) for path in paths):
            meant = choices(word, known, "")[:-1]
            notes.append(f"discard=[{word}] matches nothing on the machine. {' '.join(meant)}".strip())
    return tuple(notes)


def phase_folder(path: str) -> str:
    """`research-log/phase12-…` of anything in it."""
    return "/".join(path.split("/")[:2])


def holds_nothing(settings: Settings, seen: Seen, machine: Rented) -> bool:
    """Whether no run was ever started on it: we launched it, and no run of ours was meant for it since.

    A machine that is ours by its name alone may have been used for days before the ledger learnt of it.
    """
    known = seen.ledger.by_id(machine.id)
    if known is None or not known.was_asked_for:
        return False
    return not recorded_runs(settings, machine, known.since)


def runs_not_found(settings: Settings, seen: Seen, machine: Rented, held: Holdings) -> list[str]:
    """Runs that were followed from here and that the machine does not show: we look in the wrong place."""
    known = seen.ledger.by_id(machine.id)
    if known is None:
        return []
    root, there = settings.paths.root, {run.folder for run in held.runs}
    recorded = (p.parent for p in recorded_runs(settings, machine, known.since))
    folders = (f for f in recorded if (f / "log").exists() and not failed_before_start(f))
    return [name for f in folders if (name := str(f.relative_to(root))) not in there]


def recorded_runs(settings: Settings, machine: Rented, since: float) -> list[Path]:
    """The plans of runs here that were for this machine."""
    names = {alias_for(settings, machine), machine.name, machine.id}
    plans = sorted(settings.paths.research_log.glob("*/runs/*/plan.json"))
    return [plan for plan in plans if was_meant_for(plan, names, since)]


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
    cost = f"{machine.bound}${machine.usd_until(now):.2f}"
    return Plan(
        action="terminate",
        effect=Effect.DESTROY,
        target=Target(machine.alias, "lambda", machine.type, machine.usd_per_hour),
        steps=(),
        basis=(("machine", machine.id or machine.name),),
        reason=f"the cloud no longer lists {machine.name}; it cost {cost} in all",
        then=own_line(settings, "status"),
    )


def details(
    settings: Settings, seen: Seen, machine: Rented, held: Holdings | None
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
        num_here = sum(is_here(file, settings.paths.root) for file in held.files)
        num_runs, num_files = len(held.runs), len(held.files)
        rows.append(("holds", f"{num_runs} run(s), {num_files} artifact file(s), {num_here} verified here"))
    else:
        rows.append(("holds", f"nobody can see it: {why_unseen(machine)}"))
    return tuple(rows)


def kind_of(settings: Settings, machine: Rented) -> tuple[str, ...]:
    """`instance=…` where none was typed: the phase's own may be this computer, from which nothing comes."""
    known = {file.stem for folder in settings.paths.conf for file in (folder / "instance").glob("*.yaml")}
    typed = any(word.startswith("instance=") for word in settings.typed)
    return (f"instance={machine.type}",) if machine.type in known and not typed else ()


def notes(settings: Settings, machine: Rented, loss: Loss) -> tuple[str, ...]:
    """What is given up, and how to lose nothing."""
    given_up = (f"will be lost, as discard says: {listed(list(loss.accepted))}",) if loss.accepted else ()
    if loss.reason is None:
        return given_up
    stems = {phase: choice for phase, (choice, _) in declared_phases(settings).items()}
    lost = [*(run.folder for run in loss.alive), *(file.path for file in loss.files)]
    folders = sorted({phase_folder(path).rpartition("/")[2] for path in lost})
    which = machine.name or machine.id
    kind = kind_of(settings, machine)
    backups = tuple(
        f"to bring it home: {own_line(settings, 'backup', which, f'phase={stems[folder]}', *kind)}"
        for folder in folders
        if folder in stems
    )
    words = [UNREACHABLE] if loss.unseen else lost
    return (
        *given_up,
        *backups,
        f"to accept the loss: discard=[{', '.join(words[:5])}{', …' * (len(words) > 5)}]",
    )
