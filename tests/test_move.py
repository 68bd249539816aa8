"""Shares copied from server to server: all of ours, proved, spread, with our leases; nothing twice, nothing wrong."""

from __future__ import annotations

import os
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest

from lafscli.errors import ServerUnreachable
from lafscli.formats.caps import ChkCap
from lafscli.formats.chk import HEADER_MAX, Layout
from lafscli.formats.container import HEADER_SIZE, ImmutableContainer, share_path
from lafscli.health.check import Checking, check
from lafscli.health.move import Drained, drain
from lafscli.health.report import CheckReport
from lafscli.immutable.download import download
from lafscli.immutable.many import upload_many
from lafscli.immutable.upload import LEASE_SECONDS, upload
from lafscli.placement import Encoding
from lafscli.storage.store import FileRange
from tests.grids import LocalGrid, content, writing

SEGMENTS = Encoding(3, 7, 10, 131072)
LARGE = 3_000_000


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalGrid]:
    made = LocalGrid(tmp_path / "grid")
    yield made
    made.close()


def put(local: LocalGrid, data: bytes | BytesIO, encoding: Encoding = SEGMENTS) -> ChkCap:
    with local.grid() as grid:
        cap = upload(grid, data, writing(encoding)).cap
    assert isinstance(cap, ChkCap)
    return cap


def put_many(local: LocalGrid, count: int, size: int = 2000) -> list[ChkCap]:
    with local.grid() as grid:
        done = upload_many(grid, [content(size + seed, seed) for seed in range(count)], writing())
    return [each.cap for each in done if not isinstance(each, Exception) and isinstance(each.cap, ChkCap)]


def run(local: LocalGrid, name: str = "s3", **options: object) -> Drained:
    with local.grid() as grid:
        return drain(grid, name, writing().lease, **options)  # type: ignore[arg-type]


def verified(local: LocalGrid, cap: ChkCap, lost: str = "s3") -> CheckReport:
    with local.grid() as grid:
        return check(grid, cap, Checking(7, os.urandom, verify=True, assume_lost=frozenset([lost])))


def get(local: LocalGrid, cap: ChkCap) -> bytes:
    held = bytearray()
    with local.grid() as grid:
        download(grid, cap, held.extend)
    return bytes(held)


def files(local: LocalGrid, index: int) -> dict[str, bytes]:
    root = local.root(index) / "shares"
    return {str(path.relative_to(root)): path.read_bytes() for path in root.glob("*/*/*")}


def shares_of(local: LocalGrid, cap: ChkCap) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for index in range(len(local.servers)):
        folder = local.root(index) / share_path(cap.storage_index, 0)
        numbers = sorted(int(path.name) for path in folder.parent.glob("*"))
        if numbers:
            found[f"s{index}"] = numbers
    return found


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("size", [100, 20_000, LARGE], ids=["tiny", "small", "large"])
@pytest.mark.parametrize("known", [False, True], ids=["unknown", "known"])
def test_drain(local: LocalGrid, size: int, known: bool) -> None:
    cap = put(local, content(size))
    before = files(local, 3)
    caps = {cap.storage_index: cap.verify_cap()} if known else {}
    done = run(local, known=caps)
    assert (done.shares, done.copied, done.already_elsewhere, done.foreign, done.failed) == (1, 1, 0, 0, [])
    assert done.complete
    assert files(local, 3) == before
    report = verified(local, cap)
    assert (report.good_shares, report.happiness, report.corrupt) == (10, 9, ())
    local.dials[3].dead = True
    assert get(local, cap) == content(size)
    assert local.staged() == []


def test_the_copy_is_the_share_and_our_lease_for_that_server(local: LocalGrid) -> None:
    cap = put(local, content(LARGE))
    shnum = local.shares()["s3"][0]
    run(local)
    [target] = [name for name, numbers in local.shares().items() if shnum in numbers and name != "s3"]
    old, new = (
        (local.root(index) / share_path(cap.storage_index, shnum)).read_bytes() for index in (3, int(target[1:]))
    )
    assert old[:-72] == new[:-72]
    found = ImmutableContainer.parse_header(new[:32], len(new))
    store = local.grid().stores[int(target[1:])]
    lease = writing().lease(cap.storage_index, store)
    [record] = found.parse_leases(new[found.lease_offset :])
    assert record.matches_renew(lease.renew)
    assert record.matches_cancel(lease.cancel)
    assert record.expiration == 1_800_000_000 + LEASE_SECONDS


def test_drain_again_copies_nothing(local: LocalGrid) -> None:
    put(local, content(LARGE))
    put_many(local, 30)
    first = run(local)
    assert (first.shares, first.copied) == (31, 31)
    before = {index: files(local, index) for index in range(10)}
    again = run(local)
    assert (again.shares, again.copied, again.already_elsewhere, again.failed) == (31, 0, 31, [])
    assert {index: files(local, index) for index in range(10)} == before
