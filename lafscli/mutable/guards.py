"""The guards of one try at a change, on many servers at once (spec 10 §2.6, §2.8)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TypeVar

from lafscli.errors import GuardLost, LafsError, ServerUnreachable
from lafscli.storage.grid import Grid
from lafscli.storage.store import Entered, Guard, ShareStore, StorageIndex

T = TypeVar("T")

_TICK = 2.0
_LAGGARD_SECONDS = 10.0
_LAST_SECONDS = 5.0
"""How long guards that are given up are waited for; a server that is slower does it when it comes to it."""
_STOP_SECONDS = 1.5
"""The same when the program is to stop."""


class Guards:
    """The guards that are held; whoever waits for some servers keeps the guards of the others alive.

    `sent`: a commit was sent to some server. From then on what is staged may be needed by others: guards that are given
    up are set aside, and never emptied (spec 10 §2.8f).
    `hurried`: servers that were not waited for as long as others are, because they had kept us waiting before; with
    `patient` there are none.
    """

    def __init__(self, grid: Grid, si: StorageIndex, monotonic: Callable[[], float], *, patient: bool = False) -> None:
        self._grid = grid
        self._monotonic = monotonic
        self.si = si
        self.sent = False
        self.hurried: set[str] = set()
        self.patient = patient
        self._asked: dict[str, ShareStore] = {}
        self._held: dict[str, Guard] = {}
        self._late: set[str] = set()
        self._kept = monotonic()

    def take(self, store: ShareStore, depth: int, expected: Sequence[int]) -> Entered:
        """In the server's worker: take the guard there and look at everything under it, or GuardHeld."""
        entered = store.enter(self.si, depth, expected)
        self._held[store.server.name] = entered.guard
        return entered

    def done(self, store: ShareStore) -> None:
        """In the server's worker: release a guard under which nothing is left to be done."""
        guard = self._held.get(store.server.name)
        if guard is not None:
            guard.release()
            del self._held[store.server.name]

    def on(self, store: ShareStore) -> Guard:
        """The guard on a server; GuardLost where none is held."""
        guard = self._held.get(store.server.name)
        if guard is None:
            raise GuardLost("no guard is held there", server=store.server.name)
        return guard

    def each(
        self,
        work: Mapping[ShareStore, Callable[[ShareStore], T]],
        enough: Callable[[Mapping[str, T | LafsError]], bool] | None = None,
    ) -> dict[str, T | LafsError]:
        """Do something in the workers of some servers, all at once; what came of it, or the error, by server name.

        Once what has come is `enough`, the others are not waited for very long: they count as unreachable. What was
        asked of them may still happen; their guards are given up behind it.
        """
        self._asked |= {store.server.name: store for store in work}
        calls = {store.server.name: call for store, call in work.items()}
        answers = self._grid.ask(lambda store: calls[store.server.name](store), list(work))
        said: dict[str, T | LafsError] = {}
        until: float | None = None
        while answers.pending:
            if until is None and enough is not None and enough(said):
                until = self._monotonic() + _LAGGARD_SECONDS
            whole = None if until is None else max(0.0, until - self._monotonic())
            left = whole if whole is None or self.patient else answers.patience(whole)
            interval = self._interval
            answer = answers.poll(interval if left is None else min(interval, left))
            if answer is not None:
                said[answer.store.server.name] = answer.value
                continue
            self.keep(answers.pending.keys())
            if left is not None and left <= interval:
                if left != whole:
                    self.hurried |= answers.pending.keys()
                break
        late = ServerUnreachable("did not answer in time")
        self._late |= answers.pending.keys()
        return {store.server.name: said.get(store.server.name, late) for store in work}

    def keep(self, busy: Collection[str] = ()) -> None:
        """Show on every server that we live, if it is time to; those that are busy do so by themselves."""
        if self._monotonic() - self._kept < self._interval:
            return
        self._kept = self._monotonic()
        for name, guard in list(self._held.items()):
            if name not in busy:
                self._grid.submit(self._asked[name], partial(_keep, guard))

    def broken(self) -> bool:
        """Whether another one may have any of them by now: then what was seen under them is no whole picture."""
        stores = [self._asked[name] for name in self._held if name not in self._late]
        answers = self._grid.ask(self._touch, stores)
        until = self._monotonic() + _LAST_SECONDS
        while (answer := answers.poll(max(0.0, until - self._monotonic()))) is not None:
            if isinstance(answer.value, LafsError):
                return True
        return bool(answers.pending)

    def _touch(self, store: ShareStore) -> None:
        self.on(store).touch()

    @property
    def _interval(self) -> float:
        return min((guard.rhythm / 2 for guard in list(self._held.values())), default=_TICK)

    def close(self, *, done: bool = False, stopping: bool = False) -> None:
        """Give all guards up: emptied, or set aside if a commit was sent and it is not `done`. Never raises."""
        aside = self.sent and not done
        for name in (self._asked.keys() if stopping else self._late) - self._held.keys():
            # it may come to hold a guard yet
            self._grid.submit(self._asked[name], partial(self._give_up, aside))
        stores = [self._asked[name] for name in list(self._held)]
        if not stores:
            return
        answers = self._grid.ask(partial(self._give_up, aside), stores)
        until = self._monotonic() + (_STOP_SECONDS if stopping else _LAST_SECONDS)
        while answers.pending:
            left = until - self._monotonic()
            if left <= 0:
                break
            answers.poll(left)

    def _give_up(self, aside: bool, store: ShareStore) -> None:
        guard = self._held.pop(store.server.name, None)
        if guard is None:
            return
        try:
            if aside:
                guard.set_aside()
            else:
                guard.release()
        except (GuardLost, ServerUnreachable):
            # where the connection was lost: over a new one, the guard is broken at once
            store.settle()
            raise


def _keep(guard: Guard, _: ShareStore) -> None:
    guard.keep()
