"""A change that is there already is acknowledged only when it is there to stay."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lafscli.errors import NotFound
from lafscli.mutable.publish import create, modify
from tests.grids import LocalGrid
from tests.slots import content_of, publishing
from tests.test_mutable_rules import committed_on, locks, staged


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[LocalGrid]:
    grid = LocalGrid(tmp_path)
    yield grid
    grid.close()


@pytest.mark.parametrize("on", [1, 5, 6])
def test_a_change_that_is_there_by_one_that_died_is_published_before_it_is_acknowledged(
    servers: LocalGrid, on: int
) -> None:
    """Where it stands on half of the servers or fewer, the next writer might not see it (spec 10 §2.8f)."""
    made = create(servers.grid(), b"one", publishing(), mdmf=False)
    committed_on(staged(servers, made.cap, b"one two"), [f"s{index}" for index in range(on)])
    answer = modify(servers.grid(), made.cap, lambda old: None if b"two" in old else old + b" two", publishing())
    assert answer.seqnum == (2 if on == 6 else 3)
    assert content_of(servers.grid(), made.cap) == b"one two"
    if on < 6:
        assert len(answer.placement) == 10
        assert locks(servers) == []


@pytest.mark.parametrize("on", [1, 6])
def test_what_a_change_is_refused_for_stays(servers: LocalGrid, on: int) -> None:
    """An entry that is there already, as `mkdir` finds it: it is there for the next reader too."""
    made = create(servers.grid(), b"one", publishing(), mdmf=False)
    committed_on(staged(servers, made.cap, b"one two"), [f"s{index}" for index in range(on)])

    def refuse(old: bytes) -> bytes:
        raise NotFound(f"there is {old.decode()} already")

    with pytest.raises(NotFound, match="there is one two already"):
        modify(servers.grid(), made.cap, refuse, publishing())
    for dial in servers.dials[:4]:
        dial.dead = True
    assert content_of(servers.grid(), made.cap) == b"one two"
