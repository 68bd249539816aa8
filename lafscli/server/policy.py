"""What a client may do here: the backend of one connection, under a policy.

Reading is free below the jail, as far as names fit the layout. Everything that changes something is in one of these
methods, and refused unless a row says that it may be: what is not thought of can't be done.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from lafscli.formats.container import LEASE_SIZE
from lafscli.server.backend import (
    CONNECTION_LOST,
    CREATE,
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
from lafscli.server.drafts import Drafts
from lafscli.server.extensions import NAMES, Extensions
from lafscli.server.guards import Guards
from lafscli.server.handles import Leases, Plain
from lafscli.server.identity import prepare
from lafscli.server.jail import Jail, asking
from lafscli.server.keeper import Keeper
from lafscli.server.passages import REMOVED_HOW, How, Passages
from lafscli.server.quota import ENTRY, Quota
from lafscli.server.shown import FOLDERS, MOST_MADE, Shown
from lafscli.server.spots import Kind, Paths, Spot
from lafscli.server.sweeping import sweep
from lafscli.server.terms import Policy

__all__ = ["Policy", "PolicyFiles"]


class PolicyFiles:
    """The backend of one connection to the folder `root`; the folder and its `server.toml` are made ready.

    `home` is the login folder, `who` whose key it is. `note` takes a line for the log of each change. `gone` says
    whether the client is: then what takes long is not brought to its end.
    """

    def __init__(
        self,
        root: Path,
        policy: Policy,
        *,
        home: Path | None = None,
        who: str = "",
        note: Callable[[str], None] = lambda _: None,
        now: Callable[[], float] = time.time,
        random_bytes: Callable[[int], bytes] = os.urandom,
        gone: Callable[[], bool] = lambda: False,
    ) -> None:
        self.policy = policy
        self._gone = gone
        self._paths = Paths([Path(os.path.abspath(root)), root.resolve()], home)
        self._jail = Jail(root)
        root_fd = self._jail.root_fd
        if policy.read_only:
            self._quota = Quota(root_fd, None, 0, now=now)
        else:
            prepare(self._jail, random_bytes)
            self._quota = Quota(root_fd, policy.quota, policy.reserve, now=now)
            sweep(self._jail, self._quota, now=now, note=note)
        self._keeper = Keeper(
            root_fd,
            append_only=policy.append_only,
            history=policy.history,
            now=now,
            random_bytes=random_bytes,
            note=note,
            used=self._used,
            pulse=self._pulse,
        )
        self._guards = Guards(
            self._jail,
            lambda si: self._keeper.turns.turn(si),
            self._quota,
            who=who,
            now=now,
            random_bytes=random_bytes,
            note=note,
        )
        self._shown = Shown(self._jail, self._guards, self._quota, now=now)
        self._drafts = Drafts(
            self._jail,
            self._guards,
            self._quota,
            self._shown,
            append_only=policy.append_only,
            now=now,
            note=note,
            pulse=self._pulse,
        )
        self._passages = Passages(self._jail, self._guards, self._keeper, self._quota, note=note)
        self._extensions = Extensions(policy, self._jail, self._guards, self._keeper, self._passages, self._quota)
        self._folders: set[tuple[str, ...]] = set()
        self._placing = False
        self._closed = False

    @property
    def extensions(self) -> Sequence[tuple[str, str]]:
        return [(name, "1") for name in NAMES]

    def _used(self, size: int) -> None:
        # a file that is gone for another's sake counted a name, too
        self._quota.change(size - ENTRY if size < 0 and self._placing else size)

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
            return self._shown.look(spot)

    def entries(self, path: bytes) -> Iterator[tuple[bytes, Attrs]]:
        spot = self._visible(path)
        if spot.kind not in FOLDERS and spot.kind is not Kind.PROBE:
            raise Refused(NO_SUCH_FILE, "no such folder")
        with self._asked():
            listing = self._shown.entries(spot)
            next(listing)
        return listing

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
            if spot.kind in (Kind.HIDDEN, *FOLDERS):
                raise Refused(FAILURE, "it is a folder")
            with self._asked():
                return Plain(self._jail.open(spot.names, os.O_RDONLY), flags)
        spot = self._place(path)
        with self._changing():
            if spot.kind is Kind.SHARE:
                return self._open_share(spot, flags)
            return self._drafts.open(spot, flags)

    def _open_share(self, spot: Spot, flags: int) -> OpenFile:
        if flags & (CREATE | TRUNCATE):
            raise Refused(PERMISSION_DENIED, "shares come in by staging them and renaming that")
        si, shnum = spot.si, spot.shnum
        descriptor = self._jail.open(spot.names, os.O_RDONLY)

        def patch(fd: int, offset: int | None, data: bytes) -> None:
            # a renewal is shorter, and needs no room
            with self._quota.room(len(data) if len(data) >= LEASE_SIZE else 0):
                self._keeper.patch(fd, si, shnum, offset, data)

        return Leases(descriptor, flags, patch)

    def change(self, path: bytes, change: Change) -> None:
        spot = self._place(path)
        with self._changing():
            if change.owner is not None:
                raise Refused(PERMISSION_DENIED, "files here belong to the server")
            match spot.kind:
                case Kind.OWNER | Kind.STAGED | Kind.HELD:
                    self._drafts.change(spot, change)
                case Kind.SHARE:
                    raise Refused(PERMISSION_DENIED, "a share does not change; of it only leases do")
                case _:
                    raise Refused(PERMISSION_DENIED, f"{spot.kind.value} is as it is")

    # ---- names

    def remove(self, path: bytes) -> None:
        spot = self._place(path)
        with self._changing():
            self._drafts.remove(spot)

    def mkdir(self, path: bytes, change: Change) -> None:  # noqa: ARG002
        spot = self._place(path)
        with self._changing():
            match spot.kind:
                case Kind.SHARES | Kind.STAGING | Kind.LOCKS | Kind.PREFIX | Kind.FOLDER | Kind.KITS:
                    self._mkdir(spot)
                case Kind.PROBE if spot.names[0] == "staging":
                    self._shown.insist_on_room()
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
        if len(self._folders) >= MOST_MADE:
            raise Refused(FAILURE, "too many folders without a share in them")
        with self._quota.taken(ENTRY):
            self._jail.mkdir(spot.names)
        if spot.kind is Kind.FOLDER:
            self._folders.add(spot.names)
        elif spot.kind is Kind.PROBE:
            self._shown.made.add(spot.names)

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
            self._shown.made.discard(spot.names)
            if spot.kind in (Kind.HOLDER, Kind.MAKING):
                self._guards.forget(spot.si, spot.token)

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
            if source.names in self._shown.made:
                self._shown.moved(source, target, linked=how is How.LINK)
            self._folders.discard(target.above)

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

    def _pulse(self) -> None:
        """In the middle of what takes long. One who hangs up and comes again must not have it go on many times."""
        self.tick()
        if self._gone() and not self._closed:
            raise Refused(CONNECTION_LOST, "the client is gone")

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        with suppress(OSError):
            self._guards.close()
        self._shown.tidy()
        for names in self._folders:  # into which no share came
            with suppress(OSError):
                self._quota.begin()
                self._jail.rmdir(names)
                self._quota.free(ENTRY)
        with suppress(OSError):
            self._quota.close()
        self._keeper.close()
        self._jail.close()
