"""Files on this machine: the same promises as over SFTP, kept by the operating system."""

from __future__ import annotations

import errno
import os
import stat
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import inf
from pathlib import Path, PurePosixPath

from lafscli.errors import FileDenied, FileError, FileExists, FileMissing, NotSupported, OutOfSpace
from lafscli.storage.packets import FSYNC, HARDLINK, POSIX_RENAME, STATVFS, escaped
from lafscli.storage.store import (
    MANY_NAMES,
    Answer,
    Ask,
    Buffer,
    DirEntry,
    FileRange,
    FileStat,
    Link,
    List,
    Mkdir,
    NewFile,
    Op,
    Patch,
    Remove,
    Rename,
    Replace,
    Rmdir,
    Space,
    Stat,
    Touch,
    Truncate,
)
from lafscli.storage.turn import Turn

_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "link"}
_SORTS: dict[int, type[FileError]] = {
    errno.ENOENT: FileMissing,
    errno.EEXIST: FileExists,
    errno.ENOTEMPTY: FileExists,
    errno.EACCES: FileDenied,
    errno.EPERM: FileDenied,
    errno.EROFS: FileDenied,
    errno.ENOSPC: OutOfSpace,
    errno.EDQUOT: OutOfSpace,
    errno.EOPNOTSUPP: NotSupported,
    errno.ENOSYS: NotSupported,
}
_NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
# A name that leads to a pipe or a terminal must not hold us up.
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_WRITE = os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_KEPT = 64
_TOGETHER = 64
_SMALL = 64 * 1024


class LocalFiles:
    """A folder tree below `root`. A root that is not there makes every answer FileMissing.
    `sync_folders`: after moves, the folders concerned are synced too, so that a power failure undoes none of them."""

    moved = -inf

    def __init__(self, root: Path, *, name: str = "", sync_folders: bool = False) -> None:
        self._root = os.fspath(root)
        self._name = name
        self._sync_folders = sync_folders
        self._kept: OrderedDict[tuple[int, str], int] = OrderedDict()
        self._turn = Turn(self._shut, name)

    def connect(self) -> frozenset[str]:
        """The extensions an OpenSSH server would offer for what this does; nothing is tried. `close` is for good."""
        with self._turn:
            return frozenset({POSIX_RENAME, FSYNC, HARDLINK, STATVFS})

    def close(self) -> None:
        """Close what is kept open; later calls fail."""
        self._turn.close()

    def _shut(self) -> None:
        while self._kept:
            with suppress(KeyError, OSError):
                os.close(self._kept.popitem()[1])

    # ---- names ------------------------------------------------------------------------------------------------

    def do(self, ops: Sequence[Op]) -> list[Answer]:
        """Carry out in order."""
        answers: list[Answer] = []
        moved: set[str] = set()
        with self._turn:
            for op in ops:
                try:
                    answers.append(self._carry_out(op))
                except FileError as error:
                    answers.append(error)
                except OSError as error:
                    answers.append(self._refused(error, op.old if isinstance(op, Rename | Replace | Link) else op.path))
                else:
                    if self._sync_folders and isinstance(op, Rename | Replace | Link):
                        moved |= {str(PurePosixPath(path).parent) for path in (op.old, op.new)}
            for folder in moved:
                # The folder may be gone again; what was moved out of it is then in another one of these.
                with suppress(OSError):
                    self._sync_folder(folder)
        return answers

    def do_and_read(self, ops: Sequence[Op], wanted: Sequence[FileRange]) -> tuple[list[Answer], LocalReading]:
        """Carry out in order; the ranges are read when the reading is finished."""
        return self.do(ops), self.read(wanted)

    def _carry_out(self, op: Op) -> Answer:
        match op:
            case Stat(path):
                return _stat(os.lstat(self._path(path)))
            case Ask():
                raise NotSupported("this is a folder, and no server", server=self._name)
            case List(path, most):
                return self._list(path, most)
            case NewFile(path, parts, sync, look):
                writer = self._open(path, os.O_CREAT | os.O_EXCL)
                try:
                    writer.write_parts(parts)
                    writer.close(sync=sync)
                finally:
                    writer.abandon()
                return _stat(os.lstat(self._path(path))) if look else None
            case Mkdir(path):
                os.mkdir(self._path(path), 0o700)
            case Rename(old, new):
                _move(self._path(old), self._path(new))
            case Replace(old, new):
                os.rename(self._path(old), self._path(new))
            case Link(old, new):
                os.link(self._path(old), self._path(new), follow_symlinks=False)
            case Remove(path):
                os.unlink(self._path(path))
            case Rmdir(path):
                os.rmdir(self._path(path))
            case Touch(path, mtime):
                os.utime(self._path(path), (mtime, mtime))
            case Truncate(path, size):
                os.truncate(self._path(path), size)
            case Patch(path, offset, data):
                descriptor = os.open(self._path(path), os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    os.pwrite(descriptor, data, offset)
                finally:
                    os.close(descriptor)
        return None

    def _sync_folder(self, folder: str) -> None:
        descriptor = os.open(self._path(folder), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def listing(self, paths: Sequence[str], *, most: int = MANY_NAMES) -> list[list[DirEntry] | FileError]:
        """All names in each folder; one that vanishes meanwhile is left out."""
        with self._turn:
            return [self._list(path, most) for path in paths]

    def _list(self, path: str, most: int) -> list[DirEntry] | FileError:
        entries = []
        try:
            with os.scandir(self._path(path)) as found:
                for entry in found:
                    with suppress(FileNotFoundError):
                        entries.append(DirEntry(entry.name, _stat(entry.stat(follow_symlinks=False))))
                    if len(entries) > most:
                        return FileError(f"{path}: more than {most} names", server=self._name)
        except OSError as error:
            return self._refused(error, path)
        return entries

    def space(self) -> Space | None:
        """What statvfs says, or None where the root is not there."""
        with self._turn:
            try:
                found = os.statvfs(self._root)
            except OSError:
                return None
            return Space(free=found.f_frsize * found.f_bavail, total=found.f_frsize * found.f_blocks)

    # ---- contents ---------------------------------------------------------------------------------------------

    def read(self, wanted: Sequence[FileRange]) -> LocalReading:
        """The ranges are read when the reading is finished."""
        return LocalReading(self._turn, lambda: [self._read(item) for item in wanted])

    def _read(self, wanted: FileRange) -> Buffer | FileError:
        descriptor = self._kept.get(name := (wanted.keeper, wanted.path))
        kept = descriptor is not None
        try:
            if descriptor is None:
                descriptor = os.open(self._path(wanted.path), _READ)
            try:
                return _read_range(descriptor, wanted)
            finally:
                if kept:
                    self._kept.move_to_end(name)
                elif wanted.keep:
                    self._keep(name, descriptor)
                else:
                    os.close(descriptor)
        except OSError as error:
            return self._refused(error, wanted.path)

    def _keep(self, name: tuple[int, str], descriptor: int) -> None:
        self._kept[name] = descriptor
        if len(self._kept) > _KEPT:
            os.close(self._kept.popitem(last=False)[1])

    def release(self, path: str, keeper: int = 0) -> None:
        """Close a kept file; nothing if it is not open."""
        with self._turn:
            descriptor = self._kept.pop((keeper, path), None)
            if descriptor is not None:
                os.close(descriptor)

    def create(self, path: str) -> LocalWriter:
        """Make a new file exclusively (0600) and open it for writing."""
        with self._turn:
            return self._open(path, os.O_CREAT | os.O_EXCL)

    def open_existing(self, path: str, *, append: bool = False) -> LocalWriter:
        """Open a file that exists; without `append`, appending starts at the end that it has now."""
        with self._turn:
            return self._open(path, os.O_APPEND if append else 0)

    def _open(self, path: str, flags: int) -> LocalWriter:
        try:
            descriptor = os.open(self._path(path), _WRITE | flags, 0o600)
        except OSError as error:
            raise self._refused(error, path) from error
        return LocalWriter(descriptor, lambda error: self._refused(error, path), append=bool(flags & os.O_APPEND))

    def create_many(self, files: Sequence[NewFile], *, sync: bool) -> list[FileStat | FileError | None]:
        """Many small files: some are written together, then synced together."""
        outcomes: list[FileStat | FileError | None] = [None] * len(files)
        with self._turn:
            for start in range(0, len(files), _TOGETHER):
                writers: dict[int, LocalWriter] = {}
                for index, file in enumerate(files[start : start + _TOGETHER], start):
                    try:
                        writers[index] = self._open(file.path, os.O_CREAT | os.O_EXCL)
                        writers[index].write_parts(file.parts)
                    except FileError as error:
                        outcomes[index] = error
                for index, writer in writers.items():
                    try:
                        writer.close(sync=sync)
                        if files[index].stat:
                            outcomes[index] = self._look(files[index].path)
                    except FileError as error:
                        outcomes[index] = error
                        writer.abandon()
        return outcomes

    def _look(self, path: str) -> FileStat | FileError:
        try:
            return _stat(os.lstat(self._path(path)))
        except OSError as error:
            return self._refused(error, path)

    def _path(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    def _refused(self, error: OSError, path: str) -> FileError:
        text = (error.strerror or "failure").lower()
        sort = _SORTS.get(error.errno or 0, FileError)
        return sort(f"{escaped(path) or '.'}: {text}", server=self._name)


class LocalReading:
    """Ranges asked for."""

    def __init__(self, turn: Turn, read: Callable[[], list[Buffer | FileError]]) -> None:
        self._turn = turn
        self._read = read
        self._answers: list[Buffer | FileError] | None = None

    def finish(self) -> list[Buffer | FileError]:
        """Read them: bytes, a slice of `into`, or the error, in the order asked."""
        if self._answers is None:
            with self._turn:
                self._answers = self._read()
        return self._answers


class LocalWriter:
    """A file being written; every call has done its work when it returns."""

    def __init__(self, descriptor: int, refused: Callable[[OSError], FileError], *, append: bool = False) -> None:
        self._descriptor: int | None = descriptor
        self._append = append
        self._refused = refused
        self._end = os.lseek(descriptor, 0, os.SEEK_END)
        self._error: FileError | None = None
        self._durable = 0

    @property
    def durable(self) -> int:
        """Bytes from the start that the last checkpoint covers."""
        return self._durable

    def checkpoint(self) -> None:
        """Fsync."""
        try:
            os.fsync(self._usable())
        except OSError as error:
            self._error = self._refused(error)
            raise self._error from error
        self._durable = self._end

    def write(self, data: Buffer) -> None:
        """Append."""
        self._end = self._put(self._end, data)

    def write_at(self, offset: int, data: Buffer) -> None:
        """Overwrite inside what was written."""
        self._put(offset, data)

    def write_parts(self, parts: Sequence[Buffer]) -> None:
        """Append several buffers."""
        if sum(len(part) for part in parts) <= _SMALL:
            parts = [b"".join(parts)]
        for part in parts:
            self.write(part)

    def _put(self, offset: int, data: Buffer) -> int:
        rest = memoryview(data).cast("B")
        descriptor = self._usable()
        try:
            while rest:
                count = os.write(descriptor, rest) if self._append else os.pwrite(descriptor, rest, offset)
                offset += count
                rest = rest[count:]
        except OSError as error:
            self._error = self._refused(error)
            raise self._error from error
        return offset

    def _usable(self) -> int:
        if self._error is not None:
            raise self._error.with_traceback(None)
        if self._descriptor is None:
            raise self._refused(OSError(errno.EBADF, "closed"))
        return self._descriptor

    def flush(self) -> None:
        """Nothing is under way."""
        self._usable()

    def close(self, *, sync: bool) -> None:
        """Fsync if asked, close. A second close is nothing."""
        if self._error is None and self._descriptor is None:
            return
        descriptor = self._usable()
        try:
            if sync:
                os.fsync(descriptor)
            self._descriptor = None
            os.close(descriptor)
        except OSError as error:
            self._error = self._refused(error)
            raise self._error from error

    def abandon(self) -> None:
        """Close without caring."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with suppress(OSError):
                os.close(descriptor)


def _stat(found: os.stat_result) -> FileStat:
    return FileStat(_KINDS.get(stat.S_IFMT(found.st_mode), "other"), found.st_size, int(found.st_mtime))


def _move(old: str, new: str) -> None:
    """Move, never over anything: a file as OpenSSH does it, link and unlink.

    For folders, and where there are no hard links, it is a look and a rename: an *empty* folder (there: any file)
    made at `new` between the two is replaced. A folder with something in it never is.
    """
    if not stat.S_ISDIR(os.lstat(old).st_mode):
        try:
            os.link(old, new, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
        else:
            os.unlink(old)
            return
    if os.path.lexists(new):
        raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
    os.rename(old, new)


def _read_range(descriptor: int, wanted: FileRange) -> Buffer:
    if wanted.into is None:
        pieces = []
        left, offset = wanted.length, wanted.offset
        while left > 0 and (piece := os.pread(descriptor, left, offset)):
            pieces.append(piece)
            left -= len(piece)
            offset += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
    into = wanted.into[: wanted.length]
    done = 0
    while done < len(into) and (count := os.preadv(descriptor, [into[done:]], wanted.offset + done)):
        done += count
    return into[:done]
