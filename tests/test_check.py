"""Checks over real folders: missing, corrupt and unknown told apart; every wrong byte found; cost kept down."""

from __future__ import annotations

import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lafscli.errors import FileError, NotFound, ServerUnreachable
from lafscli.formats.caps import ChkCap, ChkVerifyCap, LitCap
from lafscli.formats.chk import HEADER_MAX, Layout, Sizes
from lafscli.formats.container import HEADER_SIZE, LEASE_SIZE, share_path
from lafscli.health import verify as verify_module
from lafscli.health.check import Checking, check, check_many
from lafscli.health.report import CheckReport
from lafscli.health.summary import Summary
from lafscli.health.underway import Sample
from lafscli.immutable.many import upload_many
from lafscli.immutable.upload import upload
from lafscli.placement import Encoding
from lafscli.proof.encoder import EncodedSegment, Encoder, encode_segment
from lafscli.storage.folder import FolderStore
from lafscli.storage.grid import Grid
from lafscli.storage.local import LocalFiles
from lafscli.storage.store import Buffer, FileRange, Reading
from tests.grids import LocalGrid, content, writing

SIZE = 700_000
SEGMENTS = Encoding(3, 7, 10, 131072)
LIST = Checking(7, os.urandom)
VERIFY = replace(LIST, verify=True)


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalGrid]:
    made = LocalGrid(tmp_path / "grid")
    yield made
    made.close()


def put(local: LocalGrid, data: bytes | BytesIO, encoding: Encoding = SEGMENTS) -> ChkVerifyCap:
    with local.grid() as grid:
        cap = upload(grid, data, writing(encoding)).cap
    assert isinstance(cap, ChkCap)
    return cap.verify_cap()


@pytest.fixture
def cap(local: LocalGrid) -> ChkVerifyCap:
    return put(local, content(SIZE))


def look(local: LocalGrid, cap: ChkVerifyCap | ChkCap | LitCap, checking: Checking = LIST) -> CheckReport:
    with local.grid() as grid:
        return check(grid, cap, checking)


def holder(local: LocalGrid, shnum: int) -> int:
    return next(int(name[1:]) for name, numbers in local.shares().items() if shnum in numbers)


def share_file(local: LocalGrid, cap: ChkVerifyCap, shnum: int) -> Path:
    return local.root(holder(local, shnum)) / share_path(cap.si, shnum)


def flip(path: Path, position: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


def damage(report: CheckReport) -> list[tuple[str, int]]:
    return [(bad.server, bad.shnum) for bad in report.corrupt]


# ---- what is counted


@pytest.mark.parametrize("checking", [LIST, VERIFY])
def test_a_healthy_file(local: LocalGrid, cap: ChkVerifyCap, checking: Checking) -> None:
    report = look(local, cap, checking)
    assert (report.state, report.healthy, report.recoverable) == ("healthy", True, True)
    assert (report.good_shares, report.happiness, report.happy, report.spare) == (10, 10, 7, 7)
    assert {shnum: [name] for shnum, (name,) in report.shares.items()} == {
        shnum: [name] for name, numbers in local.shares().items() for shnum in numbers
    }
    assert (report.corrupt, report.unreachable, report.flaw) == ((), (), None)
    assert report.proved == report.to_prove == (10 * -(-SIZE // 3) if checking.verify else 0)


def test_a_read_cap_and_a_literal_one(local: LocalGrid) -> None:
    with local.grid() as grid:
        read = upload(grid, content(1000), writing()).cap
    assert isinstance(read, ChkCap)
    assert look(local, read).healthy
    literal = look(local, LitCap(b"small"), VERIFY)
    assert (literal.healthy, literal.recoverable, literal.spare, literal.good_shares) == (True, True, None, 0)
    assert (literal.document()["storage_index"], literal.document()["kind"]) == (None, "lit")


@pytest.mark.parametrize("lost", [1, 7, 8])
def test_missing_shares(local: LocalGrid, cap: ChkVerifyCap, lost: int) -> None:
    for shnum in range(lost):
        share_file(local, cap, shnum).unlink()
    report = look(local, cap)
    assert report.good_shares == 10 - lost
    assert report.state == ("degraded" if lost < 8 else "unrecoverable")
    assert report.recoverable is (lost < 8)
    assert report.spare == (7 - lost if lost < 8 else -1)
    assert report.unreachable == ()


@pytest.mark.parametrize("many", [False, True])
def test_a_silent_server_makes_its_shares_unknown(local: LocalGrid, cap: ChkVerifyCap, many: bool) -> None:
    def report() -> CheckReport:
        with local.grid() as grid:
            return list(check_many(grid, [cap] * (100 if many else 1), LIST))[-1]

    for silent in (1, 7):
        for index in range(silent):
            local.dials[index].dead = True
        found = report()
        assert (found.state, found.recoverable, found.good_shares) == ("unknown", True, 10 - silent)
        assert [each.server for each in found.unreachable] == [f"s{index}" for index in range(silent)]
        assert "connection refused" in found.unreachable[0].reason
    local.dials[7].dead = True
    found = report()
    assert (found.state, found.recoverable, found.healthy) == ("unknown", None, False)


def test_all_shares_seen_is_healthy_though_a_server_is_silent(local: LocalGrid, cap: ChkVerifyCap) -> None:
    source, target = holder(local, 4), holder(local, 5)
    copy = local.root(target) / share_path(cap.si, 4)
    copy.write_bytes(share_file(local, cap, 4).read_bytes())
    local.dials[source].dead = True
    report = look(local, cap)
    assert (report.state, report.happiness, report.spare) == ("healthy", 9, 6)
    assert [each.server for each in report.unreachable] == [f"s{source}"]
    local.dials[source].dead = False
    assert look(local, cap).shares[4] == tuple(sorted((f"s{source}", f"s{target}")))


def test_damage_counts_before_silence(local: LocalGrid, cap: ChkVerifyCap) -> None:
    """A corrupt share on one server and silence of another: damaged. Too few shares and silence: nobody can tell."""
    local.dials[holder(local, 0)].dead = True
    flip(share_file(local, cap, 1), 20_000)
    report = look(local, cap, VERIFY)
    assert (report.state, damage(report)) == ("degraded", [(f"s{holder(local, 1)}", 1)])
    for shnum in range(2, 8):
        share_file(local, cap, shnum).unlink()
    assert look(local, cap, VERIFY).state == "unknown"


def test_a_server_given_up_is_empty_and_not_asked(local: LocalGrid, cap: ChkVerifyCap) -> None:
    asked: list[str] = []
    for index in range(3):
        local.dials[index].dead = True
        local.dials[index].before = asked.append
    report = look(local, cap, replace(VERIFY, assume_lost=frozenset({"s0", "s1", "s2"})))
    assert (report.state, report.good_shares, report.unreachable, report.happy) == ("degraded", 7, (), 7)
    assert asked == []
    report = look(local, cap, replace(LIST, assume_lost=frozenset(f"s{i}" for i in range(8))))
    assert (report.state, report.recoverable, report.happy) == ("unrecoverable", False, 2)


def test_a_server_given_up_that_there_is_not(local: LocalGrid, cap: ChkVerifyCap) -> None:
    with pytest.raises(NotFound, match="no server is called 'nobody'"):
        look(local, cap, replace(LIST, assume_lost=frozenset({"nobody", "s1"})))


def test_happiness_counts(tmp_path: Path) -> None:
    """All shares on too few servers is damage, unless there are no more servers."""
    local = LocalGrid(tmp_path, 3)
    cap = put(local, content(1000), Encoding(2, 3, 6))
    assert look(local, cap).healthy
    for index in (1, 2):
        for shnum in local.shares()[f"s{index}"]:
            target = local.root(0) / share_path(cap.si, shnum)
            shutil.move(local.root(index) / share_path(cap.si, shnum), target)
    report = look(local, cap)
    assert (report.good_shares, report.happiness, report.happy, report.spare) == (6, 1, 3, 0)
    assert (report.state, report.recoverable, report.healthy) == ("degraded", True, False)
    local.close()


def test_names_that_are_no_shares_of_the_file(local: LocalGrid, cap: ChkVerifyCap) -> None:
    folder = share_file(local, cap, 0).parent
    for name in ("10", "200", "note.txt", "3.tmp", "007"):
        (folder / name).write_bytes(b"x" * 100_000)
    (folder / "7").mkdir(exist_ok=True)
    assert look(local, cap, VERIFY).healthy


# ---- by presence


def store_many(local: LocalGrid, count: int) -> list[ChkVerifyCap]:
    with local.grid() as grid:
        done = upload_many(grid, [content(500 + i, i) for i in range(count)], writing())
    return [each.cap.verify_cap() for each in done if not isinstance(each, Exception) and isinstance(each.cap, ChkCap)]


def test_many_objects_cost_one_call_a_server(local: LocalGrid) -> None:
    caps = store_many(local, 200)
    calls: Counter[str] = Counter()
    with local.grid() as grid:
        for _ in check_many(grid, caps[:1], LIST):
            pass
        for dial in local.dials:
            dial.before = lambda name: calls.update([name])
        reports = list(check_many(grid, caps, LIST))
    assert [report.storage_index for report in reports] == [cap.si for cap in caps]
    assert {report.state for report in reports} == {"healthy"}
    assert calls["do"] == 10
    assert calls["listing"] == calls["read"] == 0


def test_what_is_not_where_it_should_be_is_looked_for(local: LocalGrid) -> None:
    """One object has a share elsewhere, one has lost one, and is a literal between them: only these are listed."""
    caps = store_many(local, 120)
    moved = share_file_of(local, caps[5], 3)
    target = local.root((holder_of(local, caps[5], 3) + 1) % 10) / share_path(caps[5].si, 3)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(moved, target)
    share_file_of(local, caps[70], 9).unlink()
    calls: Counter[str] = Counter()
    for dial in local.dials:
        dial.before = lambda name: calls.update([name])
    with local.grid() as grid:
        reports = list(check_many(grid, [*caps[:6], LitCap(b"here"), *caps[6:]], LIST))
    assert reports.pop(6).kind == "lit"
    states = {index: report.state for index, report in enumerate(reports) if report.state != "healthy"}
    assert states == {70: "degraded"}
    assert (reports[5].good_shares, reports[5].happiness) == (10, 9)
    assert 9 not in reports[70].shares
    assert calls["listing"] == 10


def holder_of(local: LocalGrid, cap: ChkVerifyCap, shnum: int) -> int:
    return next(i for i in range(10) if (local.root(i) / share_path(cap.si, shnum)).exists())


def share_file_of(local: LocalGrid, cap: ChkVerifyCap, shnum: int) -> Path:
    return local.root(holder_of(local, cap, shnum)) / share_path(cap.si, shnum)


def test_a_server_that_falls_silent_is_not_waited_for_again_and_again(local: LocalGrid) -> None:
    caps = store_many(local, 80)
    tries: list[str] = []

    def die(name: str) -> None:
        if name == "do":
            tries.append(name)
            raise ServerUnreachable("it hung")

    local.dials[3].before = die
    with local.grid() as grid:
        reports = list(check_many(grid, caps * 20, LIST))
    assert len(reports) == 1600
    assert {report.state for report in reports} == {"unknown"}
    assert {each.reason for report in reports for each in report.unreachable} == {"it hung"}
    assert len(tries) <= 2


# ---- sizes that can't be


def test_an_impossible_size_is_seen_without_reading(local: LocalGrid, cap: ChkVerifyCap) -> None:
    path = share_file(local, cap, 6)
    whole = path.read_bytes()
    for size in (0, 11, 12, 1000, SIZE // 3):
        path.write_bytes(whole[:size])
        report = look(local, cap)
        assert (report.state, report.good_shares, damage(report)) == ("degraded", 9, [(f"s{holder(local, 6)}", 6)])
        assert f"has {size} bytes" in report.corrupt[0].reason


# ---- every byte is proved


def sections(path: Path, sizes: Sizes) -> dict[str, tuple[int, int]]:
    """Where the parts of a container file lie."""
    data = path.read_bytes()
    layout = Layout.parse(data[HEADER_SIZE : HEADER_SIZE + HEADER_MAX])
    ends = {
        "share version": 4,
        "header": layout.data,
        "blocks": layout.plaintext_hash_tree,
        "plaintext hash tree": layout.crypttext_hash_tree,
        "crypttext hash tree": layout.block_hashes,
        "block hashes": layout.share_hashes,
        "share hashes": layout.uri_extension,
        "UEB length": layout.uri_extension + layout.length_size,
        "UEB": len(data) - HEADER_SIZE - LEASE_SIZE,
    }
    found = {"container version": (0, 4), "lease count": (8, 11)}
    start = 0
    for name, end in ends.items():
        found[name] = HEADER_SIZE + start, HEADER_SIZE + end
        start = end
    return found


REGIONS = [
    "container version",
    "lease count",
    "share version",
    "header",
    "blocks",
    "plaintext hash tree",
    "crypttext hash tree",
    "block hashes",
    "share hashes",
    "UEB length",
    "UEB",
]


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("form", ["one segment", "six segments", "pipe"])
def test_a_flipped_byte_in_each_region_is_found_and_named(local: LocalGrid, region: str, form: str) -> None:
    data = content(900 if form == "one segment" else SIZE)
    cap = put(local, BytesIO(data) if form == "pipe" else data)
    sizes = Sizes.plan(3, 10, cap.size, 131072)
    path = share_file(local, cap, 2)
    whole = path.read_bytes()
    start, end = sections(path, sizes)[region]
    reasons = {
        "container version": "container: version",
        "lease count": "container: ",
        "share version": "share header: version",
        "header": "share header: ",
        "blocks": "block ",
        "UEB": "UEB",
    }
    for position in sorted({start, (start + end) // 2, end - 1}):
        path.write_bytes(whole)
        flip(path, position)
        report = look(local, cap, VERIFY)
        assert (report.state, report.good_shares) == ("degraded", 9), position
        [bad] = report.corrupt
        assert (bad.server, bad.shnum) == (f"s{holder(local, 2)}", 2)
        assert reasons.get(region, "") in bad.reason, (position, bad.reason)
        assert (bad.sort == "incompatible") is ("version" in region)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalGrid, ChkVerifyCap]]:
    """Three servers, a file of four segments in 2-of-3."""
    local = LocalGrid(tmp_path_factory.mktemp("small"), 3)
    yield local, put(local, content(3000), Encoding(2, 3, 3, 800))
    local.close()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_bit_is_found(small: tuple[LocalGrid, ChkVerifyCap], data: st.DataObject) -> None:
    """All of the share; of the container all but the length that readers ignore (spec 02 §6) and the leases."""
    local, cap = small
    shnum = data.draw(st.integers(0, 2))
    path = share_file(local, cap, shnum)
    whole = path.read_bytes()
    position = data.draw(st.integers(HEADER_SIZE, len(whole) - LEASE_SIZE - 1))
    try:
        flip(path, position, data.draw(st.integers(0, 7)))
        report = look(local, cap, VERIFY)
    finally:
        path.write_bytes(whole)
    assert (report.state, damage(report)) == ("degraded", [(f"s{holder(local, shnum)}", shnum)])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_cut_is_found(small: tuple[LocalGrid, ChkVerifyCap], data: st.DataObject) -> None:
    local, cap = small
    path = share_file(local, cap, 1)
    whole = path.read_bytes()
    size = data.draw(st.integers(0, len(whole) - 1))
    try:
        path.write_bytes(whole[:size])
        report = look(local, cap, VERIFY)
    finally:
        path.write_bytes(whole)
    assert (report.state, damage(report)) == ("degraded", [(f"s{holder(local, 1)}", 1)])


def test_many_bad_blocks_make_one_line(local: LocalGrid, cap: ChkVerifyCap) -> None:
    path = share_file(local, cap, 8)
    for block in (0, 2, 5):
        flip(path, HEADER_SIZE + 36 + block * 43691 + 7)
    [bad] = look(local, cap, VERIFY).corrupt
    assert bad.reason == "block 0: wrong hash, and 2 more"


def test_a_share_of_another_number_or_another_file(local: LocalGrid, cap: ChkVerifyCap) -> None:
    other = put(local, content(SIZE, 1))
    share_file_of(local, cap, 1).write_bytes(share_file_of(local, cap, 3).read_bytes())
    share_file_of(local, cap, 2).write_bytes(share_file_of(local, other, 2).read_bytes())
    report = look(local, cap, VERIFY)
    assert [bad.shnum for bad in report.corrupt] == [1, 2]
    assert "share hashes" in report.corrupt[0].reason
    assert "UEB" in report.corrupt[1].reason


def test_what_readers_accept_is_no_damage(local: LocalGrid, cap: ChkVerifyCap) -> None:
    """Spec 09 §1: no lease and garbage behind the share, any length field, other leases."""
    path = share_file(local, cap, 0)
    whole = bytearray(path.read_bytes())
    path.write_bytes(whole[:4] + bytes(4) + whole[8:])
    assert look(local, cap, VERIFY).healthy
    path.write_bytes(whole[:8] + bytes(4) + whole[12:-LEASE_SIZE] + b"g" * 100)
    assert look(local, cap, VERIFY).healthy
    path.write_bytes(whole[:8] + (2).to_bytes(4, "big") + whole[12:] + bytes(LEASE_SIZE))
    assert look(local, cap, VERIFY).healthy


def test_a_mutable_container_in_its_place(local: LocalGrid, cap: ChkVerifyCap) -> None:
    path = share_file(local, cap, 0)
    head = b"Tahoe mutable container v1\n\x75\x09\x44\x03\x8e"
    path.write_bytes(head + bytes(path.stat().st_size - len(head)))
    [bad] = look(local, cap, VERIFY).corrupt
    assert (bad.shnum, bad.sort) == (0, "incompatible")


class Unreadable(LocalFiles):
    """A disk with a bad sector: one file can't be read."""

    bad = ""

    def read(self, wanted: list[FileRange]) -> Reading:  # type: ignore[override]
        reading = super().read(wanted)
        bad = self.bad

        class Answers:
            def finish(self) -> list[Buffer | FileError]:
                answers = reading.finish()
                return [
                    FileError("input/output error")
                    if item.path == bad and item.offset + item.length > 50_000
                    else answer
                    for item, answer in zip(wanted, answers, strict=True)
                ]

        return Answers()


def test_a_file_that_the_server_cannot_read(local: LocalGrid, cap: ChkVerifyCap) -> None:
    index = holder(local, 5)
    files = Unreadable(local.root(index))
    files.bad = share_path(cap.si, 5)
    with local.grid() as grid:
        stores = list(grid.stores)
        stores[index] = FolderStore(local.servers[index], files, random_bytes=os.urandom)
        with Grid(stores) as other:
            report = check(other, cap, VERIFY)
    [bad] = report.corrupt
    assert (bad.server, bad.shnum, bad.sort) == (f"s{index}", 5, "unreadable")
    assert "input/output error" in bad.reason
    assert (report.state, report.unreachable) == ("degraded", ())


# ---- servers that fail on the way


def dying(local: LocalGrid, index: int, reads: int) -> None:
    """Let a server die after so many reads."""
    seen: list[str] = []

    def before(name: str) -> None:
        seen.append(name)
        local.dials[index].dead = seen.count("read") > reads

    local.dials[index].before = before


@pytest.mark.parametrize("reads", [0, 1, 3, 5])
def test_a_server_that_dies_while_it_is_verified(local: LocalGrid, cap: ChkVerifyCap, reads: int) -> None:
    index = holder(local, 1)
    dying(local, index, reads)
    report = look(local, cap, VERIFY)
    assert (report.state, report.good_shares, report.flaw) == ("unknown", 9, None)
    assert [each.server for each in report.unreachable] == [f"s{index}"]
    assert report.corrupt == ()
    assert report.proved == report.to_prove == 9 * -(-SIZE // 3)


def test_seven_that_die(local: LocalGrid, cap: ChkVerifyCap) -> None:
    for shnum in range(7):
        dying(local, holder(local, shnum), 2)
    report = look(local, cap, VERIFY)
    assert (report.state, report.recoverable, report.good_shares) == ("unknown", True, 3)


def test_others_go_on_while_one_hangs(local: LocalGrid, cap: ChkVerifyCap, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify_module, "_PATIENCE", 0.05)
    index = holder(local, 0)
    reads = Counter[str]()
    released = threading.Event()
    done: set[int] = set()

    def hang(name: str) -> None:
        reads[name] += 1
        if reads["read"] == 3:
            local.dials[index].hang = released

    def count(number: int) -> Callable[[FileRange, bytes], bytes]:
        def answer(item: FileRange, data: bytes) -> bytes:
            if item.offset <= 12 + 36 + 5 * 43691 < item.offset + item.length:  # the last block
                done.add(number)
                if len(done) == 7:
                    released.set()
            return data

        return answer

    local.dials[index].before = hang
    for other in range(10):
        local.dials[other].flip = count(other)
    report = look(local, cap, VERIFY)
    assert released.is_set()
    assert report.healthy


def test_a_server_that_refuses_altogether_is_silent(local: LocalGrid, cap: ChkVerifyCap) -> None:
    """It says nothing about its shares: they are not corrupt."""

    def refuse(name: str) -> None:
        if name == "read":
            refused.append(name)
            if len(refused) > 2:
                raise FileError("permission denied")

    refused: list[str] = []
    local.dials[holder(local, 7)].before = refuse
    report = look(local, cap, VERIFY)
    assert (report.state, report.corrupt, report.good_shares) == ("unknown", (), 9)
    assert [each.reason for each in report.unreachable] == ["permission denied"]


def test_a_share_that_goes_away_is_missing(local: LocalGrid, cap: ChkVerifyCap) -> None:
    path = share_file(local, cap, 4)
    index = holder(local, 4)

    def before(name: str) -> None:
        if name == "read":
            path.unlink(missing_ok=True)

    local.dials[index].before = before
    report = look(local, cap, VERIFY)
    assert (report.state, report.good_shares, report.corrupt, report.unreachable) == ("degraded", 9, (), ())


# ---- whether the shares make the file


@pytest.mark.parametrize("lost", [(), (0,), (0, 1, 2)])
def test_bad_blocks_do_not_hide_what_the_others_make(
    local: LocalGrid, cap: ChkVerifyCap, lost: tuple[int, ...]
) -> None:
    for shnum in lost:
        share_file(local, cap, shnum).unlink()
    flip(share_file(local, cap, 3), HEADER_SIZE + 36 + 100_000)
    report = look(local, cap, VERIFY)
    assert (report.flaw, damage(report)) == (None, [(f"s{holder(local, 3)}", 3)])


class Liar(Encoder):
    """Writes a hash of one segment that its blocks do not decode to."""

    def add(self, segment: EncodedSegment, ciphertext: Buffer) -> None:
        if self._size == 2 * self._segment_size:
            segment = replace(segment, segment_hash=bytes(32))
        super().add(segment, ciphertext)


@pytest.mark.parametrize("lost", [(), (0, 2)])
def test_a_file_that_was_damaged_before_it_was_stored(tmp_path: Path, lost: tuple[int, ...]) -> None:
    """Every share proves, and yet no reader can have the file: that is what counts."""
    local = LocalGrid(tmp_path, 5)
    k, n, segment_size = 2, 5, 1000
    data = content(4500)
    encoder = Liar(k, n, segment_size)
    blocks: list[list[Buffer]] = [[] for _ in range(n)]
    for start in range(0, len(data), segment_size):
        segment = encode_segment(k, n, data[start : start + segment_size])
        encoder.add(segment, data[start : start + segment_size])
        for row, block in zip(blocks, segment.blocks, strict=True):
            row.append(block)
    trailer = encoder.finish()
    cap = ChkVerifyCap(b"s" * 16, trailer.ueb_hash, k, n, len(data))
    for shnum in range(n):
        path = local.root(shnum) / share_path(cap.si, shnum)
        path.parent.mkdir(parents=True)
        share = b"".join([trailer.header, *map(bytes, blocks[shnum]), trailer.tail(shnum)])
        path.write_bytes((2).to_bytes(4, "big") + len(share).to_bytes(4, "big") + bytes(4) + share)
    for shnum in lost:
        (local.root(shnum) / share_path(cap.si, shnum)).unlink()
    assert look(local, cap, Checking(5, os.urandom)).recoverable
    report = look(local, cap, replace(VERIFY, happy=5))
    assert report.flaw is not None
    assert "segment 2" in report.flaw
    assert (report.state, report.recoverable, report.healthy) == ("unrecoverable", False, False)
    local.close()


# ---- parts, and time


def test_a_sample_reads_its_part(local: LocalGrid) -> None:
    cap = put(local, content(2_000_000), Encoding(3, 7, 10, 16384))
    segments = -(-2_000_000 // 16386)
    read: Counter[str] = Counter()

    def count(item: FileRange, data: bytes) -> bytes:
        read["bytes"] += len(data)
        return data

    for dial in local.dials:
        dial.flip = count
    report = look(local, cap, replace(LIST, verify=True, sample=10))
    assert report.healthy
    part = report.proved / report.to_prove
    assert 0.09 < part < 0.12, segments
    assert read["bytes"] < 0.4 * report.to_prove


def test_a_sample_finds_what_it_reads(tmp_path: Path) -> None:
    """With every block wrong any sample finds it, be it as small as can be."""
    local = LocalGrid(tmp_path, 3)
    cap = put(local, content(5000), Encoding(2, 3, 3, 500))
    path = share_file(local, cap, 2)
    data = bytearray(path.read_bytes())
    for position in range(HEADER_SIZE + 36, HEADER_SIZE + 36 + 2500):
        data[position] ^= 1
    path.write_bytes(data)
    report = look(local, cap, replace(VERIFY, happy=3, sample=0.1))
    assert damage(report) == [(f"s{holder(local, 2)}", 2)]
    local.close()


@given(percent=st.floats(0.01, 100), sizes=st.lists(st.integers(1, 50 << 20), min_size=1, max_size=40))
@example(percent=76.0, sizes=[1, (2 << 20) + 1])
def test_samples_add_up(percent: float, sizes: list[int]) -> None:
    sample = Sample(percent, b"seed", alone=False)
    total = sum(-(-size >> 20) for size in sizes)
    fewer = 0  # a few bytes more than whole MiB make no segment: segments are a multiple of k, which is seen later
    chosen = 0
    for size in sizes:
        plan = Sizes.plan(3, 10, size, 1 << 20)
        fewer += -(-size >> 20) - plan.num_segments
        part = sample.part(size)
        runs = sample.stripes(plan, part)
        numbers = [number for first, last in runs for number in range(first, last)]
        assert numbers == sorted(set(numbers))
        assert set(numbers) <= set(range(plan.num_segments))
        chosen += len(numbers)
    assert abs(chosen - total * percent / 100) <= 1 + fewer


def test_a_sample_of_a_small_file_is_all_of_it(tmp_path: Path) -> None:
    """Its shares come whole anyway; each bad block counts once."""
    local = LocalGrid(tmp_path, 3)
    cap = put(local, content(9000), Encoding(2, 3, 3, 1000))
    flip(share_file(local, cap, 0), HEADER_SIZE + 36 + 4499)
    report = look(local, cap, replace(VERIFY, happy=3, sample=20))
    assert [bad.reason for bad in report.corrupt] == ["block 8: wrong hash"]
    assert report.proved == report.to_prove == 9000
    local.close()


def test_a_file_without_a_chosen_segment_is_only_counted(local: LocalGrid) -> None:
    caps = store_many(local, 60)
    with local.grid() as grid:
        reports = list(check_many(grid, caps, replace(VERIFY, sample=10)))
    read = [report for report in reports if report.proved]
    assert 5 <= len(read) <= 7
    assert all(report.proved == report.to_prove for report in read)
    assert {report.state for report in reports} == {"healthy"}


def test_no_time(local: LocalGrid) -> None:
    """What was begun is reported, what was not is not."""
    caps = store_many(local, 120)
    with local.grid() as grid:
        reports = list(check_many(grid, caps, replace(VERIFY, max_time=0)))
    assert 0 < len(reports) < 120
    assert {(report.state, report.proved) for report in reports} == {("healthy", 0)}
    assert all(report.to_prove for report in reports)


# ---- many


def test_a_run_over_many_goes_on_after_a_bad_one(local: LocalGrid) -> None:
    caps = store_many(local, 110)
    flip(share_file_of(local, caps[3], 1), 60)
    for shnum in range(8):
        share_file_of(local, caps[60], shnum).unlink()
    for shnum in range(2):
        share_file_of(local, caps[109], shnum).write_bytes(b"")
    summary = Summary()
    with local.grid() as grid:
        for report in check_many(grid, iter(caps), VERIFY):
            summary.add(report)
    assert summary.document() == {
        "objects": 110,
        "healthy": 107,
        "degraded": 2,
        "unrecoverable": 1,
        "unknown": 0,
        "repaired": 0,
        "corrupt_shares": 3,
    }


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(local: LocalGrid) -> None:
    """Read it all twice over: a file of 240 MB in shares, and its blocks, in less than 60 MB."""
    import tracemalloc

    cap = put(local, content(72 << 20), Encoding())
    tracemalloc.start()
    try:
        report = look(local, cap, VERIFY)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert report.healthy
    assert peak < 60 << 20
