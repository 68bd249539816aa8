"""A file of the grid that a client reads: ranges, each proved before it is sent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from lafscli.formats.caps import Cap
from lafscli.gateway.desk import Desk
from lafscli.gateway.reading import open_content
from lafscli.storage.store import Buffer


class StoredFile:
    """The content behind a cap, open until it is closed; a context manager. LafsError where it can't be read."""

    def __init__(self, desk: Desk, cap: Cap) -> None:
        with ExitStack() as opening:
            access = opening.enter_context(desk.access())
            self._content = open_content(access, cap)
            opening.callback(self._content.close)
            self._open = opening.pop_all()
        self.size = self._content.size

    def read(self, offset: int, length: int) -> bytes:
        """Fewer bytes than that at the end alone."""
        return self._content.read(offset, length)

    def pieces(self) -> Iterator[Buffer]:
        """All of it, in order; a piece is good until the next is asked for."""
        return self._content.pieces()

    def close(self) -> None:
        """Let go of it; may be called twice."""
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
