"""The bytes of a conversation: how a session gets and sends them, and how over two descriptors."""

from __future__ import annotations

import fcntl
import os
import select
import stat
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol, Self

Buffer = bytes | bytearray | memoryview

_PIPE_SIZE = 1024 * 1024
_IOVECS = min(os.sysconf("SC_IOV_MAX"), 1024)


class Stream(Protocol):
    """A byte stream to a client. OSError from any call: it is lost."""

    def receive_into(self, buffer: memoryview, timeout: float | None) -> int | None:
        """Wait for bytes, at most so many seconds: how many came, 0 at their end, None when none came in time."""

    def send(self, parts: Sequence[Buffer]) -> None:
        """Send all of it; TimeoutError when the client takes nothing for as long as the stream was told to wait."""

    def close(self) -> None:
        """End both directions; may be called twice."""


class FdStream:
    """A stream over two descriptors, or one and the same, which are closed with it: pipes, sockets, a terminal.

    `timeout`: for how many seconds a client may take nothing of what is sent to it; None: for ever.
    """

    def __init__(self, read_fd: int, write_fd: int, *, timeout: float | None = 60.0) -> None:
        self._read_fd = read_fd
        self._write_fd = write_fd
        self._timeout = None if timeout is None else int(1000 * timeout)
        self._closed = False
        self._blocking = [(fd, os.get_blocking(fd)) for fd in {read_fd, write_fd}]
        for fd, _ in self._blocking:
            os.set_blocking(fd, False)
            with suppress(OSError, AttributeError):
                if stat.S_ISFIFO(os.fstat(fd).st_mode):
                    fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        self._readable = select.poll()
        self._readable.register(read_fd, select.POLLIN)
        self._writable = select.poll()
        self._writable.register(write_fd, select.POLLOUT)

    @classmethod
    def standard(cls, *, timeout: float | None = 60.0) -> Self:
        """Standard input and output, which from now on nobody else has: what is printed goes to standard error."""
        read_fd, write_fd = os.dup(0), os.dup(1)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.dup2(2, 1)
        return cls(read_fd, write_fd, timeout=timeout)

    def receive_into(self, buffer: memoryview, timeout: float | None) -> int | None:
        """As Stream says."""
        while True:
            try:
                return os.readv(self._read_fd, [buffer])
            except BlockingIOError:
                if not self._readable.poll(None if timeout is None else 1000 * max(timeout, 0)):
                    return None
                timeout = 0  # somebody else may have taken it

    def send(self, parts: Sequence[Buffer]) -> None:
        """As Stream says."""
        left = [memoryview(part).cast("B") for part in parts if len(part)]
        while left:
            try:
                count = os.writev(self._write_fd, left[:_IOVECS])
            except BlockingIOError:
                if not self._writable.poll(self._timeout):
                    raise TimeoutError("the client takes nothing") from None
                continue
            while left and count >= len(left[0]):
                count -= len(left.pop(0))
            if count:
                left[0] = left[0][count:]

    def gone(self) -> bool:
        """Whether nobody is there any more who could take an answer. One who has only ended what he sends is there."""
        return any(event & (select.POLLHUP | select.POLLERR | select.POLLNVAL) for _, event in self._writable.poll(0))

    def close(self) -> None:
        """As Stream says."""
        if self._closed:
            return
        self._closed = True
        for fd, blocking in self._blocking:
            with suppress(OSError):
                os.set_blocking(fd, blocking)  # whoever else has it open sees this, too
            with suppress(OSError):
                os.close(fd)
