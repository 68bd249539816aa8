"""The jail: every access to the served folder goes from its own descriptor down, one name at a time, through no link.

A folder that somebody swaps for a symbolic link between two steps is not followed: each step opens one name in the
folder that is open already, and refuses links. Files are plain files; devices, pipes and sockets are never opened.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lafscli.server.backend import FAILURE, NO_SUCH_FILE, PERMISSION_DENIED, Attrs, Refused
from lafscli.server.shelves import rename_keeping

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
FILE_MODE = 0o600
FOLDER_MODE = 0o700

_WORDS = {
    errno.ENOENT: (NO_SUCH_FILE, "no such file"),
    errno.ENOTDIR: (NO_SUCH_FILE, "no such file"),
    errno.ELOOP: (NO_SUCH_FILE, "no such file"),
    errno.ENXIO: (NO_SUCH_FILE, "no such file"),
    errno.EACCES: (PERMISSION_DENIED, "permission denied"),
    errno.EPERM: (PERMISSION_DENIED, "permission denied"),
    errno.EROFS: (PERMISSION_DENIED, "the disk is read-only"),
    errno.EEXIST: (FAILURE, "it exists already"),
    errno.ENOTEMPTY: (FAILURE, "the folder is not empty"),
    errno.EISDIR: (FAILURE, "it is a folder"),
    errno.ENOSPC: (FAILURE, "no space left on the disk"),
    errno.EDQUOT: (FAILURE, "the quota of the server's own account is used up"),
    errno.EFBIG: (FAILURE, "no space left: the file would be longer than the system allows"),
    errno.ENAMETOOLONG: (NO_SUCH_FILE, "the name is too long"),
    errno.EMFILE: (FAILURE, "too many open files"),
    errno.ENFILE: (FAILURE, "too many open files"),
    errno.EXDEV: (FAILURE, "the folders are on different file systems"),
}


def refusal(error: OSError) -> Refused:
    """What the client is told when the system refuses something."""
    code, words = _WORDS.get(error.errno or 0, (FAILURE, os.strerror(error.errno or 0).lower()))
    return Refused(code, words)


@contextmanager
def asking() -> Iterator[None]:
    """Around what asks the system: its refusal becomes ours."""
    try:
        yield
    except OSError as error:
        raise refusal(error) from error


def attrs_of(status: os.stat_result) -> Attrs:
    """What is told of a plain file or a folder; NO_SUCH_FILE for anything else."""
    if stat.S_ISREG(status.st_mode):
        kind = "file"
    elif stat.S_ISDIR(status.st_mode):
        kind = "dir"
    else:
        raise Refused(NO_SUCH_FILE, "no such file")
    return Attrs(
        kind,
        status.st_size,
        stat.S_IMODE(status.st_mode),
        _seconds(status.st_atime),
        _seconds(status.st_mtime),
        status.st_uid,
        status.st_gid,
    )


def _seconds(time: float) -> int:
    return min(max(int(time), 0), (1 << 32) - 1)


class Jail:
    """One served folder. Methods take names from its top down, and raise OSError as the system does."""

    def __init__(self, root: Path) -> None:
        self.root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        if self.root_fd >= 0:
            os.close(self.root_fd)
            self.root_fd = -1

    @contextmanager
    def folder(self, names: Sequence[str]) -> Iterator[int]:
        """A folder, open for as long as it is worked in."""
        descriptor = self.open_folder(names)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def open_folder(self, names: Sequence[str]) -> int:
        """A folder, open."""
        if not names:
            return os.dup(self.root_fd)
        above = self.root_fd
        try:
            for name in names:
                below = os.open(name, _FOLDER, dir_fd=above)
                if above != self.root_fd:
                    os.close(above)
                above = below
            return above
        except BaseException:
            if above != self.root_fd:
                os.close(above)
            raise

    def look(self, names: Sequence[str]) -> os.stat_result:
        """What is there, not what it links to."""
        if not names:
            return os.fstat(self.root_fd)
        with self.folder(names[:-1]) as above:
            return os.stat(names[-1], dir_fd=above, follow_symlinks=False)

    def there(self, names: Sequence[str]) -> os.stat_result | None:
        """The same, or None."""
        try:
            return self.look(names)
        except FileNotFoundError:
            return None

    def open(self, names: Sequence[str], flags: int) -> int:
        """A plain file, open; one that is made has mode 0600."""
        with self.folder(names[:-1]) as above:
            return open_file(above, names[-1], flags)

    def mkdir(self, names: Sequence[str]) -> None:
        with self.folder(names[:-1]) as above:
            os.mkdir(names[-1], FOLDER_MODE, dir_fd=above)

    def rmdir(self, names: Sequence[str]) -> None:
        with self.folder(names[:-1]) as above:
            os.rmdir(names[-1], dir_fd=above)

    def unlink(self, names: Sequence[str]) -> None:
        with self.folder(names[:-1]) as above:
            os.unlink(names[-1], dir_fd=above)

    def link(self, old: Sequence[str], new: Sequence[str]) -> None:
        with self.folder(old[:-1]) as here, self.folder(new[:-1]) as there:
            os.link(old[-1], new[-1], src_dir_fd=here, dst_dir_fd=there, follow_symlinks=False)

    def replace(self, old: Sequence[str], new: Sequence[str]) -> None:
        """Move, over what is there."""
        with self.folder(old[:-1]) as here, self.folder(new[:-1]) as there:
            os.rename(old[-1], new[-1], src_dir_fd=here, dst_dir_fd=there)

    def rename(self, old: Sequence[str], new: Sequence[str]) -> None:
        """Move; FileExistsError where something is there."""
        with self.folder(old[:-1]) as here, self.folder(new[:-1]) as there:
            rename_keeping(here, old[-1], there, new[-1])

    def names(self, names: Sequence[str]) -> list[str]:
        """What is in a small folder of ours."""
        with self.folder(names) as folder:
            return os.listdir(folder)


def open_file(above: int, name: str, flags: int) -> int:
    """A plain file in an open folder. Looked at before and after: a pipe or device must not even be opened."""
    if not flags & os.O_EXCL:
        try:
            status = os.stat(name, dir_fd=above, follow_symlinks=False)
        except FileNotFoundError:
            if not flags & os.O_CREAT:
                raise
            flags |= os.O_EXCL  # what comes there meanwhile is not looked at yet
        else:
            _insist_on_file(status)
    descriptor = os.open(name, flags | _FILE, FILE_MODE, dir_fd=above)
    try:
        _insist_on_file(os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _insist_on_file(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
