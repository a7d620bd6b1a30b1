#!/usr/bin/env python3
"""The one program of ours that also runs on a machine: stays with a job, and answers questions about it.

It needs Python 3.8 and nothing else. A machine gets it by standard input (`ssh machine 'python3 - …' < shim`),
so that nothing has to be there before; here it is `python -m runner.shim`, or a copy under the hash of its
content. In a run's folder it keeps

    token      which plan started the run: a run starts once, however often it is asked to
    lock       held (flock) by the run's processes while one of them is alive; names the keeper
    pid        the job's process
    log        everything the job printed
    exit_code  written last and at once; without it and without a holder of the lock the run is lost

Every answer is framed: a line before it, its parts with their lengths, and a line behind it with their sum.
What a machine prints before (a greeting, a start-up file) is passed over; an answer without its end is none.
"""

import argparse
import errno
import fcntl
import functools
import hashlib
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time

BEGIN = b"\x1e<<fractal begin>>\n"
END = b"<<fractal end %d>>\n"

NOT_ASKED = "no answer to what was asked"
OWN_PATH = os.path.abspath(globals().get("__file__", ""))  # none where it came by standard input

REFUSED, NOT_REACHED, NO_ANSWER, NO_RUN, LOST, DIFFERS, NO_SPACE = 77, 255, 69, 69, 137, 65, 74

# What every connection of ours needs, whatever the person's configuration says for all hosts: the first
# value that ssh finds counts. A dead link is noticed after 15 s instead of after hours.
SSH_OPTIONS = (
    "RemoteCommand=none",
    "RequestTTY=no",
    "PermitLocalCommand=no",
    "ClearAllForwardings=yes",
    "ForwardAgent=no",
    "ForwardX11=no",
    "ConnectTimeout=10",
    "ServerAliveInterval=5",
    "ServerAliveCountMax=3",
    "LogLevel=ERROR",
    # Processors have instructions for AES-GCM; the other two are what ssh falls back on anyway.
    "Ciphers=aes128-gcm@openssh.com,chacha20-poly1305@openssh.com,aes256-ctr",
)

# Variables that would change which environment or Python uv means, or give away what pays for machines.
NOT_FOR_JOBS = (
    *("LAMBDA_API_KEY", "VIRTUAL_ENV", "PYTHONHOME", "UV_SYSTEM_PYTHON", "UV_PYTHON", "UV_TARGET"),
    # by these bash takes a job for a login over ssh, and reads a start-up file that may talk
    *("SSH_CLIENT", "SSH2_CLIENT", "SSH_CONNECTION", "SSH_TTY"),
    *("UV_PREFIX", "UV_PROJECT_ENVIRONMENT", "UV_PROJECT", "UV_BREAK_SYSTEM_PACKAGES"),
)


# ------------------------------------------------------------------------------------ answers


class Incomplete(Exception):
    """An answer that has no end, or none at all; `said` is what came instead."""

    def __init__(self, said: bytes = b"") -> None:
        super().__init__("an answer without its end")
        self.said = said


class Answer:
    """Writes a framed answer. A part is one of JSON (`j`), of data (`d`), or a sign of life (`h`)."""

    def __init__(self, out: int = 1) -> None:
        self.out = out
        self.size = 0
        self.kept = [BEGIN]
        self.num_kept = 0
        self.flush()

    def part(self, kind: bytes, data: bytes) -> None:
        """A part, at once."""
        self.keep(kind, data)
        self.flush()

    def document(self, document: object) -> None:
        """A document, which may wait for those behind it: an answer may have thousands."""
        self.keep(b"j", json.dumps(document).encode())
        if self.num_kept > 1 << 16:
            self.flush()

    def keep(self, kind: bytes, data: bytes) -> None:
        self.kept.append(b"%s %d\n" % (kind, len(data)) + data)
        self.num_kept += len(data)
        self.size += len(data)

    def flush(self) -> None:
        write_all(self.out, b"".join(self.kept))
        self.kept, self.num_kept = [], 0

    def file(self, source: int, start: int, size: int) -> None:
        """A part of a file, without copying it through this process where the system can."""
        self.flush()
        write_all(self.out, b"d %d\n" % size)
        copy_range(source, self.out, start, size)
        self.size += size

    def end(self) -> None:
        self.flush()
        write_all(self.out, END % self.size)


def copy_range(source: int, out: int, start: int, size: int) -> None:
    """Exactly `size` bytes; zeros where the file was cut meanwhile, so that the frame stays whole."""
    sent = 0
    while sent < size:
        try:
            num = os.sendfile(out, source, start + sent, min(size - sent, 1 << 20))
        except (AttributeError, OSError) as error:
            if getattr(error, "errno", None) in (errno.EPIPE, errno.ECONNRESET):
                raise
            data = os.pread(source, min(size - sent, 1 << 20), start + sent)
            write_all(out, data)
            num = len(data)
        if num == 0:
            write_all(out, bytes(size - sent))
            return
        sent += num


def write_all(out: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(out, view) :]


class Parts:
    """Reads the parts of a framed answer as they come, noise before it passed over."""

    def __init__(self, stream: int) -> None:
        self.stream = stream
        self.kept = b""
        self.noise = b""
        self.size = 0

    def __iter__(self):  # type: ignore[no-untyped-def]
        while BEGIN not in self.kept:
            data = os.read(self.stream, 1 << 16)
            if not data:
                raise Incomplete(self.kept)
            self.kept += data
        self.noise, _, self.kept = self.kept.partition(BEGIN)
        while True:
            line = self._line()
            if line.startswith(b"<<fractal end "):
                if line != (END % self.size)[:-1]:
                    raise Incomplete(line)
                return
            match = re.fullmatch(rb"([jdh]) (\d+)", line)
            if not match:
                raise Incomplete(line)
            left = int(match[2])
            self.size += left
            if match[1] == b"j":
                data = b""
                while left > len(data):
                    data += self._some(left - len(data))
                yield b"j", data
                continue
            if match[1] == b"h":
                yield b"h", b""
            while left:
                data = self._some(left)
                left -= len(data)
                yield match[1], data

    def _line(self) -> bytes:
        while b"\n" not in self.kept:
            data = os.read(self.stream, 1 << 16)
            if not data or len(self.kept) > 4096:
                raise Incomplete(self.kept)
            self.kept += data
        line, _, self.kept = self.kept.partition(b"\n")
        return line

    def _some(self, at_most: int) -> bytes:
        """The next bytes of the part, no more than these."""
        if self.kept:
            data, self.kept = self.kept[:at_most], self.kept[at_most:]
            return data
        data = os.read(self.stream, min(at_most, 1 << 20))
        if not data:
            raise Incomplete()
        return data


def documents_in(answer: bytes) -> "list | None":  # type: ignore[type-arg]
    """The documents of a whole answer; None where it is not whole. What is around it counts for nothing."""
    _, begin, rest = answer.partition(BEGIN)
    if not begin:
        return None
    found = []  # type: list[object]
    size = 0
    while True:
        line, newline, rest = rest.partition(b"\n")
        if line == (END % size)[:-1] and newline:
            return found
        match = re.fullmatch(rb"j (\d+)", line)
        if not match or len(rest) < int(match[1]):
            return None
        num = int(match[1])
        found.append(json.loads(rest[:num].decode()))
        size, rest = size + num, rest[num:]


# ---------------------------------------------------------------------------- one run's folder


def read_text(*path: str) -> "str | None":
    try:
        with open(os.path.join(*path), errors="replace") as file:
            return file.read().strip()
    except OSError:
        return None


def write_whole(path: str, data: bytes, mode: int = 0o644) -> None:
    """The whole file or none of it, on the disk before it has its name."""
    new = "%s.%d.new" % (path, os.getpid())
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)


def is_held(run: str) -> bool:
    """Whether a process of the run is alive: somebody holds its lock."""
    try:
        lock = os.open(os.path.join(run, "lock"), os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(lock)


def exit_code_of(run: str) -> "int | None":
    text = read_text(run, "exit_code")
    return int(text) if text and text.lstrip("-").isdigit() else None


def is_anothers(run: str, token: str) -> bool:
    """Whether another plan started a run of this name: another laptop, or a fresh clone."""
    theirs = read_text(run, "token")
    return bool(token) and theirs is not None and theirs != token


def state_of(run: str, token: str = "") -> dict:  # type: ignore[type-arg]
    """`state` is absent, running, ended (with `exit_code`) or lost; `anothers` for another plan's run."""
    if is_anothers(run, token):
        return {"state": "absent", "anothers": True}
    code = exit_code_of(run)
    if code is None:
        if not any(os.path.exists(os.path.join(run, name)) for name in ("token", "pid")):
            return {"state": "absent"}
        if is_held(run):
            return {"state": "running"}
        code = exit_code_of(run)  # it may have ended between the two looks
    return {"state": "lost"} if code is None else {"state": "ended", "exit_code": code}


def next_number(run: str) -> int:
    """The first number above those of the runs that are there."""
    names = os.listdir(os.path.dirname(run) or ".")
    return 1 + max((int(m[0]) for m in (re.match(r"\d+", name) for name in names) if m), default=0)


# ----------------------------------------------------------------------------- starting a job


def start(args: argparse.Namespace) -> int:
    """Start the job, detached, unless it was started before; 77 where the name is another plan's."""
    return launch(args, is_detached=True)


def run(args: argparse.Namespace) -> int:
    """The same in the foreground; ends with the job's exit code."""
    return launch(args, is_detached=False)


def launch(args: argparse.Namespace, is_detached: bool) -> int:
    folder = args.run
    if is_anothers(folder, args.token):
        number = next_number(folder)
        say(
            "%s was started on this machine by another plan: another laptop, or a fresh clone.\n"
            "Nothing was started. The next free number is %04d: add run=%04d"
            % (os.path.basename(folder), number, number)
        )
        return REFUSED
    os.environ.update(GIVEN.get("secrets", {}))
    try:
        os.makedirs(folder, exist_ok=True)
        lock = os.open(os.path.join(folder, "lock"), os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        fcntl.flock(lock, fcntl.LOCK_EX)  # whoever starts it at this moment
        if os.path.exists(os.path.join(folder, "token")):
            return 0 if is_detached else REFUSED
        for name, text in GIVEN.get("files", {}).items():
            write_whole(os.path.join(folder, name), text.encode(errors="surrogateescape"))
        reserve(folder, args.token or "-")
    except OSError as error:
        say("the run could not be started, and will not be: %s" % error)
        say(disk_line(folder))
        return NO_SPACE
    link_newest(folder)
    heard, told = os.pipe()
    sys.stdout.flush()
    if os.fork() == 0:
        os.close(heard)
        try:
            keep(args, lock, told, is_detached)
        finally:
            os._exit(0)
    os.close(told)
    os.close(lock)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # the job hears it too; its end is ours
    words = b""
    while not words.endswith(b"\n"):
        data = os.read(heard, 64)
        if not data:
            break
        words += data
        if is_detached:
            return 0
    code = words.split()[-1:]
    return int(code[0]) if code and code[0].isdigit() else LOST


def reserve(folder: str, token: str) -> None:
    """Space for the last words, and for the exit code, before the job begins; then the token, at once."""
    path = os.path.join(folder, "reserved")
    with open(path, "wb") as file:
        file.write(bytes(16384))
    with open(os.path.join(folder, "exit_code.new"), "w") as file:
        file.write("   \n")
    open(os.path.join(folder, "log"), "ab").close()
    write_whole(os.path.join(folder, "token"), token.encode() + b"\n")


def link_newest(folder: str) -> None:
    """`run.log` beside `runs/` leads to this run's log; a file of that name is kept in the run's folder."""
    runs, name = os.path.split(folder)
    newest = os.path.join(os.path.dirname(runs), "run.log")
    try:
        if os.path.lexists(newest) and not os.path.islink(newest):
            os.replace(newest, os.path.join(folder, "run.log.before"))
        elif os.path.islink(newest):
            os.unlink(newest)
        os.symlink(os.path.join(os.path.basename(runs), name, "log"), newest)
    except OSError as error:
        say("run.log could not be set to this run's log: %s" % error)


def keep(args: argparse.Namespace, lock: int, told: int, is_detached: bool) -> None:
    """The keeper: holds the lock, writes the log, and at the end the exit code.

    A signal that stops the job does not stop it. Handlers rather than SIG_IGN, which the job would inherit.
    """
    if is_detached:
        os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    shown = [] if is_detached else [os.dup(1)]  # whoever typed `run` reads along
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    ours = os.getpid()
    # keeper, leader of the session or group, writer of the log: what `stop` leaves alone
    os.write(lock, b"%d %d %d\n" % (ours, ours if is_detached else os.getpgid(0), ours))
    printed, prints = os.pipe()
    log = os.open(os.path.join(args.run, "log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    writer = threading.Thread(target=write_log, args=(printed, log, args.run, shown), daemon=True)
    writer.start()
    code = run_job(args, lock, prints, told if is_detached else -1)
    os.close(prints)
    writer.join(5)  # what the job left behind on its output is not waited for any longer
    for name in ("reserved",):
        remove(os.path.join(args.run, name))
    record_exit_code(args.run, log, code)
    if not is_detached:
        remove(os.path.join(args.run, "lock"))  # here nobody else waits to start it
    os.close(lock)
    while shown:
        os.close(shown.pop())
    if not is_detached:
        os.write(told, b"%d\n" % code)
        if writer.is_alive():
            os.setsid()  # nobody waits for us any more: no Ctrl-C of theirs is meant for us
    os.close(told)
    writer.join()


def run_job(args: argparse.Namespace, lock: int, prints: int, told: int) -> int:
    """The job's exit code as a shell tells it, 128 and the signal that ended it."""
    try:
        process = subprocess.Popen(
            args.words,
            stdin=subprocess.DEVNULL,
            stdout=prints,
            stderr=prints,
            env=environment(args),
            pass_fds=(lock,),
        )
    except OSError as error:
        os.write(
            prints, b"%s: %s\n" % (os.fsencode(str(args.words[0])), os.strerror(error.errno or 0).encode())
        )
        return 127 if error.errno == errno.ENOENT else 126
    except MissingEnvironment as error:
        os.write(prints, str(error).encode() + b"\n")
        return 1
    with open(os.path.join(args.run, "pid"), "w") as file:
        file.write("%d\n" % process.pid)
    if told != -1:
        os.write(told, b"started\n")
    code = process.wait()
    return code if code >= 0 else 128 - code


class MissingEnvironment(Exception):
    """The shared environment is not there."""


def environment(args: argparse.Namespace) -> dict:  # type: ignore[type-arg]
    """The job's variables: the caller's, the shared environment as `activate` sets it, and the run's own."""
    env = {name: value for name, value in os.environ.items() if name not in NOT_FOR_JOBS}
    env.update(PYTHONUNBUFFERED="1", RUN=os.path.basename(args.run), RUN_DIR=os.path.abspath(args.run))
    path = [env.get("PATH", os.defpath)]
    if args.venv:
        there = os.path.abspath(os.path.expanduser(args.venv))
        if os.path.exists(os.path.join(there, "bin", "activate")):
            env["VIRTUAL_ENV"] = there
            path.insert(0, os.path.join(there, "bin"))
        elif not args.adhoc:
            raise MissingEnvironment("%s/bin/activate: No such file or directory" % args.venv)
    own = os.path.expanduser("~/.local/bin")
    if own not in path[-1].split(os.pathsep):
        path.append(own)
    env["PATH"] = os.pathsep.join(path)
    return env


def write_log(printed: int, log: int, folder: str, shown: "list[int]") -> None:
    """All that the job prints onto its log, and to those who read along, until nobody can print any more.

    A disk that is full is not the job's trouble: its words are let go, and the last line says so.
    """
    is_cut = False
    while True:
        data = os.read(printed, 1 << 16)
        if not data:
            break
        for reader in list(shown):
            try:
                write_all(reader, data)
            except OSError:
                shown.clear()  # it left
        try:
            if not is_cut:
                write_all(log, data)
        except OSError as error:
            is_cut = True
            remove(os.path.join(folder, "reserved"))
            note = "\n%s\n[runner] the log stops here: it could not be written any further\n" % error
            try:
                write_all(log, note.encode())
            except OSError:
                pass


def record_exit_code(folder: str, log: int, code: int) -> None:
    """Into the block that was reserved, to the disk, and only then under its name."""
    new = os.path.join(folder, "exit_code.new")
    try:
        os.fsync(log)
        with open(new, "r+" if os.path.exists(new) else "w") as file:
            file.write("%d\n" % code)
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, os.path.join(folder, "exit_code"))
    except OSError:
        pass  # nobody is left to tell; the run is lost, which is what a reader will see


def remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


def say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def disk_line(path: str) -> str:
    """How full the disk is, in a line."""
    while path and not os.path.exists(path):
        path = os.path.dirname(path)
    usage = shutil.disk_usage(path or ".")
    return "the disk of %s: %.3g of %.3g GB are free" % (path or ".", usage.free / 1e9, usage.total / 1e9)


# ------------------------------------------------------------------------------- stopping a run


def stop(args: argparse.Namespace) -> int:
    """TERM to the processes of the run, KILL to those that are left after ten seconds."""
    told = state_of(args.run, args.token)
    if told["state"] == "absent":
        why = "another plan started this run" if told.get("anothers") else "there is no such run"
        answer_with({"said": why})
        return NO_RUN
    left = end_processes(args.run) if told["state"] == "running" or is_held(args.run) else []
    told = state_of(args.run, args.token)
    if left:
        told["said"] = "the run is still alive: %s" % " ".join(map(str, left))
    elif told["state"] == "ended":
        told["said"] = "ended with exit code %d" % told["exit_code"]
    else:
        told["said"] = "gone, without an exit code"
    answer_with(told)
    return 70 if left else 0


def answer_with(document: "dict[str, object]") -> None:
    """One document as the whole answer; on a terminal, or where a person asked, what it says in words."""
    if GIVEN.get("plain") and "said" in document:
        print(document["said"], flush=True)
        return
    answer = Answer()
    answer.document(document)
    answer.end()


def end_processes(run: str) -> list:  # type: ignore[type-arg]
    """Those that are left of the run's processes; none when it is over.

    They are frozen while they are counted, so that none starts another behind our back. One that has just
    begun is waited for until it says who it is.
    """
    for _ in range(30):
        keeper, _, _, job = keepers(run)
        if not is_held(run) or (keeper and job):
            break
        time.sleep(0.1)
    alive = set()  # type: set[int]
    for _ in range(5):
        now = members(run, alive)
        if now <= alive:
            break
        alive |= now
        kill(alive, signal.SIGSTOP)
    kill(alive, signal.SIGTERM)
    kill(alive, signal.SIGCONT)
    deadline, left = time.time() + 10, members(run, alive)
    while left and time.time() < deadline:
        time.sleep(0.05)
        left = members(run, alive)
    deadline = time.time() + 10
    while time.time() < deadline:
        kill(left, signal.SIGKILL)
        left = members(run, alive)
        if not left and (exit_code_of(run) is not None or not is_held(run)):
            break
        time.sleep(0.05)
    return sorted(left)


def members(run: str, known: "set[int]") -> "set[int]":
    """The run's processes: those that hold its lock, all below them, and all of their session or group.

    Wherever they went meanwhile; but for the keeper, who writes the exit code and ends by itself, and what it
    starts beside the job. `known` are those that were found before.
    """
    keeper, leader, writer, job = keepers(run)
    found = Processes.now()
    ours = set(holders(os.path.join(run, "lock"))) | known
    groups = {leader} if leader > 1 and any(leader in found.groups(pid) for pid in ours) else set()
    members = set()
    for pid in found.alive:
        line = found.ancestors(pid, until=writer if writer != keeper else 0)
        if any((q in ours and q not in (keeper, leader)) or found.groups(q) & groups for q in line):
            members.add(pid)
    beside = {pid for pid in members if found.parent.get(pid) == keeper and pid != job}
    return members - {keeper, leader, writer, os.getpid()} - beside


def keepers(run: str) -> "tuple[int, int, int, int]":
    """The keeper, the leader, the writer of the log and the job, as the run's folder names them; else 0."""
    lines = (read_text(run, "lock") or "").splitlines()
    words = [int(word) for word in lines[-1].split() if word.isdigit()] if lines else []
    keeper, leader, writer = [*words, 0, 0, 0][:3]
    job = read_text(run, "pid") or "0"
    return keeper, leader, writer, int(job) if job.isdigit() else 0


def kill(pids: "set[int]", how: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, how)
        except OSError:
            pass


class Processes:
    """All processes at one moment: who is alive, whose child, of which group and session."""

    def __init__(self, rows: "list[tuple[int, int, int, int, str]]") -> None:
        self.parent = {pid: parent for pid, parent, _, _, _ in rows}
        self.group = {pid: {group, session} for pid, _, group, session, _ in rows}
        self.alive = [pid for pid, _, _, _, state in rows if not state.startswith("Z")]

    @staticmethod
    def now() -> "Processes":
        if not os.path.isdir("/proc/self"):
            listed = subprocess.run(
                ["ps", "-A", "-o", "pid=,ppid=,pgid=,sess=,stat="], stdout=subprocess.PIPE, check=False
            )
            rows = [line.split() for line in listed.stdout.decode().splitlines()]
            return Processes([(int(r[0]), int(r[1]), int(r[2]), int(r[2]), r[4]) for r in rows if len(r) > 4])
        found = []
        for name in os.listdir("/proc"):
            if name.isdigit():
                text = read_text("/proc", name, "stat")
                if text:
                    state, parent, group, session = text.rpartition(")")[2].split()[:4]
                    found.append((int(name), int(parent), int(group), int(session), state))
        return Processes(found)

    def groups(self, pid: int) -> "set[int]":
        return self.group.get(pid, set())

    def ancestors(self, pid: int, until: int = 0) -> "list[int]":
        """The process, its parent and so on, up to the first of all or to `until`."""
        line = []  # type: list[int]
        while pid > 1 and pid != until and pid in self.parent and pid not in line:
            line.append(pid)
            pid = self.parent[pid]
        return line


def holders(path: str) -> "list[int]":
    """Who has this file open."""
    if not os.path.isdir("/proc/self/fd"):
        listed = subprocess.run(["lsof", "-t", path], stdout=subprocess.PIPE, check=False)
        return [int(word) for word in listed.stdout.split()]
    try:
        return [pid for pid, _ in openers({file_id(path)})]
    except OSError:
        return []  # it is gone: the run is over


def file_id(path: str) -> "tuple[int, int]":
    info = os.stat(path)
    return info.st_dev, info.st_ino


def openers(files: "set[tuple[int, int]]") -> "list[tuple[int, str]]":
    """(process, descriptor) of all that have one of these files open, as far as we may look."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        folder = "/proc/%s/fd" % pid
        try:
            descriptors = os.listdir(folder)
        except OSError:
            continue
        for number in descriptors:
            try:
                if file_id("%s/%s" % (folder, number)) in files:
                    found.append((int(pid), number))
            except OSError:
                continue
    return found


# --------------------------------------------------------------------------------- reading a log


def state(args: argparse.Namespace) -> int:
    """What became of a run."""
    answer_with(state_of(args.run, args.token))
    return 0


def log(args: argparse.Namespace) -> int:
    """The log from byte `from` until the run is over; then how it ended, and the log's size and sha256."""
    path = os.path.join(args.run, "log")
    told = state_of(args.run, args.token)
    answer = Answer()
    if told["state"] == "absent" or not os.path.exists(path):
        answer.document(told if told["state"] == "absent" else {"state": "lost", "size": 0, "sha256": ""})
        answer.end()
        return 0
    source = os.open(path, os.O_RDONLY)
    if args.lines is not None:
        data = last_lines(source, args.lines)
        answer.part(b"d", data)
        answer.document(told)
        answer.end()
        return 0
    at, told_at = args.start, time.time()
    sums = Sums(source)
    while True:
        # whether it is over is looked at before the size, so that nothing is missed
        is_over = state_of(args.run, args.token)["state"] != "running"
        size = os.fstat(source).st_size
        if size > at:
            answer.file(source, at, min(size - at, 1 << 20))
            at, told_at = min(size, at + (1 << 20)), time.time()
            continue
        if is_over:
            break
        if time.time() - told_at > 1:
            answer.part(b"h", b"")  # whoever is gone is noticed by writing to them
            told_at = time.time()
        time.sleep(0.05)
    told = state_of(args.run, args.token)
    told["size"] = at = os.fstat(source).st_size
    told["sha256"] = sums.until(at)
    answer.document(told)
    answer.end()
    return 0


def planned_token(run: str) -> str:
    """By which the plan in a run's folder here told its run from another's of the same name."""
    try:
        with open(os.path.join(run, "plan.json")) as file:
            return str(json.load(file).get("token", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def last_lines(source: int, num: int) -> bytes:
    """The last lines of a file, read from its end."""
    end = at = os.fstat(source).st_size
    data = b""
    while at > 0 and data.count(b"\n") <= num:
        at = max(0, at - (1 << 16))
        data = os.pread(source, end - at, at)
    return b"".join(data.splitlines(keepends=True)[-num:]) if num else b""


class Sums:
    """The sha256 of a file that grows, computed in a thread while its bytes travel."""

    def __init__(self, source: int) -> None:
        self.source = source
        self.digest = hashlib.sha256()
        self.at = 0
        self.wanted = -1
        self.thread = threading.Thread(target=self._sum, daemon=True)
        self.thread.start()

    def _sum(self) -> None:
        while self.wanted < 0 or self.at < self.wanted:
            size = (1 << 20) if self.wanted < 0 else min(1 << 20, self.wanted - self.at)
            data = os.pread(self.source, size, self.at)
            if data:
                self.digest.update(data)
                self.at += len(data)
            elif self.wanted >= 0:
                return  # it was cut meanwhile: the sum fits nothing
            else:
                time.sleep(0.02)

    def until(self, size: int) -> str:
        """Of the first `size` bytes, which have to be there."""
        self.wanted = size
        self.thread.join()
        if self.at == size:
            return self.digest.hexdigest()
        return sum_of(self.source, size)  # the thread had read on


def sum_of(source: int, size: int) -> str:
    digest, at = hashlib.sha256(), 0
    while at < size:
        data = os.pread(source, min(1 << 20, size - at), at)
        if not data:
            break
        digest.update(data)
        at += len(data)
    return digest.hexdigest()


def show(args: argparse.Namespace) -> int:
    """Print a run's log here, as it grows, until the run is over; ends with the job's exit code."""
    path, at = os.path.join(args.run, "log"), 0
    while True:
        is_over = state_of(args.run)["state"] != "running"  # looked at before the size
        size = size_of(path)
        if size > at:
            with open(path, "rb") as file:
                copy_range(file.fileno(), 1, at, size - at)
            at = size
        elif is_over:
            break
        else:
            time.sleep(0.1)
    code = exit_code_of(args.run)
    if code is None:
        say("lost: no exit code was left (kill -9, or a restart)")
        return LOST
    return code


def last(args: argparse.Namespace) -> int:
    """The last lines of a machine's log; of what is here of it when that is all, or when nobody answers."""
    here = os.path.join(args.run, "log")
    data = None
    if exit_code_of(args.run) is None:
        process = ask_machine(
            args, ["log", args.run, "--lines", str(args.lines), "--token", planned_token(args.run)]
        )
        try:
            parts = list(Parts(process.stdout.fileno()))  # type: ignore[union-attr]
            data = b"".join(text for kind, text in parts if kind == b"d") if parts else None
            if not any(kind == b"d" for kind, _ in parts):
                data = None
        except Incomplete:
            say("%s does not answer; this is what is here of the log" % args.alias)
        finally:
            end_process(process)
    if data is None:
        with open(here, "rb") as file:
            data = last_lines(file.fileno(), args.lines)
    write_all(1, data)
    return 0


def follow(args: argparse.Namespace) -> int:
    """Prints a machine's log from where the log here ends, through every loss of the link, until the run ends.

    `tee` writes what is printed; it holds descriptor 9 with us, the lock that lets one follower write.
    Ends with the job's exit code once both logs are equal: 65 where they never are, 69 where there is no such
    run, 137 where it is lost.
    """
    here = os.path.join(args.run, "log")
    be_the_only_follower()
    known = exit_code_of(args.run)
    if known is not None:
        return known
    link_newest(args.run)
    pause, tries, out = 0, 0, 1
    while True:
        time.sleep(pause)
        at = size_of(here)
        try:
            told, noise = follow_once(args, at, out)
        except BrokenPipeError:
            say("nobody keeps the log here any more; the job runs on")
            return NO_SPACE
        settled(at)
        if told is None:
            if size_of(here) > at:
                pause = 0
            pause = 1 if pause < 1 else min(pause * 2, 30)
            say_no_link(args, noise, pause)
            continue
        if told["state"] == "absent":
            if size_of(here) == 0:
                remove(here)
            say("%s holds no such run: %s" % (args.alias, args.run))
            return NO_RUN
        code = compared(args, here, told)
        if code is not None:
            return code
        if size_of(here) >= told["size"]:
            if tries >= 2:
                say("the log here differs from the one on %s" % args.alias)
                return DIFFERS
            tries += 1
            keep_differing(here)
        else:
            say("the log cannot be written here; the job runs on")
            pause = min(max(1, pause * 2), 30)
            out = os.open(here, os.O_WRONLY | os.O_APPEND)  # tee gives a file up at its first failure


def be_the_only_follower() -> None:
    """By the lock that the line which started us holds for us and for tee."""
    try:
        fcntl.flock(9, fcntl.LOCK_EX)
    except OSError:
        pass  # typed by hand, without a lock


def say_no_link(args: argparse.Namespace, noise: str, pause: int) -> None:
    if noise:
        say("%s answers, but not to what was asked; it says: %s" % (args.alias, noise))
    say("no link to %s; the job runs on there. Trying again in %d s" % (args.alias, pause))


def compared(args: argparse.Namespace, here: str, told: dict) -> "int | None":  # type: ignore[type-arg]
    """The run's exit code, kept here too, once both logs are equal; None while they are not."""
    with open(here, "ab+") as file:
        size = os.fstat(file.fileno()).st_size
        if size != told["size"] or sum_of(file.fileno(), size) != told["sha256"]:
            return None
    if told["state"] == "lost":
        say("lost: no exit code was left (a reboot, or kill -9)")
        return LOST
    write_whole(os.path.join(args.run, "exit_code"), b"%d\n" % told["exit_code"])
    return int(told["exit_code"])


def keep_differing(here: str) -> None:
    """The log here begins anew; what was in it is kept beside it."""
    with open(here, "rb") as old, open(here + ".differs", "wb") as kept:
        shutil.copyfileobj(old, kept)
    os.truncate(here, 0)


def follow_once(args: argparse.Namespace, at: int, out: int) -> "tuple[dict | None, str]":  # type: ignore[type-arg]
    """One connection: what became of the run, None when the link was lost; and what came instead."""
    words = ["log", args.run, "--from", str(at), "--token", planned_token(args.run)]
    process = ask_machine(args, words)
    parts = Parts(process.stdout.fileno())  # type: ignore[union-attr]
    told, noise = None, ""
    try:
        for kind, data in parts:
            if kind == b"d":
                write_all(out, data)
            elif kind == b"j":
                told = json.loads(data.decode())
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
    except Incomplete as error:
        told = None
        if process.wait() != NOT_REACHED:
            noise = error.said[-200:].decode(errors="replace").strip() or "nothing at all"
    finally:
        end_process(process)
    return told, noise


def settled(at: int) -> None:
    """Waits until the other end of the pipe has taken what we printed; files take it at once."""
    if not stat.S_ISFIFO(os.fstat(1).st_mode):
        return
    import array
    import termios

    left = array.array("i", [0])
    for _ in range(1500):
        fcntl.ioctl(1, termios.FIONREAD, left)
        if left[0] == 0:
            break
        time.sleep(0.002)
    time.sleep(0.005 if at else 0.002)  # between reading it and writing it


def size_of(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


# ------------------------------------------------------------------------------ asking a machine


def ask_machine(args: argparse.Namespace, words: "list[str]", **given: object) -> subprocess.Popen:  # type: ignore[type-arg]
    """This program on the machine, with these words; they travel with it, so that no shell has to read them."""
    argv = ["--root", args.root, *words]
    program = b"ARGV = %s\nGIVEN = %s\n" % (ascii(argv).encode(), ascii(given).encode()) + own_text()
    process = subprocess.Popen(
        [*ssh_words(args), args.alias, "python3 -"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        process.stdin.write(program)  # type: ignore[union-attr]
        process.stdin.close()  # type: ignore[union-attr]
    except OSError:
        pass  # it is gone: what it says is no answer
    return process


def ssh_words(args: argparse.Namespace) -> "list[str]":
    """`ssh` with a configuration that was written for us (`--ssh`), or with the person's (`-F`) and our options."""
    if args.ssh:
        return ["ssh", "-F", args.ssh]
    words = ["ssh", *(["-F", args.config] if args.config else [])]
    for option in (*SSH_OPTIONS, *args.option):
        words += ["-o", option]
    return words


def own_text() -> bytes:
    """This very program."""
    with open(OWN_PATH, "rb") as file:
        return file.read()


def end_process(process: subprocess.Popen) -> None:  # type: ignore[type-arg]
    if process.poll() is None:
        process.terminate()
    if process.stdout:
        process.stdout.close()
    process.wait()


def ask(args: argparse.Namespace) -> int:
    """Print a machine's whole answer as it is; 69 when it does not end, with what came instead, 255 without a link."""
    process = ask_machine(args, args.words, **({"plain": True} if args.plain else {}))
    if args.plain:
        return passed_on(process)
    documents = []
    try:
        parts = Parts(process.stdout.fileno())  # type: ignore[union-attr]
        documents = [data for kind, data in parts if kind == b"j"]
        code = process.wait()
    except Incomplete as error:
        code = process.wait()
        if code != NOT_REACHED:
            said = error.said[-400:].decode(errors="replace").strip()
            say("%s (exit code %d); it says: %s" % (NOT_ASKED, code, said or "nothing at all"))
            return NO_ANSWER if code == 0 else code
        return code
    answer = Answer()
    for data in documents:
        answer.part(b"j", data)
    answer.end()
    return code


def passed_on(process: subprocess.Popen) -> int:  # type: ignore[type-arg]
    """What a machine says in words, for a person who reads along."""
    shutil.copyfileobj(process.stdout, sys.stdout.buffer)  # type: ignore[arg-type]
    return process.wait()


def secrets(args: argparse.Namespace) -> int:
    """This program with the values of these variables before it, for a pipe into `ssh … python3 -`."""
    values = {name: os.environ[name] for name in args.names if name in os.environ}
    files = {}
    for path in args.file:
        with open(path, errors="surrogateescape") as file:
            files[os.path.basename(path)] = file.read()
    given = "GIVEN = %s\n" % ascii({"secrets": values, "files": files})
    write_all(1, given.encode() + own_text())
    return 0


# --------------------------------------------------------------------------- what is on a machine

CONTROL = (
    *(
        "token",
        "token.new",
        "lock",
        "pid",
        "exit_code",
        "exit_code.new",
        "artifacts",
        "abandoned",
        "reserved",
    ),
)
OF_LINES = (".jsonl", ".log", ".csv", ".tsv", ".txt")


def is_of_lines(path: str) -> bool:
    """Whether the file only grows, so that what it held at one moment is whole. Of no other is a part any good."""
    return path.endswith(OF_LINES) or os.path.basename(path) == "log"


def look(args: argparse.Namespace) -> int:
    """Every run below the root, and every file that a run may have made, with its checksum.

    Left out is what can be made again: `--without` (the environment), caches, what steers a run, and what git
    cloned and nobody changed.
    """
    answer = Answer()
    left_out = set()  # type: set[str]
    for path in map(os.path.expanduser, args.without):
        above, name = os.path.split(os.path.abspath(path))
        left_out |= {os.path.realpath(path), os.path.join(os.path.realpath(above), name)}
    if os.path.isdir(os.path.expanduser(args.root)):  # else there is nothing
        look_below_root(answer, left_out, with_sums=not args.stamps)
    if args.home:
        root = os.path.realpath(os.path.expanduser(args.root))
        for entry in home_entries(left_out | {root}):
            answer.document({"home": entry})
    answer.end()
    return 0


# What a machine, its shells and its tools keep in a home folder and make again by themselves.
OF_TOOLS = re.compile(
    r"\.(bash|zsh|profile|z?login|inputrc|hushlogin|sudo_as_admin|motd|cache|local|config|ssh|gnupg|nv|triton"
    r"|python_history|ipython|jupyter|viminfo|vim|lesshst|wget-hsts|selected_editor|Xauthority|gitconfig"
    r"|vscode-server|cursor-server|conda|npm|cargo|rustup|docker|dotnet|tmux|screen|keras|matplotlib|nvm)"
)


def home_entries(left_out: "set[str]") -> "list[dict]":  # type: ignore[type-arg]
    """What is in the home folder: of each entry the number of its files, their bytes and the newest change.

    Left out are the root, what tools keep there, and other disks, which do not end with the machine.
    """
    home = os.path.realpath(os.path.expanduser("~"))
    if is_absent(home):
        return []
    if not os.access(home, os.R_OK | os.X_OK):
        return [{"name": ".", "files": 1, "bytes": 0, "newest": 0}]  # whatever it may hold
    found = []
    for name in sorted(os.listdir(home)):
        path = os.path.join(home, name)
        if OF_TOOLS.match(name) or path in left_out:
            continue
        try:
            num, size, newest = sum_up(path, left_out, os.stat(home).st_dev)
        except OSError:
            num, size, newest = 1, 0, 0  # it is there, and cannot be looked at
        if num:
            found.append({"name": name, "files": num, "bytes": size, "newest": newest})
    return found


def sum_up(path: str, left_out: "set[str]", device: int) -> "tuple[int, int, int]":
    """(files, bytes, newest change in ns) of a file, or of all below a folder on this disk."""
    info = os.lstat(path)
    if info.st_dev != device or (os.path.islink(path) and os.path.realpath(path) in left_out):
        return 0, 0, 0
    if not stat.S_ISDIR(info.st_mode):
        return 1, info.st_size, max(info.st_mtime_ns, info.st_ctime_ns)
    num, size, newest = 0, 0, 0
    for entry in os.scandir(path):
        if entry.path not in left_out and entry.name != "__pycache__":
            more = sum_up(entry.path, left_out, device)
            num, size, newest = num + more[0], size + more[1], max(newest, more[2])
    return num, size, newest


def leads_outside(path: str) -> bool:
    """Whether a link leads to something that is not below the root."""
    return os.path.exists(path) and not os.path.realpath(path).startswith(os.path.realpath(".") + os.sep)


def look_below_root(answer: Answer, left_out: "set[str]", with_sums: bool) -> None:
    """Each run and each file; of a file also whether it came from home, and nobody changed it since."""
    for folder in run_folders():
        found = dict(state_of(folder), folder=folder)
        if is_held(folder):
            found["state"] = "running"  # also when its exit code is known: something of it goes on
        answer.document({"run": found})
    pushed = {}  # type: dict[str, list[str]]
    for path in sorted(os.listdir(".runner/pushed")) if os.path.isdir(".runner/pushed") else ():
        pushed.update(pushed_in(os.path.join(".runner/pushed", path)))
    for record in records(everything(left_out), with_sums):
        if record["state"] == "link" and leads_outside(record["path"]):
            record["state"] = "outside"
        if record.get("sha256") in pushed.get(record["path"], ()):
            record["pushed"] = True
        answer.document({"file": record})


def run_folders() -> "list[str]":
    """The folders of runs that began, below any research log: two clones may differ in its name."""
    found = []
    for at in ("*", "*/*"):
        for folder in globbed(at + "/runs/*"):
            if os.path.exists(os.path.join(folder, "token")) or is_held(folder):
                found.append(folder)
    return sorted(found)


def globbed(pattern: str) -> "list[str]":
    import glob

    return [path for path in glob.glob(pattern) if os.path.isdir(path)]


def everything(left_out: "set[str]") -> "list[str]":
    """All files and links below the root but for what can be made again; folders that cannot be read too.

    `left_out` are absolute paths.
    """
    found = []
    root = os.getcwd()

    def refused(error: OSError) -> None:
        found.append(os.path.normpath(error.filename))

    for at, folders, names in os.walk(".", onerror=refused):
        folder = os.path.normpath(at)
        here = os.path.normpath(os.path.join(root, folder))
        cloned = read_text(at, ".git", "cloned")
        if cloned:
            left_out = left_out | {os.path.join(here, name) for name in unchanged_in_git(at, cloned)}
        kept = []
        for name in folders:
            path = os.path.normpath(os.path.join(folder, name))
            if os.path.join(here, name) in left_out or path == ".runner":
                continue
            if os.path.islink(path):
                found.append(path)
            elif name not in MADE_AGAIN and not (name == ".git" and cloned):
                kept.append(name)
        folders[:] = kept
        steered = RUN_FOLDER.match(folder)
        for name in names:
            path = os.path.normpath(os.path.join(folder, name))
            ours = (steered and name in CONTROL) or path == ".setup.lock"
            is_newest_log = name == "run.log" and os.path.islink(path)
            if not (ours or is_newest_log or os.path.join(here, name) in left_out):
                found.append(path)
    return found


MADE_AGAIN = ("__pycache__", ".source", ".rsync-partial", ".ruff_cache", ".mypy_cache", ".pytest_cache")
RUN_FOLDER = re.compile(r"[^/]+/([^/]+/)?runs/[^/]+\Z")


def unchanged_in_git(folder: str, cloned: str) -> "set[str]":
    """What git cloned into the folder and nobody changed since, by no commit either."""

    def listed(*words: str) -> "set[str]":
        done = subprocess.run(
            ["git", "-C", folder, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False
        )
        if done.returncode:
            raise OSError("git")
        return {os.fsdecode(name) for name in done.stdout.split(b"\0") if name}

    try:
        ref = cloned.split()[-1]
        known = listed("for-each-ref", "--format=%(refname)", "refs/remotes/origin/" + ref)
        base = "refs/remotes/origin/" + ref if known else ref  # a branch here moves with a commit here
        changed = listed("diff", base, "--name-only", "-z", "--relative")
        names = listed("ls-files", "--recurse-submodules", "-z")
    except OSError:
        return set()
    return {name for name in names if not any(above in changed for above in ways_to(name))}


def ways_to(path: str) -> "list[str]":
    """The path, and each folder above it."""
    parts = path.split("/")
    return ["/".join(parts[: n + 1]) for n in range(len(parts))]


def files(args: argparse.Namespace) -> int:
    """The files behind these names of a folder, each with its checksum, and which run made it."""
    answer = Answer()
    if not os.path.isdir(args.folder):
        answer.document({"origin": origin(".")})
        answer.end()
        return 0
    os.chdir(args.folder)
    began = runs_began("runs")
    found, covered = [], []
    for name in args.names:
        for path in matching(name):
            covered.append(os.path.realpath(path))
            found += below(path)
    answer.document({"origin": origin(".")})
    for record in records(sorted(set(found)), with_sums=True):
        path = record["path"]
        if record["state"] == "link":
            to = os.path.realpath(path)
            inside = any(to == real or to.startswith(real + os.sep) for real in covered)
            if os.path.exists(path) and not inside:
                record["leads_outside"] = True
            if os.path.isabs(record["link"]) or not to.startswith(os.path.realpath(".") + os.sep):
                record["state"] = "outside"
        record["run"] = maker(began, record["mtime"])
        record["token"] = read_text("runs", record["run"], "token") or "" if record["run"] else ""
        answer.document({"file": record})
    answer.end()
    return 0


def origin(folder: str) -> str:
    """Names a folder of a machine, so that another machine behind the same name is told from it."""
    info = os.stat(folder)
    return "%s-%d" % (read_text("/etc/machine-id") or "", info.st_ino)


def matching(name: str) -> "list[str]":
    """What a declared name means in this folder: a path, or a pattern with * and ? within its names."""
    plain = name.rstrip("/") or "."
    if os.path.lexists(plain) or not re.search(r"[*?]", plain):
        return [plain] if os.path.lexists(plain) else []
    import glob

    return sorted(glob.glob(plain.replace("[", "[[]")))


def below(path: str) -> "list[str]":
    """The file itself, or all files and links of a folder; the folder itself where it cannot be read."""
    if os.path.islink(path) or not os.path.isdir(path):
        return [path]
    found = []
    walk = os.walk(path, onerror=lambda error: found.append(os.path.normpath(error.filename)))
    for at, folders, names in walk:
        if os.path.normpath(path) == ".":
            folders[:] = [name for name in folders if name not in ("runs", ".git", "__pycache__", ".venv")]
        links = [name for name in folders if os.path.islink(os.path.join(at, name))]
        found += [os.path.normpath(os.path.join(at, name)) for name in names + links]
    return found


def runs_began(folder: str) -> "list[tuple[float, str]]":
    """When each run of a phase began, the earliest first."""
    found = []
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        try:
            found.append((os.stat(os.path.join(folder, name, "token")).st_mtime, name))
        except OSError:
            continue
    return sorted(found)


def maker(began: "list[tuple[float, str]]", mtime: float) -> str:
    """The run that began last before the file was written."""
    return next((name for at, name in reversed(began) if at <= mtime + 1), "")


def records(paths: "list[str]", with_sums: bool) -> "list[dict]":  # type: ignore[type-arg]
    """What each file is at this moment; the checksums by several threads.

    `state` is file, link, open (a process is writing it) or unreadable.
    """
    from concurrent.futures import ThreadPoolExecutor

    found = []
    recent = set()
    for path in paths:
        try:
            info = os.lstat(path)
        except OSError as error:
            if error.errno == errno.ENOENT:
                continue  # it went while it was listed
            found.append({"path": path, "state": "unreadable", "size": 0, "mtime": 0.0, "stamp": ""})
            continue
        stamp = "%d-%d-%d" % (info.st_size, info.st_mtime_ns, info.st_ctime_ns)
        record = {"path": path, "size": info.st_size, "mtime": info.st_mtime, "stamp": stamp, "state": "file"}  # type: dict[str, object]
        if stat.S_ISLNK(info.st_mode):
            record.update(state="link", link=os.readlink(path))
            record["sha256"] = hashlib.sha256(os.fsencode(os.readlink(path)) + b"\n").hexdigest()
        elif not stat.S_ISREG(info.st_mode) or not os.access(path, os.R_OK):
            if not stat.S_ISREG(info.st_mode) and not stat.S_ISDIR(info.st_mode):
                continue  # a socket or a pipe holds nothing
            record["state"] = "unreadable"
        elif time.time() - info.st_mtime < 600 and not is_of_lines(path):
            recent.add((info.st_dev, info.st_ino))
            record["id"] = (info.st_dev, info.st_ino)
        found.append(record)
    written = written_files(recent)
    for record in found:
        if record.pop("id", None) in written:
            record["state"] = "open"
    if with_sums:
        wanted = [record for record in found if record["state"] == "file"]
        with ThreadPoolExecutor(min(8, (os.cpu_count() or 2) * 2)) as pool:
            some = [wanted[at : at + 50] for at in range(0, len(wanted), 50)]
            for group, digests in zip(some, pool.map(checksums, some)):
                for record, digest in zip(group, digests):
                    record["sha256"] = digest
                    if digest is None:
                        record["state"] = "unreadable"
    return found


def checksums(group: "list[dict]") -> "list[str | None]":  # type: ignore[type-arg]
    return [checksum(record) for record in group]


def checksum(record: dict) -> "str | None":  # type: ignore[type-arg]
    try:
        with open(record["path"], "rb") as file:
            return sum_of(file.fileno(), record["size"])
    except OSError:
        return None


def written_files(wanted: "set[tuple[int, int]]") -> "set[tuple[int, int]]":
    """Those of these files that some process has open for writing; none where nobody can tell."""
    if not wanted or not os.path.isdir("/proc/self/fdinfo"):
        return set()
    found = set()
    for pid, number in openers(wanted):
        flags = re.search(r"^flags:\s*(\d+)", read_text("/proc/%d/fdinfo/%s" % (pid, number)) or "", re.M)
        if flags and int(flags[1], 8) & os.O_ACCMODE != os.O_RDONLY:
            try:
                found.add(file_id("/proc/%d/fd/%s" % (pid, number)))
            except OSError:
                continue
    return found


def send(args: argparse.Namespace) -> int:
    """Files of a folder, one after the other: what each is, then its bytes from where the asker has them."""
    os.chdir(args.folder)
    answer = Answer()
    for path, start, size in GIVEN["wanted"]:
        try:
            source = os.open(path, os.O_RDONLY)
        except OSError as error:
            answer.document({"path": path, "error": error.strerror})
            continue
        answer.document({"path": path, "size": size, "start": start})
        for at in range(start, size, 1 << 20):
            answer.file(source, at, min(1 << 20, size - at))
        os.close(source)
    answer.end()
    return 0


# ---------------------------------------------------------------------------- bringing files home


class Unwritable(Exception):
    """This disk did not take a file."""


def fetch(args: argparse.Namespace) -> int:
    """Bring the files behind these names home, each under its name only when it is whole and verified.

    What is here under that name is kept when another run made it, in that run's folder, or in `runs/replaced`
    where nobody knows which run that was. A file that changes meanwhile is fetched again. Ends with 65 where
    something cannot be verified, 69 or 255 where the machine is not reached.
    """
    os.makedirs(os.path.join(args.folder, "runs"), exist_ok=True)
    os.chdir(args.folder)
    lock = os.open(os.path.join("runs", ".lock"), os.O_RDWR | os.O_CREAT, 0o644)
    fcntl.flock(lock, fcntl.LOCK_EX)
    code = NOT_REACHED
    for pause in (1, 1, 2, 4, 8, 15, 30, 0):
        try:
            code = fetch_once(args)
        except Incomplete as error:
            code = NO_ANSWER if error.said else NOT_REACHED
            said = error.said[-200:].decode(errors="replace").strip()
            say("no answer from %s%s" % (args.alias, "; it says: " + said if said else ""))
        except Unwritable as error:
            say(str(error))
            code = NO_SPACE
        if code in (0, DIFFERS + 1000):
            break
        time.sleep(pause)
    return code % 1000


def fetch_once(args: argparse.Namespace) -> int:
    documents = whole_answer(args, ["files", args.folder, "--", *args.names])
    place = documents[0]["origin"]
    theirs = [document["file"] for document in documents[1:]]
    for record in theirs:
        if record.get("leads_outside"):
            say("not brought home: %s, a link to what no artifact names" % shown(record["path"]))
    theirs = [record for record in theirs if record["state"] != "outside"]
    unreadable = [record for record in theirs if record["state"] == "unreadable"]
    wanted = [r for r in theirs if r["state"] != "unreadable" and (r["state"] == "open" or not is_same(r))]
    links = [record for record in wanted if record["state"] == "link"]
    plain = [record for record in wanted if record["state"] == "file"]
    forget_all_but({os.path.join(INCOMING, record["path"]) for record in plain})
    home = Home(place)
    failed = [record for record in wanted if record["state"] == "open"]
    for record in links:
        home.take_link(record)
    failed += bring(args, plain, home)
    for record in failed:
        say("not verified yet: %s" % shown(record["path"]))
    for record in unreadable:
        say("cannot be read there: %s" % shown(record["path"]))
    if unreadable:
        return DIFFERS + 1000  # asking again would not help
    if failed:
        return DIFFERS
    if wanted and any(not is_same(record) for record in theirs):
        lower = [record["path"].lower() for record in theirs]
        if len(set(lower)) < len(lower):
            say("not verified: this disk has one file for two of the machine")
            return DIFFERS + 1000
        return DIFFERS
    paths = [record["path"] for record in theirs]
    absent = [name for name in args.names if not any(covers(name, path) for path in paths)]
    if absent:
        say("there is nothing on the machine of these artifacts: %s" % " ".join(map(shown, absent)))
    print("verified: %d files" % len(theirs), flush=True)
    shutil.rmtree(INCOMING, ignore_errors=True)
    return 0


def forget_all_but(kept: "set[str]") -> None:
    """What was fetched once and is no longer wanted gives its space back."""
    for path in below(INCOMING) if os.path.isdir(INCOMING) else ():
        if path not in kept:
            remove(path)


ZEROS = bytes(1 << 20)
INCOMING = os.path.join("runs", ".incoming")


def covers(name: str, path: str) -> bool:
    """Whether a file is what a declared name means."""
    import fnmatch

    plain = name.rstrip("/").replace("[", "[[]")
    if plain.startswith("./"):
        plain = plain[2:]
    parts = path.split("/")
    return plain in ("", ".") or any(
        fnmatch.fnmatchcase("/".join(parts[: n + 1]), plain) for n in range(len(parts))
    )


def shown(path: str) -> str:
    """A name in one line."""
    return path if path.isprintable() else ascii(path)


def whole_answer(args: argparse.Namespace, words: "list[str]") -> "list[dict]":  # type: ignore[type-arg]
    """The documents of a machine's answer; Incomplete when it is not whole."""
    process = ask_machine(args, words)
    try:
        parts = Parts(process.stdout.fileno())  # type: ignore[union-attr]
        found = [json.loads(data.decode()) for kind, data in parts if kind == b"j"]
    except Incomplete as error:
        raise Incomplete(b"" if process.wait() == NOT_REACHED else error.said or b"nothing at all") from None
    finally:
        end_process(process)
    if not found:
        raise Incomplete(b"an empty answer")
    return found


def is_same(record: dict) -> bool:  # type: ignore[type-arg]
    """Whether the file is here too, byte for byte."""
    path = record["path"]
    try:
        if record["state"] == "link":
            return os.path.islink(path) and os.readlink(path) == record["link"]
        if os.path.islink(path) or os.stat(path).st_size != record["size"]:
            return False
        return checksum(record) == record.get("sha256")
    except OSError:
        return False


def bring(args: argparse.Namespace, wanted: "list[dict]", home: "Home") -> "list[dict]":  # type: ignore[type-arg]
    """Fetch these files, put those that arrived whole in their place; gives those that did not."""
    if not wanted:
        return []
    kept = [{"path": os.path.join(INCOMING, r["path"]), "size": r["size"]} for r in wanted]
    starts = [min(size_of(k["path"]), r["size"]) for k, r in zip(kept, wanted)]
    asked = [(r["path"], start, r["size"]) for r, start in zip(wanted, starts)]
    process = ask_machine(args, ["send", args.folder], wanted=asked)
    failed = list(wanted)
    by_path = {record["path"]: record for record in wanted}
    at, into, is_whole = None, None, False
    try:
        for kind, data in Parts(process.stdout.fileno()):  # type: ignore[union-attr]
            if kind == b"j":
                finish(at, into, home, failed)
                told = json.loads(data.decode())
                at = by_path[told["path"]] if "error" not in told else None
                into = opened(told) if at else None
            elif kind == b"d" and into and data == ZEROS[: len(data)]:
                into.seek(len(data), os.SEEK_CUR)  # what is sparse there is sparse here
            elif kind == b"d" and into:
                into.write(data)
        is_whole = True
    except Incomplete:
        pass
    except OSError as error:
        raise Unwritable(
            "%s cannot be written here: %s" % (shown(at["path"] if at else ""), error.strerror)
        ) from error
    finally:
        end_process(process)
        if into and not is_whole:
            into.close()
    if is_whole:
        finish(at, into, home, failed)
    else:
        say("no link to %s while files came home; what arrived is kept" % args.alias)
    return failed


def opened(told: dict):  # type: ignore[type-arg, no-untyped-def]
    """Where a file's bytes are kept until they are whole, from where they begin."""
    path = os.path.join(INCOMING, told["path"])
    os.makedirs(os.path.dirname(path), exist_ok=True)
    file = open(path, "r+b" if os.path.exists(path) else "wb")
    file.truncate(told["start"])
    file.seek(told["start"])
    return file


def finish(record: "dict | None", into, home: "Home", failed: "list[dict]") -> None:  # type: ignore[type-arg, no-untyped-def]
    """The file gets its name when it is the one that was recorded; else it is fetched anew."""
    if record is None or into is None:
        return
    into.truncate()
    into.close()
    path = os.path.join(INCOMING, record["path"])
    arrived = checksum({"path": path, "size": record["size"]})
    if size_of(path) != record["size"] or arrived != record["sha256"]:
        remove(path)
        return
    os.utime(path, (record["mtime"], record["mtime"]))
    home.take(record, path)
    failed.remove(record)


class Home:
    """The folder here: which file was brought from where, and by which run it was made (`runs/.home`)."""

    def __init__(self, place: str) -> None:
        self.place = place
        path = os.path.join("runs", ".home")
        self.known = {}
        for line in (read_text(path) or "").splitlines():
            try:
                told = json.loads(line)
                self.known[(told["path"], told["sum"])] = (told["from"], told["run"], told["token"])
            except (ValueError, KeyError, TypeError):
                continue  # a line of an earlier version
        self.record = open(path, "a")

    def take(self, record: dict, arrived: str) -> None:  # type: ignore[type-arg]
        """Give a whole file its name; what is here under it is kept where it is not the same run's."""
        path = record["path"]
        folder = os.path.dirname(path)
        if folder:
            os.makedirs(folder, exist_ok=True)
        if os.path.islink(path):
            os.unlink(path)
        elif os.path.isfile(path):
            self.keep(record, arrived)
        elif os.path.lexists(path):
            raise Unwritable("%s is a folder here, and a file on the machine" % shown(path))
        os.replace(arrived, path)
        self.remember(record)

    def take_link(self, record: dict) -> None:  # type: ignore[type-arg]
        path = record["path"]
        if os.path.dirname(path):
            os.makedirs(os.path.dirname(path), exist_ok=True)
        if os.path.islink(path):
            os.unlink(path)
        elif os.path.isfile(path):
            self.keep(record, "")
            os.unlink(path)
        os.symlink(record["link"], path)
        self.remember(record)

    def remember(self, record: dict) -> None:  # type: ignore[type-arg]
        told = {"from": self.place, "sum": record["sha256"], "path": record["path"]}
        told.update(run=record["run"], token=record["token"])
        self.record.write(json.dumps(told) + "\n")
        self.record.flush()
        self.known[(record["path"], record["sha256"])] = (self.place, record["run"], record["token"])

    def keep(self, record: dict, arrived: str) -> None:  # type: ignore[type-arg]
        """Keep what is here of a file that another takes the name of, unless nothing of it would be lost."""
        path = record["path"]
        size = size_of(path)
        with open(path, "rb") as file:
            was = sum_of(file.fileno(), size)
        if arrived and record["size"] >= size and prefix_sum(arrived, size) == was:
            return  # it only grew
        place, run, token = self.known.get((path, was), ("", "", ""))
        is_cut_short = record["size"] < size and (
            record["size"] * 2 < size or prefix_sum(path, record["size"]) == record["sha256"]
        )
        if (place, run, token) == (self.place, record["run"], record["token"]) and not is_cut_short:
            return  # the same run saved it anew
        inside = os.path.join(run, "artifacts") if run else os.path.join("replaced", was[:8])
        kept = os.path.join("runs", inside, path)
        if os.path.exists(kept) and was != checksum({"path": kept, "size": size_of(kept)}):
            kept = os.path.join("runs", "replaced", was[:8], path)
        os.makedirs(os.path.dirname(kept), exist_ok=True)
        if not os.path.exists(kept):
            link_or_copy(path, kept)
        print("kept what was here of %s in %s" % (shown(path), shown(os.path.dirname(kept))), flush=True)


def prefix_sum(path: str, size: int) -> str:
    try:
        with open(path, "rb") as file:
            return sum_of(file.fileno(), size) if size <= size_of(path) else ""
    except OSError:
        return ""


def link_or_copy(path: str, kept: str) -> None:
    """By a link where the disk can; whole or not at all."""
    try:
        os.link(path, kept)
    except OSError:
        shutil.copy2(path, kept + ".new")
        os.replace(kept + ".new", kept)


# ------------------------------------------------------------------------------ how a machine does


def status(args: argparse.Namespace) -> int:
    """Uptime, GPUs, the runs with what they measured last, and whether the environment is what setup left."""
    document = {"up_s": uptime_s(), "gpu_percent": gpu_percents(), "drifted": False, "runs": []}
    if os.path.isdir(os.path.expanduser(args.root)):  # else nothing began here yet
        venv = os.path.expanduser(args.venv)
        left = read_text(venv, "installed.sha256")
        document["drifted"] = bool(left) and frozen_sum(venv, [own_uv()]) not in ("", left)
        document["runs"] = [run_row(folder, args.metrics) for folder in run_folders()]
    answer_with(document)
    return 0


def packages(args: argparse.Namespace) -> int:
    """What uv says of the environment: its packages, what does not fit together, and what setup left.

    `frozen` is null where there is no environment, or where uv cannot say.
    """
    venv = os.path.expanduser(args.venv)
    python = os.path.join(venv, "bin", "python")

    def told(what: str, errors: int) -> "tuple[int, str]":
        done = subprocess.run(
            [args.uv or own_uv(), "pip", what, "--python", python],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            check=False,
            env=uv_env(),
        )
        return done.returncode, done.stdout.decode(errors="replace")

    document = {"frozen": None}  # type: dict[str, object]
    if os.access(python, os.X_OK) and shutil.which(args.uv or own_uv()):
        code, frozen = told("freeze", subprocess.DEVNULL)
        if code == 0:
            checked = told("check", subprocess.STDOUT)[1]
            installed = read_text(venv, "installed.sha256") or ""
            document = {"frozen": frozen, "checked": checked, "installed": installed}
    answer_with(document)
    return 0


def uptime_s() -> float:
    return float((read_text("/proc/uptime") or "0").split()[0])


def gpu_percents() -> "list[int]":
    asked = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    return [int(line) for line in output_of(asked).split() if line.isdigit()]


def output_of(words: "list[str]", **more: object) -> str:
    """What a program prints; empty where it fails or is not there."""
    try:
        done = subprocess.run(  # type: ignore[call-overload]
            words,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            check=False,
            **more,
        )
    except OSError:
        return ""
    return done.stdout.decode(errors="replace") if done.returncode == 0 else ""


def run_row(folder: str, metrics: str) -> dict:  # type: ignore[type-arg]
    """A run, for how long nothing of it was touched, and the last lines of the metrics that are its own.

    The metrics of a phase are those of the run that wrote to them last: begun before, and not over by then.
    """
    row = dict(state_of(folder), folder=folder, metrics=[])
    if row["state"] == "absent":
        row["state"] = "running"  # its lock is held, and its token is not there yet
    times = [mtime_of(folder, name) for name in ("", "log", "exit_code")]
    row["touched_s_ago"] = time.time() - max(times)
    began, ended = mtime_of(folder, "token"), mtime_of(folder, "exit_code")
    for path in (os.path.join(folder, "..", "..", metrics), os.path.join(folder, metrics)):
        written = mtime_of(path)
        if written > began and not 0 < ended < written:
            row["metrics"] = tail_lines(path, 20)
    return row


def mtime_of(*path: str) -> float:
    try:
        return os.stat(os.path.join(*path)).st_mtime
    except OSError:
        return 0.0


def tail_lines(path: str, num: int) -> "list[str]":
    with open(path, "rb") as file:
        file.seek(max(0, size_of(path) - 16384))
        return [line.decode(errors="replace") for line in file.read().splitlines()[-num:]]


def own_uv() -> str:
    return (
        shutil.which("uv", path=os.path.expanduser("~/.local/bin") + os.pathsep + os.environ.get("PATH", ""))
        or "uv"
    )


def frozen_sum(venv: str, uv: "list[str]") -> str:
    """The sha256 of what uv lists of the environment; empty where uv cannot say."""
    listed = output_of([*uv, "pip", "freeze", "--python", os.path.join(venv, "bin", "python")], env=uv_env())
    return hashlib.sha256(listed.encode()).hexdigest() if listed else ""


def uv_env() -> dict:  # type: ignore[type-arg]
    return {name: value for name, value in os.environ.items() if name not in NOT_FOR_JOBS}


def health(args: argparse.Namespace) -> int:
    """What the machine says of a run and of itself: silence, disk, GPU, the kernel's last OOM kill."""
    document = dict(state_of(args.run, args.token))
    written = mtime_of(args.run, "log")
    usage = os.statvfs(".")
    used = usage.f_blocks - usage.f_bfree
    percent = -(-100 * used // (used + usage.f_bavail)) if used + usage.f_bavail else 0
    document.update(
        silent_s=int(time.time() - written) if written else None,
        disk_percent=percent,
        disk_line=" ".join(output_of(["df", "-P", "."]).splitlines()[-1:]),
        gpu_percent=max(gpu_percents(), default=None),
        oom_line=oom_line(),
    )
    answer_with(document)
    return 0


def oom_line() -> str:
    for words in (["dmesg"], ["sudo", "-n", "dmesg"]):
        lines = [
            line for line in output_of(words).splitlines() if "out of memory: killed process" in line.lower()
        ]
        if lines:
            return lines[-1]
    return ""


def cuda(args: argparse.Namespace) -> int:  # noqa: ARG001
    """What the CUDA driver says when it is started: torch is not there yet, and a happy nvidia-smi proves nothing."""
    import ctypes

    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        answer_with({"cuda": None, "said": str(error)})
        return 0
    count, code = ctypes.c_int(0), library.cuInit(0)
    code = code or library.cuDeviceGetCount(ctypes.byref(count))
    answer_with({"cuda": code if code or count.value else 100, "said": ""})
    return 0


def reach(args: argparse.Namespace) -> int:  # noqa: ARG001
    """That a command can be run here."""
    answer_with({"reached": True})
    return 0


# -------------------------------------------------------------------------------- the environment


def setup(args: argparse.Namespace) -> int:
    """uv, the shared environment and what a phase needs in it; nothing is done where all is there.

    The words are uv's own, for instance `uv pip install torch>=2.9`. Two at once wait for one another.
    """
    lock = os.open(".setup.lock", os.O_RDWR | os.O_CREAT, 0o644)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.environ["PATH"] = os.path.expanduser("~/.local/bin") + os.pathsep + os.environ.get("PATH", os.defpath)
    uv = args.words[0] if args.words else args.uv
    if not installed_uv(uv, args.uv_install):
        say("uv could not be installed (remote.uv_install)")
        return 69
    venv = os.path.abspath(os.path.expanduser(args.venv))
    code = make_environment(uv, venv, args.python)
    if code:
        return code
    os.environ.update(VIRTUAL_ENV=venv)
    os.environ["PATH"] = os.path.join(venv, "bin") + os.pathsep + os.environ["PATH"]
    for name in NOT_FOR_JOBS:
        if name != "VIRTUAL_ENV":
            os.environ.pop(name, None)
    code = install(args, uv, venv)
    if code == 0 and args.data_done:
        code = fetch_data(args)
    return code


def installed_uv(uv: str, command: str) -> bool:
    """Whether uv is there. A fresh machine is still installing its own packages: what fails is tried again."""
    for pause in (5, 15, 30, 60, 0):
        if shutil.which(uv):
            return True
        if not command:
            return False
        print("installing uv", flush=True)
        subprocess.run(["/bin/bash", "-c", command], stdin=subprocess.DEVNULL, check=False)
        if shutil.which(uv):
            return True
        time.sleep(pause)
    return False


def make_environment(uv: str, venv: str, python: str) -> int:
    """The environment where it is missing, or where its Python is gone."""
    there = os.path.join(venv, "bin", "python")
    if os.path.exists(os.path.join(venv, "bin", "activate")) and runs([there, "-c", ""]):
        return 0
    words = [uv, "venv", "--quiet", *(["--clear"] if os.path.lexists(venv) else [])]
    return subprocess.call([*words, *(["--python", python] if python else []), venv], env=uv_env())


def runs(words: "list[str]") -> bool:
    try:
        return subprocess.call(words, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0
    except OSError:
        return False


def install(args: argparse.Namespace, uv: str, venv: str) -> int:
    """The lock that was tested, or the packages by name; then the package that the phase's folder may be."""
    requirements, project = project_files(args.own) if args.own else ([], "")
    words = list(args.words)
    if args.lock:
        code, path = locked(args)
        if code:
            return code
        words += ["-r", path]
    elif args.own:
        words += [word for path in requirements for word in ("-r", path)]
    extra = None
    if args.override:
        import tempfile

        extra = tempfile.NamedTemporaryFile("w", suffix=".txt")
        extra.write("\n".join(args.override) + "\n")
        extra.flush()
        words += ["--override", extra.name]
    asks = [word for word in words[3:] if not word.startswith("-")]
    if args.cloned and not os.path.isdir(os.path.join(args.own, ".git")):
        print("phase.source is not here yet: its own packages come after action=sync", flush=True)
    if words and asks:
        code = install_words(words)
        if code:
            return code
    if project:
        code = install_own(args, uv, venv, words)
        if code:
            return code
    if words or project:
        write_whole(os.path.join(venv, "installed.sha256"), frozen_sum(venv, [uv]).encode() + b"\n")
    return 0


def install_words(words: "list[str]") -> int:
    """uv itself says in milliseconds whether anything would change, so nothing has to be remembered."""
    dry = subprocess.run([*words, "--dry-run"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if b"Would make no changes" in dry.stdout:
        print("nothing to do: all packages are there", flush=True)
        return 0
    return subprocess.call(words)


def locked(args: argparse.Namespace) -> "tuple[int, str]":
    """The file of the lock, once it is the very one that was tested: its checksum stands in the plan."""
    path, _, wanted = args.lock.rpartition("@")
    name = os.path.basename(path)
    given = GIVEN.get("files", {}).get(name)
    if given is not None:
        path = os.path.join(".runner", "locks", name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        write_whole(path, given.encode(errors="surrogateescape"))
    found = checksum({"path": path, "size": size_of(path)})
    if found != wanted:
        say(
            "the lock did not arrive whole"
            if given is not None
            else "the lock is not the one that was tested"
        )
        return 65, path
    return 0, path


PROJECT_FILES = ("pyproject.toml", "setup.cfg", "setup.py")


def project_files(folder: str) -> "tuple[list[str], str]":
    """What uv reads requirements from in the phase's folder, and the file that makes a package of it.

    A pyproject.toml that only configures tools is no project.
    """
    listed = os.path.join(folder, "requirements.txt")
    requirements = [listed] if os.path.isfile(listed) else []
    for name in PROJECT_FILES:
        path = os.path.join(folder, name)
        text = read_text(path)
        if text is None or (
            name == "pyproject.toml" and not re.search(r"^\[(project|build-system)\]", text, re.M)
        ):
            continue
        return [*requirements, path], path
    return requirements, ""


def install_own(args: argparse.Namespace, uv: str, venv: str, words: "list[str]") -> int:
    """The phase's own package, editable, once: another commit or other metadata are what makes it again."""
    mark = os.path.join(venv, os.path.basename(args.own) + ".own")
    names = [os.path.join(args.own, name) for name in (*PROJECT_FILES, os.path.join(".git", "cloned"))]
    told = os.path.abspath(args.own) + "".join(read_text(name) or "" for name in names)
    wanted = hashlib.sha256(told.encode(errors="surrogateescape")).hexdigest()
    if read_text(mark) == wanted and re.search(r"^-e ", output_of([uv, "pip", "freeze"]), re.M):
        print("nothing to do: the phase's own package is there", flush=True)
        return 0
    options = []  # type: list[str]
    for option in ("--find-links", "--torch-backend"):
        if option in words:
            options += [option, words[words.index(option) + 1]]
    code = subprocess.call([uv, "pip", "install", *options, "--no-deps", "-e", args.own])
    if code == 0:
        write_whole(mark, wanted.encode() + b"\n")
    return code


def fetch_data(args: argparse.Namespace) -> int:
    """phase.data, once: `unfinished` tells a file that was only begun from one that is whole."""
    os.makedirs(args.own or ".", exist_ok=True)
    done = os.path.join(args.own or ".", args.data_done)
    unfinished = done.rstrip("/") + ".unfinished"
    if os.path.exists(done) and not os.path.exists(unfinished):
        print("nothing to do: the data are there", flush=True)
        return 0
    os.makedirs(os.path.dirname(done.rstrip("/")) or ".", exist_ok=True)
    open(unfinished, "a").close()
    code = subprocess.call(
        ["/bin/bash", "-c", args.data_command], cwd=args.own or ".", stdin=subprocess.DEVNULL
    )
    if code:
        say("phase.data could not be fetched; do it again to go on")
        return code if code > 0 else 128 - code
    if not os.path.exists(done):
        say("the command of phase.data ended well, but %s is not there" % args.data_done)
        return 65
    remove(unfinished)
    return 0


def clone(args: argparse.Namespace) -> int:
    """`phase.source` in the phase's folder, at the commit; what runs made there stays as it is."""
    if args.run and is_anothers(args.run, args.token):
        return launch(args, is_detached=True)  # which says why it is refused
    os.makedirs(args.folder, exist_ok=True)
    os.chdir(args.folder)
    cloned = "%s %s" % (args.git, args.ref)
    spared = [":(exclude,literal)" + name for name in args.names]
    if read_text(".git", "cloned") == cloned and runs(["git", "diff", "--quiet", "HEAD", "--", ".", *spared]):
        print("nothing to do: this commit was cloned before", flush=True)
        return 0
    shutil.rmtree(".source", ignore_errors=True)
    steps = [
        ["git", "clone", "--quiet", "--recurse-submodules", "--", args.git, ".source"],
        ["git", "-C", ".source", "checkout", "--quiet", "--detach", args.ref],
        ["git", "-C", ".source", "submodule", "--quiet", "update", "--init", "--recursive"],
    ]
    for words in steps:
        code = subprocess.call(words, stdin=subprocess.DEVNULL)
        if code:
            return code
    for name in args.names:
        for made in below(name) if os.path.lexists(name) else ():
            remove(os.path.join(".source", made))
    shutil.rmtree(".git", ignore_errors=True)
    code = subprocess.call(["cp", "-a", ".source/.", "."])
    if code == 0:
        shutil.rmtree(".source", ignore_errors=True)
        with open(os.path.join(".git", "cloned"), "w") as file:
            file.write(cloned + "\n")
    return code


def prepare(args: argparse.Namespace) -> int:
    """Ask a machine to take a push: the file says which machine, of which folder, and which files come."""
    with open(args.file) as file:
        push = json.load(file)
    args.alias, args.root, args.ssh = push["machine"], push["root"], os.path.abspath(push["ssh"])
    process = ask_machine(args, ["receive", push["folder"]], plain=True, push=push)
    return passed_on(process)


def receive(args: argparse.Namespace) -> int:
    """The phase's folder for what is pushed next; what was pushed before and is gone at home goes here too.

    77 where the run's name is another plan's: its code may be running, and must not be written over.
    """
    push = GIVEN["push"]
    args.run, args.token = push.get("run", ""), push.get("token", "")
    if args.run and is_anothers(args.run, args.token):
        return launch(args, is_detached=True)  # which says why it is refused
    os.makedirs(args.folder, exist_ok=True)
    record = os.path.join(".runner", "pushed", args.folder.replace("/", "-") + ".json")
    os.makedirs(os.path.dirname(record), exist_ok=True)
    before, now = pushed_in(record), push["files"]
    for name, sums in before.items():
        if name not in now and os.path.isfile(name) and not os.path.islink(name):
            if checksum({"path": name, "size": size_of(name)}) in sums:
                remove(name)
    known = {name: sorted({*before.get(name, ()), digest}) for name, digest in now.items()}
    write_whole(record, json.dumps(known).encode())
    return 0


def pushed_in(record: str) -> "dict[str, list[str]]":
    """The files that were pushed, each with the checksums that it ever had; none where nothing is recorded."""
    try:
        with open(record) as file:
            return dict(json.load(file))
    except (OSError, ValueError):
        return {}


# -------------------------------------------------------------------------------- the command line


def add_verb(verbs, asked, function, /, *positional: str, **options: object):  # type: ignore[no-untyped-def]
    """What a verb takes: names of its place, then options by their defaults.

    Of the verbs only the one that is `asked` for is spelled out, since that takes longer than most answers.
    """
    if asked and function.__name__ not in asked:
        return argparse.ArgumentParser(add_help=False)
    made = verbs.add_parser(function.__name__, help=(function.__doc__ or "").partition("\n")[0])
    made.set_defaults(function=function)
    for name in positional:
        made.add_argument(name)
    for name, default in options.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(default, bool):
            made.add_argument(flag, action="store_true", dest=name)
        elif isinstance(default, list):
            made.add_argument(flag, action="append", default=[], dest=name)
        else:
            made.add_argument(flag, default=default, dest=name)
    return made


def parser(argv: "list[str]") -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="shim", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--root", default=None, help="the folder to which all paths are relative")
    verbs = parser.add_subparsers(dest="verb", required=True)

    asked = set() if {"-h", "--help"} & set(argv) else set(argv)
    verb = functools.partial(add_verb, verbs, asked)
    machine = {"ssh": "", "config": "", "option": []}  # type: dict[str, object]
    for begin in (start, run):
        verb(begin, "run", token="", venv="", adhoc=False).add_argument("words", nargs="*")
    reading = verb(log, "run", token="")
    reading.add_argument("--from", dest="start", type=int, default=0)
    reading.add_argument("--lines", type=int)
    for question in (state, health):
        verb(question, "run", token="")
    verb(stop, "run", token="", plain=False)
    verb(show, "run")
    verb(receive, "folder")
    verb(prepare, "file", **machine)
    verb(look, stamps=False, without=[], home=False)
    verb(files, "folder").add_argument("names", nargs="*")
    verb(send, "folder")
    verb(status, venv="", metrics="metrics.jsonl")
    verb(packages, "venv", uv="")
    verb(cuda)
    verb(reach)
    verb(follow, "alias", "run", **machine)
    verb(last, "alias", "run", **machine).add_argument("--lines", type=int, required=True)
    verb(fetch, "alias", "folder", **machine).add_argument("names", nargs="*")
    verb(ask, "alias", plain=False, **machine).add_argument("words", nargs="*")
    verb(secrets, file=[]).add_argument("names", nargs="*")
    given = dict.fromkeys(("uv_install", "python", "lock", "own", "data_done", "data_command"), "")
    verb(setup, "venv", uv="uv", cloned=False, override=[], **given).add_argument("words", nargs="*")
    verb(clone, "folder", "git", "ref", run="", token="").add_argument("names", nargs="*")
    return parser


# What is answered where the root is not there: no runs and no files, which was seen.
NOTHING = {
    "state": {"state": "absent"},
    "log": {"state": "absent"},
    "health": {"state": "absent"},
    "stop": {"state": "absent", "said": "there is no such run"},
    "files": {"origin": ""},
}  # type: dict[str, dict[str, object]]


def main(argv: "list[str]") -> int:
    """The exit code. Only `--root` is changed into; a root that is not there holds no runs and no files."""
    at = argv.index("--") if "--" in argv else len(argv)
    args = parser(argv[:at]).parse_args(argv[:at])
    for name in {"words", "names"} & set(vars(args)):
        setattr(args, name, [*getattr(args, name), *argv[at + 1 :]])  # as they are, whatever they begin with
    args.root = args.root or ("~/Fractal" if hasattr(args, "alias") else ".")
    root = os.path.expanduser(args.root)
    if args.verb in ("start", "setup", "clone", "receive"):
        os.makedirs(root, exist_ok=True)
    if getattr(args, "plain", False) and args.verb == "stop":
        GIVEN["plain"] = True
    if args.verb in ("follow", "fetch", "ask", "last", "prepare"):
        args.ssh = args.ssh and os.path.abspath(args.ssh)
        return int(args.function(args))  # there the root is the machine's
    if args.verb in ("reach", "cuda"):
        return int(args.function(args))
    args.root = os.path.abspath(root)  # it means the same once it is entered
    if os.path.isdir(root):
        os.chdir(root)
    elif not is_absent(root) or args.verb in ("run", "send", "show"):
        say("%s is no folder that can be entered" % args.root)
        return 66
    elif args.verb in NOTHING:
        answer_with(NOTHING[args.verb])
        return NO_RUN if args.verb == "stop" else 0
    return int(args.function(args))


def is_absent(path: str) -> bool:
    """Whether there is nothing of this name, rather than something that we may not see."""
    try:
        os.lstat(path)
    except OSError as error:
        return error.errno in (errno.ENOENT, errno.ENOTDIR)
    return False


GIVEN = globals().get("GIVEN", {})  # what came with the program: secrets, files, names

if __name__ == "__main__":
    try:
        sys.exit(main(globals().get("ARGV") or sys.argv[1:]))
    except BrokenPipeError:
        sys.exit(141)
    except KeyboardInterrupt:
        sys.exit(130)  # whoever pressed Ctrl-C knows why
    except FileNotFoundError as missing:
        if missing.filename != "ssh":
            raise
        say("ssh is not installed here")
        sys.exit(NOT_REACHED)
