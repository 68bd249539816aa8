"""Times and modes of local files as metadata of entries, and back (spec 04 §4, 07 §3, §7)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

_FROM_STAT = ("ctime", "mtime", "st_mode", "lafs")
_OTHERS = ("st_ino", "st_dev", "st_uid", "st_gid", "st_rsize", "st_creator", "st_type")
_FARTHEST = 1 << 62  # nanoseconds, some 146 years from 1970


def from_stat(found: os.stat_result, sort: str) -> dict[str, Any]:
    """What is kept of a file or folder; `sort` is `file` or `dir`."""
    return {
        "ctime": found.st_ctime,
        "mtime": found.st_mtime,
        "st_mode": found.st_mode,
        "lafs": {"v": 1, "type": sort, "mtime_ns": found.st_mtime_ns},
    }


def without_stat(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata of an entry whose content is replaced: what describes the old content is gone."""
    return {key: value for key, value in metadata.items() if key not in _FROM_STAT and key not in _OTHERS}


def mode_of(metadata: Mapping[str, Any]) -> int | None:
    """The permissions that are to be given, without those that run as somebody else; None where there are none."""
    mode = metadata.get("st_mode")
    return mode & 0o777 if isinstance(mode, int) and not isinstance(mode, bool) and 0 <= mode < 1 << 32 else None


def mtime_ns_of(metadata: Mapping[str, Any]) -> int | None:
    """The time of the last change in nanoseconds; None where there is none that a file could have."""
    mtime = metadata.get("mtime")
    if not isinstance(mtime, int | float) or isinstance(mtime, bool) or not abs(mtime) < _FARTHEST / 1e9:
        return None  # not a number compares as nothing
    rough = int(mtime * 10**9)
    more = metadata.get("lafs")
    exact = more.get("mtime_ns") if isinstance(more, dict) else None
    # another tool may have set the one and not known the other
    if isinstance(exact, int) and not isinstance(exact, bool) and abs(exact - rough) < 10_000:
        return exact
    return rough
