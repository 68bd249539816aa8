"""Which snapshots stay, and why (CLI.md §6)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lafscli.backup.snapshots import LATEST, Snapshot, archives
from lafscli.formats.caps import DirectoryCap
from lafscli.formats.dirtable import Table
from lafscli.tree.contents import Access
from lafscli.tree.directory import edit


@dataclass(frozen=True, slots=True)
class Rules:
    """How many to keep of each sort: of the last ones, and of the newest of each day, week (ISO), month and year, all
    in UTC. `within`: keep those that are at most so many seconds older than the
    newest, which therefore stays."""

    last: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    within: float | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """A snapshot, and why it stays; without a reason it goes."""

    snapshot: Snapshot
    reasons: Sequence[str] = field(default=())


_PERIODS: Sequence[tuple[str, Callable[[time.struct_time], str]]] = (
    ("daily", lambda at: time.strftime("%Y-%m-%d", at)),
    ("weekly", lambda at: time.strftime("%G-W%V", at)),
    ("monthly", lambda at: time.strftime("%Y-%m", at)),
    ("yearly", lambda at: time.strftime("%Y", at)),
)


def decide(snapshots: Sequence[Snapshot], rules: Rules, now: float) -> list[Decision]:
    """What becomes of each, the oldest first. One whose name is no time always stays, and so does one of the future:
    nobody can say how old it is."""
    reasons: dict[str, list[str]] = {each.name: [] for each in snapshots}
    dated = sorted(((each.time, each.name) for each in snapshots if each.time is not None), reverse=True)
    for each in snapshots:
        if each.time is None:
            reasons[each.name].append("its name is no time")
        elif each.time > now:
            reasons[each.name].append("its time is in the future")
    past = [(at, name) for at, name in dated if at <= now]
    for _, name in past[: rules.last]:
        reasons[name].append("last")
    for word, period in _PERIODS:
        seen: set[str] = set()
        for at, name in past:
            if len(seen) == getattr(rules, word):
                break
            key = period(time.gmtime(at))
            if key not in seen:
                seen.add(key)
                reasons[name].append(word)
    for at, name in past:
        if rules.within is not None and past[0][0] - at <= rules.within:
            reasons[name].append("within")
    return [Decision(each, tuple(reasons[each.name])) for each in snapshots]


def remove(access: Access, target: DirectoryCap, gone: Sequence[Snapshot], left: Sequence[Snapshot]) -> None:
    """Unlink snapshots in one change; `Latest` leads to the newest that is left, or is gone with the last one."""
    names = {each.name: each.cap for each in gone}

    def change(table: Table) -> None:
        for name, cap in names.items():
            # another one may have taken the name meanwhile: that is not ours to remove
            if name in table and table.child(name).cap == cap:
                table.unlink(name)

    edit(access, archives(access, target), change)
    dated = [each for each in left if each.time is not None]
    newest = max(dated, key=lambda each: each.time or 0, default=None)

    def latest(table: Table) -> None:
        if LATEST not in table or table.child(LATEST).cap not in names.values():
            return
        if any(table.child(LATEST).cap == each.cap for each in left):
            return
        table.unlink(LATEST)
        if newest is not None:
            table.link(LATEST, newest.cap, now=access.now)

    edit(access, target, latest)
