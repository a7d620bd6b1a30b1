"""The verb `setup-ssh`: our blocks in the user's OpenSSH configuration, as pure edits of its bytes.

All else stays as it is. A block stands at the top, because of two values the first counts; it ends with
`Host *`, so that what stood first before is again outside of any host.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import unified_diff
from pathlib import Path

from runner.errors import TryLater, UsageError
from runner.machines.fleet import SSH_ALIAS, alias_for, find_machine, list_fleet, target_for
from runner.machines.lambda_api import CloudInstance
from runner.machines.probe import host_key_alias, known_hosts
from runner.plan.command import LONGEST_SOCKET, Command, identity_of, sh
from runner.plan.next_command import spell_next
from runner.plan.plan import Effect, Plan, Step
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


@dataclass(frozen=True)
class Edit:
    """The new content is `block`, and behind it the old content without the `cuts` (from, to)."""

    block: bytes
    cuts: tuple[tuple[int, int], ...]

    def kept(self, length: int) -> tuple[tuple[int, int], ...]:
        """The ranges of the old content that stay."""
        edges = [0, *(edge for cut in self.cuts for edge in cut), length]
        pairs = zip(edges[::2], edges[1::2], strict=True)
        return tuple((start, end) for start, end in pairs if start < end)

    def applied(self, old: bytes) -> bytes:
        """The new content."""
        return self.block + b"".join(old[start:end] for start, end in self.kept(len(old)))


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


def with_block(old: bytes, block: bytes, alias: str, host_key_alias: str) -> Edit:
    """Our block at the top, those that it replaces (of this alias or of this machine) gone."""

    def is_replaced(match: re.Match[bytes]) -> bool:
        named = match["alias"].decode(errors="surrogateescape") == alias
        return named or _is_for(match, host_key_alias)

    return Edit(block, _cuts(old, is_replaced))


def without_block(old: bytes, host_key_alias: str) -> Edit:
    """The machine's blocks gone. A block of the same alias that is for another machine stays."""
    return Edit(b"", _cuts(old, lambda match: _is_for(match, host_key_alias)))


def _cuts(old: bytes, is_meant: Callable[[re.Match[bytes]], bool]) -> tuple[tuple[int, int], ...]:
    """What to take out for the blocks that are meant to go.

    Where the user has put hosts above such a block, and options that are for all hosts stand behind it, its
    `Host *` stays: they would become options of the last host above.
    """
    found: list[tuple[int, int]] = []
    kept, at = b"", 0
    for match in filter(is_meant, _BLOCK.finditer(old)):
        kept += old[at : match.start()]
        at = match.end()
        star = _ALL_HOSTS.search(match["body"])
        if star and _is_of_some(kept) and _begins_with_an_option(old[at:]):
            kept += star[0]
            body = match.start("body")
            found += [(match.start(), body + star.start()), (body + star.end(), match.end())]
        else:
            found.append(match.span())
    return tuple(found)


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


def write_command(file: SshFile, edit: Edit) -> Command:
    """One line of shell that makes the edit, whole or not at all, and only on the file as it was seen."""
    path = file.path
    new = f"{sh(path).text}.new.$$"
    parts = []
    if edit.block:
        parts.append(sh("printf", "%s", edit.block.decode(errors="surrogateescape")).text)
    old = file.content or b""
    for start, end in edit.kept(len(old)):
        whole = (start, end) == (0, len(old))
        part = sh("cat", path) if whole else sh("head", "-c", end, path) | sh("tail", "-c", f"+{start + 1}")
        parts.append(part.text)
    body = "; ".join(parts) or ":"
    same = f'[ "$(cksum < {sh(path).text})" = {sh(cksum(old)).text} ]'
    asked = Command(same if file.content is not None else f"[ ! -e {sh(path).text} ]")
    if file.content is None:
        asked = sh("mkdir", "-p", "-m", "700", path.parent) & asked
    written = Command(f"(umask 077; {{ {body}; }} > {new})")
    return asked & written & Command(f"chmod {file.mode:o} {new}") & Command(f"mv -f {new} {sh(path).text}")


def cksum(data: bytes) -> str:
    """What POSIX `cksum` prints: a checksum with polynomial 0x04C11DB7 over the bytes and their number."""
    crc, length = 0, len(data)
    tail = length.to_bytes((length.bit_length() + 7) // 8, "little")
    for byte in (*data, *tail):
        crc = ((crc << 8) & 0xFFFFFFFF) ^ _CRC_TABLE[(crc >> 24) ^ byte]
    return f"{crc ^ 0xFFFFFFFF} {length}"


def _crc_row(index: int) -> int:
    """One entry of the table."""
    value = index << 24
    for _ in range(8):
        value = ((value << 1) ^ (0x04C11DB7 if value & 0x80000000 else 0)) & 0xFFFFFFFF
    return value


_CRC_TABLE = tuple(map(_crc_row, range(256)))


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
    edit = with_block(
        file.content or b"", _our_block(settings, machine, alias), alias, host_key_alias(machine.id)
    )
    step = _config_step(settings, file, edit, f"ssh {alias} → {settings.ssh.user}@{machine.ip}")
    return Plan(
        action="setup-ssh",
        effect=Effect.CHANGE,
        target=target_for(settings, machine),
        steps=(step,) if step else (),
        basis=(("machine", machine.id), ("ip", machine.ip)),
        reason=None if step else f"{settings.paths.shown(settings.ssh.config)} says so already",
        details=(("diff", _shown_diff(file, edit)),) if step else (),
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


def _config_step(settings: Settings, file: SshFile, edit: Edit, reason: str) -> Step | None:
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


def removal_step(settings: Settings, machine: CloudInstance) -> Step | None:
    """The step that takes the machine's block out again; None where there is none, or no permission."""
    alias = alias_for(settings, machine)
    try:
        file = read_ssh_file(settings.ssh.config)
        edit = without_block(file.content or b"", host_key_alias(machine.id))
        step = _config_step(settings, file, edit, f"ssh {alias} no longer leads anywhere")
    except UsageError:
        return None
    return (
        replace(step, action=Command(f"({step.command}) || {_left(settings, alias).text}")) if step else None
    )


def _left(settings: Settings, alias: str) -> Command:
    """The machine is gone, whatever becomes of its block: somebody may have written to the file meanwhile."""
    shown = settings.paths.shown(settings.ssh.config)
    return sh(
        "echo",
        f"{shown} was written to meanwhile, or cannot be, and stays as it is; the lines from "
        f"'# >>> fractal-runner {alias} ' to '# <<< fractal-runner {alias} ' lead nowhere: take them out",
    )


def _shown_diff(file: SshFile, edit: Edit) -> str:
    """The change as a person reads changes, indented as a plan's detail."""
    old = file.content or b""
    before, after = (t.decode(errors="replace").splitlines() for t in (old, edit.applied(old)))
    lines = list(unified_diff(before, after, lineterm="", n=1))[2:]
    return f"{file.path}\n" + "\n".join(f"            {line}" for line in lines)


def _own_host_note(file: SshFile, alias: str) -> tuple[str, ...]:
    """That there are two of one name, and which counts."""
    if not has_own_host(file.content or b"", alias):
        return ()
    return (f"{file.path} has a Host {alias} of yours too; ours stands above it, so ours counts",)
