"""What a repair decides to write where: never too much, nothing twice, happiness as great as can be."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from hypothesis import given, settings
from hypothesis import strategies as st

from lafscli.formats.caps import ChkVerifyCap
from lafscli.health.case import Case, Goal
from lafscli.health.report import CheckReport, Damage, Silence
from lafscli.placement import happiness
from lafscli.storage.store import Server, ShareStore


def store(index: int, writable: bool = True) -> ShareStore:
    server = Server(f"s{index}", bytes([index]) * 20, b"", writable=writable)
    return cast(ShareStore, SimpleNamespace(server=server))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    n = draw(st.integers(1, 12))
    order = [store(i, draw(st.integers(0, 5)) > 0) for i in range(draw(st.integers(1, 14)))]
    names = [each.server.name for each in order]
    shares: dict[int, set[str]] = {}
    corrupt = []
    for name in names:
        for shnum in draw(st.sets(st.integers(0, n - 1), max_size=3)):
            if draw(st.booleans()):
                shares.setdefault(shnum, set()).add(name)
            else:
                corrupt.append(Damage(name, shnum, "bad"))
    silent = tuple(Silence(name, "silent") for name in draw(st.sets(st.sampled_from(["x", "y"]))))
    report = CheckReport(
        ChkVerifyCap(b"s" * 16, b"u" * 32, 1, n, 100),
        shares={shnum: tuple(sorted(found)) for shnum, found in shares.items()},
        corrupt=tuple(corrupt),
        unreachable=silent,
    )
    case = Case.of(report, order)
    for name in draw(st.sets(st.sampled_from(names), max_size=2)):
        case.failed[name] = "failed"
    for bad in corrupt:
        if draw(st.integers(0, 5)) == 0:
            case.stuck[bad.server, bad.shnum] = "held"
    return case


def holders(case: Case) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for shnum, names in case.good.items():
        for name in names:
            found.setdefault(name, set()).add(shnum)
    return found


def after(case: Case, goal: Goal) -> dict[str, set[int]]:
    found = holders(case)
    for name, shnum in goal.places:
        assert shnum not in found.get(name, set())
        found.setdefault(name, set()).add(shnum)
    return found


def usable(case: Case) -> list[str]:
    return [s.server.name for s in case.order if s.server.writable and s.server.name not in case.failed]


def only_where_it_may_be_written(case: Case, goal: Goal) -> None:
    assert {name for name, _ in goal.places} <= set(usable(case))
    assert goal.over | goal.clear <= case.bad.keys() - case.stuck.keys()
    assert not goal.over & goal.clear
    assert all((name, shnum) not in case.bad for shnum, name in goal.fresh.items())
    readonly = {s.server.name for s in case.order if not s.server.writable}
    assert {place for place in case.bad if place[0] not in readonly} - case.stuck.keys() == goal.over | goal.clear


def each_number_once_and_nothing_that_is_there_or_unknown(case: Case, goal: Goal) -> None:
    if case.report.unreachable:
        assert not goal.fresh
        return
    missing = set(range(case.cap.n)) - case.good.keys()
    written = [shnum for _, shnum in goal.places]
    again = [shnum for shnum in written if shnum not in missing]
    assert sorted(set(written) - set(again)) == sorted(shnum for shnum in written if shnum in missing)
    # a number that is good elsewhere is only made again on a server that would have nothing else
    found = after(case, goal)
    assert all(len(found[name]) == 1 for name, shnum in goal.places if shnum in again)
    placeable = {shnum for shnum in missing if any((name, shnum) not in case.stuck for name in usable(case))}
    assert missing & set(written) == placeable


def no_second_share_while_a_server_is_free_and_happiness_grows(case: Case, goal: Goal) -> None:
    before, found = holders(case), after(case, goal)
    assert happiness(found) >= happiness(before)
    if case.report.unreachable:
        return
    for name in usable(case):
        if name not in found:  # free: then no server got a second one that this one could have had
            doubled = [shnum for other, shnum in goal.places if len(found[other]) > 1]
            assert all((name, shnum) in case.stuck for shnum in doubled)


RULES = (
    only_where_it_may_be_written,
    each_number_once_and_nothing_that_is_there_or_unknown,
    no_second_share_while_a_server_is_free_and_happiness_grows,
)


@settings(max_examples=500, deadline=None)
@given(case=cases())
def test_every_rule_in_every_case(case: Case) -> None:
    goal = case.goal()
    for rule in RULES:
        rule(case, goal)


def test_a_free_server_far_down_the_order_comes_before_a_second_share() -> None:
    """Both holders of share 0 lie behind the servers that an upload would use, and so does the one that is free."""
    order = [store(i, writable=i > 3) for i in range(7)]
    report = CheckReport(ChkVerifyCap(b"s" * 16, b"u" * 32, 1, 2, 100), shares={0: ("s5", "s6")})
    assert dict(Case.of(report, order).goal().fresh) == {1: "s4"}


def test_a_corrupt_share_comes_back_to_its_place_where_that_is_as_good() -> None:
    order = [store(i) for i in range(4)]
    report = CheckReport(
        ChkVerifyCap(b"s" * 16, b"u" * 32, 1, 4, 100),
        shares={0: ("s0",), 1: ("s1",)},
        corrupt=(Damage("s2", 3, "bad"), Damage("s3", 2, "bad")),
    )
    goal = Case.of(report, order).goal()
    assert (dict(goal.fresh), goal.over, goal.clear) == ({}, {("s2", 3), ("s3", 2)}, frozenset())
