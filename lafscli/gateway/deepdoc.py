"""Objects of a tree, and what a walk over them came to, as the web API tells it (spec 08 §5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lafscli.formats.caps import Cap, ChkCap, ChkVerifyCap, UnknownCap
from lafscli.gateway.reportdoc import NodeIds, checked, healthy
from lafscli.health.report import CheckReport
from lafscli.primitives.encoding import b32encode
from lafscli.tree.stats import Stats

Path = tuple[str, ...]

Append = Callable[[str, Any], None]
"""Takes an entry of the list of that name."""


def described(path: Path, cap: Cap) -> dict[str, Any]:
    """An object by its path below the root. `repaircap` is the least that repairs it; nothing for an immutable
    directory, as in Tahoe."""
    verify, si, text = cap.verify_cap(), cap.storage_index, str(cap)
    verify_text = "" if verify is None else str(verify)
    return {
        "path": list(path),
        "cap": text,
        "type": "directory" if cap.is_directory else "unknown" if isinstance(cap, UnknownCap) else "file",
        "verifycap": verify_text,
        "repaircap": verify_text if isinstance(cap, ChkCap | ChkVerifyCap) else text if cap.writable else "",
        "storage-index": "" if si is None else b32encode(si),
    }


MANIFEST = ("manifest", "verifycaps", "storage-index")
"""Names of the lists of a manifest."""


def list_object(append: Append, path: Path, cap: Cap) -> None:
    """One more object of a manifest."""
    verify, si = cap.verify_cap(), cap.storage_index
    append("manifest", [list(path), str(cap)])
    if verify is not None and si is not None:
        append("verifycaps", str(verify))
        append("storage-index", b32encode(si))


def stats_document(stats: Stats) -> dict[str, Any]:
    """What a tree holds, counted."""
    return {key.replace("_", "-"): value for key, value in stats.document().items()}


class Counted:
    """What a deep check came to. `mended`: it was to repair, and each object comes as it was and as it is now. What is
    not counted but listed goes to `append`, of the `lists` that there are."""

    def __init__(self, root: Cap, ids: NodeIds, append: Append, *, mended: bool) -> None:
        self._root = "" if root.storage_index is None else b32encode(root.storage_index)
        self._ids = ids
        self._append = append
        self._mended = mended
        self._checked = self._attempted = self._successful = 0
        self._before = _Tally()
        self._after = _Tally()

    @staticmethod
    def lists(*, mended: bool) -> list[str]:
        """Names of the lists."""
        remaining = ["list-remaining-corrupt-shares"] if mended else []
        return ["list-corrupt-shares", *remaining, "list-unhealthy-files"]

    def add(self, path: Path, before: CheckReport, after: CheckReport) -> None:
        """Count an object; what is all in its cap is none that can be checked."""
        if before.cap is None:
            return
        self._checked += 1
        self._before.add(before)
        self._after.add(after)
        self._list_corrupt("list-corrupt-shares", before)
        if self._mended:
            self._list_corrupt("list-remaining-corrupt-shares", after)
        if after.repair is not None and after.repair.attempted:
            self._attempted += 1
            self._successful += after.repair.successful
        if not healthy(after):
            self._append("list-unhealthy-files", [list(path), checked(after, self._ids)])

    def _list_corrupt(self, name: str, report: CheckReport) -> None:
        for bad in report.corrupt:
            assert report.cap is not None, "it has shares"
            self._append(name, [self._ids[bad.server], b32encode(report.cap.si), bad.shnum])

    def document(self) -> dict[str, Any]:
        """The counts so far."""
        found: dict[str, Any] = {"root-storage-index": self._root, "count-objects-checked": self._checked}
        if not self._mended:
            return found | {
                "count-objects-healthy": self._before.healthy,
                "count-objects-unhealthy": self._before.unhealthy,
                "count-corrupt-shares": self._before.corrupt,
            }
        return found | {
            "count-objects-healthy-pre-repair": self._before.healthy,
            "count-objects-unhealthy-pre-repair": self._before.unhealthy,
            "count-objects-healthy-post-repair": self._after.healthy,
            "count-objects-unhealthy-post-repair": self._after.unhealthy,
            "count-repairs-attempted": self._attempted,
            "count-repairs-successful": self._successful,
            "count-repairs-unsuccessful": self._attempted - self._successful,
            "count-corrupt-shares-pre-repair": self._before.corrupt,
            "count-corrupt-shares-post-repair": self._after.corrupt,
        }


class _Tally:
    """Objects by their health, and corrupt shares."""

    def __init__(self) -> None:
        self.healthy = self.unhealthy = self.corrupt = 0

    def add(self, report: CheckReport) -> None:
        if healthy(report):
            self.healthy += 1
        else:
            self.unhealthy += 1
        self.corrupt += len(report.corrupt)
