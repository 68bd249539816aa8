"""H of one mutable file among the servers that are configured here (spec 10 §2.6-7): majorities by server name."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from lafscli.mutable.majority import Electorate, electorate
from lafscli.placement import permuted
from lafscli.storage.membership import Membership
from lafscli.storage.store import ShareStore, StorageIndex


@dataclass(frozen=True, slots=True)
class Quorum:
    """The servers that decide. `ids`: those of them that are configured, in permuted order, with their node ids."""

    electorate: Electorate
    ids: dict[str, bytes]

    @classmethod
    def of(cls, si: StorageIndex, n: int, stores: Sequence[ShareStore], membership: Membership | None) -> Quorum:
        """For a file of `n` shares."""
        who = electorate(membership, si, n, [store.server for store in stores])
        order = [store.server for store in permuted(si, stores, lambda store: store.server.seed)]
        return cls(who, {server.name: server.node_id for server in order if server.node_id in who.everybody})

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def majority(self, names: Collection[str]) -> bool:
        """Whether these are more than half of H, of every list that counts."""
        return self.electorate.majority(self._node_ids(names))

    def count(self, names: Collection[str]) -> str:
        """For people: how many of H these are, where they are fewest."""
        given = self._node_ids(names)
        hall = min(self.electorate.halls, key=lambda hall: len(hall & given) / max(1, len(hall)))
        return f"{len(hall & given)} of the {len(hall)} servers"

    def _node_ids(self, names: Collection[str]) -> frozenset[bytes]:
        return frozenset(self.ids[name] for name in names if name in self.ids)
