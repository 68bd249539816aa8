"""What a run of a backup is asked for, and what it came to (CLI.md §6)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from lafscli.backup.confirm import How
from lafscli.backup.excludes import Excludes
from lafscli.storage.store import Progress


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something of the source that could not be kept."""

    path: str
    reason: str


@dataclass(slots=True)
class Tally:
    """What a run came to. `changing`: files that never stood still; `left_out`: entries that were excluded; `lacking`:
    servers that should have a share of so many objects that were stored now, and have none; `silent`: servers that did
    not answer when they were asked for what is reused, and why."""

    files_new: int = 0
    files_changed: int = 0
    files_unmodified: int = 0
    dirs_new: int = 0
    dirs_reused: int = 0
    bytes_read: int = 0
    bytes_pushed: int = 0
    reuploaded_missing: int = 0
    left_out: int = 0
    errors: list[Trouble] = field(default_factory=list)
    changing: list[str] = field(default_factory=list)
    lacking: dict[str, int] = field(default_factory=dict)
    silent: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Settings:
    """How to make a snapshot. `only`: paths relative to the source, if not all of it; `now_ns`: the clock. `named` is
    called with each thing that can't be kept, `warn` with what the user should know and stops nothing."""

    excludes: Excludes = field(default_factory=Excludes)
    only: frozenset[bytes] | None = None
    ignore_timestamps: bool = False
    confirm: How = "quick"
    now_ns: Callable[[], int] = field(default=lambda: 0)
    progress: Progress = field(default_factory=Progress)
    named: Callable[[Trouble], None] = field(default=lambda _: None)
    warn: Callable[[str], None] = field(default=lambda _: None)
