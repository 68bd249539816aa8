"""What reading and writing on a grid of tests takes."""

from __future__ import annotations

from lafscli.storage.grid import Grid
from lafscli.tree.contents import Access
from tests.grids import writing

NOW = 1_800_000_000.5


def access_to(grid: Grid) -> Access:
    return Access(grid, writing(), None, None, NOW)
