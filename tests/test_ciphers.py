"""AES-CTR and RSA keys: spec 01 §5, §6."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given
from hypothesis import strategies as st

from lafscli.errors import CorruptShare, UsageError
from lafscli.primitives import ciphers
from lafscli.primitives.ciphers import AesCtr
from lafscli.primitives.encoding import b32encode
from lafscli.primitives.hashes import fingerprint_from_public_key, writekey_from_private_key

KEY = bytes(range(16))
VECTORS = json.loads((Path(__file__).parent / "vectors" / "tahoe_vectors_dev.json").read_text())["vectors"]
MUTABLE = [vector for vector in VECTORS if vector["kind"] in ("sdmf", "mdmf")]


def test_aes_self_test() -> None:
    """Spec 01 §3."""
    assert AesCtr(KEY).update(bytes(20)).hex() == "c6a13b37878f5b826f4f8162a1c8d87973461395"


@given(st.binary(max_size=100), st.integers(0, 99))
def test_aes_from_any_offset(data: bytes, offset: int) -> None:
    whole = AesCtr(KEY).update(data)
    assert AesCtr(KEY, offset).update(data[offset:]) == whole[offset:]
    assert AesCtr(KEY).update(whole) == data


def test_aes_counter_is_a_number_of_128_bits() -> None:
    """At 2^36 bytes the counter passes 32 bits: it carries into the next byte."""
    start = (1 << 36) - 16
    one = AesCtr(KEY, start).update(bytes(32))
    assert one[16:] == AesCtr(KEY, 1 << 36).update(bytes(16))


@given(st.binary(max_size=100), st.integers(0, 40))
def test_aes_into_a_buffer_also_in_place(data: bytes, offset: int) -> None:
    expected = AesCtr(KEY, offset).update(data)
    for room in (0, 15):
        out = bytearray(len(data) + room)
        assert AesCtr(KEY, offset).update_into(data, memoryview(out)) == len(data)
        assert out[: len(data)] == expected
        out[: len(data)] = data
        view = memoryview(out)
        assert AesCtr(KEY, offset).update_into(view[: len(data)], view) == len(data)
        assert out[: len(data)] == expected


def test_aes_refuses_too_small_a_buffer() -> None:
    with pytest.raises(ValueError, match="buffer"):
        AesCtr(KEY).update_into(bytes(20), bytearray(19))


@functools.cache
def a_key() -> ciphers.PrivateKey:
    return ciphers.make_private_key()


def test_a_new_key_is_what_the_spec_says() -> None:
    key = a_key()
    assert 1214 <= len(key.der) <= 1219
    assert len(key.public.der) == 294
    loaded = ciphers.load_private_key(key.der)
    assert loaded == key
    assert ciphers.load_private_key(key.der, trusted=True).public == key.public
    assert ciphers.load_public_key(key.public.der) == key.public


def test_signatures() -> None:
    key = a_key()
    signature = key.sign(b"data")
    assert len(signature) == 256
    public = ciphers.load_public_key(key.public.der)
    assert public.verify(signature, b"data")
    assert not public.verify(signature, b"date")
    assert not public.verify(signature[:-1] + bytes([signature[-1] ^ 1]), b"data")
    assert not public.verify(signature[:-1], b"data")
    assert not public.verify(b"", b"data")


@pytest.mark.parametrize("salt_length", [0, 20, 222])
def test_signatures_with_other_salt_lengths_are_refused(salt_length: int) -> None:
    private = serialization.load_der_private_key(a_key().der, password=None)
    assert isinstance(private, rsa.RSAPrivateKey)
    signature = private.sign(b"data", padding.PSS(padding.MGF1(SHA256()), salt_length), SHA256())
    assert not a_key().public.verify(signature, b"data")


def test_keys_never_show() -> None:
    key = a_key()
    assert key.der.hex() not in repr(key)
    assert repr(key.der) not in repr(key)


def _der(key: Any) -> bytes:
    encoding, form = serialization.Encoding.DER, serialization.PrivateFormat.PKCS8
    data: bytes = key.private_bytes(encoding, form, serialization.NoEncryption())
    return data


def _pem(key: Any) -> bytes:
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    data: bytes = key.private_bytes(encoding, form, serialization.NoEncryption())
    return data


def _public_der(key: Any) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    data: bytes = key.public_key().public_bytes(serialization.Encoding.DER, form)
    return data


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: rsa.generate_private_key(65537, 1024), "1024 bits"),
        (lambda: rsa.generate_private_key(65537, 2056), "2056 bits"),
        (lambda: rsa.generate_private_key(3, 2048), "exponent"),
        (lambda: ec.generate_private_key(ec.SECP256R1()), "not an RSA key"),
    ],
)
def test_other_keys_are_refused(make: Any, why: str) -> None:
    key = make()
    with pytest.raises(CorruptShare, match=why):
        ciphers.load_private_key(_der(key))
    with pytest.raises(CorruptShare, match=why):
        ciphers.load_private_key(_der(key), trusted=True)
    with pytest.raises(CorruptShare, match=why):
        ciphers.load_public_key(_public_der(key))
    with pytest.raises(UsageError, match=why):
        ciphers.load_private_key_pem(_pem(key))


@pytest.mark.parametrize("data", [b"", b"junk", b"\x30\x03\x02\x01\x00"])
def test_unreadable_keys_are_refused(data: bytes) -> None:
    with pytest.raises(CorruptShare, match="private key"):
        ciphers.load_private_key(data)
    with pytest.raises(CorruptShare, match="public key"):
        ciphers.load_public_key(data)
    with pytest.raises(UsageError, match="private key"):
        ciphers.load_private_key_pem(data)


def test_cut_keys_are_refused() -> None:
    key = a_key()
    for data in (key.der[:-1], key.der + b"\0", key.der[:600]):
        with pytest.raises(CorruptShare, match="private key"):
            ciphers.load_private_key(data)
    for data in (key.public.der[:-1], key.public.der + b"\0"):
        with pytest.raises(CorruptShare, match="public key"):
            ciphers.load_public_key(data)


def test_an_encrypted_pem_is_refused() -> None:
    private = serialization.load_der_private_key(a_key().der, password=None)
    encryption = serialization.BestAvailableEncryption(b"password")
    form = serialization.PrivateFormat.PKCS8
    with pytest.raises(UsageError, match="private key"):
        ciphers.load_private_key_pem(private.private_bytes(serialization.Encoding.PEM, form, encryption))


def test_pem_in_both_forms_gives_the_same_bytes() -> None:
    private = serialization.load_der_private_key(a_key().der, password=None)
    for form in (serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL):
        pem = private.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
        assert ciphers.load_private_key_pem(pem) == a_key()


@pytest.mark.slow
def test_write_caps_of_the_vectors() -> None:
    """Spec 00 §5: from each PEM key the writekey and the fingerprint of the cap."""
    assert len(MUTABLE) == 120
    for vector in MUTABLE:
        key = ciphers.load_private_key_pem(vector["key"].encode())
        writekey = b32encode(writekey_from_private_key(key.der))
        fingerprint = b32encode(fingerprint_from_public_key(key.public.der))
        prefix = {"sdmf": "URI:SSK:", "mdmf": "URI:MDMF:"}[vector["kind"]]
        assert f"{prefix}{writekey}:{fingerprint}" == vector["expected"]
