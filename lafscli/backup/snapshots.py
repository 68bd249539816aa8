"""Snapshots under a target: `Archives/<UTC time>`, and `Latest`, a link to the newest (spec 07 §1)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from lafscli.errors import LafsError, NotFound
from lafscli.formats.caps import Cap, DirectoryCap
from lafscli.formats.dirtable import Table
from lafscli.tree.contents import Access
from lafscli.tree.directory import create_directory, edit, load
from lafscli.tree.paths import hang

ARCHIVES = "Archives"
LATEST = "Latest"
_LOOKS = 3
"""How often the snapshots are looked at again when the latest is none of them."""
_FORM = "%Y-%m-%d_%H:%M:%SZ"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One snapshot. `time`: Unix seconds, from its name; None for a name that is no time."""

    name: str
    time: int | None
    cap: Cap = field(repr=False)


def name_of(seconds: float) -> str:
    """What a snapshot that was finished then is called."""
    return time.strftime(_FORM, time.gmtime(seconds))


def time_of(name: str) -> int | None:
    """When a snapshot of this name was finished; None for a name that is no time."""
    import calendar

    try:
        return calendar.timegm(time.strptime(name, _FORM))
    except (ValueError, OverflowError):
        return None


def archives(access: Access, target: DirectoryCap, *, make: bool = False) -> DirectoryCap:
    """The directory of the snapshots; NotFound where there is none, unless it is made."""
    table = load(access, target).table
    if ARCHIVES in table:
        cap = table.child(ARCHIVES).cap
        if not isinstance(cap, DirectoryCap):
            raise LafsError(f"{ARCHIVES} is no directory", hint="name another TARGET")
        return cap
    if not make:
        raise NotFound("there are no snapshots", hint="lafs backup SOURCE TARGET makes one")
    cap = hang(access, target, ARCHIVES, create_directory(access))
    if not isinstance(cap, DirectoryCap):
        raise LafsError(f"{ARCHIVES} is no directory", hint="name another TARGET")
    return cap


def snapshots(access: Access, target: DirectoryCap) -> list[Snapshot]:
    """All of them, the oldest first."""
    listed = load(access, archives(access, target)).children()
    return [Snapshot(child.name, time_of(child.name), child.cap) for child in listed if child.cap.is_directory]


def publish(
    access: Access,
    target: DirectoryCap,
    into: DirectoryCap,
    snapshot: DirectoryCap,
    now: Callable[[], float],
    sleep: Callable[[float], None],
) -> str:
    """Link a snapshot that is complete, and make it the latest; its name. A second in which there is a snapshot
    already is waited out. Where another home has linked one after this, and made that the latest, it stays so."""
    chosen = ""
    taken = False
    before: dict[str, Cap] = {}

    def link(table: Table) -> None:
        nonlocal chosen, taken
        if chosen and chosen in table and table.child(chosen).cap == snapshot:
            return  # a write of ours that nobody acknowledged came through
        before.update(_linked(table))
        name = name_of(now())
        taken = name in table
        if not taken:
            chosen = name
            table.link(chosen, snapshot, now=access.now)

    while True:
        edit(access, into, link)
        if not taken:
            break
        sleep(1.0)
    older = {snapshot, *before.values()}
    newer: set[Cap] = set()
    tries = 0
    unknown = True

    def latest(table: Table) -> None:
        nonlocal unknown
        current = table.child(LATEST).cap if LATEST in table else None
        unknown = current is not None and current not in older | newer
        if unknown and tries < _LOOKS:
            return  # that was linked a moment ago: to be looked at again
        if current in newer and current not in older:
            return
        if current is not None:
            table.unlink(LATEST)
        table.link(LATEST, snapshot, now=access.now)

    while unknown and tries <= _LOOKS:
        edit(access, target, latest)
        tries += 1
        if unknown and tries <= _LOOKS:
            newer = set(_linked(load(access, into).table).values())
    return chosen


def _linked(table: Table) -> dict[str, Cap]:
    """The snapshots in a directory of them."""
    return {child.name: child.cap for child in table.listing()[0] if time_of(child.name) is not None}
