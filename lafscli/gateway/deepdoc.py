"""Objects of a tree, and what a walk over them came to, as the web API tells it (spec 08 §5)."""

from __future__ import annotations

from typing import Any

from lafscli.formats.caps import Cap, ChkCap, ChkVerifyCap, UnknownCap
from lafscli.gateway.reportdoc import NodeIds, checked, healthy
from lafscli.health.report import CheckReport
from lafscli.primitives.encoding import b32encode
from lafscli.tree.stats import Stats

Path = tuple[str, ...]

MOST_LISTED = 10_000
"""Corrupt shares, and unhealthy files, that are listed; the counts go on."""


def described(path: Path, cap: Cap) -> dict[str, Any]:
    """An object by its path below the root. `repaircap` is the least that repairs it; nothing for an immutable
    directory, as in Tahoe."""
    verify, si = cap.verify_cap(), cap.storage_index
    return {
        "path": list(path),
        "cap": str(cap),
        "type": "directory" if cap.is_directory else "unknown" if isinstance(cap, UnknownCap) else "file",
        "verifycap": "" if verify is None else str(verify),
        "repaircap": _repair_cap(cap),
        "storage-index": "" if si is None else b32encode(si),
    }


def _repair_cap(cap: Cap) -> str:
    if isinstance(cap, ChkCap | ChkVerifyCap):
        return str(cap.verify_cap())
    return str(cap) if cap.writable and not isinstance(cap, UnknownCap) else ""


def stats_document(stats: Stats) -> dict[str, Any]:
    """What a tree holds, counted."""
    return {key.replace("_", "-"): value for key, value in stats.document().items()}


class Counted:
    """What a deep check came to. `mended`: it was to repair, and each object comes as it was and as it is now."""

    def __init__(self, root: Cap, ids: NodeIds, *, mended: bool) -> None:
        self._root = "" if root.storage_index is None else b32encode(root.storage_index)
        self._ids = ids
        self._mended = mended
        self._checked = self._attempted = self._successful = 0
        self._before = _Tally(ids)
        self._after = _Tally(ids)
        self._unhealthy: list[list[Any]] = []

    def add(self, path: Path, before: CheckReport, after: CheckReport) -> None:
        """Count an object; what is all in its cap is none that can be checked."""
        if before.cap is None:
            return
        self._checked += 1
        self._before.add(before)
        self._after.add(after)
        if after.repair is not None and after.repair.attempted:
            self._attempted += 1
            self._successful += after.repair.successful
        if not healthy(after) and len(self._unhealthy) < MOST_LISTED:
            self._unhealthy.append([list(path), checked(after, self._ids)])

    def document(self) -> dict[str, Any]:
        """The counts so far."""
        found: dict[str, Any] = {"root-storage-index": self._root, "count-objects-checked": self._checked}
        if not self._mended:
            found |= {
                "count-objects-healthy": self._before.healthy,
                "count-objects-unhealthy": self._before.unhealthy,
                "count-corrupt-shares": self._before.corrupt,
                "list-corrupt-shares": self._before.listed,
            }
        else:
            found |= {
                "count-objects-healthy-pre-repair": self._before.healthy,
                "count-objects-unhealthy-pre-repair": self._before.unhealthy,
                "count-objects-healthy-post-repair": self._after.healthy,
                "count-objects-unhealthy-post-repair": self._after.unhealthy,
                "count-repairs-attempted": self._attempted,
                "count-repairs-successful": self._successful,
                "count-repairs-unsuccessful": self._attempted - self._successful,
                "count-corrupt-shares-pre-repair": self._before.corrupt,
                "count-corrupt-shares-post-repair": self._after.corrupt,
                "list-corrupt-shares": self._before.listed,
                "list-remaining-corrupt-shares": self._after.listed,
            }
        return found | {"list-unhealthy-files": self._unhealthy}


class _Tally:
    """Objects by their health, and corrupt shares."""

    def __init__(self, ids: NodeIds) -> None:
        self._ids = ids
        self.healthy = self.unhealthy = self.corrupt = 0
        self.listed: list[list[Any]] = []

    def add(self, report: CheckReport) -> None:
        if healthy(report):
            self.healthy += 1
        else:
            self.unhealthy += 1
        self.corrupt += len(report.corrupt)
        si = "" if report.storage_index is None else b32encode(report.storage_index)
        room = MOST_LISTED - len(self.listed)
        self.listed += [[self._ids[bad.server], si, bad.shnum] for bad in report.corrupt[:room]]
