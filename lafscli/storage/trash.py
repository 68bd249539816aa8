"""The folder `trash/` of one server: shares on their way out, and back (spec 10 §3).

trash/<UTC day>/<SI>.<shnum>            a share that was thrown away on that day, by the server's clock
trash/<UTC day>/<SI>.<shnum>.<token>    the same where that name was taken
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from lafscli.errors import FileError, FileMissing, GuardHeld, GuardLost, LafsError
from lafscli.formats.container import share_folder, share_path
from lafscli.primitives.encoding import b32decode, b32encode
from lafscli.storage import leftovers
from lafscli.storage.guard import FolderGuard
from lafscli.storage.leased import read_leases, seen_again
from lafscli.storage.leases import fenced
from lafscli.storage.locks import Locks
from lafscli.storage.serverfile import LIST_LOCK
from lafscli.storage.store import (
    Files,
    FileStat,
    Leased,
    MayGo,
    Mkdir,
    Op,
    Remove,
    Rmdir,
    Stat,
    StorageIndex,
    Thrown,
)

_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_NAME = re.compile(r"([a-z2-7]{26})\.([0-9]{1,9})(?:\.[a-z2-7]{26})?")
_TOGETHER = 200


def throw_away(
    files: Files,
    guard: FolderGuard,
    shnums: Sequence[int],
    date: str,
    may_go: Callable[[Leased], bool] = lambda _: True,
) -> dict[int, bool | LafsError]:
    """Move shares to `trash/<date>/`; `date` is a UTC day, as 2030-12-31. `may_go` is asked under the guard.

    False for a share that may not go, or was renewed meanwhile and is back in its place; the error for one whose leases
    can't be told, which stays. A share that is not there is left out.
    """
    with fenced(guard):
        found = read_leases(files, [share_path(guard.si, shnum) for shnum in shnums])
        answers: dict[int, bool | LafsError] = {}
        going: dict[int, Leased] = {}
        for shnum, leased in zip(shnums, found, strict=True):
            if isinstance(leased, FileMissing):
                continue
            if isinstance(leased, LafsError):
                answers[shnum] = leased
            elif may_go(leased):
                going[shnum] = leased
            else:
                answers[shnum] = False
        moved = guard.move_aside(sorted(going))
        same = seen_again(files, {guard.aside(shnum): going[shnum] for shnum in moved})
        targets: dict[int, tuple[str, str]] = {}
        for shnum in sorted(moved):
            answers[shnum] = same[guard.aside(shnum)]
            if answers[shnum]:
                # The first name is taken when the same share was thrown away twice on one day.
                target = f"trash/{date}/{b32encode(guard.si)}.{shnum}"
                targets[shnum] = target, f"{target}.{guard.token}"
            else:
                targets[shnum] = share_path(guard.si, shnum), guard.quarantined(shnum)
        if targets:
            guard.move_out(targets)
            # Whoever sees the folder takes it that there is a share (DESIGN §1.12).
            guard.carry_out([Rmdir(share_folder(guard.si))])
        return answers


class FolderTrash:
    """A `Trash` in a folder tree. `random_bytes` makes names that are free."""

    def __init__(self, files: Files, locks: Locks, random_bytes: Callable[[int], bytes]) -> None:
        self._files = files
        self._locks = locks
        self._random_bytes = random_bytes

    def leases(self, shares: Sequence[tuple[StorageIndex, int]]) -> list[Leased | LafsError]:
        return read_leases(self._files, [share_path(si, shnum) for si, shnum in shares])

    def clock(self) -> int:
        probe = f"staging/.clock.{b32encode(self._random_bytes(10))}"
        self._files.create(probe).close(sync=False)
        clock, _ = self._files.do([Stat(probe), Remove(probe)])
        if not isinstance(clock, FileStat):
            raise clock if isinstance(clock, FileError) else FileMissing(f"{probe}: it went away")
        return clock.mtime

    def throw_away(
        self, si: StorageIndex, shnums: Sequence[int], may_go: MayGo | None = None, *, patience: float = 0.0
    ) -> dict[int, bool | LafsError]:
        with self._locks.wait(si, patience) as guard:
            now = guard.server_time
            day = time.strftime("%Y-%m-%d", time.gmtime(now))
            return throw_away(self._files, guard, shnums, day, lambda leased: may_go is None or may_go(leased, now))

    def tidy(self) -> None:
        with suppress(FileMissing):
            for si in self._locks.held() - {LIST_LOCK}:
                with suppress(GuardHeld, GuardLost), self._locks.take(si) as guard:
                    leftovers.tidy(self._files, guard)

    def thrown(self) -> Iterator[Thrown]:
        [days] = self._files.listing(["trash"])
        if isinstance(days, FileMissing):
            return
        if isinstance(days, FileError):
            raise days
        names = [entry.name for entry in days if entry.stat.kind == "dir" and _DAY.fullmatch(entry.name)]
        for day in sorted(names, reverse=True):
            [entries] = self._files.listing([f"trash/{day}"])
            if isinstance(entries, FileMissing):
                continue
            if isinstance(entries, FileError):
                raise entries
            for entry in sorted(entries, key=lambda entry: (-entry.stat.mtime, entry.name)):
                match = _NAME.fullmatch(entry.name)
                si = None if match is None or entry.stat.kind != "file" else _storage_index(match[1])
                if match is not None and si is not None:
                    yield Thrown(si, int(match[2]), day, f"trash/{day}/{entry.name}", entry.stat.size)

    def leases_of(self, items: Sequence[Thrown]) -> list[Leased | LafsError]:
        return read_leases(self._files, [item.path for item in items])

    def bring_back(self, items: Sequence[Thrown]) -> list[bool | LafsError]:
        answers: list[bool | LafsError] = []
        for item in items:
            try:
                with self._locks.wait(item.si, 0.0) as guard, fenced(guard):
                    answers.append(self._bring_back(guard, item))
            except (FileError, GuardHeld, GuardLost) as error:
                answers.append(error)
        self._forget_days(items)
        return answers

    def _bring_back(self, guard: FolderGuard, item: Thrown) -> bool:
        path = share_path(item.si, item.shnum)
        _, there, here = guard.check([Mkdir(share_folder(item.si)[:-27]), Stat(path), Stat(item.path)])
        if not isinstance(here, FileStat):
            raise here if isinstance(here, FileError) else FileMissing(f"{item.path}: it is gone")
        if not isinstance(there, FileMissing):
            if isinstance(there, FileError):
                raise there
            return False
        guard.take_in({item.shnum: item.path})
        guard.move_out({item.shnum: (path, item.path)})
        [left] = guard.check([Stat(item.path)])
        return isinstance(left, FileMissing)

    def remove(self, items: Sequence[Thrown]) -> list[LafsError | None]:
        answers: list[LafsError | None] = []
        for start in range(0, len(items), _TOGETHER):
            for answer in self._files.do([Remove(item.path) for item in items[start : start + _TOGETHER]]):
                if isinstance(answer, FileError) and not isinstance(answer, FileMissing):
                    answers.append(answer)
                else:
                    answers.append(None)
        self._forget_days(items)
        return answers

    def _forget_days(self, items: Sequence[Thrown]) -> None:
        """Remove the folders of these days that are empty now."""
        days: list[Op] = [Rmdir(f"trash/{day}") for day in sorted({item.day for item in items})]
        self._files.do(days)


def _storage_index(text: str) -> StorageIndex | None:
    try:
        return b32decode(text)
    except ValueError:
        return None
