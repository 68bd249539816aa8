"""A tree here, folder by folder: each entry by one lstat, without what is left out."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from lafscli.backup.excludes import CACHE_TAG, IGNORE_FILE, Excludes, Level, is_cache, outermost


@dataclass(frozen=True, slots=True)
class Found:
    """An entry of a folder, as lstat sees it. `path`: of bytes, absolute."""

    name: bytes
    path: bytes
    stat: os.stat_result

    @property
    def shown(self) -> str:
        """The path as it is told to people."""
        return os.fsdecode(self.path)


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder that is to be listed. `inside`: its path relative to the source, "" for the source itself. `empty`:
    nothing in it is kept, for it is on another file system."""

    found: Found
    inside: bytes
    level: Level
    empty: bool = False


@dataclass(slots=True)
class Scan:
    """Lists folders of one source. `only`: paths relative to the source that are kept, with all below them, if it is
    not None; `failed` is called with a path and the reason for each that can't be read."""

    excludes: Excludes
    failed: Callable[[str, str], None]
    warn: Callable[[str], None]
    only: Collection[bytes] | None = None
    left_out: int = 0
    _device: int = 0
    _ways: set[bytes] = field(default_factory=set)

    def source(self, path: bytes) -> Folder:
        """The source itself; OSError where it can't be looked at."""
        found = Found(b"", path, os.stat(path))
        self._device = found.stat.st_dev
        for each in self.only or ():
            parts = each.split(b"/")
            self._ways |= {b"/".join(parts[:count]) for count in range(1, len(parts))}
            try:
                os.lstat(os.path.join(path, each))
            except OSError as error:
                self.failed(os.fsdecode(os.path.join(path, each)), f"is in the list: {error.strerror}")
        return Folder(found, b"", outermost(self.excludes))

    def inside(self, folder: Folder) -> tuple[list[Found], Level] | None:
        """What is in it, sorted by name, and what is left out below; None, and noted, where it can't be listed."""
        if folder.empty:
            return [], folder.level
        path = folder.found.path
        try:
            with os.scandir(path) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            self.failed(folder.found.shown, f"cannot be listed: {error.strerror}")
            return None
        names = {entry.name for entry in entries}
        cached = self.excludes.caches and CACHE_TAG in names and is_cache(path)
        level = folder.level.entered(path, folder.inside, self.warn) if IGNORE_FILE in names else folder.level
        kept: list[Found] = []
        for entry in entries:
            if cached and entry.name != CACHE_TAG:
                self.left_out += 1
                continue
            try:
                found = Found(entry.name, entry.path, entry.stat(follow_symlinks=False))
            except OSError as error:
                self.failed(os.fsdecode(entry.path), f"cannot be read: {error.strerror}")
                continue
            if self._kept(found, folder, level):
                kept.append(found)
            else:
                self.left_out += 1
        return kept, level

    def entered(self, folder: Folder, found: Found, level: Level) -> Folder:
        """A folder below one that was listed."""
        other = self.excludes.one_file_system and found.stat.st_dev != self._device
        return Folder(found, _below(folder.inside, found.name), level, other)

    def _kept(self, found: Found, folder: Folder, level: Level) -> bool:
        inside = _below(folder.inside, found.name)
        is_folder = stat.S_ISDIR(found.stat.st_mode)
        if self.only is not None and not self._listed(inside, is_folder):
            return False
        largest = self.excludes.larger_than
        if largest is not None and stat.S_ISREG(found.stat.st_mode) and found.stat.st_size > largest:
            return False
        return not level.excludes(inside, folder=is_folder)

    def _listed(self, inside: bytes, is_folder: bool) -> bool:
        """Whether it is named by the list, below what is, or on the way to it."""
        assert self.only is not None
        parts = inside.split(b"/")
        if b"." in self.only or any(b"/".join(parts[: count + 1]) in self.only for count in range(len(parts))):
            return True
        return is_folder and inside in self._ways


def _below(folder: bytes, name: bytes) -> bytes:
    return folder + b"/" + name if folder else name


def listed_paths(lines: Sequence[bytes], source: bytes) -> set[bytes]:
    """The paths of --files-from, relative to the source: those in it may be given as absolute ones too. ValueError
    names one that is not in it."""
    paths: set[bytes] = set()
    for line in lines:
        if not line or line.startswith(b"#"):
            continue
        path = os.path.normpath(line)
        if os.path.isabs(path):
            path = os.path.relpath(path, source)
        if path == b".." or path.startswith(b"../"):
            raise ValueError(os.fsdecode(line))
        paths.add(path)
    return paths
