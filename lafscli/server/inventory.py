"""Which shares stand here, fast: all of them in order, or those that are asked for."""

from __future__ import annotations

import heapq
import os
import stat
from collections.abc import Iterator
from contextlib import suppress

from lafscli.server.backend import FAILURE, Refused
from lafscli.server.jail import Jail
from lafscli.server.spots import Kind, is_folder, is_number, spot_of

MOST = 8000
"""Shares of one answer, and of one question."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_GONE = (FileNotFoundError, NotADirectoryError)

Share = tuple[str, int, int]
"""Storage index as text, share number, size of the container."""


def shares_after(jail: Jail, cursor: str, most: int) -> tuple[list[Share], str]:
    """Shares in the order of the texts of their storage indexes, behind a cursor of an earlier answer; with the next
    cursor, empty at the end."""
    si, number = _parse(cursor)
    most = max(1, min(most, MOST))
    found: list[Share] = []
    with jail.folder(("shares",)) as shares:
        for prefix in sorted(name for name in os.listdir(shares) if _is_prefix(name) and name >= si[:2]):
            with suppress(*_GONE):
                folder = os.open(prefix, _FOLDER, dir_fd=shares)
                try:
                    for each in _in_prefix(folder, prefix, si, number):
                        found.append(each)
                        if len(found) == most:
                            return found, f"{each[0]}.{each[1]}"
                finally:
                    os.close(folder)
    return found, ""


def _parse(cursor: str) -> tuple[str, int]:
    if not cursor:
        return "", -1
    si, _, number = cursor.partition(".")
    if spot_of(("shares", si[:2], si, number)).kind is not Kind.SHARE:
        raise Refused(FAILURE, "that is no cursor of an inventory")
    return si, int(number)


def _is_prefix(name: str) -> bool:
    return spot_of(("shares", name)).kind is Kind.PREFIX


def _in_prefix(folder: int, prefix: str, si: str, number: int) -> Iterator[Share]:
    begin = si
    while True:
        # a prefix of millions of objects is listed piece by piece
        names = heapq.nsmallest(MOST, (name for name in os.listdir(folder) if name >= begin and len(name) == 26))
        for name in names:
            if not is_folder(prefix, name):
                continue
            for shnum, size in numbers_in(folder, name):
                if name > si or shnum > number:
                    yield name, shnum, size
        if len(names) < MOST:
            return
        begin = f"{names[-1]}\0"


def numbers_in(prefix: int, name: str) -> list[tuple[int, int]]:
    """Share numbers and sizes in the folder of a storage index, below the open folder of its prefix."""
    try:
        folder = os.open(name, _FOLDER, dir_fd=prefix)
    except _GONE:
        return []
    found: list[tuple[int, int]] = []
    try:
        for number in os.listdir(folder):
            if is_number(number):
                try:
                    status = os.stat(number, dir_fd=folder, follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if stat.S_ISREG(status.st_mode):
                    found.append((int(number), status.st_size))
    finally:
        os.close(folder)
    found.sort()
    return found


class Presence:
    """Looks for many shares; the folder of a prefix stays open from one to the next of the same."""

    def __init__(self, jail: Jail) -> None:
        self._jail = jail
        self._prefix = ""
        self._folder = -1

    def size(self, si: str, shnum: int) -> int | None:
        """Size of the container of a share."""
        return self._size(si, shnum) if is_number(str(shnum)) else None

    def numbers(self, si: str) -> list[tuple[int, int]]:
        """Every share of a storage index, and its size."""
        return numbers_in(self._folder, si) if self._enter(si[:2]) else []

    def _size(self, si: str, shnum: int) -> int | None:
        if not self._enter(si[:2]):
            return None
        try:
            folder = os.open(si, _FOLDER, dir_fd=self._folder)
        except _GONE:
            return None
        try:
            status = os.stat(str(shnum), dir_fd=folder, follow_symlinks=False)
            return status.st_size if stat.S_ISREG(status.st_mode) else None
        except FileNotFoundError:
            return None
        finally:
            os.close(folder)

    def _enter(self, prefix: str) -> bool:
        if prefix != self._prefix:
            self.close()
            with suppress(*_GONE):
                self._folder = self._jail.open_folder(("shares", prefix))
            self._prefix = prefix
        return self._folder >= 0

    def close(self) -> None:
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1
        self._prefix = ""
