"""Base32, netstrings, the reader and the tagged hashes against spec 01."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lafscli.errors import CorruptShare
from lafscli.primitives import hashes
from lafscli.primitives.encoding import Reader, b32decode, b32encode, netstring

ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
LAST = {2: "aeimquy4", 4: "aq", 5: "acegikmoqsuwy246", 7: "aiqy"}


@pytest.mark.parametrize(
    ("data", "text"),
    [(b"", ""), (b"\0", "aa"), (b"hello", "nbswy3dp"), (bytes(range(16)), "aaaqeayeaudaocajbifqydiob4")],
)
def test_base32_examples(data: bytes, text: str) -> None:
    assert b32encode(data) == text
    assert b32decode(text) == data


@given(st.binary(max_size=70))
def test_base32_inverts(data: bytes) -> None:
    text = b32encode(memoryview(data))
    assert b32decode(text) == data
    assert len(text) == -(-8 * len(data) // 5)


@pytest.mark.parametrize("length", [2, 4, 5, 7, 10, 26, 52])
def test_base32_takes_only_the_last_characters_without_filler_bits(length: int) -> None:
    for last in ALPHABET:
        text = "b" * (length - 1) + last
        if last in LAST.get(length % 8, ALPHABET):
            assert b32encode(b32decode(text)) == text
        else:
            with pytest.raises(ValueError, match="canonical"):
                b32decode(text)


@pytest.mark.parametrize("length", [1, 3, 6, 9, 11, 14, 27])
def test_base32_refuses_impossible_lengths(length: int) -> None:
    with pytest.raises(ValueError, match="base32"):
        b32decode("a" * length)


@pytest.mark.parametrize(
    "text", ["AA", "Aa", "a0", "a1aa", "a8", "a9", "aa======", "a=", "a a", " aa", "aa\n", "äa", "\u0131a"]
)
def test_base32_refuses_other_characters_without_showing_them(text: str) -> None:
    with pytest.raises(ValueError, match="base32") as caught:
        b32decode(text)
    assert text not in str(caught.value)


def test_netstring_examples() -> None:
    assert netstring(b"hi") == b"2:hi,"
    assert netstring(b"") == b"0:,"


@given(st.lists(st.binary(max_size=30), max_size=6))
def test_reader_takes_netstrings_back(values: list[bytes]) -> None:
    reader = Reader(b"".join(netstring(value) for value in values))
    assert [reader.netstring() for _ in values] == values
    reader.end()


@pytest.mark.parametrize(
    "data",
    [b"", b"2", b"2:", b"2:h", b"2:hi", b"2:hi;", b"02:hi,", b"+2:hi,", b" 2:hi,", b"-1:,", b":,", b"99999999999:"],
)
def test_reader_refuses_broken_netstrings(data: bytes) -> None:
    with pytest.raises(CorruptShare, match="thing: name"):
        Reader(data, "thing").netstring("name")


def test_reader_looks_for_a_mark_only_so_far() -> None:
    reader = Reader(b"abc:de", "thing")
    with pytest.raises(CorruptShare, match="thing: name does not end"):
        reader.until(b":", 2, "name")
    assert reader.until(b":", 3, "name") == b"abc"
    with pytest.raises(CorruptShare, match="thing: name does not end"):
        reader.until(b":", 9, "name")
    assert reader.take(2) == b"de"


def test_reader_numbers_are_big_endian_and_must_be_there() -> None:
    reader = Reader(memoryview(bytes(range(1, 16))), "thing")
    assert (reader.u8(), reader.u16(), reader.u32(), reader.u64()) == (1, 0x0203, 0x04050607, 0x08090A0B0C0D0E0F)
    reader.end()
    for take in (reader.u8, reader.u16, reader.u32, reader.u64):
        with pytest.raises(CorruptShare, match="thing: size"):
            take("size")


def test_reader_refuses_what_is_left_over() -> None:
    reader = Reader(b"abc", "thing")
    reader.u8()
    assert reader.remaining() == 2
    with pytest.raises(CorruptShare, match="thing: 2 bytes"):
        reader.end()


def test_hash_self_tests() -> None:
    """Spec 01 §3."""
    assert (
        hashes.tagged_hash(b"tag", b"val").hex() == "3d144894c774733d31aa0545f2ce69c6cd347c22e621f1ebc6099d4275730c88"
    )
    assert (
        hashes.tagged_pair_hash(b"tag", b"a", b"bc").hex()
        == "92b1124db2ae3b8a037cda7413fbd25ee637a8dbf960b49bacc9e328a3e12e6c"
    )
    assert hashes.merkle_filler(0).hex() == "e0024730188e2de564a697cc2987407b24ae7eb6b880190c1a0337a5740e527a"
    assert hashes.merkle_filler(3).hex() == "9ed59076b6bee6b75864630c3c20cff6934efe03a60a7fd28b69542fb13a68a3"


def test_lease_secrets() -> None:
    """Spec 01 §3."""
    client, si, node_id = bytes(32), b"\x11" * 16, b"\x22" * 20
    assert (
        hashes.tagged_hash(client, b"allmydata_client_renewal_secret_v1").hex()
        == "143de415af94909740971c3f527f4644b8bc937e0e11e625a9880a6dfe79cff2"
    )
    assert (
        hashes.lease_renew_secret(client, si, node_id).hex()
        == "c42e61ac7163949ce1b8ca62450b888e97bb6a1d7bf9d6efd202fa9138dfb1bc"
    )
    assert (
        hashes.lease_cancel_secret(client, si, node_id).hex()
        == "89814c3a7cd5c5aa31aa65d86cc1dd83f7ec3108829cd6bc2bd4a730981bbd8e"
    )
    assert (
        hashes.write_enabler(b"\x33" * 16, node_id).hex()
        == "7004c385fbab959d2f8af0ac59de6df0a11b72f1053b490bd40fe69cd6ad9456"
    )


def test_every_tag_gives_the_tagged_hash_of_the_table() -> None:
    """Spec 01 §3.1, where no vector covers the tag; data key and child key put the salt first."""
    h, hp = hashes.tagged_hash, hashes.tagged_pair_hash
    x, y = b"x" * 16, b"y" * 16
    assert hashes.sha256d(b"3:tag,val") == h(b"tag", b"val")
    assert hashes.block_hash(memoryview(x)) == h(b"allmydata_encoded_subshare_v1", x)
    assert hashes.uri_extension_hash(x) == h(b"allmydata_uri_extension_v1", x)
    assert hashes.crypttext_segment_hash(x) == h(b"allmydata_crypttext_segment_v1", x)
    assert hashes.storage_index_from_key(x) == h(b"allmydata_immutable_key_to_storage_index_v1", x)[:16]
    assert hashes.merkle_node(x + x, y + y) == hp(b"Merkle tree internal node", x + x, y + y)
    assert hashes.writekey_from_private_key(x) == h(b"allmydata_mutable_privkey_to_writekey_v1", x)[:16]
    assert hashes.fingerprint_from_public_key(x) == h(b"allmydata_mutable_pubkey_to_fingerprint_v1", x)
    assert hashes.readkey_from_writekey(x) == h(b"allmydata_mutable_writekey_to_readkey_v1", x)[:16]
    assert hashes.storage_index_from_readkey(x) == h(b"allmydata_mutable_readkey_to_storage_index_v1", x)[:16]
    assert hashes.data_key(x, y) == hp(b"allmydata_mutable_readkey_to_datakey_v1", x, y)[:16]
    assert hashes.child_cap_salt(x) == h(b"allmydata_dirnode_child_rwcap_to_salt_v1", x)[:16]
    capkey = b"allmydata_mutable_writekey_and_salt_to_dirnode_child_capkey_v1"
    assert hashes.child_cap_key(x, y) == hp(capkey, x, y)[:16]
    assert hashes.backup_dirhash(x) == h(b"allmydata_backupdb_dirhash_v1", x)
    assert hashes.mutable_container_mark(b"Tahoe mutable container v2\n").hex() == "c355219925"


def test_attenuation_of_a_mutable_write_key() -> None:
    """Spec 00 §4.1."""
    readkey = hashes.readkey_from_writekey(b32decode("fs6ul2fju2fvb2cfx7gt6ngycm"))
    assert b32encode(readkey) == "65ruo2zytr3uxnaxkptdoqkth4"
    assert b32encode(hashes.storage_index_from_readkey(readkey)) == "axxzm642zi4vozwfjdijoafbrm"


@given(st.lists(st.binary(max_size=40), max_size=5))
def test_hashers_take_data_in_any_pieces_and_are_not_shared(pieces: list[bytes]) -> None:
    hasher = hashes.crypttext_hasher()
    for piece in pieces:
        hasher.update(piece)
    copy = hasher.copy()
    copy.update(b"more")
    assert hasher.digest() == hashes.tagged_hash(b"allmydata_crypttext_v1", b"".join(pieces))
    assert copy.digest() == hashes.tagged_hash(b"allmydata_crypttext_v1", b"".join(pieces) + b"more")


def test_convergence_key_of_the_worked_example() -> None:
    """Spec 02 §8."""
    hasher = hashes.convergence_hasher(b"a" * 16, 3, 10, 57)
    hasher.update(b"a" * 56)
    key = hasher.digest()[:16]
    assert key.hex() == "380ff65ec57c08c67d0219f67b481d28"
    assert hashes.storage_index_from_key(key).hex() == "eb2d4cf71744a1169e7192d32fd9580f"
