"""A shell command as a value: words are quoted once as they enter, each nesting level quotes the whole once.

`sh()` is the only door. Nothing else in the runner formats a word into a command line.
"""

import re
import shlex
from dataclasses import dataclass, field
from pathlib import PurePath

from runner.errors import UsageError


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
HALF = re.compile("[\ud800-\udc7f\udd00-\udfff]")

Word = str | int | float | PurePath | Var | HomePath


def quote(word: str) -> str:
    """One word for any POSIX shell. UsageError for what cannot be in an argument of a process."""
    if "\0" in word:
        raise UsageError(f"{word!r} holds a NUL character, which no process can be given")
    if HALF.search(word):
        raise UsageError(f"{word!r} holds half of a character, which no process can be given")
    return shlex.quote(word)


def spell(word: Word) -> str:
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
        piped = f"{{ {self.text}; }} 2>&1 | tee -ia {spell(path)}"
        return Command(
            f'(set -o pipefail; {piped} || exit "${{PIPESTATUS[0]}}")',
            log=str(path),
        )

    def over_ssh(self, ssh: "Command", alias: str) -> "Command":
        """Run by the login shell of the machine behind `alias`."""
        return Command(f"{ssh.text} {spell(alias)} {quote(self.text)}")

    def __and__(self, then: "Command") -> "Command":
        return Command(f"{self.text} && {then.text}", log=then.log)

    def __or__(self, reader: "Command") -> "Command":
        return Command(f"{self.text} | {reader.text}")


def sh(*words: Word) -> Command:
    """The command made of these words, each of which arrives in the process as it is here."""
    plain = all(not isinstance(w, Var | HomePath) for w in words)
    return Command(" ".join(map(spell, words)), argv=tuple(map(str, words)) if plain else ())
