"""Repairs over real folders: what is missing or bad is made again byte for byte, where happiness grows most."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest

from lafscli.formats.caps import ChkCap, ChkVerifyCap
from lafscli.formats.chk import HEADER_MAX, Layout
from lafscli.formats.container import HEADER_SIZE, LEASE_SIZE, share_path
from lafscli.health.check import Checking, check
from lafscli.health.regrowth import Mending
from lafscli.health.repair import repair, repair_many
from lafscli.health.report import CheckReport, Repair
from lafscli.immutable.download import download
from lafscli.immutable.many import upload_many
from lafscli.immutable.upload import Uploaded, upload
from lafscli.placement import Encoding
from lafscli.primitives.encoding import b32encode
from tests.grids import LocalGrid, content, writing

SIZE = 700_000
SEGMENTS = Encoding(3, 7, 10, 131072)
LIST = Checking(7, os.urandom)
VERIFY = replace(LIST, verify=True)
MENDING = Mending(writing().lease, patience=0.2)


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


@pytest.fixture
def cap(local: LocalGrid) -> ChkVerifyCap:
    return put(local, content(SIZE)).verify_cap()


def mend(
    local: LocalGrid, cap: ChkVerifyCap | ChkCap, checking: Checking = LIST, mending: Mending = MENDING
) -> CheckReport:
    with local.grid() as grid:
        return repair(grid, cap, checking, mending)


def proved(local: LocalGrid, cap: ChkVerifyCap, **more: frozenset[str]) -> CheckReport:
    with local.grid() as grid:
        return check(grid, cap, replace(VERIFY, **more))


def paths(local: LocalGrid, cap: ChkVerifyCap, among: Sequence[ChkVerifyCap] = ()) -> dict[int, Path]:
    """The container of each share; each number lies on one server. `among`: all objects that there are."""
    found = {
        int(path.name): path
        for i in range(len(local.servers))
        for path in (local.root(i) / share_path(cap.si, 0)).parent.glob("*")
    }
    assert among or len(local.share_files()) == len(found)
    return found


def shares(local: LocalGrid, cap: ChkVerifyCap, among: Sequence[ChkVerifyCap] = ()) -> dict[int, bytes]:
    """The containers up to their leases."""
    return {shnum: path.read_bytes()[:-LEASE_SIZE] for shnum, path in paths(local, cap, among).items()}


def server_of(path: Path) -> int:
    return int(path.parents[3].name[1:])


def quarantined(local: LocalGrid) -> dict[tuple[int, int], bytes]:
    """Server and share number of what lies in quarantine."""
    return {
        (i, int(path.name.split(".")[2])): path.read_bytes()
        for i in range(len(local.servers))
        for path in (local.root(i) / "quarantine").iterdir()
    }


def left_over(local: LocalGrid) -> list[Path]:
    return [
        path
        for i in range(len(local.servers))
        for folder in ("staging", "locks")
        for path in (local.root(i) / folder).iterdir()
    ]


# ---- missing shares


@pytest.mark.parametrize("lost", [{9}, {0, 1, 2}, {0, 4, 9}, {3, 4, 5, 6, 7, 8, 9}])
def test_missing_shares_are_made_again_byte_for_byte(local: LocalGrid, cap: ChkVerifyCap, lost: set[int]) -> None:
    before = shares(local, cap)
    where = paths(local, cap)
    for shnum in lost:
        where[shnum].unlink()
    report = mend(local, cap)
    assert report.repair == Repair(True, True, len(lost))
    assert (report.state, report.good_shares, report.happiness, report.spare) == ("healthy", 10, 10, 7)
    assert shares(local, cap) == before
    assert left_over(local) == []
    assert proved(local, cap).healthy


def test_new_shares_have_our_lease(local: LocalGrid, cap: ChkVerifyCap) -> None:
    path = paths(local, cap)[4]
    whole = path.read_bytes()
    path.unlink()
    mend(local, cap)
    assert paths(local, cap)[4].read_bytes() == whole


def test_shares_of_a_pipe_are_of_version_two_again(local: LocalGrid) -> None:
    data = content(SIZE)
    cap = put(local, BytesIO(data)).verify_cap()
    before = shares(local, cap)
    assert before[0][HEADER_SIZE : HEADER_SIZE + 4] == b"\0\0\0\2"
    for shnum in (0, 5):
        paths(local, cap)[shnum].unlink()
    assert mend(local, cap).repair == Repair(True, True, 2)
    assert shares(local, cap) == before


@pytest.mark.parametrize("encoding", [Encoding(1, 1, 1), Encoding(1, 3, 5), Encoding(5, 5, 5), Encoding(3, 7, 10)])
@pytest.mark.parametrize("size", [56, 4000, 200_000])
def test_encodings_and_sizes(local: LocalGrid, encoding: Encoding, size: int) -> None:
    cap = put(local, content(size), encoding).verify_cap()
    before = shares(local, cap)
    lost = encoding.n - encoding.k
    for shnum in range(lost):
        paths(local, cap)[shnum].unlink()
    checking = replace(VERIFY, happy=encoding.happy)
    report = mend(local, cap, checking)
    assert report.repair == (Repair(True, True, lost) if lost else None)
    assert report.healthy
    assert shares(local, cap) == before


# ---- corrupt shares


def region(name: str, share: bytes) -> int:
    """A byte of the container in that part of the share."""
    layout = Layout.parse(share[HEADER_SIZE : HEADER_SIZE + HEADER_MAX])
    starts = {
        "container version": 3,
        "share version": HEADER_SIZE + 3,
        "block size": HEADER_SIZE + 7,
        "offset": HEADER_SIZE + 20,
        "first block": HEADER_SIZE + layout.data,
        "last block": HEADER_SIZE + layout.plaintext_hash_tree - 1,
        "plaintext hash tree": HEADER_SIZE + layout.plaintext_hash_tree,
        "crypttext hash tree": HEADER_SIZE + layout.crypttext_hash_tree + 40,
        "block hashes": HEADER_SIZE + layout.block_hashes,
        "share hashes": HEADER_SIZE + layout.share_hashes + 5,
        "UEB length": HEADER_SIZE + layout.uri_extension,
        "UEB": HEADER_SIZE + layout.uri_extension + 50,
    }
    return starts[name]


@pytest.mark.parametrize(
    "name",
    [
        *("container version", "share version", "block size", "offset", "first block", "last block"),
        *("plaintext hash tree", "crypttext hash tree", "block hashes", "share hashes", "UEB length", "UEB"),
    ],
)
def test_a_corrupt_share_is_replaced_in_its_place(local: LocalGrid, cap: ChkVerifyCap, name: str) -> None:
    before = shares(local, cap)
    path = paths(local, cap)[6]
    bad = bytearray(path.read_bytes())
    bad[region(name, bytes(bad))] ^= 0x10
    path.write_bytes(bad)
    report = mend(local, cap, VERIFY)
    assert report.repair == Repair(True, True, 1)
    assert report.healthy
    assert shares(local, cap) == before
    assert paths(local, cap)[6] == path
    assert quarantined(local) == {(server_of(path), 6): bytes(bad)}
    assert left_over(local) == []
    assert proved(local, cap).healthy


@pytest.mark.parametrize("length", [0, 3, 40, 100_000])
def test_a_share_cut_short_is_replaced(local: LocalGrid, cap: ChkVerifyCap, length: int) -> None:
    before = shares(local, cap)
    path = paths(local, cap)[1]
    path.write_bytes(path.read_bytes()[:length])
    assert mend(local, cap).repair == Repair(True, True, 1)  # its size tells, without --verify
    assert shares(local, cap) == before
    assert [len(data) for data in quarantined(local).values()] == [length]


def test_without_verify_a_corrupt_share_that_is_met_is_replaced_too(local: LocalGrid, cap: ChkVerifyCap) -> None:
    before = shares(local, cap)
    paths(local, cap)[9].unlink()
    path = paths(local, cap)[0]
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    report = mend(local, cap)
    assert report.healthy
    assert report.repair == Repair(True, True, 2)
    assert shares(local, cap) == before


def test_a_corrupt_copy_of_a_share_that_is_good_elsewhere_goes(local: LocalGrid, cap: ChkVerifyCap) -> None:
    where = paths(local, cap)
    target = where[3].with_name("2")
    target.write_bytes(where[2].read_bytes()[:5000])
    before = {shnum: path.read_bytes() for shnum, path in where.items()}
    report = mend(local, cap, VERIFY)
    assert report.repair == Repair(True, True, 0)
    assert report.healthy
    assert {shnum: path.read_bytes() for shnum, path in paths(local, cap).items()} == before
    assert list(quarantined(local)) == [(server_of(where[3]), 2)]


def test_all_bad_but_k(local: LocalGrid, cap: ChkVerifyCap) -> None:
    before = shares(local, cap)
    where = paths(local, cap)
    for shnum in range(7):
        data = bytearray(where[shnum].read_bytes())
        data[-LEASE_SIZE - 1] ^= 1
        where[shnum].write_bytes(data)
    report = mend(local, cap, VERIFY)
    assert report.repair == Repair(True, True, 7)
    assert (report.state, report.happiness) == ("healthy", 10)
    assert shares(local, cap) == before
    assert paths(local, cap) == where


# ---- when not


def test_a_healthy_file_is_left_alone(local: LocalGrid, cap: ChkVerifyCap) -> None:
    for dial in local.dials:
        dial.refuse_create = True
    report = mend(local, cap, VERIFY)
    assert (report.healthy, report.repair) == (True, None)


def test_too_few_shares(local: LocalGrid, cap: ChkVerifyCap) -> None:
    for shnum in range(8):
        paths(local, cap)[shnum].unlink()
    report = mend(local, cap, VERIFY)
    assert report.state == "unrecoverable"
    assert report.repair == Repair(False, False, 0, "there are too few good shares")


def test_a_share_on_a_silent_server_is_not_made_again(local: LocalGrid, cap: ChkVerifyCap) -> None:
    local.dials[3].dead = True
    before = local.shares()
    report = mend(local, cap, VERIFY)
    assert (report.state, report.good_shares) == ("unknown", 9)
    assert report.repair is not None
    assert not report.repair.attempted
    assert local.shares() == before


def test_beside_a_silent_server_a_corrupt_share_is_replaced_and_nothing_more(
    local: LocalGrid, cap: ChkVerifyCap
) -> None:
    before = shares(local, cap)
    where = paths(local, cap)
    silent = server_of(where[3])
    where[8].unlink()
    where[5].write_bytes(where[5].read_bytes()[:-200])
    local.dials[silent].dead = True
    report = mend(local, cap, VERIFY)
    assert report.state == "unknown"
    assert report.corrupt == ()
    assert report.repair is not None
    assert (report.repair.attempted, report.repair.successful, report.repair.written) == (True, False, 1)
    assert "did not answer" in (report.repair.reason or "")
    assert [each.server for each in report.unreachable] == [f"s{silent}"]
    del before[8]
    assert shares(local, cap) == before


def test_servers_assumed_lost_are_not_asked_and_get_nothing(local: LocalGrid, cap: ChkVerifyCap) -> None:
    before = shares(local, cap)
    lost = frozenset({"s1", "s2", "s3"})
    for name in lost:
        local.dials[int(name[1:])].dead = True
    checking = replace(VERIFY, assume_lost=lost)
    report = mend(local, cap, checking)
    assert report.repair == Repair(True, True, 3)
    assert (report.state, report.happiness, report.unreachable) == ("healthy", 7, ())
    found = {shnum: name for shnum, names in report.shares.items() for name in names}
    assert len(found) == 10
    assert lost.isdisjoint(found.values())
    assert proved(local, cap, assume_lost=lost).healthy
    for name, numbers in local.shares().items():
        if name not in lost:
            for shnum in numbers:
                path = local.root(int(name[1:])) / share_path(cap.si, shnum)
                assert path.read_bytes()[:-LEASE_SIZE] == before[shnum]


# ---- where they go


def test_no_second_share_on_a_server_while_one_is_free(local: LocalGrid, tmp_path: Path) -> None:
    five = LocalGrid(tmp_path / "five", 12)
    cap = put(five, content(SIZE)).verify_cap()
    where = paths(five, cap)
    empty = {server_of(where[shnum]) for shnum in (2, 6)}
    free = set(range(12)) - {server_of(path) for path in where.values()}
    for shnum in (2, 6):
        where[shnum].unlink()
    for index in empty:
        five.dials[index].refuse_create = True
    report = mend(five, cap)
    assert report.repair == Repair(True, True, 2)
    assert report.happiness == 10
    assert {server_of(path) for shnum, path in paths(five, cap).items() if shnum in (2, 6)} == free
    five.close()


def test_all_shares_on_few_servers_grow_onto_the_free_ones(local: LocalGrid, cap: ChkVerifyCap) -> None:
    """Shares 0 to 5 lie on one server: the other four go to four of the free ones."""
    where = paths(local, cap)
    home = where[0].parent
    for shnum in range(1, 10):
        if shnum < 6:
            where[shnum].rename(home / str(shnum))
        else:
            where[shnum].unlink()
    report = mend(local, cap, replace(LIST, happy=5))
    assert report.repair == Repair(True, True, 4)
    assert (report.state, report.happiness) == ("healthy", 5)


def test_read_only_servers_keep_what_they_have_and_get_nothing(local: LocalGrid, cap: ChkVerifyCap) -> None:
    where = paths(local, cap)
    readonly = server_of(where[4])
    local.servers[readonly] = replace(local.servers[readonly], writable=False)
    where[4].write_bytes(where[4].read_bytes()[:3000])
    where[7].unlink()
    report = mend(local, cap, VERIFY)
    assert report.good_shares == 10
    assert report.state == "degraded"  # the bad share can't be taken away
    assert report.repair is not None
    assert (report.repair.successful, report.repair.written) == (False, 2)
    assert report.repair.reason == f"s{readonly} is read-only"
    assert len(local.shares()[f"s{readonly}"]) == 1


def test_with_fewer_servers_than_shares_none_is_left_out(local: LocalGrid, tmp_path: Path) -> None:
    three = LocalGrid(tmp_path / "three", 3)
    cap = put(three, content(SIZE), Encoding(3, 3, 10)).verify_cap()
    gone = three.shares()["s1"]
    for path in (three.root(1) / "shares").glob("*/*/*"):
        path.unlink()
    report = mend(three, cap, replace(LIST, happy=3))
    assert report.repair == Repair(True, True, len(gone))
    assert sorted(len(numbers) for numbers in three.shares().values()) == [3, 3, 4]
    three.close()


# ---- servers that fail on the way


@pytest.mark.parametrize("fault", ["full", "refuses", "drops", "dies"])
def test_a_server_that_fails_gets_nothing_and_its_share_goes_elsewhere(
    local: LocalGrid, cap: ChkVerifyCap, fault: str
) -> None:
    where = paths(local, cap)
    target = server_of(where[9])
    where[9].unlink()
    dial = local.dials[target]
    if fault == "full":
        dial.full_after = 100_000
    elif fault == "refuses":
        dial.refuse_create = True
    elif fault == "drops":
        dial.drop_writes = True
    else:

        def die(name: str) -> None:
            dial.dead = dial.dead or name == "write"

        dial.before = die
    report = mend(local, cap)
    assert report.good_shares == 10
    assert report.repair is not None
    assert (report.repair.attempted, report.repair.written) == (True, 1)
    assert report.happiness == 9
    dial.dead, dial.before = False, None
    if fault != "dies":
        assert left_over(local) == []
    assert proved(local, cap).healthy


def test_what_could_not_be_written_is_said(local: LocalGrid, cap: ChkVerifyCap) -> None:
    for path in paths(local, cap).values():
        local.dials[server_of(path)].full_after = 0
    paths(local, cap)[9].unlink()
    report = mend(local, cap)
    assert report.state == "degraded"
    assert report.repair is not None
    assert (report.repair.attempted, report.repair.successful, report.repair.written) == (True, False, 0)
    assert "no space left on device" in (report.repair.reason or "")
    assert report.repair.reason.count("no space") == 10
    assert left_over(local) == []


def test_a_source_that_dies_is_done_without(local: LocalGrid, cap: ChkVerifyCap) -> None:
    before = shares(local, cap)
    where = paths(local, cap)
    where[9].unlink()
    dial = local.dials[server_of(where[0])]
    reads = 0

    def die(name: str) -> None:
        nonlocal reads
        reads += name == "read"
        dial.dead = dial.dead or reads > 2

    dial.before = die
    report = mend(local, cap)
    dial.dead, dial.before = False, None
    assert report.repair is not None
    assert report.repair.written == 1
    assert shares(local, cap) == before


def test_one_bad_object_stops_nothing_and_the_worst_goes_first(local: LocalGrid) -> None:
    caps = [put(local, content(SIZE, seed)).verify_cap() for seed in range(5)]

    def lose(cap: ChkVerifyCap, count: int) -> None:
        for shnum in range(count):
            next(
                path
                for path in local.share_files()
                if path.parent.name == b32encode(cap.si) and path.name == str(shnum)
            ).unlink()

    for cap, count in zip(caps, (2, 8, 0, 6, 4), strict=True):
        lose(cap, count)
    with local.grid() as grid:
        reports = list(repair_many(grid, caps, LIST, MENDING))
    assert [index for index, _ in reports] == [1, 2, 3, 4, 0]
    assert [report.state for _, report in reports] == ["unrecoverable", "healthy", "healthy", "healthy", "healthy"]
    assert [report.repair.written if report.repair else None for _, report in reports] == [0, None, 6, 4, 2]


def test_many_small_objects_cost_few_questions(local: LocalGrid) -> None:
    with local.grid() as grid:
        stored = upload_many(grid, [content(1000 + seed, seed) for seed in range(150)], writing())
    caps = [done.cap.verify_cap() for done in stored if isinstance(done, Uploaded) and isinstance(done.cap, ChkCap)]
    before = {path: path.read_bytes() for path in local.share_files()}
    for path in (local.root(4) / "shares").glob("*/*/*"):
        path.unlink()
    damaged = [path for path in local.share_files() if path.name == "3"][:5]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:-80])
    asked: Counter[str] = Counter()
    for dial in local.dials:
        dial.before = lambda name: asked.update([name])
    with local.grid() as grid:
        reports = dict(repair_many(grid, caps, LIST, MENDING))
    assert [reports[index].healthy for index in range(150)] == [True] * 150
    written = [reports[index].repair.written for index in range(150)]  # type: ignore[union-attr]
    assert sum(written) == 150 + len(damaged)
    assert {path: path.read_bytes() for path in local.share_files()} == before
    assert left_over(local) == []
    assert asked["create"] <= len(damaged) + 1
    assert sum(asked.values()) < 600  # one by one it would be thousands


@pytest.mark.parametrize("fault", ["bad source", "refuses"])
def test_what_does_not_go_smoothly_with_small_objects_is_done_one_by_one(local: LocalGrid, fault: str) -> None:
    caps = [put(local, content(5000, seed), Encoding()).verify_cap() for seed in range(4)]
    before = {cap.si: shares(local, cap, among=caps) for cap in caps}
    where = paths(local, caps[2], among=caps)
    for cap in caps:
        paths(local, cap, among=caps)[9].unlink()
    if fault == "bad source":
        for shnum in range(5):
            data = bytearray(where[shnum].read_bytes())
            data[200] ^= 1
            where[shnum].write_bytes(data)
    else:
        local.dials[server_of(where[9])].refuse_create = True
    with local.grid() as grid:
        reports = dict(repair_many(grid, caps, LIST, MENDING))
    assert [report.good_shares for _, report in sorted(reports.items())] == [10] * 4
    if fault == "bad source":
        assert proved(local, caps[2]).good_shares >= 8  # those that were met
    for cap in caps:
        now = shares(local, cap, among=caps)
        assert now[9] == before[cap.si][9]


def test_when_the_time_is_over_no_repair_is_begun(local: LocalGrid, cap: ChkVerifyCap) -> None:
    paths(local, cap)[2].unlink()
    report = mend(local, cap, replace(LIST, max_time=0))
    assert (report.good_shares, report.repair) == (9, Repair(False, False, 0, "the time was over"))


# ---- others at work


def test_a_guard_that_another_holds_is_named(local: LocalGrid, cap: ChkVerifyCap) -> None:
    where = paths(local, cap)
    where[5].write_bytes(where[5].read_bytes()[:-300])
    index = server_of(where[5])
    holder = local.grid()
    [store] = [store for store in holder.stores if store.server.name == f"s{index}"]
    with store.guard(cap.si):
        report = mend(local, cap, VERIFY)
    assert report.good_shares == 10  # on another server
    assert report.state == "degraded"
    assert report.repair is not None
    assert not report.repair.successful
    assert f"is being changed by process {os.getpid()}" in (report.repair.reason or "")
    assert f"s{index}" in (report.repair.reason or "")
    assert mend(local, cap, VERIFY).healthy
    assert list(quarantined(local)) == [(index, 5)]


@pytest.mark.slow
def test_a_guard_is_waited_for(local: LocalGrid, cap: ChkVerifyCap) -> None:
    where = paths(local, cap)
    where[5].write_bytes(where[5].read_bytes()[:-300])
    index = server_of(where[5])
    [store] = [store for store in local.grid().stores if store.server.name == f"s{index}"]
    guard = store.guard(cap.si)
    seen = 0

    def let_go(name: str) -> None:
        nonlocal seen
        seen += name == "create_many"  # an owner file: one try to take the guard
        if seen == 3:
            seen += 1
            guard.__exit__(None, None, None)

    local.dials[index].before = let_go
    report = mend(local, cap, VERIFY, replace(MENDING, patience=30))
    assert report.repair == Repair(True, True, 1)
    assert paths(local, cap)[5] == where[5]


@pytest.mark.parametrize("lost", [{0, 1, 9}, set()])
def test_two_repairs_at_once(local: LocalGrid, cap: ChkVerifyCap, lost: set[int]) -> None:
    before = shares(local, cap)
    where = paths(local, cap)
    for shnum in lost:
        where[shnum].unlink()
    for shnum in (4, 6):
        where[shnum].write_bytes(where[shnum].read_bytes()[:-100])
    reports: list[CheckReport] = []
    meeting = threading.Barrier(2)

    def run() -> None:
        with local.grid() as grid:
            meeting.wait()
            reports.append(repair(grid, cap, VERIFY, replace(MENDING, patience=30)))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [report.healthy for report in reports] == [True, True]
    assert shares(local, cap) == before
    assert left_over(local) == []


def test_a_share_that_appears_meanwhile_is_proved(local: LocalGrid, cap: ChkVerifyCap) -> None:
    """Somebody else puts a share there while ours is made: a good one stays, a bad one does not."""
    for good in (True, False):
        before = shares(local, cap)
        path = paths(local, cap)[9]
        whole = path.read_bytes()
        path.unlink()
        dial = local.dials[server_of(path)]

        def appear(name: str, path: Path = path, data: bytes = whole if good else whole[:2000]) -> None:
            if name == "close" and not path.exists():
                path.write_bytes(data)

        dial.before = appear
        report = mend(local, cap)
        dial.before = None
        assert report.repair == Repair(True, True, 0 if good else 1)
        assert shares(local, cap) == before
        assert len(quarantined(local)) == (0 if good else 1)
        assert left_over(local) == []


def test_the_file_is_the_same_afterwards(local: LocalGrid) -> None:
    data = content(SIZE)
    cap = put(local, data)
    where = paths(local, cap.verify_cap())
    old = [where[shnum] for shnum in (0, 1, 2, 3, 4)]
    for path in old:
        path.unlink()
    mend(local, cap)
    for shnum in (5, 6, 7, 8, 9):
        where[shnum].unlink()
    out = bytearray()
    with local.grid() as grid:
        download(grid, cap, out.extend)
    assert out == data


# ---- killed


def damage(local: LocalGrid, cap: ChkVerifyCap) -> None:
    """Two shares missing, one corrupt."""
    for shnum in (0, 8):
        paths(local, cap)[shnum].unlink()
    bad = paths(local, cap)[5]
    bad.write_bytes(bad.read_bytes()[:-100])


def killed(local: LocalGrid, cap: ChkVerifyCap, moment: int) -> bool:
    """Repair in a process that kills itself before its so-many-th operation on a server; whether it got there."""
    child = os.fork()
    if not child:
        counter = itertools.count(1)

        def strike(_: str) -> None:
            if next(counter) == moment:
                os.kill(os.getpid(), signal.SIGKILL)

        for dial in local.dials:
            dial.before = strike
        try:
            mend(local, cap)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def survives(local: LocalGrid, cap: ChkVerifyCap, moment: int, before: dict[int, bytes]) -> bool:
    damage(local, cap)
    reached = killed(local, cap, moment)
    seen = shares(local, cap)
    assert all(data in (before[shnum], before[shnum][:-100]) for shnum, data in seen.items())
    report = mend(local, cap, VERIFY)  # takes a guard of the dead without waiting
    assert report.healthy
    assert shares(local, cap) == before
    assert proved(local, cap).healthy
    return reached


def test_killed_at_some_moments(local: LocalGrid, cap: ChkVerifyCap) -> None:
    before = shares(local, cap)
    moment = 20
    while survives(local, cap, moment, before):
        moment += 9
    assert moment > 60


@pytest.mark.slow
@pytest.mark.parametrize("size", [3000, SIZE])
def test_killed_at_every_moment(local: LocalGrid, size: int) -> None:
    cap = put(local, content(size)).verify_cap()
    before = shares(local, cap)
    moment = 1
    while survives(local, cap, moment, before):
        moment += 1
    assert moment > 60
