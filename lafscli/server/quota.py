"""How much may be written: `--quota` (bytes in all below the root) and `--reserve` (bytes that stay free on the disk).

    history/.serve/used       what is counted: a record, under flock
    history/.serve/recount    who counts anew holds its lock
    history/.serve/takers/    a file for each process that writes, with what it has taken ahead; its lock says it lives

Every file counts ENTRY bytes besides its own, and so does every folder that clients make, so that empty ones are not
for nothing. A process takes
ahead in steps, and gives back what it has not used: so the lock is needed once for some megabytes. What is counted is
never less than what is there; where it may be too much (after kill -9, or when somebody removed files by hand) the
folders are counted anew before anything is refused, at most once in a while.

    0  8s  "lafsused"     16  u64  bytes taken ahead, ever              32  u64  Unix time of the last counting
    8  u64 bytes          24  u64  countings begun and ended
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from lafscli.server.backend import FAILURE, FileSystem, Refused

ENTRY = 4096
"""Bytes that a name counts besides what is in it."""
_STEP = 4 << 20
_RECOUNT_AFTER = 60
"""Seconds within which nobody counts anew because it is full."""
_MADE_BY_CLIENTS = ("shares", "staging", "locks", "recovery")
_TOPS = (*_MADE_BY_CLIENTS, "trash", "quarantine", "history")
_PRIVATE = ".serve"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_MAGIC = b"lafsused"
_RECORD = struct.Struct(">8s4Q")
_U64 = struct.Struct(">Q")


def size_text(size: int) -> str:
    """A size as people write it: 10 GiB."""
    for power, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size >= 1 << power:
            number = size / (1 << power)
            return f"{number:.0f} {unit}" if number == int(number) else f"{number:.1f} {unit}"
    return f"{size} bytes"


@dataclass(frozen=True, slots=True)
class _Record:
    used: int
    taken: int
    countings: int
    counted: int


class Quota:
    """What one connection may write. Only for one thread. `root_fd` is the served folder; nothing is made in it where
    there is neither a quota nor a reserve."""

    def __init__(self, root_fd: int, quota: int | None, reserve: int, *, now: Callable[[], float]) -> None:
        self.limit = quota
        self.reserve = reserve
        self._root_fd = root_fd
        self._now = now
        self._left = 0
        self._ahead = 0
        self._freed: dict[int, int] = {}
        self._ticket = 0
        self._private = self._file = self._taker = -1
        self._name = ""

    @property
    def metered(self) -> bool:
        """Whether anything is counted."""
        return self.limit is not None or self.reserve > 0

    # ---- what is used

    def used(self) -> int | None:
        """Bytes that count, None without a quota. Those of a connection that writes may be some megabytes ahead."""
        if self.limit is None:
            return None
        record = self._read()
        return self.recount() if record is None else record.used

    def bounded(self, disk: FileSystem) -> FileSystem:
        """The figures of the disk, no more than the quota and the reserve leave."""
        unit = disk.frsize or 1
        free = min(disk.bavail, max(0, disk.bavail - self.reserve // unit))
        blocks, bfree = disk.blocks, disk.bfree
        used = self.used()
        if self.limit is not None and used is not None:
            left = max(0, self.limit - used) // unit
            blocks, bfree, free = min(blocks, self.limit // unit), min(bfree, left), min(free, left)
        return replace(disk, blocks=blocks, bfree=bfree, bavail=free)

    # ---- taking and giving back

    def take(self, size: int) -> None:
        """Count so many bytes more, or Refused."""
        if not self.metered or size <= 0:
            return
        if self._left < size:
            self._take_ahead(size)
        self._left -= size

    @contextmanager
    def taken(self, size: int) -> Iterator[None]:
        """Count so many bytes more for what is made inside; not if that fails."""
        self.take(size)
        try:
            yield
        except BaseException:
            self._left += size
            raise

    @contextmanager
    def room(self, size: int) -> Iterator[None]:
        """Refused where so many bytes have no room; who needs them inside counts them by `change`."""
        self.take(size)
        try:
            yield
        finally:
            if self.metered:
                self._left += max(size, 0)

    def begin(self) -> None:
        """Before something is done that may free bytes: what a counting under way may have seen of it already is not
        given back a second time."""
        self._ticket = self.ticket()

    def ticket(self) -> int:
        """Another number after every counting."""
        record = None if self.limit is None else self._read()
        return -1 if record is None else record.countings

    def free(self, size: int) -> None:
        """So many bytes are gone, since `begin`."""
        if self.limit is not None and size > 0 and self._ticket >= 0:
            self._freed[self._ticket] = self._freed.get(self._ticket, 0) + size

    def change(self, size: int) -> None:
        """Bytes that came (they are there: nothing is refused), or that went (below 0)."""
        if size < 0:
            self.free(-size)
        elif self.metered:
            self._left -= size

    def settle(self) -> None:
        """Give back what was taken ahead and not used, and what was freed."""
        if self.limit is None or not (self._ahead or self._left or self._freed):
            self._left = 0
            return
        with self._locked() as record:
            self._settle(record)

    def close(self) -> None:
        """Settle, and let go."""
        with suppress(OSError):
            self.settle()
        if self._taker >= 0:
            with suppress(OSError), self._locked():
                os.unlink(self._name, dir_fd=self._private)
        for descriptor in (self._taker, self._file, self._private):
            if descriptor >= 0:
                os.close(descriptor)
        self._taker = self._file = self._private = -1

    def _settle(self, record: _Record | None) -> _Record | None:
        if record is not None:
            freed = self._freed.get(record.countings, 0)
            record = replace(record, used=max(0, record.used - self._left - freed))
            self._write(record)
        self._freed.clear()
        self._left = 0
        self._set_ahead(0)
        return record

    def _take_ahead(self, size: int) -> None:
        if self.limit is None:
            step = self._step(size - self._left, self._room_on_disk())
            if step is None:
                raise self._no_reserve()
            self._left += step
            return
        for tried in (False, True):
            with self._locked() as record:
                record = self._settle(record)
                if record is not None:
                    on_disk = self._room_on_disk()
                    step = self._step(size, min(on_disk, self.limit - record.used))
                    if step is not None:
                        self._set_ahead(step)
                        self._write(replace(record, used=record.used + step, taken=record.taken + step))
                        self._left = step
                        return
                    if size > on_disk:
                        raise self._no_reserve()
                    if tried or 0 <= self._now() - record.counted < _RECOUNT_AFTER:
                        break
            self.recount(known=record)
        raise Refused(FAILURE, f"quota of {size_text(self.limit)} is used up")

    def _step(self, size: int, room: int) -> int | None:
        return None if size > room else size + min(_STEP, (room - size) // 64)

    def _room_on_disk(self) -> int:
        disk = os.fstatvfs(self._root_fd)
        return disk.f_bavail * disk.f_frsize - self.reserve if self.reserve else 1 << 62

    def _no_reserve(self) -> Refused:
        return Refused(FAILURE, f"no space left: less than the reserve of {size_text(self.reserve)} is free")

    # ---- counting

    def recount(self, *, known: _Record | None = None) -> int:
        """Count all that is there; `known` is the record that is not believed: where another one stands by now,
        somebody was faster."""
        lock = os.open("recount", _FILE | os.O_CREAT, 0o600, dir_fd=self._folder())
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with self._locked() as record:
                if record is not None and (known is None or record.counted != known.counted):
                    return record.used
                self._settle(record)
                before = record
                ahead = self._all_ahead()
                if record is not None:
                    self._write(replace(self._known(), countings=record.countings + 1))
            weight = weigh(self._root_fd)
            with self._locked() as record:
                # one that was unknown is still nobody's: who finds none waits for this counting
                since = 0 if before is None or record is None else record.taken - before.taken
                countings = 0 if record is None else record.countings
                taken = 0 if record is None else record.taken
                made = _Record(weight + ahead + since, taken, countings + 1, int(self._now()))
                self._write(made)
                return made.used
        finally:
            os.close(lock)

    def ask_for_recount(self) -> None:
        """Forget what is known: who asks next counts anew."""
        with self._locked():
            os.ftruncate(self._used_file(), 0)

    def _all_ahead(self) -> int:
        """What living processes have taken ahead. Files of dead ones go."""
        total = 0
        folder = os.open("takers", _FOLDER, dir_fd=self._takers())
        try:
            for name in os.listdir(folder):
                descriptor = os.open(name, _FILE, dir_fd=folder)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(name, dir_fd=folder)
                except BlockingIOError:
                    total += _U64.unpack(os.pread(descriptor, 8, 0).ljust(8, b"\0"))[0]
                finally:
                    os.close(descriptor)
        finally:
            os.close(folder)
        return total

    # ---- the files

    def _folder(self) -> int:
        if self._private < 0:
            above = self._root_fd
            for name in ("history", _PRIVATE):
                with suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=above)
                below = os.open(name, _FOLDER, dir_fd=above)
                if above != self._root_fd:
                    os.close(above)
                above = below
            self._private = above
        return self._private

    def _takers(self) -> int:
        with suppress(FileExistsError):
            os.mkdir("takers", 0o700, dir_fd=self._folder())
        return self._private

    def _used_file(self) -> int:
        if self._file < 0:
            self._file = os.open("used", _FILE | os.O_CREAT, 0o600, dir_fd=self._folder())
        return self._file

    @contextmanager
    def _locked(self) -> Iterator[_Record | None]:
        """The record, for us alone; None where nothing is known."""
        file = self._used_file()
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield self._read()
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)

    def _read(self) -> _Record | None:
        data = os.pread(self._used_file(), _RECORD.size + 1, 0)
        if len(data) != _RECORD.size or not data.startswith(_MAGIC):
            return None
        return _Record(*_RECORD.unpack(data)[1:])

    def _known(self) -> _Record:
        record = self._read()
        assert record is not None, "under the lock nobody else forgets it"
        return record

    def _write(self, record: _Record) -> None:
        numbers = (record.used, record.taken, record.countings, record.counted)
        os.pwrite(self._used_file(), _RECORD.pack(_MAGIC, *numbers), 0)

    def _set_ahead(self, size: int) -> None:
        """Under the lock: what is lost with us, should we be killed."""
        if self._taker < 0 and size:
            self._name = f"takers/{os.getpid()}.{os.urandom(4).hex()}"
            self._taker = os.open(self._name, _FILE | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self._takers())
            fcntl.flock(self._taker, fcntl.LOCK_EX)
        if size != self._ahead:
            os.pwrite(self._taker, _U64.pack(size), 0)
            self._ahead = size


def weigh(root_fd: int) -> int:
    """What all files and folders below a root count, but the server's own; no link is followed."""
    total = 0
    for top in _TOPS:
        with suppress(FileNotFoundError, NotADirectoryError):
            total += _weigh(root_fd, top, top)
    return total


def _weigh(above: int, name: str, path: str) -> int:
    try:
        folder = os.open(name, _FOLDER, dir_fd=above)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return 0  # gone meanwhile, or no folder any more
        raise
    total = ENTRY if path.startswith(_MADE_BY_CLIENTS) else 0
    folders: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.name)
                        continue
                    status = entry.stat(follow_symlinks=False)
                    total += ENTRY + (status.st_size if stat.S_ISREG(status.st_mode) else 0)
        for below in folders:
            if path != "history" or below != _PRIVATE:
                total += _weigh(folder, below, f"{path}/{below}")
    finally:
        os.close(folder)
    return total
