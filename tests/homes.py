"""Homes that share a grid of tests, on a clock of their own: what `gc` finds is as old as the test says."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from lafscli.formats.caps import Cap, ChkVerifyCap, DirectoryCap, MutableVerifyCap
from lafscli.formats.container import is_mutable
from lafscli.health.collect import Collected, collect
from lafscli.health.deep import Objects, Root
from lafscli.health.renew import renew_many
from lafscli.immutable.upload import upload
from lafscli.placement import Encoding
from lafscli.primitives.encoding import b32encode
from lafscli.storage.journal import Journal
from lafscli.tree.contents import Access
from lafscli.tree.directory import NewChild, create_directory, edit
from tests.grids import LocalGrid, content
from tests.mutable_access import access_to

DAY = 24 * 3600
ENCODING = Encoding(2, 3, 4)
GRACE = 14 * DAY


class World:
    """A grid of four servers, and its clock: `now`, behind the real one by a year."""

    def __init__(self, folder: Path) -> None:
        self.local = LocalGrid(folder / "grid", 4)
        self.folder = folder
        self.now = int(time.time()) - 365 * DAY

    def settle(self) -> None:
        """Let all that was written since then have been written now."""
        for path in self.local.base.glob("s?/shares/*/*/*"):
            if path.stat().st_mtime > self.now:
                os.utime(path, (self.now, self.now))

    def later(self, days: float) -> None:
        self.settle()
        self.now += int(days * DAY)

    def shares(self, cap: Cap) -> list[Path]:
        """Of an object, those in place."""
        si = cap.storage_index
        assert si is not None
        return [path for path in self.local.share_files() if path.parent.name == b32encode(si)]

    def trash(self) -> list[Path]:
        return sorted(self.local.base.glob("s?/trash/*/*"))


class Home:
    """One home: its lease secret, its roots."""

    def __init__(self, world: World, secret: bytes = b"l" * 32) -> None:
        self.world = world
        self.secret = secret
        self.roots: list[Cap] = []
        self.journal = Journal(world.folder / f"uploads-{secret[:1].decode()}")
        self.grid = world.local.grid()

    @property
    def access(self) -> Access:
        made = access_to(self.grid, ENCODING, now=self.world.now)
        ours = {"lease_secret": self.secret, "now": self.world.now}
        writing = replace(made.writing, journal=self.journal, **ours)
        return replace(made, writing=writing, publishing=replace(made.publishing, **ours))

    def put(self, seed: int, size: int = 100) -> Cap:
        cap = upload(self.grid, content(size, seed), self.access.writing).cap
        self.world.settle()
        return cap

    def mkdir(self, kind: str = "chk", **children: Cap) -> DirectoryCap:
        made = create_directory(self.access, {name: NewChild(cap, {}) for name, cap in children.items()}, kind=kind)  # type: ignore[arg-type]
        self.world.settle()
        return made

    def link(self, directory: DirectoryCap, name: str, cap: Cap | None) -> None:
        """Give an object a name, or take the name away."""
        now = self.access.now
        if cap is None:
            edit(self.access, directory, lambda table: table.unlink(name))
        else:
            edit(self.access, directory, lambda table: table.link(name, cap, now=now))
        self.world.settle()

    def renew(self, *caps: Cap) -> None:
        """Renew the leases on all that these lead to, or the roots."""
        roots = [Root("", cap) for cap in caps or self.roots]
        objects = Objects(self.access, roots, deep=True)
        list(renew_many(self.grid, _stored(objects), self.access.writing.lease))
        self.world.settle()

    def gc(
        self,
        *,
        delete: bool = True,
        grace: int = GRACE,
        roots: Callable[[], Sequence[Cap]] | None = None,
        now: int | None = None,
    ) -> Collected:
        access = self.access
        if now is not None:
            access = replace(access, writing=replace(access.writing, now=now))

        def named() -> list[Root]:
            return [Root(f"{number}:", cap) for number, cap in enumerate(self.roots if roots is None else roots())]

        return collect(access, named, delete=delete, grace=grace)


def _stored(objects: Objects):  # type: ignore[no-untyped-def]
    for number, cap in enumerate(objects.caps()):
        objects.take_path(number)
        verify = (cap.inner if isinstance(cap, DirectoryCap) else cap).verify_cap()
        if isinstance(verify, ChkVerifyCap | MutableVerifyCap):
            yield verify


def age(grid: Path, days: float) -> None:
    """Let all shares on the servers in this folder have been stored, and their leases renewed, so much earlier."""
    seconds = int(days * DAY)
    for path in grid.glob("*/shares/*/*/*"):
        data, before = bytearray(path.read_bytes()), path.stat().st_mtime
        if is_mutable(data):
            places = [104 + 92 * slot for slot in range(4)]
        else:
            places = [len(data) - 4 - 72 * lease for lease in range(int.from_bytes(data[8:12], "big"))]
        for at in places:
            expiration = int.from_bytes(data[at : at + 4], "big")
            data[at : at + 4] = max(0, expiration - seconds).to_bytes(4, "big")
        path.write_bytes(data)
        os.utime(path, (before - seconds, before - seconds))
