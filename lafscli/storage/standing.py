"""What stands on the servers of mutable files, and whether earlier lists of servers are missed there (spec 10 §2.7).

An earlier list may be dropped when nothing depends on its majorities any more: of every slot the highest version that
is seen anywhere lies on more than half of the current H, as after a repair of all. That is looked at without caps and
without proofs, whoever's slots they are: a version that was acknowledged is never higher than what is seen, as long as
all servers of the lists are looked at. Some may have left the grid, but never more than half of an H.

It counts only after the current list was written to all those servers. From then on nobody is acknowledged under an
earlier list: who takes guards meets the new one there; who has taken them already is seen here, for guards are looked
at before shares; who places a new slot without guards asks for the list afterwards (mutable/majority.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby

from lafscli.errors import CorruptShare, LafsError
from lafscli.formats.container import is_mutable
from lafscli.formats.mutable_container import DATA_OFFSET
from lafscli.formats.slot import Prefix
from lafscli.storage.membership import Membership, first
from lafscli.storage.store import ShareStore, StorageIndex

TOO_MANY = "too many"
_DEPTH = DATA_OFFSET + 80
_TOGETHER = 256


@dataclass(frozen=True, slots=True)
class Standing:
    """The mutable shares of one server: of each slot the versions there, as their prefixes say. `changing`: objects on
    which there is a guard, or a broken one. `unread`: shares that can't be read."""

    slots: Mapping[StorageIndex, tuple[Prefix, ...]]
    changing: frozenset[StorageIndex]
    unread: int = 0


@dataclass(slots=True)
class _Gathered:
    slots: dict[StorageIndex, tuple[Prefix, ...]] = field(default_factory=dict)
    immutable: set[StorageIndex] = field(default_factory=set)
    unread: int = 0


def standing(store: ShareStore, most: int | None = None) -> Standing | str:
    """Look at every share of a server; TOO_MANY where there are more than `most` objects."""
    found = _Gathered()
    changing = store.changing()  # first: a guard that is gone by then has left its shares for us to see
    for number, sis in enumerate(_batches(store)):
        if most is not None and number * _TOGETHER + len(sis) > most:
            return TOO_MANY
        for si, sight in zip(sis, store.slots(sis, _DEPTH), strict=True):
            if isinstance(sight, LafsError):
                found.unread += 1
                continue
            for container in sight.containers:
                if isinstance(container.front, LafsError):
                    found.unread += 1
                elif not is_mutable(container.front):
                    found.immutable.add(si)
                else:
                    try:
                        prefix = Prefix.parse(container.front[DATA_OFFSET:])
                    except CorruptShare:  # nobody takes it for a version
                        continue
                    found.slots[si] = (*found.slots.get(si, ()), prefix)
    return Standing(found.slots, changing - (found.immutable - found.slots.keys()), found.unread)


def _batches(store: ShareStore) -> Iterator[list[StorageIndex]]:
    batch: list[StorageIndex] = []
    for si, _ in groupby(store.inventory(), key=lambda share: share[0]):
        batch.append(si)
        if len(batch) == _TOGETHER:
            yield batch
            batch = []
    if batch:
        yield batch


def missed(membership: Membership, found: Mapping[bytes, Standing], *, n: int) -> str | None:
    """Why the earlier lists must be kept, given what stands on each server, by node id; None: they may be dropped.

    `n`: so many shares a slot has at least that lies on servers which have left and on no other.
    """
    silent = membership.node_ids - found.keys()
    if silent:
        return f"{len(silent)} of the grid's servers could not be looked at"
    gone = frozenset(member.node_id for each in membership.earlier for member in each) - found.keys()
    for members in membership.earlier:
        had = sum(member.node_id in gone for member in members)
        if 2 * had > min(n, len(members)):
            return f"{had} of {len(members)} servers of an earlier list could not be looked at"
    if unread := sum(each.unread for each in found.values()):
        return f"{unread} shares could not be read"
    if changing := frozenset[bytes]().union(*(each.changing for each in found.values())):
        return f"{len(changing)} objects are being changed, or were by somebody who was cut off"
    versions: dict[StorageIndex, dict[bytes, tuple[Prefix, ...]]] = {}
    for node_id, each in found.items():
        for si, prefixes in each.slots.items():
            versions.setdefault(si, {})[node_id] = prefixes
    behind = sum(not _stands(membership, si, holders, gone) for si, holders in versions.items())
    if behind:
        return f"{behind} mutable objects lie on too few of the servers that count now"
    return None


def _stands(
    membership: Membership, si: StorageIndex, holders: Mapping[bytes, tuple[Prefix, ...]], gone: frozenset[bytes]
) -> bool:
    """Whether what is seen of a slot is all that counts, and lies where it counts now."""
    top = max((prefix.seqnum, prefix.root_hash, prefix.n) for prefixes in holders.values() for prefix in prefixes)
    rivals = {p.root_hash for prefixes in holders.values() for p in prefixes if p.seqnum == top[0]}
    if len(rivals) > 1:
        return False
    n = top[2]
    have = {node_id for node_id, prefixes in holders.items() if any(p.seqnum == top[0] for p in prefixes)}
    hall = first(membership.members, si, n)
    if 2 * len(hall & have) <= len(hall):
        return False
    earlier = [first(members, si, n) for members in membership.earlier]
    return all(2 * len(each & gone) <= len(each) for each in earlier)
