"""Whose acknowledgement counts for a slot, and whether there is enough of it (spec 10 §2.6, §2.7).

For whoever writes: the list is asked for on each server (`ShareStore.membership`) *under its guard*, after that was
taken. A new slot that is placed without guards asks *after* its shares are in place and before success is told: a list
is dropped once no server of it has a share that would be missed, and that is looked at after the new epoch was written.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from lafscli.errors import OtherList
from lafscli.primitives.encoding import b32encode
from lafscli.storage.membership import Member, Membership, first
from lafscli.storage.store import Server, StorageIndex


@dataclass(frozen=True, slots=True)
class Electorate:
    """H of each list that counts, for one slot: node ids."""

    halls: tuple[frozenset[bytes], ...]

    @property
    def everybody(self) -> frozenset[bytes]:
        """All servers that have a say."""
        return frozenset().union(*self.halls)

    def majority(self, acknowledged: Collection[bytes]) -> bool:
        """Whether these node ids are more than half of every H. For rule 8b: give those that answered and hold
        nothing newer than the base; where they are no majority, half of some H or more is unreachable or newer."""
        return all(2 * len(hall.intersection(acknowledged)) > len(hall) for hall in self.halls)


def electorate(membership: Membership | None, si: StorageIndex, n: int, servers: Iterable[Server]) -> Electorate:
    """Who has a say on a slot of `n` shares. A home that has no list counts the servers it has, by their ids alone."""
    if membership is not None:
        return Electorate(membership.electors(si, n))
    members = tuple(Member(server.node_id, server.seed) for server in servers if server.takes_mutable)
    return Electorate((first(members, si, n),))


def require_members(membership: Membership, servers: Iterable[Server]) -> None:
    """UsageError unless every server of the current list is configured here: nothing mutable is written before."""
    missing = sorted(membership.node_ids - {server.node_id for server in servers})
    if missing:
        raise OtherList(
            f"{len(missing)} of the grid's {len(membership.members)} servers are not configured here, so nothing"
            f" mutable is written: {', '.join(map(b32encode, missing))}",
            hint=HOW_TO_GET_IT,
        )


def require_same_list(known: Membership | None, met: Membership | None, server: str) -> None:
    """UsageError where a server tells, under the guard, of a newer list than this home knows, or of another one.
    An older one is no harm: that server was away when the list changed; nor is none (`met` is None)."""
    if met is None:
        return
    if known is None:
        raise OtherList(f"server {server} knows a list of the grid's servers, and this home none", hint=HOW_TO_GET_IT)
    if met.grid != known.grid:
        raise OtherList(
            f"server {server} belongs to another grid ({met.grid.decode()}, not {known.grid.decode()})",
            hint=f"lafs server remove {server} forgets it",
        )
    if met.epoch > known.epoch:
        raise OtherList(
            f"the grid's list of servers has changed: server {server} has number {met.epoch}, this home {known.epoch};"
            " nothing was changed",
            hint=HOW_TO_GET_IT,
        )
    if met.epoch == known.epoch and not met.same_list(known):
        raise OtherList(
            f"server {server} has another list of the grid's servers of the same number ({known.epoch}):"
            " two changes of it were made at once",
            hint="lafs server add or remove settles it, here or where the other change was made",
        )


HOW_TO_GET_IT = (
    "get the list from a home that has it: lafs grid export FILE there, lafs grid import FILE here; then try again"
)
