"""Turns: who decides about a storage index, and does it, does so alone, across processes.

One lock file for each prefix of two letters, `history/.serve/turns/<2 letters>`; they are made when first used and
never removed. The lock is the kernel's: it ends with the process that has it, however that ends.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lafscli.primitives.encoding import b32encode
from lafscli.server.backend import FAILURE, Refused
from lafscli.server.shelves import open_folder
from lafscli.server.trees import no_pulse

PRIVATE = ".serve"
"""Folder in `history/` of what the server keeps for itself."""
_PATIENCE = 120.0
_FIRST_WAIT = 0.0005
_LONGEST_WAIT = 0.02
_PULSE = 0.25


class Turns:
    """The turns of one process, which takes one at a time: to have that of one prefix and to ask for another may
    never end. A turn inside a turn of the same prefix is the same turn. Not for several threads. `pulse` is called
    now and then while it waits."""

    def __init__(self, history_fd: int, *, pulse: Callable[[], None] = no_pulse) -> None:
        self._history_fd = history_fd
        self._pulse = pulse
        self._folder = -1
        self._held: set[str] = set()

    @contextmanager
    def turn(self, si: bytes) -> Iterator[None]:
        """Nobody else has the turn of this storage index inside. Refused if it does not come within two minutes."""
        prefix = b32encode(si)[:2]
        if prefix in self._held:
            yield
            return
        lock = self._lock(prefix)
        try:
            self._held.add(prefix)
            yield
        finally:
            self._held.discard(prefix)
            os.close(lock)

    def close(self) -> None:
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1

    def _lock(self, prefix: str) -> int:
        if self._folder < 0:
            self._folder = open_folder(self._history_fd, [PRIVATE, "turns"], make=0o700)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        lock = os.open(prefix, flags, 0o600, dir_fd=self._folder)
        try:
            wait = _FIRST_WAIT
            began = pulsed = time.monotonic()
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return lock
                except BlockingIOError:
                    now = time.monotonic()
                    if now - began > _PATIENCE:
                        raise Refused(FAILURE, "the server is busy with this storage index; try again later") from None
                if now - pulsed > _PULSE:
                    pulsed = now
                    self._pulse()
                time.sleep(wait)
                wait = min(2 * wait, _LONGEST_WAIT)
        except BaseException:
            os.close(lock)
            raise
