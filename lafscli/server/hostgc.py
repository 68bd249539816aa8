"""Expired leases, and shares with none left, go (spec 06 §4): at the host, without any secret.

Nothing is decided on what was seen before: each share that seems to have ended is read again under the turn and the
guard of its storage index, moved to `trash/`, and looked at once more; renewed meanwhile, it goes back. There is no
state between runs: one that was killed is run again.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from lafscli.errors import CorruptShare, GuardHeld, IncompatibleShare, LafsError
from lafscli.server import trash
from lafscli.server.backend import Refused
from lafscli.server.expiry import Expiry
from lafscli.server.hostfolder import Holding, HostFolder, opened_file
from lafscli.server.hostguard import HostGuards, interrupted, utc_day
from lafscli.server.kept import Kept, in_quarantine, kept_holdings
from lafscli.server.leasebook import LeaseBook, read_leases, take_out
from lafscli.server.shelves import rename_keeping

_ANSWERED_FOR = 31 * trash.DAY
"""So long a broken guard, or a share in quarantine, keeps what else there is of its storage index."""

LEASELESS = "without any lease"
DAMAGED = "damaged"
UNKNOWN = "of a version that is not known"
GUARDED = "being changed by another"
BROKEN_OFF = "an interrupted change is not mended yet"
RENEWED = "renewed meanwhile"


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be collected. `only`: "mutable", "immutable" or both; `grace`: seconds in the trash."""

    expiry: Expiry
    delete: bool = False
    only: str | None = None
    leaseless: bool = False
    grace: int = 14 * trash.DAY

    @property
    def now(self) -> float:
        return self.expiry.now


@dataclass(slots=True)
class Collected:
    """What was collected, or would be. Of `objects` shares went, `leases` were taken out of shares that stay."""

    examined: int = 0
    objects: int = 0
    shares: int = 0
    bytes: int = 0
    leases: int = 0
    kept_versions: int = 0
    purged: int = 0
    purged_bytes: int = 0
    skipped: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class _Fate:
    """What becomes of one share: the whole of it goes, or some leases, or neither, and then perhaps for a reason."""

    book: LeaseBook | None = None
    whole: bool = False
    ended: int = 0
    reason: str = ""

    @property
    def changes(self) -> bool:
        return self.whole or self.ended > 0


class _BrokenOff(Exception):
    """A writer died in the middle, just now or not long ago."""


class HostCollection:
    """One run over a folder; `advance` is called with the size of each share that was looked at."""

    def __init__(
        self,
        folder: HostFolder,
        guards: HostGuards | None,
        wish: Wish,
        *,
        advance: Callable[[int], None] = lambda _: None,
    ) -> None:
        """`guards` may be None where nothing is to be deleted."""
        assert guards is not None or not wish.delete, "nothing is changed without a guard"
        self._folder = folder
        self._guards = guards
        self._wish = wish
        self._advance = advance
        self._broken: frozenset[str] = frozenset()
        self.found = Collected()

    def run(self) -> Collected:
        """Shares, then kept versions of which no share is left, then what has lain in the trash long enough."""
        self._require_clock()
        self._broken = interrupted(self._folder, now=self._wish.now, younger_than=_ANSWERED_FOR)
        for holding in self._folder.holdings():
            self._look_at(holding)
        if self._wish.only != "immutable":
            self._collect_kept()
        self._purge()
        return self.found

    def _require_clock(self) -> None:
        """What was thrown away tomorrow shows a clock that is, or was, wrong: no lease can be judged by it."""
        newest = next(iter(trash.days(self._folder)), None)
        begins = trash.day_begins(newest) if newest is not None else None
        if self._wish.delete and begins is not None and begins > self._wish.now:
            raise LafsError(
                f"the clock says {utc_day(self._wish.now)}, but there is trash/{newest}: nothing was removed",
                hint="set the clock right; if it was wrong then, lafs gc --host DIR --undo brings back what went",
            )

    # ---- shares

    def _look_at(self, holding: Holding) -> None:
        fates = [fate for _, name in holding.files if (fate := self._fate_of(holding, name)) is not None]
        self.found.examined += len(fates)
        if not any(fate.changes for fate in fates):
            self._skip([fate.reason for fate in fates])
            return
        if holding.text in self._broken:
            self._skip([BROKEN_OFF for fate in fates if fate.changes])
            return
        if not self._wish.delete:
            self._skip([fate.reason for fate in fates])
            self._count([fate for fate in fates if fate.changes])
            return
        assert self._guards is not None, "there are guards where something is to be deleted"
        try:
            with self._guards.changing(holding.si):
                self._require_whole(holding.text)
                done = [fate for shnum, name in holding.files if (fate := self._collect(holding, shnum, name))]
                if any(fate.whole for fate in done):
                    self._folder.forget_if_empty(holding.text)
            self._skip([fate.reason for fate in done])
            self._count([fate for fate in done if fate.changes])
        except GuardHeld:
            self._skip([GUARDED for fate in fates if fate.changes])
        except _BrokenOff:
            self._skip([BROKEN_OFF for fate in fates if fate.changes])
        except (OSError, Refused) as error:
            self._folder.failed(holding.path, error)

    def _require_whole(self, text: str) -> None:
        """After a dead one's guard was broken: what it left is not for us to judge."""
        if text in interrupted(self._folder, now=self._wish.now, younger_than=_ANSWERED_FOR):
            raise _BrokenOff

    def _count(self, fates: list[_Fate]) -> None:
        whole = [fate.book for fate in fates if fate.whole and fate.book is not None]
        self.found.objects += bool(whole)
        self.found.shares += len(whole)
        self.found.bytes += sum(book.file_size for book in whole)
        self.found.leases += sum(fate.ended for fate in fates if not fate.whole)

    def _skip(self, reasons: list[str]) -> None:
        self.found.skipped.update(reason for reason in reasons if reason)

    def _fate_of(self, holding: Holding, name: str) -> _Fate | None:
        """By a look at one share; None where none is any more, or it can't be read."""
        try:
            with opened_file(name, holding.folder) as opened:
                if opened is None:
                    self._folder.foreign += 1
                    return None
                self._advance(opened[1].st_size)
                return self._judge(opened[0])
        except FileNotFoundError:
            return None
        except OSError as error:
            self._folder.failed(f"{holding.path}/{name}", error)
            return None

    def _judge(self, descriptor: int) -> _Fate:
        try:
            book = read_leases(descriptor)
        except IncompatibleShare:
            return _Fate(reason=UNKNOWN)
        except CorruptShare:
            return _Fate(reason=DAMAGED)
        wish = self._wish
        if wish.only is not None and book.mutable != (wish.only == "mutable"):
            return _Fate(book)
        if not book.leases:
            return _Fate(book, whole=True) if wish.leaseless else _Fate(book, reason=LEASELESS)
        ended = sum(map(wish.expiry.ended, book.expirations))
        return _Fate(book, whole=ended == len(book.leases), ended=ended)

    def _collect(self, holding: Holding, shnum: int, name: str) -> _Fate | None:
        """Judge once more, and do it."""
        try:
            with opened_file(name, holding.folder) as opened:
                if opened is None:
                    return None
                fate = self._judge(opened[0])
                if fate.whole:
                    return self._throw(holding, shnum, name, opened[0], fate)
            if fate.ended:
                self._take_out(holding, name)
            return fate
        except FileNotFoundError:
            return None
        except OSError as error:
            self._folder.failed(f"{holding.path}/{name}", error)
            return None

    def _take_out(self, holding: Holding, name: str) -> None:
        with opened_file(name, holding.folder, write=True) as opened:
            if opened is not None:
                take_out(opened[0], self._wish.expiry.ended)

    def _throw(self, holding: Holding, shnum: int, name: str, descriptor: int, fate: _Fate) -> _Fate:
        assert self._guards is not None, "nothing is changed without a guard"
        assert fate.book is not None, "it was judged by its leases"
        day, token = utc_day(self._wish.now), self._guards.token()
        path = trash.throw(self._folder, name, holding.folder, day, trash.thrown_name(holding.text, shnum), token)
        if self._as_it_was(descriptor, path, fate.book):
            return fate
        # somebody takes no guard: who renewed the lease, or put another version there
        with self._folder.beside("trash", day) as folder, suppress(FileExistsError):
            rename_keeping(folder, path.rpartition("/")[2], holding.folder, name)
        return _Fate(fate.book, reason=RENEWED)

    def _as_it_was(self, descriptor: int, path: str, book: LeaseBook) -> bool:
        """Whether what was moved is what was judged, down to every lease."""
        *folders, name = path.split("/")
        with self._folder.beside(*folders) as folder:
            moved, known = os.lstat(name, dir_fd=folder), os.fstat(descriptor)
        if (moved.st_dev, moved.st_ino) != (known.st_dev, known.st_ino):
            return False
        with suppress(CorruptShare):
            return read_leases(descriptor) == book
        return False

    # ---- kept versions

    def _collect_kept(self) -> None:
        """Kept versions of an object that has no share here any more, nor one in quarantine, when their own leases
        have ended too."""
        wanted = in_quarantine(self._folder, now=self._wish.now, younger_than=_ANSWERED_FOR) | self._broken
        for kept in kept_holdings(self._folder):
            if kept.text in wanted or not self._all_ended(kept):
                continue
            if not self._wish.delete:
                self.found.kept_versions += len(kept.versions)
                continue
            assert self._guards is not None, "there are guards where something is to be deleted"
            try:
                with self._guards.changing(kept.si):
                    if self._all_ended(kept):
                        self._throw_kept(kept)
            except GuardHeld:
                self._skip([GUARDED])
            except (OSError, Refused) as error:
                self._folder.failed(kept.path, error)

    def _all_ended(self, kept: Kept) -> bool:
        with self._folder.there("shares", kept.text[:2], kept.text) as shares:
            if shares is not None and os.listdir(shares):
                return False
        for version in kept.versions:
            try:
                with opened_file(version.name, kept.folder) as opened:
                    if opened is None:
                        return False
                    book = read_leases(opened[0])
                    if not all(map(self._wish.expiry.ended, book.expirations)):
                        return False
            except (CorruptShare, FileNotFoundError):
                return False
            except OSError as error:
                self._folder.failed(f"{kept.path}/{version.name}", error)
                return False
        return bool(kept.versions)

    def _throw_kept(self, kept: Kept) -> None:
        assert self._guards is not None
        for version in kept.versions:
            name = trash.thrown_name(kept.text, version.shnum, version.rest)
            trash.throw(self._folder, version.name, kept.folder, utc_day(self._wish.now), name, self._guards.token())
            self.found.kept_versions += 1
        with self._folder.there("history", kept.text[:2]) as prefix, suppress(OSError):
            if prefix is not None:
                os.rmdir(kept.text, dir_fd=prefix)

    # ---- trash

    def _purge(self) -> None:
        """Remove for good what was thrown away longer ago than the grace: by its day, and by the file's own time."""
        for day in reversed(trash.days(self._folder)):
            begins = trash.day_begins(day)
            if begins is None or self._wish.now < begins + trash.DAY + self._wish.grace:
                continue
            for thrown in trash.thrown_on(self._folder, day):
                try:
                    self._purge_one(thrown)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    self._folder.failed(thrown.path, error)
            if self._wish.delete:
                trash.forget_day(self._folder, day)

    def _purge_one(self, thrown: trash.Thrown) -> None:
        with opened_file(thrown.name, thrown.folder) as opened:
            if opened is None:
                return
            descriptor, found = opened
            # who renewed it in the very moment in which it was moved still wants it
            if found.st_mtime_ns >= found.st_ctime_ns and self._lives(descriptor):
                self._skip([RENEWED])
                return
            if self._wish.delete:
                os.unlink(thrown.name, dir_fd=thrown.folder)
            self.found.purged += 1
            self.found.purged_bytes += found.st_size

    def _lives(self, descriptor: int) -> bool:
        with suppress(CorruptShare):
            return any(self._wish.now <= expiration for expiration in read_leases(descriptor).expirations)
        return False
