"""What a write needs besides the cap, and what it tells afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from lafscli.formats.caps import MutableWriteCap
from lafscli.mutable.blocks import Codec
from lafscli.placement import Encoding
from lafscli.primitives import hashes
from lafscli.primitives.encoding import Buffer
from lafscli.storage.membership import Membership
from lafscli.storage.memory import Seen
from lafscli.storage.store import Lease, ShareStore, StorageIndex

LEASE_SECONDS = 31 * 24 * 3600
OWNER = 1
"""Owner number of leases on mutable shares: 0 would mean that there is none (spec 06 §3)."""


@dataclass(frozen=True, slots=True)
class Publishing:
    """What a write needs.

    `encoding` is for new files; one that exists keeps its k and N, so that everybody agrees on the servers that decide.
    `now`: Unix seconds. `patience`: for how long another writer is put up with, in seconds. `force`: write though half
    the servers or more hold something newer that can't be read (spec 10 §2.8b). `random_bytes`, `monotonic` and `sleep`
    are the world. `codec`: threads for keys and for what is large. `membership`: the grid's servers that have a say;
    `make_list` makes one before the first write where there is none.
    """

    encoding: Encoding
    lease_secret: bytes = field(repr=False)
    now: int
    random_bytes: Callable[[int], bytes]
    seen: Seen | None
    monotonic: Callable[[], float]
    sleep: Callable[[float], None]
    membership: Membership | None = None
    patience: float = 300.0
    force: bool = False
    codec: Codec | None = None
    make_list: Callable[[], Membership | None] | None = None

    def ready(self) -> Publishing:
        """The same with a list of the grid's servers: for a home that had none it is made now (spec 10 §2.7)."""
        if self.membership is not None or self.make_list is None:
            return self
        return replace(self, membership=self.make_list(), make_list=None)

    def lease(self, si: StorageIndex, store: ShareStore) -> Lease:
        """Our lease on a share of `si` at that server (spec 06 §2)."""
        node_id = store.server.node_id
        return Lease(
            hashes.lease_renew_secret(self.lease_secret, si, node_id),
            hashes.lease_cancel_secret(self.lease_secret, si, node_id),
            self.now + LEASE_SECONDS,
            OWNER,
        )


Small = Buffer | Callable[[MutableWriteCap], bytes]
"""Content in memory, or what makes it when the cap of a new file is known: directories seal caps with its key."""


def bytes_of(content: Small, cap: MutableWriteCap) -> Buffer:
    """The content itself."""
    return content(cap) if callable(content) else content


@dataclass(frozen=True, slots=True)
class Published:
    """A version that was written. `placement`: share number to names of servers; `silent`: servers without it."""

    cap: MutableWriteCap
    size: int
    seqnum: int
    encoding: Encoding
    happiness: int
    placement: dict[int, list[str]] = field(default_factory=dict)
    silent: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
