"""Tools at the storage host, which need no home: gc --host, server history, server rollback, and the scrub of `serve`
(CLI.md §7)."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lafscli.cli.frame import Frame
from lafscli.cli.options import DURATION, Quantity, command
from lafscli.cli.output import rfc3339
from lafscli.cli.progress import ShownProgress
from lafscli.cli.reports import count
from lafscli.cli.text import columns, human_size
from lafscli.errors import Busy, Conflict, Damaged, GuardHeld, Partial, UsageError
from lafscli.primitives.encoding import b32decode, b32encode

if TYPE_CHECKING:
    from lafscli.server.assay import Damage
    from lafscli.server.bringback import BroughtBack
    from lafscli.server.hostfolder import HostFolder
    from lafscli.server.hostgc import Collected
    from lafscli.server.hostguard import HostGuards
    from lafscli.server.rollback import Plan
    from lafscli.server.turns import Turns

_NODE_FILES = ("my_nodeid", "node.pubkey", "tahoe.cfg")


def parse_date(text: str) -> float:
    """Unix seconds of a day (its beginning, UTC) or of an RFC 3339 time."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"not a date: {text!r}", hint="a date is like 2026-11-28 or 2026-11-28T09:00:00Z") from None
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()


def parse_storage_index(text: str) -> bytes:
    """The storage index that 26 letters stand for."""
    if re.fullmatch(r"[a-z2-7]{26}", text):
        try:
            return b32decode(text)
        except ValueError:
            pass
    raise UsageError(f"not a storage index: {text!r}", hint="lafs cap show tells that of a cap")


DATE = Quantity("DATE", parse_date)
STORAGE_INDEX = Quantity("SI", parse_storage_index)
_ROOT = click.option(
    "--root", metavar="DIR", required=True, help="The folder that contains shares/ (of a Tahoe node: NODEDIR/storage)."
)


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


@command("gc")
@click.option("--host", metavar="DIR", required=True, help="The storage folder on this machine (contains shares/).")
@click.option("--delete", is_flag=True, help="Do it; without it nothing is changed, only counted.")
@click.option("--older-than", type=DURATION, help="A lease ends so long after its last renewal, whatever it says.")
@click.option("--cutoff", type=DATE, help="Instead: a lease has ended that was last renewed before.")
@click.option("--only", type=click.Choice(["mutable", "immutable"]), help="Leave shares of the other kind alone.")
@click.option("--leaseless", is_flag=True, help="Also shares on which nobody ever had, or has left, a lease.")
@click.option(
    "--grace", type=DURATION, default="14d", help="How long they lie in trash/ before they go for good [14d]."
)
@click.option("--undo", is_flag=True, help="Bring back what lies in trash/ where no share stands now.")
def gc(
    frame: Frame,
    host: str,
    delete: bool,
    older_than: int | None,
    cutoff: float | None,
    only: str | None,
    leaseless: bool,
    grace: int,
    undo: bool,
) -> None:
    """Remove expired leases at a storage host, and shares that have none left.

    For now only with --host, at the host itself; no home and no cap is needed.
    """
    from lafscli.server.expiry import Expiry
    from lafscli.server.hostgc import HostCollection, Wish

    if older_than is not None and cutoff is not None:
        raise UsageError("--older-than and --cutoff are two policies: take one")
    if undo and (delete or only or older_than is not None or cutoff is not None):
        raise UsageError("--undo brings back all that can be; no other option but --leaseless goes with it")
    if undo:
        _undo(frame, host, leaseless)
        return
    wish = Wish(Expiry(time.time(), older_than, cutoff), delete, only, leaseless, grace)
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


# ---- kept versions


@command("server history")
@_ROOT
@click.argument("si", metavar="[SI]", required=False, type=STORAGE_INDEX)
def history(frame: Frame, root: str, si: bytes | None) -> None:
    """List the versions of mutable shares that a storage host has kept."""
    from lafscli.server.kept import kept_holdings

    found: list[dict[str, Any]] = []
    with opened(frame, root) as folder:
        for kept in kept_holdings(folder, None if si is None else b32encode(si)):
            for version in kept.versions:
                try:
                    status = os.lstat(version.name, dir_fd=kept.folder)
                except FileNotFoundError:
                    continue
                facts = {"storage_index": kept.text, "share": version.shnum, "seqnum": version.seqnum}
                # the kernel's own time of the move: nobody can set it
                since = rfc3339(status.st_ctime)
                found.append(facts | {"root_hash": version.root, "kept": since, "size": status.st_size})
    rows = [("STORAGE INDEX", "SHARE", "VERSION", "ROOT HASH", "REPLACED", "SIZE")]
    rows += [
        (
            each["storage_index"],
            str(each["share"]),
            str(each["seqnum"]),
            each["root_hash"],
            each["kept"],
            human_size(each["size"]),
        )
        for each in found
    ]
    frame.out.show({"versions": found}, columns(rows) if found else "")
    if not found and not frame.settings.json:
        frame.out.tell("no version is kept there: lafs serve --append-only --history COUNT keeps them")
    if folder.failures:
        raise SystemExit(Partial.exit_code)


@command("server rollback")
@_ROOT
@click.argument("si", metavar="SI", type=STORAGE_INDEX)
@click.option("--to", "seqnum", type=click.IntRange(0), metavar="SEQNUM", help="Which version; else the one before.")
@click.option("--share", "shnum", type=click.IntRange(0, 255), metavar="N", help="Only this share.")
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be done.")
def rollback(frame: Frame, root: str, si: bytes, seqnum: int | None, shnum: int | None, dry_run: bool) -> None:
    """Put a kept version of a mutable object back in place.

    All shares of the storage index on this host are put back, as far as that version of them is kept. What stood
    there is kept in its turn, so that this can be taken back. Other hosts that hold shares need the same.
    """
    from lafscli.server.keeper import Keeper
    from lafscli.server.rollback import plan, roll_back

    failures: dict[int, str] = {}
    done: tuple[int, ...] = ()
    with (
        opened(frame, root) as folder,
        closing(
            Keeper(folder.descriptor, append_only=True, history=1, now=time.time, random_bytes=os.urandom)
        ) as keeper,
    ):
        with folder.there("history") as kept:
            versions = keeper.versions(si) if kept is not None else []
        made = plan(folder, versions, si, seqnum=seqnum, shnum=shnum)
        if not dry_run:
            with alone(folder, "rollback", keeper.turns) as guards:
                try:
                    done = roll_back(folder, keeper, guards, made, failed=failures.__setitem__)
                except GuardHeld as error:
                    raise Conflict(error.message, hint="try again when that is over") from error
    _show_rollback(frame, made, done, failures, dry_run=dry_run)


def _show_rollback(frame: Frame, made: Plan, done: tuple[int, ...], failures: dict[int, str], *, dry_run: bool) -> None:
    number, root = made.version
    missing = [step.shnum for step in made.steps if step.version is None and not step.unchanged]
    restored = [step for step in made.steps if step.shnum in done]
    if dry_run:
        restored = [step for step in made.steps if step.version is not None and not step.unchanged]
    for shnum, why in failures.items():
        frame.out.name(f"share {shnum}: {why}")
    for shnum in missing:
        frame.out.name(f"share {shnum}: version {number} of it is not kept here")
    document: dict[str, Any] = {
        "storage_index": b32encode(made.si),
        "seqnum": number,
        "root_hash": root,
        "restored": [
            {"share": step.shnum} | ({"before": step.before[0]} if step.before is not None else {}) for step in restored
        ],
        "unchanged": [step.shnum for step in made.steps if step.unchanged],
        "failed": [{"share": shnum, "reason": why} for shnum, why in failures.items()]
        + [{"share": shnum, "reason": "not kept"} for shnum in missing],
        "dry_run": dry_run,
    }
    word = "would be put back" if dry_run else "is back"
    lines = [
        f"share {step.shnum}: version {number} {word}"
        + (f", {step.before[0]} stood there" if step.before is not None else "")
        for step in restored
    ]
    lines += [f"share {shnum}: version {number} stands there already" for shnum in document["unchanged"]]
    frame.out.show(document, "\n".join(lines))
    if restored and not frame.settings.json:
        frame.out.tell(
            "a reader takes the newest version of which enough shares are left anywhere: do the same on the other hosts"
        )
    if failures or missing:
        raise SystemExit(Partial.exit_code)
