"""Which objects the roots lead to: what garbage collection must not touch (CLI.md §5).

While one looks, links are moved from directories that were not looked at yet to those that were. So after the look
every mutable directory is read again, and what is new in it followed, until nothing has changed between two readings:
then all that was reachable at one moment has been seen.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import sha256

from lafscli.errors import LafsError
from lafscli.formats.caps import DirectoryCap, UnknownCap
from lafscli.health.deep import UNKNOWN, Root, Unseen, joined
from lafscli.tree.contents import Access
from lafscli.tree.directory import Directory, load_many
from lafscli.tree.walk import Visit, walker

_TOGETHER = 64
"""Directories that are read again together."""
_TRIES = 2


@dataclass(eq=False, slots=True)
class _Folder:
    """A directory that may change, or could not be read. `known`: what stood in it."""

    path: str
    cap: DirectoryCap
    known: bytes | None
    error: str = ""


class Mark:
    """The storage indexes that roots lead to: `reached`."""

    def __init__(self, access: Access) -> None:
        # A directory that may be an old version would hide what the new one leads to.
        self._access = replace(access, reading=replace(access.reading, strict=True))
        self._walk = walker(self._access)
        self._folders: dict[bytes, _Folder] = {}
        self._strange: dict[str, str] = {}
        self.reached: set[bytes] = set()

    @property
    def doubts(self) -> list[Unseen]:
        """What could not be followed, and why."""
        unread = [Unseen(each.path, each.error) for each in self._folders.values() if each.error]
        return [Unseen(*each) for each in self._strange.items()] + unread

    def add(self, roots: Iterable[Root]) -> None:
        """Follow roots; what was followed before costs nothing."""
        for root in roots:
            for visit in self._walk(root.cap):
                self._note(joined(root.name, visit.path), visit)

    def again(self, *, unread: bool = False) -> bool:
        """Read all directories again that may have changed, or could not be read (`unread`: only those); whether there
        was anything new."""
        news = False
        folders = [folder for folder in self._folders.values() if folder.error or not unread]
        for start in range(0, len(folders), _TOGETHER):
            batch = folders[start : start + _TOGETHER]
            found = load_many(self._access, [folder.cap for folder in batch])
            for folder, directory in zip(batch, found, strict=True):
                news = self._compare(folder, directory) or news
        return news

    def _note(self, path: str, visit: Visit) -> None:
        cap = visit.cap
        if isinstance(cap, UnknownCap):
            self._strange[path] = cap.error or UNKNOWN
        if cap.storage_index is not None:
            self.reached.add(cap.storage_index)
        if isinstance(cap, DirectoryCap) and (visit.error is not None or visit.directory is not None):
            folder = _Folder(path, cap, None)
            self._seen(folder, visit.error if visit.directory is None else visit.directory)
            if cap.mutable or folder.error:
                self._folders[sha256(str(cap).encode()).digest()] = folder

    def _seen(self, folder: _Folder, found: Directory | LafsError | None) -> None:
        """What a reading of a directory gave."""
        if isinstance(found, Directory):
            folder.known, folder.error = sha256(found.table.serialise()).digest(), ""
            self._strange |= {joined(folder.path, (entry.name,)): entry.reason for entry in found.left_out}
        elif found is not None:
            folder.error = f"what is in it is not known: {found.message}"

    def _compare(self, folder: _Folder, found: Directory | LafsError) -> bool:
        before = folder.known
        self._seen(folder, found)
        if not isinstance(found, Directory) or folder.known == before:
            return False
        self._follow(folder.path, found)
        return True

    def _follow(self, path: str, directory: Directory) -> None:
        self.add(Root(joined(path, (child.name,)), child.cap) for child in directory.children())


def doubts_of(mark: Mark) -> list[Unseen]:
    """What is in doubt when directories that could not be read were tried again: they may have been being written."""
    for _ in range(_TRIES):
        if not mark.doubts:
            break
        mark.again(unread=True)
    return mark.doubts


def doubts_at_rest(mark: Mark, rounds: int) -> list[Unseen]:
    """Read directories again until nothing is new; what is in doubt then."""
    for _ in range(rounds):
        if not mark.again():
            return doubts_of(mark)
    return [*mark.doubts, Unseen("the directories", "they are being changed all the time")]
