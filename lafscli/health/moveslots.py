"""Mutable objects off a server that is emptied: their shares are made again, at the same version, on others.

A share can't be copied as it is: its container carries a write enabler for the server that it lies on. That for another
one is made from the write cap; without it only servers that have a share of the object already can take more of it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from lafscli.formats.caps import MutableReadCap, MutableWriteCap
from lafscli.health.check import Checking, check_many
from lafscli.health.regrowth import Mending
from lafscli.health.renew import renew_many
from lafscli.health.report import CheckReport, MutableCap
from lafscli.health.slotcase import NEEDS_WRITE_CAP, SlotCase
from lafscli.health.slotrepair import Ailing, SlotRepair, refusal
from lafscli.immutable.pipeline import Codec
from lafscli.storage.grid import Grid
from lafscli.storage.store import Progress, StorageIndex

_TOGETHER = 500


@dataclass(frozen=True, slots=True)
class Slots:
    """How shares of mutable objects are made elsewhere. `caps`: of some storage indexes, the caps that are known."""

    caps: Callable[[Collection[StorageIndex]], Mapping[StorageIndex, MutableCap]]
    checking: Checking
    mending: Mending


class Told(Protocol):
    """Who is told what became of each share."""

    def copied(self, size: int) -> None: ...
    def elsewhere(self) -> None: ...
    def failed(self, si: StorageIndex, shnum: int, reason: str) -> None: ...


def strongest(caps: Sequence[MutableCap]) -> dict[StorageIndex, MutableCap]:
    """Of each object the cap that grants most."""
    found: dict[StorageIndex, MutableCap] = {}
    for cap in caps:
        si = cap.verify_cap().si
        if si not in found or _power(cap) > _power(found[si]):
            found[si] = cap
    return found


def _power(cap: MutableCap) -> int:
    return 2 if isinstance(cap, MutableWriteCap) else int(isinstance(cap, MutableReadCap))


def move_slots(
    grid: Grid,
    name: str,
    shares: Mapping[StorageIndex, Sequence[int]],
    slots: Slots,
    progress: Progress,
    told: Told,
) -> None:
    """See to it that these shares of a server lie on others, too, with leases of ours."""
    caps, mending = slots.caps(shares.keys()), slots.mending
    for si, shnums in shares.items():
        if si not in caps:
            for shnum in shnums:
                told.failed(si, shnum, f"no alias and no pin of this home leads to it: {NEEDS_WRITE_CAP}")
    known = [si for si in shares if si in caps]
    checking = replace(slots.checking, verify=False, sample=None, renew=None, max_time=None, assume_lost=frozenset())
    with Codec() as codec:
        repair = SlotRepair(grid, codec, checking, mending, progress, emptied=frozenset([name]))
        for start in range(0, len(known), _TOGETHER):
            some = known[start : start + _TOGETHER]
            reports = list(check_many(grid, [caps[si] for si in some], checking, progress))
            movable: list[Ailing] = []
            for number, (si, report) in enumerate(zip(some, reports, strict=True)):
                reason = _reason(report)
                if reason is None:
                    movable.append((number, report))
                    continue
                for shnum in shares[si]:
                    told.failed(si, shnum, reason)
            for number, case in repair.cases(movable):
                _tell(some[number], shares[some[number]], case, told)
            # what was there already may have had no lease of ours
            for _ in renew_many(grid, [caps[some[number]].verify_cap() for number, _ in movable], mending.lease):
                pass


def _reason(report: CheckReport) -> str | None:
    """Why the shares of an object can't be made elsewhere."""
    state = report.slot
    assert state is not None, "this is a mutable object"
    if not report.recoverable or state.merge or state.interrupted or state.newer is not None:
        return refusal(report, force=False) or "a writer stopped half-way: repair it first"
    return None


def _tell(si: StorageIndex, shnums: Sequence[int], case: SlotCase | None, told: Told) -> None:
    if case is None:
        for shnum in shnums:
            told.failed(si, shnum, "it has changed meanwhile: run it again")
        return
    for shnum in shnums:
        ours = {place for place in case.ours if place[1] == shnum}
        if ours:
            told.copied(case.version.layout.eof)
        elif case.good.get(shnum) or shnum >= case.version.prefix.n:
            told.elsewhere()
        else:
            reasons = case.why_not()
            if not case.writable and NEEDS_WRITE_CAP not in "".join(reasons):
                reasons.append(NEEDS_WRITE_CAP)
            told.failed(si, shnum, "; ".join(reasons) or "no server takes it")
