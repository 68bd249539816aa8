"""Immutable share: sizes, header v1 and v2, sections, UEB (spec 02 §2, §4, §5).

v1    v2    field                    the sections follow in this order, without gaps; T = Sizes.tree_size
0x00  0x00  version (u32)
0x04  0x04  block size               data                 blocks 0, 1, … (Sizes.share_data bytes)
0x08  0x0c  share data               plaintext hash tree  T zero bytes
0x0c  0x14  o.data                   crypttext hash tree  T
0x10  0x1c  o.plaintext_hash_tree    block hashes         T
0x14  0x24  o.crypttext_hash_tree    share hashes         34 an entry: u16 node number, hash
0x18  0x2c  o.block_hashes           UEB                  u32 (v2: u64) length, UEB
0x1c  0x34  o.share_hashes
0x20  0x3c  o.uri_extension
0x24  0x44  end                      v1: all fields u32; v2: all but the version u64
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

from lafscli.errors import CorruptShare, IncompatibleShare
from lafscli.primitives.encoding import Buffer, Reader, netstring
from lafscli.primitives.hashtree import HASH_SIZE, chain, node_count, width

_HEADERS = {1: struct.Struct(">9L"), 2: struct.Struct(">L8Q")}
_LENGTH_SIZE = {1: 4, 2: 8}
HEADER_MAX = _HEADERS[2].size
UEB_LIMIT = 2000  # a UEB is shorter than this; Tahoe's verifier refuses longer ones
CHAIN_ENTRY = 2 + HASH_SIZE
MAX_SHARES = 256
_V1_LIMIT = 1 << 32
_OFFSET_LIMIT = 1 << 63  # no file is that long


@dataclass(frozen=True, slots=True)
class Sizes:
    """What follows from k, n, the size of the file (at least 1) and the rounded segment size (spec 02 §2)."""

    k: int
    n: int
    size: int
    segment_size: int

    @classmethod
    def plan(cls, k: int, n: int, size: int, max_segment_size: int) -> Self:
        """The sizes a writer uses. Rounded segment sizes are as good as the maximum they came from."""
        return cls(k, n, size, _round_up(min(max_segment_size, size), k))

    @property
    def num_segments(self) -> int:
        return -(-self.size // self.segment_size)

    @property
    def tail_size(self) -> int:
        """True length of the last segment."""
        return self.size % self.segment_size or self.segment_size

    @property
    def tail_padded(self) -> int:
        return _round_up(self.tail_size, self.k)

    @property
    def block_size(self) -> int:
        return self.segment_size // self.k

    @property
    def tail_block(self) -> int:
        return self.tail_padded // self.k

    @property
    def share_data(self) -> int:
        """Length of all blocks of one share."""
        return (self.num_segments - 1) * self.block_size + self.tail_block

    @property
    def tree_size(self) -> int:
        """Length of a serialised hash tree over the segments: T."""
        return HASH_SIZE * node_count(self.num_segments)

    def segment_length(self, segment: int) -> int:
        """True length of a segment's ciphertext."""
        return self.tail_size if segment == self.num_segments - 1 else self.segment_size

    def block_length(self, segment: int) -> int:
        return self.tail_block if segment == self.num_segments - 1 else self.block_size


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


@dataclass(frozen=True, slots=True)
class Layout:
    """Header of a share. Readers ignore `block_size` and `share_data`."""

    version: int
    block_size: int
    share_data: int
    data: int
    plaintext_hash_tree: int
    crypttext_hash_tree: int
    block_hashes: int
    share_hashes: int
    uri_extension: int

    @classmethod
    def build(cls, sizes: Sizes, version: int | None = None) -> Self:
        """The layout of a share of this file; version 1 if nothing needs version 2, unless it is given."""
        if version is None:
            layout = cls.build(sizes, 1)
            return layout if layout._fits_v1 else cls.build(sizes, 2)
        tree = sizes.tree_size
        data = _HEADERS[version].size
        plaintext = data + sizes.share_data
        share_hashes = plaintext + 3 * tree
        return cls(
            version,
            sizes.block_size,
            sizes.share_data,
            data,
            plaintext,
            plaintext + tree,
            plaintext + 2 * tree,
            share_hashes,
            share_hashes + CHAIN_ENTRY * (width(sizes.n).bit_length()),
        )

    @classmethod
    def parse(cls, data: Buffer) -> Self:
        """Read the header at the front of `data`; CorruptShare where sections do not follow one another."""
        if len(data) < 4:
            raise CorruptShare("share header: cut short")
        version = int.from_bytes(data[:4], "big")
        header = _HEADERS.get(version)
        if header is None:
            raise IncompatibleShare(f"share header: version {version} is not known")
        if len(data) < header.size:
            raise CorruptShare("share header: cut short")
        layout = cls(*header.unpack_from(data))
        layout._check_order()
        return layout

    def serialise(self) -> bytes:
        assert self.version == 2 or self._fits_v1, "share too large for version 1"
        return _HEADERS[self.version].pack(
            self.version,
            self.block_size,
            self.share_data,
            self.data,
            self.plaintext_hash_tree,
            self.crypttext_hash_tree,
            self.block_hashes,
            self.share_hashes,
            self.uri_extension,
        )

    @property
    def header_size(self) -> int:
        return _HEADERS[self.version].size

    @property
    def share_hash_count(self) -> int:
        return (self.uri_extension - self.share_hashes) // CHAIN_ENTRY

    @property
    def length_size(self) -> int:
        """Size of the number before the UEB."""
        return _LENGTH_SIZE[self.version]

    @property
    def _fits_v1(self) -> bool:
        # offsets rise, so the last one is the greatest; the block size may be greater than a lone short block
        return max(self.uri_extension, self.block_size) < _V1_LIMIT

    def _check_order(self) -> None:
        """Spec 02 §7.3, as far as it can be told without the UEB."""
        sections = (
            ("data", self.data),
            ("plaintext hash tree", self.plaintext_hash_tree),
            ("crypttext hash tree", self.crypttext_hash_tree),
            ("block hashes", self.block_hashes),
            ("share hashes", self.share_hashes),
            ("UEB", self.uri_extension),
        )
        end = self.header_size
        for name, offset in sections:
            if offset < end:
                raise CorruptShare(f"share header: offset of {name} lies before the end of what precedes it")
            end = offset
        if end >= _OFFSET_LIMIT:
            raise CorruptShare("share header: offset of UEB is beyond any file")
        if (self.share_hashes - self.block_hashes) % HASH_SIZE:
            raise CorruptShare("share header: length of block hashes is not a multiple of 32")
        if (self.uri_extension - self.share_hashes) % CHAIN_ENTRY:
            raise CorruptShare("share header: length of share hashes is not a multiple of 34")

    def check(self, sizes: Sizes) -> None:
        """Insist that the sections have the lengths that these sizes ask for."""
        tree = sizes.tree_size
        if self.plaintext_hash_tree - self.data < sizes.share_data:
            raise CorruptShare("share header: no room for the blocks")
        if self.block_hashes - self.crypttext_hash_tree != tree:
            raise CorruptShare("share header: wrong length of crypttext hash tree")
        if self.share_hashes - self.block_hashes != tree:
            raise CorruptShare("share header: wrong length of block hashes")
        self.check_chain(sizes.n)

    def check_chain(self, n: int) -> None:
        """Insist that there are share hashes, and not more than the tree over n shares has nodes."""
        entries = self.share_hash_count
        if not 1 <= entries <= node_count(n):
            raise CorruptShare(f"share header: {entries} share hashes for {n} shares")


@dataclass(frozen=True, slots=True)
class Ueb:
    """URI extension block: what a reader needs of it."""

    segment_size: int
    crypttext_root_hash: bytes
    share_root_hash: bytes
    crypttext_hash: bytes | None = None

    @classmethod
    def parse(cls, data: Buffer, k: int, n: int, size: int, *, strict: bool = False) -> Self:
        """Read a UEB; k, n and size are the cap's. Only `strict` looks at the optional fields (spec 02 §4)."""
        return cls._of(_fields(data), k, n, size, strict=strict)

    @classmethod
    def described(cls, data: Buffer) -> tuple[Self, Sizes | None]:
        """Read a UEB as strictly as one can who has no cap: with the sizes that its optional fields tell; None where
        they are not all there."""
        fields = _fields(data)
        if not {"needed_shares", "total_shares", "size"} <= fields.keys():
            return cls._of(fields, 1, 1, 1, strict=False), None
        k, n, size = (_number(fields, key) for key in ("needed_shares", "total_shares", "size"))
        if not 1 <= k <= n <= MAX_SHARES or size < 1:
            raise CorruptShare(f"UEB: {size} bytes in {k} of {n} shares can't be")
        ueb = cls._of(fields, k, n, size, strict=True)
        return ueb, Sizes(k, n, size, ueb.segment_size)

    @classmethod
    def _of(cls, fields: Mapping[str, bytes], k: int, n: int, size: int, *, strict: bool) -> Self:
        segment_size = _number(fields, "segment_size")
        if segment_size < 1 or segment_size % k:
            raise CorruptShare(f"UEB: segment_size {segment_size} is not a multiple of {k}")
        ueb = cls(
            segment_size,
            _hash(fields, "crypttext_root_hash"),
            _hash(fields, "share_root_hash"),
            _hash(fields, "crypttext_hash") if strict and "crypttext_hash" in fields else None,
        )
        if strict:
            _check_optional(fields, Sizes(k, n, size, segment_size))
        return ueb

    def serialise(self, sizes: Sizes) -> bytes:
        """The UEB that a writer stores, all eleven fields of it."""
        assert self.crypttext_hash is not None
        hashes = {
            "crypttext_hash": self.crypttext_hash,
            "crypttext_root_hash": self.crypttext_root_hash,
            "share_root_hash": self.share_root_hash,
        }
        fields = {**_described(sizes), **hashes, "segment_size": b"%d" % sizes.segment_size}
        return b"".join([b"%b:%b" % (key.encode(), netstring(fields[key])) for key in sorted(fields)])


def _described(sizes: Sizes) -> dict[str, bytes]:
    """The optional fields that follow from the sizes."""
    k, n = sizes.k, sizes.n
    return {
        "codec_name": b"crs",
        "codec_params": b"%d-%d-%d" % (sizes.segment_size, k, n),
        "needed_shares": b"%d" % k,
        "num_segments": b"%d" % sizes.num_segments,
        "size": b"%d" % sizes.size,
        "tail_codec_params": b"%d-%d-%d" % (sizes.tail_padded, k, n),
        "total_shares": b"%d" % n,
    }


def _fields(data: Buffer) -> dict[str, bytes]:
    reader = Reader(data, "UEB")
    fields: dict[str, bytes] = {}
    while reader.remaining():
        key = reader.until(b":", 100, "a key").decode("latin-1")
        if key in fields:
            raise CorruptShare("UEB: a key is there twice")
        fields[key] = reader.netstring("a value")
    return fields


def _number(fields: Mapping[str, bytes], key: str) -> int:
    digits = fields.get(key)
    if digits is None:
        raise CorruptShare(f"UEB: no {key}")
    if not digits.isdigit() or len(digits) > 20:
        raise CorruptShare(f"UEB: {key} is not a number")
    return int(digits)


def _hash(fields: Mapping[str, bytes], key: str) -> bytes:
    value = fields.get(key)
    if value is None:
        raise CorruptShare(f"UEB: no {key}")
    if len(value) != HASH_SIZE:
        raise CorruptShare(f"UEB: {key} is not a hash")
    return value


def _check_optional(fields: Mapping[str, bytes], sizes: Sizes) -> None:
    for key, expected in _described(sizes).items():
        if fields.get(key, expected) != expected:
            raise CorruptShare(f"UEB: {key} does not agree with the cap")


# ---- share hash chain --------------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def chain_order(shnum: int, n: int) -> tuple[tuple[bytes, int], ...]:
    """The nodes of a share's chain in the order they are written: number as u16, and number."""
    # spec 02 §5: the order in which CPython goes through a set that was made this way
    numbers = set(chain(shnum, n))
    numbers.add(width(n) - 1 + shnum)
    return tuple((number.to_bytes(2, "big"), number) for number in numbers)


def serialise_chain(shnum: int, n: int, nodes: Mapping[int, bytes] | list[bytes]) -> bytes:
    """Share hash chain of a share; `nodes` is the share hash tree by node number."""
    return b"".join([prefix + nodes[number] for prefix, number in chain_order(shnum, n)])


def parse_chain(data: Buffer, n: int) -> dict[int, bytes]:
    """Nodes by number, in any order; CorruptShare for none, for one twice, and for numbers that the tree has not."""
    if not len(data) or len(data) % CHAIN_ENTRY:
        raise CorruptShare("share hashes: wrong length")
    view = memoryview(data)
    nodes: dict[int, bytes] = {}
    for start in range(0, len(view), CHAIN_ENTRY):
        number = int.from_bytes(view[start : start + 2], "big")
        if number >= node_count(n):
            raise CorruptShare(f"share hashes: no node {number} in a tree over {n} shares")
        if number in nodes:
            raise CorruptShare(f"share hashes: node {number} is there twice")
        nodes[number] = bytes(view[start + 2 : start + CHAIN_ENTRY])
    return nodes


# ---- sizes known beforehand --------------------------------------------------------------------------------------


def ueb_length(sizes: Sizes) -> int:
    """Length of the UEB that a writer stores."""
    nothing = bytes(HASH_SIZE)
    return len(Ueb(sizes.segment_size, nothing, nothing, nothing).serialise(sizes))


def share_size(sizes: Sizes, version: int | None = None) -> int:
    """Length of each share of this file, known before it is encoded."""
    layout = Layout.build(sizes, version)
    return layout.uri_extension + layout.length_size + ueb_length(sizes)
