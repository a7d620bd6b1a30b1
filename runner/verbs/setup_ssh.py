"""setup-ssh: `ssh lambda` works in every terminal; everything else in the configuration stays as it is."""

from dataclasses import replace
from difflib import unified_diff
from pathlib import Path

from runner.errors import TryLater, UsageError
from runner.facts.fact import Asking
from runner.facts.lambda_cloud import Rented
from runner.facts.probe import host_key_alias, identity_of, known_hosts
from runner.facts.ssh_config import (
    Edit,
    SshFile,
    block_for,
    has_own_host,
    read_ssh_file,
    socket_for,
    with_block,
    without_block,
    write_command,
)
from runner.plan.command import Command, sh
from runner.plan.plan import Effect, Plan, Step
from runner.plan.settings import Settings
from runner.verbs.own_line import own_line
from runner.verbs.rented import SSH_ALIAS, alias_for, find, look, target_for


def setup_ssh(settings: Settings) -> Asking[Plan]:
    """One step that rewrites the configuration, or none when it is right already."""
    seen = yield from look(settings)
    machine = find(settings, seen)
    if machine.ip is None:
        raise TryLater(
            f"{machine.name or machine.id} is {machine.status} and has no address yet; it is billed",
            f"To wait for it: {own_line(settings, 'wait', machine=machine.id)}",
        )
    alias = alias_for(settings, machine)
    file = read_ssh_file(settings.ssh.config)
    edit = with_block(
        file.content or b"", our_block(settings, machine, alias), alias, host_key_alias(machine.id)
    )
    step = config_step(settings, file, edit, f"ssh {alias} → {settings.ssh.user}@{machine.ip}")
    return Plan(
        action="setup-ssh",
        effect=Effect.CHANGE,
        target=target_for(settings, machine),
        steps=(step,) if step else (),
        basis=(("machine", machine.id), ("ip", machine.ip)),
        reason=None if step else f"{settings.paths.shown(settings.ssh.config)} says so already",
        details=(("diff", shown_diff(file, edit)),) if step else (),
        notes=own_host_note(file, alias),
        then=connect(settings, alias),
    )


def connect(settings: Settings, alias: str) -> str:
    """The command that opens a shell there."""
    return (
        f"ssh {alias}" if settings.ssh.is_default else f"{sh('ssh', '-F', settings.ssh.config).text} {alias}"
    )


def our_block(settings: Settings, machine: Rented, alias: str) -> bytes:
    """The block for this machine; it answers to its alias, its name in the cloud and its id."""
    names = [alias, *(n for n in (machine.name, machine.id) if SSH_ALIAS.fullmatch(n))]
    folders = (settings.paths.state, Path.home() / ".ssh")
    return block_for(
        tuple(dict.fromkeys(names)),
        ip=machine.ip or "",
        port=settings.ssh.port,
        user=settings.ssh.user,
        identity=identity_of(settings),
        host_key_alias=host_key_alias(machine.id),
        known_hosts=known_hosts(settings),
        socket=socket_for(folders, machine.id),
    )


def config_step(settings: Settings, file: SshFile, edit: Edit, reason: str) -> Step | None:
    """The step that makes the edit; None when nothing would change. UsageError for a read-only file."""
    if edit.applied(file.content or b"") == (file.content or b""):
        return None
    shown = settings.paths.shown(settings.ssh.config)
    if file.content is not None and not file.mode & 0o200:
        raise UsageError(
            f"{shown} is read-only, so somebody wants it to stay as it is",
            f"chmod u+w {sh(file.path).text}, or give another file: ssh.config=FILE",
        )
    command = sh("mkdir", "-p", settings.paths.state) & write_command(file, edit)
    return Step("ssh-config", command, reason=f"{reason}, in {shown}")


def removal_step(settings: Settings, machine: Rented) -> Step | None:
    """The step that takes the machine's block out again; None where there is none, or no permission."""
    alias = alias_for(settings, machine)
    try:
        file = read_ssh_file(settings.ssh.config)
        edit = without_block(file.content or b"", host_key_alias(machine.id))
        step = config_step(settings, file, edit, f"ssh {alias} no longer leads anywhere")
    except UsageError:
        return None
    return (
        replace(step, action=Command(f"({step.command}) || {left(settings, alias).text}")) if step else None
    )


def left(settings: Settings, alias: str) -> Command:
    """The machine is gone, whatever becomes of its block: somebody may have written to the file meanwhile."""
    shown = settings.paths.shown(settings.ssh.config)
    return sh(
        "echo",
        f"{shown} was written to meanwhile, or cannot be, and stays as it is; the lines from "
        f"'# >>> fractal-runner {alias} ' to '# <<< fractal-runner {alias} ' lead nowhere: take them out",
    )


def shown_diff(file: SshFile, edit: Edit) -> str:
    """The change as a person reads changes, indented as a plan's detail."""
    old = file.content or b""
    before, after = (t.decode(errors="replace").splitlines() for t in (old, edit.applied(old)))
    lines = list(unified_diff(before, after, lineterm="", n=1))[2:]
    return f"{file.path}\n" + "\n".join(f"            {line}" for line in lines)


def own_host_note(file: SshFile, alias: str) -> tuple[str, ...]:
    """That there are two of one name, and which counts."""
    if not has_own_host(file.content or b"", alias):
        return ()
    return (f"{file.path} has a Host {alias} of yours too; ours stands above it, so ours counts",)
