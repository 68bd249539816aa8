"""Ciphertext to shares (spec 02 §3): no keys, no servers.

`encode_segment` is the costly part and may run in several threads; `Encoder` takes what it made, in order, and ends
with the `Trailer`: the header of the shares and what follows their blocks. `encode_small` does all for a small file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lafscli.formats.chk import Layout, Sizes, Ueb, chain_order, serialise_chain
from lafscli.primitives.encoding import Buffer, netstring
from lafscli.primitives.erasure import encode
from lafscli.primitives.hashes import (
    block_hash,
    crypttext_hasher,
    crypttext_segment_hash,
    tagged_hash,
    uri_extension_hash,
)
from lafscli.primitives.hashtree import HASH_SIZE, build, build_serialised


@dataclass(frozen=True, slots=True)
class EncodedSegment:
    """The n blocks of one segment, with their hashes. Primary blocks are slices of the ciphertext."""

    blocks: list[Buffer]
    block_hashes: list[bytes]
    segment_hash: bytes
    length: int


def encode_segment(k: int, n: int, ciphertext: Buffer) -> EncodedSegment:
    """Code and hash one segment (not padded). Almost all of it runs without the interpreter's lock."""
    blocks = encode(k, n, ciphertext)
    # with k = 1 all blocks are the segment itself
    hashes = [block_hash(ciphertext)] * n if k == 1 else [block_hash(block) for block in blocks]
    return EncodedSegment(blocks, hashes, crypttext_segment_hash(ciphertext), len(ciphertext))


def proof_digest(
    shnum: int, n: int, ueb: bytes, nodes: Mapping[int, bytes] | list[bytes], block_root: bytes, crypttext_root: bytes
) -> bytes:
    """32 bytes that are equal for two good shares of one number of one upload, whatever their version and order.

    `nodes` holds at least the share hash chain, by node number.
    """
    numbers = sorted(number for _, number in chain_order(shnum, n))
    chain = b"".join([b"%d:%b" % (number, nodes[number]) for number in numbers])
    return tagged_hash(
        b"lafs share proof", netstring(b"%d" % shnum) + netstring(ueb) + chain + block_root + crypttext_root
    )


@dataclass(frozen=True, slots=True)
class Trailer:
    """What is known when the last segment was encoded. A share is `header`, its blocks, `tail`."""

    sizes: Sizes
    ueb_hash: bytes
    ueb: bytes = field(repr=False)
    layout: Layout
    crypttext_tree: bytes = field(repr=False)
    block_trees: Sequence[bytes] | Mapping[int, bytes] = field(repr=False)
    share_nodes: list[bytes] | Mapping[int, bytes] = field(repr=False)

    @property
    def header(self) -> bytes:
        return self.layout.serialise()

    @property
    def share_size(self) -> int:
        return self.layout.uri_extension + self.layout.length_size + len(self.ueb)

    def tail(self, shnum: int) -> bytes:
        """All that follows the blocks of a share."""
        return b"".join(
            [
                bytes(len(self.crypttext_tree)),
                self.crypttext_tree,
                self.block_trees[shnum],
                serialise_chain(shnum, self.sizes.n, self.share_nodes),
                len(self.ueb).to_bytes(self.layout.length_size, "big"),
                self.ueb,
            ]
        )

    def proof_digest(self, shnum: int) -> bytes:
        """Equals `ShareReader.proof_digest` of a good share."""
        block_root = self.block_trees[shnum][:HASH_SIZE]
        crypttext_root = self.crypttext_tree[:HASH_SIZE]
        return proof_digest(shnum, self.sizes.n, self.ueb, self.share_nodes, block_root, crypttext_root)


class Encoder:
    """Collects the hashes of the segments of one file; its size need not be known before the end.

    `segment_size` is a multiple of k. A share of unknown size must be of version 2: room is left for its header.
    """

    def __init__(self, k: int, n: int, segment_size: int, version: int | None = None) -> None:
        assert segment_size % k == 0, "the segment size must be a multiple of k"
        self._k = k
        self._n = n
        self._segment_size = segment_size
        self._version = version
        self._size = 0
        self._crypttext = crypttext_hasher()
        self._segment_hashes = bytearray()
        self._block_hashes = [bytearray() for _ in range(n)]

    def add(self, segment: EncodedSegment, ciphertext: Buffer) -> None:
        """Take the next segment. All but the last are of the segment size."""
        assert segment.length == len(ciphertext) <= self._segment_size, "a segment of another size"
        assert self._size % self._segment_size == 0, "a segment after the last one"
        self._size += segment.length
        self._crypttext.update(ciphertext)
        self._segment_hashes += segment.segment_hash
        for hashes, value in zip(self._block_hashes, segment.block_hashes, strict=True):
            hashes += value

    def finish(self) -> Trailer:
        """After the last segment: trees, UEB and its hash."""
        assert self._size, "an empty file is never encoded"
        sizes = Sizes.plan(self._k, self._n, self._size, self._segment_size)
        block_trees = [build_serialised(hashes) for hashes in self._block_hashes]
        return _trailer(
            sizes, self._version, self._crypttext.digest(), build_serialised(self._segment_hashes), block_trees
        )


def _trailer(
    sizes: Sizes, version: int | None, crypttext_hash: bytes, crypttext_tree: bytes, block_trees: list[bytes]
) -> Trailer:
    share_nodes = build([tree[:HASH_SIZE] for tree in block_trees])
    ueb = Ueb(sizes.segment_size, crypttext_tree[:HASH_SIZE], share_nodes[0], crypttext_hash).serialise(sizes)
    layout = Layout.build(sizes, version)
    return Trailer(sizes, uri_extension_hash(ueb), ueb, layout, crypttext_tree, block_trees, share_nodes)


def encode_small(k: int, n: int, segment_size: int, ciphertext: Buffer) -> tuple[Trailer, list[list[Buffer]]]:
    """All shares of a file that is in memory, each as the parts to be joined. `segment_size` may be the maximum."""
    sizes = Sizes.plan(k, n, len(ciphertext), segment_size)
    if sizes.num_segments > 1:
        return _encode_segments(sizes, memoryview(ciphertext))
    segment = encode_segment(k, n, ciphertext)
    crypttext = crypttext_hasher()
    crypttext.update(ciphertext)
    # a tree over one segment is its one leaf
    trailer = _trailer(sizes, None, crypttext.digest(), segment.segment_hash, segment.block_hashes)
    header = trailer.header
    return trailer, [[header, block, trailer.tail(shnum)] for shnum, block in enumerate(segment.blocks)]


def _encode_segments(sizes: Sizes, ciphertext: memoryview) -> tuple[Trailer, list[list[Buffer]]]:
    encoder = Encoder(sizes.k, sizes.n, sizes.segment_size)
    parts: list[list[Buffer]] = [[] for _ in range(sizes.n)]
    for start in range(0, sizes.size, sizes.segment_size):
        piece = ciphertext[start : start + sizes.segment_size]
        segment = encode_segment(sizes.k, sizes.n, piece)
        encoder.add(segment, piece)
        for share, block in zip(parts, segment.blocks, strict=True):
            share.append(block)
    trailer = encoder.finish()
    header = trailer.header
    return trailer, [[header, *blocks, trailer.tail(shnum)] for shnum, blocks in enumerate(parts)]
