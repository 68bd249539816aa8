"""A look at many servers is no moment: some of them are seen before a commit, others after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lafscli.errors import CannotTell, NotRecoverable
from lafscli.mutable.publish import create, overwrite
from lafscli.mutable.publishing import Published
from lafscli.mutable.retrieve import contents
from lafscli.placement import Encoding
from tests.grids import LocalGrid
from tests.slots import publishing, reading

VERSIONS = 24


@pytest.fixture
def two(tmp_path: Path) -> Iterator[LocalGrid]:
    grid = LocalGrid(tmp_path, 2)
    yield grid
    grid.close()


def torn(two: LocalGrid) -> tuple[Published, Callable[[int, int], None]]:
    """A file of which both servers are needed, and what puts one version on the first and another on the second."""
    encoding = Encoding(2, 2, 2)
    made = create(two.grid(), b"0", publishing(encoding), mdmf=False)
    files = two.share_files()
    history = [[path.read_bytes() for path in files]]
    for number in range(1, VERSIONS):
        overwrite(two.grid(), made.cap, b"%d" % number, publishing(encoding))
        history.append([path.read_bytes() for path in files])

    def show(first: int, second: int) -> None:
        files[0].write_bytes(history[first][0])
        files[1].write_bytes(history[second][1])

    show(0, 1)
    return made, show


def read_while(two: LocalGrid, made: Published, between: Callable[[int], None]) -> bytes:
    """What is read where `between` is called with 1, 2, … between two looks."""
    looks = iter(range(1, 1000))
    return contents(two.grid(), made.cap, replace(reading(), sleep=lambda _: between(next(looks))))[0]


def test_what_is_only_seen_torn_is_looked_at_again_while_it_changes(two: LocalGrid) -> None:
    made, show = torn(two)
    assert read_while(two, made, lambda look: show(look, look + (look < 12))) == b"12"


def test_what_changes_for_ever_is_not_called_lost(two: LocalGrid) -> None:
    made, show = torn(two)
    with pytest.raises(CannotTell, match=r"found 1, need 2.*changed all the time"):
        read_while(two, made, lambda look: show(look, look + 1))


def test_what_is_seen_twice_the_same_is_lost(two: LocalGrid) -> None:
    made, show = torn(two)
    with pytest.raises(NotRecoverable, match="found 1, need 2"):
        read_while(two, made, lambda look: show(min(look, 8), min(look, 8) + 1))
