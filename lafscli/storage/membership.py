"""The list of a grid's servers, the same for everybody (spec 10 §2.7).

In `server.toml` of each server, and under `[grid]` in the configuration and the grid file (`id` for `grid` there):

    grid = "text"                      a random id: the grid
    epoch = 3                          which of its lists this is; the highest counts
    members = ["node id", …]           the servers of the list, sorted
    earlier = [["node id", …], …]      lists before it that still count, the latest first; absent: none
    [seeds]                            permutation seeds of all of them, so that the order of a list is known to one
    "node id" = "base32"               who can't reach a server; whose is missing has its node id for one

`members` are those that have a say: a majority of the first N of them in permuted order acknowledges a version, and a
majority of each earlier list besides. A server that is not among them has shares all the same: it counts for nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from lafscli.errors import ServerError, UsageError
from lafscli.placement import permuted
from lafscli.primitives.encoding import b32decode, b32encode
from lafscli.primitives.text import count

NODE_ID_SIZE = 20
GRID_SIZE = 16
"""Random bytes of a new grid's id; it is their base32 text."""
MOST_MEMBERS = 1000
MOST_EARLIER = 32
_MOST_SEED = 200
_GRID = re.compile(r"[!-~]{1,64}")


@dataclass(frozen=True, slots=True, order=True)
class Member:
    """A server of a list. `seed`: its permutation seed (spec 05 §1)."""

    node_id: bytes
    seed: bytes


Members = tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class Membership:
    """The servers that have a say, and the earlier lists that still count. `grid` is the id's text, as bytes."""

    grid: bytes
    epoch: int
    members: Members
    earlier: tuple[Members, ...] = ()

    @property
    def lists(self) -> tuple[Members, ...]:
        """Every list that counts, the current one first."""
        return (self.members, *self.earlier)

    @property
    def earlier_told(self) -> str:
        """For people: how many lists before it still count."""
        number = len(self.earlier)
        return f"{count(number, 'earlier list')} of the grid's servers still {'counts' if number == 1 else 'count'}"

    @property
    def node_ids(self) -> frozenset[bytes]:
        """The members of the current list."""
        return frozenset(member.node_id for member in self.members)

    def electors(self, si: bytes, n: int) -> tuple[frozenset[bytes], ...]:
        """H of each list that counts (spec 10 §2.6): the node ids of its first min(N, length) members."""
        return tuple(first(members, si, n) for members in self.lists)

    def changed(self, members: Iterable[Member]) -> Membership:
        """The next list; this one still counts. UsageError where too many are kept already."""
        earlier = tuple(dict.fromkeys(each for each in self.lists if each))
        if len(earlier) > MOST_EARLIER:
            raise UsageError(
                f"the grid keeps {MOST_EARLIER} earlier lists of its servers, and no more",
                hint="lafs repair -r of all directories, with all servers there, lets them go",
            )
        return Membership(self.grid, self.epoch + 1, tuple(sorted(members)), earlier)

    def without_earlier(self) -> Membership:
        """The same list when those before it count no more; the epoch stays."""
        return replace(self, earlier=())

    def same_list(self, other: Membership) -> bool:
        """Whether it is the same list of the same grid, whatever is still kept of earlier ones."""
        return (self.grid, self.epoch, self.node_ids) == (other.grid, other.epoch, other.node_ids)

    @classmethod
    def parse(cls, table: Mapping[str, Any], *, key: str = "grid") -> Self | None:
        """Read the fields from a table, whose id is under `key`; None where there are none of them, ServerError where
        they can't be used."""
        present = [name for name in (key, "epoch", "members") if name in table]
        if not present:
            return None
        if len(present) < 3:
            raise _bad(f"of {key}, epoch and members it has only {' and '.join(present)}")
        grid, epoch = table[key], table["epoch"]
        if not isinstance(grid, str) or not _GRID.fullmatch(grid):
            raise _bad(f"its {key} is not the id of a grid")
        if not isinstance(epoch, int) or isinstance(epoch, bool) or not 1 <= epoch < 1 << 63:
            raise _bad("its epoch is not a number of at least 1")
        seeds = _seeds(table.get("seeds", {}))
        earlier = table.get("earlier", [])
        if not isinstance(earlier, list) or len(earlier) > MOST_EARLIER:
            raise _bad(f"its earlier lists are not at most {MOST_EARLIER} lists")
        members = _members(table["members"], seeds)
        return cls(grid.encode(), epoch, members, tuple(_members(each, seeds) for each in earlier))

    def table(self, *, key: str = "grid") -> dict[str, Any]:
        """The fields, for a table of TOML."""
        everybody = sorted({member for each in self.lists for member in each if member.seed != member.node_id})
        made: dict[str, Any] = {key: self.grid.decode(), "epoch": self.epoch, "members": _names(self.members)}
        if self.earlier:
            made["earlier"] = [_names(each) for each in self.earlier]
        seeds = {b32encode(member.node_id): b32encode(member.seed) for member in everybody}
        return made | ({"seeds": seeds} if seeds else {})


FIELDS = ("grid", "epoch", "members", "earlier", "seeds")
"""The keys of `server.toml` that are ours."""


def first(members: Members, si: bytes, n: int) -> frozenset[bytes]:
    """The node ids of the first N of a list for a storage index (spec 10 §2.6)."""
    return frozenset(member.node_id for member in permuted(si, members, lambda member: member.seed)[:n])


def most_of(members: Members, node_ids: frozenset[bytes]) -> bool:
    """Whether these are more than half of a list; of one that has nobody in it, always."""
    return not members or 2 * sum(member.node_id in node_ids for member in members) > len(members)


def _names(members: Members) -> list[str]:
    return sorted(b32encode(member.node_id) for member in members)


def _members(names: object, seeds: Mapping[bytes, bytes]) -> Members:
    if not isinstance(names, list) or len(names) > MOST_MEMBERS:
        raise _bad(f"a list of members is not one of at most {MOST_MEMBERS}")
    node_ids = [_node_id(name) for name in names]
    if len(set(node_ids)) < len(node_ids):
        raise _bad("a list of members names a server twice")
    return tuple(sorted(Member(node_id, seeds.get(node_id, node_id)) for node_id in node_ids))


def _seeds(table: object) -> dict[bytes, bytes]:
    if not isinstance(table, dict):
        raise _bad("its seeds are not a table")
    seeds: dict[bytes, bytes] = {}
    for name, text in table.items():
        try:
            seed = b32decode(text) if isinstance(text, str) else b""
        except ValueError:
            seed = b""
        if not 1 <= len(seed) <= _MOST_SEED:
            raise _bad("a seed is not base32")
        seeds[_node_id(name)] = seed
    return seeds


def _node_id(text: object) -> bytes:
    try:
        node_id = b32decode(text) if isinstance(text, str) else b""
    except ValueError:
        node_id = b""
    if len(node_id) != NODE_ID_SIZE:
        raise _bad(f"a member is not a node id of {NODE_ID_SIZE} bytes")
    return node_id


def _bad(what: str) -> ServerError:
    return ServerError(f"its list of servers can't be used: {what}")
