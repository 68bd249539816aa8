"""What both doors of the gateway do to directories. Each takes its turn with the directory that it changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from unicodedata import normalize

from lafscli.errors import LafsError, NotGranted, UsageError
from lafscli.formats.caps import Cap, DirectoryCap, MutableReadCap, MutableWriteCap
from lafscli.formats.dirtable import Table
from lafscli.gateway.desk import Desk
from lafscli.gateway.spool import Spool
from lafscli.primitives.ciphers import PrivateKey
from lafscli.tree import links
from lafscli.tree.contents import Access, Kind, overwrite, store
from lafscli.tree.directory import NewChild, changeable, create_directory, edit
from lafscli.tree.links import Occupied, Over, plant
from lafscli.tree.paths import Reached, Spot, child_at, missing, reach

MOST_SDMF = 24 << 20
"""Bytes of an SDMF file, which is one segment: storing it takes five times as much memory."""


class TooLarge(LafsError):
    """More than the format can be given through a gateway."""


@dataclass(frozen=True, slots=True)
class Put:
    """Where content is now; `new`: the name was free before."""

    cap: Cap = field(repr=False)
    new: bool


def put(
    desk: Desk,
    access: Access,
    root: DirectoryCap,
    names: Sequence[str],
    source: Spool | bytes,
    kind: Kind | None,
    over: Over,
    metadata: Mapping[str, Any] | None = None,
    private: PrivateKey | None = None,
) -> Put:
    """Store content and link it under a path, making directories that are missing; a mutable file that is there is
    overwritten in place and keeps its cap. A directory is never replaced: Occupied. What can't be linked is not stored.
    """
    reached = _creatable(desk, access, root, names)
    child = reached.child
    if child is not None:
        if over == "nothing":
            raise Occupied(f"{names[-1]}: there is an entry of that name already", child)
        if child.cap.is_directory:
            raise Occupied(f"{names[-1]}: is a directory", child)
        if isinstance(child.cap, MutableWriteCap):
            rewrite(desk, access, child.cap, source)
            return Put(child.cap, False)
        if isinstance(child.cap, MutableReadCap):
            raise NotGranted(f"{names[-1]}: can't be written with its read cap", hint="that takes the write cap")
    changeable(reached.above[-1])
    cap = keep(access, source, kind or "chk", private)
    with desk.turn(reached.above[-1], shared=True):
        before = plant(access, reached, names[-1], NewChild(cap, metadata), over=over)
    return Put(cap, before is None and reached.unusable is None)


def keep(access: Access, source: Spool | bytes, kind: Kind, private: PrivateKey | None = None) -> Cap:
    """Store content that no name leads to yet. TooLarge."""
    fitting(kind, _size(source))
    return store(access, source, kind, private=private).cap


def rewrite(desk: Desk, access: Access, cap: MutableWriteCap, source: Spool | bytes) -> None:
    """Replace the content of a mutable file. TooLarge."""
    fitting(cap.kind, _size(source))
    with desk.turn(cap):
        overwrite(access, cap, source)


def _size(source: Spool | bytes) -> int:
    return source.size if isinstance(source, Spool) else len(source)


def fitting(kind: str, size: int) -> None:
    """TooLarge for more bytes than a file of this kind is given."""
    if kind == "sdmf" and size > MOST_SDMF:
        raise TooLarge(
            f"an SDMF file of {size} bytes: {MOST_SDMF} are the most, as it is in memory whole; MDMF has no such limit"
        )


def link(desk: Desk, access: Access, root: DirectoryCap, names: Sequence[str], new: NewChild, over: Over) -> None:
    """Link an object under a path, making directories that are missing. Occupied, NotGranted."""
    reached = _creatable(desk, access, root, names)
    changeable(reached.above[-1])
    with desk.turn(reached.above[-1], shared=True):
        plant(access, reached, names[-1], new, over=over)


def make_directory(
    desk: Desk,
    access: Access,
    root: DirectoryCap,
    names: Sequence[str],
    kind: Kind,
    children: Mapping[str, NewChild] | None = None,
    private: PrivateKey | None = None,
    *,
    anew: bool = False,
) -> DirectoryCap:
    """Make a directory under a path, and those on the way; one that is there is returned as it is, unless it is to be
    `anew`. Occupied where something else is."""
    if not names:
        return root
    reached = _creatable(desk, access, root, names)
    if reached.child is not None:
        taken = Occupied(f"{names[-1]}: {'is there already' if anew else 'is no directory'}", reached.child)
        return _directory(reached.child.cap, taken, anew)
    changeable(reached.above[-1])
    made = create_directory(access, children, kind=kind, private=private)
    try:
        with desk.turn(reached.above[-1], shared=True):
            plant(access, reached, names[-1], NewChild(made), over="nothing")
    except Occupied as taken:  # another was faster
        return _directory(taken.child.cap, taken, anew)
    return made


def _directory(cap: Cap, otherwise: Occupied, anew: bool) -> DirectoryCap:
    if isinstance(cap, DirectoryCap) and not anew:
        return cap
    raise otherwise


def unlink(desk: Desk, access: Access, root: DirectoryCap, names: Sequence[str]) -> Cap | None:
    """Remove a link, whatever it leads to; its cap, None where it can't be understood. NotFound."""
    reached = _found(desk, access, root, names)
    parent = reached.above[-1]
    changeable(parent)
    with desk.turn(parent, shared=True):
        for error in links.unlink(access, parent, {names[-1]: None}):
            raise error
    return None if reached.child is None else reached.child.cap


def move(
    desk: Desk,
    access: Access,
    source_root: DirectoryCap,
    source_names: Sequence[str],
    target_root: DirectoryCap,
    target_names: Sequence[str],
    over: Over,
) -> None:
    """Give an entry another name or place; to where it is already, nothing is changed. NotFound, Occupied."""
    origin = _found(desk, access, source_root, source_names)
    if origin.unusable is not None:
        raise origin.unusable
    target = _reached(desk, access, target_root, target_names)
    if len(target.missing) > 1:
        raise missing(target_names, target)
    storable(target_names[-1:])
    source, place = _spot(origin, source_names), _spot(target, target_names)
    if links.same_directory(source.parent, place.parent) and _same(source.name, place.name):
        return
    with desk.turn(source.parent, place.parent):
        links.move(access, source, place, over=over)


def set_children(desk: Desk, access: Access, cap: DirectoryCap, children: Mapping[str, NewChild], over: Over) -> None:
    """Add or replace many children with one change: all of them, or where one is Occupied none."""
    changeable(cap)
    storable(children)
    if children:
        with desk.turn(cap, shared=True):
            links.link_many(access, cap, children, over=over)


def set_metadata(
    desk: Desk,
    access: Access,
    root: DirectoryCap,
    names: Sequence[str],
    change: Callable[[dict[str, Any]], dict[str, Any]],
) -> None:
    """Change the metadata of an entry; what it leads to stays. NotFound."""
    reached = _found(desk, access, root, names)
    parent, name = reached.above[-1], names[-1]

    def changed(table: Table) -> None:
        child = table.child(name)
        table.link(name, child.cap, ro=child.ro, metadata=change(dict(child.metadata)), now=access.now)

    changeable(parent)
    with desk.turn(parent, shared=True):
        edit(access, parent, changed)


# ---- paths -------------------------------------------------------------------------------------------------------


def find(desk: Desk, access: Access, cap: Cap, names: Sequence[str]) -> Cap:
    """What a path leads to, from a cap. NotFound, and NoDirectory where it goes through a file."""
    return child_at(access, cap, names, desk.directory).cap if names else cap


def look(desk: Desk, access: Access, root: DirectoryCap, names: Sequence[str]) -> Cap | None:
    """What has this path; None where nothing has. NoDirectory."""
    reached = _reached(desk, access, root, names)
    return None if reached.child is None else reached.child.cap


def _reached(desk: Desk, access: Access, cap: Cap, names: Sequence[str]) -> Reached:
    if not names:
        raise UsageError("that takes a name in the directory")
    return reach(access, cap, names, desk.directory)


def _found(desk: Desk, access: Access, root: DirectoryCap, names: Sequence[str]) -> Reached:
    reached = _reached(desk, access, root, names)
    if reached.child is None and reached.unusable is None:
        raise missing(names, reached)
    return reached


def _creatable(desk: Desk, access: Access, root: DirectoryCap, names: Sequence[str]) -> Reached:
    """How far a path leads whose names that are missing can be made."""
    reached = _reached(desk, access, root, names)
    storable(reached.missing)
    return reached


def storable(names: Sequence[str] | Mapping[str, object]) -> None:
    """UsageError for names that no entry can be given, before anything is stored for them."""
    for name in names:
        if not name:
            raise UsageError("a name in a directory can't be empty")
        if "/" in name:
            raise UsageError(f"{name}: a name in a directory can't contain a slash")
        if name in (".", ".."):
            raise UsageError(f"{name!r} can't be the name of anything")


def _spot(reached: Reached, names: Sequence[str]) -> Spot:
    return Spot(reached.above[-1], names[-1], reached.child, reached.unusable, reached.above)


def _same(one: str, other: str) -> bool:
    return normalize("NFC", one) == normalize("NFC", other)
