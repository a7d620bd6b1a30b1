"""python -m tests.simulator: rehearse with a simulated Lambda Cloud, without paying.

Its machines are real: an sshd for every instance on this computer, ended by terminate. Times run
ten times faster than in the real cloud unless --scale says otherwise. Ctrl-C ends everything.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .faults import AFTER, BEFORE, INSTANCE, LAUNCH, parse_fault
from .machine import can_have_namespaces, missing_programs
from .server import API_KEY, Simulator

KINDS = {
    "requests, before their effect": BEFORE,
    "requests, after their effect": AFTER,
    "launches": LAUNCH,
    "instances": INSTANCE,
}


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    new = argparse.ArgumentParser(
        prog="python -m tests.simulator",
        description=__doc__,
        epilog=_fault_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = new.add_argument
    add("--port", type=int, default=0, help="port of the API (default: a free one)")
    add("--ssh-port", type=int, default=0, help="port of all machines (default: a free one)")
    add("--state", type=Path, help="folder to keep the journal and the filesystems in")
    add("--key", default=API_KEY, help="the API key to accept")
    add("--faults", nargs="+", default=[], metavar="FAULT", help="what goes wrong, see below")
    add("--seed", type=int, default=0, help="seed of all chance")
    add("--scale", type=float, default=0.1, help="real seconds of a simulated one (default: 0.1)")
    add("--set", nargs="+", default=[], metavar="NAME=VALUE", help="settings, see settings.py")
    modes = ("auto", "namespaces", "plain", "none")
    add("--machines", choices=modes, default="auto", help="what is behind an instance")
    add("--network", choices=("own", "host"), default="host", help="the network of the machines")
    add("--share", nargs="+", default=[], metavar="PATH", help="what machines see of this computer")
    add("--json", action="store_true", help="print only one line, when ready; end with stdin")
    return new


def _fault_help() -> str:
    lines = ["A fault: KIND[,probability=P][,times=N][,after=N][,value=X][,text=T][,match=REGEX]"]
    for title, kinds in KINDS.items():
        lines += [f"\nkinds for {title}:"]
        lines += [f"  {kind:17} {meaning}" for kind, meaning in kinds.items()]
    return "\n".join(lines)


def parse_setting(text: str) -> tuple[str, Any]:
    """Read NAME=VALUE; the value is JSON if it can be, else text."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r}: write NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def start(options: argparse.Namespace) -> Simulator:
    """Start what the command line asks for; ValueError says what is wrong with it."""
    return Simulator(
        port=options.port,
        ssh_port=options.ssh_port,
        state=options.state,
        api_key=options.key,
        faults=[parse_fault(text) for text in options.faults],
        seed=options.seed,
        machines=options.machines,
        network=options.network,
        share=[str(Path(path).resolve()) for path in options.share],
        **{"scale": options.scale, **dict(parse_setting(text) for text in options.set)},
    )


def greeting(cloud: Simulator, machines: str) -> str:
    """Return what people need to type."""
    kind = "namespaces of their own" if can_have_namespaces() else "plain loopback sshd"
    kind = {"auto": kind, "none": "none: instances are only data"}.get(machines, machines)
    places = f"cloud.base_url={cloud.base_url} ssh.port={cloud.ssh_port} ssh.user={cloud.ssh_user}"
    return f"""Simulated Lambda Cloud; machines: {kind}; nothing costs anything.
  export LAMBDA_API_KEY={cloud.api_key}
  python -m runner action=available {places}
  curl -s -X POST -d '["lose-answer,match=launch,times=1"]' http://127.0.0.1:{cloud.port}/simulator/faults
Ctrl-C ends it, and every machine with it."""


def _await_end_of_stdin(done: threading.Event) -> None:
    while sys.stdin.buffer.read(4096):
        pass
    done.set()


def main(words: Sequence[str] | None = None) -> int:
    """Serve until a signal; return the exit code."""
    options = parser().parse_args(words)
    if options.machines != "none" and missing_programs():
        print(f"not installed: {', '.join(missing_programs())}", file=sys.stderr)
        return 69
    done = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: done.set())
    try:
        cloud = start(options)
    except (ValueError, TypeError) as error:
        print(error, file=sys.stderr)
        return 64
    if options.json:
        threading.Thread(target=_await_end_of_stdin, args=(done,), daemon=True).start()
    with cloud:
        names = ("base_url", "api_key", "ssh_port", "ssh_user")
        ready = {name: getattr(cloud, name) for name in names}
        print(json.dumps(ready) if options.json else greeting(cloud, options.machines), flush=True)
        done.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
