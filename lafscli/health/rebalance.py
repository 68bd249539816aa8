"""Spread objects whose shares are all there, but on too few servers: copies for servers without any (spec 05 §6). What
lies somewhere already stays there. Shares of mutable objects are made again instead, which takes the write cap."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial

from lafscli.errors import CorruptShare, FileError, FileExists, LafsError
from lafscli.formats.caps import ChkVerifyCap, MutableVerifyCap
from lafscli.health.check import Checking
from lafscli.health.copying import SMALL, Copier, Failure
from lafscli.health.regrowth import Mending
from lafscli.health.report import CheckReport, Damage, Repair, Silence, Sort
from lafscli.health.slotrepair import SlotRepair
from lafscli.health.steps import Steps, side_by_side, wait
from lafscli.health.whole import Proved, Wanted
from lafscli.immutable.pipeline import Codec
from lafscli.placement import Candidate, plan
from lafscli.storage.grid import Grid
from lafscli.storage.store import Progress, ShareStore, StorageIndex

_AT_ONCE = 8
_ROUNDS = 5


def rebalance_many(
    grid: Grid,
    reports: Iterable[tuple[int, CheckReport]],
    checking: Checking,
    mending: Mending,
    progress: Progress | None = None,
    until: float | None = None,
    *,
    slots_only: bool = False,
) -> Iterator[tuple[int, CheckReport]]:
    """Take numbered reports of a check (or repair), and give each back as it is afterwards, in any order.

    Of an object that can be recovered, and could lie on more of the servers that answered, shares are copied; `repair`
    of its report says how many. The reports of others are given back as they came, and all that come after `until` (by
    `time.monotonic`); with `slots_only` those of immutable objects too.
    """
    progress = progress or Progress()
    slots: list[tuple[int, CheckReport]] = []
    with Copier(grid, mending.lease, progress) as copier:

        def jobs() -> Iterator[Steps[tuple[int, CheckReport]]]:
            for number, report in reports:
                late = until is not None and time.monotonic() >= until
                if report.cap is None or not report.recoverable or late:
                    yield _as_it_is(number, report)
                elif isinstance(report.cap, MutableVerifyCap):
                    slots.append((number, report))
                elif slots_only:
                    yield _as_it_is(number, report)
                else:
                    order = [store for store in grid.permuted(report.cap.si) if store.server.name not in lost]
                    yield _Spread(grid, copier, number, report, report.cap, order).run()

        lost = checking.assume_lost
        with closing(side_by_side(jobs(), _AT_ONCE)) as done:
            yield from done
    if slots:
        with Codec() as codec:
            yield from SlotRepair(grid, codec, checking, mending, progress).spread(slots)


def _as_it_is(number: int, report: CheckReport) -> Steps[tuple[int, CheckReport]]:
    yield from ()
    return number, report


class _Spread:
    """One object. `order`: the servers that count, in permuted order."""

    def __init__(
        self,
        grid: Grid,
        copier: Copier,
        number: int,
        report: CheckReport,
        cap: ChkVerifyCap,
        order: Sequence[ShareStore],
    ) -> None:
        self._grid = grid
        self._copier = copier
        self._number = number
        self._report = report
        self._cap = cap
        self._order = order
        self._shares = {shnum: list(names) for shnum, names in report.shares.items()}
        self._corrupt = list(report.corrupt)
        self._silent = {each.server: each.reason for each in report.unreachable}
        self._refused: dict[str, str] = {}
        self._written = 0

    def run(self) -> Steps[tuple[int, CheckReport]]:
        begun = False
        for _ in range(_ROUNDS):
            sends = self._sends()
            if not sends:
                break
            begun = True
            yield from self._copy(sends)
        return self._number, self._afterwards() if begun else self._report

    def _sends(self) -> list[tuple[int, str]]:
        """Which share is to go to which server, each server one that has none."""
        held: dict[str, set[int]] = {}
        for shnum, names in self._shares.items():
            for name in names:
                held.setdefault(name, set()).add(shnum)
        candidates = [
            Candidate(
                store.server.name,
                store.server.writable and store.server.name not in self._refused,
                frozenset(held.get(store.server.name, ())),
                store.server.site,
                frozenset(bad.shnum for bad in self._corrupt if bad.server == store.server.name),
            )
            for store in self._order
            if store.server.name not in self._silent
        ]
        planned = plan(self._cap.n, candidates, self._shares)
        sends = [(shnum, str(name)) for shnum, name in planned.send.items() if not held.get(str(name))]
        # a server without any gets one: a second there would add nothing
        return [(shnum, name) for i, (shnum, name) in enumerate(sends) if name not in {name for _, name in sends[:i]}]

    def _copy(self, sends: Sequence[tuple[int, str]]) -> Steps[None]:
        stores = {store.server.name: store for store in self._order}
        wanted: list[tuple[Wanted, ShareStore]] = []
        for shnum, target in sends:
            name = next((name for name in self._shares.get(shnum, ()) if name in stores), None)
            if name is None:  # its servers fell silent meanwhile
                continue
            rooms = yield from wait(self._grid.submit(stores[name], partial(_room, self._cap.si, shnum)))
            if isinstance(rooms, LafsError):
                self._failed(name, shnum, rooms)
            else:
                wanted.append((Wanted(self._cap.si, shnum, stores[name], rooms, self._cap), stores[target]))
        small = [pair for pair in wanted if pair[0].room <= SMALL]
        for group in [small, *([pair] for pair in wanted if pair[0].room > SMALL)]:
            yield from self._copy_some(group)

    def _copy_some(self, wanted: Sequence[tuple[Wanted, ShareStore]]) -> Steps[None]:
        proved = yield from self._copier.look([item for item, _ in wanted])
        copies: list[tuple[Proved, ShareStore]] = []
        for (item, target), found in zip(wanted, proved, strict=True):
            if isinstance(found, LafsError):
                self._failed(item.store.server.name, item.shnum, found)
            else:
                copies.append((found, target))
        outcomes = yield from self._copier.store(copies)
        for (share, store), outcome in zip(copies, outcomes, strict=True):
            self._note(share.wanted, store.server.name, outcome)

    def _note(self, share: Wanted, target: str, outcome: Failure | None) -> None:
        if outcome is None:
            self._written += 1
            self._shares.setdefault(share.shnum, []).append(target)
        elif outcome.source:
            self._failed(share.store.server.name, share.shnum, outcome.error)
        elif isinstance(outcome.error, FileExists):  # it came there meanwhile: the next check will see what it is
            self._refused[target] = "a share came there meanwhile"
        elif isinstance(outcome.error, FileError):
            self._refused[target] = outcome.error.message
        else:
            self._silent[target] = outcome.error.message

    def _failed(self, name: str, shnum: int, error: LafsError) -> None:
        """A share that was taken for good is not, or its server fell silent."""
        if isinstance(error, CorruptShare | FileError):
            sort: Sort = "corrupt" if isinstance(error, CorruptShare) else "unreadable"
            self._corrupt.append(Damage(name, shnum, error.message, sort))
            gone = {(name, shnum)}
        else:
            self._silent[name] = error.message
            gone = {(name, number) for number in self._shares}
        left = {
            number: [name for name in names if (name, number) not in gone] for number, names in self._shares.items()
        }
        self._shares = {number: names for number, names in left.items() if names}

    def _afterwards(self) -> CheckReport:
        report = replace(
            self._report,
            shares={shnum: tuple(sorted(names)) for shnum, names in sorted(self._shares.items())},
            corrupt=tuple(sorted(self._corrupt, key=lambda bad: (bad.shnum, bad.server))),
            unreachable=tuple(Silence(name, reason) for name, reason in sorted(self._silent.items())),
        )
        reasons = {**self._silent, **self._refused} if self._sends() or self._refused else {}
        reason = "; ".join(f"{name}: {why}" for name, why in sorted(reasons.items())) or None
        repair = Repair(True, reason is None, self._written, reason)
        return replace(report, repair=repair.after(self._report.repair))


def _room(si: StorageIndex, shnum: int, store: ShareStore) -> int:
    [room] = store.share_size([(si, shnum)])
    if isinstance(room, LafsError):
        raise room
    return room
