"""The large file that is moved, checked and repaired, and the shares that lafs makes of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from pathlib import Path

from lafscli.formats.container import HEAD_SIZE, ImmutableContainer
from tests.bench.field import SERVERS, Field
from tests.bench.processes import Cost

_PIECE = 1 << 20


class Subject:
    """A file `data` of `size` bytes, once put on ten servers.

    `places`: share number to server and container there; `ready`: a folder with a copy of each container, named by
    its number; `bytes`: of all containers; `cap`: a file with the cap.
    """

    def __init__(self, ground: Field, size: int) -> None:
        self.ground = ground
        self.size = size
        self.data = ground.random_file("data", size)
        ground.clear()
        _cost, answer = ground.lafs_json("put", self.data)
        self.cap = ground.folder / "cap"
        self.cap.write_text(answer["cap"] + "\n")
        self.places = ground.stored()
        assert sorted(self.places) == list(range(SERVERS)), "ten servers get a share each"
        self.ready = ground.folder / "ready"
        self.ready.mkdir()
        for shnum, (_, path) in self.places.items():
            shutil.copy(path, self.ready / str(shnum))
        self.bytes = sum(self.share_size(shnum) for shnum in self.places)

    def share_size(self, shnum: int) -> int:
        """Bytes of the container of a share."""
        return (self.ready / str(shnum)).stat().st_size

    def restore(self, lost: Collection[int] = ()) -> None:
        """The servers hold what they held after the put, but for these shares."""
        self.ground.clear()
        for shnum, (_, path) in self.places.items():
            if shnum not in lost:
                path.parent.mkdir(mode=0o700, parents=True)
                shutil.copy(self.ready / str(shnum), path)
        os.sync()

    def assert_whole(self) -> None:
        """Every server holds one share, each as it was after the put; leases may differ."""
        found = self.ground.stored()
        assert sorted(found) == sorted(self.places), f"these shares are there: {sorted(found)}"
        assert sorted(i for i, _ in found.values()) == list(range(SERVERS)), "a server has two shares"
        for shnum, (_, path) in found.items():
            assert _same_share(path, self.ready / str(shnum)), f"share {shnum} has other bytes than it had"

    # ---- OpenSSH's sftp, all at once

    def sftp_put(self, shnums: Collection[int]) -> Cost:
        """Put the containers of these shares, each to its server, beside what lafs stores there."""
        root = self.ground.servers.root
        lines = [(self.places[n][0], f"put {self.ready / str(n)} {root(self.places[n][0])}/bench/{n}") for n in shnums]
        return self.ground.sftp(lines)

    def sftp_get(self, shnums: Collection[int]) -> Cost:
        """Get the containers of these shares."""
        out = self.ground.fresh()
        return self.ground.sftp([(self.places[n][0], f"get {self.places[n][1]} {out}/{n}") for n in shnums])


def _same_share(first: Path, second: Path) -> bool:
    with first.open("rb") as one, second.open("rb") as other:
        ends = []
        for path, file in ((first, one), (second, other)):
            container = ImmutableContainer.parse_header(file.read(HEAD_SIZE), path.stat().st_size)
            file.seek(container.data_offset)
            ends.append(container.data_length)
        left = ends[0]
        while left > 0 and ends[0] == ends[1]:
            piece = one.read(min(left, _PIECE))
            if not piece or piece != other.read(len(piece)):
                return False
            left -= len(piece)
        return ends[0] == ends[1]
