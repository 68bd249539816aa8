"""Links in directories: set, moved, removed. Each is one change of a directory, made again where another was faster.

A change that is made again may find that it is there already: a write that nobody acknowledged can have come through.
So what was allowed once, and is as it was to become, is done.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from lafscli.errors import Conflict, LafsError, MalformedDirectory, NotFound
from lafscli.formats.caps import Cap, DirectoryCap, UnknownCap
from lafscli.formats.child import Child
from lafscli.formats.dirtable import Table
from lafscli.tree.contents import Access
from lafscli.tree.directory import NewChild, changeable, edit
from lafscli.tree.paths import Reached, Spot, hang, linked_at, nested, reach

Over = Literal["nothing", "files", "anything"]
"""What a new link may take the place of."""


class IntoItself(LafsError):
    """A directory can't be moved into itself, nor an entry to where it is."""


class Occupied(LafsError):
    """The name is taken; `child` is what has it."""

    def __init__(self, message: str, child: Child) -> None:
        super().__init__(message, hint="lafs rm removes a link, lafs mv gives it another name")
        self.child = child


def link(access: Access, parent: DirectoryCap, name: str, new: NewChild, *, over: Over) -> Child | None:
    """Give a name to an object; what had the name before. `files`: a file may be replaced. Occupied, else."""
    return link_many(access, parent, {name: new}, over=over).get(name)


def link_many(
    access: Access, parent: DirectoryCap, children: Mapping[str, NewChild], *, over: Over
) -> dict[str, Child]:
    """Give names to objects, all in one change or, where one of them is Occupied, none; what had the names before."""
    before: dict[str, Child] = {}
    allowed = False

    def change(table: Table) -> None:
        nonlocal allowed
        if allowed and all(_cap_now(table, name) == new.cap for name, new in children.items()):
            return
        before.clear()
        for name, new in children.items():
            for child in _before(table, name, over):
                before[name] = child
            table.link(name, new.cap, ro=new.ro, metadata=new.metadata, now=access.now)
        allowed = True

    edit(access, parent, change)
    return before


def plant(access: Access, reached: Reached, name: str, new: NewChild, *, over: Over) -> Child | None:
    """Give an object the last name of a path that was followed as far as it leads, making the directories that are
    missing: all of it with one change of a directory that is there. What had the name before."""
    parent = reached.above[-1]
    if len(reached.missing) < 2:
        return link(access, parent, name, new, over=over)
    changeable(parent)
    first, *rest = reached.missing
    metadata = linked_at(access.now) if new.metadata is None else new.metadata
    made = nested(access, rest[:-1], {name: replace(new, metadata=metadata)})
    there = hang(access, parent, first, made)
    if there == made:
        return None
    again = reach(access, there, rest)
    return plant(access, again, name, new, over=over)


def _before(table: Table, name: str, over: Over) -> list[Child]:
    if name not in table:
        return []
    try:
        child = table.child(name)
    except MalformedDirectory:
        if over == "anything":
            return []
        raise
    if over == "anything":
        return [child]
    if over == "nothing":
        raise Occupied(f"{name}: there is an entry of that name already", child)
    if child.cap.is_directory:
        raise Occupied(f"{name}: is a directory", child)
    if isinstance(child.cap, UnknownCap):
        raise Occupied(f"{name}: is of a kind that lafs does not know, and is not replaced", child)
    return [child]


def move(access: Access, source: Spot, target: Spot, *, over: Over = "files") -> Child | None:
    """Give an entry another name, in this or in another directory; what had that name before.

    In one directory that is one change. Between two the new link is made first: what is interrupted leaves both.
    """
    child = source.child
    assert child is not None, "what is moved was found"
    changeable(source.parent)
    changeable(target.parent)
    if any(same_directory(above, child.cap) for above in target.above):
        raise IntoItself(f"{source.name}: can't be moved into itself")
    if not same_directory(source.parent, target.parent):
        new = NewChild(child.cap, child.metadata, child.ro)
        before = link(access, target.parent, target.name, new, over=over)
        _unlink_moved(access, source, child)
        return before
    replaced: list[Child] = []
    moved: Cap | None = None

    def change(table: Table) -> None:
        nonlocal moved
        if moved is not None and source.name not in table and _cap_now(table, target.name) == moved:
            return
        now = table.child(source.name)
        table.unlink(source.name)
        if target.name not in table and _is_name_of(child, target.name):
            raise IntoItself(f"{source.name}: source and target are the same entry")
        replaced[:] = _before(table, target.name, over)
        table.link(target.name, now.cap, ro=now.ro, metadata=now.metadata, now=access.now)
        moved = now.cap

    edit(access, source.parent, change)
    return replaced[0] if replaced else None


def _is_name_of(child: Child, name: str) -> bool:
    from unicodedata import normalize

    return child.name == normalize("NFC", name)


def _unlink_moved(access: Access, source: Spot, child: Child) -> None:
    """Remove the old link, if it still is that of what was moved."""
    try:
        refused = unlink(access, source.parent, {source.name: child})
    except LafsError as error:
        error.hint = f"the new link is made, the old one is still there: lafs rm of {source.name} removes it"
        raise
    if refused:
        raise Conflict(
            f"{source.name}: was replaced while it was moved; what it was is under its new name, "
            "and the old name was left as it is now"
        )


def unlink(access: Access, parent: DirectoryCap, names: Mapping[str, Child | None]) -> list[LafsError]:
    """Remove links, all in one change: each only while it still is that child (None: whatever it is). What was not
    removed is told: NotFound, Conflict."""
    refused: list[LafsError] = []
    allowed: set[str] = set()

    def change(table: Table) -> None:
        refused.clear()
        for name, child in names.items():
            if name not in table:
                if name not in allowed:
                    refused.append(NotFound(f"{name}: no such file or directory"))
            elif child is not None and _cap_now(table, name) != child.cap:
                refused.append(Conflict(f"{name}: was replaced by another meanwhile, and not removed"))
            else:
                table.unlink(name)
                allowed.add(name)

    edit(access, parent, change)
    return refused


def _cap_now(table: Table, name: str) -> Cap | None:
    """What an entry leads to; None where there is none that can be used."""
    try:
        return table.child(name).cap
    except (NotFound, MalformedDirectory):
        return None


def same_directory(one: Cap, other: Cap) -> bool:
    """Whether two caps are of one directory, whatever they grant."""
    if not (one.is_directory and other.is_directory):
        return False
    mine, theirs = one.verify_cap(), other.verify_cap()
    return one == other if mine is None or theirs is None else mine == theirs
