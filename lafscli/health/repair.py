"""Bring objects back to all their shares, on as many servers as can be (spec 05 §6). Of immutable ones a verify cap is
enough.

Who has the least to spare is repaired first; a bad object never stops a run.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby

from lafscli.health.case import Case
from lafscli.health.check import Checkable, Checking, check_many
from lafscli.health.regrowth import Mending, Regrowth
from lafscli.health.report import CheckReport, Repair
from lafscli.health.slotrepair import SlotRepair
from lafscli.health.slotrepair import refusal as slot_refusal
from lafscli.health.small import batches, is_small, regrow_small
from lafscli.immutable.pipeline import Codec
from lafscli.storage.grid import Grid
from lafscli.storage.store import Progress

_TOGETHER = 128
"""Objects between two looks at the clock."""


def repair(
    grid: Grid, cap: Checkable, checking: Checking, mending: Mending, progress: Progress | None = None
) -> CheckReport:
    """Check one object and repair it where that is called for; the report describes what was left."""
    [(_, report)] = repair_many(grid, [cap], checking, mending, progress)
    return report


def repair_many(
    grid: Grid, caps: Iterable[Checkable], checking: Checking, mending: Mending, progress: Progress | None = None
) -> Iterator[tuple[int, CheckReport]]:
    """Check objects and repair them: (position among the caps, report of what was left). What needs no repair, or
    can't have one, comes first; then what was repaired, least spare first. Fewer when the time is over."""
    progress = progress or Progress()
    yield from mend_many(grid, enumerate(check_many(grid, caps, checking, progress)), checking, mending, progress)


def mend_many(
    grid: Grid,
    reports: Iterable[tuple[int, CheckReport]],
    checking: Checking,
    mending: Mending,
    progress: Progress | None = None,
) -> Iterator[tuple[int, CheckReport]]:
    """`repair_many` for what was checked already: each report comes with its position."""
    progress = progress or Progress()
    until = None if checking.max_time is None else time.monotonic() + checking.max_time
    ailing: list[tuple[int, CheckReport]] = []
    for index, report in reports:
        if report.healthy:
            yield index, report
        elif (reason := _refusal(report, force=mending.force)) is not None:
            yield index, replace(report, repair=Repair(False, False, 0, reason))
        else:
            ailing.append((index, report))
    ailing.sort(key=lambda each: (each[1].spare or 0, each[1].slot is not None))
    with Codec() as codec:
        slots = SlotRepair(grid, codec, checking, mending, progress)
        files = _FileRepair(grid, codec, checking, mending, progress)
        for mutable, some in groupby(ailing, lambda each: each[1].slot is not None):
            group = list(some)
            while group:
                if until is not None and time.monotonic() >= until:
                    for index, report in group:
                        yield index, replace(report, repair=Repair(False, False, 0, "the time was over"))
                    break
                now, group = group[:_TOGETHER], group[_TOGETHER:]
                yield from (slots if mutable else files).run(now)


class _FileRepair:
    """Repairs immutable objects."""

    def __init__(self, grid: Grid, codec: Codec, checking: Checking, mending: Mending, progress: Progress) -> None:
        self._grid = grid
        self._codec = codec
        self._checking = checking
        self._mending = mending
        self._progress = progress
        self._regrowth = Regrowth(grid, codec, mending, progress)

    def run(self, ailing: Sequence[tuple[int, CheckReport]]) -> Iterator[tuple[int, CheckReport]]:
        """Repair objects; each with the report of what was left."""
        cases = {_case(self._grid, report, self._checking): index for index, report in ailing}
        for batch in batches(cases):
            if is_small(batch[0].cap):
                regrow_small(self._grid, self._codec, self._mending, batch, self._progress)
            for case in batch:
                self._regrowth.run(case)
            for case, report in zip(batch, _left(self._grid, batch, self._checking, self._progress), strict=True):
                yield cases[case], replace(report, directory=case.report.directory)


def _case(grid: Grid, report: CheckReport, checking: Checking) -> Case:
    assert report.cap is not None
    order = [store for store in grid.permuted(report.cap.si) if store.server.name not in checking.assume_lost]
    return Case.of(report, order)


def _refusal(report: CheckReport, *, force: bool) -> str | None:
    """Why no repair is attempted; None when one is called for."""
    if report.slot is not None:
        return slot_refusal(report, force=force)
    if report.flaw is not None:
        return "the file was damaged when it was stored"
    if report.recoverable is None:
        return "too few shares were seen, and servers did not answer"
    if not report.recoverable:
        return "there are too few good shares"
    missing = report.good_shares < report.encoding[1]
    if not report.corrupt and missing and report.unreachable:
        return "the missing shares may lie on servers that did not answer"
    if not report.corrupt and not missing:
        return "all shares are there, on too few servers: --rebalance spreads them"
    return None


def _left(grid: Grid, cases: Sequence[Case], checking: Checking, progress: Progress) -> Iterator[CheckReport]:
    """What is left of objects: counted once more where anything was changed, on the servers that had answered."""
    silent = {each.server: each for case in cases for each in case.report.unreachable}
    unasked = checking.assume_lost | silent.keys()
    again = replace(checking, verify=False, sample=None, renew=None, max_time=None, assume_lost=unasked)
    counted = check_many(grid, [case.cap for case in cases if case.changed], again, progress)
    for case in cases:
        if case.changed:
            after = next(counted)
            yield case.seen_again(replace(after, unreachable=(*after.unreachable, *silent.values())))
        else:
            yield case.closed()
