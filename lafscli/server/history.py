"""Versions of mutable shares that were replaced: `history/<2 letters>/<SI>/<shnum>.<seqnum>.<root hash, 8 letters>`.

A version is kept by giving its container a second name before another one is renamed over the first: there is no
moment without a share in place, and one who dies in between leaves two names of one file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from lafscli.primitives.encoding import b32encode
from lafscli.server.judge import ProvenSlot
from lafscli.server.shelves import Shelves, open_folder, opened_folder

_NAME = re.compile(r"([0-9]{1,3})\.([0-9]{1,20})\.([a-z2-7]{8})")
UNFINISHED = ".new."
"""Begin of the name of a container that is being made here."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A version that is kept. `version` names it among those of its share; `since` is when it was replaced, Unix
    seconds."""

    shnum: int
    version: str
    seqnum: int
    size: int
    since: float

    @property
    def name(self) -> str:
        return f"{self.shnum}.{self.version}"


def version_name(slot: ProvenSlot) -> str:
    """By which a version is asked for: seqnum, and the first letters of its root hash."""
    return f"{slot.seqnum}.{b32encode(slot.root_hash)[:8]}"


class History:
    """The folder `history/`, made when it is first needed."""

    def __init__(self, shelves: Shelves) -> None:
        self._shelves = shelves
        self._fd = -1

    @property
    def fd(self) -> int:
        if self._fd < 0:
            self._fd = open_folder(self._shelves.root_fd, ["history"], make=0o700)
        return self._fd

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @contextmanager
    def folder(self, si: bytes, *, make: bool = False) -> Iterator[int]:
        text = b32encode(si)
        with opened_folder(self.fd, [text[:2], text], make=0o700 if make else None) as folder:
            yield folder

    def keep(self, shares: int, si: bytes, shnum: int, slot: ProvenSlot) -> None:
        """Give the container that stands in the folder `shares` its name here as well. Of two containers of one
        version the last is kept."""
        name = f"{shnum}.{version_name(slot)}"
        with self.folder(si, make=True) as folder:
            try:
                os.link(str(shnum), name, src_dir_fd=shares, dst_dir_fd=folder, follow_symlinks=False)
            except FileExistsError:
                earlier = os.stat(name, dir_fd=folder, follow_symlinks=False)
                standing = os.stat(str(shnum), dir_fd=shares, follow_symlinks=False)
                if (earlier.st_dev, earlier.st_ino) == (standing.st_dev, standing.st_ino):
                    return  # of one who died before it was replaced
                new = f"{UNFINISHED}{self._shelves.token()}"
                os.link(str(shnum), new, src_dir_fd=shares, dst_dir_fd=folder, follow_symlinks=False)
                os.rename(new, name, src_dir_fd=folder, dst_dir_fd=folder)
                self._shelves.used(-earlier.st_size)
            os.fsync(folder)

    def bound(self, si: bytes, shnum: int, count: int) -> None:
        """Remove all but the `count` versions of a share that were replaced last."""
        with self.folder(si) as folder:
            kept = [one for one in _kept(folder) if one.shnum == shnum]
            # by the time, not the seqnum: versions that were rolled back are higher than all that follow
            kept.sort(key=lambda one: (one.since, one.seqnum), reverse=True)
            for one in kept[count:]:
                os.unlink(one.name, dir_fd=folder)
                self._shelves.used(-one.size)

    def versions(self, si: bytes) -> list[Kept]:
        """All that are kept of a storage index, by share number, the one that was replaced last first."""
        try:
            with self.folder(si) as folder:
                return sorted(_kept(folder), key=lambda one: (one.shnum, -one.since, -one.seqnum))
        except FileNotFoundError:
            return []

    def tidy(self, folder: int) -> None:
        """Remove what one who died while he made a container has left in the folder."""
        for name in os.listdir(folder):
            if name.startswith(UNFINISHED):
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=folder)


def _kept(folder: int) -> Iterator[Kept]:
    for name in os.listdir(folder):
        match = _NAME.fullmatch(name)
        if match is None:
            continue
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        shnum, seqnum, root = match.groups()
        # the kernel writes this time whenever a name is added, and no client can set it
        since = found.st_ctime_ns / 1e9
        yield Kept(int(shnum), f"{seqnum}.{root}", int(seqnum), found.st_size, since)
