"""Changes of directories by many threads at once: those of one directory are made together, as one new version."""

from __future__ import annotations

import threading
from collections.abc import Callable

from lafscli.errors import LafsError
from lafscli.formats.caps import DirectoryCap
from lafscli.formats.dirtable import Table
from lafscli.tree.contents import Access
from lafscli.tree.directory import Change, edit_now


class _Wanted:
    """One change, and what came of it."""

    def __init__(self, change: Change) -> None:
        self.change = change
        self.error: BaseException | None = None
        self.over = False
        self.turn = threading.Event()
        """Set when it is over, or when its thread is to make the changes that wait."""


class Edits:
    """The changes that wait, by directory. Who finds nobody at work makes his own and all that came meanwhile."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[DirectoryCap, list[_Wanted]] = {}

    def edit(self, access: Access, cap: DirectoryCap, change: Change) -> None:
        """As `tree.directory.edit` does it; what `change` raises undoes this change alone."""
        mine = _Wanted(change)
        with self._lock:
            busy = cap in self._waiting
            self._waiting.setdefault(cap, []).append(mine)
        if busy:
            mine.turn.wait()
        if not mine.over:
            self._work(access, cap)
        if mine.error is not None:
            raise mine.error

    def _work(self, access: Access, cap: DirectoryCap) -> None:
        """Make all changes that wait, and leave what comes meanwhile to one of those who bring it."""
        with self._lock:
            batch, self._waiting[cap] = self._waiting[cap], []
        try:
            edit_now(access, cap, _all(batch))
        except BaseException as error:
            if error is not batch[0].error:  # else each was refused, for a reason of its own
                for wanted in batch:
                    wanted.error = error
        finally:
            with self._lock:
                following = self._waiting[cap]
                if not following:
                    del self._waiting[cap]
            for wanted in batch:
                wanted.over = True
                wanted.turn.set()
            if following:
                following[0].turn.set()


def _all(batch: list[_Wanted]) -> Callable[[Table], None]:
    def change(table: Table) -> None:
        for wanted in batch:
            before = table.saved()
            wanted.error = None
            try:
                wanted.change(table)
            except LafsError as error:
                table.restore(before)
                wanted.error = error
        if all(wanted.error is not None for wanted in batch):
            raise _refused(batch)

    return change


def _refused(batch: list[_Wanted]) -> BaseException:
    error = batch[0].error
    assert error is not None, "there is no batch without changes"
    return error
