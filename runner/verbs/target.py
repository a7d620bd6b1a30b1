"""Which machine a plan is for, and which executor runs jobs there."""

from runner.executors.base import Executor
from runner.executors.local import Local
from runner.plan.plan import Target
from runner.plan.settings import Settings


def target_of(settings: Settings) -> Target:
    """The machine as plans name it."""
    instance = settings.instance
    if instance.is_local:
        return Target(instance.name, instance.provider)
    first = instance.types[0] if instance.types else None
    return Target(settings.alias, instance.provider, first, instance.usd_per_hour)


def executor_of(settings: Settings) -> Executor:
    """How jobs run on that machine."""
    if settings.instance.is_local:
        return Local(settings.paths.root, settings.paths.venv)
    from runner.executors.ssh import Ssh
    from runner.plan.route import route_of

    remote = settings.remote
    return Ssh(route_of(settings), remote.root, remote.venv, settings.paths.root)


def platform_text(settings: Settings) -> str:
    """`x86_64-manylinux_2_39 · Python 3.12 · lambda-stack-24-04`."""
    machine = settings.instance
    if machine.is_local:
        return "this machine"
    python = f"Python {machine.python}" if machine.python else None
    return " · ".join(
        part for part in (machine.platform, python, machine.image, machine.torch_backend) if part
    )
