"""The SSH server's first process: takes connections in, has a process for each, and one for each session on them.

    listener ── connection process: speaks SSH, proves the key (connection.py)      one for each TCP connection
            └── session process: speaks SFTP on a socket that the connection         one for each SFTP session
                process pumps from and to its channel

The listener alone forks, has no thread, and reads nothing from the network. A connection process asks it over a
socket pair, in lines of JSON: {"login": key, "user": name} when a key has proved itself, {"session": channel} together
with the descriptor that a session shall have.
"""

from __future__ import annotations

import errno
import gc
import json
import os
import selectors
import signal
import socket
import time
from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from lafscli.errors import LafsError
from lafscli.server.addresses import named, source
from lafscli.server.callers import Caller, Limits
from lafscli.server.keys import Key
from lafscli.server.record import Record

STOPPING = 1.8
"""Seconds for an orderly end of everything; then what is left is killed."""
FULL = b"too many connections here, try again later\r\n"  # RFC 4253 §4.2: a client shows such lines, or skips them
_MESSAGE = 4096
_NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class Listener:
    """Takes connections on sockets that listen already. All that is done for a client is done in other processes:
    `converse(socket, control, caller, keys)` speaks SSH, `session(descriptor, caller, key)` speaks SFTP."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        limits: Limits,
        record: Record,
        keys: Callable[[], dict[bytes, Key]],
        converse: Callable[[socket.socket, socket.socket, Caller, dict[bytes, Key]], None],
        session: Callable[[int, Caller, Key], None],
    ) -> None:
        self._sockets = list(sockets)
        self._limits = limits
        self._record = record
        self._load = keys
        self._keys = keys()
        self._converse = converse
        self._session = session
        self._callers: dict[int, Caller] = {}
        self._pids: dict[int, Caller] = {}
        self._waiting: list[Caller] = []
        self._count = 0
        self._asked: set[int] = set()
        self._unsaid: dict[str, tuple[float, int]] = {}
        self._selector = selectors.DefaultSelector()

    def run(self, ready: Callable[[], None]) -> int:
        """Serve until SIGTERM or SIGINT, whose number is the answer. `ready` is called when connections are taken."""
        with self._signals() as wake:
            self._selector.register(wake, selectors.EVENT_READ)
            for listening in self._sockets:
                listening.setblocking(False)
                self._selector.register(listening, selectors.EVENT_READ)
            gc.collect()
            gc.freeze()  # what is here now stays shared with all children
            ready()
            while not self._asked & {signal.SIGTERM, signal.SIGINT}:
                for chosen, _ in self._selector.select(1.0 if self._waiting else None):
                    if chosen.fileobj is wake:
                        drain(wake)
                    elif chosen.data is None:
                        assert isinstance(chosen.fileobj, socket.socket)
                        self._accept(chosen.fileobj)
                    elif chosen.data.control is not None:
                        self._hear(chosen.data)
                self._reap()
                self._admit()
                if signal.SIGHUP in self._asked:
                    self._asked.discard(signal.SIGHUP)
                    self._reload()
                if signal.SIGUSR1 in self._asked:
                    self._asked.discard(signal.SIGUSR1)
                    self._record.note(self._state())
            number = signal.SIGTERM if signal.SIGTERM in self._asked else signal.SIGINT
            self._end_all()
            return number

    # ---- connections

    def _accept(self, listening: socket.socket) -> None:
        """Take one in, or turn it away; whatever it is, the next one is not hurt."""
        try:
            taken, address = listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionError):
            return
        except OSError as error:
            self._tell("accept", f"can't take a connection: {error.strerror}")
            if error.errno in _NO_ROOM:
                time.sleep(0.05)  # it stays in the queue; somebody must end first
            return
        self._count += 1
        caller = Caller(self._count, named(address), source(address), time.monotonic(), taken)
        logged_in = sum(1 for each in self._callers.values() if each.key is not None)
        if logged_in >= self._limits.connections:
            self._turn_away(caller, f"{logged_in} connections are the most that were allowed")
            return
        if len(self._waiting) >= self._limits.connections:
            crowds = Counter(each.source for each in self._waiting)
            crowded, crowd = crowds.most_common(1)[0]
            if crowds[caller.source] + 1 >= crowd:
                self._turn_away(caller, f"{len(self._waiting)} wait for their login already")
                return
            loser = next(each for each in reversed(self._waiting) if each.source == crowded)
            self._waiting.remove(loser)
            self._turn_away(loser, f"{crowd} of its address wait for their login")
        self._waiting.append(caller)

    def _turn_away(self, caller: Caller, why: str) -> None:
        assert caller.taken is not None
        self._tell("crowd", f"turned away: {why}", caller)
        with caller.taken as leaving, suppress(OSError):
            leaving.setblocking(False)
            leaving.send(FULL)

    def _admit(self) -> None:
        """Begin with those who wait, oldest first, as many as may log in at once."""
        if not self._waiting:
            return
        busy = Counter(each.source for each in self._callers.values() if each.key is None)
        total = busy.total()
        now = time.monotonic()
        left = []
        for caller in self._waiting:
            if now >= caller.arrived + self._limits.login:
                self._turn_away(caller, "too many others were logging in")
            elif (
                total < self._limits.logging_in
                and busy[caller.source] < self._limits.per_address
                and len(self._callers) < self._limits.connections
            ):
                if self._begin(caller):
                    busy[caller.source] += 1
                    total += 1
            else:
                left.append(caller)
        self._waiting = left

    def _begin(self, caller: Caller) -> bool:
        """Give a connection its process; whether that went well."""
        taken = caller.taken
        assert taken is not None
        try:
            ours, theirs = socket.socketpair()
            pid = os.fork()
        except OSError as error:
            self._tell("fork", f"can't serve: {error.strerror}", caller)
            taken.close()
            return False
        if pid == 0:
            self._become("connection", caller, lambda: self._converse(taken, theirs, caller, self._keys), ours)
        taken.close()
        theirs.close()
        ours.setblocking(False)
        caller.taken, caller.control, caller.pid = None, ours, pid
        self._callers[caller.number] = caller
        self._pids[pid] = caller
        self._selector.register(ours, selectors.EVENT_READ, caller)
        return True

    # ---- what connection processes ask

    def _hear(self, caller: Caller) -> None:
        """Read what a connection process says; at its end the connection is over."""
        assert caller.control is not None
        try:
            data, descriptors, _, _ = socket.recv_fds(caller.control, _MESSAGE, 8)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data, descriptors = b"", []
        caller.descriptors += descriptors
        caller.heard += data
        *lines, caller.heard = caller.heard.split(b"\n")
        if not data or len(caller.heard) > _MESSAGE:
            self._forget(caller)
            return
        try:
            for line in lines:
                self._obey(caller, json.loads(line))
        except ValueError:
            self._record.note("ended: its process talks nonsense", **_about(caller))
            self._forget(caller)

    def _obey(self, caller: Caller, message: dict[str, Any]) -> None:
        if "login" in message and caller.key is None:
            caller.key = self._keys.get(b64decode(message["login"]))
            if caller.key is None:  # it was taken away meanwhile
                self._forget(caller)
            elif self._greedy(caller.key):
                self._tell("greedy", "ended: its key has as many connections as one of several keys may have", caller)
                self._forget(caller)
        elif "session" in message and caller.descriptors:
            descriptor = caller.descriptors.pop(0)
            key = caller.key
            if key is not None and len(caller.sessions) < self._limits.sessions:
                self._begin_session(caller, key, descriptor)
            os.close(descriptor)

    def _greedy(self, key: Key) -> bool:
        """Whether one key has so many connections that too few are left for the others."""
        several = len(self._keys) > 1 and self._limits.connections > 1
        most = self._limits.connections - max(1, self._limits.connections // 4) * several
        return sum(each.key == key for each in self._callers.values()) > most

    def _begin_session(self, caller: Caller, key: Key, descriptor: int) -> None:
        try:
            pid = os.fork()
        except OSError as error:
            self._tell("fork", f"can't serve: {error.strerror}", caller)
            return
        if pid == 0:
            self._become("session", caller, lambda: self._session(descriptor, caller, key))
        caller.sessions.add(pid)
        self._pids[pid] = caller

    def _become(self, what: str, caller: Caller, work: Callable[[], None], *mine: socket.socket) -> None:
        """In a new process: let go of all that is the listener's, do the work, end. Never returns."""
        code = 70
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
                signal.signal(number, signal.SIG_IGN)  # of a terminal, and of whoever means the listener
            for number in (signal.SIGTERM, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            self._selector.close()
            others = [each.control for each in self._callers.values()] + [each.taken for each in self._waiting]
            for each in [*self._sockets, *mine, *others]:
                if each is not None and each is not caller.taken:
                    each.close()
            for each in (self._hear_wake, self._say_wake):
                each.close()
            for descriptor in (number for each in self._callers.values() for number in each.descriptors):
                os.close(descriptor)
            work()
            code = 0
        except Exception as error:
            self._record.note(f"a {what} process failed: {type(error).__name__}: {error}", **_about(caller))
        finally:
            os._exit(code)

    # ---- ends

    def _reap(self) -> None:
        """Take note of the processes that have ended."""
        self._asked.discard(signal.SIGCHLD)
        while self._pids:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            caller = self._pids.pop(pid, None)
            if caller is None:
                continue
            caller.sessions.discard(pid)
            if os.WIFSIGNALED(status) and os.WTERMSIG(status) != signal.SIGTERM:
                what = "connection" if pid == caller.pid else "session"
                name = signal.Signals(os.WTERMSIG(status)).name
                self._record.note(f"the process of a {what} was ended by {name}", **_about(caller))
            if pid == caller.pid:
                self._forget(caller)

    def _forget(self, caller: Caller) -> None:
        """The connection process has ended or hung up; sessions end by themselves, their socket being closed."""
        if caller.control is not None:
            self._selector.unregister(caller.control)
            caller.control.close()
            caller.control = None
        for descriptor in caller.descriptors:
            os.close(descriptor)
        caller.descriptors.clear()
        self._callers.pop(caller.number, None)

    def _reload(self) -> None:
        """Read the keys anew; where that can't be the old ones stay. Connections of keys that are gone, or may do
        other things now, are ended."""
        try:
            self._keys = self._load()
        except LafsError as error:
            self._record.note(f"the keys stay as they were: {error.message}")
            return
        self._record.note(f"keys read: {len(self._keys)} may log in")
        for caller in list(self._callers.values()):
            if caller.key is not None and self._keys.get(caller.key.blob) != caller.key:
                self._record.note("ended: its key has changed or is gone", **_about(caller))
                for pid in caller.sessions:
                    _signal(pid, signal.SIGTERM)
                self._forget(caller)

    def _end_all(self) -> None:
        """Stop taking connections, ask all processes to end, and see to it that they do."""
        deadline = time.monotonic() + STOPPING
        for listening in self._sockets:
            self._selector.unregister(listening)
            listening.close()
        for caller in self._waiting:
            if caller.taken is not None:
                caller.taken.close()
        sessions = [pid for pid, caller in self._pids.items() if pid != caller.pid]
        for pid in sessions:
            _signal(pid, signal.SIGTERM)
        # the connection processes end when we hang up; before that they pass on what the sessions have to say
        while self._pids and (left := deadline - time.monotonic()) > 0:
            if not any(pid in self._pids for pid in sessions) or left < STOPPING / 4:
                for caller in list(self._callers.values()):
                    self._forget(caller)
            self._selector.select(min(left, 0.05))
            drain(self._hear_wake)
            self._reap()
        for pid in self._pids:
            _signal(pid, signal.SIGKILL)
        while self._pids:
            with suppress(ChildProcessError):
                os.waitpid(self._pids.popitem()[0], 0)
        self._record.note("stopped")

    # ---- words

    def _state(self) -> str:
        logged_in = [each for each in self._callers.values() if each.key is not None]
        sessions = sum(len(each.sessions) for each in logged_in)
        waiting = len(self._waiting) + len(self._callers) - len(logged_in)
        return f"{len(logged_in)} connections with {sessions} sessions, {waiting} not logged in, {self._count} so far"

    def _tell(self, kind: str, what: str, caller: Caller | None = None) -> None:
        """Note what may happen very often: at most once a second of each kind, with how many were left out."""
        now = time.monotonic()
        last, unsaid = self._unsaid.get(kind, (0.0, 0))
        if now < last + 1:
            self._unsaid[kind] = last, unsaid + 1
            return
        self._unsaid[kind] = now, 0
        more = f" ({unsaid} times more before)" if unsaid else ""
        self._record.note(what + more, **(_about(caller) if caller is not None else {}))

    # ---- signals

    @contextmanager
    def _signals(self) -> Iterator[socket.socket]:
        """While it runs, signals are remembered, and wake the loop through a socket."""
        self._hear_wake, self._say_wake = socket.socketpair()
        for each in (self._hear_wake, self._say_wake):
            each.setblocking(False)

        def remember(number: int, _: FrameType | None) -> None:
            self._asked.add(number)

        numbers = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD]
        before = {number: signal.signal(number, remember) for number in numbers}
        woken = signal.set_wakeup_fd(self._say_wake.fileno(), warn_on_full_buffer=False)
        try:
            yield self._hear_wake
        finally:
            signal.set_wakeup_fd(woken)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._hear_wake.close()
            self._say_wake.close()


def drain(wake: socket.socket) -> None:
    """Take what woke us off a socket that does not block."""
    with suppress(BlockingIOError):
        while wake.recv(_MESSAGE):
            pass


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _about(caller: Caller) -> dict[str, Any]:
    key = caller.key.fingerprint if caller.key is not None else ""
    return {"peer": caller.peer, "connection": caller.number, "key": key}
