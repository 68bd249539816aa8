"""The SFTP gateway: takes SSH connections in, a thread for each, until a signal says to end.

All of them share one Desk. SIGHUP: the accounts are read again; SIGUSR1: a line of log on what is there.
"""

from __future__ import annotations

import selectors
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType

from lafscli.errors import LafsError
from lafscli.gateway.accounts import Account, Accounts
from lafscli.gateway.desk import Desk
from lafscli.gateway.gridfiles import Shared
from lafscli.gateway.sftpconnection import Connection
from lafscli.server import daemon
from lafscli.server.addresses import listening, named, source
from lafscli.server.callers import Limits
from lafscli.server.hostkey import HostKey
from lafscli.server.listener import FULL, drain
from lafscli.server.record import Record

STOPPING = 1.5
"""Seconds for an orderly end of the connections."""


class SftpGateway:
    """The accounts of `load`, their connections. Nothing listens before `run`."""

    def __init__(
        self, desk: Desk, load: Callable[[], Accounts], limits: Limits, record: Record, host_key: HostKey
    ) -> None:
        self._desk = desk
        self._shared = Shared.of(desk)
        self._load = load
        self._limits = limits
        self._record = record
        self._host_key = host_key
        self._accounts = load()
        self._lock = threading.Lock()
        self._connections: dict[Connection, str] = {}
        self._threads: set[threading.Thread] = set()
        self._count = 0
        self._asked: set[int] = set()

    def run(self, host: str, port: int, ready: Callable[[list[str]], None]) -> int:
        """Serve until SIGTERM or SIGINT, whose number is the answer; `ready` hears the addresses that are listened at.
        LafsError where that can't begin."""
        daemon.prepare()
        sockets = listening(host, port)
        try:
            with self._signals() as wake, selectors.DefaultSelector() as selector:
                for each in (wake, *sockets):
                    each.setblocking(False)
                    selector.register(each, selectors.EVENT_READ)
                self._desk.connect()
                ready([named(each.getsockname()) for each in sockets])
                while not self._asked & {signal.SIGTERM, signal.SIGINT}:
                    for chosen, _ in selector.select():
                        assert isinstance(chosen.fileobj, socket.socket)
                        if chosen.fileobj is wake:
                            drain(wake)
                        else:
                            self._accept(chosen.fileobj)
                    self._obey()
                return signal.SIGTERM if signal.SIGTERM in self._asked else signal.SIGINT
        finally:
            for each in sockets:
                each.close()
            self._end_all()

    @property
    def names(self) -> list[str]:
        """Of the accounts, each once."""
        return sorted({name for name, _ in self._accounts})

    # ---- connections

    def _accept(self, listener: socket.socket) -> None:
        """Take one in, or turn it away; whatever it is, the next one is not hurt."""
        try:
            taken, address = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionError):
            return
        except OSError as error:
            self._record.note(f"can't take a connection: {error.strerror}")
            time.sleep(0.05)  # it stays in the queue; somebody must end first
            return
        self._count += 1
        peer, whose, number = named(address), source(address), self._count
        with self._lock:
            waiting = Counter(each for known, each in self._connections.items() if known.account is None)
        if waiting.total() >= self._limits.logging_in or waiting[whose] >= self._limits.per_address:
            self._record.note("turned away: too many log in at once", peer=peer, connection=number)
            with taken, suppress(OSError):
                taken.setblocking(False)
                taken.send(FULL)
            return
        thread = threading.Thread(target=self._serve, args=(taken, peer, whose, number), daemon=True)
        self._threads.add(thread)
        thread.start()

    def _serve(self, taken: socket.socket, peer: str, whose: str, number: int) -> None:
        """The work of a connection's thread."""
        note = partial(self._record.note, peer=peer, connection=number)
        connection: Connection | None = None
        try:
            connection = Connection(taken, self._shared, self._host_key, self._limits, note, self._find, self._came)
            with self._lock:
                self._connections[connection] = whose
            if not self._asked & {signal.SIGTERM, signal.SIGINT}:
                connection.run()
        except Exception as error:
            note(f"a connection failed: {type(error).__name__}")
        finally:
            with self._lock:
                if connection is not None:
                    self._connections.pop(connection, None)
                self._threads.discard(threading.current_thread())

    def _find(self, user: str, blob: bytes) -> Account | None:
        return self._accounts.get((user, blob))

    def _came(self, connection: Connection) -> bool:
        """Whether one that has logged in may stay: its account must not have gone meanwhile, nor be here too often."""
        account = connection.account
        with self._lock:
            inside = [each.account.name for each in self._connections if each.account is not None]
        if account is None or self._find(account.name, account.key.blob) != account:
            return False
        several = len({name for name, _ in self._accounts}) > 1 and self._limits.connections > 1
        most = self._limits.connections - max(1, self._limits.connections // 4) * several
        if len(inside) > self._limits.connections or inside.count(account.name) > most:
            self._record.note(f"{account.name}: ended: too many connections", key=account.key.fingerprint)
            return False
        return True

    # ---- signals, and the end

    def _obey(self) -> None:
        if signal.SIGHUP in self._asked:
            self._asked.discard(signal.SIGHUP)
            self._reload()
        if signal.SIGUSR1 in self._asked:
            self._asked.discard(signal.SIGUSR1)
            with self._lock:
                inside = sum(each.account is not None for each in self._connections)
                waiting = len(self._connections) - inside
            storing = sum(line.state == "under way" for line in self._desk.recent.lines())
            self._record.note(
                f"{inside} connections, {waiting} not logged in, {self._count} so far; {storing} files are being stored"
            )

    def _reload(self) -> None:
        """Read the accounts anew; where that can't be the old ones stay. Connections of accounts that are gone, or have
        another directory now, are ended."""
        try:
            self._accounts = self._load()
        except LafsError as error:
            self._record.note(f"the accounts stay as they were: {error.message}")
            return
        self._record.note(f"accounts read: {len(self._accounts)}")
        with self._lock:
            known = list(self._connections)
        for each in known:
            account = each.account
            if account is not None and self._find(account.name, account.key.blob) != account:
                self._record.note(f"{account.name}: ended: its account has changed or is gone")
                each.end()

    def _end_all(self) -> None:
        """Hang up on all, and wait a moment for what is under way."""
        deadline = time.monotonic() + STOPPING
        with self._lock:
            connections, threads = list(self._connections), list(self._threads)
        for each in connections:
            each.end()
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._record.note("stopped")

    @contextmanager
    def _signals(self) -> Iterator[socket.socket]:
        """While it runs, signals are remembered, and wake the loop through a socket."""
        hear, say = socket.socketpair()
        say.setblocking(False)

        def remember(number: int, _: FrameType | None) -> None:
            self._asked.add(number)

        numbers = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1]
        before = {number: signal.signal(number, remember) for number in numbers}
        woken = signal.set_wakeup_fd(say.fileno(), warn_on_full_buffer=False)
        try:
            yield hear
        finally:
            signal.set_wakeup_fd(woken)
            for number, handler in before.items():
                signal.signal(number, handler)
            hear.close()
            say.close()
