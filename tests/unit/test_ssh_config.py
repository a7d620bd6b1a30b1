"""Our block comes and goes, and every other byte of the user's configuration stays where it was."""

import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import UsageError
from runner.machines.ssh_config import (
    Edit,
    block_for,
    cksum,
    has_own_host,
    quoted,
    read_ssh_file,
    socket_for,
    with_block,
    without_block,
    write_command,
)

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
    new = with_block(old, block(), "lambda", "fractal-1").applied(old)
    assert new == block() + old
    assert without_block(new, "fractal-1").applied(new) == old


@given(configurations(), configurations())
def test_a_block_is_replaced_wherever_it_stands(before: bytes, after: bytes) -> None:
    before = before if before.endswith(b"\n") or not before else before + b"\n"
    old = before + block() + after
    newer = block(key="fractal-2", ip="203.0.113.10")
    new = with_block(old, newer, "lambda", "fractal-2").applied(old)
    assert new == newer + without_block(old, "fractal-1").applied(old)


@given(configurations(), configurations())
def test_a_block_leaves_nothing_but_a_line_for_all_hosts(before: bytes, after: bytes) -> None:
    before = before if before.endswith(b"\n") or not before else before + b"\n"
    left = without_block(before + block() + after, "fractal-1").applied(before + block() + after)
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
    assert without_block(old, "fractal-1").applied(old) == new
    newer = block(ip="203.0.113.10")
    assert with_block(old, newer, "lambda", "fractal-1").applied(old) == newer + new


@given(configurations())
def test_doing_it_twice_is_doing_it_once(old: bytes) -> None:
    once = with_block(old, block(), "lambda", "fractal-1").applied(old)
    assert with_block(once, block(), "lambda", "fractal-1").applied(once) == once


def test_terminating_one_machine_leaves_the_other_s_block() -> None:
    old = block() + block("two", "fractal-2") + b"Host *\n"
    assert without_block(old, "fractal-2").applied(old) == block() + b"Host *\n"


def test_a_block_that_another_machine_took_over_is_not_removed_with_the_old_one() -> None:
    old = block(key="fractal-new")
    assert without_block(old, "fractal-old").applied(old) == old


def test_a_damaged_block_is_the_user_s_text() -> None:
    torn = block()[:-20]
    assert with_block(torn, block(), "lambda", "fractal-1").applied(torn) == block() + torn


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


@given(st.binary(max_size=400))
def test_the_checksum_is_that_of_cksum(data: bytes) -> None:
    said = subprocess.run(["cksum"], input=data, capture_output=True, check=True).stdout.decode()
    assert cksum(data) == said.strip()


def run(command: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["bash", "-c", command], capture_output=True)


def edited(path: Path) -> Edit:
    file = read_ssh_file(path)
    return with_block(file.content or b"", block(), "lambda", "fractal-1")


OLDS = [b"", b"Host *\n  User me", b"# c\r\nHost x\r\n", block(key="fractal-0") + b"Host y\n", b"a\xff\n\n"]


@pytest.mark.parametrize("old", OLDS)
def test_the_command_writes_what_was_shown(old: bytes, hostile_dir: Path) -> None:
    path = hostile_dir / "config"
    path.write_bytes(old)
    path.chmod(0o640)
    edit = edited(path)
    done = run(write_command(read_ssh_file(path), edit).text)
    assert done.returncode == 0, done.stderr
    assert path.read_bytes() == edit.applied(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [file.name for file in hostile_dir.iterdir()] == ["config"]
    file = read_ssh_file(path)
    run(write_command(file, without_block(file.content or b"", "fractal-1")).text)
    assert path.read_bytes() == without_block(old, "fractal-0").applied(old)


def test_a_file_that_was_not_there_is_made_for_its_owner_alone(hostile_dir: Path) -> None:
    path = hostile_dir / ".ssh" / "config"
    assert run(write_command(read_ssh_file(path), edited(path)).text).returncode == 0
    assert path.read_bytes() == block()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "dotfiles", tmp_path / "config"
    real.write_bytes(b"Host *\n")
    link.symlink_to(real)
    run(write_command(read_ssh_file(link), edited(link)).text)
    assert link.is_symlink()
    assert real.read_bytes() == block() + b"Host *\n"


def test_a_file_that_changed_since_it_was_shown_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_bytes(b"Host *\n")
    command = write_command(read_ssh_file(path), edited(path)).text
    path.write_bytes(b"Host *\n  User other\n")
    assert run(command).returncode != 0
    assert path.read_bytes() == b"Host *\n  User other\n"
    made_since = tmp_path / "new"
    command = write_command(read_ssh_file(made_since), edited(made_since)).text
    made_since.write_bytes(b"x")
    assert run(command).returncode != 0
    assert made_since.read_bytes() == b"x"


@pytest.mark.parametrize("word", ["printf", "cat", "chmod", "mv", "head", "tail"])
def test_a_failure_anywhere_leaves_the_old_file_or_the_new_one(word: str, tmp_path: Path) -> None:
    path = tmp_path / "config"
    old = block(key="fractal-0") + b"Host *\n"
    path.write_bytes(old)
    edit = edited(path)
    command = f"{word}() {{ kill -KILL $$; }}; {write_command(read_ssh_file(path), edit).text}"
    run(command)
    assert path.read_bytes() in (old, edit.applied(old))
