"""Servers that let a writer in and then do not take what it brings: nothing is changed, and nothing goes round."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from lafscli.errors import FileError, NotHappy
from lafscli.mutable.publish import create, modify
from lafscli.storage.folder import FolderStore
from lafscli.storage.ops import Answer, Op, Replace
from tests.grids import DialledFiles, LocalGrid
from tests.slots import content_of, publishing
from tests.test_mutable_rules import locks


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[LocalGrid]:
    grid = LocalGrid(tmp_path)
    yield grid
    grid.close()


@pytest.mark.parametrize("mdmf", [False, True])
def test_servers_that_lost_their_shares_folder_are_no_place_for_a_share(servers: LocalGrid, mdmf: bool) -> None:
    """That is seen before the first commit is sent."""
    made = create(servers.grid(), b"one", publishing(), mdmf=mdmf)
    for index in range(4):
        (servers.root(index) / "shares").rename(servers.root(index) / "shares.gone")
    with pytest.raises(NotHappy, match="nothing was changed"):
        modify(servers.grid(), made.cap, lambda old: old + b" two", publishing())
    with pytest.raises(NotHappy, match="nothing was changed"):
        modify(servers.grid(), made.cap, lambda _: bytes(5 << 20), publishing())
    for index in range(4):
        (servers.root(index) / "shares.gone").rename(servers.root(index) / "shares")
    assert content_of(servers.grid(), made.cap) == b"one"
    assert locks(servers) == []
    assert modify(servers.grid(), made.cap, lambda old: old + b" two", publishing()).seqnum == 2


def test_a_folder_that_was_made_for_nothing_is_removed_again(servers: LocalGrid) -> None:
    made = create(servers.grid(), b"one", publishing(), mdmf=False)
    folder = next((servers.root(7) / "shares").glob("*/*"))
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    for index in range(4):
        (servers.root(index) / "shares").rename(servers.root(index) / "shares.gone")
    with pytest.raises(NotHappy):
        modify(servers.grid(), made.cap, lambda old: old + b" two", publishing())
    assert not folder.exists()


class Refusing(DialledFiles):
    """Stages what it is given, and refuses to put it in place."""

    tried = 0

    def do(self, ops: Sequence[Op]) -> list[Answer]:
        answers = [
            FileError("refused") if self._placing(op) else self._files.do([op])[0]  # one by one: order is kept
            for op in ops
        ]
        self.tried += any(self._placing(op) for op in ops)
        return answers

    @staticmethod
    def _placing(op: Op) -> bool:
        return isinstance(op, Replace) and op.new.startswith("shares/")


def test_servers_that_refuse_to_the_end_get_nothing_more(servers: LocalGrid) -> None:
    """Three of ten are too few to stop a change that seven are enough for."""
    made = create(servers.grid(), b"one", publishing(), mdmf=False)
    grid = servers.grid()
    refusing = []
    for store in list(grid.stores)[:4]:
        assert isinstance(store, FolderStore)
        assert isinstance(store.files, DialledFiles)
        files = Refusing(store.files._files, store.files.dial)
        store.files = store.locks._files = files  # type: ignore[assignment]
        refusing.append(files)
    world = publishing()
    from dataclasses import replace

    from lafscli.placement import Encoding

    done = modify(grid, made.cap, lambda old: old + b" two", replace(world, encoding=Encoding(3, 6, 10)))
    assert content_of(servers.grid(), made.cap) == b"one two"
    assert len({name for names in done.placement.values() for name in names}) == 6
    assert all(files.tried <= 2 for files in refusing)
