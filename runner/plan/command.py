"""Commands as values, and the ssh and rsync lines that reach a machine.

Words are quoted once as they enter, each nesting level quotes the whole once. `sh()` is the only door:
nothing else in the runner formats a word into a command line.
"""

import re
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from runner.errors import UsageError
from runner.plan.settings import Settings


@dataclass(frozen=True)
class Var:
    """A variable of the shell that runs the command; how a secret travels without being written down."""

    name: str

    def __str__(self) -> str:
        return f'"${{{self.name}}}"'


@dataclass(frozen=True)
class HomePath:
    """A path below the home folder of whoever runs the command: `~/Fractal` keeps its tilde unquoted."""

    below: str

    def __str__(self) -> str:
        return f"~/{quote(self.below)}" if self.below else "~"


# A surrogate that does not stand for a byte of a file's name (those are U+DC80 to U+DCFF).
_HALF = re.compile("[\ud800-\udc7f\udd00-\udfff]")

Word = str | int | float | PurePath | Var | HomePath


def quote(word: str) -> str:
    """One word for any POSIX shell. UsageError for what cannot be in an argument of a process."""
    if "\0" in word:
        raise UsageError(f"{word!r} holds a NUL character, which no process can be given")
    if _HALF.search(word):
        raise UsageError(f"{word!r} holds half of a character, which no process can be given")
    return shlex.quote(word)


def quote_whole(text: str) -> str:
    """A whole command as one word: in double quotes where that leaves the words in it readable."""
    return f'"{text}"' if "'" in text and not set(text) & set('"$`\\!\n') else quote(text)


def shell_word(word: Word) -> str:
    """The word as it stands in a command line."""
    return str(word) if isinstance(word, Var | HomePath) else quote(str(word))


def home_or_path(path: str) -> Word:
    """A path of a machine as configured: a leading `~/` means the home folder there."""
    if path == "~":
        return HomePath("")
    return HomePath(path[2:]) if path.startswith("~/") else path


def below(folder: Word, *parts: str) -> Word:
    """The path `folder/part/…`, for folders that may begin in a home folder."""
    if isinstance(folder, HomePath):
        return HomePath("/".join(p for p in (folder.below, *parts) if p))
    return str(PurePath(str(folder), *parts))


# Of standard input, by what Linux or macOS has; `| cut -c1-64` leaves the digits alone.
SHA256 = "{ openssl dgst -sha256 -r || sha256sum || shasum -a 256; } 2>/dev/null"


@dataclass(frozen=True)
class Command:
    """One line of bash. `argv` is there while the command is a single process that needs no shell.

    `log` is the file on this machine that the bulk of its output goes to, if it goes to one.
    """

    text: str
    argv: tuple[str, ...] = field(default=(), compare=False)
    log: str | None = field(default=None, compare=False)

    def within(self, folder: Word) -> "Command":
        """Run in `folder`, or not at all."""
        return sh("cd", folder) & self

    def logged(self, path: Word) -> "Command":
        """Both streams to the terminal and onto the end of `path`; the exit code stays the command's own.

        The parentheses keep pipefail from the shell it is pasted into. `tee -i` outlives Ctrl-C, so
        that the last words of a stopped job reach the log; PIPESTATUS keeps a full disk, which is
        tee's failure, from becoming the job's.
        """
        piped = f"{{ {self.text}; }} 2>&1 | tee -ia {shell_word(path)}"
        return Command(
            f'(set -o pipefail; {piped} || exit "${{PIPESTATUS[0]}}")',
            log=str(path),
        )

    def over_ssh(self, ssh: "Command", alias: str) -> "Command":
        """Run by the login shell of the machine behind `alias`."""
        return Command(f"{ssh.text} {shell_word(alias)} {quote(self.text)}")

    def __and__(self, then: "Command") -> "Command":
        return Command(f"{self.text} && {then.text}", log=then.log)

    def __or__(self, reader: "Command") -> "Command":
        return Command(f"{self.text} | {reader.text}")


def sh(*words: Word) -> Command:
    """The command made of these words, each of which arrives in the process as it is here."""
    plain = all(not isinstance(w, Var | HomePath) for w in words)
    return Command(" ".join(map(shell_word, words)), argv=tuple(map(str, words)) if plain else ())


SHIM = Path(__file__).parent.parent / "shim.py"  # started by its path: what is asked need not find packages
LONGEST_SOCKET = 90  # of a control socket: the kernel's limit is 108, and ssh adds 17 while it makes one


@dataclass(frozen=True)
class Route:
    """The machine that ssh calls `alias`; `config` is the OpenSSH configuration, None for its own default."""

    alias: str
    config: Path | None = None

    def question(self, root: str, *words: str) -> Command:
        """What the shim is asked on the machine, without a shell there to read it; answered as a whole.

        `root` is the folder there that paths are relative to.
        """
        return shim_question(self.alias, root, words, self.config)

    @property
    def words(self) -> tuple[str, ...]:
        """`ssh` with its options, without the machine."""
        config = ("-F", str(self.config)) if self.config else ()
        return ("ssh", *config, "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=5")

    def ask(self, remote: Command) -> Command:
        """A question: nobody is there to type a password."""
        return sh(*self.words, "-n", "-o", "BatchMode=yes", self.alias, remote.text)

    def rsync(self, *options: str, there: Command) -> Command:
        """`rsync` with these options; its far side is started where the command `there` leads.

        The folder is entered by the shell, so that no path has to survive the ways in which the versions
        of rsync quote. The far path is then `alias:.` (`remote_dot`).
        """
        shell = " ".join(map(_rsync_quote, self.words))
        far = there & Command("rsync")
        return Command(
            f"rsync {' '.join(map(shell_word, options))} -e {quote(shell)} --rsync-path={quote(far.text)}"
        )

    @property
    def remote_dot(self) -> str:
        """The folder that `there` leads to, as rsync names it."""
        return f"{quote(self.alias)}:."


def shim_question(
    machine: str, root: str, words: tuple[str, ...], config: Path | None, options: tuple[str, ...] = ()
) -> Command:
    """`shim ask`: these words for the shim on the machine that ssh calls so; nobody types a password."""
    where = ("--config", str(config)) if config else ()
    each = [word for option in ("BatchMode=yes", *options) for word in ("--option", option)]
    return sh(sys.executable, SHIM, "--root", root, "ask", *where, *each, machine, "--", *words)


def _rsync_quote(word: str) -> str:
    """A word of rsync's -e, which knows quotes but no backslash."""
    plain = word.replace("'", "").replace('"', "").replace(" ", "") == word
    return word if plain and word else "'" + word.replace("'", "''") + "'"


def route_of(settings: Settings) -> Route:
    """The way to the machine of these settings."""
    config = None if settings.ssh.is_default else settings.ssh.config
    return Route(settings.alias, config)


def identity_of(settings: Settings) -> Path | None:
    """The private key: the configured one, else the first of ~/.ssh/id_* that has a public half."""
    if settings.ssh.identity:
        return settings.ssh.identity
    found = sorted(Path.home().glob(".ssh/id_*"))
    return next((p for p in found if p.suffix != ".pub" and p.is_file()), None)
