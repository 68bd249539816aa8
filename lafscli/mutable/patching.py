"""Change some bytes in the middle of a mutable file: what is there is read, and written again, under one guard."""

from __future__ import annotations

from collections.abc import Iterator

from lafscli.errors import SourceChanged, UsageError
from lafscli.formats.caps import MutableWriteCap
from lafscli.mutable.attempt import Attempt
from lafscli.mutable.entry import unreadable
from lafscli.mutable.publish import INLINE, tries, write
from lafscli.mutable.publishing import Published, Publishing
from lafscli.storage.grid import Grid
from lafscli.storage.report import Progress
from lafscli.storage.source import Source
from lafscli.storage.store import Buffer

_PIECE = 1 << 20


def patch(
    grid: Grid,
    cap: MutableWriteCap,
    offset: int,
    patched: Source,
    publishing: Publishing,
    progress: Progress | None = None,
) -> Published:
    """Put what `patched` holds, of known length, from `offset` on in the place of what is there. A file that is shorter
    is filled up with zeros. The errors of `publish.modify`; no change of another writer is lost.

    Large MDMF content goes segment by segment; other content is in memory.
    """
    if patched.size is None:
        raise UsageError("what is put into the middle of a file must be of known length")
    if not patched.size:
        offset = 0  # nothing that is put somewhere makes nothing longer

    def work(attempt: Attempt, _: bool) -> Published:
        base = attempt.enter()
        if base is None:
            raise unreadable(attempt.found)
        spliced = _Spliced(attempt, base.prefix.data_length, offset, patched)
        content = None
        if not base.prefix.mdmf or spliced.size <= INLINE:
            content = _in_memory(attempt.content(), offset, patched)
        key = attempt.private_key()
        return write(attempt, cap, key, spliced, content, publishing, base.prefix.mdmf, progress or Progress())

    return tries(grid, cap, publishing, patched, work)


def _in_memory(old: bytes, offset: int, patched: Source) -> bytes:
    assert patched.size is not None
    content = bytearray(old)
    stop = offset + patched.size
    content += bytes(max(0, stop - len(content)))
    patched.rewind()
    if patched.readinto(memoryview(content)[offset:stop]) != patched.size:
        raise patched.changed()
    patched.unchanged()
    return bytes(content)


class _Spliced:
    """The content of what an attempt builds on with some of it replaced; a source."""

    def __init__(self, attempt: Attempt, length: int, offset: int, patched: Source) -> None:
        assert patched.size is not None
        self._attempt = attempt
        self._length = length
        self._offset = offset
        self._patched = patched
        self._stop = offset + patched.size
        self.size = max(length, self._stop)
        self._pieces = self._all()
        self._left = memoryview(b"")

    def rewind(self) -> None:
        self._pieces = self._all()
        self._left = memoryview(b"")

    def readinto(self, buffer: memoryview) -> int:
        filled = 0
        while filled < buffer.nbytes:
            if not self._left:
                piece = next(self._pieces, None)
                if piece is None:
                    break
                self._left = memoryview(piece)
                continue
            count = min(self._left.nbytes, buffer.nbytes - filled)
            buffer[filled : filled + count] = self._left[:count]
            self._left = self._left[count:]
            filled += count
        return filled

    def unchanged(self) -> None:
        self._patched.unchanged()

    def changed(self) -> SourceChanged:
        return self._patched.changed()

    def _all(self) -> Iterator[Buffer]:
        yield from self._attempt.pieces(0, min(self._offset, self._length))
        for start in range(self._length, self._offset, _PIECE):
            yield bytes(min(_PIECE, self._offset - start))
        self._patched.rewind()
        left = self._stop - self._offset
        buffer = memoryview(bytearray(min(_PIECE, left)))
        while left:
            count = self._patched.readinto(buffer[: min(left, _PIECE)])
            if not count:
                raise self.changed()
            yield buffer[:count]
            left -= count
        if self._stop < self._length:
            yield from self._attempt.pieces(self._stop, self._length - self._stop)
