"""A change that is there already is acknowledged only when it is there to stay."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

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
