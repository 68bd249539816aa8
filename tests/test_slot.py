"""Mutable shares as bytes: prefix, offsets, sections (spec 03 §3, §5, §6)."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lafscli.errors import CorruptShare, IncompatibleShare
from lafscli.formats.mutable_container import DATA_OFFSET
from lafscli.formats.slot import HEAD_SIZE, Header, Layout, Prefix, Sections, parse_chain, serialise_chain
from lafscli.primitives.hashtree import build

VECTORS = Path(__file__).parent / "vectors"
EXAMPLE = json.loads((VECTORS / "mutable_example.json").read_text())
VERSIONS = {version["name"]: version for version in EXAMPLE["versions"]}
SMALL = {name: bytes.fromhex(version["share0_hex"]) for name, version in VERSIONS.items() if version.get("share0_hex")}
CONTAINERS = json.loads((VECTORS / "container_examples.json").read_text())
TAHOE = [
    base64.b64decode(text)[DATA_OFFSET:-4]
    for example in CONTAINERS["objects"] + CONTAINERS["extra"]
    if example["kind"].startswith(("sdmf", "mdmf"))
    for text in example["containers"].values()
]
SHARES = [*SMALL.values(), *TAHOE]
SALT = bytes(range(16))


def header_of(share: bytes) -> Header:
    return Header.parse(share[:HEAD_SIZE], len(share))


def cut(share: bytes, wanted: tuple[int, int]) -> bytes:
    return share[wanted[0] : wanted[0] + wanted[1]]


@pytest.mark.parametrize("share", SHARES, ids=range(len(SHARES)))
def test_shares_are_written_again_to_the_byte(share: bytes) -> None:
    header = header_of(share)
    layout = header.layout
    sections = Sections(
        *(cut(share, wanted) for wanted in (layout.public_key, layout.signature, layout.share_hash_chain)),
        *(cut(share, wanted) for wanted in (layout.block_hash_tree, layout.enc_privkey)),
    )
    assert Header.build(header.prefix, len(sections.public_key), len(sections.enc_privkey)) == header
    again = header.front(sections) + cut(share, layout.share_data) + header.back(sections)
    if header.prefix.mdmf:
        # spec 03 §6: the gap before the data says nothing
        end = sum(layout.public_key)
        again = again[:end] + share[end : layout.share_data[0]] + again[layout.share_data[0] :]
    assert again == share[: layout.eof]
    chain = parse_chain(sections.share_hash_chain, header.prefix.n)
    assert len(chain) == 4
    assert b"".join(number.to_bytes(2, "big") + chain[number] for number in sorted(chain)) == sections.share_hash_chain
    assert share.startswith(header.prefix.checkstring)
    assert len(header.prefix.checkstring) == (41 if header.prefix.mdmf else 57)


@pytest.mark.parametrize("version", VERSIONS.values(), ids=VERSIONS)
def test_the_worked_examples(version: dict[str, Any]) -> None:
    prefix = Prefix.parse(bytes.fromhex(version["signed_prefix"]))
    assert prefix.serialise().hex() == version["signed_prefix"]
    assert (prefix.mdmf, prefix.seqnum, prefix.k, prefix.n) == (version["version"] == 1, 1, 3, 10)
    assert prefix.root_hash.hex() == version["roothash"]
    sizes = prefix.segment_size, prefix.num_segments, prefix.data_length
    assert sizes == (version["segment_size"], version["num_segments"], version["plaintext_len"])
    salt = b"" if prefix.mdmf else SALT
    assert (
        replace(Prefix.plan(prefix.mdmf, 3, 10, prefix.data_length, salt=salt), seqnum=1, root_hash=prefix.root_hash)
        == prefix
    )
    assert Layout.build(prefix, 294, 1218).eof == version["share_len"]


@pytest.mark.parametrize(
    ("mdmf", "k", "length", "sizes"),
    [
        # segment size, segments, tail, block size, tail block, share data
        (False, 3, 0, (0, 0, None, 0, None, 0)),
        (False, 3, 1, (3, 1, 1, 1, 1, 1)),
        (False, 1, 7, (7, 1, 7, 7, 7, 7)),
        (False, 7, 700_001, (700_007, 1, 700_001, 100_001, 100_001, 100_001)),
        (True, 3, 0, (131073, 0, None, 43691, None, 0)),
        (True, 3, 1, (131073, 1, 1, 43691, 1, 17)),
        (True, 1, 131072, (131072, 1, 131072, 131072, 131072, 131088)),
        (True, 3, 131073, (131073, 1, 131073, 43691, 43691, 43707)),
        (True, 3, 131074, (131073, 2, 1, 43691, 1, 43707 + 17)),
        (True, 3, 3 * 131073, (131073, 3, 131073, 43691, 43691, 3 * 43707)),
    ],
)
def test_sizes(mdmf: bool, k: int, length: int, sizes: tuple[int | None, ...]) -> None:
    prefix = Prefix.plan(mdmf, k, 10, length, salt=b"" if mdmf else SALT)
    last = prefix.num_segments - 1
    tail = (prefix.segment_length(last), prefix.block_length(last)) if last >= 0 else (None, None)
    found = prefix.segment_size, prefix.num_segments, tail[0], prefix.block_size, tail[1], prefix.share_data
    assert found == sizes
    assert Prefix.parse(prefix.serialise()) == prefix


@pytest.mark.parametrize(
    ("offset", "length", "segments"),
    [
        (0, 0, []),
        (0, 1, [0]),
        (131072, 1, [0]),
        (131072, 2, [0, 1]),
        (131073, 1, [1]),
        (131073, 10**9, [1, 2]),
        (299_999, 5, [2]),
        (300_000, 5, []),
        (10**9, 5, []),
        (0, 300_000, [0, 1, 2]),
    ],
)
def test_segments_of_a_range(offset: int, length: int, segments: list[int]) -> None:
    assert list(Prefix.plan(True, 3, 10, 300_000).segments(offset, length)) == segments


def test_the_sections_lie_one_after_the_other() -> None:
    for mdmf in (False, True):
        for k, n in ((1, 1), (1, 2), (3, 10), (255, 255)):
            prefix = Prefix.plan(mdmf, k, n, 300_000, salt=b"" if mdmf else SALT)
            header = Header.build(prefix, 294, 1219)
            layout = header.layout
            layout.check(prefix, layout.eof)
            last = prefix.num_segments - 1
            assert sum(header.block(last)) == sum(layout.share_data)
            assert layout.share_hash_chain[1] == 34 * (n - 1).bit_length()
            assert layout.share_data[0] <= 2167
            assert layout.share_data[0] == 2167 or not mdmf
            with pytest.raises(CorruptShare, match="the share ends at"):
                layout.check(prefix, layout.eof - 1)


# ---- refused -------------------------------------------------------------------------------------------------------


def refused(share: bytes, reason: str) -> None:
    with pytest.raises(CorruptShare, match=reason):
        header_of(share)


def patched(name: str, offset: int, size: int, value: int) -> bytes:
    share = SMALL[name]
    return share[:offset] + value.to_bytes(size, "big") + share[offset + size :]


@pytest.mark.parametrize("version", [2, 255])
def test_unknown_versions_are_incompatible(version: int) -> None:
    with pytest.raises(IncompatibleShare, match=f"version {version}"):
        header_of(patched("sdmf", 0, 1, version))


@pytest.mark.parametrize("name", SMALL)
def test_a_cut_share_is_corrupt(name: str) -> None:
    share = SMALL[name]
    for length in [*range(124), len(share) - 1]:
        with pytest.raises(CorruptShare) as caught:
            header_of(share[:length])
        assert "cut short" in caught.value.message or "the share ends at" in caught.value.message
    # what follows the end is of an older version
    assert header_of(share + b"stale") == header_of(share)


@pytest.mark.parametrize(
    ("name", "offset", "size", "value", "reason"),
    [
        ("sdmf", 57, 1, 0, "0 of 10 shares"),
        ("sdmf", 57, 1, 11, "11 of 10 shares"),
        ("sdmf", 58, 1, 0, "3 of 0 shares"),
        ("sdmf", 59, 8, 24, "segment size 24 for 19 bytes"),
        ("sdmf", 59, 8, 0, "segment size 0 for 19 bytes"),
        ("sdmf", 59, 8, 22, "not a multiple of 3"),
        ("sdmf", 67, 8, 22, "segment size 21 for 22 bytes"),
        ("sdmf", 75, 4, 106, "offset of signature"),
        ("sdmf", 79, 4, 400, "offset of share hash chain"),
        ("sdmf", 79, 4, 658, "a signature of 257 bytes"),
        ("sdmf", 83, 4, 656, "offset of block hash tree"),
        ("sdmf", 83, 4, 792, "wrong length of share hash chain"),
        ("sdmf", 87, 4, 792, "offset of share data"),
        ("sdmf", 87, 4, 824, "wrong length of block hash tree"),
        ("sdmf", 87, 4, 4097, "offset of encrypted private key"),
        ("sdmf", 91, 8, 824, "offset of encrypted private key"),
        ("sdmf", 91, 8, 831, "no room for the blocks"),
        ("sdmf", 99, 8, 2051, "the share ends at 2051, but there are 2050"),
        ("sdmf", 99, 8, 831, "offset of EOF"),
        ("sdmf", 99, 8, (1 << 64) - 1, "the share ends at"),
        ("mdmf", 41, 1, 0, "0 of 10 shares"),
        ("mdmf", 43, 8, 0, "segment size 0"),
        ("mdmf", 43, 8, 131072, "not a multiple of 3"),
        ("mdmf", 43, 8, 3, "no room for the blocks"),
        ("mdmf", 51, 8, (1 << 64) - 1, "no room for the blocks"),
        ("mdmf", 59, 8, 122, "offset of encrypted private key"),
        ("mdmf", 67, 8, 122, "offset of share hash chain"),
        ("mdmf", 67, 8, 1342, "wrong length of share hash chain"),
        ("mdmf", 75, 8, 1340, "offset of signature"),
        ("mdmf", 83, 8, 1476, "offset of public key"),
        ("mdmf", 83, 8, 1732, "a signature of 255 bytes"),
        ("mdmf", 91, 8, 1732, "offset of end of public key"),
        ("mdmf", 99, 8, 2000, "offset of share data"),
        ("mdmf", 107, 8, 2166, "offset of block hash tree"),
        ("mdmf", 107, 8, 2189, "no room for the blocks"),
        ("mdmf", 107, 8, 2191, "wrong length of block hash tree"),
        ("mdmf", 115, 8, 2221, "wrong length of block hash tree"),
        ("mdmf", 115, 8, 2223, "the share ends at"),
    ],
)  # fmt: skip
def test_headers_that_break_the_layout(name: str, offset: int, size: int, value: int, reason: str) -> None:
    refused(patched(name, offset, size, value), reason)


def test_data_must_begin_within_the_head() -> None:
    share = SMALL["mdmf"] + bytes(8000)
    moved = share[:99] + b"".join(value.to_bytes(8, "big") for value in (5000, 5023, 5055)) + share[123:]
    refused(moved, "begins too late")


def test_chains() -> None:
    nodes = build([bytes([i]) * 32 for i in range(10)])
    data = serialise_chain(9, 10, nodes)
    assert parse_chain(data, 10) == {number: nodes[number] for number in (1, 6, 12, 23)}
    assert [int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 34)] == [1, 6, 12, 23]
    assert serialise_chain(0, 1, nodes) == b""
    assert parse_chain(b"", 1) == {}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (bytes(33), "wrong length"),
        (b"\0\1" + bytes(32) + b"\0\1" + bytes(32), "node 1 is there twice"),
        (b"\0\x1f" + bytes(32), "no node 31"),
    ],
)
def test_chains_that_are_corrupt(data: bytes, reason: str) -> None:
    with pytest.raises(CorruptShare, match=reason):
        parse_chain(data, 10)


# ---- anything ------------------------------------------------------------------------------------------------------

CHANGES = st.lists(st.tuples(st.integers(0, 123), st.integers(0, 255)), min_size=1, max_size=6)


def check_mutated(share: bytes, changes: list[tuple[int, int]], end: int) -> None:
    changed = bytearray(share)
    for position, value in changes:
        changed[position] = value
    changed = changed[:end]
    try:
        header = header_of(bytes(changed))
    except CorruptShare:
        return
    assert bytes(changed).startswith(header.serialise())
    layout = header.layout
    sections = (layout.public_key, layout.signature, layout.share_hash_chain, layout.block_hash_tree)
    for offset, length in (*sections, layout.share_data, layout.enc_privkey):
        assert 0 <= offset <= offset + length <= layout.eof <= len(changed)


@given(st.sampled_from(SHARES), CHANGES, st.integers(0, 3000))
@settings(max_examples=200, deadline=None)
def test_mutated_headers_are_read_or_refused(share: bytes, changes: list[tuple[int, int]], end: int) -> None:
    check_mutated(share, changes, end)


@pytest.mark.slow
@given(st.sampled_from(SHARES), CHANGES, st.integers(0, 3000))
@settings(max_examples=10_000, deadline=None)
def test_many_mutated_headers_are_read_or_refused(share: bytes, changes: list[tuple[int, int]], end: int) -> None:
    check_mutated(share, changes, end)


@settings(deadline=None)
@given(st.binary(max_size=200), st.integers(0, 1 << 64))
def test_any_bytes_are_read_or_refused(head: bytes, size: int) -> None:
    try:
        header = Header.parse(head, size)
    except CorruptShare:
        return
    assert head.startswith(header.serialise())
