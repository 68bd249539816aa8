"""Shares made again from the ciphertext of a file: byte for byte what its uploader stored (spec 05 §6).

Only the shares that are wanted are encoded. What else a share holds (the UEB, the hashes of segments and of other
shares) is taken from shares of the file that are proven, so the cost is that of the missing shares, not of all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lafscli.errors import CorruptShare
from lafscli.formats.chk import Layout, Ueb
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


class Remaker:
    """Makes the shares `wanted` again. `proven` are readers of other shares of the file, at least one.

    `encode` may run in several threads; `add` takes what it made, in order; `finish` proves the whole.
    """

    def __init__(self, cap: ChkVerifyCap, proven: Sequence[ShareReader], wanted: Collection[int]) -> None:
        first = proven[0]
        self._k, self._n = cap.k, cap.n
        self._ueb = first.ueb
        self._root = Ueb.parse(first.ueb, cap.k, cap.n, cap.size).share_root_hash
        self._segment_hashes = first.segment_hashes
        self._sizes = first.sizes
        version = Counter(reader.version for reader in proven).most_common(1)[0][0]
        self._layout = Layout.build(first.sizes, version)
        self._nodes = {number: value for reader in proven for number, value in reader.share_nodes.items()}
        self._wanted = frozenset(wanted)
        self._block_hashes = {shnum: bytearray() for shnum in sorted(self._wanted | self._companions())}

    @property
    def header(self) -> bytes:
        """What each share begins with."""
        return self._layout.serialise()

    @property
    def share_size(self) -> int:
        return self._layout.uri_extension + self._layout.length_size + len(self._ueb)

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
        crypttext_tree = build_serialised(self._segment_hashes)
        ueb_hash = uri_extension_hash(self._ueb)
        return Trailer(self._sizes, ueb_hash, self._ueb, self._layout, crypttext_tree, trees, self._nodes)

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
