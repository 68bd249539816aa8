"""Immutable share on a disk: path, container header, leases (spec 02 §6, 06; mutable containers: 03 §8).

    0   u32  version 1 or 2       12  the share       end - 72·L  leases, 72 bytes each:
    4   u32  length, informational                      0  u32  owner         36  32s  cancel secret
    8   u32  number of leases L                         4  32s  renew secret  68  u32  expiration, Unix seconds

Version 2 stores BLAKE2b-256 of the secrets, version 1 the secrets themselves. Where the share ends is told by the
file's size alone.
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass, field
from typing import Self

from lafscli.errors import CorruptShare, IncompatibleShare, MutableFound
from lafscli.primitives.encoding import Buffer, b32encode
from lafscli.primitives.hashes import blake2b_32, mutable_container_mark

_HEADER = struct.Struct(">3L")
_LEASE = struct.Struct(">L32s32sL")
HEADER_SIZE = _HEADER.size
LEASE_SIZE = _LEASE.size
_EXPIRATION_OFFSET = LEASE_SIZE - 4
HEAD_SIZE = 32  # tells mutable from immutable
VERSION = 2
_MAX_U32 = (1 << 32) - 1
_MUTABLE_V2 = b"Tahoe mutable container v2\n"
MUTABLE_MAGICS = (  # of version 1, of version 2
    b"Tahoe mutable container v1\n\x75\x09\x44\x03\x8e",
    _MUTABLE_V2 + mutable_container_mark(_MUTABLE_V2),
)


def share_folder(si: bytes) -> str:
    """Folder of all shares of a storage index, below the root of the storage."""
    text = b32encode(si)
    return f"shares/{text[:2]}/{text}"


def share_path(si: bytes, shnum: int) -> str:
    return f"{share_folder(si)}/{shnum}"


def share_number(name: str) -> int | None:
    """The share that a file name of an SI folder stands for; None for a name that is to be ignored."""
    # spec 09 §1: a Tahoe server takes `00` for share 0
    return int(name) if name.isascii() and name.isdigit() and len(name) < 10 else None


def header(share_length: int, leases: int) -> bytes:
    """Container header of version 2."""
    return _HEADER.pack(VERSION, min(share_length, _MAX_U32), leases)


def is_mutable(head: Buffer) -> bool:
    """Whether the first 32 bytes are those of a mutable container, of whatever version."""
    return bytes(head[:HEAD_SIZE]) in MUTABLE_MAGICS


def check_head(head: Buffer) -> int:
    """The version of the immutable container that begins with these (at least 12) bytes."""
    if is_mutable(head):
        raise MutableFound("container: holds a mutable share")
    if len(head) < HEADER_SIZE:
        raise CorruptShare("container: header is cut short")
    version = int.from_bytes(head[:4], "big")
    if version not in (1, 2):
        raise IncompatibleShare(f"container: version {version} is not known")
    return version


@dataclass(frozen=True, slots=True)
class ImmutableContainer:
    """Where things lie in a container file."""

    version: int
    leases: int
    data_length: int

    @classmethod
    def parse_header(cls, head: Buffer, file_size: int) -> Self:
        """From the first 32 bytes (fewer if the file is shorter) and the size of the file."""
        version = check_head(head)
        leases = int.from_bytes(head[8:HEADER_SIZE], "big")
        length = file_size - HEADER_SIZE - LEASE_SIZE * leases
        if length < 0:
            raise CorruptShare(f"container: no room for {leases} leases")
        return cls(version, leases, length)

    @property
    def data_offset(self) -> int:
        return HEADER_SIZE

    @property
    def lease_offset(self) -> int:
        return HEADER_SIZE + self.data_length

    @property
    def lease_area(self) -> int:
        """Length of all lease records."""
        return LEASE_SIZE * self.leases

    def parse_leases(self, area: Buffer) -> list[LeaseRecord]:
        """The records of the lease area, as they are stored."""
        if len(area) != self.lease_area:
            raise CorruptShare("container: leases are cut short")
        return [
            LeaseRecord.parse(area[start : start + LEASE_SIZE], self.version)
            for start in range(0, len(area), LEASE_SIZE)
        ]

    def find_lease(self, area: Buffer, renew: bytes) -> tuple[int, int] | None:
        """Of the first lease with this renew secret: where in the file its expiration lies, and the expiration."""
        for i, record in enumerate(self.parse_leases(area)):
            if record.matches_renew(renew):
                return self.lease_offset + LEASE_SIZE * i + _EXPIRATION_OFFSET, record.expiration
        return None


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """A lease as it is stored: `renew` and `cancel` are hashes in version 2, the secrets in version 1."""

    version: int
    owner: int
    renew: bytes = field(repr=False)
    cancel: bytes = field(repr=False)
    expiration: int

    @classmethod
    def make(cls, renew: bytes, cancel: bytes, expiration: int, *, owner: int = 0, version: int = VERSION) -> Self:
        """From the secrets themselves."""
        assert len(renew) == len(cancel) == 32, "lease secrets have 32 bytes"
        if version == 2:
            renew, cancel = blake2b_32(renew), blake2b_32(cancel)
        return cls(version, owner, renew, cancel, expiration)

    @classmethod
    def parse(cls, data: Buffer, version: int) -> Self:
        if len(data) != LEASE_SIZE:
            raise CorruptShare("container: a lease is cut short")
        owner, renew, cancel, expiration = _LEASE.unpack(data)
        return cls(version, owner, renew, cancel, expiration)

    def serialise(self) -> bytes:
        # spec 06 §1: u32 seconds; a lease can't say more than 2106
        return _LEASE.pack(self.owner, self.renew, self.cancel, min(self.expiration, _MAX_U32))

    def matches_renew(self, secret: bytes) -> bool:
        """Whether this lease may be renewed with the secret; takes the same time for any."""
        return hmac.compare_digest(self.renew, blake2b_32(secret) if self.version == 2 else secret)

    def matches_cancel(self, secret: bytes) -> bool:
        return hmac.compare_digest(self.cancel, blake2b_32(secret) if self.version == 2 else secret)


def lease_record(renew: bytes, cancel: bytes, expiration: int, *, owner: int = 0, version: int = VERSION) -> bytes:
    """The 72 bytes of a new lease, from its secrets."""
    return LeaseRecord.make(renew, cancel, expiration, owner=owner, version=version).serialise()
