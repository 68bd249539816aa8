"""How fast bulk data may go: one limit for all servers together (`--limit-rate`)."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext


class RateLimit:
    """At most `bytes_per_second`, up and down added, shared by whoever holds it.

    Who uses it from several threads passes a lock. On average the rate holds exactly; at a moment it may be ahead
    by one request of each taker.
    """

    def __init__(
        self,
        bytes_per_second: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        lock: AbstractContextManager[object] | None = None,
    ) -> None:
        if bytes_per_second <= 0:
            raise ValueError("a rate must be more than nothing")
        self.bytes_per_second = bytes_per_second
        self._clock = clock
        self._lock = lock or nullcontext()
        self._free = clock()

    def take(self, count: int) -> float:
        """Reserve `count` bytes; answers for how many seconds the taker must hold them back."""
        with self._lock:
            now = self._clock()
            start = max(now, self._free)
            self._free = start + count / self.bytes_per_second
            return start - now
