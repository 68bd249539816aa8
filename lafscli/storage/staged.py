"""A new immutable share while it is being written: staged, durable, then renamed into its place (DESIGN §1.9)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from lafscli.errors import FileError, LafsError, ServerError
from lafscli.formats import container
from lafscli.formats.mutable_container import MutableContainer
from lafscli.storage.store import (
    Answer,
    Buffer,
    FileRange,
    Files,
    FileStat,
    FileWriter,
    Lease,
    NewShare,
    Server,
    Stat,
    StorageIndex,
)


class Folder(Protocol):
    """What a staged share needs of the store that it will belong to."""

    files: Files

    @property
    def sync(self) -> bool: ...

    def make_room(self, si: StorageIndex) -> bool: ...

    def publish(self, moves: Sequence[tuple[str, StorageIndex, int]]) -> list[LafsError | None]: ...

    def discard_staged(self, staged: str, si: StorageIndex) -> None: ...


class StagedShare:
    """A `ShareWriter`: a share in `staging/`, with room for the header of its container."""

    def __init__(
        self,
        folder: Folder,
        si: StorageIndex,
        shnum: int,
        staged: str,
        file: FileWriter,
        lease: Lease,
        resumed: int = 0,
    ) -> None:
        self._folder = folder
        self._si = si
        self._shnum = shnum
        self.staged = staged
        self._file = file
        self._lease = lease
        self._length = self.resumed = resumed
        if not resumed:
            file.write(container.header(0, 1))

    @property
    def durable(self) -> int:
        return max(self.resumed, self._file.durable - container.HEADER_SIZE)

    def checkpoint(self) -> None:
        self._file.checkpoint()

    def read_back(self, ranges: Sequence[tuple[int, int]]) -> list[Buffer | LafsError]:
        wanted = [FileRange(self.staged, container.HEADER_SIZE + offset, length) for offset, length in ranges]
        return list(self._folder.files.read(wanted).finish())

    def append(self, data: Buffer) -> None:
        with plainly(self.staged):
            self._file.write(data)
        self._length += memoryview(data).nbytes

    def write_header(self, data: Buffer) -> None:
        self._file.write_at(container.HEADER_SIZE, data)

    def seal(self) -> None:
        record = lease_record(self._lease)
        with plainly(self.staged):
            self._file.write(record)
            self._file.write_at(0, container.header(self._length, 1))
            self._file.close(sync=self._folder.sync)
        looks = [Stat(self.staged)]
        if self._folder.make_room(self._si):
            looks.append(Stat(container.share_folder(self._si)))
        stat, *places = self._folder.files.do(looks)
        error = size_error(stat, container.HEADER_SIZE + self._length + len(record))
        if error is not None:
            raise error
        for place in places:
            if isinstance(place, FileStat) and place.kind == "dir":
                continue
            reason = place.message if isinstance(place, FileError) else "it is not a folder"
            raise FileError(f"no share can be placed there: {reason}")

    def commit(self) -> None:
        [outcome] = self._folder.publish([(self.staged, self._si, self._shnum)])
        if outcome is not None:
            raise outcome

    def abort(self) -> None:
        self._file.abandon()
        self._folder.discard_staged(self.staged, self._si)


@contextmanager
def plainly(path: str) -> Iterator[None]:
    """Errors say what happened; under which internal name is of no use to anybody."""
    try:
        yield
    except FileError as error:
        in_words(error, path)
        raise


def in_words(error: FileError, path: str) -> FileError:
    """The error without the internal name."""
    error.message = error.message.removeprefix(f"{path}: ")
    error.args = (error.message,)
    return error


def lease_record(lease: Lease) -> bytes:
    return container.lease_record(lease.renew, lease.cancel, lease.expiration, owner=lease.owner)


def around(server: Server, share: NewShare) -> tuple[bytes, bytes]:
    """What of its container comes before and after a new share: with a write enabler, of a mutable one."""
    length = sum(memoryview(part).nbytes for part in share.parts)
    lease = share.lease
    if share.write_enabler is None:
        return container.header(length, 1), lease_record(lease)
    new = MutableContainer.new(server.node_id, share.write_enabler)
    made = new.with_lease(lease.renew, lease.cancel, lease.expiration, server.node_id).resized(length)
    return made.front(), made.back()


def size_error(stat: Answer, size: int) -> ServerError | None:
    """Compare what the server says it has with what was written to it."""
    if isinstance(stat, FileError):
        return stat
    if not isinstance(stat, FileStat) or stat.size != size:
        return FileError(
            f"wrote {size} bytes of a share, the server has {stat.size if isinstance(stat, FileStat) else 0}"
        )
    return None
