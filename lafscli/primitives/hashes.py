"""Tagged SHA-256d, one named function a tag, lease secrets (spec 01 §3, 06 §2).

Every hash starts from a state that has its tag already inside; copying it is cheaper than hashing the tag again.
hashlib gives up the interpreter's lock for all but small data, so codec threads run side by side.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from hashlib import sha256
from typing import Self

from lafscli.primitives.encoding import Buffer, netstring


class Hasher:
    """A SHA-256d under way."""

    __slots__ = ("_state",)

    def __init__(self, state: hashlib._Hash) -> None:
        self._state = state

    @classmethod
    def tagged(cls, tag: bytes) -> Self:
        return cls(sha256(netstring(tag)))

    def update(self, data: Buffer) -> None:
        self._state.update(data)

    def digest(self) -> bytes:
        """32 bytes; more may be added afterwards."""
        return sha256(self._state.digest()).digest()

    def copy(self) -> Hasher:
        return Hasher(self._state.copy())


def sha256d(data: Buffer) -> bytes:
    return sha256(sha256(data).digest()).digest()


def tagged_hash(tag: bytes, data: Buffer) -> bytes:
    """H(tag, x) of spec 01 §3."""
    state = sha256(netstring(tag))
    state.update(data)
    return sha256(state.digest()).digest()


def tagged_pair_hash(tag: bytes, first: bytes, second: bytes) -> bytes:
    """HP(tag, a, b) of spec 01 §3."""
    return sha256d(netstring(tag) + netstring(first) + netstring(second))


# ---- immutable files (spec 02) ----------------------------------------------------------------------------------

_BLOCK = sha256(netstring(b"allmydata_encoded_subshare_v1"))
_CRYPTTEXT = Hasher.tagged(b"allmydata_crypttext_v1")
_CRYPTTEXT_SEGMENT = sha256(netstring(b"allmydata_crypttext_segment_v1"))
_CONVERGENCE = b"allmydata_immutable_content_to_key_with_added_secret_v1+"


def block_hash(block: Buffer) -> bytes:
    state = _BLOCK.copy()
    state.update(block)
    return sha256(state.digest()).digest()


def block_hasher() -> Hasher:
    """For a block that is not in memory as a whole."""
    return Hasher(_BLOCK.copy())


def crypttext_segment_hash(ciphertext: Buffer) -> bytes:
    """Of one segment without its padding."""
    state = _CRYPTTEXT_SEGMENT.copy()
    state.update(ciphertext)
    return sha256(state.digest()).digest()


def crypttext_hasher() -> Hasher:
    """For the whole ciphertext."""
    return _CRYPTTEXT.copy()


def uri_extension_hash(ueb: Buffer) -> bytes:
    return tagged_hash(b"allmydata_uri_extension_v1", ueb)


def convergence_tag(secret: bytes, k: int, n: int, segment_size: int) -> bytes:
    """Of the hash of the whole plaintext, whose first 16 bytes are the key. `segment_size` is the rounded one."""
    parameters = b"%d,%d,%d" % (k, n, segment_size)
    return _CONVERGENCE + netstring(secret) + netstring(parameters)


def convergence_hasher(secret: bytes, k: int, n: int, segment_size: int) -> Hasher:
    """For the whole plaintext; the key is the first 16 bytes of its digest. `segment_size` is the rounded one."""
    return Hasher.tagged(convergence_tag(secret, k, n, segment_size))


def storage_index_from_key(key: bytes) -> bytes:
    """SI of a CHK file, 16 bytes."""
    return tagged_hash(b"allmydata_immutable_key_to_storage_index_v1", key)[:16]


# ---- hash trees (spec 01 §4) ------------------------------------------------------------------------------------

_NODE = netstring(b"Merkle tree internal node") + b"32:"


@lru_cache(maxsize=512)
def merkle_filler(position: int) -> bytes:
    """Stands at leaf `position` where there is no leaf."""
    return tagged_hash(b"Merkle tree empty leaf", b"%d" % position)


def merkle_node(left: bytes, right: bytes) -> bytes:
    """Parent of two nodes of 32 bytes."""
    return sha256(sha256(b"%b%b,32:%b," % (_NODE, left, right)).digest()).digest()


# ---- leases (spec 06 §2) ----------------------------------------------------------------------------------------


def lease_renew_secret(client_secret: bytes, si: bytes, node_id: bytes) -> bytes:
    """32 bytes, for the server of `node_id` (20 bytes)."""
    # the client's secret is the tag and the constant is the data
    client = tagged_hash(client_secret, b"allmydata_client_renewal_secret_v1")
    file = tagged_pair_hash(b"allmydata_file_renewal_secret_v1", client, si)
    return tagged_pair_hash(b"allmydata_bucket_renewal_secret_v1", file, node_id)


def lease_cancel_secret(client_secret: bytes, si: bytes, node_id: bytes) -> bytes:
    """32 bytes, for the server of `node_id` (20 bytes)."""
    client = tagged_hash(client_secret, b"allmydata_client_cancel_secret_v1")
    file = tagged_pair_hash(b"allmydata_file_cancel_secret_v1", client, si)
    return tagged_pair_hash(b"allmydata_bucket_cancel_secret_v1", file, node_id)


def blake2b_32(secret: bytes) -> bytes:
    """What v2 containers keep in place of a lease secret."""
    return hashlib.blake2b(secret, digest_size=32).digest()


# ---- mutable files and directories (spec 03 §2, 04, 07) ---------------------------------------------------------


def writekey_from_private_key(der: bytes) -> bytes:
    """16 bytes; of the private key's very bytes, never of a re-serialised key."""
    return tagged_hash(b"allmydata_mutable_privkey_to_writekey_v1", der)[:16]


def fingerprint_from_public_key(der: bytes) -> bytes:
    return tagged_hash(b"allmydata_mutable_pubkey_to_fingerprint_v1", der)


def readkey_from_writekey(writekey: bytes) -> bytes:
    return tagged_hash(b"allmydata_mutable_writekey_to_readkey_v1", writekey)[:16]


def storage_index_from_readkey(readkey: bytes) -> bytes:
    return tagged_hash(b"allmydata_mutable_readkey_to_storage_index_v1", readkey)[:16]


def data_key(salt: bytes, readkey: bytes) -> bytes:
    """AES key of one version (SDMF) or segment (MDMF)."""
    return tagged_pair_hash(b"allmydata_mutable_readkey_to_datakey_v1", salt, readkey)[:16]


def write_enabler(writekey: bytes, node_id: bytes) -> bytes:
    """32 bytes that the server of `node_id` demands before a change."""
    master = tagged_hash(b"allmydata_mutable_writekey_to_write_enabler_master_v1", writekey)
    tag = b"allmydata_mutable_write_enabler_master_and_nodeid_to_write_enabler_v1"
    return tagged_pair_hash(tag, master, node_id)


def mutable_container_mark(first_line: bytes) -> bytes:
    """The 5 bytes that follow the first line of a mutable container's magic (spec 03 §8)."""
    return tagged_hash(b"allmydata_mutable_container_header", first_line)[:5]


def child_cap_salt(write_cap: bytes) -> bytes:
    """Salt under which a directory seals the write cap of a child."""
    return tagged_hash(b"allmydata_dirnode_child_rwcap_to_salt_v1", write_cap)[:16]


def child_cap_key(salt: bytes, writekey: bytes) -> bytes:
    """AES key under which the directory of `writekey` seals a child's write cap."""
    return tagged_pair_hash(b"allmydata_mutable_writekey_and_salt_to_dirnode_child_capkey_v1", salt, writekey)[:16]


def backup_dirhash(table: bytes) -> bytes:
    """Name of a directory's content in the backup database (spec 07 §5)."""
    return tagged_hash(b"allmydata_backupdb_dirhash_v1", table)
