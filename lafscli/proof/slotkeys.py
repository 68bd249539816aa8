"""Keys of a mutable file: key pair to caps, and the private key as shares carry it (spec 03 §2)."""

from __future__ import annotations

from lafscli.errors import CorruptShare
from lafscli.formats.caps import MutableWriteCap
from lafscli.primitives.ciphers import AesCtr, PrivateKey, load_private_key
from lafscli.primitives.encoding import Buffer
from lafscli.primitives.hashes import fingerprint_from_public_key, writekey_from_private_key


def write_cap(private: PrivateKey, *, mdmf: bool) -> MutableWriteCap:
    """The cap of the file that this key pair is of."""
    writekey = writekey_from_private_key(private.der)
    return MutableWriteCap(mdmf, writekey, fingerprint_from_public_key(private.public.der))


def seal_private_key(private: PrivateKey) -> bytes:
    """The private key under its write key, as each share carries it."""
    return AesCtr(writekey_from_private_key(private.der)).update(private.der)


def is_private_key(cap: MutableWriteCap, sealed: Buffer) -> bool:
    """Whether what a share carries is the private key of the cap (spec 03 §2)."""
    return writekey_from_private_key(AesCtr(cap.writekey).update(sealed)) == cap.writekey


def open_private_key(cap: MutableWriteCap, sealed: Buffer) -> PrivateKey:
    """The private key of the cap from what a share carries; CorruptShare if it is not that."""
    der = AesCtr(cap.writekey).update(sealed)
    if writekey_from_private_key(der) != cap.writekey:
        raise CorruptShare("encrypted private key: it is not that of the write cap")
    private = load_private_key(der, trusted=True)
    if fingerprint_from_public_key(private.public.der) != cap.fingerprint:
        raise CorruptShare("encrypted private key: its public key is not that of the cap")
    return private
