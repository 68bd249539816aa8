"""Disks that are full, or fill up on the way: real ones (a tmpfs, where the tests may mount one), else a file access
that says so. `test_upload.py` has servers that are full from some byte on among other faults (fails_on_the_way).
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from lafscli.errors import NotHappy
from lafscli.formats.caps import ChkCap
from lafscli.health.check import Checking, check
from lafscli.immutable.download import download
from lafscli.immutable.many import upload_many
from lafscli.immutable.upload import Uploaded, upload
from lafscli.storage.folder import FolderStore
from lafscli.storage.grid import Grid
from lafscli.storage.sftp import SftpFiles
from lafscli.storage.store import Files, Progress
from tests.conftest import Mount
from tests.grids import LocalGrid, content, writing
from tests.lafs_process import Lafs
from tests.scripted_sftp import PipeStream

SIZE = 2_700_000
"""Shares of 900 kB: too small for a server to be asked beforehand whether it has room."""
LARGE = 6_000_000
"""Shares of 2 MB: servers are asked."""


class SmallDisks:
    """Ten servers, some of them on disks of their own; all but those are plain folders."""

    def __init__(self, folder: Path, mount: Mount, small: Sequence[int], options: str, transport: str) -> None:
        self.local = LocalGrid(folder)
        self.small = small
        self._transport = transport
        for index in small:
            root = self.local.root(index)
            identity = (root / "server.toml").read_bytes()
            mount(root, options)
            (root / "server.toml").write_bytes(identity)
            for name in ("shares", "staging", "trash", "quarantine", "locks"):
                (root / name).mkdir()

    def grid(self) -> Grid:
        stores = list(self.local.grid().stores)
        for index in self.small if self._transport == "sftp" else ():
            root = self.local.root(index)
            files: Files = SftpFiles(PipeStream, str(root), name=f"s{index}", timeout=20)
            stores[index] = FolderStore(self.local.servers[index], files, random_bytes=os.urandom)
        return Grid(stores)

    def left(self, index: int) -> list[Path]:
        """All files of a server but its identity."""
        return [path for path in self.local.root(index).rglob("*") if path.is_file() and path.name != "server.toml"]


Disks = Callable[..., SmallDisks]


@pytest.fixture
def disks(tmp_path: Path, mount: Mount) -> Iterator[Disks]:
    made: list[SmallDisks] = []

    def make(small: Sequence[int], options: str, transport: str) -> SmallDisks:
        made.append(SmallDisks(tmp_path / "grid", mount, small, options, transport))
        return made[-1]

    yield make
    for each in made:
        each.local.close()


class Notes(Progress):
    def __init__(self) -> None:
        self.said: list[str] = []
        self.sent: dict[str, int] = {}

    def warn(self, message: str) -> None:
        self.said.append(message)

    def server(self, name: str, count: int) -> None:
        self.sent[name] = self.sent.get(name, 0) + count


def stored_on_nine(made: SmallDisks, data: bytes) -> tuple[ChkCap, Notes]:
    notes = Notes()
    with made.grid() as grid:
        done = upload(grid, data, writing(), notes)
    assert done.happiness == 9
    assert isinstance(done.cap, ChkCap)
    out = bytearray()
    with made.grid() as grid:
        download(grid, done.cap, out.extend)
        report = check(grid, done.cap.verify_cap(), Checking(7, os.urandom, verify=True))
    assert out == data
    assert report.corrupt == ()
    assert report.good_shares >= 9
    assert made.local.staged() == []
    return done.cap, notes


transports = pytest.mark.parametrize("transport", ["local", "sftp"])


@transports
def test_one_disk_fills_up_on_the_way(disks: Disks, transport: str) -> None:
    made = disks([3], "size=600k", transport)
    cap, notes = stored_on_nine(made, content(SIZE))
    assert made.left(3) == []
    assert any("server s3" in text for text in notes.said)
    subprocess.run(["mount", "-o", "remount,size=4m", str(made.local.root(3))], check=True)
    with made.grid() as grid:
        again = upload(grid, content(SIZE), writing())
    assert (again.cap, again.happiness, again.pushed) == (cap, 10, 1)


@transports
def test_four_disks_fill_up_on_the_way(disks: Disks, transport: str) -> None:
    """Too many: nothing is stored, and nothing stays on any of them."""
    made = disks([0, 3, 5, 9], "size=600k", transport)
    with made.grid() as grid, pytest.raises(NotHappy) as caught:
        upload(grid, content(SIZE), writing())
    assert "s0, s3, s5, s9: " in caught.value.message
    assert "no space left" in caught.value.message or transport == "sftp"  # OpenSSH says only that it failed
    assert [made.left(index) for index in range(10)] == [[]] * 10


@transports
def test_a_disk_that_is_known_to_be_too_small_gets_nothing(disks: Disks, transport: str) -> None:
    made = disks([3], "size=2500k", transport)
    _, notes = stored_on_nine(made, content(LARGE))
    assert "s3" not in notes.sent
    assert made.left(3) == []


def test_four_that_are_too_small_are_told_before_anything_is_sent(disks: Disks) -> None:
    made = disks([0, 3, 5, 9], "size=2500k", "local")
    notes = Notes()
    with made.grid() as grid, pytest.raises(NotHappy, match="s0, s3, s5, s9: has no room"):
        upload(grid, content(LARGE), writing(), notes)
    assert notes.sent == {}
    assert [made.left(index) for index in range(10)] == [[]] * 10


def filling(root: Path, *, at: str, count: int) -> Callable[[str], None]:
    """For a dial: somebody else takes all the room that is left, at the so many-th operation of this name."""
    seen = 0

    def act(name: str) -> None:
        nonlocal seen
        seen += name == at
        if seen == count and name == at:
            with suppress(OSError), (root / "other").open("ab", buffering=0) as file:
                while True:
                    file.write(bytes(65536))
            with suppress(OSError), (root / "rest").open("ab", buffering=0) as file:
                while True:
                    file.write(bytes(1))

    return act


@pytest.mark.parametrize(("at", "count"), [("write", 2), ("write", 4), ("close", 1)])
@pytest.mark.parametrize("small", [[3], [0, 3, 5, 9]])
def test_somebody_else_takes_the_room(disks: Disks, at: str, count: int, small: list[int]) -> None:
    """At the header, in the middle of the blocks, or when there are only trees, lease and fsync to come."""
    made = disks(small, "size=6m", "local")
    for index in small:
        made.local.dials[index].before = filling(made.local.root(index), at=at, count=count)
    # when everything was written, a full disk has what it needs
    stored_on = 10 if at == "close" else 10 - len(small)
    with made.grid() as grid:
        if stored_on < 7:
            with pytest.raises(NotHappy):
                upload(grid, content(LARGE), writing())
            assert made.local.shares() == {}
        else:
            done = upload(grid, content(LARGE), writing())
            assert done.happiness == stored_on
    assert made.local.staged() == []


@transports
@pytest.mark.parametrize("free", [0, 1, 2])
def test_a_disk_without_room_for_names(disks: Disks, transport: str, free: int) -> None:
    """No inode for the staged file, for the folder of the prefix, for that of the storage index."""
    made = disks([3], f"size=9m,nr_inodes={7 + free}", transport)
    stored_on_nine(made, content(SIZE))
    assert made.left(3) == []


@transports
def test_small_files_and_a_full_disk(disks: Disks, transport: str) -> None:
    made = disks([3], "size=96k", transport)
    with made.grid() as grid:
        done = upload_many(grid, [content(20_000, seed) for seed in range(20)], writing())
    assert all(isinstance(each, Uploaded) and each.happiness >= 9 for each in done)
    assert made.local.staged() == []
    with made.grid() as grid:
        caps = [each.cap.verify_cap() for each in done if isinstance(each, Uploaded) and isinstance(each.cap, ChkCap)]
        for cap in caps:
            report = check(grid, cap, Checking(7, os.urandom, verify=True))
            assert report.corrupt == ()
            assert report.good_shares >= 9


# ---- without a disk


ROOMS = {
    "nothing": lambda size: 0,
    "a part of the container's header": lambda size: 11,
    "the container's header": lambda size: 12,
    "half of the blocks": lambda size: size // 2,
    "all but the lease": lambda size: size - 72,
    "all but a byte": lambda size: size - 1,
    "just enough": lambda size: size,
}


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize("count", [1, 4])
def test_full_from_any_byte_on(tmp_path: Path, room: str, count: int) -> None:
    """A server that is full at once is planned without, and its share goes to another; later nobody takes it."""
    local = LocalGrid(tmp_path)
    with local.grid() as grid:
        upload(grid, content(SIZE), writing())
    sizes = {path.stat().st_size for path in local.share_files()}
    for path in local.share_files():
        path.unlink()
    [size] = sizes
    for index in range(count):
        local.dials[index].full_after = ROOMS[room](size)
    fits = room == "just enough"
    with local.grid() as grid:
        if count == 1 or fits:
            done = upload(grid, content(SIZE), writing())
            assert done.happiness == (10 if fits else 9)
            assert len(local.share_files()) >= done.happiness
        else:
            with pytest.raises(NotHappy, match="no space left"):
                upload(grid, content(SIZE), writing())
            assert local.share_files() == []
    assert local.staged() == []
    local.close()


# ---- from the command line


def test_put_on_full_disks_and_get_to_one(tmp_path: Path, mount: Mount) -> None:
    lafs = Lafs(tmp_path)
    lafs("init", "--local", code=0)
    (lafs.folder / "file").write_bytes(content(SIZE))
    (lafs.folder / "cap").write_bytes(lafs("put", "file", code=0).stdout)

    full = lafs.folder / "full"
    mount(full, "size=1m")
    done = lafs("get", "@cap", full / "copy", code=1)
    assert b"no space left" in done.stderr.lower()
    assert list(full.iterdir()) == []

    (lafs.folder / "file").write_bytes(content(SIZE, 1))
    for number in range(4):
        root = lafs.home / f"grid/local{number}"
        kept = {path.name: path.read_bytes() for path in root.iterdir() if path.is_file()}
        mount(root, "size=600k")
        for name, data in kept.items():
            (root / name).write_bytes(data)
        for name in ("shares", "staging", "locks", "trash", "quarantine"):
            (root / name).mkdir()
    before = sorted((lafs.home / "grid").glob("*/shares/*/*/*"))
    done = lafs("put", "file", code=4)
    assert done.stdout == b""
    assert b"local0, local1, local2, local3: " in done.stderr
    assert b"no space left" in done.stderr.lower()
    assert sorted((lafs.home / "grid").glob("*/shares/*/*/*")) == before
    assert list((lafs.home / "grid").glob("*/staging/[!.]*")) == []
