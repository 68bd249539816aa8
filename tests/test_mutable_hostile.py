"""Servers that would have a client read without end, or lose itself in what they claim about a mutable file."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from lafscli.errors import FileDenied, FileError
from lafscli.formats.container import share_path
from lafscli.formats.mutable_container import DATA_OFFSET
from lafscli.mutable.publish import create, modify
from lafscli.mutable.survey import DEEP, survey
from lafscli.primitives.encoding import b32encode
from lafscli.storage.locks import Locks
from lafscli.storage.ops import Answer, Op, Stat
from tests.grids import DialledFiles, LocalGrid
from tests.slots import content_of, publishing

_O_EOF = DATA_OFFSET + 99
_MORE = 300 << 20


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[LocalGrid]:
    grid = LocalGrid(tmp_path)
    yield grid
    grid.close()


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def test_a_private_key_of_terabytes_is_not_read(servers: LocalGrid) -> None:
    """The offsets of SDMF are not signed, and a sparse file costs its server nothing."""
    made = create(servers.grid(), b"one", publishing(), mdmf=False)
    for index in range(3):
        [path] = (servers.root(index) / "shares").glob("*/*/*")
        size = 1 << 42
        with path.open("r+b") as file:
            file.seek(84)
            file.write(size.to_bytes(8, "big") + (DATA_OFFSET + size).to_bytes(8, "big"))
            file.seek(_O_EOF)
            file.write(size.to_bytes(8, "big"))
            file.truncate(DATA_OFFSET + size + 4)
    before = peak()
    modify(servers.grid(), made.cap, lambda old: old + b" two", publishing())
    assert peak() - before < _MORE
    assert content_of(servers.grid(), made.cap) == b"one two"


def test_thousands_of_leftovers_are_not_read_whole(servers: LocalGrid) -> None:
    made = create(servers.grid(), b"x" * 900_000, publishing(), mdmf=False)
    si = made.cap.verify_cap().si
    [share] = (servers.root(0) / "shares").glob("*/*/*")
    for guard in range(8):
        folder = servers.root(0) / "locks" / f".broken.{b32encode(si)}.t{guard}" / "t"
        folder.mkdir(parents=True)
        for number in range(250):
            os.link(share, folder / str(number))
    before = peak()
    found = survey(servers.grid(), made.cap.verify_cap(), depth=DEEP, guards=True)
    assert peak() - before < _MORE
    assert not found.silent
    (servers.root(0) / "locks" / f".broken.{b32encode(si)}.t9" / "t").mkdir(parents=True)
    for number in range(100):
        os.link(share, servers.root(0) / "locks" / f".broken.{b32encode(si)}.t9" / "t" / f"old.{number}")
    found = survey(servers.grid(), made.cap.verify_cap(), depth=DEEP, guards=True)
    assert list(found.silent) == ["s0"]
    assert content_of(servers.grid(), made.cap) == b"x" * 900_000


def test_numbers_that_no_share_has_are_no_leftovers(servers: LocalGrid) -> None:
    made = create(servers.grid(), b"one", publishing(), mdmf=False)
    si = made.cap.verify_cap().si
    folder = servers.root(0) / "locks" / f".broken.{b32encode(si)}.t" / "t"
    folder.mkdir(parents=True)
    [share] = (servers.root(0) / "shares").glob("*/*/*")
    os.link(share, folder / "256")
    os.link(share, folder / "old.255")
    found = survey(servers.grid(), made.cap.verify_cap(), guards=True)
    assert [one.file.path for one in found.found if one.file.kind != "place"] == []
    assert share_path(si, int(share.name)) in [one.file.path for one in found.found]


class Denying(DialledFiles):
    """Does not tell whether a guard is there."""

    def do(self, ops: Sequence[Op]) -> list[Answer]:
        answers = super().do(ops)
        return [
            FileDenied("denied") if isinstance(op, Stat) and op.path.startswith("locks/") else answer
            for op, answer in zip(ops, answers, strict=True)
        ]


def test_a_guard_that_can_not_be_broken_is_not_forgotten(servers: LocalGrid) -> None:
    """A late request of the lost connection might fire under the next guard (spec 10 §1.1)."""
    from lafscli.storage.local import LocalFiles

    si = bytes(16)
    files = DialledFiles(LocalFiles(servers.root(0)), servers.dials[0])
    locks = Locks(servers.servers[0], files, random_bytes=os.urandom)
    guard = locks.take(si)
    locks._cut_off(si, guard.token)
    locks._files = Denying(LocalFiles(servers.root(0)), servers.dials[0])
    for _ in range(2):
        with pytest.raises(FileError):
            locks.take(bytes(15) + b"\1")
    locks._files = files
    locks.take(bytes(15) + b"\1").release()
    assert not any((servers.root(0) / "locks" / b32encode(si)).glob("*"))
