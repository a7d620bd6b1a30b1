"""Our block comes and goes, and every other byte of the user's configuration stays where it was."""

import os
import resource
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import RunnerError, UsageError
from runner.machines.ssh_config import (
    block_for,
    has_own_host,
    quoted,
    read_ssh_file,
    socket_for,
    with_block,
    without_block,
    written,
)
from runner.plan.plan import Effect, Plan, Step, Target, WriteFile
from runner.view.script import plan_script
from runner.world.files import write_file
from tests.support import CHECKOUT

LINES = (
    *(
        "# a comment",
        "",
        "   ",
        "\t# indented",
        "Host *",
        "  User me",
        "Host lambda other",
        "Include conf.d/*",
    ),
    *('Match host x exec "true"', "  Port=2222", "Host lambda-old\r", "  IdentityFile ~/.ssh/id\r", "\r"),
    *(
        "# >>> fractal-runner lambda",
        "# <<< fractal-runner other <<<",
        "# >>> fractal-runner",
        "李明",
        "Host",
    ),
)


def block(alias: str = "lambda", key: str = "fractal-1", ip: str = "203.0.113.9") -> bytes:
    return block_for(
        (alias, f"{alias}-0001-abcdef"),
        ip=ip,
        port=22,
        user="ubuntu",
        identity=Path("/home/me/my keys/id"),
        host_key_alias=key,
        known_hosts=Path("/x/known_hosts"),
        socket=Path("/x/cm-1"),
    )


@st.composite
def configurations(draw: st.DrawFn) -> bytes:
    """A file as people have them: any line ends, with or without the last one, any bytes now and then."""
    lines = draw(st.lists(st.one_of(st.sampled_from(LINES), st.text(max_size=30)), max_size=12))
    text = "\n".join(lines).encode("utf-8", "surrogatepass") + draw(
        st.sampled_from([b"", b"\n", b"\r\n", b"\n\n"])
    )
    return text + draw(st.sampled_from([b"", b"\xff\xfe", b"\0"]))


@given(configurations())
def test_all_that_is_not_ours_stays_byte_for_byte(old: bytes) -> None:
    new = with_block(old, block(), "lambda", "fractal-1")
    assert new == block() + old
    assert without_block(new, "fractal-1") == old


@given(configurations(), configurations())
def test_a_block_is_replaced_wherever_it_stands(before: bytes, after: bytes) -> None:
    before = before if before.endswith(b"\n") or not before else before + b"\n"
    old = before + block() + after
    newer = block(key="fractal-2", ip="203.0.113.10")
    new = with_block(old, newer, "lambda", "fractal-2")
    assert new == newer + without_block(old, "fractal-1")


@given(configurations(), configurations())
def test_a_block_leaves_nothing_but_a_line_for_all_hosts(before: bytes, after: bytes) -> None:
    before = before if before.endswith(b"\n") or not before else before + b"\n"
    left = without_block(before + block() + after, "fractal-1")
    assert left in (before + after, before + b"Host *\n" + after)


@pytest.mark.parametrize(
    ("above", "below", "stays"),
    [
        (b"Host mine\n  Port 1\n", b"User me\n", True),
        (b"match host x\n", b"# all\n\n  Include more\n", True),
        (b"Host mine\n", b"Host *\n  User me\n", False),
        (b"Host mine\nHost *\n", b"User me\n", False),
        (b"Host mine\nMatch all\r\n", b"User me\n", False),
        (b"Port 1\n", b"User me\n", False),
        (b"Host mine\n", b"\n# the end", False),
        (b"Host mine\n" + block("two", "fractal-2"), b"User me\n", False),
        (b"Host mine\n", block("two", "fractal-2") + b"User me\n", False),
    ],
)
def test_options_for_all_hosts_stay_so_when_hosts_were_written_above_our_block(
    above: bytes, below: bytes, stays: bool
) -> None:
    old = above + block() + below
    new = above + (b"Host *\n" if stays else b"") + below
    assert without_block(old, "fractal-1") == new
    newer = block(ip="203.0.113.10")
    assert with_block(old, newer, "lambda", "fractal-1") == newer + new


@given(configurations())
def test_doing_it_twice_is_doing_it_once(old: bytes) -> None:
    once = with_block(old, block(), "lambda", "fractal-1")
    assert with_block(once, block(), "lambda", "fractal-1") == once


def test_terminating_one_machine_leaves_the_other_s_block() -> None:
    old = block() + block("two", "fractal-2") + b"Host *\n"
    assert without_block(old, "fractal-2") == block() + b"Host *\n"


def test_a_block_that_another_machine_took_over_is_not_removed_with_the_old_one() -> None:
    old = block(key="fractal-new")
    assert without_block(old, "fractal-old") == old


def test_a_damaged_block_is_the_user_s_text() -> None:
    torn = block()[:-20]
    assert with_block(torn, block(), "lambda", "fractal-1") == block() + torn


@pytest.mark.parametrize(
    ("old", "own"),
    [
        (b"Host lambda\n", True),
        (b"  host other lambda\r\n", True),
        (b"Host=lambda\n", True),
        (b"Host lambda2\n# Host lambda\n", False),
        (block() + b"Host x\n", False),
    ],
)
def test_a_host_of_the_user_s_own_is_seen(old: bytes, own: bool) -> None:
    assert has_own_host(old, "lambda") is own


@pytest.mark.parametrize("path", ['/a"b', "/a\nb", "/a${HOME}", "/a\\b"])
def test_a_path_that_the_grammar_cannot_hold_is_refused(path: str) -> None:
    with pytest.raises(UsageError):
        quoted(Path(path))


def test_a_percent_sign_and_a_space_in_a_path_survive() -> None:
    assert quoted(Path("/a %h/id")) == '"/a %%h/id"'


def test_a_socket_s_name_is_short_enough_or_there_is_none(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100)
    assert socket_for((deep, Path("/short")), "f" * 32) == Path("/short/cm-ffffffff")
    assert socket_for((deep,), "f" * 32) is None


def edited(path: Path) -> WriteFile:
    """What setup-ssh would write."""
    file = read_ssh_file(path)
    return written(file, with_block(file.content or b"", block(), "lambda", "fractal-1"))


def applied(file: WriteFile) -> int:
    """As the runner writes; its exit code."""
    try:
        write_file(file)
    except RunnerError as error:
        return error.exit_code
    return 0


def in_bash(file: WriteFile, before: str = "") -> int:
    """As `output=script` writes; its exit code."""
    plan = Plan("setup-ssh", Effect.CHANGE, Target("x", "lambda"), (Step("ssh-config", file),))
    script = before.encode() + plan_script(plan).encode(errors="surrogateescape")
    return subprocess.run(["bash"], input=script, capture_output=True).returncode


OLDS = [
    *(b"", b"Host *\n  User me", b"# c\r\nHost x\r\n", block(key="fractal-0") + b"Host y\n", b"a\xff\n\n"),
    b"END\nEND_\n'END'\n$(touch x) `id` \\",
]
WAYS = pytest.mark.parametrize("write", [applied, in_bash], ids=["apply", "script"])


@WAYS
@pytest.mark.parametrize("old", OLDS)
def test_what_was_shown_is_written(write: Callable[[WriteFile], int], old: bytes, hostile_dir: Path) -> None:
    path = hostile_dir / "config"
    path.write_bytes(old)
    path.chmod(0o640)
    file = edited(path)
    assert write(file) == 0
    assert path.read_bytes() == file.content == with_block(old, block(), "lambda", "fractal-1")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [file.name for file in hostile_dir.iterdir()] == ["config"]
    assert write(written(read_ssh_file(path), without_block(path.read_bytes(), "fractal-1"))) == 0
    assert path.read_bytes() == without_block(old, "fractal-0")


@WAYS
def test_a_file_that_was_not_there_is_made_for_its_owner_alone(
    write: Callable[[WriteFile], int], hostile_dir: Path
) -> None:
    path = hostile_dir / ".ssh" / "config"
    assert write(edited(path)) == 0
    assert path.read_bytes() == block()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@WAYS
def test_a_link_stays_a_link(write: Callable[[WriteFile], int], tmp_path: Path) -> None:
    real, link = tmp_path / "dotfiles", tmp_path / "config"
    real.write_bytes(b"Host *\n")
    link.symlink_to(real)
    assert write(edited(link)) == 0
    assert link.is_symlink()
    assert real.read_bytes() == block() + b"Host *\n"


@WAYS
@pytest.mark.parametrize(
    ("seen", "since"), [(b"Host *\n", b"Host *\n  User o\n"), (None, b"x"), (b"x", None)]
)
def test_a_file_that_changed_since_it_was_shown_is_left_alone(
    write: Callable[[WriteFile], int], seen: bytes | None, since: bytes | None, tmp_path: Path
) -> None:
    path = tmp_path / "config"
    if seen is not None:
        path.write_bytes(seen)
    file = edited(path)
    path.unlink(missing_ok=True)
    if since is not None:
        path.write_bytes(since)
    assert write(file) == 77
    assert (path.read_bytes() if path.exists() else None) == since
    assert len(list(tmp_path.iterdir())) == (since is not None)


@pytest.mark.parametrize("word", ["cat", "chmod", "mv", "mkdir"])
def test_a_script_that_is_killed_leaves_the_old_file_or_the_new_one(word: str, tmp_path: Path) -> None:
    path = tmp_path / "config"
    old = block(key="fractal-0") + b"Host *\n"
    path.write_bytes(old)
    file = edited(path)
    assert in_bash(file, f"{word}() {{ kill -KILL $$ $BASHPID; }}\n") != 0
    assert path.read_bytes() in (old, file.content)


@pytest.mark.parametrize("call", ["write", "fchmod", "fsync", "rename"])
def test_a_runner_that_is_killed_leaves_the_old_file_or_the_new_one(call: str, tmp_path: Path) -> None:
    path = tmp_path / "config"
    old = block(key="fractal-0") + b"Host *\n"
    path.write_bytes(old)
    file = edited(path)
    imports = "from runner.plan.plan import WriteFile; from runner.world.files import write_file"
    program = f"{imports}; write_file({file!r})"
    killing = (
        "strace",
        "-qq",
        "-o",
        os.devnull,
        "-e",
        f"inject={call}:signal=KILL",
        sys.executable,
        "-c",
        program,
    )
    assert subprocess.run(killing, cwd=CHECKOUT).returncode == -9
    assert path.read_bytes() in (old, file.content)


def test_a_disk_without_room_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_bytes(b"Host *\n")
    file = edited(path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        code = applied(file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (code, path.read_bytes()) == (64, b"Host *\n")
    assert len(list(tmp_path.iterdir())) == 1
