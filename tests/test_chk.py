"""Immutable files: sizes, share header, UEB, share hash chain, and all CHK vectors (spec 02)."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lafscli.errors import CorruptShare, IncompatibleShare
from lafscli.formats.caps import ChkCap
from lafscli.formats.chk import (
    HEADER_MAX,
    Layout,
    Sizes,
    Ueb,
    parse_chain,
    serialise_chain,
    share_size,
    ueb_length,
)
from lafscli.primitives.ciphers import AesCtr
from lafscli.primitives.encoding import b32encode, netstring
from lafscli.primitives.hashes import convergence_hasher, storage_index_from_key
from lafscli.primitives.hashtree import build
from lafscli.proof.encoder import encode_small

VECTORS = json.loads((Path(__file__).parent / "vectors" / "tahoe_vectors_dev.json").read_text())["vectors"]
CHK = [vector for vector in VECTORS if vector["kind"] == "chk"]


# ---- the worked example, and the vectors -------------------------------------------------------------------------

SHARE_0 = """
00000001000000130000001300000024000000370000005700000077000000970000014169a274f9768a1a437fd51b13
cb402d0b0b1bbd000000000000000000000000000000000000000000000000000000000000000012af5b54aeaede9c95
3c3906275f6fdfc9f4635904a2c748cd7cb531f2a4990d7b59609340be4d0a425121db8517790f592d7db693e567a295
57edbbdc0bdbd400026b5bf75e75bab7a784f7615f26ba0e12dd12c3b8dd984885ec5d7b1c952b774b000482f72f4eff
1e4d882e8bda5f158fc00aeffed4f85fbb27dc15f04758345af9d80008df16cd003a9049a16b7f4707d3b0121d218c67
aea228713fb874ffa7d2511167000f7b59609340be4d0a425121db8517790f592d7db693e567a29557edbbdc0bdbd400
10b52da8529d58c978a4d5ab7aa1977e5c91755cced043e6807ef0c9b508233d2d00000134636f6465635f6e616d653a
333a6372732c636f6465635f706172616d733a373a35372d332d31302c6372797074746578745f686173683a33323a80
ed8bd9cc0ccab9fa8cd2c823c0ad806cbff4c6a44045c38f64a3e3cb5275fd2c6372797074746578745f726f6f745f68
6173683a33323a12af5b54aeaede9c953c3906275f6fdfc9f4635904a2c748cd7cb531f2a4990d2c6e65656465645f73
68617265733a313a332c6e756d5f7365676d656e74733a313a312c7365676d656e745f73697a653a323a35372c736861
72655f726f6f745f686173683a33323a5c6817fbce7633f83eb533324ee64b0d4936a5fe0873dc1cf2a24cf68c21da74
2c73697a653a323a35362c7461696c5f636f6465635f706172616d733a373a35372d332d31302c746f74616c5f736861
7265733a323a31302c
"""
SHARE_DIGESTS = """
9992a67031831945dd97738963b46dcd763702f2da066503edb54478f8edb461
4b3da2af477eb7d55bf8b0b26728df0cc1f4407de676fa9d3f467234337f97b2
78b62c600d4fa18ea64654312e89b5bb1bf94b45f459487a60ff74a5c0477a16
96db6cb8ad01f0a450711c801f5e500f36a310cf840d7f972713d6a3919268f8
00a4fb24a1384b24d5682e571bd7d9604cec30b0bff79d165faae5c8abf76981
82b96919e7bea1d42a5e35a4d07d0ecb025233eb54ea6642ba2a08376f7a0c7d
92301deac2161825cef115429912ceda643fb82acee40275fd38db6d98e26e97
dfa439285eb5db04982825a5aa8c970cbf3f6562a9cd770cd5dbc869a710c538
c0512c2f451205211ecc59edbd73599440cd10e69ebf74fd04df1f9862199182
1480ab5d0f8d178cfc3fb1820066cba0151e0b35fbfd156659f0915dfd6721dd
"""


def encrypted(content: bytes, convergence: bytes, k: int, n: int, max_segment: int) -> tuple[bytes, bytes]:
    """Key and ciphertext of a convergent upload."""
    sizes = Sizes.plan(k, n, len(content), max_segment)
    hasher = convergence_hasher(convergence, k, n, sizes.segment_size)
    hasher.update(content)
    key = hasher.digest()[:16]
    return key, AesCtr(key).update(content)


def test_the_worked_example() -> None:
    """Spec 02 §8."""
    key, ciphertext = encrypted(b"a" * 56, b"a" * 16, 3, 10, 131072)
    assert b32encode(storage_index_from_key(key)) == "5mwuz5yxisqrnhtrsljs7wkyb4"
    trailer, parts = encode_small(3, 10, 131072, ciphertext)
    shares = [b"".join(part) for part in parts]
    assert shares[0] == bytes.fromhex(SHARE_0)
    assert [hashlib.sha256(share).hexdigest() for share in shares] == SHARE_DIGESTS.split()
    assert trailer.ueb_hash.hex() == "f11f5bcf54b9f9a705ed2b796545eb8317fab8ff041ed8340fa7ca5161ba3ab7"
    assert len(trailer.ueb) == 308
    assert trailer.share_size == 633
    layout = Layout.parse(shares[0])
    assert layout == Layout(1, 19, 19, 36, 55, 87, 119, 151, 321)
    assert str(ChkCap(key, trailer.ueb_hash, 3, 10, 56)) == (
        "URI:CHK:hah7mxwfpqemm7icdh3hwsa5fa:6epvxt2uxh42obpnfn4wkrplqml7voh7aqpnqnapu7ffcyn2hk3q:3:10:56"
    )


def _costly(vector: dict[str, Any]) -> bool:
    return bool(vector["n"] > 200 and vector["length"] > 3_000_000)


@pytest.mark.parametrize(
    "vector",
    [
        pytest.param(
            vector,
            id=f"{vector['k']}-{vector['n']}-{vector['length']}",
            marks=[pytest.mark.slow] if _costly(vector) else [],
        )
        for vector in CHK
    ],
)
def test_from_plaintext_to_cap(vector: dict[str, Any]) -> None:
    """The published vectors: key and UEB hash."""
    length, seed, k, n = vector["length"], bytes.fromhex(vector["seed"]), vector["k"], vector["n"]
    content = (seed * (length // len(seed) + 1))[:length]
    key, ciphertext = encrypted(content, bytes.fromhex(vector["convergence"]), k, n, vector["max_segment_size"])
    trailer, parts = encode_small(k, n, vector["max_segment_size"], ciphertext)
    assert str(ChkCap(key, trailer.ueb_hash, k, n, length)) == vector["expected"]
    assert {sum(len(part) for part in share) for share in parts} == {share_size(trailer.sizes)}


def test_the_vectors_are_there() -> None:
    assert len(CHK) == 60
    assert {(vector["k"], vector["n"]) for vector in CHK} >= {(1, 1), (3, 10), (71, 255), (101, 256)}


# ---- sizes ---------------------------------------------------------------------------------------------------------


@given(st.integers(1, 256), st.integers(1, 10_000_000), st.integers(1, 1 << 21))
def test_sizes_are_those_of_the_spec(k: int, size: int, max_segment: int) -> None:
    sizes = Sizes.plan(k, 256, size, max_segment)
    segment = math.ceil(min(max_segment, size) / k) * k
    count = math.ceil(size / segment)
    tail = size % segment or segment
    assert sizes.segment_size == segment
    assert sizes.num_segments == count
    assert sizes.tail_size == tail
    assert sizes.tail_padded == math.ceil(tail / k) * k
    assert sizes.block_size * k == segment
    assert sizes.tail_block * k == sizes.tail_padded
    assert sizes.share_data == math.ceil(size / k) == (count - 1) * sizes.block_size + sizes.tail_block
    assert sizes.segment_length(count - 1) == tail
    assert sizes.block_length(count - 1) == sizes.tail_block
    if count > 1:
        assert sizes.segment_length(0) == segment
        assert sizes.block_length(count - 2) == sizes.block_size
    assert sizes.tree_size == 32 * (2 * 2 ** math.ceil(math.log2(count)) - 1)
    # a segment size that was rounded before gives the same
    assert Sizes.plan(k, 256, size, segment) == sizes


# ---- header --------------------------------------------------------------------------------------------------------


@given(st.integers(1, 256), st.integers(0, 255), st.integers(1, 1 << 42), st.sampled_from([None, 2]))
def test_layouts_invert_and_fit_their_sizes(k: int, more: int, size: int, version: int | None) -> None:
    sizes = Sizes.plan(k, min(256, k + more), size, 1 << 20)
    layout = Layout.build(sizes, version)
    data = layout.serialise()
    assert len(data) == layout.header_size == {1: 0x24, 2: 0x44}[layout.version]
    assert Layout.parse(data) == Layout.parse(data + b"more") == layout
    layout.check(sizes)
    assert layout.data == layout.header_size
    assert layout.uri_extension - layout.share_hashes == 34 * (math.ceil(math.log2(sizes.n)) + 1)
    assert share_size(sizes, version) == layout.uri_extension + layout.length_size + ueb_length(sizes)


def test_version_2_is_chosen_when_an_offset_needs_it() -> None:
    def version(size: int) -> int:
        return Layout.build(Sizes.plan(1, 1, size, 1 << 20)).version

    low, high = 1, 1 << 33
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if version(middle) == 1 else (low, middle)
    largest = Layout.build(Sizes.plan(1, 1, low, 1 << 20))
    assert largest.uri_extension == (1 << 32) - 1
    assert len(largest.serialise()) == 36
    assert Layout.build(Sizes.plan(1, 1, high, 1 << 20)).version == 2


def test_version_2_is_chosen_for_an_immense_block() -> None:
    assert Layout.build(Sizes(1, 1, 100, 1 << 32)).version == 2
    assert Layout.build(Sizes(1, 1, 100, (1 << 32) - 1)).version == 1


GOOD = Layout.build(Sizes.plan(3, 10, 10000, 1024))
OFFSETS = ["data", "plaintext_hash_tree", "crypttext_hash_tree", "block_hashes", "share_hashes", "uri_extension"]


@pytest.mark.parametrize("version", [1, 2])
def test_headers_that_are_cut_are_refused(version: int) -> None:
    data = Layout.build(Sizes.plan(3, 10, 10000, 1024), version).serialise()
    for length in range(len(data)):
        with pytest.raises(CorruptShare, match="share header: cut short"):
            Layout.parse(data[:length])


@pytest.mark.parametrize("version", [0, 3, 0x100, 0xFFFFFFFF])
def test_other_versions_are_incompatible(version: int) -> None:
    data = version.to_bytes(4, "big") + GOOD.serialise()[4:]
    with pytest.raises(IncompatibleShare, match="version"):
        Layout.parse(data + bytes(HEADER_MAX))


@pytest.mark.parametrize("name", OFFSETS)
def test_offsets_out_of_order_are_refused(name: str) -> None:
    before = ["header_size", *OFFSETS][OFFSETS.index(name)]
    with pytest.raises(CorruptShare, match="share header: offset"):
        Layout.parse(replace(GOOD, **{name: getattr(GOOD, before) - 1}).serialise())


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"block_hashes": GOOD.block_hashes + 1}, "block hashes is not a multiple of 32"),
        ({"share_hashes": GOOD.share_hashes - 34}, "block hashes is not a multiple of 32"),
        ({"uri_extension": GOOD.uri_extension + 1}, "share hashes is not a multiple of 34"),
        ({"uri_extension": GOOD.uri_extension - 33}, "share hashes is not a multiple of 34"),
    ],
)
def test_section_lengths_that_can_not_be_are_refused(change: dict[str, int], why: str) -> None:
    with pytest.raises(CorruptShare, match=why):
        Layout.parse(replace(GOOD, **change).serialise())


def test_offsets_beyond_any_file_are_refused() -> None:
    layout = Layout.build(Sizes.plan(3, 10, 10000, 1024), 2)
    with pytest.raises(CorruptShare, match="beyond any file"):
        Layout.parse(replace(layout, uri_extension=layout.share_hashes + 34 * (1 << 58)).serialise())


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"plaintext_hash_tree": GOOD.plaintext_hash_tree - 1}, "no room for the blocks"),
        ({"crypttext_hash_tree": GOOD.crypttext_hash_tree - 32}, "crypttext hash tree"),
        ({"crypttext_hash_tree": GOOD.crypttext_hash_tree + 1}, "crypttext hash tree"),
        ({"block_hashes": GOOD.block_hashes + 32}, "crypttext hash tree"),
        ({"crypttext_hash_tree": GOOD.crypttext_hash_tree + 32, "block_hashes": GOOD.block_hashes + 32}, "block hash"),
        ({"uri_extension": GOOD.share_hashes}, "0 share hashes"),
        ({"uri_extension": GOOD.share_hashes + 34 * 32}, "32 share hashes"),
    ],
)
def test_sections_of_other_lengths_than_the_sizes_ask_for_are_refused(change: dict[str, int], why: str) -> None:
    layout = replace(GOOD, **change)
    with pytest.raises(CorruptShare, match=why):
        layout.check(Sizes.plan(3, 10, 10000, 1024))


@given(st.binary(max_size=80), st.sampled_from([b"", b"\0\0\0\1", b"\0\0\0\2"]))
def test_any_header_is_read_or_refused(data: bytes, front: bytes) -> None:
    try:
        layout = Layout.parse(front + data)
    except CorruptShare:
        return
    assert layout.header_size <= layout.data <= layout.uri_extension


# ---- UEB -----------------------------------------------------------------------------------------------------------

SIZES = Sizes.plan(3, 10, 10000, 1024)
ROOTS = (b"c" * 32, b"s" * 32, b"w" * 32)
FIELDS = {
    "codec_name": b"crs",
    "codec_params": b"1026-3-10",
    "crypttext_hash": b"w" * 32,
    "crypttext_root_hash": b"c" * 32,
    "needed_shares": b"3",
    "num_segments": b"10",
    "segment_size": b"1026",
    "share_root_hash": b"s" * 32,
    "size": b"10000",
    "tail_codec_params": b"768-3-10",
    "total_shares": b"10",
}
REQUIRED = {"crypttext_root_hash", "segment_size", "share_root_hash"}


def joined(fields: dict[str, bytes]) -> bytes:
    return b"".join(key.encode() + b":" + netstring(value) for key, value in fields.items())


def read(data: bytes, *, strict: bool) -> Ueb:
    return Ueb.parse(data, 3, 10, 10000, strict=strict)


def test_a_ueb_has_eleven_fields_in_order() -> None:
    ueb = Ueb(1026, *ROOTS)
    assert ueb.serialise(SIZES) == joined(FIELDS)
    assert ueb_length(SIZES) == len(joined(FIELDS))
    assert read(joined(FIELDS), strict=True) == ueb
    assert read(memoryview(joined(FIELDS)), strict=False) == replace(ueb, crypttext_hash=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("strict", [False, True])
def test_readers_need_three_fields_and_ignore_unknown_ones(strict: bool) -> None:
    few = {key: FIELDS[key] for key in sorted(REQUIRED, reverse=True)}
    more = {**few, "plaintext_hash": b"p" * 32, "plaintext_root_hash": b"q" * 32, "colour": b"", "": b":,"}
    assert read(joined(more), strict=strict) == read(joined(few), strict=strict) == Ueb(1026, *ROOTS[:2])


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("key", sorted(REQUIRED))
def test_a_ueb_without_a_required_field_is_refused(key: str, strict: bool) -> None:
    with pytest.raises(CorruptShare, match=f"UEB: no {key}"):
        read(joined({k: v for k, v in FIELDS.items() if k != key}), strict=strict)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("crypttext_root_hash", b"c" * 31),
        ("crypttext_root_hash", b""),
        ("share_root_hash", b"s" * 33),
        ("segment_size", b"0"),
        ("segment_size", b""),
        ("segment_size", b"1025"),
        ("segment_size", b"-3"),
        ("segment_size", b"+3"),
        ("segment_size", b" 3"),
        ("segment_size", b"3_0"),
        ("segment_size", b"3.0"),
        ("segment_size", b"0x3"),
        ("segment_size", "٣".encode()),
        ("segment_size", b"3" * 21),
    ],
)
def test_a_required_field_of_a_wrong_form_is_refused(key: str, value: bytes, strict: bool) -> None:
    with pytest.raises(CorruptShare, match=f"UEB: {key}"):
        read(joined({**FIELDS, key: value}), strict=strict)


@pytest.mark.parametrize("key", sorted(FIELDS.keys() - REQUIRED))
def test_only_verifying_looks_at_the_optional_fields(key: str) -> None:
    for value in (b"", b"7", b"x", FIELDS[key] + b"0"):
        wrong = joined({**FIELDS, key: value})
        assert read(wrong, strict=False).segment_size == 1026
        with pytest.raises(CorruptShare, match=f"UEB: {key}"):
            read(wrong, strict=True)
    assert read(joined({k: v for k, v in FIELDS.items() if k != key}), strict=True).segment_size == 1026


def test_a_ueb_of_another_encoding_is_refused_by_verifying() -> None:
    for k, n, size in ((6, 10, 10000), (3, 11, 10000), (3, 10, 10001)):
        with pytest.raises(CorruptShare, match="does not agree"):
            Ueb.parse(joined(FIELDS), k, n, size, strict=True)


@pytest.mark.parametrize(
    "data", [b"size", b"size:", b"size:2", b"size:2:1", b"size:2:11", b"size:2:11;", b"size:x:11,", b"a" * 200]
)
def test_broken_records_are_refused(data: bytes) -> None:
    with pytest.raises(CorruptShare, match="UEB"):
        read(joined(FIELDS) + data, strict=False)


def test_a_key_that_is_there_twice_is_refused() -> None:
    with pytest.raises(CorruptShare, match="twice"):
        read(joined(FIELDS) + joined({"segment_size": b"3"}), strict=False)


@given(st.integers(0, 400), st.binary(max_size=5))
def test_any_ueb_is_read_or_refused(position: int, change: bytes) -> None:
    data = bytearray(joined(FIELDS))
    data[position : position + len(change)] = change
    try:
        ueb = read(bytes(data), strict=True)
    except CorruptShare:
        return
    assert ueb.segment_size == 1026


# ---- share hash chain ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "shnum", "order"),
    [(5, 0, [8, 2, 4, 7]), (10, 0, [2, 4, 8, 15, 16]), (1, 0, [0]), (3, 0, [2, 3, 4]), (2, 1, [1, 2])],
)
def test_the_chain_is_written_in_the_order_of_a_set(n: int, shnum: int, order: list[int]) -> None:
    """The first two are those of spec 02 §5."""
    nodes = build([bytes([i]) * 32 for i in range(n)])
    data = serialise_chain(shnum, n, nodes)
    assert [int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 34)] == order
    assert parse_chain(data, n) == {number: nodes[number] for number in order}


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "length"),
        (bytes(33), "length"),
        (bytes(35), "length"),
        (b"\0\x1f" + bytes(32), "no node 31"),
        (b"\xff\xff" + bytes(32), "no node 65535"),
        ((b"\0\x01" + bytes(32)) * 2, "node 1 is there twice"),
    ],
)
def test_broken_chains_are_refused(data: bytes, why: str) -> None:
    with pytest.raises(CorruptShare, match=f"share hashes: .*{why}"):
        parse_chain(data, 10)
