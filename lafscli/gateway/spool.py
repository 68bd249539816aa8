"""What a client sends, until it is stored: in memory while it is small, else encrypted in a file that has no name.

The key is in memory only, so what is left on the disk can't be read by anybody once the spool is closed, or the
process was killed. Each block of the file is encrypted with a piece of key stream of its own, also when it is written
again.
"""

from __future__ import annotations

import errno
import tempfile
import threading
from array import array
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from lafscli.errors import LafsError, SourceChanged
from lafscli.gateway.freeing import give_back
from lafscli.primitives.ciphers import AesCtr
from lafscli.primitives.encoding import Buffer
from lafscli.primitives.hashes import Hasher

_BLOCK = 64 << 10
"""Bytes that are encrypted together; one block is in memory before it is written."""

_HOLE = 0
"""Number of a block that was never written: it reads as zeros."""


class NoRoom(LafsError):
    """There is no room for what is being sent on the disk of the home."""


class Spool:
    """A file of which nothing is left. Safe with threads; a source of uploads: equal content gives the equal cap."""

    def __init__(
        self,
        folder: Path,
        random_bytes: Callable[[int], bytes],
        limit: int = 1 << 20,
        tag: Callable[[], bytes | None] = lambda: None,
    ) -> None:
        """Above `limit` bytes it goes to a file in `folder`, which is made (0700), and what is written from its first
        byte to its last is hashed under `tag` meanwhile."""
        self.size = 0
        self._folder = folder
        self._limit = limit
        self._random_bytes = random_bytes
        self._make_tag = tag
        self._tag: bytes | None = None
        self._hasher: Hasher | None = None
        self._lock = threading.Lock()
        self._small: bytearray | None = bytearray()
        self._disk: _Disk | None = None
        self._position = 0
        self._changes = 0
        self._changes_read = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # ---- what clients do

    def append(self, data: Buffer) -> None:
        """Write behind the end. NoRoom, LafsError."""
        with self._lock:
            self._write(self.size, memoryview(data).cast("B"))

    def write(self, offset: int, data: Buffer) -> None:
        """Write anywhere; what was left out before it reads as zeros. NoRoom, LafsError."""
        with self._lock:
            self._write(offset, memoryview(data).cast("B"))

    def read(self, offset: int, length: int) -> bytes:
        """What is there; fewer bytes where it ends."""
        with self._lock:
            length = max(0, min(length, self.size - offset))
            into = bytearray(length)
            self._read(offset, memoryview(into))
            return bytes(into)

    def truncate(self, size: int) -> None:
        """Cut it, or fill it up with zeros."""
        with self._lock:
            self._changes += 1
            if size > self._limit:
                self._to_disk()
            self._hasher = None
            if self._small is not None:
                del self._small[size:]
                self._small += bytes(size - len(self._small))
            elif self._disk is not None:
                self._disk.truncate(size)
            self.size = size

    def close(self) -> None:
        """Forget everything."""
        with self._lock:
            disk, self._disk = self._disk, None
            self._small = None
            if disk is not None:
                disk.close()
                give_back()

    # ---- a source of uploads

    def rewind(self) -> None:
        """Begin to read at the first byte again."""
        with self._lock:
            self._changes_read = self._changes
            self._position = 0

    def readinto(self, buffer: memoryview) -> int:
        """Fill the buffer; less only at the end."""
        with self._lock:
            count = max(0, min(buffer.nbytes, self.size - self._position))
            self._read(self._position, buffer[:count])
            self._position += count
            return count

    def unchanged(self) -> None:
        """SourceChanged when it was written to since its last rewind."""
        if self._changes != self._changes_read:
            raise self.changed()

    def changed(self) -> SourceChanged:
        return SourceChanged("the content changed while it was stored; nothing was stored", hint="send it again")

    def digest(self, tag: bytes) -> bytes | None:
        """The hash of all of it under a tag, where it was hashed under this one as it came."""
        with self._lock:
            return None if self._hasher is None or tag != self._tag else self._hasher.digest()

    # ---- with the lock

    def _write(self, offset: int, data: memoryview) -> None:
        if not data.nbytes:
            return
        self._changes += 1
        end = offset + data.nbytes
        if end > self._limit:
            self._to_disk()
        if self._small is not None:
            self._small += bytes(max(0, end - len(self._small)))
            self._small[offset:end] = data
        else:
            if offset != self.size:
                self._hasher = None
            self._file().write(offset, data)
            if self._hasher is not None:
                self._hasher.update(data)
        self.size = max(self.size, end)

    def _read(self, offset: int, into: memoryview) -> None:
        if self._small is not None:
            into[:] = memoryview(self._small)[offset : offset + into.nbytes]
        elif into.nbytes:
            self._file().read(offset, into)

    def _to_disk(self) -> None:
        small = self._small
        if small is not None:
            self._disk = _Disk(self._folder, self._random_bytes)
            self._small = None
            if small:
                self._disk.write(0, memoryview(small))
            self._tag = self._make_tag()
            if self._tag is not None:
                self._hasher = Hasher.tagged(self._tag)
                self._hasher.update(small)

    def _file(self) -> _Disk:
        if self._disk is None:
            raise LafsError("what was sent is closed")
        return self._disk


class _Disk:
    """Blocks in a file without a name; the one that is being written is in memory."""

    def __init__(self, folder: Path, random_bytes: Callable[[int], bytes]) -> None:
        self._key = random_bytes(16)
        self._numbers = array("Q")
        self._next = _HOLE + 1
        self._block = bytearray(_BLOCK)
        self._index = -1
        self._dirty = False
        self._spare = bytearray(_BLOCK + 15)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        except OSError as error:
            raise _refused(error) from error

    def write(self, offset: int, data: memoryview) -> None:
        while data:
            index, start = divmod(offset, _BLOCK)
            count = min(data.nbytes, _BLOCK - start)
            self._turn_to(index, fresh=count == _BLOCK)
            self._block[start : start + count] = data[:count]
            self._dirty = True
            data, offset = data[count:], offset + count

    def read(self, offset: int, into: memoryview) -> None:
        while into:
            index, start = divmod(offset, _BLOCK)
            count = min(into.nbytes, _BLOCK - start)
            self._turn_to(index)
            into[:count] = memoryview(self._block)[start : start + count]
            into, offset = into[count:], offset + count

    def truncate(self, size: int) -> None:
        index, start = divmod(size, _BLOCK)
        if start and (index < len(self._numbers) or index == self._index):
            self._turn_to(index)
            self._block[start:] = bytes(_BLOCK - start)
            self._dirty = True
        elif self._index >= index:
            self._index, self._dirty = -1, False
        kept = index + (start > 0)
        del self._numbers[kept:]
        try:
            self._file.truncate(min(kept * _BLOCK, self._file.seek(0, 2)))
        except OSError as error:
            raise _refused(error) from error

    def close(self) -> None:
        self._file.close()

    def _turn_to(self, index: int, *, fresh: bool = False) -> None:
        """Have this block in memory; `fresh`: all of it will be written anyway."""
        if index == self._index:
            return
        self._flush()
        self._index = -1
        number = self._numbers[index] if index < len(self._numbers) else _HOLE
        if number == _HOLE:
            self._block[:] = bytes(_BLOCK)
        elif not fresh:
            self._load(index, number)
        self._index = index

    def _load(self, index: int, number: int) -> None:
        try:
            self._file.seek(index * _BLOCK)
            view = memoryview(self._spare)[:_BLOCK]
            filled = 0
            while filled < _BLOCK:
                count = self._file.readinto(view[filled:])
                if not count:
                    raise LafsError("what was sent can't be read back: its file ends too early")
                filled += count
        except OSError as error:
            raise _refused(error) from error
        self._block[:] = AesCtr(self._key, number * _BLOCK).update(view)

    def _flush(self) -> None:
        if not self._dirty:
            return
        sealed = memoryview(self._spare)
        count = AesCtr(self._key, self._next * _BLOCK).update_into(self._block, sealed)
        try:
            self._file.seek(self._index * _BLOCK)
            view = sealed[:count]
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise _refused(error) from error
        self._numbers.extend([_HOLE] * (self._index + 1 - len(self._numbers)))
        self._numbers[self._index] = self._next
        self._next += 1
        self._dirty = False


def _refused(error: OSError) -> LafsError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return NoRoom(
            f"no room for what is being sent: {error.strerror}", hint="make room on the disk of the gateway's home"
        )
    return LafsError(f"what is being sent can't be kept until it is stored: {error.strerror}")
