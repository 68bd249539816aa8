"""Leases on mutable shares (spec 03 §8, 06 §3): found in the container, added within a replace (spec 10 §3)."""

from __future__ import annotations

from lafscli.errors import CorruptShare, FileError, FileMissing
from lafscli.formats.container import share_path
from lafscli.formats.mutable_container import DATA_OFFSET, MutableContainer
from lafscli.storage.guard import FolderGuard
from lafscli.storage.store import Answer, Buffer, FileRange, Files, FileStat, Lease, Patch, Stat

_PIECE = 1 << 20
"""So much of a share is copied at a time."""


def look_at(head: Buffer | FileError, stat: Answer) -> MutableContainer:
    """A container by its first DATA_OFFSET bytes and what LSTAT says; its extra leases are not read."""
    if isinstance(head, FileError):
        raise head
    if not isinstance(stat, FileStat):
        raise stat if isinstance(stat, FileError) else FileMissing("no such share")
    return MutableContainer.parse(head, stat.size)


def find_lease(found: MutableContainer, extra: Buffer, renew: bytes) -> tuple[int, int] | None:
    """As `MutableContainer.find_lease`; `extra`, the bytes at `extra_range`, count where the head has no such lease."""
    place = found.find_lease(renew)
    return place if place is not None or found.extra_range is None else found.with_extra(extra).find_lease(renew)


def add_slot_lease(files: Files, guard: FolderGuard, shnum: int, lease: Lease, node_id: bytes, *, sync: bool) -> bool:
    """Add a lease to a mutable share under its guard, durably: True. False where one of ours was there; it is renewed
    instead. The share is copied into a new container, as each change of a slot makes one.

    CorruptShare where the container is cut short, FileMissing where there is none, GuardLost.
    """
    path = share_path(guard.si, shnum)
    [head] = files.read([FileRange(path, 0, DATA_OFFSET)]).finish()
    [stat] = guard.check([Stat(path)])
    found = look_at(head, stat)
    if found.extra_range is not None:
        found = found.with_extra(_read(files, path, *found.extra_range))
    there = found.find_lease(lease.renew)
    if there is not None:
        offset, expiration = there
        if lease.expiration > expiration:
            [refusal] = guard.check([Patch(path, offset, lease.expiration.to_bytes(4, "big"))])
            if isinstance(refusal, FileError):
                raise refusal
        return False
    new = found.with_lease(lease.renew, lease.cancel, lease.expiration, node_id).resized(found.data_length)
    writer = guard.create(shnum)
    try:
        writer.write(new.front())
        for start in range(0, found.data_length, _PIECE):
            length = min(_PIECE, found.data_length - start)
            data = _read(files, path, DATA_OFFSET + start, length)
            if len(data) != length:
                raise CorruptShare(f"container: ends within the {found.data_length} bytes of its data")
            writer.write(data)
        writer.write(new.back())
        writer.close(sync=sync)
    except BaseException:
        writer.abandon()
        raise
    guard.commit([shnum], quarantine=False)
    return True


def _read(files: Files, path: str, offset: int, length: int) -> Buffer:
    [data] = files.read([FileRange(path, offset, length)]).finish()
    if isinstance(data, FileError):
        raise data
    return data
