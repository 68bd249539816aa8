"""What is freed goes back to the system: a gateway runs for months, and its largest hour is not to count for all."""

from __future__ import annotations

import ctypes
from contextlib import suppress


def give_back() -> None:
    """Give back to the system what the GNU library keeps of what was freed; with another library nothing is done."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
