"""The executor for a machine behind ssh: jobs run detached there under the shim, and are followed from here.

Nothing that happens to the link, to the follower or to this machine reaches the job: it has a session and
descriptors of its own. The files of a run's folder there are described in `shim.py`.
"""

from collections.abc import Iterable

from runner.executors.base import Submission, state_in, write_file
from runner.plan.command import (
    Command,
    Route,
    Word,
    home_or_path,
    quote,
    quote_whole,
    route_of,
    sh,
    shell_word,
)
from runner.plan.plan import Effect, Step
from runner.plan.settings import Settings
from runner.plan.tools import Here, Tool, here_of
from runner.research_log.runs import RunPaths, RunStatus, token_in
from runner.world.world import Fact


class Remote:
    """How a plan's lines reach the machine behind `route`, on which `root` is the folder of all paths."""

    def __init__(self, route: Route, root: str, here: Here) -> None:
        self.route = route
        self.here = here
        self.root = root

    @property
    def alias(self) -> str:
        """What ssh calls the machine."""
        return self.route.alias

    @property
    def ssh_tool(self) -> Tool:
        """The configuration by which ssh reaches it."""
        return self.here.ssh(self.alias, self.route.config)

    @property
    def tools(self) -> tuple[Tool, ...]:
        """What the lines call."""
        return (self.here.shim, self.ssh_tool)

    def run_shim(
        self,
        *words: Word,
        then: Command | None = None,
        secrets: Iterable[str] = (),
        files: Iterable[str] = (),
    ) -> Command:
        """`ssh machine 'python3 - …' < shim`: the shim in the machine's login shell, and with it, by name
        alone, the values of `secrets`, and the `files` of this machine."""
        there = f"python3 - --root {shell_word(home_or_path(self.root))} {' '.join(map(shell_word, words))}"
        text = f"{there} -- {then.text}" if then else there
        line = f"ssh -F {quote(self.ssh_tool.name)} {quote(self.alias)} {quote_whole(text)}"
        given = [*secrets, *(word for path in files for word in ("--file", path))]
        if given:
            piped = f"{self.here.ask_shim('secrets', *given).text} | {line}"
            return Command(f"(set -o pipefail; {piped})").within(self.here.root)
        return Command(f"{line} < {quote(self.here.shim.name)}").within(self.here.root)

    def call_shim(self, verb: str, *words: str) -> Command:
        """The shim here, which asks the machine by itself."""
        root = ("--root", self.root) if self.root != "~/Fractal" else ()
        return self.here.ask_shim(*root, verb, "--ssh", self.ssh_tool.name, self.alias, *words)


def remote_of(settings: Settings) -> Remote:
    """How a plan's lines reach the machine of these settings."""
    return Remote(route_of(settings), settings.remote.root, here_of(settings))


class Ssh:
    """Jobs run in the root of the machine, under the environment `venv` below it or elsewhere."""

    def __init__(self, remote: Remote, venv: str) -> None:
        self.remote = remote
        self.venv = home_or_path(venv)
        self.home = remote.here.root

    def submit(self, submission: Submission) -> tuple[Step, ...]:
        """Start, which ends at once and may be asked again, and follow, which ends with the job's code."""
        paths = submission.paths
        adhoc = ("--adhoc",) if submission.is_adhoc else ()
        words = ("start", paths.folder, "--token", submission.token, "--venv", self.venv, *adhoc)
        start = self.remote.run_shim(
            *words,
            then=submission.command,
            secrets=submission.secrets,
            files=[str(paths.folder / file.name) for file in submission.files],
        )
        step = Step(
            "start",
            start,
            on=self.remote.alias,
            reason="detached; the log is kept on both ends",
            tools=self.remote.tools,
            repeats=True,
        )
        return (*write_file(self.home, submission), step, self.follow(paths))

    def follow(self, paths: RunPaths) -> Step:
        """Bring the log home until the run ended; its exit code is the job's."""
        folder, log = quote(str(paths.folder)), quote(str(paths.log))
        follow = self.remote.call_shim("follow", str(paths.folder)).text
        kept = f"({follow} | tee -ia {log}; exit ${{PIPESTATUS[0]}})"
        command = Command(f"{kept} 9>>{folder}/follower").within(self.home)
        return Step(
            "follow",
            Command(command.text, log=str(self.home / paths.log)),
            effect=Effect.READ,
            reason="until the job has ended, through every loss of the link",
            carries_on=True,
            tools=self.remote.tools,
        )

    def _named(self, paths: RunPaths) -> tuple[str, ...]:
        """The run, and which plan's it has to be."""
        token = token_in(self.home / paths.folder)
        return (str(paths.folder), *(("--token", token) if token else ()))

    def state(self, paths: RunPaths) -> Fact[RunStatus]:
        """From the exit code there, else from the lock."""
        return Fact(self.remote.route.question(self.remote.root, "state", *self._named(paths)), state_in)

    def logs(self, paths: RunPaths, lines: int | None) -> tuple[Step, ...]:
        """With `lines`: the remote log's end, or the local copy's where nobody answers. Else: the local copy,
        then follow."""
        here, tools = self.home / paths.log, self.remote.tools
        if lines is None:
            shown = Step("log", sh("cat", here), effect=Effect.READ, reason="what is here of it")
            follow = self.follow(paths)
            return (shown, follow) if here.exists() else (follow,)
        last = self.remote.call_shim("last", str(paths.folder), "--lines", str(lines)).within(self.home)
        return (Step("log", last, effect=Effect.READ, tools=tools),)

    def stop(self, paths: RunPaths) -> Step:
        """TERM to the run's processes, KILL after ten seconds; the exit code is recorded there."""
        stop = self.remote.call_shim("ask", "--plain", "--", "stop", *self._named(paths))
        return Step(
            "stop",
            stop.within(self.home),
            on=self.remote.alias,
            reason="TERM, and KILL after 10 s; the machine stays",
            tools=self.remote.tools,
        )
