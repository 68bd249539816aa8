"""All that a directory leads to, one object after the other, checked and repaired on the way if that is wanted.

Checks go in batches, over a walk that is ahead of them by two batches: round trips are the cost. What is held does not
grow with the tree, but for 32 bytes an object by which it is known again. Nothing stops at a bad object: a directory
that can't be read comes like any other, and is named afterwards in `unread`.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from lafscli.errors import LafsError, NotGranted
from lafscli.formats.caps import Cap, DirectoryCap, LitCap, UnknownCap
from lafscli.gateway.deepdoc import Path, stats_document
from lafscli.health.check import Checkable, Checking, check_many
from lafscli.health.regrowth import Mending
from lafscli.health.repair import mend_many
from lafscli.health.report import CheckReport
from lafscli.tree.contents import Access
from lafscli.tree.stats import Stats
from lafscli.tree.walk import walk

Turn = Callable[..., AbstractContextManager[None]]
"""`Desk.turn`."""

_MENDED_TOGETHER = 100
_MOST_NAMED = 100
"""Directories that can't be read, of which each is named."""


@dataclass(frozen=True, slots=True)
class How:
    """What to do with each object: prove its shares, make those that lack, renew our leases."""

    verify: bool = False
    repair: bool = False
    add_lease: bool = False


@dataclass(frozen=True, slots=True)
class Item:
    """One object. `before`: what the check found, `after`: what a repair has left, or the same."""

    path: Path
    cap: Cap = field(repr=False)
    before: CheckReport
    after: CheckReport


def checking(access: Access, how: How) -> Checking:
    """How to check by the configuration of this home."""
    stores = bool(access.grid.stores)
    return Checking(
        access.publishing.encoding.happy if stores else 0,
        os.urandom,
        verify=how.verify,
        renew=access.writing.lease if how.add_lease and stores else None,
        memory=access.reading.seen,
    )


def mending(access: Access) -> Mending:
    """How to repair: what would take --force on the command line is not done."""
    return Mending(access.writing.lease, publishing=access.publishing)


class Deep:
    """One walk below a directory: go over `objects` or `checked` once. NotGranted for a verify cap, and for a root that
    is no directory.

    `unread`: directories that could not be read, and why, the first hundred; `unread_more` counts the others. `turn` is
    held for mutable objects while they are repaired. `stop` and `stats` may be called from any thread.
    """

    def __init__(self, access: Access, root: Cap, turn: Turn) -> None:
        if not isinstance(root, DirectoryCap) or not root.readable:
            raise NotGranted("only the read cap of a directory leads to what is in it")
        self._access = access
        self._root = root
        self._turn = turn
        self._stopped = threading.Event()
        self._stats = Stats()
        self._counting = threading.Lock()
        self.unread: list[tuple[Path, LafsError]] = []
        self.unread_more = 0

    def stats(self) -> dict[str, Any]:
        """What the walk has come by, counted (spec 08 §5)."""
        with self._counting:
            return stats_document(self._stats)

    def stop(self) -> None:
        """Let the walk end soon."""
        self._stopped.set()

    @property
    def stopped(self) -> bool:
        return self._stopped.is_set()

    def objects(self) -> Iterator[tuple[Path, Cap]]:
        """Each object and its path (spec 04 §7)."""
        for visit in walk(self._access, self._root):
            if self.stopped:
                return
            with self._counting:
                self._stats.add(visit)
            if visit.error is not None:
                self._note(visit.path, visit.error)
            yield visit.path, visit.cap

    def checked(self, how: How) -> Iterator[Item]:
        """Each object, looked at."""
        waiting: deque[tuple[Path, Cap]] = deque()

        def caps() -> Iterator[Checkable]:
            for path, cap in self.objects():
                waiting.append((path, cap))
                # the unknown has no shares, like what is all in its cap
                yield LitCap(b"") if isinstance(cap, UnknownCap) else cap  # type: ignore[misc]

        plan = checking(self._access, how)
        reports = check_many(self._access.grid, caps(), plan)
        if not how.repair:
            for report in reports:
                yield Item(*waiting.popleft(), report, report)
            return
        while before := list(islice(reports, _MENDED_TOGETHER)):
            after = self._mended(before, plan)
            for was, report in zip(before, after, strict=True):
                yield Item(*waiting.popleft(), was, report)
            if self.stopped:
                return

    def _mended(self, before: list[CheckReport], plan: Checking) -> list[CheckReport]:
        after = list(before)
        ailing = [(index, report) for index, report in enumerate(before) if not report.healthy]
        if ailing and not self.stopped:
            with self._turn(*[report.given for _, report in ailing if report.given is not None]):
                for index, report in mend_many(self._access.grid, ailing, plan, mending(self._access)):
                    after[index] = report
        return after

    def _note(self, path: Path, error: LafsError) -> None:
        if len(self.unread) < _MOST_NAMED:
            self.unread.append((path, error))
        else:
            self.unread_more += 1
