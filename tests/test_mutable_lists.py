"""Mutable files under the lists of the grid's servers: majorities in each, newer lists refused (spec 10 §2.7)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import tomli_w

from lafscli.errors import LafsError, NotHappy, UsageError
from lafscli.mutable.publish import Publishing, create, create_many, modify
from lafscli.mutable.retrieve import Reading, contents
from lafscli.placement import Encoding
from lafscli.primitives.encoding import b32encode
from lafscli.storage.grid import Grid
from lafscli.storage.membership import Member, Membership
from tests.grids import LocalGrid
from tests.slots import publishing, reading

ENCODING = Encoding(1, 1, 5)


@pytest.fixture
def five(tmp_path: Path) -> Iterator[LocalGrid]:
    grid = LocalGrid(tmp_path, 5)
    yield grid
    grid.close()


def members(servers: LocalGrid, numbers: Sequence[int]) -> tuple[Member, ...]:
    chosen = [servers.servers[number] for number in numbers]
    return tuple(sorted(Member(server.node_id, server.seed) for server in chosen))


def tell(servers: LocalGrid, numbers: Sequence[int], lists: Membership) -> None:
    """These servers have this list."""
    for number in numbers:
        server = servers.servers[number]
        table = {"version": 1, "node-id": b32encode(server.node_id), "permutation-seed": b32encode(server.seed)}
        (servers.root(number) / "server.toml").write_text(tomli_w.dumps({**table, **lists.table()}))


def writing(lists: Membership | None) -> Publishing:
    return replace(publishing(ENCODING), membership=lists)


def looking(lists: Membership | None) -> Reading:
    return replace(reading(), membership=lists)


def test_a_server_that_knows_a_newer_list_refuses_the_write(five: LocalGrid) -> None:
    old = Membership(b"grid", 1, members(five, range(5)))
    tell(five, range(5), old)
    made = create(five.grid(), b"one", writing(old), mdmf=False)
    tell(five, [3], old.changed(members(five, [0, 1, 2, 3])))
    before = {path: path.read_bytes() for path in five.share_files()}
    with pytest.raises(UsageError, match="has changed: server s3 has number 2, this home 1") as caught:
        modify(five.grid(), made.cap, lambda content: content + b"!", writing(old))
    assert "lafs grid import" in str(caught.value.hint)
    [error] = create_many(five.grid(), [b"two"], writing(old), mdmf=False)
    assert isinstance(error, UsageError)
    with pytest.raises(UsageError, match="this home none"):
        modify(five.grid(), made.cap, lambda content: content + b"!", writing(None))
    with pytest.raises(UsageError, match="another grid"):
        modify(five.grid(), made.cap, lambda content: content, writing(replace(old, grid=b"other")))
    assert {path: path.read_bytes() for path in five.share_files()} == before
    assert not any(any((five.root(index) / "locks").iterdir()) for index in range(5))


def test_a_majority_must_hold_in_earlier_lists_too(five: LocalGrid) -> None:
    """The grid has grown from three to five: two of the three away are too many, though three of five are there."""
    lists = Membership(b"grid", 1, members(five, range(3))).changed(members(five, range(5)))
    tell(five, range(5), lists)
    made = create(five.grid(), b"one", writing(lists), mdmf=False)
    for number in (0, 1):
        five.dials[number].dead = True
    with pytest.raises(NotHappy, match="1 of the 3 servers that decide"):
        modify(five.grid(), made.cap, lambda content: content + b"!", writing(lists))
    [error] = create_many(five.grid(), [b"two"], writing(lists), mdmf=False)
    assert isinstance(error, NotHappy)
    content, read = contents(five.grid(), made.cap, looking(lists))
    assert content == b"one"
    assert any("1 of the 3 servers" in warning for warning in read.warnings)
    # once the earlier list counts no more
    modify(five.grid(), made.cap, lambda content: content + b"!", writing(lists.without_earlier()))


def test_two_clients_of_different_lists_do_not_lose_what_the_other_wrote(five: LocalGrid) -> None:
    """One knows three servers, one five, and one of the three is away when the second writes."""
    three = Membership(b"grid", 1, members(five, range(3)))
    tell(five, range(5), three)
    few = Grid([store for store in five.grid().stores if store.server.name in ("s0", "s1", "s2")])
    made = create(few, b"one", writing(three), mdmf=False)
    both = three.changed(members(five, range(5)))
    tell(five, [1, 2, 3, 4], both)  # s0 was away
    five.dials[0].dead = True
    modify(five.grid(), made.cap, lambda content: content + b" two", writing(both))
    five.dials[0].dead = False
    five.dials[1].dead = True
    with pytest.raises(UsageError, match="has number 2"):
        modify(few, made.cap, lambda content: content + b" three", writing(three))
    five.dials[2].dead = True
    with pytest.raises(LafsError):
        modify(few, made.cap, lambda content: content + b" three", writing(three))
    five.dials[1].dead = five.dials[2].dead = False
    assert contents(five.grid(), made.cap, looking(both))[0] == b"one two"
    few.close()


def test_nothing_is_written_while_servers_of_the_list_are_not_configured(five: LocalGrid) -> None:
    lists = Membership(b"grid", 1, members(five, range(5)))
    tell(five, range(5), lists)
    made = create(five.grid(), b"one", writing(lists), mdmf=False)
    few = Grid(five.grid().stores[:4])
    with pytest.raises(UsageError, match="not configured here"):
        modify(few, made.cap, lambda content: content + b"!", writing(lists))
    with pytest.raises(UsageError, match="not configured here"):
        create_many(few, [b"two"], writing(lists), mdmf=False)
    few.close()
