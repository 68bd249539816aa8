"""What all doors of a gateway stand on: spools, the desk, content that is pulled."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lafscli.config.home import Home
from lafscli.formats.caps import MutableWriteCap
from lafscli.gateway.desk import Desk
from lafscli.gateway.reading import open_content
from lafscli.gateway.spool import Spool
from lafscli.tree import contents
from lafscli.tree.directory import NewChild, create_directory
from tests.lafs_process import Lafs


def grid_of_folders(lafs: Lafs, count: int = 10) -> Home:
    """A home with servers that are folders here."""
    lines = ["init"]
    for index in range(count):
        (lafs.folder / f"s{index}").mkdir()
        lines.append(f"server add s{index} file://{lafs.folder}/s{index}")
    lafs("batch", input="\n".join(lines).encode(), code=0)
    return Home.find(str(lafs.home))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return grid_of_folders(Lafs(tmp_path_factory.mktemp("grid")))


@pytest.fixture(scope="module")
def desk(home: Home) -> Iterator[Desk]:
    desk = Desk(home, note=lambda _: None)
    yield desk
    desk.close()


def test_spool_keeps_what_was_written_where_it_was_written(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spools", os.urandom, limit=1000)
    model = bytearray()
    for index in range(300):
        piece = os.urandom(1 + index * 37 % 9000)
        offset = len(model) if index % 3 else index * 7919 % 700_000
        if index % 50 == 49:
            size = index * 1234
            spool.truncate(size)
            model = model[:size] + bytes(max(0, size - len(model)))
            continue
        model += bytes(max(0, offset + len(piece) - len(model)))
        model[offset : offset + len(piece)] = piece
        spool.write(offset, piece)
        assert spool.size == len(model)
    assert spool.read(0, 1 << 30) == model
    assert spool.read(5000, 3000) == model[5000:8000]
    assert list((tmp_path / "spools").iterdir()) == []
    spool.close()


def test_content_of_every_kind_is_pulled_in_ranges(desk: Desk) -> None:
    data = os.urandom(3_000_000)
    with desk.access() as access, desk.spool() as spool:
        spool.append(data)
        for kind in ("chk", "sdmf", "mdmf"):
            stored = contents.store(access, spool, kind)
            content = open_content(access, stored.cap)
            assert content.size == len(data)
            assert b"".join(map(bytes, content.pieces())) == data
            assert b"".join(map(bytes, content.pieces(1_000_001, 1_500_000))) == data[1_000_001:2_500_001]
            assert b"".join(map(bytes, content.pieces(2_999_999, 5))) == data[-1:]
            assert list(content.pieces(3_000_000)) == []
            assert content.read(100, 50) == data[100:150]
            assert content.read(150, 200_000) == data[150:200_150]
            assert content.read(2_900_000, 200_000) == data[2_900_000:]
            content.close()
            assert contents.content(access, stored.cap) == data
        assert contents.store(access, spool, "chk").cap == contents.store(access, data, "chk").cap


def test_directory_is_understood_once(desk: Desk) -> None:
    with desk.access() as access:
        child = contents.store(access, b"x", "chk").cap
        cap = create_directory(access, {"a": NewChild(child)})
        first = desk.directory(access, cap)
        assert desk.directory(access, cap) is first


@pytest.mark.parametrize("kind", ["sdmf", "mdmf"])
def test_slow_reader_gets_the_version_it_began_with(desk: Desk, kind: contents.Kind) -> None:
    """Whoever writes meanwhile, and whoever reads the new version, in this process and in others."""
    old, new = os.urandom(5_000_000), os.urandom(4_500_000)
    with desk.access() as access:
        cap = contents.store(access, old, kind).cap
        assert isinstance(cap, MutableWriteCap)
        slow = open_content(access, cap)
        pieces = slow.pieces()
        begun = bytes(next(pieces))
        contents.overwrite(access, cap, new)
        assert contents.content(access, cap) == new
        other = open_content(access, cap)
        assert other.read(0, 1000) == new[:1000]
        assert begun + b"".join(map(bytes, pieces)) == old
        assert slow.read(4_000_000, 10) == old[4_000_000:4_000_010]
        assert other.read(4_000_000, 10) == new[4_000_000:4_000_010]
        slow.close()
        other.close()


@pytest.mark.parametrize(("kind", "size"), [("sdmf", 3000), ("mdmf", 300_000), ("mdmf", 6_000_000)])
def test_patch_leaves_what_is_around_it(desk: Desk, kind: contents.Kind, size: int) -> None:
    model = bytearray(os.urandom(size))
    with desk.access() as access:
        cap = contents.store(access, bytes(model), kind).cap
        assert isinstance(cap, MutableWriteCap)
        for offset, length in ((0, 10), (size // 3, size // 2), (size - 5, 100), (size + 1000, 7), (size + 9000, 0)):
            piece = os.urandom(length)
            with desk.spool() as spool:
                spool.append(piece)
                contents.patch(access, cap, offset, spool)
            if length:
                model += bytes(max(0, offset + length - len(model)))
                model[offset : offset + length] = piece
            assert contents.content(access, cap) == model
