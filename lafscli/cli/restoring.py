"""restore, diff, forget (CLI.md §6)."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lafscli.cli.frame import Frame
from lafscli.cli.landing import landing
from lafscli.cli.options import DURATION, command
from lafscli.cli.output import terminal
from lafscli.cli.progress import ShownProgress
from lafscli.cli.targets import Found, directory_at, followed, resolve
from lafscli.cli.text import columns
from lafscli.errors import LafsError, NotFound, Partial, UsageError
from lafscli.formats.caps import Cap, DirectoryCap
from lafscli.formats.child import Child
from lafscli.primitives.text import count, escape, human_size

if TYPE_CHECKING:
    from lafscli.backup.landing import Unkept
    from lafscli.backup.restore import Overwrite, Restored
    from lafscli.backup.selecting import Selecting
    from lafscli.tree.contents import Access
    from lafscli.tree.copy import Trouble


@command("restore")
@click.argument("target")
@click.argument("local", required=False)
@click.option("--include", multiple=True, metavar="PATTERN", help="Only what matches, as in gitignore(5).")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Not what matches.")
@click.option(
    "--overwrite",
    type=click.Choice(["always", "if-newer", "never"]),
    default="always",
    help="What is done with files that are there: always unless said.",
)
@click.option("-n", "--dry-run", is_flag=True, help="List what would be written; write nothing.")
@click.option("--verify", is_flag=True, help="Compare every file on the disk with the grid.")
@click.option("--tar", is_flag=True, help="Write a tar stream to stdout instead; there is no LOCAL then.")
def restore(
    frame: Frame,
    target: str,
    local: str | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    overwrite: Overwrite,
    dry_run: bool,
    verify: bool,
    tar: bool,
) -> None:
    """Write a snapshot or a part of it into a folder.

    TARGET is a backup (its latest snapshot is taken), a snapshot, or a file or directory in one; what is in a directory
    is written into LOCAL, which is made if it is missing. Names, times, modes, links, holes and attributes are given
    back, owners and devices by root only. A file that is there with the same size and time is left: a restore that was
    interrupted goes on. Exit 11 if something could not be restored; each is named.
    """
    from lafscli.backup.selecting import Selecting

    selecting = Selecting(include, exclude)
    if tar:
        if local not in (None, "-"):
            raise UsageError("a tar stream goes to stdout: there is no LOCAL")
        if dry_run or verify or overwrite != "always":
            raise UsageError("--tar goes with --include and --exclude alone")
        if frame.settings.json:
            raise UsageError("--json and the tar stream can't both go to stdout")
        if terminal(sys.stdout):
            raise UsageError("stdout is a terminal", hint="lafs restore --tar TARGET > FILE")
        _tar(frame, target, selecting)
        return
    if local is None:
        raise UsageError("LOCAL is missing", hint="lafs restore TARGET FOLDER")
    found = _latest(frame, followed(frame, resolve(frame, target)))
    folder = Path(local)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{local} is there, and is no folder")
    if not dry_run:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LafsError(f"cannot make {local}: {error.strerror}") from error
    _restore(frame, found, folder, selecting, overwrite, dry_run, verify)


def _restore(
    frame: Frame, found: Found, folder: Path, selecting: Selecting, overwrite: Overwrite, dry_run: bool, verify: bool
) -> None:
    from lafscli.backup.entries import Kept, kept_of
    from lafscli.backup.landing import Landing, Rights
    from lafscli.backup.restore import Restoring, restore

    access = frame.access(found.cap)
    kept = Kept() if found.child is None else kept_of(found.child.metadata)
    rights = Rights(os.geteuid() == 0)
    existing = folder
    while not existing.exists():  # a dry run makes nothing
        existing = existing.parent
    with ShownProgress(frame.connections, frame.out, "restore") as progress:
        progress.start("restore", None)

        def named(trouble: Trouble) -> None:
            progress.name(f"{trouble.path}: {trouble.error.message}")

        listed: list[str] = []
        how = Restoring(selecting, overwrite, dry_run, verify, progress, named, listed.append)
        with Landing(str(existing if dry_run else folder), rights) as folders:
            done = restore(access, _top(found), kept, folders, how)
    if dry_run and not frame.settings.json:
        frame.out.show({}, "\n".join(escape(each) for each in listed))
    _tell(frame, done, rights.unkept, dry_run=dry_run, listed=listed)


def _top(found: Found) -> DirectoryCap:
    """The directory of which what is in it is restored: for a file, one that holds it alone."""
    if isinstance(found.cap, DirectoryCap):
        return found.cap
    if found.child is None:
        raise UsageError("a bare cap of a file has no name", hint="lafs get CAP FILE")
    return _holding(found.cap, found.child)


def _holding(cap: Cap, child: Child) -> DirectoryCap:
    """A directory in its cap, that holds one file."""
    from lafscli.formats.caps import LitCap
    from lafscli.tree.directory import NewChild, immutable_table

    if cap.mutable:
        raise UsageError("the file is mutable, and no part of a snapshot", hint="lafs get TARGET FILE")
    return DirectoryCap(LitCap(immutable_table({child.name: NewChild(cap, child.metadata)})))


def _tell(frame: Frame, done: Restored, unkept: Unkept, *, dry_run: bool, listed: list[str]) -> None:
    errors = [{"path": trouble.path, "reason": trouble.error.message} for trouble in done.errors]
    document: dict[str, Any] = {
        "files": done.files,
        "dirs": done.dirs,
        "bytes": done.bytes,
        "present": done.present,
        "verified": done.verified,
        "errors": errors,
    }
    if dry_run:
        document |= {"dry_run": True, "paths": listed}
    if frame.settings.json or not dry_run:
        frame.out.show(document, "")
    for number, what in (
        (unkept.owners, "owners"),
        (unkept.attributes, "extended attributes or ACLs"),
        (unkept.modes, "modes or set-user-id or set-group-id bits"),
        (unkept.times, "times"),
    ):
        if number:
            frame.out.warn(f"{number} {what} could not be given back")
    said = f"{count(done.files, 'file')} in {done.dirs} directories restored, {human_size(done.bytes)}"
    if done.present:
        said += f"; {count(done.present, 'file')} were there"
    if done.verified:
        said += f"; {count(done.verified, 'file')} compared with the grid"
    if done.errors:
        frame.out.tell(f"{said}; {count(len(done.errors), 'thing')} could not be restored")
        raise SystemExit(Partial.exit_code)
    if not dry_run:
        frame.out.tell(said, level=1)


def _tar(frame: Frame, target: str, selecting: Selecting) -> None:
    from lafscli.backup.entries import Kept, kept_of
    from lafscli.backup.tarring import write_tar

    found = _latest(frame, followed(frame, resolve(frame, target)))
    access = frame.access(found.cap)
    kept = Kept() if found.child is None else kept_of(found.child.metadata)
    with ShownProgress(frame.connections, frame.out, "restore", stdout=True) as progress, landing(None) as write:
        progress.start("restore", None)

        def named(trouble: Trouble) -> None:
            progress.name(f"{trouble.path}: {trouble.error.message}")

        done = write_tar(access, _top(found), kept, write, selecting, named, progress)
    if done.errors:
        frame.out.tell(f"{count(len(done.errors), 'thing')} could not be restored")
        raise SystemExit(Partial.exit_code)


def _latest(frame: Frame, found: Found) -> Found:
    """The latest snapshot of a backup; anything else as it is."""
    from lafscli.backup.snapshots import ARCHIVES, LATEST, snapshots
    from lafscli.tree.directory import load

    if not isinstance(found.cap, DirectoryCap) or not found.cap.mutable:
        return found
    table = load(frame.access(found.cap), found.cap).table
    if ARCHIVES not in table:
        return found
    if LATEST not in table:  # who made the first one was killed before the last step
        dated = [each for each in snapshots(frame.access(found.cap), found.cap) if each.time is not None]
        if not dated:
            raise NotFound("there is no snapshot", hint="lafs backup SOURCE TARGET makes one")
        newest = max(dated, key=lambda each: each.time or 0)
        path = f"{ARCHIVES}/{newest.name}"
        return Found(newest.cap, newest.name, f"{found.path}/{path}" if found.path else path, None, found.target)
    child = table.child(LATEST)
    return Found(child.cap, LATEST, f"{found.path}/{LATEST}" if found.path else LATEST, None, found.target)


@command("diff")
@click.argument("old", metavar="A")
@click.argument("new", metavar="B")
def diff(frame: Frame, old: str, new: str) -> None:
    """Show what is different between two directories.

    A and B are directories on the grid: two snapshots, say. What is the same by its cap is not looked into. Lines are
    + added, - removed, M changed, m other metadata; with --json they are JSON Lines.
    """
    from lafscli.backup.compare import compare

    sides = [_latest(frame, followed(frame, resolve(frame, each))).cap for each in (old, new)]
    one, other = sides
    if not isinstance(one, DirectoryCap) or not isinstance(other, DirectoryCap):
        raise UsageError("A and B are directories")
    marks = {"added": "+", "removed": "-", "changed": "M", "metadata": "m"}
    for each in compare(_access(frame, one, other), one, other):
        document = {"path": each.path.rstrip("/"), "change": each.change}
        frame.out.show(document, f"{marks[each.change]} {escape(each.path)}")


def _access(frame: Frame, *caps: Cap) -> Access:
    """Servers, unless all there is to read is in its cap."""
    from lafscli.formats.caps import DirectoryCap, LitCap

    bare = all(isinstance(cap.inner if isinstance(cap, DirectoryCap) else cap, LitCap) for cap in caps)
    return frame.access(caps[0] if bare else None)


@command("forget")
@click.argument("target")
@click.option("--keep-last", type=click.IntRange(min=0), default=0, metavar="N", help="Keep the N newest.")
@click.option("--keep-daily", type=click.IntRange(min=0), default=0, metavar="N", help="Of N days, the newest of each.")
@click.option("--keep-weekly", type=click.IntRange(min=0), default=0, metavar="N", help="The same of weeks.")
@click.option("--keep-monthly", type=click.IntRange(min=0), default=0, metavar="N", help="The same of months.")
@click.option("--keep-yearly", type=click.IntRange(min=0), default=0, metavar="N", help="The same of years.")
@click.option("--keep-within", type=DURATION, metavar="DURATION", help="Keep those of so long before the newest.")
@click.option("-n", "--dry-run", is_flag=True, help="Say what would go; remove nothing.")
def forget(frame: Frame, target: str, dry_run: bool, **given: Any) -> None:
    """Remove snapshots, but for those that rules keep.

    A snapshot stays if any rule keeps it; days, weeks (ISO), months and years are those of UTC, and only ones that
    have a snapshot count. Without a rule nothing is removed, and the exit code is 2. What only removed snapshots led to
    takes space until lafs gc.
    """
    from lafscli.backup.retention import Rules, decide, remove
    from lafscli.backup.snapshots import snapshots
    from lafscli.tree.directory import changeable

    rules = Rules(
        given["keep_last"],
        given["keep_daily"],
        given["keep_weekly"],
        given["keep_monthly"],
        given["keep_yearly"],
        given["keep_within"],
    )
    if rules == Rules():
        raise UsageError(
            "no rule says what to keep", hint="for example --keep-daily 7 --keep-weekly 5 --keep-monthly 12"
        )
    top = directory_at(frame, target)
    changeable(top)
    access = frame.access()
    decisions = decide(snapshots(access, top), rules, time.time())
    gone = [each.snapshot for each in decisions if not each.reasons]
    left = [each.snapshot for each in decisions if each.reasons]
    if gone and not dry_run:
        remove(access, top, gone, left)
    rows = [
        (each.snapshot.name, ", ".join(each.reasons) or ("would go" if dry_run else "removed")) for each in decisions
    ]
    document = {
        "kept": [{"name": each.snapshot.name, "reasons": list(each.reasons)} for each in decisions if each.reasons],
        "removed": [each.name for each in gone],
    } | ({"dry_run": True} if dry_run else {})
    frame.out.show(document, columns(rows) if rows else "")
    if gone:
        frame.out.tell("space comes back with lafs gc", level=1)
