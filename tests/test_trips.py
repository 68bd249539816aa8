"""How many round trips things take on a server, counted on a real sftp-server (DESIGN §1.4)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lafscli.formats.container import share_path
from lafscli.formats.mutable_container import DATA_OFFSET, MutableContainer
from lafscli.storage.enrol import Identity
from lafscli.storage.folder import FolderStore
from lafscli.storage.sftp import SftpFiles
from lafscli.storage.store import FileRange, FileStat, Lease, List, Mkdir, NewFile, NewShare, Rename, Server, Stat
from tests.guard_process import ALL, FOLDERS
from tests.scripted_sftp import PipeStream
from tests.trips import trips

SI = bytes(range(16))
NODE_ID = bytes(20)
CONTAINER = MutableContainer.new(NODE_ID, bytes(32)).resized(1000)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in FOLDERS:
        (tmp_path / folder).mkdir()
    (tmp_path / "server.toml").write_bytes(Identity(NODE_ID, bytes(20)).serialise())
    return tmp_path


@pytest.fixture
def files(root: Path) -> Iterator[SftpFiles]:
    made = SftpFiles(PipeStream, str(root), name="blue")
    made.do([Stat("locks")])
    yield made
    made.close()


def store(files: SftpFiles, *, without: str = "") -> FolderStore:
    server = Server("blue", NODE_ID, bytes(20), features=ALL - {without})
    return FolderStore(server, files, random_bytes=os.urandom)


def put(root: Path, shnum: int = 3) -> list[bytes]:
    """A container in place; its parts."""
    path = root / share_path(SI, shnum)
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = [CONTAINER.front(), bytes(1000), CONTAINER.back()]
    path.write_bytes(b"".join(parts))
    return parts


def test_a_batch_takes_two_round_trips(files: SftpFiles) -> None:
    with trips(files) as counted:
        files.do([Mkdir("a"), Mkdir("a/b"), Rename("a", "c"), Stat("c/b")])
    assert counted.count == 1
    with trips(files) as counted:
        ops = [Mkdir("d"), NewFile("d/f", [bytes(1000)], sync=True, stat=True), List("d"), List("c"), Stat("d")]
        _, reading = files.do_and_read(ops, [FileRange("d/f", 0, 100), FileRange("none", 0, 100)])
        reading.finish()
    assert counted.count == 2
    with trips(files) as counted:
        files.listing(["a", "c", "d"])
    assert counted.count == 2


@pytest.mark.parametrize("sync", [False, True])
def test_small_files_take_two_round_trips_and_new_shares_three(files: SftpFiles, sync: bool) -> None:
    with trips(files) as counted:
        new = [NewFile(f"f{number}", [bytes(1000)], stat=True) for number in range(50)]
        assert all(isinstance(answer, FileStat) for answer in files.create_many(new, sync=sync))
    assert counted.count == 2
    blue = store(files)
    lease = Lease(bytes(32), bytes(32), 2_000_000_000)
    shares = [NewShare(bytes([number]) * 16, 1, [bytes(1000)], lease) for number in range(50)]
    with trips(files) as counted:
        assert blue.create_many(shares) == [None] * 50
    assert counted.count == 3


def test_a_change_takes_six_round_trips(root: Path, files: SftpFiles) -> None:
    """Guard and survey two, staging two, commit one; what is read back comes with the release."""
    parts = put(root)
    blue = store(files)
    with trips(files) as counted:
        entered = blue.enter(SI, 4096, [3])
        assert counted.count == 2
        [found] = entered.placed.containers
        assert found.front == b"".join(parts)
        assert entered.left.containers == ()
        there = FileRange(found.path, 0, 600)
        unchanged = entered.guard.stage([(3, parts)], look=[there])
        assert unchanged.finish() == [b"".join(parts)[:600]]
        assert counted.count == 4
        read_back = entered.guard.commit([3], quarantine=False, then=[there])
        assert entered.guard.bare
        entered.guard.release()
        assert read_back.finish() == [b"".join(parts)[:600]]
        assert counted.count == 6
    assert counted.requests < 60
    assert list((root / "locks").iterdir()) == []


def test_what_was_not_expected_costs_more(root: Path, files: SftpFiles) -> None:
    parts = put(root)
    put(root, 7)
    blue = store(files)
    for expected in ([], [1, 3]):
        with trips(files) as counted:
            entered = blue.enter(SI, 4096, expected)
            assert counted.count == 4
            assert [one.shnum for one in entered.placed.containers] == [3, 7]
            entered.guard.release()
        with trips(files) as counted:
            assert [one.shnum for one in blue.slots([SI], 4096)[0].containers] == [3, 7]  # type: ignore[union-attr]
        assert counted.count == 4
    with blue.guard(SI) as guard:
        guard.stage([(3, parts)])
        guard.set_aside()
    with trips(files) as counted:
        entered = blue.enter(SI, 4096, [3, 7])
        assert [one.kind for one in entered.left.containers] == ["staged"]
        assert entered.left.survivors is not None
        blue.forget(entered.left.survivors)
        entered.guard.release()
    assert counted.count == 2 + 2 + 2 + 2 + 1 + 1
    assert list((root / "locks").iterdir()) == []


def test_a_server_that_may_not_keep_the_order_is_asked_one_thing_after_the_other(root: Path, files: SftpFiles) -> None:
    parts = put(root)
    with trips(files) as counted:
        entered = store(files, without="ordered").enter(SI, 4096, [3])
        assert [one.front for one in entered.placed.containers] == [b"".join(parts)]
        entered.guard.release()
    assert counted.count == 6


def test_many_slots_are_looked_at_in_two_round_trips(root: Path, files: SftpFiles) -> None:
    parts = put(root)
    sis = [SI, bytes(16), *(bytes([number]) * 16 for number in range(1, 20))]
    with trips(files) as counted:
        found, *none = store(files).slots(sis, DATA_OFFSET, [3, *([1] * 20)])
    assert counted.count == 2
    assert [one.front for one in found.containers] == [b"".join(parts)[:DATA_OFFSET]]  # type: ignore[union-attr]
    assert all(one.containers == () for one in none)  # type: ignore[union-attr]
