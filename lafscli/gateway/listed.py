"""The objects of a manifest that is asked for later: kept encrypted outside memory, however many there are."""

from __future__ import annotations

import json
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

from lafscli.formats.caps import Cap
from lafscli.gateway.deepdoc import Path
from lafscli.gateway.desk import Desk
from lafscli.gateway.spool import Spool
from lafscli.primitives.encoding import b32encode

_PIECE = 64 << 10


class Listed:
    """Objects, one after the other. What is there may be read by other threads while more are added; closing it waits
    for those that read."""

    def __init__(self, desk: Desk) -> None:
        self._lists = {name: desk.spool() for name in ("manifest", "verifycaps", "storage-index")}
        self._lock = threading.Lock()
        self._readers = 0
        self._closed = False

    def add(self, path: Path, cap: Cap) -> None:
        """One more object."""
        verify, si = cap.verify_cap(), cap.storage_index
        self._append("manifest", [list(path), str(cap)])
        if verify is not None and si is not None:
            self._append("verifycaps", str(verify))
            self._append("storage-index", b32encode(si))

    def _append(self, name: str, value: Any) -> None:
        spool = self._lists[name]
        spool.append(b",\n" * bool(spool.size) + json.dumps(value).encode())

    def document(self, head: dict[str, Any]) -> Generator[bytes, None, None]:
        """JSON of an object: what `head` says, then the lists. From now on until the end of it nothing is closed."""
        return _begun(self._document(head))

    def lines(self, head: str) -> Generator[bytes, None, None]:
        """For people: the head, then a line for each object. From now on until the end of it nothing is closed."""
        return _begun(self._lines(head))

    def _document(self, head: dict[str, Any]) -> Generator[bytes, None, None]:
        with self._reading():
            yield json.dumps(head).encode()[:-1]
            for name, spool in self._lists.items():
                yield f', "{name}": [\n'.encode()
                yield from _pieces(spool)
                yield b"\n]"
            yield b"}\n"

    def _lines(self, head: str) -> Generator[bytes, None, None]:
        with self._reading():
            yield head.encode()
            rest = b""
            for piece in chain(_pieces(self._lists["manifest"]), [b"\n"]):
                *whole, rest = (rest + piece).split(b"\n")
                for line in filter(None, whole):
                    path, cap = json.loads(line.removesuffix(b","))
                    shown = "/".join(path).replace("\\", "\\\\").replace("\n", "\\n")
                    yield f"{shown} {cap}\n".encode()

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
