"""The lease records of a container on this machine: read, and taken out where they lie (spec 02 §6, 03 §8, 06 §3).

In an immutable container the records begin where the share ends by its own offsets; so one whose writer died between
two steps is read as well. Nothing but records, their number and the file's end is ever written.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lafscli.errors import CorruptShare
from lafscli.formats import container, mutable_container
from lafscli.formats.chk import HEADER_MAX, UEB_LIMIT, Layout
from lafscli.formats.container import HEADER_SIZE, ImmutableContainer, LeaseRecord
from lafscli.formats.mutable_container import DATA_OFFSET, MOST_LEASES, MutableContainer, MutableLease

_COUNT_OFFSET = 8
_COUNT_SIZE = 4
_SLOTS_OFFSET = 100
_MUTABLE_EXPIRATION = 4


@dataclass(frozen=True, slots=True)
class Record:
    """One lease: when it ends, and where in the file it lies."""

    expiration: int
    offset: int
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class LeaseBook:
    """The leases of a container. `counted` is the number that the container gives of those behind the share."""

    mutable: bool
    start: int
    """Where the records behind the share begin; of a mutable container, their number."""
    counted: int
    file_size: int
    records: tuple[Record, ...]
    behind: int
    """How many records lie behind the share, free ones too."""

    @property
    def consistent(self) -> bool:
        """Whether no writer has stopped half-way."""
        return self.counted == self.behind

    def remove(self, descriptor: int, ended: Callable[[int], bool]) -> int:
        """Take out the records of leases that have ended; how many. Killed at any moment, all others are still there
        for who reads as this book does; afterwards for everybody."""
        kept = [record for record in self.records if not ended(record.expiration)]
        if self.mutable:
            self._clear(descriptor, [record for record in self.records if ended(record.expiration)])
        else:
            self._pack(descriptor, kept)
        return len(self.records) - len(kept)

    def prolong(self, descriptor: int, until: int) -> int:
        """Set a later expiration in the records that have an earlier one; how many."""
        earlier = [record for record in self.records if record.expiration < until]
        for record in earlier:
            at = record.offset + (_MUTABLE_EXPIRATION if self.mutable else container.LEASE_SIZE - 4)
            _write(descriptor, at, min(until, 0xFFFFFFFF).to_bytes(4, "big"))
        return len(earlier)

    def _clear(self, descriptor: int, gone: Sequence[Record]) -> None:
        # in place: a client that renews without a guard must find its own record where it saw it
        for record in gone:
            _write(descriptor, record.offset, bytes(len(record.data)))
        os.fdatasync(descriptor)

    def _pack(self, descriptor: int, kept: Sequence[Record]) -> None:
        """Records to the front, then their number, then the end of the file: a share never loses its last bytes."""
        size = container.LEASE_SIZE
        moved = [(self.start + size * index, record) for index, record in enumerate(kept)]
        for offset, record in moved:  # ascending, so that none is overwritten before it was copied
            if offset != record.offset:
                _write(descriptor, offset, record.data)
        os.fdatasync(descriptor)
        _write(descriptor, _COUNT_OFFSET, len(kept).to_bytes(_COUNT_SIZE, "big"))
        os.fdatasync(descriptor)
        os.ftruncate(descriptor, self.start + size * len(kept))


def read_leases(descriptor: int) -> LeaseBook:
    """The leases of an open container. CorruptShare where share, leases and file size don't fit together,
    IncompatibleShare for a version that is not known."""
    size = os.fstat(descriptor).st_size
    head = os.pread(descriptor, DATA_OFFSET, 0)
    return _of_slot(descriptor, head, size) if container.is_mutable(head) else _of_immutable(descriptor, head, size)


def _of_immutable(descriptor: int, head: bytes, size: int) -> LeaseBook:
    version = container.check_head(head)
    counted = ImmutableContainer.parse_header(head, size).leases
    layout = Layout.parse(head[HEADER_SIZE : HEADER_SIZE + HEADER_MAX])
    length_at = HEADER_SIZE + layout.uri_extension
    length = os.pread(descriptor, layout.length_size, length_at)
    if len(length) != layout.length_size or int.from_bytes(length, "big") >= UEB_LIMIT:
        raise CorruptShare("share: ends before its UEB")
    start = length_at + layout.length_size + int.from_bytes(length, "big")
    there, rest = divmod(size - start, container.LEASE_SIZE)
    # spec 06 §3: who added a record and died before it was counted leaves whole records too many
    if rest or there < counted:
        raise CorruptShare(f"container: {size} bytes do not hold a share that ends at {start}, and {counted} leases")
    if there > MOST_LEASES:
        raise CorruptShare(f"container: {there} leases")
    area = os.pread(descriptor, container.LEASE_SIZE * there, start)
    if len(area) != container.LEASE_SIZE * there:
        raise CorruptShare("container: leases are cut short")
    records = []
    for index in range(there):
        data = area[container.LEASE_SIZE * index : container.LEASE_SIZE * (index + 1)]
        lease = LeaseRecord.parse(data, version)
        records.append(Record(lease.expiration, start + container.LEASE_SIZE * index, data))
    return LeaseBook(False, start, counted, size, tuple(records), there)


def _of_slot(descriptor: int, head: bytes, size: int) -> LeaseBook:
    found = MutableContainer.parse(head, size)
    if found.extra_range is not None:
        offset, length = found.extra_range
        found = found.with_extra(os.pread(descriptor, length, offset))
    elif found.extra_offset != size:
        # spec 09 §1: read all the same; but whether there are leases behind the share can't be told
        raise CorruptShare("container: its offset of extra leases can't be")
    step = mutable_container.LEASE_SIZE
    places: list[tuple[int, MutableLease]] = [
        *((_SLOTS_OFFSET + step * index, lease) for index, lease in enumerate(found.slots)),
        *((found.extra_offset + _COUNT_SIZE + step * index, lease) for index, lease in enumerate(found.extra)),
    ]
    records = tuple(Record(lease.expiration, at, lease.serialise()) for at, lease in places if not lease.free)
    return LeaseBook(True, found.extra_offset, len(found.extra), size, records, len(found.extra))


def _write(descriptor: int, offset: int, data: bytes) -> None:
    while data:
        count = os.pwrite(descriptor, data, offset)
        offset, data = offset + count, data[count:]
