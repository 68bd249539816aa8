"""The list of a grid's servers as bytes, and whose majority counts (spec 10 §2.6-7)."""

from __future__ import annotations

import tomllib
from contextlib import suppress
from dataclasses import replace
from hashlib import sha1
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from lafscli.errors import ServerError, UsageError
from lafscli.mutable.majority import electorate, require_members, require_same_list
from lafscli.primitives.encoding import b32encode
from lafscli.storage.lists import newest
from lafscli.storage.membership import Member, Membership
from lafscli.storage.shares import GUARDED, Server

SI = bytes(range(16))


def node(number: int) -> bytes:
    return bytes([number]) * 20


def member(number: int) -> Member:
    return Member(node(number), b"seed %d" % number)


def members(*numbers: int) -> tuple[Member, ...]:
    return tuple(member(number) for number in numbers)


def ids(*numbers: int) -> frozenset[bytes]:
    return frozenset(map(node, numbers))


def server(number: int, **more: Any) -> Server:
    return Server(f"s{number}", node(number), b"seed %d" % number, features=GUARDED, **more)


LIST = Membership(b"a-grid", 3, members(1, 2, 3), (members(1, 2), members(1)))

# ---- bytes


def test_what_is_written_is_read_again() -> None:
    table = tomllib.loads(tomli_w.dumps({"version": 1} | LIST.table()))
    assert Membership.parse(table) == LIST
    assert table["members"] == sorted(b32encode(node(number)) for number in (1, 2, 3))
    assert (table["grid"], table["epoch"]) == ("a-grid", 3)
    assert len(table["earlier"]) == 2
    assert Membership.parse(LIST.table(key="id"), key="id") == LIST


def test_a_file_without_the_fields_has_no_list() -> None:
    assert Membership.parse({"version": 1, "node-id": "x", "seeds": 7, "earlier": "x"}) is None


def test_a_member_without_a_seed_is_permuted_by_its_node_id() -> None:
    table = {"grid": "g", "epoch": 1, "members": [b32encode(node(1))]}
    assert Membership.parse(table) == Membership(b"g", 1, (Member(node(1), node(1)),))
    assert "seeds" not in Membership(b"g", 1, (Member(node(1), node(1)),)).table()


@pytest.mark.parametrize(
    "change",
    [
        {"grid": None},
        {"epoch": None},
        {"members": None},
        {"grid": 7},
        {"grid": ""},
        {"grid": "x" * 65},
        {"grid": "a b"},
        {"grid": "a\n"},
        {"epoch": 0},
        {"epoch": -1},
        {"epoch": True},
        {"epoch": 1.0},
        {"epoch": "3"},
        {"epoch": 1 << 63},
        {"members": "x"},
        {"members": [7]},
        {"members": ["x"]},
        {"members": [b32encode(bytes(19))]},
        {"members": [b32encode(node(1))] * 2},
        {"members": [b32encode(number.to_bytes(20, "big")) for number in range(1001)]},
        {"earlier": {}},
        {"earlier": ["x"]},
        {"earlier": [[]] * 33},
        {"earlier": [[b32encode(node(1)), b32encode(node(1))]]},
        {"seeds": []},
        {"seeds": {b32encode(node(1)): 7}},
        {"seeds": {b32encode(node(1)): ""}},
        {"seeds": {b32encode(node(1)): "!"}},
        {"seeds": {b32encode(node(1)): b32encode(bytes(201))}},
        {"seeds": {"x": "aa"}},
    ],
)
def test_a_list_that_breaks_the_rules_is_refused(change: dict[str, Any]) -> None:
    table = {key: value for key, value in (LIST.table() | change).items() if value is not None}
    with pytest.raises(ServerError, match="its list of servers can't be used"):
        Membership.parse(table)


_JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=40) | st.just(b32encode(node(1))),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=34), inner, max_size=4),
    max_leaves=8,
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("grid", "epoch", "members", "earlier", "seeds"), _JUNK)))
def test_anything_is_a_list_or_a_server_error(table: dict[str, Any]) -> None:
    with suppress(ServerError):
        found = Membership.parse(table)
        assert found is None or Membership.parse(found.table()) == found


# ---- the next list, the newest list


def test_a_changed_list_keeps_those_before_it() -> None:
    after = LIST.changed(members(4, 1, 2, 3))
    assert (after.epoch, after.members) == (4, members(1, 2, 3, 4))
    assert after.earlier == (members(1, 2, 3), members(1, 2), members(1))
    assert after.lists == (after.members, *after.earlier)
    assert after.changed(members(1, 2)).earlier == (members(1, 2, 3, 4), members(1, 2, 3), members(1, 2), members(1))
    assert after.without_earlier() == Membership(b"a-grid", 4, members(1, 2, 3, 4))


def test_the_highest_epoch_is_the_newest() -> None:
    later = LIST.changed(members(1, 2))
    assert newest([LIST, later, LIST]) == later
    assert newest([]) is None


def test_a_list_that_one_copy_has_dropped_is_dropped() -> None:
    assert newest([LIST, LIST.without_earlier()]) == LIST.without_earlier()
    some = replace(LIST, earlier=(members(1),))
    assert newest([some, LIST]) == some


def test_of_two_lists_of_one_epoch_no_server_is_lost() -> None:
    one, other = LIST.changed(members(1, 2, 3, 4)), LIST.changed(members(1, 2, 3, 5))
    merged = newest([other, one, LIST])
    assert merged == newest([one, other])
    assert merged is not None
    assert (merged.epoch, merged.members) == (5, members(1, 2, 3, 4, 5))
    assert set(merged.earlier) == {one.members, other.members, *LIST.lists}


# ---- majorities


def test_the_first_n_of_each_list_are_its_electors() -> None:
    listed = Membership(b"g", 2, members(*range(20)), (members(1, 2),))
    now, before = listed.electors(SI, 3)
    order = sorted(range(20), key=lambda number: sha1(SI + b"seed %d" % number).digest())
    assert now == ids(*order[:3])
    assert before == ids(1, 2)


def test_a_majority_holds_in_every_list_that_counts() -> None:
    voters = electorate(Membership(b"g", 2, members(1, 2, 3, 4, 5), (members(1, 2, 3),)), SI, 10, [])
    assert voters.everybody == ids(1, 2, 3, 4, 5)
    assert voters.majority(ids(1, 2, 4))
    assert not voters.majority(ids(1, 4, 5))
    assert not voters.majority(ids(1, 2))
    assert not voters.majority(ids(1, 2, 9))


def test_half_is_no_majority() -> None:
    voters = electorate(Membership(b"g", 1, members(*range(10))), SI, 10, [])
    assert not voters.majority(ids(*range(5)))
    assert voters.majority(ids(*range(6)))


def test_nobody_is_no_majority_of_nobody() -> None:
    assert not electorate(Membership(b"g", 1, ()), SI, 10, []).majority([])


def test_without_a_list_the_servers_that_take_mutable_shares_have_a_say() -> None:
    there = [server(1), server(2), server(3, writable=False), server(4, mutable=False), Server("s5", node(5), b"x")]
    assert electorate(None, SI, 10, there).everybody == ids(1, 2)


# ---- who may write


def test_all_members_must_be_configured() -> None:
    require_members(LIST, [server(number) for number in (1, 2, 3, 4)])
    with pytest.raises(UsageError, match=f"1 of the grid's 3 servers.*{b32encode(node(2))}") as raised:
        require_members(LIST, [server(1), server(3)])
    assert "lafs grid import" in str(raised.value.hint)


@pytest.mark.parametrize(
    ("met", "what"),
    [
        (LIST.changed(members(1, 2)), "number 4, this home 3"),
        (replace(LIST, grid=b"other"), "another grid"),
        (replace(LIST, members=members(1, 2, 4)), "at once"),
    ],
)
def test_a_newer_list_or_another_one_is_met(met: Membership, what: str) -> None:
    with pytest.raises(UsageError, match=what) as raised:
        require_same_list(LIST, met, "blue")
    assert raised.value.hint


def test_an_older_list_or_none_is_no_harm() -> None:
    for met in (None, LIST, LIST.without_earlier(), replace(LIST, epoch=2, members=members(7))):
        require_same_list(LIST, met, "blue")
    require_same_list(None, None, "blue")
    with pytest.raises(UsageError, match="this home none"):
        require_same_list(None, LIST, "blue")


def test_no_more_earlier_lists_are_made_than_are_read() -> None:
    """A list that nobody can read would lock everybody out."""
    after = LIST
    while len(after.earlier) < 32:
        after = after.changed(members(*range(1, 5 + len(after.earlier))))
        assert Membership.parse(after.table()) == after
    with pytest.raises(UsageError, match="earlier lists"):
        after.changed(members(1, 2))
