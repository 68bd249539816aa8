"""Whether a container holds a share that proves, by its bytes alone: no cap, no path, a few kilobytes of memory.

What can't be proven without a cap: that an immutable share is of its storage index, which key a slot must have, the
encrypted private key of a slot, and what no reader looks at (slack, gaps, the plaintext hash tree).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from lafscli.errors import CorruptShare
from lafscli.formats import mutable_container
from lafscli.formats.caps import MutableVerifyCap
from lafscli.formats.chk import HEADER_MAX, MAX_SHARES, UEB_LIMIT, Layout, Sizes, Ueb, parse_chain
from lafscli.formats.container import HEAD_SIZE, HEADER_SIZE, LEASE_SIZE, ImmutableContainer, LeaseRecord, is_mutable
from lafscli.formats.mutable_container import MutableContainer, MutableLease
from lafscli.formats.slot import HEAD_SIZE as SLOT_HEAD
from lafscli.formats.slot import Header
from lafscli.primitives.hashes import fingerprint_from_public_key
from lafscli.primitives.hashtree import PartialTree, width
from lafscli.proof.slots import Signatures, SlotShare
from lafscli.server.trees import Part, StoredTree, no_pulse

MOST_LEASES = 1000
"""A container of an immutable share with more of them is read by nobody."""
_LATER = range(3, 16)
_LATER_SLOTS = [bytes([version]) for version in range(2, 16)]
_ANY_MUTABLE = b"Tahoe mutable container v"


@dataclass(frozen=True, slots=True)
class Shape:
    """What a container says of itself, with nothing of it proven. `leases`: as they are stored, expired ones too."""

    mutable: bool
    version: int
    leases: tuple[LeaseRecord, ...] | tuple[MutableLease, ...] = field(repr=False)
    share_size: int


@dataclass(frozen=True, slots=True)
class Immutable:
    """A well-formed container of an immutable share. `share_size` is by the share's own offsets; `leases` are all
    whole records after it, of which the container may count fewer. Of `sizes` those of a share are right; where the
    UEB does not tell them all, k is 1, and n and the size of the file may be others."""

    container: ImmutableContainer
    layout: Layout
    ueb: Ueb
    share_size: int
    leases: tuple[LeaseRecord, ...] = field(repr=False)
    sizes: Sizes


@dataclass(frozen=True, slots=True)
class ProvenSlot:
    """A mutable share, proven against its own public key."""

    public_key: bytes = field(repr=False)
    fingerprint: bytes
    seqnum: int
    root_hash: bytes
    header: Header
    container: MutableContainer

    @property
    def version(self) -> tuple[int, bytes]:
        """By which one version is newer than another."""
        return self.seqnum, self.root_hash


def holds_mutable(fd: int) -> bool:
    """Whether the container is one of a mutable share, by its first bytes."""
    return is_mutable(os.pread(fd, HEAD_SIZE, 0))


def unknown_version(fd: int) -> bool:
    """Whether this is a container, or a share in one, of a version that came after those that are known here: it can't
    be proven, and is not damaged for that. Absurd numbers are no versions."""
    head = os.pread(fd, mutable_container.DATA_OFFSET + 1, 0)
    if holds_mutable(fd):
        return head[mutable_container.DATA_OFFSET :] in _LATER_SLOTS
    if head.startswith(_ANY_MUTABLE):
        return True
    container, share = (int.from_bytes(head[at : at + 4], "big") for at in (0, HEADER_SIZE))
    return container in _LATER or (container in (1, 2) and share in _LATER)


def shape(fd: int, size: int) -> Shape:
    """CorruptShare or IncompatibleShare where not even that can be told."""
    if holds_mutable(fd):
        slot = slot_container(fd, size)
        return Shape(True, slot.version, slot.leases, slot.data_length)
    container, _, _, share_size, leases = _immutable_container(fd, size)
    return Shape(False, container.version, leases, share_size)


# ---- immutable -----------------------------------------------------------------------------------------------------


def well_formed(fd: int, size: int, shnum: int, *, strict: bool = True) -> Immutable:
    """Header, leases, the share's own offsets and its UEB fit together, and with the share number (spec 02 §5 to §7).
    Blocks and hashes are not looked at. Not `strict`: what follows the share may be no lease records, as readers do
    not mind (spec 09 §1)."""
    container, layout, ueb_bytes, share_size, leases = _immutable_container(fd, size, strict=strict)
    ueb, told = Ueb.described(ueb_bytes)
    sizes = told or _by_header(layout, ueb)
    layout.check(sizes)
    if not 0 <= shnum < sizes.n:
        raise CorruptShare(f"share number {shnum} of {sizes.n} shares")
    return Immutable(container, layout, ueb, share_size, leases, sizes)


def _immutable_container(
    fd: int, size: int, *, strict: bool = True
) -> tuple[ImmutableContainer, Layout, bytes, int, tuple[LeaseRecord, ...]]:
    """The container, with what tells where the share in it ends, and the lease records that follow there."""
    file = Part(fd, 0, size)
    head = file.read(0, min(size, HEADER_SIZE + HEADER_MAX), "container")
    container = ImmutableContainer.parse_header(head, size)
    layout = Layout.parse(head[HEADER_SIZE:])
    share = Part(fd, HEADER_SIZE, size - HEADER_SIZE)
    length = int.from_bytes(share.read(layout.uri_extension, layout.length_size, "length of UEB"), "big")
    if length >= UEB_LIMIT:
        raise CorruptShare(f"UEB: a length of {length} bytes")
    ueb = share.read(layout.uri_extension + layout.length_size, length, "UEB")
    share_size = layout.uri_extension + layout.length_size + length
    there, rest = divmod(share.size - share_size, LEASE_SIZE)
    if not strict and share_size <= container.data_length:
        there = rest = 0
    elif rest or not container.leases <= there <= MOST_LEASES:
        raise CorruptShare(
            f"container: {size} bytes do not hold a share of {share_size} bytes and {container.leases} leases"
        )
    area = share.read(share_size, there * LEASE_SIZE, "leases")
    starts = range(0, len(area), LEASE_SIZE)
    leases = tuple(LeaseRecord.parse(area[start : start + LEASE_SIZE], container.version) for start in starts)
    return container, layout, ueb, share_size, leases


def _by_header(layout: Layout, ueb: Ueb) -> Sizes:
    """Of one whose UEB does not tell k, n and size: how long blocks are and how many, is what its header says."""
    entries = layout.share_hash_count
    if not 1 <= entries <= MAX_SHARES.bit_length():
        raise CorruptShare(f"share header: {entries} share hashes")
    if layout.share_data < 1 or not 1 <= layout.block_size <= ueb.segment_size:
        raise CorruptShare(f"share header: {layout.share_data} bytes in blocks of {layout.block_size}")
    # as with 1 of n shares: the share is then as long as the file
    return Sizes(1, 1 << (entries - 1), layout.share_data, layout.block_size)


def prove_immutable(
    fd: int,
    size: int,
    si: bytes,  # noqa: ARG001 only the key of the file leads to it
    shnum: int,
    *,
    pulse: Callable[[], None] = no_pulse,
    strict: bool = True,
) -> Immutable:
    """All that can be proven without a cap: every block leads through the block tree and the share hashes to the UEB,
    and so does the crypttext hash tree. `pulse` is called every 16 MB; `strict` as of `well_formed`."""
    found = well_formed(fd, size, shnum, strict=strict)
    layout, sizes = found.layout, found.sizes
    share = Part(fd, HEADER_SIZE, found.share_size, pulse)
    chain = share.read(layout.share_hashes, layout.uri_extension - layout.share_hashes, "share hashes")
    nodes = parse_chain(chain, sizes.n)
    leaf = width(sizes.n) - 1 + shnum
    if leaf not in nodes:
        raise CorruptShare(f"share hashes: the node of share {shnum} is missing")
    try:
        PartialTree(sizes.n, found.ueb.share_root_hash).add(nodes)
    except CorruptShare as error:
        raise CorruptShare(f"share hashes: {error.message}") from error
    tree = StoredTree(share, layout.block_hashes, sizes.num_segments, "block hashes")
    if tree.root != nodes[leaf]:
        raise CorruptShare("block hashes: wrong root")
    crypttext = StoredTree(share, layout.crypttext_hash_tree, sizes.num_segments, "crypttext hash tree")
    if crypttext.root != found.ueb.crypttext_root_hash:
        raise CorruptShare("crypttext hash tree: wrong root")
    for number in range(sizes.num_segments):
        crypttext.add(crypttext.stored_leaf(number))
    crypttext.finish()
    for number in range(sizes.num_segments):
        start = layout.data + number * sizes.block_size
        tree.add(share.block_hash(start, sizes.block_length(number), f"block {number}"))
    tree.finish()
    return found


# ---- mutable -------------------------------------------------------------------------------------------------------


def slot_container(fd: int, size: int, *, strict: bool = True) -> MutableContainer:
    """The container of a mutable share with all its leases; CorruptShare where they do not fit, if `strict`: else
    those that are not all there are none."""
    file = Part(fd, 0, size)
    container = MutableContainer.parse(file.read(0, min(size, mutable_container.DATA_OFFSET), "container"), size)
    if container.extra_range is None:
        return container
    area = file.read(*container.extra_range, "extra leases")
    try:
        return container.with_extra(area)
    except CorruptShare:
        if strict:
            raise
        return container


def told_mutable(fd: int, size: int, si: bytes, shnum: int, *, strict: bool = True) -> ProvenSlot:
    """As far as the signature goes: whose share this is, and of which version. Hashes and blocks are not looked at."""
    return _signed(fd, size, si, shnum, strict)[0]


def _signed(fd: int, size: int, si: bytes, shnum: int, strict: bool) -> tuple[ProvenSlot, bytes, Signatures]:
    """With the bytes of the share's head, and the memory of its signature."""
    container = slot_container(fd, size, strict=strict)
    share = Part(fd, mutable_container.DATA_OFFSET, container.data_length)
    head = share.read(0, min(SLOT_HEAD, container.data_length), "share header")
    header = Header.parse(head, container.data_length)
    prefix = header.prefix
    if not 0 <= shnum < prefix.n:
        raise CorruptShare(f"share number {shnum} of {prefix.n} shares")
    front = Part(fd, mutable_container.DATA_OFFSET, len(head))
    public_key = front.read(*header.layout.public_key, "public key")
    signature = front.read(*header.layout.signature, "signature")
    fingerprint = fingerprint_from_public_key(public_key)
    signatures = Signatures(MutableVerifyCap(prefix.mdmf, si, fingerprint))
    signatures.check(public_key, signature, prefix.serialise())
    return ProvenSlot(public_key, fingerprint, prefix.seqnum, prefix.root_hash, header, container), head, signatures


def prove_mutable(
    fd: int, size: int, si: bytes, shnum: int, *, pulse: Callable[[], None] = no_pulse, strict: bool = True
) -> ProvenSlot:
    """The signature by the share's own key, the share hash chain, the block hash tree, and every block. `pulse` is
    called every 16 MB; `strict` as of `slot_container`."""
    slot, head, signatures = _signed(fd, size, si, shnum, strict)
    found = SlotShare(signatures, shnum, head, slot.container.data_length)
    share = Part(fd, mutable_container.DATA_OFFSET, slot.container.data_length, pulse)
    count = slot.header.prefix.num_segments
    tree = StoredTree(share, slot.header.layout.block_hash_tree[0], count, "block hash tree")
    found.prove_root(tree.root)
    for number in range(count):
        tree.add(share.block_hash(*slot.header.block(number), f"block {number}"))
    tree.finish()
    return slot
