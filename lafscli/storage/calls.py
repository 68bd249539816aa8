"""What `lafs serve` does in one call: asked for where the server offers it (served.py has the bodies).

Every call answers None where it is not offered: then the plain way is gone. A reply that makes no sense is the end of a
server: ServerUnreachable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from lafscli.errors import FileError, LafsError, NotSupported, ServerUnreachable
from lafscli.storage import served
from lafscli.storage.packets import CANCEL_LEASE, INVENTORY, POLICY, PRESENCE, REPLACE, ProtocolViolation
from lafscli.storage.store import Ask, Files, LeaseOf, Policy, StorageIndex

T = TypeVar("T")
R = TypeVar("R")

_TOGETHER = 8
_OBJECTS = 1000
"""So many storage indexes in one call: the reply has room for 21 shares of each."""


@contextmanager
def sensible(extension: str, server: str = "") -> Iterator[None]:
    """Around the reading of a reply; the server's name is filled in by who knows it."""
    try:
        yield
    except ProtocolViolation as violation:
        message = f"the server broke the protocol: it answers {extension} with {violation}"
        raise ServerUnreachable(message, server=server) from violation


class Calls:
    """The calls of one server."""

    def __init__(self, files: Files, server: str) -> None:
        self._files = files
        self._server = server

    @property
    def places(self) -> bool:
        """Whether the server itself puts shares in their places, and makes the folders that they come into."""
        return REPLACE in self._files.connect()

    def policy(self) -> Policy | None:
        """The rules in force there."""
        reply = self._ask(Ask(POLICY, safe=True))
        if reply is None:
            return None
        with sensible(POLICY, self._server):
            return served.parse_policy(reply)

    def sizes(self, shares: Sequence[tuple[StorageIndex, int]]) -> list[int | LafsError | None] | None:
        """Of each share the size of its container, None where there is none."""
        return self._in_parts(shares, served.MOST, served.ask_sizes, served.parse_sizes)

    def shares(self, sis: Sequence[StorageIndex]) -> list[dict[int, int] | LafsError] | None:
        """Of each storage index the sizes of all containers by number."""
        return self._in_parts(sis, _OBJECTS, served.ask_shares, served.parse_shares)

    def inventory(self) -> Iterator[tuple[StorageIndex, int, int]] | None:
        """Every share, in order, with the size of its container. One page is asked for now, others as they come."""
        pages = served.Inventory()
        first = self._page(pages)
        return None if first is None else self._pages(pages, first)

    def cancel(self, items: Sequence[LeaseOf]) -> list[FileError | None] | None:
        """Give up leases by their cancel secrets; a share goes with its last one. Of each, why it was refused."""
        outcomes: list[FileError | None] = []
        for start in range(0, len(items), served.MOST // 4):
            some = [(item.si, item.shnum, item.lease.cancel) for item in items[start : start + served.MOST // 4]]
            reply = self._ask(Ask(CANCEL_LEASE, served.cancel_leases(some)))
            if reply is None:
                return None
            with sensible(CANCEL_LEASE, self._server):
                outcomes += served.parse_outcomes(reply, len(some), self._server)
        return outcomes

    def _pages(
        self, pages: served.Inventory, first: list[tuple[StorageIndex, int, int]]
    ) -> Iterator[tuple[StorageIndex, int, int]]:
        page: list[tuple[StorageIndex, int, int]] | None = first
        while page is not None:
            yield from page
            page = self._page(pages) if pages.cursor else None

    def _page(self, pages: served.Inventory) -> list[tuple[StorageIndex, int, int]] | None:
        reply = self._ask(Ask(INVENTORY, served.ask_inventory(pages.cursor), safe=True))
        if reply is None:
            return None
        with sensible(INVENTORY, self._server):
            return pages.page(reply)

    def _ask(self, ask: Ask) -> bytes | None:
        if ask.extension not in self._files.connect():
            return None
        [reply] = self._files.do([ask])
        if isinstance(reply, NotSupported):
            return None
        if isinstance(reply, FileError):
            raise reply
        assert isinstance(reply, bytes), "a call is answered by bytes"
        return reply

    def _in_parts(
        self,
        items: Sequence[T],
        most: int,
        body: Callable[[Sequence[T]], bytes],
        parse: Callable[[bytes, int], Sequence[R]],
    ) -> list[R | LafsError] | None:
        """Ask for many, so many at most in one call; a part whose reply would be too long is asked for in halves."""
        if PRESENCE not in self._files.connect():
            return None
        found: dict[int, R | LafsError] = {}
        parts = [(start, min(start + most, len(items))) for start in range(0, len(items), most)]
        while parts:
            now, parts = parts[:_TOGETHER], parts[_TOGETHER:]
            replies = self._files.do([Ask(PRESENCE, body(items[start:stop]), safe=True) for start, stop in now])
            for (start, stop), reply in zip(now, replies, strict=True):
                if isinstance(reply, NotSupported):
                    return None
                if isinstance(reply, bytes):
                    with sensible(PRESENCE, self._server):
                        found |= enumerate(parse(reply, stop - start), start)
                elif type(reply) is FileError and stop - start > 1:
                    middle = (start + stop) // 2
                    parts += [(start, middle), (middle, stop)]
                else:
                    assert isinstance(reply, FileError), "a call is answered by bytes"
                    found |= dict.fromkeys(range(start, stop), reply)
        return [found[index] for index in range(len(items))]
