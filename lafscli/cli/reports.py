"""Reports of health in words (CLI.md §5): how it is, how much may be lost, what was not looked at, what to do."""

from __future__ import annotations

import re

from lafscli.cli.targets import like_a_cap
from lafscli.health.report import CheckReport, Repair
from lafscli.health.summary import Summary
from lafscli.health.words import SORTS, WORDS, may_be_lost, state
from lafscli.primitives.text import count, escape


def text(report: CheckReport, target: str) -> str:
    """A report: one line that says how it is, how much may be lost, what was not looked at and what to do; then a line
    for each share and server that is to be named."""
    parts = [state(report)]
    if report.repair is not None:
        parts.append(_repaired(report.repair))
    if report.recoverable and report.cap is not None:
        parts.append(may_be_lost(report))
    if report.leases is not None:
        parts.append(f"{count(report.leases.renewed, 'lease')} renewed, {report.leases.added} added")
    parts += [part for part in (_not_looked_at(report), _advice(report, target)) if part]
    lines = ["; ".join(parts)]
    lines += [f"  {bad.server}: share {bad.shnum} is {SORTS[bad.sort]}: {bad.reason}" for bad in report.corrupt]
    lines += [f"  {each.server} did not answer: {each.reason}" for each in report.unreachable]
    return "\n".join(escape(line) for line in lines)


def _repaired(repair: Repair) -> str:
    if not repair.attempted:
        return f"not repaired: {repair.reason}"
    done = f"repaired: {count(repair.written, 'share')} stored"
    return done if repair.successful else f"repaired in part: {count(repair.written, 'share')} stored ({repair.reason})"


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


def overview(summary: Summary) -> str:
    """The last line of several."""
    parts = [f"{number} {WORDS[state]}" for state, number in summary.states.items() if number]
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
