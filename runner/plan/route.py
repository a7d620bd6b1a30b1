"""How commands reach a machine: the words with which every ssh and rsync line for it begins."""

from dataclasses import dataclass
from pathlib import Path

from runner.plan.command import Command, quote, sh, spell
from runner.plan.settings import Settings

# A dead link is noticed after 15 s instead of after hours.
PATIENCE = ("-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=5")


@dataclass(frozen=True)
class Route:
    """The machine that ssh calls `alias`; `config` is the OpenSSH configuration, None for its own default."""

    alias: str
    config: Path | None = None

    @property
    def words(self) -> tuple[str, ...]:
        """`ssh` with its options, without the machine."""
        config = ("-F", str(self.config)) if self.config else ()
        return ("ssh", *config, *PATIENCE)

    def ssh(self, remote: Command, stdin: bool = False, first: str = "") -> Command:
        """Run `remote` in the machine's login shell.

        Without `stdin` ssh reads nothing: a script that holds this line would be eaten by it.
        `first` is put before the remote text by the shell that runs this line (`"at=$at; "`).
        """
        ssh = sh(*self.words, *(() if stdin else ("-n",)), self.alias)
        return Command(f"{ssh.text} {first}{quote(remote.text)}")

    def ask(self, remote: Command) -> Command:
        """As `ssh`, for a question: nobody is there to type a password."""
        return sh(*self.words, "-n", "-o", "BatchMode=yes", self.alias, remote.text)

    def rsync(self, *options: str, there: Command) -> Command:
        """`rsync` with these options; its far side is started where the command `there` leads.

        The folder is entered by the shell, so that no path has to survive the ways in which the versions
        of rsync quote. The far path is then `alias:.` (`far`).
        """
        shell = " ".join(map(rsync_quote, self.words))
        far = there & Command("rsync")
        return Command(
            f"rsync {' '.join(map(spell, options))} -e {quote(shell)} --rsync-path={quote(far.text)}"
        )

    @property
    def far(self) -> str:
        """The folder that `there` leads to, as rsync names it."""
        return f"{quote(self.alias)}:."


def rsync_quote(word: str) -> str:
    """A word of rsync's -e, which knows quotes but no backslash."""
    plain = word.replace("'", "").replace('"', "").replace(" ", "") == word
    return word if plain and word else "'" + word.replace("'", "''") + "'"


def route_of(settings: Settings) -> Route:
    """The way to the machine of these settings."""
    return Route(settings.alias, None if settings.ssh.is_default else settings.ssh.config)
