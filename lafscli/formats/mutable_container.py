"""Mutable share on a disk: container header and leases (spec 03 §8, 06, 09 §1).

    0    32s  magic, of version 1 or 2              468  the share, then possibly slack
    32   20s  node id of the server                 offset of extra leases:
    52   32s  write enabler                           u32  number of extra leases E
    84   u64  data length                             E leases
    92   u64  offset of extra leases                a lease, 92 bytes:
    100  4 leases, a free one with owner 0            0  u32  owner       8   32s  renew secret   72  20s  node id
                                                      4  u32  expiration  40  32s  cancel secret

Version 2 stores BLAKE2b-256 of the lease secrets, version 1 the secrets themselves; the write enabler is in clear.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Self

from lafscli.errors import CorruptShare, IncompatibleShare
from lafscli.formats.container import HEAD_SIZE, MUTABLE_MAGICS
from lafscli.primitives.encoding import Buffer
from lafscli.primitives.hashes import blake2b_32

_HEADER = struct.Struct(">32s20s32s2Q")
_LEASE = struct.Struct(">2L32s32s20s")
_COUNT_SIZE = 4
_SLOTS = 4
_EXPIRATION_OFFSET = 4
_MAX_U32 = (1 << 32) - 1
LEASE_SIZE = _LEASE.size
DATA_OFFSET = _HEADER.size + _SLOTS * LEASE_SIZE
MOST_LEASES = 10_000
"""A container with more extra leases is not read: 900 KB, and nobody's."""
VERSION = 2
OWNER = 1
_FREE = bytes(LEASE_SIZE)


@dataclass(frozen=True, slots=True)
class MutableLease:
    """A lease as it is stored: `renew` and `cancel` are hashes in version 2, the secrets in version 1."""

    version: int
    owner: int
    expiration: int
    renew: bytes = field(repr=False)
    cancel: bytes = field(repr=False)
    node_id: bytes

    @classmethod
    def make(
        cls, renew: bytes, cancel: bytes, expiration: int, node_id: bytes, *, owner: int = OWNER, version: int = VERSION
    ) -> Self:
        """From the secrets themselves."""
        assert len(renew) == len(cancel) == 32, "lease secrets have 32 bytes"
        assert owner, "owner 0 means that there is no lease"
        if version == 2:
            renew, cancel = blake2b_32(renew), blake2b_32(cancel)
        # spec 06 §1: u32 seconds; a lease can't say more than 2106
        return cls(version, owner, min(expiration, _MAX_U32), renew, cancel, node_id)

    @classmethod
    def parse(cls, data: Buffer, version: int) -> Self:
        if len(data) != LEASE_SIZE:
            raise CorruptShare("container: a lease is cut short")
        return cls(version, *_LEASE.unpack(data))

    def serialise(self) -> bytes:
        return _LEASE.pack(self.owner, self.expiration, self.renew, self.cancel, self.node_id)

    def hashed(self) -> Self:
        """The same as version 2 stores it."""
        if self.version == 2:
            return self
        return replace(self, version=2, renew=blake2b_32(self.renew), cancel=blake2b_32(self.cancel))

    @property
    def free(self) -> bool:
        """Whether this is no lease, but room for one."""
        return self.owner == 0

    def matches_renew(self, secret: bytes) -> bool:
        """Whether this lease may be renewed with the secret; takes the same time for any."""
        return not self.free and hmac.compare_digest(self.renew, self._stored(secret))

    def matches_cancel(self, secret: bytes) -> bool:
        return not self.free and hmac.compare_digest(self.cancel, self._stored(secret))

    def _stored(self, secret: bytes) -> bytes:
        return blake2b_32(secret) if self.version == 2 else secret


@dataclass(frozen=True, slots=True)
class MutableContainer:
    """All of a container file but the share. `slots` are four; `extra` are the leases after the share.

    `extra_offset` is as the file has it; `extra` are none until `with_extra` has read them.
    """

    version: int
    node_id: bytes
    write_enabler: bytes = field(repr=False)
    data_length: int
    extra_offset: int
    file_size: int
    slots: tuple[MutableLease, ...]
    extra: tuple[MutableLease, ...] = ()

    @classmethod
    def new(cls, node_id: bytes, write_enabler: bytes) -> Self:
        """An empty container, as the server of `node_id` (20 bytes) would make it."""
        assert len(node_id) == 20, "a node id has 20 bytes"
        assert len(write_enabler) == 32, "a write enabler has 32 bytes"
        free = MutableLease.parse(_FREE, VERSION)
        return cls(VERSION, node_id, write_enabler, 0, DATA_OFFSET, DATA_OFFSET + _COUNT_SIZE, (free,) * _SLOTS)

    @classmethod
    def parse(cls, head: Buffer, file_size: int) -> Self:
        """From the first DATA_OFFSET bytes (fewer if the file is shorter) and the size of the file.

        IncompatibleShare for what is no mutable container of a known version, CorruptShare for one that is cut short.
        """
        magic = bytes(head[:HEAD_SIZE])
        if magic not in MUTABLE_MAGICS:
            if len(magic) < HEAD_SIZE:
                raise CorruptShare("container: header is cut short")
            raise IncompatibleShare("container: holds no mutable share of a known version")
        if len(head) < DATA_OFFSET:
            raise CorruptShare("container: header is cut short")
        version = MUTABLE_MAGICS.index(magic) + 1
        _, node_id, write_enabler, data_length, extra_offset = _HEADER.unpack_from(head)
        if DATA_OFFSET + data_length > file_size:
            raise CorruptShare(f"container: {file_size} bytes do not hold {data_length} bytes of data")
        slots = _parse_leases(memoryview(head)[_HEADER.size : DATA_OFFSET], version)
        return cls(version, node_id, write_enabler, data_length, extra_offset, file_size, slots)

    @property
    def extra_range(self) -> tuple[int, int] | None:
        """Offset and length in the file of what `with_extra` wants to read; None where there are no extra leases.

        spec 09 §1: a container without their number, or with an offset that can't be, is read all the same.
        """
        room = self.file_size - self.extra_offset
        if self.extra_offset < DATA_OFFSET + self.data_length or room < _COUNT_SIZE:
            return None
        return self.extra_offset, min(room, _COUNT_SIZE + MOST_LEASES * LEASE_SIZE)

    def with_extra(self, area: Buffer) -> Self:
        """The same with its extra leases, from the bytes at `extra_range`; CorruptShare if they are not all there."""
        if len(area) < _COUNT_SIZE:
            raise CorruptShare("container: the number of extra leases is cut short")
        count = int.from_bytes(area[:_COUNT_SIZE], "big")
        end = _COUNT_SIZE + count * LEASE_SIZE
        if count > MOST_LEASES or end > len(area):
            raise CorruptShare(f"container: no room for {count} extra leases")
        return replace(self, extra=_parse_leases(memoryview(area)[_COUNT_SIZE:end], self.version))

    @property
    def leases(self) -> tuple[MutableLease, ...]:
        return tuple(lease for lease in (*self.slots, *self.extra) if not lease.free)

    def check_write_enabler(self, expected: bytes) -> None:
        """CorruptShare unless it is the one of this container; takes the same time for any."""
        if not hmac.compare_digest(self.write_enabler, expected):
            raise CorruptShare("container: its write enabler is not that of the write cap and this server")

    def records(self) -> Iterator[tuple[int, MutableLease]]:
        """Where in the file each record lies, free ones too, and the record."""
        for i, lease in enumerate(self.slots):
            yield _HEADER.size + i * LEASE_SIZE, lease
        for i, lease in enumerate(self.extra):
            yield self.extra_offset + _COUNT_SIZE + i * LEASE_SIZE, lease

    def expirations(self) -> Iterator[tuple[int, int]]:
        """Of each lease: where in the file its expiration lies, and the expiration."""
        for start, lease in self.records():
            if not lease.free:
                yield start + _EXPIRATION_OFFSET, lease.expiration

    def find_lease(self, renew: bytes) -> tuple[int, int] | None:
        """Of the first lease with this renew secret: where in the file its expiration lies, and the expiration."""
        for start, lease in self.records():
            if lease.matches_renew(renew):
                return start + _EXPIRATION_OFFSET, lease.expiration
        return None

    def with_lease(self, renew: bytes, cancel: bytes, expiration: int, node_id: bytes) -> Self:
        """The same with this lease: its own record with the later expiration, or a new one where there is room."""
        made = MutableLease.make(renew, cancel, expiration, node_id, version=self.version)
        records = [*self.slots, *self.extra]
        for i, lease in enumerate(records):
            if lease.matches_renew(renew):
                records[i] = replace(lease, expiration=max(lease.expiration, made.expiration))
                break
        else:
            free = next((i for i, lease in enumerate(self.slots) if lease.free), None)
            if free is None:
                records.append(made)
            else:
                records[free] = made
        return replace(self, slots=tuple(records[:_SLOTS]), extra=tuple(records[_SLOTS:]))

    def resized(self, data_length: int) -> Self:
        """The same around a share of another length, without slack."""
        extra_offset = DATA_OFFSET + data_length
        file_size = extra_offset + _COUNT_SIZE + len(self.extra) * LEASE_SIZE
        return replace(self, data_length=data_length, extra_offset=extra_offset, file_size=file_size)

    def front(self) -> bytes:
        """What comes before the share."""
        magic = MUTABLE_MAGICS[self.version - 1]
        header = _HEADER.pack(magic, self.node_id, self.write_enabler, self.data_length, self.extra_offset)
        return header + b"".join([lease.serialise() for lease in self.slots])

    def back(self) -> bytes:
        """What comes after the share of a container without slack."""
        assert self.extra_offset == DATA_OFFSET + self.data_length, "there is slack: `resized` takes it away"
        return len(self.extra).to_bytes(_COUNT_SIZE, "big") + b"".join([lease.serialise() for lease in self.extra])


def _parse_leases(area: memoryview, version: int) -> tuple[MutableLease, ...]:
    starts = range(0, len(area), LEASE_SIZE)
    return tuple(MutableLease.parse(area[start : start + LEASE_SIZE], version) for start in starts)
