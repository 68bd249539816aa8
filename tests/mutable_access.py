"""What reading and writing on a grid of tests takes."""

from __future__ import annotations

import os
import time

from lafscli.mutable.publish import Publishing
from lafscli.mutable.retrieve import Reading
from lafscli.placement import Encoding
from lafscli.storage.grid import Grid
from lafscli.storage.memory import Seen
from lafscli.tree.contents import Access
from tests.grids import writing

NOW = 1_800_000_000.5


def access_to(grid: Grid, encoding: Encoding | None = None, *, now: float = NOW) -> Access:
    """Of a client that remembers nothing yet."""
    chosen = encoding or Encoding()
    seen, world = Seen(None), (time.monotonic, time.sleep)
    publishing = Publishing(chosen, b"l" * 32, int(NOW), os.urandom, seen, *world)
    return Access(grid, writing(chosen), publishing, Reading(seen, *world, os.urandom), now)
