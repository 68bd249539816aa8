"""Bring objects back to all their shares, on as many servers as can be (spec 05 §6). A verify cap is enough.

Who has the least to spare is repaired first; a bad object never stops a run.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from lafscli.health.case import Case
from lafscli.health.check import Checkable, Checking, check_many
from lafscli.health.regrowth import Mending, Regrowth
from lafscli.health.report import CheckReport, Repair
from lafscli.health.small import batches, is_small, regrow_small
from lafscli.immutable.pipeline import Codec
from lafscli.storage.grid import Grid
from lafscli.storage.store import Progress


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
    until = None if checking.max_time is None else time.monotonic() + checking.max_time
    ailing: list[tuple[int, CheckReport]] = []
    for index, report in enumerate(check_many(grid, caps, checking, progress)):
        if report.healthy:
            yield index, report
        elif (reason := _refusal(report)) is not None:
            yield index, replace(report, repair=Repair(False, False, 0, reason))
        else:
            ailing.append((index, report))
    ailing.sort(key=lambda each: each[1].spare or 0)
    cases = {_case(grid, report, checking): index for index, report in ailing}
    with Codec() as codec:
        regrowth = Regrowth(grid, codec, mending, progress)
        for batch in batches(cases):
            if until is not None and time.monotonic() >= until:
                for case in batch:
                    yield cases[case], replace(case.report, repair=Repair(False, False, 0, "the time was over"))
                continue
            if is_small(batch[0].cap):
                regrow_small(grid, codec, mending, batch, progress)
            for case in batch:
                regrowth.run(case)
            for case, report in zip(batch, _left(grid, batch, checking, progress), strict=True):
                yield cases[case], report


def _case(grid: Grid, report: CheckReport, checking: Checking) -> Case:
    assert report.cap is not None
    order = [store for store in grid.permuted(report.cap.si) if store.server.name not in checking.assume_lost]
    return Case.of(report, order)


def _refusal(report: CheckReport) -> str | None:
    """Why no repair is attempted; None when one is called for."""
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
