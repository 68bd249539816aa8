"""What was measured, as a table and as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """One measured figure.

    `baseline` is what it is compared with, in the same unit. `target` bounds the ratio where there is a baseline,
    the figure itself where there is none: at most, or at least where `at_least`.
    """

    name: str
    figure: float
    unit: str
    baseline: float | None = None
    target: float | None = None
    aim: float | None = None
    at_least: bool = False
    note: str = ""
    runs: Sequence[float] = field(default=())
    costs: Sequence[dict[str, Any]] = field(default=())
    """Of every run that counted, and of what it is compared with."""

    @property
    def ratio(self) -> float | None:
        return None if self.baseline is None else self.figure / self.baseline

    @property
    def verdict(self) -> str:
        """`ok`, `MISSED`, or nothing for a figure without a target."""
        if self.target is None:
            return ""
        judged = self.figure if self.ratio is None else self.ratio
        return "ok" if (judged >= self.target if self.at_least else judged <= self.target) else "MISSED"

    def document(self) -> dict[str, Any]:
        """For the JSON file."""
        return {
            "name": self.name,
            "figure": round(self.figure, 4),
            "unit": self.unit,
            "baseline": None if self.baseline is None else round(self.baseline, 4),
            "ratio": None if self.ratio is None else round(self.ratio, 3),
            "target": self.target,
            "aim": self.aim,
            "at_least": self.at_least,
            "verdict": self.verdict,
            "note": self.note,
            "runs": [round(run, 4) for run in self.runs],
            "costs": list(self.costs),
        }


def median_row(name: str, runs: Sequence[float], unit: str, **more: Any) -> Row:
    """The row of the median of several runs."""
    return Row(name, statistics.median(runs), unit, runs=tuple(runs), **more)


def lines(rows: Sequence[Row]) -> list[str]:
    """The table as text."""
    cells = [("what", "figure", "baseline", "ratio", "target", "verdict", "")]
    for row in rows:
        bound = "" if row.target is None else f"{'>=' if row.at_least else '<='} {row.target:g}"
        if row.aim is not None:
            bound += f" (aim {row.aim:g})"
        cells.append(
            (
                row.name,
                f"{_number(row.figure)} {row.unit}",
                "" if row.baseline is None else f"{_number(row.baseline)} {row.unit}",
                "" if row.ratio is None else f"{row.ratio:.2f} x",
                bound,
                row.verdict,
                row.note,
            )
        )
    widths = [max(len(each[column]) for each in cells) for column in range(6)]
    texts = []
    for each in cells:
        padded = [each[0].ljust(widths[0])]
        padded += [each[column].rjust(widths[column]) for column in range(1, 4)]
        padded += [each[column].ljust(widths[column]) for column in range(4, 6)]
        texts.append("  ".join([*padded, each[6]]).rstrip())
    return texts


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 20 else f"{value:.3f}"
