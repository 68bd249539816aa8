"""Local folders that a tree from the grid is written into (CLI.md §1).

Below the folder that the user named everything is reached through descriptors, one name at a time, and no link is
followed: a directory of somebody else's can't make us write anywhere else. A file appears under its name when it is
complete and durable.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from lafscli.errors import LafsError
from lafscli.storage.store import Buffer

_OPEN = 48
"""Folders kept open; many systems allow a process 256 descriptors."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LONGEST_NAME = 255

Place = tuple[str, ...]
"""Names below the folder."""


class LocalFolders:
    """The folders below one that the user named; a context manager. Errors are LafsErrors that name the path."""

    def __init__(self, root: Path) -> None:
        self._root = root
        try:
            self._top = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise cannot(str(root), error) from error
        self._open: OrderedDict[Place, int] = OrderedDict()
        self._written: set[Place] = set()
        umask = os.umask(0o077)
        os.umask(umask)
        self._usual_mode = 0o666 & ~umask

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in (self._top, *self._open.values()):
            os.close(handle)

    def shown(self, place: Place) -> str:
        """A place as the user would write it."""
        return str(self._root.joinpath(*place)) if len(place) < 64 else f"{self._root}/{'/'.join(place)}"

    # ---- folders

    def make(self, place: Place) -> None:
        """Make a folder, or use the one that is there."""
        if not place:
            return
        above = self.handle(place[:-1])
        try:
            os.mkdir(place[-1], 0o777, dir_fd=above)
            self._written.add(place[:-1])
        except FileExistsError:
            pass
        except OSError as error:
            raise cannot(self.shown(place), error) from error
        self.handle(place)

    def handle(self, place: Place) -> int:
        """A descriptor of a folder; it stays open for a while."""
        known = len(place)
        while known and place[:known] not in self._open:
            known -= 1
        handle = self._top
        if known:
            handle = self._open[place[:known]]
            self._open.move_to_end(place[:known])
        for depth in range(known + 1, len(place) + 1):
            handle = self._enter(handle, place[:depth])
        return handle

    def _enter(self, above: int, place: Place) -> int:
        try:
            handle = os.open(place[-1], _FOLDER, dir_fd=above)
        except OSError as error:
            with contextlib.suppress(OSError):
                found = os.stat(place[-1], dir_fd=above, follow_symlinks=False)
                if stat.S_ISLNK(found.st_mode):
                    raise LafsError(f"{self.shown(place)} is a symbolic link, which is not followed") from error
                if not stat.S_ISDIR(found.st_mode):
                    raise LafsError(f"{self.shown(place)} is there, and is no folder") from error
            raise cannot(self.shown(place), error) from error
        self._open[place] = handle
        if len(self._open) > _OPEN:
            os.close(self._open.popitem(last=False)[1])
        return handle

    def finish(self, place: Place, mode: int | None, mtime_ns: int | None) -> None:
        """Give a folder its mode and time, when nothing more is written into it."""
        handle = self.handle(place)
        try:
            if mode is not None:
                os.fchmod(handle, mode)
            if mtime_ns is not None:
                os.utime(handle, ns=(mtime_ns, mtime_ns))
        except OSError as error:
            raise cannot(self.shown(place), error) from error

    def note_written(self, place: Place) -> None:
        """A name was given in this folder: `settle` makes it durable."""
        self._written.add(place)

    def settle(self) -> None:
        """Make the names durable that were given so far."""
        written, self._written = self._written, set()
        for place in written:
            with contextlib.suppress(OSError, LafsError):
                os.fsync(self.handle(place))

    # ---- files

    @contextlib.contextmanager
    def landing(
        self, place: Place, *, mode: int | None = None, mtime_ns: int | None = None
    ) -> Iterator[Callable[[Buffer], None]]:
        """A place to write a file to: it gets its name, whole and durable, when the block ends well; after an error
        nothing of it is left. A file that is replaced gives its mode, where none is asked for."""
        folder, name = self.handle(place[:-1]), place[-1]
        old = self._replaced(folder, place)
        # the descriptor must not be closed while others are opened
        folder = os.dup(folder)
        temporary = f".lafs-{secrets.token_hex(8)}"
        left = True  # from now on: a signal may come when the file was made and we do not know it yet
        try:
            try:
                handle = os.open(
                    temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder
                )
                try:
                    yield lambda data: self._write(handle, data, place)
                    os.fchmod(handle, mode if mode is not None else self._usual_mode if old is None else old)
                    if mtime_ns is not None:
                        os.utime(handle, ns=(mtime_ns, mtime_ns))
                    os.fsync(handle)
                finally:
                    os.close(handle)
                os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
                left = False
            except OSError as error:
                raise cannot(self.shown(place), error) from error
        finally:
            if left:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=folder)
            os.close(folder)
        self._written.add(place[:-1])

    def _replaced(self, folder: int, place: Place) -> int | None:
        """The mode of the file that is there; None where there is none. LafsError for what must not be replaced."""
        try:
            found = os.stat(place[-1], dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise cannot(self.shown(place), error) from error
        if stat.S_ISLNK(found.st_mode):
            raise LafsError(f"{self.shown(place)} is a symbolic link, which is not followed")
        if stat.S_ISDIR(found.st_mode):
            raise LafsError(f"{self.shown(place)} is there, and is a folder")
        if not stat.S_ISREG(found.st_mode):
            raise LafsError(f"{self.shown(place)} is there, and is no regular file")
        return stat.S_IMODE(found.st_mode) & 0o777

    def _write(self, handle: int, data: Buffer, place: Place) -> None:
        view = memoryview(data).cast("B")
        try:
            while view:
                view = view[os.write(handle, view) :]
        except OSError as error:
            raise cannot(self.shown(place), error) from error


class NoRoom(LafsError):
    """The disk here is full, or can't be written: there is no use in going on."""


def cannot(path: str, error: OSError) -> LafsError:
    """The error for something that can't be written here."""
    sort = NoRoom if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO) else LafsError
    return sort(f"cannot write {path}: {error.strerror}")


def unfit(name: str) -> str | None:
    """Why a name that arrives can't be that of a file here; None if it can (CLI.md §1)."""
    if "/" in name or "\0" in name or name in (".", ".."):
        return "its name can't be that of a file here"
    if len(os.fsencode(name)) > _LONGEST_NAME:
        return "its name is too long for a file here"
    return None
