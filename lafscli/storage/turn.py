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

    def __init__(self, shut: Callable[[], None]) -> None:
        self._shut = shut
        self._taken = False
        self._closing = False
        self._alarm, self.waker = socket.socketpair()
        self._alarm.setblocking(False)

    def __enter__(self) -> None:
        self._taken = True
        if self._closing:
            self._taken = False
            raise ServerUnreachable("the connection was closed")

    def __exit__(self, *_: object) -> None:
        self._taken = False
        if self._closing:
            self._shut()

    def close(self) -> None:
        """From any thread: no more turns; who has one is woken and fails."""
        self._closing = True
        if self._taken:
            with suppress(OSError):
                self._alarm.send(b"!")
        else:
            self._shut()

    def sleep(self, seconds: float) -> None:
        """Wait that long, in one's turn; raises when closed."""
        poller = select.poll()
        poller.register(self.waker, select.POLLIN)
        if poller.poll(seconds * 1000):
            raise ServerUnreachable("the connection was closed")
