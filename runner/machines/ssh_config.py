"""The verb `setup-ssh`: our blocks in the user's OpenSSH configuration, as pure edits of its bytes.

All else stays as it is. A block stands at the top, because of two values the first counts; it ends with
`Host *`, so that what stood first before is again outside of any host.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from difflib import unified_diff
from hashlib import sha256
from pathlib import Path

from runner.errors import TryLater, UsageError
from runner.machines.fleet import SSH_ALIAS, alias_for, find_machine, list_fleet, target_for
from runner.machines.lambda_api import CloudInstance
from runner.machines.probe import host_key_alias, known_hosts
from runner.plan.command import LONGEST_SOCKET, identity_of, sh
from runner.plan.next_command import spell_next
from runner.plan.plan import Effect, Plan, Step, WriteFile
from runner.plan.settings import Settings
from runner.world.world import Asking

_BLOCK = re.compile(
    rb"^# >>> fractal-runner (?P<alias>\S+)[^\n]*\n(?P<body>(?:(?!# >>> fractal-runner )[^\n]*\n)*?)"
    rb"# <<< fractal-runner (?P=alias) <<<[^\S\n]*(?:\n|\Z)",
    re.MULTILINE,
)
_ALL_HOSTS = re.compile(rb"^Host \*[^\S\n]*\n\Z", re.MULTILINE)
_SCOPE = re.compile(rb'^[^\S\n]*"?(?:host|match)"?(?:[^\S\n=]|=|$)[^\n]*', re.MULTILINE | re.IGNORECASE)
_EVERY_SCOPE = re.compile(rb"\s*(?:host[\s=]+\*|match[\s=]+all)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class SshFile:
    """The configuration as it is: its real path behind links, its bytes, its mode; no bytes: no file."""

    path: Path
    content: bytes | None
    mode: int = 0o600


def read_ssh_file(path: Path) -> SshFile:
    """The file behind the path. UsageError for what cannot be edited."""
    real = path.resolve()
    if not real.exists():
        return SshFile(real, None)
    if not real.is_file():
        raise UsageError(f"ssh.config={path} is no file")
    mode = real.stat().st_mode & 0o7777
    try:
        return SshFile(real, real.read_bytes(), mode)
    except OSError as error:
        raise UsageError(f"ssh.config={path} cannot be read: {error.strerror}") from error


def block_for(
    aliases: tuple[str, ...],
    *,
    ip: str,
    port: int,
    user: str,
    identity: Path | None,
    host_key_alias: str,
    known_hosts: Path,
    socket: Path | None,
) -> bytes:
    """The block that makes `ssh <alias>` reach a machine; the first alias names it."""
    rows = [("HostName", ip), ("Port", str(port)), ("User", user)]
    if identity:
        rows += [("IdentityFile", quoted(identity)), ("IdentitiesOnly", "yes")]
    rows += [
        ("HostKeyAlias", host_key_alias),
        ("UserKnownHostsFile", quoted(known_hosts)),
        ("StrictHostKeyChecking", "accept-new"),
        ("ConnectTimeout", "10"),
        ("ServerAliveInterval", "15"),
        ("ServerAliveCountMax", "4"),
    ]
    if socket:
        rows += [("ControlMaster", "auto"), ("ControlPath", quoted(socket)), ("ControlPersist", "10m")]
    name = aliases[0]
    head = f"# >>> fractal-runner {name} (setup-ssh writes this block, terminate removes it) >>>"
    lines = [head, f"Host {' '.join(aliases)}", *(f"    {key} {value}" for key, value in rows)]
    return "\n".join([*lines, "Host *", f"# <<< fractal-runner {name} <<<", ""]).encode(
        errors="surrogateescape"
    )


def quoted(path: Path) -> str:
    """A path as a value of the configuration. UsageError for what its grammar cannot hold."""
    text = str(path)
    if any(mark in text for mark in ('"', "\n", "\r", "\\", "${")):
        raise UsageError(f"{text!r} cannot be written into an OpenSSH configuration", "Choose another path.")
    return '"' + text.replace("%", "%%") + '"'


def socket_for(folders: tuple[Path, ...], instance_id: str) -> Path | None:
    """Where connections to this machine are shared; None where every place has too long a name."""
    paths = (folder / f"cm-{instance_id[:8]}" for folder in folders)
    return next(
        (path for path in paths if len(str(path).encode(errors="surrogateescape")) <= LONGEST_SOCKET), None
    )


def with_block(old: bytes, block: bytes, alias: str, host_key_alias: str) -> bytes:
    """Our block at the top, those that it replaces (of this alias or of this machine) gone."""

    def is_replaced(match: re.Match[bytes]) -> bool:
        named = match["alias"].decode(errors="surrogateescape") == alias
        return named or _is_for(match, host_key_alias)

    return block + _without(old, is_replaced)


def without_block(old: bytes, host_key_alias: str) -> bytes:
    """The machine's blocks gone. A block of the same alias that is for another machine stays."""
    return _without(old, lambda match: _is_for(match, host_key_alias))


def _without(old: bytes, is_meant: Callable[[re.Match[bytes]], bool]) -> bytes:
    """The content without the blocks that are meant to go.

    Where the user has put hosts above such a block, and options that are for all hosts stand behind it, its
    `Host *` stays: they would become options of the last host above.
    """
    kept, at = b"", 0
    for match in filter(is_meant, _BLOCK.finditer(old)):
        kept += old[at : match.start()]
        at = match.end()
        star = _ALL_HOSTS.search(match["body"])
        if star and _is_of_some(kept) and _begins_with_an_option(old[at:]):
            kept += star[0]
    return kept + old[at:]


def _is_of_some(before: bytes) -> bool:
    """Whether an option behind this text is for some hosts only."""
    lines = _SCOPE.findall(before)
    return bool(lines) and not _EVERY_SCOPE.fullmatch(lines[-1])


def _begins_with_an_option(after: bytes) -> bool:
    """Whether the first line that says something opens no scope of its own."""
    lines = (line.strip() for line in after.split(b"\n"))
    first = next((line for line in lines if line and not line.startswith(b"#")), b"Host")
    return not _SCOPE.match(first)


def _is_for(match: re.Match[bytes], host_key_alias: str) -> bool:
    """Whether a block of ours is for the machine with this host key."""
    line = rb"^\s*HostKeyAlias\s+" + re.escape(host_key_alias.encode()) + rb"\s*$"
    return re.search(line, match["body"], re.MULTILINE) is not None


def has_own_host(old: bytes, alias: str) -> bool:
    """Whether the user has a host of this name too, outside of our blocks."""
    rest = _BLOCK.sub(b"", old)
    lines = re.findall(rb"^[ \t]*host[ \t=]+([^\r\n]*)", rest, re.MULTILINE | re.IGNORECASE)
    return any(alias.encode() in line.split() for line in lines)


def written(file: SshFile, new: bytes, otherwise: str | None = None) -> WriteFile:
    """The file with its new content, written only on what was seen."""
    seen = None if file.content is None else sha256(file.content).hexdigest()
    return WriteFile(str(file.path), new.decode(errors="surrogateescape"), seen, file.mode, otherwise)


def setup_ssh(settings: Settings) -> Asking[Plan]:
    """One step that rewrites the configuration, or none when it is right already."""
    seen = yield from list_fleet(settings)
    machine = find_machine(settings, seen)
    if machine.ip is None:
        raise TryLater(
            f"{machine.name or machine.id} is {machine.status} and has no address yet; it is billed",
            f"To wait for it: {spell_next(settings, 'wait', machine=machine.id)}",
        )
    alias = alias_for(settings, machine)
    file = read_ssh_file(settings.ssh.config)
    block = _our_block(settings, machine, alias)
    new = with_block(file.content or b"", block, alias, host_key_alias(machine.id))
    step = _config_step(settings, file, new, f"ssh {alias} → {settings.ssh.user}@{machine.ip}")
    return Plan(
        action="setup-ssh",
        effect=Effect.CHANGE,
        target=target_for(settings, machine),
        steps=(*_folder_steps(settings), step) if step else (),
        basis=(("machine", machine.id), ("ip", machine.ip)),
        reason=None if step else f"{settings.paths.shown(settings.ssh.config)} says so already",
        details=(("diff", _shown_diff(file, new)),) if step else (),
        notes=_own_host_note(file, alias),
        next=_connect(settings, alias),
    )


def _connect(settings: Settings, alias: str) -> str:
    """The command that opens a shell there."""
    return (
        f"ssh {alias}" if settings.ssh.is_default else f"{sh('ssh', '-F', settings.ssh.config).text} {alias}"
    )


def _our_block(settings: Settings, machine: CloudInstance, alias: str) -> bytes:
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


def _folder_steps(settings: Settings) -> tuple[Step, ...]:
    """What the block speaks of is below the folder of our state; ssh makes no folder."""
    folder = settings.paths.state
    return (
        () if folder.is_dir() else (Step("folder", sh("mkdir", "-p", folder), reason="for what ssh keeps"),)
    )


def _config_step(
    settings: Settings, file: SshFile, new: bytes, reason: str, otherwise: str | None = None
) -> Step | None:
    """The step that makes the edit; None when nothing would change. UsageError for a read-only file."""
    if new == (file.content or b""):
        return None
    shown = settings.paths.shown(settings.ssh.config)
    if file.content is not None and not file.mode & 0o200:
        raise UsageError(
            f"{shown} is read-only, so somebody wants it to stay as it is",
            f"chmod u+w {sh(file.path).text}, or give another file: ssh.config=FILE",
        )
    return Step("ssh-config", written(file, new, otherwise), reason=f"{reason}, in {shown}")


def removal_step(settings: Settings, machine: CloudInstance) -> Step | None:
    """The step that takes the machine's block out again; None where there is none, or no permission."""
    alias = alias_for(settings, machine)
    shown = settings.paths.shown(settings.ssh.config)
    left = (  # the machine is gone, whatever becomes of its block
        f"{shown} was written to meanwhile, or cannot be, and stays as it is; "
        f"the lines from '# >>> fractal-runner {alias} ' to '# <<< fractal-runner {alias} ' lead nowhere: "
        "take them out"
    )
    try:
        file = read_ssh_file(settings.ssh.config)
        new = without_block(file.content or b"", host_key_alias(machine.id))
        return _config_step(settings, file, new, f"ssh {alias} no longer leads anywhere", left)
    except UsageError:
        return None


def _shown_diff(file: SshFile, new: bytes) -> str:
    """The change as a person reads changes, indented as a plan's detail."""
    before, after = (t.decode(errors="replace").splitlines() for t in (file.content or b"", new))
    lines = list(unified_diff(before, after, lineterm="", n=1))[2:]
    return f"{file.path}\n" + "\n".join(f"            {line}" for line in lines)


def _own_host_note(file: SshFile, alias: str) -> tuple[str, ...]:
    """That there are two of one name, and which counts."""
    if not has_own_host(file.content or b"", alias):
        return ()
    return (f"{file.path} has a Host {alias} of yours too; ours stands above it, so ours counts",)
