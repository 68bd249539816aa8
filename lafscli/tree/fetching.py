"""Trees from the grid into local folders, many files at once (CLI.md §2).

Directories are listed in batches, small files fetched in batches; what can't be had is named and the rest goes on. A
directory that contains itself is cut there; one that has several names is copied under each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from lafscli.errors import LafsError, UsageError
from lafscli.formats.caps import Cap, ChkCap, DirectoryCap, LitCap, MutableReadCap, MutableWriteCap, UnknownCap
from lafscli.immutable.fetchmany import SMALL, download_many
from lafscli.storage.store import Buffer
from lafscli.tree.contents import Access, contents_of, read
from lafscli.tree.copy import Chain, Copying
from lafscli.tree.directory import Directory, load_many
from lafscli.tree.folders import LocalFolders, NoRoom, Place, unfit
from lafscli.tree.metadata import mode_of, mtime_ns_of

_BATCH_FOLDERS = 64
_BATCH_FILES = 512
_BATCH_SLOTS = 32
"""Mutable files in memory together; how large they are is known when they are there."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """An object on its way to a place below the folder."""

    place: Place
    cap: Cap
    metadata: Mapping[str, Any] = field(default_factory=dict)
    above: Chain[Cap] | None = None


def fetch_trees(access: Access, tops: Sequence[Incoming], folders: LocalFolders, copying: Copying) -> None:
    """Copy objects and all below them to their places. What can't be copied is noted; NoRoom when the disk is full."""
    _Fetching(access, folders, copying).run(tops)


class _Fetching:
    def __init__(self, access: Access, folders: LocalFolders, copying: Copying) -> None:
        self._access = access
        self._folders = folders
        self._copying = copying
        self._directories: list[Incoming] = []
        self._files: list[Incoming] = []
        self._finishing: list[Incoming] = []

    def run(self, tops: Sequence[Incoming]) -> None:
        for top in tops:
            self._sort(top)
        self._directories.reverse()
        while self._directories:
            batch = self._directories[-_BATCH_FOLDERS:]
            del self._directories[-_BATCH_FOLDERS:]
            batch.reverse()
            for item, loaded in zip(batch, self._load(batch), strict=True):
                self._enter(item, loaded)
            if len(self._files) >= _BATCH_FILES:
                self._flush()
        self._flush()
        for item in reversed(self._finishing):
            self._attempt(
                item, lambda item: self._folders.finish(item.place, mode_of(item.metadata), mtime_ns_of(item.metadata))
            )

    def _sort(self, item: Incoming) -> None:
        """An object goes the way of its kind."""
        if isinstance(item.cap, DirectoryCap):
            if item.above is not None and item.above.holds(item.cap.verify_cap() or item.cap):
                self._fail(item, LafsError("contains itself: not copied again"))
            else:
                self._directories.append(item)
        elif isinstance(item.cap, UnknownCap):
            self._fail(item, UsageError("is of a kind that lafs does not know"))
        else:
            self._files.append(item)

    # ---- directories

    def _load(self, batch: Sequence[Incoming]) -> list[Directory | LafsError]:
        return load_many(self._access, [item.cap for item in batch if isinstance(item.cap, DirectoryCap)])

    def _enter(self, item: Incoming, loaded: Directory | LafsError) -> None:
        """Make the folder, and put its children in the queues."""
        if isinstance(loaded, LafsError):
            self._fail(item, loaded)
            return
        if not self._attempt(item, lambda item: self._folders.make(item.place)):
            return
        self._copying.done.directories += 1
        if self._copying.preserve and item.metadata:
            self._finishing.append(item)
        chain = Chain(loaded.cap.verify_cap() or loaded.cap, item.above)
        for left in loaded.left_out:
            self._fail(Incoming((*item.place, left.name), item.cap), LafsError(f"can't be used: {left.reason}"))
        directories = len(self._directories)
        for child in loaded.children():
            below = Incoming((*item.place, child.name), child.cap, child.metadata, chain)
            why = unfit(child.name)
            if why is not None:
                self._fail(below, LafsError(why))
            else:
                self._sort(below)
        self._directories[directories:] = self._directories[directories:][::-1]

    # ---- files

    def _flush(self) -> None:
        """Fetch the files that wait."""
        files, self._files = self._files, []
        small = [item for item in files if isinstance(item.cap, ChkCap) and item.cap.size <= SMALL]
        slots = [item for item in files if isinstance(item.cap, MutableReadCap | MutableWriteCap) and not item.cap.mdmf]
        for item in files:
            if isinstance(item.cap, LitCap):
                self._land(item, item.cap.content)
        caps = [item.cap for item in small if isinstance(item.cap, ChkCap)]
        if caps:
            for index, fetched in download_many(self._access.grid, caps, self._copying.progress):
                self._land(small[index], fetched if isinstance(fetched, LafsError) else fetched.content)
        for start in range(0, len(slots), _BATCH_SLOTS):
            some = slots[start : start + _BATCH_SLOTS]
            for item, content in zip(some, contents_of(self._access, [item.cap for item in some]), strict=True):
                self._land(item, content)
        batched = {id(item) for item in (*small, *slots)}
        for item in files:
            if id(item) not in batched and not isinstance(item.cap, LitCap):
                self._attempt(item, self._stream)
        self._folders.settle()

    def _land(self, item: Incoming, content: Buffer | LafsError) -> None:
        if isinstance(content, LafsError):
            self._fail(item, content)
            return

        def write(put: Callable[[Buffer], None]) -> int:
            put(content)
            size = memoryview(content).nbytes
            self._copying.progress.advance(size)
            return size

        self._attempt(item, partial(self._written, write))

    def _stream(self, item: Incoming) -> None:
        """A large file, or one of which nobody knows how large it is: piece by piece."""
        self._written(lambda put: read(self._access, item.cap, put, progress=self._copying.progress).size, item)

    def _written(self, write: Callable[[Callable[[Buffer], None]], int], item: Incoming) -> None:
        mode, mtime = None, None
        if self._copying.preserve:
            mode, mtime = mode_of(item.metadata), mtime_ns_of(item.metadata)
        with self._folders.landing(item.place, mode=mode, mtime_ns=mtime) as put:
            size = write(put)
        self._copying.done.files += 1
        self._copying.done.bytes += size

    # ---- what goes wrong

    def _attempt(self, item: Incoming, work: Callable[[Incoming], object]) -> bool:
        try:
            work(item)
        except NoRoom:
            raise
        except LafsError as error:
            self._fail(item, error)
            return False
        return True

    def _fail(self, item: Incoming, error: LafsError) -> None:
        self._copying.fail(self._folders.shown(item.place), error)
