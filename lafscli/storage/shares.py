"""Who a server is, and what is asked of it or given to it: values about shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

from lafscli.primitives.encoding import Buffer

StorageIndex = bytes
"""16 bytes that name an object on servers (spec 00 §1)."""


GUARDED = frozenset({"rename-keeps", "folder-rename-keeps"})
"""The features without which there is no guard (spec 10 §1)."""


@dataclass(frozen=True, slots=True)
class Server:
    """Who a server is (spec 05 §1). `features`: what `server add` found out. `mutable`: not switched off there."""

    name: str
    node_id: bytes
    seed: bytes
    site: str | None = None
    writable: bool = True
    features: frozenset[str] = frozenset()
    mutable: bool = True

    @property
    def takes_mutable(self) -> bool:
        """Whether mutable shares are written there."""
        return self.writable and self.mutable and self.features >= GUARDED


@dataclass(frozen=True, slots=True)
class Lease:
    """One lease to be written (spec 06): raw secrets, Unix seconds."""

    renew: bytes = field(repr=False)
    cancel: bytes = field(repr=False)
    expiration: int
    owner: int = 0


_KEEPERS = count(1)


def new_keeper() -> int:
    """A number for one who keeps shares open for as long as one reading takes."""
    return next(_KEEPERS)


@dataclass(frozen=True, slots=True)
class ShareRange:
    """`length` bytes from `offset` of a share: its own bytes, without the container around them.

    `where` is the path of a mutable container that `slots` or `everywhere` has found; else the share is immutable.
    `keep` and `keeper`: those of `FileRange`.
    """

    si: StorageIndex
    shnum: int
    offset: int
    length: int
    keep: bool = False
    into: memoryview | None = field(default=None, compare=False)
    where: str | None = None
    keeper: int = 0


@dataclass(frozen=True, slots=True)
class NewShare:
    """A small whole share: immutable, or of a new slot, for which there is the write enabler."""

    si: StorageIndex
    shnum: int
    parts: Sequence[Buffer]
    lease: Lease
    write_enabler: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class LeaseOf:
    """A lease to renew on a share that is there."""

    si: StorageIndex
    shnum: int
    lease: Lease
