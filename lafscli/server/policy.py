"""What a client may do here: the backend of one connection, under a policy.

Reading is free below the jail, as far as names fit the layout. Everything that changes something is in one of these
methods, and refused unless a row says that it may be: what is not thought of can't be done.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lafscli.primitives.encoding import b32encode
from lafscli.server.backend import (
    CREATE,
    EXCLUSIVE,
    FAILURE,
    NO_SUCH_FILE,
    PERMISSION_DENIED,
    TRUNCATE,
    WRITE,
    Attrs,
    Change,
    FileSystem,
    OpenFile,
    Refused,
)
from lafscli.server.extensions import NAMES, Extensions
from lafscli.server.guards import Guards
from lafscli.server.handles import Leases, Plain, Staged, removing, writing
from lafscli.server.identity import prepare
from lafscli.server.jail import Jail, asking, attrs_of
from lafscli.server.keeper import Keeper
from lafscli.server.passages import REMOVED_HOW, How, Passages
from lafscli.server.quota import ENTRY, Quota
from lafscli.server.spots import Kind, Paths, Spot, spot_of
from lafscli.server.superseded import superseded
from lafscli.storage.owner import OWNER_SIZE
from lafscli.storage.serverfile import MAX_SIZE

_DAY = 24 * 3600
_MOST_MADE = 1 << 16
"""Names that one connection may have in staging at once."""
_SMALL = {Kind.NEW_IDENTITY: MAX_SIZE, Kind.CLOCK: 64, Kind.PROBE: 4096, Kind.MAKING_OWNER: OWNER_SIZE}
"""Files that are not shares, and how long they may be."""
_FOLDERS = {
    *(Kind.ROOT, Kind.SHARES, Kind.PREFIX, Kind.FOLDER, Kind.STAGING, Kind.LOCKS, Kind.MAKING, Kind.MAKING_INSIDE),
    *(Kind.GUARD, Kind.HOLDER, Kind.BROKEN, Kind.BROKEN_HOLDER),
}
_BROKEN = {Kind.BROKEN_HELD, Kind.BROKEN_ASIDE, Kind.BROKEN_OWNER}
_HIDDEN = Attrs("dir", 0, 0o700, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Policy:
    """What a server takes: `quota` and `reserve` in bytes; `history`, versions of a share that are kept where it is
    append-only."""

    append_only: bool = False
    read_only: bool = False
    quota: int | None = None
    reserve: int = 0
    history: int = 0


class PolicyFiles:
    """The backend of one connection to the folder `root`; the folder and its `server.toml` are made ready.

    `home` is the login folder, `who` whose key it is. `note` takes a line for the log of each change.
    """

    def __init__(
        self,
        root: Path,
        policy: Policy,
        *,
        home: Path | None = None,
        who: str = "",  # noqa: ARG002
        note: Callable[[str], None] = lambda _: None,
        now: Callable[[], float] = time.time,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.policy = policy
        self._note = note
        self._now = now
        self._paths = Paths([Path(os.path.abspath(root)), root.resolve()], None if home is None else home.absolute())
        self._jail = Jail(root)
        if not policy.read_only:
            prepare(self._jail, random_bytes)
        root_fd = self._jail.root_fd
        self._quota = Quota(root_fd, policy.quota, policy.reserve, now=now)
        self._keeper = Keeper(
            root_fd,
            append_only=policy.append_only,
            history=policy.history,
            now=now,
            random_bytes=random_bytes,
            note=note,
            used=self._used,
            pulse=self.tick,
        )
        self._guards = Guards(
            self._jail,
            lambda si: self._keeper.turns.turn(si),
            self._quota,
            now=now,
            random_bytes=random_bytes,
            note=note,
        )
        self._passages = Passages(self._jail, self._guards, self._keeper, self._quota)
        self._extensions = Extensions(policy, self._jail, self._guards, self._keeper, self._passages, self._quota)
        self._made: set[tuple[str, ...]] = set()
        self._folders: set[tuple[str, ...]] = set()
        self._closed = False

    @property
    def extensions(self) -> Sequence[tuple[str, str]]:
        return [(name, "1") for name in NAMES]

    def _used(self, size: int) -> None:
        # a file that is gone for another's sake counted a name, too
        self._quota.change(size - ENTRY if size < 0 and self._placing else size)

    _placing = False

    # ---- asking

    @contextmanager
    def _asked(self) -> Iterator[None]:
        self._guards.asked()
        with asking():
            yield

    @contextmanager
    def _changing(self) -> Iterator[None]:
        self._guards.asked()
        if self.policy.read_only:
            raise Refused(PERMISSION_DENIED, "this server is read-only")
        with asking():
            self._quota.begin()
            yield

    def _visible(self, path: bytes) -> Spot:
        spot = self._paths.spot(path)
        if spot.kind is Kind.NOWHERE:
            raise Refused(NO_SUCH_FILE, "no such file")
        return spot

    def _place(self, path: bytes) -> Spot:
        spot = self._paths.spot(path)
        if spot.kind is Kind.NOWHERE:
            raise Refused(PERMISSION_DENIED, "nothing of that name is kept here")
        return spot

    # ---- looking

    def realpath(self, path: bytes) -> bytes:
        return os.fsencode(str(self._paths.spot(path)))

    def stat(self, path: bytes, *, follow: bool) -> Attrs:  # noqa: ARG002
        spot = self._visible(path)
        with self._asked():
            return self._look(spot)

    def _look(self, spot: Spot) -> Attrs:
        if spot.kind is Kind.HIDDEN:
            return _HIDDEN
        attrs = attrs_of(self._jail.look(spot.names))
        if spot.kind is not Kind.PROBE and (attrs.kind == "dir") is not (spot.kind in _FOLDERS):
            raise Refused(NO_SUCH_FILE, "no such file")
        return attrs

    def entries(self, path: bytes) -> Iterator[tuple[bytes, Attrs]]:
        spot = self._visible(path)
        if spot.kind not in _FOLDERS and spot.kind is not Kind.PROBE:
            raise Refused(NO_SUCH_FILE, "no such folder")
        with self._asked():
            folder = self._jail.open_folder(spot.names)
            try:
                names = os.scandir(folder)
            finally:
                os.close(folder)
        return self._entries(spot, names)

    def _entries(self, folder: Spot, names: Iterator[os.DirEntry[str]]) -> Iterator[tuple[bytes, Attrs]]:
        long_ago = self._now() - _DAY
        for entry in names:
            spot = spot_of((*folder.names, entry.name))
            if spot.kind in (Kind.NOWHERE, Kind.HIDDEN):
                continue
            with suppress(OSError, Refused):
                attrs = attrs_of(entry.stat(follow_symlinks=False))
                if spot.kind is not Kind.PROBE and (attrs.kind == "dir") is not (spot.kind in _FOLDERS):
                    continue
                if self._secret(spot) and attrs.mtime > long_ago:
                    continue
                yield entry.name.encode("ascii"), attrs

    def _secret(self, spot: Spot) -> bool:
        """Whether the name is for those who made it: who knows it may write there, or take it away."""
        if spot.kind is Kind.MAKING:
            return not self._guards.makes(spot.token)
        if spot.kind is Kind.PROBE:
            return spot.names[:2] not in self._made and len(spot.names) == 2
        return spot.kind in (Kind.STAGED, Kind.NEW_IDENTITY, Kind.CLOCK) and spot.names not in self._made

    def space(self, path: bytes) -> FileSystem:
        self._visible(path)
        with self._asked():
            disk = os.fstatvfs(self._jail.root_fd)
            return self._quota.bounded(
                FileSystem(
                    *(disk.f_bsize, disk.f_frsize, disk.f_blocks, disk.f_bfree, disk.f_bavail),
                    *(disk.f_files, disk.f_ffree, disk.f_favail, disk.f_fsid, disk.f_flag, disk.f_namemax),
                )
            )

    # ---- files

    def open(self, path: bytes, flags: int, change: Change) -> OpenFile:  # noqa: ARG002
        if not flags & WRITE:
            spot = self._visible(path)
            if spot.kind in (Kind.HIDDEN, *_FOLDERS):
                raise Refused(FAILURE, "it is a folder")
            with self._asked():
                return Plain(self._jail.open(spot.names, os.O_RDONLY), flags)
        spot = self._place(path)
        with self._changing():
            if spot.kind is Kind.SHARE:
                return self._open_share(spot, flags)
            self._insist_on_staging(spot, flags)
            return self._open_staged(spot, flags)

    def _open_share(self, spot: Spot, flags: int) -> OpenFile:
        if flags & (CREATE | TRUNCATE):
            raise Refused(PERMISSION_DENIED, "shares come in by staging them and renaming that")
        si, shnum = spot.si, spot.shnum
        descriptor = self._jail.open(spot.names, os.O_RDONLY)
        return Leases(descriptor, flags, lambda fd, offset, data: self._keeper.patch(fd, si, shnum, offset, data))

    def _insist_on_staging(self, spot: Spot, flags: int) -> None:
        """Whether there may be written at all."""
        match spot.kind:
            case Kind.STAGED:
                return
            case Kind.HELD:
                self._guards.insist(spot.si, spot.token)
            case Kind.MAKING_OWNER if flags & CREATE and self._guards.makes(spot.token):
                return
            case Kind.NEW_IDENTITY | Kind.CLOCK | Kind.PROBE if flags & CREATE:
                return
            case Kind.IDENTITY:
                raise Refused(PERMISSION_DENIED, "server.toml comes by staging it and renaming that")
            case _:
                raise Refused(PERMISSION_DENIED, f"{spot.kind.value} is not written by clients")

    def _open_staged(self, spot: Spot, flags: int) -> OpenFile:
        # always to be read as well: what writes is asked for what it wrote, when it is resumed
        descriptor, new = self._opened(spot, flags)
        try:
            writing(descriptor)
            if not os.path.samestat(os.fstat(descriptor), self._jail.look(spot.names)):
                raise Refused(FAILURE, "another file has its name by now")
            file = Staged(descriptor, flags, self._quota, most=_SMALL.get(spot.kind))
            if flags & TRUNCATE and not new:
                file.change(Change(size=0))
        except BaseException:
            os.close(descriptor)
            raise
        return file

    def _opened(self, spot: Spot, flags: int) -> tuple[int, bool]:
        """The file, and whether it was made."""
        if not flags & EXCLUSIVE or not flags & CREATE:
            try:
                return self._jail.open(spot.names, os.O_RDWR), False
            except FileNotFoundError:
                if not flags & CREATE:
                    raise
        if len(self._made) >= _MOST_MADE:
            raise Refused(FAILURE, "too many staged files on one connection")
        self._quota.take(ENTRY)
        try:
            descriptor = self._jail.open(spot.names, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        except BaseException:
            self._quota.take(-ENTRY)
            raise
        self._remember(spot)
        return descriptor, True

    def _remember(self, spot: Spot) -> None:
        if spot.names[0] == "staging" or spot.kind in (Kind.CLOCK, Kind.PROBE):
            self._made.add(spot.names)

    def change(self, path: bytes, change: Change) -> None:
        spot = self._place(path)
        with self._changing():
            if change.owner is not None:
                raise Refused(PERMISSION_DENIED, "files here belong to the server")
            match spot.kind:
                case Kind.OWNER:
                    self._guards.insist(spot.si, spot.token)
                    self._touch(spot, change)
                case Kind.STAGED | Kind.HELD:
                    self._insist_on_staging(spot, WRITE)
                    if change.size is None:
                        self._look(spot)  # its mode and times are as they are
                        return
                    file = self._open_staged(spot, WRITE)
                    try:
                        file.change(change)
                    finally:
                        file.close()
                case Kind.SHARE:
                    raise Refused(PERMISSION_DENIED, "a share does not change; of it only leases do")
                case _:
                    raise Refused(PERMISSION_DENIED, f"{spot.kind.value} is as it is")

    def _touch(self, spot: Spot, change: Change) -> None:
        if change.size is not None:
            raise Refused(PERMISSION_DENIED, f"{spot.kind.value} is not written by clients")
        if change.times is not None:
            # a holder shows that it lives, and not for how long it will
            when = min(change.times[1], int(self._now()) + 2)
            with self._jail.folder(spot.above) as above:
                os.utime(spot.name, (when, when), dir_fd=above, follow_symlinks=False)

    # ---- names

    def remove(self, path: bytes) -> None:
        spot = self._place(path)
        with self._changing():
            self._insist_on_removal(spot)
            self._remove(spot)

    def _insist_on_removal(self, spot: Spot) -> None:
        match spot.kind:
            case Kind.STAGED | Kind.NEW_IDENTITY | Kind.CLOCK | Kind.PROBE:
                if self.policy.append_only and self._secret(spot):
                    status = self._jail.look(spot.names)
                    if status.st_mtime <= self._now() - _DAY:
                        raise Refused(PERMISSION_DENIED, "this server is append-only: what others staged stays")
            case Kind.MAKING_OWNER:
                pass
            case Kind.OWNER | Kind.HELD | Kind.ASIDE:
                self._guards.insist(spot.si, spot.token)
                if spot.kind is Kind.ASIDE or self._guards.adopted(spot.token, spot.name):
                    self._insist_on_superseded(spot)
            case Kind.BROKEN_OWNER | Kind.BROKEN_HELD | Kind.BROKEN_ASIDE:
                if not self._guards.holds(spot.si):
                    raise Refused(PERMISSION_DENIED, "a broken guard is cleared away by who holds the guard now")
                if spot.kind is not Kind.BROKEN_OWNER:
                    self._insist_on_superseded(spot)
            case Kind.SHARE:
                raise Refused(PERMISSION_DENIED, REMOVED_HOW)
            case _:
                raise Refused(PERMISSION_DENIED, f"{spot.kind.value} is not removed by clients")

    def _insist_on_superseded(self, spot: Spot) -> None:
        aside = spot.kind in (Kind.ASIDE, Kind.BROKEN_ASIDE)
        if aside and self.policy.append_only:
            raise Refused(PERMISSION_DENIED, "this server is append-only: what was moved aside stays")
        if not superseded(self._jail, spot.names, spot.si, spot.shnum, aside=aside):
            raise Refused(PERMISSION_DENIED, "it is newer than what stands in place: it stays until that is not so")

    def _remove(self, spot: Spot) -> None:
        descriptor = self._jail.open(spot.names, os.O_RDONLY)
        try:
            alone = removing(descriptor)
            status = os.fstat(descriptor)
            if not os.path.samestat(status, self._jail.look(spot.names)):
                raise Refused(FAILURE, "another file has its name by now")
            self._quota.begin()
            self._jail.unlink(spot.names)
            if alone and status.st_nlink == 1:
                self._quota.free(status.st_size + ENTRY)
        finally:
            os.close(descriptor)
        self._made.discard(spot.names)
        if spot.kind is Kind.STAGED:
            self._note(f"removed the staged {b32encode(spot.si)}.{spot.shnum}")

    def mkdir(self, path: bytes, change: Change) -> None:  # noqa: ARG002
        spot = self._place(path)
        with self._changing():
            match spot.kind:
                case Kind.SHARES | Kind.STAGING | Kind.LOCKS | Kind.PREFIX | Kind.FOLDER | Kind.PROBE:
                    self._mkdir(spot)
                case Kind.MAKING:
                    self._guards.make(spot.token)
                case Kind.MAKING_INSIDE if self._guards.makes(spot.token):
                    self._mkdir(spot)
                case Kind.ROOT | Kind.GUARD | Kind.HOLDER | Kind.BROKEN if self._jail.there(spot.names) is not None:
                    raise Refused(FAILURE, "it exists already")
                case Kind.GUARD:
                    raise Refused(PERMISSION_DENIED, "a guard is made under locks/.TOKEN and renamed")
                case _:
                    raise Refused(PERMISSION_DENIED, f"{spot.kind.value} is not made by clients")

    def _mkdir(self, spot: Spot) -> None:
        if self._jail.there(spot.names) is not None:
            raise Refused(FAILURE, "it exists already")
        self._quota.take(ENTRY)
        self._jail.mkdir(spot.names)
        if spot.kind is Kind.FOLDER and len(self._folders) < _MOST_MADE:
            self._folders.add(spot.names)
        elif spot.kind is Kind.PROBE:
            self._made.add(spot.names)

    def rmdir(self, path: bytes) -> None:
        spot = self._place(path)
        with self._changing():
            match spot.kind:
                case Kind.MAKING | Kind.MAKING_INSIDE | Kind.GUARD | Kind.BROKEN | Kind.BROKEN_HOLDER | Kind.PROBE:
                    pass
                case Kind.HOLDER:
                    self._guards.insist(spot.si, spot.token)
                case Kind.SHARES | Kind.PREFIX | Kind.FOLDER:
                    raise Refused(PERMISSION_DENIED, f"folders of shares stay; {REMOVED_HOW}")
                case _:
                    raise Refused(PERMISSION_DENIED, f"{spot.kind.value} is not removed by clients")
            self._quota.begin()
            self._jail.rmdir(spot.names)
            self._quota.free(ENTRY)
            self._made.discard(spot.names)
            if spot.kind in (Kind.HOLDER, Kind.MAKING):
                self._guards.forget(spot.token)

    def rename(self, old: bytes, new: bytes) -> None:
        self._move(old, new, How.RENAME)

    def replace(self, old: bytes, new: bytes) -> None:
        self._move(old, new, How.REPLACE)

    def link(self, old: bytes, new: bytes) -> None:
        self._move(old, new, How.LINK)

    def _move(self, old: bytes, new: bytes, how: How) -> None:
        source, target = self._place(old), self._place(new)
        with self._changing():
            self._placing = True
            try:
                self._passages.move(source, target, how)
            finally:
                self._placing = False
            if source.names in self._made:
                self._moved(source, target, how)
            self._folders.discard(target.above)

    def _moved(self, source: Spot, target: Spot, how: How) -> None:
        if source.kind is Kind.PROBE:
            inside = {names for names in self._made if names[: len(source.names)] == source.names}
            self._made |= {(*target.names, *names[len(source.names) :]) for names in inside}
            if how is not How.LINK:
                self._made -= inside
        else:
            self._made.discard(source.names)

    # ---- extensions

    def extended(self, name: str, body: memoryview) -> bytes | None:
        with self._asked():
            self._quota.begin()
            self._placing = name == "replace@lafs"
            try:
                return self._extensions.answer(name, body)
            finally:
                self._placing = False

    # ---- living

    def tick(self) -> None:
        with suppress(OSError):
            self._guards.tick()
            self._quota.settle()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        with suppress(OSError):
            self._guards.close()
        self._tidy()
        with suppress(OSError):
            self._quota.close()
        self._keeper.close()
        self._jail.close()

    def _tidy(self) -> None:
        """What is of no use without its connection: probes, and folders into which no share came."""
        small = [names for names in self._made if spot_of(names).kind in (Kind.PROBE, Kind.CLOCK, Kind.NEW_IDENTITY)]
        for names in sorted(small, key=len, reverse=True):
            with suppress(OSError):
                self._quota.begin()
                status = self._jail.look(names)
                if stat.S_ISDIR(status.st_mode):
                    self._jail.rmdir(names)
                else:
                    self._jail.unlink(names)
                self._quota.free(ENTRY + (0 if stat.S_ISDIR(status.st_mode) else status.st_size))
        for names in self._folders:
            with suppress(OSError):
                self._jail.rmdir(names)
                self._quota.free(ENTRY)
