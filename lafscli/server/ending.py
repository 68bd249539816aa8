"""An orderly end of a conversation when a signal asks for it: within two seconds, with its guards ended."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterable
from contextlib import suppress
from types import FrameType

from lafscli.server.streams import FdStream

PATIENCE = 1.0
"""Seconds that a request under way may still take; then it is left as it is, as a kill would leave it."""
CLEARING = 0.7
"""Seconds for what ends with the connection after that; then the process ends in any case."""


class Stopped(BaseException):
    """Raised in the main thread where a request under way takes too long for an orderly end."""


class EndingStream(FdStream):
    """A stream at whose end the client seems to be when a signal has come: what waits for it then ends as always.

    To be made in the main thread; `signals` are caught from then on, and end the process with 128 + number where an
    orderly end takes too long.
    """

    def __init__(
        self,
        read_fd: int,
        write_fd: int,
        *,
        timeout: float | None = 60.0,
        signals: Iterable[int] = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP),
    ) -> None:
        super().__init__(read_fd, write_fd, timeout=timeout)
        self.signalled: int | None = None
        self._hear, self._say = os.pipe()
        self._either = select.poll()
        self._either.register(read_fd, select.POLLIN)
        self._either.register(self._hear, select.POLLIN)
        for number in signals:
            signal.signal(number, self._on_signal)

    def receive_into(self, buffer: memoryview, timeout: float | None) -> int | None:
        """As Stream says; 0 as well when a signal has come."""
        while self.signalled is None:
            count = super().receive_into(buffer, 0)
            if count is not None:
                return count
            if not self._either.poll(None if timeout is None else 1000 * max(timeout, 0)):
                return None
        return 0

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self.signalled is not None:
            return
        self.signalled = number
        signal.signal(signal.SIGALRM, self._on_alarm)
        signal.setitimer(signal.ITIMER_REAL, PATIENCE)
        with suppress(OSError):
            os.write(self._say, b"!")

    def _on_alarm(self, *_: object) -> None:
        assert self.signalled is not None
        code = 128 + self.signalled
        signal.signal(signal.SIGALRM, lambda *_: os._exit(code))
        signal.setitimer(signal.ITIMER_REAL, CLEARING)
        raise Stopped
