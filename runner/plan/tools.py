"""The files of ours that a plan's lines call, by names that hold the hash of their content.

`apply` writes them into the runner's own folder before the first step; a script brings them along.
"""

import glob
import sys
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

from runner.errors import UsageError
from runner.plan.command import LONGEST_SOCKET, SHIM, Command, Word, sh
from runner.plan.settings import Settings


@dataclass(frozen=True)
class Tool:
    """A file of ours: where it is written, and the name by which the plan's lines call it."""

    path: Path
    name: str
    text: str

    @property
    def num_lines(self) -> int:
        """How long it is, for whoever consents to it."""
        return self.text.count("\n")


@dataclass(frozen=True)
class Here:
    """This machine as a plan's lines see it: they run in `root`; `state` is the runner's own folder."""

    root: Path
    state: Path

    def tool(self, stem: str, text: str, folder: str = "", end: str = "") -> Tool:
        """A file of this text, called `stem-<hash of its content>`."""
        digest = sha256(text.encode(errors="surrogateescape")).hexdigest()[:8]
        path = self.state / folder / f"{stem}{'-' if stem else ''}{digest}{end}"
        return Tool(path, self.named(path), text)

    def named(self, path: Path) -> str:
        """The path as a line in `root` names it."""
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)

    @property
    def shim(self) -> Tool:
        """The program that stays with jobs."""
        return self.tool("shim", _shim_text())

    def ask_shim(self, *words: Word) -> Command:
        """The shim with these words, in `root`."""
        python = Path(sys.executable)
        return sh(self.named(python), self.shim.name, *words)

    def ssh(self, alias: str, config: Path | None) -> Tool:
        """What ssh has to know for the machine that it calls `alias`; the person's configuration comes after.

        `config` is None for OpenSSH's own default. One connection is shared by a plan's steps: five seconds
        are long between two of them, and short where an ssh before 8.5 keeps our end of its stderr open.
        """
        from runner.shim import SSH_OPTIONS

        socket = self.state / f"mux-{sha256(f'{alias} {config}'.encode()).hexdigest()[:8]}"
        shared: tuple[str, ...] = ()
        if len(str(socket)) <= LONGEST_SOCKET and not set(str(socket)) & set('"%\n\\'):
            shared = ("ControlMaster auto", f'ControlPath "{socket}"', "ControlPersist 5")
        lines = [
            "# What the runner's connections need; of two values ssh takes the first.",
            *(option.replace("=", " ", 1) for option in SSH_OPTIONS),
            *shared,
            *_includes(config),
        ]
        return self.tool("ssh", "\n".join(lines) + "\n")


def _includes(config: Path | None) -> tuple[str, ...]:
    """The person's configuration, as ssh finds it without us."""
    if config is None:
        return ("Include ~/.ssh/config", "Include /etc/ssh/ssh_config")
    if any(mark in str(config) for mark in ('"', "\n", "\\")):
        raise UsageError(
            f"ssh.config={str(config)!r} cannot be named in an OpenSSH configuration", "Choose another path."
        )
    return (f'Include "{glob.escape(str(config))}"',)


def here_of(settings: Settings) -> Here:
    """This machine, as the lines of these settings' plans see it."""
    return Here(settings.paths.root, settings.paths.state)


@cache
def _shim_text() -> str:
    return SHIM.read_text()
