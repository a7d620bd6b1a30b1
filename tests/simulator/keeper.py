"""The process that owns one machine: boots and ends it, and is the link to its sshd.

Started by machine.py with one JSON argument, see `Orders`. Reads one JSON order a line from stdin
and answers each with one JSON line on stdout; a line with "event" comes unasked. When stdin ends,
for instance because the test was killed, the machine and everything in it ends too.

It runs as a file of its own, so it imports nothing of this package.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import shutil
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

CHUNK = 1 << 18
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
PR_SET_CHILD_SUBREAPER = 36
CLONE_NEWNET = 0x40000000
BOOT_LIMIT_S = 60.0
POWER_WORDS = {64: "poweroff", 65: "reboot"}


@dataclass(frozen=True)
class Orders:
    """What machine.py asks for: the command that boots, and where to listen and to relay to."""

    command: list[str]
    folder: str
    address: str
    port: int
    sshd_address: str
    sshd_port: int
    own_network: bool
    remove_folder: bool


def setns_network(fd: int) -> None:
    """Put this thread into the network namespace behind fd (os.setns came with Python 3.12)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def adopt_orphans() -> None:
    """Become the parent of every descendant whose parent ends, so that all of them can be ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants(pid: int) -> list[int]:
    """Return the ids of all processes below pid; empty where there is no /proc."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_bytes().rpartition(b")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found, queue = [], [pid]
    while queue:
        queue += (below := children.get(queue.pop(), []))
        found += below
    return found


def kill(pid: int) -> None:
    """Send SIGKILL to a process that may be gone already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@dataclass(eq=False)
class Half:
    """One direction of a relayed connection."""

    source: socket.socket
    sink: socket.socket
    pending: memoryview = field(default_factory=lambda: memoryview(b""))
    ended: bool = False

    def pump(self) -> int:
        """Move what needs no waiting and return the number of bytes; OSError: broken."""
        moved = 0
        for _ in range(8):
            if not self.pending and not self._read():
                break
            try:
                sent = self.sink.send(self.pending)
            except BlockingIOError:
                break
            moved += sent
            self.pending = self.pending[sent:]
        return moved

    def _read(self) -> bool:
        if self.ended:
            return False
        try:
            data = self.source.recv(CHUNK)
        except BlockingIOError:
            return False
        if not data:
            self.ended = True
            self.sink.shutdown(socket.SHUT_WR)
        self.pending = memoryview(data)
        return bool(data)


@dataclass(eq=False)
class Connection:
    """A client of the machine's sshd; `server` is None once the machine fell silent."""

    client: socket.socket
    server: socket.socket | None
    halves: tuple[Half, ...] = ()

    def sockets(self) -> list[socket.socket]:
        return [self.client] + ([self.server] if self.server else [])

    def interest(self, sock: socket.socket) -> int:
        """Return the selector's mask for one of the two sockets."""
        mask = 0
        for half in self.halves:
            if half.source is sock and not half.pending and not half.ended:
                mask |= selectors.EVENT_READ
            if half.sink is sock and half.pending:
                mask |= selectors.EVENT_WRITE
        return mask

    def over(self) -> bool:
        return all(half.ended and not half.pending for half in self.halves)


class Link:
    """Relays TCP from the machine's address to its sshd, and can be cut, healed and reset."""

    def __init__(self, selector: selectors.BaseSelector, listener: socket.socket) -> None:
        self.selector = selector
        self.listener = listener
        self.connections: list[Connection] = []
        self.connect: Callable[[], socket.socket] | None = None
        self.is_cut = False
        self.num_bytes = 0
        self.num_accepted = 0

    def open(self, connect: Callable[[], socket.socket]) -> None:
        """Accept from now on; `connect` reaches sshd. Old silent clients are reset."""
        for connection in [c for c in self.connections if c.server is None]:
            self._close(connection, reset=True)
        self.connect = connect
        self.listener.listen(128)
        self._watch_all()

    def shut(self) -> None:
        """Refuse new connections and forget sshd; connections end as sshd's end makes them."""
        self.connect = None
        self._set(self.listener, 0, None)
        address = self.listener.getsockname()
        self.listener.close()
        self.listener = bound(*address[:2])

    def silence(self) -> None:
        """Let every connection hang for ever, and also the new ones, as when power fails."""
        for connection in self.connections:
            for sock in connection.sockets():
                self._set(sock, 0, connection)
            if connection.server is not None:
                connection.server.close()
            connection.server, connection.halves = None, ()
        self.connect = None

    def cut(self) -> None:
        """Relay nothing more, close nothing."""
        self.is_cut = True
        self._watch_all()

    def heal(self) -> None:
        """Go on as if the cut had only been a long delay."""
        self.is_cut = False
        self._watch_all()

    def reset(self) -> None:
        """End every connection with a reset at both ends."""
        for connection in list(self.connections):
            self._close(connection, reset=True)

    def accept(self) -> None:
        """Take one client and connect it; when sshd refuses, the client is reset."""
        if self.is_cut:
            return
        client = self.listener.accept()[0]
        self.num_accepted += 1
        connection = Connection(client, None)
        self.connections.append(connection)
        if self.connect is None:
            return
        try:
            server = self.connect()
        except OSError:
            self._close(connection, reset=True)
            return
        for sock in (client, server):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.server = server
        connection.halves = (Half(client, server), Half(server, client))
        self._watch(connection)

    def relay(self, connection: Connection) -> None:
        """Move bytes in both directions; close what is over or broken. A late event does nothing."""
        if self.is_cut or connection.server is None:
            return
        try:
            for half in connection.halves:
                self.num_bytes += half.pump()
        except OSError:
            self._close(connection, reset=True)
            return
        if connection.over():
            self._close(connection, reset=False)
        else:
            self._watch(connection)

    def _close(self, connection: Connection, reset: bool) -> None:
        for sock in connection.sockets():
            self._set(sock, 0, connection)
            if reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            sock.close()
        self.connections.remove(connection)

    def _watch_all(self) -> None:
        self._set(self.listener, 0 if self.is_cut else selectors.EVENT_READ, None)
        for connection in self.connections:
            self._watch(connection)

    def _watch(self, connection: Connection) -> None:
        for sock in connection.sockets():
            self._set(sock, 0 if self.is_cut else connection.interest(sock), connection)

    def _set(self, sock: socket.socket, mask: int, connection: Connection | None) -> None:
        known = self.selector.get_map().get(sock)
        if known is None and mask:
            self.selector.register(sock, mask, connection)
        elif known is not None and not mask:
            self.selector.unregister(sock)
        elif known is not None and known.events != mask:
            self.selector.modify(sock, mask, connection)


def bound(address: str, port: int) -> socket.socket:
    """Return a socket that holds address:port; until it listens, clients are refused."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((address, port))
    return sock


class Keeper:
    """Carries out the orders of one machine."""

    def __init__(self, orders: Orders) -> None:
        self.orders = orders
        self.selector = selectors.DefaultSelector()
        self.link = Link(self.selector, bound(orders.address, orders.port))
        self.pid = 0
        self.wake, wake_writer = socket.socketpair()
        wake_writer.setblocking(False)
        signal.set_wakeup_fd(wake_writer.fileno())
        self._wake_writer = wake_writer
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        if orders.own_network:
            self.own_network_fd = os.open("/proc/self/ns/net", os.O_RDONLY)

    def serve(self) -> None:
        """Work until stdin ends or a signal asks to stop; then end the machine."""
        self.selector.register(sys.stdin.fileno(), selectors.EVENT_READ, "stdin")
        self.selector.register(self.wake, selectors.EVENT_READ, "wake")
        say(ready=True)
        lines = bytearray()
        while True:
            for key, _ in self.selector.select():
                if key.data == "stdin":
                    data = os.read(key.fd, 65536)
                    if not data:
                        self.close()
                        return
                    lines += data
                    self._obey_all(lines)
                elif key.data == "wake":
                    if self._woken():
                        self.close()
                        return
                elif key.fileobj is self.link.listener:
                    self.link.accept()
                elif isinstance(key.data, Connection) and key.data in self.link.connections:
                    self.link.relay(key.data)

    def close(self) -> None:
        """End the machine, and remove its folder if that was ordered."""
        self.halt()
        if self.orders.remove_folder:
            shutil.rmtree(self.orders.folder, ignore_errors=True)

    def boot(self) -> dict[str, object]:
        """Start the machine and wait until its sshd greets; return the id of its first process."""
        if not self.pid:
            self.pid = self._spawn()
            self._await_greeting()
            self.link.open(self._connect)
        below = descendants(self.pid)
        return {"pid": below[0] if below else self.pid}

    def halt(self, silently: bool = False) -> dict[str, object]:
        """End every process of the machine; silently: its connections hang instead of closing."""
        if silently:
            self.link.silence()
        if self.pid:
            self.pid = 0
            self._end_all()
        if not silently:
            self._drain()
            self.link.shut()
        return {}

    def reboot(self) -> dict[str, object]:
        self.halt()
        return self.boot()

    def cut(self) -> dict[str, object]:
        self.link.cut()
        return {}

    def heal(self) -> dict[str, object]:
        self.link.heal()
        return {}

    def reset(self) -> dict[str, object]:
        self.link.reset()
        return {}

    def stats(self) -> dict[str, object]:
        """Return how many connections are open, were accepted, and the bytes that were relayed."""
        link = self.link
        counts = {"connections": len(link.connections), "accepted": link.num_accepted}
        return {**counts, "bytes": link.num_bytes}

    def _obey_all(self, lines: bytearray) -> None:
        while (end := lines.find(b"\n")) >= 0:
            order = json.loads(lines[:end])
            del lines[: end + 1]
            try:
                say(done=getattr(self, order.pop("do"))(**order))
            except (OSError, RuntimeError) as error:
                say(error=str(error))

    def _woken(self) -> bool:
        """Collect ended processes; return whether a signal asked to stop."""
        numbers = self.wake.recv(4096)
        for pid, status in reap():
            if pid == self.pid:
                self.pid = 0
                self._ended_by_itself(os.waitstatus_to_exitcode(status))
        return any(number in numbers for number in (signal.SIGTERM, signal.SIGINT))

    def _ended_by_itself(self, exit_code: int) -> None:
        word = POWER_WORDS.get(exit_code, f"exit {exit_code}")
        self._end_all()
        self.halt()
        say(event=word, **(self.boot() if word == "reboot" else {}))

    def _end_all(self) -> None:
        """Kill what descends from this process, which is the machine, until nothing is left."""
        while below := descendants(os.getpid()):
            for pid in below:
                kill(pid)
            time.sleep(0.002)
            reap()

    def _drain(self) -> None:
        """Deliver what sshd sent with its last breath, unless the link is cut."""
        if not self.link.is_cut:
            for connection in list(self.link.connections):
                self.link.relay(connection)

    def _connect(self, limit_s: float = 5.0) -> socket.socket:
        """Connect to sshd: a socket stays in the network namespace in which it was made."""
        sock = self._socket_inside() if self.orders.own_network else socket.socket()
        try:
            sock.settimeout(limit_s)
            sock.connect((self.orders.sshd_address, self.orders.sshd_port))
        except OSError:
            sock.close()
            raise
        return sock

    def _socket_inside(self) -> socket.socket:
        fd = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY)
        try:
            if os.path.sameopenfile(fd, self.own_network_fd):
                raise ConnectionRefusedError("the machine has no network yet")
            setns_network(fd)
            try:
                return socket.socket()
            finally:
                setns_network(self.own_network_fd)
        finally:
            os.close(fd)

    def _spawn(self) -> int:
        console = str(Path(self.orders.folder, "console.log"))
        append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        files = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]
        files += [(os.POSIX_SPAWN_OPEN, fd, console, append, 0o600) for fd in (1, 2)]
        command = self.orders.command
        return os.posix_spawnp(command[0], command, os.environ, file_actions=files)

    def _await_greeting(self) -> None:
        deadline = time.monotonic() + BOOT_LIMIT_S
        while time.monotonic() < deadline:
            if any(pid == self.pid for pid, _ in reap()):
                self.pid = 0
                break
            try:
                with self._connect(limit_s=5.0) as sock:
                    if sock.recv(8).startswith(b"SSH-2.0"):
                        return
            except OSError:
                time.sleep(0.005)
        console = Path(self.orders.folder, "console.log").read_text(errors="replace")
        raise RuntimeError("the machine did not boot:\n" + console[-2000:])


def reap() -> list[tuple[int, int]]:
    """Collect all ended children; return (process id, wait status) of each."""
    ended: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended.append((pid, status))


def say(**words: object) -> None:
    """Write one line for machine.py; nobody listening is no reason to fail."""
    with contextlib.suppress(BrokenPipeError):
        os.write(sys.stdout.fileno(), json.dumps(words).encode() + b"\n")


def main() -> None:
    """Obey until stdin ends."""
    orders = Orders(**json.loads(sys.argv[1]))
    adopt_orphans()
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        keeper = Keeper(orders)
    except OSError as error:
        say(error=str(error))
    else:
        keeper.serve()


if __name__ == "__main__":
    main()
