"""What is uploaded: a file, bytes in memory, or a stream of unknown length."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

from lafscli.errors import LafsError, NotFound, SourceChanged, UsageError
from lafscli.storage.store import Buffer

_READ_AHEAD = 1 << 20
_IDLE_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class SeenFile:
    """A regular file that was seen a while ago, to be read if it is still there: not what took its name since then, be
    it a FIFO or a symbolic link. `path` is of bytes; SourceChanged where it is another file by now."""

    path: bytes
    seen: os.stat_result

    @property
    def size(self) -> int:
        """In bytes, when it was seen."""
        return self.seen.st_size

    @property
    def shown(self) -> str:
        """The path as it is told to people."""
        return os.fsdecode(self.path)


@runtime_checkable
class Source(Protocol):
    """Plaintext to be read from its start, once or (when `size` is known) several times."""

    @property
    def size(self) -> int | None:
        """In bytes; None where that is not known before the end."""

    def rewind(self) -> None:
        """Begin again at the first byte; only when `size` is known."""

    def readinto(self, buffer: memoryview) -> int:
        """Fill the buffer; less only at the end. LafsError when it can't be read."""

    def unchanged(self) -> None:
        """Raises `changed()` when the file is no longer what it was when it was opened."""

    def changed(self) -> SourceChanged:
        """The error for a source that is not the same on its second reading."""


@runtime_checkable
class Hashed(Protocol):
    """A source that may have been hashed while it came."""

    def digest(self, tag: bytes) -> bytes | None:
        """The hash of all of it under this tag (spec 01 §3), of 32 bytes; None where that is not known."""


class BytesSource:
    """Plaintext in memory."""

    def __init__(self, data: Buffer) -> None:
        self._data = memoryview(data).cast("B")
        self._position = 0
        self.size: int | None = self._data.nbytes

    def rewind(self) -> None:
        self._position = 0

    def readinto(self, buffer: memoryview) -> int:
        piece = self._data[self._position : self._position + buffer.nbytes]
        buffer[: piece.nbytes] = piece
        self._position += piece.nbytes
        return piece.nbytes

    def unchanged(self) -> None:
        """Bytes in memory do not change."""

    def changed(self) -> SourceChanged:
        return _changed("the content")


class FileSource:
    """A regular file. What identifies it (size, mtime, inode) is taken when it is opened, and compared at the end."""

    def __init__(self, path: Path | SeenFile, file: BinaryIO) -> None:
        self._path = path
        self._shown = path.shown if isinstance(path, SeenFile) else str(path)
        self._file = file
        self._identity = _identity(os.fstat(file.fileno()))
        self.size: int | None = os.fstat(file.fileno()).st_size

    def rewind(self) -> None:
        self._file.seek(0)

    def readinto(self, buffer: memoryview) -> int:
        return _fill(self._file, buffer, self._shown)

    def unchanged(self) -> None:
        try:
            now = {_identity(os.fstat(self._file.fileno()))}
            if isinstance(self._path, Path):
                now.add(_identity(self._path.stat()))
        except OSError:
            now = set()
        if now != {self._identity}:
            raise self.changed()

    def changed(self) -> SourceChanged:
        return _changed(self._shown)


class StreamSource:
    """A pipe that goes on behind what was read of it to see how long it is.

    `idle` is called every now and then while nothing comes.
    """

    size: int | None = None
    idle: Callable[[], None] | None = None

    def __init__(self, start: Buffer, stream: BinaryIO) -> None:
        self._start = BytesSource(start)
        self._stream = stream

    def rewind(self) -> None:
        raise self.changed()

    def readinto(self, buffer: memoryview) -> int:
        count = self._start.readinto(buffer)
        return count + _fill(self._stream, buffer[count:], "standard input", self.idle)

    def unchanged(self) -> None:
        """A pipe is read once: it has nothing to be compared with."""

    def changed(self) -> SourceChanged:
        return SourceChanged("a pipe can't be read twice")


def _changed(what: str) -> SourceChanged:
    return SourceChanged(
        f"{what} changed while it was read; nothing was stored",
        hint="put it again when nobody writes to it, or put a snapshot of it",
    )


def open_regular(path: bytes) -> BinaryIO:
    """Open a regular file itself: no link is followed, and nothing that stands there instead is waited for.
    SourceChanged for what is no regular file, NotFound, LafsError."""
    shown = os.fsdecode(path)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFound(f"no such file: {shown}") from error
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EMLINK, errno.EISDIR):
            raise _changed(shown) from error
        raise LafsError(f"cannot read {shown}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise _changed(shown)
    return os.fdopen(handle, "rb", buffering=0)


@contextlib.contextmanager
def opened(source: Path | SeenFile | Buffer | BinaryIO | Source, segment_size: int) -> Iterator[Source]:
    """Open what is to be uploaded. A source is read from its start, and left open. Of a stream up to
    `segment_size` bytes are buffered: a shorter one is of known length, and is treated as bytes in memory."""
    if isinstance(source, Path):
        try:
            file = source.open("rb", buffering=0)
        except FileNotFoundError:
            raise NotFound(f"no such file: {source}") from None
        except IsADirectoryError:
            raise UsageError(f"{source} is a directory") from None
        except OSError as error:
            raise LafsError(f"cannot read {source}: {error.strerror}") from error
        with file:
            found = os.fstat(file.fileno())
            # A file that says it has no bytes may give some all the same: those below /proc do.
            whole = stat.S_ISREG(found.st_mode) and found.st_size > 0
            yield FileSource(source, file) if whole else _buffered(file, segment_size)
    elif isinstance(source, SeenFile):
        with open_regular(source.path) as regular:
            found = os.fstat(regular.fileno())
            if _identity(found) != _identity(source.seen):
                raise _changed(source.shown)
            yield FileSource(source, regular) if found.st_size else _buffered(regular, segment_size)
    elif isinstance(source, bytes | bytearray | memoryview):
        yield BytesSource(source)
    elif isinstance(source, Source):
        source.rewind()
        yield source
    else:
        yield _buffered(source, segment_size)


def _buffered(stream: BinaryIO, segment_size: int) -> Source:
    """Read ahead to see whether the stream ends within one segment."""
    start = bytearray()
    piece = memoryview(bytearray(min(segment_size + 1, _READ_AHEAD)))
    while len(start) <= segment_size:
        count = _fill(stream, piece[: segment_size + 1 - len(start)], "standard input")
        if not count:
            return BytesSource(start)
        start += piece[:count]
    return StreamSource(start, stream)


def _fill(stream: BinaryIO, buffer: memoryview, name: str, idle: Callable[[], None] | None = None) -> int:
    filled = 0
    # where somebody is to be called meanwhile: no more at a time than there is
    read: Callable[[memoryview], int | None] = stream.readinto  # type: ignore[attr-defined]
    if idle is not None:
        read = getattr(stream, "readinto1", read)
    while filled < buffer.nbytes:
        try:
            if idle is not None:
                _await(stream, idle)
            count = read(buffer[filled:])
            if count is None:  # a descriptor that does not block: nothing is there yet, which is not the end
                select.select([stream], [], [])
                continue
        except OSError as error:
            raise LafsError(f"cannot read {name}: {error.strerror}") from error
        if not count:
            break
        filled += count
    return filled


def _await(stream: BinaryIO, idle: Callable[[], None]) -> None:
    """Wait until there is something to read. A stream that is no descriptor has everything at once."""
    try:
        descriptor = stream.fileno()
    except (AttributeError, OSError):
        return
    while not select.select([descriptor], [], [], _IDLE_SECONDS)[0]:
        idle()


def _identity(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
