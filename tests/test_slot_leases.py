"""Leases on mutable shares: four bytes in place, or a new container under the guard (spec 06 §3, 10 §3)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lafscli.errors import CorruptShare, FileMissing, GuardHeld
from lafscli.formats.container import share_path
from lafscli.formats.mutable_container import DATA_OFFSET, MutableContainer, MutableLease
from lafscli.storage.folder import FolderStore
from lafscli.storage.local import LocalFiles
from lafscli.storage.store import Lease, LeaseOf, Server
from tests.grids import FEATURES

SI = bytes(range(16))
NODE = b"n" * 20
ENABLER = b"e" * 32
DATA = os.urandom(3_000_000)


def lease_of(who: str, until: int = 2_000_000_000) -> Lease:
    return Lease(who.encode() * 32, who.upper().encode() * 32, until)


def container(holders: str, data: bytes = DATA, slack: int = 0) -> bytes:
    made = MutableContainer.new(NODE, ENABLER)
    for who in holders:
        made = made.with_lease(who.encode() * 32, who.upper().encode() * 32, 1_900_000_000, NODE)
    made = made.resized(len(data) + slack)
    return made.front() + data + bytes(slack) + made.back()


@pytest.fixture(params=[FEATURES, FEATURES - {"posix-rename"}], ids=["posix", "plain"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FolderStore]:
    for folder in ("shares", "staging", "locks", "quarantine"):
        (tmp_path / folder).mkdir()
    server = Server("blue", NODE, b"", features=request.param)
    made = FolderStore(server, LocalFiles(tmp_path), random_bytes=os.urandom)
    yield made
    made.close()


def put(root: Path, data: bytes, shnum: int = 0) -> Path:
    path = root / share_path(SI, shnum)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def leases(path: Path) -> list[MutableLease]:
    data = path.read_bytes()
    found = MutableContainer.parse(data[:DATA_OFFSET], len(data))
    assert found.extra_range is not None
    assert data[DATA_OFFSET : DATA_OFFSET + len(DATA)] == DATA
    assert (found.node_id, found.write_enabler) == (NODE, ENABLER)
    start, length = found.extra_range
    return list(found.with_extra(data[start : start + length]).leases)


@pytest.mark.parametrize("holders", ["a", "bcda", "bcdefga"], ids=["slot", "last slot", "extra"])
def test_ours_is_renewed_in_place(store: FolderStore, tmp_path: Path, holders: str) -> None:
    path = put(tmp_path, container(holders))
    before = path.read_bytes()
    assert store.renew([LeaseOf(SI, 0, lease_of("a"))]) == [True]
    assert [lease.expiration for lease in leases(path)] == [1_900_000_000] * (len(holders) - 1) + [2_000_000_000]
    assert sum(a != b for a, b in zip(before, path.read_bytes(), strict=True)) <= 4


def test_an_earlier_time_is_not_set_and_others_are_not_ours(store: FolderStore, tmp_path: Path) -> None:
    path = put(tmp_path, container("ab"))
    before = path.read_bytes()
    wanted = [LeaseOf(SI, 0, lease_of("a", 1_800_000_000)), LeaseOf(SI, 0, lease_of("z"))]
    assert store.renew(wanted) == [True, False]
    assert path.read_bytes() == before


@pytest.mark.parametrize("holders", ["", "b", "bcde", "bcdefg"])
@pytest.mark.parametrize("slack", [0, 77])
def test_a_new_one_comes_within_a_replace(store: FolderStore, tmp_path: Path, holders: str, slack: int) -> None:
    """The share, with what is left of a longer version, and all other leases stay."""
    path = put(tmp_path, container(holders, slack=slack))
    old = path.stat().st_ino
    assert store.add_lease([LeaseOf(SI, 0, lease_of("a"))]) == [True]
    found = leases(path)
    assert [lease.expiration for lease in found] == [1_900_000_000] * len(holders) + [2_000_000_000]
    assert found[-1].matches_renew(b"a" * 32)
    assert found[-1].owner == 1
    assert found[-1].node_id == NODE
    assert path.stat().st_ino != old
    assert list((tmp_path / "locks").iterdir()) == []
    assert store.add_lease([LeaseOf(SI, 0, lease_of("a", 2_100_000_000))]) == [False]
    assert leases(path)[-1].expiration == 2_100_000_000


def test_each_item_says_what_became_of_it(store: FolderStore, tmp_path: Path) -> None:
    good = put(tmp_path, container("b"))
    cut = put(tmp_path, container("b")[: DATA_OFFSET + 1000], shnum=1)
    before = cut.read_bytes()
    wanted = [LeaseOf(SI, shnum, lease_of("a")) for shnum in (0, 1, 2)]
    added, short, missing = store.add_lease(wanted)
    assert added is True
    assert isinstance(short, CorruptShare)
    assert isinstance(missing, FileMissing)
    assert len(leases(good)) == 2
    assert cut.read_bytes() == before
    assert list((tmp_path / "locks").iterdir()) == []


def test_nothing_is_added_while_a_writer_has_the_guard(store: FolderStore, tmp_path: Path) -> None:
    path = put(tmp_path, container("b"))
    other = FolderStore(store.server, LocalFiles(tmp_path), random_bytes=os.urandom)
    with other.guard(SI):
        [answer] = store.add_lease([LeaseOf(SI, 0, lease_of("a"))], patience=0)
    assert isinstance(answer, GuardHeld)
    assert len(leases(path)) == 1
    other.close()
