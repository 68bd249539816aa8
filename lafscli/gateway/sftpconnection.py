"""One SSH connection of the SFTP gateway: an account, and the SFTP conversations on its channels, a thread for each."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from lafscli.errors import LafsError
from lafscli.gateway.accounts import Account
from lafscli.gateway.gridfiles import GridFiles, Shared, root_of
from lafscli.gateway.refusals import said_of
from lafscli.server.callers import Limits
from lafscli.server.daemon import Channel, SshSide
from lafscli.server.hostkey import HostKey
from lafscli.server.keys import Key
from lafscli.server.session import serve
from lafscli.server.streams import Buffer
from lafscli.storage.packets import escaped

_SLICE = 0.25
"""Seconds between two looks whether the conversation is to end."""
_PIECE = 256 * 1024
_LINES = 100
_LONGEST = 500
_PATIENCE = 1.0
_TAKES_NOTHING = 600.0
"""Seconds after which a client is given up that takes none of its answers."""


class ChannelStream:
    """The bytes of a conversation over a channel; a Stream. `timeout`: for how long a client may take nothing."""

    def __init__(self, channel: Channel, *, timeout: float) -> None:
        self._channel = channel
        self._timeout = timeout
        self._closed = False
        self._told = 0
        self.ending = False
        """Set from outside: the client seems to be at its end, as soon as no request is under way."""

    def receive_into(self, buffer: memoryview, timeout: float | None) -> int | None:
        until = None if timeout is None else time.monotonic() + timeout
        while not self.ending:
            left = _SLICE if until is None else min(_SLICE, until - time.monotonic())
            self._channel.settimeout(max(left, 0.0))
            try:
                data = self._channel.recv(min(len(buffer), _PIECE))
            except TimeoutError:
                if until is not None and time.monotonic() >= until:
                    return None
                continue
            buffer[: len(data)] = data
            return len(data)
        return 0

    def send(self, parts: Sequence[Buffer]) -> None:
        self._channel.settimeout(self._timeout)
        for part in parts:
            self._channel.sendall(bytes(part))

    def tell(self, line: str) -> None:
        """A line for people besides the answers: many clients show of a refusal its status alone. Not too many of
        them: who does not read them has less and less room for answers."""
        self._told += 1
        if self._told <= _LINES:
            self._channel.settimeout(_PATIENCE)
            with suppress(Exception):
                self._channel.sendall_stderr(f"lafs: {escaped(line, _LONGEST)}\n".encode())

    def close(self, status: int = 0) -> None:
        if not self._closed:
            self._closed = True
            with suppress(Exception):  # the connection is lost, in whatever way paramiko says that
                self._channel.send_exit_status(status)
            with suppress(Exception):
                self._channel.close()


class Connection(SshSide):
    """`find` knows the accounts; `came` hears of the login, and says whether the connection may stay."""

    def __init__(
        self,
        taken: socket.socket,
        shared: Shared,
        host_key: HostKey,
        limits: Limits,
        note: Callable[..., None],
        find: Callable[[str, bytes], Account | None],
        came: Callable[[Connection], bool],
    ) -> None:
        super().__init__(taken, time.monotonic(), host_key, limits, note)
        self._shared = shared
        self._find = find
        self._came = came
        self._asked: Account | None = None
        self.account: Account | None = None
        self._end = threading.Event()
        self._streams: list[ChannelStream] = []

    def end(self) -> None:
        """Hang up, when the requests under way are done; in half a second at the latest."""
        self._end.set()
        for stream in list(self._streams):
            stream.ending = True

    # ---- asked by the SSH side

    def admits(self, user: str, blob: bytes) -> Key | None:
        self._asked = self._find(user, blob)
        return None if self._asked is None else self._asked.key

    def logged_in(self, key: Key) -> None:  # noqa: ARG002
        self.account = self._asked
        if not self._came(self):
            self.end()

    def hung_up(self, seconds: float) -> bool:
        return self._end.wait(seconds)

    def end_sessions(self) -> None:
        for stream in list(self._streams):
            stream.ending = True

    def converse(self, channel: Channel) -> bool:
        account = self._asked
        if account is None or self._end.is_set():
            return False
        threading.Thread(target=self._session, args=(channel, account), daemon=True).start()
        return True

    # ---- a conversation

    def _session(self, channel: Channel, account: Account) -> None:
        def note(line: str) -> None:
            self._note(f"{account.name}: {line}", key=account.key.fingerprint)

        stream = ChannelStream(channel, timeout=min(self._limits.idle, _TAKES_NOTHING))
        self._streams.append(stream)

        def told(line: str) -> None:
            note(line)
            stream.tell(line)

        try:
            backend = GridFiles(self._shared, account.name, root_of(self._shared.desk, account), told)
            serve(stream, backend, idle=self._limits.idle, note=note)
        except LafsError as error:
            told(f"the directory of this account can't be opened: {said_of(error)}")
            stream.close(1)
        finally:
            stream.close()
            self._streams.remove(stream)
            self.over(channel.get_id())
