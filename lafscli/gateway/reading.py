"""The content of a file that somebody pulls at the pace they like: no thread waits while they are slow."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Generator, Iterator
from typing import Protocol

from lafscli.errors import LafsError
from lafscli.formats.caps import Cap, ChkCap, LitCap
from lafscli.gateway.freeing import give_back
from lafscli.immutable.fetch import SegmentFetch
from lafscli.immutable.fetchmany import download_many
from lafscli.immutable.pipeline import LITTLE, Codec, Coding
from lafscli.mutable.opened import OpenVersion
from lafscli.proof.shares import ShareReader
from lafscli.storage.store import Buffer, Progress, ShareStore
from lafscli.tree.contents import Access, need_servers, pass_on, readable

_OFTEN_SECONDS, _LAST_SECONDS = 10.0, 1.0
"""How often memory is given back to the system: while there are readers, and when the last one is gone."""

_FIRST_BYTES, _AHEAD_BYTES, _ALL_AHEAD_BYTES = 1 << 20, 8 << 20, 32 << 20

_NEAR_BYTES = 4 << 20
"""So far ahead of the last read another one goes on with it; and so much of what was read is kept for a while."""


def open_content(access: Access, cap: Cap) -> Content:
    """Open a file, or the table of a directory; of a mutable one, the version there is now.

    NotGranted for a verify cap, UsageError for one of an unknown kind or without servers; NotRecoverable, CannotTell,
    Unreachable where no version of a mutable file can be read: of an immutable one that is told by its first piece.
    """
    file = readable(cap)
    if isinstance(file, LitCap):
        return Content(_Literal(file.content), mutable=False)
    need_servers(access)
    if isinstance(file, ChkCap):
        return Content(_Small(access, file) if file.size <= LITTLE else _Immutable(access, file), mutable=False)
    version = OpenVersion(access.grid, file, access.reading, _READERS.ahead)
    pass_on(access, cap, version.warnings)
    return Content(_Mutable(version), mutable=True)


class _Readers:
    """All who read: what is fetched ahead of the slow ones among them must not fill the memory."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._given_back = 0.0

    def begin(self) -> None:
        with self._lock:
            self._count += 1

    def end(self) -> None:
        with self._lock:
            self._count -= 1
            now = time.monotonic()
            if now - self._given_back < (_OFTEN_SECONDS if self._count else _LAST_SECONDS):
                return
            self._given_back = now
        give_back()

    def ahead(self) -> int:
        """Bytes that each may have fetched ahead."""
        return min(_AHEAD_BYTES, _ALL_AHEAD_BYTES // max(1, self._count))


_READERS = _Readers()


class _Pulled(Protocol):
    """What content is pulled from."""

    @property
    def size(self) -> int: ...

    def pieces(self, offset: int, length: int) -> Iterator[Buffer]: ...

    def close(self) -> None: ...


class Content:
    """The content of one file. It may be used from several threads; whoever comes second waits for a piece."""

    def __init__(self, pulled: _Pulled, *, mutable: bool) -> None:
        self.size = pulled.size
        self.mutable = mutable
        self._pulled = pulled
        self._lock = threading.Lock()
        self._near = _Near(self)

    def pieces(self, offset: int = 0, length: int | None = None) -> Generator[Buffer]:
        """Pull `length` bytes from `offset` (to the end by default), each piece proved, and good until the next one is
        pulled; a range beyond the end is cut. Closing the generator gives up at once."""
        left = max(0, self.size - offset)
        length = left if length is None else min(left, length)
        if not length:
            return
        pieces = self._pulled.pieces(offset, length)
        large = self.size > LITTLE
        if large:
            _READERS.begin()
        try:
            while True:
                with self._lock:
                    piece = next(pieces, None)
                if piece is None:
                    return
                yield piece
        finally:
            close = getattr(pieces, "close", None)
            if close is not None:
                with self._lock:
                    close()
            if large:
                _READERS.end()

    def read(self, offset: int, length: int) -> bytes:
        """What is there; fewer bytes at the end. Who reads on from where they were finds it on its way already."""
        return self._near.read(offset, length)

    def close(self) -> None:
        """Give up what is under way."""
        self._near.close()
        with self._lock:
            self._pulled.close()


class _Near:
    """A reader that goes on: what it came past lately, and the generator that has what follows."""

    def __init__(self, content: Content) -> None:
        self._content = content
        self._lock = threading.Lock()
        self._kept: deque[tuple[int, bytes]] = deque()
        self._going: Generator[Buffer] | None = None
        self._position = 0

    def read(self, offset: int, length: int) -> bytes:
        end = min(offset + length, self._content.size)
        found = bytearray()
        with self._lock:
            while offset + len(found) < end:
                found += self._some(offset + len(found), end)
        return bytes(found)

    def _some(self, offset: int, end: int) -> Buffer:
        """At least one byte of those that are wanted."""
        for start, piece in self._kept:
            if start <= offset < start + len(piece):
                return memoryview(piece)[offset - start : end - start]
        if self._going is None or not self._position <= offset < self._position + _NEAR_BYTES:
            self._stop()
            self._going, self._position = self._content.pieces(offset), offset
        while True:
            try:
                data = next(self._going, None)
            except BaseException:
                self._stop()
                raise
            assert data is not None, "the content goes on"
            start, self._position = self._position, self._position + len(data)
            self._keep(start, bytes(data))
            if offset < self._position:
                return memoryview(self._kept[-1][1])[offset - start : end - start]

    def _keep(self, start: int, piece: bytes) -> None:
        self._kept.append((start, piece))
        while len(self._kept) > 1 and sum(len(one) for _, one in self._kept) > _NEAR_BYTES:
            self._kept.popleft()

    def _stop(self) -> None:
        going, self._going = self._going, None
        if going is not None:
            going.close()

    def close(self) -> None:
        with self._lock:
            self._stop()
            self._kept.clear()


class _Literal:
    def __init__(self, content: bytes) -> None:
        self._content = content
        self.size = len(content)

    def pieces(self, offset: int, length: int) -> Iterator[Buffer]:
        yield self._content[offset : offset + length]

    def close(self) -> None:
        """Nothing is open."""


class _Small:
    """Fetched whole, in one round trip."""

    def __init__(self, access: Access, cap: ChkCap) -> None:
        self._grid = access.grid
        self._cap = cap
        self._content: Buffer | None = None
        self.size = cap.size

    def pieces(self, offset: int, length: int) -> Iterator[Buffer]:
        if self._content is None:
            [(_, fetched)] = download_many(self._grid, [self._cap])
            if isinstance(fetched, LafsError):
                raise fetched
            self._content = fetched.content
        yield memoryview(self._content)[offset : offset + length]

    def close(self) -> None:
        self._content = None


class _Immutable:
    """Shares that were found are used by the next range too."""

    def __init__(self, access: Access, cap: ChkCap) -> None:
        self._grid = access.grid
        self._cap = cap
        self._codec: Coding = access.reading.codec or Codec()
        self._known: list[tuple[ShareStore, int, ShareReader | None]] = []
        self.size = cap.size

    def pieces(self, offset: int, length: int) -> Iterator[Buffer]:
        stop, taken = offset + length, 0
        fetch = SegmentFetch(
            self._grid,
            self._cap.verify_cap(),
            offset,
            stop,
            Progress(),
            self._cap.key,
            self._known,
            further=True,
            # somebody may not go on: what is fetched ahead grows with what is taken
            ahead=lambda: min(_READERS.ahead(), _FIRST_BYTES + 2 * taken),
        )
        segments = fetch.run(self._codec)
        try:
            for position, plaintext in segments:
                self._known = fetch.located
                yield memoryview(plaintext)[max(0, offset - position) : stop - position]
                taken += len(plaintext)
        finally:
            segments.close()

    def close(self) -> None:
        """What a range has open is closed when the range is given up."""
        self._known = []


class _Mutable:
    def __init__(self, version: OpenVersion) -> None:
        self._version = version
        self.size = version.size

    def pieces(self, offset: int, length: int) -> Iterator[Buffer]:
        yield from self._version.pieces(offset, length)

    def close(self) -> None:
        self._version.close()
