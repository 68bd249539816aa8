"""Leases taken out of a container in place: at every moment it is one that can be read.

Records that stay are packed to the front, then the number is lowered, then the file is cut: one who dies in between
leaves a record too many, never a share that seems to end elsewhere. The four slots of a mutable container are zeroed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from lafscli.formats.container import LEASE_SIZE, LeaseRecord
from lafscli.formats.mutable_container import MutableLease
from lafscli.server.judge import holds_mutable, shape, slot_container

_COUNT_OFFSET = 8
Lease = LeaseRecord | MutableLease


def drop_leases(fd: int, size: int, doomed: Callable[[Lease], bool], *, last: bool = False) -> tuple[int, int]:
    """Take the leases that are `doomed` out of a container that is open for writing; how many they were, and how many
    are left. The last ones are left in it, unless `last` says otherwise: such a container is for the caller to move
    away. CorruptShare where it can't be told which they are. Under the turn."""
    leases: Sequence[Lease] = shape(fd, size).leases
    goes = [doomed(lease) for lease in leases]
    gone, left = sum(goes), len(leases) - sum(goes)
    if gone and (left or last):
        if holds_mutable(fd):
            _drop_from_slot(fd, size, doomed)
        else:
            kept = [lease.serialise() for lease, one in zip(leases, goes, strict=True) if not one]
            _pack(fd, size - LEASE_SIZE * len(leases), kept, _COUNT_OFFSET)
    return gone, left


def _drop_from_slot(fd: int, size: int, doomed: Callable[[Lease], bool]) -> None:
    found = slot_container(fd, size)
    records = list(found.records())
    for start, lease in records[: len(found.slots)]:
        if not lease.free and doomed(lease):
            os.pwrite(fd, bytes(len(lease.serialise())), start)
    kept = [lease.serialise() for _, lease in records[len(found.slots) :] if not lease.free and not doomed(lease)]
    if len(kept) < len(found.extra):
        _pack(fd, records[len(found.slots)][0], kept, found.extra_offset)


def _pack(fd: int, start: int, records: Sequence[bytes], count_offset: int) -> None:
    area = b"".join(records)
    os.pwrite(fd, area, start)
    os.fdatasync(fd)
    os.pwrite(fd, len(records).to_bytes(4, "big"), count_offset)
    os.fdatasync(fd)
    os.ftruncate(fd, start + len(area))
