"""Paths in the grid: names that lead from a directory to what they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lafscli.errors import LafsError, NotFound, UsageError
from lafscli.formats.caps import Cap, DirectoryCap, UnknownCap
from lafscli.formats.child import Child
from lafscli.formats.dirtable import Table
from lafscli.tree.contents import Access
from lafscli.tree.directory import NewChild, changeable, create_directory, edit, load


@dataclass(frozen=True, slots=True)
class Reached:
    """How far a path leads. `above`: the directories that were read on the way, the root first. `child`: what the last
    name stands for. `missing`: the names that lead nowhere; then there is no child."""

    above: tuple[DirectoryCap, ...]
    child: Child | None
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a name can be linked. `child`: what has that name, when it was looked at; `above`: the directories on the
    way, the root first, `parent` last."""

    parent: DirectoryCap = field(repr=False)
    name: str
    child: Child | None = field(default=None, repr=False)
    above: tuple[DirectoryCap, ...] = field(default=(), repr=False)


def split(path: str) -> tuple[str, ...]:
    """The names of a path; a slash too many is nothing."""
    return tuple(name for name in path.split("/") if name)


def follow(access: Access, cap: Cap, names: Sequence[str]) -> Cap:
    """What a path leads to, from a cap; NotFound names the part that is missing."""
    return child_at(access, cap, names).cap if names else cap


def child_at(access: Access, cap: Cap, names: Sequence[str]) -> Child:
    """The entry that a path of at least one name leads to; NotFound names the part that is missing."""
    reached = reach(access, cap, names)
    if reached.child is None:
        raise missing(names, reached)
    return reached.child


def spot(access: Access, cap: Cap, names: Sequence[str], *, make_parents: bool = False) -> Spot:
    """The directory that the last of the names stands in, or would. A directory on the way that is missing is made,
    or is NotFound."""
    reached = reach(access, cap, names)
    if len(reached.missing) < 2:
        return Spot(reached.above[-1], names[-1], reached.child, reached.above)
    if not make_parents:
        raise missing(names, reached)
    below, *rest = reached.missing
    made = _make(access, reached.above[-1], below, rest[:-1])
    further = spot(access, made, rest, make_parents=True)
    return Spot(further.parent, further.name, further.child, (*reached.above, *further.above))


def reach(access: Access, cap: Cap, names: Sequence[str]) -> Reached:
    """Follow names as far as they lead. NotFound where one of them goes through something that is no directory."""
    above: list[DirectoryCap] = []
    child: Child | None = None
    here = cap
    for index, name in enumerate(names):
        if not isinstance(here, DirectoryCap):
            raise _no_directory(here, names[:index])
        above.append(here)
        table = load(access, here).table
        if name not in table:
            return Reached(tuple(above), None, tuple(names[index:]))
        child = table.child(name)
        here = child.cap
    return Reached(tuple(above), child)


def missing(names: Sequence[str], reached: Reached) -> NotFound:
    """The error for a path that leads nowhere."""
    return NotFound(f"{'/'.join(names[: len(names) - len(reached.missing) + 1])}: no such file or directory")


def _no_directory(cap: Cap, names: Sequence[str]) -> LafsError:
    if not names:
        return UsageError("this is the cap of a file: no path leads into it")
    path = "/".join(names)
    if isinstance(cap, UnknownCap):
        return NotFound(f"{path}: of a kind that lafs does not know, so no path leads into it")
    return NotFound(f"{path}: is a file, not a directory")


def _make(access: Access, parent: DirectoryCap, name: str, below: Sequence[str]) -> Cap:
    """Make the directory `name` in `parent`, and in it those of `below`, each in the one before. All of them appear
    with one change; where another was faster, what that one made is taken."""
    changeable(parent)
    made = create_directory(access)
    for each in reversed(below):
        made = create_directory(access, {each: NewChild(made, linked_at(access.now))})
    there: Child | None = None

    def link(table: Table) -> None:
        nonlocal there
        there = table.child(name) if name in table else None
        if there is None:
            table.link(name, made, now=access.now)

    edit(access, parent, link)
    return made if there is None else there.cap


def linked_at(now: float) -> dict[str, dict[str, float]]:
    """Metadata of a link that is made together with its directory, as a link that is set has it (spec 04 §4)."""
    return {"tahoe": {"linkcrtime": now, "linkmotime": now}}
