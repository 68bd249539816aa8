"""Mutable share: signed prefix, offsets, sections of SDMF and MDMF (spec 03 §3, §5, §6).

SDMF                            MDMF                              sections, in this order
0   u8   version = 0            0   u8   version = 1              SDMF, without gaps from 107:
1   u64  seqnum                 1   u64  seqnum                     public key, signature, share hash chain,
9   32s  root hash              9   32s  root hash                  block hash tree, share data (one block),
41  16s  salt                   41  u8   k                          encrypted private key
57  u8   k                      42  u8   N                        MDMF, without gaps from 123:
58  u8   N                      43  u64  segment size               encrypted private key, share hash chain,
59  u64  segment size           51  u64  data length                signature, public key
67  u64  data length            59  u64  o.enc_privkey            MDMF, without gaps from 2167; what is between
75  u32  o.signature            67  u64  o.share_hash_chain         says nothing:
79  u32  o.share_hash_chain     75  u64  o.signature                share data (salt and block, a segment),
83  u32  o.block_hash_tree      83  u64  o.verification_key         block hash tree
87  u32  o.share_data           91  u64  o.verification_key_end
91  u64  o.enc_privkey          99  u64  o.share_data             share hash chain, 34 an entry: u16 node
99  u64  o.EOF                  107 u64  o.block_hash_tree        number, hash; ascending, without the leaf
107                             115 u64  o.EOF

The prefix, all before the offsets, is what is signed. What follows EOF is left of an earlier, longer version.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from lafscli.errors import CorruptShare, IncompatibleShare
from lafscli.primitives.encoding import Buffer
from lafscli.primitives.hashtree import HASH_SIZE, chain, node_count, width

Range = tuple[int, int]
"""Offset and length in a share."""

SALT_SIZE = 16
SIGNATURE_SIZE = 256
MAX_SHARES = 255
MDMF_SEGMENT = 131072
"""Segment size of new MDMF versions, before it is rounded up to a multiple of k."""
HEAD_SIZE = 4096
"""So many bytes from the front of a share hold all that comes before its data."""

MOST_PRIVKEY = 1 << 14
"""Bytes of the encrypted private key; that of an RSA key of 2048 bits has about 1220."""

_SDMF_PREFIX = struct.Struct(">BQ32s16s2B2Q")
_MDMF_PREFIX = struct.Struct(">BQ32s2B2Q")
_SDMF_OFFSETS = struct.Struct(">4L2Q")
_MDMF_OFFSETS = struct.Struct(">8Q")
_SDMF_FIRST = _SDMF_PREFIX.size + _SDMF_OFFSETS.size
_MDMF_FIRST = _MDMF_PREFIX.size + _MDMF_OFFSETS.size
_MDMF_DATA = 2167
_CHECKSTRING = {False: 57, True: 41}
_CHAIN_ENTRY = 2 + HASH_SIZE


@dataclass(frozen=True, slots=True)
class Prefix:
    """What is signed of a version, and the sizes that follow from it. `salt` is that of SDMF; empty for MDMF."""

    mdmf: bool
    seqnum: int
    root_hash: bytes
    salt: bytes
    k: int
    n: int
    segment_size: int
    data_length: int

    @classmethod
    def plan(cls, mdmf: bool, k: int, n: int, data_length: int, *, salt: bytes = b"") -> Self:
        """The sizes that a writer uses; seqnum and root hash are not known yet, and stand empty."""
        assert len(salt) == (0 if mdmf else SALT_SIZE), "SDMF has one salt, MDMF one a segment"
        assert 1 <= k <= n <= MAX_SHARES, "an encoding that can't be"
        return cls(
            mdmf, 0, bytes(HASH_SIZE), salt, k, n, _round_up(MDMF_SEGMENT if mdmf else data_length, k), data_length
        )

    @classmethod
    def parse(cls, data: Buffer) -> Self:
        """Read the prefix at the front of `data`; IncompatibleShare for a version that is not known."""
        if not len(data):
            raise CorruptShare("share header: cut short")
        version = data[0]
        if version not in (0, 1):
            raise IncompatibleShare(f"share header: version {version} is not known")
        layout = _MDMF_PREFIX if version else _SDMF_PREFIX
        if len(data) < layout.size:
            raise CorruptShare("share header: cut short")
        _, seqnum, root_hash, *rest = layout.unpack_from(data)
        salt = b"" if version else rest.pop(0)
        k, n, segment_size, data_length = rest
        prefix = cls(bool(version), seqnum, root_hash, salt, k, n, segment_size, data_length)
        prefix._check()
        return prefix

    def serialise(self) -> bytes:
        """The signed bytes: 75 of SDMF, 59 of MDMF."""
        sizes = self.k, self.n, self.segment_size, self.data_length
        if self.mdmf:
            return _MDMF_PREFIX.pack(1, self.seqnum, self.root_hash, *sizes)
        return _SDMF_PREFIX.pack(0, self.seqnum, self.root_hash, self.salt, *sizes)

    @property
    def checkstring(self) -> bytes:
        """The first bytes of a share, by which a writer knows the version: 57 of SDMF, 41 of MDMF."""
        return self.serialise()[: _CHECKSTRING[self.mdmf]]

    @property
    def num_segments(self) -> int:
        return -(-self.data_length // self.segment_size) if self.data_length else 0

    def segment_length(self, segment: int) -> int:
        """True length of a segment."""
        assert 0 <= segment < self.num_segments, "no such segment"
        return min(self.segment_size, self.data_length - segment * self.segment_size)

    def block_length(self, segment: int) -> int:
        return -(-self.segment_length(segment) // self.k)

    @property
    def block_size(self) -> int:
        """Length of all blocks but the last, which may be shorter."""
        return self.segment_size // self.k

    @property
    def share_data(self) -> int:
        """Length of all blocks of a share, with their salts."""
        count = self.num_segments
        if not count:
            return 0
        salt = SALT_SIZE if self.mdmf else 0
        return count * salt + (count - 1) * self.block_size + self.block_length(count - 1)

    @property
    def tree_size(self) -> int:
        """Length of the block hash tree."""
        return HASH_SIZE * node_count(self.num_segments)

    def segments(self, offset: int, length: int) -> range:
        """Those that hold any of these bytes of the content, as far as there are such bytes."""
        end = min(offset + length, self.data_length)
        if offset >= end:
            return range(0)
        return range(offset // self.segment_size, -(-end // self.segment_size))

    def _check(self) -> None:
        if not 1 <= self.k <= self.n <= MAX_SHARES:
            raise CorruptShare(f"share header: {self.k} of {self.n} shares can't be")
        if self.segment_size % self.k:
            raise CorruptShare(f"share header: segment size {self.segment_size} is not a multiple of {self.k}")
        if self.mdmf:
            # spec 03 §3: a foreign writer may have used another one
            if self.data_length and not self.segment_size:
                raise CorruptShare("share header: segment size 0 for content that is not empty")
        elif self.segment_size != _round_up(self.data_length, self.k):
            raise CorruptShare(f"share header: segment size {self.segment_size} for {self.data_length} bytes in SDMF")


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the sections of a share lie; the offsets as they are stored, each section by its range."""

    mdmf: bool
    offsets: tuple[int, ...]

    @classmethod
    def build(cls, prefix: Prefix, public_key: int, enc_privkey: int) -> Self:
        """From the lengths of the keys."""
        entries = width(prefix.n).bit_length() - 1
        if prefix.mdmf:
            offsets = [_MDMF_FIRST]
            for length in (enc_privkey, _CHAIN_ENTRY * entries, SIGNATURE_SIZE, public_key):
                offsets.append(offsets[-1] + length)
            assert offsets[-1] <= _MDMF_DATA, "keys too long for an MDMF share"
            tree = _MDMF_DATA + prefix.share_data
            return cls(True, (*offsets, _MDMF_DATA, tree, tree + prefix.tree_size))
        offsets = [_SDMF_FIRST + public_key]
        lengths = (SIGNATURE_SIZE, _CHAIN_ENTRY * entries, prefix.tree_size, prefix.share_data, enc_privkey)
        for length in lengths:
            offsets.append(offsets[-1] + length)
        return cls(False, tuple(offsets))

    @classmethod
    def parse(cls, head: Buffer, prefix: Prefix) -> Self:
        """Read the offsets after the prefix at the front of `head`."""
        start, table = (_MDMF_PREFIX.size, _MDMF_OFFSETS) if prefix.mdmf else (_SDMF_PREFIX.size, _SDMF_OFFSETS)
        if len(head) < start + table.size:
            raise CorruptShare("share header: cut short")
        return cls(prefix.mdmf, table.unpack_from(head, start))

    def serialise(self) -> bytes:
        return (_MDMF_OFFSETS if self.mdmf else _SDMF_OFFSETS).pack(*self.offsets)

    @property
    def enc_privkey(self) -> Range:
        return self._between(0, 1) if self.mdmf else self._between(4, 5)

    @property
    def share_hash_chain(self) -> Range:
        return self._between(1, 2)

    @property
    def signature(self) -> Range:
        return self._between(2, 3) if self.mdmf else self._between(0, 1)

    @property
    def public_key(self) -> Range:
        return self._between(3, 4) if self.mdmf else (_SDMF_FIRST, self.offsets[0] - _SDMF_FIRST)

    @property
    def share_data(self) -> Range:
        return self._between(5, 6) if self.mdmf else self._between(3, 4)

    @property
    def block_hash_tree(self) -> Range:
        return self._between(6, 7) if self.mdmf else self._between(2, 3)

    @property
    def eof(self) -> int:
        return self.offsets[-1]

    def _between(self, first: int, second: int) -> Range:
        return self.offsets[first], self.offsets[second] - self.offsets[first]

    def check(self, prefix: Prefix, share_size: int) -> None:
        """Insist on sections in order, inside the `share_size` bytes that there are, of the lengths they must have."""
        end = _MDMF_FIRST if self.mdmf else _SDMF_FIRST
        for name, offset in zip(_ORDER[self.mdmf], self.offsets, strict=True):
            if offset < end:
                raise CorruptShare(f"share header: offset of {name} lies before the end of what precedes it")
            end = offset
        if self.eof > share_size:
            raise CorruptShare(f"share header: the share ends at {self.eof}, but there are {share_size} bytes")
        if self.share_data[0] > HEAD_SIZE:
            raise CorruptShare("share header: the share data begins too late")
        if self.signature[1] != SIGNATURE_SIZE:
            raise CorruptShare(f"share header: a signature of {self.signature[1]} bytes")
        if self.enc_privkey[1] > MOST_PRIVKEY:
            raise CorruptShare(f"share header: an encrypted private key of {self.enc_privkey[1]} bytes")
        entries, rest = divmod(self.share_hash_chain[1], _CHAIN_ENTRY)
        if rest or entries > node_count(prefix.n):
            raise CorruptShare("share header: wrong length of share hash chain")
        if self.share_data[1] < prefix.share_data:
            raise CorruptShare("share header: no room for the blocks")
        if self.block_hash_tree[1] != prefix.tree_size:
            raise CorruptShare("share header: wrong length of block hash tree")


_ORDER = {
    False: ("signature", "share hash chain", "block hash tree", "share data", "encrypted private key", "EOF"),
    True: (
        "encrypted private key",
        "share hash chain",
        "signature",
        "public key",
        "end of public key",
        "share data",
        "block hash tree",
        "EOF",
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sections:
    """All of a share but its header and its data."""

    public_key: bytes
    signature: bytes
    share_hash_chain: bytes
    block_hash_tree: bytes
    enc_privkey: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Header:
    """Prefix and offsets of a share. All good shares of a version have the same."""

    prefix: Prefix
    layout: Layout

    @classmethod
    def build(cls, prefix: Prefix, public_key: int, enc_privkey: int) -> Self:
        """From the lengths of the keys."""
        return cls(prefix, Layout.build(prefix, public_key, enc_privkey))

    @classmethod
    def parse(cls, head: Buffer, share_size: int) -> Self:
        """From the first HEAD_SIZE bytes, or all if there are fewer, of the `share_size` that the container holds.

        CorruptShare names what breaks the layout.
        """
        prefix = Prefix.parse(head)
        layout = Layout.parse(head, prefix)
        layout.check(prefix, share_size)
        return cls(prefix, layout)

    def serialise(self) -> bytes:
        return self.prefix.serialise() + self.layout.serialise()

    def block(self, segment: int) -> Range:
        """Where the block of a segment lies, with its salt before it in MDMF."""
        prefix = self.prefix
        salt = SALT_SIZE if prefix.mdmf else 0
        start = self.layout.share_data[0] + segment * (salt + prefix.block_size)
        return start, salt + prefix.block_length(segment)

    def front(self, sections: Sections) -> bytes:
        """All of a share that comes before its data."""
        parts = [self.serialise()]
        if self.prefix.mdmf:
            parts += [sections.enc_privkey, sections.share_hash_chain, sections.signature, sections.public_key]
        else:
            parts += [sections.public_key, sections.signature, sections.share_hash_chain, sections.block_hash_tree]
        # spec 03 §6: zeros in the gap of a fresh MDMF share; SDMF has none
        return b"".join(parts).ljust(self.layout.share_data[0], b"\0")

    def back(self, sections: Sections) -> bytes:
        """All of a share that comes after its data."""
        return sections.block_hash_tree if self.prefix.mdmf else sections.enc_privkey


# ---- share hash chain --------------------------------------------------------------------------------------------


def serialise_chain(shnum: int, n: int, nodes: Mapping[int, bytes] | Sequence[bytes]) -> bytes:
    """Share hash chain of a share; `nodes` is the share hash tree by node number."""
    return b"".join([number.to_bytes(2, "big") + nodes[number] for number in sorted(chain(shnum, n))])


def parse_chain(data: Buffer, n: int) -> dict[int, bytes]:
    """Nodes by number, in any order; CorruptShare for one that is there twice, and for one that the tree has not."""
    if len(data) % _CHAIN_ENTRY:
        raise CorruptShare("share hash chain: wrong length")
    view = memoryview(data)
    nodes: dict[int, bytes] = {}
    for start in range(0, len(view), _CHAIN_ENTRY):
        number = int.from_bytes(view[start : start + 2], "big")
        if number >= node_count(n):
            raise CorruptShare(f"share hash chain: no node {number} in a tree over {n} shares")
        if number in nodes:
            raise CorruptShare(f"share hash chain: node {number} is there twice")
        nodes[number] = bytes(view[start + 2 : start + _CHAIN_ENTRY])
    return nodes
