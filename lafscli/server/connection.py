"""One connection of the SSH server, in a process of its own.

Two threads pump the bytes of a session between its channel and a socket, at whose other end another process speaks
SFTP. So this process has the cryptography, that one the files, and neither waits for the other.
"""

from __future__ import annotations

import json
import resource
import select
import socket
import threading
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from lafscli.server.callers import Caller, Limits
from lafscli.server.daemon import Channel, SshSide
from lafscli.server.hostkey import HostKey
from lafscli.server.keys import Key

_PIECE = 256 * 1024
_MEMORY = 256 * 1024 * 1024
"""Of data in this process: what a client sends past all that we look at ends its own connection."""
_STACK = 512 * 1024


class Connection(SshSide):
    """A connection whose sessions other processes have: the work of a connection process."""

    def __init__(
        self,
        taken: socket.socket,
        control: socket.socket,
        caller: Caller,
        allowed: dict[bytes, Key],
        host_key: HostKey,
        limits: Limits,
        note: Callable[..., None],
    ) -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, resource.getrlimit(resource.RLIMIT_DATA)[1]))
        threading.stack_size(_STACK)
        super().__init__(taken, caller.arrived, host_key, limits, note)
        self._control = control
        self._allowed = allowed
        self._sessions: dict[int, socket.socket] = {}
        self._listener_gone = select.poll()
        self._listener_gone.register(control, select.POLLIN)

    def admits(self, user: str, blob: bytes) -> Key | None:  # noqa: ARG002
        return self._allowed.get(blob)

    def logged_in(self, key: Key) -> None:
        self._say({"login": b64encode(key.blob).decode()})

    def hung_up(self, seconds: float) -> bool:
        return bool(self._listener_gone.poll(1000 * seconds))

    def end_sessions(self) -> None:
        with self._lock:
            for session in self._sessions.values():
                with suppress(OSError):
                    session.shutdown(socket.SHUT_RDWR)

    def converse(self, channel: Channel) -> bool:
        """Ask the listener for a process, and pump between it and the channel."""
        ours, theirs = socket.socketpair()
        with self._lock:
            self._sessions[channel.get_id()] = ours
        with theirs:
            if not self._say({"session": channel.get_id()}, theirs):
                return False
        for pump in (self._up, self._down):
            threading.Thread(target=pump, args=(channel, ours), daemon=True).start()
        return True

    def _say(self, message: dict[str, Any], *descriptors: socket.socket) -> bool:
        line = json.dumps(message).encode() + b"\n"
        with self._lock:
            try:
                socket.send_fds(self._control, [line], [each.fileno() for each in descriptors])
            except OSError:
                return False
        return True

    # ---- pumps

    def _up(self, channel: Channel, ours: socket.socket) -> None:
        """What the client sends, to the session."""
        with suppress(OSError, EOFError):
            while data := channel.recv(_PIECE):
                ours.sendall(data)
        with suppress(OSError):
            ours.shutdown(socket.SHUT_WR)

    def _down(self, channel: Channel, ours: socket.socket) -> None:
        """What the session answers, to the client; at its end the channel is closed."""
        with suppress(Exception):  # the connection is lost, in whatever way paramiko says that
            while data := ours.recv(_PIECE):
                channel.sendall(data)
            channel.send_exit_status(0)
        with suppress(Exception):
            channel.close()
        self.over(channel.get_id())

    def over(self, number: int) -> None:
        with self._lock:
            ours = self._sessions.pop(number, None)
        super().over(number)
        if ours is not None:
            with suppress(OSError):
                ours.shutdown(socket.SHUT_RDWR)
            ours.close()
