"""The list of the grid's servers as this home knows it: made, joined, changed, forgotten (spec 10 §2.7, CLI.md §3).

It stands under `[grid]` in the configuration. A server has a say that this home may change mutable files on. One that
was added with --readonly or mutable=no, or whose renames don't hold a guard, is not entered by us, and gets no list; it
has shares all the same. A home that has servers and no list is of a time before there were any: its list is made, or
that of its servers taken over, when it adds a server or first writes something mutable.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from lafscli.config.settings import Config
from lafscli.errors import LafsError, NotHappy, ServerError, Unreachable, UsageError
from lafscli.primitives.encoding import b32encode
from lafscli.storage.grid import Grid
from lafscli.storage.lists import Changing, change_list, drop_earlier, newest
from lafscli.storage.membership import GRID_SIZE, Member, Membership
from lafscli.storage.store import Server

MOST_LOOKED_AT = 2048
"""Objects on a server that are looked at, so that an earlier list can go, whenever the list was changed."""
_PATIENCE = 600
"""Seconds that one process of a home waits for another that changes the list."""


def known_list(config: Config) -> Membership | None:
    """What the configuration says; UsageError where that can't be used."""
    table = config.table.get("grid")
    if table is None:
        return None
    try:
        found = Membership.parse(table, key="id") if isinstance(table, dict) else None
    except ServerError as error:
        raise UsageError(f"{config.home.config_file}: [grid]: {error.message}") from error
    if found is None:
        raise UsageError(f"{config.home.config_file}: [grid] says nothing of a grid")
    return found


def keep_list(table: dict[str, Any], membership: Membership | None) -> None:
    """Write it into the table of a configuration; one without servers is none."""
    if membership is None or not membership.members:
        table.pop("grid", None)
    else:
        table["grid"] = membership.table(key="id")


@contextmanager
def changing_lists(config: Config) -> Iterator[Config]:
    """Around what changes the list: one process of a home at a time. Gives the configuration as it is then."""
    with config.home.locked(".lists", _PATIENCE):
        yield Config.load(config.home)


@dataclass(frozen=True, slots=True)
class Listed:
    """The list after a change; None: there is none. `warnings`: what the user should know."""

    membership: Membership | None
    warnings: Sequence[str] = ()


def not_configured(membership: Membership, servers: Collection[Server]) -> list[str]:
    """The members of the current list that are not among these, by node id."""
    return sorted(map(b32encode, membership.node_ids - {server.node_id for server in servers}))


def imported(known: Membership | None, given: Membership | None) -> Membership | None:
    """What this home knows after another one has told it. UsageError for the list of another grid."""
    if known is None or given is None:
        return known or given
    if known.grid != given.grid:
        raise UsageError(
            f"the file is of another grid ({given.grid.decode()}) than this home ({known.grid.decode()})",
            hint="a home is of one grid: make another home for it (lafs --home DIR init)",
        )
    if known.epoch == given.epoch and not known.same_list(given):
        return known  # the next change settles which of them counts
    return newest([known, given])


def made(grid: Grid, known: Membership | None, changing: Changing) -> Membership | None:
    """The list for a home that has servers and none, or not all of them in it: that of its servers where they have
    one, else a new one. None where no server has a say."""
    members = [_member(store.server) for store in grid.stores if store.server.takes_mutable]
    if not members:
        return known
    return change_list(grid, known, _with(members, changing.random_bytes), changing).membership


def entered(
    grid: Grid, known: Membership | None, server: Server, theirs: Membership | None, changing: Changing, *, n: int
) -> Listed:
    """Have a server take part that is to be added, and is among the stores of `grid` already. `theirs`: the list that
    it has.

    One that names it as a member is taken over, and nothing is written; else it becomes a member on a majority.
    UsageError where it is of another grid.
    """
    if theirs is not None and server.node_id in theirs.node_ids:
        if known is not None and known.grid != theirs.grid:
            raise UsageError(
                f"server {server.name} belongs to another grid ({theirs.grid.decode()}) than the servers of this home"
                f" ({known.grid.decode()})",
                hint="a home is of one grid: make another home for it (lafs --home DIR init)",
            )
        top = newest([each for each in (known, theirs) if each is not None])
        rivals = known is not None and known.epoch == theirs.epoch and not known.same_list(theirs)
        if top is not None and server.node_id in top.node_ids and not rivals:
            return Listed(top)
    if not server.takes_mutable:
        return Listed(known)
    members = [_member(server)]
    if known is None:
        members += [_member(store.server) for store in grid.stores if store.server.takes_mutable]
    return _changed(grid, known, _with(members, changing.random_bytes), changing, n)


def left(grid: Grid, known: Membership | None, server: Server, changing: Changing, *, n: int) -> Listed:
    """Have a server leave the list, given up for lost if it does not answer."""
    if known is None or server.node_id not in known.node_ids:
        return Listed(known)

    def without(base: Membership | None) -> Membership:
        base = base or known
        assert base is not None
        if server.node_id not in base.node_ids:
            return base
        return base.changed(member for member in base.members if member.node_id != server.node_id)

    patient = replace(changing, lost=changing.lost | {server.node_id}, force=False)
    try:
        return _changed(grid, known, without, patient, n)
    except (NotHappy, Unreachable) as error:
        if not changing.force:
            raise
        forced = f"the grid's list of servers was changed without a majority ({error.message})"
    try:
        done = _changed(grid, known, without, replace(patient, force=True), n)
    except Unreachable:
        return Listed(known, [forced, "no server has the new list: other homes go on with the old one"])
    return replace(done, warnings=[forced, *done.warnings])


def all_dropped(grid: Grid, known: Membership | None, changing: Changing, *, n: int, most: int | None = None) -> Listed:
    """Drop the earlier lists, if nothing depends on them: after a repair of all roots has passed. The current list is
    brought to those of its servers that have it not."""
    if known is None or not known.earlier:
        return Listed(known)
    return _changed(grid, known, lambda base: base or known, changing, n, most=most)


def _changed(
    grid: Grid,
    known: Membership | None,
    edit: Callable[[Membership | None], Membership],
    changing: Changing,
    n: int,
    *,
    most: int | None = MOST_LOOKED_AT,
) -> Listed:
    done = change_list(grid, known, edit, changing)
    warnings = [f"server {name} has not got the new list yet: {reason}" for name, reason in sorted(done.silent.items())]
    try:
        dropped = drop_earlier(grid, done, replace(changing, force=False), n=n, most=most)
    except LafsError as error:
        return Listed(done.membership, [*warnings, _kept(done.membership, error.message)])
    if dropped.kept is not None:
        warnings.append(_kept(dropped.membership, dropped.kept))
    return Listed(dropped.membership, warnings)


def _kept(membership: Membership, why: str) -> str:
    return (
        f"{membership.earlier_told} ({why}): mutable files need a majority in each list until lafs repair -r has passed"
    )


def _member(server: Server) -> Member:
    return Member(server.node_id, server.seed)


def _with(members: Sequence[Member], random_bytes: Callable[[int], bytes]) -> Callable[[Membership | None], Membership]:
    """An edit that has these on the list."""

    def edit(base: Membership | None) -> Membership:
        if base is None:
            return Membership(b32encode(random_bytes(GRID_SIZE)).encode(), 1, tuple(sorted(set(members))))
        new = [member for member in members if member.node_id not in base.node_ids]
        return base.changed((*base.members, *new)) if new else base

    return edit
