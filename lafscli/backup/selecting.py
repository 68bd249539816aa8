"""Which entries of a snapshot are wanted: patterns as in gitignore(5), anchored at its root."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lafscli.backup.excludes import compiled

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec


class Selecting:
    """Everything, or what `include` matches with all below it; without what `exclude` matches."""

    def __init__(self, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> None:
        self._include: GitIgnoreSpec | None = compiled(include) if include else None
        self._exclude: GitIgnoreSpec | None = compiled(exclude) if exclude else None

    def wants(self, place: Sequence[str], *, folder: bool) -> tuple[bool, bool]:
        """Whether an entry is wanted, and whether something below it may be."""
        path = "/".join(place) + ("/" if folder else "")
        if self._exclude is not None and self._exclude.match_file(path):
            return False, False
        # what is below a folder that matches, matches
        wanted = self._include is None or self._include.match_file(path)
        return wanted, folder
