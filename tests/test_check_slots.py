"""Checks of mutable objects over real folders: versions, damage of every region, silent servers (spec 05 §5)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lafscli.cli.reports import text
from lafscli.errors import CannotTell, NotRecoverable, ServerUnreachable
from lafscli.formats.caps import DirectoryCap, LitCap
from lafscli.formats.slot import Header
from lafscli.health.check import Checkable, Checking, check, check_many
from lafscli.health.report import CheckReport
from lafscli.health.summary import Summary
from lafscli.storage.memory import Seen
from tests.grids import LocalGrid, content, writing
from tests.slots import content_of
from tests.versions import KEYS, container, damage, holder, path_of, place, put_version, shares_of

LISTING = Checking(7, os.urandom)
VERIFY = replace(LISTING, verify=True)


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalGrid]:
    made = LocalGrid(tmp_path / "grid")
    yield made
    made.close()


def checked(local: LocalGrid, cap: Checkable, checking: Checking = VERIFY) -> CheckReport:
    with local.grid() as grid:
        return check(grid, cap, checking)


def bad(report: CheckReport) -> list[tuple[str, int]]:
    return [(each.server, each.shnum) for each in report.corrupt]


@pytest.mark.parametrize("checking", [LISTING, VERIFY], ids=["listing", "verify"])
@pytest.mark.parametrize("size", [0, 1, 700, 400_000])
@pytest.mark.parametrize("mdmf", [False, True], ids=["sdmf", "mdmf"])
def test_healthy(local: LocalGrid, mdmf: bool, size: int, checking: Checking) -> None:
    cap = put_version(local, content(size), mdmf=mdmf, seqnum=4)
    for power in (cap, cap.read_cap(), cap.verify_cap()):
        report = checked(local, power, checking)
        assert (report.healthy, report.recoverable, report.state) == (True, True, "healthy")
        assert (report.kind, report.storage_index) == ("mdmf" if mdmf else "sdmf", cap.storage_index)
        assert (report.good_shares, report.happiness, report.spare, report.encoding) == (10, 10, 7, (3, 10))
        document = report.document()
        assert document["versions"] == {"recoverable": 1, "unrecoverable": 0}
        assert (document["k"], document["n"], document["happy"], document["seqnum"]) == (3, 10, 7, 4)
        assert document["shares"] == {str(i): [f"s{holder(local, cap, i)}"] for i in range(10)}
        if checking.verify:
            assert document["bytes_not_proved"] == 0
            assert document["bytes_proved"] >= 10 * size // 3
    assert checked(local, DirectoryCap(cap)).kind == ("dir2-mdmf" if mdmf else "dir2")


def test_missing_shares(local: LocalGrid) -> None:
    cap = put_version(local, content(500))
    for left, state, spare in (
        (9, "degraded", 6),
        (3, "degraded", 0),
        (2, "unrecoverable", -1),
        (0, "unrecoverable", -1),
    ):
        for shnum in range(left, 10):
            path_of(local, cap, holder(local, cap, shnum), shnum).unlink(missing_ok=True)
        report = checked(local, cap, LISTING)
        assert (report.good_shares, report.state, report.spare) == (left, state, spare)
        versions = report.document()["versions"]
        assert versions == {"recoverable": int(left > 2), "unrecoverable": int(0 < left < 3)}
        assert report.encoding == (3, 10)


def test_silent_servers(local: LocalGrid) -> None:
    """What they have is unknown; damage that was seen counts before that."""
    cap = put_version(local, content(500))
    gone = [holder(local, cap, shnum) for shnum in range(8)]
    local.dials[gone[0]].dead = True
    report = checked(local, cap, LISTING)
    assert (report.state, report.good_shares, report.recoverable) == ("unknown", 9, True)
    assert [each.server for each in report.unreachable] == [f"s{gone[0]}"]
    for index in gone:
        local.dials[index].dead = True
    report = checked(local, cap, LISTING)
    assert (report.state, report.good_shares, report.recoverable) == ("unknown", 2, None)
    lost = replace(LISTING, assume_lost=frozenset(f"s{index}" for index in gone))
    assert checked(local, cap, lost).state == "unrecoverable"


def test_nobody_answers(local: LocalGrid) -> None:
    cap = put_version(local, content(500))
    for dial in local.dials:
        dial.dead = True
    report = checked(local, cap)
    assert (report.state, len(report.unreachable), report.shares) == ("unknown", 10, {})


def test_an_old_share_is_another_version(local: LocalGrid) -> None:
    cap = put_version(local, b"new", seqnum=2)
    old = shares_of(b"old", seqnum=1)
    place(local, cap, holder(local, cap, 4), 4, old[4])
    report = checked(local, cap, LISTING)
    assert (report.state, report.good_shares, report.happiness) == ("degraded", 9, 10)
    assert report.document()["versions"] == {"recoverable": 1, "unrecoverable": 1}
    assert report.slot is not None
    assert report.slot.newer is None
    assert set(report.slot.others) == {f"s{holder(local, cap, 4)}"}


def test_two_recoverable_versions_are_not_healthy(local: LocalGrid) -> None:
    cap = put_version(local, b"new", seqnum=2)
    for shnum, share in enumerate(shares_of(b"old", seqnum=1)):
        place(local, cap, holder(local, cap, (shnum + 1) % 10), shnum, share)
    report = checked(local, cap, LISTING)
    assert (report.state, report.good_shares) == ("degraded", 10)
    assert report.document()["versions"] == {"recoverable": 2, "unrecoverable": 0}
    assert report.slot is not None
    assert not report.slot.merge


def test_merge_and_newer_are_told(local: LocalGrid) -> None:
    cap = put_version(local, b"one", seqnum=2, seed=1)
    for shnum, share in enumerate(shares_of(b"two", seqnum=2, seed=2)[:5]):
        place(local, cap, holder(local, cap, shnum), shnum, share)
    report = checked(local, cap, LISTING)
    assert report.slot is not None
    assert (report.state, report.slot.merge, report.slot.newer) == ("degraded", True, None)
    place(local, cap, holder(local, cap, 9), 9, shares_of(b"three", seqnum=7)[9])
    report = checked(local, cap, LISTING)
    assert report.slot is not None
    assert (report.slot.newer, report.document()["versions"]) == (7, {"recoverable": 2, "unrecoverable": 1})


def test_a_version_that_is_lost_is_not_newer_than_itself(local: LocalGrid) -> None:
    cap = put_version(local, b"one", seqnum=50)
    for shnum in range(8):
        path_of(local, cap, holder(local, cap, shnum), shnum).unlink()
    report = checked(local, cap, LISTING)
    assert report.slot is not None
    assert (report.state, report.slot.newer, report.slot.seqnum) == ("unrecoverable", 50, 50)
    said = text(report, "x")
    assert "3 are needed; these are of version 50, the newest that was seen" in said
    assert "newer than" not in said


def test_a_version_that_this_home_has_seen_is_missed(local: LocalGrid) -> None:
    """All servers were rolled back: ten good shares, and yet it is not what was there."""
    cap = put_version(local, b"old", seqnum=3)
    memory = Seen(None)
    memory.note(cap.storage_index, cap.fingerprint, 3, b"")
    assert checked(local, cap, replace(LISTING, memory=memory)).state == "healthy"
    memory.note(cap.storage_index, cap.fingerprint, 5, b"")
    report = checked(local, cap, replace(LISTING, memory=memory))
    assert (report.state, report.good_shares) == ("degraded", 10)
    assert report.slot is not None
    assert report.slot.newer == 5


REGIONS: dict[str, Callable[[Header], int]] = {
    "version": lambda header: 0,
    "seqnum": lambda header: 8,
    "root hash": lambda header: 9,
    "k": lambda header: 41 if header.prefix.mdmf else 57,
    "n": lambda header: 42 if header.prefix.mdmf else 58,
    "data length": lambda header: 58 if header.prefix.mdmf else 74,
    "offsets": lambda header: len(header.prefix.serialise()) + 3,
    "last offset": lambda header: len(header.serialise()) - 1,
    "public key": lambda header: header.layout.public_key[0] + 40,
    "signature": lambda header: header.layout.signature[0] + 100,
    "chain number": lambda header: header.layout.share_hash_chain[0] + 1,
    "chain hash": lambda header: header.layout.share_hash_chain[0] + 20,
    "chain end": lambda header: sum(header.layout.share_hash_chain) - 1,
    "tree root": lambda header: header.layout.block_hash_tree[0],
    "tree end": lambda header: sum(header.layout.block_hash_tree) - 1,
    "first byte of data": lambda header: header.block(0)[0],
    "last byte of data": lambda header: sum(header.block(header.prefix.num_segments - 1)) - 1,
    "private key": lambda header: header.layout.enc_privkey[0] + 700,
}


@pytest.mark.parametrize("size", [700, 400_000])
@pytest.mark.parametrize("mdmf", [False, True], ids=["sdmf", "mdmf"])
def test_a_flip_in_any_region_is_found(local: LocalGrid, mdmf: bool, size: int) -> None:
    """Only the private key needs the write cap."""
    cap = put_version(local, content(size), mdmf=mdmf)
    path = path_of(local, cap, holder(local, cap, 6), 6)
    whole = path.read_bytes()
    for name, where in REGIONS.items():

        def flip(share: bytearray, header: Header, where: Callable[[Header], int] = where) -> None:
            share[where(header)] ^= 0x10

        damage(path, flip)
        report = checked(local, cap)
        assert bad(report) == [(f"s{holder(local, cap, 6)}", 6)], name
        assert (report.good_shares, report.state, report.recoverable) == (9, "degraded", True), name
        expected = [] if name == "private key" else [6]
        assert [shnum for _, shnum in bad(checked(local, cap.verify_cap()))] == expected, name
        path.write_bytes(whole)
    assert checked(local, cap).healthy


@pytest.mark.parametrize("mdmf", [False, True], ids=["sdmf", "mdmf"])
def test_flips_never_give_wrong_bytes(local: LocalGrid, mdmf: bool) -> None:
    """With the same region flipped in seven shares of ten the content is right; in eight there is none."""
    data = content(400_000)
    cap = put_version(local, data, mdmf=mdmf)
    paths = [path_of(local, cap, holder(local, cap, shnum), shnum) for shnum in range(10)]
    whole = [path.read_bytes() for path in paths]
    for name, where in REGIONS.items():
        if name == "private key":
            continue

        def flip(share: bytearray, header: Header, where: Callable[[Header], int] = where) -> None:
            share[where(header)] ^= 0x10

        for path in paths[:7]:
            damage(path, flip)
        with local.grid() as grid:
            assert content_of(grid, cap) == data, name
        damage(paths[7], flip)
        # shares of other offsets and the same signed prefix still have the right blocks: they may be read
        with local.grid() as grid:
            try:
                assert content_of(grid, cap) == data, name
            except (NotRecoverable, CannotTell):
                pass
            else:
                assert name in ("last offset", "offsets"), name
        for path, before in zip(paths, whole, strict=True):
            path.write_bytes(before)


def test_the_gap_and_what_follows_the_end_say_nothing(local: LocalGrid) -> None:
    """Spec 03 §6, §7."""
    cap = put_version(local, content(700), mdmf=True)
    path = path_of(local, cap, holder(local, cap, 6), 6)

    def change(share: bytearray, header: Header) -> None:
        share[sum(header.layout.public_key)] ^= 1

    damage(path, change)
    longer = container(local, cap, holder(local, cap, 7), shares_of(content(700), mdmf=True)[7] + b"left over")
    path_of(local, cap, holder(local, cap, 7), 7).write_bytes(longer)
    assert checked(local, cap).healthy


def test_containers_that_are_none(local: LocalGrid) -> None:
    cap = put_version(local, content(700))
    for shnum, data in enumerate([b"", b"junk" * 300, container(local, cap, 0, b"")]):
        path_of(local, cap, holder(local, cap, shnum), shnum).write_bytes(data)
    path_of(local, cap, holder(local, cap, 5), 5).unlink()
    path_of(local, cap, holder(local, cap, 5), 5).mkdir()
    future = container(local, cap, holder(local, cap, 3), b"\x02" + shares_of(content(700))[3][1:])
    path_of(local, cap, holder(local, cap, 3), 3).write_bytes(future)
    report = checked(local, cap, LISTING)
    assert [(each.shnum, each.sort) for each in report.corrupt] == [
        (0, "corrupt"), (1, "incompatible"), (2, "corrupt"), (3, "incompatible")
    ]  # fmt: skip
    assert (report.good_shares, report.state) == (5, "degraded")


def test_a_private_key_that_is_bad_everywhere_does_not_spoil_the_content(local: LocalGrid) -> None:
    cap = put_version(local, content(700))

    def change(share: bytearray, header: Header) -> None:
        share[header.layout.enc_privkey[0]] ^= 1

    for shnum in range(10):
        damage(path_of(local, cap, holder(local, cap, shnum), shnum), change)
    report = checked(local, cap)
    assert (len(report.corrupt), report.recoverable, report.state) == (10, True, "degraded")
    assert checked(local, cap.read_cap()).healthy


def test_a_server_that_fails_while_its_share_is_read(local: LocalGrid) -> None:
    cap = put_version(local, content(2_000_000), mdmf=True)
    victim = holder(local, cap, 2)
    reads: list[str] = []

    def before(name: str) -> None:
        reads.append(name)
        if reads.count("read") > 3:
            raise ServerUnreachable("it went away")

    local.dials[victim].before = before
    report = checked(local, cap)
    assert [each.server for each in report.unreachable] == [f"s{victim}"]
    assert (report.good_shares, report.corrupt, report.state) == (9, (), "unknown")


def test_a_sample(local: LocalGrid) -> None:
    """About so many percent of the blocks; of a single object at least one segment."""
    cap = put_version(local, content(4_000_000), mdmf=True)
    report = checked(local, cap, replace(VERIFY, sample=25.0))
    assert 0.2 < report.proved / report.to_prove < 0.35
    report = checked(local, cap, replace(VERIFY, sample=0.01))
    assert 0 < report.proved < report.to_prove / 20


def test_many_of_all_kinds_in_order(local: LocalGrid) -> None:
    caps: list[Checkable] = []
    for number, key in enumerate(KEYS):
        cap = put_version(local, content(100 * number), key=key, mdmf=bool(number % 2))
        caps += [DirectoryCap(cap) if number % 3 == 0 else cap, LitCap(b"x")]
        if number == 4:
            path_of(local, cap, holder(local, cap, 0), 0).unlink()
    for checking in (LISTING, VERIFY):
        summary = Summary()
        with local.grid() as grid:
            for cap, report in zip(caps, check_many(grid, caps, checking), strict=True):
                summary.add(report)
                assert report.storage_index == cap.storage_index
                assert report.kind == cap.kind
        assert (summary.objects, summary.states["degraded"]) == (len(caps), 1)
        assert summary.states["healthy"] == len(caps) - 1


def test_leases_of_slots_are_renewed_with_those_of_files(local: LocalGrid) -> None:
    cap = put_version(local, content(500))
    later = replace(writing(), now=writing().now + 1000)
    report = checked(local, cap, replace(LISTING, renew=later.lease))
    assert report.document()["leases"] == {"renewed": 10, "added": 0, "failed": 0}
    other = replace(writing(), lease_secret=b"o" * 32)
    report = checked(local, cap, replace(LISTING, renew=other.lease))
    assert report.document()["leases"] == {"renewed": 0, "added": 10, "failed": 0}
    assert checked(local, cap).healthy


def test_assumed_lost(local: LocalGrid) -> None:
    cap = put_version(local, content(500))
    gone = f"s{holder(local, cap, 0)}"
    report = checked(local, cap, replace(LISTING, assume_lost=frozenset([gone])))
    assert (report.good_shares, report.state, report.unreachable) == (9, "degraded", ())
