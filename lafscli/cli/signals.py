"""Signals: an orderly end within two seconds, a progress line on demand (CLI.md §1)."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType

GRACE = 1.7
"""Seconds for cleaning up after a signal; what then still waits for a server is cut off."""


class Interrupted(BaseException):
    """A signal asks us to end; raised in the main thread so that every `finally` and `with` runs."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


def install(progress_line: Callable[[], str]) -> None:
    """Catch the signals that end a command, and SIGUSR1, which prints `progress_line()`.

    A signal that is ignored when we start (nohup, a shell's background job) stays ignored.
    """

    def end(number: int, _: FrameType | None) -> None:
        for other in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(other, signal.SIG_IGN)  # the clean-up is not to be interrupted; the alarm bounds it
        signal.signal(signal.SIGALRM, lambda *_: os._exit(128 + number))
        signal.setitimer(signal.ITIMER_REAL, GRACE)
        raise Interrupted(number)

    def tell(*_: object) -> None:
        # os.write: the handler may run in the middle of a print
        os.write(2, (progress_line() + "\n").encode("utf-8", "backslashreplace"))

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, end)
    signal.signal(signal.SIGUSR1, tell)
