"""What a check found of one object, as the web API tells it (spec 08 §4, 05 §5).

Servers are told by their node ids in base32, which `lafs server list` shows too. Happiness has no influence on
`healthy` here. What is all in its cap, or unknown, is healthy and has no storage index.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lafscli.health.report import CheckReport
from lafscli.primitives.encoding import b32encode
from lafscli.primitives.text import count
from lafscli.storage.grid import Grid

NodeIds = Mapping[str, str]
"""The id text of each server, by its name."""

_ROOT_HASH_CHARACTERS = 4


def node_ids(grid: Grid) -> NodeIds:
    """The servers of a grid, in the order of its configuration."""
    return {store.server.name: b32encode(store.server.node_id) for store in grid.stores}


def healthy(report: CheckReport) -> bool:
    """Whether all N shares are there, of a mutable object of the only version of which there is any trace."""
    if report.cap is None:
        return True
    whole = report.good_shares == report.encoding[1] and report.flaw is None
    return whole and (report.slot is None or report.slot.single)


def checked(report: CheckReport, ids: NodeIds) -> dict[str, Any]:
    """What was found."""
    if report.cap is None:
        return {"storage-index": "", "results": {"healthy": True}}
    slot, (k, n), si = report.slot, report.encoding, b32encode(report.cap.si)
    recoverable = report.recoverable is True
    silent = {each.server for each in report.unreachable}
    corrupt = [[ids[bad.server], si, bad.shnum] for bad in report.corrupt]
    results = {
        "count-happiness": report.happiness,
        "count-shares-good": report.good_shares,
        "count-shares-needed": k,
        "count-shares-expected": n,
        "count-good-share-hosts": len(report.holders),
        "count-corrupt-shares": len(corrupt),
        "list-corrupt-shares": corrupt,
        "servers-responding": [text for name, text in ids.items() if name not in silent],
        "sharemap": _sharemap(report, ids),
        "count-wrong-shares": 0 if slot is None else len({share for held in slot.others.values() for share in held}),
        "count-recoverable-versions": int(recoverable) if slot is None else slot.recoverable,
        "count-unrecoverable-versions": int(not recoverable) if slot is None else slot.unrecoverable,
        "healthy": healthy(report),
        "recoverable": recoverable,
    }
    return {"storage-index": si, "summary": summary(report), "results": results}


def summary(report: CheckReport) -> str:
    """One line for it; says nothing about an object without shares but that it is healthy."""
    if healthy(report):
        return "Healthy"
    silent = f"; {count(len(report.unreachable), 'server')} did not answer" if report.unreachable else ""
    return f"{_found(report)}{silent}"


def _found(report: CheckReport) -> str:
    shares = f"{report.good_shares} shares (enc {'{}-of-{}'.format(*report.encoding)})"
    slot = report.slot
    if slot is None:
        return f"Not Healthy: {shares}"
    reasons = []
    if slot.unrecoverable or (slot.recoverable and slot.newer is not None):
        reasons.append("some versions are unrecoverable")
    if not slot.recoverable:
        reasons.append("no versions are recoverable")
    elif slot.recoverable > 1:
        reasons.append("multiple versions are recoverable")
    if slot.recoverable and report.good_shares < slot.n:
        reasons.append(shares)
    return "Unhealthy: " + " ".join(reasons or [shares])


def repaired(before: CheckReport, after: CheckReport, ids: NodeIds) -> dict[str, Any]:
    """What was found, and what a repair made of it where one was called for."""
    if before.cap is None:
        return {"storage-index": "", "repair-attempted": False}
    attempted = after.repair is not None and after.repair.attempted
    return {
        "storage-index": b32encode(before.cap.si),
        "repair-attempted": attempted,
        "repair-successful": attempted and after.repair is not None and after.repair.successful,
        "pre-repair-results": checked(before, ids),
        "post-repair-results": checked(after if attempted else before, ids),
    }


def _sharemap(report: CheckReport, ids: NodeIds) -> dict[str, list[str]]:
    """The servers that hold each share that is good, of whatever version."""
    slot = report.slot
    if slot is None:
        return {str(shnum): [ids[name] for name in names] for shnum, names in report.shares.items()}
    found: dict[str, list[str]] = {}
    for shnum, names in report.shares.items():
        found[_share_id(slot.seqnum, slot.root_hash, shnum)] = [ids[name] for name in names]
    for name, others in slot.others.items():
        for version, shnum in others:
            found.setdefault(_share_id(*slot.other_versions[version], shnum), []).append(ids[name])
    return found


def _share_id(seqnum: int, root_hash: bytes, shnum: int) -> str:
    return f"seq{seqnum}-{b32encode(root_hash)[:_ROOT_HASH_CHARACTERS]}-sh{shnum}"
