"""Passages: which place may be moved to which, and how.

from                                 to
staging/<SI>.<shnum>.<token>         its share, where none stands; its place in an own guard
locks/<SI>/<own token>/<shnum>       its share; by posix-rename also over the one that stands there
locks/<SI>/<own token>/old.<shnum>   its share, where none stands
locks/.<own token>                   locks/<SI>: takes the guard
locks/<SI>                           locks/.broken.<SI>.<token>: breaks it, or sets it aside
locks/.broken.<SI>.<token>/…         its place in an own guard
staging/server.toml.<token>          server.toml, where there is none
staging/recovery.kit.<token>         recovery/<home>.<number>.kit, where none is
locks/<list>/<own token>/0           server.toml, by the rules of identity.py
a probe                              a probe of the same token

Shares come in by the keeper alone. Nothing leads out of `shares/`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum

from lafscli.primitives.encoding import b32encode
from lafscli.server.backend import FAILURE, PERMISSION_DENIED, Refused
from lafscli.server.guards import Guards
from lafscli.server.handles import removing
from lafscli.server.identity import check_new
from lafscli.server.jail import Jail, open_file
from lafscli.server.keeper import Keeper
from lafscli.server.quota import ENTRY, Quota
from lafscli.server.spots import Kind, Spot
from lafscli.storage.serverfile import IDENTITY_FILE, LIST_LOCK, MAX_SIZE

REMOVED_HOW = "shares are removed by cancelling their leases"


class How(Enum):
    """Which request it is."""

    RENAME = "rename"
    REPLACE = "posix-rename"
    LINK = "hard link"


class Passages:
    """The moves of one connection. Methods raise Refused, and OSError where the system refuses."""

    def __init__(
        self, jail: Jail, guards: Guards, keeper: Keeper, quota: Quota, *, note: Callable[[str], None]
    ) -> None:
        self._jail = jail
        self._guards = guards
        self._keeper = keeper
        self._quota = quota
        self._note = note

    def move(self, old: Spot, new: Spot, how: How) -> None:
        """Do it, or Refused."""
        match old.kind, new.kind:
            case (Kind.STAGED | Kind.HELD | Kind.ASIDE, Kind.SHARE):
                self._place(old, new, how)
            case (Kind.NEW_IDENTITY | Kind.HELD, Kind.IDENTITY):
                self._identify(old, how)
            case (Kind.NEW_KIT, Kind.KIT) if how is not How.REPLACE:
                self._keep_kit(old, new)
            case (Kind.PROBE, Kind.PROBE) if old.token == new.token:
                self._probe(old, new, how)
            case (Kind.MAKING, Kind.GUARD) if how is not How.LINK:
                self._guards.enter(old.token, new.si, replace=how is How.REPLACE)
            case (Kind.GUARD, Kind.BROKEN) if how is How.RENAME and old.si == new.si:
                self._guards.leave(old.si, new.token)
            case (Kind.STAGED, Kind.HELD) if how is not How.LINK:
                self._adopt(old, new)
            case (Kind.BROKEN_HELD, Kind.HELD) | (Kind.BROKEN_ASIDE, Kind.ASIDE) if how is not How.LINK:
                self._adopt(old, new)
            case (Kind.SHARE | Kind.FOLDER | Kind.PREFIX | Kind.SHARES, _):
                raise Refused(PERMISSION_DENIED, f"nothing is moved out of shares: {REMOVED_HOW}")
            case (_, Kind.SHARE):
                raise Refused(PERMISSION_DENIED, "only a share that is staged under its own name comes in here")
            case (_, Kind.IDENTITY) | (Kind.IDENTITY, _):
                raise Refused(PERMISSION_DENIED, f"{IDENTITY_FILE} changes only by one that is staged in a guard")
            case _:
                raise Refused(PERMISSION_DENIED, f"there is no way from {old.kind.value} to {new.kind.value}")

    # ---- shares

    def _place(self, old: Spot, new: Spot, how: How) -> None:
        if (old.si, old.shnum) != (new.si, new.shnum):
            raise Refused(PERMISSION_DENIED, "a staged share has the name of another share")
        replace = old.kind is Kind.HELD and how is How.REPLACE
        self.place(old, replace=replace)

    def place(self, old: Spot, *, replace: bool) -> None:
        """A staged share into its place; one in a guard only while that is ours."""

        def fence() -> None:
            if old.kind is not Kind.STAGED:
                self._guards.insist(old.si, old.token)

        fence()
        with self._room(old.si):
            self._bring_in(old, replace=replace, fence=fence)
        self._guards.placed(old.si, old.token, old.name)

    def _bring_in(self, old: Spot, *, replace: bool, fence: Callable[[], None]) -> None:
        # It is moved by its whole way below `locks/`: one who breaks the guard by a plain rename knows of no turns, but
        # takes that way away, and the move fails (spec 10 §1.3).
        name = "/".join(old.names[1:])
        with self._source(old) as (descriptor, _), self._jail.folder(old.names[:1]) as top:
            self._keeper.place(descriptor, top, name, old.si, old.shnum, replace=replace, fence=fence)

    def put_away(self, spot: Spot) -> None:
        """A share that fails its own proof into quarantine, under the guard that `spot` is in."""
        self._keeper.put_away(spot.si, spot.shnum, fence=lambda: self._guards.insist(spot.si, spot.token))

    @contextmanager
    def _room(self, si: bytes) -> Iterator[None]:
        """The folders that a share comes into, which clients make or leave to us; gone again if none came."""
        text = b32encode(si)
        made: list[tuple[str, ...]] = []
        try:
            for depth in (2, 3):
                names = ("shares", text[:2], text)[:depth]
                if self._jail.there(names) is None:
                    with suppress(FileExistsError), self._quota.taken(ENTRY):
                        self._jail.mkdir(names)
                        made.append(names)
            yield
        except BaseException:
            with suppress(OSError, Refused), self._keeper.turns.turn(si):
                for names in reversed(made):
                    self._quota.begin()
                    self._jail.rmdir(names)
                    self._quota.free(ENTRY)
            raise

    @contextmanager
    def _source(self, old: Spot) -> Iterator[tuple[int, int]]:
        """The staged file, open, and the folder that it is in."""
        with self._jail.folder(old.above) as above:
            descriptor = open_file(above, old.name, os.O_RDONLY)
            try:
                yield descriptor, above
            finally:
                os.close(descriptor)

    def _adopt(self, old: Spot, new: Spot) -> None:
        if (old.si, old.shnum) != (new.si, new.shnum):
            raise Refused(PERMISSION_DENIED, "a staged share has the name of another share")
        with self._keeper.turns.turn(new.si):
            self._guards.insist(new.si, new.token)
            with self._source(old) as (descriptor, _):
                removing(descriptor)
                self._insist_on_name(descriptor, old)
                self._jail.rename(old.names, new.names)
            self._guards.adopt(new.si, new.token, new.name, own=old.kind is Kind.STAGED)

    def _insist_on_name(self, descriptor: int, spot: Spot) -> None:
        if not os.path.samestat(os.fstat(descriptor), self._jail.look(spot.names)):
            raise Refused(FAILURE, "another file has its name by now")

    # ---- server.toml

    def _identify(self, old: Spot, how: How) -> None:
        if old.kind is Kind.HELD and old.si != LIST_LOCK:
            raise Refused(PERMISSION_DENIED, f"{IDENTITY_FILE} changes under the guard {b32encode(LIST_LOCK)}")
        replace = how is How.REPLACE and old.kind is Kind.HELD
        with self._keeper.turns.turn(LIST_LOCK):
            if old.kind is Kind.HELD:
                self._guards.insist(old.si, old.token)
            with self._source(old) as (descriptor, _):
                if not removing(descriptor):
                    raise Refused(FAILURE, "it is open for writing still")
                self._insist_on_name(descriptor, old)
                standing = self._read((IDENTITY_FILE,))
                if standing is not None and not replace:
                    raise Refused(FAILURE, f"{IDENTITY_FILE} exists already")
                check_new(standing, os.pread(descriptor, MAX_SIZE + 1, 0))
                os.fsync(descriptor)
                self._quota.begin()
                (self._jail.replace if replace else self._jail.rename)(old.names, (IDENTITY_FILE,))
                self._quota.free(ENTRY + os.fstat(descriptor).st_size)  # server.toml does not count
                self._note(f"changed {IDENTITY_FILE}")

    def _keep_kit(self, old: Spot, new: Spot) -> None:
        """A sealed kit that a home leaves here, for good: who knows its name could take another's away."""
        with self._keeper.turns.turn(LIST_LOCK), self._source(old) as (descriptor, _):
            if not removing(descriptor):
                raise Refused(FAILURE, "it is open for writing still")
            self._insist_on_name(descriptor, old)
            self._jail.rename(old.names, new.names)
            self._note(f"kept a recovery kit, {new.name}")

    def _read(self, names: tuple[str, ...]) -> bytes | None:
        try:
            descriptor = self._jail.open(names, os.O_RDONLY)
        except FileNotFoundError:
            if self._jail.there(names) is not None:
                raise Refused(PERMISSION_DENIED, f"{IDENTITY_FILE} is no plain file") from None
            return None
        try:
            return os.pread(descriptor, MAX_SIZE + 1, 0)
        finally:
            os.close(descriptor)

    # ---- probes

    def _probe(self, old: Spot, new: Spot, how: How) -> None:
        if how is How.LINK:
            with self._quota.taken(ENTRY):
                self._jail.link(old.names, new.names)
        elif how is How.REPLACE:
            self._jail.replace(old.names, new.names)
        else:
            self._jail.rename(old.names, new.names)
