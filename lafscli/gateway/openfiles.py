"""Files that a client has open over SFTP: to read what is stored, or to write a draft."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from lafscli.gateway.drafts import Draft
from lafscli.gateway.refusals import refusing
from lafscli.gateway.storedfiles import StoredFile
from lafscli.server.backend import APPEND, PERMISSION_DENIED, READ, TRUNCATE, WRITE, Attrs, Change, Refused


class ReadFile:
    """A stored file that is read."""

    def __init__(self, stored: StoredFile, attrs: Attrs, note: Callable[[str], None]) -> None:
        self._stored = stored
        self._attrs = replace(attrs, size=stored.size)
        self._note = note

    def read_into(self, offset: int, buffer: memoryview) -> int:
        with refusing(self._note, "reading"):
            data = self._stored.read(offset, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def write(self, offset: int, data: memoryview) -> None:  # noqa: ARG002
        raise Refused(PERMISSION_DENIED, "it is not open for writing")

    def attrs(self) -> Attrs:
        return self._attrs

    def change(self, change: Change) -> None:  # noqa: ARG002
        raise Refused(PERMISSION_DENIED, "it is not open for writing")

    def sync(self) -> None:
        """What is stored is durable."""

    def close(self) -> None:
        self._stored.close()


class DraftFile:
    """A file that is written, by this handle or by another one of its account. `attach` has it take part."""

    def __init__(self, flags: int, let_go: Callable[[Draft], None], note: Callable[[str], None]) -> None:
        self._flags = flags
        self._let_go = let_go
        self._note = note
        self._draft: Draft | None = None

    def attach(self, draft: Draft, change: Change) -> None:
        """Begin, as the flags of the open say; `change`: what is kept of the attributes that came with them."""
        self._draft = draft
        if self._flags & WRITE:
            if self._flags & TRUNCATE:
                draft.truncate(self, 0)
            elif draft.new and not draft.unsaved:
                draft.create(self)
            if draft.new:
                draft.set(change)

    @property
    def draft(self) -> Draft:
        assert self._draft is not None, "it was attached when it was opened"
        return self._draft

    def read_into(self, offset: int, buffer: memoryview) -> int:
        if not self._flags & READ:
            raise Refused(PERMISSION_DENIED, "it is not open for reading")
        with refusing(self._note, "reading"):
            data = self.draft.read(offset, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def write(self, offset: int, data: memoryview) -> None:
        with refusing(self._note, "writing"):
            self.draft.write(self, None if self._flags & APPEND else offset, data)

    def attrs(self) -> Attrs:
        with refusing(self._note, "looking at a file"):
            return self.draft.attrs()

    def change(self, change: Change) -> None:
        """Size at once; mode and times are kept when it is stored."""
        if not self._flags & WRITE:
            raise Refused(PERMISSION_DENIED, "it is not open for writing")
        with refusing(self._note, "writing"):
            if change.size is not None:
                self.draft.truncate(self, change.size)
            self.draft.set(change)

    def sync(self) -> None:
        """Store it and link it."""
        with refusing(self._note, "storing a file"):
            self.draft.store()

    def close(self) -> None:
        """Store it and link it, if this handle has written or made it."""
        try:
            with refusing(self._note, "storing a file"):
                self.draft.close(self)
        finally:
            self._let_go(self.draft)

    def abandon(self) -> None:
        """The connection is gone: what was not stored yet never is."""
        self.draft.abandon(self)
        self._let_go(self.draft)
