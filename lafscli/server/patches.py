"""What may be written to a share that stands in its place: lease records, by their rules (spec 06 §3, 10 §3).

A renewal is the four bytes of an expiration, later than they were. A new record of an immutable share is 72 bytes at
the end of the share and its records, where the share's own offsets say that it ends; the number of records at offset
8 is raised along with it, so that the client's own write of it finds it done.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from lafscli.formats.container import HEADER_SIZE, LEASE_SIZE
from lafscli.server.backend import PERMISSION_DENIED, Refused
from lafscli.server.judge import MOST_LEASES, holds_mutable, shape, slot_container

_COUNT_OFFSET = 8
_EXPIRATION_SIZE = 4


@dataclass(frozen=True, slots=True)
class Done:
    """What was done to a container, in words ("" is nothing), and by how many bytes it became longer."""

    what: str = ""
    longer: int = 0


def patch(fd: int, size: int, offset: int | None, data: bytes) -> Done:
    """Do it, or Refused, CorruptShare, OSError. Under the turn.

    `offset` None is the end of the file, whatever that is by now. What changes nothing is fine.
    """
    if holds_mutable(fd):
        found = slot_container(fd, size)
        return _renew(fd, offset, data, dict(found.expirations()))
    found_shape = shape(fd, size)
    start = HEADER_SIZE + found_shape.share_size
    if offset == _COUNT_OFFSET and len(data) == 4:
        return _count(fd, int.from_bytes(data, "big"), len(found_shape.leases))
    if len(data) == LEASE_SIZE and offset in (None, size):
        return _append(fd, size, data, len(found_shape.leases) + 1)
    places = range(start + LEASE_SIZE - _EXPIRATION_SIZE, size, LEASE_SIZE)
    return _renew(fd, offset, data, dict(zip(places, (lease.expiration for lease in found_shape.leases), strict=True)))


def _renew(fd: int, offset: int | None, data: bytes, expirations: dict[int, int]) -> Done:
    if offset is None or len(data) != _EXPIRATION_SIZE or offset not in expirations:
        raise Refused(PERMISSION_DENIED, "of a share that is stored only its lease records can be changed")
    new = int.from_bytes(data, "big")
    if new < expirations[offset]:
        raise Refused(PERMISSION_DENIED, "the expiration of a lease can only be set later")
    if new == expirations[offset]:
        return Done()
    _write(fd, offset, data)
    return Done("renewed a lease of")


def _count(fd: int, new: int, there: int) -> Done:
    counted = int.from_bytes(os.pread(fd, 4, _COUNT_OFFSET), "big")
    if new == counted:
        return Done()
    # never below what is counted: those records are there
    if new != there:
        raise Refused(PERMISSION_DENIED, f"there are {there} lease records, not {new}")
    _write(fd, _COUNT_OFFSET, new.to_bytes(4, "big"))
    return Done("counted the leases of")


def _append(fd: int, size: int, record: bytes, count: int) -> Done:
    if count > MOST_LEASES:
        raise Refused(PERMISSION_DENIED, f"a share has at most {MOST_LEASES} leases")
    try:
        _write(fd, size, record)
        # spec 06 §3: the record first, then the number; one who dies between loses only the new lease
        _write(fd, _COUNT_OFFSET, count.to_bytes(4, "big"))
    except OSError:
        os.ftruncate(fd, size)
        raise
    return Done("added a lease to", len(record))


def _write(fd: int, offset: int, data: bytes) -> None:
    written = os.pwrite(fd, data, offset)
    if written != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
