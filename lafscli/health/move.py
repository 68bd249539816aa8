"""Empty a server: every share on it that we hold a lease on is copied to other servers (CLI.md §3); those of mutable
objects are made again there (moveslots.py).

The shares on it stay. What lies elsewhere already, and proves, is not copied again, so a run that was interrupted
goes on where it stopped. Shares without a lease of ours are other people's: they are counted and left.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial

from lafscli.errors import FileExists, LafsError, MutableFound, ServerUnreachable
from lafscli.formats.caps import ChkVerifyCap
from lafscli.health.copying import SMALL, Copier, Failure
from lafscli.health.moveslots import Slots, move_slots
from lafscli.health.renew import MakeLease, extend
from lafscli.health.steps import Steps, side_by_side, wait
from lafscli.health.survey import Silences
from lafscli.health.whole import Proved, Wanted
from lafscli.placement import Candidate, plan
from lafscli.primitives.encoding import b32encode
from lafscli.storage.grid import Grid
from lafscli.storage.store import LeaseOf, Progress, ShareStore, StorageIndex

_LOOKED_AT_TOGETHER = 256
_BATCH_BYTES = 4 << 20
_AT_ONCE = 4
_SLOT = -1
"""In the place of the size of a share: it is one of a mutable object."""
_PATIENCE = 3
"""Refusals in a row after which a server is not given more shares in this run."""

Entry = tuple[StorageIndex, int, int]
"""A share of an inventory: storage index, number, size of its container."""


@dataclass(frozen=True, slots=True)
class Left:
    """A share that could not be copied."""

    si: StorageIndex
    shnum: int
    reason: str


@dataclass(slots=True)
class Drained:
    """What became of the shares of a server. `shares` of them are ours: copied, already elsewhere, or `failed`.

    `foreign`: those that carry no lease of ours. `silent`: other servers that did not answer, and why. `unfinished`:
    why the run ended before all shares were looked at.
    """

    server: str
    shares: int = 0
    copied: int = 0
    already_elsewhere: int = 0
    foreign: int = 0
    bytes: int = 0
    failed: list[Left] = field(default_factory=list)
    silent: dict[str, str] = field(default_factory=dict)
    unfinished: str | None = None

    @property
    def complete(self) -> bool:
        """Whether every share of ours is on other servers now."""
        return not self.failed and self.unfinished is None


def drain(
    grid: Grid,
    name: str,
    lease: MakeLease,
    *,
    known: Mapping[StorageIndex, ChkVerifyCap] | None = None,
    slots: Slots | None = None,
    progress: Progress | None = None,
) -> Drained:
    """Copy our shares from one server to the writable others, with our leases there.

    `known`: caps of objects, against which their shares are proved; a share of any other object is proved against
    itself. `slots`: how to make shares of mutable objects; without it they are named as failed. Raises
    ServerUnreachable when the server does not answer at all.
    """
    progress = progress or Progress()
    grid.connect()
    [source] = [store for store in grid.stores if store.server.name == name]
    grid.submit(source, lambda _store: None).result()
    progress.start("drain", None)
    with Copier(grid, lease, progress) as copier:
        run = _Drain(grid, source, lease, known or {}, progress, copier)
        with closing(side_by_side(run.batches(), _AT_ONCE)) as batches:
            for _ in batches:
                pass
    _move_slots(grid, name, run, slots, progress)
    run.result.failed.sort(key=lambda left: (left.si, left.shnum))
    return run.result


def _move_slots(grid: Grid, name: str, run: _Drain, slots: Slots | None, progress: Progress) -> None:
    if run.slots and slots is None:
        for si, shnums in run.slots.items():
            for shnum in shnums:
                run.failed(si, shnum, "it is a share of a mutable object")
    elif run.slots and slots is not None:
        move_slots(grid, name, run.slots, slots, progress, run)


@dataclass(eq=False, slots=True)
class _Share:
    """One share on its way. `proved`: it, or why it is no good. `unseen`: servers that have a share of that number,
    not looked at yet; on those of `taken` it is no good. `refused`: servers that did not take it, and why."""

    wanted: Wanted
    proved: Proved | LafsError
    unseen: set[str]
    taken: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)
    done: bool = False

    @property
    def cap(self) -> ChkVerifyCap | None:
        return self.wanted.cap if isinstance(self.proved, LafsError) else self.proved.cap

    @property
    def title(self) -> str:
        return f"share {self.wanted.shnum} of {b32encode(self.wanted.si)}"


class _Drain:
    def __init__(
        self,
        grid: Grid,
        source: ShareStore,
        lease: MakeLease,
        known: Mapping[StorageIndex, ChkVerifyCap],
        progress: Progress,
        copier: Copier,
    ) -> None:
        self.result = Drained(source.server.name)
        self.slots: dict[StorageIndex, list[int]] = {}
        """Shares of mutable objects, ours."""
        self._grid = grid
        self._source = source
        self._lease = lease
        self._known = known
        self._progress = progress
        self._copier = copier
        # A read-only server may be one that was drained before: what lies there does not count.
        self._others = {
            store.server.name: store for store in grid.stores if store is not source and store.server.writable
        }
        self._silences = Silences(None)
        self._refusals = dict.fromkeys(self._others, 0)
        self._full: dict[str, str] = {}
        self._inventory: Iterator[Entry] | None = None
        self._ahead: list[Entry] = []
        self._trouble: LafsError | None = None
        self._over = False

    def batches(self) -> Iterator[Steps[None]]:
        """Jobs, each for some shares, until there are none left."""
        while not self._over:
            yield self._batch()

    # ---- what is there

    def _batch(self) -> Steps[None]:
        page = yield from wait(self._grid.submit(self._source, self._next_page))
        if isinstance(page, LafsError):
            self._stop(page)
            return
        if not page:
            self._over = True
        ours = yield from self._ours([entry[:2] for entry in page])
        held = yield from self._held(sorted({item.si for item in ours}))
        batch: list[Wanted] = []
        for item in ours:
            if batch and (item.room > SMALL or sum(each.room for each in batch) + item.room > _BATCH_BYTES):
                yield from self._move(batch, held)
                batch = []
            batch.append(item)
        yield from self._move(batch, held)

    def _next_page(self, store: ShareStore) -> list[Entry]:
        """The next shares, all those of an object together: another page may go its way at the same time."""
        if self._inventory is None:
            self._inventory = store.inventory()
        page, self._ahead = self._ahead, []
        try:
            for entry in self._inventory:
                if len(page) >= _LOOKED_AT_TOGETHER and entry[0] != page[-1][0]:
                    self._ahead = [entry]
                    break
                page.append(entry)
        except LafsError as error:
            self._trouble = error
        if not page and self._trouble is not None:
            raise self._trouble
        return page

    def _stop(self, error: LafsError) -> None:
        """The server itself failed us: nothing more can be learned from it."""
        self._over = True
        self.result.unfinished = self.result.unfinished or error.message

    def _ours(self, shares: Sequence[tuple[StorageIndex, int]]) -> Steps[list[Wanted]]:
        """Those that carry a lease of ours."""
        leases = {si: replace(self._lease(si, self._source), expiration=0) for si, _ in shares}
        items = [LeaseOf(si, shnum, leases[si]) for si, shnum in shares]
        found = yield from wait(self._grid.submit(self._source, partial(_mine, items)))
        if isinstance(found, LafsError):
            self._stop(found)
            return []
        ours: list[Wanted] = []
        for (si, shnum), room in zip(shares, found, strict=True):
            if room is None:
                self.result.foreign += 1
                continue
            self.result.shares += 1
            if room == _SLOT:
                self.slots.setdefault(si, []).append(shnum)
            elif isinstance(room, LafsError):
                self.failed(si, shnum, room.message)
            else:
                ours.append(Wanted(si, shnum, self._source, room, self._known.get(si)))
        return ours

    def _held(self, sis: Sequence[StorageIndex]) -> Steps[dict[StorageIndex, dict[str, set[int]]]]:
        """Which shares of these the other servers hold, those that answer."""
        asked = []
        for name, store in self._others.items():
            if self._silences.reason(name) is None and sis:
                asked.append((name, self._grid.submit(store, partial(_shares, sis))))
        held: dict[StorageIndex, dict[str, set[int]]] = {si: {} for si in sis}
        for name, future in asked:
            answers = yield from wait(future)
            if isinstance(answers, LafsError):
                self._silent(name, answers)
                continue
            for si, answer in zip(sis, answers, strict=True):
                if not isinstance(answer, LafsError):
                    held[si][name] = set(answer)
        return held

    def _silent(self, name: str, error: LafsError) -> None:
        self._silences.note(name, error)
        self.result.silent.setdefault(name, error.message)

    def failed(self, si: StorageIndex, shnum: int, reason: str) -> None:
        """A share that lies nowhere else."""
        self.result.failed.append(Left(si, shnum, reason))

    def copied(self, size: int) -> None:
        """A share that is on another server now."""
        self.result.copied += 1
        self.result.bytes += size

    def elsewhere(self) -> None:
        """A share that was on another server before."""
        self.result.already_elsewhere += 1

    # ---- the way of some shares

    def _move(self, batch: Sequence[Wanted], held: dict[StorageIndex, dict[str, set[int]]]) -> Steps[None]:
        proved = yield from self._copier.look(batch)
        shares = [
            _Share(item, found, {name for name, numbers in held[item.si].items() if item.shnum in numbers})
            for item, found in zip(batch, proved, strict=True)
        ]
        while left := [share for share in shares if not share.done]:
            yield from self._look_at_copies([share for share in left if share.unseen])
            sends: list[tuple[_Share, Proved, str]] = []
            for share in left:
                if not share.done:
                    self._choose(share, held[share.wanted.si], sends)
            outcomes = yield from self._copier.store([(found, self._others[name]) for _, found, name in sends])
            for (share, _, name), outcome in zip(sends, outcomes, strict=True):
                self._sent(share, name, outcome, held[share.wanted.si])

    def _look_at_copies(self, shares: Sequence[_Share]) -> Steps[None]:
        """A copy that proves, and has a lease of ours by now, is as good as one that we made."""
        copies = [(share, name) for share in shares for name in sorted(share.unseen)]
        by_name: dict[str, list[_Share]] = {}
        for share, name in copies:
            by_name.setdefault(name, []).append(share)
        for share in shares:
            share.unseen = set()
        for name, there in by_name.items():
            good = yield from self._good_copies(name, there)
            store = self._others[name]
            items = [(share.wanted.si, share.wanted.shnum) for share in good]
            answers = yield from wait(self._grid.submit(store, partial(extend, items, self._lease)))
            for position, share in enumerate(good):
                answer = answers if isinstance(answers, LafsError) else answers[position]
                if isinstance(answer, LafsError):
                    share.taken.add(name)
                    share.refused[name] = f"has the share, but takes no lease: {answer.message}"
                elif not share.done:
                    share.done = True
                    self.elsewhere()

    def _good_copies(self, name: str, shares: Sequence[_Share]) -> Steps[list[_Share]]:
        store = self._others[name]
        pairs = [(share.wanted.si, share.wanted.shnum) for share in shares]
        rooms = yield from wait(self._grid.submit(store, lambda store: store.share_size(pairs)))
        readable: list[tuple[_Share, Wanted]] = []
        for position, share in enumerate(shares):
            room = rooms if isinstance(rooms, LafsError) else rooms[position]
            if isinstance(room, LafsError):
                self._bad_copy(share, name, room)
            else:
                readable.append((share, replace(share.wanted, store=store, room=room, cap=share.cap)))
        proved = yield from self._copier.look([item for _, item in readable])
        good: list[_Share] = []
        for (share, _), found in zip(readable, proved, strict=True):
            if isinstance(found, LafsError):
                self._bad_copy(share, name, found)
            else:
                good.append(share)
        return good

    def _bad_copy(self, share: _Share, name: str, error: LafsError) -> None:
        share.taken.add(name)
        if isinstance(error, ServerUnreachable):
            self._silent(name, error)
            return
        share.refused[name] = f"has something else under that name: {error.message}"
        self._progress.warn(f"server {name}: {share.title} is no good ({error.message}); it was left in place")

    def _choose(self, share: _Share, held: dict[str, set[int]], sends: list[tuple[_Share, Proved, str]]) -> None:
        """Which server gets it: one without any share of the object while there is one (spec 05 §4)."""
        si, shnum = share.wanted.si, share.wanted.shnum
        if isinstance(share.proved, LafsError):
            share.done = True
            if isinstance(share.proved, ServerUnreachable):
                self._stop(share.proved)
            self.failed(si, shnum, share.proved.message)
            return
        candidates = []
        for store in self._grid.permuted(si):
            name = store.server.name
            if name in held and self._silences.reason(name) is None:
                able = not (name in share.refused or name in share.taken or name in self._full)
                numbers = frozenset(held[name]) - {shnum}
                candidates.append(Candidate(name, able, numbers, store.server.site))
        chosen = plan(share.proved.cap.n, candidates, [shnum]).send.get(shnum)
        if chosen is None:
            share.done = True
            reasons = self.result.silent | self._full | share.refused
            named = "; ".join(f"{name}: {reason}" for name, reason in sorted(reasons.items()))
            self.failed(si, shnum, "no server takes it" + (f" ({named})" if named else ""))
            return
        held[str(chosen)].add(shnum)
        sends.append((share, share.proved, str(chosen)))

    def _sent(self, share: _Share, name: str, outcome: Failure | None, held: dict[str, set[int]]) -> None:
        if outcome is None:
            share.done = True
            self._refusals[name] = 0
            self.copied(_size(share.proved))
            return
        if isinstance(outcome.error, FileExists) and not outcome.source:
            share.unseen.add(name)  # somebody was faster: see what it is
            return
        held[name].discard(share.wanted.shnum)
        if outcome.source:
            share.proved = outcome.error
            return
        share.refused[name] = outcome.error.message
        if isinstance(outcome.error, ServerUnreachable):
            self._silent(name, outcome.error)
        else:
            self._refusals[name] += 1
            if self._refusals[name] >= _PATIENCE and name not in self._full:
                self._full[name] = outcome.error.message
                self._progress.warn(f"server {name} takes no more shares: {outcome.error.message}")


def _size(share: Proved | LafsError) -> int:
    return 0 if isinstance(share, LafsError) else share.size


# ---- in the servers' workers


def _mine(items: Sequence[LeaseOf], store: ShareStore) -> list[int | LafsError | None]:
    """Size of each share that carries this lease, None for one that does not."""
    answers = store.renew(items)  # until the epoch: nothing is written
    found: list[int | LafsError | None] = [None if answer is False else 0 for answer in answers]
    for index, answer in enumerate(answers):
        if isinstance(answer, LafsError):
            found[index] = answer
    mine = [index for index, answer in enumerate(answers) if answer is True]
    sizes = store.share_size([(items[index].si, items[index].shnum) for index in mine])
    for index, size in zip(mine, sizes, strict=True):
        found[index] = _SLOT if isinstance(size, MutableFound) else size
    return found


def _shares(sis: Sequence[StorageIndex], store: ShareStore) -> list[frozenset[int] | LafsError]:
    return store.shares(sis)
