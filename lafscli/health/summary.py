"""What a run over several objects found (CLI.md §5)."""

from __future__ import annotations

from typing import Any

from lafscli.health.report import CheckReport, Leases, State


class Summary:
    """What a run over several objects found."""

    def __init__(self) -> None:
        self.objects = 0
        self.literal = 0
        self.states: dict[State, int] = {"healthy": 0, "degraded": 0, "unrecoverable": 0, "unknown": 0}
        self.corrupt_shares = 0
        self.repaired = 0
        self.leases = Leases()
        self.not_reached = 0
        """Objects that the time was too short for."""
        self.cut_short = False
        """There may be more objects, of which nobody has heard."""
        self.unseen = 0
        """Names that could not be looked at: of an unknown kind, or in a directory that can't be read."""

    def add(self, report: CheckReport) -> None:
        self.objects += 1
        self.literal += report.cap is None
        self.states[report.state] += 1
        self.corrupt_shares += len(report.corrupt)
        self.repaired += report.repair is not None and report.repair.successful
        if report.leases is not None:
            self.leases += report.leases

    def document(self) -> dict[str, Any]:
        """The last line of several (CLI.md §5)."""
        found: dict[str, Any] = {"objects": self.objects}
        found |= {str(state): count for state, count in self.states.items()}
        found |= {"repaired": self.repaired, "corrupt_shares": self.corrupt_shares}
        if self.not_reached:
            found["not_reached"] = self.not_reached
        if self.cut_short:
            found["incomplete"] = True
        if self.unseen:
            found["not_looked_at"] = self.unseen
        return found
