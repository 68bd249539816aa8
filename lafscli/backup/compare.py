"""What is different between two directories and all below them: equal caps are not looked into."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lafscli.backup.entries import ROOT_ENTRY, compared, kept_of
from lafscli.errors import LafsError
from lafscli.formats.caps import DirectoryCap, LitCap
from lafscli.formats.child import Child
from lafscli.tree.contents import Access
from lafscli.tree.directory import Directory, load_many

Sort = Literal["added", "removed", "changed", "metadata"]


@dataclass(frozen=True, slots=True)
class Difference:
    """`path`: names from the top, joined by slashes; a directory is followed by one."""

    path: str
    change: Sort


def compare(access: Access, old: DirectoryCap, new: DirectoryCap) -> Iterator[Difference]:
    """Every difference, in the order of the paths. LafsError for a directory that can't be read."""
    if old.read_cap() == new.read_cap():
        return
    top = _loaded(access, old, new)
    roots = [table.pop(ROOT_ENTRY) if _is_root_entry(table) else None for table in top]
    if None not in roots and len({json.dumps(_described(each.metadata), sort_keys=True) for each in roots if each}) > 1:
        yield Difference("./", "metadata")
    stack = [_pair(access, "", *top)]
    while stack:  # as deep as the directories are: no recursion
        found = next(stack[-1], None)
        if found is None:
            stack.pop()
        elif isinstance(found, Difference):
            yield found
        else:
            path, one, other = found
            stack.append(_pair(access, path, *_loaded(access, one, other)))


def _is_root_entry(table: dict[str, Child]) -> bool:
    """Whether it has what says of a snapshot's root what it was like."""
    if ROOT_ENTRY not in table:
        return False
    child = table[ROOT_ENTRY]
    return isinstance(child.cap, LitCap) and kept_of(child.metadata).sort == "dir"


def _loaded(access: Access, *caps: DirectoryCap) -> list[dict[str, Child]]:
    tables: list[dict[str, Child]] = []
    for each in load_many(access, caps):
        if isinstance(each, LafsError):
            raise each
        tables.append(_children(each))
    return tables


def _children(directory: Directory) -> dict[str, Child]:
    return {child.name: child for child in directory.children()}


def _pair(
    access: Access, above: str, old: dict[str, Child], new: dict[str, Child]
) -> Iterator[Difference | tuple[str, DirectoryCap, DirectoryCap]]:
    """Differences between two directories, and pairs in them that are to be looked into."""
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        path = f"{above}{name}"
        if before is None or after is None:
            yield from _all(access, path, after or before, "removed" if after is None else "added")  # type: ignore[arg-type]
            continue
        one, other = before.cap, after.cap
        if isinstance(one, DirectoryCap) and isinstance(other, DirectoryCap):
            if _described(before.metadata) != _described(after.metadata):
                yield Difference(f"{path}/", "metadata")
            if one.read_cap() != other.read_cap():
                yield f"{path}/", one, other
        elif one.is_directory or other.is_directory:
            yield from _all(access, path, before, "removed")
            yield from _all(access, path, after, "added")
        elif one.read_cap() != other.read_cap():
            yield Difference(path, "changed")
        elif _described(before.metadata) != _described(after.metadata):
            yield Difference(path, "metadata")


def _described(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in compared(metadata).items() if key != "tahoe"}


def _all(access: Access, path: str, child: Child, change: Sort) -> Iterator[Difference]:
    """An entry and all below it."""
    if not isinstance(child.cap, DirectoryCap):
        yield Difference(path, change)
        return
    yield Difference(f"{path}/", change)
    stack = [(f"{path}/", child.cap)]
    while stack:
        above, cap = stack.pop()
        below = []
        for name, each in sorted(_loaded(access, cap)[0].items()):
            if isinstance(each.cap, DirectoryCap):
                yield Difference(f"{above}{name}/", change)
                below.append((f"{above}{name}/", each.cap))
            else:
                yield Difference(f"{above}{name}", change)
        stack += reversed(below)
