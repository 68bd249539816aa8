"""What lies in the trash comes back where no share stands now: `lafs gc --host DIR --undo`."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field

from lafscli.errors import CorruptShare, GuardHeld
from lafscli.server import trash
from lafscli.server.backend import Refused
from lafscli.server.expiry import LEASE_SECONDS
from lafscli.server.hostfolder import HostFolder, opened_file
from lafscli.server.hostgc import GUARDED, LEASELESS
from lafscli.server.hostguard import HostGuards
from lafscli.server.leasebook import prolong, read_leases
from lafscli.server.shelves import rename_keeping

TAKEN = "another stands in its place"


@dataclass(slots=True)
class BroughtBack:
    """What came back. `prolonged` are leases that had ended, and were given time."""

    shares: int = 0
    bytes: int = 0
    kept_versions: int = 0
    prolonged: int = 0
    skipped: Counter[str] = field(default_factory=Counter)


def bring_back(folder: HostFolder, guards: HostGuards, *, now: float, leaseless: bool) -> BroughtBack:
    """Bring back all that can be, the newest first. Leases that have ended get as long as a new one, so that who wants
    the share can renew before the next run. `leaseless`: also shares whose owners cancelled their leases."""
    done = BroughtBack()
    for day in trash.days(folder):
        for thrown in trash.thrown_on(folder, day):
            try:
                with guards.changing(thrown.si):
                    _bring_back(folder, thrown, done, now=now, leaseless=leaseless)
            except GuardHeld:
                done.skipped[GUARDED] += 1
            except FileNotFoundError:
                continue
            except (OSError, Refused) as error:
                folder.failed(thrown.path, error)
        trash.forget_day(folder, day)
    return done


def _bring_back(folder: HostFolder, thrown: trash.Thrown, done: BroughtBack, *, now: float, leaseless: bool) -> None:
    with opened_file(thrown.name, thrown.folder, write=True) as opened:
        if opened is None:
            return
        descriptor, found = opened
        try:
            book = read_leases(descriptor)
        except CorruptShare:  # it was thrown away whole, and comes back as it is
            book = None
        if book is not None and not book.leases and not leaseless and thrown.kept is None:
            done.skipped[LEASELESS] += 1
            return
        with folder.beside(*thrown.home) as home:
            if thrown.home_name in os.listdir(home):
                done.skipped[TAKEN] += 1
                return
            if book is not None and thrown.kept is None and all(now > expiration for expiration in book.expirations):
                done.prolonged += prolong(descriptor, int(now) + LEASE_SECONDS)
            try:
                rename_keeping(thrown.folder, thrown.name, home, thrown.home_name)
            except FileExistsError:
                done.skipped[TAKEN] += 1
                return
    if thrown.kept is not None:
        done.kept_versions += 1
    else:
        done.shares += 1
        done.bytes += found.st_size
