"""Mutable versions: made to the byte, proven from the cap, grouped; anything else is refused (spec 03)."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lafscli.errors import CorruptShare, IncompatibleShare
from lafscli.formats import caps
from lafscli.formats.caps import MutableReadCap, MutableVerifyCap, MutableWriteCap
from lafscli.formats.mutable_container import DATA_OFFSET
from lafscli.formats.slot import HEAD_SIZE, Prefix
from lafscli.primitives.ciphers import PrivateKey, load_private_key, load_private_key_pem
from lafscli.primitives.encoding import Buffer, b32encode
from lafscli.primitives.hashes import data_key
from lafscli.primitives.hashtree import build
from lafscli.proof.slotkeys import open_private_key, seal_private_key, write_cap
from lafscli.proof.slotmaker import NewVersion, Signing, SlotMaker, encode_segment, encrypt_segment, make_shares
from lafscli.proof.slots import Signatures, SlotShare, decode_segment
from lafscli.proof.versions import Versions

FOLDER = Path(__file__).parent / "vectors"
VECTORS = [
    one for one in json.loads((FOLDER / "tahoe_vectors_dev.json").read_text())["vectors"] if one["kind"] != "chk"
]
EXAMPLE = json.loads((FOLDER / "mutable_example.json").read_text())
EXAMPLES = {version["name"]: version for version in EXAMPLE["versions"]}
CONTAINERS = json.loads((FOLDER / "container_examples.json").read_text())
TAHOE = [one for one in CONTAINERS["objects"] + CONTAINERS["extra"] if one["kind"].startswith(("sdmf", "mdmf"))]
KEY = load_private_key(bytes.fromhex(EXAMPLE["priv_der"]), trusted=True)
CAP = write_cap(KEY, mdmf=False)
READKEY = CAP.read_cap().readkey
VERIFY = CAP.verify_cap()
SALTS = [bytes(range(16 * i, 16 * i + 16)) for i in range(8)]


def key_of(pem: str) -> PrivateKey:
    """The key of a PKCS#1 PEM text, without the check of its numbers, which takes 42 ms."""
    inner = base64.b64decode("".join(pem.splitlines()[1:-1]))
    algorithm = bytes.fromhex("020100300d06092a864886f70d0101010500")
    body = algorithm + b"\x04\x82" + len(inner).to_bytes(2, "big") + inner
    return load_private_key(b"\x30\x82" + len(body).to_bytes(2, "big") + body, trusted=True)


def plaintext(version: dict[str, Any]) -> bytes:
    if version["plaintext_hex"] is not None:
        return bytes.fromhex(version["plaintext_hex"])
    return b"0123456789abcdef" * (version["plaintext_len"] // 16)


def made(
    mdmf: bool,
    content: bytes,
    *,
    k: int = 3,
    n: int = 10,
    seqnum: int = 1,
    salts: Sequence[bytes] = SALTS,
    key: PrivateKey = KEY,
) -> tuple[NewVersion, list[bytes]]:
    """A version under the example's key, with a signature of its own."""
    plan = Prefix.plan(mdmf, k, n, len(content), salt=b"" if mdmf else salts[0])
    used = salts[: plan.num_segments] if mdmf else []
    readkey = write_cap(key, mdmf=mdmf).read_cap().readkey
    version, parts = make_shares(plan, seqnum, Signing.of(key), readkey, content, used)
    return version, [b"".join(part) for part in parts]


def opened(
    share: Buffer, shnum: int, cap: MutableVerifyCap = VERIFY, signatures: Signatures | None = None
) -> SlotShare:
    """As a reader does it: head, then the tree if need be."""
    found = SlotShare(signatures or Signatures(cap), shnum, bytes(share[:HEAD_SIZE]), len(share))
    wanted = found.tree_wanted
    if wanted is not None:
        found.prove_tree(share[wanted[0] : sum(wanted)])
    assert found.tree_wanted is None
    return found


def read(shares: dict[int, bytes], cap: MutableReadCap, offset: int = 0, length: int | None = None) -> bytes:
    """The content, or a range of it, from k shares."""
    readers = {shnum: opened(share, shnum, cap.verify_cap()) for shnum, share in shares.items()}
    assert len({reader.header for reader in readers.values()}) == 1
    prefix = next(iter(readers.values())).prefix
    length = prefix.data_length if length is None else length
    result = b""
    segments = prefix.segments(offset, length)
    for segment in segments:
        blocks = {}
        for shnum, reader in readers.items():
            start, size = reader.block_range(segment)
            blocks[shnum] = shares[shnum][start : start + size]
            reader.check_block(segment, blocks[shnum])
        salt, ciphertext = decode_segment(prefix, segment, blocks)
        result += encrypt_segment(cap.readkey, salt, ciphertext)
    skip = offset - segments.start * prefix.segment_size if segments else 0
    return result[skip : skip + length]


def refused(share: Buffer, shnum: int, reason: str, cap: MutableVerifyCap = VERIFY) -> None:
    with pytest.raises(CorruptShare, match=reason):
        opened(share, shnum, cap)


# ---- keys ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sdmf", "mdmf"])
def test_caps_of_all_vectors(kind: str) -> None:
    """Those of Tahoe's published vectors: the key alone makes the cap."""
    vectors = [one for one in VECTORS if one["kind"] == kind]
    assert len(vectors) > 20
    for i, vector in enumerate(vectors):
        key = key_of(vector["key"])
        cap = write_cap(key, mdmf=kind == "mdmf")
        assert str(cap) == vector["expected"]
        if i % 10 == 0:
            assert load_private_key_pem(vector["key"].encode()).der == key.der


def test_keys_of_the_worked_example() -> None:
    assert load_private_key_pem(EXAMPLE["key_pem"].encode()).der == KEY.der
    assert KEY.public.der.hex() == EXAMPLE["pub_der"]
    assert CAP.writekey.hex() == EXAMPLE["writekey"]
    assert READKEY.hex() == EXAMPLE["readkey"]
    assert b32encode(CAP.storage_index) == EXAMPLE["storage_index"]
    assert CAP.fingerprint.hex() == EXAMPLE["fingerprint"]
    for version in EXAMPLES.values():
        cap = write_cap(KEY, mdmf=version["version"] == 1)
        assert str(cap) == version["cap"]
        assert str(cap.read_cap()) == version["readcap"]
    assert data_key(SALTS[0], READKEY).hex() == "d98f153c7440b23ab0223938f481a16e"


def test_the_private_key_comes_back_from_a_share() -> None:
    sealed = seal_private_key(KEY)
    assert open_private_key(CAP, sealed) == KEY
    for bad in (sealed[:-1], b"", sealed[:500] + bytes([sealed[500] ^ 1]) + sealed[501:], sealed + b"x"):
        with pytest.raises(CorruptShare, match="not that of the write cap"):
            open_private_key(CAP, bad)
    with pytest.raises(CorruptShare, match="public key"):
        open_private_key(replace(CAP, fingerprint=bytes(32)), sealed)


# ---- the worked examples -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", EXAMPLES.values(), ids=EXAMPLES)
def test_shares_of_the_worked_example_are_made_to_the_byte(version: dict[str, Any]) -> None:
    """Spec 03 §11: fixed key and salts, and the signature that is given."""
    mdmf = version["version"] == 1
    signed: list[bytes] = []

    def sign(prefix: bytes) -> bytes:
        signed.append(prefix)
        return bytes.fromhex(version["signature"])

    content = plaintext(version)
    salts = [bytes.fromhex(salt) for salt in version["salts"]]
    plan = Prefix.plan(mdmf, version["k"], version["n"], len(content), salt=b"" if mdmf else salts[0])
    signing = Signing(KEY.public.der, seal_private_key(KEY), sign)
    new, parts = make_shares(plan, 1, signing, READKEY, content, salts if mdmf else [])
    assert [prefix.hex() for prefix in signed] == [version["signed_prefix"]]
    shares = [b"".join(part) for part in parts]
    assert [sha256(share).hexdigest() for share in shares] == version["share_sha256"]
    assert {len(share) for share in shares} == {new.share_size} == {version["share_len"]}
    if version.get("share0_hex"):
        assert shares[0].hex() == version["share0_hex"]
    for numbers in ((0, 1, 2), (7, 8, 9), (2, 9, 4)):
        assert read({shnum: shares[shnum] for shnum in numbers}, CAP.read_cap()) == content
    for shnum, share in enumerate(shares):
        reader = opened(share, shnum)
        assert reader.header == new.header
        offset, length = reader.enc_privkey_range
        assert open_private_key(CAP, share[offset : offset + length]) == KEY


def test_numbers_of_the_worked_example() -> None:
    ciphertext = encrypt_segment(READKEY, SALTS[0], b"hello mutable world")
    assert ciphertext.hex() == "6cce84333db56bddd939f736c4ac1f7812ae9c"
    segment = encode_segment(Prefix.plan(False, 3, 10, 19, salt=SALTS[0]), SALTS[0], ciphertext)
    assert (bytes(segment.blocks[0]).hex(), bytes(segment.blocks[3]).hex()) == ("6cce84333db56b", "bae5563484837a")
    assert segment.leaves[0].hex() == "9103ab7d33acd55fa7e9566bdba325c8f16bd8e604b2106588a151c76b94a256"
    segment = encode_segment(Prefix.plan(True, 3, 10, 19), SALTS[0], ciphertext)
    assert segment.leaves[0].hex() == "1bf2fd3bc3156ea1b844eafecffad5344dacf4a7ae9057582a6fcec69cf1cc81"


def content_of(example: dict[str, Any]) -> bytes:
    """Spec 00 §5."""
    if "content_hex" in example:
        return bytes.fromhex(example["content_hex"])
    count = example["length"] // 32 + 1
    return b"".join(sha256(b"%d-%d" % (example["seed"], i)).digest() for i in range(count))[: example["length"]]


@pytest.mark.parametrize("example", TAHOE, ids=lambda example: f"{example['kind']}-{example.get('length')}")
def test_shares_made_by_tahoe_are_read_and_made_again(example: dict[str, Any]) -> None:
    """Also those that shrank, whose containers hold more than the share."""
    cap = caps.parse(example["cap"])
    assert isinstance(cap, MutableWriteCap)
    shares = {int(shnum): base64.b64decode(text)[DATA_OFFSET:-4] for shnum, text in example["containers"].items()}
    readers = {shnum: opened(share, shnum, cap.verify_cap()) for shnum, share in shares.items()}
    versions = Versions.of((f"server {shnum}", reader) for shnum, reader in readers.items())
    assert versions.best is not None
    prefix = versions.best.prefix
    assert (prefix.k, prefix.n, prefix.seqnum) == (3, 10, example.get("seqnum", 1))
    content = content_of(example)
    assert read(dict(list(shares.items())[:3]), cap.read_cap()) == content
    if "share_eof" in example:
        assert versions.best.layout.eof == example["share_eof"] < len(shares[0])
    # the whole version again, without signing
    reader = readers[4]
    offset, length = reader.enc_privkey_range
    enc_privkey = shares[4][offset : offset + length]
    key = open_private_key(cap, enc_privkey)
    salts = []
    for segment in range(prefix.num_segments if prefix.mdmf else 0):
        start, _ = reader.block_range(segment)
        salts.append(shares[4][start : start + 16])
    new, parts = make_shares(
        prefix, prefix.seqnum, Signing.again(reader, enc_privkey), cap.read_cap().readkey, content, salts
    )
    assert new.header == versions.best
    assert seal_private_key(key) == enc_privkey
    for shnum, share in shares.items():
        again = b"".join(parts[shnum])
        gap = slice(sum(reader.header.layout.public_key), 2167) if prefix.mdmf else slice(0, 0)
        assert again[: gap.start] + share[gap] + again[gap.stop :] == share[: new.share_size]


def test_a_version_made_again_from_something_else_is_not_signed() -> None:
    version, shares = made(False, b"content")
    signing = Signing.again(opened(shares[0], 0), version.signing.enc_privkey)
    with pytest.raises(CorruptShare, match="not those of the version"):
        make_shares(version.header.prefix, 1, signing, READKEY, b"contents"[:7][::-1], [])
    with pytest.raises(CorruptShare, match="not those of the version"):
        make_shares(version.header.prefix, 2, signing, READKEY, b"content", [])


# ---- what we make is proven ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mdmf", [False, True])
@pytest.mark.parametrize(
    ("k", "n", "size"),
    [(1, 1, 0), (1, 1, 5), (1, 2, 131072), (1, 10, 200_000), (2, 2, 3), (3, 4, 400_000), (5, 6, 1), (3, 10, 131073),
     (3, 10, 131074), (7, 255, 5000), (101, 255, 140_000), (255, 255, 300)],
)  # fmt: skip
def test_any_k_shares_give_the_content(mdmf: bool, k: int, n: int, size: int) -> None:
    content = random.Random(size).randbytes(size)
    version, shares = made(mdmf, content, k=k, n=n)
    assert read({shnum: shares[shnum] for shnum in range(n - k, n)}, CAP.read_cap()) == content
    assert read({shnum: shares[shnum] for shnum in random.Random(k).sample(range(n), k)}, CAP.read_cap()) == content
    assert all(len(share) == version.share_size for share in shares)


@pytest.mark.parametrize("mdmf", [False, True])
def test_ranges_touch_only_the_segments_needed(mdmf: bool) -> None:
    """All else of the blocks may be broken: MDMF never looks there."""
    content = random.Random(5).randbytes(3 * 131073 + 1000)
    version, shares = made(mdmf, content)
    some = {shnum: shares[shnum] for shnum in (1, 5, 8)}
    for offset, length in ((0, 1), (131072, 2), (131073, 131073), (3 * 131073, 5000), (5, 10**6), (10**6, 1)):
        assert read(some, CAP.read_cap(), offset, length) == content[offset : offset + length]
    if mdmf:
        spoiled = {}
        for shnum, share in some.items():
            [(start, _), (end, _)] = [version.header.block(segment) for segment in (1, 2)]
            spoiled[shnum] = (
                share[: version.header.block(0)[0]] + bytes(start - version.header.block(0)[0]) + share[start:end]
            )
            spoiled[shnum] += (
                bytes(version.header.layout.block_hash_tree[0] - end)
                + share[version.header.layout.block_hash_tree[0] :]
            )
        assert read(spoiled, CAP.read_cap(), 131073, 131073) == content[131073 : 2 * 131073]
        with pytest.raises(CorruptShare, match="block 0: wrong hash"):
            read(spoiled, CAP.read_cap(), 131072, 2)


def test_segment_by_segment_is_the_same_as_at_once() -> None:
    """The front is as long as was known beforehand, so that blocks can be written before it."""
    content = random.Random(6).randbytes(300_000)
    plan = Prefix.plan(True, 3, 10, len(content))
    maker = SlotMaker(plan, Signing.of(KEY))
    rows: list[list[Buffer]] = [[] for _ in range(10)]
    for number in range(plan.num_segments):
        piece = content[number * plan.segment_size :][: plan.segment_size]
        segment = encode_segment(plan, SALTS[number], encrypt_segment(READKEY, SALTS[number], piece))
        maker.add(segment)
        for row, block in zip(rows, segment.blocks, strict=True):
            row.append(block)
    version = maker.finish(7)
    shares = [b"".join([version.front(shnum), *row, version.back(shnum)]) for shnum, row in enumerate(rows)]
    assert {len(version.front(shnum)) for shnum in range(10)} == {maker.front_size} == {2167}
    assert read({shnum: shares[shnum] for shnum in (0, 4, 9)}, CAP.read_cap()) == content
    assert version.header.prefix.seqnum == 7
    # the same but for number and signature
    _, others = made(True, content)
    assert [share[2167:] for share in shares] == [share[2167:] for share in others]


def test_a_large_share_is_proven_from_head_and_tree() -> None:
    _, shares = made(True, bytes(300_000))
    share = SlotShare(Signatures(VERIFY), 3, shares[3][:HEAD_SIZE], len(shares[3]))
    wanted = share.tree_wanted
    assert wanted is not None
    assert wanted[0] + wanted[1] == len(shares[3])
    assert share.held(wanted) is None
    assert share.held((0, 10)) == shares[3][:10]
    assert share.held((HEAD_SIZE, 1)) is None


# ---- refused -------------------------------------------------------------------------------------------------------


def flipped(share: bytes, position: int) -> bytes:
    return share[:position] + bytes([share[position] ^ 1]) + share[position + 1 :]


@pytest.mark.parametrize("mdmf", [False, True])
def test_every_flipped_byte_is_noticed(mdmf: bool) -> None:
    """But in the gap of MDMF, which says nothing, and in the private key, which only the write cap proves."""
    version, shares = made(mdmf, b"hello mutable world")
    share = shares[4]
    layout = version.header.layout
    offset, length = layout.enc_privkey
    gap = range(sum(layout.public_key), 2167) if mdmf else range(0)
    signatures = Signatures(VERIFY)
    accepted = opened(share, 4, signatures=signatures)
    for position in range(len(share)):
        bad = flipped(share, position)
        try:
            reader = opened(bad, 4, signatures=signatures)
        except CorruptShare:
            continue
        start, size = reader.block_range(0)
        if reader.header != accepted.header:
            # another offset table is another version, which nothing else is of
            assert 59 <= position < 123
        elif start <= position < start + size:
            with pytest.raises(CorruptShare, match="block 0: wrong hash"):
                reader.check_block(0, bad[start : start + size])
        elif offset <= position < offset + length:
            with pytest.raises(CorruptShare, match="encrypted private key"):
                open_private_key(CAP, bad[offset : offset + length])
        else:
            assert position in gap


def test_each_part_is_named() -> None:
    version, shares = made(False, b"hello mutable world")
    layout, share = version.header.layout, shares[4]
    for wanted, reason in (
        (layout.public_key, "public key: its fingerprint"),
        (layout.signature, "signature"),
        (layout.share_hash_chain, "share hash chain"),
        (layout.block_hash_tree, "share hash chain"),
    ):
        refused(flipped(share, wanted[0] + 1), 4, reason)
    for position in (1, 9, 41):  # seqnum, root hash, salt
        refused(flipped(share, position), 4, "signature")
    _, shares = made(True, bytes(300_000))
    refused(shares[4][:-1] + b"?", 4, "block hash tree: a node does not fit")


def test_a_signature_is_checked_beside_a_good_one_of_the_same_prefix() -> None:
    """Spec 09 §2: Tahoe does not notice."""
    version, shares = made(False, b"x")
    signatures = Signatures(VERIFY)
    opened(shares[0], 0, signatures=signatures)
    for wanted in (version.header.layout.signature, version.header.layout.public_key):
        with pytest.raises(CorruptShare):
            opened(flipped(shares[1], wanted[0] + 100), 1, signatures=signatures)
    opened(shares[1], 1, signatures=signatures)


def test_a_share_of_another_file_is_refused() -> None:
    other = key_of(VECTORS[-1]["key"])
    assert other.der != KEY.der
    _, shares = made(False, b"x", key=other)
    refused(shares[0], 0, "public key: its fingerprint")
    # signed by another key, but with the right one beside it
    _, shares = made(False, b"x")
    signing = Signing(KEY.public.der, seal_private_key(KEY), other.sign)
    plan = Prefix.plan(False, 3, 10, 1, salt=SALTS[0])
    _, parts = make_shares(plan, 1, signing, READKEY, b"x", [])
    refused(b"".join(parts[0]), 0, "signature")


def test_a_share_under_another_number_is_refused() -> None:
    for k, n in ((3, 10), (2, 3), (1, 2)):
        _, shares = made(False, bytes(range(100)), k=k, n=n)
        refused(shares[0], 1, "share hash chain")
        refused(shares[0], n, f"share number {n} of {n}")
        refused(shares[0], -1, "share number -1")


@pytest.mark.parametrize("mdmf", [False, True])
def test_a_cut_share_is_refused(mdmf: bool) -> None:
    _, shares = made(mdmf, b"hello mutable world")
    for length in range(0, len(shares[0]), 7):
        refused(shares[0][:length], 0, ".")
    # a server that says that there is more than it gives
    for length in range(130, 790, 60):
        with pytest.raises(CorruptShare, match="the share ends before"):
            SlotShare(Signatures(VERIFY), 0, shares[0][:length], len(shares[0]))


def test_an_unknown_version_is_incompatible() -> None:
    _, shares = made(False, b"x")
    with pytest.raises(IncompatibleShare, match="version 2"):
        opened(b"\2" + shares[0][1:], 0)


def test_blocks_of_a_wrong_length_are_refused() -> None:
    _, shares = made(True, bytes(300_000))
    reader = opened(shares[0], 0)
    offset, length = reader.block_range(2)
    reader.check_block(2, shares[0][offset : offset + length])
    for wrong in (shares[0][offset : offset + length - 1], shares[0][offset : offset + length + 1], b""):
        with pytest.raises(CorruptShare, match="block 2: wrong length"):
            reader.check_block(2, wrong)


def test_shares_of_a_version_must_have_the_same_salts() -> None:
    """A writer could sign such a version: it must not come out as some other content."""
    plan = Prefix.plan(True, 2, 2, 5)
    blocks = [encode_segment(plan, salt, b"abcde").blocks[i] for i, salt in enumerate(SALTS[:2])]
    with pytest.raises(CorruptShare, match="different salts"):
        decode_segment(plan, 0, dict(enumerate(blocks)))


@pytest.mark.parametrize("nodes", [[], [1], [1, 6], [1, 6, 12, 24], [0, 1, 6, 12, 23, 24], [1, 6, 12, 23, 3]])
def test_chains_that_do_not_lead_to_the_root(nodes: list[int]) -> None:
    """Of the right length or not; a chain with the leaf, and with the root, is fine if it is true."""
    version, shares = made(False, b"hello mutable world")
    tree = build([block_tree[:32] for block_tree in version.block_trees])
    layout = version.header.layout
    chain = b"".join(number.to_bytes(2, "big") + tree[number] for number in nodes)
    moved = [layout.offsets[0], layout.offsets[1], *(offset + len(chain) - 136 for offset in layout.offsets[2:])]
    header = replace(version.header, layout=replace(layout, offsets=tuple(moved)))
    start = layout.share_hash_chain[0]
    share = header.serialise() + shares[9][107:start] + chain + shares[9][start + 136 :]
    if nodes == [0, 1, 6, 12, 23, 24]:
        assert opened(share, 9).header == header
    else:
        refused(share, 9, "share hash chain")


# ---- versions ------------------------------------------------------------------------------------------------------


def versions(*held: tuple[list[bytes], Sequence[int]]) -> Versions:
    return Versions.of(
        (f"server {shnum}", opened(shares[shnum], shnum)) for shares, numbers in held for shnum in numbers
    )


def test_versions_are_grouped() -> None:
    one, first = made(False, b"one", seqnum=1)
    two, second = made(False, b"two", seqnum=2)
    three, third = made(True, b"three", seqnum=3)
    found = versions((first, range(5)), (second, [5, 6, 7]), (third, [8, 9]))
    assert found.recoverable == [two.header, one.header]
    assert found.unrecoverable == found.newer_unrecoverable == [three.header]
    assert found.best == two.header
    assert found.highest_seqnum == 3
    assert not found.needs_merge
    assert found.holders[three.header] == {8: ("server 8",), 9: ("server 9",)}


def test_distinct_numbers_are_counted() -> None:
    one, shares = made(False, b"one")
    reader = opened(shares[0], 0)
    found = Versions.of([(i, reader) for i in range(5)])
    assert found.recoverable == []
    assert found.best is None
    assert found.newer_unrecoverable == [one.header]
    assert found.holders[one.header] == {0: (0, 1, 2, 3, 4)}


def test_two_versions_of_one_number_need_a_merge() -> None:
    one, first = made(False, b"one", seqnum=4)
    two, second = made(False, b"two", seqnum=4)
    best = max(one.header, two.header, key=lambda header: header.prefix.root_hash)
    assert versions((first, range(3)), (second, range(5, 8))).needs_merge
    assert versions((first, range(3)), (second, range(5, 8))).best == best
    assert not versions((first, range(3)), (second, range(5, 7))).needs_merge
    # an older unrecoverable one is no obstacle
    assert versions((first, range(3)), (second, range(5, 7))).newer_unrecoverable == []


def test_other_offsets_are_another_version_but_no_merge() -> None:
    version, shares = made(False, b"one", k=1)
    moved = replace(version.header.layout, offsets=(*version.header.layout.offsets[:-1], version.share_size + 1))
    header = replace(version.header, layout=moved)
    odd = opened(header.serialise() + shares[0][107:] + b"?", 0)
    found = Versions.of([("a", odd), ("b", opened(shares[1], 1))])
    assert len(found.recoverable) == 2
    assert not found.needs_merge


def test_nothing_is_found() -> None:
    found = Versions.of([])
    assert (found.best, found.highest_seqnum, found.needs_merge, found.newer_unrecoverable) == (None, 0, False, [])


# ---- anything ------------------------------------------------------------------------------------------------------

MADE = {mdmf: made(mdmf, random.Random(1).randbytes(1000)) for mdmf in (False, True)}
CHANGES = st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 3), st.binary(max_size=3)), min_size=1, max_size=4)


def check_mutated(mdmf: bool, changes: list[tuple[int, int, bytes]]) -> None:
    """Whatever a server makes of a share: it is refused, or what it gives is right."""
    version, shares = MADE[mdmf]
    changed = bytearray(shares[2])
    for position, length, replacement in changes:
        start = position % len(changed)
        changed[start : start + length] = replacement
    try:
        reader = opened(bytes(changed), 2)
        assert reader.prefix == version.header.prefix
        start, size = reader.block_range(0)
        reader.check_block(0, changed[start : start + size])
    except CorruptShare:
        return
    offset, length = version.header.block(0)
    assert changed[start : start + size] == shares[2][offset : offset + length]


@given(st.booleans(), CHANGES)
@settings(max_examples=150, deadline=None)
def test_mutated_shares_are_right_or_refused(mdmf: bool, changes: list[tuple[int, int, bytes]]) -> None:
    check_mutated(mdmf, changes)


@pytest.mark.slow
@given(st.booleans(), CHANGES)
@settings(max_examples=8_000, deadline=None)
def test_many_mutated_shares_are_right_or_refused(mdmf: bool, changes: list[tuple[int, int, bytes]]) -> None:
    check_mutated(mdmf, changes)


@pytest.mark.slow
@given(st.booleans(), st.integers(1, 255), st.integers(1, 255), st.integers(0, 400_000), st.randoms())
@settings(max_examples=300, deadline=None)
def test_any_version_is_read(mdmf: bool, k: int, n: int, size: int, chance: random.Random) -> None:
    k, n = min(k, n), max(k, n)
    content = chance.randbytes(size)
    _, shares = made(mdmf, content, k=k, n=n)
    some = {shnum: shares[shnum] for shnum in chance.sample(range(n), k)}
    offset, length = chance.randrange(size + 1), chance.randrange(size + 1)
    assert read(some, CAP.read_cap(), offset, length) == content[offset : offset + length]
