"""Reports of health in words (CLI.md §5): how it is, how much may be lost, what was not looked at, what to do."""

from __future__ import annotations

import re

from lafscli.cli.targets import like_a_cap
from lafscli.health.report import CheckReport, Repair
from lafscli.health.summary import Summary
from lafscli.primitives.text import escape


def text(report: CheckReport, target: str) -> str:
    """A report: one line that says how it is, how much may be lost, what was not looked at and what to do; then a line
    for each share and server that is to be named."""
    parts = [_state(report)]
    if report.repair is not None:
        parts.append(_repaired(report.repair))
    if report.recoverable and report.cap is not None:
        parts.append(_may_be_lost(report))
    if report.leases is not None:
        parts.append(f"{count(report.leases.renewed, 'lease')} renewed, {report.leases.added} added")
    parts += [part for part in (_not_looked_at(report), _advice(report, target)) if part]
    lines = ["; ".join(parts)]
    lines += [f"  {bad.server}: share {bad.shnum} is {_SORTS[bad.sort]}: {bad.reason}" for bad in report.corrupt]
    lines += [f"  {each.server} did not answer: {each.reason}" for each in report.unreachable]
    return "\n".join(escape(line) for line in lines)


def _repaired(repair: Repair) -> str:
    if not repair.attempted:
        return f"not repaired: {repair.reason}"
    done = f"repaired: {count(repair.written, 'share')} stored"
    return done if repair.successful else f"repaired in part: {count(repair.written, 'share')} stored ({repair.reason})"


_SORTS = {"corrupt": "corrupt", "incompatible": "of another version", "unreadable": "unreadable", "key": "corrupt"}
_WORDS = {"healthy": "healthy", "degraded": "damaged", "unrecoverable": "lost", "unknown": "cannot tell"}


def _state(report: CheckReport) -> str:
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
    return "; ".join([f"{_WORDS[report.state]}: {found}", *_versions(report)])


def _versions(report: CheckReport) -> list[str]:
    """What there is besides one version of a mutable object."""
    state = report.slot
    if state is None or state.single:
        return []
    said = []
    if state.merge:
        said.append(f"two versions have number {state.seqnum}")
    if state.newer is not None and state.newer == state.seqnum:  # none can be recovered, and these are of the newest
        said.append(f"these are of version {state.newer}, the newest that was seen")
    elif state.newer is not None:
        said.append(f"version {state.newer} was there, newer than {state.seqnum}, and can't be recovered")
    if state.interrupted:
        said.append("a writer stopped half-way")
    if state.others and report.recoverable:
        said.append(f"shares of other versions on {count(len(state.others), 'server')}")
    return said


def _may_be_lost(report: CheckReport) -> str:
    more = "" if report.state == "healthy" else "more "
    return f"any {count(report.spare, more + 'server')} may be lost" if report.spare else "no server may be lost"


def _not_looked_at(report: CheckReport) -> str:
    if report.cap is None:
        return ""
    if not report.verified:
        return "shares were counted, not read (--verify reads them)"
    left = report.to_prove - report.proved
    return f"{100 * left / report.to_prove:.3g} % of the blocks were not read" if left > 0 else ""


def _advice(report: CheckReport, target: str) -> str:
    if report.repair is not None:
        return "lafs server status shows how the servers are" if report.state == "degraded" else ""
    if report.state == "degraded":
        command = "check --rebalance" if report.complete else "repair"
        if report.slot is not None and (report.slot.merge or report.slot.newer is not None):
            command += " --force"
        return f"to mend it: lafs {command} {_argument(target)}"
    if report.state == "unrecoverable":
        return "bring back a server that has more shares" if report.flaw is None else ""
    if report.state == "unknown":
        return "try again, or say which server will not come back: --assume-lost"
    return ""


def _argument(target: str) -> str:
    """A target as it may be shown, and given to another command; no cap, and none that was replaced by its name."""
    first = target.partition("/")[0]
    named = ":" in first or first.startswith("@") or not re.fullmatch(r"[a-z2-7]{26}", first)
    return target if named and not like_a_cap(target) else "CAP"


def count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def overview(summary: Summary) -> str:
    """The last line of several."""
    parts = [f"{number} {_WORDS[state]}" for state, number in summary.states.items() if number]
    if summary.repaired:
        parts.append(f"{summary.repaired} of them repaired")
    if summary.corrupt_shares:
        parts.append(count(summary.corrupt_shares, "corrupt share"))
    if summary.not_reached:
        parts.append(f"{summary.not_reached} not looked at: the time was over")
    if summary.cut_short:
        parts.append("there may be more: the time was over")
    if summary.unseen:
        parts.append(f"{count(summary.unseen, 'name')} that could not be looked at")
    return ": ".join([count(summary.objects, "object"), ", ".join(parts)] if parts else ["no object"])
