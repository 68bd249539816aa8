"""Mutable share to proven blocks (spec 03 §7): nothing is believed that does not lead to the fingerprint in the cap.

A share is proven in steps, each from bytes that the caller has fetched, so that one round trip serves many shares: its
head, then its block hash tree unless the head held it, then its blocks.
"""

from __future__ import annotations

from collections.abc import Mapping

from lafscli.errors import CorruptShare
from lafscli.formats.caps import MutableVerifyCap
from lafscli.formats.slot import SALT_SIZE, Header, Prefix, Range, parse_chain
from lafscli.primitives.ciphers import load_public_key
from lafscli.primitives.encoding import Buffer
from lafscli.primitives.erasure import decode
from lafscli.primitives.hashes import block_hash, fingerprint_from_public_key
from lafscli.primitives.hashtree import HASH_SIZE, PartialTree, verify_full, width


class Signatures:
    """Checks the signatures of the versions of one file, each once: all good shares of a version have the same."""

    def __init__(self, cap: MutableVerifyCap) -> None:
        self._fingerprint = cap.fingerprint
        self._good: set[tuple[bytes, bytes, bytes]] = set()

    def check(self, public_key: bytes, signature: bytes, prefix: bytes) -> None:
        """CorruptShare unless the key is that of the cap and has signed the prefix."""
        # all three: a flipped signature beside a prefix that was seen to be good is corrupt still
        claim = public_key, signature, prefix
        if claim in self._good:
            return
        if fingerprint_from_public_key(public_key) != self._fingerprint:
            raise CorruptShare("public key: its fingerprint is not the cap's")
        if not load_public_key(public_key).verify(signature, prefix):
            raise CorruptShare("signature: it is not that of the signed prefix")
        self._good.add(claim)


class SlotShare:
    """One share of a mutable file, whose prefix is proven against the cap.

    `header` stands for its version: shares with equal ones belong together. `shnum` is proven with the tree.
    """

    header: Header
    signature: bytes
    public_key: bytes

    def __init__(self, signatures: Signatures, shnum: int, head: Buffer, share_size: int) -> None:
        """From the first HEAD_SIZE bytes, or all if there are fewer, of the `share_size` that the container holds.

        CorruptShare or IncompatibleShare names what is wrong. Stale bytes after the share's own end do not matter.
        """
        self.shnum = shnum
        self.header = header = Header.parse(head, share_size)
        if not 0 <= shnum < header.prefix.n:
            raise CorruptShare(f"share number {shnum} of {header.prefix.n} shares")
        self._head = memoryview(head)[: header.layout.eof]
        self.public_key = self._need(header.layout.public_key, "public key")
        self.signature = self._need(header.layout.signature, "signature")
        signatures.check(self.public_key, self.signature, header.prefix.serialise())
        chain = self._need(header.layout.share_hash_chain, "share hash chain")
        self._chain = parse_chain(chain, header.prefix.n)
        self._leaves: bytes | None = None
        tree = self.held(header.layout.block_hash_tree)
        if tree is not None:
            self.prove_tree(tree)

    @property
    def prefix(self) -> Prefix:
        return self.header.prefix

    @property
    def tree_wanted(self) -> Range | None:
        """Where the block hash tree lies, as long as it is not proven."""
        return self.header.layout.block_hash_tree if self._leaves is None else None

    def prove_tree(self, tree: Buffer) -> None:
        """Take the block hash tree; CorruptShare unless it, and the share hash chain, lead to the root hash."""
        root = bytes(tree[:HASH_SIZE])
        self.prove_root(root)
        self._leaves = verify_full(tree, self.prefix.num_segments, root, "block hash tree")

    def prove_root(self, root: bytes) -> None:
        """CorruptShare unless the root of the block hash tree, with the share hash chain, leads to the root hash."""
        prefix = self.prefix
        leaf = width(prefix.n) - 1 + self.shnum
        if self._chain.get(leaf, root) != root:
            raise CorruptShare("share hash chain: the share's own node is not that of its block hash tree")
        try:
            PartialTree(prefix.n, prefix.root_hash).add({**self._chain, leaf: root})
        except CorruptShare as error:
            raise CorruptShare(f"share hash chain: {error.message}") from error

    def block_range(self, segment: int) -> Range:
        """Where a block lies in the share, with its salt in MDMF."""
        return self.header.block(segment)

    def check_block(self, segment: int, data: Buffer) -> None:
        """CorruptShare unless `data` is what must lie at `block_range`. The tree was proven before."""
        assert self._leaves is not None, "the tree comes before the blocks"
        if len(data) != self.block_range(segment)[1]:
            raise CorruptShare(f"block {segment}: wrong length")
        if block_hash(data) != self._leaves[HASH_SIZE * segment : HASH_SIZE * (segment + 1)]:
            raise CorruptShare(f"block {segment}: wrong hash")

    @property
    def enc_privkey_range(self) -> Range:
        """Where the encrypted private key lies. Nothing but the write cap proves it."""
        return self.header.layout.enc_privkey

    def held(self, wanted: Range) -> memoryview | None:
        """These bytes of the share, not proven, if the head had them."""
        offset, length = wanted
        return self._head[offset : offset + length] if offset + length <= len(self._head) else None

    def _need(self, wanted: Range, field: str) -> bytes:
        data = self.held(wanted)
        if data is None:
            raise CorruptShare(f"{field}: the share ends before")
        return bytes(data)


def decode_segment(prefix: Prefix, segment: int, blocks: Mapping[int, Buffer]) -> tuple[bytes, Buffer]:
    """Salt and ciphertext of a segment, from k or more blocks that `check_block` has passed, by share number.

    CorruptShare where the shares of an MDMF version have different salts: only its writer can have done that.
    """
    length = prefix.segment_length(segment)
    if not prefix.mdmf:
        return prefix.salt, decode(prefix.k, prefix.n, blocks, length)
    salts = {bytes(data[:SALT_SIZE]) for data in blocks.values()}
    if len(salts) != 1:
        raise CorruptShare(f"segment {segment}: its shares have different salts")
    bare = {shnum: memoryview(data)[SALT_SIZE:] for shnum, data in blocks.items()}
    return salts.pop(), decode(prefix.k, prefix.n, bare, length)
