"""Mutable containers and their leases: spec 03 §8, 06 §2, 09 §1."""

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
from lafscli.formats import caps, container
from lafscli.formats.mutable_container import (
    DATA_OFFSET,
    LEASE_SIZE,
    MOST_LEASES,
    MutableContainer,
    MutableLease,
)
from lafscli.primitives.encoding import b32decode
from lafscli.primitives.hashes import blake2b_32, lease_cancel_secret, lease_renew_secret, write_enabler

EXAMPLES = json.loads((Path(__file__).parent / "vectors" / "container_examples.json").read_text())
CLIENT_SECRET = b32decode(EXAMPLES["lease_secret_base32"])
OBJECTS = [example for example in EXAMPLES["objects"] if example["kind"] in ("sdmf", "mdmf")]
EXTRA = {example["kind"]: example for example in EXAMPLES["extra"]}
SHRUNK = [EXTRA["sdmf-shrunk"], EXTRA["mdmf-shrunk"]]
NODE = b"n" * 20
FILES = [base64.b64decode(text) for example in (*OBJECTS, *SHRUNK) for text in example["containers"].values()]
FILES += [base64.b64decode(EXTRA[f"mutable-container-v{version}"]["container"]) for version in (1, 2)]


def opened(file: bytes) -> MutableContainer:
    """As a reader does it: the head, then what it says lies behind the share."""
    found = MutableContainer.parse(file[:DATA_OFFSET], len(file))
    area = found.extra_range
    return found if area is None else found.with_extra(file[area[0] : sum(area)])


def secrets(i: int) -> tuple[bytes, bytes]:
    return bytes([i]) * 32, bytes([100 + i]) * 32


def six_leases(version: int) -> tuple[bytes, MutableContainer]:
    file = base64.b64decode(EXTRA[f"mutable-container-v{version}"]["container"])
    return file, opened(file)


def whole(found: MutableContainer, data: bytes) -> bytes:
    found = found.resized(len(data))
    file = found.front() + data + found.back()
    assert len(file) == found.file_size
    return file


@pytest.mark.parametrize("file", FILES, ids=range(len(FILES)))
def test_containers_made_by_tahoe_are_written_again_to_the_byte(file: bytes) -> None:
    found = opened(file)
    data = file[DATA_OFFSET : DATA_OFFSET + found.data_length]
    assert whole(found, data) == file
    assert found == opened(file)


@pytest.mark.parametrize("example", OBJECTS + SHRUNK, ids=lambda example: f"{example['kind']}-{example.get('length')}")
def test_containers_made_by_tahoe_have_the_derived_secrets(example: dict[str, Any]) -> None:
    """The shrunk ones name no servers, and come from a client whose secret is not told."""
    cap = caps.parse(example["cap"])
    assert isinstance(cap, caps.MutableWriteCap)
    for shnum, text in example["containers"].items():
        found = opened(base64.b64decode(text))
        node_id = bytes.fromhex(example["node_ids"][shnum]) if "node_ids" in example else found.node_id
        assert (found.version, found.node_id) == (2, node_id)
        found.check_write_enabler(write_enabler(cap.writekey, node_id))
        with pytest.raises(CorruptShare, match="write enabler"):
            found.check_write_enabler(write_enabler(cap.writekey, NODE))
        [lease] = found.leases
        if "node_ids" not in example:
            continue
        renew = lease_renew_secret(CLIENT_SECRET, cap.storage_index, node_id)
        cancel = lease_cancel_secret(CLIENT_SECRET, cap.storage_index, node_id)
        assert lease == MutableLease.make(renew, cancel, lease.expiration, node_id)
        assert lease.matches_renew(renew)
        assert lease.matches_cancel(cancel)
        assert not lease.matches_renew(cancel)
        # a whole new container of ours is the same
        made = MutableContainer.new(node_id, write_enabler(cap.writekey, node_id))
        made = made.with_lease(renew, cancel, lease.expiration, node_id).resized(found.data_length)
        assert made == found


@pytest.mark.parametrize("version", [1, 2])
def test_six_leases_are_found_and_renewed_in_place(version: int) -> None:
    file, found = six_leases(version)
    assert (found.version, found.node_id, found.write_enabler, found.data_length) == (
        version,
        b"\x22" * 20,
        b"\x44" * 32,
        10,
    )
    assert len(found.slots) == 4
    assert len(found.extra) == 2
    for i, lease in enumerate(found.leases, start=1):
        renew, cancel = secrets(i)
        assert lease == MutableLease.make(renew, cancel, 999_999 + i, b"\x22" * 20, version=version)
        offset, expiration = found.find_lease(renew) or (0, 0)
        assert expiration == 999_999 + i == int.from_bytes(file[offset : offset + 4], "big")
        renewed = found.with_lease(renew, cancel, 2_000_000, b"\x22" * 20)
        patched = file[:offset] + (2_000_000).to_bytes(4, "big") + file[offset + 4 :]
        assert whole(renewed, file[DATA_OFFSET:478]) == patched
        # never to an earlier time
        assert found.with_lease(renew, cancel, 5, b"\x22" * 20) == found
    assert found.find_lease(bytes(32)) is None
    assert (found.slots[0].renew == b"\1" * 32) is (version == 1)
    if version == 2:
        assert found.find_lease(blake2b_32(secrets(1)[0])) is None


@pytest.mark.parametrize("version", [1, 2])
def test_a_seventh_lease_goes_behind_the_others_which_are_kept(version: int) -> None:
    _, found = six_leases(version)
    added = opened(whole(found.with_lease(*secrets(7), 5, NODE), b"longer than before"))
    assert added.leases[:6] == found.leases
    assert added.leases[6] == MutableLease.make(*secrets(7), 5, NODE, version=version)
    assert (added.data_length, added.extra_offset) == (18, DATA_OFFSET + 18)


def test_new_leases_fill_the_slots_first() -> None:
    found = MutableContainer.new(NODE, b"w" * 32)
    file = whole(found, b"")
    assert len(file) == 472
    assert file[84:] == bytes(8) + (468).to_bytes(8, "big") + bytes(368 + 4)
    for i in range(1, 7):
        found = found.with_lease(*secrets(i), i, NODE)
        assert [lease.expiration for lease in found.leases] == list(range(1, i + 1))
        assert (len(found.slots), len(found.extra)) == (4, max(0, i - 4))
    # a slot that was given up is used before there are more extra leases
    free = MutableLease.parse(bytes(LEASE_SIZE), 2)
    found = replace(found, slots=(found.slots[0], free, *found.slots[2:]))
    again = found.with_lease(*secrets(9), 9, NODE)
    assert [lease.expiration for lease in again.leases] == [1, 9, 3, 4, 5, 6]
    assert opened(whole(again, b"abc")).leases == again.leases


def test_a_free_slot_is_nobodys() -> None:
    """Even if secrets were left in it."""
    kept = replace(MutableLease.make(*secrets(1), 5, NODE), owner=0)
    assert kept.free
    assert not kept.matches_renew(secrets(1)[0])
    assert not kept.matches_cancel(secrets(1)[1])
    found = replace(MutableContainer.new(NODE, b"w" * 32), slots=(kept,) * 4)
    assert found.find_lease(secrets(1)[0]) is None
    assert found.leases == ()


def test_slack_is_taken_away() -> None:
    """A container whose share shrank, or that has room between the share and its leases."""
    _, found = six_leases(2)
    data = b"0123456789"
    slack = replace(found, extra_offset=1000)
    file = (slack.front() + data).ljust(1000, b"s") + found.back()
    again = opened(file)
    assert again.leases == found.leases
    assert again.find_lease(secrets(5)[0]) == (1008, 1_000_004)
    assert whole(again, data) == whole(found, data)


def test_secrets_are_not_shown() -> None:
    found = MutableContainer.new(NODE, b"wwwwSECRETwwwwSECRETwwwwSECRETww").with_lease(b"r" * 32, b"c" * 32, 5, NODE)
    for secret in ("SECRET", "rrrr", "cccc"):
        assert secret not in repr(replace(found, version=1, slots=(MutableLease(1, 1, 5, b"r" * 32, b"c" * 32, NODE),)))


def test_expiration_saturates() -> None:
    assert MutableLease.make(*secrets(1), 1 << 40, NODE).serialise()[4:8] == b"\xff" * 4


# ---- refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 11, 31, 32, 99, 100, 467])
def test_a_cut_header_is_corrupt(length: int) -> None:
    with pytest.raises(CorruptShare, match="header is cut short") as caught:
        MutableContainer.parse(FILES[0][:length], length)
    assert not isinstance(caught.value, IncompatibleShare)


def test_other_magics_are_incompatible() -> None:
    immutable = container.header(500, 0) + bytes(500)
    third = b"Tahoe mutable container v3\n" + FILES[0][27:]
    mark = FILES[0][:31] + b"x" + FILES[0][32:]
    for file in (immutable, third, mark, bytes(472)):
        with pytest.raises(IncompatibleShare, match="known version"):
            MutableContainer.parse(file[:DATA_OFFSET], len(file))


@pytest.mark.parametrize("length", [5, (1 << 64) - 1])
def test_data_that_is_not_there_is_corrupt(length: int) -> None:
    head = bytearray(whole(MutableContainer.new(NODE, bytes(32)), b"")[:DATA_OFFSET])
    head[84:92] = length.to_bytes(8, "big")
    with pytest.raises(CorruptShare, match="do not hold"):
        MutableContainer.parse(head, 472)


@pytest.mark.parametrize("offset", [0, 477, (1 << 64) - 1])
def test_an_offset_of_leases_that_cannot_be_is_read_and_written_anew(offset: int) -> None:
    """Spec 09 §1: Tahoe reads it, and can't overwrite it."""
    file, _ = six_leases(2)
    file = file[:92] + offset.to_bytes(8, "big") + file[100:]
    found = opened(file)
    assert found.extra_range is None
    assert len(found.leases) == 4
    assert opened(whole(found, b"x")).extra_range == (DATA_OFFSET + 1, 4)


@pytest.mark.parametrize("left", [0, 3])
def test_a_container_without_the_number_of_leases_is_read(left: int) -> None:
    """Spec 09 §1."""
    file, _ = six_leases(2)
    found = opened(file[: 478 + left])
    assert found.extra_range is None
    assert len(found.leases) == 4


@pytest.mark.parametrize("count", [3, 0xFFFFFFFF])
def test_more_extra_leases_than_there_is_room_for_are_corrupt(count: int) -> None:
    file, _ = six_leases(2)
    with pytest.raises(CorruptShare, match=f"no room for {count} extra leases"):
        opened(file[:478] + count.to_bytes(4, "big") + file[482:])
    with pytest.raises(CorruptShare, match="no room for 2 extra leases"):
        opened(file[:-1])


def test_a_short_answer_about_extra_leases_is_corrupt() -> None:
    _, found = six_leases(2)
    for area in (b"", b"\0\0\0"):
        with pytest.raises(CorruptShare, match="cut short"):
            found.with_extra(area)


def test_absurdly_many_leases_are_refused() -> None:
    count = MOST_LEASES + 1
    found = replace(MutableContainer.new(NODE, bytes(32)), file_size=472 + count * LEASE_SIZE)
    assert found.extra_range == (DATA_OFFSET, 4 + MOST_LEASES * LEASE_SIZE)
    with pytest.raises(CorruptShare, match="no room for"):
        found.with_extra(count.to_bytes(4, "big") + bytes(count * LEASE_SIZE))


@pytest.mark.parametrize("length", [0, 91, 93])
def test_a_cut_lease_is_corrupt(length: int) -> None:
    with pytest.raises(CorruptShare, match="lease is cut short"):
        MutableLease.parse(bytes(length), 2)


# ---- anything ------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.binary(min_size=LEASE_SIZE, max_size=LEASE_SIZE), st.sampled_from([1, 2]))
def test_leases_invert(data: bytes, version: int) -> None:
    assert MutableLease.parse(data, version).serialise() == data


@given(
    st.sampled_from(FILES),
    st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=8),
    st.integers(0, 3000),
)
@settings(max_examples=200, deadline=None)
def test_any_file_is_read_or_refused(file: bytes, changes: list[tuple[int, int]], cut: int) -> None:
    changed = bytearray(file)
    for position, value in changes:
        changed[32 + position % (len(file) - 32)] = value
    changed = changed[:cut] if cut < len(file) else changed
    try:
        found = opened(bytes(changed))
    except CorruptShare:
        return
    data = bytes(changed[DATA_OFFSET : DATA_OFFSET + found.data_length])
    again = opened(whole(found, data))
    assert (again.leases, again.write_enabler, again.data_length) == (found.leases, found.write_enabler, len(data))
