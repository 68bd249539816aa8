"""A snapshot of what comes through a pipe."""

from __future__ import annotations

import stat
from typing import BinaryIO

from lafscli.backup.runs import Tally
from lafscli.formats.caps import DirectoryCap
from lafscli.immutable.upload import upload
from lafscli.storage.store import Progress
from lafscli.tree.contents import Access
from lafscli.tree.directory import NewChild, immutable_table


def snapshot_of_stream(
    access: Access, stream: BinaryIO, name: str, now: float, progress: Progress
) -> tuple[DirectoryCap, Tally]:
    """A snapshot that holds one file of what comes through a pipe."""
    done = upload(access.grid, stream, access.writing, progress)
    kept = {"v": 1, "type": "file", "mtime_ns": int(now * 10**9)}
    child = NewChild(done.cap, {"ctime": now, "mtime": now, "st_mode": stat.S_IFREG | 0o600, "lafs": kept})
    made = upload(access.grid, immutable_table({name: child}), access.writing)
    tally = Tally(files_new=1, dirs_new=1, bytes_read=done.size, bytes_pushed=done.bytes_pushed + made.bytes_pushed)
    return DirectoryCap(made.cap), tally
