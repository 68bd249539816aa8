"""Tools at the storage host, which need no home: gc --host, and the scrub of `serve` (CLI.md §7)."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lafscli.cli.frame import Frame
from lafscli.cli.progress import ShownProgress
from lafscli.config.collecting import GRACE
from lafscli.errors import Busy, Damaged, Partial, UsageError
from lafscli.primitives.text import count, human_size

if TYPE_CHECKING:
    from lafscli.server.assay import Damage
    from lafscli.server.bringback import BroughtBack
    from lafscli.server.hostfolder import HostFolder
    from lafscli.server.hostgc import Collected
    from lafscli.server.hostguard import HostGuards
    from lafscli.server.turns import Turns

_NODE_FILES = ("my_nodeid", "node.pubkey", "tahoe.cfg")


@contextmanager
def opened(frame: Frame, root: str | Path, progress: ShownProgress | None = None) -> Iterator[HostFolder]:
    """The storage folder; what fails in it is named."""
    from lafscli.server.hostfolder import HostFolder

    name = frame.out.name if progress is None else progress.name
    with HostFolder(Path(root), named=lambda path, why: name(f"{path}: {why}")) as folder:
        yield folder


@contextmanager
def alone(folder: HostFolder, job: str, turns: Turns | None = None) -> Iterator[HostGuards]:
    """The right to change things there, for one run of a job at a time; Busy for a second one."""
    from lafscli.server.hostguard import BusyJob, host_guards

    try:
        with host_guards(folder, random_bytes=os.urandom, job=job, turns=turns) as guards:
            yield guards
    except BusyJob:
        raise Busy(f"another {job} of {folder.root} is running") from None


# ---- gc


def collect(
    frame: Frame,
    host: str,
    *,
    delete: bool,
    grace: int | None,
    undo: bool,
    older_than: int | None,
    cutoff: float | None,
    only: str | None,
    leaseless: bool,
) -> None:
    """What `gc --host` does."""
    from lafscli.server.expiry import Expiry
    from lafscli.server.hostgc import HostCollection, Wish

    if older_than is not None and cutoff is not None:
        raise UsageError("--older-than and --cutoff are two policies: take one")
    if undo and (delete or only or grace is not None or older_than is not None or cutoff is not None):
        raise UsageError("--undo brings back all that can be; no other option but --leaseless goes with it")
    if undo:
        _undo(frame, host, leaseless)
        return
    wish = Wish(Expiry(time.time(), older_than, cutoff), delete, only, leaseless, GRACE if grace is None else grace)
    with (
        ShownProgress(frame.connections, frame.out, f"gc {host}") as progress,
        opened(frame, host, progress) as folder,
    ):
        _warn_of_a_node(frame, folder)
        progress.start("gc", None)
        if delete:
            with alone(folder, "gc") as guards:
                found = HostCollection(folder, guards, wish, advance=progress.advance).run()
        else:
            found = HostCollection(folder, None, wish, advance=progress.advance).run()
    _tell_skipped(frame, found.skipped)
    frame.out.show(_gc_document(found, folder, delete), _gc_text(found, delete))
    if not delete and (found.shares or found.leases or found.purged or found.kept_versions):
        frame.out.tell("nothing was changed: --delete does it")
    if folder.failures:
        raise SystemExit(Partial.exit_code)


def _gc_document(found: Collected, folder: HostFolder, deleted: bool) -> dict[str, Any]:
    return {
        "examined": found.examined,
        "objects": found.objects,
        "shares": found.shares,
        "bytes": found.bytes,
        "leases": found.leases,
        "kept_versions": found.kept_versions,
        "purged": {"shares": found.purged, "bytes": found.purged_bytes},
        "skipped": _counts(found.skipped),
        "failed": _failures(folder),
        "deleted": deleted,
    }


def _gc_text(found: Collected, deleted: bool) -> str:
    goes = "moved to trash" if deleted else "would go to trash"
    parts = [f"{count(found.examined, 'share')} looked at: {found.shares} {goes} ({human_size(found.bytes)})"]
    if found.leases:
        parts.append(f"{count(found.leases, 'lease')} {'taken' if deleted else 'would be taken'} out of others")
    if found.kept_versions:
        parts.append(f"{count(found.kept_versions, 'kept version')} {goes}")
    if found.purged:
        gone = "removed from trash for good" if deleted else "in trash would go for good"
        parts.append(f"{found.purged} {gone} ({human_size(found.purged_bytes)})")
    return "; ".join(parts)


def _undo(frame: Frame, host: str, leaseless: bool) -> None:
    from lafscli.server.bringback import bring_back

    with opened(frame, host) as folder, alone(folder, "gc") as guards:
        done: BroughtBack = bring_back(folder, guards, now=time.time(), leaseless=leaseless)
    _tell_skipped(frame, done.skipped)
    document = {
        "shares": done.shares,
        "bytes": done.bytes,
        "kept_versions": done.kept_versions,
        "prolonged": done.prolonged,
        "skipped": _counts(done.skipped),
        "failed": _failures(folder),
    }
    text = f"{count(done.shares, 'share')} back in place ({human_size(done.bytes)})"
    if done.prolonged:
        text += f"; {count(done.prolonged, 'lease')} that had ended got 31 days"
    frame.out.show(document, text)
    if folder.failures:
        raise SystemExit(Partial.exit_code)


def _warn_of_a_node(frame: Frame, folder: HostFolder) -> None:
    """A Tahoe node that runs takes no part in guards (spec 10 §2.10)."""
    for place in (folder.root, folder.root.parent):
        if any((place / name).exists() for name in _NODE_FILES):
            frame.out.warn(f"{folder.root} belongs to a Tahoe node: it must not run while something is removed")
            return


def _tell_skipped(frame: Frame, skipped: Counter[str]) -> None:
    for reason, number in sorted(skipped.items()):
        frame.out.tell(f"{count(number, 'share')} left: {reason}")


def _counts(skipped: Counter[str]) -> list[dict[str, Any]]:
    return [{"reason": reason, "count": number} for reason, number in sorted(skipped.items())]


def _failures(folder: HostFolder) -> list[dict[str, str]]:
    return [{"path": path, "reason": why} for path, why in folder.failures.items()]


# ---- scrub


def scrub(frame: Frame, root: str | Path, *, dry_run: bool = False) -> None:
    """What `lafs serve --scrub --root DIR` does: prove every share there without any key."""
    from lafscli.server.assay import Assay

    began = time.monotonic()
    with (
        ShownProgress(frame.connections, frame.out, f"scrub {root}") as progress,
        opened(frame, root, progress) as folder,
    ):
        progress.start("scrub", None)

        def work(guards: HostGuards | None) -> Assay:
            assay = Assay(
                folder,
                guards,
                now=time.time,
                damaged=lambda damage: progress.name(_damage_line(damage)),
                advance=progress.advance,
            )
            assay.run()
            return assay

        if dry_run:
            found = work(None).found
        else:
            with alone(folder, "scrub") as guards:
                found = work(guards).found
    for path, reason in found.unknown:
        frame.out.name(f"{path}: {reason}; it was left where it is")
    document = {
        "shares": found.shares,
        "bytes": found.bytes,
        "kept_versions": found.kept_versions,
        "damaged": [_damage(each) for each in found.damaged],
        "unknown": [{"path": path, "reason": reason} for path, reason in found.unknown],
        "unreadable": _failures(folder),
        "foreign": folder.foreign,
        "seconds": round(time.monotonic() - began, 3),
    }
    frame.out.show(document, _scrub_text(document))
    if found.damaged:
        raise SystemExit(Damaged.exit_code)
    if folder.failures or found.unknown:
        raise SystemExit(Partial.exit_code)


def _damage(damage: Damage) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "storage_index": damage.si,
        "share": damage.shnum,
        "reason": damage.reason,
        "found": damage.found,
        "quarantined": damage.lies is not None,
    }
    return facts | ({"path": damage.lies} if damage.lies is not None else {"left": damage.left})


def _damage_line(damage: Damage) -> str:
    where = f"now {damage.lies}" if damage.lies is not None else f"left: {damage.left}"
    return f"{damage.found}: {damage.reason}; {where}"


def _scrub_text(document: dict[str, Any]) -> str:
    read = [count(document["shares"], "share")]
    if document["kept_versions"]:
        read.append(count(document["kept_versions"], "kept version"))
    words = {"damaged": "damaged", "unknown": "of unknown version", "unreadable": "unreadable"}
    wrong = [f"{len(document[key])} {word}" for key, word in words.items() if document[key]]
    said = f"{' and '.join(read)} read ({human_size(document['bytes'])}): {', '.join(wrong) or 'all prove'}"
    if document["foreign"]:
        said += f"; {count(document['foreign'], 'name')} that no share has"
    return said
