"""A snapshot back into a local folder, with all that was kept of it (spec 07; CLI.md §6).

Directories are listed and small files fetched in batches. What can't be had is named, and the rest is restored. What is
there already with the same size and time is left: so a restore that was interrupted goes on.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from lafscli.backup.entries import ROOT_ENTRY, Kept, kept_of
from lafscli.backup.landing import Landing
from lafscli.backup.selecting import Selecting
from lafscli.backup.verify import differs
from lafscli.errors import LafsError, Unreachable
from lafscli.formats.caps import Cap, ChkCap, DirectoryCap, LitCap, UnknownCap
from lafscli.formats.child import Child
from lafscli.immutable.fetchmany import SMALL, download_many
from lafscli.storage.store import Buffer, Progress
from lafscli.tree.contents import Access, content, read
from lafscli.tree.copy import Chain, Throughout, Trouble
from lafscli.tree.directory import Directory, load_many
from lafscli.tree.folders import NoRoom, Place, unfit

Overwrite = Literal["always", "if-newer", "never"]

_BATCH_FOLDERS = 64
_BATCH_FILES = 512
_LONGEST_TARGET = 1 << 16
_NODES = ("fifo", "socket", "chr", "blk")


@dataclass(slots=True)
class Restored:
    """What was restored so far. `present`: files that were there already; `verified`: files that were compared."""

    files: int = 0
    dirs: int = 0
    bytes: int = 0
    present: int = 0
    verified: int = 0
    errors: list[Trouble] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Restoring:
    """How to restore. `named` is called with each thing that can't be, `listed` with each path of a dry run."""

    selecting: Selecting
    overwrite: Overwrite = "always"
    dry_run: bool = False
    verify: bool = False
    progress: Progress = field(default_factory=Progress)
    named: Callable[[Trouble], None] = field(default=lambda _: None)
    listed: Callable[[str], None] = field(default=lambda _: None)


@dataclass(frozen=True, slots=True)
class Coming:
    """An entry on its way to a place. `child` is its link; `above`: the directories that led there."""

    place: Place
    cap: Cap
    kept: Kept
    above: Chain[Cap] | None = None
    wanted: bool = True


def restore(access: Access, top: DirectoryCap, kept: Kept, folders: Landing, restoring: Restoring) -> Restored:
    """Restore what is in a directory into the folder; `kept` is what is known of the directory itself, if its own root
    entry does not say. Raises NoRoom when the disk is full, Unreachable when no server is there."""
    return _Restore(access, folders, restoring).run(top, kept)


def local_name(child: Child) -> str:
    """What an entry is called here: its true name, if the entry says one, as the file system wants it."""
    name = kept_of(child.metadata).name
    return child.name if name is None else os.fsdecode(name)


def target_of(access: Access, cap: Cap, kept: Kept) -> bytes:
    """Where a symbolic link leads."""
    if kept.target is not None:
        return kept.target
    if getattr(cap, "size", 0) > _LONGEST_TARGET:
        raise LafsError("its target is too long for a symbolic link")
    return content(access, cap)


def same_file(cap: Cap, kept: Kept) -> tuple[object, ...] | None:
    """What names of one file have in common; None for what has one name. Metadata that ties what differs is not
    believed."""
    return None if kept.group is None else (kept.group, kept.sort, kept.target, kept.rdev, str(cap))


def _same_file(item: Coming) -> tuple[object, ...] | None:
    return same_file(item.cap, item.kept)


class _Restore:
    def __init__(self, access: Access, folders: Landing, restoring: Restoring) -> None:
        self._access = access
        self._folders = folders
        self._how = restoring
        self._progress = Throughout(restoring.progress)
        self._directories: list[Coming] = []
        self._files: list[Coming] = []
        self._finishing: list[Coming] = []
        self._origins: dict[tuple[object, ...], Place] = {}
        self._unmade: dict[Place, Coming] = {}
        self._later: list[tuple[Coming, Place]] = []
        self.done = Restored()

    def run(self, top: DirectoryCap, kept: Kept) -> Restored:
        self._directories.append(Coming((), top, kept))
        while self._directories:
            batch = self._directories[-_BATCH_FOLDERS:]
            del self._directories[-_BATCH_FOLDERS:]
            batch.reverse()
            loaded = load_many(self._access, [item.cap for item in batch if isinstance(item.cap, DirectoryCap)])
            for item, each in zip(batch, loaded, strict=True):
                self._enter(item, each)
            if len(self._files) >= _BATCH_FILES:
                self._flush()
        self._flush()
        self._link()
        if not self._how.dry_run:
            for item in reversed(self._finishing):
                self._attempt(item, lambda item: self._folders.finish_folder(item.place, item.kept))
            self._folders.settle()
        return self.done

    def _link(self) -> None:
        """Give the files that were restored their other names; where one could not be had, another name may."""
        lost: list[Coming] = []
        for item, origin in self._later:
            if _same_file(item) not in self._origins:
                lost.append(item)
            elif self._attempt(item, lambda item, origin=origin: self._folders.link(item.place, origin)):  # type: ignore[misc]
                self.done.files += 1
        for item in lost:
            if item.kept.sort == "symlink" or item.kept.sort in _NODES:
                self._attempt(item, self._make_bare)
        self._fetch([item for item in lost if item.kept.sort != "symlink" and item.kept.sort not in _NODES])

    # ---- directories

    def _enter(self, item: Coming, loaded: Directory | LafsError) -> None:
        """Make the folder, and put its entries in the queues."""
        if isinstance(loaded, LafsError):
            self._fail(item, loaded)
            return
        chain = Chain(loaded.cap.verify_cap() or loaded.cap, item.above) if loaded.cap.mutable else item.above
        for left in loaded.left_out:
            self._fail(Coming((*item.place, left.name), item.cap, Kept()), LafsError(f"can't be used: {left.reason}"))
        if item.wanted:
            if not self._make(item):
                return
        else:
            self._unmade[item.place] = item
        below = len(self._directories)
        for each in self._children(item, loaded, chain):
            if not each.wanted or self._make_above(each):
                self._sort(each)
        self._directories[below:] = self._directories[below:][::-1]

    def _make(self, item: Coming) -> bool:
        if self._how.dry_run:
            if item.place:
                self._how.listed(self._folders.shown(item.place) + "/")
        elif not self._attempt(item, lambda item: self._folders.make(item.place)):
            return False
        if item.place:
            self.done.dirs += 1
        self._finishing.append(item)
        return True

    def _make_above(self, item: Coming) -> bool:
        """Make the folders around something that is wanted, which are wanted for that alone."""
        for depth in range(1, len(item.place)):
            unmade = self._unmade.pop(item.place[:depth], None)
            if unmade is not None and not self._make(unmade):
                return False
        return True

    def _children(self, item: Coming, loaded: Directory, chain: Chain[Cap] | None) -> Iterator[Coming]:
        """The entries that are wanted, each under a name that a file can have."""
        taken: set[str] = set()
        for child in loaded.children():
            kept = kept_of(child.metadata)
            if not item.place and child.name == ROOT_ENTRY and kept.sort == "dir" and isinstance(child.cap, LitCap):
                self._finishing = [Coming((), item.cap, kept) if not each.place else each for each in self._finishing]
                continue
            name = local_name(child)
            below = Coming((*item.place, name), child.cap, kept, chain)
            why = unfit(name) or ("another entry of its folder has the same name" if name in taken else None)
            if why is not None or not name:
                self._fail(Coming((*item.place, child.name), child.cap, kept), LafsError(why or "has no name"))
                continue
            taken.add(name)
            wanted, deeper = self._how.selecting.wants(below.place, folder=child.cap.is_directory)
            if wanted or (deeper and child.cap.is_directory):
                yield Coming(below.place, below.cap, kept, chain, wanted)

    def _sort(self, item: Coming) -> None:
        """An entry goes the way of its kind."""
        if isinstance(item.cap, DirectoryCap):
            # what is immutable can't contain itself
            if item.cap.mutable and item.above is not None and item.above.holds(item.cap.verify_cap() or item.cap):
                self._fail(item, LafsError("contains itself: not restored again"))
            else:
                self._directories.append(item)
        elif isinstance(item.cap, UnknownCap):
            self._fail(item, LafsError("is of a kind that lafs does not know"))
        else:
            self._files.append(item)

    # ---- files

    def _flush(self) -> None:
        """Give the entries that wait their names, and fetch those that have content."""
        files, self._files = self._files, []
        wanted: list[Coming] = []
        for item in files:
            if self._how.dry_run:
                self._how.listed(self._folders.shown(item.place))
                self.done.files += 1
            elif self._attempt(item, lambda item: self._fetched_later(item, wanted)):
                continue
        self._fetch(wanted)

    def _fetched_later(self, item: Coming, wanted: list[Coming]) -> None:
        """Make what has no content of its own; a file is to be fetched, unless it is there."""
        kept, place = item.kept, item.place
        old = self._folders.look(place)
        if old is not None and self._left(item, old):
            self.done.present += 1
            return
        same = _same_file(item)
        if same is not None and same in self._origins:
            self._later.append((item, self._origins[same]))
            return
        if same is not None:
            self._origins[same] = place
        if kept.sort == "symlink" or kept.sort in _NODES:
            self._make_bare(item)
        elif old is None or not self._complete(item, old) or self._differs(item):
            wanted.append(item)
        elif self._folders.adorn_file(place, kept):
            self.done.present += 1
        else:  # its owner may not read it: it is written anew
            wanted.append(item)

    def _make_bare(self, item: Coming) -> None:
        """Make something that has no content."""
        if item.kept.sort == "symlink":
            self._folders.symlink(item.place, self._target(item), item.kept)
        else:
            self._folders.node(item.place, str(item.kept.sort), item.kept)
        self.done.files += 1

    def _left(self, item: Coming, old: os.stat_result) -> bool:
        """Whether what is there is to stay, as the user wants it."""
        if self._how.overwrite == "never":
            return True
        mtime_ns = item.kept.mtime_ns
        return self._how.overwrite == "if-newer" and (mtime_ns is None or old.st_mtime_ns >= mtime_ns)

    def _complete(self, item: Coming, old: os.stat_result) -> bool:
        """Whether a file that is there is this one, as far as its size and time tell."""
        size = len(item.cap.content) if isinstance(item.cap, LitCap) else getattr(item.cap, "size", None)
        return stat.S_ISREG(old.st_mode) and (old.st_size, old.st_mtime_ns) == (size, item.kept.mtime_ns)

    def _target(self, item: Coming) -> bytes:
        return target_of(self._access, item.cap, item.kept)

    def _fetch(self, wanted: Sequence[Coming]) -> None:
        small = [item for item in wanted if isinstance(item.cap, ChkCap) and item.cap.size <= SMALL]
        chosen = {id(item) for item in small}
        for item in wanted:
            if isinstance(item.cap, LitCap):
                self._land(item, item.cap.content)
        caps = [item.cap for item in small if isinstance(item.cap, ChkCap)]
        for index, fetched in download_many(self._access.grid, caps, self._progress) if caps else ():
            self._land(small[index], fetched if isinstance(fetched, LafsError) else fetched.content)
        for item in wanted:
            if id(item) not in chosen and not isinstance(item.cap, LitCap):
                self._attempt(item, self._stream)
        self._folders.settle()

    def _land(self, item: Coming, data: Buffer | LafsError) -> None:
        if isinstance(data, LafsError):
            self._fail(item, data)
            return

        def write(put: Callable[[Buffer], None]) -> int:
            put(data)
            size = memoryview(data).nbytes
            self._progress.advance(size)
            return size

        self._attempt(item, partial(self._written, write))

    def _stream(self, item: Coming) -> None:
        """A large file, or one of which nobody knows how large it is: piece by piece."""
        self._written(lambda put: read(self._access, item.cap, put, progress=self._progress).size, item)

    def _written(self, write: Callable[[Callable[[Buffer], None]], int], item: Coming) -> None:
        with self._folders.file(item.place, item.kept) as put:
            size = write(put)
        self.done.files += 1
        self.done.bytes += size
        if self._differs(item):
            raise LafsError("what is on the disk is not what is on the grid")

    def _differs(self, item: Coming) -> bool:
        """Compare what is on the disk now with what is on the grid, if that is wanted."""
        if not self._how.verify:
            return False
        handle = self._folders.opened(item.place)
        try:
            different = differs(self._access, item.cap, handle)
        finally:
            os.close(handle)
        self.done.verified += not different
        return different

    # ---- what goes wrong

    def _attempt(self, item: Coming, work: Callable[[Coming], object]) -> bool:
        try:
            work(item)
        except NoRoom:
            raise
        except LafsError as error:
            self._fail(item, error)
            return False
        return True

    def _fail(self, item: Coming, error: LafsError) -> None:
        if isinstance(error, Unreachable):
            raise error
        same = _same_file(item)
        if same is not None and self._origins.get(same) == item.place:
            del self._origins[same]
        trouble = Trouble(self._folders.shown(item.place), error)
        self.done.errors.append(trouble)
        self._how.named(trouble)
