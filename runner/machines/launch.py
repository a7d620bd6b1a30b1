"""The verbs `available`, `launch` and `up`: what can be rented, and the plan to rent it."""

import shlex
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from runner.errors import UsageError, choices
from runner.machines.fleet import (
    OTHER_KEY,
    Fleet,
    answers_to,
    launch_alias,
    launch_name,
    list_fleet,
    needs_rented,
    rent_line,
)
from runner.machines.lambda_api import (
    Filesystem,
    InstanceType,
    SshKey,
    add_ssh_key_request,
    bare_key,
    launch_request,
    list_filesystems,
    list_regions,
    list_ssh_keys,
    list_types,
)
from runner.plan.command import Command, identity_of, sh
from runner.plan.next_command import spell_next
from runner.plan.plan import Effect, Offer, Plan, Step, Target
from runner.plan.settings import Settings
from runner.world.world import Asking, Fact


@dataclass(frozen=True)
class Available:
    """The types by price; `preferred` are those of the instance that was chosen, in its order."""

    types: tuple[InstanceType, ...]
    preferred: tuple[str, ...]
    max_usd_per_hour: float | None
    launch: str  # the command line that rents one

    def document(self) -> dict[str, Any]:
        """As runner.available/1."""
        return {
            "format": "runner.available/1",
            "types": [
                {
                    "name": kind.name,
                    "gpu": kind.gpu,
                    "gpus": kind.num_gpus,
                    "memory_gib": kind.memory_gib,
                    "architecture": kind.architecture,
                    "usd_per_hour": kind.usd_per_hour,
                    "regions": list(kind.regions),
                    "preferred": kind.name in self.preferred,
                }
                for kind in self.types
            ],
        }


def available(settings: Settings) -> Asking[Available]:
    """One question to the cloud. Prices are the cloud's of this moment, never the YAML's."""
    types = yield list_types(settings.base_url)
    instance = settings.instance
    return Available(types, instance.types, instance.max_usd_per_hour, rent_line(settings))


_TAG = "fractal-runner"


@dataclass(frozen=True)
class LaunchChoice:
    """Everything a launch rests on. `reason` says why there is nothing to rent, or why it is refused."""

    alias: str
    name: str
    offers: tuple[Offer, ...] = ()
    key: SshKey | None = None
    is_new_key: bool = False
    reason: str | None = None
    refused: bool = False
    notes: tuple[str, ...] = ()
    basis: tuple[tuple[str, str], ...] = ()


def launch(settings: Settings) -> Asking[Plan]:
    """The attempts in order of preference; nothing while a machine of this name may be running."""
    wanted = yield from _launch_choice(settings)
    return _launch_plan(settings, wanted, "launch")


def up(settings: Settings) -> Asking[Plan]:
    """launch's plan in full, then the two verbs that follow it as the runner's own command lines."""
    wanted = yield from _launch_choice(settings)
    plan = _launch_plan(settings, wanted, "up")
    if plan.refused:
        return plan
    follow = (
        Step(
            "wait",
            Command(spell_next(settings, "wait", machine=wanted.name)),
            Effect.READ,
            reason="until ssh answers and CUDA works; it is billed meanwhile",
        ),
        Step(
            "setup-ssh",
            Command(spell_next(settings, "setup-ssh", machine=wanted.name) + " confirm=true"),
            reason=f"ssh {wanted.alias} in every terminal",
        ),
    )
    notes = plan.notes + ((f"nothing is rented: {plan.reason}",) if plan.reason else ())
    return replace(plan, steps=plan.steps + follow, reason=None, notes=notes, next=f"ssh {wanted.alias}")


def _launch_choice(settings: Settings) -> Asking[LaunchChoice]:
    """Ask the cloud what there is; UsageError for what it does not have."""
    needs_rented(settings)
    alias = launch_alias(settings)
    seen = yield from list_fleet(settings)
    if (blocked := existing_machine(settings, alias, seen)) is not None:
        return blocked
    types = yield list_types(settings.base_url)
    regions = yield list_regions(settings.base_url)
    regions = yield from _chosen_regions(settings, regions)
    kinds, notes = _chosen_types(settings, types)
    key, is_new = yield from _ssh_key(settings)
    offers = tuple(
        Offer(kind.name, region, kind.usd_per_hour, region in kind.regions)
        for kind in kinds
        for region in regions
    )
    if kinds and not any(offer.is_free for offer in offers):
        notes += ("none of these is free at the moment, says the cloud; wait_for_capacity=2h waits for one",)
    wanted = LaunchChoice(alias, launch_name(settings, seen), offers, key, is_new, notes=notes)
    reason = _refusal(settings, seen, types, offers)
    return replace(wanted, reason=reason, refused=reason is not None)


def existing_machine(settings: Settings, alias: str, seen: Fleet) -> LaunchChoice | None:
    """A machine of this name that is alive, or that may be."""
    another = f"machine=<new name> rents another; to see: {spell_next(settings, 'status')}"
    for instance in seen.alive:
        if answers_to(instance, alias):
            what = f"{instance.name} ({instance.id}) is {instance.status}, at ${instance.usd_per_hour:.2f}/h"
            return LaunchChoice(
                alias, instance.name, reason=f"{what}; {another}", basis=(("machine", instance.id),)
            )
    for machine in seen.unconfirmed():
        if machine.alias == alias:
            is_elsewhere = machine in seen.on_another_account()
            why = OTHER_KEY if is_elsewhere else "asked for and is not listed yet: it may be running"
            what = f"{machine.name} was {why}"
            return LaunchChoice(
                alias, machine.name, reason=f"{what}; {another}", basis=(("machine", machine.name),)
            )
    return None


def _chosen_types(
    settings: Settings, types: tuple[InstanceType, ...]
) -> tuple[list[InstanceType], tuple[str, ...]]:
    """The preferred types at or below the ceiling, in order, and notes on the others."""
    known = {kind.name: kind for kind in types}
    wanted = settings.instance.types
    if not any(name in known for name in wanted):
        named = ", ".join(wanted) or "none"
        raise UsageError(
            f"instance.types: the cloud has no type {named}",
            *choices(wanted[0] if wanted else "", known, "Types"),
        )
    ceiling = settings.instance.max_usd_per_hour
    found = [known[name] for name in wanted if name in known]
    notes = [f"the cloud has no type {name}" for name in wanted if name not in known]
    dear = [kind for kind in found if ceiling is not None and kind.usd_per_hour > ceiling]
    notes += [f"{k.name} costs ${k.usd_per_hour:.2f}/h, above max_usd_per_hour=${ceiling:.2f}" for k in dear]
    return [kind for kind in found if kind not in dear], tuple(notes)


def _chosen_regions(settings: Settings, known: tuple[str, ...]) -> Asking[tuple[str, ...]]:
    """The preferred regions, else all; a filesystem leaves only its own."""
    wanted = settings.instance.regions
    for region in wanted:
        if region not in known:
            raise UsageError(
                f"instance.regions: there is no region {region}", *choices(region, known, "Regions")
            )
    regions = wanted or known
    if settings.instance.filesystem is None:
        return regions
    filesystems: tuple[Filesystem, ...] = yield list_filesystems(settings.base_url)
    name = settings.instance.filesystem
    there = [f.region for f in filesystems if f.name == name]
    if not there:
        known_names = [f.name for f in filesystems]
        raise UsageError(
            f"instance.filesystem: there is no filesystem {name}", *choices(name, known_names, "Filesystems")
        )
    if not any(region in regions for region in there):
        raise UsageError(
            f"instance.filesystem={name} is in {', '.join(there)}, and instance.regions leaves that out",
            "A filesystem can be mounted in its own region only.",
        )
    return tuple(region for region in regions if region in there)


def _ssh_key(settings: Settings) -> Asking[tuple[SshKey, bool]]:
    """The key of this machine as the account knows it, or as it will be registered (True)."""
    public = yield from _public_key(settings)
    known: tuple[SshKey, ...] = yield list_ssh_keys(settings.base_url)
    names = [key.name for key in known]
    for key in known:
        if key.public == public and names.count(key.name) == 1:  # a name that two keys share means neither
            return key, False
    name = f"fractal-{sha256(public.encode()).hexdigest()[:12]}"
    return SshKey("", name, public), True


def _public_key(settings: Settings) -> Asking[str]:
    """`ssh-ed25519 AAAA…` of the identity; UsageError when there is none."""
    identity = identity_of(settings)
    if identity is None or not identity.exists():
        where = (
            f"ssh.identity={identity}: there is no such file" if identity else "~/.ssh holds no key (id_*)"
        )
        raise UsageError(
            f"{where}, and a machine can be reached by ssh key only",
            "To make one: ssh-keygen -t ed25519 -f ~/.ssh/id_ed25519",
            "Another: ssh.identity=FILE",
        )
    public = Path(f"{identity}.pub")
    if public.is_file():
        return bare_key(public.read_text(errors="replace"))
    text: str = yield Fact(
        sh("ssh-keygen", "-y", "-P", "", "-f", str(identity)),
        lambda result: result.stdout.decode(errors="replace") if result.ok else "",
    )
    if not text:
        raise UsageError(
            f"{public} is missing, and {identity} is no private key or has a passphrase",
            f"Make it: ssh-keygen -y -f {shlex.quote(str(identity))} > {shlex.quote(str(public))}",
        )
    return bare_key(text)


def _refusal(
    settings: Settings, seen: Fleet, types: tuple[InstanceType, ...], offers: tuple[Offer, ...]
) -> str | None:
    """Why this launch is refused: above the ceiling, or above the budget."""
    if not offers:
        cheapest = min(k.usd_per_hour for k in types if k.name in settings.instance.types)
        ceiling = settings.instance.max_usd_per_hour or 0.0
        return (
            f"every preferred type costs more than instance.max_usd_per_hour={ceiling:.2f}: "
            f"from ${cheapest:.2f}/h"
        )
    spent, bound = seen.ledger.usd_this_month(seen.now), seen.ledger.bound_this_month()
    dearest = max(offer.usd_per_hour for offer in offers)
    if settings.budget_usd is not None and spent + dearest > settings.budget_usd:
        return (
            f"budget_usd={settings.budget_usd:.2f}: our machines cost {bound}${spent:.2f} this month, "
            f"and an hour more may cost ${dearest:.2f}"
        )
    return None


def _launch_plan(settings: Settings, wanted: LaunchChoice, action: str) -> Plan:
    """What is wanted, as a plan."""
    offers = wanted.offers
    first = offers[0] if offers else None
    instance = settings.instance
    fallback = instance.types[0] if instance.types else None
    target = Target(
        wanted.alias,
        instance.provider,
        first.type if first else fallback,
        first.usd_per_hour if first else instance.usd_per_hour,
    )
    wait = (
        (("wait_for_capacity_s", f"{settings.wait_for_capacity_s:g}"),)
        if settings.wait_for_capacity_s
        else ()
    )
    return Plan(
        action=action,
        effect=Effect.PAY,
        target=target,
        steps=_launch_steps(settings, wanted),
        basis=(("name", wanted.name), *wanted.basis, *wait),
        reason=wanted.reason,
        refused=wanted.refused,
        details=_launch_details(settings, wanted),
        notes=wanted.notes,
        wait_for_capacity_s=settings.wait_for_capacity_s or 0.0,
        next=spell_next(settings, "wait", machine=wanted.name),
    )


def _launch_steps(settings: Settings, wanted: LaunchChoice) -> tuple[Step, ...]:
    """The key, if the account does not know it, then the attempts."""
    if wanted.key is None:
        return ()
    base, key = settings.base_url, wanted.key
    steps: list[Step] = []
    if wanted.is_new_key:
        request = add_ssh_key_request(base, key.name, key.public)
        steps.append(Step("ssh-key", request, reason=f"registers {identity_of(settings)} as {key.name}"))
    for number, offer in enumerate(wanted.offers, 1):
        request = launch_request(
            base,
            name=wanted.name,
            type_name=offer.type,
            region=offer.region,
            ssh_key=key.name,
            tag=(_TAG, wanted.alias),
            image=settings.instance.image,
            filesystem=settings.instance.filesystem,
        )
        free = ", free now" if offer.is_free else ""
        reason = f"{offer.type} in {offer.region} at ${offer.usd_per_hour:.2f}/h{free}"
        steps.append(Step("launch", request, Effect.PAY, reason=reason, attempt=number, offer=offer))
    return tuple(steps)


def _launch_details(settings: Settings, wanted: LaunchChoice) -> tuple[tuple[str, str], ...]:
    """What a person weighs before paying."""
    if not wanted.offers:
        return ()
    first = wanted.offers[0]
    per_day = (
        f"${first.usd_per_hour:.2f} an hour, ${first.usd_per_hour * 24:.2f} a day, until it is terminated"
    )
    rows = [("name", wanted.name), ("price", per_day)]
    if wanted.key:
        rows.append(("ssh key", wanted.key.name + (" (not registered yet)" if wanted.is_new_key else "")))
    if settings.wait_for_capacity_s:
        rows.append(
            ("patience", f"{settings.wait_for_capacity_s / 60:g} minutes while nothing is free, at no cost")
        )
    return tuple(rows)
