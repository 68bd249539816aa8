"""Who holds a share by a lease, and what lies in `trash/` of a server (spec 06, 10 §3): values, and the promise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from lafscli.errors import LafsError
from lafscli.formats.container import LeaseRecord
from lafscli.formats.mutable_container import MutableLease
from lafscli.storage.shares import StorageIndex


@dataclass(frozen=True, slots=True)
class Leased:
    """A container as its leases see it. `mtime`: when it was last written, by the server's clock.

    `seen`: all bytes of it that have to do with leases, each with where in the file it lies.
    """

    size: int
    mtime: int
    leases: tuple[LeaseRecord | MutableLease, ...]
    seen: tuple[tuple[int, bytes], ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Thrown:
    """A container in the trash: of which share, since which UTC day (2030-12-31), and where."""

    si: StorageIndex
    shnum: int
    day: str
    path: str
    size: int


MayGo = Callable[[Leased, int], bool]
"""Whether a share may be thrown away, from what its leases are now, and the server's time."""


class Trash(Protocol):
    """The way of shares out of a server, and back (spec 10 §3). Errors of one item are values in its place."""

    def leases(self, shares: Sequence[tuple[StorageIndex, int]]) -> list[Leased | LafsError]:
        """The leases on shares that stand in place; CorruptShare for a container of which they can't be told."""

    def clock(self) -> int:
        """Unix seconds by the server's clock."""

    def throw_away(
        self, si: StorageIndex, shnums: Sequence[int], may_go: MayGo | None = None, *, patience: float = 0.0
    ) -> dict[int, bool | LafsError]:
        """Move shares to the trash of this day, under the guard: True. False for one that may not go by now, or was
        renewed while it went and is back in place. One that is not there is left out. GuardHeld."""

    def tidy(self) -> None:
        """Put back in place what others had taken out of it, and died before they threw it away."""

    def thrown(self) -> Iterator[Thrown]:
        """What lies in the trash, the newest days first, and of each what was written last. A folder that can't be
        listed is raised."""

    def leases_of(self, items: Sequence[Thrown]) -> list[Leased | LafsError]:
        """The leases on what lies there."""

    def bring_back(self, items: Sequence[Thrown]) -> list[bool | LafsError]:
        """Put it back in place: True. False where a share stands."""

    def remove(self, items: Sequence[Thrown]) -> list[LafsError | None]:
        """Remove it for good."""
