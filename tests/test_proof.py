"""Shares made by the encoder are proven by the reader; anything else is refused (spec 02 §3, §7)."""

from __future__ import annotations

import contextlib
import itertools
import random
import struct
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lafscli.errors import CorruptShare, IncompatibleShare
from lafscli.formats.caps import ChkVerifyCap
from lafscli.formats.chk import Layout, Sizes, parse_chain, share_size
from lafscli.primitives.encoding import Buffer
from lafscli.primitives.erasure import decode
from lafscli.primitives.hashes import uri_extension_hash
from lafscli.proof.encoder import Encoder, Trailer, encode_segment, encode_small
from lafscli.proof.shares import ShareReader, check_segment

MAX_SEGMENT = 1 << 20


class Share:
    """Bytes of a share and what was asked of them; `extra` follows in the file (the leases)."""

    def __init__(self, data: bytes, extra: bytes = b"") -> None:
        self.data = data + extra
        self.asked: list[list[tuple[int, int]]] = []

    def fetch(self, ranges: Sequence[tuple[int, int]]) -> Sequence[Buffer]:
        self.asked.append(list(ranges))
        return [memoryview(self.data)[offset : offset + length] for offset, length in ranges]


def content(length: int) -> bytes:
    return random.Random(length).randbytes(length)


def cap_of(trailer: Trailer) -> ChkVerifyCap:
    sizes = trailer.sizes
    return ChkVerifyCap(b"S" * 16, trailer.ueb_hash, sizes.k, sizes.n, sizes.size)


def made(k: int, n: int, size: int, segment: int = MAX_SEGMENT) -> tuple[ChkVerifyCap, list[bytes], Trailer]:
    trailer, parts = encode_small(k, n, segment, content(size))
    return cap_of(trailer), [b"".join(part) for part in parts], trailer


def opened(cap: ChkVerifyCap, shnum: int, data: bytes, *, strict: bool = True) -> ShareReader:
    reader = ShareReader(cap, shnum)
    reader.open(Share(data).fetch, strict=strict)
    return reader


def refused(cap: ChkVerifyCap, shnum: int, data: bytes, why: str, *, strict: bool = False) -> None:
    with pytest.raises(CorruptShare, match=why):
        opened(cap, shnum, data, strict=strict)


# ---- what we make is proven ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("k", "n", "size", "segment"),
    [
        (1, 1, 1, MAX_SEGMENT),
        (1, 1, 100, 10),
        (1, 5, 100, 33),
        (3, 10, 56, 131072),
        (3, 10, 10000, 1024),
        (3, 10, 9 * 1026, 1024),
        (3, 10, 200_000, 131072),
        (3, 10, 3_000_000, MAX_SEGMENT),
        (5, 5, 4, MAX_SEGMENT),
        (7, 20, 1000, 1),
        (2, 256, 999, 500),
        (101, 256, 5000, 1024),
    ],
)
def test_any_k_shares_give_the_content(k: int, n: int, size: int, segment: int) -> None:
    cap, shares, trailer = made(k, n, size, segment)
    readers = {shnum: opened(cap, shnum, shares[shnum]) for shnum in range(n)}
    sizes = readers[0].sizes
    assert sizes == trailer.sizes
    result = bytearray()
    for number in range(sizes.num_segments):
        blocks = {}
        for shnum in list(range(n))[-k:]:
            offset, length = readers[shnum].block_range(number)
            blocks[shnum] = shares[shnum][offset : offset + length]
            readers[shnum].check_block(number, blocks[shnum])
        piece = decode(k, n, blocks, sizes.segment_length(number))
        check_segment(readers[0].segment_hash(number), piece)
        result += piece
    assert result == content(size)
    for shnum, reader in readers.items():
        assert reader.proof_digest == trailer.proof_digest(shnum)
        assert reader.ueb == trailer.ueb
        assert reader.share_size == len(shares[shnum]) == trailer.share_size == share_size(sizes)
    assert len({reader.proof_digest for reader in readers.values()}) == n


@pytest.mark.parametrize("size", [1, 55, 56, 1025, 1026, 1027, 2052, 5000])
@pytest.mark.parametrize("version", [None, 1, 2])
def test_a_file_of_unknown_size_gives_the_same(size: int, version: int | None) -> None:
    """Segments one by one, and the size known at the end only."""
    data = content(size)
    encoder = Encoder(3, 10, 1026, version)
    blocks: list[list[Buffer]] = [[] for _ in range(10)]
    for start in range(0, size, 1026):
        piece = data[start : start + 1026]
        segment = encode_segment(3, 10, piece)
        assert segment.length == len(piece)
        encoder.add(segment, piece)
        for row, block in zip(blocks, segment.blocks, strict=True):
            row.append(block)
    trailer = encoder.finish()
    cap, shares, small = made(3, 10, size, 1024)
    assert trailer.ueb_hash == small.ueb_hash
    for shnum in range(10):
        share = b"".join([trailer.header, *blocks[shnum], trailer.tail(shnum)])
        assert len(share) == trailer.share_size == share_size(trailer.sizes, version)
        reader = opened(cap, shnum, share)
        # the digest says that two shares are as good as one another, whatever their version
        assert reader.proof_digest == small.proof_digest(shnum) == trailer.proof_digest(shnum)
        if version != 2:
            assert share == shares[shnum]
        else:
            assert len(share) == len(shares[shnum]) + 36
            assert share[:4] == b"\0\0\0\2"


def test_encoding_takes_any_buffer() -> None:
    data = content(1000)
    expected = [bytes(block) for block in encode_segment(3, 10, data).blocks]
    for buffer in (bytearray(data), memoryview(data), memoryview(bytearray(data))):
        segment = encode_segment(3, 10, buffer)
        assert [bytes(block) for block in segment.blocks] == expected
        assert encode_small(3, 10, MAX_SEGMENT, buffer)[0].ueb_hash == made(3, 10, 1000)[2].ueb_hash


# ---- round trips and memory ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("size", [1, 10240, 150_000, 250_000, 3_000_000, 20_000_000])
def test_usual_shares_are_opened_by_one_fetch(size: int, version: int) -> None:
    data = content(size)
    sizes = Sizes.plan(3, 4, size, MAX_SEGMENT)
    encoder = Encoder(3, 4, sizes.segment_size, version)
    blocks = []
    for start in range(0, size, sizes.segment_size):
        piece = data[start : start + sizes.segment_size]
        segment = encode_segment(3, 4, piece)
        encoder.add(segment, piece)
        blocks.append(segment.blocks[3])
    trailer = encoder.finish()
    share = Share(b"".join([trailer.header, *blocks, trailer.tail(3)]), bytes(72))
    reader = ShareReader(cap_of(trailer), 3)
    reader.open(share.fetch)
    assert len(share.asked) == 1
    asked = sum(length for _, length in share.asked[0])
    assert asked <= max(70_000, 3 * sizes.tree_size + 1000)
    for number, block in enumerate(blocks):
        fetched = reader.prefetched(number)
        if len(share.data) < 65_000:
            assert fetched == block
        else:
            assert fetched is None


def test_a_share_with_smaller_segments_takes_a_second_fetch() -> None:
    """Older Tahoe used 128 KiB: the header says where to look."""
    cap, shares, _ = made(3, 10, 2_000_000, 131072)
    share = Share(shares[5])
    ShareReader(cap, 5).open(share.fetch)
    assert len(share.asked) == 2


def test_a_small_share_with_smaller_segments_too() -> None:
    cap, shares, _ = made(3, 10, 10000, 100)
    share = Share(shares[5])
    reader = ShareReader(cap, 5)
    reader.open(share.fetch)
    assert len(share.asked) == 2
    offset, length = reader.block_range(7)
    assert reader.prefetched(7) in (None, shares[5][offset : offset + length])


def test_long_trees_are_fetched_in_pieces_and_no_further_than_the_share_goes() -> None:
    cap, shares, _ = made(1, 1, 40_000, 1)
    share = Share(shares[0])
    reader = ShareReader(cap, 0)
    reader.open(share.fetch)
    reader.check_block(39_999, content(40_000)[-1:])
    assert all(length <= 1 << 20 for ranges in share.asked[1:] for _, length in ranges)
    # a share that ends within the trees: they come before what is proven, so lie about the middle
    asked = []

    def hole(ranges: Sequence[tuple[int, int]]) -> Sequence[Buffer]:
        asked.append(ranges)
        answers = share.fetch(ranges)
        return [
            answer[:10] if length == 1 << 20 else answer for answer, (_, length) in zip(answers, ranges, strict=True)
        ]

    with pytest.raises(CorruptShare, match="hash trees: the share ends before"):
        ShareReader(cap, 0).open(hole)
    assert len(asked) == 3


HOSTILE = [
    struct.pack(">9L", 1, 1, 1, 36, 40, 40, 40, 40 + (1 << 31), 40 + (1 << 31) + 34 * 5),
    struct.pack(">9L", 1, 1, 1, 36, 40, 40, 40, 40, 40 + 34 * 100_000_000),
    struct.pack(">L8Q", 2, 1, 1, 68, 1 << 40, 1 << 40, 1 << 40, 1 << 41, (1 << 41) + 34 * 5),
    struct.pack(">L8Q", 2, 1, 1, 68, 1 << 62, 1 << 62, 1 << 62, 1 << 62, (1 << 62) + 34 * 5),
    struct.pack(">L8Q", 2, 1, 1, 68, 1 << 60, 1 << 60, 1 << 60, 1 << 60, (1 << 60) + 34 * 5),
    struct.pack(">L8Q", 2, 1, 1, *[(1 << 64) - 1] * 6),
    b"\xff" * 200,
    b"\0" * 200,
    b"\0\0\0\1" * 50,
    b"\0\0\0\2" * 50,
]


@pytest.mark.parametrize("head", HOSTILE)
@pytest.mark.parametrize("size", [56, 10_000, 10_000_000, 1 << 40, 1 << 62, 10**30])
def test_a_hostile_server_gets_us_to_ask_for_little(head: bytes, size: int) -> None:
    """It answers every question in full."""
    asked: list[tuple[int, int]] = []

    def fetch(ranges: Sequence[tuple[int, int]]) -> Sequence[Buffer]:
        asked.extend(ranges)
        assert sum(length for _, length in ranges) <= 5 << 20
        return [(head + bytes(length))[:length] if offset == 0 else b"\1" * length for offset, length in ranges]

    with pytest.raises(CorruptShare):
        ShareReader(ChkVerifyCap(b"S" * 16, b"U" * 32, 3, 10, size), 0).open(fetch)
    assert len(asked) <= 3
    if len(asked) > 1 and size < 1 << 62:
        # nothing beyond the longest share that a file of this size can have
        longest = Layout.build(Sizes(3, 10, size, 3), 2).uri_extension + 8 + 2000
        assert all(offset + length <= longest for offset, length in asked)


def test_a_server_that_gives_too_much_gains_nothing() -> None:
    cap, shares, _ = made(3, 10, 200_000, MAX_SEGMENT)
    reader = ShareReader(cap, 2)
    reader.open(lambda ranges: [shares[2][offset : offset + length] + b"more" * 10 for offset, length in ranges])
    assert reader.share_size == len(shares[2])


def test_nothing_at_all() -> None:
    cap, _, _ = made(3, 10, 1000)
    refused(cap, 0, b"", "share header")
    with pytest.raises(CorruptShare, match="share header"):
        ShareReader(cap, 0).open(lambda ranges: [b""] * len(ranges))


# ---- what is not ours is refused -----------------------------------------------------------------------------------


def regions(layout: Layout, end: int) -> list[tuple[str, int, int]]:
    """Sections of a share: what the error names, from, to."""
    return [
        ("plaintext", layout.plaintext_hash_tree, layout.crypttext_hash_tree),
        ("crypttext hash tree", layout.crypttext_hash_tree, layout.block_hashes),
        ("block hashes", layout.block_hashes, layout.share_hashes),
        ("share hashes", layout.share_hashes, layout.uri_extension),
        ("UEB", layout.uri_extension, end),
    ]


@pytest.mark.parametrize(("k", "n", "size", "segment"), [(3, 10, 56, 131072), (2, 3, 50, 10), (1, 1, 9, 3)])
@pytest.mark.parametrize("bit", [0x01, 0x80])
def test_every_flipped_byte_is_noticed(k: int, n: int, size: int, segment: int, bit: int) -> None:
    cap, shares, trailer = made(k, n, size, segment)
    shnum = n - 1
    layout = trailer.layout
    sizes = trailer.sizes
    for position in range(len(shares[shnum])):
        share = bytearray(shares[shnum])
        share[position] ^= bit
        region = next((name for name, start, end in regions(layout, len(share)) if start <= position < end), "")
        if region and region != "plaintext":
            refused(cap, shnum, bytes(share), region)
        elif position < 4 or 12 <= position < 16 or 20 <= position < 36:
            refused(cap, shnum, bytes(share), "share header|hash|UEB")
        elif 16 <= position < 20:
            # the offset of an area that nobody reads: only its order and the room for the blocks matter
            with contextlib.suppress(CorruptShare):
                opened(cap, shnum, bytes(share))
        elif layout.data <= position < layout.plaintext_hash_tree:
            reader = opened(cap, shnum, bytes(share))
            number = (position - layout.data) // sizes.block_size
            for other in range(sizes.num_segments):
                offset, length = reader.block_range(other)
                block = bytes(share[offset : offset + length])
                if other == number:
                    with pytest.raises(CorruptShare, match=f"block {number}: wrong hash"):
                        reader.check_block(other, block)
                else:
                    reader.check_block(other, block)
        else:
            # block size, share data, plaintext hash tree: ignored by readers
            opened(cap, shnum, bytes(share))


@pytest.mark.parametrize(("k", "n", "size", "segment"), [(3, 10, 56, 131072), (2, 3, 50, 10)])
def test_every_cut_is_noticed(k: int, n: int, size: int, segment: int) -> None:
    cap, shares, trailer = made(k, n, size, segment)
    layout = trailer.layout
    for length in range(len(shares[1])):
        name = "share header"
        if length >= layout.header_size:
            name = "UEB"
        refused(cap, 1, shares[1][:length], name)
    opened(cap, 1, shares[1] + b"junk" * 50)


def test_every_cut_of_a_large_share_is_noticed() -> None:
    cap, shares, trailer = made(3, 10, 2_000_000, 131072)
    for _, start, end in regions(trailer.layout, len(shares[1])):
        for length in (start, start + 1, end - 1):
            refused(cap, 1, shares[1][:length], "UEB")


@pytest.mark.parametrize("strict", [False, True])
def test_shares_under_another_number_are_refused(strict: bool) -> None:
    cap, shares, _ = made(3, 10, 1000)
    for shnum, data in itertools.product(range(10), range(10)):
        if shnum != data:
            refused(cap, shnum, shares[data], f"node of share {shnum} is missing|block hashes", strict=strict)
    for shnum in (10, 11, 255, 256, 10**9, -1):
        refused(cap, shnum, shares[0], f"share number {shnum}")


def test_shares_of_another_file_are_refused() -> None:
    cap, _, _ = made(3, 10, 1000)
    for other in (made(3, 10, 1001), made(3, 10, 1000, 500), made(4, 10, 1000), made(3, 9, 1000)):
        refused(cap, 1, other[1][1], "UEB|share hash")


def test_a_cap_that_lies_about_the_encoding_is_refused() -> None:
    """The UEB's hash is right, what it says does not go with k, n and size."""
    cap, shares, _ = made(3, 10, 1000)
    for wrong in (replace(cap, k=6), replace(cap, n=9), replace(cap, size=1001)):
        refused(wrong, 1, shares[1], "UEB: .* agree|share header|UEB: segment_size", strict=True)
    refused(replace(cap, k=4), 1, shares[1], "UEB: segment_size 1002 is not a multiple of 4")
    refused(replace(cap, n=100), 1, shares[1], "share hashes")
    refused(replace(cap, size=1_000_000), 1, shares[1], "share header")


def rebuilt(share: bytes, layout: Layout, **changes: bytes) -> bytes:
    """The share with sections replaced, and its header as it must then be (version 1)."""
    ueb_length = int.from_bytes(share[layout.uri_extension : layout.uri_extension + 4], "big")
    ueb = share[layout.uri_extension + 4 : layout.uri_extension + 4 + ueb_length]
    sections = {
        "data": share[layout.data : layout.plaintext_hash_tree],
        "plaintext_hash_tree": share[layout.plaintext_hash_tree : layout.crypttext_hash_tree],
        "crypttext_hash_tree": share[layout.crypttext_hash_tree : layout.block_hashes],
        "block_hashes": share[layout.block_hashes : layout.share_hashes],
        "share_hashes": share[layout.share_hashes : layout.uri_extension],
        "uri_extension": ueb_length.to_bytes(4, "big") + ueb,
        **changes,
    }
    offsets = {}
    position = layout.header_size
    for name, data in sections.items():
        offsets[name] = position
        position += len(data)
    return replace(layout, **offsets).serialise() + b"".join(sections.values())


def entry(number: int, value: bytes) -> bytes:
    return number.to_bytes(2, "big") + value


def test_the_share_hash_chain() -> None:
    cap, shares, trailer = made(3, 10, 1000)
    layout = trailer.layout
    nodes = trailer.share_nodes
    chain = parse_chain(shares[3][layout.share_hashes : layout.uri_extension], 10)
    good = [entry(number, value) for number, value in chain.items()]
    digest = trailer.proof_digest(3)

    def share(*entries: bytes) -> bytes:
        return rebuilt(shares[3], layout, share_hashes=b"".join(entries))

    assert share(*good) == shares[3]
    # any order, the root or other nodes that can be tied to it
    for fine in (
        good[::-1],
        sorted(good),
        [*good, entry(0, nodes[0])],
        [entry(number, nodes[number]) for number in range(31)],
        # a sibling may be given by its children
        [entry(number, nodes[number]) for number in (18, 17, 15, 16, 4, 2)],
    ):
        assert opened(cap, 3, share(*fine)).proof_digest == digest
    refused(cap, 3, share(), "share hashes")
    refused(cap, 3, share(good[0]), "share hashes")
    refused(cap, 3, share(*good[:-1]), "share hashes")
    refused(cap, 3, share(*good[1:]), "share hashes")
    refused(cap, 3, share(*good, entry(31, nodes[3])), "share hashes: no node 31")
    refused(cap, 3, share(*good, entry(30, nodes[30])), "share hashes: .*not tied")
    refused(cap, 3, share(*good, good[0]), "share hashes: node .* twice")
    refused(cap, 3, share(*good * 7), "35 share hashes")
    refused(cap, 3, share(*[entry(n, v if n != 18 else b"x" * 32) for n, v in chain.items()]), "share hashes")
    # without the leaf itself
    refused(cap, 3, share(*[entry(n, v) for n, v in chain.items() if n != 18]), "node of share 3 is missing")
    # with one share the root is the leaf: an empty chain must not pass for that
    one, [only], single = made(1, 1, 100)
    opened(one, 0, only)
    refused(one, 0, rebuilt(only, single.layout, share_hashes=b""), "share hashes")
    refused(one, 0, rebuilt(only, single.layout, share_hashes=entry(0, b"x" * 32)), "share hashes")


def test_sections_of_other_lengths() -> None:
    cap, shares, trailer = made(3, 10, 10_000, 1024)
    share, layout = shares[0], trailer.layout
    assert rebuilt(share, layout) == share
    tree = share[layout.block_hashes : layout.share_hashes]
    other = share[layout.crypttext_hash_tree : layout.block_hashes]
    refused(cap, 0, rebuilt(share, layout, block_hashes=tree + bytes(32)), "share header: .*block hashes")
    refused(cap, 0, rebuilt(share, layout, block_hashes=tree[:-32]), "share header: .*block hashes")
    refused(cap, 0, rebuilt(share, layout, block_hashes=b""), "share header: .*block hashes")
    refused(cap, 0, rebuilt(share, layout, block_hashes=tree + b"x"), "share header: .*block hashes")
    refused(cap, 0, rebuilt(share, layout, crypttext_hash_tree=other + bytes(32)), "share header: .*crypttext")
    refused(cap, 0, rebuilt(share, layout, crypttext_hash_tree=other[:-32]), "share header: .*crypttext")
    refused(cap, 0, rebuilt(share, layout, data=b""), "share header: no room")
    refused(cap, 0, rebuilt(share, layout, crypttext_hash_tree=tree), "crypttext hash tree")
    refused(cap, 0, rebuilt(share, layout, block_hashes=other), "block hashes")
    # readers have no use for the plaintext hash tree
    opened(cap, 0, rebuilt(share, layout, plaintext_hash_tree=b""))
    opened(cap, 0, rebuilt(share, layout, plaintext_hash_tree=b"\1" * len(tree)))


def test_lengths_of_the_ueb() -> None:
    cap, shares, trailer = made(3, 10, 1000)
    layout, ueb = trailer.layout, trailer.ueb
    for length in (2000, 2001, 0xFFFFFFFF):
        refused(cap, 1, rebuilt(shares[1], layout, uri_extension=struct.pack(">L", length) + ueb), "UEB: a length")
    for length in (0, 1, len(ueb) - 1, len(ueb) + 1, 1999):
        data = rebuilt(shares[1], layout, uri_extension=struct.pack(">L", length) + ueb)
        refused(cap, 1, data, "UEB: its hash|UEB: the share ends")


def test_a_long_ueb_that_has_the_right_hash() -> None:
    cap, shares, trailer = made(3, 10, 1000)

    def with_length(length: int) -> tuple[ChkVerifyCap, bytes]:
        filler = b"zzz:%d:" % (length - len(trailer.ueb) - 10)
        ueb = trailer.ueb + filler + b"z" * (length - len(trailer.ueb) - len(filler) - 1) + b","
        assert len(ueb) == length
        share = rebuilt(shares[1], trailer.layout, uri_extension=struct.pack(">L", length) + ueb)
        return replace(cap, ueb_hash=uri_extension_hash(ueb)), share

    good, share = with_length(1999)
    assert len(opened(good, 1, share).ueb) == 1999
    good, share = with_length(2000)
    refused(good, 1, share, "UEB: a length of 2000")


def test_a_wrong_optional_field_is_seen_by_verifying_only() -> None:
    cap, shares, trailer = made(3, 10, 1000)
    ueb = trailer.ueb.replace(b"codec_name:3:crs,", b"codec_name:3:xor,")
    share = rebuilt(shares[1], trailer.layout, uri_extension=struct.pack(">L", len(ueb)) + ueb)
    cap = replace(cap, ueb_hash=uri_extension_hash(ueb))
    opened(cap, 1, share, strict=False)
    refused(cap, 1, share, "UEB: codec_name", strict=True)


def test_other_versions_are_incompatible() -> None:
    cap, shares, _ = made(3, 10, 1000)
    with pytest.raises(IncompatibleShare, match="version 3"):
        opened(cap, 1, b"\0\0\0\3" + shares[1][4:])


def test_blocks_of_other_lengths_and_places_are_refused() -> None:
    cap, shares, _ = made(3, 10, 10_000, 1024)
    reader = opened(cap, 2, shares[2])

    def block(number: int) -> bytes:
        offset, length = reader.block_range(number)
        return shares[2][offset : offset + length]

    assert len(block(0)) == 342
    assert len(block(9)) == 256
    for number in range(10):
        reader.check_block(number, memoryview(block(number)))
        for wrong in (b"", block(number)[:-1], block(number) + b"\0"):
            with pytest.raises(CorruptShare, match=f"block {number}: wrong length"):
                reader.check_block(number, wrong)
        with pytest.raises(CorruptShare, match=f"block {number}: wrong"):
            reader.check_block(number, block((number + 1) % 10))


def test_blocks_of_another_file_do_not_pass_the_segment_hash() -> None:
    """Shares whose trees are right but that were not coded from one segment: only this notices."""
    data = content(1000)
    trailer, _ = encode_small(3, 10, MAX_SEGMENT, data)
    cap, shares, _ = made(3, 10, 1000)
    reader = opened(cap, 0, shares[0])
    assert cap_of(trailer) == cap
    check_segment(reader.segment_hash(0), data)
    for wrong in (data[:-1], data + b"\0", data[::-1], b""):
        with pytest.raises(CorruptShare, match="crypttext segment"):
            check_segment(reader.segment_hash(0), wrong)


CAP, SHARES, TRAILER = made(3, 10, 3000, 500)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_damage_is_refused_or_harmless(data: st.DataObject) -> None:
    """Whatever is done to a share: it is corrupt, or what it proves is true."""
    share = bytearray(SHARES[4])
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.one_of(st.integers(0, 40), st.integers(0, len(share))))
        change = data.draw(st.binary(max_size=12))
        share[position : position + data.draw(st.integers(0, 12))] = change
    reader = ShareReader(CAP, 4)
    try:
        reader.open(Share(bytes(share)).fetch)
        for number in range(reader.sizes.num_segments):
            offset, length = reader.block_range(number)
            reader.check_block(number, bytes(share[offset : offset + length]))
    except CorruptShare:
        return
    assert reader.proof_digest == TRAILER.proof_digest(4)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_small_file_comes_back(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 12))
    k = data.draw(st.integers(1, n))
    body = data.draw(st.binary(min_size=1, max_size=300))
    segment = data.draw(st.integers(1, 400))
    trailer, parts = encode_small(k, n, segment, body)
    shares = [b"".join(part) for part in parts]
    chosen = data.draw(st.permutations(range(n)))[:k]
    readers = {shnum: opened(cap_of(trailer), shnum, shares[shnum]) for shnum in chosen}
    result = b""
    for number in range(trailer.sizes.num_segments):
        blocks = {}
        for shnum, reader in readers.items():
            offset, length = reader.block_range(number)
            blocks[shnum] = shares[shnum][offset : offset + length]
            reader.check_block(number, blocks[shnum])
        result += bytes(decode(k, n, blocks, trailer.sizes.segment_length(number)))
    assert result == body
