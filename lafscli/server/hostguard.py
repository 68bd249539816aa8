"""The right to change the shares of one storage index from a process at the host: the turn, which `lafs serve` takes
for all that it decides, and the guard, which clients over plain SFTP take (spec 10 §1).
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from lafscli.errors import GuardHeld
from lafscli.primitives.encoding import b32encode
from lafscli.server.hostfolder import HostFolder, open_folder, opened_file, opened_folder
from lafscli.server.turns import PRIVATE, Turns
from lafscli.storage.moves import OWNER
from lafscli.storage.owner import OWNER_SIZE, Owner, alive, this_process

LOCK_SECONDS = 20.0
_TOKEN_SIZE = 16
_MOST_NAMES = 1000


class HostGuards:
    """Takes turn and guard together; nothing is waited for but a turn, which never lasts long."""

    def __init__(
        self,
        folder: HostFolder,
        turns: Turns,
        *,
        random_bytes: Callable[[int], bytes],
        alive: Callable[[int], bool] = alive,
    ) -> None:
        self._folder = folder
        self._turns = turns
        self._random_bytes = random_bytes
        self._alive = alive

    def token(self) -> str:
        """A name that nobody else has."""
        return b32encode(self._random_bytes(_TOKEN_SIZE))

    @contextmanager
    def changing(self, si: bytes) -> Iterator[None]:
        """The turn and the guard of a storage index. GuardHeld where somebody is changing it who lives; the guard of a
        dead one is broken, with all that is in it kept, as every client does."""
        name, token = b32encode(si), self.token()
        with self._turns.turn(si), self._folder.beside("locks") as locks:
            with self._folder.beside("history", PRIVATE, "turns") as turns:
                self._folder.give(name[:2], turns)
            self._make(locks, token)
            try:
                self._take(locks, name, token)
            except BaseException:
                _unmake(locks, f".{token}", token)
                raise
            try:
                yield
            finally:
                _unmake(locks, name, token)

    def _make(self, locks: int, token: str) -> None:
        """A guard that is none yet: the owner is in it before it is one, so that nobody sees an empty one."""
        inside, owner = f".{token}/{token}", f".{token}/{token}/{OWNER}"
        os.mkdir(f".{token}", 0o700, dir_fd=locks)
        os.mkdir(inside, 0o700, dir_fd=locks)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(owner, flags, 0o600, dir_fd=locks)
        try:
            os.write(descriptor, this_process(LOCK_SECONDS).serialise())
        finally:
            os.close(descriptor)
        for path in (owner, inside, f".{token}"):
            self._folder.give(path, locks)

    def _take(self, locks: int, name: str, token: str) -> None:
        for _ in range(2):
            try:
                # over an empty folder, which is nobody's guard, and over nothing else
                os.rename(f".{token}", name, src_dir_fd=locks, dst_dir_fd=locks)
                return
            except OSError:
                owner, stale = self._look(locks, name, token)
            if not stale:
                break
            self._break(locks, name, token)
        raise GuardHeld(f"{name} is being changed by {owner or 'someone who left no name'}", owner=str(owner or ""))

    def _look(self, locks: int, name: str, token: str) -> tuple[Owner | None, bool]:
        """Who holds a guard, and whether that is a dead one (spec 10 §1.4)."""
        newest, owner = 0.0, None
        try:
            with opened_folder(name, locks) as guard:
                newest = os.fstat(guard).st_mtime
                for holder in sorted(os.listdir(guard))[:_MOST_NAMES]:
                    with suppress(OSError), opened_folder(holder, guard) as inside:
                        newest = max(newest, os.fstat(inside).st_mtime)
                        for each in os.listdir(inside)[:_MOST_NAMES]:
                            newest = max(newest, os.lstat(each, dir_fd=inside).st_mtime)
                        owner = _owner(inside) or owner
        except OSError:
            return owner, False
        if owner is not None and owner.lives_with(this_process(LOCK_SECONDS)) and not self._alive(owner.pid):
            return owner, True
        limit = max(LOCK_SECONDS, owner.seconds if owner is not None else 0.0) + 1
        # the time of a file just made there, not our own: the folder may lie on another machine
        return owner, os.lstat(f".{token}/{token}/{OWNER}", dir_fd=locks).st_mtime - newest >= limit

    def _break(self, locks: int, name: str, token: str) -> None:
        with suppress(OSError):
            os.rename(name, f".broken.{name}.{token}", src_dir_fd=locks, dst_dir_fd=locks)
            _discard_if_bare(locks, f".broken.{name}.{token}")


class BusyJob(Exception):
    """Another run of the same job is under way in this folder."""


@contextmanager
def host_guards(
    folder: HostFolder, *, random_bytes: Callable[[int], bytes], job: str, turns: Turns | None = None
) -> Iterator[HostGuards]:
    """Guards of a folder, for one run of a `job` at a time: BusyJob. LafsError where nothing can be changed in it.
    `turns`: those of a keeper that is to be asked under a guard."""
    folder.require_writable()
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    with folder.beside("history", PRIVATE) as private:
        lock = os.open(job, flags, 0o600, dir_fd=private)
        folder.give(job, private)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyJob from None
        with folder.beside("history") as history:
            own = Turns(history)
            try:
                yield HostGuards(folder, turns or own, random_bytes=random_bytes)
            finally:
                own.close()
    finally:
        os.close(lock)


def interrupted(folder: HostFolder, *, now: float, younger_than: float) -> frozenset[str]:
    """Texts of the storage indexes of which a guard was broken not long ago, with something in it: the next writer may
    want it, or a reader (spec 10 §2.9)."""
    found: set[str] = set()
    with folder.there("locks") as locks:
        for name in os.listdir(locks) if locks is not None else ():
            parts = name.split(".")
            if len(parts) == 4 and parts[:2] == ["", "broken"]:
                with suppress(OSError):
                    if now - os.lstat(name, dir_fd=locks).st_mtime < younger_than:
                        found.add(parts[2])
    return frozenset(found)


def _unmake(locks: int, name: str, token: str) -> None:
    """Remove what is ours; what is somebody else's by now is not empty, and stays."""
    for remove, path in (
        (os.unlink, f"{name}/{token}/{OWNER}"),
        (os.rmdir, f"{name}/{token}"),
        (os.rmdir, name),
    ):
        with suppress(OSError):
            remove(path, dir_fd=locks)


def _discard_if_bare(locks: int, name: str) -> None:
    """Remove a broken guard in which nothing but its owner is."""
    with suppress(OSError), opened_folder(name, locks) as guard:
        for holder in os.listdir(guard)[:_MOST_NAMES]:
            below = open_folder(holder, guard)
            try:
                if os.listdir(below) != [OWNER]:
                    return
                os.unlink(OWNER, dir_fd=below)
            finally:
                os.close(below)
            os.rmdir(holder, dir_fd=guard)
        os.rmdir(name, dir_fd=locks)


def _owner(holder: int) -> Owner | None:
    with suppress(OSError), opened_file(OWNER, holder) as found:
        if found is not None:
            return Owner.parse(os.pread(found[0], OWNER_SIZE, 0))
    return None


def utc_day(now: float) -> str:
    """A day as trash and quarantine are named by it: 2030-12-31."""
    return time.strftime("%Y-%m-%d", time.gmtime(now))
