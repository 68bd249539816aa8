"""Backups of a folder to a grid of local folders, and back, for tests."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from lafscli.backup.create import make_snapshot
from lafscli.backup.database import Database
from lafscli.backup.entries import Kept
from lafscli.backup.landing import Landing, Rights
from lafscli.backup.restore import Restored, Restoring, restore
from lafscli.backup.runs import Settings, Tally
from lafscli.backup.selecting import Selecting
from lafscli.formats.caps import DirectoryCap
from tests.grids import LocalGrid
from tests.mutable_access import access_to


class Keeper:
    """A grid, a database, and a source."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.local = LocalGrid(folder / "grid")
        self.source = folder / "source"
        self.database = Database(folder / "database.sqlite")

    def backup(self, **settings: Any) -> tuple[DirectoryCap, Tally]:
        """With the clock an hour on, so that no file looks as if it had changed just now."""
        given = Settings(now_ns=lambda: time.time_ns() + 3600 * 10**9, **settings)
        return make_snapshot(access_to(self.local.grid()), self.database, os.fsencode(self.source), given)

    def restore(self, cap: DirectoryCap, name: str = "restored", **settings: Any) -> tuple[Path, Restored, Rights]:
        target = self.folder / name
        target.mkdir(exist_ok=True)
        rights = Rights(os.geteuid() == 0)
        how = Restoring(settings.pop("selecting", Selecting()), **settings)
        with Landing(str(target), rights) as landing:
            return target, restore(access_to(self.local.grid()), cap, Kept(), landing, how), rights

    def lose(self, servers: range) -> None:
        for index in servers:
            self.local.dials[index].dead = True
