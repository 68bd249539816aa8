"""What is kept of an entry of a file system, as metadata of its link on the grid (spec 07 §3, §7).

    ctime, mtime                 seconds, as Tahoe has them
    st_mode … st_gid             whole numbers
    lafs                         {"v": 1, "type", "mtime_ns", "uname", "gname", "name_b64"?, "target_b64"?, "rdev"?,
                                  "group"?, "holes"?, "xattr"?, "acl"?}

`xattr` and `acl` are objects of names and base64; `holes` are [offset, length] pairs. Reading is for metadata that
anybody may have written: what does not fit is as if it were not there.
"""

from __future__ import annotations

import base64
import binascii
import errno
import grp
import json
import os
import pwd
import stat
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from lafscli.tree.metadata import mtime_ns_of

VERSION = 1
ROOT_ENTRY = ".lafs"
"""The entry of a snapshot's root that has the metadata of the root itself (spec 07 §7)."""
SORTS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "chr",
    stat.S_IFBLK: "blk",
}
"""What an entry can be, by the type bits of its mode."""

_KINDS = frozenset((*SORTS.values(), "hardlink"))
_ACLS = ("system.posix_acl_access", "system.posix_acl_default")
_MOST_ATTRIBUTES = 1 << 20
"""Bytes of extended attributes that are kept of one entry."""
_MOST_HOLES = 50_000
"""Smaller ones of more are not kept: the directory's table has them all."""
_MAX_ID = (1 << 32) - 2
_MAX_DEVICE = 1 << 64
_NOT_COMPARED = ("ctime", "st_ino", "st_dev")
"""Keys of which a change is no reason to make a directory again."""
_MAC = ("st_rsize", "st_creator", "st_type")


def sort_of(mode: int) -> str:
    """What an entry with this mode is; `file` for a type that no file system here has."""
    return SORTS.get(stat.S_IFMT(mode), "file")


# ---- what is read here -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Extra:
    """What lstat does not tell of an entry. `xattr`, `acl`: names and base64; `holes`: (offset, length) pairs."""

    xattr: Mapping[str, str] = field(default_factory=dict)
    acl: Mapping[str, str] = field(default_factory=dict)
    holes: Sequence[tuple[int, int]] = ()

    def serialise(self) -> str:
        """One line of JSON; "" for nothing."""
        found: dict[str, Any] = {}
        if self.xattr:
            found["xattr"] = dict(self.xattr)
        if self.acl:
            found["acl"] = dict(self.acl)
        if self.holes:
            found["holes"] = [list(hole) for hole in self.holes]
        return json.dumps(found, sort_keys=True) if found else ""

    @classmethod
    def parse(cls, text: str) -> Extra:
        """What `serialise` wrote; nothing where it is not that."""
        try:
            found = json.loads(text) if text else {}
        except (ValueError, RecursionError):
            found = {}
        if not isinstance(found, dict):
            found = {}
        return cls(_attributes(found.get("xattr")), _attributes(found.get("acl")), _holes(found.get("holes")))


NO_EXTRA = Extra()


def attributes_of(path: bytes, warn: Callable[[str], None] = lambda _: None) -> tuple[dict[str, str], dict[str, str]]:
    """Extended attributes and ACLs of an entry itself, where the system has them and tells; `warn` is told which are
    too long to be kept."""
    if not hasattr(os, "listxattr"):
        return {}, {}
    xattr: dict[str, str] = {}
    acl: dict[str, str] = {}
    size = 0
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError:
        return {}, {}
    for name in sorted(names):
        with suppress(OSError, UnicodeError):
            value = os.getxattr(path, name, follow_symlinks=False)
            name.encode()
            if size + len(value) + len(name) > _MOST_ATTRIBUTES:
                warn(f"{os.fsdecode(path)}: the extended attribute {name} is too long, and is not kept")
                continue
            size += len(value) + len(name)
            (acl if name in _ACLS else xattr)[name] = base64.b64encode(value).decode("ascii")
    return xattr, acl


def holes_in(path: bytes, size: int) -> list[tuple[int, int]]:
    """Where a file of that size has holes; none where nobody can tell."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return []
    try:
        return holes_of(handle, size)
    finally:
        os.close(handle)


def holes_of(handle: int, size: int) -> list[tuple[int, int]]:
    """Where an open file has holes, in order; none where the system does not tell."""
    if not hasattr(os, "SEEK_HOLE"):
        return []
    holes: list[tuple[int, int]] = []
    position = 0
    try:
        while position < size:
            start = os.lseek(handle, position, os.SEEK_HOLE)
            if start >= size:
                break
            try:
                position = os.lseek(handle, start, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    return []
                position = size
            holes.append((start, min(position, size) - start))
    except OSError:
        return []
    if len(holes) > _MOST_HOLES:
        holes = sorted(sorted(holes, key=lambda hole: -hole[1])[:_MOST_HOLES])
    return holes


@lru_cache(maxsize=4096)
def user_name(number: int) -> str:
    """The user's name; "" where nobody has that number."""
    try:
        return pwd.getpwuid(number).pw_name
    except (KeyError, OverflowError):
        return ""


@lru_cache(maxsize=4096)
def group_name(number: int) -> str:
    """The group's name; "" where there is none of that number."""
    try:
        return grp.getgrgid(number).gr_name
    except (KeyError, OverflowError):
        return ""


def metadata_of(
    found: os.stat_result,
    *,
    true_name: bytes | None = None,
    target: bytes | None = None,
    extra: Extra = NO_EXTRA,
) -> dict[str, Any]:
    """The metadata of an entry. `true_name`: where it differs from the name on the grid; `target` of a symlink."""
    sort = sort_of(found.st_mode)
    linked = sort != "dir" and found.st_nlink > 1
    kept: dict[str, Any] = {
        "v": VERSION,
        "type": "hardlink" if linked and sort == "file" else sort,
        "mtime_ns": found.st_mtime_ns,
        "uname": user_name(found.st_uid),
        "gname": group_name(found.st_gid),
    }
    if true_name is not None:
        kept["name_b64"] = base64.b64encode(true_name).decode("ascii")
    if target is not None:
        kept["target_b64"] = base64.b64encode(target).decode("ascii")
    if sort in ("chr", "blk"):
        kept["rdev"] = found.st_rdev
    if linked:
        kept["group"] = f"{found.st_dev}:{found.st_ino}"
    if extra.holes:
        kept["holes"] = [list(hole) for hole in extra.holes]
    if extra.xattr:
        kept["xattr"] = dict(extra.xattr)
    if extra.acl:
        kept["acl"] = dict(extra.acl)
    more = {key: getattr(found, key) for key in _MAC if hasattr(found, key)}
    return {
        "ctime": found.st_ctime,
        "mtime": found.st_mtime,
        "st_mode": found.st_mode,
        "st_ino": found.st_ino,
        "st_dev": found.st_dev,
        "st_uid": found.st_uid,
        "st_gid": found.st_gid,
        **more,
        "lafs": kept,
    }


def compared(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What of it makes two entries different."""
    return {key: value for key, value in metadata.items() if key not in _NOT_COMPARED}


# ---- what is read from the grid ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kept:
    """What is known of an entry that is to be restored. None: not known. `sort` is that of the entry itself: a hard
    link is a `file` with a `group`."""

    sort: str | None = None
    mode: int | None = None
    mtime_ns: int | None = None
    uid: int | None = None
    gid: int | None = None
    uname: str = ""
    gname: str = ""
    name: bytes | None = None
    target: bytes | None = None
    rdev: int | None = None
    group: str | None = None
    extra: Extra = NO_EXTRA


def kept_of(metadata: Mapping[str, Any]) -> Kept:
    """Read the metadata of an entry, of whatever program."""
    more = metadata.get("lafs")
    if not isinstance(more, dict) or more.get("v") != VERSION:
        more = {}
    mode = _number(metadata.get("st_mode"), 1 << 32)
    sort = more.get("type") if more.get("type") in _KINDS else None
    if sort is None and mode is not None and stat.S_IFMT(mode) in SORTS:
        sort = sort_of(mode)
    group = more.get("group")
    return Kept(
        sort="file" if sort == "hardlink" else sort,
        mode=None if mode is None else stat.S_IMODE(mode),
        mtime_ns=mtime_ns_of(metadata),
        uid=_number(metadata.get("st_uid"), _MAX_ID),
        gid=_number(metadata.get("st_gid"), _MAX_ID),
        uname=_text(more.get("uname")),
        gname=_text(more.get("gname")),
        name=_bytes(more.get("name_b64")),
        target=_bytes(more.get("target_b64")),
        rdev=_number(more.get("rdev"), _MAX_DEVICE),
        group=group if isinstance(group, str) else None,
        extra=Extra(_attributes(more.get("xattr")), _attributes(more.get("acl")), _holes(more.get("holes"))),
    )


def _number(value: object, limit: int) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < limit else None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _bytes(value: object) -> bytes | None:
    if not isinstance(value, str):
        return None
    try:
        return base64.b64decode(value.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        return None


def _attributes(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        return {}
    return {
        name: text
        for name, text in value.items()
        if isinstance(name, str) and name and "\0" not in name and _bytes(text) is not None
    }


def _holes(value: object) -> list[tuple[int, int]]:
    """Pairs that lie behind one another; none of them where one does not."""
    holes: list[tuple[int, int]] = []
    end = 0
    for hole in value if isinstance(value, list) else ():
        if not isinstance(hole, list | tuple) or len(hole) != 2:
            return []
        start, length = _number(hole[0], 1 << 63), _number(hole[1], 1 << 63)
        if start is None or not length or start < end:
            return []
        holes.append((start, length))
        end = start + length
    return holes
