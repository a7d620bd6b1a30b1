"""OpenSSH itself on our edits: the user's other hosts stay as they were, and every tool takes our alias."""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import fabric
import paramiko
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.machines.ssh_config import block_for, with_block, without_block
from tests.integration.test_machines import Renting, rent
from tests.support import soak_size

__all__ = ["rent"]  # a fixture

# What `ssh` may be asked for; none is a name in our blocks.
HOSTS = ("web", "db1.example.com", "lambda2", "lambda-x", "203.0.113.9")
SCOPES = (
    *("Host *", "Host web", "Host db? lambda-x", "Host *.example.com", "host=web", "Host !web *"),
    *("Host lambda*", "Host 203.0.113.9", "  Host  web  lambda2", 'Host "web"', "Match all", "HOST *"),
    *("Match host web,db*", "match user me", "Match originalhost lambda?", "Match final host web"),
    *("Match !host web", "Match host *.example.com user root"),
)
OPTIONS = (
    *(
        "User me",
        "  User you",
        "User=them",
        "Port 2222",
        "\tPort 99",
        "HostName 198.51.100.7",
        "HostName %h.lan",
    ),
    *("IdentityFile ~/.ssh/one", 'IdentityFile "/a b/two"', "ForwardAgent yes", "ServerAliveInterval 7"),
    *("ProxyJump jump@web", "HostKeyAlias mine", "ControlMaster auto", "ControlPath /x/%C", "SetEnv A=1"),
    *("StrictHostKeyChecking no", "UserKnownHostsFile /dev/null", "IdentitiesOnly yes", "Compression yes"),
)
OTHERS = (
    "",
    "# a comment",
    "   # Host web",
    "# >>> fractal-runner lambda",
    "Include {}/more",
    "Include {}/*.conf",
)
LINES = st.one_of(st.sampled_from(SCOPES), st.sampled_from(OPTIONS), st.sampled_from(OTHERS))


def block(ip: str, key: str = "fractal-1", alias: str = "lambda") -> bytes:
    """As setup-ssh writes it."""
    return block_for(
        (alias, f"{alias}-0001-abcdef"),
        ip=ip,
        port=22,
        user="ubuntu",
        identity=Path("/x/id"),
        host_key_alias=key,
        known_hosts=Path("/x/known_hosts"),
        socket=Path("/x/cm-1"),
    )


@dataclass(frozen=True)
class Case:
    """A configuration with none, one or two blocks of ours anywhere in it, the files it includes, an edit."""

    parts: tuple[bytes, ...]
    included: tuple[bytes, bytes]
    edit: Callable[[bytes], bytes] = field(repr=False)


EDITS: tuple[Callable[[bytes], bytes], ...] = (
    lambda old: with_block(old, block("203.0.113.10"), "lambda", "fractal-1"),
    lambda old: with_block(old, block("203.0.113.10", "fractal-3"), "lambda", "fractal-3"),
    lambda old: without_block(old, "fractal-1"),
    lambda old: without_block(old, "fractal-2"),
)


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """Lines with any line ends."""
    ends = st.sampled_from(["\n", "\n", "\r\n"])
    return "".join(line + draw(ends) for line in draw(st.lists(LINES, max_size=6))).encode()


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Blocks of two machines between the user's own lines; the last line end may be missing."""
    ours = draw(
        st.lists(
            st.sampled_from([block("203.0.113.8"), block("203.0.113.7", "fractal-2", "two")]),
            max_size=2,
            unique=True,
        )
    )
    parts = [draw(texts())]
    for one in ours:
        parts += [one, draw(texts())]
    parts[-1] = parts[-1].rstrip(b"\n") if draw(st.booleans()) else parts[-1]
    return Case(tuple(parts), (draw(texts()), draw(texts())), draw(st.sampled_from(EDITS)))


def shown(config: Path) -> list[tuple[int, bytes]]:
    """What ssh makes of each host."""
    words = ("ssh", "-G", "-F", str(config))
    done = [subprocess.run([*words, host], capture_output=True) for host in HOSTS]
    return [(one.returncode, one.stdout) for one in done]


@pytest.mark.soak
@settings(max_examples=soak_size(1500, 20))
@given(cases())
def test_what_ssh_says_of_other_hosts_never_changes(case: Case) -> None:
    with TemporaryDirectory() as folder:
        config = Path(folder, "config")
        for name, text in zip(("more", "some.conf"), case.included, strict=True):
            Path(folder, name).write_bytes(text.replace(b"Include {}", b"# "))
        old = b"".join(case.parts).replace(b"{}", folder.encode())
        config.write_bytes(old)
        before = shown(config)
        config.write_bytes(case.edit(old))
        assert shown(config) == before


def test_ssh_rsync_scp_sftp_and_fabric_take_the_alias(rent: Callable[..., Renting], tmp_path: Path) -> None:
    renting = rent()
    renting.up()
    config = str(renting.home / ".ssh/config")
    assert renting.ssh("echo by ssh") == "by ssh\n"
    (tmp_path / "sent").write_bytes(b"\0any bytes\xff")
    words = (
        ("rsync", "-e", f"ssh -F {config}", "sent", "lambda:by-rsync"),
        ("rsync", "-e", f"ssh -F {config}", "lambda:by-rsync", "from-rsync"),
        ("scp", "-q", "-F", config, "sent", "lambda:by-scp"),
        ("scp", "-q", "-F", config, "lambda:by-scp", "from-scp"),
        ("sftp", "-q", "-F", config, "-b", "/dev/null", "lambda"),
    )
    for line in words:
        done = subprocess.run(line, cwd=tmp_path, capture_output=True, env=renting.env(), timeout=60)
        assert done.returncode == 0, (line, done.stderr)
    for name in ("from-rsync", "from-scp"):
        assert (tmp_path / name).read_bytes() == b"\0any bytes\xff"
    with connection(config, "lambda") as lambda_:
        done_there = lambda_.run("cat by-scp | wc -c; exit 3", hide=True, warn=True, in_stream=False)
        assert (done_there.stdout, done_there.exited) == ("11\n", 3)


def connection(config: str, alias: str) -> fabric.Connection:
    """fabric with what `ssh -G` says; the host's key must be the one that ssh has kept."""
    said = subprocess.run(["ssh", "-G", "-F", config, alias], capture_output=True, text=True, check=True)
    options = dict(line.split(" ", 1) for line in said.stdout.splitlines())
    host, port = options["hostname"], int(options["port"])
    its = fabric.Connection(
        host,
        user=options["user"],
        port=port,
        config=fabric.Config(overrides={"load_ssh_configs": False}),
        connect_kwargs={
            "key_filename": options["identityfile"],
            "look_for_keys": False,
            "allow_agent": False,
        },
    )
    its.client.set_missing_host_key_policy(paramiko.RejectPolicy())
    kept = paramiko.HostKeys(options["userknownhostsfile"]).lookup(options["hostkeyalias"])
    assert kept, "wait has kept the key under the machine's own name"
    for kind, key in kept.items():
        its.client.get_host_keys().add(f"[{host}]:{port}" if port != 22 else host, kind, key)
    return its
