"""Closing a connection while another thread waits for it."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from contextlib import suppress

from lafscli.errors import ServerUnreachable


class Turn:
    """Whose turn it is: the one thread that calls (`with turn:`) touches the connection, whoever closes wakes it.

    So nobody closes a descriptor that another thread waits for, and whose number could be taken again.
    """

    def __init__(self, shut: Callable[[], None], name: str) -> None:
        self._name = name
        self._shut = shut
        self._taken = False
        self._closing = False
        self._alarm: tuple[socket.socket, socket.socket] | None = None

    def __enter__(self) -> None:
        self._taken = True
        if self._closing:
            self._taken = False
            raise ServerUnreachable("the connection was closed", server=self._name)

    def __exit__(self, *_: object) -> None:
        self._taken = False
        if self._closing:
            self._end()

    def close(self) -> None:
        """From any thread: no more turns; who has one is woken and fails."""
        self._closing = True
        if not self._taken:
            self._end()
        elif self._alarm is not None:
            with suppress(OSError):
                self._alarm[0].send(b"!")

    @property
    def waker(self) -> socket.socket:
        """Can be read from as soon as the connection is to be closed; for whoever waits, in its turn."""
        if self._alarm is None:
            self._alarm = socket.socketpair()
            self._alarm[0].setblocking(False)
            if self._closing:
                raise ServerUnreachable("the connection was closed", server=self._name)
        return self._alarm[1]

    def sleep(self, seconds: float) -> None:
        """Wait that long, in one's turn; raises when closed."""
        poller = select.poll()
        poller.register(self.waker, select.POLLIN)
        if poller.poll(seconds * 1000):
            raise ServerUnreachable("the connection was closed", server=self._name)

    def _end(self) -> None:
        self._shut()
        if self._alarm is not None:
            for end in self._alarm:
                end.close()
