"""Shares of mutable objects off a server, and onto servers that have none (CLI.md §3, spec 05 §6)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lafscli.formats.caps import MutableWriteCap
from lafscli.formats.mutable_container import DATA_OFFSET, MutableContainer
from lafscli.health.check import Checking, check, check_many
from lafscli.health.move import Drained, drain
from lafscli.health.moveslots import Slots, strongest
from lafscli.health.rebalance import rebalance_many
from lafscli.health.regrowth import Mending
from lafscli.health.report import CheckReport, MutableCap, Repair
from lafscli.primitives.hashes import write_enabler
from tests.grids import LocalGrid, content, writing
from tests.versions import KEYS, holder, path_of, place, put_version, share_in, shares_of

CHECKING = Checking(7, os.urandom, verify=True)
MENDING = Mending(writing().lease, patience=0.5)


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalGrid]:
    made = LocalGrid(tmp_path / "grid")
    yield made
    made.close()


def drained(local: LocalGrid, server: int, *known: MutableCap) -> Drained:
    found = strongest(known)
    slots = Slots(lambda wanted: {si: found[si] for si in wanted if si in found}, CHECKING, MENDING)
    with local.grid() as grid:
        return drain(grid, f"s{server}", writing().lease, slots=slots)


def without(local: LocalGrid, cap: MutableCap, *servers: int) -> CheckReport:
    lost = frozenset(f"s{server}" for server in servers)
    with local.grid() as grid:
        return check(grid, cap, replace(CHECKING, assume_lost=lost))


@pytest.mark.parametrize("size", [0, 700, 400_000])
@pytest.mark.parametrize("mdmf", [False, True], ids=["sdmf", "mdmf"])
def test_with_the_write_cap_shares_are_made_elsewhere(local: LocalGrid, mdmf: bool, size: int) -> None:
    """To the byte, at the same version, with write enabler and lease for their new server; the old ones stay."""
    cap = put_version(local, content(size), mdmf=mdmf, seqnum=3)
    source = holder(local, cap, 4)
    share = share_in(path_of(local, cap, source, 4))
    done = drained(local, source, cap)
    assert (done.shares, done.copied, done.already_elsewhere, done.failed) == (1, 1, 0, [])
    assert done.bytes == len(share)
    assert share_in(path_of(local, cap, source, 4)) == share
    report = without(local, cap, source)
    assert (report.good_shares, report.corrupt) == (10, ())
    [name] = report.shares[4]
    path = path_of(local, cap, int(name[1:]), 4)
    node_id = local.servers[int(name[1:])].node_id
    found = MutableContainer.parse(path.read_bytes()[:DATA_OFFSET], path.stat().st_size)
    assert (found.node_id, found.write_enabler) == (node_id, write_enabler(cap.writekey, node_id))
    assert len(found.leases) == 1
    assert share_in(path) == share
    again = drained(local, source, cap)
    assert (again.copied, again.already_elsewhere, again.failed) == (0, 1, [])


def test_all_shares_of_an_object_on_one_server(tmp_path: Path) -> None:
    """They are read from there."""
    local = LocalGrid(tmp_path / "grid", 4)
    cap = put_version(local, content(500))
    for path in local.share_files():
        data = path.read_bytes()
        path.unlink()
        place(local, cap, 0, int(path.name), data[DATA_OFFSET : DATA_OFFSET + len(shares_of(content(500))[0])])
    done = drained(local, 0, cap)
    assert (done.shares, done.copied, done.failed) == (10, 10, [])
    report = without(local, cap, 0)
    assert (report.good_shares, report.happiness) == (10, 3)
    local.close()


def test_without_the_write_cap_only_where_shares_are(local: LocalGrid) -> None:
    cap = put_version(local, content(500))
    source = holder(local, cap, 4)
    done = drained(local, source, cap.read_cap(), cap.verify_cap())
    assert (done.copied, done.failed) == (1, [])
    assert without(local, cap, source).happiness == 9


def test_without_the_write_cap_and_without_other_shares(tmp_path: Path) -> None:
    local = LocalGrid(tmp_path / "grid", 4)
    cap = put_version(local, content(500), k=1, n=1)
    source = holder(local, cap, 0)
    done = drained(local, source, cap.read_cap())
    assert done.copied == 0
    assert [(left.shnum, "needs the write cap" in left.reason) for left in done.failed] == [(0, True)]
    assert drained(local, source, cap).copied == 1
    local.close()


def test_an_object_that_nothing_here_leads_to(local: LocalGrid) -> None:
    cap = put_version(local, content(500))
    other = put_version(local, content(600), key=KEYS[1])
    source = holder(local, cap, 0)
    done = drained(local, source, other)
    [left] = done.failed
    assert (left.si, left.shnum) == (cap.storage_index, 0)
    assert "needs the write cap" in left.reason
    assert done.copied == 1
    assert not done.complete


def test_shares_of_other_people_stay(local: LocalGrid) -> None:
    cap = put_version(local, content(500))
    source = holder(local, cap, 0)
    slots = Slots(lambda wanted: {cap.storage_index: cap}, CHECKING, MENDING)
    with local.grid() as grid:
        done = drain(grid, f"s{source}", replace(writing(), lease_secret=b"o" * 32).lease, slots=slots)
    assert (done.shares, done.foreign, done.copied) == (0, 1, 0)


def test_a_silent_server_gets_nothing_and_stops_nothing(local: LocalGrid) -> None:
    cap = put_version(local, content(500))
    source, silent = holder(local, cap, 0), holder(local, cap, 1)
    local.dials[silent].dead = True
    done = drained(local, source, cap)
    assert (done.copied, done.failed) == (1, [])


def test_what_can_not_be_recovered_is_named(local: LocalGrid) -> None:
    cap = put_version(local, content(500), only=[0, 1])
    done = drained(local, holder(local, cap, 0), cap)
    assert [left.reason for left in done.failed] == ["there are too few good shares"]


def test_a_merge_is_not_decided_by_a_drain(local: LocalGrid) -> None:
    cap = put_version(local, b"one", seqnum=2, seed=1)
    for shnum, share in enumerate(shares_of(b"two", seqnum=2, seed=2)[:5]):
        place(local, cap, holder(local, cap, shnum), shnum, share)
    done = drained(local, holder(local, cap, 0), cap)
    [left] = done.failed
    assert "two different versions" in left.reason


# ---- rebalance


def crowded(local: LocalGrid, data: bytes, key: int = 0) -> MutableWriteCap:
    """All shares of an object on two servers."""
    cap = put_version(local, data, key=KEYS[key])
    for path in local.share_files():
        data_there = path.read_bytes()
        shnum = int(path.name)
        found = MutableContainer.parse(data_there[:DATA_OFFSET], len(data_there))
        share = data_there[DATA_OFFSET : DATA_OFFSET + found.data_length]
        path.unlink()
        place(local, cap, holder(local, cap, shnum % 2), shnum, share)
    return cap


def spread(local: LocalGrid, *caps: MutableCap) -> list[CheckReport]:
    checking = replace(CHECKING, verify=False)
    with local.grid() as grid:
        return [
            report
            for _, report in sorted(
                rebalance_many(grid, enumerate(check_many(grid, caps, checking)), checking, MENDING),
                key=lambda each: each[0],
            )
        ]


def test_second_copies_for_servers_without_a_share(local: LocalGrid) -> None:
    cap = crowded(local, content(500))
    before = {path: path.read_bytes() for path in local.share_files()}
    [report] = spread(local, cap)
    assert report.repair == Repair(True, True, 8)
    assert (report.happiness, report.good_shares, report.healthy) == (10, 10, True)
    assert {path: path.read_bytes() for path in before} == before
    [again] = spread(local, cap)
    assert again.repair is None


def test_second_copies_take_the_write_cap(local: LocalGrid) -> None:
    cap = crowded(local, content(500))
    [report] = spread(local, cap.read_cap())
    assert report.repair is not None
    assert (report.repair.attempted, report.happiness) == (False, 2)
    assert "needs the write cap" in str(report.repair.reason)


def test_rebalance_makes_no_missing_shares(local: LocalGrid) -> None:
    cap = crowded(local, content(500))
    path_of(local, cap, holder(local, cap, 0), 4).unlink()
    [report] = spread(local, cap)
    assert report.repair is not None
    assert (report.repair.written, report.good_shares) == (7, 9)
