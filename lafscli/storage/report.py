"""What an operation tells: how far it is, which shares lied."""

from __future__ import annotations

from dataclasses import dataclass


class Progress:
    """What an operation tells while it runs. This one is silent; the command line draws it."""

    def start(self, phase: str, total: int | None) -> None:
        """A phase begins: `total` bytes to do, or None if that is not known."""

    def advance(self, count: int) -> None:
        """`count` more bytes of the phase are done."""

    def server(self, name: str, count: int) -> None:
        """`count` more bytes went to or came from this server."""

    def warn(self, message: str) -> None:
        """Something the user should know, that does not stop the operation."""


@dataclass(frozen=True, slots=True)
class BadShare:
    """A share that was dropped, and why."""

    server: str
    shnum: int
    reason: str
