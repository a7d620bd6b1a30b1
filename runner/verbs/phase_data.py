"""phase.data: large data, fetched once by setup where the phase's jobs run."""

from pathlib import PurePosixPath

from runner.plan.command import quote, sh
from runner.plan.settings import Data

# `unfinished` tells a file that the command has only begun to write from one that it finished.
FETCH = """\
if [ -e {done} ] && [ ! -e {unfinished} ]; then echo "nothing to do: the data are there"; else
  mkdir -p {inside} && touch {unfinished}
  ( {command}
  ) || {{ code=$?; echo "phase.data could not be fetched; do it again to go on" >&2; exit $code; }}
  [ -e {done} ] || {{ echo {missing} >&2; exit 65; }}
  rm -f {unfinished}
fi"""


def fetch_data(folder: str, data: Data) -> str:
    """Runs in the phase's folder, which is relative to the current one."""
    enter = sh("mkdir", "-p", folder) & sh("cd", folder)
    body = FETCH.format(
        done=quote(data.done),
        unfinished=quote(f"{data.done.rstrip('/')}.unfinished"),
        inside=quote(str(PurePosixPath(data.done).parent)),
        command=data.command,
        missing=quote(f"the command of phase.data ended well, but {data.done} is not there"),
    )
    return f"{enter.text} || exit\n{body}"
