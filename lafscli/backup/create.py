"""A snapshot of a local tree: its files, and immutable directories from the deepest up (spec 07 §2, §5).

What is known from an earlier run, and is still there, is neither read nor sent. Files and directories travel in one
stream, many at once; a directory is made when all of its children are there, so that what is held in memory is what is
under way.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Iterator, Sequence

from lafscli.backup.building import Item, Node, Whole, child_of, directory_mark, new_children
from lafscli.backup.confirm import look
from lafscli.backup.database import Database, Row
from lafscli.backup.entries import ROOT_ENTRY, Extra, attributes_of, holes_in, metadata_of
from lafscli.backup.excludes import Level
from lafscli.backup.names import grid_names
from lafscli.backup.restless import reason_of, store_as_it_is
from lafscli.backup.runs import Settings, Tally, Trouble
from lafscli.backup.scan import Found, Scan
from lafscli.errors import LafsError, NotHappy, SourceChanged, Unreachable, UsageError
from lafscli.formats import caps
from lafscli.formats.caps import ChkCap, DirectoryCap, LitCap
from lafscli.immutable.many import Content, upload_all
from lafscli.immutable.upload import LIT_LIMIT, Uploaded
from lafscli.primitives.encoding import b32encode
from lafscli.tree.contents import Access
from lafscli.tree.copy import Throughout
from lafscli.tree.directory import immutable_table

_COMMIT_ROWS = 512
_COMMIT_BYTES = 64 << 20
_RACY_NS = 100_000_000
"""A file that changed so shortly before it was looked at may have changed again without any sign of it."""
_RUNS_KEPT = 30
_TRIES = 2


def make_snapshot(access: Access, database: Database, source: bytes, settings: Settings) -> tuple[DirectoryCap, Tally]:
    """Store a tree, and answer with the cap of its snapshot, which nothing links to yet. `source` is absolute.

    Raises NotHappy or Unreachable where the servers can't take it: then there is no snapshot, and what was stored is
    found again by the next run. LafsError where the source itself can't be read.
    """
    return _Run(access, database, source, settings).snapshot()


class _Run:
    def __init__(self, access: Access, database: Database, source: bytes, settings: Settings) -> None:
        self._access = access
        self._database = database
        self._source = source
        self._settings = settings
        self._progress = Throughout(settings.progress)
        self._run = database.next_run()
        self.tally = Tally()
        self._scan = Scan(settings.excludes, self._failed, settings.warn, settings.only)
        self._tasks: list[Node] = []
        self._items: deque[Item] = deque()
        self._ready: deque[Node] = deque()
        self._underway: dict[int, Item | Whole] = {}
        self._number = 0
        self._unsaved = 0
        self._links: dict[tuple[int, int], Item | Row] = {}
        self._lacking: set[str] = set()
        self._root: DirectoryCap | None = None
        self._writable = [store.server.name for store in access.grid.stores if store.server.writable]

    def snapshot(self) -> tuple[DirectoryCap, Tally]:
        try:
            top = self._scan.source(self._source)
        except OSError as error:
            raise LafsError(f"cannot read {os.fsdecode(self._source)}: {error.strerror}") from error
        if not stat.S_ISDIR(top.found.stat.st_mode):
            raise UsageError(f"{os.fsdecode(self._source)} is no folder", hint="lafs put stores a file")
        self._access.grid.connect()
        self._confirm()
        self._tasks.append(Node(top, None, "", self._attributes(top.found, None)))
        for number, done in upload_all(self._access.grid, self._sources(), self._access.writing, self._progress):
            thing = self._underway.pop(number)
            if isinstance(thing, Whole):
                self._table_stored(thing, done)
            elif isinstance(done, LafsError):
                self._not_stored(thing, done)
            else:
                self._stored(thing, done)
            if self._database.noted >= _COMMIT_ROWS or self._unsaved >= _COMMIT_BYTES:
                self._database.commit()
                self._unsaved = 0
        if self._root is None:
            raise LafsError(f"cannot read {os.fsdecode(self._source)}: it can't be listed")
        self._database.drop_folders(self._run - _RUNS_KEPT)
        self._database.commit()
        self.tally.left_out = self._scan.left_out
        return self._root, self.tally

    def _sources(self) -> Iterator[Content | None]:
        """What is to be stored, found as it is asked for: directories as soon as they are complete, so that little is
        held."""
        while True:
            if self._ready:
                node = self._ready.popleft()
                table = self._complete(node)
                if table is not None:
                    yield table
            elif self._items:
                item = self._items.popleft()
                self._underway[self._number] = item
                self._number += 1
                yield item.source
            elif self._tasks:
                self._expand(self._tasks.pop())
            elif self._underway:
                yield None
            else:
                return

    def _confirm(self) -> None:
        """Find out what of the things that were stored is no longer there."""
        happy = self._access.writing.encoding.happy
        looked = look(
            self._access.grid, lambda: self._database.stored(self._source), happy, self._settings.confirm, self._run
        )
        self._lacking = looked.missing
        self.tally.silent = looked.silent

    def _failed(self, path: str, reason: str) -> None:
        trouble = Trouble(path, reason)
        self.tally.errors.append(trouble)
        self._settings.named(trouble)

    # ---- folders

    def _expand(self, node: Node) -> None:
        """See what is in a folder; what is unchanged is an entry at once."""
        now_ns = self._settings.now_ns()
        listed = self._scan.inside(node.folder)
        if listed is None:
            self._given_up(node)
            return
        entries, level = listed
        path = node.folder.found.path
        rows = self._database.rows(path)
        names = grid_names([found.name for found in entries], () if node.parent else (ROOT_ENTRY,))
        below: list[Node] = []
        for found in entries:
            self._enter(node, names[found.name], found, rows.get(found.name), level, now_ns, below)
        gone = rows.keys() - names.keys()
        if gone:
            self._database.forget(path, sorted(gone))
        # what is known already need not be written again
        node.rows = {name: row for name, row in node.rows.items() if rows.get(name) != row}
        self._tasks += reversed(below)
        self._arrived(node)

    def _enter(
        self, node: Node, name: str, found: Found, old: Row | None, level: Level, now_ns: int, below: list[Node]
    ) -> None:
        mode = found.stat.st_mode
        if stat.S_ISDIR(mode):
            extra = self._attributes(found, old)
            node.waiting += 1
            below.append(Node(self._scan.entered(node.folder, found, level), node, name, extra))
            node.rows[found.name] = Row.of(found.stat, "", "", extra.serialise())
        elif stat.S_ISREG(mode):
            self._file(node, name, found, old, now_ns)
        elif stat.S_ISLNK(mode):
            try:
                target = os.readlink(found.path)
            except OSError as error:
                self._failed(found.shown, f"cannot be read: {error.strerror}")
                return
            if len(target) <= LIT_LIMIT:
                self._place(node, name, found, str(LitCap(target)), target=target)
            else:
                node.waiting += 1
                self._items.append(Item(node, name, found, Extra(), target, now_ns))
        else:
            self._place(node, name, found, str(LitCap(b"")))

    def _file(self, node: Node, name: str, found: Found, old: Row | None, now_ns: int) -> None:
        """A regular file: taken over from the last run, from another name of it, or to be read."""
        ids = (found.stat.st_dev, found.stat.st_ino)
        extra = self._attributes(found, old)
        if found.stat.st_nlink > 1 and ids in self._links:
            other = self._links[ids]
            if isinstance(other, Row):
                self.tally.files_unmodified += 1
                self._other_name(node, name, found, other, extra)
            else:
                node.waiting += 1
                other.others.append((node, name, found, extra))
            return
        known = old if old is not None and old.cap else None
        same = known is not None and known.same_content(found.stat) and not self._settings.ignore_timestamps
        if known is not None and same and known.si not in self._lacking:
            self.tally.files_unmodified += 1
            node.rows[found.name] = Row.of(found.stat, known.cap, known.si, extra.serialise())
            if found.stat.st_nlink > 1:
                self._links[ids] = known
            self._place(node, name, found, known.cap, extra=extra)
            return
        node.waiting += 1
        item = Item(node, name, found, extra, None, now_ns, known, same)
        if found.stat.st_nlink > 1:
            self._links[ids] = item
        self._items.append(item)

    def _attributes(self, found: Found, old: Row | None) -> Extra:
        """What lstat does not tell; known from the last run where the entry did not change since."""
        if old is not None and (old.ctime_ns, old.inode) == (found.stat.st_ctime_ns, found.stat.st_ino):
            return Extra.parse(old.extra)
        holes = Extra.parse(old.extra).holes if old is not None and old.same_content(found.stat) else ()
        xattr, acl = attributes_of(found.path, self._settings.warn)
        return Extra(xattr, acl, holes)

    def _place(
        self,
        node: Node,
        name: str,
        found: Found,
        text: str,
        *,
        extra: Extra | None = None,
        target: bytes | None = None,
    ) -> None:
        """An entry of a directory is there."""
        true_name = None if name.encode() == found.name else found.name
        metadata = metadata_of(found.stat, true_name=true_name, target=target, extra=extra or Extra())
        node.children[name] = child_of(text, metadata)

    def _arrived(self, node: Node) -> None:
        node.waiting -= 1
        if node.waiting == 0:
            self._ready.append(node)

    def _given_up(self, node: Node) -> None:
        """A folder that can't be listed is no entry of the one around it."""
        if node.parent is not None:
            node.parent.rows.pop(node.folder.found.name, None)
            self._arrived(node.parent)

    # ---- files

    def _not_stored(self, item: Item, error: LafsError) -> None:
        if isinstance(error, NotHappy | Unreachable):
            raise error
        if isinstance(error, SourceChanged):
            self._once_more(item)
        else:
            self._lost(item, reason_of(error))

    def _once_more(self, item: Item) -> None:
        """It changed while it was read: read it again; if that is in vain, store what it is, under a random key."""
        try:
            item.read_from_ns = self._settings.now_ns()
            self._is_now(item, os.lstat(item.found.path))
            if not stat.S_ISREG(item.found.stat.st_mode):
                raise LafsError("became something else while it was read")
            item.tries += 1
            if item.tries < _TRIES:
                self._items.append(item)
                return
            found, done = store_as_it_is(self._access, item.found.path, self._progress)
            self._is_now(item, found)
        except OSError as error:
            self._lost(item, f"cannot be read: {error.strerror}")
        except (NotHappy, Unreachable):
            raise
        except LafsError as error:
            self._lost(item, reason_of(error))
        else:
            self.tally.changing.append(item.found.shown)
            self._settings.warn(f"{item.found.shown} changed while it was read, twice: what was read is kept")
            self._stored(item, done, remember=False)

    def _is_now(self, item: Item, found: os.stat_result) -> None:
        """Another file may have taken its name: other names of the one that was listed are not names of that."""
        before = item.found.stat
        item.found = Found(item.found.name, item.found.path, found)
        if (before.st_dev, before.st_ino) != (found.st_dev, found.st_ino):
            self._hand_over(item, (before.st_dev, before.st_ino))

    def _hand_over(self, item: Item, ids: tuple[int, int]) -> None:
        """The next of the file's other names is what it is read by."""
        self._links.pop(ids, None)
        others, item.others = item.others, []
        if others:
            (node, name, other, extra), *rest = others
            left = self._links[ids] = Item(node, name, other, extra, None, item.read_from_ns, others=rest)
            self._items.append(left)

    def _stored(self, item: Item, done: Uploaded, *, remember: bool = True) -> None:
        self._sent(done)
        found = item.found
        if item.target is not None:
            self._place(item.node, item.name, found, str(done.cap), target=item.target)
            self._arrived(item.node)
            return
        self.tally.bytes_read += done.size
        self._unsaved += done.size
        holes: Sequence[tuple[int, int]] = ()
        if found.stat.st_blocks * 512 < found.stat.st_size:
            holes = holes_in(found.path, found.stat.st_size)
        extra = Extra(item.extra.xattr, item.extra.acl, holes)
        text, si = str(done.cap), "" if isinstance(done.cap, LitCap) else b32encode(done.cap.storage_index)
        row = Row.of(found.stat, text, si, extra.serialise())
        self._count(item, text)
        remember = remember and not _racy(found, item.read_from_ns)
        if remember:
            self._database.keep(item.node.folder.found.path, {found.name: row})
            item.node.rows[found.name] = row
        ids = found.stat.st_dev, found.stat.st_ino
        if found.stat.st_nlink > 1 or self._links.get(ids) is item:
            self._links[ids] = row
        self._place(item.node, item.name, found, text, extra=extra)
        self._arrived(item.node)
        for node, name, other, _ in item.others:
            self.tally.files_unmodified += 1
            self._other_name(node, name, other, row, extra, remember=remember)
            self._arrived(node)

    def _count(self, item: Item, text: str) -> None:
        """What kind of file it was: one that was read and is what it was before did not change."""
        if item.known is None:
            self.tally.files_new += 1
        elif item.same or item.known.cap == text:
            self.tally.files_unmodified += 1
            self.tally.reuploaded_missing += item.known.si in self._lacking
        else:
            self.tally.files_changed += 1

    def _sent(self, done: Uploaded) -> None:
        """Count what went to the servers, and those that should have something of it and have not."""
        self.tally.bytes_pushed += done.bytes_pushed
        if not isinstance(done.cap, ChkCap):
            return
        holders = {name for names in done.placement.values() for name in names}
        if len(holders) >= min(done.cap.n, len(self._writable)):
            return
        for store in self._access.grid.permuted(done.cap.storage_index)[: done.cap.n]:
            name = store.server.name
            if store.server.writable and name not in holders:
                self.tally.lacking[name] = self.tally.lacking.get(name, 0) + 1

    def _other_name(
        self, node: Node, name: str, found: Found, row: Row, extra: Extra, *, remember: bool = True
    ) -> None:
        """Another name of a file that is stored."""
        if remember:
            node.rows[found.name] = Row.of(found.stat, row.cap, row.si, row.extra)
        self._place(node, name, found, row.cap, extra=Extra(extra.xattr, extra.acl, Extra.parse(row.extra).holes))

    def _lost(self, item: Item, reason: str) -> None:
        self._failed(item.found.shown, reason)
        self._hand_over(item, (item.found.stat.st_dev, item.found.stat.st_ino))
        self._arrived(item.node)

    # ---- directories

    def _complete(self, node: Node) -> bytes | None:
        """All children of a directory are there: take it over, or answer with the table that is to be stored."""
        if node.parent is None:
            found = node.folder.found
            node.children[ROOT_ENTRY] = child_of(str(LitCap(b"")), metadata_of(found.stat, extra=node.extra))
        mark = directory_mark(node.children)
        known = self._known(mark)
        if known is not None:
            self.tally.dirs_reused += 1
            self._finished(node, mark, known)
            return None
        table = immutable_table(new_children(node.children))
        node.children.clear()
        self._underway[self._number] = Whole(node, mark)
        self._number += 1
        return table

    def _table_stored(self, table: Whole, done: Uploaded | LafsError) -> None:
        if isinstance(done, LafsError):
            raise done
        self.tally.dirs_new += 1
        self._sent(done)
        si = "" if isinstance(done.cap, LitCap) else b32encode(done.cap.storage_index)
        self._finished(table.node, table.mark, (si, str(DirectoryCap(done.cap))))

    def _known(self, mark: bytes) -> tuple[str, str] | None:
        """Storage index and cap of a directory that was made before, and is still there."""
        known = self._database.folder(mark)
        return None if known is None or known[0] in self._lacking else known

    def _finished(self, node: Node, mark: bytes, known: tuple[str, str]) -> None:
        found = node.folder.found
        self._database.keep(found.path, node.rows)
        self._database.keep_folder(mark, known, self._run)
        if known[0] in self._lacking:
            self._lacking.discard(known[0])
        if node.parent is None:
            cap = caps.parse(known[1])
            assert isinstance(cap, DirectoryCap), "it was made as one"
            self._root = cap
            return
        self._place(node.parent, node.name, found, known[1], extra=node.extra)
        self._arrived(node.parent)


def _racy(found: Found, read_from_ns: int) -> bool:
    return (
        abs(read_from_ns - found.stat.st_ctime_ns) < _RACY_NS or abs(read_from_ns - found.stat.st_mtime_ns) < _RACY_NS
    )
