"""Paths in the grid: names that lead from a directory to what they stand for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from lafscli.errors import LafsError, MalformedDirectory, NotFound, UsageError
from lafscli.formats.caps import Cap, DirectoryCap, UnknownCap
from lafscli.formats.child import Child
from lafscli.formats.dirtable import Table
from lafscli.tree.contents import Access
from lafscli.tree.directory import Directory, NewChild, changeable, create_directory, edit, load

Loading = Callable[[Access, DirectoryCap], Directory]


class NoDirectory(NotFound):
    """A path goes through something that is no directory."""


@dataclass(frozen=True, slots=True)
class Reached:
    """How far a path leads. `above`: the directories that were read on the way, the root first. `child`: what the last
    name stands for. `missing`: the names that lead nowhere; `unusable`: why the last entry can't be understood. Then
    there is no child."""

    above: tuple[DirectoryCap, ...]
    child: Child | None
    missing: tuple[str, ...] = ()
    unusable: MalformedDirectory | None = None


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a name can be linked. `child`: what has that name, when it was looked at, or `unusable`: why its entry
    can't be understood. `above`: the directories on the way, the root first, `parent` last."""

    parent: DirectoryCap = field(repr=False)
    name: str
    child: Child | None = field(default=None, repr=False)
    unusable: MalformedDirectory | None = None
    above: tuple[DirectoryCap, ...] = field(default=(), repr=False)


def split(path: str) -> tuple[str, ...]:
    """The names of a path; a slash too many is nothing."""
    return tuple(name for name in path.split("/") if name)


def follow(access: Access, cap: Cap, names: Sequence[str]) -> Cap:
    """What a path leads to, from a cap; NotFound names the part that is missing."""
    return child_at(access, cap, names).cap if names else cap


def child_at(access: Access, cap: Cap, names: Sequence[str], loading: Loading = load) -> Child:
    """The entry that a path of at least one name leads to; NotFound names the part that is missing."""
    reached = reach(access, cap, names, loading)
    if reached.unusable is not None:
        raise reached.unusable
    if reached.child is None:
        raise missing(names, reached)
    return reached.child


def spot(access: Access, cap: Cap, names: Sequence[str], *, make_parents: bool = False) -> Spot:
    """The directory that the last of the names stands in, or would. A directory on the way that is missing is made,
    or is NotFound."""
    reached = reach(access, cap, names)
    if len(reached.missing) < 2:
        return Spot(reached.above[-1], names[-1], reached.child, reached.unusable, reached.above)
    if not make_parents:
        raise missing(names, reached)
    changeable(reached.above[-1])
    below, *rest = reached.missing
    made = hang(access, reached.above[-1], below, nested(access, rest[:-1]))
    further = spot(access, made, rest, make_parents=True)
    return replace(further, above=(*reached.above, *further.above))


def reach(access: Access, cap: Cap, names: Sequence[str], loading: Loading = load) -> Reached:
    """Follow names as far as they lead. NoDirectory where one of them goes through something that is no directory."""
    above: list[DirectoryCap] = []
    child: Child | None = None
    here = cap
    for index, name in enumerate(names):
        if not isinstance(here, DirectoryCap):
            raise _no_directory(here, names[:index])
        above.append(here)
        table = loading(access, here).table
        if name not in table:
            return Reached(tuple(above), None, tuple(names[index:]))
        try:
            child = table.child(name)
        except MalformedDirectory as error:
            if index < len(names) - 1:
                raise
            return Reached(tuple(above), None, (), error)
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
        return NoDirectory(f"{path}: of a kind that lafs does not know, so no path leads into it")
    return NoDirectory(f"{path}: is a file, not a directory")


def nested(access: Access, names: Sequence[str], inside: Mapping[str, NewChild] | None = None) -> DirectoryCap:
    """A new directory that holds a new directory of each of the names in turn, the last of them with these children."""
    made = create_directory(access, inside)
    for name in reversed(names):
        made = create_directory(access, {name: NewChild(made, linked_at(access.now))})
    return made


def hang(access: Access, parent: DirectoryCap, name: str, made: DirectoryCap) -> Cap:
    """Link a directory that was made for a name that was free; where another was faster, take what that one linked."""
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
