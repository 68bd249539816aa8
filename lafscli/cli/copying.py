"""cp (CLI.md §2, §4): trees between here and the grid, in every direction but from here to here."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from lafscli.cli.frame import Frame
from lafscli.cli.options import command
from lafscli.cli.progress import ShownProgress
from lafscli.cli.storing import pin_linked
from lafscli.cli.targets import Found, Target, found, like_a_cap, resolve, spotted
from lafscli.errors import LafsError, NotFound, NotGranted, Partial, UsageError
from lafscli.formats.caps import Cap, DirectoryCap, MutableWriteCap
from lafscli.primitives.text import count, human_size

if TYPE_CHECKING:
    from lafscli.tree.contents import Access
    from lafscli.tree.copy import Copying, Trouble
    from lafscli.tree.fetching import Incoming
    from lafscli.tree.sources import Item

_T = TypeVar("_T")


@command("cp")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.argument("dest")
@click.option("-r", "-R", "--recursive", is_flag=True, help="Copy directories with all that is in them.")
@click.option("-p", "--preserve", is_flag=True, help="Keep the times and modes of files and folders.")
@click.option("-L", "--dereference", is_flag=True, help="Follow symbolic links in folders here.")
def cp(frame: Frame, sources: tuple[str, ...], dest: str, recursive: bool, preserve: bool, dereference: bool) -> None:
    """Copy files and directories to the grid, from it, or within it.

    An argument is on the grid if it is a cap, begins with @, or has a colon before any slash; all others are here. One
    of them must be on the grid. As with cp(1), several SOURCEs take a directory for DEST. A directory that is named by
    a bare cap or a bare alias: has no name; what is in it is copied.
    """
    from lafscli.tree.copy import Copying, Throughout

    if "-" in (*sources, dest):
        raise UsageError("cp copies files, not stdin or stdout", hint="lafs put - TARGET, lafs cat TARGET")
    grid = on_grid(dest)
    for source in sources:
        if not grid and not on_grid(source):
            raise UsageError(
                f"{source} and {dest} are both here", hint="cp(1) copies them; a path on the grid: alias:path"
            )
    with ShownProgress(frame.connections, frame.out, "cp") as progress:
        single = _Single()
        copying = Copying(preserve, dereference, Throughout(progress), lambda trouble: single.name(progress, trouble))
        progress.start("cp", None)
        job = _Job(frame, copying, recursive, single, progress)
        if grid:
            _to_grid(job, sources, resolve(frame, dest))
        else:
            _to_here(job, sources, dest)
    _tell(frame, copying)


def on_grid(text: str) -> bool:
    """Whether an argument of cp is on the grid."""
    return like_a_cap(text.strip()) or text.startswith("@") or ":" in text.partition("/")[0]


@dataclass(slots=True)
class _Single:
    """Whether all that is copied is one file: then what goes wrong with it is the error of the command."""

    file: bool = False

    def name(self, progress: ShownProgress, trouble: Trouble) -> None:
        if self.file:
            raise _whole(trouble)
        progress.name(_said(trouble))


def _said(trouble: Trouble) -> str:
    message = trouble.error.message
    return message if trouble.path in message else f"{trouble.path}: {message}"


def _whole(trouble: Trouble) -> LafsError:
    """What went wrong with the only thing that was to be copied, as the error of the command."""
    trouble.error.message = _said(trouble)
    return trouble.error


@dataclass(frozen=True, slots=True)
class _Job:
    frame: Frame
    copying: Copying
    recursive: bool
    single: _Single
    progress: ShownProgress

    def look(self, source: str) -> Found:
        """A source on the grid; UsageError for a directory without -r."""
        at = found(self.frame, source)
        if at.cap.is_directory:
            self.need_recursive(at.path or "this")
        return at

    def all_but_the_missing(self, sources: Sequence[str], look: Callable[[str], _T]) -> list[_T]:
        """What SOURCEs are. Of several, one that can't be had is named, and the others are copied."""
        if len(sources) == 1:
            return [look(sources[0])]
        there = []
        for source in sources:
            try:
                there.append(look(source))
            except UsageError:
                raise
            except LafsError as error:
                self.copying.fail("CAP" if like_a_cap(source.strip()) else source, error)
        return there

    def need_recursive(self, shown: str) -> None:
        if not self.recursive:
            raise UsageError(f"{shown} is a directory", hint="lafs cp -r copies directories")


def _tell(frame: Frame, copying: Copying) -> None:
    """What was done, and the exit code. If nothing was, for one sort of reason, that is the error of the command."""
    done = copying.done
    if done.errors and not (done.files or done.directories):
        first = done.errors[0]
        if all(trouble.error.kind == first.error.kind for trouble in done.errors):
            raise _whole(first)
    document = {
        "copied": done.files,
        "linked": done.linked,
        "directories": done.directories,
        "bytes": done.bytes,
        "errors": [{"path": trouble.path, "reason": trouble.error.message} for trouble in done.errors],
    }
    frame.out.show(document, "")
    said = f"{count(done.files, 'file')} copied, {human_size(done.bytes)}"
    if done.directories:
        said = f"{count(done.files, 'file')} in {done.directories} directories copied, {human_size(done.bytes)}"
    if done.errors:
        frame.out.tell(f"{said}; {count(len(done.errors), 'thing')} could not be copied")
        raise SystemExit(Partial.exit_code)
    frame.out.tell(said, level=1)


# ---- from the grid to here


def _to_here(job: _Job, sources: Sequence[str], dest: str) -> None:
    from lafscli.tree.fetching import fetch_trees
    from lafscli.tree.folders import LocalFolders

    path = Path(dest)
    if path.is_symlink() and not path.is_dir():
        path = Path(os.path.realpath(path))  # a link named by the user is followed, as cp does
    inside = path.is_dir()
    if not inside and len(sources) > 1:
        raise UsageError(f"{dest} is no folder", hint="several SOURCEs are copied into a folder that is there")
    if not inside and dest.endswith("/"):
        raise NotFound(f"no such folder: {dest}")
    looked = job.all_but_the_missing(sources, job.look)
    if not looked:
        return
    tops = [_incoming(each, path, inside) for each in looked]
    places = [top.place for top in tops if top.place]
    for place in places:
        if places.count(place) > 1:
            raise UsageError(f"several SOURCEs would be called {place[0]}")
    if not inside and path.exists() and looked[0].cap.is_directory:
        raise UsageError(f"{dest} is there, and is no folder")
    job.single.file = len(sources) == 1 and not tops[0].cap.is_directory
    with LocalFolders(path if inside else path.parent) as folders:
        fetch_trees(_access(job.frame, looked), tops, folders, job.copying)


def _incoming(at: Found, path: Path, inside: bool) -> Incoming:
    from lafscli.tree.fetching import Incoming
    from lafscli.tree.folders import unfit

    metadata = at.child.metadata if at.child is not None else {}
    if not inside:
        return Incoming((path.name,), at.cap, metadata)
    if at.name is None:
        if not at.cap.is_directory:
            raise UsageError(f"{path} is a folder, and a bare cap has no name", hint=f"say a name: {path / 'FILE'}")
        return Incoming((), at.cap)
    why = unfit(at.name)
    if why is not None:
        raise UsageError(f"{at.path}: {why}", hint="say another name: lafs cp TARGET NAME")
    return Incoming((at.name,), at.cap, metadata)


def _access(frame: Frame, looked: Sequence[Found]) -> Access:
    """Servers, unless all there is to fetch is in its cap."""
    return frame.access(looked[0].cap if len(looked) == 1 else None)


# ---- to the grid


def _to_grid(job: _Job, sources: Sequence[str], target: Target) -> None:
    """Look at the sources first: nothing is made on the grid for a mistake that can be seen here."""
    from lafscli.tree.growing import store_trees
    from lafscli.tree.sources import size_below

    access = job.frame.access()
    items = job.all_but_the_missing(sources, partial(_item, job))
    if not items:
        return
    several = len(sources) > 1
    job.single.file = not several and not _is_folder(items[0])
    if job.progress.drawn and not any(on_grid(source) for source in sources):
        job.progress.start("cp", sum(size_below(item) for item in items))
    if not target.names and isinstance(target.cap, MutableWriteCap):
        if several:
            raise UsageError("DEST is a file: one file can be copied there")
        _over(job, access, items[0], target.cap)
        return
    _not_into_itself(access, items, target)
    into, name = _destination(job.frame, target, items, several=several)
    pin_linked(job.frame, target, into)
    if name is not None:
        store_trees(access, into, [replace(items[0], name=name)], job.copying)
        return
    named = [item for item in items if item.name]
    for item in named:
        if [each.name for each in named].count(item.name) > 1:
            raise UsageError(f"several SOURCEs would be called {item.name}")
    for item in items:
        if not item.name and not _is_folder(item):
            raise UsageError("DEST is a directory, and a bare cap has no name", hint="say a name: alias:path/FILE")
    contents = [_opened(item) for item in items if not item.name]
    store_trees(access, into, named, job.copying, contents=contents)


def _over(job: _Job, access: Access, item: Item, cap: MutableWriteCap) -> None:
    """A file into a mutable file that is named by its cap."""
    from lafscli.tree.growing import overwrite

    if _is_folder(item):
        raise UsageError("DEST is a file: one file can be copied there")
    size = overwrite(access, cap, item.source, job.copying)
    job.copying.done.files += 1
    job.copying.done.bytes += size


def _not_into_itself(access: Access, items: Sequence[Item], target: Target) -> None:
    """UsageError for a directory that would be copied into itself, or below; looked at before anything is made."""
    from lafscli.tree.links import same_directory
    from lafscli.tree.paths import reach
    from lafscli.tree.sources import GridFolder

    folders = [(item, item.source.cap) for item in items if isinstance(item.source, GridFolder)]
    if not folders or not isinstance(target.cap, DirectoryCap):
        return
    way: list[Cap] = [target.cap]
    if target.names:
        reached = reach(access, target.cap, target.names)
        way = [*reached.above, *([reached.child.cap] if reached.child is not None else [])]
    for item, cap in folders:
        if any(same_directory(cap, above) for above in way):
            raise UsageError(f"{item.shown or 'the directory'}: can't be copied into itself")


def _destination(
    frame: Frame, target: Target, items: Sequence[Item], *, several: bool
) -> tuple[DirectoryCap, str | None]:
    """The directory that is copied into, and the name there where DEST is not itself that directory."""
    from lafscli.tree.directory import changeable
    from lafscli.tree.paths import spot

    if not target.names:
        if not isinstance(target.cap, DirectoryCap):
            raise NotGranted("DEST is a file that can't be changed")
        changeable(target.cap)
        return target.cap, None
    at = spotted(frame, target, make_parents=True)
    there = at.child.cap if at.child is not None else None
    if isinstance(there, DirectoryCap):
        changeable(there)
        return there, None
    if there is not None and (target.slash or several or _is_folder(items[0])):
        raise UsageError(f"{target.shown} is no directory")
    if several and not target.slash:
        raise UsageError(
            f"there is no directory {target.shown}",
            hint="several SOURCEs are copied into a directory; with a / behind its name it is made",
        )
    if target.slash and (several or not _is_folder(items[0])):
        below = spot(frame.access(), target.cap, (*target.names, "new"), make_parents=True)
        return below.parent, None
    changeable(at.parent)
    return at.parent, at.name


def _item(job: _Job, source: str) -> Item:
    """A source, under its own name; "" where it has none."""
    from lafscli.tree.sources import local, of_child
    from lafscli.tree.sources import on_grid as object_on_grid

    if on_grid(source):
        at = job.look(source)
        if at.child is not None:
            return of_child(at.child, at.child.name, at.path)
        return object_on_grid(at.cap, "", "")
    name = source.rstrip("/").rpartition("/")[2]
    item = local(Path(source), source, _name(source, name), job.copying)
    if _is_folder(item):
        job.need_recursive(source)
    return item


def _name(source: str, name: str) -> str:
    """What a local SOURCE is called on the grid; "" for `.`, `..` and `/`, of which cp(1) copies what is in them."""
    from lafscli.tree.sources import stored_name

    if name in ("", ".", ".."):
        return ""
    try:
        return stored_name(name)
    except LafsError as error:
        raise UsageError(f"{source}: {error.message}", hint="say another name: lafs cp FILE alias:NAME") from error


def _is_folder(item: Item) -> bool:
    from lafscli.tree.sources import GridFile, LocalFile

    source = item.source
    return not isinstance(source, LocalFile) and (not isinstance(source, GridFile) or source.cap.is_directory)


def _opened(item: Item) -> Item:
    """A folder of which what is in it is copied; also one that would be linked as it is."""
    from lafscli.tree.sources import GridFile, GridFolder

    source = item.source
    if isinstance(source, GridFile) and isinstance(source.cap, DirectoryCap):
        return replace(item, source=GridFolder(source.cap))
    return item
