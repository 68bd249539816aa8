"""What a tree on the grid is made of: files and folders here, or objects of another tree there."""

from __future__ import annotations

import contextlib
import os
import stat
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lafscli.errors import LafsError, NotFound
from lafscli.formats.caps import Cap, DirectoryCap
from lafscli.formats.child import Child
from lafscli.tree.copy import Chain, Copying
from lafscli.tree.directory import Directory
from lafscli.tree.metadata import from_stat


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file here that is to be stored."""

    path: Path
    size: int


@dataclass(frozen=True, slots=True)
class LocalFolder:
    """A folder here. `above`: what identifies it and those around it."""

    path: Path
    above: Chain[tuple[int, int]] | None = None


@dataclass(frozen=True, slots=True)
class GridFile:
    """A file on the grid, or something of an unknown kind. `ro` goes with a write cap of an unknown format."""

    cap: Cap
    ro: Cap | None = None


@dataclass(frozen=True, slots=True)
class GridFolder:
    """A directory on the grid that is copied, not linked. `above`: the directories that led there."""

    cap: DirectoryCap
    above: Chain[Cap] | None = None


Source = LocalFile | LocalFolder | GridFile | GridFolder


@dataclass(frozen=True, slots=True)
class Item:
    """Something under the name that it gets; `shown` is what it is called in messages."""

    name: str
    shown: str
    source: Source
    metadata: Mapping[str, Any] = field(default_factory=dict)


def local(path: Path, shown: str, name: str, copying: Copying) -> Item:
    """A file or folder that the user named: links are followed. NotFound, LafsError for what can't be copied."""
    try:
        found = path.stat()
    except FileNotFoundError:
        raise NotFound(f"no such file: {shown}") from None
    except OSError as error:
        raise LafsError(f"cannot read {shown}: {error.strerror}") from error
    return _item(path, shown, name, found, None, copying)


def _item(
    path: Path, shown: str, name: str, found: os.stat_result, above: Chain[tuple[int, int]] | None, copying: Copying
) -> Item:
    def metadata(sort: str) -> Mapping[str, Any]:
        return from_stat(found, sort) if copying.preserve else {}

    if stat.S_ISREG(found.st_mode):
        return Item(name, shown, LocalFile(path, found.st_size), metadata("file"))
    if stat.S_ISDIR(found.st_mode):
        ids = found.st_dev, found.st_ino
        if above is not None and above.holds(ids):
            raise LafsError("a symbolic link leads back to a folder around it: not followed")
        return Item(name, shown, LocalFolder(path, Chain(ids, above)), metadata("dir"))
    if stat.S_ISLNK(found.st_mode):
        raise LafsError("is a symbolic link, which is not followed", hint="-L follows them")
    raise LafsError(f"is {_SORTS.get(stat.S_IFMT(found.st_mode), 'no file')}, which can't be copied")


_SORTS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def size_below(item: Item) -> int:
    """How many bytes the files of a local folder have, roughly: for showing how far a copy is."""
    source = item.source
    if isinstance(source, LocalFile):
        return source.size
    size = 0
    trail = [source.path] if isinstance(source, LocalFolder) else []
    while trail:
        with contextlib.suppress(OSError), os.scandir(trail.pop()) as listing:
            for entry in listing:
                if entry.is_dir(follow_symlinks=False):
                    trail.append(Path(entry.path))
                elif entry.is_file(follow_symlinks=False):
                    size += entry.stat().st_size
    return size


def below_local(folder: LocalFolder, shown: str, copying: Copying) -> Iterator[Item]:
    """What is in a folder here, sorted by name. What can't be copied is noted; LafsError where it can't be listed."""
    try:
        with os.scandir(folder.path) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        raise LafsError(f"cannot be listed: {error.strerror}") from error
    taken: set[str] = set()
    for entry in entries:
        path = f"{shown.rstrip('/')}/{entry.name}"
        try:
            name = stored_name(entry.name)
            if name in taken:
                raise LafsError("another name of its folder is the same on the grid (NFC)")
            found = entry.stat(follow_symlinks=copying.follow)
            item = _item(folder.path / entry.name, path, name, found, folder.above, copying)
        except OSError as error:
            copying.fail(path, LafsError(f"cannot be read: {error.strerror}"))
        except LafsError as error:
            copying.fail(path, error)
        else:
            taken.add(name)
            yield item


def stored_name(name: str) -> str:
    """A local name as the grid has it; LafsError for one that is no text."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise LafsError("its name is not UTF-8") from None
    return unicodedata.normalize("NFC", name)


def below_grid(folder: GridFolder, directory: Directory, shown: str, copying: Copying) -> Iterator[Item]:
    """What is in a directory on the grid. What can't be copied is noted."""
    above = Chain(directory.cap.verify_cap() or directory.cap, folder.above)
    for left in directory.left_out:
        copying.fail(_below(shown, left.name), LafsError(f"can't be used: {left.reason}"))
    for child in directory.children():
        path = _below(shown, child.name)
        try:
            yield of_child(child, child.name, path, above)
        except LafsError as error:
            copying.fail(path, error)


def _below(shown: str, name: str) -> str:
    return f"{shown}{name}" if shown.endswith((":", "/")) or not shown else f"{shown}/{name}"


def of_child(child: Child, name: str, shown: str, above: Chain[Cap] | None = None) -> Item:
    """An entry of a directory on the grid."""
    ro = child.ro if child.rw is not None else None
    return on_grid(child.cap, name, shown, ro=ro, metadata=child.metadata, above=above)


def on_grid(
    cap: Cap,
    name: str,
    shown: str,
    *,
    ro: Cap | None = None,
    metadata: Mapping[str, Any] | None = None,
    above: Chain[Cap] | None = None,
) -> Item:
    """An object on the grid. Immutable directories are linked like immutable files: nobody can change them."""
    kept = {key: value for key, value in (metadata or {}).items() if key != "tahoe"}
    if isinstance(cap, DirectoryCap) and cap.mutable:
        if above is not None and above.holds(cap.verify_cap() or cap):
            raise LafsError("contains itself: not copied again")
        return Item(name, shown, GridFolder(cap, above), kept)
    return Item(name, shown, GridFile(cap, ro), kept)
