"""Which versions of a mutable file there are, by the shares that were proven (spec 03 §7)."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass

from lafscli.formats.slot import Header
from lafscli.proof.slots import SlotShare


@dataclass(frozen=True, slots=True)
class Versions:
    """Of each version, who holds which share numbers."""

    holders: Mapping[Header, Mapping[int, tuple[Hashable, ...]]]

    @classmethod
    def of(cls, shares: Iterable[tuple[Hashable, SlotShare]]) -> Versions:
        """Group shares, each with who holds it."""
        holders: dict[Header, dict[int, tuple[Hashable, ...]]] = {}
        for holder, share in shares:
            numbers = holders.setdefault(share.header, {})
            numbers[share.shnum] = (*numbers.get(share.shnum, ()), holder)
        return cls(holders)

    @property
    def recoverable(self) -> list[Header]:
        """Those with k or more distinct share numbers, the best first."""
        return sorted(filter(self._is_recoverable, self.holders), key=_rank, reverse=True)

    @property
    def unrecoverable(self) -> list[Header]:
        """The others, the newest first."""
        return sorted((one for one in self.holders if not self._is_recoverable(one)), key=_rank, reverse=True)

    @property
    def best(self) -> Header | None:
        """The recoverable one of the greatest seqnum, then root hash."""
        return next(iter(self.recoverable), None)

    @property
    def newer_unrecoverable(self) -> list[Header]:
        """Unrecoverable ones above every recoverable one: overwriting loses what they held."""
        best = self.best
        return [one for one in self.unrecoverable if best is None or one.prefix.seqnum > best.prefix.seqnum]

    @property
    def needs_merge(self) -> bool:
        """Whether two recoverable versions have one seqnum.

        Versions that were signed as one differ only in their offsets: there is nothing to merge.
        """
        signed = {one.prefix for one in self.recoverable}
        return len({prefix.seqnum for prefix in signed}) < len(signed)

    @property
    def highest_seqnum(self) -> int:
        """Of any share; 0 if there are none."""
        return max((one.prefix.seqnum for one in self.holders), default=0)

    def _is_recoverable(self, version: Header) -> bool:
        return len(self.holders[version]) >= version.prefix.k


def _rank(version: Header) -> tuple[int, bytes, bytes, tuple[int, ...]]:
    prefix = version.prefix
    return prefix.seqnum, prefix.root_hash, prefix.serialise(), version.layout.offsets
