"""Repair of mutable objects at the same version, to the byte, with any power (spec 00 §4, 03 §10, 10 §3)."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lafscli.formats.caps import DirectoryCap, MutableWriteCap
from lafscli.formats.mutable_container import DATA_OFFSET, MutableContainer
from lafscli.formats.slot import Header
from lafscli.health import slots
from lafscli.health.check import Checkable, Checking, check
from lafscli.health.regrowth import Mending
from lafscli.health.repair import repair, repair_many
from lafscli.health.report import CheckReport, Repair
from lafscli.health.slotrepair import SlotRepair, refusal
from lafscli.immutable.pipeline import Codec
from lafscli.mutable.publish import modify
from lafscli.primitives.encoding import b32encode
from lafscli.primitives.hashes import write_enabler
from lafscli.storage.memory import Seen
from lafscli.storage.report import Progress
from tests.grids import FEATURES, LocalGrid, content, writing
from tests.slots import content_of, publishing
from tests.versions import (
    KEYS,
    container,
    damage,
    holder,
    order,
    path_of,
    place,
    put_version,
    share_in,
    shares_of,
)

VERIFY = Checking(7, os.urandom, verify=True)
MENDING = Mending(writing().lease, patience=0.5)


@pytest.fixture(params=[FEATURES, FEATURES - {"posix-rename"}], ids=["posix", "plain"])
def local(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LocalGrid]:
    made = LocalGrid(tmp_path / "grid")
    made.servers = [replace(server, features=request.param) for server in made.servers]
    yield made
    made.close()


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a writer may be at work, it is looked as often as ever, without half a second between."""
    monkeypatch.setattr(slots, "_PAUSE", 0.01)


def repaired(local: LocalGrid, cap: Checkable, checking: Checking = VERIFY, mending: Mending = MENDING) -> CheckReport:
    with local.grid() as grid:
        return repair(grid, cap, checking, mending)


def snapshot(local: LocalGrid) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in local.share_files()}


def no_guards(local: LocalGrid) -> bool:
    return not [path for i in range(len(local.servers)) for path in (local.root(i) / "locks").iterdir()]


def quarantined(local: LocalGrid) -> list[Path]:
    return [path for i in range(len(local.servers)) for path in (local.root(i) / "quarantine").iterdir()]


@pytest.mark.parametrize("size", [0, 1, 700, 400_000, 3_000_000])
@pytest.mark.parametrize("mdmf", [False, True], ids=["sdmf", "mdmf"])
def test_missing_shares_come_back_to_the_byte(local: LocalGrid, mdmf: bool, size: int) -> None:
    """With the write cap: anywhere, with its write enabler and our lease; nothing else changes."""
    cap = put_version(local, content(size), mdmf=mdmf, seqnum=5)
    before = snapshot(local)
    for shnum in (0, 2, 3, 8):
        path_of(local, cap, holder(local, cap, shnum), shnum).unlink()
    report = repaired(local, DirectoryCap(cap))
    assert report.repair == Repair(True, True, 4)
    assert (report.healthy, report.kind, report.happiness) == (True, "dir2-mdmf" if mdmf else "dir2", 10)
    after = snapshot(local)
    assert sorted(share_in(path) for path in after) == sorted(share_in(path) for path in before)
    for path, data in after.items():
        server = next(i for i in range(10) if path.is_relative_to(local.root(i)))
        found = MutableContainer.parse(data[:DATA_OFFSET], len(data))
        assert found.node_id == local.servers[server].node_id
        assert found.write_enabler == write_enabler(cap.writekey, found.node_id)
        assert [lease.owner for lease in found.leases] == [1]
        assert path not in before or before[path] == data or path.name in "0238"
    assert no_guards(local)
    assert quarantined(local) == []
    again = repaired(local, cap)
    assert again.healthy
    assert again.repair is None
    assert snapshot(local) == after


def test_old_shares_are_replaced(local: LocalGrid) -> None:
    """The seqnum does not change, and leases of others stay."""
    cap = put_version(local, b"new", seqnum=7)
    old = shares_of(b"something old", seqnum=6)
    for shnum in (1, 5):
        path = place(local, cap, holder(local, cap, shnum), shnum, old[shnum])
        data = path.read_bytes()
        found = MutableContainer.parse(data[:DATA_OFFSET], len(data)).with_lease(b"x" * 32, b"y" * 32, 9, b"n" * 20)
        path.write_bytes(found.front() + data[DATA_OFFSET:])
    report = repaired(local, cap)
    assert report.repair == Repair(True, True, 2)
    assert report.healthy
    assert report.slot is not None
    assert (report.slot.seqnum, report.document()["versions"]) == (7, {"recoverable": 1, "unrecoverable": 0})
    data = path_of(local, cap, holder(local, cap, 5), 5).read_bytes()
    assert len(MutableContainer.parse(data[:DATA_OFFSET], len(data)).leases) == 2
    assert quarantined(local) == []


def test_a_version_that_is_recoverable_still_goes_where_a_newer_one_is(local: LocalGrid) -> None:
    cap = put_version(local, b"new", seqnum=2)
    for shnum, share in enumerate(shares_of(b"old", seqnum=1)):
        place(local, cap, holder(local, cap, (shnum + 1) % 10), shnum, share)
    report = repaired(local, cap)
    assert report.healthy
    assert report.document()["versions"] == {"recoverable": 1, "unrecoverable": 0}


FLIPS: dict[str, Callable[[Header], int]] = {
    "root hash": lambda header: 9,
    "last offset": lambda header: len(header.serialise()) - 1,
    "signature": lambda header: header.layout.signature[0] + 100,
    "chain": lambda header: header.layout.share_hash_chain[0] + 20,
    "tree": lambda header: header.layout.block_hash_tree[0],
    "data": lambda header: sum(header.block(header.prefix.num_segments - 1)) - 1,
    "private key": lambda header: header.layout.enc_privkey[0] + 700,
}


@pytest.mark.parametrize("power", ["write", "read", "verify"])
@pytest.mark.parametrize(("mdmf", "size"), [(False, 700), (True, 400_000)], ids=["sdmf", "mdmf"])
def test_corrupt_shares_are_replaced(local: LocalGrid, mdmf: bool, size: int, power: str) -> None:
    """Each goes to quarantine/; the private key takes the write cap."""
    write = put_version(local, content(size), mdmf=mdmf)
    cap: Checkable = {"write": write, "read": write.read_cap(), "verify": write.verify_cap()}[power]
    whole = snapshot(local)
    flips = {name: where for name, where in FLIPS.items() if power == "write" or name != "private key"}
    for shnum, where in enumerate(flips.values()):

        def flip(share: bytearray, header: Header, where: Callable[[Header], int] = where) -> None:
            share[where(header)] ^= 0x10

        damage(path_of(local, write, holder(local, write, shnum), shnum), flip)
    damaged = sorted(path.read_bytes() for path in snapshot(local))
    report = repaired(local, cap)
    assert report.repair == Repair(True, True, len(flips))
    assert report.healthy
    assert snapshot(local) == whole
    assert len(quarantined(local)) == len(flips)
    assert {path.read_bytes() for path in quarantined(local)} <= set(damaged)
    assert no_guards(local)


def test_what_is_no_container_is_replaced_with_the_write_cap(local: LocalGrid) -> None:
    cap = put_version(local, content(700))
    whole = snapshot(local)
    path_of(local, cap, holder(local, cap, 3), 3).write_bytes(b"")
    path_of(local, cap, holder(local, cap, 4), 4).write_bytes(b"Tahoe")
    report = repaired(local, cap)
    assert report.healthy
    assert snapshot(local) == whole


def test_what_is_no_container_goes_without_the_write_cap(local: LocalGrid) -> None:
    """Nobody knows its write enabler: the share comes elsewhere."""
    cap = put_version(local, content(700))
    path = path_of(local, cap, holder(local, cap, 3), 3)
    path.write_bytes(b"Tahoe")
    report = repaired(local, cap.read_cap())
    assert report.repair == Repair(True, True, 1)
    assert (report.healthy, report.happiness) == (True, 9)
    assert not path.exists()
    assert [path.read_bytes() for path in quarantined(local)] == [b"Tahoe"]


def test_a_share_of_an_unknown_version_stays_unless_forced(local: LocalGrid) -> None:
    """It may be newer than all that we know."""
    cap = put_version(local, content(700))
    future = container(local, cap, holder(local, cap, 3), b"\x02" + shares_of(content(700))[3][1:])
    path = path_of(local, cap, holder(local, cap, 3), 3)
    path.write_bytes(future)
    report = repaired(local, cap)
    assert report.repair is not None
    assert "not known" in str(report.repair.reason)
    assert path.read_bytes() == future
    report = repaired(local, cap, mending=replace(MENDING, force=True))
    assert report.healthy
    assert [path.read_bytes() for path in quarantined(local)] == [future]


@pytest.mark.parametrize("power", ["read", "verify"])
def test_without_the_write_cap_only_servers_that_have_a_share(local: LocalGrid, power: str) -> None:
    """The write enabler is copied; a disk that was lost gets nothing, and its share goes elsewhere."""
    write = put_version(local, content(700))
    gone = holder(local, write, 4)
    share = share_in(path_of(local, write, gone, 4))
    path_of(local, write, gone, 4).unlink()
    report = repaired(local, write.read_cap() if power == "read" else write.verify_cap())
    assert report.repair == Repair(True, True, 1)
    assert (report.healthy, report.good_shares, report.happiness) == (True, 10, 9)
    [name] = report.shares[4]
    assert name != f"s{gone}"
    path = path_of(local, write, int(name[1:]), 4)
    found = MutableContainer.parse(path.read_bytes()[:DATA_OFFSET], path.stat().st_size)
    assert found.write_enabler == write_enabler(write.writekey, local.servers[int(name[1:])].node_id)
    assert share_in(path) == share
    assert repaired(local, write).repair is None


def test_a_private_key_on_which_too_few_shares_agree(local: LocalGrid) -> None:
    """Without the write cap nobody knows which of them is right (spec 00 §4)."""
    cap = put_version(local, content(700))
    path_of(local, cap, holder(local, cap, 9), 9).unlink()

    def scribble(share: bytearray, header: Header) -> None:
        share[header.layout.enc_privkey[0]] ^= 1 + share[header.layout.enc_privkey[0] + 1] ^ len(spoilt)
        share[header.layout.enc_privkey[0] + 2] ^= 1 + len(spoilt)

    spoilt: list[int] = []
    for shnum in range(7):
        damage(path_of(local, cap, holder(local, cap, shnum), shnum), scribble)
        spoilt.append(shnum)
    path_of(local, cap, holder(local, cap, 8), 8).unlink()
    path_of(local, cap, holder(local, cap, 7), 7).unlink()
    report = repaired(local, cap.verify_cap(), replace(VERIFY, verify=False))
    assert report.repair is not None
    assert (report.repair.attempted, report.repair.successful, report.repair.written) == (True, False, 0)
    assert "needs the write cap" in str(report.repair.reason)
    report = repaired(local, cap)
    assert report.repair is not None
    assert "no share carries the private key" in str(report.repair.reason)


def test_a_silent_server_is_not_made_up_for(local: LocalGrid) -> None:
    """What it has is unknown; corrupt shares elsewhere are replaced all the same."""
    cap = put_version(local, content(700))
    silent = holder(local, cap, 0)
    local.dials[silent].dead = True
    before = snapshot(local)
    report = repaired(local, cap)
    assert report.repair == Repair(False, False, 0, "the missing shares may lie on servers that did not answer")
    assert snapshot(local) == before
    place(local, cap, holder(local, cap, 5), 5, shares_of(content(700))[5][:-1] + b"?")
    report = repaired(local, cap)
    assert report.repair is not None
    assert (report.repair.attempted, report.repair.written, report.good_shares) == (True, 1, 9)
    assert snapshot(local) == before
    report = repaired(local, cap, replace(VERIFY, assume_lost=frozenset([f"s{silent}"])))
    assert (report.good_shares, report.healthy) == (10, True)


def test_too_few_shares(local: LocalGrid) -> None:
    cap = put_version(local, content(700), only=[1, 2])
    report = repaired(local, cap)
    assert (report.state, report.repair) == ("unrecoverable", Repair(False, False, 0, "there are too few good shares"))


def test_merges_and_newer_versions_are_refused_and_explained(local: LocalGrid) -> None:
    cap = put_version(local, b"one", seqnum=2, seed=1)
    for shnum, share in enumerate(shares_of(b"two", seqnum=2, seed=2)[:5]):
        place(local, cap, holder(local, cap, shnum), shnum, share)
    before = snapshot(local)
    report = repaired(local, cap)
    assert report.repair is not None
    assert (report.repair.attempted, report.state) == (False, "degraded")
    assert "two different versions have number 2" in str(report.repair.reason)
    place(local, cap, holder(local, cap, 9), 9, shares_of(b"three", seqnum=7)[9])
    before = snapshot(local)
    report = repaired(local, cap)
    assert report.repair is not None
    assert snapshot(local) == before


FORCED = replace(MENDING, publishing=publishing(), force=True)


def test_a_merge_is_settled_by_force(local: LocalGrid) -> None:
    """The best version is written anew with the next number; the other one is lost, and that is said."""
    cap = put_version(local, b"one", seqnum=2, seed=1)
    for shnum, share in enumerate(shares_of(b"two", seqnum=2, seed=2)[:5]):
        place(local, cap, holder(local, cap, shnum), shnum, share)
    with local.grid() as grid:
        before = content_of(grid, cap)
    report = repaired(local, cap.read_cap(), mending=FORCED)
    assert report.repair is not None
    assert (report.repair.attempted, report.repair.reason) == (
        False, "a new version must be written: needs the write cap"
    )  # fmt: skip
    report = repaired(local, cap, mending=FORCED)
    assert report.repair is not None
    assert (report.healthy, report.repair.successful, report.repair.written) == (True, True, 10)
    assert "of two versions with number 2 one was given up" in str(report.repair.reason)
    assert report.slot is not None
    assert report.slot.seqnum == 3
    with local.grid() as grid:
        assert content_of(grid, cap) == before
    assert no_guards(local)


@pytest.mark.parametrize("many", [2, 6], ids=["few", "most"])
def test_a_newer_version_is_given_up_by_force(local: LocalGrid, many: int) -> None:
    """Also where more than half of the servers hold a share of it, too few to read it: no writer would go on then."""
    cap = put_version(local, b"old", seqnum=2, k=3 if many == 2 else 1)
    for shnum, share in enumerate(shares_of(b"newer", seqnum=5, k=7)[:many]):
        place(local, cap, holder(local, cap, shnum), shnum, share)
    report = repaired(local, cap, mending=replace(FORCED, force=False))
    assert report.repair is not None
    assert (report.state, report.repair.attempted) == ("degraded", False)
    assert "version 5 was there" in str(report.repair.reason)
    report = repaired(local, cap, mending=FORCED)
    assert report.healthy, report
    assert report.repair is not None
    assert "version 5 was given up" in str(report.repair.reason)
    assert report.slot is not None
    assert report.slot.seqnum == 6
    with local.grid() as grid:
        assert content_of(grid, cap) == b"old"


def test_servers_that_were_rolled_back_together(local: LocalGrid) -> None:
    """This home has seen a version that is nowhere any more: told, and settled by force with a higher number."""
    cap = put_version(local, b"old", seqnum=2)
    seen = Seen(None)
    seen.note(cap.storage_index, cap.fingerprint, 9, bytes(32))
    checking = replace(VERIFY, memory=seen)
    report = repaired(local, cap, checking)
    assert report.repair is not None
    assert (report.state, report.repair.attempted) == ("degraded", False)
    report = repaired(local, cap, checking, replace(FORCED, publishing=publishing(seen=seen)))
    assert report.healthy
    assert report.slot is not None
    assert report.slot.seqnum == 10


def test_one_server_that_was_rolled_back(local: LocalGrid) -> None:
    """Its share is of an earlier version: it is brought up to the others."""
    cap = put_version(local, b"new", seqnum=9)
    victim = holder(local, cap, 2)
    place(local, cap, victim, 2, shares_of(b"old", seqnum=4)[2])
    with local.grid() as grid:
        assert content_of(grid, cap) == b"new"
    report = repaired(local, cap.verify_cap())
    assert (report.healthy, report.repair) == (True, Repair(True, True, 1))


def test_a_writer_that_died_half_way(local: LocalGrid) -> None:
    """It has put two shares of three in place, the others are staged in broken guards: nothing is lost, and the
    version is written anew. That is not to be forced, but takes the write cap."""
    cap = put_version(local, b"old", seqnum=1)
    newer = shares_of(b"new", seqnum=2)
    for shnum, share in enumerate(newer):
        server = holder(local, cap, shnum)
        if shnum < 2:
            place(local, cap, server, shnum, share)
        else:
            broken = local.root(server) / "locks" / f".broken.{b32encode(cap.storage_index)}.tok" / "tok"
            broken.mkdir(parents=True)
            (broken / str(shnum)).write_bytes(container(local, cap, server, share))
    report = repaired(local, cap.read_cap())
    assert report.repair is not None
    assert (report.state, report.repair.attempted) == ("degraded", False)
    assert "needs the write cap" in str(report.repair.reason)
    assert report.slot is not None
    assert report.slot.interrupted
    report = repaired(local, cap, mending=replace(FORCED, force=False))
    assert report.healthy
    with local.grid() as grid:
        assert content_of(grid, cap) == b"new"
    assert no_guards(local)


def test_a_twin_of_which_there_is_too_little(local: LocalGrid) -> None:
    """Another version of the same number: neither is the earlier one, so a new version succeeds both."""
    cap = put_version(local, b"one", seqnum=2, seed=1)
    place(local, cap, holder(local, cap, 3), 3, shares_of(b"two", seqnum=2, seed=2)[3])
    report = repaired(local, cap.verify_cap(), mending=replace(FORCED, force=False))
    assert report.repair is not None
    assert "needs the write cap" in str(report.repair.reason)
    report = repaired(local, cap, mending=replace(FORCED, force=False))
    assert report.healthy
    assert report.slot is not None
    assert report.slot.seqnum == 3


def test_two_versions_that_came_up_after_the_check_are_not_settled_without_force(local: LocalGrid) -> None:
    """What the check saw took no force: a writer had died half-way."""
    cap = put_version(local, b"old", seqnum=1)
    place(local, cap, holder(local, cap, 0), 0, shares_of(b"new", seqnum=2)[0])
    broken = local.root(holder(local, cap, 1)) / "locks" / f".broken.{b32encode(cap.storage_index)}.tok" / "tok"
    broken.mkdir(parents=True)
    for shnum, share in enumerate(shares_of(b"new", seqnum=2)):
        (broken / str(shnum)).write_bytes(container(local, cap, holder(local, cap, 1), share))
    mending = replace(FORCED, force=False)
    with local.grid() as grid, Codec() as codec:
        report = check(grid, cap, VERIFY)
        assert report.slot is not None
        assert report.slot.interrupted
        assert refusal(report, force=False) is None
        for seed, numbers in ((1, range(5)), (2, range(5, 10))):
            for shnum in numbers:
                place(local, cap, holder(local, cap, shnum), shnum, shares_of(b"%d" % seed, seqnum=3, seed=seed)[shnum])
        before = snapshot(local)
        [(_, after)] = SlotRepair(grid, codec, VERIFY, mending, Progress()).run([(0, report)])
        assert after.repair is not None
        assert not after.repair.attempted
        assert "two different versions have number 3" in str(after.repair.reason)
        assert snapshot(local) == before


def test_a_writer_that_comes_between_is_not_undone(local: LocalGrid) -> None:
    """It writes after the look, and before the guard: the refill finds its version, and writes nothing."""
    cap = put_version(local, b"one", seqnum=2)
    victim = holder(local, cap, 6)
    path_of(local, cap, victim, 6).unlink()
    newer = shares_of(b"two", seqnum=3)
    calls: list[str] = []

    def before(name: str) -> None:
        calls.append(name)
        if any((local.root(victim) / "locks").iterdir()) and not path_of(local, cap, victim, 6).exists():
            for shnum, share in enumerate(newer):
                place(local, cap, holder(local, cap, shnum), shnum, share)

    local.dials[victim].before = before
    report = repaired(local, cap, replace(VERIFY, verify=False))
    assert path_of(local, cap, victim, 6).exists()
    assert all(share_in(path) == newer[int(path.name)] for path in local.share_files())
    assert report.repair is not None
    assert report.repair.written == 0
    assert report.good_shares == 10
    assert no_guards(local)


def test_a_writer_and_a_repairer_at_once(local: LocalGrid) -> None:
    """One appends again and again, the other loses shares and makes them again: nothing acknowledged is lost."""
    cap = put_version(local, b"", seqnum=1)
    stop = threading.Event()
    failed: list[BaseException] = []

    def mend() -> None:
        number = 0
        try:
            while not stop.is_set():
                number += 1
                path_of(local, cap, holder(local, cap, number % 10), number % 10).unlink(missing_ok=True)
                report = repaired(local, cap, replace(VERIFY, verify=False), replace(MENDING, patience=5))
                assert report.recoverable
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=mend)
    thread.start()
    with local.grid() as grid:
        for number in range(12):
            modify(grid, cap, lambda content, number=number: content + bytes([number]), publishing())
        stop.set()
        thread.join()
        assert failed == []
        assert content_of(grid, cap) == bytes(range(12))
    assert repaired(local, cap).healthy
    assert no_guards(local)


def test_a_guard_that_another_holds_is_waited_for_and_then_told(local: LocalGrid) -> None:
    cap = put_version(local, content(700))
    victim = holder(local, cap, 6)
    path_of(local, cap, victim, 6).unlink()
    with local.grid() as other:
        store = next(store for store in other.stores if store.server.name == f"s{victim}")
        with store.guard(cap.storage_index):
            report = repaired(local, cap)
            assert report.repair is not None
            assert (report.repair.attempted, report.repair.successful) == (True, False)
            assert "is being changed by" in str(report.repair.reason)
    assert repaired(local, cap).healthy


def test_a_server_that_fails_gets_nothing_more(local: LocalGrid) -> None:
    """The share goes to another one."""
    cap = put_version(local, content(700))
    victim = holder(local, cap, 6)
    path_of(local, cap, victim, 6).unlink()
    local.dials[victim].refuse_create = True
    report = repaired(local, cap)
    assert report.repair == Repair(True, True, 1)
    assert (report.good_shares, report.happiness) == (10, 9)
    assert not path_of(local, cap, victim, 6).exists()


def test_a_full_disk(local: LocalGrid) -> None:
    cap = put_version(local, content(3_000_000), mdmf=True)
    victim = holder(local, cap, 6)
    path_of(local, cap, victim, 6).unlink()
    local.dials[victim].full_after = 300_000
    report = repaired(local, cap)
    assert (report.healthy, report.happiness) == (True, 9)
    assert no_guards(local)


def test_a_source_that_lies_when_it_is_read_for_the_repair(local: LocalGrid) -> None:
    """Without --verify nobody has looked at its blocks: another one is used, and it is replaced."""
    cap = put_version(local, content(400_000), mdmf=True)
    whole = snapshot(local)
    path_of(local, cap, holder(local, cap, 9), 9).unlink()

    def flip(share: bytearray, header: Header) -> None:
        share[header.block(0)[0] + 100] ^= 1

    damage(path_of(local, cap, holder(local, cap, 0), 0), flip)
    report = repaired(local, cap, replace(VERIFY, verify=False))
    assert report.repair == Repair(True, True, 2)
    assert snapshot(local) == whole


def test_shares_of_a_longer_list_go(local: LocalGrid) -> None:
    """An earlier version had more shares than the best one."""
    cap = put_version(local, b"new", seqnum=2, n=5)
    place(local, cap, holder(local, cap, 8), 8, shares_of(b"old", seqnum=1)[8])
    report = repaired(local, cap)
    assert report.healthy
    assert len(local.share_files()) == 5
    assert len(quarantined(local)) == 1


def test_many_least_spare_first(local: LocalGrid) -> None:
    caps: list[MutableWriteCap] = []
    for number, key in enumerate(KEYS[:7]):
        cap = put_version(local, content(100 * number), key=key, mdmf=bool(number % 2))
        caps.append(cap)
        for shnum in range(number):
            path_of(local, cap, holder(local, cap, shnum), shnum).unlink()
    with local.grid() as grid:
        ended = list(repair_many(grid, caps, VERIFY, MENDING))
    spare = [number for number, report in ended if report.repair is not None and report.repair.attempted]
    assert spare == sorted(spare, reverse=True)
    assert all(report.healthy for _, report in ended)
    assert no_guards(local)


def test_a_read_only_server_is_left_alone(local: LocalGrid) -> None:
    cap = put_version(local, content(700))
    victim = holder(local, cap, 6)
    local.servers[victim] = replace(local.servers[victim], writable=False)
    place(local, cap, victim, 6, b"junk")
    report = repaired(local, cap)
    assert report.repair is not None
    assert "is read-only" in str(report.repair.reason)
    assert share_in(path_of(local, cap, victim, 6)) == b"junk"


def test_fewer_servers_than_shares(tmp_path: Path) -> None:
    local = LocalGrid(tmp_path / "four", 4)
    cap = put_version(local, content(700))
    before = snapshot(local)
    victim = order(local, cap)[1]
    for path in [path for path in before if path.is_relative_to(local.root(victim))]:
        path.unlink()
    report = repaired(local, cap)
    assert report.healthy
    assert snapshot(local).keys() == before.keys()
    local.close()
