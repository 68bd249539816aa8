"""Long lists that are asked for later, entry by entry: kept encrypted outside memory, however long they are."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

from lafscli.gateway.desk import Desk
from lafscli.gateway.spool import Spool

_PIECE = 64 << 10


class Listed:
    """Lists by their names. What is there may be read by other threads while more is added; closing waits for those
    that read."""

    def __init__(self, desk: Desk, names: Sequence[str]) -> None:
        self._lists = {name: desk.spool() for name in names}
        self._lock = threading.Lock()
        self._readers = 0
        self._closed = False

    def append(self, name: str, value: Any) -> None:
        """One more entry of a list."""
        spool = self._lists[name]
        spool.append(b",\n" * bool(spool.size) + json.dumps(value).encode())

    def document(self, head: dict[str, Any]) -> Generator[bytes, None, None]:
        """JSON of an object: what `head` says, then the lists. From now on until the end of it nothing is closed."""
        return _begun(self._document(head))

    def lines(self, head: str, name: str, shown: Callable[[Any], str]) -> Generator[bytes, None, None]:
        """For people: the head, then a line for each entry of a list. From now on until the end of it nothing is
        closed."""
        return _begun(self._lines(head, name, shown))

    def _document(self, head: dict[str, Any]) -> Generator[bytes, None, None]:
        with self._reading():
            yield json.dumps(head).encode()[:-1]
            for name, spool in self._lists.items():
                yield f', "{name}": [\n'.encode()
                yield from _pieces(spool)
                yield b"\n]"
            yield b"}\n"

    def _lines(self, head: str, name: str, shown: Callable[[Any], str]) -> Generator[bytes, None, None]:
        with self._reading():
            yield head.encode()
            rest = b""
            for piece in chain(_pieces(self._lists[name]), [b"\n"]):
                *whole, rest = (rest + piece).split(b"\n")
                for line in filter(None, whole):
                    yield shown(json.loads(line.removesuffix(b","))).encode() + b"\n"

    def close(self) -> None:
        """Forget everything, as soon as nobody reads it."""
        with self._lock:
            self._closed = True
            if not self._readers:
                for spool in self._lists.values():
                    spool.close()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Nothing is closed meanwhile."""
        with self._lock:
            self._readers += 1
        try:
            yield
        finally:
            with self._lock:
                self._readers -= 1
            if self._closed:
                self.close()


def _begun(pieces: Generator[bytes, None, None]) -> Generator[bytes, None, None]:
    """The same pieces, of which the first was made already."""
    first = next(pieces)

    def all_of_them() -> Generator[bytes, None, None]:
        yield first
        yield from pieces

    return all_of_them()


def _pieces(spool: Spool) -> Iterator[bytes]:
    """What is there now; entries are added whole."""
    size = spool.size
    for offset in range(0, size, _PIECE):
        yield spool.read(offset, min(_PIECE, size - offset))
