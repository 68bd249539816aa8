"""Where containers stand below the root: shares/, trash/, quarantine/, history/. Nothing follows a link.

shares/<2 letters>/<SI>/<shnum>                quarantine/<UTC date>.<SI>.<shnum>.<token>
trash/<UTC date>/<SI>.<shnum>                  history/<2 letters>/<SI>/<shnum>.<seqnum>.<root hash, 8 letters>
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from lafscli.errors import CorruptShare, ServerError
from lafscli.formats.container import share_number
from lafscli.primitives.encoding import b32encode
from lafscli.server.backend import FAILURE, NO_SUCH_FILE, PERMISSION_DENIED, Refused
from lafscli.storage.enrol import Identity
from lafscli.storage.serverfile import IDENTITY_FILE, MAX_SIZE

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_NOREPLACE = 1
_NOT_OFFERED = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}
_CODES = {
    errno.ENOENT: NO_SUCH_FILE,
    errno.EACCES: PERMISSION_DENIED,
    errno.EPERM: PERMISSION_DENIED,
    errno.EROFS: PERMISSION_DENIED,
}
MOST_SHARES = 256
"""Share numbers are below this: no encoding has more."""


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """What the system or a proof says against it becomes Refused, with a line that names `what`."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno).lower() if error.errno else str(error)
        raise Refused(_CODES.get(error.errno or 0, FAILURE), f"{what}: {reason}") from error
    except CorruptShare as error:
        raise Refused(FAILURE, f"{what}: {error.message}") from error


def open_folder(parent: int, names: Sequence[str], *, make: int | None = None) -> int:
    """A descriptor of the folder some levels below one that is open; made with the mode `make` where it is missing."""
    folder = os.dup(parent)
    for name in names:
        try:
            if make is not None:
                try:
                    below = os.open(name, _FOLDER, dir_fd=folder)
                except FileNotFoundError:
                    with suppress(FileExistsError):
                        os.mkdir(name, make, dir_fd=folder)
                    below = os.open(name, _FOLDER, dir_fd=folder)
            else:
                below = os.open(name, _FOLDER, dir_fd=folder)
        finally:
            os.close(folder)
        folder = below
    return folder


@contextmanager
def opened_folder(parent: int, names: Sequence[str], *, make: int | None = None) -> Iterator[int]:
    folder = open_folder(parent, names, make=make)
    try:
        yield folder
    finally:
        os.close(folder)


def _renameat2() -> Callable[[int, bytes, int, bytes, int], int] | None:
    try:
        function = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    function.restype = ctypes.c_int
    return function


_RENAME = _renameat2()


def rename_keeping(old_folder: int, old: str, new_folder: int, new: str) -> None:
    """Rename, never over what is there (FileExistsError). In one step where kernel and file system offer that;
    elsewhere only those who have the turn are kept from each other."""
    if _RENAME is not None:
        if _RENAME(old_folder, os.fsencode(old), new_folder, os.fsencode(new), _NOREPLACE) == 0:
            return
        number = ctypes.get_errno()
        if number not in _NOT_OFFERED:
            raise OSError(number, os.strerror(number), new)
    if exists(new_folder, new):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new)
    os.rename(old, new, src_dir_fd=old_folder, dst_dir_fd=new_folder)


def exists(folder: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def plain_file(fd: int, what: str) -> os.stat_result:
    """What it is, if it is an ordinary file."""
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise Refused(FAILURE, f"{what}: it is no file")
    return found


@dataclass(frozen=True, slots=True)
class Shelves:
    """The folders of one root. `note` takes a line for the log; `used` the bytes by which the files below the root
    became more (or fewer, below 0) by what was done here."""

    root_fd: int
    now: Callable[[], float]
    random_bytes: Callable[[int], bytes]
    note: Callable[[str], None]
    used: Callable[[int], None]

    @contextmanager
    def folder(self, *names: str, make: bool = False) -> Iterator[int]:
        with opened_folder(self.root_fd, names, make=0o777 if make else None) as folder:
            yield folder

    @contextmanager
    def shares(self, si: bytes, *, make: bool = False) -> Iterator[int]:
        """The folder of all shares of a storage index."""
        text = b32encode(si)
        with self.folder("shares", text[:2], text, make=make) as folder:
            yield folder

    @contextmanager
    def share(self, folder: int, shnum: int, *, write: bool = False) -> Iterator[tuple[int, os.stat_result] | None]:
        """The container that stands in the folder, open; None if there is none."""
        try:
            fd = os.open(str(shnum), _FILE | (os.O_RDWR if write else os.O_RDONLY), dir_fd=folder)
        except FileNotFoundError:
            yield None
            return
        try:
            yield fd, plain_file(fd, str(shnum))
        finally:
            os.close(fd)

    def node_id(self) -> bytes | None:
        """That of this server, by its `server.toml`; None where that says none."""
        with suppress(OSError, ServerError):
            fd = os.open(IDENTITY_FILE, _FILE | os.O_RDONLY, dir_fd=self.root_fd)
            try:
                return Identity.parse(os.pread(fd, MAX_SIZE, 0)).node_id
            finally:
                os.close(fd)
        return None

    def numbers(self, folder: int) -> list[int]:
        """The share numbers that stand in the folder, as far as they can be any."""
        found = set()
        with os.scandir(folder) as entries:
            for entry in entries:
                number = share_number(entry.name)
                if number is not None and number < MOST_SHARES and entry.name == str(number):
                    found.add(number)
        return sorted(found)

    def day(self) -> str:
        """Today, of UTC."""
        return time.strftime("%Y-%m-%d", time.gmtime(self.now()))

    def token(self) -> str:
        return b32encode(self.random_bytes(16))

    def quarantine(self, folder: int, si: bytes, shnum: int) -> None:
        """Give the container in the folder, known to be bad, a second name in `quarantine/`: it still stands in its
        place until something else is renamed there."""
        with self.folder("quarantine", make=True) as quarantine:
            name = f"{self.day()}.{b32encode(si)}.{shnum}.{self.token()}"
            os.link(str(shnum), name, src_dir_fd=folder, dst_dir_fd=quarantine, follow_symlinks=False)

    def trash(self, folder: int, si: bytes, shnum: int) -> None:
        """Move the container out of the folder into `trash/`."""
        with self.folder("trash", self.day(), make=True) as trash:
            name = f"{b32encode(si)}.{shnum}"
            try:
                rename_keeping(folder, str(shnum), trash, name)
            except FileExistsError:
                # thrown away twice on one day
                rename_keeping(folder, str(shnum), trash, f"{name}.{self.token()}")
