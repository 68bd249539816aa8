"""Bring mutable objects back to all their shares (spec 00 §4, 03 §10, 05 §6).

Shares of the best version are made again, and come where they are missing and where shares of earlier versions or bad
ones lie. Where that would not do, because a writer stopped half-way or two versions have one number, a new version with
the content of the best one is published: that takes the write cap, and where something is given up by it, `force`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from lafscli.errors import LafsError
from lafscli.formats.caps import MutableWriteCap
from lafscli.formats.slot import Header
from lafscli.health.check import Checking, slot_report
from lafscli.health.refill import SMALL, Refilling
from lafscli.health.regrowth import Mending
from lafscli.health.report import CheckReport, MutableCap, Repair
from lafscli.health.slotcase import NEEDS_WRITE_CAP, SlotCase
from lafscli.health.slots import SlotSeen, look
from lafscli.immutable.pipeline import Codec
from lafscli.mutable.publish import modify
from lafscli.mutable.survey import DEEP, SHALLOW
from lafscli.storage.grid import Grid
from lafscli.storage.store import Progress

_TOGETHER = 48

Ailing = tuple[int, CheckReport]
"""Number of an object in its run, and what the check saw."""


def refusal(report: CheckReport, *, force: bool) -> str | None:
    """Why no repair of a mutable object is attempted; None when one is called for, and can be tried."""
    state = report.slot
    assert state is not None, "this is a mutable object"
    if report.recoverable is None:
        return "too few shares were seen, and servers did not answer"
    if not report.recoverable:
        return "there are too few good shares"
    anew = state.merge or state.interrupted or state.newer is not None
    if state.merge and not force:
        return (
            f"two different versions have number {state.seqnum}, by writers who did not see each other: with --force "
            f"the content of one of them ({state.size} bytes) stays, the other is lost"
        )
    if state.newer is not None and not force:
        return (
            f"version {state.newer} was there, and too few of its shares are: with --force it is given up, and version "
            f"{state.seqnum} ({state.size} bytes) stays; bring back servers that have more of it"
        )
    if anew and not isinstance(report.given, MutableWriteCap):
        return f"a new version must be written: {NEEDS_WRITE_CAP}"
    missing = report.good_shares < report.encoding[1]
    if state.single and not report.corrupt and missing and report.unreachable:
        return "the missing shares may lie on servers that did not answer"
    if report.complete:
        return "all shares are there, on too few servers: --rebalance spreads them"
    return None


class SlotRepair:
    """Repairs mutable objects, several at a time. `emptied`: servers whose shares may be read, and do not count;
    `spread`: also give shares to servers that have none."""

    def __init__(
        self,
        grid: Grid,
        codec: Codec,
        checking: Checking,
        mending: Mending,
        progress: Progress,
        *,
        emptied: frozenset[str] = frozenset(),
        spread: bool = False,
    ) -> None:
        self._grid = grid
        self._checking = checking
        self._mending = mending
        self._progress = progress
        self._emptied = emptied
        self._spread = spread
        self._stores = [store for store in grid.stores if store.server.name not in checking.assume_lost]
        self._refilling = Refilling(grid, codec, mending, progress)

    def run(self, ailing: Iterable[Ailing]) -> Iterator[Ailing]:
        """Repair objects; each with the report of what was left."""
        for batch in _batches(ailing):
            yield from self._repaired(batch)

    def _repaired(self, batch: Sequence[Ailing]) -> Iterator[Ailing]:
        before = self._look(batch, DEEP if _bytes(batch[0][1]) <= SMALL else SHALLOW)
        cases: dict[int, SlotCase] = {}
        ended: dict[int, Repair] = {}
        for position, (seen, (_, report)) in enumerate(zip(before, batch, strict=True)):
            version = seen.version
            if version is None:
                ended[position] = Repair(False, False, 0, "its shares went away meanwhile")
            elif _needs_new_version(seen):
                ended[position] = self._publish(report, seen, version)
            else:
                order = [store for store in self._grid.permuted(seen.map.cap.si) if store in self._stores]
                cases[position] = SlotCase.of(report, seen, version, order, emptied=self._emptied, spread=self._spread)
        self._refilling.run(list(cases.values()))
        self._refilling.tidy(list(cases.values()))
        for position, seen in enumerate(self._look(batch, SHALLOW)):
            number, report = batch[position]
            left = slot_report(seen, self._checking, len(self._stores))
            if position in cases:
                yield number, cases[position].closed(left)
                continue
            # a new version has replaced what was proved to be bad, too
            repair = ended[position]
            if repair.attempted and not left.complete:
                repair = replace(
                    repair, successful=False, reason=repair.reason or "not all servers took the new version"
                )
            yield number, replace(left, repair=repair, leases=report.leases, not_renewed=report.not_renewed)

    def _look(self, batch: Sequence[Ailing], depth: int) -> list[SlotSeen]:
        wanted = [(_given(report), report.directory) for _, report in batch]
        return look(self._grid, wanted, self._stores, self._checking.memory, depth=depth)

    def _publish(self, report: CheckReport, seen: SlotSeen, version: Header) -> Repair:
        """Write the content of the best version anew, under a number above all that were seen."""
        publishing, cap = self._mending.publishing, seen.cap
        if not isinstance(cap, MutableWriteCap) or publishing is None:
            return Repair(False, False, 0, f"a new version must be written: {NEEDS_WRITE_CAP}")
        publishing = replace(publishing, force=self._mending.force)
        try:
            done = modify(self._grid, cap, lambda content: content, publishing, self._progress)
        except LafsError as error:
            return Repair(True, False, 0, error.message)
        written = sum(map(len, done.placement.values()))
        return Repair(True, True, written, _given_up(report, done.seqnum, version))


def _needs_new_version(seen: SlotSeen) -> bool:
    """Whether shares of the best version alone would not do."""
    state, version = seen.state(), seen.version
    if state.merge or state.interrupted or state.newer is not None:
        return True
    # another version of the same number, of which too little is there: it is no earlier one
    return any(
        version is not None and one.prefix.seqnum == version.prefix.seqnum and one.prefix != version.prefix
        for one in seen.map.versions.holders
    )


def _given_up(report: CheckReport, seqnum: int, version: Header) -> str | None:
    """What was lost by a new version; None where that is nothing."""
    state = report.slot
    assert state is not None, "this is a mutable object"
    if state.merge:
        return f"of two versions with number {version.prefix.seqnum} one was given up; version {seqnum} has the other"
    if state.newer is not None:
        return f"version {state.newer} was given up; version {seqnum} has the content of {version.prefix.seqnum}"
    return None


def _batches(ailing: Iterable[Ailing]) -> Iterator[list[Ailing]]:
    """Small objects that follow one another together; a large one stands alone."""
    batch: list[Ailing] = []
    for each in ailing:
        large = _bytes(each[1]) > SMALL
        if batch and (large or len(batch) == _TOGETHER):
            yield batch
            batch = []
        if large:
            yield [each]
        else:
            batch.append(each)
    if batch:
        yield batch


def _bytes(report: CheckReport) -> int:
    """About the size of all shares of the version."""
    k, n = report.encoding
    return 0 if report.slot is None else n * (report.slot.size // k + 4096)


def _given(report: CheckReport) -> MutableCap:
    assert report.given is not None, "this is a mutable object"
    return report.given
