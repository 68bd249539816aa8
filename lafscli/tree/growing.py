"""Trees that are copied into a directory on the grid, many files at once (CLI.md §2).

A directory is made when all of its children are there: at once, with all of them; deepest first. One that exists is
changed by one edit, which merges. So nothing can be seen on the grid before it is whole: what is new at the top is
linked last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, cast

from lafscli.errors import LafsError, NotGranted, NotHappy
from lafscli.formats.caps import Cap, DirectoryCap, MutableReadCap, MutableWriteCap, UnknownCap
from lafscli.formats.child import Child, Unfit, stored_caps
from lafscli.formats.dirtable import Table
from lafscli.immutable.many import upload_many
from lafscli.immutable.upload import Uploaded
from lafscli.mutable import publish
from lafscli.tree.contents import Access, contents_of, read, store
from lafscli.tree.copy import Copied, Copying
from lafscli.tree.directory import Directory, NewChild, create_directories, edit, load_many
from lafscli.tree.metadata import without_stat
from lafscli.tree.paths import linked_at
from lafscli.tree.sources import GridFile, GridFolder, Item, LocalFile, LocalFolder, below_grid, below_local

_BATCH_FOLDERS = 64
_BATCH_FILES = 512
_BATCH_SLOTS = 32
_HOPELESS = 3
"""When so many files can't be stored together and none can, the others can't either."""

_SPOOLED = 16 << 20
"""A mutable file that is copied is kept in memory up to this size."""


@dataclass(eq=False, slots=True)
class _Node:
    """A directory that is made, or (`there`: its cap) merged into, when nothing of it is waited for any more."""

    item: Item | None
    parent: _Node | None = None
    there: DirectoryCap | None = None
    existing: Directory | None = None
    children: dict[str, NewChild] = field(default_factory=dict)
    claimed: set[str] = field(default_factory=set)
    waiting: int = 0
    tally: Copied = field(default_factory=Copied)

    def entry(self, name: str) -> Child | None:
        """What has that name already; MalformedDirectory if nobody can tell."""
        return self.existing.table.child(name) if self.existing is not None and name in self.existing.table else None


@dataclass(frozen=True, slots=True)
class _Task:
    """A folder whose children are to be found."""

    node: _Node
    item: Item


def store_trees(
    access: Access, into: DirectoryCap, items: Sequence[Item], copying: Copying, *, contents: Sequence[Item] = ()
) -> None:
    """Copy things into a directory under their names, and of the folders `contents` what is in them. Files that are
    there are replaced, mutable ones overwritten in place; directories are merged. What can't be copied is noted; raised
    is what leaves nothing to go on with."""
    _Growing(access, copying).run(into, items, contents)


class _Growing:
    def __init__(self, access: Access, copying: Copying) -> None:
        self._access = access
        self._copying = copying
        self._tasks: list[_Task] = []
        self._uploads: list[tuple[_Node, Item]] = []
        self._copies: list[tuple[_Node, Item]] = []
        self._overwrites: list[tuple[_Node, Item, MutableWriteCap]] = []
        self._ready: list[_Node] = []

    def run(self, into: DirectoryCap, items: Sequence[Item], contents: Sequence[Item]) -> None:
        root = _Node(None, there=into, waiting=1 + len(contents))
        [loaded] = load_many(self._access, [into])
        if isinstance(loaded, LafsError):
            raise loaded
        root.existing = loaded
        for item in items:
            self._place(root, item)
        self._arrived(root)
        self._tasks += [_Task(root, item) for item in reversed(contents)]
        while True:
            waiting = len(self._uploads) + len(self._copies) + len(self._overwrites)
            if waiting >= _BATCH_FILES or (waiting and not self._tasks):
                self._flush()
            elif len(self._ready) >= _BATCH_FOLDERS or (self._ready and not self._tasks):
                self._finish_some()
            elif self._tasks:
                self._expand()
            else:
                break

    # ---- folders

    def _expand(self) -> None:
        """Find what is in the next folders."""
        batch = self._tasks[-_BATCH_FOLDERS:]
        del self._tasks[-_BATCH_FOLDERS:]
        batch.reverse()
        wanted: list[DirectoryCap] = []
        for task in batch:
            if isinstance(task.item.source, GridFolder):
                wanted.append(task.item.source.cap)
            if task.node.there is not None and task.node.existing is None:
                wanted.append(task.node.there)
        answers = iter(load_many(self._access, wanted))
        deeper = len(self._tasks)
        for task in batch:
            source = next(answers) if isinstance(task.item.source, GridFolder) else None
            there = next(answers) if task.node.there is not None and task.node.existing is None else None
            self._enter(task, source, there)
        self._tasks[deeper:] = self._tasks[deeper:][::-1]

    def _enter(self, task: _Task, source: Directory | LafsError | None, there: Directory | LafsError | None) -> None:
        node, item = task.node, task.item
        try:
            for loaded in (source, there):
                if isinstance(loaded, LafsError):
                    raise loaded
            if isinstance(there, Directory):
                node.existing = there
            if isinstance(item.source, LocalFolder):
                children = list(below_local(item.source, item.shown, self._copying))
            else:
                assert isinstance(item.source, GridFolder)
                assert isinstance(source, Directory)
                children = list(below_grid(item.source, source, item.shown, self._copying))
        except LafsError as error:
            self._copying.fail(item.shown, error)
            if node.parent is not None:
                self._arrived(node.parent)
            else:
                self._arrived(node)
            return
        for child in children:
            self._place(node, child)
        self._arrived(node)

    def _place(self, node: _Node, item: Item) -> None:
        """Something gets its name in a directory, or is refused for what is there."""
        try:
            if item.name in node.claimed:
                raise LafsError("something else was copied to that name")
            node.claimed.add(item.name)
            if "/" in item.name:
                raise LafsError("a name in a directory can't contain a slash")
            old = node.entry(item.name)
            source = item.source
            merging = old is not None and old.cap.is_directory
            if merging and isinstance(source, GridFile) and isinstance(source.cap, DirectoryCap):
                source = GridFolder(source.cap)
            if isinstance(source, LocalFolder | GridFolder):
                self._place_folder(node, Item(item.name, item.shown, source, item.metadata), old)
            else:
                self._place_file(node, item, source, old)
        except LafsError as error:
            self._copying.fail(item.shown, error)

    def _place_folder(self, node: _Node, item: Item, old: Child | None) -> None:
        below = _Node(item, node, waiting=1)
        if old is not None:
            if not isinstance(old.cap, DirectoryCap):
                raise LafsError("is a directory, and what has its name is none")
            if isinstance(item.source, GridFolder) and _same(item.source.cap, old.cap):
                raise LafsError("is the same directory")
            if not old.cap.writable:
                raise NotGranted("the directory of that name can't be changed")
            below.there = old.cap
        node.waiting += 1
        self._tasks.append(_Task(below, item))

    def _place_file(self, node: _Node, item: Item, source: LocalFile | GridFile, old: Child | None) -> None:
        new = source.cap if isinstance(source, GridFile) else None
        why = _in_the_way(old, new)
        if why is not None:
            raise LafsError(why)
        if isinstance(new, MutableReadCap | MutableWriteCap) and old is not None and _same(new, old.cap):
            raise LafsError("is the same file")
        if isinstance(source, GridFile) and not isinstance(new, MutableReadCap | MutableWriteCap):
            try:
                stored_caps(source.cap, source.ro, immutable=False)
            except Unfit as unfit:
                raise LafsError(f"can't be linked: {unfit}") from None
        if old is not None and isinstance(old.cap, MutableWriteCap) and not isinstance(new, DirectoryCap | UnknownCap):
            node.waiting += 1
            self._overwrites.append((node, item, old.cap))
        elif isinstance(source, LocalFile):
            node.waiting += 1
            self._uploads.append((node, item))
        elif isinstance(new, MutableReadCap | MutableWriteCap):
            node.waiting += 1
            self._copies.append((node, item))
        else:
            node.children[item.name] = NewChild(source.cap, item.metadata, source.ro)
            node.tally.files += 1
            node.tally.linked += 1

    def _arrived(self, node: _Node) -> None:
        """One thing less is waited for."""
        node.waiting -= 1
        if node.waiting == 0:
            self._ready.append(node)

    # ---- files

    def _flush(self) -> None:
        """Store the files that wait."""
        uploads, self._uploads = self._uploads, []
        paths = [item.source.path for _, item in uploads if isinstance(item.source, LocalFile)]
        if paths:
            results = upload_many(self._access.grid, paths, self._access.writing, self._copying.progress)
            refused = [done for done in results if isinstance(done, NotHappy)]
            if len(refused) >= _HOPELESS and not any(isinstance(done, Uploaded) and done.placement for done in results):
                raise refused[0]
            for (node, item), done in zip(uploads, results, strict=True):
                if isinstance(done, LafsError):
                    self._lost(node, item, done)
                else:
                    self._linked(node, item, done.cap, done.size)
        copies, self._copies = self._copies, []
        self._copy_small([(node, item) for node, item in copies if not _mdmf(item)])
        for node, item in copies:
            if _mdmf(item):
                self._attempt(node, item, lambda node, item: self._copy_large(node, item))
        overwrites, self._overwrites = self._overwrites, []
        for node, item, cap in overwrites:
            self._attempt(node, item, lambda node, item, cap=cap: self._overwrite(node, item, cap))  # type: ignore[misc]

    def _copy_small(self, copies: Sequence[tuple[_Node, Item]]) -> None:
        """Mutable files of one segment: read and made again together."""
        for start in range(0, len(copies), _BATCH_SLOTS):
            some = copies[start : start + _BATCH_SLOTS]
            found: list[tuple[_Node, Item, bytes]] = []
            answers = contents_of(self._access, [_cap(item) for _, item in some])
            for (node, item), content in zip(some, answers, strict=True):
                if isinstance(content, LafsError):
                    self._lost(node, item, content)
                else:
                    found.append((node, item, content))
            contents = [content for _, _, content in found]
            made = publish.create_many(self._access.grid, contents, self._access.publishing, mdmf=False)
            for (node, item, content), done in zip(found, made, strict=True):
                if isinstance(done, LafsError):
                    self._lost(node, item, done)
                else:
                    self._copying.progress.advance(len(content))
                    self._linked(node, item, done.cap, len(content))

    def _copy_large(self, node: _Node, item: Item) -> None:
        with SpooledTemporaryFile(_SPOOLED) as spool:
            size = read(self._access, _cap(item), spool.write).size
            spool.seek(0)
            done = store(self._access, cast(BinaryIO, spool), "mdmf", progress=self._copying.progress)
            self._linked(node, item, done.cap, size)

    def _overwrite(self, node: _Node, item: Item, cap: MutableWriteCap) -> None:
        """Give a mutable file that is there the new content; its entry stays, unless metadata comes along."""
        done = overwrite(self._access, cap, item.source, self._copying)
        self._copying.done.files += 1
        self._copying.done.bytes += done
        if item.metadata:
            node.children[item.name] = NewChild(cap, item.metadata)
        self._arrived(node)

    def _linked(self, node: _Node, item: Item, cap: Cap, size: int) -> None:
        metadata = dict(item.metadata)
        if cap.writable:
            # the entry that it came from may have been kept read-only; this is another file
            metadata.pop("no-write", None)
        node.children[item.name] = NewChild(cap, metadata)
        node.tally.files += 1
        node.tally.bytes += size
        self._arrived(node)

    def _lost(self, node: _Node, item: Item, error: LafsError) -> None:
        self._copying.fail(item.shown, error)
        self._arrived(node)

    def _attempt(self, node: _Node, item: Item, work: Callable[[_Node, Item], None]) -> None:
        try:
            work(node, item)
        except LafsError as error:
            self._lost(node, item, error)

    # ---- directories

    def _finish_some(self) -> None:
        """Make or change the directories that are complete."""
        batch, self._ready = self._ready[:_BATCH_FOLDERS], self._ready[_BATCH_FOLDERS:]
        new = [node for node in batch if node.there is None]
        fresh = linked_at(self._access.now)
        tables = [
            {
                name: NewChild(each.cap, {**(each.metadata or {}), **fresh}, each.ro)
                for name, each in node.children.items()
            }
            for node in new
        ]
        for node, made in zip(new, create_directories(self._access, tables) if new else [], strict=True):
            self._finished(node, made)
        for node in batch:
            if node.there is not None:
                self._merge(node, node.there)

    def _merge(self, node: _Node, there: DirectoryCap) -> None:
        refused: dict[str, str] = {}

        def change(table: Table) -> None:
            refused.clear()
            for name, new in node.children.items():
                try:
                    old = table.child(name) if name in table else None
                    why = _in_the_way(old, new.cap)
                    if why is not None:
                        raise LafsError(why)
                    metadata = {**(without_stat(old.metadata) if old is not None else {}), **(new.metadata or {})}
                    table.link(name, new.cap, ro=new.ro, metadata=metadata, now=self._access.now)
                except LafsError as error:
                    refused[name] = error.message

        try:
            if node.children:
                edit(self._access, there, change)
        except LafsError as error:
            if node.parent is None:
                raise
            self._finished(node, error)
            return
        shown = f"{node.item.shown}/" if node.item is not None else ""
        for name, why in refused.items():
            self._copying.fail(f"{shown}{name}", LafsError(why))
        self._finished(node, there)

    def _finished(self, node: _Node, cap: DirectoryCap | LafsError) -> None:
        """A directory is there, or is not: its parent, or the whole copy, goes on with that."""
        parent, item = node.parent, node.item
        if isinstance(cap, LafsError):
            assert parent is not None
            assert item is not None
            self._lost(parent, item, cap)
            return
        counted = self._copying.done if parent is None or node.there is not None else parent.tally
        counted.files += node.tally.files
        counted.linked += node.tally.linked
        counted.bytes += node.tally.bytes
        counted.directories += node.tally.directories + (item is not None)
        if parent is not None and item is not None:
            if node.there is None or item.metadata:
                parent.children[item.name] = NewChild(cap, item.metadata)
            self._arrived(parent)


def overwrite(access: Access, cap: MutableWriteCap, source: object, copying: Copying) -> int:
    """Give a mutable file the content of another file; how many bytes that are."""
    if isinstance(source, LocalFile):
        return publish.overwrite(access.grid, cap, source.path, access.publishing, copying.progress).size
    assert isinstance(source, GridFile)
    with SpooledTemporaryFile(_SPOOLED) as spool:
        read(access, source.cap, spool.write)
        spool.seek(0)
        stream = cast(BinaryIO, spool)
        return publish.overwrite(access.grid, cap, stream, access.publishing, copying.progress).size


def _in_the_way(old: Child | None, new: Cap | None) -> str | None:
    """Why something (its cap; None for a file to be stored) must not take the place of an entry; None if it may."""
    if old is None or old.cap == new:
        return None
    if isinstance(old.cap, DirectoryCap):
        if isinstance(new, DirectoryCap):
            return "another directory has that name" if not _same(old.cap, new) else None
        return "is a file, and what has its name is a directory"
    if isinstance(old.cap, UnknownCap):
        return "what has its name is of a kind that lafs does not know"
    return "is a directory, and what has its name is none" if isinstance(new, DirectoryCap) else None


def _same(one: Cap, other: Cap) -> bool:
    """Whether two caps are of one object."""
    verify = one.verify_cap()
    return one == other if verify is None else verify == other.verify_cap()


def _cap(item: Item) -> Cap:
    assert isinstance(item.source, GridFile)
    return item.source.cap


def _mdmf(item: Item) -> bool:
    return _cap(item).kind == "mdmf"
