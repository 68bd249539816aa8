"""A new version whose content is in memory: encoded, signed, and proved before any of it is sent (spec 03 §3-6)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from lafscli.formats.caps import MutableWriteCap
from lafscli.formats.slot import SALT_SIZE, Prefix
from lafscli.primitives.ciphers import PrivateKey
from lafscli.primitives.encoding import Buffer
from lafscli.proof.slotmaker import NewVersion, Signing, make_shares
from lafscli.proof.slots import Signatures, SlotShare


@dataclass(frozen=True, slots=True)
class Made:
    """All shares of a version, each as the parts to be joined."""

    version: NewVersion
    shares: dict[int, list[Buffer]] = field(repr=False)

    @property
    def fronts(self) -> dict[int, bytes]:
        """What each share begins with: all before its data."""
        return {shnum: bytes(parts[0]) for shnum, parts in self.shares.items()}


def plan(mdmf: bool, k: int, n: int, size: int, random_bytes: Callable[[int], bytes]) -> Prefix:
    """Sizes of a new version, and the salt of SDMF."""
    return Prefix.plan(mdmf, k, n, size, salt=b"" if mdmf else random_bytes(SALT_SIZE))


def make(
    cap: MutableWriteCap,
    private: PrivateKey,
    seqnum: int,
    sizes: Prefix,
    content: Buffer,
    random_bytes: Callable[[int], bytes],
) -> Made:
    """Encode, sign and prove."""
    salts = [random_bytes(SALT_SIZE) for _ in range(sizes.num_segments)] if sizes.mdmf else []
    version, shares = make_shares(sizes, seqnum, Signing.of(private), cap.read_cap().readkey, content, salts)
    signatures = Signatures(cap.verify_cap())
    for shnum, parts in enumerate(shares):
        share = prove(version, shnum, signatures)
        for segment, block in enumerate(parts[1:-1]):
            share.check_block(segment, block)
    return Made(version, dict(enumerate(shares)))


def prove(version: NewVersion, shnum: int, signatures: Signatures) -> SlotShare:
    """Read what comes before the blocks of a share as a reader will; CorruptShare where our own work is wrong."""
    share = SlotShare(signatures, shnum, version.front(shnum), version.share_size)
    wanted = share.tree_wanted
    if wanted is not None:
        share.prove_tree(version.back(shnum)[: wanted[1]])
    return share
