"""What a share's file says of itself, for people to look at: nothing here is proved (spec 02 §3-6, 03 §5-8, 06)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lafscli.errors import CorruptShare
from lafscli.formats import container
from lafscli.formats.chk import HEADER_MAX, UEB_LIMIT, Layout
from lafscli.formats.container import ImmutableContainer, LeaseRecord
from lafscli.formats.mutable_container import DATA_OFFSET, MutableContainer
from lafscli.formats.slot import HEAD_SIZE, Header
from lafscli.primitives.encoding import Buffer, Reader
from lafscli.primitives.hashes import fingerprint_from_public_key

Fetch = Callable[[int, int], Buffer]
"""(offset, length) to bytes of the file; fewer where it ends."""

_MANY_LEASES = 1000


@dataclass(frozen=True, slots=True)
class Description:
    """An immutable share as it lies on a disk. `ueb`: the fields of the UEB, numbers and texts as they stand there,
    hashes as bytes."""

    container: ImmutableContainer
    leases: list[LeaseRecord]
    layout: Layout
    ueb: dict[str, bytes]

    def number(self, field: str) -> int | None:
        """A field of the UEB that is a number."""
        return number(self.ueb, field)


@dataclass(frozen=True, slots=True)
class SlotDescription:
    """A mutable share as it lies on a disk. `fingerprint`: of the public key that stands in it."""

    container: MutableContainer
    header: Header
    fingerprint: bytes


def describe(fetch: Fetch, file_size: int) -> Description | SlotDescription:
    """Read a container and the share in it. CorruptShare, IncompatibleShare where that can't be."""
    head = fetch(0, DATA_OFFSET)
    return _slot(head, fetch, file_size) if container.is_mutable(head) else _immutable(head, fetch, file_size)


def _slot(head: Buffer, fetch: Fetch, file_size: int) -> SlotDescription:
    found = MutableContainer.parse(head, file_size)
    if found.extra_range is not None:
        found = found.with_extra(fetch(*found.extra_range))
    share = fetch(DATA_OFFSET, min(HEAD_SIZE, found.data_length))
    header = Header.parse(share, found.data_length)
    start, length = header.layout.public_key
    return SlotDescription(found, header, fingerprint_from_public_key(bytes(share[start : start + length])))


def _immutable(head: Buffer, fetch: Fetch, file_size: int) -> Description:
    found = ImmutableContainer.parse_header(head, file_size)
    if found.leases > _MANY_LEASES:
        raise CorruptShare(f"container: {found.leases} leases are absurd")
    leases = found.parse_leases(fetch(found.lease_offset, found.lease_area))
    layout = Layout.parse(fetch(found.data_offset, min(HEADER_MAX, found.data_length)))
    start, room = layout.uri_extension, found.data_length - layout.uri_extension
    if room < layout.length_size:
        raise CorruptShare("share: it ends before the UEB")
    length = int.from_bytes(fetch(found.data_offset + start, layout.length_size), "big")
    if length > min(UEB_LIMIT, room - layout.length_size):
        raise CorruptShare(f"UEB: length {length} can't be")
    ueb = ueb_fields(fetch(found.data_offset + start + layout.length_size, length))
    return Description(found, leases, layout, ueb)


def ueb_fields(data: Buffer) -> dict[str, bytes]:
    """The fields of a UEB as they stand there."""
    reader = Reader(data, "UEB")
    fields: dict[str, bytes] = {}
    while reader.remaining():
        key = reader.until(b":", 100, "a key").decode("latin-1")
        fields[key] = reader.netstring("a value")
    return fields


def number(fields: Mapping[str, bytes], field: str) -> int | None:
    """A field that is a number; None where it is none."""
    digits = fields.get(field, b"")
    return int(digits) if digits.isdigit() and len(digits) < 20 else None
