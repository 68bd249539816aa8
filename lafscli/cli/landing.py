"""Where a fetched file lands: under its name only when complete, or in a pipe (CLI.md §1)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from lafscli.cli.frame import Frame
from lafscli.cli.output import terminal
from lafscli.config.home import sync_folder
from lafscli.errors import Busy, LafsError, UsageError
from lafscli.storage.store import Buffer


class Landing:
    """Takes what is fetched. `again` forgets it and begins anew, where that can be done."""

    def __init__(self, handle: int, name: str, *, again: bool = False) -> None:
        self._handle = handle
        self._name = name
        self.again: Callable[[], None] | None = self._begin_anew if again else None

    def __call__(self, data: Buffer) -> None:
        """Write it."""
        _write(self._handle, data, self._name)

    def _begin_anew(self) -> None:
        os.ftruncate(self._handle, 0)
        os.lseek(self._handle, 0, os.SEEK_SET)


def choose(frame: Frame, local: str | None, name: str | None) -> Path | None:
    """Where a file goes: the path, or None for stdout. `name` is what it is called in the grid, if it has a name.

    Without `local` it goes under that name into the current folder, or without a name to stdout, which must not be a
    terminal then.
    """
    if local is None and name is None and terminal(sys.stdout) and not frame.settings.json:
        raise UsageError("the file has no name, and stdout is a terminal", hint="say where: lafs get CAP FILE, or -")
    if local == "-" or (local is None and name is None):
        if frame.settings.json:
            raise UsageError("--json and the file can't both go to stdout", hint="lafs get CAP FILE --json")
        return None
    if local is None:
        return _below(Path(), name)
    path = Path(local)
    if path.is_dir():
        return _below(path, name)
    if local.endswith("/"):
        raise UsageError(f"no such folder: {local}")
    return path


def _below(folder: Path, name: str | None) -> Path:
    """The name in a folder, where a name from the grid must not lead anywhere else."""
    if name is None:
        raise UsageError(f"{folder} is a folder, and a bare cap has no name", hint=f"say a name: {folder / 'FILE'}")
    if "/" in name or "\0" in name or name in (".", ".."):
        raise UsageError(f"the name {name!r} can't be a file name here", hint="say another: lafs get TARGET FILE")
    path = folder / name
    if path.is_symlink():
        raise UsageError(f"{path} is a symbolic link, which is not followed", hint="say another name")
    return path


@contextlib.contextmanager
def landing(path: Path | None) -> Iterator[Landing]:
    """A place to write a file to. A regular file appears under its name, whole and durable, when the block ends
    well; after an error nothing of it is left. Stdout, devices and pipes take what comes."""
    if path is None:
        sys.stdout.flush()
        yield Landing(1, "stdout")
        return
    try:
        kind = path.stat().st_mode
    except OSError:
        kind = stat.S_IFREG
    if stat.S_ISREG(kind):
        with _staged(Path(os.path.realpath(path))) as write:  # a link named by the user is followed, as cp does
            yield write
        return
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError as error:
        raise LafsError(f"cannot write {path}: {error.strerror}") from error
    try:
        yield Landing(handle, str(path))
    finally:
        os.close(handle)


@contextlib.contextmanager
def _staged(path: Path) -> Iterator[Landing]:
    temporary = path.with_name(f".lafs-{secrets.token_hex(8)}")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise LafsError(f"cannot write {path}: {error.strerror}") from error
    try:
        try:
            yield Landing(handle, str(path), again=True)
            os.fchmod(handle, _mode(path))
            os.fsync(handle)
        finally:
            os.close(handle)
        temporary.rename(path)
    except OSError as error:
        raise LafsError(f"cannot write {path}: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def _mode(path: Path) -> int:
    """Who may do what with a file that is complete: as with the one that it replaces; a new one obeys the umask.
    Until then nobody else reads it."""
    try:
        return stat.S_IMODE(path.stat().st_mode) & 0o777
    except OSError:
        umask = os.umask(0o077)  # it can't be read alone; what another thread makes meanwhile is only more private
        os.umask(umask)
        return 0o666 & ~umask


class Partial:
    """A file that `get --resume` writes, and leaves behind if it does not come to its end."""

    def __init__(self, path: Path, handle: int) -> None:
        self._path = path
        self._handle = handle

    def read(self, offset: int, length: int) -> Buffer:
        """What was written there by an earlier run."""
        try:
            return os.pread(self._handle, length, offset)
        except OSError as error:
            raise LafsError(f"cannot read {self._path}: {error.strerror}") from error

    def keep(self, count: int) -> None:
        """Cut it to what was proved, and go on there."""
        os.ftruncate(self._handle, count)
        os.lseek(self._handle, count, os.SEEK_SET)

    def write(self, data: Buffer) -> None:
        """Append."""
        _write(self._handle, data, str(self._path))


@contextlib.contextmanager
def resumed(path: Path, token: str) -> Iterator[Partial]:
    """Like `landing` for a regular file, but what was fetched stays after an error, in `.lafs-TOKEN` beside the file,
    and the next run for the same token goes on with it. Busy while another process does."""
    path = Path(os.path.realpath(path))
    partial = path.with_name(f".lafs-{token}")
    try:
        handle = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise LafsError(f"cannot write {path}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(f"another process is fetching {path}") from None
        os.fchmod(handle, 0o600)
        yield Partial(path, handle)
        os.fchmod(handle, _mode(path))
        os.fsync(handle)
        partial.rename(path)
    except OSError as error:
        raise LafsError(f"cannot write {path}: {error.strerror}") from error
    finally:
        os.close(handle)
    sync_folder(path.parent)


def _write(handle: int, data: Buffer, name: str) -> None:
    view = memoryview(data).cast("B")
    try:
        while view:
            view = view[os.write(handle, view) :]
    except BrokenPipeError:
        raise
    except OSError as error:
        raise LafsError(f"cannot write {name}: {error.strerror}") from error
