"""Under which terms clients come: what `lafs serve` was told on its command line."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """What a server takes: `quota` and `reserve` in bytes; `history`, versions of a share that are kept where it is
    append-only."""

    append_only: bool = False
    read_only: bool = False
    quota: int | None = None
    reserve: int = 0
    history: int = 0
