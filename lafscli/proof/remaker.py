"""Shares made again from the ciphertext of a file: byte for byte what its uploader stored (spec 05 §6).

Only the shares that are wanted are encoded. What else a share holds (the UEB, the hashes of segments and of other
shares) is taken from shares of the file that are proven, so the cost is that of the missing shares, not of all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from lafscli.errors import CorruptShare
from lafscli.formats.chk import Layout, Sizes, Ueb
from lafscli.primitives.encoding import Buffer
from lafscli.primitives.erasure import encode_some
from lafscli.primitives.hashes import block_hash, merkle_filler, merkle_node, uri_extension_hash
from lafscli.primitives.hashtree import HASH_SIZE, build_serialised, chain, width
from lafscli.proof.encoder import Trailer
from lafscli.proof.shares import ShareReader

if TYPE_CHECKING:
    from lafscli.formats.caps import ChkVerifyCap


@dataclass(frozen=True, slots=True)
class RemadeSegment:
    """Blocks of one segment by share number, with their hashes. Primary blocks are slices of the ciphertext."""

    blocks: dict[int, Buffer]
    block_hashes: dict[int, bytes]
    length: int


@dataclass(frozen=True, slots=True)
class Kin:
    """What proven shares of a file tell of all others: `nodes` of the share hash tree by number, and all else that is
    the same in each. `version` is that of most of them."""

    sizes: Sizes
    ueb: bytes = field(repr=False)
    version: int
    segment_hashes: bytes = field(repr=False)
    nodes: Mapping[int, bytes] = field(repr=False)

    @classmethod
    def of(cls, readers: Sequence[ShareReader]) -> Self:
        """From shares that are open, at least one."""
        nodes = {number: value for reader in readers for number, value in reader.share_nodes.items()}
        version = Counter(reader.version for reader in readers).most_common(1)[0][0]
        first = readers[0]
        return cls(first.sizes, first.ueb, version, first.segment_hashes, nodes)

    def segment_hash(self, number: int) -> bytes:
        """For `check_segment`."""
        return self.segment_hashes[HASH_SIZE * number : HASH_SIZE * (number + 1)]


class Remaker:
    """Makes the shares `wanted` again.

    `encode` may run in several threads; `add` takes what it made, in order; `finish` proves the whole.
    """

    def __init__(self, cap: ChkVerifyCap, kin: Kin, wanted: Collection[int]) -> None:
        self._k, self._n = cap.k, cap.n
        self._kin = kin
        self._root = Ueb.parse(kin.ueb, cap.k, cap.n, cap.size).share_root_hash
        self._layout = Layout.build(kin.sizes, kin.version)
        self._nodes = dict(kin.nodes)
        self._wanted = frozenset(wanted)
        self._block_hashes = {shnum: bytearray() for shnum in sorted(self._wanted | self._companions())}

    @property
    def header(self) -> bytes:
        """What each share begins with."""
        return self._layout.serialise()

    @property
    def share_size(self) -> int:
        return self._layout.uri_extension + self._layout.length_size + len(self._kin.ueb)

    def encode(self, ciphertext: Buffer) -> RemadeSegment:
        """Code and hash the wanted blocks of a segment. Almost all of it runs without the interpreter's lock."""
        blocks = encode_some(self._k, self._n, ciphertext, self._block_hashes.keys())
        hashes = {shnum: block_hash(block) for shnum, block in blocks.items()}
        return RemadeSegment(blocks, hashes, memoryview(ciphertext).nbytes)

    def add(self, segment: RemadeSegment) -> None:
        """Take the next segment."""
        for shnum, value in segment.block_hashes.items():
            self._block_hashes[shnum] += value

    def finish(self) -> Trailer:
        """After the last segment: what follows the blocks. CorruptShare unless the new shares are those of the cap."""
        trees = {shnum: build_serialised(hashes) for shnum, hashes in self._block_hashes.items()}
        leaf = width(self._n) - 1
        for shnum, tree in trees.items():
            root = tree[:HASH_SIZE]
            if self._nodes.setdefault(leaf + shnum, root) != root:
                raise CorruptShare(f"share {shnum} made again is not the one that was stored")
        for shnum in self._wanted:
            self._prove(shnum)
        kin = self._kin
        crypttext_tree = build_serialised(kin.segment_hashes)
        ueb_hash = uri_extension_hash(kin.ueb)
        return Trailer(kin.sizes, ueb_hash, kin.ueb, self._layout, crypttext_tree, trees, self._nodes)

    def _prove(self, shnum: int) -> None:
        """Climb from the share's leaf to the root."""
        node = width(self._n) - 1 + shnum
        value = self._nodes[node]
        for sibling in chain(shnum, self._n):
            other = self._value(sibling)
            value = merkle_node(value, other) if sibling > node else merkle_node(other, value)
            node = (node - 1) >> 1
        if value != self._root:
            raise CorruptShare(f"share {shnum} made again does not belong to the file of the cap")

    def _value(self, node: int) -> bytes:
        value = self._nodes.get(node)
        if value is None:
            first = width(self._n) - 1
            if node >= first:
                value = merkle_filler(node - first)
            else:
                value = merkle_node(self._value(2 * node + 1), self._value(2 * node + 2))
            self._nodes[node] = value
        return value

    def _companions(self) -> set[int]:
        """Shares that are neither wanted nor proven, and whose hashes the chains of the wanted ones need."""
        needed: set[int] = set()
        for shnum in self._wanted:
            for sibling in chain(shnum, self._n):
                self._leaves(sibling, needed)
        return needed

    def _leaves(self, node: int, needed: set[int]) -> None:
        if node in self._nodes:
            return
        first = width(self._n) - 1
        if node < first:
            self._leaves(2 * node + 1, needed)
            self._leaves(2 * node + 2, needed)
        elif node - first < self._n:
            needed.add(node - first)
