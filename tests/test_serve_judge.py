"""What the server believes of a container by its bytes alone: whole ones, each way to be broken, absurd claims."""

from __future__ import annotations

import base64
import json
import os
import random
import struct
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lafscli.errors import CorruptShare, IncompatibleShare
from lafscli.formats import caps
from lafscli.formats.chk import Layout, Sizes, Ueb
from lafscli.formats.container import HEADER_SIZE, LEASE_SIZE, header
from lafscli.formats.mutable_container import DATA_OFFSET
from lafscli.formats.slot import Header
from lafscli.primitives.encoding import netstring
from lafscli.primitives.hashes import fingerprint_from_public_key
from lafscli.primitives.hashtree import HASH_SIZE, build_serialised
from lafscli.server.judge import prove_immutable, prove_mutable, shape, told_mutable, well_formed
from lafscli.server.trees import Part, StoredTree
from tests.kept_shares import KEY, OURS, SI, SLOT_SI, THEIRS, immutable, mutable, shares, slots

CONTAINERS = json.loads((Path(__file__).parent / "vectors" / "container_examples.json").read_text())
TAHOE = [one for one in CONTAINERS["objects"] + CONTAINERS["extra"] if "cap" in one]


@contextmanager
def opened(container: bytes) -> Iterator[int]:
    with tempfile.TemporaryFile() as file:
        file.write(container)
        file.flush()
        yield file.fileno()


def formed(container: bytes, shnum: int = 0) -> None:
    with opened(container) as fd:
        well_formed(fd, len(container), shnum)


def proven(container: bytes, shnum: int = 0) -> None:
    with opened(container) as fd:
        prove_immutable(fd, len(container), SI, shnum)


def proven_slot(container: bytes, shnum: int = 0) -> None:
    with opened(container) as fd:
        prove_mutable(fd, len(container), SLOT_SI, shnum)


def patched(data: bytes, offset: int, new: bytes) -> bytes:
    return data[:offset] + new + data[offset + len(new) :]


# ---- whole ones


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("k", "n"), [(1, 1), (2, 4), (3, 10), (1, 256)])
@pytest.mark.parametrize("size", [1, 63, 64, 65, 1000])
def test_a_share_of_any_shape_proves(version: int, k: int, n: int, size: int) -> None:
    segment_size = 64 if 64 % k == 0 else 66
    made = shares(b"x" * size, k, n, segment_size, version)
    for shnum in {0, n // 2, n - 1}:
        container = immutable(made[shnum], OURS, THEIRS)
        proven(container, shnum)
        with opened(container) as fd:
            found = well_formed(fd, len(container), shnum)
            seen = shape(fd, len(container))
        assert (found.sizes.n, found.share_size, len(found.leases)) == (n, len(made[shnum]), 2)
        assert (seen.mutable, seen.version, seen.share_size, len(seen.leases)) == (False, 2, len(made[shnum]), 2)


@pytest.mark.parametrize("mdmf", [False, True])
@pytest.mark.parametrize(("k", "n"), [(1, 1), (2, 4), (3, 10), (1, 255)])
@pytest.mark.parametrize("size", [0, 1, 20, 1000])
def test_a_slot_of_any_shape_proves(mdmf: bool, k: int, n: int, size: int) -> None:
    made = slots(5, b"x" * size, mdmf=mdmf, k=k, n=n, segment_size=6 * k if mdmf else None)
    for shnum in {0, n // 2, n - 1}:
        container = mutable(made[shnum], OURS)
        with opened(container) as fd:
            found = prove_mutable(fd, len(container), SLOT_SI, shnum)
            assert shape(fd, len(container)).leases == found.container.leases
        assert (found.seqnum, found.public_key) == (5, KEY.public.der)
        assert found.fingerprint == fingerprint_from_public_key(KEY.public.der)


def test_what_follows_the_end_of_a_slot_does_not_matter() -> None:
    proven_slot(mutable(slots()[0] + b"left of a longer version", OURS))


def without_sizes(share: bytes, n: int, k: int, size: int, segment_size: int) -> bytes:
    """The share with a UEB that has only what a reader needs."""
    layout = Layout.parse(share)
    ueb = Ueb.parse(share[layout.uri_extension + layout.length_size :], k, n, size)
    fields = {
        "crypttext_root_hash": ueb.crypttext_root_hash,
        "segment_size": b"%d" % ueb.segment_size,
        "share_root_hash": ueb.share_root_hash,
    }
    short = b"".join([b"%b:%b" % (key.encode(), netstring(value)) for key, value in fields.items()])
    return share[: layout.uri_extension] + len(short).to_bytes(layout.length_size, "big") + short


def test_a_ueb_that_tells_no_sizes_is_judged_by_the_header_of_the_share() -> None:
    content = b"immutable " * 20
    for shnum in range(4):
        bare = without_sizes(shares(content)[shnum], 4, 2, len(content), 64)
        proven(immutable(bare, OURS), shnum)
        layout = Layout.parse(bare)
        for offset in (layout.data, layout.crypttext_hash_tree, layout.block_hashes, layout.share_hashes + 2, 4, 8):
            with pytest.raises(CorruptShare):
                proven(immutable(patched(bare, offset, bytes([bare[offset] ^ 1])), OURS), shnum)
    with pytest.raises(CorruptShare, match="share number 4 of 4"):
        proven(immutable(bare), 4)


# ---- each way to be broken

SHARE = shares()[0]
LAYOUT = Layout.parse(SHARE)
UEB_AT = LAYOUT.uri_extension + 4

MALFORMED: list[tuple[str, bytes, str]] = [
    ("nothing", b"", "cut short"),
    ("short header", immutable(SHARE)[:11], "cut short"),
    ("a share without a container", SHARE, "no room|hold"),
    ("container of version 3", patched(immutable(SHARE), 3, b"\3"), "version 3"),
    ("a mutable one", mutable(slots()[0]), "mutable"),
    ("no share", header(0, 0), "cut short"),
    ("more leases counted than there are", immutable(SHARE, OURS, counted=2), "leases"),
    ("four billion leases", immutable(SHARE, OURS, counted=0xFFFFFFFF), "no room for 4294967295 leases"),
    ("something that is no lease at its end", immutable(SHARE) + b"x", "do not hold"),
    ("a lease cut short", immutable(SHARE, OURS)[:-1], "do not hold"),
    ("more leases than anybody reads", immutable(SHARE, *[OURS] * 1001), "do not hold"),
    ("a share of version 3", immutable(patched(SHARE, 3, b"\3")), "version 3"),
    ("offsets out of order", immutable(patched(SHARE, 0x10, bytes(4))), "before the end of what precedes"),
    ("UEB beyond the file", immutable(patched(SHARE, 0x20, b"\x7f\0\0\0")), "34|ends before"),
    ("a long UEB", immutable(patched(SHARE, LAYOUT.uri_extension, b"\0\0\x07\xd0")), "length of 2000"),
    ("no UEB", immutable(patched(SHARE, LAYOUT.uri_extension, bytes(4))), "do not hold"),
    ("a UEB that can't be read", immutable(patched(SHARE, UEB_AT, b"\xff" * 30)), "UEB"),
    ("a UEB of other sizes", immutable(SHARE.replace(b"needed_shares:1:2", b"needed_shares:1:1")), "does not agree"),
    ("none of n shares", immutable(SHARE.replace(b"needed_shares:1:2", b"needed_shares:1:0")), "can't be"),
    ("segment size 0", immutable(SHARE.replace(b"segment_size:2:64", b"segment_size:2:00")), "not a multiple"),
    ("another segment size", immutable(SHARE.replace(b"segment_size:2:64", b"segment_size:2:66")), "does not agree"),
]


@pytest.mark.parametrize(("container", "message"), [one[1:] for one in MALFORMED], ids=[one[0] for one in MALFORMED])
def test_a_container_that_is_not_well_formed_is_named(container: bytes, message: str) -> None:
    with pytest.raises(CorruptShare, match=message):
        formed(container)


def test_a_share_number_that_the_encoding_has_not_is_refused() -> None:
    with pytest.raises(CorruptShare, match="share number 4 of 4"):
        formed(immutable(SHARE), 4)
    with pytest.raises(CorruptShare, match="share number 4 of 4"):
        proven_slot(mutable(slots()[0]), 4)


def test_leases_that_were_written_but_not_counted_are_no_fault() -> None:
    formed(immutable(SHARE, OURS, THEIRS, counted=1))


UNPROVEN = [
    ("a block", LAYOUT.data, "block hashes: leaf 0"),
    ("the last block", LAYOUT.plaintext_hash_tree - 1, "block hashes: leaf 3"),
    ("root of the crypttext tree", LAYOUT.crypttext_hash_tree, "crypttext hash tree: wrong root"),
    ("node of the crypttext tree", LAYOUT.crypttext_hash_tree + 32, "crypttext hash tree: a node"),
    ("leaf of the crypttext tree", LAYOUT.crypttext_hash_tree + 3 * 32, "crypttext hash tree: a node"),
    ("root of the block tree", LAYOUT.block_hashes, "block hashes: wrong root"),
    ("node of the block tree", LAYOUT.block_hashes + 32, "block hashes: a node"),
    ("leaf of the block tree", LAYOUT.block_hashes + 3 * 32, "block hashes: leaf 0"),
    ("number in the chain", LAYOUT.share_hashes + 1, "share hashes"),
    ("hash in the chain", LAYOUT.share_hashes + 2, "share hashes"),
    ("root of the shares", SHARE.index(b"share_root_hash") + 20, "share hashes"),
]


@pytest.mark.parametrize(("offset", "message"), [one[1:] for one in UNPROVEN], ids=[one[0] for one in UNPROVEN])
def test_a_share_that_does_not_prove_is_named(offset: int, message: str) -> None:
    broken = immutable(patched(SHARE, offset, bytes([SHARE[offset] ^ 1])), OURS)
    formed(broken)
    with pytest.raises(CorruptShare, match=message):
        proven(broken)


def test_a_share_of_another_number_does_not_prove() -> None:
    with pytest.raises(CorruptShare, match="wrong root"):
        proven(immutable(SHARE), 1)
    for shnum in (1, 2, 3):
        with pytest.raises(CorruptShare):
            proven_slot(mutable(slots()[0]), shnum)


SLOT = slots(5, b"x" * 100, mdmf=True, segment_size=12)[0]
SLOT_HEADER = Header.parse(SLOT, len(SLOT))
SLOT_LAYOUT = SLOT_HEADER.layout

SLOTS_BROKEN: list[tuple[str, bytes, str]] = [
    ("nothing", b"", "cut short"),
    ("an immutable one", immutable(SHARE), "no mutable share"),
    ("header cut short", mutable(SLOT)[:467], "cut short"),
    ("data cut short", mutable(SLOT)[: DATA_OFFSET + len(SLOT) - 1], "do not hold"),
    ("data of 2^64 bytes", patched(mutable(SLOT), 84, b"\xff" * 8), "do not hold"),
    ("four billion extra leases", mutable(SLOT)[:-4] + b"\xff" * 4, "no room for 4294967295"),
    ("one extra lease that is not there", mutable(SLOT)[:-4] + b"\0\0\0\1", "no room for 1"),
    ("no share", mutable(b""), "cut short"),
    ("share of version 2", mutable(patched(SLOT, 0, b"\2")), "version 2"),
    ("a higher seqnum", mutable(patched(SLOT, 8, b"\6")), "signature"),
    ("another root hash", mutable(patched(SLOT, 9, b"x")), "signature"),
    ("k 0", mutable(patched(SLOT, 41, b"\0")), "can't be"),
    ("k above n", mutable(patched(SLOT, 41, b"\5")), "can't be"),
    ("another n", mutable(patched(SLOT, 42, b"\3")), "signature|chain"),
    ("segment size 0", mutable(patched(SLOT, 43, bytes(8))), "segment size 0"),
    ("a segment of 2^62 bytes", mutable(patched(SLOT, 43, b"\x40" + bytes(7))), "room|tree|signature"),
    ("data length of 2^64", mutable(patched(SLOT, 51, b"\xff" * 8)), "room|tree"),
    ("end beyond the share", mutable(patched(SLOT, 115, b"\x7f" + bytes(7))), "ends at|before"),
    ("public key", mutable(patched(SLOT, SLOT_LAYOUT.public_key[0] + 60, b"x")), "signature|public key"),
    ("no key", mutable(patched(SLOT, SLOT_LAYOUT.public_key[0], bytes(20))), "public key: unreadable"),
    ("signature", mutable(patched(SLOT, SLOT_LAYOUT.signature[0], b"xx")), "signature"),
    ("chain", mutable(patched(SLOT, SLOT_LAYOUT.share_hash_chain[0] + 2, b"xx")), "share hash chain"),
    ("number in the chain", mutable(patched(SLOT, SLOT_LAYOUT.share_hash_chain[0], b"\0\0")), "share hash chain"),
    ("a salt", mutable(patched(SLOT, SLOT_HEADER.block(3)[0], b"xx")), "block hash tree: leaf 3"),
    ("a block", mutable(patched(SLOT, SLOT_HEADER.block(8)[0] + 16, b"yy")), "block hash tree: leaf 8"),
    ("root of the tree", mutable(patched(SLOT, SLOT_LAYOUT.block_hash_tree[0], b"xx")), "share hash chain"),
    ("node of the tree", mutable(patched(SLOT, SLOT_LAYOUT.block_hash_tree[0] + 32, b"xx")), "block hash tree: a node"),
    ("filler of the tree", mutable(patched(SLOT, SLOT_LAYOUT.eof - 32, b"xx")), "block hash tree: a node"),
]


@pytest.mark.parametrize(
    ("container", "message"), [one[1:] for one in SLOTS_BROKEN], ids=[one[0] for one in SLOTS_BROKEN]
)
def test_a_slot_that_does_not_prove_is_named(container: bytes, message: str) -> None:
    with pytest.raises(CorruptShare, match=message):
        proven_slot(container)


LONG = slots(5, b"x" * 6000, mdmf=True, segment_size=12)[0]
LONG_LAYOUT = Header.parse(LONG, len(LONG)).layout


@pytest.mark.parametrize(
    ("offset", "message"),
    [
        (LONG_LAYOUT.block_hash_tree[0], "share hash chain"),
        (LONG_LAYOUT.share_hash_chain[0] + 2, "share hash chain"),
        (LONG_LAYOUT.block_hash_tree[0] + 40, "block hash tree: a node above"),
        (LONG_LAYOUT.eof - 1, "block hash tree: leaf 511"),
        (LONG_LAYOUT.block_hash_tree[0] - 1, "block hash tree: leaf 499"),
    ],
)
def test_a_tree_that_is_not_in_the_head_of_a_slot_is_proven(offset: int, message: str) -> None:
    proven_slot(mutable(LONG))
    with pytest.raises(CorruptShare, match=message):
        proven_slot(mutable(patched(LONG, offset, bytes([LONG[offset] ^ 1]))))


def test_a_slot_of_which_only_blocks_are_bad_still_tells_its_key() -> None:
    for part in (SLOT_HEADER.block(0)[0], SLOT_LAYOUT.block_hash_tree[0], SLOT_LAYOUT.share_hash_chain[0] + 2):
        container = mutable(patched(SLOT, part, b"xx"))
        with opened(container) as fd:
            assert told_mutable(fd, len(container), SLOT_SI, 0).version == (5, SLOT_HEADER.prefix.root_hash)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_any_flipped_bit_of_a_slot_is_refused_or_where_nobody_looks(data: st.DataObject) -> None:
    mdmf = data.draw(st.booleans())
    share = slots(5, b"x" * 100, mdmf=mdmf, segment_size=12 if mdmf else None)[1]
    layout = Header.parse(share, len(share)).layout
    offset = data.draw(st.integers(0, len(share) - 1))
    start, length = layout.enc_privkey
    container = mutable(patched(share, offset, bytes([share[offset] ^ 1 << data.draw(st.integers(0, 7))])), OURS)
    # the private key is proven by the write cap alone; what lies in the gap is nothing
    if start <= offset < start + length or (mdmf and sum(layout.public_key) <= offset < layout.share_data[0]):
        proven_slot(container, 1)
    elif offset in (range(59, 67) if mdmf else range(91, 107)):  # where the private key begins and ends
        with suppress(CorruptShare):
            proven_slot(container, 1)
    else:
        with pytest.raises(CorruptShare):
            proven_slot(container, 1)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_any_flipped_bit_of_an_immutable_share_is_refused_or_where_nobody_looks(data: st.DataObject) -> None:
    offset = data.draw(st.integers(0, len(SHARE) - 1))
    container = immutable(patched(SHARE, offset, bytes([SHARE[offset] ^ 1 << data.draw(st.integers(0, 7))])), OURS)
    try:
        proven(container)
    except CorruptShare:
        return
    # block size and length of the header, the unused tree, a field of the UEB that no cap is there to compare with
    assert (
        4 <= offset < 12
        or LAYOUT.plaintext_hash_tree <= offset < LAYOUT.crypttext_hash_tree
        or offset >= UEB_AT
        or 0x10 <= offset < 0x14  # where the unused tree begins
    ), offset


# ---- what real Tahoe wrote


@pytest.mark.parametrize("one", TAHOE, ids=lambda one: one["kind"])
def test_containers_of_a_real_tahoe_server_prove(one: dict[str, Any]) -> None:
    si = caps.parse(one["cap"]).storage_index
    assert si is not None
    for shnum, text in one["containers"].items():
        container = base64.b64decode(text)
        with opened(container) as fd:
            prove = prove_mutable if shape(fd, len(container)).mutable else prove_immutable
            prove(fd, len(container), si, int(shnum))


# ---- absurd claims


def bounded(judge: Callable[[], object]) -> None:
    """Quick and without much memory, whatever it answers."""
    tracemalloc.start()
    begin = time.process_time()
    try:
        judge()
    except CorruptShare:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 4_000_000
    assert time.process_time() - begin < 2.0


def test_absurd_sizes_of_a_sparse_file_cost_nothing() -> None:
    """A file that is said to be of a terabyte, most of it never written: its trees would be larger than memory."""
    size = 1 << 40
    sizes = Sizes(1, 1, size >> 7, 1)
    layout = Layout.build(sizes, 2)
    nothing = bytes(HASH_SIZE)
    ueb = Ueb(1, nothing, nothing, nothing).serialise(sizes)
    total = HEADER_SIZE + layout.uri_extension + 8 + len(ueb)
    with tempfile.TemporaryFile() as file:
        fd = file.fileno()
        os.truncate(fd, total)
        os.pwrite(fd, header(0, 0) + layout.serialise(), 0)
        os.pwrite(fd, bytes(2) + nothing, HEADER_SIZE + layout.share_hashes)
        os.pwrite(fd, len(ueb).to_bytes(8, "big") + ueb, HEADER_SIZE + layout.uri_extension)
        well_formed(fd, total, 0)
        bounded(lambda: prove_immutable(fd, total, SI, 0))
        bounded(lambda: shape(fd, total))


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_any_numbers_in_the_headers_are_judged_quickly(data: st.DataObject) -> None:
    immutable_one = data.draw(st.booleans())
    container = bytearray(immutable(SHARE, OURS) if immutable_one else mutable(SLOT, OURS))
    last = HEADER_SIZE + 0x44 if immutable_one else DATA_OFFSET + 123
    for _ in range(data.draw(st.integers(1, 4))):
        offset = data.draw(st.integers(0, last - 8))
        length = data.draw(st.sampled_from([1, 2, 4, 8]))
        number = data.draw(st.sampled_from([0, 1, 0x7F, 0xFF, 1 << 31, (1 << 32) - 1, 1 << 63, (1 << 64) - 1]))
        container[offset : offset + length] = struct.pack(">Q", number)[-length:]
    with opened(bytes(container)) as fd:
        begin = time.process_time()
        for judge in (
            lambda: shape(fd, len(container)),
            lambda: prove_immutable(fd, len(container), SI, 0),
            lambda: prove_mutable(fd, len(container), SLOT_SI, 0),
        ):
            with suppress(CorruptShare):
                judge()
        assert time.process_time() - begin < 1.0


@given(st.integers(0, 40), st.integers(0, 1 << 30))
@settings(max_examples=60, deadline=None)
def test_a_stored_tree_is_that_of_its_leaves_and_no_other(count: int, seed: int) -> None:
    rng = random.Random(seed)
    leaves = [rng.randbytes(32) for _ in range(count)]
    stored = build_serialised(b"".join(leaves))
    spoilt = rng.randrange(len(stored))

    def walk(data: bytes) -> None:
        with opened(b"before" + data) as fd:
            tree = StoredTree(Part(fd, 2, 4 + len(data)), 4, count, "tree")
            assert tree.root == data[:HASH_SIZE]
            for leaf in leaves:
                tree.add(leaf)
            tree.finish()

    walk(stored)
    with pytest.raises(CorruptShare, match="tree"):
        walk(patched(stored, spoilt, bytes([stored[spoilt] ^ 0x10])))


def test_a_large_block_is_hashed_in_pieces() -> None:
    content = b"z" * (5 << 20)
    container = mutable(slots(1, content, k=1, n=1)[0])
    with opened(container) as fd:
        pulses: list[int] = []
        bounded(lambda: prove_mutable(fd, len(container), SLOT_SI, 0, pulse=lambda: pulses.append(1)))
        prove_mutable(fd, len(container), SLOT_SI, 0)
        assert not pulses
    with opened(bytes(DATA_OFFSET) + content) as fd:
        part = Part(fd, DATA_OFFSET, len(content), lambda: pulses.append(1))
        for _ in range(7):
            part.block_hash(0, len(content), "block")
        assert len(pulses) == 2


def test_a_container_that_shrinks_while_it_is_judged_is_corrupt() -> None:
    container = mutable(slots(1, b"z" * 100_000)[0])
    with opened(container) as fd:
        os.truncate(fd, 20_000)
        with pytest.raises(CorruptShare, match="the file ends before"):
            prove_mutable(fd, len(container), SLOT_SI, 0)


def test_versions_not_known_are_incompatible() -> None:
    for container in (patched(immutable(SHARE), 3, b"\7"), immutable(patched(SHARE, 3, b"\7"))):
        with pytest.raises(IncompatibleShare):
            formed(container)
    assert LEASE_SIZE == 72
