"""A folder as a backend without any policy, as OpenSSH's sftp-server serves it: for tests, and to measure the engine.

A relative path starts in the folder; an absolute one is one of this machine. As a program it talks on standard input
and output, in place of sftp-server: `python -m tests.plain_backend DIR`.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from lafscli.server.backend import (
    APPEND,
    CREATE,
    EXCLUSIVE,
    OP_UNSUPPORTED,
    READ,
    TRUNCATE,
    WRITE,
    Attrs,
    Change,
    FileSystem,
    Refused,
)
from lafscli.server.session import serve
from lafscli.server.streams import FdStream
from lafscli.storage.local import _move

_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "link"}
_FLAGS = {APPEND: os.O_APPEND, CREATE: os.O_CREAT, TRUNCATE: os.O_TRUNC, EXCLUSIVE: os.O_EXCL}


def _attrs(found: os.stat_result) -> Attrs:
    kind = _KINDS.get(stat.S_IFMT(found.st_mode), "other")
    times = int(found.st_atime), int(found.st_mtime)
    return Attrs(kind, found.st_size, stat.S_IMODE(found.st_mode), *times, found.st_uid, found.st_gid)


def _change(where: bytes | int, change: Change) -> None:
    if change.size is not None:
        os.truncate(where, change.size)
    if change.mode is not None:
        os.chmod(where, change.mode)
    if change.times is not None:
        os.utime(where, change.times)
    if change.owner is not None:
        os.chown(where, *change.owner)


class PlainFile:
    """An open file, by its descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read_into(self, offset: int, buffer: memoryview) -> int:
        return os.preadv(self._descriptor, [buffer], offset)

    def write(self, offset: int, data: memoryview) -> None:
        while data:
            count = os.pwrite(self._descriptor, data, offset)
            data, offset = data[count:], offset + count

    def attrs(self) -> Attrs:
        return _attrs(os.fstat(self._descriptor))

    def change(self, change: Change) -> None:
        _change(self._descriptor, change)

    def sync(self) -> None:
        os.fsync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)


class PlainFolder:
    """A Backend. `ticks` and `closed` tell how often it was called so."""

    extensions: Sequence[tuple[str, str]] = (("echo@lafs", "1"),)

    def __init__(self, root: Path) -> None:
        self._root = os.fsencode(root)
        self.ticks = 0
        self.closed = 0

    def _path(self, path: bytes) -> bytes:
        return os.path.join(self._root, path) if path else self._root

    def open(self, path: bytes, flags: int, change: Change) -> PlainFile:
        access = {READ: os.O_RDONLY, WRITE: os.O_WRONLY, READ | WRITE: os.O_RDWR}[flags & (READ | WRITE)]
        more = sum(system for ours, system in _FLAGS.items() if flags & ours)
        mode = 0o666 if change.mode is None else change.mode
        descriptor = os.open(self._path(path), access | more | os.O_CLOEXEC | os.O_NOCTTY, mode)
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise IsADirectoryError(21, "is a folder")
        return PlainFile(descriptor)

    def entries(self, path: bytes) -> Iterator[tuple[bytes, Attrs]]:
        return self._entries(os.scandir(self._path(path)))

    def _entries(self, found: Iterator[os.DirEntry[bytes]]) -> Iterator[tuple[bytes, Attrs]]:
        try:
            for entry in found:
                try:
                    attrs = _attrs(entry.stat(follow_symlinks=False))
                except FileNotFoundError:
                    continue
                yield entry.name, attrs
        finally:
            found.close()  # type: ignore[attr-defined]

    def stat(self, path: bytes, *, follow: bool) -> Attrs:
        return _attrs(os.stat(self._path(path), follow_symlinks=follow))

    def change(self, path: bytes, change: Change) -> None:
        _change(self._path(path), change)

    def remove(self, path: bytes) -> None:
        os.unlink(self._path(path))

    def mkdir(self, path: bytes, change: Change) -> None:
        os.mkdir(self._path(path), 0o777 if change.mode is None else change.mode)

    def rmdir(self, path: bytes) -> None:
        os.rmdir(self._path(path))

    def rename(self, old: bytes, new: bytes) -> None:
        _move(os.fsdecode(self._path(old)), os.fsdecode(self._path(new)))

    def replace(self, old: bytes, new: bytes) -> None:
        os.rename(self._path(old), self._path(new))

    def link(self, old: bytes, new: bytes) -> None:
        os.link(self._path(old), self._path(new), follow_symlinks=False)

    def realpath(self, path: bytes) -> bytes:
        return os.path.realpath(self._path(path))

    def space(self, path: bytes) -> FileSystem:
        found = os.statvfs(self._path(path))
        return FileSystem(
            *(found.f_bsize, found.f_frsize, found.f_blocks, found.f_bfree, found.f_bavail, found.f_files),
            *(found.f_ffree, found.f_favail, found.f_fsid, found.f_flag, found.f_namemax),
        )

    def extended(self, name: str, body: memoryview) -> bytes | None:
        if name != "echo@lafs":
            raise Refused(OP_UNSUPPORTED, "operation unsupported")
        return bytes(body) or None

    def tick(self) -> None:
        self.ticks += 1

    def close(self) -> None:
        self.closed += 1


def main() -> None:
    """Serve a folder on standard input and output."""
    root = Path(sys.argv[1]).absolute()
    serve(FdStream.standard(), PlainFolder(root), idle=None, note=lambda line: print(line, file=sys.stderr))


if __name__ == "__main__":
    main()
