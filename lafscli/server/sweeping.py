"""What nobody will come back for: cleared away once a day, by whichever connection is the first to come.

Staged files that nobody writes any more, guards that were never finished, and probes of what the file system does: of
clients that fell, or whose server was killed. Clients do the same where they may (DESIGN §1.9).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

from lafscli.server.backend import Refused
from lafscli.server.guards import unmake
from lafscli.server.handles import remove_file
from lafscli.server.jail import Jail
from lafscli.server.quota import ENTRY, Quota
from lafscli.server.spots import Kind, Spot, spot_of

_DAY = 24 * 3600
_MARK = ("history", ".serve", "swept")
_FOLDERS = ("staging", "locks", "shares", "trash", "quarantine")
_SMALL = (Kind.STAGED, Kind.NEW_IDENTITY, Kind.NEW_KIT, Kind.CLOCK, Kind.PROBE)


def sweep(jail: Jail, quota: Quota, *, now: Callable[[], float], note: Callable[[str], None]) -> None:
    """Clear away, if that was not done today. What is refused stays until tomorrow."""
    with suppress(OSError):
        if not _due(jail, now()):
            return
        gone = sum(_sweep(jail, quota, folder, now() - _DAY) for folder in _FOLDERS)
        if gone:
            note(f"cleared {gone} old names away that were left in staging and locks")


def _due(jail: Jail, now: float) -> bool:
    with suppress(FileExistsError):
        jail.mkdir(_MARK[:-1])
    mark = jail.there(_MARK)
    if mark is not None and 0 <= now - mark.st_mtime < _DAY:
        return False
    descriptor = jail.open(_MARK, os.O_WRONLY | os.O_CREAT)
    try:
        os.utime(descriptor, (now, now))
    finally:
        os.close(descriptor)
    return mark is not None


def _sweep(jail: Jail, quota: Quota, folder: str, before: float) -> int:
    gone = 0
    with jail.folder((folder,)) as above, os.scandir(above) as entries:
        for entry in entries:
            spot = spot_of((folder, entry.name))
            with suppress(OSError, Refused):
                if spot.kind in (*_SMALL, Kind.MAKING) and entry.stat(follow_symlinks=False).st_mtime < before:
                    _remove(jail, quota, above, spot)
                    gone += 1
    return gone


def _remove(jail: Jail, quota: Quota, above: int, spot: Spot) -> None:
    if spot.kind is Kind.MAKING:
        unmake(jail, quota, spot.token)
        return
    try:
        remove_file(above, spot.name, quota, idle=True)
    except IsADirectoryError:
        _empty(jail, quota, spot.names)


def _empty(jail: Jail, quota: Quota, names: tuple[str, ...]) -> None:
    """The folder of a probe, and what is in it."""
    with jail.folder(names) as folder:
        for name in os.listdir(folder):
            with suppress(OSError, Refused):
                try:
                    remove_file(folder, name, quota, idle=True)
                except IsADirectoryError:
                    _empty(jail, quota, (*names, name))
    quota.begin()
    jail.rmdir(names)
    quota.free(ENTRY)
