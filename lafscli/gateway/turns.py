"""Whose turn it is to change an object: of the threads of one gateway."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from lafscli.formats.caps import Cap


class _Turn:
    """Of one object: how many share it, whether somebody has it alone, how many wait for that."""

    __slots__ = ("alone", "lonely", "sharing", "users")

    def __init__(self) -> None:
        self.sharing = 0
        self.alone = False
        self.lonely = 0
        self.users = 0


class Turns:
    """The objects that somebody changes or waits to change. Who wants one alone goes before those who come later."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._turns: dict[bytes, _Turn] = {}

    @contextmanager
    def of(self, caps: Sequence[Cap], *, shared: bool) -> Iterator[None]:
        """Have a turn with all of them."""
        # sorted: two that want the same two never wait for one another
        with ExitStack() as stack:
            for si in sorted({cap.storage_index or b"" for cap in caps} - {b""}):
                stack.enter_context(self._one(si, shared))
            yield

    @contextmanager
    def _one(self, si: bytes, shared: bool) -> Iterator[None]:
        with self._changed:
            turn = self._turns.setdefault(si, _Turn())
            turn.users += 1
            try:
                self._take(turn, shared)
            except BaseException:
                self._leave(si, turn)
                raise
        try:
            yield
        finally:
            with self._changed:
                if shared:
                    turn.sharing -= 1
                else:
                    turn.alone = False
                self._leave(si, turn)

    def _take(self, turn: _Turn, shared: bool) -> None:
        if shared:
            self._changed.wait_for(lambda: not (turn.alone or turn.lonely))
            turn.sharing += 1
            return
        turn.lonely += 1
        try:
            self._changed.wait_for(lambda: not (turn.alone or turn.sharing))
        finally:
            turn.lonely -= 1
        turn.alone = True

    def _leave(self, si: bytes, turn: _Turn) -> None:
        turn.users -= 1
        if not turn.users:
            del self._turns[si]
        self._changed.notify_all()
