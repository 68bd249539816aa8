"""Content to the shares of a new version of a mutable file (spec 03 §3-6): no servers, no randomness.

`encrypt_segment` and `encode_segment` are the costly part and may run in several threads; `SlotMaker` takes what they
made, in order, and ends with the `NewVersion`: what comes before and after the blocks of each share. `make_shares`
does all for content that is in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from lafscli.errors import CorruptShare
from lafscli.formats.slot import SALT_SIZE, Header, Prefix, Sections, serialise_chain
from lafscli.primitives.ciphers import AesCtr, PrivateKey
from lafscli.primitives.encoding import Buffer
from lafscli.primitives.erasure import encode
from lafscli.primitives.hashes import block_hash, data_key
from lafscli.primitives.hashtree import HASH_SIZE, build, build_serialised
from lafscli.proof.slotkeys import seal_private_key
from lafscli.proof.slots import SlotShare


@dataclass(frozen=True, slots=True)
class SlotSegment:
    """One segment of each share: the block, in MDMF with its salt before it, and its leaf of the block hash tree.

    In SDMF primary blocks are slices of the ciphertext.
    """

    blocks: list[Buffer]
    leaves: list[bytes]
    length: int


@dataclass(frozen=True, slots=True)
class Signing:
    """What of the keys goes into shares. `sign` makes the 256 bytes of the signature over the prefix."""

    public_key: bytes
    enc_privkey: bytes = field(repr=False)
    sign: Callable[[bytes], bytes] = field(repr=False)

    @classmethod
    def of(cls, private: PrivateKey) -> Signing:
        """To sign a new version."""
        return cls(private.public.der, seal_private_key(private), private.sign)

    @classmethod
    def again(cls, share: SlotShare, enc_privkey: bytes) -> Signing:
        """To make shares of a version once more without its private key, with `share.prefix` as the plan.

        CorruptShare from `finish` proves all that was added: only the very same shares have the signature.
        """
        signed = share.prefix.serialise()

        def sign(prefix: bytes) -> bytes:
            if prefix != signed:
                raise CorruptShare("shares made again are not those of the version")
            return share.signature

        return cls(share.public_key, enc_privkey, sign)


def encrypt_segment(readkey: bytes, salt: bytes, plaintext: Buffer) -> bytes:
    """And decrypt: `salt` is the version's in SDMF, the segment's in MDMF, and used for this one segment only."""
    return AesCtr(data_key(salt, readkey)).update(plaintext)


def encode_segment(plan: Prefix, salt: bytes, ciphertext: Buffer) -> SlotSegment:
    """Code and hash one segment, of at least one byte. Almost all of it runs without the interpreter's lock."""
    assert len(salt) == SALT_SIZE, "a salt has 16 bytes"
    blocks = encode(plan.k, plan.n, ciphertext)
    if plan.k == 1:
        blocks = blocks[:1]
    if plan.mdmf:
        blocks = [b"".join((salt, block)) for block in blocks]
    leaves = [block_hash(block) for block in blocks]
    if plan.k == 1:
        blocks, leaves = blocks * plan.n, leaves * plan.n
    return SlotSegment(blocks, leaves, memoryview(ciphertext).nbytes)


@dataclass(frozen=True, slots=True)
class NewVersion:
    """A version that was encoded and signed. A share is `front`, its blocks, `back`."""

    header: Header
    signing: Signing
    signature: bytes
    block_trees: Sequence[bytes] = field(repr=False)
    share_nodes: Sequence[bytes] = field(repr=False)

    @property
    def share_size(self) -> int:
        return self.header.layout.eof

    def front(self, shnum: int) -> bytes:
        """All of a share that comes before its blocks; as long for each share, see `front_size`."""
        return self.header.front(self._sections(shnum))

    def back(self, shnum: int) -> bytes:
        """All of a share that comes after its blocks."""
        return self.header.back(self._sections(shnum))

    def _sections(self, shnum: int) -> Sections:
        chain = serialise_chain(shnum, self.header.prefix.n, self.share_nodes)
        signing = self.signing
        return Sections(signing.public_key, self.signature, chain, self.block_trees[shnum], signing.enc_privkey)


class SlotMaker:
    """Collects the hashes of the segments of one version, whose sizes are those of `plan` (`Prefix.plan`).

    `open_end`: how long the content of an MDMF version is, is only known at its end.
    """

    def __init__(self, plan: Prefix, signing: Signing, *, open_end: bool = False) -> None:
        assert plan.mdmf or not open_end, "the segment size of SDMF is that of its content"
        self._plan = plan
        self._open_end = open_end
        self._signing = signing
        self._added = 0
        self._leaves = [bytearray() for _ in range(plan.n)]

    @property
    def front_size(self) -> int:
        """Where in each share the blocks begin, known beforehand."""
        return self._header(self._plan).layout.share_data[0]

    def add(self, segment: SlotSegment) -> None:
        """Take the next segment."""
        assert self._open_end or segment.length == self._plan.segment_length(self._added), "a segment of another size"
        self._added += 1
        for leaves, leaf in zip(self._leaves, segment.leaves, strict=True):
            leaves += leaf

    def finish(self, seqnum: int, data_length: int | None = None) -> NewVersion:
        """After the last segment: trees, root hash, signature. `data_length` is for an open end."""
        if data_length is not None:
            self._plan = replace(self._plan, data_length=data_length)
        assert self._added == self._plan.num_segments, "not all segments were added"
        block_trees = [build_serialised(leaves) for leaves in self._leaves]
        share_nodes = build([tree[:HASH_SIZE] for tree in block_trees])
        prefix = replace(self._plan, seqnum=seqnum, root_hash=share_nodes[0])
        signature = self._signing.sign(prefix.serialise())
        return NewVersion(self._header(prefix), self._signing, signature, block_trees, share_nodes)

    def _header(self, prefix: Prefix) -> Header:
        return Header.build(prefix, len(self._signing.public_key), len(self._signing.enc_privkey))


def make_shares(
    plan: Prefix, seqnum: int, signing: Signing, readkey: bytes, content: Buffer, salts: Sequence[bytes]
) -> tuple[NewVersion, list[list[Buffer]]]:
    """All shares of a version whose content is in memory, each as the parts to be joined.

    `salts`: one for each segment of MDMF; for SDMF none, `plan` has it.
    """
    view = memoryview(content)
    assert len(view) == plan.data_length, "content of another length"
    assert len(salts) == (plan.num_segments if plan.mdmf else 0), "a salt for each segment of MDMF"
    maker = SlotMaker(plan, signing)
    blocks: list[list[Buffer]] = [[] for _ in range(plan.n)]
    for number in range(plan.num_segments):
        start = number * plan.segment_size
        salt = salts[number] if plan.mdmf else plan.salt
        ciphertext = encrypt_segment(readkey, salt, view[start : start + plan.segment_size])
        segment = encode_segment(plan, salt, ciphertext)
        maker.add(segment)
        for row, block in zip(blocks, segment.blocks, strict=True):
            row.append(block)
    version = maker.finish(seqnum)
    return version, [[version.front(shnum), *row, version.back(shnum)] for shnum, row in enumerate(blocks)]
