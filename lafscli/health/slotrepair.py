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
from lafscli.mutable.quorum import Quorum
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
    """Repairs mutable objects, several at a time. `emptied`: servers whose shares may be read, and do not count."""

    def __init__(
        self,
        grid: Grid,
        codec: Codec,
        checking: Checking,
        mending: Mending,
        progress: Progress,
        *,
        emptied: frozenset[str] = frozenset(),
    ) -> None:
        self._grid = grid
        self._checking = checking
        self._mending = mending
        self._progress = progress
        self._emptied = emptied
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
                cases[position] = self._case(report, seen, version)
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

    def cases(self, objects: Iterable[Ailing]) -> Iterator[tuple[int, SlotCase | None]]:
        """Write what objects lack, also those that lack nothing but for what was emptied; None for one that would take
        a new version."""
        for batch in _batches(objects):
            found: list[tuple[int, SlotCase | None]] = []
            before = self._look(batch, DEEP if _bytes(batch[0][1]) <= SMALL else SHALLOW)
            for (number, report), seen in zip(batch, before, strict=True):
                version = seen.version
                usable = version is not None and not _needs_new_version(seen)
                found.append((number, self._case(report, seen, version) if version is not None and usable else None))
            self._refilling.run([case for _, case in found if case is not None])
            yield from found

    def spread(self, objects: Iterable[Ailing]) -> Iterator[Ailing]:
        """Give second copies to servers that have no share, where that makes an object safer (spec 05 §6); what lacks
        shares is left so."""
        for batch in _batches(objects):
            cases: list[tuple[Ailing, SlotCase]] = []
            before = self._look(batch, DEEP if _bytes(batch[0][1]) <= SMALL else SHALLOW)
            for (number, report), seen in zip(batch, before, strict=True):
                version = seen.version
                case = None if version is None else self._case(report, seen, version, spread=True)
                if case is None or not case.goal() or not seen.state().single:
                    yield number, report
                elif not case.writable:
                    repair = Repair(False, False, 0, f"no server without a share of it can get one: {NEEDS_WRITE_CAP}")
                    earlier = report.repair
                    yield (
                        number,
                        report if earlier is not None and earlier.attempted else replace(report, repair=repair),
                    )
                else:
                    cases.append(((number, report), case))
            self._refilling.run([case for _, case in cases])
            after = self._look([each for each, _ in cases], SHALLOW)
            for ((number, report), case), seen in zip(cases, after, strict=True):
                closed = case.closed(slot_report(seen, self._checking, len(self._stores)))
                assert closed.repair is not None, "it was attempted"
                yield number, replace(closed, repair=closed.repair.after(report.repair))

    def _case(self, report: CheckReport, seen: SlotSeen, version: Header, *, spread: bool = False) -> SlotCase:
        order = [store for store in self._grid.permuted(seen.map.cap.si) if store in self._stores]
        deciding: frozenset[str] = frozenset()
        if spread and (lists := self._mending.membership) is not None:
            deciding = frozenset(Quorum.of(seen.map.cap.si, version.prefix.n, self._stores, lists))
        return SlotCase.of(report, seen, version, order, emptied=self._emptied, spread=spread, deciding=deciding)

    def _look(self, batch: Sequence[Ailing], depth: int) -> list[SlotSeen]:
        wanted = [(_given(report), report.directory) for _, report in batch]
        return look(self._grid, wanted, self._stores, self._checking.memory, depth=depth)

    def _publish(self, report: CheckReport, seen: SlotSeen, version: Header) -> Repair:
        """Write the content of the best version anew, under a number above all that were seen."""
        publishing, cap = self._mending.publishing, seen.cap
        if not isinstance(cap, MutableWriteCap) or publishing is None:
            return Repair(False, False, 0, f"a new version must be written: {NEEDS_WRITE_CAP}")
        # what the check saw may be another thing by now
        refused = refusal(slot_report(seen, self._checking, len(self._stores)), force=self._mending.force)
        if refused is not None:
            return Repair(False, False, 0, refused)
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
