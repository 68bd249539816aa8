"""Garbage collection of one home: what no root of its leads to goes to the trash of the servers (CLI.md §5).

All is looked at before anything is moved: what the roots lead to, every share on every server, its leases. Any doubt,
and nothing is moved. Meanwhile others go on, and this protects what they do:

* what is new, or was stored again, carries a lease that is younger than a day, and stays;
* the mutable directories are read again when all was looked at, until nothing has changed between two readings;
* each share is judged again under its guard, and its leases once more after the move;
* what was given a name while it went is brought back at the end, or by the next run, before anything in the trash is
  removed for good.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

from lafscli.errors import FileMissing, GuardHeld, LafsError, Partial, ServerUnreachable, Unreachable
from lafscli.health.claims import (
    BESIDE,
    CHANGING,
    NO_GUARD,
    NOT_OURS,
    OTHERS,
    READ_ONLY,
    RENEWED,
    UNREADABLE,
    UPLOADING,
    Claims,
)
from lafscli.health.deep import Root, Unseen
from lafscli.health.garbage import Heap
from lafscli.health.mark import Mark, doubts_at_rest, doubts_of
from lafscli.health.report import Silence
from lafscli.health.steps import Steps, side_by_side, wait
from lafscli.health.wastebin import Amount, Emptied, changeable, empty
from lafscli.storage.grid import Grid
from lafscli.storage.store import Leased, Progress, ShareStore, StorageIndex
from lafscli.tree.contents import Access

_LOOKED_AT_TOGETHER = 256
_THROWN_TOGETHER = 16
_ROUNDS = 10
"""How often the directories are read again before they count as never at rest."""

Entry = tuple[StorageIndex, int, int]


class InDoubt(Partial):
    """Not all could be seen that has to be: nothing was deleted. `doubts` names each."""

    def __init__(self, doubts: Sequence[Unseen]) -> None:
        super().__init__(
            "nothing was deleted: not all that must be kept could be seen",
            hint="what is named above may hide what is still needed; lafs check -r shows how it is, lafs gc --undo "
            "brings back what went to the trash",
        )
        self.doubts = doubts


@dataclass(slots=True)
class Collected:
    """What a collection found, or did if `deleted`: objects and shares that went to the trash, or would go.

    `reached`: objects that the roots lead to. `skipped`: shares that no root reaches and that stay, by the reason.
    `restored`: shares in the trash that a root reaches again; `purged`: those that went for good. `failed`: what went
    wrong after the first share was moved.
    """

    deleted: bool
    reached: int = 0
    objects: int = 0
    by_server: dict[str, Amount] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)
    restored: Amount = field(default_factory=Amount)
    purged: Amount = field(default_factory=Amount)
    failed: list[Silence] = field(default_factory=list)

    @property
    def shares(self) -> int:
        """Over all servers."""
        return sum(each.shares for each in self.by_server.values())

    @property
    def bytes(self) -> int:
        """Over all servers; with their containers."""
        return sum(each.bytes for each in self.by_server.values())


def collect(
    access: Access,
    roots: Callable[[], Sequence[Root]],
    *,
    delete: bool,
    grace: int,
    progress: Progress | None = None,
) -> Collected:
    """Throw away what none of `roots` leads to (asked again before anything is moved), where it is ours alone.

    Only counted without `delete`. What has lain in the trash for `grace` seconds is removed. Raises InDoubt.
    """
    claims = Claims(access.writing.lease, access.writing.now)
    run = _Collection(access, roots, claims, progress or Progress())
    run.look(tidy=delete)
    return run.sweep(grace) if delete else run.planned(grace)


def undo(access: Access) -> Emptied:
    """Bring back all that this home has thrown away and that is not removed yet, where no share stands now."""
    silent = _unheard(access.grid, tidy=True)
    claims = Claims(access.writing.lease, access.writing.now)
    done = empty(access.grid, claims, lambda _si: True, None, act=True)
    named = {each.server for each in done.failed}
    done.failed += [each for each in silent if each.server not in named]
    return done


def _unheard(grid: Grid, *, tidy: bool) -> list[Silence]:
    """Servers that don't answer; Unreachable if none does. `tidy`: see to what a run that was killed had in hand."""
    answers = grid.ask(_tidy if tidy else lambda _store: None)
    silent = [Silence(each.store.server.name, each.value.message) for each in answers if each.value is not None]
    if silent and len(silent) == len(grid.stores):
        reasons = "; ".join(f"{each.server}: {each.reason}" for each in silent)
        raise Unreachable(f"no server could be reached ({reasons})", hint="lafs server status tries each of them")
    return silent


class _Collection:
    def __init__(
        self,
        access: Access,
        roots: Callable[[], Sequence[Root]],
        claims: Claims,
        progress: Progress,
    ) -> None:
        self._access = access
        self._grid = access.grid
        self._roots = roots
        self._claims = claims
        self._progress = progress
        self._mark = Mark(access)
        self._heaps: dict[str, Heap] = {store.server.name: Heap() for store in self._grid.stores}
        self._shared: set[StorageIndex] = set()
        """Objects of which some share carries our lease and a live one of another home."""
        self._skipped: Counter[str] = Counter()
        self._doubts: list[Unseen] = []

    # ---- looking

    def look(self, *, tidy: bool) -> None:
        """See what the roots lead to, then every share; InDoubt if anything is not seen."""
        self._doubts += [_silent(each.server, each.reason) for each in _unheard(self._grid, tidy=tidy)]
        self._insist()
        self._progress.start("mark", None)
        self._mark.add(self._roots())
        self._doubts += doubts_of(self._mark)
        self._insist()
        self._progress.start("look", None)
        for _ in side_by_side(map(self._look_at, self._grid.stores), len(self._grid.stores)):
            pass
        self._insist()

    def _insist(self) -> None:
        if self._doubts:
            raise InDoubt(self._doubts)

    def _look_at(self, store: ShareStore) -> Steps[None]:
        pages = _Pages()
        while True:
            page = yield from wait(self._grid.submit(store, pages.next))
            if isinstance(page, LafsError):
                self._doubts.append(_silent(store.server.name, page.message))
                return
            if not page:
                return
            unreached = [entry for entry in page if entry[0] not in self._mark.reached]
            answers = yield from wait(self._grid.submit(store, partial(_leases, unreached)))
            if isinstance(answers, LafsError):
                self._doubts.append(_silent(store.server.name, answers.message))
                return
            for entry, leased in zip(unreached, answers, strict=True):
                self._weigh(store, entry, leased)

    def _weigh(self, store: ShareStore, entry: Entry, leased: Leased | LafsError) -> None:
        if isinstance(leased, FileMissing):
            return
        reason = UNREADABLE if isinstance(leased, LafsError) else self._claims.against(entry[0], store, leased)
        if reason == OTHERS:
            self._shared.add(entry[0])
        if reason != NOT_OURS and not changeable(store):
            reason = READ_ONLY if not store.server.writable else NO_GUARD
        if reason is None:
            self._heaps[store.server.name].add(*entry)
        else:
            self._skipped[reason] += 1

    # ---- what is to go

    def _garbage(self, name: str, result: Collected) -> Iterator[tuple[StorageIndex, dict[int, int]]]:
        """What of a server is to go, object by object, by what is known at the time; what is not is counted."""
        journal = self._access.writing.journal
        uploads: frozenset[StorageIndex] = frozenset()
        for index, (si, sizes) in enumerate(self._heaps[name].objects()):
            if journal is not None and index % _THROWN_TOGETHER == 0:
                uploads = journal.under_way()
            if si in self._mark.reached:  # by now
                continue
            if si in self._shared:
                result.skipped[BESIDE] += len(sizes)
            elif si in uploads:
                result.skipped[UPLOADING] += len(sizes)
            else:
                yield si, sizes

    def planned(self, grace: int) -> Collected:
        """What a sweep would do."""
        result = Collected(False, len(self._mark.reached), skipped=Counter(self._skipped))
        objects: set[StorageIndex] = set()
        for name in self._heaps:
            for si, sizes in self._garbage(name, result):
                objects.add(si)
                for size in sizes.values():
                    result.by_server.setdefault(name, Amount()).add(size)
        result.objects = len(objects)
        self._take(empty(self._grid, self._claims, self._wanted, grace, act=False), result)
        return result

    # ---- doing it

    def sweep(self, grace: int) -> Collected:
        """Move it, and see to what was moved earlier. InDoubt, if that turns up before the first move."""
        self._mark.add(self._roots())
        self._doubts += doubts_at_rest(self._mark, _ROUNDS)
        self._insist()
        result = Collected(True, len(self._mark.reached), skipped=Counter(self._skipped))
        objects: set[StorageIndex] = set()
        self._progress.start("sweep", sum(size for heap in self._heaps.values() for _, _, size in heap))
        jobs = (self._sweep_at(store, result, objects) for store in self._grid.stores)
        for _ in side_by_side(jobs, len(self._grid.stores)):
            pass
        result.objects = len(objects)
        self._settle(result, grace, objects)
        result.reached = len(self._mark.reached)
        return result

    def _sweep_at(self, store: ShareStore, result: Collected, objects: set[StorageIndex]) -> Steps[None]:
        name = store.server.name
        garbage = self._garbage(name, result)
        while batch := list(islice(garbage, _THROWN_TOGETHER)):
            outcomes = yield from wait(self._grid.submit(store, partial(_throw, batch, self._claims)))
            if isinstance(outcomes, LafsError):
                result.failed.append(Silence(name, outcomes.message))
                return
            for (si, sizes), outcome in zip(batch, outcomes, strict=True):
                if isinstance(outcome, GuardHeld):
                    result.skipped[CHANGING] += len(sizes)
                elif isinstance(outcome, LafsError):
                    result.failed.append(Silence(name, outcome.message))
                else:
                    self._count(name, si, sizes, outcome, result, objects)

    def _count(
        self,
        name: str,
        si: StorageIndex,
        sizes: dict[int, int],
        outcome: dict[int, bool | LafsError],
        result: Collected,
        objects: set[StorageIndex],
    ) -> None:
        for shnum, gone in outcome.items():
            if gone is True:
                objects.add(si)
                result.by_server.setdefault(name, Amount()).add(sizes[shnum])
                self._progress.advance(sizes[shnum])
            else:
                result.skipped[RENEWED if gone is False else UNREADABLE] += 1

    def _settle(self, result: Collected, grace: int, new: set[StorageIndex]) -> None:
        """Bring back what roots lead to by now; then, if nothing is in doubt, remove what has lain there for long."""
        doubts: Sequence[Unseen] = ()
        for _ in range(_ROUNDS):
            self._mark.add(self._roots())
            doubts = doubts_at_rest(self._mark, _ROUNDS)
            done = empty(self._grid, self._claims, self._wanted, None, act=True)
            self._take(done, result)
            if not done.objects:  # it may have held directories that lead to more
                break
        if doubts:
            result.failed += [Silence("", f"{each.path}: {each.reason}") for each in doubts]
        else:
            self._take(empty(self._grid, self._claims, self._wanted, grace, act=True, new=new), result)

    def _wanted(self, si: StorageIndex) -> bool:
        return si in self._mark.reached

    def _take(self, done: Emptied, result: Collected) -> None:
        for amount in done.back.values():
            result.restored.shares += amount.shares
            result.restored.bytes += amount.bytes
        result.purged.shares += done.gone.shares
        result.purged.bytes += done.gone.bytes
        result.failed += done.failed


def _silent(server: str, reason: str) -> Unseen:
    return Unseen(f"server {server}", reason)


# ---- in the servers' workers


def _tidy(store: ShareStore) -> None:
    if changeable(store):
        store.trash.tidy()


class _Pages:
    """The shares of a server, some at a time."""

    def __init__(self) -> None:
        self._left: Iterator[Entry] | None = None

    def next(self, store: ShareStore) -> list[Entry]:
        if self._left is None:
            self._left = store.inventory()
        return list(islice(self._left, _LOOKED_AT_TOGETHER))


def _leases(entries: Sequence[Entry], store: ShareStore) -> list[Leased | LafsError]:
    return store.trash.leases([(si, shnum) for si, shnum, _ in entries])


def _throw(
    batch: Sequence[tuple[StorageIndex, dict[int, int]]], claims: Claims, store: ShareStore
) -> list[dict[int, bool | LafsError] | LafsError]:
    outcomes: list[dict[int, bool | LafsError] | LafsError] = []
    for si, sizes in batch:
        try:
            outcomes.append(store.trash.throw_away(si, sorted(sizes), partial(_may_go, claims, si, store)))
        except ServerUnreachable:
            raise
        except LafsError as error:
            outcomes.append(error)
    return outcomes


def _may_go(claims: Claims, si: StorageIndex, store: ShareStore, leased: Leased, server_time: int) -> bool:
    return claims.against(si, store, leased, server_time) is None
