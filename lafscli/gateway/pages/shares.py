"""The health of an object as a grid: a row for each server, a column for each share number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lafscli.health.report import CheckReport
from lafscli.health.words import SORTS, may_be_lost, state
from lafscli.primitives.text import count

Mark = Literal["good", "corrupt", "other", "unknown", "none"]

SIGNS: dict[Mark, tuple[str, str]] = {
    "good": ("●", "good"),
    "corrupt": ("✕", "corrupt"),
    "other": ("○", "another version"),
    "unknown": ("?", "unknown"),
    "none": ("", ""),
}
"""How a mark looks, and what it means."""


@dataclass(frozen=True, slots=True)
class ServerRow:
    """One server: its marks by share number, and what is to be said about it."""

    name: str
    marks: tuple[Mark, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ShareGrid:
    """The shares of one object. `copies`: of each share number, how many good ones were found; `word`: the state."""

    word: str
    summary: tuple[str, ...]
    numbers: range
    rows: tuple[ServerRow, ...]
    copies: tuple[int, ...]
    silent: bool


def share_grid(report: CheckReport, servers: Sequence[str], refused: str = "") -> ShareGrid:
    """A report, with all these servers. `refused`: why a repair was not begun."""
    cells = _cells(report)
    numbers = range(max([report.encoding[1] if report.cap is not None else 0, *(number + 1 for _, number in cells)]))
    silent = {each.server: each.reason for each in report.unreachable}
    rows = []
    for server in servers:
        rest: Mark = "unknown" if server in silent else "none"
        marks = tuple(cells.get((server, number), rest) for number in numbers)
        notes = [f"did not answer: {silent[server]}"] if server in silent else []
        for bad in report.corrupt:
            if bad.server == server:
                notes.append(f"share {bad.shnum} is {SORTS[bad.sort]}: {bad.reason}")
        rows.append(ServerRow(server, marks, tuple(notes)))
    copies = tuple(len(report.shares.get(number, ())) for number in numbers)
    return ShareGrid(report.state, _summary(report, refused), numbers, tuple(rows), copies, bool(silent))


def _cells(report: CheckReport) -> dict[tuple[str, int], Mark]:
    cells: dict[tuple[str, int], Mark] = {}
    for server, others in (report.slot.others if report.slot is not None else {}).items():
        for _, shnum in others:
            cells[server, shnum] = "other"
    for shnum, names in report.shares.items():
        for server in names:
            cells[server, shnum] = "good"
    for bad in report.corrupt:
        cells[bad.server, bad.shnum] = "corrupt"
    return cells


def _summary(report: CheckReport, refused: str) -> tuple[str, ...]:
    """Sentences: how it is, how much may be lost, what was not looked at, what was repaired."""
    said = [state(report)]
    if report.recoverable and report.cap is not None:
        said.append(may_be_lost(report))
    if report.cap is not None and not report.verified:
        said.append("shares were counted, not read")
    if refused:
        said.append(refused)
    repair = report.repair
    if repair is not None and not repair.attempted:
        said.append(f"not repaired: {repair.reason}")
    elif repair is not None:
        done = "repaired" if repair.successful else f"repaired in part ({repair.reason})"
        said.append(f"{done}: {count(repair.written, 'share')} stored")
    return tuple(f"{each[0].upper()}{each[1:]}." for each in said)
