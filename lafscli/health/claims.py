"""What the leases on a share that no root reaches say of it: whether this home may throw it away (CLI.md §5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lafscli.immutable.upload import LEASE_SECONDS
from lafscli.storage.store import Lease, Leased, ShareStore, StorageIndex

MARGIN = 24 * 3600
"""Seconds for which a share stays after it was stored or its lease renewed: it may be about to get a name."""

NOT_OURS = "they carry no lease of this home"
OTHERS = "they carry a live lease of another home"
BESIDE = "other shares of the object carry a live lease of another home"
RECENT = "they were stored or renewed less than a day ago"
UNREADABLE = "their leases can't be read"
RENEWED = "they were renewed or stored again meanwhile"
CHANGING = "they are being changed"
UPLOADING = "an upload of them is under way"
READ_ONLY = "they lie on a server that is read-only here"
NO_GUARD = "they lie on a server where nothing can be changed safely"


@dataclass(frozen=True, slots=True)
class Claims:
    """How this home judges leases: by its own, as `lease` makes them, and by the time, `now`."""

    lease: Callable[[StorageIndex, ShareStore], Lease]
    now: int

    def against(
        self, si: StorageIndex, store: ShareStore, leased: Leased, server_time: int | None = None
    ) -> str | None:
        """Why a share must stay; None where it may go. Of two clocks the earlier one counts: by it leases live longer,
        and less time has passed."""
        now = self.now if server_time is None else min(self.now, server_time)
        renew = self.lease(si, store).renew
        ours = [lease.expiration for lease in leased.leases if lease.matches_renew(renew)]
        if not ours:
            return NOT_OURS
        if any(lease.expiration > now and not lease.matches_renew(renew) for lease in leased.leases):
            return OTHERS
        if max(*ours, leased.mtime + LEASE_SECONDS) - LEASE_SECONDS > now - MARGIN:
            return RECENT
        return None
