"""The leases of a container on this machine: read, taken out, given more time (spec 02 §6, 03 §8, 06)."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lafscli.errors import CorruptShare
from lafscli.formats.chk import HEADER_MAX, UEB_LIMIT, Layout
from lafscli.formats.container import HEADER_SIZE, LEASE_SIZE, ImmutableContainer
from lafscli.server.cancelling import Lease, drop_leases
from lafscli.server.judge import holds_mutable, shape, slot_container

_EXPIRATION_SIZE = 4
_MOST = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class LeaseBook:
    """The leases of a container. Two that are equal were read of one that nobody has changed in between, but for the
    bytes of the share."""

    mutable: bool
    file_size: int
    leases: Sequence[Lease] = field(repr=False)

    @property
    def expirations(self) -> list[int]:
        return [lease.expiration for lease in self.leases]


def read_leases(descriptor: int) -> LeaseBook:
    """CorruptShare where share, leases and file size don't fit together, IncompatibleShare for a container of a
    version that is not known. A record that its writer had no time to count is a lease like the others."""
    size = os.fstat(descriptor).st_size
    found = shape(descriptor, size)
    if found.mutable:
        slot = slot_container(descriptor, size)
        if slot.extra_range is None and slot.extra_offset != size:
            # spec 09 §1: read all the same; but whether there are leases behind the share can't be told
            raise CorruptShare("container: its offset of extra leases can't be")
    return LeaseBook(found.mutable, size, found.leases)


def take_out(descriptor: int, ended: Callable[[int], bool]) -> int:
    """Remove the records of leases that have ended from an open container, unless none would be left; how many."""
    gone, left = drop_leases(descriptor, os.fstat(descriptor).st_size, lambda lease: ended(lease.expiration))
    return gone if left else 0


def prolong(descriptor: int, until: int) -> int:
    """Set a later expiration in the records of an open container that have an earlier one; how many."""
    size = os.fstat(descriptor).st_size
    places: list[tuple[int, int]]
    if holds_mutable(descriptor):
        places = list(slot_container(descriptor, size).expirations())
    else:
        leases: Sequence[Lease] = shape(descriptor, size).leases
        first = size - LEASE_SIZE * len(leases) + LEASE_SIZE - _EXPIRATION_SIZE
        places = [(first + LEASE_SIZE * index, lease.expiration) for index, lease in enumerate(leases)]
    earlier = [offset for offset, expiration in places if expiration < until]
    for offset in earlier:
        os.pwrite(descriptor, min(until, _MOST).to_bytes(_EXPIRATION_SIZE, "big"), offset)
    return len(earlier)


def size_without_tail(descriptor: int, size: int) -> int | None:
    """Where an immutable container would end without what follows its share and the leases that it counts, where that
    is more than whole leases: readers do not mind it (spec 09 §1). None where it ends before."""
    head = os.pread(descriptor, HEADER_SIZE + HEADER_MAX, 0)
    container = ImmutableContainer.parse_header(head, size)
    layout = Layout.parse(head[HEADER_SIZE:])
    end = HEADER_SIZE + layout.uri_extension + layout.length_size
    length = os.pread(descriptor, layout.length_size, end - layout.length_size)
    if len(length) < layout.length_size or int.from_bytes(length, "big") >= UEB_LIMIT:
        return None
    end += int.from_bytes(length, "big") + LEASE_SIZE * container.leases
    return end if end < size and (size - end) % LEASE_SIZE else None
