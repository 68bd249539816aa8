"""AES-128-CTR from any offset, and RSA-2048 keys (spec 01 §5, §6); a box that a passphrase opens. The one door to
`cryptography` and `nacl`.

The libraries are imported where they are used first: they cost 25 ms at start-up that most commands never need.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lafscli.errors import CorruptShare, UsageError
from lafscli.primitives.encoding import Buffer

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.padding import PSS
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

_KEY_BITS = 2048
_EXPONENT = 65537
_SALT_LENGTH = 32
_COUNTER_LIMIT = 1 << 128

BOX_SALT = 16
BOX_NONCE = 24
BOX_OVERHEAD = 16
"""Bytes by which a sealed text is longer."""


class AesCtr:
    """AES-128 in CTR mode, counter starting at zero, from byte `offset` of the stream; encrypts and decrypts.

    Each key is used for one message only: that is what makes the zero counter safe.
    """

    def __init__(self, key: bytes, offset: int = 0) -> None:
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

        assert len(key) == 16, "AES-128 wants 16 bytes of key"
        counter = (offset // 16) % _COUNTER_LIMIT
        self._stream = Cipher(algorithms.AES(key), modes.CTR(counter.to_bytes(16, "big"))).encryptor()
        if offset % 16:
            self._stream.update(bytes(offset % 16))

    def update(self, data: Buffer) -> bytes:
        return self._stream.update(data)

    def update_into(self, data: Buffer, out: bytearray | memoryview) -> int:
        """Write the result to the front of `out`, which may be `data` itself; how many bytes that were.

        15 bytes more room than data spare a copy with releases of `cryptography` that insist on it.
        """
        try:
            return self._stream.update_into(data, out)
        except ValueError:
            if len(out) < len(data):
                raise
            out[: len(data)] = self._stream.update(data)
            return len(data)


def stretch(passphrase: bytes, salt: bytes, *, passes: int, kibibytes: int) -> bytes:
    """A key of 32 bytes from a passphrase: Argon2id 1.3, one lane. MemoryError where there is not enough of it."""
    from nacl.exceptions import CryptoError
    from nacl.pwhash import argon2id

    try:
        return argon2id.kdf(32, passphrase, salt, opslimit=passes, memlimit=kibibytes * 1024)
    except CryptoError as error:  # the library has one reason to fail with parameters that are good
        raise MemoryError from error


def seal(key: bytes, nonce: bytes, text: bytes) -> bytes:
    """Encrypt and authenticate (XSalsa20-Poly1305); a nonce is used once with a key."""
    from nacl.secret import SecretBox

    return SecretBox(key).encrypt(text, nonce).ciphertext


def unseal(key: bytes, nonce: bytes, box: bytes) -> bytes | None:
    """What `seal` was given; None where the key or a byte is another."""
    from nacl.exceptions import CryptoError
    from nacl.secret import SecretBox

    try:
        return SecretBox(key).decrypt(box, nonce)
    except CryptoError:
        return None


@dataclass(frozen=True, slots=True)
class PublicKey:
    """An RSA public key; `der` is its X.509 SubjectPublicKeyInfo."""

    der: bytes
    _key: RSAPublicKey = field(repr=False, compare=False)

    def verify(self, signature: bytes, data: bytes) -> bool:
        """Whether this key signed `data`: RSASSA-PSS, SHA-256, salt of exactly 32 bytes."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.hashes import SHA256

        try:
            self._key.verify(signature, data, _pss(), SHA256())
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """An RSA private key; `der` are the PKCS#8 bytes it came as, which the write key is a hash of."""

    der: bytes = field(repr=False)
    public: PublicKey
    _key: RSAPrivateKey = field(repr=False, compare=False)

    def sign(self, data: bytes) -> bytes:
        """256 bytes, different each time (the salt is random)."""
        from cryptography.hazmat.primitives.hashes import SHA256

        return self._key.sign(data, _pss(), SHA256())


def make_private_key() -> PrivateKey:
    """A new key of 2048 bits; takes a good part of a second."""
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=_EXPONENT, key_size=_KEY_BITS)
    return PrivateKey(_pkcs8(key), _public(key.public_key()), key)


def load_private_key(der: bytes, *, trusted: bool = False) -> PrivateKey:
    """The key of these PKCS#8 bytes, which are kept as they are; CorruptShare if there is none or of the wrong sort.

    `trusted` skips the library's check of the numbers (42 ms): only for bytes whose write key equals the cap's.
    """
    from cryptography.hazmat.primitives.serialization import load_der_private_key

    try:
        key = load_der_private_key(der, password=None, unsafe_skip_rsa_key_validation=trusted)
    except Exception as error:  # the library has no one error for what is wrong with a key
        raise CorruptShare("private key: unreadable") from error
    return PrivateKey(der, *_accepted(key))


def load_private_key_pem(text: bytes) -> PrivateKey:
    """The key of a user's PEM file, PKCS#1 or PKCS#8 without a password; UsageError if it can't be used."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(text, password=None)
    except Exception as error:
        hint = "an unencrypted PEM file, RSA 2048 bits, as `openssl genrsa 2048` makes"
        raise UsageError("the private key can't be read", hint=hint) from error
    try:
        public, private = _accepted(key)
    except CorruptShare as error:
        raise UsageError(error.message) from error
    return PrivateKey(_pkcs8(private), public, private)


def load_public_key(der: bytes) -> PublicKey:
    """The key of these SubjectPublicKeyInfo bytes; CorruptShare if there is none or of the wrong sort."""
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    try:
        key = load_der_public_key(der)
    except Exception as error:
        raise CorruptShare("public key: unreadable") from error
    if not isinstance(key, RSAPublicKey):
        raise CorruptShare("public key: not an RSA key")
    _check(key, "public key")
    return PublicKey(der, key)


def _accepted(key: object) -> tuple[PublicKey, RSAPrivateKey]:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    if not isinstance(key, RSAPrivateKey):
        raise CorruptShare("private key: not an RSA key")
    public = key.public_key()
    _check(public, "private key")
    return _public(public), key


def _check(key: RSAPublicKey, what: str) -> None:
    if key.key_size != _KEY_BITS:
        raise CorruptShare(f"{what}: {key.key_size} bits, must be {_KEY_BITS}")
    if key.public_numbers().e != _EXPONENT:
        raise CorruptShare(f"{what}: exponent is not {_EXPONENT}")


def _public(key: RSAPublicKey) -> PublicKey:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return PublicKey(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo), key)


def _pkcs8(key: RSAPrivateKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def _pss() -> PSS:
    from cryptography.hazmat.primitives.asymmetric import padding
    from cryptography.hazmat.primitives.hashes import SHA256

    return padding.PSS(mgf=padding.MGF1(SHA256()), salt_length=_SALT_LENGTH)
