"""Bring objects back to all their shares, on as many servers as can be (spec 05 §6). A verify cap is enough.

Who has the least to spare is repaired first; a bad object never stops a run.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace

from lafscli.health.case import Case
from lafscli.health.check import Checkable, Checking, check_many
from lafscli.health.regrowth import Mending, Regrowth
from lafscli.health.report import CheckReport, Repair
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
    with Codec() as codec:
        regrowth = Regrowth(grid, codec, mending, progress)
        for index, report in ailing:
            if until is not None and time.monotonic() >= until:
                yield index, replace(report, repair=Repair(False, False, 0, "the time was over"))
                continue
            assert report.cap is not None
            order = [s for s in grid.permuted(report.cap.si) if s.server.name not in checking.assume_lost]
            case = Case.of(report, order)
            regrowth.run(case)
            yield index, _left(grid, case, checking, progress)


def _refusal(report: CheckReport) -> str | None:
    """Why no repair is attempted; None when one is called for."""
    if report.flaw is not None:
        return "the file was damaged when it was stored"
    if report.recoverable is None:
        return "too few shares were seen, and servers did not answer"
    if not report.recoverable:
        return "there are too few good shares"
    assert report.cap is not None
    missing = report.good_shares < report.cap.n
    if not report.corrupt and missing and report.unreachable:
        return "the missing shares may lie on servers that did not answer"
    if not report.corrupt and not missing:
        return "all shares are there, on too few servers: --rebalance spreads them"
    return None


def _left(grid: Grid, case: Case, checking: Checking, progress: Progress) -> CheckReport:
    """What is left of the object: counted once more on the servers that answered, where anything was changed."""
    if not case.changed:
        return case.closed()
    silent = frozenset(each.server for each in case.report.unreachable)
    again = replace(
        checking, verify=False, sample=None, renew=None, max_time=None, assume_lost=checking.assume_lost | silent
    )
    [after] = check_many(grid, [case.cap], again, progress)
    return case.seen_again(after)
