"""ln, mv, rm (CLI.md §4): links in directories."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import click

from lafscli.cli.batch import worse
from lafscli.cli.frame import Frame
from lafscli.cli.options import command, respelled
from lafscli.cli.storing import pin_linked
from lafscli.cli.targets import Found, Target, creatable, followed, resolve, spotted
from lafscli.errors import LafsError, MalformedDirectory, NotFound, NotGranted, Partial, UsageError
from lafscli.formats.caps import Cap, DirectoryCap, UnknownCap

if TYPE_CHECKING:
    from lafscli.formats.child import Child
    from lafscli.tree.contents import Access
    from lafscli.tree.directory import NewChild
    from lafscli.tree.links import Occupied
    from lafscli.tree.paths import Spot


# ---- ln ------------------------------------------------------------------------------------------------------------


@command("ln")
@click.argument("source")
@click.argument("target")
@click.option("--readonly", is_flag=True, help="Link what can be read and not changed.")
def ln(frame: Frame, source: str, target: str, readonly: bool) -> None:
    """Give an object a name in a directory.

    SOURCE is a cap, @FILE, or a path; TARGET the new name, or a directory (TARGET/) that takes it under its old one.
    What has that name already is not replaced. Both names lead to the same object: what is written through one is seen
    through the other.
    """
    from lafscli.tree.links import Occupied, link

    origin = followed(frame, resolve(frame, source))
    where = resolve(frame, target)
    new = _linked(origin, readonly)
    access = frame.access()
    frame.client_with_servers()
    pin_linked(frame, where, new.cap)
    if len(where.names) == 1 and not where.slash and isinstance(where.cap, DirectoryCap):
        creatable(where.names)
        try:  # most names are free: the directory need not be read before it is changed
            link(access, where.cap, where.names[0], new, over="nothing")
        except Occupied as taken:
            if not taken.child.cap.is_directory:
                raise _at(where.path, taken) from None
        else:
            frame.out.show({"cap": str(new.cap), "path": where.path}, "")
            return
    place, path = _landing(frame, where, origin.name)
    try:
        link(access, place.parent, place.name, new, over="nothing")
    except Occupied as taken:
        raise _at(path, taken) from None
    frame.out.show({"cap": str(new.cap), "path": path}, "")


def _at(path: str, taken: Occupied) -> Occupied:
    """The same error with the whole path in it."""
    name = path.rpartition("/")[2]
    taken.message = path.removesuffix(name) + taken.message
    return taken


def _linked(origin: Found, readonly: bool) -> NewChild:
    from lafscli.tree.directory import NewChild

    child = origin.child
    ro = None if child is None else child.ro
    if not isinstance(origin.cap, UnknownCap) and not origin.cap.readable:
        raise NotGranted("a verify cap can't be linked", hint="a directory holds read and write caps")
    if not readonly:
        return NewChild(origin.cap, None, ro)
    if isinstance(origin.cap, UnknownCap):
        if ro is None:
            raise UsageError("of a cap of an unknown kind lafs can't tell what only reads")
        return NewChild(ro)
    return NewChild(origin.cap.read_cap())


def _landing(frame: Frame, where: Target, name: str | None) -> tuple[Spot, str]:
    """Where a link is to be made, and its path: in a directory that TARGET is, under `name`; else TARGET itself."""
    names = where.names
    if names and not where.slash:
        creatable(names)
        place = spotted(frame, where)
        if place.unusable is not None:
            raise place.unusable
        if place.child is None or not place.child.cap.is_directory:
            return place, where.path
    if name is None:
        raise UsageError(f"{where.shown} is a directory, and SOURCE has no name", hint="say the name: alias:dir/NAME")
    inside = Target(where.cap, (*names, name), where.as_cap, False, where.shown)
    creatable((name,))
    place = spotted(frame, inside)
    if place.unusable is not None:
        raise place.unusable
    return place, inside.path


# ---- mv ------------------------------------------------------------------------------------------------------------


@command("mv")
@click.argument("source")
@click.argument("target")
def mv(frame: Frame, source: str, target: str) -> None:
    """Give an entry another name or place.

    As mv(1): when TARGET is a directory, SOURCE moves into it; a file that has the new name is replaced, which is said
    on stderr; a directory is not. Within one directory it is one change; between two the new link is made before the
    old one is removed, so that nothing is lost when it is interrupted.
    """
    from lafscli.tree.links import move

    origin = resolve(frame, source)
    old = spotted(frame, origin)
    if old.unusable is not None:
        raise old.unusable
    if old.child is None:
        raise NotFound(f"{'/'.join(origin.names)}: no such file or directory")
    where = resolve(frame, target)
    if not isinstance(where.cap, DirectoryCap):
        raise UsageError("TARGET is no path in a directory", hint="lafs mv alias:old alias:new")
    place, path = _landing(frame, where, old.child.name)
    pin_linked(frame, where, old.child.cap)
    before = move(frame.access(), old, place)
    frame.out.show({"cap": str(old.child.cap), "path": path} | ({"replaced": True} if before else {}), "")
    if before is not None:
        frame.out.tell(f"{path}: the file that was there is replaced")


# ---- rm ------------------------------------------------------------------------------------------------------------


@command("rm")
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...")
@click.option("-r", "--recursive", is_flag=True, help="Also directories that are not empty.")
def rm(frame: Frame, targets: tuple[str, ...], recursive: bool) -> None:
    """Remove links from directories.

    What is linked nowhere else can't be reached any more, except by its cap; its space comes back with lafs gc. A
    directory that is not empty takes -r: only its own link is removed, and all below it goes with it. To forget an
    alias is lafs alias remove.
    """
    wanted = [resolve(frame, text) for text in targets]
    for target in wanted:
        if not target.names:
            hint = "lafs alias remove forgets an alias" if not target.as_cap else None
            raise UsageError(f"{target.shown} is no link in a directory", hint=hint)
    removed = 0
    failed: list[LafsError] = []
    for group in _by_directory(wanted):
        try:
            done, refused = _remove(frame, group, recursive)
            removed += done
            failed += refused
        except LafsError as error:
            failed += [error] * len(group)
    if failed and len(wanted) == 1:
        raise failed[0]
    failed = list(dict.fromkeys(failed))
    errors = {"errors": [{"message": each.message} for each in failed]} if failed else {}
    frame.out.show({"removed": removed, **errors}, "")
    code = 0
    for each in failed:
        frame.out.complain(each)
        code = worse(code, each.exit_code)
    if removed:
        frame.out.tell("the space of what nothing leads to any more comes back with lafs gc")
    if code:
        raise SystemExit(Partial.exit_code if removed else code)


def _by_directory(wanted: list[Target]) -> list[list[Target]]:
    """Targets in groups whose paths differ in the last name only, in the order in which they were given."""
    groups: dict[tuple[Cap, tuple[str, ...]], list[Target]] = {}
    for target in wanted:
        groups.setdefault((target.cap, target.names[:-1]), []).append(target)
    return list(groups.values())


def _remove(frame: Frame, group: list[Target], recursive: bool) -> tuple[int, list[LafsError]]:
    """Remove links of one directory with one change; how many, and why not the others."""
    from lafscli.tree.directory import changeable, load
    from lafscli.tree.links import unlink
    from lafscli.tree.paths import follow

    root, way = group[0].cap, group[0].names[:-1]
    access = frame.access(root)
    parent = follow(access, root, way)
    if not isinstance(parent, DirectoryCap):
        what = f"{'/'.join(way)}: is a file" if way else "this is the cap of a file"
        raise NotFound(f"{what}, not a directory") if way else UsageError(f"{what}: no path leads into it")
    changeable(parent)
    table = load(access, parent).table
    children: dict[str, Child | None] = {}
    refused: list[LafsError] = []
    for target in group:
        name = target.names[-1]
        if name not in table:
            refused.append(NotFound(f"{target.path}: no such file or directory"))
            continue
        try:
            children[name] = table.child(name)
        except MalformedDirectory:
            children[name] = None  # what can't be understood can be removed
    if not recursive:
        for name, error in _not_empty(access, way, {name: child for name, child in children.items() if child}):
            del children[name]
            refused.append(error)
    if children:
        late = unlink(access, parent, children)
        return len(children) - len(late), refused + late
    return 0, refused


def _not_empty(access: Access, way: Sequence[str], children: Mapping[str, Child]) -> Iterator[tuple[str, LafsError]]:
    """The directories among children that are not known to be empty."""
    from lafscli.tree.directory import load_many

    below = {name: child.cap for name, child in children.items() if isinstance(child.cap, DirectoryCap)}
    for name, found in zip(below, load_many(access, list(below.values())), strict=True):
        if isinstance(found, LafsError):
            why = f"is a directory that can't be read ({found.message})"
        elif len(found.table):
            why = "is a directory that is not empty"
        else:
            continue
        yield (
            name,
            LafsError(f"{'/'.join((*way, name))}: {why}", hint="lafs rm -r removes the link to it, whatever is in it"),
        )


unlink = respelled("unlink", rm)
