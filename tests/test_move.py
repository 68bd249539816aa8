"""Shares copied from server to server: all of ours, proved, spread, with our leases; nothing twice, nothing wrong."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from lafscli.errors import CorruptShare, ServerUnreachable
from lafscli.formats.caps import ChkCap
from lafscli.formats.chk import HEADER_MAX, Layout, Sizes
from lafscli.formats.container import HEADER_SIZE, ImmutableContainer, share_path
from lafscli.health.check import Checking, check, check_many
from lafscli.health.move import Drained, drain
from lafscli.health.rebalance import rebalance_many
from lafscli.health.regrowth import Mending
from lafscli.health.report import CheckReport, Repair
from lafscli.immutable.download import download
from lafscli.immutable.many import upload_many
from lafscli.immutable.upload import LEASE_SECONDS, upload
from lafscli.placement import Encoding
from lafscli.primitives.encoding import netstring
from lafscli.proof.claims import claimed_cap
from tests.grids import Dial, LocalGrid, content, writing

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


def run(local: LocalGrid, name: str = "s3", **options: Any) -> Drained:
    with local.grid() as grid:
        return drain(grid, name, writing().lease, **options)


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


def set_writable(local: LocalGrid, writable: bool, *indexes: int) -> None:
    for index in indexes:
        local.servers[index] = replace(local.servers[index], writable=writable)


def share_on(local: LocalGrid, index: int, cap: ChkCap) -> Path:
    """The one share of a file on a server."""
    [path] = (local.root(index) / share_path(cap.storage_index, 0)).parent.glob("*")
    return path


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


def test_what_lies_elsewhere_gets_our_lease_and_is_not_copied(local: LocalGrid) -> None:
    """The copy was made by somebody else: without our lease it would not be ours once the server is gone."""
    cap = put(local, content(20_000))
    shnum = local.shares()["s3"][0]
    path = share_path(cap.storage_index, shnum)
    copy = local.root(5) / path
    data = (local.root(3) / path).read_bytes()
    copy.write_bytes(data)
    done = run(local)
    assert (done.copied, done.already_elsewhere) == (0, 1)
    new = copy.read_bytes()
    found = ImmutableContainer.parse_header(new[:32], len(new))
    leases = found.parse_leases(new[found.lease_offset :])
    lease = writing().lease(cap.storage_index, local.grid().stores[5])
    assert [record.matches_renew(lease.renew) for record in leases] == [False, True]


@pytest.mark.parametrize("size", [20_000, LARGE], ids=["small", "large"])
def test_a_bad_copy_elsewhere_does_not_count(local: LocalGrid, size: int) -> None:
    cap = put(local, content(size))
    shnum = local.shares()["s3"][0]
    path = share_path(cap.storage_index, shnum)
    copy = local.root(5) / path
    copy.write_bytes((local.root(3) / path).read_bytes())
    flip(copy, copy.stat().st_size - 100)  # in the UEB
    bad = copy.read_bytes()
    done = run(local)
    assert (done.copied, done.already_elsewhere) == (1, 0)
    assert copy.read_bytes() == bad
    holders = [name for name, numbers in local.shares().items() if shnum in numbers]
    assert len(holders) == 3


def test_a_read_only_server_does_not_count(local: LocalGrid) -> None:
    """Two servers drained one after the other, then both removed: nothing may be left on the first alone."""
    cap = put(local, content(20_000))
    run(local, "s3")
    set_writable(local, False, 3)
    done = run(local, "s4")
    assert done.complete
    held = {shnum for name, numbers in shares_of(local, cap).items() if name not in ("s3", "s4") for shnum in numbers}
    assert held == set(range(10))


def test_shares_of_others_are_counted_and_left(local: LocalGrid) -> None:
    put_many(local, 5)
    others = writing(convergence=b"x" * 32)
    with local.grid() as grid:
        upload(grid, content(9000), replace(others, lease_secret=b"o" * 32))
    done = run(local)
    assert (done.shares, done.copied, done.foreign) == (5, 5, 1)


def test_first_the_servers_without_a_share(tmp_path: Path) -> None:
    """Twelve servers, ten shares: the one that is free and comes first in permuted order gets it."""
    local = LocalGrid(tmp_path / "twelve", 12)
    set_writable(local, False, 10, 11)
    caps = [*put_many(local, 30), put(local, content(LARGE))]
    set_writable(local, True, 10, 11)
    done = run(local)
    assert (done.shares, done.copied) == (31, 31)
    went: set[str] = set()
    with local.grid() as grid:
        for cap in caps:
            held = shares_of(local, cap)
            order = [store.server.name for store in grid.permuted(cap.storage_index)]
            first = min("s10", "s11", key=order.index)
            assert {name for name, numbers in held.items() if len(numbers) != 1} == set()
            assert held.keys() == {f"s{index}" for index in range(10)} | {first}
            went.add(first)
    assert went == {"s10", "s11"}
    local.close()


def test_sites_are_spread(tmp_path: Path) -> None:
    """Two free servers: the one at the other site gets it."""
    sites = ["a"] * 6 + ["b"] * 5 + ["a"]
    local = LocalGrid(tmp_path / "sites", 12, sites=sites)
    set_writable(local, False, 10, 11)
    caps = put_many(local, 20)
    set_writable(local, True, 10, 11)
    assert run(local).copied == 20
    assert all("s10" in shares_of(local, cap) for cap in caps)
    local.close()


def test_several_shares_of_one_file(tmp_path: Path) -> None:
    """Few servers: each has several shares of each file, and they are spread evenly."""
    few = LocalGrid(tmp_path / "four", 4)
    with few.grid() as grid:
        done = upload(grid, content(20_000), writing(Encoding(3, 4, 10)))
    assert isinstance(done.cap, ChkCap)
    drained = run(few, "s1")
    assert drained.complete
    held = {name: len(numbers) for name, numbers in shares_of(few, done.cap).items() if name != "s1"}
    assert sorted(held.values()) == [3, 3, 4]
    few.close()


@pytest.mark.parametrize("place", ["header", "block", "unused", "tree", "UEB", "cut"])
@pytest.mark.parametrize("size", [20_000, LARGE], ids=["small", "large"])
def test_a_share_that_does_not_prove_is_named_and_not_copied(local: LocalGrid, size: int, place: str) -> None:
    cap, good = put(local, content(size)), put(local, content(9000))
    path = share_on(local, 3, cap)
    data = path.read_bytes()
    layout = Layout.parse(data[HEADER_SIZE : HEADER_SIZE + HEADER_MAX])
    flip(path, data.index(b"share_root_hash:") + 25 if place == "UEB" else HEADER_SIZE + position(layout, place))
    if place == "cut":  # whole as a container, the share in it is not
        path.write_bytes(data[: len(data) // 2] + data[-72:])
    before = shares_of(local, cap)
    done = run(local)
    assert (done.shares, done.copied, done.complete) == (2, 1, False)
    [left] = done.failed
    assert (left.si, left.shnum) == (cap.storage_index, int(path.name))
    assert left.reason
    assert shares_of(local, cap) == before
    assert sum(map(len, shares_of(local, good).values())) == 11
    assert local.staged() == []


def position(layout: Layout, place: str) -> int:
    return {
        "header": 5,
        "block": layout.data + 3000,
        "unused": layout.plaintext_hash_tree + 3,
        "tree": layout.block_hashes + 3,
        "cut": 5,
    }[place]


def test_what_a_share_can_not_tell_of_itself_the_cap_does(local: LocalGrid) -> None:
    """The hash of all ciphertext is in the UEB, and in a share nothing else depends on it."""
    cap = put(local, content(20_000))
    path = share_on(local, 3, cap)
    flip(path, path.read_bytes().index(b"crypttext_hash:") + 25)
    done = run(local, known={cap.storage_index: cap.verify_cap()})
    assert [left.reason for left in done.failed] == ["UEB: its hash is not the cap's"]


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("size", b"1000000000000000000", "are not read on the word of a share"),
        ("size", b"0", "can't be"),
        ("segment_size", b"0", "can't be"),
        ("total_shares", b"2", "can't be"),
        ("total_shares", b"257", "can't be"),
        ("needed_shares", b"x", "does not say"),
        ("size", None, "does not say"),
    ],
)
def test_what_a_share_claims_is_bounded(field: str, value: bytes | None, reason: str) -> None:
    fields = {"needed_shares": b"3", "total_shares": b"10", "size": b"5000", "segment_size": b"3"}
    fields |= {field: value} if value is not None else {}
    if value is None:
        del fields[field]
    ueb = b"".join(b"%b:%b" % (key.encode(), netstring(text)) for key, text in sorted(fields.items()))
    layout = Layout.build(Sizes(3, 10, 5000, 3), 1)
    with pytest.raises(CorruptShare, match=reason):
        claimed_cap(bytes(16), layout, len(ueb).to_bytes(4, "big") + ueb)
    with pytest.raises(CorruptShare, match="the share ends before"):
        claimed_cap(bytes(16), layout, (len(ueb) + 1).to_bytes(4, "big") + ueb)


def test_a_known_cap_finds_a_share_of_another_file(local: LocalGrid) -> None:
    """It proves against itself, and not against the cap."""
    cap, other = put(local, content(20_000)), put(local, content(20_000, 1))
    path = share_on(local, 3, cap)
    wrong = next(
        local.root(index) / share_path(other.storage_index, int(path.name))
        for index in range(10)
        if (local.root(index) / share_path(other.storage_index, int(path.name))).exists()
    )
    old = path.read_bytes()
    path.write_bytes(wrong.read_bytes()[:-72] + old[-72:])
    done = run(local, known={cap.storage_index: cap.verify_cap()})
    assert [(left.si, left.reason) for left in done.failed] == [(cap.storage_index, "UEB: its hash is not the cap's")]


def test_a_pipe_s_share_and_one_of_old(local: LocalGrid) -> None:
    """Version 2 headers, and many small segments."""
    piped = put(local, BytesIO(content(LARGE)))
    tiny = put(local, content(LARGE, 2), Encoding(3, 7, 10, 3000))
    done = run(local)
    assert (done.copied, done.failed) == (2, [])
    for cap in (piped, tiny):
        report = verified(local, cap)
        assert (report.good_shares, report.corrupt) == (10, ())


def test_servers_that_refuse_fail_or_are_silent(local: LocalGrid) -> None:
    caps = [*put_many(local, 20), put(local, content(LARGE))]
    local.dials[1].dead = True
    local.dials[2].refuse_create = True
    local.dials[5].full_after = 100_000
    done = run(local)
    assert (done.shares, done.copied, done.failed) == (21, 21, [])
    assert "connection refused" in done.silent["s1"]
    local.dials[1].dead = False
    for cap in caps:
        report = verified(local, cap)
        assert (report.good_shares, report.corrupt) == (10, ())
        assert report.happiness >= 9 if cap is not caps[-1] else report.happiness >= 8


def test_no_server_takes_it(local: LocalGrid) -> None:
    put_many(local, 3)
    for index in (0, 1, 2, 4, 5, 6, 7, 8, 9):
        local.dials[index].refuse_create = True
    done = run(local)
    assert (done.shares, done.copied, len(done.failed)) == (3, 0, 3)
    assert all("no server takes it" in left.reason and "s4: refused" in left.reason for left in done.failed)


def test_the_server_falls_silent_on_the_way(local: LocalGrid) -> None:
    put_many(local, 300, 500)
    reads = iter(range(1000))

    def die(operation: str) -> None:
        if operation == "read" and next(reads) > 6:
            local.dials[3].dead = True

    local.dials[3].before = die
    done = run(local)
    assert done.unfinished == "connection refused"
    assert not done.complete
    local.dials[3] = Dial()
    again = run(local)
    assert (again.shares, again.copied + again.already_elsewhere, again.complete) == (300, 300, True)
    assert again.already_elsewhere >= done.copied


def test_a_folder_that_can_not_be_listed_is_not_passed_over(local: LocalGrid) -> None:
    caps = put_many(local, 6)
    folder = share_on(local, 3, caps[0]).parent
    shutil.rmtree(folder)
    folder.symlink_to(folder)
    done = run(local)
    assert (done.shares, done.copied) == (5, 5)
    assert done.unfinished
    assert not done.complete


def test_a_server_that_does_not_answer(local: LocalGrid) -> None:
    local.dials[3].dead = True
    with pytest.raises(ServerUnreachable):
        run(local)


def test_a_copy_that_is_cut_off_leaves_nothing_visible(local: LocalGrid) -> None:
    """The target fails in the middle of a large share: another one gets it."""
    cap = put(local, content(LARGE))
    for index in (0, 1, 2, 4, 5, 6, 7, 8):
        local.dials[index].full_after = 400_000
    done = run(local)
    assert (done.copied, done.failed) == (1, [])
    assert {index for index in range(10) if index != 3 and len(files(local, index)) == 2} == {9}
    assert verified(local, cap).corrupt == ()
    assert local.staged() == []


# ---- rebalance


def spread(local: LocalGrid, caps: list[ChkCap], **options: Any) -> list[CheckReport]:
    with local.grid() as grid:
        checking = Checking(7, os.urandom, assume_lost=options.pop("assume_lost", frozenset()))
        reports = enumerate(check_many(grid, caps, replace(checking, assume_lost=frozenset())))
        done = dict(rebalance_many(grid, reports, checking, Mending(writing().lease), **options))
    return [done[index] for index in range(len(caps))]


def crowded(local: LocalGrid, data: bytes, servers: int = 4) -> ChkCap:
    """Put on the first few servers only."""
    others = range(servers, len(local.servers))
    set_writable(local, False, *others)
    with local.grid() as grid:
        cap = upload(grid, data, writing(Encoding(3, servers, 10, 131072))).cap
    set_writable(local, True, *others)
    assert isinstance(cap, ChkCap)
    return cap


@pytest.mark.parametrize("size", [20_000, LARGE], ids=["small", "large"])
def test_rebalance(local: LocalGrid, size: int) -> None:
    cap = crowded(local, content(size))
    before = {index: files(local, index) for index in range(4)}
    [report] = spread(local, [cap])
    assert (report.good_shares, report.happiness, report.healthy) == (10, 10, True)
    assert report.repair == Repair(True, True, 6)
    assert {index: files(local, index) for index in range(4)} == before
    assert [len(shares_of(local, cap)[f"s{index}"]) for index in range(4, 10)] == [1] * 6
    again = verified(local, cap, "s0")
    assert (again.happiness, again.corrupt) == (9, ())
    [report] = spread(local, [cap])
    assert report.repair is None, "nothing is left to do"


def test_rebalance_leaves_what_is_spread_and_what_is_lost(local: LocalGrid) -> None:
    fine, lost, lone = put(local, content(9000)), put(local, content(9000, 1)), crowded(local, content(9000, 2), 1)
    for index in range(9):
        share_on(local, index, lost).unlink()
    reports = spread(local, [fine, lost, lone])
    assert [report.repair for report in reports] == [None, None, Repair(True, True, 9)]
    assert [report.state for report in reports] == ["healthy", "unrecoverable", "healthy"]


def test_rebalance_when_shares_are_bad_and_servers_fail(local: LocalGrid) -> None:
    cap = crowded(local, content(20_000), 2)
    on = shares_of(local, cap)
    bad = on["s0"][1]
    flip(local.root(0) / share_path(cap.storage_index, bad), 3000)
    local.dials[4].refuse_create = True
    local.dials[5].dead = True
    [report] = spread(local, [cap], assume_lost=frozenset(["s6"]))
    assert [(each.server, each.shnum) for each in report.corrupt] == [("s0", bad)]
    assert report.happiness == 7
    assert report.repair is not None
    assert (report.repair.successful, report.repair.written) == (False, 5)
    assert "s4: refused" in (report.repair.reason or "")
    assert "s6" not in shares_of(local, cap)


def test_rebalance_goes_on_from_a_repair(local: LocalGrid) -> None:
    cap = crowded(local, content(20_000))
    with local.grid() as grid:
        report = replace(check(grid, cap, Checking(7, os.urandom)), repair=Repair(True, True, 2))
        [(number, after)] = rebalance_many(grid, [(5, report)], Checking(7, os.urandom), Mending(writing().lease))
    assert (number, after.repair) == (5, Repair(True, True, 8))


def test_rebalance_while_a_server_falls_silent(local: LocalGrid) -> None:
    """One of the two that hold it all: what it has is unknown then, and the other's shares are spread."""
    cap = crowded(local, content(20_000), 2)
    calls = iter(range(100))

    def die(operation: str) -> None:
        if operation == "read" and next(calls) > 1:
            local.dials[0].dead = True

    local.dials[0].before = die
    [report] = spread(local, [cap])
    assert [each.server for each in report.unreachable] == ["s0"]
    assert {number for number, names in report.shares.items()} >= set(shares_of(local, cap)["s1"])
    assert not any("s0" in names for names in report.shares.values())
    assert report.repair is not None
    assert report.repair.written >= 4
