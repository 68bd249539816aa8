"""Shares made again are byte for byte those of the upload, whichever others are left (spec 05 §6)."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lafscli.errors import CorruptShare
from lafscli.formats.caps import ChkVerifyCap
from lafscli.primitives.encoding import Buffer
from lafscli.proof.encoder import Encoder, Trailer, encode_segment
from lafscli.proof.remaker import Kin, Remaker
from lafscli.proof.shares import ShareReader


def stored(k: int, n: int, content: bytes, segment_size: int, version: int) -> tuple[ChkVerifyCap, list[bytes]]:
    """The shares of an upload."""
    encoder = Encoder(k, n, segment_size, version)
    blocks: list[list[Buffer]] = [[] for _ in range(n)]
    for start in range(0, len(content), segment_size):
        piece = content[start : start + segment_size]
        segment = encode_segment(k, n, piece)
        encoder.add(segment, piece)
        for share, block in zip(blocks, segment.blocks, strict=True):
            share.append(block)
    trailer = encoder.finish()
    cap = ChkVerifyCap(b"S" * 16, trailer.ueb_hash, k, n, len(content))
    return cap, [b"".join([trailer.header, *share, trailer.tail(i)]) for i, share in enumerate(blocks)]


def opened(cap: ChkVerifyCap, shnum: int, share: bytes) -> ShareReader:
    reader = ShareReader(cap, shnum)
    reader.open(lambda ranges: [share[offset : offset + length] for offset, length in ranges])
    return reader


def remade(
    cap: ChkVerifyCap, left: dict[int, bytes], wanted: set[int], content: bytes
) -> tuple[dict[int, bytes], Trailer]:
    kin = Kin.of([opened(cap, shnum, share) for shnum, share in left.items()])
    remaker = Remaker(cap, kin, wanted)
    size = kin.sizes.segment_size
    parts: dict[int, list[Buffer]] = {shnum: [remaker.header] for shnum in wanted}
    for start in range(0, len(content), size):
        segment = remaker.encode(content[start : start + size])
        remaker.add(segment)
        for shnum in wanted:
            parts[shnum].append(segment.blocks[shnum])
    trailer = remaker.finish()
    shares = {shnum: b"".join([*pieces, trailer.tail(shnum)]) for shnum, pieces in parts.items()}
    assert all(len(share) == remaker.share_size for share in shares.values())
    return shares, trailer


@settings(deadline=None)
@given(data=st.data())
def test_byte_for_byte(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 17))
    k = data.draw(st.integers(1, n))
    segment_size = k * data.draw(st.integers(1, 40))
    content = random.Random(n).randbytes(data.draw(st.integers(1, 6 * segment_size)))
    cap, shares = stored(k, n, content, segment_size, data.draw(st.sampled_from([1, 2])))
    left = data.draw(st.sets(st.integers(0, n - 1), min_size=1))
    wanted = data.draw(st.sets(st.integers(0, n - 1)))
    again, trailer = remade(cap, {shnum: shares[shnum] for shnum in left}, wanted, content)
    assert again == {shnum: shares[shnum] for shnum in wanted}
    assert trailer.ueb_hash == cap.ueb_hash
    for shnum in wanted:
        assert trailer.proof_digest(shnum) == opened(cap, shnum, shares[shnum]).proof_digest


def test_the_version_is_that_of_most_shares() -> None:
    content = bytes(range(256))
    cap, first = stored(3, 10, content, 30, 1)
    _, second = stored(3, 10, content, 30, 2)
    again, _ = remade(cap, {0: first[0], 1: second[1], 2: second[2]}, {7}, content)
    assert again[7] == second[7]


@pytest.mark.parametrize("left", [{0, 1, 2}, {8}, set(range(9))])
def test_other_ciphertext_is_refused(left: set[int]) -> None:
    content = bytes(1000)
    cap, shares = stored(3, 10, content, 300, 1)
    with pytest.raises(CorruptShare, match="share 9 made again"):
        remade(cap, {shnum: shares[shnum] for shnum in left}, {9}, content[:-1] + b"x")
