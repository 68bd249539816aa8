"""The border between the SFTP engine and what it serves: a Backend answers, or refuses with a status and a message.

Paths are bytes as the client sent them. One connection has one backend, and calls it from one thread.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

OK, EOF, NO_SUCH_FILE, PERMISSION_DENIED, FAILURE, BAD_MESSAGE, NO_CONNECTION, CONNECTION_LOST, OP_UNSUPPORTED = range(
    9
)
"""Status codes of SFTP version 3."""

READ, WRITE, APPEND, CREATE, TRUNCATE, EXCLUSIVE = 1, 2, 4, 8, 16, 32
"""How a file is opened (pflags of SFTP version 3)."""


class Refused(Exception):
    """What the client is told instead of an answer: an SFTP status and a line for people."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


_SYSTEM: dict[int, tuple[int, str]] = {
    errno.ENOENT: (NO_SUCH_FILE, "no such file"),
    errno.ENOTDIR: (NO_SUCH_FILE, "no such file"),
    errno.ELOOP: (NO_SUCH_FILE, "no such file"),  # a symbolic link that is not followed
    errno.EACCES: (PERMISSION_DENIED, "permission denied"),
    errno.EPERM: (PERMISSION_DENIED, "permission denied"),
    errno.EROFS: (PERMISSION_DENIED, "read-only file system"),
    errno.EEXIST: (FAILURE, "file exists"),
    errno.ENOSPC: (FAILURE, "no space left"),
    errno.EDQUOT: (FAILURE, "no space left: quota exceeded"),
    errno.EMFILE: (FAILURE, "too many open files"),
    errno.ENFILE: (FAILURE, "too many open files"),
    errno.ENOSYS: (OP_UNSUPPORTED, "operation unsupported"),
    errno.EOPNOTSUPP: (OP_UNSUPPORTED, "operation unsupported"),
}


def refusal(error: OSError) -> Refused:
    """What the client is told of an error of the operating system: never a path of this machine."""
    number = error.errno or 0
    code, message = _SYSTEM.get(number, (FAILURE, os.strerror(number).lower() if number else "failure"))
    return Refused(code, message)


@dataclass(frozen=True, slots=True)
class Attrs:
    """What is told of an entry. `kind` is file or dir; times in whole Unix seconds."""

    kind: str
    size: int
    mode: int
    atime: int
    mtime: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Change:
    """What a client wants set (SETSTAT, FSETSTAT, OPEN, MKDIR); None is not asked for."""

    size: int | None = None
    owner: tuple[int, int] | None = None
    mode: int | None = None
    times: tuple[int, int] | None = None


NO_CHANGE = Change()


@dataclass(frozen=True, slots=True)
class FileSystem:
    """The numbers of statvfs, in the order of `statvfs@openssh.com`."""

    bsize: int
    frsize: int
    blocks: int
    bfree: int
    bavail: int
    files: int
    ffree: int
    favail: int
    fsid: int
    flag: int
    namemax: int


class OpenFile(Protocol):
    """A file that a client has open. One that has an `abandon` is told by that, not by `close`, that the client is gone
    without having closed it."""

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Read from the offset; how many bytes there were, 0 at the end."""

    def write(self, offset: int, data: memoryview) -> None:
        """Write all of it, or refuse. One opened to append writes at its end, whatever the offset."""

    def attrs(self) -> Attrs: ...

    def change(self, change: Change) -> None: ...

    def sync(self) -> None:
        """Make durable what was written."""

    def close(self) -> None:
        """Let go of it; a refusal tells that what was written is not all there."""


class Backend(Protocol):
    """What is served on one connection. Every method raises Refused for what it will not do, or an OSError, of which
    the client is told what `refusal` makes of it. Views that are handed in are good until the method returns.
    """

    @property
    def extensions(self) -> Sequence[tuple[str, str]]:
        """Extensions of our own: name and version, announced behind those of OpenSSH that the engine offers."""

    def open(self, path: bytes, flags: int, change: Change) -> OpenFile: ...

    def entries(self, path: bytes) -> Iterator[tuple[bytes, Attrs]]:
        """The names of a folder, without `.` and `..`. Refused at the call; read while it is iterated over.

        What holds something open has a `close`, which is called when the client is done with it, maybe before the
        first name was read (the `close` of a generator that has not begun runs none of its code).
        """

    def stat(self, path: bytes, *, follow: bool) -> Attrs: ...

    def change(self, path: bytes, change: Change) -> None: ...

    def remove(self, path: bytes) -> None: ...

    def mkdir(self, path: bytes, change: Change) -> None: ...

    def rmdir(self, path: bytes) -> None: ...

    def rename(self, old: bytes, new: bytes) -> None:
        """Refused where `new` exists."""

    def replace(self, old: bytes, new: bytes) -> None:
        """As `rename`, over what is there (posix-rename@openssh.com)."""

    def link(self, old: bytes, new: bytes) -> None:
        """Give a file a second name (hardlink@openssh.com)."""

    def realpath(self, path: bytes) -> bytes: ...

    def space(self, path: bytes) -> FileSystem: ...

    def extended(self, name: str, body: memoryview) -> bytes | None:
        """A request of our own: the body of its EXTENDED_REPLY, None for a plain OK; Refused(OP_UNSUPPORTED) for a
        name that is not known."""

    def tick(self) -> None:
        """Called about once a second as long as the connection lives, idle or not; less often by as much as a request
        takes, and while the client takes none of its answers."""

    def close(self) -> None:
        """The connection is gone, in whatever way; may be called twice."""
