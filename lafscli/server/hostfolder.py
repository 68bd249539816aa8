"""A storage folder as the tools at its host see it: by descriptors, so that no symlink below it is ever followed.

shares/XX/SI/N      locks/      trash/<UTC day>/      quarantine/      history/XX/SI/N.seqnum.root
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lafscli.errors import LafsError, NotFound, UsageError
from lafscli.formats.container import share_number
from lafscli.primitives.encoding import b32decode
from lafscli.server.backend import Refused
from lafscli.server.shelves import exists
from lafscli.server.turns import PRIVATE

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_PREFIX = re.compile(r"[a-z2-7]{2}")
_SI = re.compile(r"[a-z2-7]{26}")
_NO_FOLDER = (errno.ENOTDIR, errno.ELOOP)
INCOMING = "incoming"
"""Below `shares/`: what a Tahoe node is just receiving, and nobody else's business (spec 02 §6)."""


def open_folder(name: str, parent: int) -> int:
    """A folder inside another, itself and no symlink; NotADirectoryError for anything else."""
    try:
        return os.open(name, _DIRECTORY, dir_fd=parent)
    except OSError as error:
        if error.errno in _NO_FOLDER:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), name) from error
        raise


@contextmanager
def opened_folder(name: str, parent: int) -> Iterator[int]:
    descriptor = open_folder(name, parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def opened_file(name: str, parent: int, *, write: bool = False) -> Iterator[tuple[int, os.stat_result] | None]:
    """A plain file inside a folder, and what it is; None for what is no plain file, and is not touched."""
    try:
        descriptor = os.open(name, _FILE | (os.O_RDWR if write else os.O_RDONLY), dir_fd=parent)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            yield None
            return
        raise
    try:
        found = os.fstat(descriptor)
        yield (descriptor, found) if stat.S_ISREG(found.st_mode) else None
    finally:
        os.close(descriptor)


def same_file(name: str, folder: int, known: os.stat_result) -> bool:
    """Whether a name still stands for a file that was looked at, and nobody has written to it since."""
    try:
        now = os.lstat(name, dir_fd=folder)
    except FileNotFoundError:
        return False
    return fingerprint(now) == fingerprint(known)


def fingerprint(known: os.stat_result) -> tuple[int, ...]:
    """What changes with every write to a file, or when another one takes its name; not when it is moved."""
    return known.st_dev, known.st_ino, known.st_size, known.st_mtime_ns


@dataclass(frozen=True, slots=True)
class Holding:
    """What lies in the folder of one storage index: names by what they stand for. `folder` is open as long as it is
    the turn of this one."""

    si: bytes
    text: str
    folder: int
    files: tuple[tuple[int, str], ...]
    """Share numbers and file names, in order."""

    @property
    def path(self) -> str:
        return f"shares/{self.text[:2]}/{self.text}"


class HostFolder:
    """The folder of a storage server. A context manager. `named` is told of what failed, each path once: path, reason.

    `foreign` counts what lies in `shares/` and is no share by its name or its kind.
    """

    def __init__(self, root: Path, *, named: Callable[[str, str], None]) -> None:
        """NotFound where nothing is there, UsageError for what is no storage folder."""
        self.root = root
        self.foreign = 0
        self.failures: dict[str, str] = {}
        self._named = named
        try:
            self.descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFound(f"no such folder: {root}") from None
        except NotADirectoryError:
            raise UsageError(f"not a folder: {root}") from None
        except OSError as error:
            raise LafsError(f"cannot open {root}: {(error.strerror or 'failure').lower()}") from error
        try:
            self._shares = open_folder("shares", self.descriptor)
        except OSError as error:
            os.close(self.descriptor)
            if isinstance(error, PermissionError):
                raise LafsError(f"cannot open {root}/shares: permission denied") from error
            raise UsageError(
                f"not a storage folder: {root} has no folder shares",
                hint="name the folder that contains shares/ (of a Tahoe node: NODEDIR/storage)",
            ) from None

        found = os.fstat(self._shares)
        stranger = os.geteuid() == 0 and (found.st_uid, found.st_gid) != (0, 0)
        self._owner = (found.st_uid, found.st_gid) if stranger else None

    def __enter__(self) -> HostFolder:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._shares)
        os.close(self.descriptor)

    # ---- folders beside shares/

    @contextmanager
    def beside(self, *names: str) -> Iterator[int]:
        """A folder below the root, made if it is not there (0700)."""
        descriptor = self._made(names)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _made(self, names: tuple[str, ...]) -> int:
        descriptor = os.dup(self.descriptor)
        try:
            for name in names:
                try:
                    os.mkdir(name, 0o700, dir_fd=descriptor)
                    self.give(name, descriptor)
                except FileExistsError:
                    pass
                below = open_folder(name, descriptor)
                os.close(descriptor)
                descriptor = below
        except BaseException as error:
            os.close(descriptor)
            if isinstance(error, NotADirectoryError):
                raise LafsError(f"{self.root}/{'/'.join(names)} is no folder") from error
            raise
        return descriptor

    def give(self, name: str, parent: int) -> None:
        """Let what was made here belong to whom the shares belong to, if that is not us: who serves the folder must
        be able to use it."""
        if self._owner is not None:
            with suppress(FileNotFoundError):
                found = os.lstat(name, dir_fd=parent)
                # what has a second name may not be what was made here
                if found.st_uid == 0 and (stat.S_ISDIR(found.st_mode) or found.st_nlink == 1):
                    os.chown(name, *self._owner, dir_fd=parent, follow_symlinks=False)

    @contextmanager
    def there(self, *names: str) -> Iterator[int | None]:
        """A folder below the root, None where there is none."""
        descriptor: int | None = os.dup(self.descriptor)
        try:
            for name in names:
                assert descriptor is not None, "only the last one is None"
                try:
                    below = open_folder(name, descriptor)
                except (FileNotFoundError, NotADirectoryError):
                    os.close(descriptor)
                    descriptor = None
                    break
                os.close(descriptor)
                descriptor = below
            yield descriptor
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def require_writable(self) -> None:
        """LafsError where nothing can be changed here: a read-only file system, no permission."""
        try:
            with self.beside("history", PRIVATE, "turns"):
                pass
            probe = f".probe.{os.getpid()}"
            os.mkdir(probe, 0o700, dir_fd=self.descriptor)
            os.rmdir(probe, dir_fd=self.descriptor)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT) and exists(self.descriptor, "history"):
                return  # there may be room once something has gone
            why = {
                errno.EROFS: "it is on a read-only file system",
                errno.EACCES: "permission denied",
                errno.EPERM: "permission denied",
                errno.ENOSPC: "no space left there",
            }.get(error.errno or 0, (error.strerror or "failure").lower())
            raise LafsError(f"nothing can be changed in {self.root}: {why}") from error

    # ---- walking

    def holdings(self) -> Iterator[Holding]:
        """All storage indexes in order, with the files that have names of shares. What comes or goes meanwhile may be
        missed or gone."""
        for prefix, folder in self.folders(self._shares, "shares", _PREFIX, (INCOMING,)):
            for text, below in self.folders(folder, f"shares/{prefix}", _SI, ()):
                holding = self._holding(prefix, text, below)
                if holding is not None:
                    yield holding

    def _holding(self, prefix: str, text: str, folder: int) -> Holding | None:
        si = storage_index(text)
        if si is None or text[:2] != prefix:
            self.foreign += 1
            return None
        names = self.names(folder, f"shares/{prefix}/{text}")
        found = [(number, name) for name in names if (number := share_number(name)) is not None]
        self.foreign += len(names) - len(found)
        return Holding(si, text, folder, tuple(sorted(found)))

    def folders(
        self, parent: int, path: str, wanted: re.Pattern[str], passed: tuple[str, ...]
    ) -> Iterator[tuple[str, int]]:
        """The folders of a folder in order, each open while it is its turn; others count as foreign."""
        for name in self.names(parent, path):
            if name in passed:
                continue
            if not wanted.fullmatch(name):
                self.foreign += 1
                continue
            try:
                with opened_folder(name, parent) as descriptor:
                    yield name, descriptor
            except FileNotFoundError:
                continue
            except NotADirectoryError:
                self.foreign += 1
            except OSError as error:
                self.failed(f"{path}/{name}", error)

    def names(self, folder: int, path: str) -> list[str]:
        """What lies in a folder, in order; what can't be read is named, and counts as empty."""
        try:
            return sorted(os.listdir(folder))
        except OSError as error:
            self.failed(path, error)
            return []

    def failed(self, path: str, error: OSError | Refused) -> None:
        """Name what could not be read or changed."""
        if path not in self.failures:
            why = error.message if isinstance(error, Refused) else (error.strerror or "failure").lower()
            self.failures[path] = why
            self._named(path, why)

    def forget_if_empty(self, si_text: str) -> None:
        """Remove the folder of a storage index that has nothing in it (spec 06 §4)."""
        with self.there("shares", si_text[:2]) as prefix, suppress(OSError):
            if prefix is not None:
                os.rmdir(si_text, dir_fd=prefix)


def storage_index(text: str) -> bytes | None:
    """The storage index that a folder's name stands for."""
    if not _SI.fullmatch(text):
        return None
    with suppress(ValueError):
        return b32decode(text)
    return None
