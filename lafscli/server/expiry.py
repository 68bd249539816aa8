"""When a lease has ended (spec 06 §4): by age, by age with an override, or by a cut-off date."""

from __future__ import annotations

from dataclasses import dataclass

LEASE_SECONDS = 31 * 24 * 3600
"""What a lease is given, and so how long before its expiration it was renewed last."""


@dataclass(frozen=True, slots=True)
class Expiry:
    """A policy at a moment. `older_than`: seconds since the last renewal, instead of the date in the lease; `cutoff`:
    what was last renewed before. At most one of them."""

    now: float
    older_than: int | None = None
    cutoff: float | None = None

    def ended(self, expiration: int) -> bool:
        """Whether a lease with this expiration has ended."""
        renewed = expiration - LEASE_SECONDS
        if self.cutoff is not None:
            return renewed < self.cutoff
        if self.older_than is not None:
            return self.now - renewed > self.older_than
        return self.now > expiration
