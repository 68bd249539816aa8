"""Immutable containers and their leases: spec 02 §6, 06 §2, 09 §1."""

from __future__ import annotations

import base64
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lafscli.errors import CorruptShare, IncompatibleShare
from lafscli.formats import caps
from lafscli.formats.container import (
    HEADER_SIZE,
    LEASE_SIZE,
    ImmutableContainer,
    LeaseRecord,
    check_head,
    header,
    is_mutable,
    lease_record,
    share_folder,
    share_number,
    share_path,
)
from lafscli.primitives.ciphers import AesCtr
from lafscli.primitives.encoding import b32decode, b32encode
from lafscli.primitives.hashes import blake2b_32, lease_cancel_secret, lease_renew_secret
from lafscli.proof.encoder import encode_small

EXAMPLES = json.loads((Path(__file__).parent / "vectors" / "container_examples.json").read_text())
CLIENT_SECRET = b32decode(EXAMPLES["lease_secret_base32"])
CHK = [example for example in EXAMPLES["objects"] if example["kind"] == "chk"]
MUTABLE = [example for example in EXAMPLES["objects"] if example["kind"] in ("sdmf", "mdmf")]
EXTRA = {example["kind"]: example for example in EXAMPLES["extra"]}


def content_of(example: dict[str, Any]) -> bytes:
    """Spec 00 §5."""
    count = example["length"] // 32 + 1
    return b"".join(sha256(b"%d-%d" % (example["seed"], i)).digest() for i in range(count))[: example["length"]]


@pytest.mark.parametrize("example", CHK, ids=lambda example: str(example["length"]))
def test_containers_made_by_tahoe(example: dict[str, Any]) -> None:
    """Their shares are byte for byte what we encode, their leases those of the derived secrets."""
    cap = caps.parse(example["cap"])
    assert isinstance(cap, caps.ChkCap)
    si = b32decode(example["storage_index"])
    assert cap.storage_index == si
    ciphertext = AesCtr(cap.key).update(content_of(example))
    trailer, parts = encode_small(cap.k, cap.n, example["max_segment_size"], ciphertext)
    assert trailer.ueb_hash == cap.ueb_hash
    for shnum, text in example["containers"].items():
        file = base64.b64decode(text)
        node_id = bytes.fromhex(example["node_ids"][shnum])
        container = ImmutableContainer.parse_header(file[:32], len(file))
        assert (container.version, container.leases, container.data_offset) == (2, 1, 12)
        share = b"".join(parts[int(shnum)])
        assert file[12 : container.lease_offset] == share
        assert container.data_length == trailer.share_size
        area = file[container.lease_offset :]
        [record] = container.parse_leases(area)
        renew = lease_renew_secret(CLIENT_SECRET, si, node_id)
        cancel = lease_cancel_secret(CLIENT_SECRET, si, node_id)
        assert record.matches_renew(renew)
        assert record.matches_cancel(cancel)
        assert not record.matches_renew(cancel)
        assert record.owner == 0
        found = container.find_lease(area, renew)
        assert found == (len(file) - 4, record.expiration)
        assert container.find_lease(area, cancel) is None
        # and all of the file, as we would write it
        lease = lease_record(renew, cancel, record.expiration)
        assert header(len(share), 1) + share + lease == file


@pytest.mark.parametrize("version", [1, 2])
def test_containers_with_two_leases(version: int) -> None:
    file = base64.b64decode(EXTRA[f"immutable-container-v{version}"]["container"])
    container = ImmutableContainer.parse_header(file[:32], len(file))
    assert container == ImmutableContainer(version, 2, 10)
    assert file[container.data_offset : container.lease_offset] == b"0123456789"
    area = file[container.lease_offset :]
    assert len(area) == container.lease_area
    records = container.parse_leases(area)
    for i, record in enumerate(records):
        renew, cancel = bytes([i + 1]) * 32, bytes([101 + i]) * 32
        # the note of the example counts owners from 1; its server wrote 0 into the second
        made = LeaseRecord.make(renew, cancel, 1_000_000 + i, owner=record.owner, version=version)
        assert made == record
        assert record.matches_renew(renew)
        assert record.matches_cancel(cancel)
        offset, expiration = container.find_lease(area, renew) or (0, 0)
        assert expiration == 1_000_000 + i == int.from_bytes(file[offset : offset + 4], "big")
    assert b"".join(record.serialise() for record in records) == area
    assert container.find_lease(area, bytes(32)) is None
    assert (records[0].renew == b"\1" * 32) is (version == 1)


@pytest.mark.parametrize("version", [1, 2])
def test_a_stored_hash_does_not_pass_for_the_secret(version: int) -> None:
    record = LeaseRecord.make(b"r" * 32, b"c" * 32, 5, version=version)
    assert record.matches_renew(b"r" * 32)
    assert not record.matches_renew(b"c" * 32)
    assert not record.matches_renew(blake2b_32(b"r" * 32))
    assert not record.matches_renew(b"")
    assert b"r" * 32 not in repr(record).encode()


def test_mutable_containers_are_told_apart() -> None:
    heads = [base64.b64decode(text)[:32] for example in MUTABLE for text in example["containers"].values()]
    heads += [base64.b64decode(EXTRA[f"mutable-container-v{version}"]["container"])[:32] for version in (1, 2)]
    assert len(heads) == 18
    for head in heads:
        assert is_mutable(head)
        with pytest.raises(IncompatibleShare, match="mutable"):
            ImmutableContainer.parse_header(head, 5000)
        assert not is_mutable(head[:31])
        assert not is_mutable(head[:31] + b"x")
    assert not is_mutable(header(100, 1) + bytes(20))
    assert not is_mutable(b"")


def test_the_length_saturates_and_is_ignored() -> None:
    assert header(5, 1).hex() == "000000020000000500000001"
    assert header(1 << 32, 0).hex() == "00000002ffffffff00000000"
    for length in (0, 17, 0xFFFFFFFF):
        container = ImmutableContainer.parse_header(header(length, 1), HEADER_SIZE + 17 + LEASE_SIZE)
        assert container.data_length == 17


def test_no_leases_are_fine() -> None:
    container = ImmutableContainer.parse_header(header(17, 0), HEADER_SIZE + 17)
    assert (container.data_length, container.lease_area, container.parse_leases(b"")) == (17, 0, [])


@pytest.mark.parametrize("version", [0, 3, 0x54616F65])
def test_unknown_versions_are_incompatible(version: int) -> None:
    with pytest.raises(IncompatibleShare, match="version"):
        check_head(version.to_bytes(4, "big") + bytes(28))


@pytest.mark.parametrize("length", range(12))
def test_a_cut_header_is_corrupt(length: int) -> None:
    with pytest.raises(CorruptShare, match="container: header"):
        ImmutableContainer.parse_header(header(0, 0)[:length], length)


@pytest.mark.parametrize(("leases", "size"), [(1, 12), (1, 83), (2, 155), (0xFFFFFFFF, 10_000)])
def test_more_leases_than_the_file_has_room_for_are_corrupt(leases: int, size: int) -> None:
    with pytest.raises(CorruptShare, match=f"no room for {leases} leases"):
        ImmutableContainer.parse_header(header(0, leases), size)


def test_a_raw_share_without_its_container_is_corrupt() -> None:
    """Spec 09 §1: it reads as version 1 with an absurd lease count."""
    _, [share, *_] = encode_small(3, 10, 131072, b"a" * 56)
    raw = b"".join(share)
    # v1 of the share: block size where the length is, share data where the leases are counted
    with pytest.raises(CorruptShare, match="no room for 19 leases"):
        ImmutableContainer.parse_header(raw[:32], len(raw))


def test_a_cut_lease_area_is_corrupt() -> None:
    container = ImmutableContainer(2, 2, 10)
    for length in (0, 1, 72, 143, 145):
        with pytest.raises(CorruptShare, match="leases"):
            container.parse_leases(bytes(length))
        with pytest.raises(CorruptShare, match="leases"):
            container.find_lease(bytes(length), bytes(32))
    for length in (0, 71, 73):
        with pytest.raises(CorruptShare, match="lease"):
            LeaseRecord.parse(bytes(length), 2)


@given(st.binary(max_size=40), st.integers(0, 1 << 40))
def test_any_head_is_read_or_refused(head: bytes, size: int) -> None:
    try:
        container = ImmutableContainer.parse_header(head, size)
    except CorruptShare:
        return
    assert HEADER_SIZE + container.data_length + container.lease_area == size


@given(st.binary(min_size=72, max_size=72), st.sampled_from([1, 2]))
def test_lease_records_invert(data: bytes, version: int) -> None:
    assert LeaseRecord.parse(data, version).serialise() == data


def test_expiration_saturates() -> None:
    """After 2106 a lease says the latest time that it can."""
    assert lease_record(bytes(32), bytes(32), 1 << 33)[-4:] == b"\xff" * 4


def test_paths() -> None:
    si = b32decode("5mwuz5yxisqrnhtrsljs7wkyb4")
    assert share_folder(si) == "shares/5m/5mwuz5yxisqrnhtrsljs7wkyb4"
    assert share_path(si, 13) == f"shares/5m/{b32encode(si)}/13"


@pytest.mark.parametrize(
    ("name", "number"),
    [("0", 0), ("255", 255), ("00", 0), ("", None), ("0.tmp", None), (".tmp", None), ("-1", None), ("+1", None),
     (" 1", None), ("1_0", None), ("notes", None), ("\u0663", None), ("\u00b2", None), ("9" * 5000, None)],
)  # fmt: skip
def test_file_names(name: str, number: int | None) -> None:
    """Spec 02 §6, 09 §1: names that are not all digits are ignored."""
    assert share_number(name) == number
