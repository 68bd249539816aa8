"""The versions of mutable shares that `lafs serve --append-only` has kept: history/XX/SI/N.seqnum.root, looked at by
the tools at the host. `keeper` writes them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from lafscli.server.hostfolder import HostFolder, storage_index
from lafscli.server.turns import PRIVATE

_PREFIX = re.compile(r"[a-z2-7]{2}")
_SI = re.compile(r"[a-z2-7]{26}")
_VERSION = re.compile(r"([0-9]{1,9})\.(([0-9]{1,20})\.([a-z2-7]{8}))")
_QUARANTINED = re.compile(r"[0-9-]{10}\.([a-z2-7]{26})\..*")
ADVISORIES = "advisories"


@dataclass(frozen=True, slots=True)
class KeptVersion:
    """One file: its name, and what it says. `rest` is what follows the share number."""

    name: str
    shnum: int
    rest: str
    seqnum: int
    root: str


@dataclass(frozen=True, slots=True)
class Kept:
    """The versions of one storage index, by share number and age. `folder` is open as long as it is its turn."""

    si: bytes
    text: str
    folder: int
    versions: tuple[KeptVersion, ...]

    @property
    def path(self) -> str:
        return f"history/{self.text[:2]}/{self.text}"


def kept_holdings(folder: HostFolder, only: str | None = None) -> Iterator[Kept]:
    """All of them in order, or those of one storage index."""
    with folder.there("history") as history:
        if history is None:
            return
        for prefix, below in folder.folders(history, "history", _PREFIX, (PRIVATE, ADVISORIES)):
            if only is not None and prefix != only[:2]:
                continue
            for text, each in folder.folders(below, f"history/{prefix}", _SI, ()):
                si = storage_index(text)
                if si is None or text[:2] != prefix or (only is not None and text != only):
                    continue
                found = [version for name in folder.names(each, f"history/{prefix}/{text}") for version in _read(name)]
                yield Kept(si, text, each, tuple(sorted(found, key=lambda one: (one.shnum, one.seqnum, one.root))))


def _read(name: str) -> Iterator[KeptVersion]:
    match = _VERSION.fullmatch(name)
    if match is not None:
        yield KeptVersion(name, int(match[1]), match[2], int(match[3]), match[4])


def in_quarantine(folder: HostFolder, *, now: float, younger_than: float) -> frozenset[str]:
    """Texts of the storage indexes of which a share was put into quarantine not long ago: a kept version may be what
    takes its place."""
    found: set[str] = set()
    with folder.there("quarantine") as quarantine:
        for name in folder.names(quarantine, "quarantine") if quarantine is not None else ():
            match = _QUARANTINED.fullmatch(name)
            if match is not None and quarantine is not None:
                with suppress(OSError):
                    if now - os.lstat(name, dir_fd=quarantine).st_ctime < younger_than:
                        found.add(match[1])
    return frozenset(found)
