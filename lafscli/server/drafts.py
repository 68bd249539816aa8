"""What clients write: staged shares, and the small files of guards and probes; who may write and remove which."""

from __future__ import annotations

import os
from collections.abc import Callable

from lafscli.primitives.encoding import b32encode
from lafscli.server.backend import CREATE, EXCLUSIVE, FAILURE, PERMISSION_DENIED, TRUNCATE, WRITE, Change, Refused
from lafscli.server.guards import Guards
from lafscli.server.handles import Staged, remove_file, writing
from lafscli.server.jail import Jail
from lafscli.server.passages import REMOVED_HOW
from lafscli.server.quota import ENTRY, Quota
from lafscli.server.shown import DAY, Shown
from lafscli.server.spots import Kind, Spot
from lafscli.server.superseded import superseded
from lafscli.server.trees import no_pulse
from lafscli.storage.owner import OWNER_SIZE
from lafscli.storage.serverfile import MAX_SIZE

_LARGEST_KIT = 64 << 20
_SMALL = {
    Kind.NEW_IDENTITY: MAX_SIZE,
    Kind.NEW_KIT: _LARGEST_KIT,
    Kind.CLOCK: 64,
    Kind.PROBE: 4096,
    Kind.MAKING_OWNER: OWNER_SIZE,
}
"""Files that are not shares, and how long they may be."""


class Drafts:
    """The files of one connection that are not in their place yet. Methods raise Refused, and OSError where the system
    refuses."""

    def __init__(
        self,
        jail: Jail,
        guards: Guards,
        quota: Quota,
        shown: Shown,
        *,
        append_only: bool,
        now: Callable[[], float],
        note: Callable[[str], None],
        pulse: Callable[[], None] = no_pulse,
    ) -> None:
        self._jail = jail
        self._guards = guards
        self._quota = quota
        self._shown = shown
        self._append_only = append_only
        self._now = now
        self._note = note
        self._pulse = pulse

    def _insist(self, spot: Spot, flags: int) -> None:
        """Whether there may be written at all."""
        match spot.kind:
            case Kind.STAGED:
                return
            case Kind.HELD:
                self._guards.insist(spot.si, spot.token)
                if self._guards.adopted(spot.si, spot.token, spot.name):
                    raise Refused(PERMISSION_DENIED, "it was moved here as it is, and stays so")
            case Kind.MAKING_OWNER if flags & CREATE and self._guards.makes(spot.token):
                return
            case Kind.NEW_IDENTITY | Kind.NEW_KIT | Kind.CLOCK if flags & CREATE:
                return
            case Kind.PROBE if flags & CREATE and spot.names[0] == "staging":
                return  # to other folders it comes by being moved
            case Kind.IDENTITY:
                raise Refused(PERMISSION_DENIED, "server.toml comes by staging it and renaming that")
            case _:
                raise Refused(PERMISSION_DENIED, f"{spot.kind.value} is not written by clients")

    def open(self, spot: Spot, flags: int) -> Staged:
        """A file to write, if that may be."""
        self._insist(spot, flags)
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
        self._shown.insist_on_room()
        with self._quota.taken(ENTRY):
            descriptor = self._jail.open(spot.names, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        self._remember(spot)
        return descriptor, True

    def _remember(self, spot: Spot) -> None:
        if spot.names[0] == "staging" or spot.kind in (Kind.CLOCK, Kind.PROBE):
            self._shown.made.add(spot.names)

    def change(self, spot: Spot, change: Change) -> None:
        """Size of a staged share, time of an owner. Mode and times of others are as they are."""
        if spot.kind is Kind.OWNER:
            self._guards.insist(spot.si, spot.token)
            self._touch(spot, change)
            return
        self._insist(spot, WRITE)
        if change.size is None:
            self._shown.look(spot)
            return
        file = self.open(spot, WRITE)
        try:
            file.change(change)
        finally:
            file.close()

    def _touch(self, spot: Spot, change: Change) -> None:
        if change.size is not None:
            raise Refused(PERMISSION_DENIED, f"{spot.kind.value} is not written by clients")
        if change.times is not None:
            # a holder shows that it lives, and not for how long it will
            when = min(change.times[1], int(self._now()) + 2)
            with self._jail.folder(spot.above) as above:
                os.utime(spot.name, (when, when), dir_fd=above, follow_symlinks=False)

    def _insist_on_removal(self, spot: Spot) -> None:
        match spot.kind:
            case Kind.STAGED | Kind.NEW_IDENTITY | Kind.NEW_KIT | Kind.CLOCK | Kind.PROBE:
                if self._append_only and self._shown.secret(spot):
                    status = self._jail.look(spot.names)
                    if status.st_mtime <= self._now() - DAY:
                        raise Refused(PERMISSION_DENIED, "this server is append-only: what others staged stays")
            case Kind.MAKING_OWNER:
                pass
            case Kind.OWNER | Kind.HELD | Kind.ASIDE:
                self._guards.insist(spot.si, spot.token)
                if spot.kind is Kind.ASIDE or self._guards.adopted(spot.si, spot.token, spot.name):
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
        if aside and self._append_only:
            raise Refused(PERMISSION_DENIED, "this server is append-only: what was moved aside stays")
        if not superseded(self._jail, spot.names, spot.si, spot.shnum, aside=aside, pulse=self._pulse):
            raise Refused(PERMISSION_DENIED, "it is newer than what stands in place: it stays until that is not so")

    def remove(self, spot: Spot) -> None:
        """Take a name away, if that may be."""
        self._insist_on_removal(spot)
        with self._jail.folder(spot.above) as above:
            remove_file(above, spot.name, self._quota)
        self._shown.made.discard(spot.names)
        if spot.kind is Kind.STAGED:
            self._note(f"removed the staged {b32encode(spot.si)}.{spot.shnum}")
