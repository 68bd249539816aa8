"""How an object is, in words (CLI.md §5): for every place that shows a report to people."""

from __future__ import annotations

from lafscli.health.report import CheckReport
from lafscli.primitives.text import count

SORTS = {"corrupt": "corrupt", "incompatible": "of another version", "unreadable": "unreadable", "key": "corrupt"}
WORDS = {"healthy": "healthy", "degraded": "damaged", "unrecoverable": "lost", "unknown": "cannot tell"}


def state(report: CheckReport) -> str:
    """How it is, how many shares were found, and what there is besides one version."""
    if report.cap is None:
        return "healthy: the content is in the cap itself"
    if report.flaw is not None:
        return f"lost: {report.flaw}"
    k, n = report.encoding
    found = f"{report.good_shares} of {n} shares on {count(len(report.holders), 'server')}"
    if report.recoverable is not True:
        found += f", {k} are needed"
    elif report.state == "degraded" and report.happiness < report.happy:
        found += f" (happiness {report.happiness}, {report.happy} wanted)"
    return "; ".join([f"{WORDS[report.state]}: {found}", *_versions(report)])


def _versions(report: CheckReport) -> list[str]:
    """What there is besides one version of a mutable object."""
    slot = report.slot
    if slot is None or slot.single:
        return []
    said = []
    if slot.merge:
        said.append(f"two versions have number {slot.seqnum}")
    if slot.newer is not None and slot.newer == slot.seqnum:  # none can be recovered, and these are of the newest
        said.append(f"these are of version {slot.newer}, the newest that was seen")
    elif slot.newer is not None:
        said.append(f"version {slot.newer} was there, newer than {slot.seqnum}, and can't be recovered")
    if slot.interrupted:
        said.append("a writer stopped half-way")
    if slot.others and report.recoverable:
        said.append(f"shares of other versions on {count(len(slot.others), 'server')}")
    return said


def may_be_lost(report: CheckReport) -> str:
    """How many servers can go before it is lost; of an object that is recoverable."""
    more = "" if report.state == "healthy" else "more "
    return f"any {count(report.spare, more + 'server')} may be lost" if report.spare else "no server may be lost"
