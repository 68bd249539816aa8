"""What a client sees: names that fit the layout, plain files and folders, and no names that are another's secret."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress

from lafscli.server.backend import FAILURE, NO_SUCH_FILE, Attrs, Refused
from lafscli.server.guards import Guards
from lafscli.server.handles import remove_file
from lafscli.server.jail import Jail, attrs_of
from lafscli.server.quota import ENTRY, Quota
from lafscli.server.spots import Kind, Spot, spot_of

DAY = 24 * 3600
MOST_MADE = 1 << 16
"""Names that one connection may have in staging at once, and folders without a share."""
FOLDERS = {
    *(Kind.ROOT, Kind.SHARES, Kind.PREFIX, Kind.FOLDER, Kind.STAGING, Kind.LOCKS, Kind.MAKING, Kind.MAKING_INSIDE),
    Kind.KITS,
    *(Kind.GUARD, Kind.HOLDER, Kind.BROKEN, Kind.BROKEN_HOLDER),
}
_SMALL = (Kind.NEW_IDENTITY, Kind.NEW_KIT)
_HIDDEN = Attrs("dir", 0, 0o700, 0, 0, 0, 0)


class Shown:
    """What one connection sees, and which small names it has made itself."""

    def __init__(self, jail: Jail, guards: Guards, quota: Quota, *, now: Callable[[], float]) -> None:
        self._jail = jail
        self._guards = guards
        self._quota = quota
        self._now = now
        self.made: set[tuple[str, ...]] = set()
        """In staging, and probes elsewhere."""

    def insist_on_room(self) -> None:
        """Whether one more may be made."""
        if len(self.made) >= MOST_MADE:
            raise Refused(FAILURE, "too many staged files on one connection")

    def look(self, spot: Spot) -> Attrs:
        if spot.kind is Kind.HIDDEN:
            return _HIDDEN
        attrs = attrs_of(self._jail.look(spot.names))
        if not self._fits(spot, attrs):
            raise Refused(NO_SUCH_FILE, "no such file")
        return attrs

    def entries(self, folder: Spot) -> Iterator[tuple[bytes, Attrs]]:
        """The first is none: once begun, it closes the folder however it ends."""
        long_ago = self._now() - DAY
        with self._jail.folder(folder.names) as descriptor, os.scandir(descriptor) as entries:
            yield b"", _HIDDEN
            for entry in entries:
                spot = spot_of((*folder.names, entry.name))
                if spot.kind in (Kind.NOWHERE, Kind.HIDDEN):
                    continue
                with suppress(OSError, Refused):
                    attrs = attrs_of(entry.stat(follow_symlinks=False))
                    if self._fits(spot, attrs) and not (self.secret(spot) and attrs.mtime > long_ago):
                        yield entry.name.encode("ascii"), attrs

    def _fits(self, spot: Spot, attrs: Attrs) -> bool:
        return spot.kind is Kind.PROBE or (attrs.kind == "dir") is (spot.kind in FOLDERS)

    def secret(self, spot: Spot) -> bool:
        """Whether the name is for those who made it: who knows it may write there, or take it away."""
        if spot.kind is Kind.MAKING:
            return not self._guards.makes(spot.token)
        if spot.kind is Kind.PROBE:
            return spot.names[:2] not in self.made and len(spot.names) == 2
        return spot.kind in (Kind.STAGED, *_SMALL, Kind.CLOCK) and spot.names not in self.made

    def moved(self, source: Spot, target: Spot, *, linked: bool) -> None:
        if source.kind is Kind.PROBE:
            inside = {names for names in self.made if names[: len(source.names)] == source.names}
            self.made |= {(*target.names, *names[len(source.names) :]) for names in inside}
            if not linked:
                self.made -= inside
        else:
            self.made.discard(source.names)

    def tidy(self) -> None:
        """What is of no use without its connection: probes, and folders into which no share came."""
        small = [names for names in self.made if spot_of(names).kind in (*_SMALL, Kind.CLOCK, Kind.PROBE)]
        for names in sorted(small, key=len, reverse=True):
            with suppress(OSError, Refused), self._jail.folder(names[:-1]) as above:
                try:
                    remove_file(above, names[-1], self._quota)
                except IsADirectoryError:
                    self._quota.begin()
                    self._jail.rmdir(names)
                    self._quota.free(ENTRY)
