"""Share to proven blocks (spec 02 §7): nothing is believed that does not lead to the UEB hash in the cap.

The server may say anything. On the word of a header only a bounded amount is fetched; large hash trees are fetched
after the UEB that gives their length is proven, piece by piece, and no further than the share goes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from lafscli.errors import CorruptShare
from lafscli.formats.chk import HEADER_MAX, UEB_LIMIT, Layout, Sizes, Ueb, chain_order, parse_chain, share_size
from lafscli.primitives.encoding import Buffer
from lafscli.primitives.hashes import block_hash, crypttext_segment_hash, uri_extension_hash
from lafscli.primitives.hashtree import HASH_SIZE, PartialTree, verify_full, width
from lafscli.proof.encoder import proof_digest

if TYPE_CHECKING:
    from lafscli.formats.caps import ChkVerifyCap

Fetch = Callable[[Sequence[tuple[int, int]]], Sequence[Buffer]]

_USUAL_SEGMENT = 1 << 20
_WHOLE_LIMIT = 1 << 16  # shares up to this size are fetched whole
_SLACK = 512  # a small share is a little longer than expected when its segments are smaller
_GUESS_LIMIT = 4 << 20  # the most that is fetched on the word of a header
_PIECE = 1 << 20
_BATCH = 16


class ShareReader:
    """One share of an immutable file. What it has after `open` is proven against the cap.

    `proof_digest` equals that of the `Trailer` of the upload that made the share; `share_size` is the length of the
    share as its header has it, `version` the header's. `share_nodes` are nodes of the share hash tree by number,
    `segment_hashes` those of all segments, joined.
    """

    sizes: Sizes
    ueb: bytes
    proof_digest: bytes
    share_size: int
    version: int
    share_nodes: Mapping[int, bytes]
    segment_hashes: bytes

    def __init__(self, cap: ChkVerifyCap, shnum: int) -> None:
        self._cap = cap
        self._shnum = shnum

    def open(self, fetch: Fetch, *, strict: bool = False) -> None:
        """Fetch and prove everything but the blocks; CorruptShare or IncompatibleShare names what is wrong.

        `fetch` gives for each range (offset, length) of the share its bytes, fewer where the share ends. It is called
        once for usual shares. `strict` also checks the optional fields of the UEB, as verify does.
        """
        cap = self._cap
        if not 0 <= self._shnum < cap.n:
            raise CorruptShare(f"share number {self._shnum} of {cap.n} shares")
        self._parts = parts = _Parts(fetch)
        parts.want(_usual_ranges(cap.k, cap.n, cap.size))
        self._layout = layout = Layout.parse(parts.head(HEADER_MAX))
        self._check_bounds(layout)
        _want_sections(parts, layout)
        ueb = self._prove_ueb(strict)
        self.sizes = sizes = Sizes(cap.k, cap.n, cap.size, ueb.segment_size)
        layout.check(sizes)
        block_root = self._prove_chain(ueb)
        tree, count = sizes.tree_size, sizes.num_segments
        parts.want_pieces(layout.crypttext_hash_tree, 2 * tree, "hash trees")
        crypttext_tree = parts.need(layout.crypttext_hash_tree, tree, "crypttext hash tree")
        self.segment_hashes = verify_full(crypttext_tree, count, ueb.crypttext_root_hash, "crypttext hash tree")
        block_tree = parts.need(layout.block_hashes, tree, "block hashes")
        self._block_hashes = verify_full(block_tree, count, block_root, "block hashes")
        self.version = layout.version
        self.share_size = layout.uri_extension + layout.length_size + len(self.ueb)
        self.proof_digest = proof_digest(
            self._shnum, cap.n, self.ueb, self.share_nodes, block_root, ueb.crypttext_root_hash
        )
        parts.keep_small(layout.data, sizes.share_data)

    def _check_bounds(self, layout: Layout) -> None:
        cap = self._cap
        layout.check_chain(cap.n)
        if layout.uri_extension > _farthest_ueb(cap.k, cap.n, cap.size):
            raise CorruptShare(f"share header: offset of UEB lies beyond any share of {cap.size} bytes of data")

    def _prove_ueb(self, strict: bool) -> Ueb:
        layout, cap = self._layout, self._cap
        length = int.from_bytes(self._parts.need(layout.uri_extension, layout.length_size, "length of UEB"), "big")
        if length >= UEB_LIMIT:
            raise CorruptShare(f"UEB: a length of {length} bytes")
        self.ueb = bytes(self._parts.need(layout.uri_extension + layout.length_size, length, "UEB"))
        if uri_extension_hash(self.ueb) != cap.ueb_hash:
            raise CorruptShare("UEB: its hash is not the cap's")
        return _parsed(self.ueb, cap.k, cap.n, cap.size, strict)

    def _prove_chain(self, ueb: Ueb) -> bytes:
        """The root of the block hash tree."""
        layout, n = self._layout, self._cap.n
        length = layout.uri_extension - layout.share_hashes
        nodes = parse_chain(self._parts.need(layout.share_hashes, length, "share hashes"), n)
        leaf = width(n) - 1 + self._shnum
        if leaf not in nodes:
            raise CorruptShare(f"share hashes: the node of share {self._shnum} is missing")
        tree = PartialTree(n, ueb.share_root_hash)
        try:
            tree.add(nodes)
        except CorruptShare as error:
            raise CorruptShare(f"share hashes: {error.message}") from error
        self.share_nodes = {number: tree.node(number) for _, number in chain_order(self._shnum, n)}
        return self.share_nodes[leaf]

    def block_range(self, segment: int) -> tuple[int, int]:
        """Offset and length of a block in the share."""
        return self._layout.data + segment * self.sizes.block_size, self.sizes.block_length(segment)

    def prefetched(self, segment: int) -> Buffer | None:
        """The block, not proven, if `open` has fetched it on the way."""
        return self._parts.get(*self.block_range(segment))

    def check_block(self, segment: int, data: Buffer) -> None:
        """CorruptShare unless `data` is this block."""
        if len(data) != self.sizes.block_length(segment):
            raise CorruptShare(f"block {segment}: wrong length")
        if block_hash(data) != self._block_hashes[HASH_SIZE * segment : HASH_SIZE * (segment + 1)]:
            raise CorruptShare(f"block {segment}: wrong hash")

    def segment_hash(self, segment: int) -> bytes:
        """For `check_segment`."""
        return self.segment_hashes[HASH_SIZE * segment : HASH_SIZE * (segment + 1)]


def check_segment(segment_hash: bytes, ciphertext: Buffer) -> None:
    """CorruptShare unless this decoded segment, cut to its true length, is the file's: it binds all shares to it."""
    if crypttext_segment_hash(ciphertext) != segment_hash:
        raise CorruptShare("crypttext segment: wrong hash")


@lru_cache(maxsize=256)
def _usual_ranges(k: int, n: int, size: int) -> Sequence[tuple[int, int]]:
    """What a usual share is read by, of either version: all of it, or its header and what follows the blocks."""
    sizes = Sizes.plan(k, n, size, _USUAL_SEGMENT)
    end = share_size(sizes, 2)
    if end <= _WHOLE_LIMIT:
        return ((0, end + _SLACK),)
    head = (0, HEADER_MAX)
    trees = Layout.build(sizes, 1).crypttext_hash_tree
    return (head, (trees, end - trees)) if end - trees <= _GUESS_LIMIT else (head,)


@lru_cache(maxsize=256)
def _farthest_ueb(k: int, n: int, size: int) -> int:
    """Where it lies in the longest share, which is that of the smallest segments."""
    return Layout.build(Sizes(k, n, size, k), 2).uri_extension


@lru_cache(maxsize=64)
def _parsed(ueb: bytes, k: int, n: int, size: int, strict: bool) -> Ueb:
    """All shares of a file have the same one."""
    return Ueb.parse(ueb, k, n, size, strict=strict)


def _want_sections(parts: _Parts, layout: Layout) -> None:
    """Share hashes and UEB by the header's offsets, and the trees along with them unless they are large."""
    end = layout.uri_extension + layout.length_size
    if parts.has_ueb(layout.share_hashes, layout.uri_extension, layout.length_size):
        return
    trees = layout.crypttext_hash_tree
    start = trees if end - trees <= _GUESS_LIMIT else layout.share_hashes
    parts.want([(start, end + UEB_LIMIT - start)])


class _Parts:
    """The parts of a share that were fetched."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._held: list[tuple[int, memoryview]] = []

    def want(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Fetch these; they may turn out shorter."""
        answers = self._fetch(ranges)
        for (offset, length), answer in zip(ranges, answers, strict=True):
            self._held.append((offset, memoryview(answer)[:length]))

    def want_pieces(self, offset: int, length: int, field: str) -> None:
        """Fetch a long range piece by piece, if it is not held; CorruptShare where the share ends within it."""
        if self.get(offset, length) is not None:
            return
        whole = bytearray()
        while len(whole) < length:
            left = length - len(whole)
            starts = range(0, min(left, _BATCH * _PIECE), _PIECE)
            ranges = [(offset + len(whole) + start, min(_PIECE, left - start)) for start in starts]
            for (_, wanted), answer in zip(ranges, self._fetch(ranges), strict=True):
                if len(answer) < wanted:
                    raise CorruptShare(f"{field}: the share ends before")
                whole += memoryview(answer)[:wanted]
        self._held.append((offset, memoryview(whole)))

    def head(self, limit: int) -> memoryview:
        """The first bytes of the share, `limit` or fewer."""
        return self._held[0][1][:limit]

    def get(self, offset: int, length: int) -> memoryview | None:
        for start, data in self._held:
            if start <= offset and offset + length <= start + len(data):
                return data[offset - start : offset - start + length]
        return None

    def need(self, offset: int, length: int, field: str) -> memoryview:
        data = self.get(offset, length)
        if data is None:
            raise CorruptShare(f"{field}: the share ends before")
        return data

    def has_ueb(self, share_hashes: int, uri_extension: int, length_size: int) -> bool:
        """Whether the share hashes and the whole UEB are held."""
        number = self.get(uri_extension, length_size)
        if number is None or self.get(share_hashes, uri_extension - share_hashes) is None:
            return False
        return self.get(uri_extension, length_size + int.from_bytes(number, "big")) is not None

    def keep_small(self, offset: int, length: int) -> None:
        """Let go of all but the part that holds the whole of this range, if there is one."""
        self._held = [
            (start, data) for start, data in self._held if start <= offset and offset + length <= start + len(data)
        ]
