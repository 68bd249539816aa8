"""A directory of the grid as the files of an account: the backend of one SFTP conversation.

Paths are text in NFC, and lead from the account's directory down; `..` leads no further up than that.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from lafscli.errors import MalformedDirectory, NotFound
from lafscli.formats.caps import Cap, DirectoryCap, UnknownCap
from lafscli.formats.child import Child
from lafscli.gateway import attributes, verbs
from lafscli.gateway.accounts import Account
from lafscli.gateway.desk import Desk
from lafscli.gateway.drafts import Draft, Drafts, Place
from lafscli.gateway.glimpses import Glimpses
from lafscli.gateway.openfiles import DraftFile, ReadFile
from lafscli.gateway.refusals import refusing
from lafscli.gateway.storedfiles import StoredFile
from lafscli.server.backend import (
    CREATE,
    EXCLUSIVE,
    FAILURE,
    NO_CHANGE,
    NO_SUCH_FILE,
    OP_UNSUPPORTED,
    PERMISSION_DENIED,
    TRUNCATE,
    WRITE,
    Attrs,
    Change,
    FileSystem,
    OpenFile,
    Refused,
)
from lafscli.tree import links
from lafscli.tree.contents import Access
from lafscli.tree.directory import NewChild, changeable, create_directory
from lafscli.tree.links import Over
from lafscli.tree.paths import follow

_BLOCK = 4096
_LONGEST_NAME = 255
_SHOWN_NAME = 1024


@dataclass(frozen=True, slots=True)
class Shared:
    """What all sessions of a gateway have in common."""

    desk: Desk
    glimpses: Glimpses
    drafts: Drafts

    @classmethod
    def of(cls, desk: Desk) -> Shared:
        glimpses = Glimpses(desk)
        return cls(desk, glimpses, Drafts(desk, glimpses))


def root_of(desk: Desk, account: Account) -> DirectoryCap:
    """The directory of an account: where its line leads to now. LafsError where that is nowhere, or no directory."""
    with desk.access() as access:
        root = follow(access, account.root, account.path)
        if not isinstance(root, DirectoryCap):
            raise NotFound(f"{'/'.join(account.path)}: is no directory")
        desk.directory(access, root)
        return root


class GridFiles:
    """The backend of one conversation. Errors of the grid are what the client is told; `note` hears of them."""

    extensions: Sequence[tuple[str, str]] = ()

    def __init__(self, shared: Shared, account: str, root: DirectoryCap, note: Callable[[str], None]) -> None:
        self._desk = shared.desk
        self._glimpses = shared.glimpses
        self._drafts = shared.drafts
        self._account = account
        self._root = root
        self._note = note

    # ---- paths

    def _names(self, path: bytes) -> tuple[str, ...]:
        try:
            text = unicodedata.normalize("NFC", path.decode())
        except UnicodeDecodeError:
            raise Refused(NO_SUCH_FILE, "no such file: names here are UTF-8") from None
        names: list[str] = []
        for name in text.split("/"):
            if name == "..":
                names = names[:-1]
            elif name not in ("", "."):
                names.append(name)
        return tuple(names)

    def _directory(self, access: Access, names: Sequence[str]) -> DirectoryCap:
        """The directory that a path leads to."""
        here = self._root
        for number, name in enumerate(names, 1):
            cap = self._glimpses.directory(access, here).table.child(name).cap
            if not isinstance(cap, DirectoryCap):
                raise NotFound(f"{'/'.join(names[:number])}: is no directory")
            here = cap
        return here

    def _place(self, access: Access, names: Sequence[str]) -> Place:
        """The directory and the name that a path of at least one name means."""
        if not names:
            raise Refused(FAILURE, "this is the root of all paths, a directory")
        return self._directory(access, names[:-1]), names[-1]

    def _child(self, access: Access, place: Place) -> Child:
        return self._glimpses.directory(access, place[0]).table.child(place[1])

    def _there(self, access: Access, place: Place) -> Child | None:
        """What has a name, if anything has; MalformedDirectory where that can't be told."""
        table = self._glimpses.directory(access, place[0], anew=True).table
        return table.child(place[1]) if place[1] in table else None

    def _draft(self, place: Place) -> Draft | None:
        return self._drafts.find(self._account, place) if place[0].storage_index is not None else None

    # ---- looking

    def stat(self, path: bytes, *, follow: bool) -> Attrs:  # noqa: ARG002
        names = self._names(path)
        with refusing(self._note, "looking at a file"), self._desk.access() as access:
            if not names:
                return attributes.of_root(writable=self._root.writable)
            place = self._place(access, names)
            draft = self._draft(place)
            if draft is not None:
                return draft.attrs()
            child = self._child(access, place)
            return attributes.of_child(child, self._glimpses.size(access, child.cap), changeable=place[0].writable)

    def entries(self, path: bytes) -> Iterator[tuple[bytes, Attrs]]:
        with refusing(self._note, "listing"), self._desk.access() as access:
            cap = self._directory(access, self._names(path))
            directory = self._glimpses.directory(access, cap, anew=True)
            children = [child for child in directory.children() if _showable(child.name)]
            drafts = {} if cap.storage_index is None else dict(self._drafts.inside(cap, self._account))
            sizes = self._glimpses.sizes(access, [child.cap for child in children])
            found = {
                child.name: attributes.of_child(child, size or 0, changeable=cap.writable)
                for child, size in zip(children, sizes, strict=True)
            }
            unknown = sum(size is None for size in sizes)
            if unknown:
                self._note(f"listing {cap.abbreviation}: how long {unknown} mutable files are is not known, told as 0")
            hidden = len(directory.table) - len(children)
            if hidden:
                self._note(f"listing {cap.abbreviation}: {hidden} entries can't be shown")
            found |= {name: draft.attrs() for name, draft in drafts.items()}
        return iter([(name.encode(), attrs) for name, attrs in found.items()])

    def realpath(self, path: bytes) -> bytes:
        return b"/" + "/".join(self._names(path)).encode()

    def space(self, path: bytes) -> FileSystem:  # noqa: ARG002
        with refusing(self._note, "asking for space"), self._desk.access() as access:
            space = self._glimpses.space(access)
        free, total = space.free // _BLOCK, space.total // _BLOCK
        flag = 0 if self._root.writable else 1
        return FileSystem(_BLOCK, _BLOCK, total, free, free, 0, 0, 0, 0, flag, _LONGEST_NAME)

    # ---- files

    def open(self, path: bytes, flags: int, change: Change) -> OpenFile:
        names = self._names(path)
        with refusing(self._note, "opening a file"), self._desk.access() as access:
            place = self._place(access, names)
            return self._open_to_write(access, place, flags, change) if flags & WRITE else self._open(access, place)

    def _open(self, access: Access, place: Place) -> OpenFile:
        draft = self._draft(place)
        if draft is not None:
            handle = DraftFile(1, self._let_go, self._note)
            draft = self._drafts.opened(self._account, place, None, handle, make=False)
            if draft is not None:
                handle.attach(draft, NO_CHANGE)
                return handle
        child = self._child(access, place)
        self._must_be_a_file(child.cap)
        attrs = attributes.of_child(child, 0, changeable=place[0].writable)
        return ReadFile(StoredFile(self._desk, child.cap), attrs, self._note)

    def _open_to_write(self, access: Access, place: Place, flags: int, change: Change) -> OpenFile:
        changeable(place[0])
        child = self._there(access, place)
        draft = self._draft(place)
        if (child is not None or draft is not None) and flags & CREATE and flags & EXCLUSIVE:
            raise Refused(FAILURE, "file exists")
        if child is None and draft is None and not flags & CREATE:
            raise Refused(NO_SUCH_FILE, "no such file")
        if child is not None:
            self._must_be_a_file(child.cap)
            if child.cap.mutable and not child.cap.writable:
                raise Refused(PERMISSION_DENIED, "it can only be read: this is a read-only link")
        handle = DraftFile(flags, self._let_go, self._note)
        alone = bool(flags & CREATE and flags & EXCLUSIVE)
        draft = self._drafts.opened(self._account, place, child, handle, make=True, alone=alone)
        assert draft is not None, "one is made"
        try:
            handle.attach(draft, attributes.worth_keeping(change))
        except BaseException:
            draft.abandon(handle)
            self._let_go(draft)
            raise
        return handle

    def _must_be_a_file(self, cap: Cap) -> None:
        if isinstance(cap, UnknownCap):
            raise Refused(FAILURE, "it is of a kind that lafs does not know")
        if cap.is_directory:
            raise Refused(FAILURE, "it is a directory")

    def _let_go(self, draft: Draft) -> None:
        self._drafts.let_go(self._account, draft)

    def change(self, path: bytes, change: Change) -> None:
        """Size, mode and times. An owner can only be the one that is shown; what is set of the root is passed over."""
        names = self._names(path)
        if change.owner is not None:
            self._owner_stays(change.owner, names)
        if change.size is not None and self._cut_draft(names, change):
            return
        if change.size is not None:
            file = self.open(path, WRITE | (TRUNCATE if change.size == 0 else 0), NO_CHANGE)
            try:
                file.change(Change(size=change.size, mode=change.mode, times=change.times))
            except BaseException:
                assert isinstance(file, DraftFile)
                file.abandon()
                raise
            file.close()
            return
        if (change.mode is None and change.times is None) or not names:
            return
        with refusing(self._note, "setting attributes"), self._desk.access() as access:
            place = self._place(access, names)
            changeable(place[0])
            draft = self._draft(place)
            if draft is not None:
                draft.set(change)
                return
            self._child(access, place)
            try:
                verbs.set_metadata(
                    self._desk, access, place[0], [place[1]], lambda old: attributes.changed(old, change)
                )
            finally:
                self._glimpses.changed(place[0])

    def _cut_draft(self, names: Sequence[str], change: Change) -> bool:
        """Set the size of a file that is open to be written: it is stored when that is closed. False: it is not."""
        with refusing(self._note, "writing"), self._desk.access() as access:
            draft = self._draft(self._place(access, names))
            handle = None if draft is None else next(iter(list(draft.handles)), None)
            if draft is None or handle is None:
                return False
            assert change.size is not None
            draft.truncate(handle, change.size)
            draft.set(change)
            return True

    def _owner_stays(self, owner: tuple[int, int], names: Sequence[str]) -> None:  # noqa: ARG002
        shown = attributes.of_root(writable=True)
        if owner != (shown.uid, shown.gid):
            raise Refused(PERMISSION_DENIED, "files here have no owner that could be set")

    # ---- names

    def remove(self, path: bytes) -> None:
        names = self._names(path)
        with refusing(self._note, "removing a file"), self._desk.access() as access:
            place = self._place(access, names)
            changeable(place[0])
            draft = self._draft(place)
            child = self._entry(access, place)
            if child is None and draft is None:
                raise Refused(NO_SUCH_FILE, "no such file")
            if child is not None and child.cap.is_directory:
                raise Refused(FAILURE, "it is a directory")
            try:
                if child is not None:
                    verbs.unlink(self._desk, access, place[0], [place[1]])
            finally:
                self._glimpses.changed(place[0])
            self._drafts.removed(self._account, place)

    def _entry(self, access: Access, place: Place) -> Child | None:
        """As `_there`; an entry that can't be understood is a child without a cap, which can be removed."""
        try:
            return self._there(access, place)
        except MalformedDirectory:
            return Child(place[1], None, None)

    def mkdir(self, path: bytes, change: Change) -> None:
        names = self._names(path)
        kept = attributes.worth_keeping(change, folder=True)
        with refusing(self._note, "making a directory"), self._desk.access() as access:
            place = self._place(access, names)
            changeable(place[0])
            if self._entry(access, place) is not None or self._draft(place) is not None:
                raise Refused(FAILURE, "file exists")
            made = NewChild(create_directory(access), attributes.changed({}, kept))
            try:
                verbs.link(self._desk, access, place[0], [place[1]], made, "nothing")
            finally:
                self._glimpses.changed(place[0])

    def rmdir(self, path: bytes) -> None:
        names = self._names(path)
        with refusing(self._note, "removing a directory"), self._desk.access() as access:
            parent, name = self._place(access, names)
            changeable(parent)
            child = self._there(access, (parent, name))
            if child is None:
                raise Refused(NO_SUCH_FILE, "no such file")
            if not isinstance(child.cap, DirectoryCap):
                raise Refused(FAILURE, "it is no directory")
            with self._desk.turn(parent, child.cap):  # nobody here puts something into it meanwhile
                if len(self._desk.directory(access, child.cap).table) or self._written_inside(child.cap):
                    raise Refused(FAILURE, "the directory is not empty")
                try:
                    refused = links.unlink(access, parent, {name: child})
                finally:
                    self._glimpses.changed(parent, child.cap)
            if refused:
                raise refused[0]

    def _written_inside(self, cap: DirectoryCap) -> bool:
        return cap.storage_index is not None and any(True for _ in self._drafts.inside(cap))

    def rename(self, old: bytes, new: bytes) -> None:
        self._move(old, new, "nothing")

    def replace(self, old: bytes, new: bytes) -> None:
        self._move(old, new, "files")

    def _move(self, old: bytes, new: bytes, over: Over) -> None:
        source, target = self._names(old), self._names(new)
        with refusing(self._note, "renaming"), self._desk.access() as access:
            here, there = self._place(access, source), self._place(access, target)
            changeable(here[0])
            changeable(there[0])
            draft = self._draft(here)
            if draft is not None:
                draft.store()  # under its old name: what is moved is all there
                self._glimpses.changed(here[0])
            moving = self._child(access, here)
            if source == target:
                return
            if over == "nothing" and self._draft(there) is not None:
                raise Refused(FAILURE, "file exists")
            replaced = self._there(access, there)
            if replaced is not None and (over == "nothing" or moving.cap.is_directory):
                raise Refused(FAILURE, "file exists")
            try:
                verbs.move(self._desk, access, self._root, source, self._root, target, over)
            finally:
                self._glimpses.changed(here[0], there[0])
            self._drafts.moved(self._account, here, there)

    def link(self, old: bytes, new: bytes) -> None:  # noqa: ARG002
        raise Refused(OP_UNSUPPORTED, "hard links are not served")

    # ---- the conversation

    def extended(self, name: str, body: memoryview) -> bytes | None:  # noqa: ARG002
        raise Refused(OP_UNSUPPORTED, "operation unsupported")

    def tick(self) -> None:
        """Nothing is held that has to be kept fresh."""

    def close(self) -> None:
        """Open files have been let go of by then, one by one."""


def _showable(name: str) -> bool:
    """Whether a path can say this name, and no client takes it for more than one. Directories of others have any."""
    return name not in (".", "..") and not {"/", "\0"} & set(name) and len(name.encode()) <= _SHOWN_NAME
