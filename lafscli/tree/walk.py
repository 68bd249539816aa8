"""Every object below a cap once, in the order of spec 04 §7: of each directory first what is unknown, then the files,
then the subdirectories, depth first.

Directories are loaded ahead in batches, in the order in which they will be visited: round trips are the cost. What is
held of them is bounded, however large the tree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Self

from lafscli.errors import LafsError, NotGranted
from lafscli.formats.caps import Cap, DirectoryCap, UnknownCap
from lafscli.formats.child import Child
from lafscli.tree.contents import Access
from lafscli.tree.directory import Directory, load_many

_BATCH = 64
"""Directories that are loaded together."""

_HELD_DIRECTORIES = 512
_HELD_CHILDREN = 20_000
"""What may be held of directories that are loaded and not yet visited; beyond that only the next one is loaded."""

_LARGE = 1000
"""A directory of more children is not looked into before it is visited."""


@dataclass(frozen=True, slots=True)
class Visit:
    """One object. `path`: the names that lead to it, none for the root. `child`: its entry in the directory before it.

    Of a directory either `directory` is what was loaded, or `error` says why it can't be read; what is below it is not
    visited then. It has neither where only names are new: it was visited already.
    """

    path: tuple[str, ...]
    cap: Cap
    child: Child | None
    error: LafsError | None = None
    directory: Directory | None = None


def walk(access: Access, cap: Cap, *, names: bool = False) -> Iterator[Visit]:
    """Visit every object below a cap once, by its verify cap, which also cuts cycles; what has none (LIT, the unknown)
    every time. Never stops at a bad object. `names`: every entry of every directory, also if the object was visited by
    another name; what is in a directory is visited once all the same."""
    return _Walk(access, names).run(cap)


def walker(access: Access) -> Callable[[Cap], Iterator[Visit]]:
    """`walk` for several caps, one after the other: what one has led to is not visited again below the next. A file is
    visited each time that it is the cap itself."""
    return _Walk(access, False).run


@dataclass(frozen=True, slots=True)
class _Folder:
    """A directory that was heard of. `key`: what it is known by, if anything. `text` tells read from write caps."""

    cap: DirectoryCap
    child: Child | None
    key: bytes | None
    text: bytes

    @classmethod
    def of(cls, cap: DirectoryCap, child: Child | None) -> Self:
        return cls(cap, child, _key(cap), _digest(cap))


@dataclass(slots=True)
class _Loaded:
    """A directory that was loaded and is still to be visited; its children in three groups, once they were needed."""

    directory: Directory | LafsError
    below: _Below | None = None

    @property
    def size(self) -> int:
        return len(self.directory.table) if isinstance(self.directory, Directory) else 0

    def children(self) -> _Below:
        if self.below is None:
            self.below = _Below()
            if isinstance(self.directory, Directory):
                self.below.fill(self.directory.children())
        return self.below


@dataclass(slots=True)
class _Below:
    """The children of a directory, sorted by name in each group."""

    unknown: list[Child] = field(default_factory=list)
    files: list[Child] = field(default_factory=list)
    folders: list[_Folder] = field(default_factory=list)

    def fill(self, children: Iterable[Child]) -> None:
        for child in children:
            cap = child.cap
            if isinstance(cap, UnknownCap):
                self.unknown.append(child)
            elif isinstance(cap, DirectoryCap):
                self.folders.append(_Folder.of(cap, child))
            else:
                self.files.append(child)


class _Walk:
    def __init__(self, access: Access, names: bool) -> None:
        self._access = access
        self._names = names
        self._seen: set[bytes] = set()
        self._stack: list[tuple[tuple[str, ...], _Folder]] = []
        """Directories to be visited, the next one last."""
        self._loaded: dict[bytes, _Loaded] = {}
        self._held_children = 0

    def run(self, cap: Cap) -> Iterator[Visit]:
        if not isinstance(cap, DirectoryCap):
            yield Visit((), cap, None)
            return
        self._stack.append(((), _Folder.of(cap, None)))
        while self._stack:
            path, folder = self._stack[-1]
            if folder.key in self._seen:
                self._stack.pop()
                self._forget(folder)
                if self._names:
                    yield Visit(path, folder.cap, folder.child)
                continue
            if folder.text not in self._loaded:
                self._load()
            self._stack.pop()
            loaded = self._take(folder)
            if folder.key is not None:
                self._seen.add(folder.key)
            if isinstance(loaded.directory, LafsError):
                yield Visit(path, folder.cap, folder.child, error=loaded.directory)
                continue
            yield Visit(path, folder.cap, folder.child, directory=loaded.directory)
            below = loaded.children()
            self._stack.extend(((*path, _name(each)), each) for each in reversed(below.folders))
            for child in (*below.unknown, *below.files):
                if self._first(child.cap) or self._names:
                    yield Visit((*path, child.name), child.cap, child)

    def _first(self, cap: Cap) -> bool:
        """Whether an object was not visited yet; it counts as visited from now on."""
        key = _key(cap)
        if key is None:
            return True
        if key in self._seen:
            return False
        self._seen.add(key)
        return True

    # ---- loading ahead

    def _load(self) -> None:
        """Load the directory that is next, and with it those after it as far as they are known and there is room."""
        chosen: dict[bytes, _Folder] = {}
        room = _BATCH if self._held_children < _HELD_CHILDREN else 1
        room = max(1, min(room, _HELD_DIRECTORIES - len(self._loaded)))
        for folder in self._in_order():
            if folder.key not in self._seen:
                chosen.setdefault(folder.text, folder)
            if len(chosen) == room:
                break
        readable = {text: folder.cap for text, folder in chosen.items() if folder.cap.readable}
        found = dict(zip(readable, load_many(self._access, list(readable.values())), strict=True))
        for text in chosen:
            directory = found[text] if text in found else NotGranted("a verify cap can't read the directory")
            self._loaded[text] = loaded = _Loaded(directory)
            self._held_children += loaded.size

    def _in_order(self) -> Iterator[_Folder]:
        """The directories that are not loaded, in the order of the walk, as far as they are known."""
        looked: set[bytes] = set()
        for _, first in reversed(self._stack):
            trail = [first]
            while trail:
                folder = trail.pop()
                if folder.text in looked or folder.key in self._seen:
                    continue
                looked.add(folder.text)
                loaded = self._loaded.get(folder.text)
                if loaded is None:
                    yield folder
                elif loaded.size <= _LARGE:
                    trail.extend(reversed(loaded.children().folders))

    def _take(self, folder: _Folder) -> _Loaded:
        loaded = self._loaded.pop(folder.text)
        self._held_children -= loaded.size
        return loaded

    def _forget(self, folder: _Folder) -> None:
        """A directory that was visited by another name, or with another cap: let go of what was loaded for it."""
        trail = [folder]
        while trail:
            each = trail.pop()
            if each.text in self._loaded:
                below = self._take(each).below
                trail += below.folders if below is not None else ()


def _name(folder: _Folder) -> str:
    assert folder.child is not None
    return folder.child.name


def _key(cap: Cap) -> bytes | None:
    """What an object is known by: its verify cap, shortened; None where there is none."""
    verify = cap.verify_cap()
    return None if verify is None else _digest(verify)


def _digest(cap: Cap) -> bytes:
    return sha256(str(cap).encode()).digest()
