"""Local trees for tests of backups: every kind of entry, and what one looks like."""

from __future__ import annotations

import hashlib
import os
import socket
import stat
import struct
from contextlib import suppress
from pathlib import Path

from tests.grids import content

ROOT = os.geteuid() == 0


def every_kind(root: Path) -> None:
    """Fill a folder with entries of every kind that this user can make."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "empty").mkdir()
    (root / "deep" / "er").mkdir(parents=True)
    (root / "file").write_bytes(b"content")
    (root / "deep" / "large").write_bytes(content(300_000, 1))
    (root / "deep" / "er" / "small").write_bytes(content(5000, 2))
    (root / "deep" / "none").write_bytes(b"")
    os.link(root / "deep" / "large", root / "deep" / "er" / "same as large")
    os.link(root / "file", root / "other name")
    (root / "link").symlink_to("deep/large")
    (root / "dangling").symlink_to("x" * 200)
    os.symlink(b"\xff\xfe", os.fsencode(root / "odd link"))
    os.mkfifo(root / "fifo", 0o640)
    with socket.socket(socket.AF_UNIX) as listening, suppress(OSError):
        here = os.open(root, os.O_RDONLY)
        try:
            listening.bind(f"/proc/self/fd/{here}/socket")
        finally:
            os.close(here)
    (root / "日本語 %41").write_bytes(b"Japanese")
    (root / "e\u0301").write_bytes(b"decomposed")
    (root / "\u00e9").write_bytes(b"composed")
    Path(os.fsdecode(os.fsencode(root) + b"/\xff\xfe%FF")).write_bytes(b"no text")
    (root / ".lafs").write_bytes(b"a file that is called so")
    (root / "-rf *").write_bytes(b"")
    with (root / "sparse").open("wb") as file:
        file.seek(1 << 20)
        file.write(b"end")
    (root / "script").write_bytes(b"#!/bin/sh\n")
    (root / "script").chmod(0o4755)
    (root / "deep" / "er").chmod(0o1700)
    with suppress(OSError):
        os.setxattr(root / "file", "user.note", b"\0kept")
        os.setxattr(root / "deep", "user.of a folder", b"kept")
    with suppress(OSError):
        os.setxattr(root / "deep" / "large", "system.posix_acl_access", _acl(6, 4))
        os.setxattr(root / "empty", "system.posix_acl_default", _acl(7, 5))
    if ROOT:
        os.chown(root / "file", 1234, 4321)
        os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.chown(root / "link", 55, 66, follow_symlinks=False)
    for number, path in enumerate(sorted(root.rglob("*"), key=lambda path: -len(path.parts))):
        if not path.is_symlink():
            os.utime(path, ns=(1_600_000_000_123_456_000 + number, 1_600_000_000_123_456_789 + number))
    os.utime(root / "link", ns=(1, 1_500_000_000_000_000_001), follow_symlinks=False)
    os.utime(root, ns=(1, 1_500_000_000_999_999_999))


def _acl(owner: int, others: int) -> bytes:
    """An access control list as Linux keeps it: what the owner, one user more, the group and others may."""
    entries = (1, owner, -1), (2, 4, 1234), (4, others, -1), (16, others, -1), (32, others, -1)
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)


def described(root: Path, *, owners: bool = ROOT) -> dict[bytes, tuple[object, ...]]:
    """Everything that a backup promises to keep, by path relative to the folder; names of one file by its first."""
    found: dict[bytes, tuple[object, ...]] = {}
    first: dict[tuple[int, int], bytes] = {}
    top = os.fsencode(root)
    paths = [top]
    for folder, folders, files in os.walk(top):
        paths += [os.path.join(folder, name) for name in (*folders, *files)]
    for path in sorted(set(paths)):
        name = os.path.relpath(path, top)
        kept = os.lstat(path)
        what: list[object] = [kept.st_mode, kept.st_mtime_ns]
        if owners:
            what += [kept.st_uid, kept.st_gid]
        if stat.S_ISLNK(kept.st_mode):
            what.append(os.readlink(path))
        else:
            with suppress(OSError):
                what.append({key: os.getxattr(path, key) for key in os.listxattr(path)})
        if stat.S_ISREG(kept.st_mode):
            with open(path, "rb") as file:
                what.append(hashlib.sha256(file.read()).hexdigest())
            what.append(first.setdefault((kept.st_dev, kept.st_ino), name))
        if stat.S_ISCHR(kept.st_mode):
            what.append(kept.st_rdev)
        found[name] = tuple(what)
    return found
