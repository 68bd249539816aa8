"""Mutable files over the grids of `grids`: what a write and a read need, the same each time but for keys and tokens."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from lafscli.formats.caps import MutableReadCap, MutableWriteCap
from lafscli.mutable.publish import Publishing
from lafscli.mutable.retrieve import Reading, contents
from lafscli.placement import Encoding
from lafscli.storage.grid import Grid
from lafscli.storage.memory import Seen

NOW = 1_800_000_000


def publishing(
    encoding: Encoding | None = None,
    *,
    seen: Seen | None = None,
    patience: float = 20.0,
    random_bytes: Callable[[int], bytes] = os.urandom,
    force: bool = False,
) -> Publishing:
    return Publishing(
        encoding or Encoding(),
        b"l" * 32,
        NOW,
        random_bytes,
        seen,
        time.monotonic,
        time.sleep,
        patience=patience,
        force=force,
    )


def reading(*, seen: Seen | None = None, strict: bool = False) -> Reading:
    return Reading(seen, time.monotonic, lambda _: None, os.urandom, strict)


def content_of(grid: Grid, cap: MutableReadCap | MutableWriteCap) -> bytes:
    return contents(grid, cap, reading())[0]
