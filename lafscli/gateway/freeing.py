"""What is freed goes back to the system: a gateway runs for months, and its largest hour is not to count for all."""

from __future__ import annotations

import ctypes
from contextlib import suppress

_MMAP_THRESHOLD = -3
_LARGE = 256 << 10


def free_at_once() -> None:
    """Have blocks of a segment's size mapped one by one, as the GNU library does before it has seen the first of them
    freed. Nothing where there is another library."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _LARGE)
