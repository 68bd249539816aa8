"""`trash/` at the host: what was thrown away, how it comes back, when it goes for good.

trash/<UTC day>/<SI>.<shnum>                            a share
trash/<UTC day>/<SI>.<shnum>.kept.<seqnum>.<root>       a version that was kept in history/
either of them with .<token> behind it                  where the name was taken on that day
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from lafscli.server.hostfolder import HostFolder, storage_index
from lafscli.server.shelves import rename_keeping

DAY = 86400
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_NAME = re.compile(r"([a-z2-7]{26})\.([0-9]{1,9})(\.kept\.([0-9]{1,20}\.[a-z2-7]{8}))?(?:\.[a-z2-7]{26})?")


@dataclass(frozen=True, slots=True)
class Thrown:
    """One file in the trash. `kept`: the end of its name in `history/`, if it was a kept version. `folder` is open as
    long as it is the turn of this one."""

    si: bytes
    text: str
    shnum: int
    kept: str | None
    day: str
    name: str
    folder: int

    @property
    def path(self) -> str:
        return f"trash/{self.day}/{self.name}"

    @property
    def home(self) -> tuple[str, ...]:
        """The folder that it was in."""
        return ("history" if self.kept else "shares", self.text[:2], self.text)

    @property
    def home_name(self) -> str:
        return f"{self.shnum}.{self.kept}" if self.kept else str(self.shnum)


def thrown_name(text: str, shnum: int, kept: str | None = None) -> str:
    return f"{text}.{shnum}" + (f".kept.{kept}" if kept else "")


def throw(folder: HostFolder, name: str, source: int, day: str, thrown: str, token: str) -> str:
    """Move a file to the trash; where it is now."""
    with folder.beside("trash", day) as trash:
        try:
            rename_keeping(source, name, trash, thrown)
        except FileExistsError:  # the same share was thrown away twice on one day
            thrown = f"{thrown}.{token}"
            rename_keeping(source, name, trash, thrown)
    return f"trash/{day}/{thrown}"


def days(folder: HostFolder) -> list[str]:
    """The days on which something was thrown away, the newest first."""
    with folder.there("trash") as trash:
        names = folder.names(trash, "trash") if trash is not None else []
    return sorted((name for name in names if day_begins(name) is not None), reverse=True)


def thrown_on(folder: HostFolder, day: str) -> Iterator[Thrown]:
    """What was thrown away on a day, of the names that lafs gives."""
    with folder.there("trash", day) as below:
        for name in folder.names(below, f"trash/{day}") if below is not None else ():
            match = _NAME.fullmatch(name)
            si = storage_index(match[1]) if match is not None else None
            if match is not None and si is not None and below is not None:
                yield Thrown(si, match[1], int(match[2]), match[4], day, name, below)


def forget_day(folder: HostFolder, day: str) -> None:
    """Remove the folder of a day, if nothing is in it."""
    with folder.there("trash") as trash, suppress(OSError):
        if trash is not None:
            os.rmdir(day, dir_fd=trash)


def day_begins(text: str) -> float | None:
    """Unix seconds of the beginning of a day; None for what is no day."""
    if not _DAY.fullmatch(text):
        return None
    with suppress(ValueError):
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()
    return None
