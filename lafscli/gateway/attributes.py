"""What SFTP tells of an entry: kind, size, mode, times (of what the cap and the metadata of its link say)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lafscli.formats.caps import Cap, ChkCap, LitCap, MutableReadCap, MutableWriteCap, UnknownCap
from lafscli.formats.child import Child
from lafscli.server.backend import Attrs, Change
from lafscli.tree.metadata import mode_of, mtime_ns_of, without_stat

FILE, FOLDER = 0o644, 0o755
"""Modes of what has none of its own."""
_WRITING = 0o222
_USUAL = {FILE, 0o666, 0o664}
_USUAL_FOLDER = {FOLDER, 0o777, 0o775}


def file_size(cap: Cap) -> int | None:
    """The size of a file as its cap tells it; None where only the servers know: of mutable ones."""
    if isinstance(cap, LitCap):
        return len(cap.content)
    if isinstance(cap, ChkCap):
        return cap.size
    return None if isinstance(cap, MutableReadCap | MutableWriteCap) else 0


def of_child(child: Child, size: int, *, changeable: bool) -> Attrs:
    """What is told of a child. `changeable`: its directory can be changed."""
    cap = child.cap
    if isinstance(cap, UnknownCap):
        return Attrs("other", 0, 0, *times_of(child.metadata), *_owner())
    writable = cap.writable if cap.mutable or cap.is_directory else changeable
    kind = "dir" if cap.is_directory else "file"
    mode = mode_of(child.metadata)
    if mode is None:
        mode = FOLDER if cap.is_directory else FILE
    return Attrs(kind, size, mode if writable else mode & ~_WRITING, *times_of(child.metadata), *_owner())


def of_root(*, writable: bool) -> Attrs:
    """What is told of the directory of an account, which no link describes."""
    return Attrs("dir", 0, FOLDER if writable else FOLDER & ~_WRITING, 0, 0, *_owner())


def of_draft(size: int, mode: int | None, mtime: int) -> Attrs:
    """What is told of a file that is being written."""
    return Attrs("file", size, FILE if mode is None else mode, mtime, mtime, *_owner())


def times_of(metadata: Mapping[str, Any]) -> tuple[int, int]:
    """Time of access and of change: when the content was changed, as far as that was kept, else when it was linked."""
    nanoseconds = mtime_ns_of(metadata)
    if nanoseconds is not None:
        return nanoseconds // 10**9, nanoseconds // 10**9
    links = metadata.get("tahoe")
    linked = mtime_ns_of({"mtime": links.get("linkmotime")}) if isinstance(links, dict) else None
    return (0, 0) if linked is None else (linked // 10**9, linked // 10**9)


def of_new_content(old: Mapping[str, Any], change: Change) -> dict[str, Any]:
    """Metadata of a link whose content is replaced: its mode stays, its times are those of the change."""
    mode = mode_of(old)
    kept = without_stat(old)
    return changed(kept if mode is None else kept | {"st_mode": mode}, change)


def changed(old: Mapping[str, Any], change: Change) -> dict[str, Any]:
    """Metadata with the mode and the times that a client set."""
    new = dict(old)
    if change.times is not None:
        new |= {"mtime": float(change.times[1])}
        new.pop("lafs", None)  # its nanoseconds were those of the other time
    if change.mode is not None:
        new |= {"st_mode": change.mode & 0o777}
    return new


def worth_keeping(change: Change, *, folder: bool = False) -> Change:
    """What is kept of the attributes that something new is given: a mode that is not the usual one, and times."""
    usual = change.mode is None or change.mode & 0o777 in (_USUAL_FOLDER if folder else _USUAL)
    return replace(change, size=None, owner=None, mode=None if usual else change.mode)


def merged(first: Change, then: Change) -> Change:
    """Two changes, one after the other; what is asked for later counts."""
    return Change(
        None, None, first.mode if then.mode is None else then.mode, first.times if then.times is None else then.times
    )


def _owner() -> tuple[int, int]:
    return os.getuid(), os.getgid()
