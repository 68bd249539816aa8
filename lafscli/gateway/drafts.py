"""Files that are being written: what the clients of one account send, until it is stored and linked.

All handles that an account has open on one name to write share one Draft, whatever connection they are on: sshfs opens
a file again before it has closed it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from threading import RLock, Semaphore
from typing import Any

from lafscli.errors import NotFound
from lafscli.formats.caps import Cap, DirectoryCap
from lafscli.formats.child import Child
from lafscli.gateway import attributes, verbs
from lafscli.gateway.attributes import of_draft
from lafscli.gateway.desk import Desk
from lafscli.gateway.glimpses import Glimpses
from lafscli.gateway.spool import Spool
from lafscli.gateway.storedfiles import StoredFile
from lafscli.server.backend import FAILURE, NO_CHANGE, Attrs, Change, Refused
from lafscli.tree.contents import Access
from lafscli.tree.links import Over
from lafscli.tree.metadata import mode_of

Place = tuple[DirectoryCap, str]
"""A directory, and a name in it."""
LARGE, LARGE_AT_ONCE = 4 << 20, 2
"""A file of more bytes waits until less than so many others are being stored: each takes memory, and all cores."""
LONGEST = 1 << 40
"""Bytes of a file that is written here: a client may ask for any size, and all of it would be stored."""


class Draft:
    """One file that is being written. `child`: what the name stands for in the grid, if it stands for anything.
    `large`: so many large ones are stored at once."""

    def __init__(
        self, desk: Desk, glimpses: Glimpses, large: Semaphore, place: Place, child: Child | None, *, alone: bool
    ) -> None:
        self.place: Place | None = place
        self.child = child
        self.handles: set[object] = set()
        self.lock = RLock()
        self._desk = desk
        self._glimpses = glimpses
        self._large = large
        self._spool: Spool | None = None
        self._stored: StoredFile | None = None
        self._alone = alone
        self._wanted = NO_CHANGE
        self._unsaved: set[object] = set()
        self._broken = False
        self._written = int(time.time())
        self._base_size: int | None = None

    # ---- content

    @property
    def new(self) -> bool:
        """Whether nothing of it is in the grid yet."""
        return self.child is None

    @property
    def unsaved(self) -> bool:
        """Whether there is anything that the grid does not have."""
        return bool(self._unsaved)

    def size(self) -> int:
        with self.lock:
            if self._spool is not None:
                return self._spool.size
            if self.child is None:
                return 0
            if self._base_size is None:
                with self._desk.access() as access:
                    self._base_size = self._glimpses.size(access, self.child.cap)
            return self._base_size

    def read(self, offset: int, length: int) -> bytes:
        """Of what was written, or of what is in the grid as long as nothing was."""
        with self.lock:
            if self._spool is not None or self.child is None:
                return self._loaded().read(offset, length)
            if self._stored is None:
                self._stored = StoredFile(self._desk, self.child.cap)
            return self._stored.read(offset, length)

    def write(self, handle: object, offset: int | None, data: memoryview) -> None:
        """Write at an offset, or (None) at the end."""
        with self.lock:
            self._bounded((self.size() if offset is None else offset) + len(data))
            spool = self._loaded()
            self._touch(handle)
            if offset is None:
                spool.append(data)
            else:
                spool.write(offset, data)

    def truncate(self, handle: object, size: int) -> None:
        with self.lock:
            self._bounded(size)
            if size == 0:
                fresh = self._desk.spool()
                self._let_go()
                self._spool = fresh
                self._unsaved.clear()  # of what others have written nothing is left
                self._broken = False
            else:
                if size == self.size() and not self.new:
                    return
                self._loaded().truncate(size)
            self._touch(handle)

    def _bounded(self, end: int) -> None:
        if end > LONGEST:
            raise Refused(FAILURE, f"files of more than {LONGEST >> 40} TiB are not taken here")

    def _touch(self, handle: object) -> None:
        self._unsaved.add(handle)
        self._written = int(time.time())
        self._wanted = Change(mode=self._wanted.mode)

    def _loaded(self) -> Spool:
        """All of the content, fetched when it is first needed."""
        if self._spool is not None:
            return self._spool
        spool = self._desk.spool()
        try:
            if self.child is not None:
                with StoredFile(self._desk, self.child.cap) as stored:
                    for piece in stored.pieces():
                        spool.append(piece)
        except BaseException:
            spool.close()
            raise
        self._let_go()
        self._spool = spool
        return spool

    def _let_go(self) -> None:
        if self._spool is not None:
            self._spool.close()
            self._spool = None
        if self._stored is not None:
            self._stored.close()
            self._stored = None

    # ---- what is told of it, and set

    def attrs(self) -> Attrs:
        with self.lock:
            mode, times = self._wanted.mode, self._wanted.times
            if mode is None and self.child is not None:
                mode = mode_of(self.child.metadata)
            if times is not None:
                return of_draft(self.size(), mode, times[1])
            if not self._unsaved and self.child is not None:
                return of_draft(self.size(), mode, attributes.times_of(self.child.metadata)[1])
            return of_draft(self.size(), mode, self._written)

    def set(self, change: Change) -> None:
        """Mode and times, which are kept when it is stored."""
        with self.lock:
            self._wanted = attributes.merged(self._wanted, change)

    # ---- storing

    def create(self, handle: object) -> None:
        """It is to be there when it is closed, even without a byte."""
        self._unsaved.add(handle)

    def store(self) -> None:
        """Have it in the grid as it is now, linked under its name. LafsError where that can't be; nothing changed
        then. Refused for what a lost connection left unfinished."""
        with self.lock:
            if self.place is None:
                self._unsaved.clear()
                return
            if self._broken:
                raise Refused(FAILURE, "not stored: another connection was lost in the middle of writing it")
            if self._unsaved:
                self._put(self.place)
            elif self._wanted != NO_CHANGE:
                self._describe(self.place)

    def _put(self, place: Place) -> None:
        parent, name = place
        spool = self._loaded()
        wanted = self._wanted
        metadata = attributes.of_new_content({} if self.child is None else self.child.metadata, wanted)
        metadata.pop("tahoe", None)  # of the link, which has its own
        over: Over = "nothing" if self._alone else "files"
        with ExitStack() as stack:
            if spool.size > LARGE:
                stack.enter_context(self._large)
            stack.enter_context(self._desk.recent.begin(f"write in {parent.abbreviation}")).bytes = spool.size
            access = stack.enter_context(self._desk.access())
            try:
                done = verbs.put(self._desk, access, parent, [name], spool, None, over, metadata)
                if done.cap.mutable:  # which was overwritten in place: its link is as it was
                    self._describe_as(access, place, lambda old: attributes.of_new_content(old, wanted))
            finally:
                self._glimpses.changed(parent, *([self.child.cap] if self.child is not None else []))
        self._base_size = None
        self.child = _child(name, done.cap, metadata)
        self._unsaved.clear()
        self._wanted = NO_CHANGE
        self._alone = False

    def _describe(self, place: Place) -> None:
        wanted = self._wanted
        with self._desk.access() as access:
            try:
                self._describe_as(access, place, lambda old: attributes.changed(old, wanted))
            finally:
                self._glimpses.changed(place[0])
        if self.child is not None:
            metadata = attributes.changed(self.child.metadata, wanted)
            self.child = Child(self.child.name, self.child.rw, self.child.ro, metadata)
        self._wanted = NO_CHANGE

    def _describe_as(self, access: Access, place: Place, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        with suppress(NotFound):  # it was removed meanwhile
            verbs.set_metadata(self._desk, access, place[0], [place[1]], change)

    def move(self, place: Place | None) -> None:
        """It has another name now; None: what is still written goes nowhere."""
        with self.lock:
            self.place = place

    # ---- handles

    def close(self, handle: object) -> None:
        """A client closes it: what was written is stored, and the status says whether it is."""
        try:
            with self.lock:
                mine = handle in self._unsaved or (len(self.handles) == 1 and self._wanted != NO_CHANGE)
                if mine:
                    self.store()
        finally:
            self.detach(handle)

    def abandon(self, handle: object) -> None:
        """A client is gone: what it had begun is not stored, by nobody."""
        with self.lock:
            if handle in self._unsaved:
                self._unsaved.discard(handle)
                self._broken = bool(self._unsaved)  # what others have written stands among what it had
                if not self._unsaved:
                    self._let_go()
        self.detach(handle)

    def detach(self, handle: object) -> None:
        with self.lock:
            self.handles.discard(handle)
            if not self.handles:
                self._let_go()


def _child(name: str, cap: Cap, metadata: dict[str, object]) -> Child:
    return Child(name, cap if cap.writable else None, cap.read_cap(), metadata)


class Drafts:
    """All drafts of a gateway, by account and place."""

    def __init__(self, desk: Desk, glimpses: Glimpses) -> None:
        self._desk = desk
        self._glimpses = glimpses
        self._large = Semaphore(LARGE_AT_ONCE)
        self._lock = RLock()
        self._known: dict[tuple[str, bytes, str], Draft] = {}

    def find(self, account: str, place: Place) -> Draft | None:
        """The draft of a place, if the account has one open."""
        with self._lock:
            return self._known.get(_key(account, place))

    def opened(
        self, account: str, place: Place, child: Child | None, handle: object, make: bool, *, alone: bool = False
    ) -> Draft | None:
        """The draft of a place for one more handle; one is made where there is none and `make` says so. `alone`:
        Refused where somebody has it open, and at the end where somebody else has stored something under that name."""
        key = _key(account, place)
        with self._lock:
            draft = self._known.get(key)
            if draft is not None and alone:
                raise Refused(FAILURE, "file exists")
            if draft is None:
                if not make:
                    return None
                draft = self._known[key] = Draft(self._desk, self._glimpses, self._large, place, child, alone=alone)
            draft.handles.add(handle)
            return draft

    def let_go(self, account: str, draft: Draft) -> None:
        """Forget a draft that nobody has open any more."""
        with self._lock:
            if not draft.handles:
                for key in [key for key, each in self._known.items() if each is draft and key[0] == account]:
                    del self._known[key]

    def removed(self, account: str, place: Place) -> None:
        """What an account writes under this name goes nowhere: the name is gone, or stands for something else."""
        with self._lock:
            draft = self._known.pop(_key(account, place), None)
        if draft is not None:
            draft.move(None)

    def moved(self, account: str, old: Place, new: Place) -> None:
        """What an account writes under one name is under another now."""
        self.removed(account, new)
        with self._lock:
            draft = self._known.pop(_key(account, old), None)
            if draft is not None:
                self._known[_key(account, new)] = draft
        if draft is not None:
            draft.move(new)

    def inside(self, directory: DirectoryCap, account: str | None = None) -> Iterator[tuple[str, Draft]]:
        """Names and drafts in a directory, of one account or of all."""
        si = _key("", (directory, ""))[1]
        with self._lock:
            found = [(key, draft) for key, draft in self._known.items() if key[1] == si]
        for (owner, _, name), draft in found:
            if account in (None, owner):
                yield name, draft


def _key(account: str, place: Place) -> tuple[str, bytes, str]:
    si = place[0].storage_index
    assert si is not None, "what can be written in has shares"
    return account, si, place[1]
