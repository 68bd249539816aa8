"""What a backup would read, without reading or storing anything."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from lafscli.backup.database import Database
from lafscli.backup.excludes import Excludes
from lafscli.backup.runs import Tally, Trouble
from lafscli.backup.scan import Folder, Scan
from lafscli.errors import LafsError


def preview(
    database: Database,
    source: bytes,
    excludes: Excludes,
    only: frozenset[bytes] | None,
    *,
    ignore_timestamps: bool,
    changed: Callable[[str], None],
    named: Callable[[Trouble], None],
    warn: Callable[[str], None],
) -> Tally:
    """Go through the tree: `bytes_read` is what would be read. `changed` is called with each file that would be."""
    tally = Tally()

    def failed(path: str, reason: str) -> None:
        trouble = Trouble(path, reason)
        tally.errors.append(trouble)
        named(trouble)

    scan = Scan(excludes, failed, warn, only)
    try:
        tasks: list[Folder] = [scan.source(source)]
    except OSError as error:
        raise LafsError(f"cannot read {os.fsdecode(source)}: {error.strerror}") from error
    while tasks:
        folder = tasks.pop()
        listed = scan.inside(folder)
        if listed is None:
            continue
        entries, level = listed
        rows = database.rows(folder.found.path)
        below: list[Folder] = []
        for found in entries:
            if stat.S_ISDIR(found.stat.st_mode):
                below.append(scan.entered(folder, found, level))
            elif stat.S_ISREG(found.stat.st_mode):
                old = rows.get(found.name)
                if old is not None and old.cap and old.same_content(found.stat) and not ignore_timestamps:
                    tally.files_unmodified += 1
                    continue
                known = old is not None and bool(old.cap)
                tally.files_changed += known
                tally.files_new += not known
                tally.bytes_read += found.stat.st_size
                changed(found.shown)
        tasks += reversed(below)
    tally.left_out = scan.left_out
    return tally
